//! The task that pulls one queue ahead of the poll.

use std::sync::Arc;
use std::time::Duration;

use raftmq_remoting::body::{MessageQueue, SubscriptionData};

use super::queues::Turn;
use super::shared::{Shared, State};
use crate::consumer::PullStatus;
use crate::pull_request::{LEADER, Progress, PullPauses, PullRequest, Pulled};
use crate::subscription::accepts;

/// A pause after a pull that was refused. Java's `pullTimeDelayMillsWhenException`.
const PAUSE_REFUSED: Duration = Duration::from_secs(1);

/// Pulls until the generation is over: from an offset on, or from the one that was committed.
async fn pull_queue(shared: Arc<Shared>, queue: MessageQueue, generation: u64, offset: Option<i64>) {
    let mut offset = match offset {
        Some(offset) => offset,
        None => shared.first_offset(&queue).await,
    };
    let (mut from, mut pauses) = (LEADER, PullPauses::default());
    while let Some(subscription) = shared.wait_for_turn(&queue, generation).await {
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
                from = pulled.pull_from();
                match pulled.progress(offset) {
                    Progress::On | Progress::Reset => {
                        pauses.reset();
                        offset = pulled.next_offset;
                        shared.take_in(&queue, generation, &subscription, pulled);
                    }
                    nowhere => {
                        tokio::time::sleep(pauses.after_nothing(nowhere == Progress::Elsewhere)).await;
                    }
                }
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
    /// Starts to pull a queue: at an offset, or at the one that was committed.
    pub(super) fn start_pulling(
        self: &Arc<Self>,
        state: &mut State,
        queue: &MessageQueue,
        offset: Option<i64>,
    ) {
        state.queues.start(queue, |generation| {
            let task = pull_queue(self.clone(), queue.clone(), generation, offset);
            tokio::spawn(task).abort_handle()
        });
    }

    /// Waits until the queue may be pulled, and returns what is wanted of it; nothing if it never may again. A topic that
    /// is not subscribed to is either given up or subscribed to again.
    async fn wait_for_turn(&self, queue: &MessageQueue, generation: u64) -> Option<SubscriptionData> {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            // Registered before looking, so that room made in between is not missed.
            room.as_mut().enable();
            let turn = self.state.lock().queues.turn(queue, generation);
            match (turn, self.subscription(&queue.topic)) {
                (Turn::Over, _) => return None,
                (Turn::Pull, Some(subscription)) => return Some(subscription),
                (Turn::Pull, None) | (Turn::Wait, _) => room.await,
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
        if pulled.status == PullStatus::OffsetIllegal {
            tracing::info!(group = self.config.consumer_group, ?queue, next, "the queue goes on elsewhere");
        }
        let mut messages = pulled.messages;
        messages.retain(|message| accepts(subscription, message));
        if self.state.lock().queues.pulled(queue, generation, messages, next) {
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
