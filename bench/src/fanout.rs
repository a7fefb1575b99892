//! Many connections, groups and held pulls on one node at once, and sends at a given rate that answer them.
//!
//! Pull number `h` is held on connection `h % connections` by group `h % groups` on queue `h / groups % queues`, so that
//! each message answers an equal share of all pulls. Every answered pull is made again at once.

use std::cell::{Cell, RefCell};
use std::fmt::{Display, Formatter};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use bytes::BytesMut;
use clap::Args;
use futures_util::future::join_all;
use futures_util::{StreamExt, TryStreamExt};
use raftmq_remoting::body::{ConsumerData, HeartbeatData, SubscriptionData};
use raftmq_remoting::codes::{request, response};
use raftmq_remoting::encode::encode_command;
use raftmq_remoting::{Command, Ext};
use raftmq_world::{Stream, World};
use serde::Serialize;
use tokio::time::MissedTickBehavior;

use super::args::{CONNECTIONS_MAX, seconds};
use super::connection::timestamp_now;
use super::frames::{GROUP, OPAQUE_MIN, Template, field, remark};
use super::pulls::{PullShape, PullTemplate};
use super::send;
use super::tally::{Latencies, Tally, write_errors};
use super::target::{Held, Target, TargetArgs};
use super::thread::{current_thread, thread_cpu_ns};
use super::wire::Wire;

/// How long the broker may hold a pull, as the official clients ask.
const HOLD: Duration = Duration::from_secs(15);
/// As the official clients; a broker forgets who is silent for 120 s.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// Connections that are being made at a time: fewer than listeners queue up.
const CONNECTING: usize = 64;
/// Thousands of connections have one each; an answer of 32 small messages makes it grow.
const READ_BUFFER_BYTES: usize = 2048;
/// A pull that has had no answer for so long is held.
const HELD_AFTER: Duration = Duration::from_millis(500);
/// A pull that brings nothing is early by more than this if it was not held as long as asked for.
const HOLD_SLACK: Duration = Duration::from_secs(1);
/// Messages asked for by a pull.
const BATCH: u32 = 32;
/// Heartbeats have an opaque that no pull has.
const HEARTBEAT_OPAQUE: u32 = OPAQUE_MIN - 1;
/// How often the producer looks whether sends are due.
const TICK: Duration = Duration::from_millis(1);
/// Sends without an answer; the producer falls behind its rate rather than have more.
const SENDS_IN_FLIGHT: usize = 4096;
/// The pause of a connection after a refused pull.
const PAUSE_AFTER_ERRORS: Duration = Duration::from_millis(100);

/// A load of held pulls.
#[derive(Args, Clone, Debug)]
pub(super) struct FanoutArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Connections
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=CONNECTIONS_MAX as i64))]
    connections: u32,
    /// Consumer groups
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    groups: u32,
    /// Held pulls
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    holds: u32,
    /// Messages sent a second
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    rate: u32,
    /// Bytes of each body
    #[arg(long, default_value_t = 128)]
    body_size: usize,
    /// Seconds between the last pull and the first send; pulls that have waited for half a second then count as held
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    settle: f64,
    /// Seconds that count
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    seconds: f64,
    /// Seconds of sending before that
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    warmup: f64,
    /// The server's process, to report its memory
    #[arg(long)]
    pid: Option<u32>,
    /// Print one line of JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// The outcome. Latencies are those of sends.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct FanoutReport {
    connections: u32,
    groups: u32,
    /// Pulls that were made.
    pulls: u32,
    /// Those of them that the broker held when the first message was sent.
    held: u32,
    /// Answers without messages that came before the time was over for which the broker was asked to hold the pull.
    early: u64,
    /// Held pulls that were answered with messages while the run counted.
    answered: u64,
    answered_per_s: f64,
    /// Sends that were acknowledged.
    acked: u64,
    acked_per_s: f64,
    #[serde(flatten)]
    latencies: Latencies,
    /// Pulls and sends that were refused, warm-up included.
    errors: u64,
    /// Share of the time that the generator itself was busy: at 1 it measures itself.
    generator_busy: f64,
    /// The server's memory without the connections, with the pulls held, and at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<[Memory; 3]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_error: Option<String>,
}

