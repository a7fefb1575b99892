//! What operators do to the offsets of a group: setting them back or forward by time, copying another group's.

use std::collections::BTreeSet;

use raftmq_broker::resets::Target;
use raftmq_message::topic::retry_topic;
use raftmq_remoting::Command;
use raftmq_remoting::body::OffsetTable;
use raftmq_remoting::codes::response;
use raftmq_remoting::header::{CloneOffsetsHeader, ResetOffsetHeader};

use crate::node::Node;
use crate::reply::{Handled, Refusal, Reply, body};

/// 222: a group goes on in a topic from a time, from an offset, or from the end.
pub(crate) async fn reset_offset(node: &Node, command: &Command) -> Handled {
    let header = ResetOffsetHeader::decode(command)?;
    let topic = node.state.topics.get(&header.topic).ok_or_else(|| {
        Refusal::new(response::TOPIC_NOT_EXIST, format!("Topic {} does not exist", header.topic))
    })?;
    if !node.state.groups.has(&header.group) {
        let remark = format!("Group {} does not exist", header.group);
        return Err(Refusal::new(response::SUBSCRIPTION_GROUP_NOT_EXIST, remark));
    }
    let (queue_id, target) = wanted(&header);
    let reached = node.broker.resets.reset(&header.group, &topic, queue_id, target, header.is_force).await?;
    // Offsets stay within 63 bits.
    let place = |(id, offset): (u32, u64)| (node.message_queue(&topic.name, id), offset as i64);
    body(OffsetTable { offset_table: reached.into_iter().map(place).collect() }.to_json())
}

/// The queue, if it is one, and where to go.
fn wanted(header: &ResetOffsetHeader) -> (Option<i32>, Target) {
    let queue_id = (header.queue_id >= 0).then_some(header.queue_id);
    let target = match (queue_id, header.offset, header.timestamp) {
        (Some(_), offset, _) if offset != -1 => Target::Offset(offset),
        (_, _, ..0) => Target::End,
        (_, _, timestamp_ms) => Target::Time(timestamp_ms),
    };
    (queue_id, target)
}

/// 314: a group goes on where another is.
pub(crate) async fn clone_offsets(node: &Node, command: &Command) -> Handled {
    let term = node.leading()?;
    let header = CloneOffsetsHeader::decode(command)?;
    let (source, destination) = (&header.source, &header.destination);
    node.create_group(destination).await?;
    let subscribed: BTreeSet<_> = node.broker.clients.subscribed_topics(source).into_iter().collect();
    let asked = header.topic.filter(|topic| !topic.is_empty());
    let retries = retry_topic(source);
    let is_wanted = |topic: &str| {
        topic != retries
            && asked.as_deref().is_none_or(|asked| asked == topic)
            && (header.offline || subscribed.is_empty() || subscribed.contains(topic))
    };
    node.broker.resets.copy(term, source, destination, is_wanted).await?;
    Reply::done()
}
