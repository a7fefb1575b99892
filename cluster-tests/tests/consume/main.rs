//! Consumers of the Rust library at a group of real processes, part of them with the leader killed in between.
//!
//! | module | what it is about |
//! |---|---|
//! | `sharing` | members of a group that share a topic: nothing lost, and nothing twice while nothing happens |
//! | `poll` | members that ask for messages themselves |
//! | `order` | each queue's messages one after the other, by one member at a time |
//! | `retry` | messages that are not consumed, and what becomes of them in the end |
//! | `later` | messages that are delivered later |
//! | `choice` | which messages a group gets: filters, broadcasting, offsets set back, reads from followers |
//! | `hostile` | consumers that mean no good |
//!
//! No test says how fast anything must be: timeouts are there so that what hangs is noticed.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "works on real processes in real time"
)]
// Clippy lets tests unwrap, but not the functions they share.
#![allow(clippy::unwrap_used)]

mod choice;
mod hostile;
mod later;
mod order;
mod poll;
mod retry;
mod sharing;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use raftmq_checks::checker::{Consumption, check_consumption, missing};
use raftmq_checks::deliveries::Deliveries;
use raftmq_checks::history::History;
use raftmq_client::{
    Client, ClientConfig, Message, MessageExt, MessageQueue, Producer, PullConsumer, PullOptions,
};
use raftmq_cluster_tests::attack;
use raftmq_cluster_tests::harness::{BROKER_NAME, Group, GroupOptions, PortKind};
use raftmq_cluster_tests::members::{Member, MemberOptions};
use raftmq_cluster_tests::workload::{self, Workload, WorkloadOptions};
use raftmq_remoting::Command;
use serde_json::Value;
use tokio::runtime::Runtime;

/// For anything that must happen.
const LONG: Duration = Duration::from_secs(60);
/// How often something is looked at that cannot be awaited.
const LOOK: Duration = Duration::from_millis(20);
/// How long it is waited, when all is there, for what must not come.
const SETTLE: Duration = Duration::from_secs(1);
/// Acknowledgements after which load is well under way.
const SOME: u64 = 500;
/// Queues of a topic.
const QUEUES: u32 = 8;

/// One group at a time: the machine may be small.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A group that serves, with further flags for its brokers.
fn group(flags: &[&str]) -> Group {
    let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
    let mut group = Group::start(&GroupOptions { flags, ..GroupOptions::default() }).unwrap();
    group.wait_all_caught_up(LONG).unwrap();
    group
}

/// A modest load, so that consumers in a slow build keep up with it.
fn load_options(group: &Group, run: u64) -> WorkloadOptions {
    let pause = Duration::from_millis(4);
    WorkloadOptions {
        queues: QUEUES,
        connections: 4,
        pause,
        ..WorkloadOptions::new(group.name_servers(), run)
    }
}

fn load(options: &WorkloadOptions) -> Workload {
    let workload = Workload::start(options.clone()).unwrap();
    workload.wait_for_acks(SOME, LONG).unwrap();
    workload
}

/// Kills the leader under load and starts it again.
fn kill_leader(group: &mut Group, workload: &Workload) {
    let leader = group.wait_all_caught_up(LONG).unwrap();
    group.kill(leader.node_id).unwrap();
    group.wait_new_leader(&leader, LONG).unwrap();
    workload.wait_for_acks(SOME, LONG).unwrap();
    group.start_node(leader.node_id).unwrap();
    group.wait_all_caught_up(LONG).unwrap();
}

fn end(workload: Workload) -> History {
    workload.wait_for_acks(SOME, LONG).unwrap();
    let message_timeout = workload.options().message_timeout;
    let history = workload.stop().unwrap();
    assert_eq!(history.given_up(), 0, "a message was not acknowledged in {message_timeout:?}");
    history
}

/// Starts so many members, and waits until they have shared the topic's queues.
fn members(count: u32, options: &MemberOptions, log: &Deliveries) -> Vec<Member> {
    let members: Vec<_> = (1..=count).map(|number| Member::start(number, options, log).unwrap()).collect();
    wait_until("the queues to be shared", || {
        let shares: Vec<_> = members.iter().map(|member| member.queues(&options.topic).len()).collect();
        shares.iter().all(|share| *share > 0) && shares.iter().sum::<usize>() == QUEUES as usize
    });
    members
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < LONG, "waited {LONG:?} in vain for {what}");
        std::thread::sleep(LOOK);
    }
}

/// All is there: waits for copies of it that come late.
fn settle() {
    std::thread::sleep(SETTLE);
}

/// Waits until everything acknowledged is consumed and for copies that come late, has the members leave, and checks all
/// that they were given.
fn check(history: &History, log: &Deliveries, members: Vec<Member>, rules: Consumption) {
    let acknowledged = history.acknowledged() as usize;
    // The cheap question first: this is asked after every message.
    let is_complete =
        |deliveries: &[_]| deliveries.len() >= acknowledged && missing(history, deliveries) == 0;
    let is_complete = log.wait(LONG, is_complete);
    settle();
    members.into_iter().for_each(Member::leave);
    let verdict = check_consumption(history, &log.all(), rules);
    assert!(verdict.holds() && is_complete, "{verdict}");
}

/// A client of its own, for a test that sends and looks by itself.
struct Hands {
    runtime: Runtime,
    client: Client,
    producer: Producer,
}

impl Hands {
    fn new(group: &Group) -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().unwrap();
        let inside = runtime.enter();
        let client = Client::new(ClientConfig::new(&group.name_servers()));
        // One try where it can be: a second one may store the message twice, and these tests count.
        let (a_try, a_send) = (Duration::from_secs(10), Duration::from_secs(20));
        let producer = Producer::new(client.clone(), "cluster-tests").unwrap().with_timeouts(a_try, a_send);
        drop(inside);
        Self { runtime, client, producer }
    }

    /// Sends a message and gives its offset message id.
    fn send(&self, message: &Message) -> String {
        self.runtime.block_on(self.producer.send(message)).unwrap().offset_message_id
    }

    /// All messages of a queue so far.
    fn read(&self, topic: &str, queue_id: i32) -> Vec<MessageExt> {
        let queue = MessageQueue { topic: topic.to_owned(), broker_name: BROKER_NAME.to_owned(), queue_id };
        let mut found = Vec::new();
        self.runtime.block_on(async {
            let consumer = PullConsumer::new(self.client.clone(), "cluster-tests-reader").unwrap();
            let Ok(end) = self.client.max_offset(&queue).await else { return };
            let mut offset = 0;
            while offset < end {
                let pulled = consumer.pull(&queue, offset, PullOptions::default()).await.unwrap();
                offset = pulled.next_begin_offset;
                found.extend(pulled.messages);
            }
        });
        found
    }
}

/// Asks a node something that must succeed.
fn ask(group: &Group, node: u64, code: i32, fields: &Value, body: &[u8]) -> Command {
    let to = group.node(node).addr(PortKind::Client);
    let answer = attack::ask(to, &attack::request(code, fields, body)).unwrap();
    assert_eq!(answer.code, 0, "code {code}: {:?}", answer.remark);
    answer
}

/// How often each of some things is there.
fn count<T: Ord>(things: impl IntoIterator<Item = T>) -> BTreeMap<T, usize> {
    let mut counts = BTreeMap::new();
    for thing in things {
        *counts.entry(thing).or_insert(0) += 1;
    }
    counts
}

/// A topic with [`QUEUES`] queues.
fn make_topic(group: &Group, topic: &str) {
    let options = WorkloadOptions { topic: topic.to_owned(), ..load_options(group, 0) };
    workload::prepare(&options).unwrap();
}
