//! Queue locks of consumers that consume in order. They go through the log, so that no failover gives a queue two owners.

use std::time::{SystemTime, UNIX_EPOCH};

use raftmq_raft::{Command as LogCommand, CommandOutcome, QueueLocks};
use raftmq_remoting::body::{LockBatchRequest, LockBatchResponse, MessageQueue};
use raftmq_remoting::codes::response;
use raftmq_remoting::{Command, fastjson};

use super::limits::{CLIENT_ID_LEN_MAX, LOCK_LEASE, LOCK_QUEUES_MAX};
use super::node::Node;
use super::reply::{Handled, Refusal, Reply};
use super::topics;

/// 41: takes or renews locks, and answers with those the client holds then.
pub(crate) async fn lock(node: &Node, request: &Command) -> Handled {
    let batch = read(node, request)?;
    if node.group.metadata().group(&batch.consumer_group).is_none() {
        topics::create_group(node, &batch.consumer_group).await?;
    }
    let granted = apply(node, &batch, LOCK_LEASE.as_millis() as i64).await?;
    let held = batch.mq_set.into_iter().filter(|queue| {
        u32::try_from(queue.queue_id)
            .is_ok_and(|id| granted.iter().any(|(topic, g)| *topic == queue.topic && *g == id))
    });
    json(&LockBatchResponse { lock_ok_mq_set: held.collect() })
}

/// 42: releases locks.
pub(crate) async fn unlock(node: &Node, request: &Command) -> Handled {
    let batch = read(node, request)?;
    if node.group.metadata().group(&batch.consumer_group).is_none() {
        let remark = format!("subscription group [{}] does not exist", batch.consumer_group);
        return Err(Refusal::new(response::SUBSCRIPTION_GROUP_NOT_EXIST, remark));
    }
    apply(node, &batch, 0).await?;
    Reply::done()
}

fn json(body: &LockBatchResponse) -> Handled {
    Reply::body(fastjson::to_vec(body).map_err(|error| Refusal::error(error.to_string()))?)
}

fn read(node: &Node, request: &Command) -> Result<LockBatchRequest, Refusal> {
    node.leading()?;
    let batch: LockBatchRequest =
        fastjson::parse(&request.body).map_err(|error| Refusal::error(format!("lock request: {error}")))?;
    check(&batch)?;
    Ok(batch)
}

fn check(batch: &LockBatchRequest) -> Result<(), Refusal> {
    topics::check_group_name(&batch.consumer_group)?;
    if batch.client_id.is_empty() || batch.client_id.len() > CLIENT_ID_LEN_MAX {
        return Err(Refusal::illegal(format!("a client id of {} bytes", batch.client_id.len())));
    }
    if batch.mq_set.len() > LOCK_QUEUES_MAX {
        return Err(Refusal::illegal(format!(
            "{} queues at once, at most {LOCK_QUEUES_MAX}",
            batch.mq_set.len()
        )));
    }
    Ok(())
}

/// The queues as the log names them; those that do not exist are left out, as nobody can hold them.
fn existing(node: &Node, queues: &[MessageQueue]) -> Vec<(String, u32)> {
    let exists = |queue: &&MessageQueue| {
        let topic = node.group.metadata().topic(&queue.topic);
        topic.is_some_and(|topic| super::pull::existing_queue(&topic, queue.queue_id).is_ok())
    };
    queues.iter().filter(exists).map(|queue| (queue.topic.clone(), queue.queue_id as u32)).collect()
}

async fn apply(node: &Node, batch: &LockBatchRequest, lease_ms: i64) -> Result<Vec<(String, u32)>, Refusal> {
    let queues = existing(node, &batch.mq_set);
    if queues.is_empty() {
        return Ok(Vec::new());
    }
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
    let locks = QueueLocks {
        group: batch.consumer_group.clone(),
        client_id: batch.client_id.clone(),
        queues,
        now_ms,
        lease_ms,
    };
    match node.propose(LogCommand::LockQueues(locks)).await? {
        CommandOutcome::Locked(granted) => Ok(granted),
        CommandOutcome::Done => Ok(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_requests_are_refused() {
        let good = LockBatchRequest {
            client_id: "c".into(),
            consumer_group: "g".into(),
            mq_set: vec![MessageQueue::default(); LOCK_QUEUES_MAX],
            only_this_broker: false,
        };
        assert_eq!(check(&good), Ok(()));
        for bad in [
            LockBatchRequest { client_id: String::new(), ..good.clone() },
            LockBatchRequest { client_id: "c".repeat(CLIENT_ID_LEN_MAX + 1), ..good.clone() },
            LockBatchRequest { consumer_group: "a b".into(), ..good.clone() },
            LockBatchRequest { mq_set: vec![MessageQueue::default(); LOCK_QUEUES_MAX + 1], ..good.clone() },
        ] {
            assert!(check(&bad).is_err(), "{bad:?}");
        }
    }
}
