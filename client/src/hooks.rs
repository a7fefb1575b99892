//! What a program may hang around sends and around a push consumer's listener: measuring, logging, tracing.
//!
//! Hooks are called in the order in which they were registered, on the task that sends or consumes, and must not block.
//! One that panics is logged and left out of that call; the send or the consumption goes on.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use raftmq_remoting::body::MessageQueue;

use crate::error::SendError;
use crate::message::{Message, MessageExt};
use crate::send_result::SendResult;

/// A send as a [`SendMessageHook`] sees it.
#[derive(Debug, Clone, Copy)]
pub struct SendMessageContext<'a> {
    /// The producer's group.
    pub producer_group: &'a str,
    /// What is sent: one message, or a batch.
    pub messages: &'a [Message],
    /// The unique keys the messages are sent with, joined by commas.
    pub message_id: &'a str,
    /// The queue the caller chose, if it did.
    pub queue: Option<&'a MessageQueue>,
    /// When it began, in ms since 1970.
    pub begin_timestamp_ms: i64,
}

/// Called around each send of a producer; one-way sends have no outcome and are not reported.
pub trait SendMessageHook: Send + Sync + 'static {
    /// A name for logs.
    fn name(&self) -> &str;
    /// Before the first try.
    fn send_message_before(&self, context: &SendMessageContext<'_>);
    /// After the last try; `cost` is the time since [`SendMessageHook::send_message_before`].
    fn send_message_after(
        &self,
        context: &SendMessageContext<'_>,
        outcome: Result<&SendResult, &SendError>,
        cost: Duration,
    );
}

/// A batch of messages on its way through a listener, as a [`ConsumeMessageHook`] sees it.
#[derive(Debug, Clone, Copy)]
pub struct ConsumeMessageContext<'a> {
    /// The consumer's group.
    pub consumer_group: &'a str,
    /// The messages, all of one queue.
    pub messages: &'a [MessageExt],
    /// Their queue. Its topic is the group's retry topic where the messages come from there.
    pub queue: &'a MessageQueue,
    /// Tells this batch from all others of this process; the same before and after.
    pub request_id: &'a str,
    /// When it began, in ms since 1970.
    pub begin_timestamp_ms: i64,
}

/// What a listener made of a batch. The numbers are those of the Java client's `ConsumeReturnType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsumeReturnType {
    /// Consumed.
    Success = 0,
    /// It took longer than the consume timeout.
    TimeOut = 1,
    /// The listener panicked.
    Exception = 2,
    /// The listener asked for the messages to be delivered again.
    Failed = 4,
}

impl ConsumeReturnType {
    /// Whether the messages count as consumed.
    pub fn is_success(self) -> bool {
        self == Self::Success
    }
}

/// Called around each call of a push consumer's listener.
pub trait ConsumeMessageHook: Send + Sync + 'static {
    /// A name for logs.
    fn name(&self) -> &str;
    /// Before the listener is called.
    fn consume_message_before(&self, context: &ConsumeMessageContext<'_>);
    /// After the listener has returned; `cost` is how long it took.
    fn consume_message_after(
        &self,
        context: &ConsumeMessageContext<'_>,
        outcome: ConsumeReturnType,
        cost: Duration,
    );
}

/// Hooks of one kind, in the order of their registration.
pub(crate) struct Hooks<H: ?Sized> {
    hooks: RwLock<Arc<[Arc<H>]>>,
}

impl<H: ?Sized> Default for Hooks<H> {
    fn default() -> Self {
        Self { hooks: RwLock::new(Arc::new([])) }
    }
}

impl<H: ?Sized> fmt::Debug for Hooks<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} hooks", self.hooks.read().len())
    }
}

impl<H: ?Sized> Hooks<H> {
    pub(crate) fn register(&self, hook: Arc<H>) {
        let mut hooks = self.hooks.write();
        *hooks = hooks.iter().cloned().chain([hook]).collect();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.hooks.read().is_empty()
    }

    /// Calls every hook, whatever the others do.
    pub(crate) fn each(&self, call: impl Fn(&H)) {
        let hooks = self.hooks.read().clone();
        for hook in hooks.iter() {
            guarded("a hook", || call(hook));
        }
    }
}

/// Calls what a program has given. Nothing if it panics, which is logged.
pub(crate) fn guarded<T>(what: &str, call: impl FnOnce() -> T) -> Option<T> {
    let called = catch_unwind(AssertUnwindSafe(call)).ok();
    if called.is_none() {
        tracing::error!("{what} panicked");
    }
    called
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    #[derive(Default)]
    struct Seen(Mutex<Vec<ConsumeReturnType>>, bool);

    impl ConsumeMessageHook for Seen {
        fn name(&self) -> &str {
            "seen"
        }
        fn consume_message_before(&self, _: &ConsumeMessageContext<'_>) {}
        fn consume_message_after(
            &self,
            _: &ConsumeMessageContext<'_>,
            outcome: ConsumeReturnType,
            _: Duration,
        ) {
            self.0.lock().push(outcome);
            assert!(!self.1, "on purpose");
        }
    }

    #[test]
    fn a_hook_that_panics_does_not_keep_the_others_from_being_called() {
        let (bad, good) = (Arc::new(Seen(Mutex::default(), true)), Arc::new(Seen(Mutex::default(), false)));
        let hooks = Hooks::<dyn ConsumeMessageHook>::default();
        hooks.register(bad.clone());
        hooks.register(good.clone());
        let queue = MessageQueue::default();
        let context = ConsumeMessageContext {
            consumer_group: "g",
            messages: &[],
            queue: &queue,
            request_id: "1",
            begin_timestamp_ms: 0,
        };
        hooks.each(|hook| hook.consume_message_after(&context, ConsumeReturnType::Failed, Duration::ZERO));
        assert_eq!(*bad.0.lock(), [ConsumeReturnType::Failed]);
        assert_eq!(*good.0.lock(), [ConsumeReturnType::Failed]);
    }
}
