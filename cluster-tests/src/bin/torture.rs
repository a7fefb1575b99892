//! The long run: a group of real processes under load, faults in an order drawn from a seed, and the verdict.
//!
//! Two ways to run it:
//!
//! - `torture --seed 7 --kills 20 --hangs 10` does that many faults; `--seconds N --faults kill,hang,kill-all,restart`
//!   draws faults of those kinds until the time is over. For each it prints the time without an acknowledgement.
//! - `torture --steady 600` does nothing but load, and fails if the term changes.
//!
//! With `--members N` so many push consumers share what is sent, with `--in-order` each queue's messages one after the
//! other; `--delayed` sends messages besides that are to be delivered later. A pause between messages (`--pause-ms`) keeps
//! the load down to what consumers in one process can take. With `--crash-members SECONDS` a consumer vanishes now and then,
//! and another comes; in order nobody may have its queues before its locks have run out.
//!
//! It ends with an error if anything acknowledged was lost, misplaced or out of order, or if the members' logs differ; if
//! consumers were not given all of it, or not in order, or more of it again than faults explain; if delayed messages did not come once each.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "works on real processes in real time"
)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use raftmq_cluster_tests::commit_logs;
use raftmq_cluster_tests::companions::{CompanionOptions, Companions};
use raftmq_cluster_tests::harness::{Group, GroupOptions, NODE_IDS, NodeState};
use raftmq_cluster_tests::readback::read_back;
use raftmq_cluster_tests::torture::{self, Fault, Report, Schedule, median_and_max};
use raftmq_cluster_tests::workload::{Workload, WorkloadOptions};

const START_TIMEOUT: Duration = Duration::from_secs(60);
const LEVEL_TIMEOUT: Duration = Duration::from_secs(120);

/// A group under load and faults
#[derive(Debug, Clone, Parser)]
#[command(name = "torture")]
struct Args {
    /// The order of faults and all times follow from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long to draw faults; not with --kills or --hangs
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Kinds of faults to draw from
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "kill,hang,kill-all,restart,kill-follower"
    )]
    faults: Vec<Fault>,
    /// Kill the leader so often, instead of drawing for some time
    #[arg(long, default_value_t = 0)]
    kills: usize,
    /// Let the leader hang so often, instead of drawing for some time
    #[arg(long, default_value_t = 0)]
    hangs: usize,
    /// Load without a fault for so many seconds, instead
    #[arg(long)]
    steady: Option<u64>,
    /// Connections, each a client of its own
    #[arg(long, default_value_t = 8)]
    connections: u32,
    /// Messages in flight on each connection
    #[arg(long, default_value_t = 32)]
    lanes: u32,
    /// Milliseconds between two messages of a lane
    #[arg(long, default_value_t = 0)]
    pause_ms: u64,
    /// Consumers that share the messages
    #[arg(long, default_value_t = 0)]
    members: u32,
    /// They consume in order
    #[arg(long)]
    in_order: bool,
    /// Every so many seconds one of them vanishes, with its locks, and another comes
    #[arg(long, value_name = "SECONDS", requires = "members", conflicts_with = "steady")]
    crash_members: Option<u64>,
    /// Send messages besides that are delivered later
    #[arg(long)]
    delayed: bool,
    /// Bytes in a body
    #[arg(long, default_value_t = 128)]
    body: usize,
    /// Queues of the topic
    #[arg(long, default_value_t = 8)]
    queues: u32,
    /// Milliseconds for one try of a message
    #[arg(long, default_value_t = 300)]
    try_timeout_ms: u64,
    /// The brokers' flush setting: sync or async
    #[arg(long, default_value = "sync")]
    flush: String,
    /// The brokers' segment size
    #[arg(long, default_value = "64MiB")]
    segment_size: String,
    /// Where the nodes' directories are made
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Keep the nodes' directories
    #[arg(long)]
    keep: bool,
    /// Further flags for every broker
    #[arg(last = true)]
    broker_flags: Vec<String>,
}

