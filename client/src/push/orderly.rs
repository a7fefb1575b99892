//! Consuming in order: one batch of a queue at a time, and the same one again until it is consumed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::SemaphorePermit;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;

use super::batch::Batch;
use super::inner::Inner;
use super::process_queue::ProcessQueue;
use crate::hooks::ConsumeReturnType;
use crate::listener::{ConsumeOrderlyContext, ConsumeOrderlyStatus, Kind};
use crate::message::MessageExt;

/// Bounds of the time a queue waits before the same messages come again, as in the Java client.
const SUSPEND_MIN: Duration = Duration::from_millis(10);
/// See [`SUSPEND_MIN`].
const SUSPEND_MAX: Duration = Duration::from_secs(30);
/// How often it is looked whether a lock that has run out was renewed.
const LOCK_LOOK_EVERY: Duration = Duration::from_millis(100);

/// Consumes a queue's messages in the order in which they come, until the queue is closed.
pub(super) async fn consume(
    consumer: Arc<Inner>,
    queue: Arc<ProcessQueue>,
    mut received: UnboundedReceiver<MessageExt>,
) {
    let batch_max = consumer.config.consume_message_batch_max_size;
    loop {
        let mut batch = Vec::with_capacity(batch_max);
        tokio::select! {
            biased;
            () = queue.closing() => return,
            count = received.recv_many(&mut batch, batch_max) => if count == 0 {
                return;
            },
        }
        if consumer.consume_orderly(&queue, batch).await.is_none() {
            return;
        }
    }
}

impl Inner {
    /// Consumes a batch until all of it is consumed or on its way through the retry topic. Nothing if the queue is
    /// closed before.
    async fn consume_orderly(&self, queue: &ProcessQueue, batch: Vec<MessageExt>) -> Option<()> {
        let mut batch: VecDeque<_> = batch.into();
        while !batch.is_empty() {
            let messages: Arc<[MessageExt]> = batch.iter().cloned().collect();
            let suspend = tokio::select! {
                biased;
                turn = self.consume_in_turn(queue, &messages, &mut batch) => turn?,
                () = self.closed_between(queue) => return None,
            };
            if let Some(suspend) = suspend {
                tokio::select! {
                    biased;
                    () = queue.closing() => return None,
                    () = tokio::time::sleep(suspend) => {}
                }
            }
        }
        Some(())
    }

    /// Resolves when the queue is closed and no listener is at work on it.
    async fn closed_between(&self, queue: &ProcessQueue) {
        queue.closing().await;
        queue.idle().await;
    }

    /// Consumes a batch once; what is done is taken out of it. Returns how long to wait before the next time, if there is
    /// one, or nothing at all if the queue is closed.
    async fn consume_in_turn(
        &self,
        queue: &ProcessQueue,
        messages: &Arc<[MessageExt]>,
        batch: &mut VecDeque<MessageExt>,
    ) -> Option<Option<Duration>> {
        let permit = self.permit_under_lock(queue).await;
        let running = queue.begin()?;
        let (status, suspend) = self.call_orderly_listener(queue, messages).await;
        drop(permit);
        match status {
            ConsumeOrderlyStatus::Success => {
                queue.done(batch.drain(..).map(|message| message.queue_offset));
            }
            ConsumeOrderlyStatus::SuspendCurrentQueueAMoment => self.count_failure(queue, batch).await,
        }
        drop(running);
        Some((!batch.is_empty()).then_some(suspend))
    }

    /// The right to call the listener, gained while the queue is locked. Nobody has it who only waits for a lock.
    async fn permit_under_lock(&self, queue: &ProcessQueue) -> Option<SemaphorePermit<'_>> {
        let may_go_on = || !self.is_clustering() || queue.is_locked();
        loop {
            while !may_go_on() {
                tokio::time::sleep(LOCK_LOOK_EVERY).await;
            }
            // The semaphore is never closed.
            let permit = self.permits.acquire().await.ok();
            if may_go_on() {
                return permit;
            }
        }
    }

    async fn call_orderly_listener(
        &self,
        queue: &ProcessQueue,
        messages: &Arc<[MessageExt]>,
    ) -> (ConsumeOrderlyStatus, Duration) {
        let again = ConsumeOrderlyStatus::SuspendCurrentQueueAMoment;
        let Some(Kind::Orderly(listener)) = self.listener.get().map(|listener| listener.kind.clone()) else {
            return (again, SUSPEND_MAX);
        };
        let context = ConsumeOrderlyContext::new(queue.queue.clone());
        let batch = Batch::begin(self, &queue.queue, messages);
        let began = Instant::now();
        let (handed, told) = (messages.clone(), context.clone());
        // A task of its own, so that a panic ends there.
        let called = tokio::spawn(async move { listener(handed, told).await }).await;
        let (outcome, status) = match called {
            Ok(ConsumeOrderlyStatus::Success) => (ConsumeReturnType::Success, ConsumeOrderlyStatus::Success),
            Ok(status) => (ConsumeReturnType::Failed, status),
            Err(error) => {
                tracing::error!(group = self.group(), queue = ?queue.queue, %error, "the listener panicked");
                (ConsumeReturnType::Exception, again)
            }
        };
        batch.end(outcome, began.elapsed());
        let suspend = context.suspend_time().unwrap_or(self.config.suspend_current_queue_time);
        (status, suspend.clamp(SUSPEND_MIN, SUSPEND_MAX))
    }

    /// Counts one more delivery in vain for each message. Those with too many go through the retry topic, where the
    /// broker makes dead letters of them, and so out of the way of those behind them.
    async fn count_failure(&self, queue: &ProcessQueue, batch: &mut VecDeque<MessageExt>) {
        let most = self.config.max_reconsume_times().unwrap_or(i32::MAX);
        let mut sent = Vec::new();
        for message in batch.iter_mut() {
            let enough = message.reconsume_times >= most;
            if enough && self.send_to_retry_topic(message, message.reconsume_times, most).await {
                sent.push(message.queue_offset);
            } else {
                message.reconsume_times = message.reconsume_times.saturating_add(1);
            }
        }
        batch.retain(|message| !sent.contains(&message.queue_offset));
        queue.done(sent);
    }
}
