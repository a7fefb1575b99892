//! How soon a send is accepted after the leader was killed, in simulated time, by how long every member's syncs take; and, with
//! `steady`, whether a load of minutes goes without an election and without a send that is refused.
//!
//! `cargo run --profile sim -p raftmq-sim --example failover -- [steady MINUTES SYNC_MS]`

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a program for a person")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use raftmq_client::{Client, ClientConfig, Message, Producer, World};
use raftmq_sim::{Cluster, ClusterOptions, Ending, MEMBERS, Pace, entropy};

const KILLS: usize = 20;
const SENDERS: usize = 8;
const SERVES_MAX: Duration = Duration::from_secs(30);

/// What senders have seen.
#[derive(Clone, Default)]
struct Seen {
    /// When sends were accepted, by the simulation's clock.
    accepted: Arc<Mutex<Vec<Duration>>>,
    refused: Arc<AtomicU64>,
    last_reason: Arc<Mutex<String>>,
}

impl Seen {
    fn count(&self) -> usize {
        self.accepted.lock().len()
    }
}

async fn send(world: World, seen: Seen, clock: Arc<dyn raftmq_world::Clock>) {
    // Longer than the slowest sync, so that none is sent again that is on its way.
    let config = ClientConfig {
        try_timeout: Duration::from_secs(3),
        request_timeout: Duration::from_secs(6),
        world,
        ..ClientConfig::new(&Cluster::name_servers())
    };
    let producer = Producer::new(Client::new(config), "failover").unwrap();
    loop {
        match producer.send(&Message::new("Failover", "a message")).await {
            Ok(_) => seen.accepted.lock().push(clock.passed()),
            Err(error) => {
                seen.refused.fetch_add(1, Ordering::Relaxed);
                *seen.last_reason.lock() = error.to_string();
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A cluster that serves, with syncs of this length.
fn serving(seed: u64, sync: Duration) -> (Cluster, Seen) {
    let mut cluster =
        Cluster::new(seed, ClusterOptions { segment_bytes: 4 << 20, ..ClusterOptions::default() });
    for member in 0..MEMBERS {
        let pace = if sync.is_zero() { Pace::default() } else { Pace { sync_min: sync, sync_max: sync } };
        cluster.machine(member).set_pace(pace);
    }
    let seen = Seen::default();
    for _ in 0..SENDERS {
        let (seen, clock) = (seen.clone(), cluster.clock());
        cluster.run(move |world| send(world, seen, clock));
    }
    assert!(cluster.run_until(SERVES_MAX, |_| seen.count() > 100), "it serves with syncs of {sync:?}");
    (cluster, seen)
}

/// How long after each kill of the leader the first send was accepted.
fn failovers(sync: Duration) -> Vec<Duration> {
    let (mut cluster, seen) = serving(1 + sync.as_millis() as u64, sync);
    let mut took = Vec::new();
    for _ in 0..KILLS {
        let leader = cluster.leader().expect("somebody leads");
        cluster.kill(leader, Ending::Killed, false);
        // What was answered before is on its way for a moment.
        let killed = cluster.now();
        cluster.run_for(Duration::from_millis(20));
        let before = seen.count();
        let serves = cluster.run_until(SERVES_MAX, |_| seen.count() > before);
        took.push(if serves { seen.accepted.lock()[before] - killed } else { SERVES_MAX });
        cluster.start(leader);
        cluster.run_for(Duration::from_secs(5) + Duration::from_millis(cluster.random.below(500)));
    }
    cluster.end();
    took.sort_unstable();
    took
}

fn steady(minutes: u64, sync: Duration) {
    let (mut cluster, seen) = serving(7, sync);
    let (elections, before, refused) =
        (cluster.elections(), seen.count(), seen.refused.load(Ordering::Relaxed));
    cluster.run_for(Duration::from_secs(60 * minutes));
    let longest = seen.accepted.lock()[before..].windows(2).map(|pair| pair[1] - pair[0]).max();
    println!(
        "{minutes} minutes with syncs of {sync:?}: {} elections, {} sends accepted, at most {longest:?} between two, \
         {} refused {}",
        cluster.elections() - elections,
        seen.count() - before,
        seen.refused.load(Ordering::Relaxed) - refused,
        seen.last_reason.lock(),
    );
    cluster.end();
}

fn main() {
    entropy::seed(1);
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [what, minutes, sync_ms] = &args[..]
        && what == "steady"
    {
        return steady(minutes.parse().unwrap(), Duration::from_millis(sync_ms.parse().unwrap()));
    }
    println!("| sync | least | median | most of {KILLS} |\n|---|---|---|---|");
    for sync_ms in [0, 20, 60, 120, 250] {
        let took = failovers(Duration::from_millis(sync_ms));
        println!("| {sync_ms} ms | {:?} | {:?} | {:?} |", took[0], took[KILLS / 2], took[KILLS - 1]);
    }
}
