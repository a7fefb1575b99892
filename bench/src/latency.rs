//! From a send to the answer of a pull that was held, on a topic where nothing else happens.

use std::fmt::{Display, Formatter};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use clap::Args;
use raftmq_remoting::codes::response;
use raftmq_world::{Stream, World};
use serde::Serialize;

use super::connection::timestamp_now;
use super::frames::{GROUP, OPAQUE_MIN, Response, Template, remark};
use super::pulls::{PullShape, PullTemplate, count_records};
use super::send;
use super::tally::{Latencies, Tally};
use super::target::{Target, TargetArgs};
use super::thread::current_thread;
use super::wire::{STALLED, Wire};

/// How long the broker may hold a pull; pulls are answered long before.
const HOLD: Duration = Duration::from_secs(15);
/// Until the messages from before can be pulled.
const SETTLE: Duration = Duration::from_secs(1);
/// Room for an answer of one small message.
const READ_BUFFER_BYTES: usize = 4096;
/// The queue that is used.
const QUEUE: u32 = 0;

/// A measurement of latency.
#[derive(Args, Clone, Debug)]
pub(super) struct LatencyArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Messages that count
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    repeats: u32,
    /// Messages before those
    #[arg(long, default_value_t = 100)]
    warmup: u32,
    /// Milliseconds from a pull to the send that answers it
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pause_ms: u64,
    /// Bytes of each body
    #[arg(long, default_value_t = 128)]
    body_size: usize,
    /// Print one line of JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// The outcome. Latencies are from before a send is written to after the answer of the held pull was read.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct LatencyReport {
    /// Messages that were delivered.
    pub(super) delivered: u64,
    #[serde(flatten)]
    pub(super) latencies: Latencies,
    /// The same to the answer of the send.
    pub(super) send: Latencies,
}

impl Display for LatencyReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "delivered     {}", self.delivered)?;
        writeln!(f, "delivery      {}", self.latencies)?;
        write!(f, "send          {}", self.send)
    }
}

/// Sends to held pulls, one at a time.
pub(super) fn measure(args: &LatencyArgs, world: &World) -> anyhow::Result<LatencyReport> {
    current_thread()?.block_on(async {
        let target = Target::find(&args.target, world).await?;
        // The first one makes the topic.
        send::fill(&target, u64::from(target.queues), args.body_size).await?;
        let held = target.held().await?;
        let queue = held.into_iter().find(|held| held.queue_id == QUEUE).context("the topic has no queue")?;
        let mut pair = Pair::new(args, &target, queue.max).await.map_err(|error| anyhow!(error))?;
        for round in 0..args.warmup.saturating_add(args.repeats) {
            if round == args.warmup {
                (pair.delivered, pair.acknowledged) = (Tally::new(), Tally::new());
            }
            let done = tokio::time::timeout(STALLED, pair.round(Duration::from_millis(args.pause_ms))).await;
            done.map_err(|_| anyhow!("no answer for {} s", STALLED.as_secs()))?
                .map_err(|error| anyhow!("{}: {error}", target.addr))?;
        }
        Ok(LatencyReport {
            delivered: pair.delivered.count(),
            latencies: pair.delivered.latencies(),
            send: pair.acknowledged.latencies(),
        })
    })
}

/// A producer and a consumer.
struct Pair {
    producer: Peer,
    consumer: Peer,
    send: Template,
    pull: PullTemplate,
    /// Of the next message.
    offset: u64,
    /// Whether a pull has been held at the queue's end.
    holding: bool,
    delivered: Tally,
    acknowledged: Tally,
}

/// One side's connection.
struct Peer {
    stream: Stream,
    wire: Wire,
}

impl Pair {
    async fn new(args: &LatencyArgs, target: &Target, offset: u64) -> Result<Self, String> {
        let mut templates = send::templates(target, args.body_size).map_err(|error| format!("{error:#}"))?;
        let shape = PullShape {
            group: GROUP,
            topic: &target.topic,
            queue_id: QUEUE,
            batch: 32,
            hold_ms: HOLD.as_millis() as u64,
        };
        Ok(Self {
            producer: Peer::connect(target).await?,
            consumer: Peer::connect(target).await?,
            send: templates.swap_remove(QUEUE as usize),
            pull: PullTemplate::new(&shape)?,
            offset,
            holding: false,
            delivered: Tally::new(),
            acknowledged: Tally::new(),
        })
    }

    /// Makes a pull and waits until the broker must have come to hold it. What it finds at first is skipped: brokers
    /// acknowledge messages before they can be pulled.
    async fn hold(&mut self, pause: Duration) -> Result<(), String> {
        let pause = if self.holding { pause } else { pause.max(SETTLE) };
        loop {
            let offset = self.offset;
            self.pull.write(&mut self.consumer.wire.output, OPAQUE_MIN, offset);
            tokio::select! {
                early = self.consumer.answer(|answer| found(answer, offset)) => {
                    let (count, _) = early?;
                    if self.holding || count == 0 {
                        return Err(format!("a pull at the queue's end found {count} messages before one was sent"));
                    }
                    self.offset += count;
                }
                () = tokio::time::sleep(pause) => break,
            }
        }
        self.holding = true;
        Ok(())
    }

    /// A held pull, and a send that answers it.
    async fn round(&mut self, pause: Duration) -> Result<(), String> {
        self.hold(pause).await?;
        let offset = self.offset;
        let start = Instant::now();
        self.send.write(&mut self.producer.wire.output, OPAQUE_MIN, &timestamp_now(), offset as u32);
        let acknowledged = self.producer.answer(accepted);
        let delivered = self.consumer.answer(|answer| found(answer, offset));
        let (acknowledged, delivered) = tokio::try_join!(acknowledged, delivered)?;
        let (count, at) = delivered;
        if count != 1 {
            return Err(format!("{count} messages for one send: the topic is not idle"));
        }
        self.offset += count;
        self.acknowledged.acknowledged((acknowledged.1 - start).as_nanos() as u64);
        self.delivered.acknowledged((at - start).as_nanos() as u64);
        Ok(())
    }
}

fn accepted(answer: &Response<'_>) -> Result<(), String> {
    match answer.code {
        response::SUCCESS => Ok(()),
        code => Err(format!("code {code}: {}", remark(answer.header))),
    }
}

/// The number of messages that a pull has found.
fn found(answer: &Response<'_>, offset: u64) -> Result<u64, String> {
    accepted(answer)?;
    count_records(answer.body, offset)
}

impl Peer {
    async fn connect(target: &Target) -> Result<Self, String> {
        Ok(Self { stream: target.connect().await?, wire: Wire::new(READ_BUFFER_BYTES) })
    }

    /// Writes what is to be written and waits for an answer; what was read from it, and when it had come.
    async fn answer<T>(
        &mut self,
        read: impl FnOnce(&Response<'_>) -> Result<T, String>,
    ) -> Result<(T, Instant), String> {
        loop {
            self.wire.exchange(&mut self.stream).await?;
            let at = Instant::now();
            if let Some(answer) = self.wire.input.next()? {
                return Ok((read(&answer)?, at));
            }
        }
    }
}
