//! A closed loop of sends: every response is answered by a new request.

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use raftmq_message::topic::validate_group;
use raftmq_world::World;

use super::args::{CONNECTIONS_MAX, seconds};
use super::connection::{Loop, Window};
use super::frames::{GROUP, RequestShape, Template};
use super::report::print;
use super::tally::{SendReport, Tally};
use super::target::{Target, TargetArgs};
use super::thread::{current_thread, thread_cpu_ns};

/// The pause before a broken connection is made anew.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// Most requests in flight on a connection: a safeguard against a typing error.
const IN_FLIGHT_MAX: u32 = 1_000_000;
/// Connections that fill a topic, and requests in flight on each.
const FILL: (u32, u32) = (4, 256);
/// How long filling a topic may take.
const FILL_PATIENCE: Duration = Duration::from_secs(3600);

/// A load of sends.
#[derive(Args, Clone, Debug)]
pub(super) struct SendArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Connections
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=CONNECTIONS_MAX as i64))]
    connections: u32,
    /// Requests in flight on each connection
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=IN_FLIGHT_MAX as i64))]
    in_flight: u32,
    /// Bytes of each body
    #[arg(long, default_value_t = 128)]
    body_size: usize,
    /// Seconds that count
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    seconds: f64,
    /// Seconds before that
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    warmup: f64,
    /// Threads that generate the load
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: u32,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

/// Runs the load and prints the report.
pub(super) fn run(args: &SendArgs, world: &World) -> anyhow::Result<()> {
    let report = measure(args, world)?;
    print(&report, args.json)?;
    if report.acked == 0 {
        bail!("nothing was acknowledged{}", report.first_error.map_or(String::new(), |e| format!(": {e}")));
    }
    Ok(())
}

fn measure(args: &SendArgs, world: &World) -> anyhow::Result<SendReport> {
    validate_group(GROUP)?;
    let target = current_thread()?.block_on(Target::find(&args.target, world))?;
    let templates = templates(&target, args.body_size)?;
    let epoch = Instant::now();
    let measure_from = epoch + Duration::from_secs_f64(args.warmup);
    let window = Window { epoch, measure_from, until: measure_from + Duration::from_secs_f64(args.seconds) };
    let mut total = Tally::new();
    std::thread::scope(|scope| {
        let (templates, target) = (&templates[..], &target);
        let generate = |thread| move || generate(args, thread, templates, target, window);
        let threads: Vec<_> = (0..args.threads).map(|thread| scope.spawn(generate(thread))).collect();
        for thread in threads {
            total.merge(thread.join().map_err(|_| anyhow!("a generator thread panicked"))??);
        }
        anyhow::Ok(())
    })?;
    Ok(total.report(args.seconds.max(f64::MIN_POSITIVE)))
}

/// Sends `messages` messages to the queues in turn. What is refused, or lost with a connection, is not sent again.
pub(super) async fn fill(target: &Target, messages: u64, body_size: usize) -> anyhow::Result<()> {
    let templates = templates(target, body_size)?;
    let now = Instant::now();
    let window = Window { epoch: now, measure_from: now, until: now + FILL_PATIENCE };
    let budget = Cell::new(messages);
    let (connections, in_flight) = FILL;
    let loops = (0..connections).map(|index| {
        let mut state = Loop::new(&templates, in_flight, index, window, &budget);
        async move {
            let mut tally = Tally::new();
            let outcome = state.run(target, &mut tally).await;
            outcome.map(|()| tally)
        }
    });
    let mut total = Tally::new();
    for tally in futures_util::future::join_all(loops).await {
        total.merge(tally.map_err(|error| anyhow!(error))?);
    }
    let report = total.report(now.elapsed().as_secs_f64());
    if report.acked == 0 && messages > 0 {
        bail!("nothing was acknowledged: {}", report.first_error.unwrap_or_default());
    }
    Ok(())
}

