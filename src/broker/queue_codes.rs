//! Requests about queues and offsets: a group's offset, the ends of a queue, offsets by time, single messages.

use std::sync::Arc;

use raftmq_message::RecordView;
use raftmq_message::topic::is_system_group;
use raftmq_remoting::Command;
use raftmq_remoting::codes::response;
use raftmq_remoting::header::{
    EarliestStoreTimeResponse, OffsetResponse, QueryConsumerOffsetHeader, QueueHeader, SearchOffsetHeader,
    UpdateConsumerOffsetHeader, ViewMessageHeader,
};
use raftmq_store::{Boundary, ConsumeQueue, Store, Unit};

use super::node::Node;
use super::reply::{Handled, Refusal, Reply};
use raftmq_broker::names::check_group_name;
use raftmq_broker::offsets::{Noted, YoungQueue, first_offset};

/// Answers with an offset. Offsets stay within 63 bits.
fn offset(offset: u64) -> Handled {
    Reply::fields(OffsetResponse { offset: offset as i64 }.to_ext())
}

/// 14: what a group has committed for a queue.
pub(crate) async fn query_consumer_offset(node: &Node, command: &Command) -> Handled {
    let header = QueryConsumerOffsetHeader::decode(command)?;
    let (group, topic) = (&header.consumer_group, &header.topic);
    let committed =
        u32::try_from(header.queue_id).ok().and_then(|queue_id| node.offsets.get(group, topic, queue_id));
    if let Some(committed) = committed {
        return offset(committed);
    }
    let mut first = None;
    if header.set_zero_if_not_found != Some(false) {
        // A queue whose only messages were acknowledged just now is not empty.
        node.replica.settle().await;
        node.leading()?;
        first = first_offset(young_queue(node, topic, header.queue_id), node.world.memory_bytes);
    }
    first.map_or_else(
        || {
            let remark = "Not found, maybe this group consumer boot first";
            Err(Refusal::new(response::QUERY_NOT_FOUND, remark))
        },
        offset,
    )
}

/// A queue that exists, with messages or without.
fn young_queue(node: &Node, topic: &str, queue_id: i32) -> Option<YoungQueue> {
    let queue_id = queue_of(node, topic, queue_id)?;
    let store = node.group.store();
    let end = store.dispatched_physical_offset();
    let Some(queue) = store.queue(topic, queue_id) else {
        return Some(YoungQueue { min_offset: 0, max_offset: 0, bytes_behind: 0 });
    };
    let first = queue.get(0);
    Some(YoungQueue {
        min_offset: queue.min_offset(),
        max_offset: queue.max_offset(),
        bytes_behind: first.map_or(u64::MAX, |unit| end.saturating_sub(unit.physical_offset)),
    })
}

/// 15: a group has consumed a queue up to an offset. Success means that the log has it: the answer is to be waited for.
/// It is noted before this returns, so what the same client asks next sees it.
pub(crate) fn update_consumer_offset(
    node: &Node,
    command: &Command,
) -> Result<impl Future<Output = Handled> + Send + use<>, Refusal> {
    let header = UpdateConsumerOffsetHeader::decode(command)?;
    let (group, topic) = (&header.consumer_group, &header.topic);
    let needs_no_creation = is_system_group(group) && check_group_name(group).is_ok();
    if node.state.groups.get(group).is_none() && !needs_no_creation {
        return Err(Refusal::new(
            response::SUBSCRIPTION_GROUP_NOT_EXIST,
            format!("Group {group} not exist!"),
        ));
    }
    let queue_id = node.state.topics.existing(topic)?.existing_queue(header.queue_id)?;
    let committed = u64::try_from(header.commit_offset)
        .map_err(|_| Refusal::error(format!("commitOffset[{}] is below 0", header.commit_offset)))?;
    let noted = node.offsets.commit(group, topic, queue_id, committed)?;
    let outcome = match noted {
        // As RocketMQ answers: a success in all but the words.
        Noted::Ignored => {
            return Err(Refusal::new(response::SUCCESS, "Offset has been previously reset"));
        }
        Noted::Pending if !command.is_oneway() => Some(node.offsets.when_committed()?),
        Noted::Pending | Noted::Committed => None,
    };
    Ok(async move {
        if let Some(outcome) = outcome {
            let unknown = |_| Refusal::unavailable("the outcome is unknown: the leader changed");
            outcome.await.map_err(unknown)??;
        }
        Reply::done()
    })
}