impl Display for FanoutReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { connections, groups, pulls, held, early, .. } = self;
        writeln!(f, "held          {held} of {pulls} pulls of {groups} groups on {connections} connections")?;
        if *early > 0 {
            writeln!(f, "early         {early} answers without messages before their time")?;
        }
        writeln!(f, "answered      {} pulls ({:.0} a second)", self.answered, self.answered_per_s)?;
        writeln!(f, "acknowledged  {} sends ({:.0} a second)", self.acked, self.acked_per_s)?;
        write_errors(f, self.errors, self.first_error.as_deref())?;
        writeln!(f, "send latency  {}", self.latencies)?;
        if let Some([before, held, end]) = &self.memory {
            writeln!(f, "memory        before {before}; held {held}; end {end}")?;
        }
        write!(f, "generator     busy for {:.0} % of the time", self.generator_busy * 100.0)
    }
}

/// What a process has in memory, in KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Memory {
    /// All of it, mapped files included.
    rss_kib: u64,
    /// Its own.
    anonymous_kib: u64,
}

impl Display for Memory {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} MiB (anonymous {} MiB)", self.rss_kib / 1024, self.anonymous_kib / 1024)
    }
}

impl Memory {
    fn of(pid: u32) -> anyhow::Result<Self> {
        let path = format!("/proc/{pid}/status");
        let status = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        Self::parse(&status).with_context(|| format!("no memory in {path}"))
    }

    fn parse(status: &str) -> Option<Self> {
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.trim().strip_suffix(" kB")?.parse().ok()
        };
        Some(Self { rss_kib: kib("VmRSS")?, anonymous_kib: kib("RssAnon")? })
    }
}

/// Holds pulls and sends to them.
pub(super) fn measure(args: &FanoutArgs, world: &World) -> anyhow::Result<FanoutReport> {
    ensure!(args.holds >= args.connections, "{} pulls for {} connections", args.holds, args.connections);
    current_thread()?.block_on(async {
        let target = Target::find(&args.target, world).await?;
        // The first ones make the topic.
        send::fill(&target, u64::from(target.queues), args.body_size).await?;
        let held = target.held().await?;
        let before = args.pid.map(Memory::of).transpose()?;
        let mut consumers = connect_all(args, &target, &held).await?;
        let counts = Counts::new(args.holds);
        let consume = join_all(consumers.iter_mut().map(|consumer| consumer.run(&counts)));
        tokio::select! {
            report = load(args, &target, &counts, before) => report,
            _ = consume => bail!("all connections broke: {}", counts.tally.borrow().first_error().unwrap_or_default()),
        }
    })
}

/// Waits until the pulls are held, then sends.
async fn load(
    args: &FanoutArgs,
    target: &Target,
    counts: &Counts,
    before: Option<Memory>,
) -> anyhow::Result<FanoutReport> {
    tokio::time::sleep(Duration::from_secs_f64(args.settle)).await;
    let held = args.pid.map(Memory::of).transpose()?;
    let waiting = counts.held();
    let templates = send::templates(target, args.body_size)?;
    let mut producer = Producer::new(&templates, target).await.map_err(|error| anyhow!(error))?;
    let rate = f64::from(args.rate);
    let mut send = async |seconds| {
        let sent = producer.run(rate, Duration::from_secs_f64(seconds), counts).await;
        sent.map_err(|error| anyhow!("{}: {error}", target.addr))
    };
    send(args.warmup).await?;
    let busy_before = thread_cpu_ns();
    counts.counting.set(true);
    send(args.seconds).await?;
    counts.counting.set(false);
    let busy_ns = thread_cpu_ns().saturating_sub(busy_before);
    let end = args.pid.map(Memory::of).transpose()?;
    let memory = before.zip(held).zip(end).map(|((before, held), end)| [before, held, end]);
    let report = counts.report(args, waiting, busy_ns, memory);
    ensure!(
        args.rate == 0 || report.acked > 0,
        "nothing was acknowledged: {}",
        report.first_error.unwrap_or_default()
    );
    Ok(report)
}

