//! Send requests: what is checked, and how a request becomes records.
//!
//! Everything here is synchronous and works on borrowed bytes. Submitting and answering is [`super::send_batch`]'s.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::BytesMut;
use raftmq_broker::state::{State, Topic};
use raftmq_message::batch::BatchIter;
use raftmq_message::id::UniqueKeys;
use raftmq_message::properties::{self, names};
use raftmq_message::record::sys_flag;
use raftmq_message::topic::{RETRY_PREFIX, group_of_retry_topic, is_forbidden_to_send, validate_topic};
use raftmq_message::{BuildError, RecordParts};
use raftmq_remoting::codes::response;
use raftmq_remoting::header::SendHeader;
use raftmq_world::{Clock, World};

use super::detour::{self, Detour, Timing};
use super::limits::BATCH_MESSAGES_MAX;
use super::reply::Refusal;
use super::send_back::dead_group;

/// The region that answers and records name; RocketMQ's default.
pub(crate) const REGION: &str = "DefaultRegion";
/// Flags of a send that are stored; transactions are refused and the hosts' flags follow from the hosts.
const STORED_FLAGS: i32 = sys_flag::COMPRESSED | sys_flag::MULTI_TAGS | COMPRESSION_TYPE_MASK;
/// Bits 8 to 10: how a body is compressed.
const COMPRESSION_TYPE_MASK: i32 = 0x700;

/// What all sends of a broker have in common.
pub(crate) struct SendSettings {
    pub(crate) store_host: SocketAddr,
    /// Largest body, in bytes.
    pub(crate) message_bytes: usize,
    /// Most record bytes of one request: they go into one entry.
    entry_bytes: usize,
    /// Properties that every single message gets, as a 5.x broker adds them.
    added: String,
    /// How many delay levels there are.
    pub(crate) delay_levels: u32,
    /// The clock that delays are counted by.
    clock: Arc<dyn Clock>,
    unique_keys: UniqueKeys,
    /// Counts the messages that leave the choice of their queue to the broker.
    pub(crate) next_queue: AtomicU32,
}

impl SendSettings {
    pub(crate) fn new(
        cluster: &str,
        store_host: SocketAddr,
        message_bytes: usize,
        entry_bytes: usize,
        delay_levels: u32,
        world: &World,
    ) -> Self {
        let salt = world.random.number() as u32;
        Self {
            store_host,
            message_bytes,
            entry_bytes,
            added: properties::from_pairs([
                (names::MSG_REGION, REGION),
                (names::TRACE_ON, "true"),
                (names::CLUSTER, cluster),
            ]),
            delay_levels,
            clock: world.clock.clone(),
            unique_keys: UniqueKeys::new(store_host.ip(), world.process_id, salt),
            next_queue: AtomicU32::new(salt),
        }
    }
}

/// Why a send is not stored.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SendProblem {
    /// It is answered so.
    Refused(Refusal),
    /// The topic that it goes to does not exist, or the group that returns it; both may be made and the send tried again.
    Missing(Missing),
}

/// What a send needs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// The topic it names.
    Named,
    /// A group, its retry topic, or both.
    Retry(String),
    /// The topic of a group's dead letters.
    DeadLetters(String),
}

impl From<Refusal> for SendProblem {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// The topic a connection sent to last, so that its next send need not look it up.
#[derive(Default)]
pub(crate) struct TopicCache {
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

/// Where sends are encoded to.
#[derive(Debug, Default)]
pub(crate) struct Records {
    /// Records back to back.
    pub(crate) bytes: BytesMut,
    /// The unique keys of single messages, one after the other.
    pub(crate) keys: String,
}

/// A place in [`Records`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordsEnd {
    pub(crate) bytes: usize,
    pub(crate) keys: usize,
}

impl Records {
    pub(crate) fn end(&self) -> RecordsEnd {
        RecordsEnd { bytes: self.bytes.len(), keys: self.keys.len() }
    }

    fn truncate(&mut self, to: RecordsEnd) {
        self.bytes.truncate(to.bytes);
        self.keys.truncate(to.keys);
    }

