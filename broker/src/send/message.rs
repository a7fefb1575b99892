//! Send requests: what is checked, and how a request becomes records.
//!
//! Everything here is synchronous and works on borrowed bytes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::BytesMut;
use raftmq_message::RecordParts;
use raftmq_message::batch::BatchIter;
use raftmq_message::properties::{self, names};
use raftmq_message::record::sys_flag;
use raftmq_message::topic::{RETRY_PREFIX, group_of_retry_topic, is_forbidden_to_send, validate_topic};

use super::detour::{self, Detour, Timing};
use super::given_up::{Tries, dead_group};
use super::records::{
    Encoded, Missing, Records, SendProblem, SendSettings, append_record, check_entry, illegal_message,
};
use crate::error::Error;
use crate::limits::BATCH_MESSAGES_MAX;
use crate::state::{State, Topic};

/// Flags of a send that are stored; transactions are refused and the hosts' flags follow from the hosts.
const STORED_FLAGS: i32 = sys_flag::COMPRESSED | sys_flag::MULTI_TAGS | COMPRESSION_TYPE_MASK;
/// Bits 8 to 10: how a body is compressed.
const COMPRESSION_TYPE_MASK: i32 = 0x700;

/// The topic a connection sent to last, so that its next send need not look it up.
#[derive(Default)]
pub struct TopicCache {
    version: u64,
    topic: Option<Arc<Topic>>,
}

impl TopicCache {
    fn get(&mut self, state: &State, name: &str) -> Option<&Arc<Topic>> {
        // Read before the topic, so that a change in between is noticed the next time.
        let version = state.topics.version();
        let is_current =
            version == self.version && self.topic.as_ref().is_some_and(|topic| topic.name == name);
        if !is_current {
            self.topic = state.topics.get(name);
            self.version = version;
        }
        self.topic.as_ref()
    }
}

/// A send as it came in.
#[derive(Clone, Copy, Debug)]
pub struct Send<'a> {
    /// The topic.
    pub topic: &'a str,
    /// Below 0 leaves the choice to the broker.
    pub queue_id: i32,
    /// How the body is compressed, whether there are several tags.
    pub sys_flag: i32,
    /// The producer's clock, in ms since the epoch.
    pub born_timestamp_ms: i64,
    /// The user's own flag.
    pub flag: i32,
    /// Raw properties, see `raftmq_message::properties`.
    pub properties: &'a str,
    /// How often it was tried to consume it.
    pub reconsume_times: i32,
    /// How often that is tried, where the consumer says so.
    pub max_reconsume_times: Option<i32>,
    /// Whether the body is a batch.
    pub is_batch: bool,
    /// The body.
    pub body: &'a [u8],
    /// The client.
    pub born_host: SocketAddr,
}

/// Checks a send and appends its records to `out`, with a single message's unique key. Writes nothing where it fails.
///
/// `holds_locks` tells whether a member of a group has a queue locked.
pub(super) fn encode_send(
    settings: &SendSettings,
    state: &State,
    holds_locks: impl FnOnce(&str) -> bool,
    cache: &mut TopicCache,
    send: &Send<'_>,
    out: &mut Records,
) -> Result<Encoded, SendProblem> {
    let Send { topic: name, body, .. } = *send;
    let topic = match cache.get(state, name) {
        Some(topic) if !is_forbidden_to_send(name) => topic,
        _ => return Err(missing_topic(name)),
    };
    check_body(settings, body)?;
    let queue_id = choose_queue(settings, topic, send.queue_id)?;
    if send.sys_flag & sys_flag::TRANSACTION_MASK != 0 {
        return Err(no_transactions().into());
    }
    let dead_group = match group_of_retry_topic(name) {
        Some(group) => {
            let tries = Tries { times: send.reconsume_times, max: send.max_reconsume_times };
            dead_group(state, group, tries, holds_locks)?
        }
        None => None,
    };
    let message = Message { settings, send, queue_id, dead_group };
    let start = out.end();
    let encoded = if send.is_batch {
        message.encode_batch(body, &mut out.bytes).map(|records| (records, 0))
    } else {
        message.encode_single(body, out).map(|growth| (1, growth))
    };
    let bytes = out.bytes.len() - start.bytes;
    let checked = encoded.and_then(|(records, growth)| {
        check_entry(settings, bytes + growth)?;
        Ok(Encoded { queue_id, records })
    });
    if checked.is_err() {
        out.truncate(start);
    }
    Ok(checked?)
}

