//! The broker role: what RocketMQ's producers, consumers and tools ask of a broker, over the group's log.
//!
//! | module | what it is |
//! |---|---|
//! | `connection` | reading, one task per connection |
//! | `channel` | the way back to a client: one bounded buffer, one system call |
//! | `calls`, `relay` | asking a client over its own connection; what operators have asked of clients |
//! | `inquiry`, `refusal_log` | asking a client what it subscribes to; a trace of pulls for which that is not known |
//! | `requests` | the table of requests: who serves each, what it needs, its handler |
//! | `forwarding` | passing requests on to the leader |
//! | `sending`, `send_batch` | sends and what consumers give back; submitting and answering a read's sends together |
//! | `pull` | pulls and their answers |
//! | `heartbeat`, `described`, `notices` | what clients say of themselves, and telling the members of groups |
//! | `queue_codes` | consumer offsets, the ends of queues, offsets by time |
//! | `offset_admin` | resetting a group's offsets, copying another group's |
//! | `group_codes`, `group_report` | how far groups are, and who consumes what: for tools, for the admin API |
//! | `locks` | queue locks |
//! | `config_codes`, `attributes` | settings of topics and groups; what is checked of their attributes |
//! | `stats`, `stats_codes` | counters and what tools print |
//! | `registration`, `name_server` | telling the name servers |
//! | `node` | what all of it shares |
//! | `reply`, `buffers`, `gauge`, `limits` | answers, shared buffers, counts, bounds |
//!
//! A message's way: a read of the socket is cut into frames in place, each send is checked and encoded straight into one
//! buffer, the buffer is submitted at the end of the read, and when its entry is committed all answers are written into
//! the connection's output at once. There is no task, no channel and no lock per message.

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
