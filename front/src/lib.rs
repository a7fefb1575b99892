//! Serving RocketMQ's clients: what producers, consumers and tools ask of a broker, as operations on the groups that a
//! process has a part in.
//!
//! | module | what it is |
//! |---|---|
//! | `front` | serving a group, from start to stop |
//! | `process`, `node` | what all groups of a process share; a group that is served |
//! | `connection`, `connections` | reading, one task per connection; those of a group |
//! | `channel` | the way back to a client: one bounded buffer, one system call |
//! | `calls`, `relay` | asking a client over its own connection; what operators have asked of clients |
//! | `inquiry`, `inquiries`, `refusal_log` | asking a client what it subscribes to; a trace of pulls for which that is not known |
//! | `requests` | the table of requests: who serves each, what it needs, its handler |
//! | `forwarding` | passing requests on to the leader |
//! | `sending`, `send_batch` | sends and what consumers give back; submitting and answering a read's sends together |
//! | `pull` | pulls and their answers |
//! | `heartbeat`, `described`, `notices` | what clients say of themselves, and telling the members of groups |
//! | `queue_codes` | consumer offsets, the ends of queues, offsets by time |
//! | `offset_admin` | resetting a group's offsets, copying another group's |
//! | `group_codes` | how far groups are, and who consumes what |
//! | `locks` | queue locks |
//! | `config_codes`, `attributes` | settings of topics and groups; what is checked of their attributes |
//! | `stats`, `stats_codes` | counters and what tools print |
//! | `registration`, `registered` | when the name servers are told, and what they know |
//! | `name_server`, `peer` | what a name server is told, and how; asking other servers |
//! | `reply`, `buffers`, `gauge`, `limits` | answers, shared buffers, counts, bounds |
//!
//! A message's way: a read of the socket is cut into frames in place, each send is checked and encoded straight into one
//! buffer, the buffer is submitted at the end of the read, and when its entry is committed all answers are written into
//! the connection's output at once. There is no task, no channel and no lock per message.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests reach for the system")
)]

mod attributes;
mod buffers;
mod calls;
mod channel;
mod config;
mod config_codes;
mod connection;
mod connections;
mod described;
mod forwarding;
mod front;
mod gauge;
mod group_codes;
mod heartbeat;
mod inquiries;
mod inquiry;
mod limits;
mod locks;
mod name_server;
mod node;
mod notices;
mod offset_admin;
mod peer;
mod process;
mod pull;
mod queue_codes;
mod refusal_log;
mod registered;
mod registration;
mod relay;
mod reply;
mod requests;
mod send_batch;
mod sending;
mod stats;
mod stats_codes;
#[cfg(test)]
mod tests;

pub use config::BrokerConfig;
pub use front::{Front, start};
pub use limits::Limits;
pub use process::Process;
pub use stats::BrokerStats;
