//! A consumer gives back a message it could not handle. A copy goes into its group's retry topic after a delay that
//! grows with every try, or to the group's dead letters when there were enough.
//!
//! The request is stored like a send: encoded into the records of one socket read and answered when they are committed.

use std::borrow::Cow;
use std::sync::atomic::Ordering;

use raftmq_message::id::OffsetMessageId;
use raftmq_message::properties::{self, names};
use raftmq_message::topic::{dlq_topic, retry_topic};
use raftmq_message::{RecordParts, RecordView};
use raftmq_store::Store;

use super::detour::{self, Detour};
use super::given_up::existing_group;
use super::records::{Encoded, Missing, Records, SendProblem, SendSettings, append_record, check_entry};
use crate::error::Error;
use crate::perm;
use crate::state::{State, SubscriptionGroup};

/// The delay level of a message's first retry, less its tries before: 10 s with the levels as they are by default.
const FIRST_RETRY_LEVEL: i32 = 3;
/// A message that is given back.
#[derive(Clone, Copy, Debug)]
pub struct GivenBack<'a> {
    /// The consumer group.
    pub group: &'a str,
    /// The physical offset of its record.
    pub offset: i64,
    /// The delay level that the consumer asks for: 0 leaves it to the broker, below 0 gives it up.
    pub delay_level: i32,
    /// How often it is tried, where the consumer says so.
    pub max_reconsume_times: Option<i32>,
}

/// Checks the request and appends the record that it asks for; `None` where its group has no retries. Writes nothing where
/// it fails.
pub(super) fn encode(
    settings: &SendSettings,
    state: &State,
    store: &Store,
    given_back: &GivenBack<'_>,
    out: &mut Records,
) -> Result<Option<Encoded>, SendProblem> {
    let group = existing_group(state, given_back.group)?;
    if group.retry_queues == 0 {
        return Ok(None);
    }
    let retry_queue = retry_queue(settings, state, &group)?;
    let found = u64::try_from(given_back.offset).ok().and_then(|offset| store.record_at(offset));
    let lost = || Error::Lost(given_back.offset);
    let slice = found.ok_or_else(lost)?;
    let record = RecordView::parse(&slice).map_err(|_| lost())?;
    let detour = if is_dead(&group, given_back, &record) {
        if state.topics.get(&dlq_topic(&group.name)).is_none() {
            return Err(SendProblem::Missing(Missing::DeadLetters(given_back.group.to_owned())));
        }
        dead_letter(&group.name, &record)
    } else {
        retry(settings, &group.name, retry_queue, given_back, &record)
    };
    Ok(Some(append_copy(settings, &detour, &record, out)?))
}

/// The queue of the group's retry topic that the next message goes to.
fn retry_queue(
    settings: &SendSettings,
    state: &State,
    group: &SubscriptionGroup,
) -> Result<i32, SendProblem> {
    let name = retry_topic(&group.name);
    let topic =
        state.topics.get(&name).ok_or_else(|| SendProblem::Missing(Missing::Retry(group.name.clone())))?;
    if topic.perm & perm::WRITE == 0 {
        return Err(Error::TopicNotWritable(name).into());
    }
    let queues = group.retry_queues.min(topic.write_queues).max(1);
    // Topics have far fewer queues than 31 bits count.
    Ok((settings.next_queue.fetch_add(1, Ordering::Relaxed) % queues) as i32)
}

fn is_dead(group: &SubscriptionGroup, given_back: &GivenBack<'_>, record: &RecordView<'_>) -> bool {
    let max = given_back.max_reconsume_times.unwrap_or(group.retry_max_times);
    record.reconsume_times() >= max || given_back.delay_level < 0
}

fn retry(
    settings: &SendSettings,
    group: &str,
    queue_id: i32,
    given_back: &GivenBack<'_>,
    record: &RecordView<'_>,
) -> Detour {
    let level = match given_back.delay_level {
        0 => FIRST_RETRY_LEVEL.saturating_add(record.reconsume_times()),
        level => level,
    };
    let list = with_origin(record, &[]);
    detour::by_level(&list, level, (&retry_topic(group), queue_id), settings.delay_levels)
}

fn dead_letter(group: &str, record: &RecordView<'_>) -> Detour {
    let (topic, id) = (origin_topic(record), origin_id(record));
    let id = record.property(names::UNIQ_KEY).unwrap_or(&id);
    let own = [(names::DELAY, "0"), (names::DLQ_ORIGIN_TOPIC, topic), (names::DLQ_ORIGIN_MESSAGE_ID, id)];
    Detour { topic: dlq_topic(group).into(), queue_id: 0, properties: with_origin(record, &own) }
}

/// The topic that a message was sent to first.
fn origin_topic<'a>(record: &RecordView<'a>) -> &'a str {
    record.property(names::RETRY_TOPIC).unwrap_or(record.topic())
}

/// The offset message id that a message got first.
fn origin_id<'a>(record: &RecordView<'a>) -> Cow<'a, str> {
    record.property(names::ORIGIN_MESSAGE_ID).map_or_else(
        || {
            let store_host = record.store_host();
            // Records that are in the log have been placed there.
            let physical_offset = record.physical_offset() as u64;
            OffsetMessageId { store_host, physical_offset }.format().to_string().into()
        },
        Cow::Borrowed,
    )
}

/// A message's properties, with where it comes from and these added.
fn with_origin(record: &RecordView<'_>, added: &[(&str, &str)]) -> String {
    let id = origin_id(record);
    let origin = [
        (names::RETRY_TOPIC, origin_topic(record)),
        (names::ORIGIN_MESSAGE_ID, &*id),
        (names::WAIT, "false"),
    ];
    let replaced: Vec<&str> = origin.iter().chain(added).map(|(name, _)| *name).collect();
    let mut list = properties::remove_all(record.properties(), &replaced);
    for (name, value) in origin.iter().chain(added) {
        properties::append(&mut list, name, value);
    }
    list
}

/// Appends the copy of a message; its body stays as it is, compressed or not.
fn append_copy(
    settings: &SendSettings,
    detour: &Detour,
    record: &RecordView<'_>,
    out: &mut Records,
) -> Result<Encoded, Error> {
    let parts = RecordParts {
        topic: &detour.topic,
        queue_id: detour.queue_id,
        flag: record.flag(),
        sys_flag: record.sys_flag(),
        born_timestamp_ms: record.born_timestamp_ms(),
        born_host: record.born_host(),
        store_host: settings.store_host,
        reconsume_times: record.reconsume_times().saturating_add(1),
        prepared_transaction_offset: 0,
        body: record.body(),
        properties: &[&detour.properties],
    };
    check_entry(settings, parts.encoded_len() + detour.growth())?;
    append_record(settings, &parts, &mut out.bytes)?;
    Ok(Encoded { queue_id: detour.queue_id, records: 1 })
}
