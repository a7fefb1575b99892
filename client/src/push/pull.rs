//! The loop that pulls a queue until it is closed.

use std::sync::atomic::Ordering;
use std::time::Duration;

use raftmq_message::properties::names;
use raftmq_message::topic::RETRY_PREFIX;
use raftmq_remoting::body::SubscriptionData;

use super::inner::Inner;
use super::process_queue::{ProcessQueue, Thresholds};
use crate::consumer::PullStatus;
use crate::message::MessageExt;
use crate::offset_store::ReadOffsetType;
use crate::pull_request::{
    LEADER, Progress, PullFailure, PullPauses, PullRequest, Pulled, is_unknown_subscription,
};
use crate::subscription::accepts;

/// Bytes of a MiB.
const MIB: usize = 1024 * 1024;

impl Inner {
    /// Pulls a queue from an offset on and gives the messages to `deliver`, until the queue is closed.
    pub(super) async fn pull_all(
        &self,
        queue: &ProcessQueue,
        mut offset: i64,
        deliver: impl Fn(Vec<MessageExt>),
    ) {
        let mut pauses = PullPauses::default();
        loop {
            let pulled = tokio::select! {
                biased;
                () = queue.closing() => return,
                pulled = self.pull_when_allowed(queue, offset) => pulled,
            };
            let pause = match pulled {
                Ok(None) => return queue.close(),
                Ok(Some(pulled)) => {
                    queue.pull_from.store(pulled.pull_from(), Ordering::Relaxed);
                    match pulled.progress(offset) {
                        Progress::On => {
                            pauses.reset();
                            offset = pulled.next_offset;
                            let found = pulled.status == PullStatus::Found;
                            deliver(self.take(queue, pulled));
                            if found { self.config.pull_interval } else { Duration::ZERO }
                        }
                        Progress::Reset => {
                            let next = pulled.next_offset;
                            tracing::warn!(group = self.group(), queue = ?queue.queue, offset, next, "the offset is moved");
                            return self.reset(queue, next).await;
                        }
                        nowhere => {
                            tracing::debug!(group = self.group(), queue = ?queue.queue, offset, "a pull leads nowhere");
                            pauses.after_nothing(nowhere == Progress::Elsewhere)
                        }
                    }
                }
                Err(failure) => self.pull_failed(queue, &mut pauses, failure).await,
            };
            if !pause.is_zero() {
                tokio::select! {
                    () = queue.closing() => return,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        }
    }

    /// Pulls once, after waiting until that may be. Nothing if the topic is not subscribed to any more.
    async fn pull_when_allowed(
        &self,
        queue: &ProcessQueue,
        offset: i64,
    ) -> Result<Option<Pulled>, PullFailure> {
        let topic = &queue.queue.topic;
        queue.wait_for_room(|| self.thresholds(topic)).await;
        // The sender lives as long as `self`, so there is no error.
        drop(self.paused.subscribe().wait_for(|paused| !*paused).await);
        let Some(subscription) = self.subscription(topic) else { return Ok(None) };
        let pull = PullRequest {
            group: self.group(),
            queue: &queue.queue,
            offset,
            max_messages: self.config.pull_batch_size,
            commit_offset: self.offset_to_commit(queue).await,
            subscription: &subscription,
            post_subscription: self.config.post_subscription_when_pull,
            suspend: self.config.broker_suspend_max_time,
            from: queue.pull_from.load(Ordering::Relaxed),
        };
        self.client.pull_once(pull).await.map(Some)
    }

    /// What a queue may hold, given how many of its topic there are.
    fn thresholds(&self, topic: &str) -> Thresholds {
        let config = &self.config;
        let by_topic = config.pull_threshold_for_topic.or(config.pull_threshold_size_for_topic).is_some();
        let queues = if by_topic {
            self.queues.lock().keys().filter(|queue| queue.topic == topic).count().max(1)
        } else {
            1
        };
        let share = |of: Option<usize>, otherwise: usize| of.map_or(otherwise, |of| (of / queues).max(1));
        let mib = share(config.pull_threshold_size_for_topic, config.pull_threshold_size_for_queue);
        Thresholds {
            messages: share(config.pull_threshold_for_topic, config.pull_threshold_for_queue),
            bytes: mib.saturating_mul(MIB),
            span: (!self.is_orderly()).then_some(config.consume_concurrently_max_span),
        }
    }

    /// The offset that goes along with a pull.
    async fn offset_to_commit(&self, queue: &ProcessQueue) -> Option<i64> {
        if !self.is_clustering() {
            return None;
        }
        let noted = self.store.read_offset(&queue.queue, ReadOffsetType::ReadFromMemory).await;
        noted.ok().flatten().filter(|offset| *offset > 0)
    }

    /// Takes in what a pull has brought. Returns what is to be delivered.
    fn take(&self, queue: &ProcessQueue, pulled: Pulled) -> Vec<MessageExt> {
        let messages = match self.subscription(&queue.queue.topic) {
            Some(subscription) => self.wanted(&subscription, queue, pulled.messages),
            None => Vec::new(),
        };
        self.statistics.pulled(&queue.queue.topic, messages.len());
        queue.pulled(&messages, pulled.next_offset);
        messages
    }

    /// Those of the messages that are subscribed to, as the listener is to see them.
    fn wanted(
        &self,
        subscription: &SubscriptionData,
        queue: &ProcessQueue,
        mut messages: Vec<MessageExt>,
    ) -> Vec<MessageExt> {
        messages.retain(|message| accepts(subscription, message));
        for message in &mut messages {
            message.queue_id = queue.queue.queue_id;
            restore_topic(message);
        }
        messages
    }

    /// Finds out what a failed pull calls for, does it, and says how long to wait.
    async fn pull_failed(
        &self,
        queue: &ProcessQueue,
        pauses: &mut PullPauses,
        failure: PullFailure,
    ) -> Duration {
        let PullFailure { error, lookup } = failure;
        tracing::debug!(group = self.group(), queue = ?queue.queue, %error, "a pull failed");
        queue.pull_from.store(LEADER, Ordering::Relaxed);
        if is_unknown_subscription(&error) {
            self.client.instance().changed();
        }
        let pause = pauses.after(&error, self.config.pull_time_delay_when_exception);
        if error.is_retryable() && !error.is_stubborn() {
            // Where it cannot be refreshed the route stays as it is, and the next pull fails or not.
            tokio::select! {
                () = queue.closing() => {}
                refreshed = self.client.routes().refresh(&queue.queue.topic, lookup, false) => drop(refreshed),
            }
        }
        pause
    }
}

/// A message that comes from the retry topic gets the topic it was sent to.
pub(super) fn restore_topic(message: &mut MessageExt) {
    if message.topic.starts_with(RETRY_PREFIX)
        && let Some(topic) = message.property(names::RETRY_TOPIC).map(str::to_owned)
    {
        message.topic = topic;
    }
}
