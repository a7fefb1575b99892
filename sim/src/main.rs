//! Runs seeds, each in a process of its own, and says what happened.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "says how long it really took")]

use std::collections::BTreeMap;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand};
use raftmq_sim::{Kind, Promise, Report, ScenarioOptions, entropy, run};

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
    /// Run many seeds, several at a time; those that fail are shrunk to fewer faults
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
    #[command(flatten)]
    faults: FaultArgs,
}

#[cfg(feature = "mutations")]
#[derive(Args, Debug)]
struct MutationArgs {
    /// Most seeds for each
    #[arg(long, default_value_t = 200)]
    count: u64,
    #[command(flatten)]
    faults: FaultArgs,
}

/// Runs seeds with each mutation until it is noticed. Says whether all were.
#[cfg(feature = "mutations")]
fn mutations(args: &MutationArgs) -> anyhow::Result<bool> {
    let mut all = true;
    for mutation in raftmq_world::Mutation::ALL {
        let caught: Option<Report> = (1..=args.count).find_map(|seed| {
            let report = child_with(seed, &args.faults, &[], Some(&format!("{mutation:?}")));
            report.ok().filter(|report| !report.breaches.is_empty())
        });
        all &= caught.is_some();
        match caught {
            Some(report) => {
                println!("{mutation:?}: noticed with seed {}: {}", report.seed, report.breaches[0])
            }
            None => println!("{mutation:?}: NOT noticed within {} seeds", args.count),
        }
    }
    Ok(all)
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
        What::Many(args) => many(&args),
        #[cfg(feature = "mutations")]
        What::Mutations(args) => mutations(&args),
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
            panics.push(format!("panicked: {panic}").replace('\n', " "));
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
        report.breaches.append(&mut panics);
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

/// Runs a seed in a process of its own.
fn child(seed: u64, faults: &FaultArgs, skip: &[u64]) -> anyhow::Result<Report> {
    child_with(seed, faults, skip, None)
}

fn child_with(seed: u64, faults: &FaultArgs, skip: &[u64], mutation: Option<&str>) -> anyhow::Result<Report> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["one", "--json", "--seed"]).arg(seed.to_string()).args(faults.to_args());
    command.env("RAFTMQ_MUTATION", mutation.unwrap_or_default());
    if !skip.is_empty() {
        command.arg("--skip").arg(list(skip));
    }
    let ran = command.stderr(Stdio::piped()).output().context("run a seed")?;
    let said = String::from_utf8_lossy(&ran.stdout);
    match said.lines().last().map(serde_json::from_str) {
        Some(Ok(report)) => Ok(report),
        _ => {
            // It panicked: that is a breach as well.
            let told = String::from_utf8_lossy(&ran.stderr);
            let panic = told.lines().find(|line| !line.trim().is_empty()).unwrap_or("without a word");
            let breaches = vec![format!("it ended with {}: {panic}", ran.status)];
            Ok(Report { seed, breaches, ..Report::default() })
        }
    }
}

fn list(numbers: &[u64]) -> String {
    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(",")
}

/// What a breach is about, without its numbers.
fn sort_of(report: &Report) -> Option<String> {
    let words = report.breaches.first()?;
    Some(words.chars().filter(|c| !c.is_ascii_digit()).take(24).collect())
}

/// Leaves out as many faults as it can so that the seed still fails in the same way.
fn shrink(report: &Report, faults: &FaultArgs) -> anyhow::Result<Vec<u64>> {
    let mut skip = Vec::new();
    // Halves, then quarters, and so on, as long as leaving them out changes nothing.
    let mut size = report.drawn.max(1).div_ceil(2);
    while size > 0 {
        let mut first = 1;
        while first <= report.drawn {
            let mut tried = skip.clone();
            tried.extend((first..(first + size).min(report.drawn + 1)).filter(|n| !skip.contains(n)));
            if tried.len() > skip.len() && sort_of(&child(report.seed, faults, &tried)?) == sort_of(report) {
                skip = tried;
            }
            first += size;
        }
        size /= 2;
    }
    skip.sort_unstable();
    Ok(skip)
}

/// Everything that seeds have shown.
#[derive(Default)]
struct Sum {
    seeds: u64,
    simulated: Duration,
    operations: u64,
    elections: u64,
    starts: u64,
    compared: u64,
    faults: BTreeMap<Kind, u64>,
    failed: Vec<Report>,
}

fn many(args: &ManyArgs) -> anyhow::Result<bool> {
    let jobs = match args.jobs {
        Some(0) => bail!("--jobs must be at least 1"),
        Some(jobs) => jobs,
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    let fresh = || {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs() * 1000)
    };
    let from = args.from.unwrap_or_else(fresh);
    let (began, next, sum) = (Instant::now(), AtomicU64::new(from), Mutex::new(Sum::default()));
    let over = || args.for_seconds.is_some_and(|most| began.elapsed() >= Duration::from_secs(most));
    let work = || -> anyhow::Result<()> {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= from + args.count || over() {
                return Ok(());
            }
            let report = child(seed, &args.faults, &[])?;
            let mut sum = sum.lock().expect("nobody panics with it");
            sum.seeds += 1;
            sum.simulated += report.simulated;
            sum.operations += report.operations;
            sum.elections += report.elections;
            sum.starts += report.starts;
            sum.compared += report.compared;
            for (kind, count) in &report.faults {
                *sum.faults.entry(*kind).or_default() += count;
            }
            if !report.breaches.is_empty() {
                println!("{report}");
                sum.failed.push(report);
            }
        }
    };
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker does not panic"))
    })?;
    let sum = sum.into_inner().expect("nobody panics with it");
    let faults: u64 = sum.faults.values().sum();
    println!(
        "{} seeds from {from}: {:.2} simulated hours, {} operations, {faults} faults, {} elections, {} starts, {} bytes \
         compared, in {:.0} s with {jobs} at a time",
        sum.seeds,
        sum.simulated.as_secs_f64() / 3600.0,
        sum.operations,
        sum.elections,
        sum.starts,
        sum.compared,
        began.elapsed().as_secs_f64()
    );
    let kinds: Vec<_> = sum.faults.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    println!("faults: {}", kinds.join(", "));
    let mut sorts: BTreeMap<String, Vec<&Report>> = BTreeMap::new();
    for report in &sum.failed {
        sorts.entry(sort_of(report).unwrap_or_default()).or_default().push(report);
    }
    for reports in sorts.values() {
        let Some(first) = reports.iter().min_by_key(|report| report.drawn) else { continue };
        let skip = shrink(first, &args.faults)?;
        println!("{} seeds as seed {}: {}", reports.len(), first.seed, first.breaches[0]);
        let left = first.drawn - skip.len() as u64;
        println!("  {left} of {} faults are enough; to repeat it:", first.drawn);
        let skipped = if skip.is_empty() { String::new() } else { format!(" --skip {}", list(&skip)) };
        println!(
            "  cargo run --profile sim -p raftmq-sim -- one --trace --seed {} {}{skipped}",
            first.seed,
            args.faults.to_args().join(" ")
        );
    }
    Ok(sum.failed.is_empty())
}