impl Args {
    fn companions(&self) -> CompanionOptions {
        let Self { members, in_order, delayed, .. } = *self;
        CompanionOptions { members, in_order, delayed }
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("torture: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let options = GroupOptions {
        flush: args.flush.clone(),
        segment_size: args.segment_size.clone(),
        dir: args.dir.clone(),
        flags: args.broker_flags.clone(),
    };
    let mut group = Group::start(&options)?;
    let outcome = run_group(args, &mut group);
    if args.keep || outcome.is_err() {
        group.keep();
    }
    outcome
}

fn run_group(args: &Args, group: &mut Group) -> Result<()> {
    group.wait_ready(START_TIMEOUT)?;
    let mut options = WorkloadOptions::new(group.name_servers(), args.seed);
    options.queues = args.queues;
    options.connections = args.connections;
    options.lanes = args.lanes;
    options.body_bytes = args.body;
    options.try_timeout = Duration::from_millis(args.try_timeout_ms);
    options.pause = Duration::from_millis(args.pause_ms);
    println!(
        "seed {}, {} connections with {} lanes, {}",
        args.seed,
        args.connections,
        args.lanes,
        group.dir().display()
    );
    let mut companions = Companions::start(&args.companions(), &options)?;
    let workload = Workload::start(options.clone())?;
    let first = group.wait_all_caught_up(START_TIMEOUT)?;
    let started = Instant::now();
    let disturbed = match args.steady {
        Some(seconds) => steady(Duration::from_secs(seconds), group, &workload),
        None => faults(args, group, &workload, &mut companions),
    };
    let elapsed = started.elapsed();
    // What was acknowledged is checked even if the group did not do as it should.
    if let Err(error) = &disturbed {
        eprintln!("torture: {error:#}");
        group
            .nodes()
            .for_each(|node| eprintln!("--- the log of node {} ends with\n{}", node.id(), node.log_tail()));
    }
    let terms = group.term().map_or(0, |term| term - first.term);
    let verdict = verdict(group, workload, companions, &options).context("checking the run");
    println!("{terms} terms in {:.1} s", elapsed.as_secs_f64());
    disturbed.and(verdict)
}

fn faults(args: &Args, group: &mut Group, workload: &Workload, companions: &mut Companions) -> Result<()> {
    let counted = [vec![Fault::Kill; args.kills], vec![Fault::Hang; args.hangs]].concat();
    let (schedule, end) = if counted.is_empty() {
        ensure!(!args.faults.is_empty(), "no kinds of faults to draw from");
        (Schedule::endless(args.seed, args.faults.clone()), Some(Duration::from_secs(args.seconds)))
    } else {
        (Schedule::of(args.seed, counted), None)
    };
    let started = Instant::now();
    let mut reports = Vec::new();
    let crash_every = args.crash_members.map(Duration::from_secs);
    let mut crashed = started;
    for step in schedule.take_while(|_| end.is_none_or(|end| started.elapsed() < end)) {
        if crash_every.is_some_and(|every| crashed.elapsed() >= every) {
            crashed = Instant::now();
            companions.crash_member()?;
        }
        companions.disturbed();
        let report = torture::run(&step, group, workload)?;
        println!("{:>7.1} s  {report}", started.elapsed().as_secs_f64());
        reports.push(report);
    }
    summarize(&reports);
    Ok(())
}

fn summarize(reports: &[Report]) {
    let mut kinds: Vec<_> = reports.iter().map(|report| report.fault).collect();
    kinds.sort();
    kinds.dedup();
    for kind in kinds {
        summarize_kind(&kind.to_string(), reports.iter().filter(|report| report.fault == kind));
    }
    let lost = |report: &&Report| matches!(report.fault, Fault::Kill | Fault::Hang);
    summarize_kind("kill and hang", reports.iter().filter(lost));
}

fn summarize_kind<'r>(kind: &str, reports: impl Iterator<Item = &'r Report>) {
    let gaps: Vec<_> = reports.map(|report| report.gap.max(report.gap_at_return)).collect();
    let times = gaps.len();
    let Some((median, max)) = median_and_max(gaps) else { return };
    let (median, max) = (median.as_millis(), max.as_millis());
    println!(
        "{kind:<14} {times:>3} times, without an acknowledgement {median} ms at the median, {max} ms at the most"
    );
}

fn steady(time: Duration, group: &mut Group, workload: &Workload) -> Result<()> {
    let before = group.wait_ready(START_TIMEOUT)?;
    let (started, acked_before) = (Instant::now(), workload.pulse().beats());
    workload.pulse().start_over();
    let mut memory = 0;
    while started.elapsed() < time {
        std::thread::sleep(Duration::from_secs(1).min(time.saturating_sub(started.elapsed())));
        group.check_alive()?;
        for node in group.nodes() {
            memory = memory.max(node.anonymous_bytes()?);
        }
    }
    let acked = workload.pulse().beats() - acked_before;
    let gap = workload.pulse().longest_gap();
    println!(
        "{acked} acknowledged, {:.0} a second; longest time without {} ms; a node holds at most {} MiB besides the log",
        acked as f64 / started.elapsed().as_secs_f64(),
        gap.as_millis(),
        memory >> 20
    );
    let after = group.wait_ready(START_TIMEOUT)?;
    ensure!(
        (after.term, after.node_id) == (before.term, before.node_id),
        "without a fault the leader went from node {} in term {} to node {} in term {}",
        before.node_id,
        before.term,
        after.node_id,
        after.term
    );
    println!("the leader was node {} in term {} all the time", after.node_id, after.term);
    Ok(())
}

fn verdict(
    group: &mut Group,
    workload: Workload,
    companions: Companions,
    options: &WorkloadOptions,
) -> Result<()> {
    let history = workload.stop()?;
    println!(
        "{} messages given up, {} tries of unknown outcome",
        history.given_up(),
        history.unknown_tries()
    );
    // A fault that went wrong may have left some of them down or paused.
    for id in NODE_IDS {
        if group.node(id).state() == NodeState::Paused {
            group.resume(id)?;
        }
    }
    group.start_all()?;
    let companions = companions.finish(&history);
    let level = group.wait_level(LEVEL_TIMEOUT);
    let verdict = read_back(options, &history)?;
    println!("{verdict}");
    ensure!(verdict.holds(), "{} breaches", verdict.breaches);
    let commit_index = level?;
    group.kill_all()?;
    let dirs: Vec<_> = group.nodes().map(|node| node.dir().to_owned()).collect();
    let compared = commit_logs::compare(&dirs, commit_index).context("the members' logs")?;
    println!("the logs are the same {} bytes in {} entries", compared.bytes, compared.entries);
    companions
}
