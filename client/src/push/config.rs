//! Settings of a push consumer, with the Java client's names and defaults.

use std::sync::Arc;
use std::time::Duration;

use raftmq_message::topic::validate_group;
use raftmq_remoting::body::{ConsumeFromWhere, MessageModel};

use crate::allocate::{AllocateMessageQueueAveragely, AllocateMessageQueueStrategy};
use crate::error::ClientError;
use crate::offset_store::OffsetStore;

/// Most batches in listeners at a time, as Java has it for threads.
const CONSUME_THREADS_MAX: usize = 1000;
/// Most messages of a batch or a pull, as Java has it.
const BATCH_MAX: usize = 1024;

/// Settings of a [`PushConsumer`](crate::PushConsumer).
#[derive(Debug, Clone)]
pub struct PushConsumerConfig {
    /// The group. Its members share the messages, or with broadcasting each gets all.
    pub consumer_group: String,
    /// Whether messages are shared.
    pub message_model: MessageModel,
    /// Where a group begins in a queue in which it has no offset yet.
    pub consume_from_where: ConsumeFromWhere,
    /// For [`ConsumeFromWhere::Timestamp`]: store time of the first message, in ms since 1970; by default half an hour
    /// before the consumer is made.
    pub consume_timestamp_ms: Option<i64>,
    /// How the queues of a topic are divided among the group.
    pub allocate_message_queue_strategy: Arc<dyn AllocateMessageQueueStrategy>,
    /// Where offsets are kept; by default at the brokers, or with broadcasting in a file.
    pub offset_store: Option<Arc<dyn OffsetStore>>,
    /// Batches that are in the listener at a time. It stands for Java's `consumeThreadMin` and `consumeThreadMax`.
    pub consume_thread_max: usize,
    /// Most messages handed to the listener at a time.
    pub consume_message_batch_max_size: usize,
    /// Most messages asked for with one pull. Brokers give 32 by default, however many are asked for.
    pub pull_batch_size: usize,
    /// A pause between pulls of a queue that has messages.
    pub pull_interval: Duration,
    /// Messages of one queue that wait or are being consumed; with more, the queue is not pulled.
    pub pull_threshold_for_queue: usize,
    /// The same in MiB of bodies.
    pub pull_threshold_size_for_queue: usize,
    /// The same for all queues of a topic that this consumer has; each queue gets its share instead of
    /// [`PushConsumerConfig::pull_threshold_for_queue`].
    pub pull_threshold_for_topic: Option<usize>,
    /// The same in MiB of bodies.
    pub pull_threshold_size_for_topic: Option<usize>,
    /// How far apart the first and the last offset may be that are not consumed; only without order.
    pub consume_concurrently_max_span: i64,
    /// How often a message is delivered again before it becomes a dead letter: 16 by default, without end in order. A
    /// negative number stands for the default too, as in Java.
    pub max_reconsume_times: Option<i32>,
    /// How long a queue waits before an orderly listener gets the same messages again.
    pub suspend_current_queue_time: Duration,
    /// After that time a batch counts as not consumed, and its messages come again. Only without order.
    pub consume_timeout: Duration,
    /// How long a shutdown waits for listeners. Java's `awaitTerminationMillisWhenShutdown`, which is 0 there.
    pub await_termination_when_shutdown: Duration,
    /// How long a broker may hold a pull. Java's `brokerSuspendMaxTimeMillis`.
    pub broker_suspend_max_time: Duration,
    /// A pause after a pull that was refused. Failures to reach the leader are tried again much sooner.
    pub pull_time_delay_when_exception: Duration,
    /// How often offsets are persisted.
    pub persist_consumer_offset_interval: Duration,
    /// Whether each pull carries the subscription, so that the broker need not know it from a heartbeat.
    pub post_subscription_when_pull: bool,
}

impl PushConsumerConfig {
    /// The defaults for a group.
    pub fn new(consumer_group: impl Into<String>) -> Self {
        Self {
            consumer_group: consumer_group.into(),
            message_model: MessageModel::Clustering,
            consume_from_where: ConsumeFromWhere::LastOffset,
            consume_timestamp_ms: None,
            allocate_message_queue_strategy: Arc::new(AllocateMessageQueueAveragely),
            offset_store: None,
            consume_thread_max: 20,
            consume_message_batch_max_size: 1,
            pull_batch_size: 32,
            pull_interval: Duration::ZERO,
            pull_threshold_for_queue: 1000,
            pull_threshold_size_for_queue: 100,
            pull_threshold_for_topic: None,
            pull_threshold_size_for_topic: None,
            consume_concurrently_max_span: 2000,
            max_reconsume_times: None,
            suspend_current_queue_time: Duration::from_secs(1),
            consume_timeout: Duration::from_secs(15 * 60),
            await_termination_when_shutdown: Duration::from_secs(10),
            broker_suspend_max_time: Duration::from_secs(15),
            pull_time_delay_when_exception: Duration::from_secs(1),
            persist_consumer_offset_interval: Duration::from_secs(5),
            post_subscription_when_pull: false,
        }
    }

    /// The number that was set, if it is one.
    pub(super) fn max_reconsume_times(&self) -> Option<i32> {
        self.max_reconsume_times.filter(|times| *times >= 0)
    }

    /// Says what is impossible, within Java's limits.
    pub(crate) fn check(&self) -> Result<(), ClientError> {
        validate_group(&self.consumer_group).map_err(|error| ClientError::Invalid(error.to_string()))?;
        if self.consumer_group == "DEFAULT_CONSUMER" {
            return Err(ClientError::Invalid("DEFAULT_CONSUMER cannot be a group".to_owned()));
        }
        let ranges = [
            ("consume_thread_max", self.consume_thread_max, CONSUME_THREADS_MAX),
            ("consume_message_batch_max_size", self.consume_message_batch_max_size, BATCH_MAX),
            ("pull_batch_size", self.pull_batch_size, BATCH_MAX),
            ("pull_threshold_for_queue", self.pull_threshold_for_queue, 65_535),
            ("pull_threshold_size_for_queue", self.pull_threshold_size_for_queue, 1024),
            ("pull_threshold_for_topic", self.pull_threshold_for_topic.unwrap_or(1), 6_553_500),
            ("pull_threshold_size_for_topic", self.pull_threshold_size_for_topic.unwrap_or(1), 102_400),
            (
                "consume_concurrently_max_span",
                usize::try_from(self.consume_concurrently_max_span).unwrap_or(0),
                65_535,
            ),
        ];
        for (name, value, max) in ranges {
            if value == 0 || value > max {
                return Err(ClientError::Invalid(format!("{name} is {value}, not in 1 to {max}")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_range_are_named() {
        PushConsumerConfig::new("g").check().unwrap();
        let bad = PushConsumerConfig { pull_batch_size: 0, ..PushConsumerConfig::new("g") };
        assert!(bad.check().unwrap_err().to_string().contains("pull_batch_size is 0"));
        let bad = PushConsumerConfig { consume_concurrently_max_span: -1, ..PushConsumerConfig::new("g") };
        assert!(bad.check().unwrap_err().to_string().contains("consume_concurrently_max_span"));
        assert!(PushConsumerConfig::new("a b").check().is_err());
    }
}
