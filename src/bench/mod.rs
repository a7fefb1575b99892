//! A load generator: a closed loop of sends, counted and timed.
//!
//! | module | what it is |
//! |---|---|
//! | `frames` | requests as patched templates, a scan of responses |
//! | `connection` | the loop of one connection |
//! | `tally` | counts, percentiles, the report |
//! | `null_server` | a server that stores nothing, to know the ceiling |
//!
//! It costs the same for every broker that speaks the protocol, so that two can be compared.

mod connection;
mod frames;
pub(crate) mod null_server;
mod tally;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use raftmq_client::{Client, ClientConfig, Routed};
use raftmq_message::topic::{validate_group, validate_topic};

use connection::{Loop, Window};
use frames::{RequestShape, Template};
use tally::{Report, Tally};

/// The pause before a broken connection is made anew.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// Most connections: a safeguard against a typing error.
const CONNECTIONS_MAX: u32 = 10_000;
/// Most requests in flight on a connection, for the same reason.
const IN_FLIGHT_MAX: u32 = 1_000_000;

/// What to measure.
#[derive(Args, Clone, Debug)]
pub(crate) struct BenchArgs {
    /// Name servers as host:port;host:port
    #[arg(long, default_value = "127.0.0.1:9876")]
    namesrv: String,
    /// Send to this address and ask no name server
    #[arg(long, value_name = "HOST:PORT")]
    addr: Option<String>,
    /// The topic; made by the broker if it allows that
    #[arg(long, default_value = "Bench")]
    topic: String,
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
    /// Queues to send to in turn, from 0 on; otherwise those of the route
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    queues: Option<u32>,
    /// Threads that generate the load
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: u32,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("a number of seconds from 0 to 86400".to_owned()),
    }
}

/// Runs the load and prints the report.
pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let report = measure(args)?;
    if args.json {
        println!("{}", serde_json::to_string(&report).context("the report as JSON")?);
    } else {
        println!("{report}");
    }
    if report.acked == 0 {
        bail!("nothing was acknowledged{}", report.first_error.map_or(String::new(), |e| format!(": {e}")));
    }
    Ok(())
}

