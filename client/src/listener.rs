//! What a program gives a push consumer: listeners, what they are told, and what they answer.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use raftmq_remoting::body::MessageQueue;

use crate::message::MessageExt;

/// What became of a batch that may be consumed beside others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsumeConcurrentlyStatus {
    /// Consumed, up to [`ConsumeConcurrentlyContext::set_ack_index`].
    ConsumeSuccess,
    /// To be delivered again later.
    ReconsumeLater,
}

/// What became of a batch that is consumed in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsumeOrderlyStatus {
    /// Consumed.
    Success,
    /// The queue waits a moment, then the same messages come again.
    SuspendCurrentQueueAMoment,
}

/// What a concurrent listener is told besides the messages, and may set. Clones are the same context.
#[derive(Debug, Clone)]
pub struct ConsumeConcurrentlyContext {
    inner: Arc<Concurrently>,
}

#[derive(Debug)]
struct Concurrently {
    queue: MessageQueue,
    delay_level: AtomicI32,
    ack_index: AtomicUsize,
}

impl ConsumeConcurrentlyContext {
    pub(crate) fn new(queue: MessageQueue) -> Self {
        let (delay_level, ack_index) = (AtomicI32::new(0), AtomicUsize::new(usize::MAX));
        Self { inner: Arc::new(Concurrently { queue, delay_level, ack_index }) }
    }

    /// The queue the messages come from.
    pub fn message_queue(&self) -> &MessageQueue {
        &self.inner.queue
    }

    /// Sets the delay level after which messages that are not consumed come again: 0, the default, leaves it to the
    /// broker, which waits longer each time; below 0 they become dead letters.
    pub fn set_delay_level_when_next_consume(&self, level: i32) {
        self.inner.delay_level.store(level, Ordering::Relaxed);
    }

    /// See [`ConsumeConcurrentlyContext::set_delay_level_when_next_consume`].
    pub fn delay_level_when_next_consume(&self) -> i32 {
        self.inner.delay_level.load(Ordering::Relaxed)
    }

    /// Sets the index of the last message that is consumed; those behind it come again although the listener answers
    /// [`ConsumeConcurrentlyStatus::ConsumeSuccess`]. By default all are consumed.
    pub fn set_ack_index(&self, index: usize) {
        self.inner.ack_index.store(index, Ordering::Relaxed);
    }

    /// How many of `count` messages are consumed if the listener answers `status`.
    pub(crate) fn consumed(&self, status: ConsumeConcurrentlyStatus, count: usize) -> usize {
        match status {
            ConsumeConcurrentlyStatus::ConsumeSuccess => {
                self.inner.ack_index.load(Ordering::Relaxed).saturating_add(1).min(count)
            }
            ConsumeConcurrentlyStatus::ReconsumeLater => 0,
        }
    }
}

/// What an orderly listener is told besides the messages, and may set. Clones are the same context.
#[derive(Debug, Clone)]
pub struct ConsumeOrderlyContext {
    inner: Arc<Orderly>,
}

#[derive(Debug)]
struct Orderly {
    queue: MessageQueue,
    suspend_ms: AtomicI64,
}

/// What [`Orderly::suspend_ms`] is as long as nobody has set it.
const UNSET: i64 = -1;

impl ConsumeOrderlyContext {
    pub(crate) fn new(queue: MessageQueue) -> Self {
        Self { inner: Arc::new(Orderly { queue, suspend_ms: AtomicI64::new(UNSET) }) }
    }

    /// The queue the messages come from.
    pub fn message_queue(&self) -> &MessageQueue {
        &self.inner.queue
    }

    /// Sets how long the queue waits if the listener answers [`ConsumeOrderlyStatus::SuspendCurrentQueueAMoment`],
    /// instead of what the consumer is set to.
    pub fn set_suspend_current_queue_time(&self, time: Duration) {
        let ms = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        self.inner.suspend_ms.store(ms, Ordering::Relaxed);
    }

    pub(crate) fn suspend_time(&self) -> Option<Duration> {
        u64::try_from(self.inner.suspend_ms.load(Ordering::Relaxed)).ok().map(Duration::from_millis)
    }
}

/// Consumes batches of messages, several at a time and in no particular order. A function of the same shape will do too, see
/// [`MessageListener::concurrently_fn`].
///
/// A listener that panics has not consumed its messages.
pub trait MessageListenerConcurrently: Send + Sync + 'static {
    /// Consumes messages of one queue: at most as many as `consume_message_batch_max_size` says.
    fn consume_message(
        &self,
        messages: Arc<[MessageExt]>,
        context: ConsumeConcurrentlyContext,
    ) -> impl Future<Output = ConsumeConcurrentlyStatus> + Send;
}