fn missing_topic(name: &str) -> SendProblem {
    if let Err(error) = validate_topic(name) {
        return Error::from(error).into();
    }
    if is_forbidden_to_send(name) {
        return Error::SendForbidden(name.to_owned()).into();
    }
    SendProblem::Missing(match group_of_retry_topic(name) {
        Some(group) => Missing::Retry(group.to_owned()),
        None => Missing::Named,
    })
}

fn check_body(settings: &SendSettings, body: &[u8]) -> Result<(), Error> {
    if body.is_empty() || body.len() > settings.message_bytes {
        return Err(illegal_message(settings, format!("the body has {} bytes", body.len())));
    }
    Ok(())
}

/// The queue asked for, or the next in turn where none is.
fn choose_queue(settings: &SendSettings, topic: &Topic, wanted: i32) -> Result<i32, Error> {
    let queues = topic.queues();
    let queue_id = match u32::try_from(wanted) {
        Ok(queue_id) => queue_id,
        Err(_) => settings.next_queue.fetch_add(1, Ordering::Relaxed) % topic.write_queues.max(1),
    };
    if queue_id >= queues {
        return Err(Error::NoSendQueue { topic: topic.name.clone(), queue_id: wanted, queues });
    }
    // Topics have far fewer queues.
    Ok(queue_id as i32)
}

fn no_transactions() -> Error {
    Error::Unsupported("transactional messages are not supported")
}

/// What the properties of a message say about how it has to be stored.
#[derive(Default)]
struct Scanned<'a> {
    unique_key: Option<&'a str>,
    /// They hold a property that the broker sets itself.
    has_added: bool,
    timing: Timing,
}

/// Goes through the properties once, refusing what cannot be stored.
fn scan(list: &str) -> Result<Scanned<'_>, Error> {
    let mut scanned = Scanned::default();
    for (key, value) in properties::iter(list) {
        match key {
            names::UNIQ_KEY => scanned.unique_key = Some(value),
            names::MSG_REGION | names::TRACE_ON | names::CLUSTER => scanned.has_added = true,
            names::TRAN_MSG if value.eq_ignore_ascii_case("true") => return Err(no_transactions()),
            _ => scanned.timing.take_up(key, value)?,
        }
    }
    Ok(scanned)
}

/// One send request on its way to records.
struct Message<'a> {
    settings: &'a SendSettings,
    send: &'a Send<'a>,
    queue_id: i32,
    /// The group whose dead letters it belongs to.
    dead_group: Option<&'a str>,
}

