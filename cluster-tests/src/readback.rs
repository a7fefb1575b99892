//! Reading every queue back from its first offset to its last, for the checker.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use raftmq_client::{Client, ClientConfig, MessageExt, MessageQueue, PullConsumer, PullOptions, World};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::harness::BROKER_NAME;
use crate::workload::{WorkloadOptions, runtime};
use raftmq_checks::checker::{Arrivals, Checker, Found, Lateness, Verdict};
use raftmq_checks::history::History;

/// Messages asked for at a time.
const PULL_MESSAGES: u32 = 1024;
/// Answers that wait for the checker.
const ANSWERS_MAX: usize = 64;
/// Longest time a queue may stand still though its end is not reached.
const STANDSTILL: Duration = Duration::from_secs(20);

/// How often it is looked whether what is missing has come.
const LATER: Duration = Duration::from_millis(200);
/// How long it is waited, when all is there, for copies that must not come.
const SETTLE: Duration = Duration::from_secs(1);

/// What is read of a queue, in this order.
enum Part {
    Begin { queue: u32, min_offset: u64 },
    Messages { queue: u32, messages: Vec<MessageExt> },
    End { queue: u32, max_offset: u64 },
}

/// Reads all queues of a workload's topic from the leader and compares them with its history.
pub fn read_back(options: &WorkloadOptions, history: &History) -> Result<Verdict> {
    let mut checker = Checker::new(history);
    read_topic(options, |part| feed(&mut checker, part))?;
    Ok(checker.finish())
}

/// What a workload has sent to be delivered later.
#[derive(Debug)]
pub struct Delayed {
    /// Its options, whose properties ask for the delay.
    pub options: WorkloadOptions,
    /// The delay that they ask for.
    pub delay: Duration,
    /// What it has sent.
    pub history: History,
}

/// Waits until everything acknowledged has come that is to be delivered later, and for copies that come late; checks what
/// has come of each. What is still missing after `timeout` counts as lost.
pub fn read_arrivals(all: &[Delayed], timeout: Duration) -> Result<Vec<(Verdict, Lateness)>> {
    let deadline = Instant::now() + timeout;
    for delayed in all {
        while delayed.read()?.missing() > 0 && Instant::now() < deadline {
            std::thread::sleep(LATER);
        }
    }
    std::thread::sleep(SETTLE);
    let judge = |delayed: &Delayed| {
        let arrivals = delayed.read().with_context(|| format!("read {} back", delayed.options.topic))?;
        let lateness = arrivals.lateness();
        Ok((arrivals.finish(), lateness))
    };
    all.iter().map(judge).collect()
}

impl Delayed {
    /// What has come so far.
    fn read(&self) -> Result<Arrivals<'_>> {
        let mut arrivals = Arrivals::new(&self.history, self.delay);
        read_topic(&self.options, |part| arrive(&mut arrivals, part))?;
        Ok(arrivals)
    }
}

/// Reads all queues of a workload's topic from the leader.
fn read_topic(options: &WorkloadOptions, mut visit: impl FnMut(Part) -> Result<()>) -> Result<()> {
    let runtime = runtime()?;
    runtime.block_on(async {
        let mut config = ClientConfig::new(&options.name_servers);
        config.try_timeout = Duration::from_secs(3);
        config.request_timeout = Duration::from_secs(20);
        let client = Client::new(config);
        let (parts, mut arriving) = mpsc::channel(ANSWERS_MAX);
        let mut readers = JoinSet::new();
        for queue in 0..options.queues {
            let queue = MessageQueue {
                topic: options.topic.clone(),
                broker_name: BROKER_NAME.to_owned(),
                queue_id: i32::try_from(queue)?,
            };
            readers.spawn(read_queue(client.clone(), queue, parts.clone()));
        }
        drop(parts);
        while let Some(part) = arriving.recv().await {
            visit(part)?;
        }
        while let Some(reader) = readers.join_next().await {
            reader??;
        }
        Ok(())
    })
}

fn arrive(arrivals: &mut Arrivals<'_>, part: Part) -> Result<()> {
    let Part::Messages { queue, messages } = part else { return Ok(()) };
    let now_ms = World::system().clock.now_ms().unsigned_abs();
    for message in &messages {
        let stored_ms = u64::try_from(message.store_timestamp_ms).context("a store timestamp")?;
        let queue_offset = u64::try_from(message.queue_offset).context("a queue offset")?;
        // A broker may be wrong about when it stored the message, but not so that it is there earlier.
        arrivals.message(queue, queue_offset, &message.body, stored_ms.min(now_ms));
    }
    Ok(())
}

fn feed(checker: &mut Checker<'_>, part: Part) -> Result<()> {
    match part {
        Part::Begin { queue, min_offset } => checker.queue(queue, min_offset),
        Part::Messages { queue, messages } => {
            for message in &messages {
                checker.message(&Found {
                    queue,
                    queue_offset: u64::try_from(message.queue_offset).context("a queue offset")?,
                    physical_offset: u64::try_from(message.physical_offset).context("a physical offset")?,
                    body: &message.body,
                });
            }
        }
        Part::End { queue, max_offset } => checker.end_of_queue(queue, max_offset),
    }
    Ok(())
}

async fn read_queue(client: Client, queue: MessageQueue, parts: mpsc::Sender<Part>) -> Result<()> {
    let id = u32::try_from(queue.queue_id)?;
    let consumer = PullConsumer::new(client.clone(), "cluster-tests-reader")?;
    let min = client.min_offset(&queue).await.context("the minimum offset")?;
    let max = client.max_offset(&queue).await.context("the maximum offset")?;
    parts.send(Part::Begin { queue: id, min_offset: u64::try_from(min)? }).await?;
    let mut offset = min;
    let mut moved_at = Instant::now();
    while offset < max {
        let options = PullOptions { max_messages: PULL_MESSAGES, ..PullOptions::default() };
        let pulled = consumer.pull(&queue, offset, options).await;
        let pulled = pulled.with_context(|| format!("pull queue {id} at {offset}"))?;
        let Some(last) = pulled.messages.last() else {
            ensure!(
                moved_at.elapsed() < STANDSTILL,
                "queue {id} gives nothing at {offset}, its end is {max}: {pulled:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        ensure!(
            last.queue_offset >= offset,
            "queue {id} gives offset {} to a pull at {offset}",
            last.queue_offset
        );
        offset = last.queue_offset + 1;
        moved_at = Instant::now();
        parts.send(Part::Messages { queue: id, messages: pulled.messages }).await?;
    }
    parts.send(Part::End { queue: id, max_offset: u64::try_from(max)? }).await?;
    Ok(())
}
