//! The push consumer as a program sees it: its start, its subscriptions and its end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use raftmq_message::topic::{retry_topic, validate_topic};
use raftmq_remoting::body::{ConsumeType, ConsumerData, MessageQueue};
use tokio::sync::{Notify, Semaphore, oneshot, watch};

use super::config::PushConsumerConfig;
use super::inner::{Inner, Stage};
use super::statistics::Statistics;
use super::{assignment, locks, offsets, report, send_back};
use crate::client::Client;
use crate::error::ClientError;
use crate::hooks::{ConsumeMessageHook, Hooks};
use crate::instance::GroupMember;
use crate::listener::MessageListener;
use crate::offset_store;
use crate::producer::Producer;
use crate::rebalance::CONSUME_TIMESTAMP_BACK_MS;
use crate::subscription::MessageSelector;
use raftmq_remoting::PeerRequest;

/// The group of the producer through which an orderly consumer returns messages, as the Java client calls it.
const INNER_PRODUCER_GROUP: &str = "CLIENT_INNER_PRODUCER";
/// How long a shutdown takes beyond the wait for listeners: for offsets and locks to reach the brokers.
const LET_GO_TIMEOUT: Duration = Duration::from_secs(5);

/// Gets the messages of its topics as they arrive and hands them to a listener, together with the other members of its
/// group. Java's `DefaultMQPushConsumer`.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use raftmq_client::{
///     Client, ClientConfig, ConsumeConcurrentlyStatus, ConsumeFromWhere, MessageListener, MessageSelector,
///     PushConsumer, PushConsumerConfig,
/// };
///
/// let client = Client::new(ClientConfig::new("127.0.0.1:9876"));
/// let config = PushConsumerConfig {
///     consume_from_where: ConsumeFromWhere::FirstOffset,
///     ..PushConsumerConfig::new("billing")
/// };
/// let consumer = PushConsumer::new(client, config)?;
/// consumer.subscribe("Orders", MessageSelector::by_tag("new || changed")).await?;
/// consumer.register_message_listener(MessageListener::concurrently_fn(|messages, _context| async move {
///     for message in messages.iter() {
///         println!("{}: {} bytes", message.queue_offset, message.body.len());
///     }
///     ConsumeConcurrentlyStatus::ConsumeSuccess
/// }))?;
/// consumer.start().await?;
/// tokio::signal::ctrl_c().await?;
/// consumer.shutdown().await;
/// # Ok(()) }
/// ```
///
/// A message is delivered at least once. It counts as consumed when the listener says so; the group's offset in a queue
/// is the smallest one that is not consumed. What was consumed above that offset is delivered again after a shutdown, a
/// crash, or when the queue moves to another member: with a listener that finishes everything in time a shutdown leaves
/// nothing of that kind, a crash what was consumed since the last commit.
///
/// Dropping a consumer without [`PushConsumer::shutdown`] commits nothing and waits for nobody; the brokers are told in the
/// background that it has left.
#[derive(Debug)]
pub struct PushConsumer {
    inner: Arc<Inner>,
}

