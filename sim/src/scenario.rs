//! One run: programs use a cluster to which faults are done, and then it is looked whether every promise was kept.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use raftmq_checks::checker::{
    Arrivals, Checker, Consumption, Verdict, Violation, check_consumption, missing,
};
use raftmq_checks::deliveries::Deliveries;
use raftmq_checks::history::History;
use raftmq_checks::readback::{arrive, feed, read_topic};
use raftmq_client::{Client, ClientConfig, Message, Producer};
use raftmq_world::Random;
use serde::{Deserialize, Serialize};

use crate::cluster::{Cluster, ClusterOptions, DATA_DIR, LOG_DIR, MEMBERS};
use crate::disk::{DiskCopy, Ending, Pace};
use crate::fault::Kind;
use crate::nemesis::Nemesis;
use crate::programs::{
    How, LANES, LATER, Lanes, QUEUES, REBORN, Shared, commit, config, consume, produce, read, renew, workload,
};
use crate::promise::{Breach, Breaches, Promise};

/// Until the topic must be there.
const BEGIN_MAX: Duration = Duration::from_secs(20);
/// Programs that ask where queues end.
const READERS: u32 = 4;
/// Groups, and how they consume.
const GROUPS: [(&str, How); 3] =
    [("shared", How::Pushed), ("ordered", How::InOrder), ("polled", How::Polled)];
/// Members of each.
const GROUP_MEMBERS: u32 = 2;
/// How long delayed messages are delayed.
const DELAY: Duration = Duration::from_secs(1);
/// Until what was delayed must have come.
const ARRIVAL_MAX: Duration = Duration::from_secs(30);
/// Until a topic must have been read.
const READ_MAX: Duration = Duration::from_secs(60);
/// After the faults, until everything must be served again.
const RECOVERY_MAX: Duration = Duration::from_secs(30);
/// And until everything must be consumed: queue locks are held for 60 s.
const CONSUMPTION_MAX: Duration = Duration::from_secs(150);
/// Until producers must have ended.
const END_MAX: Duration = Duration::from_secs(90);
/// Until members must be equal once nothing is sent any more.
const EQUAL_MAX: Duration = Duration::from_secs(10);

/// What a run is to be like.
#[derive(Clone, Debug)]
pub struct ScenarioOptions {
    /// Which faults.
    pub kinds: Vec<Kind>,
    /// For how long.
    pub faults: Duration,
    /// Numbers of faults that are left out.
    pub skip: Vec<u64>,
    /// Promises that are not looked at.
    pub leave: Vec<Promise>,
}

impl Default for ScenarioOptions {
    fn default() -> Self {
        Self {
            kinds: Kind::ALL.to_vec(),
            faults: Duration::from_secs(20),
            skip: Vec::new(),
            leave: Vec::new(),
        }
    }
}

/// What a run has shown.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// How long it was, in simulated time.
    pub simulated: Duration,
    /// Messages acknowledged, deliveries, answers of readers.
    pub operations: u64,
    /// Faults that were drawn, those left out included; their numbers count from 1.
    pub drawn: Vec<Kind>,
    /// Faults by kind.
    pub faults: BTreeMap<Kind, u64>,
    /// Starts of members.
    pub starts: u64,
    /// Terms in which somebody led.
    pub elections: u64,
    /// Bytes of the members' logs that were compared.
    pub compared: u64,
    /// A checksum of all disks at the end.
    pub disks: u32,
    /// What was broken.
    pub breaches: Vec<Breach>,
    /// What happened, in order.
    pub trace: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, simulated, operations, starts, elections, compared, breaches, .. } = self;
        let faults: u64 = self.faults.values().sum();
        write!(
            f,
            "seed {seed}: {:.1} s, {operations} operations, {faults} faults, {elections} elections, {starts} starts, \
             {compared} bytes compared, disks {:08x}",
            simulated.as_secs_f64(),
            self.disks
        )?;
        breaches.iter().try_for_each(|breach| write!(f, "\n  {breach}"))
    }
}

