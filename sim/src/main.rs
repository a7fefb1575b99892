//! Runs seeds, each in a process of its own, and says what happened.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "says how long it really took")]

mod args;
mod many;

use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

use clap::{Parser, Subcommand};
use raftmq_sim::{Breach, Promise, ScenarioOptions, entropy, run};

#[cfg(feature = "mutations")]
use crate::args::MutationArgs;
use crate::args::{ManyArgs, OneArgs};

/// Runs whole clusters in simulated time, with faults, and looks whether every promise was kept
#[derive(Parser, Debug)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Run one seed
    One(OneArgs),
    /// Run many seeds, several at a time; says which of what fails is known, and shrinks the rest to fewer faults
    Many(ManyArgs),
    /// Prove that the checkers bite: run seeds with each deliberate fault in the code until one is noticed
    #[cfg(feature = "mutations")]
    Mutations(MutationArgs),
}

fn main() -> ExitCode {
    let done = match Cli::parse().what {
        What::One(args) => one(&args),
        What::Many(args) => many::many(&args),
        #[cfg(feature = "mutations")]
        What::Mutations(args) => many::mutations(&args),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("raftmq-sim: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Runs a seed in this process. Says whether every promise was kept.
fn one(args: &OneArgs) -> anyhow::Result<bool> {
    // First of all: what is drawn before stays.
    entropy::seed(args.seed);
    tracing_subscriber::fmt()
        .with_env_filter(std::env::var("RAFTMQ_LOG").unwrap_or_else(|_| "off".to_owned()))
        .without_time()
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    // A panic ends the process in production: whichever task it was in, it counts.
    static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());
    std::panic::set_hook(Box::new(|panic| {
        if let Ok(mut panics) = PANICS.lock() {
            panics.push(panic.to_string().replace('\n', " "));
        }
    }));
    let options = ScenarioOptions {
        kinds: args.faults.kinds(),
        faults: Duration::from_secs(args.faults.seconds),
        skip: args.skip.clone(),
        leave: args.faults.leave.clone(),
    };
    let mut report = run(args.seed, &options);
    if let Ok(mut panics) = PANICS.lock() {
        let panics = panics.drain(..).map(|what| Breach { promise: Promise::NoPanic, what });
        report.breaches.extend(panics);
    }
    if args.trace {
        println!("{}", report.trace.join("\n"));
    }
    report.trace.clear();
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{report}");
    }
    Ok(report.breaches.is_empty())
}
