//! The task that pulls one queue ahead of the poll.

use std::sync::Arc;
use std::time::Duration;

use raftmq_remoting::body::{MessageQueue, SubscriptionData};

use super::Shared;
use super::queues::Turn;
use crate::consumer::PullStatus;
use crate::pull_request::{LEADER, PullPauses, PullRequest, Pulled};
use crate::subscription::accepts;

/// A pause after a pull that was refused. Java's `pullTimeDelayMillsWhenException`.
const PAUSE_REFUSED: Duration = Duration::from_secs(1);

/// Pulls until the generation is over: from an offset on, or from the one that was committed.
pub(super) async fn pull_queue(
    shared: Arc<Shared>,
    queue: MessageQueue,
    generation: u64,
    offset: Option<i64>,
) {
    let mut offset = match offset {
        Some(offset) => offset,
        None => shared.first_offset(&queue).await,
    };
    let (mut from, mut pauses) = (LEADER, PullPauses::default());
    while shared.wait_for_turn(&queue, generation).await {
        let Some(subscription) = shared.subscription(&queue.topic) else { return };
        let pull = PullRequest {
            group: &shared.config.consumer_group,
            queue: &queue,
            offset,
            max_messages: shared.config.pull_batch_size,
            commit_offset: None,
            subscription: &subscription,
            post_subscription: true,
            suspend: shared.config.broker_suspend_max_time,
            from,
        };
        match shared.client.pull_once(pull).await {
            Ok(pulled) => {
                (from, offset) = (pulled.suggested, pulled.next_offset);
                pauses.reset();
                shared.take_in(&queue, generation, &subscription, pulled);
            }
            Err(failure) => {
                let error = failure.error;
                tracing::warn!(group = shared.config.consumer_group, ?queue, offset, %error, "pull failed");
                from = LEADER;
                tokio::time::sleep(pauses.after(&error, PAUSE_REFUSED)).await;
                // What is known of the route stays if nobody answers.
                drop(shared.client.routes().refresh(&queue.topic, failure.lookup, false).await);
            }
        }
    }
}

impl Shared {
    /// Waits until the queue may be pulled. Says no if it never may again.
    async fn wait_for_turn(&self, queue: &MessageQueue, generation: u64) -> bool {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            // Registered before looking, so that room made in between is not missed.
            room.as_mut().enable();
            let turn = self.state.lock().queues.turn(queue, generation);
            match turn {
                Turn::Pull => return true,
                Turn::Over => return false,
                Turn::Wait => room.await,
            }
        }
    }

    /// Puts what was pulled where it is polled.
    fn take_in(
        &self,
        queue: &MessageQueue,
        generation: u64,
        subscription: &SubscriptionData,
        pulled: Pulled,
    ) {
        let next = pulled.next_offset;
        let mut state = self.state.lock();
        if pulled.status == PullStatus::OffsetIllegal {
            tracing::info!(group = self.config.consumer_group, ?queue, next, "the queue goes on elsewhere");
            if state.queues.moved(queue, generation, next) {
                self.offsets.update_offset(queue, next, false);
            }
            return;
        }
        let mut messages = pulled.messages;
        messages.retain(|message| accepts(subscription, message));
        if state.queues.pulled(queue, generation, messages, next) {
            self.arrived.notify_one();
        }
    }

    /// Where to begin, asked for until it is known.
    async fn first_offset(&self, queue: &MessageQueue) -> i64 {
        let (from, timestamp_ms) = (self.config.consume_from_where, self.config.consume_timestamp_ms);
        let mut pauses = PullPauses::default();
        loop {
            match self.client.first_offset(&*self.offsets, queue, from, timestamp_ms).await {
                Ok(offset) => return offset,
                Err(error) => {
                    let group = &self.config.consumer_group;
                    tracing::warn!(group, ?queue, %error, "the offset to begin at could not be found out");
                    tokio::time::sleep(pauses.after(&error, PAUSE_REFUSED)).await;
                }
            }
        }
    }
}