impl Message<'_> {
    /// Returns by how much the record may grow later. What is written when it fails is for the caller to take back.
    fn encode_single(&self, body: &[u8], out: &mut Records) -> Result<usize, Error> {
        let list = self.send.properties;
        let scanned = scan(list)?;
        let stripped = scanned.has_added.then(|| without_added(list));
        let list = stripped.as_deref().unwrap_or(list);
        let detour = self.detour(scanned.timing, list)?;
        let (place, list) = match &detour {
            Some(detour) => ((&*detour.topic, detour.queue_id), detour.properties.as_str()),
            None => (self.place(), list),
        };
        let growth = detour.as_ref().map_or(0, Detour::growth);
        let added = &self.settings.added;
        if let Some(key) = scanned.unique_key {
            out.keys.push_str(key);
            self.encode(place, self.send.flag, body, &[list, added], &mut out.bytes)?;
            return Ok(growth);
        }
        let key = self.settings.unique_keys.next(self.send.born_timestamp_ms);
        out.keys.push_str(&key);
        let own = properties::from_pairs([(names::UNIQ_KEY, key.as_str())]);
        self.encode(place, self.send.flag, body, &[list, &own, added], &mut out.bytes)?;
        Ok(growth)
    }

    /// The topic and the queue it was sent to.
    fn place(&self) -> (&str, i32) {
        (self.send.topic, self.queue_id)
    }

    /// Where it goes instead.
    fn detour(&self, timing: Timing, list: &str) -> Result<Option<Detour>, Error> {
        if let Some(group) = self.dead_group {
            return Ok(Some(detour::dead_letters(list, group)));
        }
        if !timing.is_delayed() {
            return Ok(None);
        }
        let SendSettings { delay_levels, clock, .. } = self.settings;
        detour::delayed(list, timing, self.place(), *delay_levels, clock.now_ms())
    }

    /// One record for each message of the batch; returns how many. What is written when it fails is for the caller to
    /// take back.
    fn encode_batch(&self, body: &[u8], out: &mut BytesMut) -> Result<u32, Error> {
        if self.send.topic.starts_with(RETRY_PREFIX) {
            return Err(illegal_message(self.settings, "a batch cannot be sent to a retry topic"));
        }
        let shared = self.send.properties;
        self.scan_in_batch(shared)?;
        // Of the batch as a whole; each message brings its own.
        let shared = properties::remove(&without_added(shared), names::UNIQ_KEY);
        let start = out.len();
        let mut count = 0;
        for message in BatchIter::new(body) {
            let message = message.map_err(|error| illegal_message(self.settings, error.to_string()))?;
            let scanned = self.scan_in_batch(message.properties)?;
            let stripped = scanned.has_added.then(|| without_added(message.properties));
            let own = stripped.as_deref().unwrap_or(message.properties);
            let lists = [own, &shared, &self.settings.added];
            self.encode(self.place(), message.flag, message.body, &lists, out)?;
            count += 1;
            if count as usize > BATCH_MESSAGES_MAX || out.len() - start > self.settings.entry_bytes {
                return Err(illegal_message(self.settings, "the batch has too many messages"));
            }
        }
        Ok(count)
    }

    fn scan_in_batch<'l>(&self, list: &'l str) -> Result<Scanned<'l>, Error> {
        let scanned = scan(list)?;
        if scanned.timing.is_delayed() {
            return Err(illegal_message(self.settings, "the messages of a batch cannot be delayed"));
        }
        Ok(scanned)
    }

    fn encode(
        &self,
        (topic, queue_id): (&str, i32),
        flag: i32,
        body: &[u8],
        properties: &[&str],
        out: &mut BytesMut,
    ) -> Result<(), Error> {
        let parts = RecordParts {
            topic,
            queue_id,
            flag,
            sys_flag: self.send.sys_flag & STORED_FLAGS,
            born_timestamp_ms: self.send.born_timestamp_ms,
            born_host: self.send.born_host,
            store_host: self.settings.store_host,
            reconsume_times: self.send.reconsume_times,
            prepared_transaction_offset: 0,
            body,
            properties,
        };
        append_record(self.settings, &parts, out)
    }
}

/// The list without what the broker sets itself, for messages that have been through a broker before.
fn without_added(list: &str) -> String {
    properties::remove_all(list, &[names::MSG_REGION, names::TRACE_ON, names::CLUSTER])
}

#[cfg(test)]
mod tests {
    use raftmq_message::batch::BatchMessage;
    use raftmq_message::{RecordIter, RecordView};
    use raftmq_raft::Table as _;
    use raftmq_world::{Clock, World};

    use crate::surroundings::Surroundings;
    use std::time::Duration;

    use super::*;
    use crate::limits::DELAY_GROWTH_MAX;
    use crate::state::{GroupCommand, SubscriptionGroup, TopicCommand};

    const NOW_MS: i64 = 1_795_248_170_000;

    #[derive(Debug)]
    struct StoppedClock;

