//! A consumer that polls: messages are pulled ahead in the background and handed out when the program asks for them.
//!
//! | file | what it holds |
//! |---|---|
//! | `consumer` | the consumer as a program sees it |
//! | `config` | settings |
//! | `listeners` | who is to be told when queues change |
//! | `queues` | the queues it has and what was pulled from them; knows no tasks and no brokers |
//! | `shared` | what the consumer and its tasks share |
//! | `pull` | the task that pulls a queue |
//! | `rebalance` | which queues a subscribed consumer has; its place in the group |

mod config;
mod consumer;
mod listeners;
mod pull;
mod queues;
mod rebalance;
mod shared;

pub use config::LitePullConsumerConfig;
pub use consumer::LitePullConsumer;
pub use listeners::{MessageQueueListener, TopicMessageQueueChangeListener};
