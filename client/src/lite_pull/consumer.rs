//! The lite pull consumer as a program sees it.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use raftmq_message::topic::validate_topic;
use raftmq_remoting::body::{MessageQueue, SubscriptionData};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::config::LitePullConsumerConfig;
use super::listeners::{Listeners, TopicMessageQueueChangeListener};
use super::queues::Queues;
use super::rebalance;
use super::shared::{Mode, Shared, State};
use crate::client::Client;
use crate::error::ClientError;
use crate::instance::GroupMember;
use crate::message::MessageExt;
use crate::offset_store::{self, ReadOffsetType};
use crate::rebalance::CONSUME_TIMESTAMP_BACK_MS;
use crate::subscription::MessageSelector;
use raftmq_remoting::deadline_in;

/// Consumes at the program's own pace. Java's `DefaultLitePullConsumer`.
///
/// With [`subscribe`](Self::subscribe) the queues of a topic are divided among the group; with [`assign`](Self::assign)
/// the program chooses them. A consumer does one or the other.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use raftmq_client::{Client, ClientConfig, LitePullConsumer, LitePullConsumerConfig, MessageSelector};
///
/// let client = Client::new(ClientConfig::new("127.0.0.1:9876"));
/// let consumer = LitePullConsumer::start(client, LitePullConsumerConfig::new("auditors")).await?;
/// consumer.subscribe("Orders", MessageSelector::all()).await?;
/// for _ in 0..10 {
///     for message in consumer.poll(Duration::from_secs(5)).await? {
///         println!("{}: {:?}", message.queue_offset, message.body);
///     }
/// }
/// consumer.shutdown().await?;
/// # Ok(()) }
/// ```
///
/// What was polled counts as consumed at the next poll and is committed every five seconds and at the
/// [`shutdown`](Self::shutdown), unless [`LitePullConsumerConfig::auto_commit`] is off. Dropping a consumer commits
/// nothing; the brokers are told in the background that it has left.
#[derive(Debug)]
pub struct LitePullConsumer {
    shared: Arc<Shared>,
    tasks: Vec<AbortHandle>,
}

impl LitePullConsumer {
    /// Joins the group. Offsets of a broadcast group are read from their file.
    pub async fn start(client: Client, mut config: LitePullConsumerConfig) -> Result<Self, ClientError> {
        config.check()?;
        config.consume_timestamp_ms.get_or_insert(client.now_ms() - CONSUME_TIMESTAMP_BACK_MS);
        let group = config.consumer_group.clone();
        let offsets = match &config.offset_store {
            Some(store) => store.clone(),
            None => offset_store::for_group(&client, &group, config.message_model)?,
        };
        offsets.load().await?;
        let state = State {
            mode: Mode::Undecided,
            queues: Queues::new(config.limits()),
            listeners: Listeners::default(),
            closed: false,
        };
        let shared = Arc::new(Shared {
            client: client.clone(),
            config,
            offsets,
            state: Mutex::new(state),
            arrived: Notify::new(),
            room: Notify::new(),
            rebalance: Notify::new(),
        });
        let member: Weak<dyn GroupMember> = Arc::downgrade(&shared) as _;
        client.instance().join(&group, member)?;
        let tasks = vec![
            tokio::spawn(persist_offsets(shared.clone())).abort_handle(),
            tokio::spawn(rebalance::keep_balanced(shared.clone())).abort_handle(),
        ];
        Ok(Self { shared, tasks })
    }

    /// Consumes a topic together with the other members of the group, or changes what is wanted of it. What was pulled
    /// before a change may still be polled. An SQL expression is checked by a broker first.
    pub async fn subscribe(&self, topic: &str, selector: MessageSelector) -> Result<(), ClientError> {
        let data = self.subscription(topic, &selector).await?;
        {
            let mut state = self.running()?;
            match &mut state.mode {
                Mode::Subscribed(topics) => drop(topics.insert(topic.to_owned(), data)),
                mode @ Mode::Undecided => *mode = Mode::Subscribed([(topic.to_owned(), data)].into()),
                Mode::Assigned(_) => return Err(exclusive()),
            }
        }
        // A queue of the topic may be left from before, see `wait_for_turn`.
        self.shared.room.notify_waiters();
        self.shared.client.instance().changed();
        self.shared.rebalance.notify_one();
        Ok(())
    }

