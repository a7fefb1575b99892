//! One run: programs use a cluster to which faults are done, and then it is looked whether every promise was kept.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use raftmq_checks::checker::{
    Arrivals, Checker, Consumption, Verdict, Violation, check_consumption, missing,
};
use raftmq_checks::deliveries::Deliveries;
use raftmq_checks::history::{History, Lane};
use raftmq_checks::lane::{BROKER_NAME, LaneTask, WorkloadOptions};
use raftmq_checks::listener::listener;
use raftmq_checks::pulse::Pulse;
use raftmq_checks::readback::{arrive, feed, read_topic};
use raftmq_client::{
    Client, ClientConfig, ConsumeFromWhere, Message, MessageQueue, MessageSelector, Producer, PullConsumer,
    PushConsumer, PushConsumerConfig, TopicConfig, World,
};
use raftmq_world::Random;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::cluster::{Cluster, ClusterOptions, DATA_DIR, MEMBERS};
use crate::disk::{DiskCopy, Ending, Pace};
use crate::nemesis::{Kind, Nemesis};

/// Queues of the topic.
const QUEUES: u32 = 3;
/// Producers.
const LANES: u32 = 6;
/// Until the topic must be there.
const BEGIN_MAX: Duration = Duration::from_secs(20);
/// Producers of each kind of delayed messages.
const DELAYED_LANES: u32 = 2;
/// How long they are delayed.
const DELAY: Duration = Duration::from_secs(1);
/// Delayed messages: their topic, and the property that asks for the delay: by level, and by time.
const LATER: [(&str, &str); 2] =
    [("ByLevel", "DELAY\u{1}1\u{2}"), ("ByTime", "TIMER_DELAY_MS\u{1}1000\u{2}")];
/// Until what was delayed must have come.
const ARRIVAL_MAX: Duration = Duration::from_secs(30);
/// Until a topic must have been read.
const READ_MAX: Duration = Duration::from_secs(60);
/// After the faults, until everything must be served again.
const RECOVERY_MAX: Duration = Duration::from_secs(30);
/// And until everything must be consumed: queue locks are held for 60 s.
const CONSUMPTION_MAX: Duration = Duration::from_secs(150);
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

/// A promise that can be left alone, as long as it is known not to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// A leader's answers are never behind what was acknowledged before the question.
    FreshReads,
    /// A group whose disks are all slow elects and stores.
    SlowDisks,
}

impl Promise {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::FreshReads, Self::SlowDisks];
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
    /// Faults that were drawn, those left out included.
    pub drawn: u64,
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
    pub breaches: Vec<String>,
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

/// What the programs of a run share with whoever looks at it afterwards.
#[derive(Clone)]
struct Shared {
    stop: Arc<AtomicBool>,
    ready: Arc<AtomicBool>,
    plain: Lanes,
    later: [Lanes; LATER.len()],
    pulse: Arc<Mutex<Option<Arc<Pulse>>>>,
    reads: Arc<AtomicU64>,
    breaches: Arc<Mutex<Vec<String>>>,
    /// Breaches that have to do with committed offsets.
    offsets: Arc<Mutex<Vec<String>>>,
}

/// What lanes have sent, by their numbers, once they have ended.
type Lanes = Arc<Mutex<Vec<(u32, Lane)>>>;

/// What a group was given, once its first member has begun.
type DeliveryLog = Arc<Mutex<Option<Deliveries>>>;

impl Shared {
    fn pulse(&self) -> Option<Arc<Pulse>> {
        self.pulse.lock().clone()
    }
}

fn config(world: World) -> ClientConfig {
    ClientConfig { world, ..ClientConfig::new(&Cluster::name_servers()) }
}

fn workload(seed: u64) -> WorkloadOptions {
    WorkloadOptions {
        topic: "Plain".to_owned(),
        queues: QUEUES,
        pause: Duration::from_millis(20),
        ..WorkloadOptions::new(Cluster::name_servers(), seed)
    }
}

