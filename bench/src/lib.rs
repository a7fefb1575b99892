//! A load generator: sends and pulls, counted and timed.
//!
//! | module | what it is |
//! |---|---|
//! | `send` | a closed loop of sends; also fills topics for the others |
//! | `drain` | a backlog read as fast as it comes |
//! | `latency` | one held pull, and a send that answers it, over and over |
//! | `fanout` | many connections, groups and held pulls at once |
//! | `args` | arguments that several of them have |
//! | `target` | where the server is and what its queues hold |
//! | `frames`, `pulls` | requests as patched templates, a scan of responses and of the records in them |
//! | `wire` | buffers and sockets |
//! | `connection` | the loop of one connection that sends |
//! | `tally` | counts and percentiles |
//! | `report` | a report for a person, or as JSON |
//! | `thread` | the runtime of a thread that generates load, and its CPU time |
//! | `null_server` | a server that stores nothing, to know the ceiling |
//!
//! It costs the same for every broker that speaks the protocol, so that two can be compared.
//!
//! Connections come from the world that is passed in. Times do not: what is measured is real time, so the system's clocks
//! (`Instant`, `SystemTime`) are read directly.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "measures in real time, over sockets of its own"
)]

mod args;
mod connection;
mod drain;
mod fanout;
mod frames;
mod latency;
mod null_server;
mod pulls;
mod report;
mod send;
mod tally;
mod target;
mod thread;
mod wire;

use clap::{Args, Subcommand};
use raftmq_world::World;

pub use null_server::run_null_server;
use report::print;

/// What to measure: sends, if nothing else is named.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    #[command(subcommand)]
    mode: Option<Mode>,
    #[command(flatten)]
    send: send::SendArgs,
}

#[derive(Subcommand, Clone, Debug)]
enum Mode {
    /// Pull a topic's backlog as fast as it comes
    Drain(drain::DrainArgs),
    /// Time from a send to the answer of a pull that was held, on an idle topic
    Latency(latency::LatencyArgs),
    /// Hold many pulls of many groups over many connections, and send to them
    Fanout(fanout::FanoutArgs),
}

/// Runs the load and prints the report. The process must be allowed as many open files as there are connections.
pub fn run(args: &BenchArgs, world: &World) -> anyhow::Result<()> {
    match &args.mode {
        None => send::run(&args.send, world),
        Some(Mode::Drain(args)) => print(&drain::measure(args, world)?, args.json),
        Some(Mode::Latency(args)) => print(&latency::measure(args, world)?, args.json),
        Some(Mode::Fanout(args)) => print(&fanout::measure(args, world)?, args.json),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: BenchArgs,
    }

    fn mode(line: &str) -> Option<Mode> {
        Line::try_parse_from(line.split(' ')).unwrap().args.mode
    }

    #[test]
    fn sends_are_measured_unless_another_mode_is_named() {
        assert!(mode("bench --connections 3 --topic t").is_none());
        assert!(matches!(mode("bench drain --connections 3 --topic t"), Some(Mode::Drain(_))));
        assert!(matches!(mode("bench latency --repeats 3"), Some(Mode::Latency(_))));
        assert!(matches!(mode("bench fanout --pid 1"), Some(Mode::Fanout(_))));
        assert!(Line::try_parse_from("bench --topic t drain".split(' ')).is_err());
    }
}