    /// Gives up a topic and its queues.
    pub fn unsubscribe(&self, topic: &str) -> Result<(), ClientError> {
        match &mut self.running()?.mode {
            Mode::Subscribed(topics) => drop(topics.remove(topic)),
            Mode::Undecided => {}
            Mode::Assigned(_) => return Err(exclusive()),
        }
        self.shared.client.instance().changed();
        self.shared.rebalance.notify_one();
        Ok(())
    }

    /// Consumes exactly these queues, whoever else does. Those it had before and which are not among them are given up.
    pub async fn assign(&self, queues: &[MessageQueue]) -> Result<(), ClientError> {
        let lost = {
            let mut state = self.running()?;
            match &mut state.mode {
                Mode::Assigned(_) => {}
                mode @ Mode::Undecided => *mode = Mode::Assigned(BTreeMap::new()),
                Mode::Subscribed(_) => return Err(exclusive()),
            }
            let present = state.queues.names();
            for queue in queues.iter().filter(|queue| !present.contains(queue)) {
                self.shared.start_pulling(&mut state, queue, None);
            }
            let lost: Vec<_> = present.into_iter().filter(|queue| !queues.contains(queue)).collect();
            lost.iter().for_each(|queue| state.queues.remove(queue));
            lost
        };
        self.shared.room.notify_waiters();
        self.shared.give_up(&lost).await
    }

    /// Sets what is wanted of a topic whose queues are assigned. By default that is everything. An SQL expression is
    /// checked by a broker first.
    pub async fn set_sub_expression_for_assign(
        &self,
        topic: &str,
        selector: MessageSelector,
    ) -> Result<(), ClientError> {
        let data = self.subscription(topic, &selector).await?;
        let mut state = self.running()?;
        match &mut state.mode {
            Mode::Assigned(topics) => drop(topics.insert(topic.to_owned(), data)),
            mode @ Mode::Undecided => *mode = Mode::Assigned([(topic.to_owned(), data)].into()),
            Mode::Subscribed(_) => return Err(exclusive()),
        }
        Ok(())
    }

    /// The queues this consumer has at the moment, sorted.
    pub fn assignment(&self) -> Vec<MessageQueue> {
        let mut queues = self.shared.state.lock().queues.names();
        queues.sort();
        queues
    }

    /// Messages of one queue, in the order of their offsets: those that were pulled first. Waits for them if there are
    /// none; nothing came if the list is empty.
    pub async fn poll(&self, timeout: Duration) -> Result<Vec<MessageExt>, ClientError> {
        if self.shared.config.auto_commit {
            let state = self.running()?;
            self.shared.note(state.queues.consumed());
        }
        let deadline = deadline_in(timeout);
        loop {
            let arrived = self.shared.arrived.notified();
            tokio::pin!(arrived);
            // Registered before looking, so that what comes in between is not missed.
            arrived.as_mut().enable();
            let polled = self.running()?.queues.poll();
            if let Some(messages) = polled {
                self.shared.room.notify_waiters();
                return Ok(messages);
            }
            if tokio::time::timeout_at(deadline, arrived).await.is_err() {
                return Ok(Vec::new());
            }
        }
    }

    /// Goes on at an offset of a queue this consumer has. It must be one the queue has, or the next it will get.
    pub async fn seek(&self, queue: &MessageQueue, offset: i64) -> Result<(), ClientError> {
        self.assigned(queue)?;
        let (min, max) =
            (self.shared.client.min_offset(queue).await?, self.shared.client.max_offset(queue).await?);
        if offset < min || offset > max {
            let reason = format!("seek to {offset}, but the queue goes from {min} to {max}: {queue:?}");
            return Err(ClientError::Invalid(reason));
        }
        self.go_to(queue, offset)
    }

