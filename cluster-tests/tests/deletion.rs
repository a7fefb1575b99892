//! Topics that are deleted and made again, by real processes that are killed meanwhile.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "works on real processes in real time"
)]
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use raftmq_checks::reborn::Reborn;
use raftmq_client::{Client, ClientConfig, TopicConfig, World};
use raftmq_cluster_tests::harness::{Group, GroupOptions};
use tokio::task::JoinSet;

/// For anything that must happen.
const LONG: Duration = Duration::from_secs(60);
/// Topics at a time.
const TOPICS: u32 = 4;

#[test]
fn a_topic_that_is_made_again_is_empty_whoever_is_killed_meanwhile() {
    let options = GroupOptions { segment_size: "1MiB".to_owned(), ..GroupOptions::default() };
    let mut group = Group::start(&options).unwrap();
    group.wait_ready(LONG).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let in_runtime = runtime.enter();
    let client = Client::new(ClientConfig::new(&group.name_servers()));
    drop(in_runtime);
    let anchor = TopicConfig {
        topic_name: "Stays".to_owned(),
        read_queue_nums: 1,
        write_queue_nums: 1,
        ..TopicConfig::default()
    };
    runtime.block_on(client.create_topic(&anchor)).unwrap();

    let stop = Arc::new(AtomicBool::new(false));
    let mut programs = JoinSet::new();
    for number in 0..TOPICS {
        let (client, clock, stop) = (client.clone(), World::system().clock, stop.clone());
        let (topic, timeout) = (format!("Reborn-{number}"), Duration::from_secs(1));
        let reborn = Reborn::new(client, clock, &topic, "Stays", timeout);
        programs.spawn_on(async move { reborn.run(&stop).await }, runtime.handle());
    }
    for _ in 0..2 {
        std::thread::sleep(Duration::from_secs(2));
        let leader = group.wait_all_caught_up(LONG).unwrap();
        group.kill(leader.node_id).unwrap();
        group.wait_new_leader(&leader, LONG).unwrap();
        std::thread::sleep(Duration::from_secs(2));
        group.start_node(leader.node_id).unwrap();
    }
    group.wait_all_caught_up(LONG).unwrap();
    group.kill_all().unwrap();
    group.start_all().unwrap();
    group.wait_all_caught_up(LONG).unwrap();
    stop.store(true, Ordering::Relaxed);
    let mut generations = 0;
    while let Some(seen) = runtime.block_on(programs.join_next()) {
        let seen = seen.unwrap();
        assert!(seen.breaches.is_empty(), "{:?}", seen.breaches);
        generations += seen.generations;
    }
    assert!(generations > u64::from(TOPICS), "{generations}");
    group.check_alive().unwrap();
}