    /// Takes off what lies behind a place.
    pub(crate) fn split_off(&mut self, at: RecordsEnd) -> Self {
        Self { bytes: self.bytes.split_off(at.bytes), keys: self.keys.split_off(at.keys) }
    }
}

/// What a send became.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Encoded {
    pub(crate) queue_id: i32,
    pub(crate) records: u32,
}

/// A send as it came in.
pub(crate) struct SendRequest<'a> {
    pub(crate) header: SendHeader<'a>,
    pub(crate) body: &'a [u8],
    /// The client.
    pub(crate) born_host: SocketAddr,
}

/// Checks a send and appends its records to `out`, with a single message's unique key. Writes nothing where it fails.
///
/// `holds_locks` tells whether a member of a group has a queue locked.
pub(crate) fn encode_send(
    settings: &SendSettings,
    state: &State,
    holds_locks: impl FnOnce(&str) -> bool,
    cache: &mut TopicCache,
    request: &SendRequest<'_>,
    out: &mut Records,
) -> Result<Encoded, SendProblem> {
    let SendRequest { header, body, .. } = request;
    let name = header.topic.as_ref();
    let topic = match cache.get(state, name) {
        Some(topic) if !is_forbidden_to_send(name) => topic,
        _ => return Err(missing_topic(name)),
    };
    check_body(settings, body)?;
    let queue_id = choose_queue(settings, topic, header.queue_id)?;
    if header.sys_flag & sys_flag::TRANSACTION_MASK != 0 {
        return Err(no_transactions().into());
    }
    let dead_group = match group_of_retry_topic(name) {
        Some(group) => dead_group(state, group, header, holds_locks)?,
        None => None,
    };
    let message = Message { settings, request, header, queue_id, dead_group };
    let start = out.end();
    let encoded = if header.batch {
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
        return Refusal::illegal(error.to_string()).into();
    }
    if is_forbidden_to_send(name) {
        let remark = format!("Sending message to topic[{name}] is forbidden.");
        return Refusal::new(response::NO_PERMISSION, remark).into();
    }
    SendProblem::Missing(match group_of_retry_topic(name) {
        Some(group) => Missing::Retry(group.to_owned()),
        None => Missing::Named,
    })
}

fn check_body(settings: &SendSettings, body: &[u8]) -> Result<(), Refusal> {
    if body.is_empty() || body.len() > settings.message_bytes {
        return Err(illegal_message(settings, &format!("the body has {} bytes", body.len())));
    }
    Ok(())
}

/// Checks that records fit into one entry of the log, `bytes` being what they need of it now or later.
pub(crate) fn check_entry(settings: &SendSettings, bytes: usize) -> Result<(), Refusal> {
    if bytes > settings.entry_bytes {
        let detail = format!("its records need {bytes} bytes, the log takes {}", settings.entry_bytes);
        return Err(illegal_message(settings, &detail));
    }
    Ok(())
}

fn illegal_message(settings: &SendSettings, detail: &str) -> Refusal {
    Refusal::new(
        response::MESSAGE_ILLEGAL,
        format!(
            "the message is illegal, maybe msg body or properties length not matched. msg body length limit {}B, \
             msg properties length limit 32KB. {detail}",
            settings.message_bytes
        ),
    )
}

/// The queue asked for, or the next in turn where none is.
fn choose_queue(settings: &SendSettings, topic: &Topic, wanted: i32) -> Result<i32, Refusal> {
    let queues = topic.queues();
    let queue_id = match u32::try_from(wanted) {
        Ok(queue_id) => queue_id,
        Err(_) => settings.next_queue.fetch_add(1, Ordering::Relaxed) % topic.write_queues.max(1),
    };
    if queue_id >= queues {
        return Err(Refusal::illegal(format!(
            "request queueId[{wanted}] is illegal, topic[{}] has {queues} queues",
            topic.name
        )));
    }
    // Topics have far fewer queues.
    Ok(queue_id as i32)
}

fn no_transactions() -> Refusal {
    Refusal::unsupported("transactional messages are not supported")
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
fn scan(list: &str) -> Result<Scanned<'_>, Refusal> {
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
    request: &'a SendRequest<'a>,
    header: &'a SendHeader<'a>,
    queue_id: i32,
    /// The group whose dead letters it belongs to.
    dead_group: Option<&'a str>,
}

