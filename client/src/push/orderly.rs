//! Consuming in order: one batch of a queue at a time, and the same one again until it is consumed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use raftmq_message::properties::{self, names};
use raftmq_message::topic::retry_topic;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;

use super::Inner;
use super::process_queue::ProcessQueue;
use super::report::Batch;
use crate::hooks::ConsumeReturnType;
use crate::listener::{ConsumeOrderlyContext, ConsumeOrderlyStatus, Kind};
use crate::message::{Message, MessageExt};

/// Bounds of the time a queue waits before the same messages come again, as in the Java client.
const SUSPEND_MIN: Duration = Duration::from_millis(10);
/// See [`SUSPEND_MIN`].
const SUSPEND_MAX: Duration = Duration::from_secs(30);
/// How often it is looked whether a lock that has run out was renewed.
const LOCK_LOOK_EVERY: Duration = Duration::from_millis(100);
/// The delay level of a message's first way through the retry topic; it grows by one each time.
const RETRY_DELAY_LEVEL: i32 = 3;

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
                suspend = self.consume_in_turn(queue, &messages, &mut batch) => suspend?,
                () = self.closed_between(queue) => return None,
            };
            tokio::select! {
                biased;
                () = queue.closing() => return None,
                () = tokio::time::sleep(suspend) => {}
            }
        }
        Some(())
    }

    /// Resolves when the queue is closed and no listener is at work on it.
    async fn closed_between(&self, queue: &ProcessQueue) {
        queue.closing().await;
        queue.idle().await;
    }

    /// Consumes a batch once; what is done is taken out of it. Returns how long to wait before the next time, or nothing
    /// if the queue is closed.
    async fn consume_in_turn(
        &self,
        queue: &ProcessQueue,
        messages: &Arc<[MessageExt]>,
        batch: &mut VecDeque<MessageExt>,
    ) -> Option<Duration> {
        let permit = self.permits.acquire().await;
        while self.is_clustering() && !queue.is_locked() {
            tokio::time::sleep(LOCK_LOOK_EVERY).await;
        }
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
        Some(if batch.is_empty() { Duration::ZERO } else { suspend })
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
        let most = self.config.max_reconsume_times.unwrap_or(i32::MAX);
        let mut sent = Vec::new();
        for message in batch.iter_mut() {
            if message.reconsume_times >= most && self.send_to_retry_topic(message, most).await {
                sent.push(message.queue_offset);
            } else {
                message.reconsume_times = message.reconsume_times.saturating_add(1);
            }
        }
        batch.retain(|message| !sent.contains(&message.queue_offset));
        queue.done(sent);
    }

    async fn send_to_retry_topic(&self, message: &MessageExt, most: i32) -> bool {
        let sent = self.producer.send(&returned(self.group(), message, most)).await;
        if let Err(error) = &sent {
            let offset = message.queue_offset;
            tracing::warn!(group = self.group(), topic = message.topic, offset, %error, "not sent to be retried");
        }
        sent.is_ok()
    }
}

/// The message that stands for one that is not consumed in its queue any more.
fn returned(group: &str, message: &MessageExt, most: i32) -> Message {
    let origin =
        message.property(names::ORIGIN_MESSAGE_ID).map_or_else(|| message.offset_message_id(), str::to_owned);
    let level = message.reconsume_times.saturating_add(RETRY_DELAY_LEVEL);
    let mut returned = Message::new(retry_topic(group), message.body.clone())
        .with_raw_properties(properties::remove(&message.properties, names::TRAN_MSG))
        .with_property(names::ORIGIN_MESSAGE_ID, &origin)
        .with_property(names::RETRY_TOPIC, &message.topic)
        .with_property(names::RECONSUME_TIME, &message.reconsume_times.to_string())
        .with_property(names::MAX_RECONSUME_TIMES, &most.to_string())
        .with_delay_level(u32::try_from(level).unwrap_or_default());
    returned.flag = message.flag;
    returned
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::tests::message;

    #[test]
    fn a_returned_message_tells_where_it_came_from() {
        let mut original = message(5, "body");
        original.properties = "KEYS\u{1}k\u{2}TRAN_MSG\u{1}true\u{2}".to_owned();
        original.reconsume_times = 2;
        let returned = returned("g", &original, 7);
        let properties = [
            names::KEYS,
            names::TRAN_MSG,
            names::RETRY_TOPIC,
            names::ORIGIN_MESSAGE_ID,
            names::RECONSUME_TIME,
            names::MAX_RECONSUME_TIMES,
            names::DELAY,
        ];
        let id = original.offset_message_id();
        assert_eq!(
            properties.map(|name| returned.property(name)),
            [Some("k"), None, Some("T"), Some(id.as_str()), Some("2"), Some("7"), Some("5")]
        );
        assert_eq!((returned.topic.as_str(), &returned.body[..]), ("%RETRY%g", &b"body"[..]));
    }
}
