//! The listener of a consumer whose deliveries are noted.

use std::sync::Arc;
use std::time::Duration;

use raftmq_client::{
    ConsumeConcurrentlyStatus, ConsumeOrderlyStatus, MessageExt, MessageListener, MessageQueue,
};
use raftmq_message::topic::RETRY_PREFIX;

use crate::body::Stamp;
use crate::deliveries::{Deliveries, Delivery, InListener};

/// Whether a message is consumed, or is to come again.
pub type Judge = Arc<dyn Fn(&MessageExt) -> bool + Send + Sync>;

/// A listener that works so long on each message, and notes it as given to this member.
pub fn listener(
    number: u32,
    in_order: bool,
    work: Duration,
    judge: Judge,
    log: &Deliveries,
) -> MessageListener {
    let log = log.clone();
    let consume = move |messages: Arc<[MessageExt]>, queue: MessageQueue| {
        let begun: Vec<_> = messages.iter().map(|message| begin(number, message, &queue, &log)).collect();
        let judge = judge.clone();
        async move {
            if !work.is_zero() {
                tokio::time::sleep(work).await;
            }
            let consumed = messages.iter().all(|message| judge(message));
            if consumed {
                begun.into_iter().for_each(InListener::consumed);
            }
            consumed
        }
    };
    if in_order {
        return MessageListener::orderly_fn(
            move |messages, context: raftmq_client::ConsumeOrderlyContext| {
                let consumed = consume(messages, context.message_queue().clone());
                async move {
                    if consumed.await {
                        ConsumeOrderlyStatus::Success
                    } else {
                        ConsumeOrderlyStatus::SuspendCurrentQueueAMoment
                    }
                }
            },
        );
    }
    MessageListener::concurrently_fn(move |messages, context: raftmq_client::ConsumeConcurrentlyContext| {
        let consumed = consume(messages, context.message_queue().clone());
        async move {
            if consumed.await {
                ConsumeConcurrentlyStatus::ConsumeSuccess
            } else {
                ConsumeConcurrentlyStatus::ReconsumeLater
            }
        }
    })
}

/// Notes that a member is given a message of a queue.
pub fn begin(member: u32, message: &MessageExt, queue: &MessageQueue, log: &Deliveries) -> InListener {
    let stamp = Stamp::read(&message.body).filter(|stamp| stamp.body(message.body.len()) == message.body);
    log.begin(Delivery {
        member,
        queue: message.queue_id.unsigned_abs(),
        queue_offset: message.queue_offset.unsigned_abs(),
        stamp,
        reconsume_times: message.reconsume_times,
        is_retry: queue.topic.starts_with(RETRY_PREFIX),
        began_us: 0,
        ended_us: 0,
        consumed: false,
    })
}