impl Message<'_> {
    /// Returns by how much the record may grow later. What is written when it fails is for the caller to take back.
    fn encode_single(&self, body: &[u8], out: &mut Records) -> Result<usize, Refusal> {
        let list = self.header.properties.as_ref();
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
            self.encode(place, self.header.flag, body, &[list, added], &mut out.bytes)?;
            return Ok(growth);
        }
        let key = self.settings.unique_keys.next(self.header.born_timestamp_ms);
        out.keys.push_str(&key);
        let own = properties::from_pairs([(names::UNIQ_KEY, key.as_str())]);
        self.encode(place, self.header.flag, body, &[list, &own, added], &mut out.bytes)?;
        Ok(growth)
    }

    /// The topic and the queue it was sent to.
    fn place(&self) -> (&str, i32) {
        (&self.header.topic, self.queue_id)
    }

    /// Where it goes instead.
    fn detour(&self, timing: Timing, list: &str) -> Result<Option<Detour>, Refusal> {
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
    fn encode_batch(&self, body: &[u8], out: &mut BytesMut) -> Result<u32, Refusal> {
        if self.header.topic.starts_with(RETRY_PREFIX) {
            return Err(illegal_message(self.settings, "a batch cannot be sent to a retry topic"));
        }
        let shared = self.header.properties.as_ref();
        self.scan_in_batch(shared)?;
        // Of the batch as a whole; each message brings its own.
        let shared = properties::remove(&without_added(shared), names::UNIQ_KEY);
        let start = out.len();
        let mut count = 0;
        for message in BatchIter::new(body) {
            let message = message.map_err(|error| illegal_message(self.settings, &error.to_string()))?;
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

    fn scan_in_batch<'l>(&self, list: &'l str) -> Result<Scanned<'l>, Refusal> {
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
    ) -> Result<(), Refusal> {
        let parts = RecordParts {
            topic,
            queue_id,
            flag,
            sys_flag: self.header.sys_flag & STORED_FLAGS,
            born_timestamp_ms: self.header.born_timestamp_ms,
            born_host: self.request.born_host,
            store_host: self.settings.store_host,
            reconsume_times: self.header.reconsume_times,
            prepared_transaction_offset: 0,
            body,
            properties,
        };
        append_record(self.settings, &parts, out)
    }
}

/// Appends a record; writes nothing where its parts fit none.
pub(crate) fn append_record(
    settings: &SendSettings,
    parts: &RecordParts<'_>,
    out: &mut BytesMut,
) -> Result<(), Refusal> {
    match parts.encode_into(out) {
        Ok(_) => Ok(()),
        Err(error @ (BuildError::PropertiesTooLong { .. } | BuildError::RecordTooLong { .. })) => {
            Err(illegal_message(settings, &error.to_string()))
        }
        Err(error @ BuildError::TopicTooLong { .. }) => Err(Refusal::illegal(error.to_string())),
    }
}

/// The list without what the broker sets itself, for messages that have been through a broker before.
fn without_added(list: &str) -> String {
    properties::remove_all(list, &[names::MSG_REGION, names::TRACE_ON, names::CLUSTER])
}

#[cfg(test)]
mod tests {
    use raftmq_broker::state::{GroupCommand, SubscriptionGroup, TopicCommand};
    use raftmq_message::batch::BatchMessage;
    use raftmq_message::{RecordIter, RecordView};
    use raftmq_raft::Table as _;
    use std::time::Duration;

    use super::*;
    use crate::broker::limits::DELAY_GROWTH_MAX;

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

