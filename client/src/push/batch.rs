//! A batch at the listener: the hooks around it, and what is counted.

use std::time::Duration;

use raftmq_remoting::body::MessageQueue;

use super::inner::Inner;
use crate::hooks::{ConsumeMessageContext, ConsumeReturnType};
use crate::message::MessageExt;

/// A batch at the listener, with what is to happen around it.
pub(super) struct Batch<'a> {
    consumer: &'a Inner,
    context: ConsumeMessageContext<'a>,
    /// Absent without hooks.
    request_id: Option<String>,
}

impl<'a> Batch<'a> {
    pub(super) fn begin(consumer: &'a Inner, queue: &'a MessageQueue, messages: &'a [MessageExt]) -> Self {
        let context = ConsumeMessageContext {
            consumer_group: consumer.group(),
            messages,
            queue,
            request_id: "",
            begin_timestamp_ms: consumer.client.now_ms(),
        };
        let request_id = (!consumer.hooks.is_empty()).then(|| consumer.producer.unique_key());
        if let Some(request_id) = &request_id {
            let context = ConsumeMessageContext { request_id, ..context };
            consumer.hooks.each(|hook| hook.consume_message_before(&context));
        }
        Self { consumer, context, request_id }
    }

    pub(super) fn end(self, outcome: ConsumeReturnType, cost: Duration) {
        let Self { consumer, context, request_id } = self;
        if let Some(request_id) = &request_id {
            let context = ConsumeMessageContext { request_id, ..context };
            consumer.hooks.each(|hook| hook.consume_message_after(&context, outcome, cost));
        }
        let count = context.messages.len();
        consumer.statistics.consumed(&context.queue.topic, count, outcome.is_success(), cost);
    }
}