    /// Goes on at the first message a queue still has.
    pub async fn seek_to_begin(&self, queue: &MessageQueue) -> Result<(), ClientError> {
        self.assigned(queue)?;
        let offset = self.shared.client.min_offset(queue).await?;
        self.go_to(queue, offset)
    }

    /// Goes on behind the last message of a queue.
    pub async fn seek_to_end(&self, queue: &MessageQueue) -> Result<(), ClientError> {
        self.assigned(queue)?;
        let offset = self.shared.client.max_offset(queue).await?;
        self.go_to(queue, offset)
    }

    /// Pulls nothing more from queues until they are resumed. What was pulled may still be polled.
    pub fn pause(&self, queues: &[MessageQueue]) {
        self.shared.state.lock().queues.pause(queues, true);
    }

    /// Pulls again from queues that were paused.
    pub fn resume(&self, queues: &[MessageQueue]) {
        self.shared.state.lock().queues.pause(queues, false);
        self.shared.room.notify_waiters();
    }

    /// Commits everything that was polled and waits until that is persisted. Java's `commitSync`.
    pub async fn commit(&self) -> Result<(), ClientError> {
        let queues = {
            let state = self.running()?;
            self.shared.note(state.queues.consumed());
            state.queues.names()
        };
        self.shared.offsets.persist_all(&queues).await
    }

    /// Commits what was polled of these queues; with `persist` waits until that is persisted, otherwise it will be within
    /// [`LitePullConsumerConfig::auto_commit_interval`].
    pub async fn commit_queues(&self, queues: &[MessageQueue], persist: bool) -> Result<(), ClientError> {
        {
            let state = self.running()?;
            let consumed = state.queues.consumed().into_iter();
            self.shared.note(consumed.filter(|(queue, _)| queues.contains(queue)));
        }
        if persist { self.shared.offsets.persist_all(queues).await } else { Ok(()) }
    }

    /// Commits offsets of the program's choice for queues this consumer has: of each the next message to consume.
    pub async fn commit_offsets(
        &self,
        offsets: &BTreeMap<MessageQueue, i64>,
        persist: bool,
    ) -> Result<(), ClientError> {
        {
            let state = self.running()?;
            if let Some(queue) = offsets.keys().find(|queue| !state.queues.contains(queue)) {
                return Err(not_here(queue));
            }
            self.shared.note(offsets.iter().map(|(queue, offset)| (queue.clone(), *offset)));
        }
        let queues: Vec<_> = offsets.keys().cloned().collect();
        if persist { self.shared.offsets.persist_all(&queues).await } else { Ok(()) }
    }

    /// The offset the group has committed for a queue, if it has.
    pub async fn committed(&self, queue: &MessageQueue) -> Result<Option<i64>, ClientError> {
        let here = self.running()?.queues.contains(queue);
        // What is noted of a queue is right only as long as the consumer has it.
        let from = if here { ReadOffsetType::MemoryFirstThenStore } else { ReadOffsetType::ReadFromStore };
        self.shared.offsets.read_offset(queue, from).await
    }

    /// The smallest offset of a queue whose message was stored at that time, in ms since 1970, or later.
    pub async fn offset_for_timestamp(
        &self,
        queue: &MessageQueue,
        timestamp_ms: i64,
    ) -> Result<i64, ClientError> {
        self.shared.client.search_offset(queue, timestamp_ms).await
    }

    /// The queues of a topic, as consumers see them.
    pub async fn fetch_message_queues(&self, topic: &str) -> Result<Vec<MessageQueue>, ClientError> {
        self.shared.client.fetch_queues(topic).await
    }

