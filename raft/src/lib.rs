//! Replication: a Raft group whose log is the CommitLog.
//!
//! | module | what it is |
//! |---|---|
//! | [`Group`] | a running member: the handle the broker holds |
//! | `proposer` | the batcher: many messages, one entry, several entries on their way |
//! | `changes` | proposing changes of the replicated state |
//! | `table` | that state: tables, their commands and images |
//! | `members`, `agreement` | the table of members, and the feature level that they agree on |
//! | `lease`, `renewal`, `election` | what leaders are promised, and when members stand; `pace` is how slow the disk is |
//! | `role`, `status` | who leads, and whether it serves; all of a member's state |
//! | `log_storage`, `vote_file` | openraft's log storage, directly on the CommitLog; whom this member has voted for |
//! | `state_machine` | applies committed entries, writes checkpoints |
//! | `standing` | which member of which group a directory is |
//! | `entering`, `seats` | how directories get their place in a group, and lose it |
//! | `hello`, `secret`, `greeting` | who members are, and how they prove it |
//! | `wire`, `transport`, `server` | what members say to each other |
//! | `room` | whether the members' disks have room for more |
//! | `settings` | what a configuration means to each part |
//!
//! *Invariant*: nothing outside this crate names an openraft type.

mod agreement;
mod api;
mod changes;
mod clock;
#[cfg(test)]
mod conformance;
mod done;
mod election;
mod electorate;
mod entering;
#[doc(hidden)]
pub mod fuzzing;
mod greeting;
mod group;
mod group_id;
mod hello;
mod lease;
mod log_storage;
mod members;
mod mending;
mod pace;
mod proposer;
mod record_file;
mod renewal;
mod role;
mod room;
mod seats;
mod secret;
mod server;
mod settings;
mod standing;
mod state_machine;
mod status;
mod table;
mod transport;
mod types;
mod vote_file;
mod wire;

pub use api::{
    Completion, Ended, GroupConfig, GroupStatus, Member, MemberStatus, MessageBatch, ProposeError, Role,
    RoleState, StartError,
};
pub use group::Group;
pub use group_id::GroupId;
pub use members::MemberAddress;
pub use raftmq_store::{FlushMode, Placed};
pub use secret::Secret;
pub use table::{
    CHANGE_BYTES_MAX, Change, ChangeError, EncodedCommand, FIRST_LEVEL, FeatureLevel, Outcomes, Table,
    TableImage, Tables, commands,
};
