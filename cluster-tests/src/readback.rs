//! Reading every queue back from its first offset to its last, for the checker.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use raftmq_client::{Client, ClientConfig, MessageExt, MessageQueue, PullConsumer, PullOptions};
use raftmq_message::properties::names;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::checker::{Arrivals, Checker, Found, Verdict};
use crate::harness::BROKER_NAME;
use crate::history::History;
use crate::workload::{WorkloadOptions, runtime};

/// Messages asked for at a time.
const PULL_MESSAGES: u32 = 1024;
/// Answers that wait for the checker.
const ANSWERS_MAX: usize = 64;
/// Longest time a queue may stand still though its end is not reached.
const STANDSTILL: Duration = Duration::from_secs(20);

/// How often it is looked whether what is missing has come.
const LATER: Duration = Duration::from_millis(200);

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

/// Waits until everything acknowledged has come that a workload has sent to be delivered later, and checks what has come.
/// What is still missing after `timeout` counts as lost.
pub fn read_arrivals(options: &WorkloadOptions, history: &History, timeout: Duration) -> Result<Verdict> {
    let deadline = Instant::now() + timeout;
    loop {
        let mut arrivals = Arrivals::new(history);
        read_topic(options, |part| arrive(&mut arrivals, part))?;
        if arrivals.missing() == 0 || Instant::now() >= deadline {
            return Ok(arrivals.finish());
        }
        std::thread::sleep(LATER);
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
    for message in &messages {
        // Brokers say when such a message was due, unless it was delayed by a level.
        let due_ms = message.property(names::TIMER_OUT_MS).map(str::parse::<i64>).transpose()?;
        let early_ms = due_ms.map_or(0, |due_ms| due_ms - message.store_timestamp_ms);
        let queue_offset = u64::try_from(message.queue_offset).context("a queue offset")?;
        arrivals.message(queue, queue_offset, &message.body, early_ms);
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