/// What all connections count together.
struct Counts {
    /// Of all pulls, by number.
    waits: RefCell<Vec<Wait>>,
    early: Cell<u64>,
    /// Whether the run counts yet.
    counting: Cell<bool>,
    answered: Cell<u64>,
    /// Of sends, and everything's errors.
    tally: RefCell<Tally>,
}

/// How long a pull waits for its answer.
#[derive(Debug, Clone, Copy)]
struct Wait {
    since: Instant,
    /// Whether its last answer came when the time was over for which the broker was asked to hold it.
    was_held: bool,
}

impl Wait {
    /// Whether the broker holds the pull.
    fn is_held(&self, now: Instant) -> bool {
        self.was_held || now.saturating_duration_since(self.since) >= HELD_AFTER
    }

    /// An answer without messages came, and the pull is made again. Whether the answer came early.
    fn over(&mut self, now: Instant) -> bool {
        let waited = now.saturating_duration_since(self.since);
        let was_held = waited + HOLD_SLACK >= HOLD;
        *self = Self { since: now, was_held };
        !was_held
    }
}

impl Counts {
    fn new(pulls: u32) -> Self {
        let wait = Wait { since: Instant::now(), was_held: false };
        Self {
            waits: RefCell::new(vec![wait; pulls as usize]),
            early: Cell::new(0),
            counting: Cell::new(false),
            answered: Cell::new(0),
            tally: RefCell::new(Tally::new()),
        }
    }

    /// How many pulls the broker holds.
    fn held(&self) -> u32 {
        let now = Instant::now();
        self.waits.borrow().iter().filter(|wait| wait.is_held(now)).count() as u32
    }

    /// A pull was answered and is made again.
    fn answered(&self, number: u32, code: i32) {
        let mut waits = self.waits.borrow_mut();
        let (wait, now) = (&mut waits[number as usize], Instant::now());
        if code == response::SUCCESS {
            *wait = Wait { since: now, was_held: false };
            self.answered.set(self.answered.get() + u64::from(self.counting.get()));
        } else if wait.over(now) && is_empty(code) {
            self.early.set(self.early.get() + 1);
        }
    }

    fn report(
        &self,
        args: &FanoutArgs,
        held: u32,
        busy_ns: u64,
        memory: Option<[Memory; 3]>,
    ) -> FanoutReport {
        let tally = self.tally.borrow();
        let seconds = args.seconds.max(f64::MIN_POSITIVE);
        FanoutReport {
            connections: args.connections,
            groups: args.groups,
            pulls: args.holds,
            held,
            early: self.early.get(),
            answered: self.answered.get(),
            answered_per_s: (self.answered.get() as f64 / seconds).round(),
            acked: tally.count(),
            acked_per_s: (tally.count() as f64 / seconds).round(),
            latencies: tally.latencies(),
            errors: tally.errors,
            generator_busy: busy_ns as f64 / 1e9 / seconds,
            memory,
            first_error: tally.first_error(),
        }
    }
}

/// Makes the connections, a few at a time, and writes each one's heartbeat and pulls.
async fn connect_all(args: &FanoutArgs, target: &Target, held: &[Held]) -> anyhow::Result<Vec<Consumer>> {
    let connecting = (0..args.connections).map(|index| async move {
        let numbers = (index..args.holds).step_by(args.connections as usize);
        let pulls =
            numbers.map(|number| Pull::new(args, target, held, number)).collect::<Result<Vec<_>, _>>()?;
        let heartbeat = heartbeat(index, target, &pulls)?;
        let stream = target.connect().await?;
        let mut consumer = Consumer { stream, wire: Wire::new(READ_BUFFER_BYTES), pulls, heartbeat };
        consumer.begin();
        Ok::<_, String>(consumer)
    });
    let connecting = futures_util::stream::iter(connecting).buffer_unordered(CONNECTING);
    connecting.map(|consumer| consumer.map_err(|error| anyhow!(error))).try_collect().await
}

/// A pull that is held most of the time.
#[derive(Debug)]
struct Pull {
    number: u32,
    group: String,
    template: PullTemplate,
    offset: u64,
}

