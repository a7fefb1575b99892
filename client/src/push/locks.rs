//! Queues locked at the brokers, so that no other member of the group consumes them.
//!
//! A queue is worked on only under its lock. A lock that is gone, or had run out before it was renewed, means that
//! another member may be at the queue: what was pulled is dropped and the queue taken anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use raftmq_remoting::body::{LockBatchRequest, LockBatchResponse, MessageQueue};
use raftmq_remoting::codes::{request, response};
use raftmq_remoting::{Command, Ext, fastjson};
use tokio::time::Instant;

use super::inner::{Inner, Stage};
use super::process_queue::{Phase, ProcessQueue};
use crate::error::ClientError;

/// How often locks are renewed, as in the Java client.
const RENEW_EVERY: Duration = Duration::from_secs(20);
/// How soon a renewal that failed is tried again.
const RENEW_AGAIN: Duration = Duration::from_secs(1);

/// Renews the locks of all queues the consumer has, until the last one is let go: a shutdown waits for listeners.
pub(super) async fn keep_locked(consumer: Arc<Inner>) {
    let mut pause = RENEW_EVERY;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = consumer.reached(Stage::Stopped) => return,
        }
        let held: Vec<_> = consumer.queues.lock().values().cloned().collect();
        let renewed = consumer.lock(&held).await;
        pause = if renewed { RENEW_EVERY } else { RENEW_AGAIN };
    }
}

impl Inner {
    /// Locks queues, or renews their locks. One that is not granted or was lost is dropped. False unless every broker
    /// has granted everything.
    pub(super) async fn lock(&self, queues: &[Arc<ProcessQueue>]) -> bool {
        let mut by_broker = BTreeMap::<&str, Vec<&ProcessQueue>>::new();
        for queue in queues {
            by_broker.entry(&queue.queue.broker_name).or_default().push(queue);
        }
        let mut all = true;
        for queues in by_broker.into_values() {
            all &= self.lock_at_broker(&queues).await;
        }
        all
    }

    async fn lock_at_broker(&self, queues: &[&ProcessQueue]) -> bool {
        // A queue that is let go in the meantime is unlocked behind this, not before.
        let _locking = self.locking.write().await;
        let queues: Vec<_> = queues.iter().filter(|queue| queue.phase() != Phase::Dropped).collect();
        let asked_at = Instant::now();
        let names = queues.iter().map(|queue| queue.queue.clone()).collect();
        let granted = match self.ask_for_locks(request::LOCK_BATCH_MQ, names).await {
            Ok(granted) => granted,
            Err(error) => {
                tracing::warn!(group = self.group(), %error, "queues were not locked");
                return false;
            }
        };
        let mut all = true;
        for queue in queues {
            let held = granted.contains(&queue.queue) && queue.locked(asked_at);
            if !held {
                tracing::info!(group = self.group(), queue = ?queue.queue, "the queue is not ours to lock");
                queue.drop_now();
            }
            all &= held;
        }
        all
    }

    /// Gives a lock back.
    pub(super) async fn unlock(&self, queue: &MessageQueue) {
        let _unlocking = self.locking.read().await;
        if let Err(error) = self.ask_for_locks(request::UNLOCK_BATCH_MQ, vec![queue.clone()]).await {
            tracing::debug!(group = self.group(), ?queue, %error, "not unlocked; the lock runs out");
        }
    }

    /// 41 or 42, for queues of one broker. Returns those that are locked now.
    async fn ask_for_locks(
        &self,
        code: i32,
        queues: Vec<MessageQueue>,
    ) -> Result<BTreeSet<MessageQueue>, ClientError> {
        let Some(first) = queues.first().cloned() else { return Ok(BTreeSet::new()) };
        let body = LockBatchRequest {
            client_id: self.client.client_id().to_owned(),
            consumer_group: self.group().to_owned(),
            mq_set: queues,
            only_this_broker: false,
        };
        let body = fastjson::to_vec(&body).map_err(|error| ClientError::Invalid(error.to_string()))?;
        let request = Command::request(code, Ext::new()).with_body(body);
        let config = self.client.config();
        let called = self.client.call_queue(&first, &request, config.try_timeout, config.request_timeout);
        let (addr, answer) = called.await?;
        if answer.code != response::SUCCESS {
            return Err(ClientError::refused(&addr, answer));
        }
        if code == request::UNLOCK_BATCH_MQ {
            return Ok(BTreeSet::new());
        }
        let body: LockBatchResponse = fastjson::parse(&answer.body)
            .map_err(|error| ClientError::Malformed { addr, reason: error.to_string() })?;
        Ok(body.lock_ok_mq_set.into_iter().collect())
    }
}