    /// Has a listener told when the queues of a topic change.
    pub async fn register_topic_message_queue_change_listener(
        &self,
        topic: &str,
        listener: Arc<dyn TopicMessageQueueChangeListener>,
    ) -> Result<(), ClientError> {
        let queues = self.fetch_message_queues(topic).await?;
        self.running()?.listeners.add(topic, queues, listener);
        Ok(())
    }

    /// Leaves the group. What was polled is committed before, if offsets are committed automatically; what could not be
    /// is told. Everything else fails from then on. It goes on to its end although nobody waits for it any more.
    pub async fn shutdown(&self) -> Result<(), ClientError> {
        let queues = {
            let mut state = self.running()?;
            state.closed = true;
            if self.shared.config.auto_commit {
                self.shared.note(state.queues.consumed());
            }
            state.queues.names().iter().for_each(|queue| state.queues.remove(queue));
            // With those that are just being given up.
            let noted = self.shared.offsets.clone_offset_table(None);
            noted.into_keys().collect::<Vec<_>>()
        };
        self.tasks.iter().for_each(AbortHandle::abort);
        self.shared.arrived.notify_waiters();
        let shared = self.shared.clone();
        let leaving = tokio::spawn(async move {
            let persisted = shared.offsets.persist_all(&queues).await;
            let group = &shared.config.consumer_group;
            shared.client.instance().leave(group);
            shared.client.unregister(group).await;
            persisted
        });
        leaving
            .await
            .unwrap_or_else(|error| Err(ClientError::Invalid(format!("the shutdown has failed: {error}"))))
    }

    async fn subscription(
        &self,
        topic: &str,
        selector: &MessageSelector,
    ) -> Result<SubscriptionData, ClientError> {
        validate_topic(topic).map_err(|error| ClientError::Invalid(error.to_string()))?;
        let last = self.shared.subscription(topic).map_or(0, |data| data.sub_version);
        // The time, as in the Java client, but never the same twice.
        let data = selector.subscription(topic, self.shared.client.now_ms().max(last + 1))?;
        if !selector.is_tag() {
            self.shared.client.check_subscription(&self.shared.config.consumer_group, &data).await?;
        }
        Ok(data)
    }

    fn running(&self) -> Result<parking_lot::MutexGuard<'_, State>, ClientError> {
        let state = self.shared.state.lock();
        if state.closed {
            Err(ClientError::Invalid("the consumer was shut down".to_owned()))
        } else {
            Ok(state)
        }
    }

    fn assigned(&self, queue: &MessageQueue) -> Result<(), ClientError> {
        if self.running()?.queues.contains(queue) {
            return Ok(());
        }
        Err(not_here(queue))
    }

    fn go_to(&self, queue: &MessageQueue, offset: i64) -> Result<(), ClientError> {
        let mut state = self.running()?;
        // Again, as the queue may have gone to somebody else in the meantime.
        if !state.queues.contains(queue) {
            return Err(not_here(queue));
        }
        self.shared.start_pulling(&mut state, queue, Some(offset));
        drop(state);
        self.shared.room.notify_waiters();
        Ok(())
    }
}

impl Drop for LitePullConsumer {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        let was_closed = std::mem::replace(&mut state.closed, true);
        let queues = state.queues.names();
        queues.iter().for_each(|queue| state.queues.remove(queue));
        drop(state);
        self.tasks.iter().for_each(AbortHandle::abort);
        if !was_closed {
            self.shared.client.leave_soon(&self.shared.config.consumer_group);
        }
    }
}

async fn persist_offsets(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(shared.config.auto_commit_interval).await;
        let queues = shared.state.lock().queues.names();
        // The store has logged what failed, and it is tried again the next time.
        drop(shared.offsets.persist_all(&queues).await);
    }
}

fn not_here(queue: &MessageQueue) -> ClientError {
    ClientError::Invalid(format!("the consumer does not have the queue at the moment: {queue:?}"))
}

fn exclusive() -> ClientError {
    ClientError::Invalid("a consumer subscribes to topics or is assigned queues, not both".to_owned())
}
