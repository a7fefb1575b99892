//! A backlog read as fast as it comes: each connection has one pull in flight, over its share of the queues in turn.

use std::fmt::{Display, Formatter};
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use clap::Args;
use futures_util::future::{join, join_all};
use raftmq_remoting::codes::response;
use raftmq_world::{Stream, World};
use serde::Serialize;

use super::args::{CONNECTIONS_MAX, seconds};
use super::frames::{GROUP, OPAQUE_MIN, field, remark};
use super::pulls::{PullShape, PullTemplate, count_records};
use super::send;
use super::tally::{Latencies, Tally, write_errors};
use super::target::{Held, Target, TargetArgs};
use super::thread::{current_thread, thread_cpu_ns};
use super::wire::{STALLED, Wire};

/// Room for an answer of 32 small messages; longer ones make it grow.
const READ_BUFFER_BYTES: usize = 64 * 1024;
/// The pause after a refused pull.
const PAUSE_AFTER_ERRORS: Duration = Duration::from_millis(5);

/// A load of pulls.
#[derive(Args, Clone, Debug)]
pub(super) struct DrainArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Send first what the queues lack of this many messages
    #[arg(long, value_name = "MESSAGES")]
    fill: Option<u64>,
    /// Bytes of each body sent for that
    #[arg(long, default_value_t = 128)]
    body_size: usize,
    /// Connections; the queues are divided over them
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=CONNECTIONS_MAX as i64))]
    connections: u32,
    /// Messages asked for by a pull
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    batch: u32,
    /// Read from the start again and again until this time is over; otherwise everything once
    #[arg(long, value_parser = seconds)]
    seconds: Option<f64>,
    /// Seconds before that
    #[arg(long, default_value_t = 0.0, value_parser = seconds, requires = "seconds")]
    warmup: f64,
    /// Threads that generate the load
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: u32,
    /// Print one line of JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// When to count, and when to stop; without an end everything is read once.
#[derive(Clone, Copy, Debug)]
struct Window {
    from: Instant,
    until: Option<Instant>,
}

/// What one connection, or all of them, have read.
struct Drained {
    /// Of pulls.
    tally: Tally,
    messages: u64,
    bytes: u64,
    /// When the last answer came that counts.
    end: Instant,
}

impl Drained {
    fn nothing(at: Instant) -> Self {
        Self { tally: Tally::new(), messages: 0, bytes: 0, end: at }
    }

    fn merge(&mut self, other: Self) {
        self.tally.merge(other.tally);
        self.messages += other.messages;
        self.bytes += other.bytes;
        self.end = self.end.max(other.end);
    }

    fn report(&self, from: Instant) -> DrainReport {
        let measured_s = self.end.saturating_duration_since(from).as_secs_f64().max(f64::MIN_POSITIVE);
        let per_s = |count: u64| (count as f64 / measured_s).round();
        DrainReport {
            messages: self.messages,
            messages_per_s: per_s(self.messages),
            megabytes_per_s: self.bytes as f64 / measured_s / 1e6,
            pulls: self.tally.count(),
            pulls_per_s: per_s(self.tally.count()),
            seconds: measured_s,
            errors: self.tally.errors,
            latencies: self.tally.latencies(),
            generator_ns_per_message: (self.tally.cpu_ns as f64 / self.messages.max(1) as f64).round(),
            first_error: self.tally.first_error(),
        }
    }
}

/// The outcome of draining. Latencies are those of pulls.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct DrainReport {
    /// Messages that came while the run counted, each where its queue has it.
    pub(super) messages: u64,
    pub(super) messages_per_s: f64,
    /// Bytes of records, 10^6 of them.
    pub(super) megabytes_per_s: f64,
    /// Pulls that brought messages.
    pub(super) pulls: u64,
    pub(super) pulls_per_s: f64,
    /// How long that took.
    pub(super) seconds: f64,
    /// Pulls that were refused or brought nothing.
    pub(super) errors: u64,
    #[serde(flatten)]
    pub(super) latencies: Latencies,
    /// CPU time that the generator itself took for a message, while the run counted.
    pub(super) generator_ns_per_message: f64,
    /// The first error, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) first_error: Option<String>,
}