/// Runs a seed.
pub fn run(seed: u64, options: &ScenarioOptions) -> Report {
    let random = Random::seeded(seed ^ 0x7363_656e_6172_696f);
    let segment_bytes = (64 * 1024) << random.below(5);
    let mut cluster = Cluster::new(seed, ClusterOptions { segment_bytes, ..ClusterOptions::default() });
    let mut nemesis = Nemesis::new(seed, &options.kinds, &options.skip);
    let shared = Shared::default();
    let producing = {
        let (shared, load) = (shared.clone(), workload(seed));
        cluster.run(move |world| produce(world, load, shared))
    };
    let mut breaches = Breaches::default();
    if !cluster.run_until(BEGIN_MAX, |_| shared.ready.load(Ordering::Relaxed)) {
        breaches.add(Promise::Service, format_args!("no topic could be made within {BEGIN_MAX:?}"));
    }
    let groups = GROUPS.map(|(group, how)| (group, how, Deliveries::new(cluster.clock())));
    for (group, how, log) in &groups {
        for number in 0..GROUP_MEMBERS {
            let (group, how, log) = (*group, *how, log.clone());
            cluster.run_again(move |world| consume(world, number, group, how, log.clone()));
        }
    }
    for _ in 0..READERS {
        let (shared, random) = (shared.clone(), random.clone());
        cluster.run(move |world| read(world, random, shared));
    }
    {
        let (shared, random) = (shared.clone(), random.clone());
        cluster.run(move |world| commit(world, random, shared));
    }
    let renewing = REBORN.map(|topic| {
        let shared = shared.clone();
        cluster.run(move |world| async move { renew(world, topic, shared).await })
    });
    nemesis.rage(&mut cluster, options.faults);
    nemesis.rest(&mut cluster);

    let before = shared.acknowledged();
    if !cluster.run_until(RECOVERY_MAX, |_| shared.acknowledged() >= before + 2 * u64::from(LANES)) {
        let more = shared.acknowledged() - before;
        let what = format_args!("{RECOVERY_MAX:?} after the faults {more} sends were acknowledged");
        breaches.add(Promise::Service, what);
    }
    shared.stop.store(true, Ordering::Relaxed);
    if !cluster.run_until(END_MAX, |cluster| cluster.is_done(producing)) {
        breaches.add(Promise::Service, format_args!("producers did not end within {END_MAX:?}"));
    }
    if !cluster.run_until(END_MAX, |cluster| renewing.iter().all(|program| cluster.is_done(*program))) {
        breaches.add(Promise::Service, format_args!("topics were not deleted within {END_MAX:?}"));
    }
    let history = |lanes: &Lanes| {
        let mut lanes = lanes.lock().clone();
        lanes.sort_by_key(|(number, _)| *number);
        History {
            run: seed,
            began_us: shared.pulse().map_or(0, |pulse| pulse.began_us()),
            body_bytes: workload(seed).body_bytes,
            lanes: lanes.into_iter().map(|(_, lane)| lane).collect(),
        }
    };
    let later: Vec<History> = shared.later.iter().map(history).collect();
    let history = history(&shared.plain);
    check_queues(&mut cluster, &history, &mut breaches);

    let mut operations = history.acknowledged() + shared.reads.load(Ordering::Relaxed);
    let clocks = [Kind::ClockJump, Kind::ClockDrift];
    let clocks_were_right = !clocks.iter().any(|kind| nemesis.done.contains_key(kind));
    for ((topic, _), history) in LATER.iter().zip(&later) {
        operations += 2 * history.acknowledged();
        check_arrivals(&mut cluster, topic, history, clocks_were_right, &mut breaches);
    }
    for (group, how, log) in &groups {
        // Looking is work: not at every tick.
        let end = cluster.now() + CONSUMPTION_MAX;
        while missing(&history, &log.all()) > 0 && cluster.now() < end {
            cluster.run_for(Duration::from_millis(250));
        }
        let deliveries = log.all();
        operations += deliveries.len() as u64;
        let disturbances = (nemesis.hits + cluster.traps_sprung()) as u32 + 2 * GROUP_MEMBERS;
        let rules = Consumption { disturbances, in_order: *how == How::InOrder };
        for breach in check_consumption(&history, &deliveries, rules).told {
            breaches.add(Promise::Consumed, format_args!("group {group}: {breach}"));
        }
    }
    if !options.leave.contains(&Promise::SlowDisks) {
        check_slow_disks(&mut cluster, &mut breaches);
    }
    let disks_were_whole = !nemesis.done.keys().any(|kind| kind.takes_what_was_durable());
    let are_steady = |cluster: &Cluster| (0..MEMBERS).all(|member| cluster.is_steady(member));
    if disks_were_whole && !cluster.run_until(EQUAL_MAX, are_steady) {
        breaches.add(Promise::Service, "a member does not come back, with nothing wrong with its disk");
    }
    // A disk that fails ends its member, and so does one without any space.
    let end_members = [Kind::FailedSync, Kind::SpentDisk];
    let disks_worked = disks_were_whole && !end_members.iter().any(|kind| nemesis.done.contains_key(kind));
    if disks_worked && let Some(ended) = cluster.ended().first() {
        breaches.add(Promise::Service, ended);
    }
    let compared = check_logs(&mut cluster, disks_were_whole, &mut breaches);
    check_states(&mut cluster, &mut breaches);
    let read = std::mem::take(&mut *shared.breaches.lock()).into_vec();
    let mut breaches: Vec<_> = breaches.into_vec().into_iter().chain(read).collect();
    breaches.retain(|breach| !options.leave.contains(&breach.promise));
    let (simulated, starts, elections) = (cluster.now(), cluster.starts(), cluster.elections());
    let disks = (0..MEMBERS).fold(0, |sum, member| {
        cluster.machine(member).copy().files().fold(sum, |sum, (path, content)| {
            crc32c::crc32c_append(crc32c::crc32c_append(sum, path.as_os_str().as_encoded_bytes()), content)
        })
    });
    Report {
        seed,
        simulated,
        operations,
        drawn: nemesis.drawn,
        faults: nemesis.done,
        starts,
        elections,
        compared,
        disks,
        breaches,
        trace: cluster.end().lines(),
    }
}

