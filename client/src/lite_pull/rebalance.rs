//! Which queues a subscribed consumer has, and its place in the group.

use std::collections::BTreeMap;
use std::sync::Arc;

use raftmq_remoting::Command;
use raftmq_remoting::body::{ConsumeType, ConsumerData, MessageQueue, SubscriptionData};
use raftmq_remoting::codes::response;
use tokio::time::Instant;

use super::shared::{Mode, Shared, State};
use crate::hooks::guarded;
use crate::instance::GroupMember;
use crate::rebalance::{RebalancePauses, Sharing};
use raftmq_remoting::PeerRequest;
use raftmq_remoting::deadline_in;

/// Divides the queues whenever something has changed, and now and then.
pub(super) async fn keep_balanced(shared: Arc<Shared>) {
    let check_every = shared.config.topic_metadata_check_interval;
    let (mut rebalance_at, mut check_at) = (Instant::now(), Instant::now());
    let mut pauses = RebalancePauses::default();
    loop {
        tokio::select! {
            () = shared.rebalance.notified() => {
                // A changed route brings this about too.
                (rebalance_at, check_at) = (Instant::now(), Instant::now());
                pauses.reset();
            }
            () = tokio::time::sleep_until(rebalance_at.min(check_at)) => {}
        }
        if rebalance_at <= Instant::now() {
            let settled = shared.rebalance().await;
            rebalance_at = Instant::now() + pauses.after(settled);
        }
        if check_at <= Instant::now() {
            shared.check_topics().await;
            check_at = deadline_in(check_every);
        }
    }
}

impl Shared {
    /// Gives up the queues that are others' now and begins with those that are new. Says whether all is as it should be.
    async fn rebalance(self: &Arc<Self>) -> bool {
        let Some(topics) = self.state.lock().subscribed() else { return true };
        let mut settled = self.give_up_unsubscribed(&topics).await;
        for topic in topics.keys() {
            let sharing = Sharing {
                group: &self.config.consumer_group,
                model: self.config.message_model,
                strategy: &*self.config.allocate_message_queue_strategy,
            };
            let mut share = self.client.allocate(sharing, topic).await;
            if matches!(share, Ok(None)) {
                self.client.send_heartbeats().await;
                share = self.client.allocate(sharing, topic).await;
            }
            match share {
                Ok(Some(queues)) => settled &= self.take(topic, queues).await,
                Ok(None) => settled = false,
                Err(error) => {
                    let group = &self.config.consumer_group;
                    tracing::warn!(group, topic, %error, "the queues could not be divided");
                    settled = false;
                }
            }
        }
        settled
    }

    /// Has these queues of a topic from now on.
    async fn take(self: &Arc<Self>, topic: &str, queues: Vec<MessageQueue>) -> bool {
        let lost = {
            let state = self.state.lock();
            let of_topic = state.queues.names().into_iter().filter(|queue| queue.topic == topic);
            of_topic.filter(|queue| !queues.contains(queue)).collect::<Vec<_>>()
        };
        let mut changed = !lost.is_empty();
        let given_up = self.lose(lost).await;
        {
            let mut state = self.state.lock();
            // Not if it was unsubscribed or shut down in the meantime.
            if state.closed || state.subscribed().is_none_or(|topics| !topics.contains_key(topic)) {
                return true;
            }
            for queue in &queues {
                if !state.queues.contains(queue) {
                    tracing::info!(group = self.config.consumer_group, ?queue, "queue assigned");
                    self.offsets.remove_offset(queue);
                    self.start_pulling(&mut state, queue, None);
                    changed = true;
                }
            }
        }
        if changed {
            self.tell_of_change(topic, queues).await;
        }
        given_up
    }

    async fn tell_of_change(&self, topic: &str, mut divided: Vec<MessageQueue>) {
        let Some(listener) = &self.config.message_queue_listener else { return };
        // The route was there a moment ago, so it is not asked for again.
        let Ok(mut all) = self.client.fetch_queues(topic).await else { return };
        all.sort();
        divided.sort();
        guarded("a listener to queues", || listener.message_queue_changed(topic, &all, &divided));
    }

    async fn give_up_unsubscribed(&self, topics: &BTreeMap<String, SubscriptionData>) -> bool {
        let names = self.state.lock().queues.names();
        self.lose(names.into_iter().filter(|queue| !topics.contains_key(&queue.topic)).collect()).await
    }

    async fn lose(&self, lost: Vec<MessageQueue>) -> bool {
        if lost.is_empty() {
            return true;
        }
        tracing::info!(group = self.config.consumer_group, ?lost, "queues given up");
        lost.iter().for_each(|queue| self.state.lock().queues.remove(queue));
        self.room.notify_waiters();
        // What could not be persisted is delivered again to whoever has the queue now.
        self.give_up(&lost).await.is_ok()
    }

    /// Looks whether the queues of topics have changed that somebody listens to.
    async fn check_topics(&self) {
        let topics = self.state.lock().listeners.topics();
        for topic in topics {
            // A route that cannot be had at the moment has not changed.
            let Ok(mut queues) = self.client.fetch_queues(&topic).await else { continue };
            queues.sort();
            let listener = self.state.lock().listeners.changed(&topic, &queues);
            if let Some(listener) = listener {
                guarded("a listener to a topic", || listener.on_changed(&topic, &queues));
            }
        }
    }
}

impl State {
    fn subscribed(&self) -> Option<BTreeMap<String, SubscriptionData>> {
        match &self.mode {
            Mode::Subscribed(topics) => Some(topics.clone()),
            Mode::Undecided | Mode::Assigned(_) => None,
        }
    }
}

impl GroupMember for Shared {
    fn heartbeat(&self) -> ConsumerData {
        let topics = self.state.lock().subscribed().unwrap_or_default();
        ConsumerData {
            consume_from_where: self.config.consume_from_where,
            consume_type: ConsumeType::Actively,
            group_name: self.config.consumer_group.clone(),
            message_model: self.config.message_model,
            subscription_data_set: topics.into_values().collect(),
            unit_mode: false,
        }
    }

    fn rebalance_now(&self) {
        self.rebalance.notify_one();
    }

    /// Nothing can be asked of it: like the Java client's lite pull consumer it has neither a listener nor a state that a
    /// broker may reset.
    fn asked(self: Arc<Self>, request: PeerRequest) {
        let answer = Command::response_to(&request.command, response::REQUEST_CODE_NOT_SUPPORTED);
        let remark = format!("{} consumes by polling", self.config.consumer_group);
        request.reply(answer.with_remark(remark));
    }
}
