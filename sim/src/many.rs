//! Many seeds, each in a process of its own: what they did, what broke, and the fewest faults that show it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use raftmq_sim::{Breach, Kind, NOT_KEPT, NOT_STOOD, Promise, Report};

#[cfg(feature = "mutations")]
use crate::args::MutationArgs;
use crate::args::{FaultArgs, ManyArgs};

/// Runs a seed in a process of its own.
fn child(seed: u64, faults: &FaultArgs, skip: &[u64], mutation: Option<&str>) -> anyhow::Result<Report> {
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
            let told = String::from_utf8_lossy(&ran.stderr);
            let last = told.lines().find(|line| !line.trim().is_empty()).unwrap_or("without a word");
            let what = format!("it ended with {}: {last}", ran.status);
            Ok(Report {
                seed,
                breaches: vec![Breach { promise: Promise::NoPanic, what }],
                ..Report::default()
            })
        }
    }
}

fn list(numbers: &[u64]) -> String {
    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(",")
}

/// Why a promise was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    /// Nobody knows.
    New,
    /// By a fault that is known not to be stood: without those the seed passes.
    NotStood,
    /// It is known not to be kept.
    NotKept,
}

impl Why {
    fn is_known(self) -> bool {
        self != Self::New
    }
}

/// The first promise that a report says was broken, of those that are known to be kept with its faults.
fn broken(report: &Report) -> Option<Promise> {
    let happened =
        |kinds: &[Kind]| kinds.is_empty() || kinds.iter().any(|kind| report.faults.contains_key(kind));
    let is_known = |promise| NOT_KEPT.iter().any(|(other, kinds)| *other == promise && happened(kinds));
    report.breaches.iter().map(|breach| breach.promise).find(|promise| !is_known(*promise))
}

/// Which promise a seed has broken, if it has, and why.
fn judge(report: &Report, faults: &FaultArgs) -> anyhow::Result<Option<(Why, Promise)>> {
    let Some(promise) = broken(report) else {
        return Ok(report.breaches.first().map(|breach| (Why::NotKept, breach.promise)));
    };
    let not_stood = numbers(report, |kind| NOT_STOOD.contains(&kind));
    if not_stood.is_empty() {
        return Ok(Some((Why::New, promise)));
    }
    let without = child(report.seed, faults, &not_stood, None)?;
    Ok(Some(broken(&without).map_or((Why::NotStood, promise), |promise| (Why::New, promise))))
}

/// The numbers of a run's faults of some kinds.
fn numbers(report: &Report, is_one: impl Fn(Kind) -> bool) -> Vec<u64> {
    (1..).zip(&report.drawn).filter(|(_, kind)| is_one(**kind)).map(|(number, _)| number).collect()
}

