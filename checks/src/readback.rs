//! Reading every queue back from its first offset to its last, for the checker.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use raftmq_client::{Client, ClientConfig, MessageExt, MessageQueue, PullConsumer, PullOptions};
use raftmq_world::Clock;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::checker::{Arrivals, Checker, Found};
use crate::lane::BROKER_NAME;

/// Messages asked for at a time.
const PULL_MESSAGES: u32 = 1024;
/// Answers that wait for the checker.
const ANSWERS_MAX: usize = 64;
/// Longest time a queue may stand still though its end is not reached.
const STANDSTILL: Duration = Duration::from_secs(20);

/// What is read of a queue, in this order.
pub enum Part {
    /// Its first offset.
    Begin { queue: u32, min_offset: u64 },
    /// The next of its messages.
    Messages { queue: u32, messages: Vec<MessageExt> },
    /// The offset that its next message will get.
    End { queue: u32, max_offset: u64 },
}

/// Reads the queues of a topic from the leader, and shows each part of each.
///
/// # Errors
/// A queue cannot be read, or those of `visit`.
pub async fn read_topic(
    config: ClientConfig,
    topic: &str,
    queues: u32,
    mut visit: impl FnMut(Part) -> Result<()>,
) -> Result<()> {
    let (try_timeout, request_timeout) = (Duration::from_secs(3), Duration::from_secs(20));
    let client = Client::new(ClientConfig { try_timeout, request_timeout, ..config });
    let (parts, mut arriving) = mpsc::channel(ANSWERS_MAX);
    let mut readers = JoinSet::new();
    for queue in 0..queues {
        let queue = MessageQueue {
            topic: topic.to_owned(),
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
}

/// Shows a part to a checker.
pub fn feed(checker: &mut Checker<'_>, part: Part) -> Result<()> {
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

/// Shows a part of a topic that delayed messages come to.
pub fn arrive(arrivals: &mut Arrivals<'_>, part: Part, clock: &dyn Clock) -> Result<()> {
    let Part::Messages { queue, messages } = part else { return Ok(()) };
    let now_ms = clock.now_ms().unsigned_abs();
    for message in &messages {
        let stored_ms = u64::try_from(message.store_timestamp_ms).context("a store timestamp")?;
        let queue_offset = u64::try_from(message.queue_offset).context("a queue offset")?;
        // A broker may be wrong about when it stored the message, but not so that it is there earlier.
        arrivals.message(queue, queue_offset, &message.body, stored_ms.min(now_ms));
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
