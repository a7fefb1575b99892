//! Consuming without order: batches beside each other, and what the listener does not consume goes back to the broker.

use std::sync::Arc;
use std::time::Duration;

use raftmq_remoting::body::MessageModel;
use tokio::time::Instant;

use super::batch::Batch;
use super::inner::Inner;
use super::process_queue::ProcessQueue;
use crate::hooks::ConsumeReturnType;
use crate::listener::{ConsumeConcurrentlyContext, ConsumeConcurrentlyStatus, Kind};
use crate::message::MessageExt;

/// How long a message waits that the broker did not take back, as in the Java client.
const RETRY_HERE_AFTER: Duration = Duration::from_secs(5);
/// The delay level of messages that a listener has kept for too long, as in the Java client.
const TIMEOUT_DELAY_LEVEL: i32 = 3;

impl Inner {
    /// Hands messages to the listener, in batches that wait for their turn.
    pub(super) fn dispatch(self: &Arc<Self>, queue: &Arc<ProcessQueue>, messages: Vec<MessageExt>) {
        let mut messages = messages.into_iter().peekable();
        while messages.peek().is_some() {
            let batch: Arc<[_]> =
                messages.by_ref().take(self.config.consume_message_batch_max_size).collect();
            tokio::spawn(self.clone().consume_concurrently(queue.clone(), batch));
        }
    }

    /// Consumes a batch until all of it is consumed or back at the broker, or the queue is closed.
    async fn consume_concurrently(self: Arc<Self>, queue: Arc<ProcessQueue>, mut batch: Arc<[MessageExt]>) {
        loop {
            let left = tokio::select! {
                biased;
                left = self.consume_once(&queue, &batch) => left,
                () = queue.dropped() => return,
            };
            if left.is_empty() {
                return;
            }
            batch = left;
            tokio::select! {
                () = queue.closing() => return,
                () = tokio::time::sleep(RETRY_HERE_AFTER) => {}
            }
        }
    }

    /// Consumes a batch once. Returns what is neither consumed nor back at the broker.
    async fn consume_once(&self, queue: &ProcessQueue, batch: &Arc<[MessageExt]>) -> Arc<[MessageExt]> {
        let none = || Arc::from([]);
        let permit = tokio::select! {
            biased;
            () = queue.closing() => return none(),
            permit = self.permits.clone().acquire_owned() => permit,
        };
        // The semaphore is never closed.
        let Ok(permit) = permit else { return none() };
        let Some(_running) = queue.begin() else { return none() };
        let (consumed, delay_level) = self.call_concurrent_listener(queue, batch, permit).await;
        let mut left = Vec::new();
        for message in &batch[consumed..] {
            if !self.give_back(queue, message, delay_level).await {
                left.push(MessageExt { reconsume_times: message.reconsume_times + 1, ..message.clone() });
            }
        }
        let is_left =
            |message: &&MessageExt| left.iter().any(|left| left.queue_offset == message.queue_offset);
        let done = batch.iter().filter(|message| !is_left(message)).map(|message| message.queue_offset);
        if !queue.done(done) {
            tracing::info!(group = self.group(), queue = ?queue.queue, "consumed what is somebody else's now");
        }
        left.into()
    }

    /// Calls the listener. Says how many of the messages are consumed, and after which delay the others come again. A
    /// listener that takes too long goes on, with its permit, but to no avail.
    async fn call_concurrent_listener(
        &self,
        queue: &ProcessQueue,
        messages: &Arc<[MessageExt]>,
        permit: tokio::sync::OwnedSemaphorePermit,
    ) -> (usize, i32) {
        let listener = self.listener.get().map(|listener| listener.kind.clone());
        let Some(Kind::Concurrently(listener)) = listener else {
            return (0, 0);
        };
        let context = ConsumeConcurrentlyContext::new(queue.queue.clone());
        let batch = Batch::begin(self, &queue.queue, messages);
        let (handed, told) = (messages.clone(), context.clone());
        // A task of its own, so that a panic ends there.
        let calling = tokio::spawn(async move {
            let status = listener(handed, told).await;
            drop(permit);
            status
        });
        let began = Instant::now();
        let (outcome, status) = match tokio::time::timeout(self.config.consume_timeout, calling).await {
            Ok(Ok(status @ ConsumeConcurrentlyStatus::ConsumeSuccess)) => {
                (ConsumeReturnType::Success, status)
            }
            Ok(Ok(status @ ConsumeConcurrentlyStatus::ReconsumeLater)) => (ConsumeReturnType::Failed, status),
            Ok(Err(error)) => {
                tracing::error!(group = self.group(), queue = ?queue.queue, %error, "the listener panicked");
                (ConsumeReturnType::Exception, ConsumeConcurrentlyStatus::ReconsumeLater)
            }
            Err(_) => {
                let waited = self.config.consume_timeout;
                tracing::warn!(group = self.group(), queue = ?queue.queue, ?waited, "the listener takes too long");
                (ConsumeReturnType::TimeOut, ConsumeConcurrentlyStatus::ReconsumeLater)
            }
        };
        batch.end(outcome, began.elapsed());
        let delay_level = match outcome {
            ConsumeReturnType::TimeOut => TIMEOUT_DELAY_LEVEL,
            _ => context.delay_level_when_next_consume(),
        };
        (context.consumed(status, messages.len()), delay_level)
    }

    /// Sees to it that a message which was not consumed comes again. False if it has to be tried again here.
    async fn give_back(&self, queue: &ProcessQueue, message: &MessageExt, delay_level: i32) -> bool {
        if self.config.message_model == MessageModel::Broadcasting {
            let (offset, id) = (message.queue_offset, &message.message_id);
            tracing::warn!(group = self.group(), queue = ?queue.queue, offset, ?id, "broadcast message is dropped");
            return true;
        }
        self.send_back(queue, message, delay_level).await
    }
}
