//! Push consumers that note what they are given. Each is a process of its own in all but name: it has a client and threads
//! of its own, and can be made to vanish.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use raftmq_client::{
    Client, ClientConfig, ConsumeFromWhere, MessageQueue, MessageSelector, PushConsumer, PushConsumerConfig,
};
use tokio::runtime::Runtime;

use raftmq_checks::deliveries::Deliveries;
pub use raftmq_checks::listener::Judge;
use raftmq_checks::listener::listener;

/// What the members of a group have in common.
#[derive(Clone)]
pub struct MemberOptions {
    /// As clients take them.
    pub name_servers: String,
    /// The topic.
    pub topic: String,
    /// Which of its messages.
    pub selector: MessageSelector,
    /// All else; its group, for one.
    pub config: PushConsumerConfig,
    /// Whether each queue's messages are consumed one after the other.
    pub in_order: bool,
    /// How long a message takes.
    pub work: Duration,
    /// What becomes of it then.
    pub judge: Judge,
}

impl fmt::Debug for MemberOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, config, in_order, .. } = self;
        let group = &config.consumer_group;
        f.debug_struct("MemberOptions")
            .field("topic", topic)
            .field("group", group)
            .field("in_order", in_order)
            .finish_non_exhaustive()
    }
}

impl MemberOptions {
    /// A group that begins with the first message, takes no time for any, and consumes all.
    pub fn new(name_servers: String, topic: &str, group: &str) -> Self {
        let consume_from_where = ConsumeFromWhere::FirstOffset;
        Self {
            name_servers,
            topic: topic.to_owned(),
            selector: MessageSelector::all(),
            config: PushConsumerConfig { consume_from_where, ..PushConsumerConfig::new(group) },
            in_order: false,
            work: Duration::ZERO,
            judge: Arc::new(|_| true),
        }
    }
}

/// A member at work.
pub struct Member {
    runtime: Runtime,
    consumer: PushConsumer,
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Member").field(&self.consumer).finish()
    }
}

impl Member {
    /// Starts a member. `number` tells it from the others in the log.
    pub fn start(number: u32, options: &MemberOptions, log: &Deliveries) -> Result<Self> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).thread_name("member").enable_all().build()?;
        let consumer = runtime.block_on(async {
            let client = Client::new(ClientConfig::new(&options.name_servers));
            let consumer = PushConsumer::new(client, options.config.clone())?;
            consumer.subscribe(&options.topic, options.selector.clone()).await?;
            consumer.register_message_listener(listener(
                number,
                options.in_order,
                options.work,
                options.judge.clone(),
                log,
            ))?;
            consumer.start().await.context("start a consumer")?;
            anyhow::Ok(consumer)
        })?;
        Ok(Self { runtime, consumer })
    }

    /// The queues of a topic that it has at the moment.
    pub fn queues(&self, topic: &str) -> Vec<MessageQueue> {
        self.consumer.assigned_queues().into_iter().filter(|queue| queue.topic == topic).collect()
    }

    /// Has it leave the group as it should.
    pub fn leave(self) {
        self.runtime.block_on(self.consumer.shutdown());
    }

    /// Has it vanish in the middle of whatever it is at.
    pub fn crash(self) {
        self.runtime.shutdown_background();
    }
}
