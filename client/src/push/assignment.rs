//! The queues a consumer has: dividing them among the group, working on each until it is closed, letting it go.

use std::sync::Arc;

use raftmq_remoting::body::MessageQueue;
use tokio::sync::mpsc;

use super::inner::{Inner, Stage};
use super::orderly;
use super::process_queue::{Phase, ProcessQueue};
use crate::pull_request::PullPauses;
use crate::rebalance::{RebalancePauses, Sharing};

/// Divides the queues at once, when something has changed, and regularly.
pub(super) async fn keep_rebalanced(consumer: Arc<Inner>) {
    let mut pauses = RebalancePauses::default();
    loop {
        let complete = consumer.rebalance().await;
        tokio::select! {
            () = consumer.rebalance.notified() => pauses.reset(),
            () = tokio::time::sleep(pauses.after(complete)) => {}
            () = consumer.stopping() => return,
        }
    }
}

impl Inner {
    /// Divides the queues of all topics. False if that has to be tried again soon.
    async fn rebalance(self: &Arc<Self>) -> bool {
        let topics: Vec<_> = self.subscriptions.read().keys().cloned().collect();
        self.close_queues(|queue| !topics.contains(&queue.topic));
        let mut complete = true;
        for topic in topics {
            complete &= self.rebalance_topic(&topic).await;
        }
        complete
    }

    async fn rebalance_topic(self: &Arc<Self>, topic: &str) -> bool {
        let sharing = Sharing {
            group: self.group(),
            model: self.config.message_model,
            strategy: &*self.config.allocate_message_queue_strategy,
        };
        match self.client.allocate(sharing, topic).await {
            Ok(Some(wanted)) => self.assign(topic, wanted).await,
            Ok(None) => {
                tracing::debug!(group = self.group(), topic, "the broker does not know this member yet");
                self.client.instance().changed();
                false
            }
            Err(error) => {
                tracing::debug!(group = self.group(), topic, %error, "the queues were not divided");
                false
            }
        }
    }

    fn close_queues(&self, lost: impl Fn(&MessageQueue) -> bool) {
        for queue in self.queues.lock().values().filter(|queue| lost(&queue.queue) && queue.is_live()) {
            tracing::info!(group = self.group(), queue = ?queue.queue, "queue is given up");
            queue.close();
        }
    }

    /// Makes the queues of a topic those that are wanted.
    async fn assign(self: &Arc<Self>, topic: &str, wanted: Vec<MessageQueue>) -> bool {
        self.close_queues(|queue| queue.topic == topic && !wanted.contains(queue));
        let (mut new, mut complete) = (Vec::new(), true);
        {
            let queues = self.queues.lock();
            for queue in wanted {
                match queues.get(&queue) {
                    None => {
                        let clock = self.client.config().world.clock.clone();
                        new.push(Arc::new(ProcessQueue::new(queue, self.store.clone(), clock)));
                    }
                    // Given up and not let go of yet: its task asks for another division when it is.
                    Some(present) => complete &= present.is_live(),
                }
            }
        }
        if self.is_orderly() && self.is_clustering() && !new.is_empty() {
            complete &= self.lock(&new).await;
            new.retain(|queue| queue.is_locked());
        }
        for queue in new {
            if !self.open(queue.clone()) && queue.is_locked() {
                self.unlock(&queue.queue).await;
            }
        }
        complete
    }

    /// Begins to work on a queue, unless the consumer is being shut down.
    fn open(self: &Arc<Self>, queue: Arc<ProcessQueue>) -> bool {
        let mut queues = self.queues.lock();
        // Looked at under the lock that a shutdown takes to close the queues.
        if self.stage() != Stage::Running {
            return false;
        }
        tracing::info!(group = self.group(), queue = ?queue.queue, "queue is taken");
        queues.insert(queue.queue.clone(), queue.clone());
        drop(queues);
        let consumer = self.clone();
        tokio::spawn(async move { consumer.work_on(queue).await });
        true
    }

    async fn work_on(self: Arc<Self>, queue: Arc<ProcessQueue>) {
        if let Some(offset) = self.first_offset(&queue).await {
            if self.is_orderly() {
                let (messages, received) = mpsc::unbounded_channel();
                let consuming = tokio::spawn(orderly::consume(self.clone(), queue.clone(), received));
                // The channel holds what the queue's thresholds allow.
                self.pull_all(&queue, offset, |pulled| {
                    pulled.into_iter().for_each(|message| drop(messages.send(message)));
                })
                .await;
                drop(messages);
                // Others have to wait for the queue, as order demands it.
                self.while_patient(consuming).await;
            } else {
                self.pull_all(&queue, offset, |pulled| self.dispatch(&queue, pulled)).await;
                if self.stage() == Stage::Stopping {
                    self.while_patient(queue.idle()).await;
                }
            }
        }
        self.let_go_of(&queue).await;
    }

    /// Waits for listeners: without an end, but for a bounded time when the consumer shuts down.
    async fn while_patient<T>(&self, finished: impl Future<Output = T>) {
        let too_late = async {
            self.stopping().await;
            tokio::time::sleep(self.config.await_termination_when_shutdown).await;
        };
        tokio::select! {
            _ = finished => {}
            () = too_late => tracing::warn!(group = self.group(), "a listener has not finished"),
        }
    }

    /// Where to begin, or nothing if the queue is closed before that is known.
    async fn first_offset(&self, queue: &ProcessQueue) -> Option<i64> {
        let (from, timestamp) = (self.config.consume_from_where, self.config.consume_timestamp_ms);
        let mut pauses = PullPauses::default();
        loop {
            let error = tokio::select! {
                () = queue.closing() => return None,
                offset = self.client.first_offset(&*self.store, &queue.queue, from, timestamp) => match offset {
                    Ok(offset) => return Some(offset),
                    Err(error) => error,
                },
            };
            tracing::warn!(group = self.group(), queue = ?queue.queue, %error, "where to begin is not known");
            tokio::select! {
                () = queue.closing() => return None,
                () = tokio::time::sleep(pauses.after(&error, self.config.pull_time_delay_when_exception)) => {}
            }
        }
    }

    /// The end of the work on a queue: what is consumed is committed, the lock given back.
    async fn let_go_of(&self, queue: &Arc<ProcessQueue>) {
        if self.stage() != Stage::Stopped {
            if queue.phase() != Phase::Dropped {
                self.persist(std::slice::from_ref(&queue.queue)).await;
            }
            queue.drop_now();
            // A lock that a listener still works under runs out by itself.
            if self.is_orderly() && self.is_clustering() && queue.is_idle() {
                self.unlock(&queue.queue).await;
            }
        }
        let mut queues = self.queues.lock();
        self.store.remove_offset(&queue.queue);
        queues.remove(&queue.queue);
        drop(queues);
        self.let_go.notify_one();
        self.rebalance.notify_one();
    }
}
