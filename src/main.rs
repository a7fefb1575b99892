//! The binary: reads the command line, logs to standard error, and runs what it is told to.

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use raftmq::{Cli, run};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    match log_to_stderr().and_then(|()| run(&Cli::parse())) {
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
