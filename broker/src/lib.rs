//! What a broker does with one group: its replicated state and the operations on it. Typed, with errors of its own.
//!
//! | module | what it is |
//! |---|---|
//! | [`state`] | the replicated state: a table for each kind |
//! | [`replica`] | this member's part in the group: whether it serves, and changes of the state |
//! | [`settings`] | making topics and groups |
//! | [`offsets`] | consumer offsets on their way into the log, and resets |
//! | [`locks`] | queue locks |
//! | [`delay`] | delivering delayed messages when they are due |
//! | [`error`], [`limits`], [`perm`] | errors, bounds, permissions of topics |
//!
//! *Invariant*: no request code, no header, no connection and no socket is named here.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests reach for the system")
)]

pub mod delay;
pub mod error;
pub mod limits;
pub mod locks;
pub mod offsets;
pub mod perm;
pub mod replica;
pub mod settings;
pub mod state;
#[cfg(test)]
mod tests;

pub use error::{Error, Full, NotServing};
pub use limits::Limits;
pub use replica::{Reader, Replica};