    impl Clock for StoppedClock {
        fn now_ms(&self) -> i64 {
            NOW_MS
        }
        fn passed(&self) -> Duration {
            Duration::ZERO
        }
    }

    const LIST: &str = "KEYS\u{1}k\u{2}UNIQ_KEY\u{1}FD00\u{2}WAIT\u{1}true\u{2}TAGS\u{1}TagA";

    fn header(topic: &str) -> Send<'_> {
        Send {
            topic,
            queue_id: 1,
            sys_flag: 0,
            born_timestamp_ms: 1_795_248_168_603,
            flag: 9,
            properties: LIST,
            reconsume_times: 2,
            max_reconsume_times: None,
            is_batch: false,
            body: b"",
            born_host: "127.0.0.2:4000".parse().unwrap(),
        }
    }

    /// Kinds of errors.
    const MESSAGE: &str = "the message is illegal";
    const ILLEGAL: &str = "the place is illegal";
    const FORBIDDEN: &str = "it is forbidden";
    const UNSUPPORTED: &str = "it is not supported";

    struct Fixture {
        settings: SendSettings,
        state: State,
        cache: TopicCache,
        out: Records,
        /// Whether the group has queues locked.
        is_locked: bool,
    }

    impl Fixture {
        fn new() -> Self {
            let state = State::default();
            for name in ["T", "%RETRY%G", "%RETRY%gone", "SELF_TEST_TOPIC"] {
                state.topics.apply(TopicCommand::Put(Topic::new(name, 2, 6))).unwrap();
            }
            state.groups.apply(GroupCommand::Put(SubscriptionGroup::new("G"))).unwrap();
            let host = "127.0.0.1:10911".parse().unwrap();
            let surroundings = Surroundings {
                clock: Arc::new(StoppedClock),
                threads: World::system().threads,
                process_id: 1,
                salt: 2,
            };
            let settings = SendSettings::new("C1", host, 100, 1000, 18, &surroundings);
            Self { settings, state, cache: TopicCache::default(), out: Records::default(), is_locked: false }
        }

        fn send(&mut self, header: &Send<'_>, body: &[u8]) -> Result<Encoded, SendProblem> {
            let Self { settings, state, cache, out, is_locked } = self;
            encode_send(settings, state, |_| *is_locked, cache, &Send { body, ..*header }, out)
        }

        /// What kind of error a send is refused with.
        fn kind(&mut self, header: &Send<'_>, body: &[u8]) -> &'static str {
            let before = (self.out.bytes.len(), self.out.keys.len());
            let problem = self.send(header, body).unwrap_err();
            let after = (self.out.bytes.len(), self.out.keys.len());
            assert_eq!(after, before, "a refused send left something behind");
            match problem {
                SendProblem::Refused(
                    Error::MessageIllegal { .. } | Error::DelayLevel(_) | Error::Untimely,
                ) => MESSAGE,
                SendProblem::Refused(Error::Name(_) | Error::NoSendQueue { .. }) => ILLEGAL,
                SendProblem::Refused(Error::SendForbidden(_)) => FORBIDDEN,
                SendProblem::Refused(Error::Unsupported(_)) => UNSUPPORTED,
                other => panic!("{other:?}"),
            }
        }

        /// The record of the send before.
        fn last(&self) -> RecordView<'_> {
            RecordIter::new(&self.out.bytes).last().unwrap().unwrap()
        }
    }

    #[test]
    fn a_message_is_stored_as_a_broker_of_5_x_stores_it() {
        let mut f = Fixture::new();
        assert_eq!(f.send(&header("T"), b"hello"), Ok(Encoded { queue_id: 1, records: 1 }));
        let record = RecordIter::new(&f.out.bytes).next().unwrap().unwrap();
        let expected =
            format!("{LIST}\u{2}MSG_REGION\u{1}DefaultRegion\u{2}TRACE_ON\u{1}true\u{2}CLUSTER\u{1}C1\u{2}");
        assert_eq!(record.properties(), expected);
        assert_eq!((record.topic(), record.body(), record.queue_id()), ("T", b"hello".as_slice(), 1));
        assert_eq!((record.flag(), record.reconsume_times(), record.sys_flag()), (9, 2, 0));
        assert_eq!(record.born_host(), "127.0.0.2:4000".parse().unwrap());
        assert_eq!(record.store_host(), "127.0.0.1:10911".parse().unwrap());
        assert_eq!((record.queue_offset(), record.physical_offset(), record.store_timestamp_ms()), (0, 0, 0));
        assert_eq!(f.out.keys, "FD00");
    }

    #[test]
    fn a_message_that_was_stored_before_does_not_collect_properties() {
        let mut f = Fixture::new();
        let list = "CLUSTER\u{1}old\u{2}TAGS\u{1}a\u{2}TRACE_ON\u{1}false\u{2}";
        f.send(&Send { properties: list, ..header("T") }, b"x").unwrap();
        let record = RecordIter::new(&f.out.bytes).next().unwrap().unwrap();
        let names: Vec<_> = properties::iter(record.properties()).map(|(name, _)| name).collect();
        assert_eq!(names, ["TAGS", "UNIQ_KEY", "MSG_REGION", "TRACE_ON", "CLUSTER"]);
        assert_eq!(record.property("CLUSTER"), Some("C1"));
        assert_eq!(record.property("UNIQ_KEY"), Some(f.out.keys.as_str()));
    }

    #[test]
    fn what_cannot_be_stored_is_refused_by_name() {
        let mut f = Fixture::new();
        fn with(list: &str) -> Send<'_> {
            Send { properties: list, ..header("T") }
        }
        let long = "x".repeat(33_000);
        let almost = format!("K\u{1}{}", "x".repeat(990));
        let cases = [
            (header("a b"), "x", ILLEGAL),
            (header("SELF_TEST_TOPIC"), "x", FORBIDDEN),
            (header("SCHEDULE_TOPIC_XXXX"), "x", FORBIDDEN),
            (header("T"), "", MESSAGE),
            (header("T"), &long, MESSAGE),
            (Send { queue_id: 2, ..header("T") }, "x", ILLEGAL),
            (Send { sys_flag: 4, ..header("T") }, "x", UNSUPPORTED),
            (with("TRAN_MSG\u{1}true\u{2}"), "x", UNSUPPORTED),
            (header("rmq_sys_wheel_timer"), "x", FORBIDDEN),
            (with("DELAY\u{1}soon\u{2}"), "x", MESSAGE),
            (with("TIMER_DELAY_SEC\u{1}259201\u{2}"), "x", MESSAGE),
            (Send { properties: &long, ..header("T") }, "x", MESSAGE),
            (with(&almost), "x", MESSAGE),
            (Send { is_batch: true, ..header("T") }, "x", MESSAGE),
            (Send { is_batch: true, ..header("%RETRY%G") }, "x", MESSAGE),
        ];
        for (header, body, code) in cases {
            assert_eq!(f.kind(&header, body.as_bytes()), code, "{header:?}");
        }
        assert_eq!(f.send(&header("U"), b"x"), Err(SendProblem::Missing(Missing::Named)));
        // Its topic is there, its group is not.
        let gone = SendProblem::Missing(Missing::Retry("gone".into()));
        assert_eq!(f.send(&header("%RETRY%gone"), b"x"), Err(gone));
        assert!(f.send(&with("DELAY\u{1}0\u{2}"), b"x").is_ok());
    }

    #[test]
    fn a_batch_becomes_consecutive_records() {
        let mut f = Fixture::new();
        let mut body = BytesMut::new();
        for (flag, properties) in [(1, "UNIQ_KEY\u{1}A\u{2}"), (2, "UNIQ_KEY\u{1}B")] {
            BatchMessage { flag, body: b"m", properties }.encode_into(&mut body).unwrap();
        }
        let list = "WAIT\u{1}true\u{2}UNIQ_KEY\u{1}whole\u{2}";
        let header = Send { is_batch: true, properties: list, ..header("T") };
        assert_eq!(f.send(&header, &body), Ok(Encoded { queue_id: 1, records: 2 }));
        let records: Vec<_> = RecordIter::new(&f.out.bytes).map(Result::unwrap).collect();
        let seen: Vec<_> =
            records.iter().map(|r| (r.flag(), r.property("UNIQ_KEY"), r.property("WAIT"))).collect();
        assert_eq!(seen, [(1, Some("A"), Some("true")), (2, Some("B"), Some("true"))]);
        body.truncate(body.len() - 1);
        assert_eq!(f.kind(&header, &body), MESSAGE);
    }

    #[test]
    fn without_a_queue_the_broker_takes_them_in_turn() {
        let mut f = Fixture::new();
        let header = Send { queue_id: -1, ..header("T") };
        let queues: Vec<_> = (0..4).map(|_| f.send(&header, b"x").unwrap().queue_id).collect();
        assert!(queues == [0, 1, 0, 1] || queues == [1, 0, 1, 0], "{queues:?}");
    }

    #[test]
    fn a_changed_topic_is_noticed() {
        let mut f = Fixture::new();
        let header = Send { queue_id: 3, ..header("T") };
        assert_eq!(f.kind(&header, b"x"), ILLEGAL);
        f.state.topics.apply(TopicCommand::Put(Topic::new("T", 4, 6))).unwrap();
        assert!(f.send(&header, b"x").is_ok());
        f.state.topics.apply(TopicCommand::Delete { name: "T".into() }).unwrap();
        assert_eq!(f.send(&header, b"x"), Err(SendProblem::Missing(Missing::Named)));
    }

    #[test]
    fn a_delayed_message_waits_with_the_way_back_and_its_own_queue_in_the_answer() {
        let mut f = Fixture::new();
        let list = "TAGS\u{1}a\u{2}UNIQ_KEY\u{1}FD00\u{2}DELAY\u{1}3";
        let added = "MSG_REGION\u{1}DefaultRegion\u{2}TRACE_ON\u{1}true\u{2}CLUSTER\u{1}C1\u{2}";
        let own = "TAGS\u{1}a\u{2}UNIQ_KEY\u{1}FD00\u{2}";
        let stored = Ok(Encoded { queue_id: 1, records: 1 });
        assert_eq!(f.send(&Send { properties: list, ..header("T") }, b"x"), stored);
        let record = f.last();
        assert_eq!((record.topic(), record.queue_id()), ("SCHEDULE_TOPIC_XXXX", 2));
        let expected = format!("{own}DELAY\u{1}3\u{2}REAL_TOPIC\u{1}T\u{2}REAL_QID\u{1}1\u{2}{added}");
        assert_eq!(record.properties(), expected);

        let list = format!("{own}TIMER_DELAY_MS\u{1}250");
        assert_eq!(f.send(&Send { properties: &list, ..header("T") }, b"x"), stored);
        let record = f.last();
        assert_eq!((record.topic(), record.queue_id()), ("rmq_sys_wheel_timer", 0));
        assert_eq!(record.property("TIMER_OUT_MS"), Some((NOW_MS + 250).to_string().as_str()));
        assert_eq!((record.property("REAL_TOPIC"), record.property("REAL_QID")), (Some("T"), Some("1")));
        assert_eq!(f.out.keys, "FD00FD00");
    }

    #[test]
    fn what_is_added_to_a_delayed_message_counts_towards_its_longest_properties() {
        let mut f = Fixture::new();
        f.settings.entry_bytes = 1 << 20;
        let list = |delay: &str, len: usize| format!("{delay}K\u{1}{}\u{2}UNIQ_KEY\u{1}A", "x".repeat(len));
        let len = 32_767 - list("", 0).len() - 1 - f.settings.added.len();
        fn with(list: &str) -> Send<'_> {
            Send { properties: list, ..header("T") }
        }
        assert!(f.send(&with(&list("", len)), b"x").is_ok());
        assert_eq!(f.kind(&with(&list("", len + 1)), b"x"), MESSAGE);
        let delay = "DELAY\u{1}1\u{2}";
        let len = len - "DELAY\u{1}1\u{2}REAL_TOPIC\u{1}T\u{2}REAL_QID\u{1}1\u{2}".len();
        assert!(f.send(&with(&list(delay, len)), b"x").is_ok());
        assert_eq!(f.kind(&with(&list(delay, len + 1)), b"x"), MESSAGE);
    }

    #[test]
    fn a_delayed_message_has_to_fit_an_entry_when_it_is_delivered() {
        let mut f = Fixture::new();
        let list = |delay: &str, len: usize| format!("{delay}K\u{1}{}\u{2}UNIQ_KEY\u{1}A", "x".repeat(len));
        fn with(list: &str) -> Send<'_> {
            Send { properties: list, ..header("T") }
        }
        for (delay, growth) in
            [("", 0), ("DELAY\u{1}1\u{2}", DELAY_GROWTH_MAX), ("TIMER_DELAY_MS\u{1}9\u{2}", DELAY_GROWTH_MAX)]
        {
            f.send(&with(&list(delay, 0)), b"x").unwrap();
            let room = f.settings.entry_bytes - growth - f.last().total_size();
            assert!(f.send(&with(&list(delay, room)), b"x").is_ok(), "{delay}");
            assert_eq!(f.kind(&with(&list(delay, room + 1)), b"x"), MESSAGE, "{delay}");
        }
    }

    #[test]
    fn a_batch_is_not_delayed() {
        let mut f = Fixture::new();
        for (shared, own) in [("DELAY\u{1}1", ""), ("", "DELAY\u{1}1"), ("", "TIMER_DELAY_SEC\u{1}1")] {
            let mut body = BytesMut::new();
            BatchMessage { flag: 0, body: b"m", properties: own }.encode_into(&mut body).unwrap();
            let header = Send { is_batch: true, properties: shared, ..header("T") };
            assert_eq!(f.kind(&header, &body), MESSAGE, "{shared} {own}");
        }
    }

    #[test]
    fn a_returned_message_that_was_tried_too_often_goes_to_the_dead_letters() {
        let mut f = Fixture::new();
        let tried = |times, max| Send {
            reconsume_times: times,
            max_reconsume_times: max,
            properties: "UNIQ_KEY\u{1}A\u{2}DELAY\u{1}5\u{2}",
            ..header("%RETRY%G")
        };
        for header in [tried(16, None), tried(2, Some(2))] {
            f.send(&header, b"x").unwrap();
            let record = f.last();
            assert_eq!((record.topic(), record.queue_id()), ("SCHEDULE_TOPIC_XXXX", 4));
            assert_eq!(record.property("REAL_TOPIC"), Some("%RETRY%G"));
        }
        let missing = Err(SendProblem::Missing(Missing::DeadLetters("G".into())));
        for header in [tried(17, None), tried(3, Some(2)), tried(0, Some(-1))] {
            assert_eq!(f.send(&header, b"x"), missing);
        }
        f.state.topics.apply(TopicCommand::Put(Topic::new("%DLQ%G", 1, 6))).unwrap();
        f.send(&tried(17, None), b"x").unwrap();
        let record = f.last();
        assert_eq!((record.topic(), record.queue_id(), record.reconsume_times()), ("%DLQ%G", 0, 17));
        assert_eq!((record.property("DELAY"), record.property("REAL_TOPIC")), (Some("-1"), None));

        // Who holds a lock consumes in order, and returns only what it gives up.
        for (is_locked, topic) in [(false, "SCHEDULE_TOPIC_XXXX"), (true, "%DLQ%G")] {
            f.is_locked = is_locked;
            f.send(&tried(2, Some(2)), b"x").unwrap();
            assert_eq!(f.last().topic(), topic);
        }
    }
}