/// Producers, each with one message on its way.
async fn produce(world: World, options: WorkloadOptions, shared: Shared) {
    let clock = world.clock.clone();
    let pulse = Arc::new(Pulse::new(clock.clone()));
    let client = Client::new(ClientConfig { try_timeout: options.try_timeout, ..config(world) });
    let queues = QUEUES as i32;
    for topic in [options.topic.as_str(), LATER[0].0, LATER[1].0] {
        let config = TopicConfig {
            topic_name: topic.to_owned(),
            read_queue_nums: queues,
            write_queue_nums: queues,
            ..TopicConfig::default()
        };
        while client.create_topic(&config).await.is_err() || client.routes().get(topic).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    *shared.pulse.lock() = Some(pulse.clone());
    shared.ready.store(true, Ordering::Relaxed);
    let mut tasks = JoinSet::new();
    let mut start = |options: &WorkloadOptions, lanes: u32, ended: &Lanes, pulse: &Arc<Pulse>| {
        for number in 0..lanes {
            let lane = LaneTask::new(number, client.clone(), options, pulse.clone(), shared.stop.clone());
            let ended = ended.clone();
            tasks.spawn(async move {
                let lane = lane.run().await;
                ended.lock().push((number, lane));
            });
        }
    };
    start(&options, LANES, &shared.plain, &pulse);
    // Their offsets say nothing about the plain topic.
    let other_pulse = Arc::new(Pulse::new(clock));
    for ((topic, properties), ended) in LATER.iter().zip(&shared.later) {
        let (topic, properties) = ((*topic).to_owned(), (*properties).to_owned());
        let pause = Duration::from_millis(150);
        start(
            &WorkloadOptions { topic, properties, pause, ..options.clone() },
            DELAYED_LANES,
            ended,
            &other_pulse,
        );
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("a lane does not panic");
    }
}

/// A member of a consumer group.
async fn consume(world: World, number: u32, group: &str, in_order: bool, log: Deliveries) {
    let client = Client::new(config(world));
    let consume_from_where = ConsumeFromWhere::FirstOffset;
    let settings = PushConsumerConfig { consume_from_where, ..PushConsumerConfig::new(group) };
    let consumer = PushConsumer::new(client, settings).expect("good settings");
    consumer.subscribe("Plain", MessageSelector::all()).await.expect("tags are not checked by a broker");
    let work = Duration::from_millis(1);
    let listener = listener(number, in_order, work, Arc::new(|_| true), &log);
    consumer.register_message_listener(listener).expect("it has none yet");
    consumer.start().await.expect("it was not started");
    std::future::pending::<()>().await;
}

/// Asks where queues end: never before what was acknowledged before the question.
async fn read(world: World, random: Random, shared: Shared) {
    let client = Client::new(config(world));
    while !shared.stop.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(10 + random.below(40))).await;
        let Some(pulse) = shared.pulse() else { continue };
        let queue = random.below(u64::from(QUEUES)) as u32;
        let least = pulse.end_of(queue);
        let asked = MessageQueue {
            topic: "Plain".to_owned(),
            broker_name: BROKER_NAME.to_owned(),
            queue_id: queue as i32,
        };
        let Ok(end) = client.max_offset(&asked).await else { continue };
        shared.reads.fetch_add(1, Ordering::Relaxed);
        if (end as u64) < least {
            shared.breaches.lock().push(format!(
                "behind: queue {queue} was said to end at {end}, when everything up to {least} had been acknowledged"
            ));
        }
    }
}

/// Commits offsets, and asks for them: what was committed never goes back.
async fn commit(world: World, random: Random, shared: Shared) {
    let client = Client::new(config(world));
    let consumer = PullConsumer::new(client, "committer").expect("a good name");
    let queue = MessageQueue { topic: "Plain".to_owned(), broker_name: BROKER_NAME.to_owned(), queue_id: 0 };
    // Certainly committed, and perhaps.
    let (mut certain, mut tried) = (0, 0);
    while !shared.stop.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(20 + random.below(60))).await;
        tried += 1;
        if consumer.update_offset(&queue, tried).await.is_ok() {
            certain = tried;
        }
        let Ok(found) = consumer.query_offset(&queue).await else { continue };
        shared.reads.fetch_add(2, Ordering::Relaxed);
        let found = found.unwrap_or(0);
        if !(certain..=tried).contains(&found) {
            shared.offsets.lock().push(format!(
                "offset back: {certain} was committed, {tried} perhaps, and {found} is what is there"
            ));
        }
    }
}