/// A request for each queue.
pub(super) fn templates(target: &Target, body_size: usize) -> anyhow::Result<Vec<Template>> {
    let run = u64::from(std::process::id()) << 32 | u64::from(std::process::id().rotate_left(16));
    let mut key_prefix = [b'0'; 24];
    key_prefix[8..].copy_from_slice(format!("{run:016X}").as_bytes());
    let body = random_body(body_size);
    let shape = |queue_id| RequestShape {
        group: GROUP,
        topic: &target.topic,
        queue_id,
        default_queues: target.queues,
        key_prefix,
        body: &body,
    };
    let made: Result<Vec<_>, String> =
        (0..target.queues).map(|queue_id| Template::new(&shape(queue_id))).collect();
    made.map_err(|error| anyhow!(error)).context("the request")
}

/// Bytes that do not repeat, by xorshift.
fn random_body(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// One thread with its share of the connections.
fn generate(
    args: &SendArgs,
    thread: u32,
    templates: &[Template],
    target: &Target,
    window: Window,
) -> anyhow::Result<Tally> {
    let runtime = current_thread()?;
    let mine = (0..args.connections).filter(|connection| connection % args.threads == thread);
    let unlimited = Cell::new(u64::MAX);
    runtime.block_on(async {
        let cpu = async {
            tokio::time::sleep_until(window.measure_from.into()).await;
            thread_cpu_ns()
        };
        let loops = mine.map(|index| {
            let state = Loop::new(templates, args.in_flight, index, window, &unlimited);
            keep_running(state, target, window)
        });
        let (before, tallies) = futures_util::future::join(cpu, futures_util::future::join_all(loops)).await;
        let mut total = Tally::new();
        tallies.into_iter().for_each(|tally| total.merge(tally));
        total.cpu_ns = thread_cpu_ns().saturating_sub(before);
        Ok(total)
    })
}

/// One connection, made anew whenever it breaks, until the window ends.
async fn keep_running(mut state: Loop<'_>, target: &Target, window: Window) -> Tally {
    let mut tally = Tally::new();
    while Instant::now() < window.until {
        let attempt = state.run(target, &mut tally);
        // Ends when the time is over, even if the server says nothing any more.
        match tokio::time::timeout_at(window.until.into(), attempt).await {
            Ok(Err(error)) => tally.broken(&error),
            Ok(Ok(())) | Err(_) => break,
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::super::null_server::tests::with_server;
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: SendArgs,
    }

    fn args(line: &str) -> SendArgs {
        Line::try_parse_from(std::iter::once("bench").chain(line.split(' '))).unwrap().args
    }

    #[test]
    fn a_run_counts_what_a_server_acknowledges() {
        let report = with_server(|addr| {
            let line =
                format!("--addr {addr} --connections 3 --in-flight 7 --queues 2 --seconds 0.3 --warmup 0.1");
            measure(&args(&format!("{line} --threads 2")), &World::system()).unwrap()
        });
        assert!(report.acked > 100, "{report}");
        assert_eq!((report.errors, report.first_error.as_deref()), (0, None));
        let latencies = report.latencies;
        assert!(latencies.p50_us > 0.0 && latencies.p50_us <= latencies.p99_us);
        assert!(latencies.p99_us <= latencies.max_us);
        assert_eq!(report.acked_per_s, (report.acked as f64 / 0.3).round());
    }

    #[test]
    fn a_server_that_is_not_there_is_an_error_and_ends_in_time() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        drop(listener);
        let report =
            measure(&args(&format!("--addr {addr} --seconds 0.2 --warmup 0")), &World::system()).unwrap();
        assert_eq!(report.acked, 0);
        assert!(report.first_error.unwrap().contains("connect to"));
    }

    #[test]
    fn impossible_arguments_are_refused() {
        for line in ["--connections 0", "--in-flight 0", "--seconds -1", "--warmup nan", "--queues 0"] {
            assert!(Line::try_parse_from(std::iter::once("bench").chain(line.split(' '))).is_err(), "{line}");
        }
        assert!(measure(&args("--topic a\"b --addr 127.0.0.1:1"), &World::system()).is_err());
    }
}
