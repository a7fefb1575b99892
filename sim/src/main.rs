//! Runs seeds, each in a process of its own, and says what happened.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "says how long it really took")]

mod many;

use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use raftmq_sim::{Breach, Kind, Promise, ScenarioOptions, entropy, run};

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

#[derive(Args, Clone, Debug)]
struct FaultArgs {
    /// Faults are done for so many simulated seconds
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Only these kinds of faults, separated by commas
    #[arg(long, value_delimiter = ',', value_parser = kind)]
    kinds: Vec<Kind>,
    /// All but these
    #[arg(long, value_delimiter = ',', value_parser = kind)]
    without: Vec<Kind>,
    /// Leave these promises alone
    #[arg(long, value_delimiter = ',', value_parser = promise)]
    leave: Vec<Promise>,
}

#[derive(Args, Debug)]
struct OneArgs {
    /// The seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    faults: FaultArgs,
    /// Leave out the faults of these numbers
    #[arg(long, value_delimiter = ',')]
    skip: Vec<u64>,
    /// Show what happened, in order
    #[arg(long)]
    trace: bool,
    /// The report as one line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct ManyArgs {
    /// The first seed; by default one that nobody has drawn yet
    #[arg(long)]
    from: Option<u64>,
    /// How many
    #[arg(long, default_value_t = 100)]
    count: u64,
    /// Begin no more after so many seconds
    #[arg(long)]
    for_seconds: Option<u64>,
    /// How many at a time; by default one for each processor
    #[arg(long)]
    jobs: Option<usize>,
    /// Fail for what is known not to be kept yet as well
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    faults: FaultArgs,
}

#[cfg(feature = "mutations")]
#[derive(Args, Debug)]
struct MutationArgs {
    /// Most seeds for each
    #[arg(long, default_value_t = 200)]
    count: u64,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Only this one
    #[arg(long)]
    only: Option<String>,
}

fn kind(text: &str) -> Result<Kind, String> {
    let found = Kind::ALL.into_iter().find(|kind| kind.to_string().eq_ignore_ascii_case(text));
    found.ok_or_else(|| format!("no such kind of fault; there are {:?}", Kind::ALL))
}

fn promise(text: &str) -> Result<Promise, String> {
    let found = Promise::ALL.into_iter().find(|promise| format!("{promise:?}").eq_ignore_ascii_case(text));
    found.ok_or_else(|| format!("no such promise; there are {:?}", Promise::ALL))
}

impl FaultArgs {
    fn kinds(&self) -> Vec<Kind> {
        let mut kinds = if self.kinds.is_empty() { Kind::ALL.to_vec() } else { self.kinds.clone() };
        kinds.retain(|kind| !self.without.contains(kind));
        kinds
    }

    /// The arguments that mean the same.
    fn to_args(&self) -> Vec<String> {
        let kinds: Vec<_> = self.kinds().iter().map(|kind| kind.to_string().to_lowercase()).collect();
        let mut args =
            vec!["--seconds".to_owned(), self.seconds.to_string(), "--kinds".to_owned(), kinds.join(",")];
        if !self.leave.is_empty() {
            let left: Vec<_> =
                self.leave.iter().map(|promise| format!("{promise:?}").to_lowercase()).collect();
            args.extend(["--leave".to_owned(), left.join(",")]);
        }
        args
    }
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
