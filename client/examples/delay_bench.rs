//! Measures how late delayed messages are: sends them, consumes them, and tells what lay between their time and theirs.
//!
//! `delay_bench <name servers> timers|level|pending <messages> <messages a second>`
//!
//! * `timers`: sent ahead, each with a time of its own, the times so many a second.
//! * `level`: sent so many a second with delay level 1.
//! * `pending`: sent as fast as it goes, due within hours; nothing is consumed.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "measures in real time")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use raftmq_client::{Client, ClientConfig, Message, MessageQueue, Producer, PullConsumer, PullOptions};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::Instant;

const LEVEL_1_MS: u64 = 1_000;
/// Sends on their way at a time.
const SENDERS: u64 = 512;

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

#[derive(Clone)]
struct Run {
    topic: String,
    mode: String,
    count: u64,
    rate: u64,
    begin_ms: u64,
}

impl Run {
    fn message(&self, n: u64) -> Message {
        let message = Message::new(&self.topic, vec![b'x'; 128]);
        match self.mode.as_str() {
            "timers" => {
                let due_ms = self.begin_ms + n * 1000 / self.rate;
                message.with_deliver_time_ms(due_ms).with_property("due", &due_ms.to_string())
            }
            "level" => message.with_delay_level(1).with_property("due", &(now_ms() + LEVEL_1_MS).to_string()),
            _ => message.with_deliver_time_ms(self.begin_ms + 3_600_000 + n * 7_200_000 / self.count),
        }
    }
}

/// Returns how many failed.
async fn send_all(client: Client, run: Run) -> u64 {
    let producer = Arc::new(Producer::new(client, "delayed").unwrap());
    let (failed, next) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let start = Instant::now();
    let mut senders = tokio::task::JoinSet::new();
    for _ in 0..SENDERS {
        let (producer, run, next, failed) = (producer.clone(), run.clone(), next.clone(), failed.clone());
        senders.spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= run.count {
                    return;
                }
                if run.mode == "level" {
                    let at = Duration::from_micros(n * 1_000_000 / run.rate);
                    tokio::time::sleep_until(start + at).await;
                }
                if producer.send(&run.message(n)).await.is_err() {
                    failed.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    while senders.join_next().await.is_some() {}
    println!("{} sent in {:?}", run.count, start.elapsed());
    failed.load(Ordering::Relaxed)
}

/// Tells how late messages are at the consumer and at the broker, in ms.
async fn consume(client: Client, queue: MessageQueue, out: UnboundedSender<(i64, i64)>) {
    let consumer = PullConsumer::new(client, "delayed-consumer").unwrap();
    let options =
        PullOptions { max_messages: 1000, suspend: Duration::from_secs(5), ..PullOptions::default() };
    let mut offset = 0;
    loop {
        let Ok(pulled) = consumer.pull(&queue, offset, options).await else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        offset = pulled.next_begin_offset;
        let now = now_ms() as i64;
        for message in pulled.messages {
            let due = message.property("due").and_then(|due| due.parse::<i64>().ok());
            if let Some(due) = due
                && out.send((now - due, message.store_timestamp_ms - due)).is_err()
            {
                return;
            }
        }
    }
}

fn report(what: &str, mut late_ms: Vec<i64>) {
    late_ms.sort_unstable();
    let at = |quantile: f64| late_ms[((late_ms.len() - 1) as f64 * quantile) as usize];
    println!(
        "late at the {what}, ms: min {} p50 {} p90 {} p99 {} p99.9 {} max {}",
        at(0.0),
        at(0.5),
        at(0.9),
        at(0.99),
        at(0.999),
        at(1.0)
    );
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args: Vec<String> = std::env::args().collect();
    let (mode, count, rate) = (args[2].clone(), args[3].parse().unwrap(), args[4].parse().unwrap());
    let mut config = ClientConfig::new(&args[1]);
    config.try_timeout = Duration::from_secs(3);
    let client = Client::new(config);
    let topic = format!("Delayed-{mode}-{}", now_ms());
    Producer::new(client.clone(), "delayed").unwrap().send(&Message::new(&topic, "first")).await.unwrap();
    // Time enough to send them.
    let ahead_ms = if mode == "timers" { 5_000 + count / 10 } else { 0 };
    let run = Run { topic: topic.clone(), mode, count, rate, begin_ms: now_ms() + ahead_ms };
    if run.mode == "pending" {
        println!("{} failed", send_all(client, run).await);
        return;
    }
    let (told, mut late) = unbounded_channel();
    for queue in client.fetch_queues(&topic).await.unwrap() {
        tokio::spawn(consume(client.clone(), queue, told.clone()));
    }
    let deadline = Instant::now() + Duration::from_millis(ahead_ms + count * 1000 / rate + 20_000);
    let sending = tokio::spawn(send_all(client, run));
    let (mut at_consumer, mut at_broker) = (Vec::new(), Vec::new());
    while (at_consumer.len() as u64) < count
        && let Ok(Some((consumer, broker))) = tokio::time::timeout_at(deadline, late.recv()).await
    {
        at_consumer.push(consumer);
        at_broker.push(broker);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let more = std::iter::from_fn(|| late.try_recv().ok()).count();
    println!("{} of {count} consumed, {more} more", at_consumer.len());
    println!("{} sends failed", sending.await.unwrap());
    report("broker", at_broker);
    report("consumer", at_consumer);
}