impl Display for DrainReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "messages      {} ({:.0} a second)", self.messages, self.messages_per_s)?;
        writeln!(f, "bytes         {:.0} MB a second", self.megabytes_per_s)?;
        writeln!(f, "pulls         {} ({:.0} a second)", self.pulls, self.pulls_per_s)?;
        write_errors(f, self.errors, self.first_error.as_deref())?;
        writeln!(f, "latency       {}", self.latencies)?;
        write!(f, "generator     {:.0} ns of CPU a message", self.generator_ns_per_message)
    }
}

/// Fills the topic if asked to, and reads it.
pub(super) fn measure(args: &DrainArgs, world: &World) -> anyhow::Result<DrainReport> {
    let (target, held) = current_thread()?.block_on(prepare(args, world))?;
    let start = Instant::now();
    let from = start + Duration::from_secs_f64(args.warmup);
    let window = Window { from, until: args.seconds.map(|seconds| from + Duration::from_secs_f64(seconds)) };
    let mut total = Drained::nothing(start);
    std::thread::scope(|scope| {
        let (target, held) = (&target, &held[..]);
        let threads: Vec<_> = (0..args.threads)
            .map(|thread| scope.spawn(move || drain_share(args, thread, target, held, window)))
            .collect();
        for thread in threads {
            total.merge(thread.join().map_err(|_| anyhow!("a generator thread panicked"))??);
        }
        anyhow::Ok(())
    })?;
    Ok(total.report(from))
}

/// The queues and what they hold, after filling them.
async fn prepare(args: &DrainArgs, world: &World) -> anyhow::Result<(Target, Vec<Held>)> {
    let target = Target::find(&args.target, world).await?;
    if args.connections > target.queues {
        bail!("{} connections for {} queues: one of each is the most", args.connections, target.queues);
    }
    let count = |held: &[Held]| held.iter().map(|queue| queue.max - queue.min).sum::<u64>();
    if let Some(wanted) = args.fill {
        // A topic that does not exist yet has no offsets to ask for.
        let mut there = target.held().await.map_or(0, |held| count(&held));
        while there < wanted {
            send::fill(&target, wanted - there, args.body_size).await?;
            there = count(&target.held().await?);
        }
    }
    let held = target.held().await?;
    if count(&held) == 0 {
        bail!("the topic {} of {} holds no messages", target.topic, target.addr);
    }
    Ok((target, held))
}

/// One thread with its share of the connections.
fn drain_share(
    args: &DrainArgs,
    thread: u32,
    target: &Target,
    held: &[Held],
    window: Window,
) -> anyhow::Result<Drained> {
    let mine = (0..args.connections).filter(|connection| connection % args.threads == thread);
    current_thread()?.block_on(async {
        let connections = mine.map(|connection| async move {
            let queues = held.iter().filter(|queue| queue.queue_id % args.connections == connection);
            let readers = queues.map(|queue| Reader::new(target, *queue, args.batch));
            let mut drain = Connection::new(readers.collect::<Result<_, _>>()?, window);
            let stream = target.connect().await?;
            drain.run(stream).await.map_err(|error| format!("{}: {error}", target.addr))?;
            Ok::<_, String>(drain.drained)
        });
        let cpu = async {
            tokio::time::sleep_until(window.from.into()).await;
            thread_cpu_ns()
        };
        let (before, drained) = join(cpu, join_all(connections)).await;
        let mut total = Drained::nothing(window.from);
        for drained in drained {
            total.merge(drained.map_err(|error| anyhow!(error))?);
        }
        total.tally.cpu_ns = thread_cpu_ns().saturating_sub(before);
        Ok(total)
    })
}

/// One queue and how far it has been read.
#[derive(Debug)]
struct Reader {
    template: PullTemplate,
    held: Held,
    at: u64,
}

impl Reader {
    fn new(target: &Target, held: Held, batch: u32) -> Result<Self, String> {
        let (topic, queue_id) = (&target.topic, held.queue_id);
        let template = PullTemplate::new(&PullShape { group: GROUP, topic, queue_id, batch, hold_ms: 0 })?;
        Ok(Self { template, held, at: held.min })
    }
}

/// One connection and its queues.
struct Connection {
    readers: Vec<Reader>,
    /// Whose turn it is.
    turn: usize,
    window: Window,
    wire: Wire,
    drained: Drained,
}

