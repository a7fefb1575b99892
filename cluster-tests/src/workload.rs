//! Producers that send until they are told to stop.
//!
//! Each connection is a client of its own with many lanes; see [`raftmq_checks::history`] for what a lane is. A failed try
//! refreshes the route at once and is repeated, with the same body, until it is acknowledged or the message is given up.
//! Each single try is made and judged here rather than by the client's producer, as the checker must know of each
//! whether it may have stored the message.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use raftmq_client::{Client, ClientConfig, TopicConfig};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use raftmq_checks::history::{History, Lane};
use raftmq_checks::lane::LaneTask;
pub use raftmq_checks::lane::WorkloadOptions;
use raftmq_checks::pulse::Pulse;
use raftmq_client::World;

/// Longest time for the topic to be made.
const TOPIC_TIMEOUT: Duration = Duration::from_secs(20);

/// Producers at work.
#[derive(Debug)]
pub struct Workload {
    options: WorkloadOptions,
    runtime: Runtime,
    pulse: Arc<Pulse>,
    stop: Arc<AtomicBool>,
    lanes: Vec<JoinHandle<Lane>>,
}

impl Workload {
    /// Makes the topic and starts to send.
    pub fn start(options: WorkloadOptions) -> Result<Self> {
        let runtime = runtime()?;
        let pulse = Arc::new(Pulse::new(World::system().clock));
        let stop = Arc::new(AtomicBool::new(false));
        let lanes = {
            let _inside = runtime.enter();
            let clients: Vec<_> = (0..options.connections).map(|_| client(&options)).collect();
            runtime.block_on(make_topic(&clients[0], &options))?;
            let every = clients.iter().flat_map(|client| (0..options.lanes).map(move |_| client.clone()));
            let tasks = every.enumerate().map(|(number, client)| {
                LaneTask::new(number as u32, client, &options, pulse.clone(), stop.clone())
            });
            tasks.map(|task| runtime.spawn(task.run())).collect()
        };
        Ok(Self { options, runtime, pulse, stop, lanes })
    }

    /// The options it was started with.
    pub fn options(&self) -> &WorkloadOptions {
        &self.options
    }

    /// Acknowledgements so far, and the gaps between them.
    pub fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// Waits until so many more messages were acknowledged.
    pub fn wait_for_acks(&self, more: u64, timeout: Duration) -> Result<()> {
        let (start, wanted) = (Instant::now(), self.pulse.beats() + more);
        while self.pulse.beats() < wanted {
            let missing = wanted - self.pulse.beats();
            if start.elapsed() >= timeout {
                bail!("{missing} of {more} acknowledgements had not come after {timeout:?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Lets every lane finish its message, and gives what happened.
    pub fn stop(self) -> Result<History> {
        self.stop.store(true, Ordering::Release);
        let Self { options, runtime, lanes, pulse, .. } = self;
        let lanes = runtime.block_on(async {
            let mut histories = Vec::with_capacity(lanes.len());
            for lane in lanes {
                histories.push(lane.await.context("a lane ended badly")?);
            }
            anyhow::Ok(histories)
        })?;
        let began_us = pulse.began_us();
        Ok(History { run: options.run, began_us, body_bytes: options.body_bytes, lanes })
    }
}

/// Makes the topic of a workload before it starts, for consumers that are to be there first.
pub fn prepare(options: &WorkloadOptions) -> Result<()> {
    runtime()?.block_on(async { make_topic(&client(options), options).await })
}

/// The runtime of a workload or of what reads back. Two threads leave the nodes most of the machine.
pub(crate) fn runtime() -> Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).thread_name("workload").enable_all().build().context("start the tokio runtime")
}

fn client(options: &WorkloadOptions) -> Client {
    let mut config = ClientConfig::new(&options.name_servers);
    config.try_timeout = options.try_timeout;
    Client::new(config)
}

async fn make_topic(client: &Client, options: &WorkloadOptions) -> Result<()> {
    let queues = i32::try_from(options.queues).context("the number of queues")?;
    let topic = TopicConfig {
        topic_name: options.topic.clone(),
        read_queue_nums: queues,
        write_queue_nums: queues,
        ..TopicConfig::default()
    };
    let deadline = Instant::now() + TOPIC_TIMEOUT;
    loop {
        let Err(error) = client.create_topic(&topic).await else { break };
        if Instant::now() >= deadline {
            return Err(error).with_context(|| format!("create topic {}", options.topic));
        }
    }
    // A try to send to a topic that has no route yet would create it with other queues.
    while let Err(error) = client.routes().get(&options.topic).await {
        if Instant::now() >= deadline {
            return Err(error).with_context(|| format!("the route of topic {}", options.topic));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
