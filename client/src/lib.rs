//! A client of RaftMQ, and of any broker that speaks RocketMQ's remoting protocol.
//!
//! | module | what it holds |
//! |---|---|
//! | `connection`, `pool` | TCP connections with many requests in flight |
//! | `name_servers`, `route` | where topics live |
//! | `client` | what the rest shares; trying again |
//! | `producer` | sending |
//! | `consumer` | pulling, offsets |
//! | `admin` | creating topics, the cluster |
//! | `message` | messages to be sent and received |
//! | `error` | what can go wrong, and whether it may have happened all the same |
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

mod admin;
mod allocate;
mod client;
mod compression;
mod connection;
mod consumer;
mod error;
mod hooks;
mod instance;
mod listener;
mod lite_pull;
mod message;
mod name_servers;
mod offset_store;
mod peer;
mod pool;
mod producer;
mod pull_request;
mod push;
mod rebalance;
mod route;
mod subscription;
mod trace;

pub use allocate::{
    AllocateMachineRoomNearby, AllocateMessageQueueAveragely, AllocateMessageQueueAveragelyByCircle,
    AllocateMessageQueueByConfig, AllocateMessageQueueByMachineRoom, AllocateMessageQueueConsistentHash,
    AllocateMessageQueueStrategy, MachineRoomResolver,
};
pub use client::{Client, ClientConfig};
pub use connection::Connection;
pub use consumer::{PullConsumer, PullOptions, PullResult, PullStatus};
pub use error::{CallError, ClientError, SendError, SendOutcome};
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
pub use pool::ConnectionPool;
pub use producer::{Producer, SendResult, SendStatus};
pub use push::{PushConsumer, PushConsumerConfig};
pub use raftmq_remoting::body::{ConsumeFromWhere, MessageModel, MessageQueue, TopicConfig};
pub use route::{BrokerQueues, RouteTable, Routed, TopicRoute};
pub use subscription::MessageSelector;
pub use trace::AsyncTraceDispatcher;