impl PushConsumer {
    /// A consumer that is not started. Call it inside a tokio runtime.
    pub fn new(client: Client, mut config: PushConsumerConfig) -> Result<Self, ClientError> {
        config.check()?;
        config.consume_timestamp_ms.get_or_insert(client.now_ms() - CONSUME_TIMESTAMP_BACK_MS);
        let group = &config.consumer_group;
        let store = match &config.offset_store {
            Some(store) => store.clone(),
            None => offset_store::for_group(&client, group, config.message_model)?,
        };
        let patience = send_back::patience(&client);
        let producer = Producer::new(client.clone(), INNER_PRODUCER_GROUP)?.with_timeouts(patience, patience);
        let inner = Inner {
            store,
            listener: OnceLock::new(),
            subscriptions: RwLock::default(),
            queues: Mutex::default(),
            rebalance: Notify::new(),
            let_go: Notify::new(),
            stage: watch::Sender::new(Stage::Created),
            paused: watch::Sender::new(false),
            locking: tokio::sync::RwLock::default(),
            permits: Arc::new(Semaphore::new(config.consume_thread_max)),
            producer,
            hooks: Hooks::default(),
            statistics: Statistics::default(),
            started_ms: AtomicI64::new(0),
            client,
            config,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Subscribes to a topic, or changes the subscription. An SQL expression is checked by a broker first. Takes effect
    /// at once if the consumer is running.
    pub async fn subscribe(&self, topic: &str, selector: MessageSelector) -> Result<(), ClientError> {
        validate_topic(topic).map_err(|error| ClientError::Invalid(error.to_string()))?;
        let subscription = selector.subscription(topic, self.inner.next_version(topic))?;
        if !selector.is_tag() {
            self.inner.client.check_subscription(self.consumer_group(), &subscription).await?;
        }
        self.inner.subscriptions.write().insert(topic.to_owned(), subscription);
        self.inner.subscriptions_changed().await;
        Ok(())
    }

    /// Ends the subscription to a topic. What is being consumed of it is finished.
    pub async fn unsubscribe(&self, topic: &str) {
        self.inner.subscriptions.write().remove(topic);
        self.inner.subscriptions_changed().await;
    }

    /// Sets the listener, once.
    pub fn register_message_listener(&self, listener: MessageListener) -> Result<(), ClientError> {
        let again = |_| ClientError::Invalid("the consumer has a listener already".to_owned());
        self.inner.listener.set(listener).map_err(again)
    }

    /// Adds a hook that is called around the listener.
    pub fn register_consume_message_hook(&self, hook: Arc<dyn ConsumeMessageHook>) {
        tracing::debug!(group = self.consumer_group(), hook = hook.name(), "hook registered");
        self.inner.hooks.register(hook);
    }

    /// Joins the group and begins to consume.
    pub async fn start(&self) -> Result<(), ClientError> {
        self.inner.start().await
    }

    /// Leaves the group: stops pulling, lets the listener finish what it has (for as long as
    /// `await_termination_when_shutdown` says), commits the offsets and waits for the brokers' answers, unlocks and
    /// unregisters. Nothing happens the second time. It goes on to its end although nobody waits for it any more.
    pub async fn shutdown(&self) {
        if self.inner.advance(Stage::Stopping) != Stage::Running {
            return;
        }
        let inner = self.inner.clone();
        if let Err(error) = tokio::spawn(async move { inner.shutdown().await }).await {
            tracing::error!(group = self.consumer_group(), %error, "the shutdown has failed");
        }
    }

    /// Stops pulling until [`PushConsumer::resume`]. What was pulled is still consumed.
    pub fn suspend(&self) {
        self.inner.paused.send_replace(true);
    }

    /// See [`PushConsumer::suspend`].
    pub fn resume(&self) {
        self.inner.paused.send_replace(false);
    }

    /// Whether pulling is stopped.
    pub fn is_suspended(&self) -> bool {
        *self.inner.paused.borrow()
    }

    /// The group.
    pub fn consumer_group(&self) -> &str {
        &self.inner.config.consumer_group
    }

    /// The client.
    pub fn client(&self) -> &Client {
        &self.inner.client
    }

    /// The queues this consumer has at the moment.
    pub fn assigned_queues(&self) -> Vec<MessageQueue> {
        self.inner.queues.lock().keys().cloned().collect()
    }

    /// The offsets that are committed next, by queue.
    pub fn offsets(&self) -> BTreeMap<MessageQueue, i64> {
        self.inner.store.clone_offset_table(None)
    }
}

impl Drop for PushConsumer {
    fn drop(&mut self) {
        // A shutdown that has begun goes on by itself, and one that is over has left the group, in which another may be.
        if self.inner.stage() == Stage::Running {
            self.inner.advance(Stage::Stopped);
            self.inner.queues.lock().values().for_each(|queue| queue.drop_now());
            self.inner.client.leave_soon(self.consumer_group());
        }
    }
}

impl Inner {
    /// The version of a new subscription: the time, as in the Java client, but never the same twice.
    fn next_version(&self, topic: &str) -> i64 {
        let last = self.subscriptions.read().get(topic).map_or(0, |subscription| subscription.sub_version);
        self.client.now_ms().max(last + 1)
    }

    async fn subscriptions_changed(&self) {
        if self.stage() == Stage::Running {
            self.client.instance().changed();
            self.find_routes().await;
            // Before the next pull, which names the new version.
            self.client.send_heartbeats().await;
            self.rebalance.notify_one();
        }
    }

    async fn start(self: &Arc<Self>) -> Result<(), ClientError> {
        if self.listener.get().is_none() {
            return Err(ClientError::Invalid("the consumer has no listener".to_owned()));
        }
        self.store.load().await?;
        if self.is_clustering() {
            let topic = retry_topic(self.group());
            let subscription = MessageSelector::all().subscription(&topic, self.client.now_ms())?;
            self.subscriptions.write().entry(topic).or_insert(subscription);
        }
        if self.advance(Stage::Running) != Stage::Created {
            return Err(ClientError::Invalid("the consumer was started before".to_owned()));
        }
        let member: Arc<dyn GroupMember> = self.clone();
        if let Err(error) = self.client.instance().join(self.group(), Arc::downgrade(&member)) {
            self.advance(Stage::Stopped);
            return Err(error);
        }
        tracing::info!(group = self.group(), client = self.client.client_id(), "consumer starts");
        self.started_ms.store(self.client.now_ms(), Ordering::Relaxed);
        // Everything that follows goes on although nobody waits for the start any more.
        let (announce, announced) = oneshot::channel();
        let consumer = self.clone();
        tokio::spawn(async move {
            consumer.find_routes().await;
            consumer.client.send_heartbeats().await;
            // Whoever starts the consumer may have gone.
            let _ = announce.send(());
            assignment::keep_rebalanced(consumer).await;
        });
        tokio::spawn(offsets::keep_persisted(self.clone()));
        if self.is_orderly() && self.is_clustering() {
            tokio::spawn(locks::keep_locked(self.clone()));
        }
        announced.await.map_err(|_| ClientError::Invalid("the runtime is shutting down".to_owned()))
    }

    /// Looks up the routes of what is subscribed to, so that heartbeats know where to go.
    async fn find_routes(&self) {
        let topics: Vec<_> = self.subscriptions.read().keys().cloned().collect();
        for topic in topics {
            if let Err(error) = self.client.routes().get(&topic).await {
                tracing::debug!(group = self.group(), topic, %error, "no route yet");
            }
        }
    }

    async fn shutdown(&self) {
        self.queues.lock().values().for_each(|queue| queue.close());
        let all = self.config.await_termination_when_shutdown.saturating_add(LET_GO_TIMEOUT);
        if tokio::time::timeout(all, self.all_let_go()).await.is_err() {
            tracing::warn!(group = self.group(), "shut down with queues that could not be let go of");
        }
        self.queues.lock().values().for_each(|queue| queue.drop_now());
        self.client.instance().leave(self.group());
        self.client.unregister(self.group()).await;
        self.advance(Stage::Stopped);
        tracing::info!(group = self.group(), "consumer has stopped");
    }

    async fn all_let_go(&self) {
        while !self.queues.lock().is_empty() {
            self.let_go.notified().await;
        }
    }
}

impl GroupMember for Inner {
    fn heartbeat(&self) -> ConsumerData {
        ConsumerData {
            consume_from_where: self.config.consume_from_where,
            consume_type: ConsumeType::Passively,
            group_name: self.group().to_owned(),
            message_model: self.config.message_model,
            subscription_data_set: self.subscriptions.read().values().cloned().collect(),
            unit_mode: false,
        }
    }

    fn rebalance_now(&self) {
        self.rebalance.notify_one();
    }

    fn asked(self: Arc<Self>, request: PeerRequest) {
        report::answer(self, request);
    }
}
