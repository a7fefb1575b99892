//! A client of RaftMQ, and of any broker that speaks RocketMQ's remoting protocol.
//!
//! Everything is asynchronous, on tokio. To send asynchronously is to await many sends at a time:
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use raftmq_client::{Client, ClientConfig, Message, Producer};
//!
//! let client = Client::new(ClientConfig::new("127.0.0.1:9876"));
//! let producer = std::sync::Arc::new(Producer::new(client, "example")?);
//! let mut sends = tokio::task::JoinSet::new();
//! for n in 0..100 {
//!     let producer = producer.clone();
//!     sends.spawn(async move { producer.send(&Message::new("Example", format!("message {n}"))).await });
//! }
//! while let Some(sent) = sends.join_next().await {
//!     println!("stored at {}", sent??.queue_offset);
//! }
//! # Ok(()) }
//! ```
//!
//! [`PushConsumer`] calls a listener with what arrives, [`LitePullConsumer`] hands it out when it is asked, and
//! [`PullConsumer`] reads queues without being in a group's way. `examples/` has a program for each.
//!
//! # Where a user of the Java client finds what
//!
//! | Java | here |
//! |---|---|
//! | `DefaultMQProducer` | [`Producer`] |
//! | `Message.setDelayTimeLevel`, `setDelayTimeMs`, `setDeliverTimeMs` | [`Message::with_delay_level`], [`Message::with_delay_time_ms`], [`Message::with_deliver_time_ms`] |
//! | `DefaultMQPushConsumer` | [`PushConsumer`] |
//! | its setters | fields of [`PushConsumerConfig`] of the same names |
//! | `setConsumeThreadMin`, `setConsumeThreadMax` | [`PushConsumerConfig::consume_thread_max`]: batches in the listener at a time |
//! | `setConsumeTimestamp` | [`PushConsumerConfig::consume_timestamp_ms`] |
//! | `setAwaitTerminationMillisWhenShutdown` | [`PushConsumerConfig::await_termination_when_shutdown`] |
//! | `setInstanceName` | [`ClientConfig::instance_name`] |
//! | `subscribe(topic, "A \|\| B")`, `subscribe(topic, MessageSelector.bySql(..))` | [`PushConsumer::subscribe`] with [`MessageSelector::by_tag`] or [`MessageSelector::by_sql`] |
//! | `registerMessageListener` | [`PushConsumer::register_message_listener`] with [`MessageListener::concurrently`], [`MessageListener::orderly`] or a function: [`MessageListener::concurrently_fn`], [`MessageListener::orderly_fn`] |
//! | `MessageListenerConcurrently`, `MessageListenerOrderly` | the same names |
//! | `ConsumeConcurrentlyContext`, `ConsumeOrderlyContext` | the same names; `setAckIndex` is [`ConsumeConcurrentlyContext::set_ack_index`], and an orderly listener commits by its status alone |
//! | `CONSUME_SUCCESS`, `RECONSUME_LATER` | [`ConsumeConcurrentlyStatus::ConsumeSuccess`], [`ConsumeConcurrentlyStatus::ReconsumeLater`] |
//! | `SUCCESS`, `SUSPEND_CURRENT_QUEUE_A_MOMENT`; the deprecated `COMMIT`, `ROLLBACK` | [`ConsumeOrderlyStatus::Success`], [`ConsumeOrderlyStatus::SuspendCurrentQueueAMoment`]; absent |
//! | `start`, `shutdown`, `suspend`, `resume`, `unsubscribe` | the same names |
//! | `AllocateMessageQueueStrategy` and its implementations | the same names |
//! | `OffsetStore`, `RemoteBrokerOffsetStore`, `LocalFileOffsetStore` | the same names |
//! | `DefaultLitePullConsumer` | [`LitePullConsumer`] |
//! | `DefaultMQPullConsumer` | [`PullConsumer`] |
//! | `SendMessageHook`, `ConsumeMessageHook` | the same names; [`Producer::register_send_message_hook`], [`PushConsumer::register_consume_message_hook`] |
//! | `AsyncTraceDispatcher`, `enableMsgTrace` | [`AsyncTraceDispatcher`], whose hooks are registered |
//! | `MQClientInstance`, shared by instance name | [`Client`], shared by cloning it |
//! | `MQClientException`, `MQBrokerException` | [`ClientError`]; [`SendError`] says whether the message may be stored |
//!
//! One client can be in a group once, as brokers tell members by the client's id: a second consumer of the same group
//! needs a [`Client`] of its own.
//!
//! # Modules
//!
//! | module | what it holds |
//! |---|---|
//! | `name_servers`, `route` | where topics live |
//! | `config` | settings of a client |
//! | `client` | what the rest shares; trying again |
//! | `instance`, `peer` | a client's id, groups and heartbeats; brokers' requests to it |
//! | `producer`, `send_result` | sending, and what it comes to |
//! | `push`, `listener` | the push consumer and what a program gives it |
//! | `lite_pull` | the consumer that polls |
//! | `consumer` | pulling by hand, offsets |
//! | `pull_request`, `subscription` | one pull; what a consumer wants of a topic |
//! | `rebalance`, `allocate` | dividing queues among the members of a group |
//! | `offset_store` | where a group's offsets are kept |
//! | `hooks`, `trace` | around sends and consumption |
//! | `admin` | creating topics, the cluster |
//! | `message`, `compression` | messages to be sent and received |
//! | `error` | what can go wrong, and whether it may have happened all the same |

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests reach for the system")
)]

