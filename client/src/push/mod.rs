//! The push consumer: it pulls, and pushes what it gets to a listener.
//!
//! | module | what it holds |
//! |---|---|
//! | `consumer` | the consumer as a program sees it |
//! | `config` | settings |
//! | `inner` | what the consumer and its tasks share |
//! | `assignment` | the queues the consumer has: getting them, letting them go |
//! | `process_queue` | one of them: what is not consumed yet |
//! | `offsets` | persisting and resetting the queues' offsets |
//! | `pull` | the loop that pulls a queue |
//! | `concurrently`, `orderly` | what becomes of the messages |
//! | `send_back` | what is not consumed and comes again |
//! | `locks` | queues locked at the brokers, for order |
//! | `batch` | a batch at the listener, with the hooks around it |
//! | `statistics` | what is counted for operators |
//! | `report` | what operators ask through brokers |
//!
//! Each queue has a task of its own that pulls it until the queue is closed and then lets it go: commits, unlocks.
//! Everything else only opens queues and closes them.

mod assignment;
mod batch;
mod concurrently;
mod config;
mod consumer;
mod inner;
mod locks;
mod offsets;
mod orderly;
mod process_queue;
mod pull;
mod report;
mod send_back;
mod statistics;

pub use config::PushConsumerConfig;
pub use consumer::PushConsumer;