    fn header(topic: &str) -> SendHeader<'_> {
        SendHeader {
            producer_group: "P".into(),
            topic: topic.into(),
            default_topic: "TBW102".into(),
            default_topic_queue_nums: 4,
            queue_id: 1,
            sys_flag: 0,
            born_timestamp_ms: 1_795_248_168_603,
            flag: 9,
            properties: LIST.into(),
            reconsume_times: 2,
            unit_mode: false,
            max_reconsume_times: None,
            batch: false,
            broker_name: None,
        }
    }

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
            let world = World { clock: Arc::new(StoppedClock), ..World::system() };
            let settings = SendSettings::new("C1", host, 100, 1000, 18, &world);
            Self { settings, state, cache: TopicCache::default(), out: Records::default(), is_locked: false }
        }

        fn send(&mut self, header: &SendHeader<'_>, body: &[u8]) -> Result<Encoded, SendProblem> {
            let born_host = "127.0.0.2:4000".parse().unwrap();
            let Self { settings, state, cache, out, is_locked } = self;
            let request = SendRequest { header: header.clone(), body, born_host };
            encode_send(settings, state, |_| *is_locked, cache, &request, out)
        }

        fn code(&mut self, header: &SendHeader<'_>, body: &[u8]) -> i32 {
            let before = (self.out.bytes.len(), self.out.keys.len());
            let problem = self.send(header, body).unwrap_err();
            let after = (self.out.bytes.len(), self.out.keys.len());
            assert_eq!(after, before, "a refused send left something behind");
            match problem {
                SendProblem::Refused(refusal) => refusal.code,
                SendProblem::Missing(missing) => panic!("missing: {missing:?}"),
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
        f.send(&SendHeader { properties: list.into(), ..header("T") }, b"x").unwrap();
        let record = RecordIter::new(&f.out.bytes).next().unwrap().unwrap();
        let names: Vec<_> = properties::iter(record.properties()).map(|(name, _)| name).collect();
        assert_eq!(names, ["TAGS", "UNIQ_KEY", "MSG_REGION", "TRACE_ON", "CLUSTER"]);
        assert_eq!(record.property("CLUSTER"), Some("C1"));
        assert_eq!(record.property("UNIQ_KEY"), Some(f.out.keys.as_str()));
    }

    #[test]
    fn what_cannot_be_stored_is_refused_by_code() {
        let mut f = Fixture::new();
        fn with(list: &str) -> SendHeader<'_> {
            SendHeader { properties: list.into(), ..header("T") }
        }
        let long = "x".repeat(33_000);
        let almost = format!("K\u{1}{}", "x".repeat(990));
        let cases = [
            (header("a b"), "x", response::INVALID_PARAMETER),
            (header("SELF_TEST_TOPIC"), "x", response::NO_PERMISSION),
            (header("SCHEDULE_TOPIC_XXXX"), "x", response::NO_PERMISSION),
            (header("T"), "", response::MESSAGE_ILLEGAL),
            (header("T"), &long, response::MESSAGE_ILLEGAL),
            (SendHeader { queue_id: 2, ..header("T") }, "x", response::INVALID_PARAMETER),
            (SendHeader { sys_flag: 4, ..header("T") }, "x", response::REQUEST_CODE_NOT_SUPPORTED),
            (with("TRAN_MSG\u{1}true\u{2}"), "x", response::REQUEST_CODE_NOT_SUPPORTED),
            (header("rmq_sys_wheel_timer"), "x", response::NO_PERMISSION),
            (with("DELAY\u{1}soon\u{2}"), "x", response::MESSAGE_ILLEGAL),
            (with("TIMER_DELAY_SEC\u{1}259201\u{2}"), "x", response::MESSAGE_ILLEGAL),
            (SendHeader { properties: long.clone().into(), ..header("T") }, "x", response::MESSAGE_ILLEGAL),
            (with(&almost), "x", response::MESSAGE_ILLEGAL),
            (SendHeader { batch: true, ..header("T") }, "x", response::MESSAGE_ILLEGAL),
            (SendHeader { batch: true, ..header("%RETRY%G") }, "x", response::MESSAGE_ILLEGAL),
        ];
        for (header, body, code) in cases {
            assert_eq!(f.code(&header, body.as_bytes()), code, "{header:?}");
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
        let header = SendHeader { batch: true, properties: list.into(), ..header("T") };
        assert_eq!(f.send(&header, &body), Ok(Encoded { queue_id: 1, records: 2 }));
        let records: Vec<_> = RecordIter::new(&f.out.bytes).map(Result::unwrap).collect();
        let seen: Vec<_> =
            records.iter().map(|r| (r.flag(), r.property("UNIQ_KEY"), r.property("WAIT"))).collect();
        assert_eq!(seen, [(1, Some("A"), Some("true")), (2, Some("B"), Some("true"))]);
        body.truncate(body.len() - 1);
        assert_eq!(f.code(&header, &body), response::MESSAGE_ILLEGAL);
    }

    #[test]
    fn without_a_queue_the_broker_takes_them_in_turn() {
        let mut f = Fixture::new();
        let header = SendHeader { queue_id: -1, ..header("T") };
        let queues: Vec<_> = (0..4).map(|_| f.send(&header, b"x").unwrap().queue_id).collect();
        assert!(queues == [0, 1, 0, 1] || queues == [1, 0, 1, 0], "{queues:?}");
    }

    #[test]
    fn a_changed_topic_is_noticed() {
        let mut f = Fixture::new();
        let header = SendHeader { queue_id: 3, ..header("T") };
        assert_eq!(f.code(&header, b"x"), response::INVALID_PARAMETER);
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
        assert_eq!(f.send(&SendHeader { properties: list.into(), ..header("T") }, b"x"), stored);
        let record = f.last();
        assert_eq!((record.topic(), record.queue_id()), ("SCHEDULE_TOPIC_XXXX", 2));
        let expected = format!("{own}DELAY\u{1}3\u{2}REAL_TOPIC\u{1}T\u{2}REAL_QID\u{1}1\u{2}{added}");
        assert_eq!(record.properties(), expected);

        let list = format!("{own}TIMER_DELAY_MS\u{1}250");
        assert_eq!(f.send(&SendHeader { properties: list.into(), ..header("T") }, b"x"), stored);
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
        let with = |list: String| SendHeader { properties: list.into(), ..header("T") };
        assert!(f.send(&with(list("", len)), b"x").is_ok());
        assert_eq!(f.code(&with(list("", len + 1)), b"x"), response::MESSAGE_ILLEGAL);
        let delay = "DELAY\u{1}1\u{2}";
        let len = len - "DELAY\u{1}1\u{2}REAL_TOPIC\u{1}T\u{2}REAL_QID\u{1}1\u{2}".len();
        assert!(f.send(&with(list(delay, len)), b"x").is_ok());
        assert_eq!(f.code(&with(list(delay, len + 1)), b"x"), response::MESSAGE_ILLEGAL);
    }

    #[test]
    fn a_delayed_message_has_to_fit_an_entry_when_it_is_delivered() {
        let mut f = Fixture::new();
        let list = |delay: &str, len: usize| format!("{delay}K\u{1}{}\u{2}UNIQ_KEY\u{1}A", "x".repeat(len));
        let with = |list: String| SendHeader { properties: list.into(), ..header("T") };
        for (delay, growth) in
            [("", 0), ("DELAY\u{1}1\u{2}", DELAY_GROWTH_MAX), ("TIMER_DELAY_MS\u{1}9\u{2}", DELAY_GROWTH_MAX)]
        {
            f.send(&with(list(delay, 0)), b"x").unwrap();
            let room = f.settings.entry_bytes - growth - f.last().total_size();
            assert!(f.send(&with(list(delay, room)), b"x").is_ok(), "{delay}");
            assert_eq!(f.code(&with(list(delay, room + 1)), b"x"), response::MESSAGE_ILLEGAL, "{delay}");
        }
    }

    #[test]
    fn a_batch_is_not_delayed() {
        let mut f = Fixture::new();
        for (shared, own) in [("DELAY\u{1}1", ""), ("", "DELAY\u{1}1"), ("", "TIMER_DELAY_SEC\u{1}1")] {
            let mut body = BytesMut::new();
            BatchMessage { flag: 0, body: b"m", properties: own }.encode_into(&mut body).unwrap();
            let header = SendHeader { batch: true, properties: shared.into(), ..header("T") };
            assert_eq!(f.code(&header, &body), response::MESSAGE_ILLEGAL, "{shared} {own}");
        }
    }

    #[test]
    fn a_returned_message_that_was_tried_too_often_goes_to_the_dead_letters() {
        let mut f = Fixture::new();
        let tried = |times, max| SendHeader {
            reconsume_times: times,
            max_reconsume_times: max,
            properties: "UNIQ_KEY\u{1}A\u{2}DELAY\u{1}5\u{2}".into(),
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
