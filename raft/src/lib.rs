//! Replication: a Raft group whose log is the CommitLog.
//!
//! | module | what it is |
//! |---|---|
//! | [`Group`] | a running member: the handle the broker holds |
//! | `proposer` | the batcher: many messages, one entry, several entries on their way |
//! | `log_storage` | openraft's log storage, directly on the CommitLog |
//! | `state_machine`, [`Metadata`], `queue_locks` | what committed commands change |
//! | [`Command`] | the commands and how they are written |
//! | `wire`, `transport`, `server` | what members say to each other |
//!
//! *Invariant*: nothing outside this crate names an openraft type.

mod api;
mod clock;
mod command;
#[cfg(test)]
mod conformance;
#[doc(hidden)]
pub mod fuzzing;
mod group;
mod log_storage;
mod metadata;
mod proposer;
mod queue_locks;
mod server;
mod state_machine;
mod transport;
mod types;
mod wire;

pub use api::{
    Completion, FlushMode, GroupConfig, GroupStatus, Member, MemberStatus, MessageBatch, Position,
    ProposeError, Role, RoleState, StartError, SubmitError,
};
pub use command::{
    COMMAND_BYTES_MAX, Command, CommandError, CommandOutcome, DelayProgress, FilterType, GroupSubscription,
    MemberAddress, OffsetCommit, PendingReset, QueueLocks, RetryPolicy, SubscriptionGroup, TimerProgress,
    ToldReset, Topic,
};
pub use group::Group;
pub use metadata::Metadata;
pub use queue_locks::QueueLock;