mod admin;
mod allocate;
mod client;
mod compression;
mod config;
mod consumer;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod hooks;
mod instance;
mod listener;
mod lite_pull;
mod message;
mod name_servers;
mod offset_store;
mod peer;
mod producer;
mod pull_request;
mod push;
mod rebalance;
mod route;
mod send_result;
mod subscription;
mod trace;

pub use allocate::{
    AllocateMachineRoomNearby, AllocateMessageQueueAveragely, AllocateMessageQueueAveragelyByCircle,
    AllocateMessageQueueByConfig, AllocateMessageQueueByMachineRoom, AllocateMessageQueueConsistentHash,
    AllocateMessageQueueStrategy, MachineRoomResolver,
};
pub use client::Client;
pub use config::ClientConfig;
pub use consumer::{PullConsumer, PullOptions, PullResult, PullStatus};
pub use error::{ClientError, SendError, SendOutcome};
pub use hooks::{
    ConsumeMessageContext, ConsumeMessageHook, ConsumeReturnType, SendMessageContext, SendMessageHook,
};
pub use listener::{
    ConsumeConcurrentlyContext, ConsumeConcurrentlyStatus, ConsumeOrderlyContext, ConsumeOrderlyStatus,
    MessageListener, MessageListenerConcurrently, MessageListenerOrderly,
};
pub use lite_pull::{
    LitePullConsumer, LitePullConsumerConfig, MessageQueueListener, TopicMessageQueueChangeListener,
};
pub use message::{Message, MessageExt};
pub use name_servers::{NameServers, parse_name_servers};
pub use offset_store::{
    LocalFileOffsetStore, OffsetFuture, OffsetStore, ReadOffsetType, RemoteBrokerOffsetStore,
    default_offset_dir,
};
pub use producer::Producer;
pub use push::{PushConsumer, PushConsumerConfig};
pub use raftmq_remoting::body::{ConsumeFromWhere, MessageModel, MessageQueue, TopicConfig};
pub use raftmq_remoting::{CallError, Connection, ConnectionPool};
pub use raftmq_world::World;
pub use route::{BrokerQueues, RouteTable, Routed, TopicRoute};
pub use send_result::{SendResult, SendStatus};
pub use subscription::MessageSelector;
pub use trace::AsyncTraceDispatcher;
