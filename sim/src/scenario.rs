//! One run: programs use a cluster to which faults are done, and then it is looked whether every promise was kept.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use raftmq_checks::checker::{Checker, Consumption, check_consumption, missing};
use raftmq_checks::deliveries::Deliveries;
use raftmq_checks::history::{History, Lane};
use raftmq_checks::lane::{BROKER_NAME, LaneTask, WorkloadOptions};
use raftmq_checks::listener::listener;
use raftmq_checks::pulse::Pulse;
use raftmq_checks::readback::{feed, read_topic};
use raftmq_client::{
    Client, ClientConfig, ConsumeFromWhere, MessageQueue, MessageSelector, PushConsumer, PushConsumerConfig,
    TopicConfig, World,
};
use raftmq_world::Random;
use tokio::task::JoinSet;

use crate::cluster::{Cluster, ClusterOptions, DATA_DIR, MEMBERS};
use crate::disk::DiskCopy;
use crate::nemesis::{Kind, Nemesis};

/// Queues of the topic.
const QUEUES: u32 = 3;
/// Producers.
const LANES: u32 = 6;
/// Until the topic must be there.
const BEGIN_MAX: Duration = Duration::from_secs(20);
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
}

impl Default for ScenarioOptions {
    fn default() -> Self {
        Self { kinds: Kind::ALL.to_vec(), faults: Duration::from_secs(20) }
    }
}

/// What a run has shown.
#[derive(Debug, Default)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// How long it was, in simulated time.
    pub simulated: Duration,
    /// Messages acknowledged, deliveries, answers of readers.
    pub operations: u64,
    /// Faults by kind.
    pub faults: BTreeMap<Kind, u64>,
    /// Starts of members.
    pub starts: u64,
    /// Highest term at the end.
    pub terms: u64,
    /// Bytes of the members' logs that were compared.
    pub compared: u64,
    /// What was broken.
    pub breaches: Vec<String>,
    /// What happened, in order.
    pub trace: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, simulated, operations, starts, compared, breaches, .. } = self;
        let faults: u64 = self.faults.values().sum();
        write!(
            f,
            "seed {seed}: {:.1} s, {operations} operations, {faults} faults, {starts} starts, {compared} bytes compared",
            simulated.as_secs_f64()
        )?;
        breaches.iter().try_for_each(|breach| write!(f, "\n  {breach}"))
    }
}