impl Pull {
    fn new(args: &FanoutArgs, target: &Target, held: &[Held], number: u32) -> Result<Self, String> {
        let group = format!("{GROUP}-{}", number % args.groups);
        let queue = held[(number / args.groups) as usize % held.len()];
        let template = PullTemplate::new(&PullShape {
            group: &group,
            topic: &target.topic,
            queue_id: queue.queue_id,
            batch: BATCH,
            hold_ms: HOLD.as_millis() as u64,
        })?;
        Ok(Self { number, group, template, offset: queue.max })
    }
}

/// A heartbeat of a client with the groups of these pulls.
fn heartbeat(index: u32, target: &Target, pulls: &[Pull]) -> Result<Vec<u8>, String> {
    let mut groups: Vec<_> = pulls.iter().map(|pull| &pull.group).collect();
    groups.sort_unstable();
    groups.dedup();
    let subscription = SubscriptionData {
        topic: target.topic.clone(),
        sub_string: "*".to_owned(),
        expression_type: "TAG".to_owned(),
        ..SubscriptionData::default()
    };
    let consumer = |group: &String| ConsumerData {
        group_name: group.clone(),
        subscription_data_set: vec![subscription.clone()],
        ..ConsumerData::default()
    };
    let data = HeartbeatData {
        client_id: format!("{GROUP}-{}@{index}", std::process::id()),
        consumer_data_set: groups.into_iter().map(consumer).collect(),
        ..HeartbeatData::default()
    };
    let body = serde_json::to_vec(&data).map_err(|error| error.to_string())?;
    let mut command = Command::request(request::HEART_BEAT, Ext::new()).with_body(body);
    command.opaque = HEARTBEAT_OPAQUE as i32;
    let mut frame = BytesMut::new();
    encode_command(&command, &mut frame).map_err(|error| error.to_string())?;
    Ok(frame.to_vec())
}

/// One connection with its pulls; a pull's place tells its opaque.
struct Consumer {
    stream: Stream,
    wire: Wire,
    pulls: Vec<Pull>,
    /// The whole request.
    heartbeat: Vec<u8>,
}

impl Consumer {
    fn begin(&mut self) {
        self.wire.output.extend_from_slice(&self.heartbeat);
        for (opaque, pull) in (OPAQUE_MIN..).zip(&self.pulls) {
            pull.template.write(&mut self.wire.output, opaque, pull.offset);
        }
    }

    /// Makes every answered pull again, until the connection breaks.
    async fn run(&mut self, counts: &Counts) {
        let mut beat = tokio::time::interval_at((Instant::now() + HEARTBEAT).into(), HEARTBEAT);
        loop {
            let outcome = tokio::select! {
                read = self.wire.exchange(&mut self.stream) => read.and_then(|()| self.answer(counts)),
                _ = beat.tick() => {
                    self.wire.output.extend_from_slice(&self.heartbeat);
                    Ok(0)
                }
            };
            match outcome {
                Ok(0) => {}
                Ok(_refused) => tokio::time::sleep(PAUSE_AFTER_ERRORS).await,
                Err(error) => {
                    let mut tally = counts.tally.borrow_mut();
                    tally.errors += self.pulls.len() as u64;
                    return tally.broken(&error);
                }
            }
        }
    }

    /// Takes what has come; how many pulls were refused.
    fn answer(&mut self, counts: &Counts) -> Result<u32, String> {
        let mut refused = 0;
        while let Some(answer) = self.wire.input.next()? {
            // Below are answers of heartbeats and requests that the broker makes.
            let Some(place) = answer.opaque.checked_sub(OPAQUE_MIN) else { continue };
            let pull = self
                .pulls
                .get_mut(place as usize)
                .ok_or_else(|| format!("a response to request {}, which was not made", answer.opaque))?;
            counts.answered(pull.number, answer.code);
            if answer.code != response::SUCCESS && !is_empty(answer.code) {
                refused += 1;
                counts.tally.borrow_mut().refused(answer.code, || remark(answer.header));
            }
            let next = field(answer.header, "nextBeginOffset").and_then(|next| u64::try_from(next).ok());
            pull.offset = next.unwrap_or(pull.offset);
            pull.template.write(&mut self.wire.output, answer.opaque, pull.offset);
        }
        Ok(refused)
    }
}

/// Whether an answer says that there is nothing to be had, as it must in the end of a pull that is held.
fn is_empty(code: i32) -> bool {
    matches!(code, response::PULL_NOT_FOUND | response::PULL_RETRY_IMMEDIATELY | response::PULL_OFFSET_MOVED)
}

