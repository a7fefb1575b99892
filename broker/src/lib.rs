//! What a broker does with one group: its replicated state and the operations on it. Typed, with errors of its own.
//!
//! | module | what it is |
//! |---|---|
//! | [`broker`] | one group's parts, made and run together |
//! | [`state`] | the replicated state, a table for each kind; the views of the log |
//! | [`replica`] | this member's part in the group: whether it serves, and changes of the state |
//! | [`settings`] | making topics and groups |
//! | [`send`] | messages as they are stored, those included that consumers give back |
//! | [`pull`] | what a consumer may see, whether its pull waits, its answer |
//! | [`offsets`] | consumer offsets on their way into the log, and resets |
//! | [`locks`] | queue locks |
//! | [`clients`] | who is in which group of producers or consumers, and what consumers subscribe to |
//! | [`filter`], [`filter_cache`] | which messages a consumer wants |
//! | [`queues`], [`progress`], [`report`] | looking into queues; how far groups are; all of a group |
//! | [`resets`] | what operators do to offsets |
//! | [`delay`] | delivering delayed messages when they are due |
//! | [`surroundings`] | what it takes from its process |
//! | [`error`], [`limits`], [`names`], [`perm`] | errors, bounds, names of groups, permissions of topics |
//!
//! *Invariant*: no request code, no header, no socket and no protocol's connection is named here: a client is known by the id
//! of whatever it came over.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests reach for the system")
)]

pub mod broker;
pub mod clients;
pub mod delay;
pub mod error;
pub mod filter;
pub mod filter_cache;
pub mod limits;
pub mod locks;
pub mod names;
pub mod offsets;
pub mod perm;
pub mod progress;
pub mod pull;
pub mod queues;
pub mod replica;
pub mod report;
pub mod resets;
pub mod send;
pub mod settings;
pub mod state;
pub mod surroundings;
#[cfg(test)]
mod tests;

pub use broker::{Broker, BrokerSettings, Running};
pub use error::{Error, Full, NotServing};
pub use limits::Limits;
pub use replica::{Reader, Replica};