/// Reads every queue back.
fn check_queues(cluster: &mut Cluster, history: &History, breaches: &mut Breaches) {
    let shown = history.clone();
    let outcome = cluster.ask(READ_MAX, |world| async move {
        let mut checker = Checker::new(&shown);
        read_topic(config(world), "Plain", QUEUES, |part| feed(&mut checker, part)).await?;
        anyhow::Ok(checker.finish())
    });
    judge(Promise::Stored, "Plain", outcome, |_| true, breaches);
}

/// Notes the breaches that count of what reading a topic back came to.
fn judge(
    promise: Promise,
    topic: &str,
    outcome: Option<anyhow::Result<Verdict>>,
    counts: impl Fn(&Violation) -> bool,
    breaches: &mut Breaches,
) {
    match outcome {
        Some(Ok(verdict)) => {
            for breach in verdict.told.iter().filter(|breach| counts(breach)) {
                breaches.add(promise, format_args!("{topic}: {breach}"));
            }
        }
        Some(Err(error)) => {
            breaches.add(Promise::Service, format_args!("{topic} could not be read: {error:#}"));
        }
        None => {
            breaches.add(Promise::Service, format_args!("{topic} could not be read within {READ_MAX:?}"));
        }
    }
}

/// What was delayed comes once, and not early where the clocks were right.
fn check_arrivals(
    cluster: &mut Cluster,
    topic: &str,
    history: &History,
    clocks_were_right: bool,
    breaches: &mut Breaches,
) {
    let (history, name) = (history.clone(), topic.to_owned());
    let outcome = cluster.ask(READ_MAX, |world| async move {
        let (clock, began) = (world.clock.clone(), world.clock.passed());
        loop {
            let mut arrivals = Arrivals::new(&history, DELAY);
            let show = |part| arrive(&mut arrivals, part, &*clock);
            read_topic(config(world.clone()), &name, QUEUES, show).await?;
            if arrivals.missing() == 0 || clock.passed() >= began + ARRIVAL_MAX {
                return anyhow::Ok(arrivals.finish());
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
    let counts = |breach: &Violation| clocks_were_right || !matches!(breach, Violation::Early { .. });
    judge(Promise::Delayed, topic, outcome, counts, breaches);
}

/// With every disk slow, but not so slow that an operator would throw it away, the group elects and stores.
fn check_slow_disks(cluster: &mut Cluster, breaches: &mut Breaches) {
    const SYNC: Duration = Duration::from_millis(80);
    const SERVES_MAX: Duration = Duration::from_secs(5);
    for member in 0..MEMBERS {
        cluster.machine(member).set_pace(Pace { sync_min: SYNC, sync_max: SYNC });
    }
    // Whoever leads: nobody may afterwards.
    (0..MEMBERS).for_each(|member| cluster.kill(member, Ending::Killed, true));
    let stored = cluster.ask(SERVES_MAX, |world| async move {
        let client = Client::new(ClientConfig { try_timeout: Duration::from_secs(3), ..config(world) });
        let producer = Producer::new(client, "slow").expect("a good name");
        while producer.send(&Message::new("Plain", "slow")).await.is_err() {}
    });
    if stored.is_none() {
        let what = format_args!("with syncs of {SYNC:?} nothing was stored within {SERVES_MAX:?}");
        breaches.add(Promise::SlowDisks, what);
    }
    (0..MEMBERS).for_each(|member| cluster.machine(member).set_pace(Pace::default()));
}

/// After a stop in order the members' states are the same where they are as of the same entry.
fn check_states(cluster: &mut Cluster, breaches: &mut Breaches) {
    const STOP_MAX: Duration = Duration::from_secs(15);
    (0..MEMBERS).for_each(|member| cluster.stop(member, false));
    if !cluster.run_until(STOP_MAX, |cluster| (0..MEMBERS).all(|member| !cluster.is_up(member))) {
        breaches.add(Promise::Service, format_args!("members did not stop within {STOP_MAX:?}"));
        return;
    }
    let path = format!("{DATA_DIR}/metadata");
    let states: Vec<_> = (0..MEMBERS)
        .filter_map(|member| {
            let copy = cluster.machine(member).copy();
            let found = copy.files().find(|(file, _)| *file == Path::new(&path));
            found.map(|(_, content)| (member, content.to_vec()))
        })
        .collect();
    let others = |at: usize| states[at + 1..].iter().map(move |other| (at, other));
    for (at, (other, other_state)) in (0..states.len()).flat_map(others) {
        let (one, state) = &states[at];
        if state != other_state && applied(state).is_some() && applied(state) == applied(other_state) {
            let what = format!("the states of members {one} and {other} differ as of {:?}", applied(state));
            breaches.add(Promise::EqualStates, what);
        }
    }
}

/// As of which entry (term, index) a state was written: behind a checksum, the version and the group.
fn applied(state: &[u8]) -> Option<(u64, u64)> {
    type Head = (u8, Option<[u8; 16]>, Option<(u64, u64)>);
    let (head, _): (Head, _) =
        bincode::serde::decode_from_slice(state.get(4..)?, bincode::config::standard()).ok()?;
    head.2
}

/// The log of a member, its segments one behind the other, without the zeros at its end.
fn log_of(copy: &DiskCopy) -> Vec<u8> {
    let mut log = Vec::new();
    for (_, content) in copy.files().filter(|(path, _)| path.starts_with(LOG_DIR)) {
        log.extend_from_slice(content);
    }
    let end = log.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    log.truncate(end);
    log
}

/// The logs of all members are the same to the byte; of those that run where one may have found its own log damaged.
fn check_logs(cluster: &mut Cluster, all: bool, breaches: &mut Breaches) -> u64 {
    let logs = |cluster: &Cluster| -> Vec<(usize, Vec<u8>)> {
        let up = (0..MEMBERS).filter(|member| cluster.is_steady(*member));
        up.map(|member| (member, log_of(&cluster.machine(member).copy()))).collect()
    };
    let are_equal = |found: &[(usize, Vec<u8>)]| {
        (found.len() == MEMBERS || !all) && found.windows(2).all(|pair| pair[0].1 == pair[1].1)
    };
    let end = cluster.now() + EQUAL_MAX;
    let mut found = logs(cluster);
    while !are_equal(&found) && cluster.now() < end {
        cluster.run_for(Duration::from_millis(500));
        found = logs(cluster);
    }
    if all && found.len() < MEMBERS {
        let members: Vec<_> = found.iter().map(|(member, _)| member).collect();
        breaches.add(Promise::EqualLogs, format_args!("only the members {members:?} run"));
    }
    for pair in found.windows(2) {
        let [(one, log), (other, other_log)] = pair else { continue };
        let differs = log.iter().zip(other_log).position(|(byte, other)| byte != other);
        let (len, other_len) = (log.len(), other_log.len());
        match differs {
            Some(at) => {
                let what = format!("the logs of members {one} and {other} differ at {at}");
                breaches.add(Promise::EqualLogs, what);
            }
            None if len != other_len => {
                let what = format!("the logs of members {one} and {other} end at {len} and {other_len}");
                breaches.add(Promise::EqualLogs, what);
            }
            None => {}
        }
    }
    found.iter().map(|(_, log)| log.len() as u64).sum()
}
