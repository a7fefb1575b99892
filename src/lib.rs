//! RaftMQ: a broker for Apache RocketMQ clients whose commit log is a Raft log. One binary, its roles as subcommands.
//!
//! | module | what it is |
//! |---|---|
//! | `cli` | the command line |
//! | `roles` | starting and stopping what a process runs |
//! | `admin` | the HTTP API, and asking it |

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests reach for the system")
)]

mod admin;
mod cli;
mod roles;

pub use cli::{BrokerArgs, Cli};
pub use raftmq_raft::{Ended, Role, RoleState};
pub use roles::{Member, run};
