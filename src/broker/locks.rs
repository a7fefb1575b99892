//! Queue locks of consumers that consume in order (*invariant 9*). They go through the log, so that no failover gives a queue two owners.
//!
//! A lock is only ever given up by its holder or by time: not when its holder leaves the group or is lost, as it may
//! still be at work on what it has. Clients count on a lock for half its lease after each renewal.
//!
//! Holders are known by client id, as connections do not outlive a failover. A process that has taken over the id of
//! another holds what that held, and what the other gives up at its end is not given up.

use raftmq_world::hash::HashSet;

use parking_lot::Mutex;
use raftmq_broker::state::{Locks, QueueLocks};
use raftmq_remoting::body::{LockBatchRequest, LockBatchResponse, MessageQueue};
use raftmq_remoting::{Command, fastjson};
use tokio::time::Instant;

use super::channel::Channel;
use super::limits::{CLIENT_ID_LEN_MAX, LOCK_LEASE, LOCK_QUEUES_MAX};
use super::node::Node;
use super::reply::{Handled, Refusal, Reply};
use super::topics;

/// 41: takes or renews locks, and answers with those the client holds then.
pub(crate) async fn lock(node: &Node, request: &Command) -> Handled {
    let batch = read(node, request)?;
    if node.state.groups.get(&batch.consumer_group).is_none() {
        topics::create_group(node, &batch.consumer_group).await?;
    }
    let granted = apply(node, &batch, LOCK_LEASE.as_millis() as i64).await?;
    json(&LockBatchResponse { lock_ok_mq_set: held(batch.mq_set, &granted) })
}

/// Those of the queues that were granted.
fn held(mut queues: Vec<MessageQueue>, granted: &[(String, u32)]) -> Vec<MessageQueue> {
    let granted: HashSet<_> = granted.iter().map(|(topic, id)| (topic.as_str(), *id)).collect();
    queues.retain(|queue| {
        u32::try_from(queue.queue_id).is_ok_and(|id| granted.contains(&(queue.topic.as_str(), id)))
    });
    queues
}

/// 42: releases locks.
pub(crate) async fn unlock(node: &Node, channel: &Channel, request: &Command) -> Handled {
    let batch = read(node, request)?;
    if node.state.groups.get(&batch.consumer_group).is_none() {
        return Err(topics::absent_group(&batch.consumer_group));
    }
    if !node.clients.is_succeeded(&batch.consumer_group, &batch.client_id, channel.id) {
        apply(node, &batch, 0).await?;
    }
    Reply::done()
}

/// Whether a client of the group holds a queue locked.
pub(crate) fn are_held(node: &Node, group: &str) -> bool {
    node.state.locks.has(group, now_ms(node))
}

fn now_ms(node: &Node) -> i64 {
    node.lock_clock.now_ms(node.role.borrow().term, &node.state.locks)
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
        let topic = node.state.topics.get(&queue.topic);
        topic.is_some_and(|topic| super::pull::existing_queue(&topic, queue.queue_id).is_ok())
    };
    queues.iter().filter(exists).map(|queue| (queue.topic.clone(), queue.queue_id as u32)).collect()
}

async fn apply(node: &Node, batch: &LockBatchRequest, lease_ms: i64) -> Result<Vec<(String, u32)>, Refusal> {
    let queues = existing(node, &batch.mq_set);
    if queues.is_empty() {
        return Ok(Vec::new());
    }
    if lease_ms > 0 {
        check_room(node, batch, &queues)?;
    }
    // Invariant 9: the clock that this request carries is this term's.
    let term = node.leading()?;
    let locks = QueueLocks {
        group: batch.consumer_group.clone(),
        client_id: batch.client_id.clone(),
        queues,
        now_ms: node.lock_clock.now_ms(term, &node.state.locks),
        lease_ms,
    };
    node.change_in::<Locks>(term, &locks).await
}

/// Locks are part of every checkpoint. Who holds one may always renew it.
fn check_room(node: &Node, batch: &LockBatchRequest, queues: &[(String, u32)]) -> Result<(), Refusal> {
    let (state, max) = (&node.state, node.config.limits.queue_locks);
    if state.locks.count() + queues.len() <= max {
        return Ok(());
    }
    let held = state.locks.of_group(&batch.consumer_group);
    let held: HashSet<_> = held.iter().map(|lock| (lock.topic.as_str(), lock.queue_id)).collect();
    let is_held = |(topic, queue_id): &(String, u32)| held.contains(&(topic.as_str(), *queue_id));
    if queues.iter().all(is_held) {
        Ok(())
    } else {
        Err(Refusal::busy(format!("there are {max} queue locks")))
    }
}

/// This leader's part of the group's clock for locks: from where the group's state had it when this leader's term
/// first asked, as fast as time passes here.
#[derive(Default)]
pub(crate) struct LockClock(Mutex<Option<Since>>);

#[derive(Clone, Copy)]
struct Since {
    term: u64,
    base_ms: i64,
    at: Instant,
}

impl LockClock {
    fn now_ms(&self, term: u64, locks: &Locks) -> i64 {
        let mut since = self.0.lock();
        let now = Instant::now();
        let Since { base_ms, at, .. } = match *since {
            Some(since) if since.term == term => since,
            _ => *since.insert(Since { term, base_ms: locks.clock_ms(), at: now }),
        };
        base_ms.saturating_add(i64::try_from(now.duration_since(at).as_millis()).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use raftmq_raft::Table as _;

    use super::*;

    #[test]
    fn a_new_leaders_clock_goes_on_from_the_groups_and_not_from_its_own() {
        let (clock, table) = (LockClock::default(), Locks::default());
        let first = clock.now_ms(1, &table);
        assert!((0..60_000).contains(&first), "{first}");
        let queues = vec![("t".to_owned(), 0)];
        let locks = QueueLocks {
            group: "g".into(),
            client_id: "c".into(),
            queues,
            now_ms: 5_000_000,
            lease_ms: 60_000,
        };
        table.apply(locks).unwrap();
        assert!(clock.now_ms(1, &table) < 60_000, "within a term it only follows time");
        let later = clock.now_ms(2, &table);
        assert!((5_000_000..5_060_000).contains(&later), "{later}");
    }

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