/// What the programs of a run share with whoever looks at it afterwards.
#[derive(Clone)]
struct Shared {
    stop: Arc<AtomicBool>,
    ready: Arc<AtomicBool>,
    lanes: Arc<Mutex<Vec<(u32, Lane)>>>,
    pulse: Arc<Mutex<Option<Arc<Pulse>>>>,
    reads: Arc<AtomicU64>,
    breaches: Arc<Mutex<Vec<String>>>,
}

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
    let pulse = Arc::new(Pulse::new(world.clock.clone()));
    let client = Client::new(ClientConfig { try_timeout: options.try_timeout, ..config(world) });
    let queues = QUEUES as i32;
    let topic = TopicConfig {
        topic_name: options.topic.clone(),
        read_queue_nums: queues,
        write_queue_nums: queues,
        ..TopicConfig::default()
    };
    while client.create_topic(&topic).await.is_err() || client.routes().get(&options.topic).await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    *shared.pulse.lock() = Some(pulse.clone());
    shared.ready.store(true, Ordering::Relaxed);
    let mut tasks = JoinSet::new();
    for number in 0..LANES {
        let lane = LaneTask::new(number, client.clone(), &options, pulse.clone(), shared.stop.clone());
        tasks.spawn(async move { (number, lane.run().await) });
    }
    while let Some(lane) = tasks.join_next().await {
        shared.lanes.lock().push(lane.expect("a lane does not panic"));
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

/// Runs a seed.
pub fn run(seed: u64, options: &ScenarioOptions) -> Report {
    let random = Random::seeded(seed ^ 0x7363_656e_6172_696f);
    let segment_bytes = (64 * 1024) << random.below(5);
    let mut cluster = Cluster::new(seed, ClusterOptions { segment_bytes, ..ClusterOptions::default() });
    let mut nemesis = Nemesis::new(seed, &options.kinds);
    let shared = Shared {
        stop: Arc::default(),
        ready: Arc::default(),
        lanes: Arc::default(),
        pulse: Arc::default(),
        reads: Arc::default(),
        breaches: Arc::default(),
    };
    let producing = {
        let (shared, load) = (shared.clone(), workload(seed));
        cluster.run(move |world| produce(world, load, shared))
    };
    let mut breaches = Vec::new();
    if !cluster.run_until(BEGIN_MAX, |_| shared.ready.load(Ordering::Relaxed)) {
        breaches.push(format!("no topic could be made within {BEGIN_MAX:?}"));
    }
    type Log = Arc<Mutex<Option<Deliveries>>>;
    let groups: [(&str, bool, Log); 2] =
        [("shared", false, Arc::default()), ("ordered", true, Arc::default())];
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
    let mut lanes = shared.lanes.lock().clone();
    lanes.sort_by_key(|(number, _)| *number);
    let history = History {
        run: seed,
        began_us: shared.pulse().map_or(0, |pulse| pulse.began_us()),
        body_bytes: workload(seed).body_bytes,
        lanes: lanes.into_iter().map(|(_, lane)| lane).collect(),
    };
    check_queues(&mut cluster, &history, &mut breaches);

    let mut operations = history.acknowledged() + shared.reads.load(Ordering::Relaxed);
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
    let compared = check_logs(&mut cluster, &mut breaches);
    breaches.append(&mut shared.breaches.lock());
    let (simulated, starts) = (cluster.now(), cluster.starts());
    Report {
        seed,
        simulated,
        operations,
        faults: nemesis.done,
        starts,
        terms: 0,
        compared,
        breaches,
        trace: cluster.end().lines(),
    }
}

/// Reads every queue back.
fn check_queues(cluster: &mut Cluster, history: &History, breaches: &mut Vec<String>) {
    let outcome = Arc::new(Mutex::new(None));
    let reading = cluster.run({
        let (outcome, history) = (outcome.clone(), history.clone());
        move |world| async move {
            let mut checker = Checker::new(&history);
            let read = read_topic(config(world), "Plain", QUEUES, |part| feed(&mut checker, part)).await;
            *outcome.lock() = Some(read.map(|()| checker.finish()).map_err(|error| format!("{error:#}")));
        }
    });
    cluster.run_until(Duration::from_secs(60), |cluster| cluster.is_done(reading));
    match outcome.lock().take() {
        Some(Ok(verdict)) => breaches.extend(verdict.told.iter().map(ToString::to_string)),
        Some(Err(error)) => breaches.push(format!("the queues could not be read: {error}")),
        None => breaches.push("the queues could not be read within a minute".to_owned()),
    }
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

/// The members' logs are the same to the byte.
fn check_logs(cluster: &mut Cluster, breaches: &mut Vec<String>) -> u64 {
    let logs = |cluster: &Cluster| -> Vec<Vec<u8>> {
        (0..MEMBERS).map(|member| log_of(&cluster.machine(member).copy())).collect()
    };
    let end = cluster.now() + EQUAL_MAX;
    let mut found = logs(cluster);
    while found.iter().any(|log| *log != found[0]) && cluster.now() < end {
        cluster.run_for(Duration::from_millis(500));
        found = logs(cluster);
    }
    for member in 1..MEMBERS {
        let differs = found[0].iter().zip(&found[member]).position(|(one, other)| one != other);
        let lens = (found[0].len(), found[member].len());
        match differs {
            Some(at) => breaches.push(format!("the logs of members 0 and {member} differ at {at}")),
            None if lens.0 != lens.1 => {
                breaches.push(format!("the logs of members 0 and {member} end at {} and {}", lens.0, lens.1));
            }
            None => {}
        }
    }
    found.iter().map(|log| log.len() as u64).sum()
}
