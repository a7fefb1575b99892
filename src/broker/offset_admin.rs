//! What operators do to the offsets of a group: setting them back or forward by time, copying another group's.
//!
//! A reset works while consumers run and while none do. It becomes the committed offset at once and stays noted until
//! a pull of the group has been sent there (`PendingOffsets::take_reset`); what consumers that are still at work commit
//! in the meantime does not count.

use std::collections::BTreeSet;

use raftmq_broker::state::{OffsetCommand, OffsetCommit, Offsets, Topic};
use raftmq_message::topic::retry_topic;
use raftmq_remoting::Command;
use raftmq_remoting::body::{OffsetTable, QueueMap};
use raftmq_remoting::codes::response;
use raftmq_remoting::header::{CloneOffsetsHeader, ResetOffsetHeader};
use raftmq_store::Boundary;

use super::node::Node;
use super::queue_codes::offset_at;
use super::reply::{Handled, Refusal, Reply};
use super::stats_codes::message_queue;
use raftmq_broker::offsets::batches;

/// 222: a group goes on in a topic from a time, from an offset, or from the end.
pub(crate) async fn reset_offset(node: &Node, command: &Command) -> Handled {
    let header = ResetOffsetHeader::decode(command)?;
    let topic = node.state.topics.get(&header.topic).ok_or_else(|| {
        Refusal::new(response::TOPIC_NOT_EXIST, format!("Topic {} does not exist", header.topic))
    })?;
    if node.state.groups.get(&header.group).is_none() {
        let remark = format!("Group {} does not exist", header.group);
        return Err(Refusal::new(response::SUBSCRIPTION_GROUP_NOT_EXIST, remark));
    }
    // What was acknowledged by now counts, and is what a reset to the end passes over.
    node.replica.settle().await;
    let term = node.leading()?;
    let (resets, offset_table) = targets(node, &header, &topic)?;
    tracing::info!(
        group = header.group,
        topic = header.topic,
        timestamp = header.timestamp,
        queues = resets.len(),
        "consumer offsets reset"
    );
    reset(node, term, resets).await?;
    Reply::body(OffsetTable { offset_table }.to_json().map_err(|error| Refusal::error(error.to_string()))?)
}

/// Sets offsets, whatever consumers say until they have taken them up. They were found in this term: in another newer ones
/// may have been committed.
async fn reset(node: &Node, term: u64, resets: Vec<OffsetCommit>) -> Result<(), Refusal> {
    node.offsets.admit(&resets)?;
    for batch in batches(resets.into_iter()) {
        node.replica.change_in::<Offsets>(term, &OffsetCommand::Reset(batch.clone())).await?;
        node.offsets.discard(&batch);
        let reset = batch.iter().map(|reset| (reset.group.as_str(), reset.topic.as_str()));
        node.pulls.was_reset(&reset.collect());
    }
    Ok(())
}

/// The queues to be reset, and where the group is in each queue afterwards.
fn targets(
    node: &Node,
    header: &ResetOffsetHeader,
    topic: &Topic,
) -> Result<(Vec<OffsetCommit>, QueueMap<i64>), Refusal> {
    let queues = match header.queue_id {
        ..0 => 0..topic.read_queues,
        id => {
            let id = topic.existing_queue(id)?;
            id..id + 1
        }
    };
    let (mut resets, mut table) = (Vec::new(), QueueMap::new());
    for queue_id in queues {
        let mut offset = target(node, header, queue_id)?;
        let committed = node.offsets.get(&header.group, &header.topic, queue_id);
        match committed.filter(|committed| !header.is_force && *committed <= offset) {
            Some(committed) => offset = committed,
            None => resets.push(OffsetCommit {
                group: header.group.clone(),
                topic: header.topic.clone(),
                queue_id,
                offset,
            }),
        }
        // Offsets stay within 63 bits.
        table.insert(message_queue(node, &header.topic, queue_id), offset as i64);
    }
    Ok((resets, table))
}

/// The offset a request asks for in a queue.
fn target(node: &Node, header: &ResetOffsetHeader, queue_id: u32) -> Result<u64, Refusal> {
    let queue = node.group.store().queue(&header.topic, queue_id);
    let (min, max) = queue.as_ref().map_or((0, 0), |queue| (queue.min_offset(), queue.max_offset()));
    if header.queue_id >= 0 && header.offset != -1 {
        let asked = u64::try_from(header.offset).ok().filter(|asked| (min..=max).contains(asked));
        return asked.ok_or_else(|| {
            let asked = header.offset;
            Refusal::error(format!("Target offset {asked} not in consume queue range [{min}-{max}]"))
        });
    }
    if header.timestamp < 0 {
        return Ok(max);
    }
    offset_at(node, &header.topic, queue_id, header.timestamp, Boundary::Lower)
}

/// 314: a group goes on where another is.
pub(crate) async fn clone_offsets(node: &Node, command: &Command) -> Handled {
    let term = node.leading()?;
    let header = CloneOffsetsHeader::decode(command)?;
    let (source, destination) = (&header.source, &header.destination);
    node.create_group(destination).await?;
    // What the source has been told is committed is in the log then.
    node.offsets.flush(&node.replica).await;
    let subscribed: BTreeSet<_> = node.clients.subscribed_topics(source).into_iter().collect();
    let wanted = header.topic.filter(|topic| !topic.is_empty());
    let retries = retry_topic(source);
    let resets: Vec<_> = node
        .state
        .offsets
        .of_group(source)
        .into_iter()
        .filter(|commit| commit.topic != retries)
        .filter(|commit| wanted.as_ref().is_none_or(|topic| *topic == commit.topic))
        .filter(|commit| header.offline || subscribed.is_empty() || subscribed.contains(&commit.topic))
        .map(|commit| OffsetCommit { group: destination.clone(), ..commit })
        .collect();
    tracing::info!(source, destination, offsets = resets.len(), "consumer offsets cloned");
    reset(node, term, resets).await?;
    Reply::done()
}
