//! RaftMQ: a broker for Apache RocketMQ clients whose commit log is a Raft log. One binary, its roles as subcommands.
//!
//! | module | what it is |
//! |---|---|
//! | `cli` | the command line |
//! | `roles` | starting and stopping what a process runs |
//! | `broker` | serving producers and consumers |
//! | `admin` | the HTTP API, and asking it |

mod admin;
mod broker;
mod cli;
mod roles;

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use raftmq_world::World;
use tracing_subscriber::EnvFilter;

use cli::{Cli, RoleArgs};

fn main() -> ExitCode {
    match log_to_stderr().and_then(|()| run(&Cli::parse().role)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("raftmq: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error with its causes, but for those that it has told already.
fn chain(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |told, cause| match cause.to_string() {
        cause if told.is_empty() => cause,
        cause if told.ends_with(&cause) => told,
        cause => format!("{told}: {cause}"),
    })
}

fn run(role: &RoleArgs) -> anyhow::Result<()> {
    match role {
        RoleArgs::Broker(args) => roles::broker(args),
        RoleArgs::Namesrv(args) => roles::namesrv(args),
        RoleArgs::Admin(args) => roles::admin(args),
        RoleArgs::Bench(args) => roles::bench(args),
        RoleArgs::NullServer(args) => raftmq_bench::run_null_server(args.listen, &World::system()),
    }
}

/// What is logged is set by RAFTMQ_LOG, such as `debug` or `info,raftmq_raft=debug`.
fn log_to_stderr() -> anyhow::Result<()> {
    const VARIABLE: &str = "RAFTMQ_LOG";
    const DEFAULT: &str = "info,openraft=error";
    let filter = match std::env::var(VARIABLE) {
        Ok(filter) => EnvFilter::try_new(&filter).with_context(|| format!("{VARIABLE}={filter}"))?,
        Err(_) => EnvFilter::new(DEFAULT),
    };
    let stderr = std::io::stderr;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal())
        .init();
    Ok(())
}
