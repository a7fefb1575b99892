//! The programs that use a cluster while faults are done to it: producers, consumers of every kind, readers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use raftmq_checks::deliveries::Deliveries;
use raftmq_checks::history::Lane;
use raftmq_checks::lane::{BROKER_NAME, LaneTask, WorkloadOptions};
use raftmq_checks::listener::{begin, listener};
use raftmq_checks::pulse::Pulse;
use raftmq_checks::reborn::Reborn;
use raftmq_client::{
    Client, ClientConfig, ConsumeFromWhere, LitePullConsumer, LitePullConsumerConfig, MessageQueue,
    MessageSelector, PullConsumer, PushConsumer, PushConsumerConfig, TopicConfig, World,
};
use raftmq_world::Random;
use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::promise::{Breaches, Promise};

/// Queues of the topic.
pub(crate) const QUEUES: u32 = 3;
/// Producers.
pub(crate) const LANES: u32 = 6;
/// Producers of each kind of delayed messages.
const DELAYED_LANES: u32 = 2;
/// Delayed messages: their topic, and the property that asks for the delay: by level, and by time.
pub(crate) const LATER: [(&str, &str); 2] =
    [("ByLevel", "DELAY\u{1}1\u{2}"), ("ByTime", "TIMER_DELAY_MS\u{1}1000\u{2}")];
/// Topics that are deleted and made again.
pub(crate) const REBORN: [&str; 2] = ["Reborn-1", "Reborn-2"];

/// What the programs of a run share with whoever looks at it afterwards.
#[derive(Clone, Default)]
pub(crate) struct Shared {
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) ready: Arc<AtomicBool>,
    pub(crate) plain: Lanes,
    pub(crate) later: [Lanes; LATER.len()],
    /// How many answers readers got.
    pub(crate) reads: Arc<AtomicU64>,
    pub(crate) breaches: Arc<Mutex<Breaches>>,
    pulse: Arc<Mutex<Option<Arc<Pulse>>>>,
}

/// What lanes have sent, by their numbers, once they have ended.
pub(crate) type Lanes = Arc<Mutex<Vec<(u32, Lane)>>>;

impl Shared {
    pub(crate) fn pulse(&self) -> Option<Arc<Pulse>> {
        self.pulse.lock().clone()
    }

    /// Acknowledged sends to the plain topic.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.pulse().map_or(0, |pulse| pulse.beats())
    }
}

pub(crate) fn config(world: World) -> ClientConfig {
    ClientConfig { world, ..ClientConfig::new(&Cluster::name_servers()) }
}

pub(crate) fn workload(seed: u64) -> WorkloadOptions {
    WorkloadOptions {
        topic: "Plain".to_owned(),
        queues: QUEUES,
        pause: Duration::from_millis(20),
        ..WorkloadOptions::new(Cluster::name_servers(), seed)
    }
}

fn plain_queue(queue: u32) -> MessageQueue {
    MessageQueue { topic: "Plain".to_owned(), broker_name: BROKER_NAME.to_owned(), queue_id: queue as i32 }
}

/// Producers, each with one message on its way.
pub(crate) async fn produce(world: World, options: WorkloadOptions, shared: Shared) {
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

/// How the members of a group consume.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// They are given messages, as they come.
    Pushed,
    /// They are given messages, each queue's in order.
    InOrder,
    /// They ask for them.
    Polled,
}

/// A member of a consumer group. It never ends.
pub(crate) async fn consume(world: World, number: u32, group: &str, how: How, log: Deliveries) {
    let client = Client::new(config(world));
    let consume_from_where = ConsumeFromWhere::FirstOffset;
    if how == How::Polled {
        let settings = LitePullConsumerConfig { consume_from_where, ..LitePullConsumerConfig::new(group) };
        return poll(client, settings, number, &log).await;
    }
    let settings = PushConsumerConfig { consume_from_where, ..PushConsumerConfig::new(group) };
    let consumer = PushConsumer::new(client, settings).expect("good settings");
    consumer.subscribe("Plain", MessageSelector::all()).await.expect("tags are not checked by a broker");
    let work = Duration::from_millis(1);
    let listener = listener(number, how == How::InOrder, work, Arc::new(|_| true), &log);
    consumer.register_message_listener(listener).expect("it has none yet");
    consumer.start().await.expect("it was not started");
    std::future::pending::<()>().await;
}

async fn poll(client: Client, settings: LitePullConsumerConfig, number: u32, log: &Deliveries) {
    let consumer = LitePullConsumer::start(client, settings).await.expect("good settings");
    consumer.subscribe("Plain", MessageSelector::all()).await.expect("tags are not checked by a broker");
    loop {
        let messages = consumer.poll(Duration::from_secs(1)).await.expect("it is not shut down");
        for message in &messages {
            begin(number, message, &plain_queue(message.queue_id.unsigned_abs()), log).consumed();
        }
    }
}

/// Asks where queues end: never before what was acknowledged before the question.
///
/// A leader may wait for what it has appended for a second before it answers. So readers wait as long as the Java client
/// does, and pause for long and short times: else they would ask at certain moments only.
pub(crate) async fn read(world: World, random: Random, shared: Shared) {
    let client = Client::new(ClientConfig { try_timeout: Duration::from_secs(3), ..config(world) });
    while !shared.stop.load(Ordering::Relaxed) {
        let pause_max = if random.below(2) == 0 { 50 } else { 1000 };
        tokio::time::sleep(Duration::from_millis(10 + random.below(pause_max))).await;
        let Some(pulse) = shared.pulse() else { continue };
        let queue = random.below(u64::from(QUEUES)) as u32;
        let acknowledged = pulse.end_of(queue);
        let Ok(end) = client.max_offset(&plain_queue(queue)).await else { continue };
        shared.reads.fetch_add(1, Ordering::Relaxed);
        if (end as u64) < acknowledged {
            let what =
                format!("queue {queue} was said to end at {end}, when {acknowledged} had been acknowledged");
            shared.breaches.lock().add(Promise::FreshReads, what);
        }
    }
}

/// Deletes a topic and makes it again.
pub(crate) async fn renew(world: World, topic: &str, shared: Shared) {
    let clock = world.clock.clone();
    let client = Client::new(config(world));
    let reborn = Reborn::new(client, clock, topic, "Plain", Duration::from_secs(3));
    let seen = reborn.run(&shared.stop).await;
    shared.reads.fetch_add(seen.generations, Ordering::Relaxed);
    let mut breaches = shared.breaches.lock();
    seen.breaches.iter().for_each(|what| breaches.add(Promise::Deleted, what));
}

/// Commits offsets, and asks for them: what was committed never goes back.
pub(crate) async fn commit(world: World, random: Random, shared: Shared) {
    let client = Client::new(config(world));
    let consumer = PullConsumer::new(client, "committer").expect("a good name");
    let queue = plain_queue(0);
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
            let what = format!("{certain} was committed, {tried} perhaps, and {found} is what is there");
            shared.breaches.lock().add(Promise::Offsets, what);
        }
    }
}