impl Connection {
    fn new(readers: Vec<Reader>, window: Window) -> Self {
        let drained = Drained::nothing(window.from);
        Self { readers, turn: 0, window, wire: Wire::new(READ_BUFFER_BYTES), drained }
    }

    /// The next queue that is not read to its end, from the start again where there is time; `None` is the end.
    fn next_reader(&mut self) -> Option<usize> {
        if self.window.until.is_some_and(|until| Instant::now() >= until) {
            return None;
        }
        let len = self.readers.len();
        let unread = |index: &usize| self.readers[*index].at < self.readers[*index].held.max;
        let mut found = (1..=len).map(|step| (self.turn + step) % len).find(unread);
        if found.is_none() && self.window.until.is_some() {
            self.readers.iter_mut().for_each(|reader| reader.at = reader.held.min);
            found = (0..len).find(|index| self.readers[*index].at < self.readers[*index].held.max);
        }
        self.turn = found.unwrap_or(self.turn);
        found
    }

    async fn run(&mut self, mut stream: Stream) -> Result<(), String> {
        let mut opaque = OPAQUE_MIN;
        let mut progress = Instant::now();
        while let Some(index) = self.next_reader() {
            opaque ^= 1;
            let sent = Instant::now();
            self.readers[index].template.write(&mut self.wire.output, opaque, self.readers[index].at);
            let brought = loop {
                let exchanged = tokio::time::timeout(STALLED, self.wire.exchange(&mut stream)).await;
                exchanged.map_err(|_| format!("no answer for {} s", STALLED.as_secs()))??;
                if let Some(brought) = self.answered(index, opaque, sent)? {
                    break brought;
                }
            };
            if brought {
                progress = sent;
            } else if progress.elapsed() > STALLED {
                let error = self.drained.tally.first_error().unwrap_or_default();
                return Err(format!("no messages for {} s: {error}", STALLED.as_secs()));
            } else {
                tokio::time::sleep(PAUSE_AFTER_ERRORS).await;
            }
        }
        Ok(())
    }

    /// Takes the answer to a pull, if it has come; whether it brought messages.
    fn answered(&mut self, index: usize, opaque: u32, sent: Instant) -> Result<Option<bool>, String> {
        let Some(response) = self.wire.input.next()? else { return Ok(None) };
        if response.opaque != opaque {
            return Err(format!("a response to request {}, which is not in flight", response.opaque));
        }
        let reader = &mut self.readers[index];
        if response.code != response::SUCCESS {
            self.drained.tally.refused(response.code, || remark(response.header));
            let next = field(response.header, "nextBeginOffset").and_then(|next| u64::try_from(next).ok());
            reader.at = next.unwrap_or(reader.at).clamp(reader.held.min, reader.held.max);
            return Ok(Some(false));
        }
        let count = count_records(response.body, reader.at)?;
        if count == 0 {
            return Err("an answer without messages that says it has some".to_owned());
        }
        reader.at += count;
        let now = Instant::now();
        if now >= self.window.from {
            self.drained.tally.acknowledged((now - sent).as_nanos() as u64);
            self.drained.messages += count;
            self.drained.bytes += response.body.len() as u64;
            self.drained.end = now;
        }
        Ok(Some(true))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::null_server::tests::with_server;
    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: DrainArgs,
    }

    fn args(line: &str) -> DrainArgs {
        Line::try_parse_from(std::iter::once("drain").chain(line.split(' '))).unwrap().args
    }

    #[test]
    fn everything_is_read_once_or_again_until_the_time_is_over() {
        with_server(|addr| {
            let line = format!("--addr {addr} --connections 3 --queues 5 --batch 30 --threads 2");
            let report = measure(&args(&line), &World::system()).unwrap();
            // A queue's last pull brings 10.
            assert_eq!((report.messages, report.pulls, report.errors), (5 * 100_000, 5 * 3334, 0));
            assert!(report.latencies.p50_us > 0.0 && report.messages_per_s > 0.0);
            let report =
                measure(&args(&format!("{line} --seconds 0.5 --warmup 0.1")), &World::system()).unwrap();
            assert!(report.messages > 0 && report.errors == 0, "{report:?}");
            let impossible = args(&format!("--addr {addr} --connections 3 --queues 2"));
            let error = measure(&impossible, &World::system()).unwrap_err();
            assert_eq!(error.to_string(), "3 connections for 2 queues: one of each is the most");
        });
    }
}