/// Leaves out as many faults as it can so that the seed still breaks the same promise.
fn shrink(report: &Report, why: Why, promise: Promise, faults: &FaultArgs) -> anyhow::Result<Vec<u64>> {
    // What is new shows without the faults that are known not to be stood.
    let is_left_out = |kind| !why.is_known() && NOT_STOOD.contains(&kind);
    let mut skip = numbers(report, is_left_out);
    let drawn = report.drawn.len() as u64;
    // Halves, then quarters, and so on, as long as leaving them out changes nothing.
    let mut size = drawn.max(1).div_ceil(2);
    while size > 0 {
        let mut first = 1;
        while first <= drawn {
            let mut tried = skip.clone();
            tried.extend((first..(first + size).min(drawn + 1)).filter(|n| !skip.contains(n)));
            let breaks = |report: Report| report.breaches.iter().any(|breach| breach.promise == promise);
            if tried.len() > skip.len() && breaks(child(report.seed, faults, &tried, None)?) {
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
    faults: BTreeMap<Kind, u64>,
    elections: u64,
    starts: u64,
    compared: u64,
    failed: BTreeMap<(Why, Promise), Vec<Report>>,
}

impl Sum {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.simulated += report.simulated;
        self.operations += report.operations;
        self.elections += report.elections;
        self.starts += report.starts;
        self.compared += report.compared;
        for (kind, count) in &report.faults {
            *self.faults.entry(*kind).or_default() += count;
        }
    }
}

/// How many processes at a time.
fn jobs(wanted: Option<usize>) -> usize {
    let processors = || std::thread::available_parallelism().map_or(1, usize::from);
    wanted.unwrap_or_else(processors).max(1)
}

/// Does `work` for one seed after the other, so many at a time, until it is over.
fn for_each_seed(
    seeds: Range<u64>,
    jobs: usize,
    is_over: impl Fn() -> bool + Sync,
    work: impl Fn(u64) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<()> {
    let next = AtomicU64::new(seeds.start);
    let work_on = || -> anyhow::Result<()> {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || is_over() {
                return Ok(());
            }
            work(seed)?;
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work_on)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker does not panic"))
    })
}

/// Runs many seeds. Says whether every promise was kept that is known to be.
pub(crate) fn many(args: &ManyArgs) -> anyhow::Result<bool> {
    let jobs = jobs(args.jobs);
    let fresh = || {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs() * 1000)
    };
    let from = args.from.unwrap_or_else(fresh);
    let (began, sum) = (Instant::now(), Mutex::new(Sum::default()));
    let is_over = || args.for_seconds.is_some_and(|most| began.elapsed() >= Duration::from_secs(most));
    for_each_seed(from..from + args.count, jobs, is_over, |seed| {
        let report = child(seed, &args.faults, &[], None)?;
        let judged = judge(&report, &args.faults)?;
        let mut sum = sum.lock().expect("nobody panics with it");
        sum.add(&report);
        if let Some((why, promise)) = judged {
            if args.strict || !why.is_known() {
                println!("{report}");
            }
            sum.failed.entry((why, promise)).or_default().push(report);
        }
        Ok(())
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
    for ((why, promise), reports) in &sum.failed {
        tell(*why, *promise, reports, args)?;
    }
    Ok(sum.failed.keys().all(|(why, _)| why.is_known() && !args.strict))
}

/// Tells why seeds have broken a promise, and how to repeat what is not known.
fn tell(why: Why, promise: Promise, reports: &[Report], args: &ManyArgs) -> anyhow::Result<()> {
    let Some(first) = reports.iter().min_by_key(|report| report.drawn.len()) else { return Ok(()) };
    let told = match why {
        Why::New => format!("NEW: {promise:?} was broken"),
        Why::NotStood => format!("known: {promise:?} is not kept with {NOT_STOOD:?}"),
        Why::NotKept => format!("known: {promise:?} is not kept yet"),
    };
    println!("{told}: {} seeds, as {}", reports.len(), first.seed);
    if why.is_known() && !args.strict {
        return Ok(());
    }
    let skip = shrink(first, why, promise, &args.faults)?;
    let left = first.drawn.len() - skip.len();
    println!("  {left} of {} faults are enough; to repeat it:", first.drawn.len());
    let skipped = if skip.is_empty() { String::new() } else { format!(" --skip {}", list(&skip)) };
    println!(
        "  cargo run --profile sim -p raftmq-sim -- one --trace --seed {} {}{skipped}",
        first.seed,
        args.faults.to_args().join(" ")
    );
    Ok(())
}

/// Runs seeds with each mutation until it breaks a promise that is known to be kept. Says whether all did.
#[cfg(feature = "mutations")]
pub(crate) fn mutations(args: &MutationArgs) -> anyhow::Result<bool> {
    // Faults and promises that hide nothing: whatever breaks is the mutation's doing.
    let leave = NOT_KEPT.iter().filter(|(_, kinds)| kinds.is_empty()).map(|(promise, _)| *promise).collect();
    let without = NOT_KEPT.iter().flat_map(|(_, kinds)| *kinds).chain(&NOT_STOOD).copied().collect();
    let faults = FaultArgs { seconds: 20, kinds: Vec::new(), without, leave };
    let mut all = true;
    for mutation in raftmq_world::Mutation::ALL {
        let name = format!("{mutation:?}");
        if args.only.as_ref().is_some_and(|only| !only.eq_ignore_ascii_case(&name)) {
            continue;
        }
        let caught = Mutex::new(None);
        let is_caught = || caught.lock().expect("nobody panics with it").is_some();
        for_each_seed(args.from..args.from + args.count, jobs(None), is_caught, |seed| {
            let report = child(seed, &faults, &[], Some(&name))?;
            // It is the mutation's doing where the seed passes without.
            if !report.breaches.is_empty() && child(seed, &faults, &[], None)?.breaches.is_empty() {
                *caught.lock().expect("nobody panics with it") = Some(report);
            }
            Ok(())
        })?;
        let caught = caught.into_inner().expect("nobody panics with it");
        all &= caught.is_some();
        match caught {
            Some(report) => println!("{name}: noticed with seed {}: {}", report.seed, report.breaches[0]),
            None => println!("{name}: NOT noticed within {} seeds", args.count),
        }
    }
    Ok(all)
}
