//! Measures replication alone: three members, each on a thread of its own, and a closed loop of messages submitted to
//! the leader. `cargo run --release -p raftmq-raft --example pipeline -- MESSAGES_IN_FLIGHT BATCH BODY_BYTES SECONDS`

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "measures in real time")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use raftmq_message::builder::RecordParts;
use raftmq_raft::{Completion, Group, GroupConfig, Member, MessageBatch, Placed, ProposeError, Tables};
use raftmq_testkit::{free_address, group_config};
use raftmq_world::World;
use tokio::sync::mpsc;

fn config(id: u64, members: &[Member], dir: &Path) -> GroupConfig {
    let election_timeout_ms = (500, 800);
    GroupConfig { segment_bytes: 1 << 30, election_timeout_ms, ..group_config(id, members, dir) }
}

struct Done {
    since: Instant,
    latencies: mpsc::UnboundedSender<Duration>,
    messages: Arc<AtomicU64>,
    count: u64,
}

impl Completion for Done {
    fn complete(self: Box<Self>, outcome: Result<&[Placed], &ProposeError>) {
        if let Err(e) = outcome {
            // What is still on its way when the time is over.
            assert!(matches!(e, ProposeError::Stopped(_)), "no fault is injected here: {e}");
            return;
        }
        self.messages.fetch_add(self.count, Ordering::Relaxed);
        let _ = self.latencies.send(self.since.elapsed());
    }
}

fn records(batch: u32, body: &[u8]) -> BytesMut {
    let mut records = BytesMut::new();
    for n in 0..batch {
        let parts = RecordParts {
            topic: "pipeline",
            queue_id: (n % 8) as i32,
            flag: 0,
            sys_flag: 0,
            born_timestamp_ms: 1,
            born_host: SocketAddr::from(([127, 0, 0, 1], 1)),
            store_host: SocketAddr::from(([127, 0, 0, 1], 2)),
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body,
            properties: &[
                "UNIQ_KEY\u{1}7F0000010000F5BF00000000000043E8\u{2}CLUSTER\u{1}DefaultCluster\u{2}",
            ],
        };
        parts.encode_into(&mut records).expect("a small record");
    }
    records
}

async fn load(group: Group, in_flight: u32, batch: u32, body: usize, seconds: u64) {
    let mut role = group.watch_role();
    if role.wait_for(|r| r.ready).await.is_err() {
        return;
    }
    let template = records(batch, &vec![b'x'; body]);
    let (sender, mut latencies) = mpsc::unbounded_channel();
    let messages = Arc::new(AtomicU64::new(0));
    let submit = || {
        let done = Done {
            since: Instant::now(),
            latencies: sender.clone(),
            messages: messages.clone(),
            count: u64::from(batch),
        };
        group.submit(MessageBatch {
            records: template.clone(),
            count: batch,
            change: None,
            term: None,
            completion: Box::new(done),
        });
    };
    for _ in 0..in_flight.div_ceil(batch) {
        submit();
    }
    let mut all = Vec::new();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(seconds) {
        if let Some(latency) = latencies.recv().await {
            all.push(latency);
            submit();
        }
    }
    all.sort();
    let elapsed = start.elapsed().as_secs_f64();
    let total = messages.load(Ordering::Relaxed) as f64;
    let at = |q: f64| all[((all.len() - 1) as f64 * q) as usize].as_micros();
    println!(
        "{in_flight} in flight, batches of {batch}, {body} B: {:.0} messages/s, {:.0} entries or batches/s, p50 {} us, p99 {} us, max {} us",
        total / elapsed,
        all.len() as f64 / elapsed,
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse::<u64>().expect("a number"));
    let mut next = |default| arguments.next().unwrap_or(default);
    let (in_flight, batch, body, seconds) = (next(64) as u32, next(16) as u32, next(128) as usize, next(5));
    let dir = tempfile::tempdir_in("target").expect("a directory");
    let members: Vec<Member> = (1..=3).map(|id| Member { id, raft: free_address().to_string() }).collect();
    let threads: Vec<_> = (1..=3)
        .map(|id| {
            let config = config(id, &members, dir.path());
            std::thread::spawn(move || {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(async move {
                    let group =
                        Group::start(config, Tables::new(1), World::system()).await.expect("a member");
                    let ready = group.watch_role();
                    tokio::time::sleep(Duration::from_secs(2)).await;
                    let leads = ready.borrow().ready;
                    if leads {
                        load(group.clone(), in_flight, batch, body, seconds).await;
                    } else {
                        tokio::time::sleep(Duration::from_secs(seconds + 1)).await;
                    }
                    group.shutdown().await;
                });
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("a member's thread");
    }
}