/// Sends at a rate, to the queues in turn.
struct Producer<'a> {
    stream: Stream,
    wire: Wire,
    templates: &'a [Template],
    sent: u64,
    /// When each request was sent, by its opaque's remainder, while it is in flight.
    in_flight: Vec<Option<Instant>>,
}

impl<'a> Producer<'a> {
    async fn new(templates: &'a [Template], target: &Target) -> Result<Self, String> {
        Ok(Self {
            stream: target.connect().await?,
            wire: Wire::new(READ_BUFFER_BYTES),
            templates,
            sent: 0,
            in_flight: vec![None; SENDS_IN_FLIGHT],
        })
    }

    /// Sends `rate` messages a second for some time.
    async fn run(&mut self, rate: f64, time: Duration, counts: &Counts) -> Result<(), String> {
        let (start, sent_before) = (Instant::now(), self.sent);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while start.elapsed() < time {
            tokio::select! {
                read = self.wire.exchange(&mut self.stream) => {
                    read?;
                    self.answer(counts)?;
                }
                _ = tick.tick() => {
                    let due = (start.elapsed().as_secs_f64() * rate) as u64;
                    while self.sent - sent_before < due && self.issue() {}
                }
            }
        }
        Ok(())
    }

    /// Sends a message, if there is a free place among those in flight.
    fn issue(&mut self) -> bool {
        let place = self.sent as usize % SENDS_IN_FLIGHT;
        if self.in_flight[place].is_some() {
            return false;
        }
        self.in_flight[place] = Some(Instant::now());
        let template = &self.templates[self.sent as usize % self.templates.len()];
        template.write(&mut self.wire.output, OPAQUE_MIN + place as u32, &timestamp_now(), self.sent as u32);
        self.sent += 1;
        true
    }

    fn answer(&mut self, counts: &Counts) -> Result<(), String> {
        let now = Instant::now();
        while let Some(answer) = self.wire.input.next()? {
            let place = answer.opaque.wrapping_sub(OPAQUE_MIN) as usize;
            let sent = self.in_flight.get_mut(place).and_then(Option::take);
            let sent = sent
                .ok_or_else(|| format!("a response to request {}, which is not in flight", answer.opaque))?;
            match answer.code {
                response::SUCCESS if counts.counting.get() => {
                    counts.tally.borrow_mut().acknowledged((now - sent).as_nanos() as u64);
                }
                response::SUCCESS => {}
                code => counts.tally.borrow_mut().refused(code, || remark(answer.header)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_is_held_that_waits_and_early_if_it_gets_nothing_before_its_time() {
        let since = Instant::now();
        let mut wait = Wait { since, was_held: false };
        assert!(!wait.is_held(since) && wait.is_held(since + HELD_AFTER));
        let soon = since + Duration::from_millis(10);
        assert!(wait.over(soon), "answered after 10 ms");
        assert!(!wait.is_held(soon));
        let in_time = soon + HOLD;
        assert!(!wait.over(in_time), "answered when its time was over");
        assert!(wait.is_held(in_time), "it will be held again");
    }

    #[test]
    fn answers_are_counted_by_what_they_are() {
        let counts = Counts::new(3);
        assert_eq!(counts.held(), 0);
        counts.answered(0, response::PULL_NOT_FOUND);
        counts.answered(1, response::SUCCESS);
        counts.answered(2, response::SYSTEM_BUSY);
        assert_eq!((counts.early.get(), counts.answered.get()), (1, 0));
        counts.counting.set(true);
        counts.answered(1, response::SUCCESS);
        assert_eq!((counts.early.get(), counts.answered.get()), (1, 1));
    }

    #[test]
    fn memory_is_read_from_a_process_status() {
        let status = "Name:\traftmq\nVmRSS:\t  123456 kB\nRssAnon:\t    7890 kB\nRssFile:\t 1 kB\n";
        assert_eq!(Memory::parse(status), Some(Memory { rss_kib: 123_456, anonymous_kib: 7890 }));
        assert_eq!(Memory::parse("VmRSS:\t1 kB\n"), None);
    }
}