fn measure(args: &BenchArgs) -> anyhow::Result<Report> {
    validate_topic(&args.topic)?;
    validate_group(GROUP)?;
    let target = Target::find(args)?;
    let body = random_body(args.body_size);
    let templates = templates(args, target.queues, &body)?;
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

const GROUP: &str = "raftmq-bench";

/// Where to send.
struct Target {
    addr: String,
    queues: u32,
}

impl Target {
    fn find(args: &BenchArgs) -> anyhow::Result<Self> {
        /// What clients ask a new topic to have.
        const DEFAULT_QUEUES: u32 = 4;
        if let Some(addr) = &args.addr {
            return Ok(Self { addr: addr.clone(), queues: args.queues.unwrap_or(DEFAULT_QUEUES) });
        }
        let runtime = current_thread()?;
        let routed: Routed = runtime.block_on(async {
            Client::new(ClientConfig::new(&args.namesrv)).routes().get_for_sending(&args.topic).await
        })?;
        let (broker, _) =
            routed.route.nth_writable(0).context("the topic's route has no leader to send to")?;
        let queues = routed.route.writable().filter(|(name, _)| *name == broker).count();
        let addr = routed.route.leader(broker).context("the topic's route has no leader")?.to_owned();
        // A route has at most 2^16 queues for each broker name.
        Ok(Self { addr, queues: args.queues.unwrap_or(queues as u32) })
    }

    async fn resolve(&self) -> Result<SocketAddr, String> {
        let mut found =
            tokio::net::lookup_host(&self.addr).await.map_err(|e| format!("{}: {e}", self.addr))?;
        found.next().ok_or_else(|| format!("{} has no address", self.addr))
    }
}

fn templates(args: &BenchArgs, queues: u32, body: &[u8]) -> anyhow::Result<Vec<Template>> {
    let run = u64::from(std::process::id()) << 32 | u64::from(std::process::id().rotate_left(16));
    let mut key_prefix = [b'0'; 24];
    key_prefix[8..].copy_from_slice(format!("{run:016X}").as_bytes());
    let shape = |queue_id| RequestShape {
        group: GROUP,
        topic: &args.topic,
        queue_id,
        default_queues: queues,
        key_prefix,
        body,
    };
    let made: Result<Vec<_>, String> = (0..queues).map(|queue_id| Template::new(&shape(queue_id))).collect();
    made.map_err(|error| anyhow!(error))
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
    args: &BenchArgs,
    thread: u32,
    templates: &[Template],
    target: &Target,
    window: Window,
) -> anyhow::Result<Tally> {
    let runtime = current_thread()?;
    let mine = (0..args.connections).filter(|connection| connection % args.threads == thread);
    runtime.block_on(async {
        let cpu = async {
            tokio::time::sleep_until(window.measure_from.into()).await;
            thread_cpu_ns()
        };
        let loops = mine.map(|index| keep_running(args, index, templates, target, window));
        let (before, tallies) = futures_util::future::join(cpu, futures_util::future::join_all(loops)).await;
        let mut total = Tally::new();
        tallies.into_iter().for_each(|tally| total.merge(tally));
        total.cpu_ns = thread_cpu_ns().saturating_sub(before);
        Ok(total)
    })
}

/// One connection, made anew whenever it breaks, until the window ends.
async fn keep_running(
    args: &BenchArgs,
    index: u32,
    templates: &[Template],
    target: &Target,
    window: Window,
) -> Tally {
    let mut tally = Tally::new();
    let mut state = Loop::new(templates, args.in_flight, index, window);
    while Instant::now() < window.until {
        let attempt = async {
            let addr = target.resolve().await?;
            state.run(addr, &mut tally).await
        };
        // Ends when the time is over, even if the server says nothing any more.
        match tokio::time::timeout_at(window.until.into(), attempt).await {
            Ok(Err(error)) => tally.broken(&error),
            Ok(Ok(())) | Err(_) => break,
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
    tally
}

/// CPU time of this thread in ns, or 0 where the system does not tell.
fn thread_cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0)
}

fn current_thread() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: BenchArgs,
    }

    fn args(line: &str) -> BenchArgs {
        Line::try_parse_from(std::iter::once("bench").chain(line.split(' '))).unwrap().args
    }

    #[test]
    fn a_run_counts_what_a_server_acknowledges() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = std::thread::spawn(move || {
            current_thread().unwrap().block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    served = null_server::serve(listener) => served.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        let line =
            format!("--addr {addr} --connections 3 --in-flight 7 --queues 2 --seconds 0.3 --warmup 0.1");
        let report = measure(&args(&format!("{line} --threads 2"))).unwrap();
        drop(stop);
        server.join().unwrap();
        assert!(report.acked > 100, "{report}");
        assert_eq!((report.errors, report.first_error.as_deref()), (0, None));
        assert!(report.p50_us > 0.0 && report.p50_us <= report.p99_us && report.p99_us <= report.max_us);
        assert_eq!(report.acked_per_s, (report.acked as f64 / 0.3).round());
    }

    #[test]
    fn a_server_that_is_not_there_is_an_error_and_ends_in_time() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        drop(listener);
        let report = measure(&args(&format!("--addr {addr} --seconds 0.2 --warmup 0"))).unwrap();
        assert_eq!(report.acked, 0);
        assert!(report.first_error.unwrap().contains("connect to"));
    }

    #[test]
    fn impossible_arguments_are_refused() {
        for line in ["--connections 0", "--in-flight 0", "--seconds -1", "--warmup nan", "--queues 0"] {
            assert!(Line::try_parse_from(std::iter::once("bench").chain(line.split(' '))).is_err(), "{line}");
        }
        assert!(measure(&args("--topic a\"b --addr 127.0.0.1:1")).is_err());
    }
}
