//! Runs one seed, and says what happened.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use raftmq_checks::lane::{LaneTask, WorkloadOptions};
use raftmq_checks::pulse::Pulse;
use raftmq_client::{Client, ClientConfig, TopicConfig};
use raftmq_sim::{Cluster, ClusterOptions, Ending, entropy};

fn main() {
    let seed = std::env::args().nth(1).and_then(|seed| seed.parse().ok()).unwrap_or(1);
    entropy::seed(seed);
    tracing_subscriber::fmt()
        .with_env_filter(std::env::var("RAFTMQ_LOG").unwrap_or_default())
        .without_time()
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    let mut cluster = Cluster::new(seed, ClusterOptions::default());
    let stop = Arc::new(AtomicBool::new(false));
    let lanes = Arc::new(Mutex::new(Vec::new()));
    let program = cluster.run({
        let (stop, lanes) = (stop.clone(), lanes.clone());
        move |world| async move {
            let clock = world.clock.clone();
            let config = ClientConfig { world, ..ClientConfig::new(&Cluster::name_servers()) };
            let client = Client::new(config);
            let mut options = WorkloadOptions::new(Cluster::name_servers(), 7);
            options.queues = 4;
            let pulse = Arc::new(Pulse::new(clock));
            let topic = TopicConfig {
                topic_name: options.topic.clone(),
                read_queue_nums: 4,
                write_queue_nums: 4,
                ..TopicConfig::default()
            };
            while client.create_topic(&topic).await.is_err() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let mut tasks = tokio::task::JoinSet::new();
            for number in 0..4 {
                let lane = LaneTask::new(number, client.clone(), &options, pulse.clone(), stop.clone());
                tasks.spawn(lane.run());
            }
            while let Some(lane) = tasks.join_next().await {
                lanes.lock().push(lane.expect("a lane"));
            }
        }
    });
    cluster.run_for(Duration::from_secs(3));
    cluster.kill(0, Ending::PowerLost, true);
    cluster.run_for(Duration::from_secs(3));
    cluster.hang(1, Duration::from_millis(1500));
    cluster.run_for(Duration::from_secs(4));
    stop.store(true, Ordering::Relaxed);
    assert!(cluster.run_until(Duration::from_secs(60), |cluster| cluster.is_done(program)));
    let counts = cluster.fabric.counts();
    let trace = cluster.end().lines();
    println!("{}", trace.join("\n"));
    println!("{counts:?}");
    for lane in lanes.lock().iter() {
        println!("{lane:?}");
    }
}
