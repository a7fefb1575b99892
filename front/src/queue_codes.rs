//! Requests about queues and offsets: a group's offset, the ends of a queue, offsets by time, single messages.

use raftmq_message::topic::is_system_group;
use raftmq_remoting::Command;
use raftmq_remoting::codes::response;
use raftmq_remoting::header::{
    EarliestStoreTimeResponse, OffsetResponse, QueryConsumerOffsetHeader, QueueHeader, SearchOffsetHeader,
    UpdateConsumerOffsetHeader, ViewMessageHeader,
};
use raftmq_store::Boundary;

use crate::node::Node;
use crate::reply::{Handled, Refusal, Reply};
use raftmq_broker::names::check_group_name;
use raftmq_broker::offsets::{Noted, first_offset};

/// Answers with an offset. Offsets stay within 63 bits.
fn offset(offset: u64) -> Handled {
    Reply::fields(OffsetResponse { offset: offset as i64 }.to_ext())
}

/// 14: what a group has committed for a queue.
pub(crate) async fn query_consumer_offset(node: &Node, command: &Command) -> Handled {
    let header = QueryConsumerOffsetHeader::decode(command)?;
    let (group, topic) = (&header.consumer_group, &header.topic);
    let committed = u32::try_from(header.queue_id)
        .ok()
        .and_then(|queue_id| node.broker.offsets.get(group, topic, queue_id));
    if let Some(committed) = committed {
        return offset(committed);
    }
    let mut first = None;
    if header.set_zero_if_not_found != Some(false) {
        // A queue whose only messages were acknowledged just now is not empty.
        node.replica.settle().await;
        node.leading()?;
        first =
            first_offset(node.broker.queues.young(topic, header.queue_id), node.process.world.memory_bytes);
    }
    first.map_or_else(
        || {
            let remark = "Not found, maybe this group consumer boot first";
            Err(Refusal::new(response::QUERY_NOT_FOUND, remark))
        },
        offset,
    )
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
    let noted = node.broker.offsets.commit(group, topic, queue_id, committed)?;
    let outcome = match noted {
        // As RocketMQ answers: a success in all but the words.
        Noted::Ignored => {
            return Err(Refusal::new(response::SUCCESS, "Offset has been previously reset"));
        }
        Noted::Pending if !command.is_oneway() => Some(node.broker.offsets.when_committed()?),
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

/// The ends of the queue that a request names. RocketMQ takes one that does not exist for an empty one.
fn ends(node: &Node, command: &Command) -> Result<(u64, u64), Refusal> {
    let QueueHeader { topic, queue_id, .. } = QueueHeader::decode(command)?;
    let queues = &node.broker.queues;
    Ok(queues.id(&topic, queue_id).map_or((0, 0), |id| queues.ends(&topic, id)))
}

/// 30: the offset behind a queue's last committed message.
pub(crate) async fn max_offset(node: &Node, command: &Command) -> Handled {
    node.replica.settle().await;
    node.leading()?;
    offset(ends(node, command)?.1)
}

/// 31: the offset of a queue's first message.
pub(crate) fn min_offset(node: &Node, command: &Command) -> Handled {
    offset(ends(node, command)?.0)
}

/// 32: when a queue's first message was stored; -1 where there is none.
pub(crate) fn earliest_store_time(node: &Node, command: &Command) -> Handled {
    let QueueHeader { topic, queue_id, .. } = QueueHeader::decode(command)?;
    let queues = &node.broker.queues;
    let first =
        queues.id(&topic, queue_id).and_then(|id| queues.stored_at(&topic, id, queues.ends(&topic, id).0));
    Reply::fields(EarliestStoreTimeResponse { timestamp: first.unwrap_or(-1) }.to_ext())
}

/// 29: the offset that belongs to a time; 0 in a queue that does not exist.
pub(crate) fn search_offset(node: &Node, command: &Command) -> Handled {
    let header = SearchOffsetHeader::decode(command)?;
    let queues = &node.broker.queues;
    let Some(queue_id) = queues.id(&header.topic, header.queue_id) else { return offset(0) };
    let is_upper = header.boundary_type.is_some_and(|boundary| boundary.eq_ignore_ascii_case("UPPER"));
    let boundary = if is_upper { Boundary::Upper } else { Boundary::Lower };
    offset(queues.offset_at(&header.topic, queue_id, header.timestamp, boundary)?)
}

/// 33: a message by its physical offset.
pub(crate) async fn view_message(node: &Node, command: &Command) -> Handled {
    let header = ViewMessageHeader::decode(command)?;
    node.replica.settle().await;
    match node.broker.queues.record_at(header.offset) {
        Some(record) => Reply::body(record),
        None => Err(Refusal::error(format!("can not find message by the offset, {}", header.offset))),
    }
}