/// Runs a seed.
pub fn run(seed: u64, options: &ScenarioOptions) -> Report {
    let random = Random::seeded(seed ^ 0x7363_656e_6172_696f);
    let segment_bytes = (64 * 1024) << random.below(5);
    let mut cluster = Cluster::new(seed, ClusterOptions { segment_bytes, ..ClusterOptions::default() });
    let mut nemesis = Nemesis::new(seed, &options.kinds, &options.skip);
    let shared = Shared {
        stop: Arc::default(),
        ready: Arc::default(),
        plain: Arc::default(),
        later: Default::default(),
        pulse: Arc::default(),
        reads: Arc::default(),
        breaches: Arc::default(),
        offsets: Arc::default(),
    };
    let producing = {
        let (shared, load) = (shared.clone(), workload(seed));
        cluster.run(move |world| produce(world, load, shared))
    };
    let mut breaches = Vec::new();
    if !cluster.run_until(BEGIN_MAX, |_| shared.ready.load(Ordering::Relaxed)) {
        breaches.push(format!("no topic could be made within {BEGIN_MAX:?}"));
    }
    let groups: Vec<(&str, bool, DeliveryLog)> =
        vec![("shared", false, Arc::default()), ("ordered", true, Arc::default())];
    for (group, in_order, log) in &groups {
        for number in 0..2 {
            let (log, group, in_order) = (log.clone(), (*group).to_owned(), *in_order);
            cluster.run(move |world| async move {
                let clock = world.clock.clone();
                let log = log.lock().get_or_insert_with(|| Deliveries::new(clock)).clone();
                consume(world, number, &group, in_order, log).await;
            });
        }
    }
    {
        let shared = shared.clone();
        let random = random.clone();
        cluster.run(move |world| read(world, random, shared));
    }
    {
        let (shared, random) = (shared.clone(), random.clone());
        cluster.run(move |world| commit(world, random, shared));
    }
    nemesis.rage(&mut cluster, options.faults);
    nemesis.rest(&mut cluster);

    let acked = || shared.pulse().map_or(0, |pulse| pulse.beats());
    let before = acked();
    if !cluster.run_until(RECOVERY_MAX, |_| acked() >= before + 2 * u64::from(LANES)) {
        let more = acked() - before;
        breaches.push(format!("{RECOVERY_MAX:?} after the faults {more} sends were acknowledged"));
    }
    shared.stop.store(true, Ordering::Relaxed);
    if !cluster.run_until(Duration::from_secs(90), |cluster| cluster.is_done(producing)) {
        breaches.push("producers did not end".to_owned());
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
    let faults: u64 = nemesis.done.values().sum();
    for (group, in_order, log) in &groups {
        let deliveries = || log.lock().as_ref().map(Deliveries::all).unwrap_or_default();
        // Looking is work: not at every tick.
        let end = cluster.now() + CONSUMPTION_MAX;
        while missing(&history, &deliveries()) > 0 && cluster.now() < end {
            cluster.run_for(Duration::from_millis(250));
        }
        let deliveries = deliveries();
        operations += deliveries.len() as u64;
        let rules = Consumption { disturbances: faults as u32 + 4, in_order: *in_order };
        let verdict = check_consumption(&history, &deliveries, rules);
        breaches.extend(verdict.told.iter().map(|breach| format!("group {group}: {breach}")));
    }
    if !options.leave.contains(&Promise::SlowDisks) {
        check_slow_disks(&mut cluster, &mut breaches);
    }
    let damages = [Kind::FlippedBit, Kind::EmptiedDisk, Kind::OldDisk];
    let disks_were_whole = !damages.iter().any(|kind| nemesis.done.contains_key(kind));
    if disks_were_whole && !cluster.run_until(EQUAL_MAX, |cluster| (0..MEMBERS).all(|m| cluster.is_up(m))) {
        breaches.push("a member does not come back, with nothing wrong with its disk".to_owned());
    }
    let compared = check_logs(&mut cluster, &mut breaches);
    check_states(&mut cluster, &mut breaches);
    if !options.leave.contains(&Promise::FreshReads) {
        breaches.append(&mut shared.breaches.lock());
    }
    breaches.append(&mut shared.offsets.lock());
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
        drawn: nemesis.drawn(),
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
fn check_queues(cluster: &mut Cluster, history: &History, breaches: &mut Vec<String>) {
    let shown = history.clone();
    let outcome = cluster.ask(READ_MAX, |world| async move {
        let mut checker = Checker::new(&shown);
        read_topic(config(world), "Plain", QUEUES, |part| feed(&mut checker, part)).await?;
        anyhow::Ok(checker.finish())
    });
    judge("Plain", outcome, |_| true, breaches);
}

/// Notes the breaches that count of what reading a topic back came to.
fn judge(
    topic: &str,
    outcome: Option<anyhow::Result<Verdict>>,
    counts: impl Fn(&Violation) -> bool,
    breaches: &mut Vec<String>,
) {
    match outcome {
        Some(Ok(verdict)) => {
            let told = verdict.told.iter().filter(|breach| counts(breach));
            breaches.extend(told.map(|breach| format!("{topic}: {breach}")));
        }
        Some(Err(error)) => breaches.push(format!("{topic} could not be read: {error:#}")),
        None => breaches.push(format!("{topic} could not be read within {READ_MAX:?}")),
    }
}

/// What was delayed comes once, and not early where the clocks were right.
fn check_arrivals(
    cluster: &mut Cluster,
    topic: &str,
    history: &History,
    clocks_were_right: bool,
    breaches: &mut Vec<String>,
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
    judge(topic, outcome, |breach| clocks_were_right || !matches!(breach, Violation::Early { .. }), breaches);
}

/// With every disk slow, but not so slow that an operator would throw it away, the group elects and stores.
fn check_slow_disks(cluster: &mut Cluster, breaches: &mut Vec<String>) {
    const SYNC: Duration = Duration::from_millis(80);
    const SERVES_MAX: Duration = Duration::from_secs(20);
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
        breaches.push(format!("with syncs of {SYNC:?} nothing was stored within {SERVES_MAX:?}"));
    }
    (0..MEMBERS).for_each(|member| cluster.machine(member).set_pace(Pace::default()));
}

/// After a stop in order the members' states are the same where they are as of the same entry.
fn check_states(cluster: &mut Cluster, breaches: &mut Vec<String>) {
    const STOP_MAX: Duration = Duration::from_secs(15);
    (0..MEMBERS).for_each(|member| cluster.stop(member, false));
    if !cluster.run_until(STOP_MAX, |cluster| (0..MEMBERS).all(|member| !cluster.is_up(member))) {
        breaches.push(format!("members did not stop within {STOP_MAX:?}"));
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
    for pair in states.windows(2) {
        let [(one, state), (other, other_state)] = pair else { continue };
        if state != other_state && applied(state).is_some() && applied(state) == applied(other_state) {
            breaches
                .push(format!("the states of members {one} and {other} differ as of {:?}", applied(state)));
        }
    }
}

/// As of which entry (term, index) a state was written: behind a checksum and the version.
fn applied(state: &[u8]) -> Option<(u64, u64)> {
    let (_version, applied): (u8, Option<(u64, u64)>) =
        bincode::serde::decode_from_slice(state.get(4..)?, bincode::config::standard()).ok()?.0;
    applied
}

/// The log of a member, its segments one behind the other, without the zeros at its end.
fn log_of(copy: &DiskCopy) -> Vec<u8> {
    let mut log = Vec::new();
    let dir = format!("{DATA_DIR}/commitlog");
    for (_, content) in copy.files().filter(|(path, _)| path.starts_with(&dir)) {
        log.extend_from_slice(content);
    }
    let end = log.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    log.truncate(end);
    log
}

/// The logs of the members that run are the same to the byte. One that found its own log damaged does not run.
fn check_logs(cluster: &mut Cluster, breaches: &mut Vec<String>) -> u64 {
    let logs = |cluster: &Cluster| -> Vec<(usize, Vec<u8>)> {
        let up = (0..MEMBERS).filter(|member| cluster.is_up(*member));
        up.map(|member| (member, log_of(&cluster.machine(member).copy()))).collect()
    };
    let are_equal = |found: &[(usize, Vec<u8>)]| found.windows(2).all(|pair| pair[0].1 == pair[1].1);
    let end = cluster.now() + EQUAL_MAX;
    let mut found = logs(cluster);
    while !are_equal(&found) && cluster.now() < end {
        cluster.run_for(Duration::from_millis(500));
        found = logs(cluster);
    }
    for pair in found.windows(2) {
        let [(one, log), (other, other_log)] = pair else { continue };
        let differs = log.iter().zip(other_log).position(|(byte, other)| byte != other);
        let (len, other_len) = (log.len(), other_log.len());
        match differs {
            Some(at) => breaches.push(format!("the logs of members {one} and {other} differ at {at}")),
            None if len != other_len => {
                breaches.push(format!("the logs of members {one} and {other} end at {len} and {other_len}"));
            }
            None => {}
        }
    }
    found.iter().map(|(_, log)| log.len() as u64).sum()
}
