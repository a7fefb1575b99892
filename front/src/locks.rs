//! Requests for queue locks.

use raftmq_broker::locks::{Holder, Queue, check};
use raftmq_remoting::body::{LockBatchRequest, LockBatchResponse, MessageQueue};
use raftmq_remoting::{Command, fastjson};
use raftmq_world::hash::HashSet;

use crate::channel::Channel;
use crate::node::Node;
use crate::reply::{Handled, Refusal, Reply, json};

/// 41: takes or renews locks, and answers with those the client holds then.
pub(crate) async fn lock(node: &Node, request: &Command) -> Handled {
    let batch = read(request)?;
    if !node.state.groups.has(&batch.consumer_group) {
        node.create_group(&batch.consumer_group).await?;
    }
    let granted = node.broker.locks.lock(holder(&batch), queues(&batch)).await?;
    json(&LockBatchResponse { lock_ok_mq_set: held(batch.mq_set, &granted) })
}

fn holder(batch: &LockBatchRequest) -> Holder<'_> {
    Holder { group: &batch.consumer_group, client_id: &batch.client_id }
}

/// The queues as the log names them; a number below 0 is of none.
fn queues(batch: &LockBatchRequest) -> Vec<Queue> {
    let named = |queue: &MessageQueue| Some((queue.topic.clone(), u32::try_from(queue.queue_id).ok()?));
    batch.mq_set.iter().filter_map(named).collect()
}

/// Those of the queues that were granted.
fn held(mut queues: Vec<MessageQueue>, granted: &[Queue]) -> Vec<MessageQueue> {
    let granted: HashSet<_> = granted.iter().map(|(topic, id)| (topic.as_str(), *id)).collect();
    queues.retain(|queue| {
        u32::try_from(queue.queue_id).is_ok_and(|id| granted.contains(&(queue.topic.as_str(), id)))
    });
    queues
}

/// 42: releases locks. What an older connection gives up is not given up where a newer one has taken over its client id.
pub(crate) async fn unlock(node: &Node, channel: &Channel, request: &Command) -> Handled {
    let batch = read(request)?;
    let group = &batch.consumer_group;
    if !node.state.groups.has(group) {
        return Err(raftmq_broker::Error::NoGroup(group.clone()).into());
    }
    if !node.broker.clients.is_succeeded(group, &batch.client_id, channel.id) {
        node.broker.locks.unlock(holder(&batch), queues(&batch)).await?;
    }
    Reply::done()
}

fn read(request: &Command) -> Result<LockBatchRequest, Refusal> {
    let batch: LockBatchRequest =
        fastjson::parse(&request.body).map_err(|error| Refusal::error(format!("lock request: {error}")))?;
    check(holder(&batch), batch.mq_set.len())?;
    Ok(batch)
}
