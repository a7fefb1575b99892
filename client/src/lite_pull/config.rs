//! Settings of a lite pull consumer, with the Java client's names and defaults.

use std::sync::Arc;
use std::time::Duration;

use raftmq_message::topic::validate_group;
use raftmq_remoting::body::{ConsumeFromWhere, MessageModel};

use super::listeners::MessageQueueListener;
use super::queues::Limits;
use crate::allocate::{AllocateMessageQueueAveragely, AllocateMessageQueueStrategy};
use crate::error::ClientError;
use crate::offset_store::OffsetStore;

/// As Java has it.
const AUTO_COMMIT_INTERVAL_MIN: Duration = Duration::from_secs(1);
const MIB: usize = 1024 * 1024;

/// Settings of a [`LitePullConsumer`](crate::LitePullConsumer).
#[derive(Debug, Clone)]
pub struct LitePullConsumerConfig {
    /// The group. Subscribed members share the messages, or with broadcasting each gets all.
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
    /// Told when a subscribed consumer gets or loses queues.
    pub message_queue_listener: Option<Arc<dyn MessageQueueListener>>,
    /// Where offsets are kept; by default at the brokers, or with broadcasting in a file.
    pub offset_store: Option<Arc<dyn OffsetStore>>,
    /// Whether what was polled counts as consumed when [`poll`](crate::LitePullConsumer::poll) is called again, and at the
    /// shutdown. Otherwise the program commits.
    pub auto_commit: bool,
    /// How often offsets are persisted.
    pub auto_commit_interval: Duration,
    /// Most messages of a poll.
    pub pull_batch_size: usize,
    /// Messages of all queues that wait for being polled; with more, nothing is pulled.
    pub pull_threshold_for_all: usize,
    /// Messages of one queue that wait; with more, the queue is not pulled.
    pub pull_threshold_for_queue: usize,
    /// The same in MiB of bodies.
    pub pull_threshold_size_for_queue: usize,
    /// How far apart the first and the last offset of a queue may be that wait.
    pub consume_max_span: i64,
    /// How long a broker may hold a pull. Java's `brokerSuspendMaxTimeMillis`.
    pub broker_suspend_max_time: Duration,
    /// How often it is looked whether the queues of a topic have changed that is listened to.
    pub topic_metadata_check_interval: Duration,
}

impl LitePullConsumerConfig {
    /// The defaults for a group.
    pub fn new(consumer_group: impl Into<String>) -> Self {
        Self {
            consumer_group: consumer_group.into(),
            message_model: MessageModel::Clustering,
            consume_from_where: ConsumeFromWhere::LastOffset,
            consume_timestamp_ms: None,
            allocate_message_queue_strategy: Arc::new(AllocateMessageQueueAveragely),
            message_queue_listener: None,
            offset_store: None,
            auto_commit: true,
            auto_commit_interval: Duration::from_secs(5),
            pull_batch_size: 10,
            pull_threshold_for_all: 10_000,
            pull_threshold_for_queue: 1000,
            pull_threshold_size_for_queue: 100,
            consume_max_span: 2000,
            broker_suspend_max_time: Duration::from_secs(20),
            topic_metadata_check_interval: Duration::from_secs(30),
        }
    }

    /// Says what is impossible.
    pub(super) fn check(&self) -> Result<(), ClientError> {
        validate_group(&self.consumer_group).map_err(|error| ClientError::Invalid(error.to_string()))?;
        if self.auto_commit_interval < AUTO_COMMIT_INTERVAL_MIN {
            let reason = format!("auto_commit_interval is {:?}, below one second", self.auto_commit_interval);
            return Err(ClientError::Invalid(reason));
        }
        let span = usize::try_from(self.consume_max_span).unwrap_or(0);
        for (name, value, max) in [
            ("pull_batch_size", self.pull_batch_size, 1024),
            ("pull_threshold_for_all", self.pull_threshold_for_all, 10_000_000),
            ("pull_threshold_for_queue", self.pull_threshold_for_queue, 65_535),
            ("pull_threshold_size_for_queue", self.pull_threshold_size_for_queue, 1024),
            ("consume_max_span", span, 65_535),
        ] {
            if value == 0 || value > max {
                return Err(ClientError::Invalid(format!("{name} is {value}, not in 1 to {max}")));
            }
        }
        Ok(())
    }

    pub(super) fn limits(&self) -> Limits {
        Limits {
            messages_all: self.pull_threshold_for_all,
            messages: self.pull_threshold_for_queue,
            bytes: self.pull_threshold_size_for_queue * MIB,
            span: self.consume_max_span,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_range_are_named() {
        let good = LitePullConsumerConfig::new("g");
        good.check().unwrap();
        let millisecond = Duration::from_millis(1);
        for (bad, name) in [
            (LitePullConsumerConfig { pull_batch_size: 0, ..good.clone() }, "pull_batch_size is 0"),
            (LitePullConsumerConfig { consume_max_span: -1, ..good.clone() }, "consume_max_span"),
            (LitePullConsumerConfig { auto_commit_interval: millisecond, ..good }, "auto_commit_interval"),
            (LitePullConsumerConfig::new("a b"), "a b"),
        ] {
            let error = bad.check().unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
