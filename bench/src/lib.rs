//! A load generator: sends and pulls, counted and timed.
//!
//! | module | what it is |
//! |---|---|
//! | `send` | a closed loop of sends; also fills topics for the others |
//! | `drain` | a backlog read as fast as it comes |
//! | `latency` | one held pull, and a send that answers it, over and over |
//! | `fanout` | many connections, groups and held pulls at once |
//! | `target` | where the server is and what its queues hold |
//! | `frames`, `pulls` | requests as patched templates, a scan of responses and of the records in them |
//! | `wire` | buffers and sockets |
//! | `connection` | the loop of one connection that sends |
//! | `tally` | counts and percentiles |
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

mod connection;
mod drain;
mod fanout;
mod frames;
mod latency;
mod null_server;
mod pulls;
mod send;
mod tally;
mod target;
mod wire;

use std::fmt::Display;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use raftmq_world::World;
use serde::Serialize;

pub use null_server::run_null_server;

/// Most connections: a safeguard against a typing error.
const CONNECTIONS_MAX: u32 = 10_000;
/// How long a server may owe every response before the connection is given up.
const STALLED: Duration = Duration::from_secs(10);
/// Names of groups begin with this.
const GROUP: &str = "raftmq-bench";

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

/// For a person, or as one line of JSON.
fn print<R: Serialize + Display>(report: &R, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string(report).context("the report as JSON")?);
    } else {
        println!("{report}");
    }
    Ok(())
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("a number of seconds from 0 to 86400".to_owned()),
    }
}

/// CPU time of this thread in ns, or 0 where the system does not tell.
fn thread_cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0)
}

fn current_thread() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")
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