/// Consumes batches of messages, those of each queue one after the other. A function of the same shape will do too, see
/// [`MessageListener::orderly_fn`].
///
/// A listener that panics has not consumed its messages.
pub trait MessageListenerOrderly: Send + Sync + 'static {
    /// Consumes messages of one queue: at most as many as `consume_message_batch_max_size` says.
    fn consume_message(
        &self,
        messages: Arc<[MessageExt]>,
        context: ConsumeOrderlyContext,
    ) -> impl Future<Output = ConsumeOrderlyStatus> + Send;
}

type Called<S> = Pin<Box<dyn Future<Output = S> + Send>>;
type Callee<C, S> = Arc<dyn Fn(Arc<[MessageExt]>, C) -> Called<S> + Send + Sync>;

/// A listener of either kind.
#[derive(Clone)]
pub struct MessageListener {
    pub(crate) kind: Kind,
}

#[derive(Clone)]
pub(crate) enum Kind {
    Concurrently(Callee<ConsumeConcurrentlyContext, ConsumeConcurrentlyStatus>),
    Orderly(Callee<ConsumeOrderlyContext, ConsumeOrderlyStatus>),
}

impl MessageListener {
    /// A concurrent listener.
    pub fn concurrently(listener: impl MessageListenerConcurrently) -> Self {
        let listener = Arc::new(listener);
        Self::concurrently_fn(move |messages, context| {
            let listener = listener.clone();
            async move { listener.consume_message(messages, context).await }
        })
    }

    /// A function as a concurrent listener.
    ///
    /// ```
    /// use raftmq_client::{ConsumeConcurrentlyStatus, MessageListener};
    ///
    /// let listener = MessageListener::concurrently_fn(|messages, _context| async move {
    ///     for message in messages.iter() {
    ///         println!("{:?}", message.body);
    ///     }
    ///     ConsumeConcurrentlyStatus::ConsumeSuccess
    /// });
    /// ```
    pub fn concurrently_fn<F, R>(listener: F) -> Self
    where
        F: Fn(Arc<[MessageExt]>, ConsumeConcurrentlyContext) -> R + Send + Sync + 'static,
        R: Future<Output = ConsumeConcurrentlyStatus> + Send + 'static,
    {
        Self {
            kind: Kind::Concurrently(Arc::new(move |messages, context| {
                Box::pin(listener(messages, context))
            })),
        }
    }

    /// An orderly listener.
    pub fn orderly(listener: impl MessageListenerOrderly) -> Self {
        let listener = Arc::new(listener);
        Self::orderly_fn(move |messages, context| {
            let listener = listener.clone();
            async move { listener.consume_message(messages, context).await }
        })
    }

    /// A function as an orderly listener.
    ///
    /// ```
    /// use raftmq_client::{ConsumeOrderlyStatus, MessageListener};
    ///
    /// let listener = MessageListener::orderly_fn(|messages, context| async move {
    ///     println!("{} messages of {:?}", messages.len(), context.message_queue());
    ///     ConsumeOrderlyStatus::Success
    /// });
    /// ```
    pub fn orderly_fn<F, R>(listener: F) -> Self
    where
        F: Fn(Arc<[MessageExt]>, ConsumeOrderlyContext) -> R + Send + Sync + 'static,
        R: Future<Output = ConsumeOrderlyStatus> + Send + 'static,
    {
        Self { kind: Kind::Orderly(Arc::new(move |messages, context| Box::pin(listener(messages, context)))) }
    }

    /// Whether the listener takes the messages of a queue in order.
    pub fn is_orderly(&self) -> bool {
        matches!(self.kind, Kind::Orderly(_))
    }
}

impl fmt::Debug for MessageListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_orderly() { "orderly listener" } else { "concurrent listener" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_consumed_follows_from_the_status_and_the_index() {
        let context = ConsumeConcurrentlyContext::new(MessageQueue::default());
        assert_eq!(context.consumed(ConsumeConcurrentlyStatus::ConsumeSuccess, 3), 3);
        context.set_ack_index(0);
        assert_eq!(context.consumed(ConsumeConcurrentlyStatus::ConsumeSuccess, 3), 1);
        context.set_ack_index(9);
        assert_eq!(context.consumed(ConsumeConcurrentlyStatus::ConsumeSuccess, 3), 3);
        assert_eq!(context.consumed(ConsumeConcurrentlyStatus::ReconsumeLater, 3), 0);
        let orderly = ConsumeOrderlyContext::new(MessageQueue::default());
        assert_eq!(orderly.suspend_time(), None);
        orderly.set_suspend_current_queue_time(Duration::from_millis(30));
        assert_eq!(orderly.suspend_time(), Some(Duration::from_millis(30)));
    }
}
