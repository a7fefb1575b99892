//! Runs seeds, and says what happened.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "says how long it really took")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use raftmq_sim::{Kind, ScenarioOptions, entropy, run};

/// Runs whole clusters in simulated time, with faults, and looks whether every promise was kept
#[derive(Parser, Debug)]
struct Args {
    /// The seed to run
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Faults are done for so many simulated seconds
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Only these kinds of faults, separated by commas
    #[arg(long, value_delimiter = ',', value_parser = kind)]
    kinds: Vec<Kind>,
    /// All but these
    #[arg(long, value_delimiter = ',', value_parser = kind)]
    without: Vec<Kind>,
    /// Show what happened
    #[arg(long)]
    trace: bool,
}

fn kind(text: &str) -> Result<Kind, String> {
    let found = Kind::ALL.into_iter().find(|kind| kind.to_string().eq_ignore_ascii_case(text));
    found.ok_or_else(|| format!("no such kind of fault; there are {:?}", Kind::ALL))
}

fn main() -> ExitCode {
    let args = Args::parse();
    // First of all: what is drawn before stays.
    entropy::seed(args.seed);
    tracing_subscriber::fmt()
        .with_env_filter(std::env::var("RAFTMQ_LOG").unwrap_or_else(|_| "off".to_owned()))
        .without_time()
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    let mut kinds = if args.kinds.is_empty() { Kind::ALL.to_vec() } else { args.kinds };
    kinds.retain(|kind| !args.without.contains(kind));
    let began = Instant::now();
    let report = run(args.seed, &ScenarioOptions { kinds, faults: Duration::from_secs(args.seconds) });
    if args.trace {
        println!("{}", report.trace.join("\n"));
    }
    println!("{report}");
    eprintln!("took {:.1} s", began.elapsed().as_secs_f64());
    if report.breaches.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