/// The queue a request names; `None` while it holds nothing. RocketMQ takes one that does not exist for an empty one.
fn queue(node: &Node, command: &Command) -> Result<Option<Arc<ConsumeQueue>>, Refusal> {
    node.leading()?;
    let header = QueueHeader::decode(command)?;
    Ok(queue_of(node, &header.topic, header.queue_id)
        .and_then(|id| node.group.store().queue(&header.topic, id)))
}

/// The id of a queue that its topic has, or had when it had more.
fn queue_of(node: &Node, topic: &str, queue_id: i32) -> Option<u32> {
    let topic = node.state.topics.get(topic)?;
    let queue_id = u32::try_from(queue_id).ok()?;
    let had = || node.group.store().queue(&topic.name, queue_id).is_some();
    (queue_id < topic.queues() || had()).then_some(queue_id)
}

/// 30: the offset behind a queue's last committed message.
pub(crate) async fn max_offset(node: &Node, command: &Command) -> Handled {
    node.replica.settle().await;
    offset(queue(node, command)?.map_or(0, |queue| queue.max_offset()))
}

/// 31: the offset of a queue's first message.
pub(crate) fn min_offset(node: &Node, command: &Command) -> Handled {
    offset(queue(node, command)?.map_or(0, |queue| queue.min_offset()))
}

/// 32: when a queue's first message was stored; -1 where there is none.
pub(crate) fn earliest_store_time(node: &Node, command: &Command) -> Handled {
    let first = queue(node, command)?.and_then(|queue| queue.get(queue.min_offset()));
    let timestamp = first.and_then(|unit| store_time(node.group.store(), unit)).unwrap_or(-1);
    Reply::fields(EarliestStoreTimeResponse { timestamp }.to_ext())
}

/// When the message of a unit was stored, in ms since the epoch.
pub(crate) fn store_time(store: &Store, unit: Unit) -> Option<i64> {
    let slice = store.record(unit.physical_offset, unit.size)?;
    RecordView::parse(&slice).ok().map(|record| record.store_timestamp_ms())
}

/// 29: the offset that belongs to a time; 0 in a queue that does not exist.
pub(crate) fn search_offset(node: &Node, command: &Command) -> Handled {
    let header = SearchOffsetHeader::decode(command)?;
    let Some(queue_id) = queue_of(node, &header.topic, header.queue_id) else { return offset(0) };
    let is_upper = header.boundary_type.is_some_and(|boundary| boundary.eq_ignore_ascii_case("UPPER"));
    let boundary = if is_upper { Boundary::Upper } else { Boundary::Lower };
    offset(offset_at(node, &header.topic, queue_id, header.timestamp, boundary)?)
}

/// The offset that belongs to a time in ms since the epoch; 0 in a queue that never had a message.
pub(crate) fn offset_at(
    node: &Node,
    topic: &str,
    queue_id: u32,
    timestamp_ms: i64,
    boundary: Boundary,
) -> Result<u64, Refusal> {
    let store = node.group.store();
    let Some(queue) = store.queue(topic, queue_id) else { return Ok(0) };
    let found = queue.offset_by_time(timestamp_ms, boundary, |unit| store_time(store, unit));
    found.map_err(|error| Refusal::error(error.to_string()))
}

/// 33: a message by its physical offset.
pub(crate) async fn view_message(node: &Node, command: &Command) -> Handled {
    let header = ViewMessageHeader::decode(command)?;
    node.replica.settle().await;
    let found = u64::try_from(header.offset).ok().and_then(|offset| node.group.store().record_at(offset));
    match found {
        Some(record) => Reply::body(record),
        None => Err(Refusal::error(format!("can not find message by the offset, {}", header.offset))),
    }
}
