//! Measures the log: `cargo run --release -p raftmq-store --example log_bench [directory]`. Writes some gigabytes
//! there, or into a temporary directory, and removes them again.
//!
//! For entries of 1, 64 and 1000 messages of 128 bytes: the leader's append alone, appends with group commit, and
//! dispatch into ConsumeQueues and index.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "measures in real time")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use raftmq_message::RecordParts;
use raftmq_message::{hash, properties};
use raftmq_store::{
    Callback, Committed, ConsumeQueues, DEFAULT_UNITS_PER_FILE, Derived, DueMs, EntryId, FlushMode,
    FrameKind, Identity, IndexFiles, IndexShape, Keys, NewEntry, OpenFiles, Placed, Reads, Store, StoreError,
    StoreOptions, TagsCode, TimerIndex,
};
use raftmq_world::World;

const QUEUES: usize = 8;
/// Entries appended and not stored yet, at most.
const IN_FLIGHT: u64 = 256;
const SECONDS: Duration = Duration::from_secs(3);

struct Bench {
    store: Arc<Store>,
    index: u64,
    placed: Vec<Placed>,
}

/// An entry's messages, spread over queues, each with a key of its own and tags.
fn template(messages: usize) -> BytesMut {
    let host = ([127, 0, 0, 1], 10911).into();
    let mut records = BytesMut::new();
    for n in 0..messages {
        let properties =
            format!("UNIQ_KEY\u{1}7F0000010D2A18B4AAC2{n:012X}\u{2}WAIT\u{1}true\u{2}TAGS\u{1}TagA\u{2}");
        let parts = RecordParts {
            topic: "benchmark",
            queue_id: (n % QUEUES) as i32,
            flag: 0,
            sys_flag: 0,
            born_timestamp_ms: 1,
            born_host: host,
            store_host: host,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: &[b'x'; 128],
            properties: &[&properties],
        };
        parts.encode_into(&mut records).expect("the record is a small one");
    }
    records
}

/// What a broker derives, read as a broker reads it.
fn derived(world: &World, dir: &Path) -> Derived {
    let tags_code: Reads<TagsCode> = Reads {
        properties: &["TAGS", "TIMER_OUT_MS"],
        read: |message| {
            due_ms(message).unwrap_or_else(|| message.property("TAGS").map_or(0, hash::tags_code))
        },
    };
    let keys: Reads<Keys> = Reads {
        properties: &["UNIQ_KEY", "KEYS"],
        read: |message, add| {
            let keys = message.property("KEYS").into_iter().flat_map(properties::split_keys);
            message.property("UNIQ_KEY").into_iter().chain(keys).for_each(add);
        },
    };
    let due: Reads<DueMs> = Reads { properties: &["TIMER_OUT_MS"], read: due_ms };
    let files = OpenFiles::of(world);
    let queues = ConsumeQueues::new(files.clone(), dir, DEFAULT_UNITS_PER_FILE, tags_code);
    let mut derived = Derived::new(queues);
    derived.add(IndexFiles::new(world.disk.clone(), dir, IndexShape::default(), keys));
    derived.add(TimerIndex::new(files, dir, due));
    derived
}

fn due_ms(message: &Committed<'_>) -> Option<i64> {
    let waits = message.record.topic() == "rmq_sys_wheel_timer" && message.record.queue_id() == 0;
    waits.then(|| message.property("TIMER_OUT_MS").map_or(0, |due| due.parse().unwrap_or(0)))
}

/// Asks the store for something and waits to be told how it went.
fn done(ask: impl FnOnce(Callback)) -> Result<(), StoreError> {
    let (tell, told) = channel();
    ask(Box::new(move |done| drop(tell.send(done))));
    told.recv().expect("the store tells")
}

impl Bench {
    fn open(dir: &Path) -> Result<Self, StoreError> {
        let identity =
            Identity { cluster: "c".into(), broker_name: "b".into(), node_id: 1, segment_bytes: 1 << 30 };
        let options = StoreOptions {
            dir: dir.to_owned(),
            identity,
            flush: FlushMode::Sync,
            reserve_bytes: 0,
            is_alone: false,
        };
        let world = World::system();
        let store = Store::open(options, derived(&world, dir), &world)?;
        Ok(Self { store, index: 0, placed: Vec::new() })
    }

    /// Appends one entry; returns how long that took.
    fn append(&mut self, records: BytesMut) -> Result<Duration, StoreError> {
        let since = Instant::now();
        self.placed.clear();
        let id = EntryId { term: 1, index: self.index };
        let pieces = &mut [records];
        let entry = NewEntry { id, kind: FrameKind::Messages, leader: 1, command: &[], pieces, now_ms: 1 };
        self.store.append(entry, &mut self.placed)?;
        self.index += 1;
        Ok(since.elapsed())
    }

    fn append_only(&mut self, template: &BytesMut, messages: u64) -> Result<(), StoreError> {
        let entries = (1_000_000 / messages).max(200_000 / messages);
        let mut spent = Duration::ZERO;
        for _ in 0..entries {
            spent += self.append(template.clone())?;
        }
        let ns = spent.as_nanos() as f64;
        let (per_entry, per_message) = (ns / entries as f64, ns / (entries * messages) as f64);
        println!("  append alone: {per_entry:.0} ns an entry, {per_message:.0} ns a message");
        done(|callback| self.store.flush(callback))
    }

    fn group_commit(&mut self, template: &BytesMut, messages: u64) -> Result<(), StoreError> {
        let stored = Arc::new(AtomicU64::new(0));
        let (sender, latencies) = channel();
        let begin = Instant::now();
        let mut entries = 0;
        while begin.elapsed() < SECONDS {
            while entries - stored.load(Ordering::Acquire) >= IN_FLIGHT {
                std::thread::park_timeout(Duration::from_millis(1));
            }
            self.append(template.clone())?;
            entries += 1;
            self.tell(&stored, &sender);
        }
        drop(sender);
        let mut latencies: Vec<Duration> = latencies.iter().collect();
        let seconds = begin.elapsed().as_secs_f64();
        latencies.sort();
        let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
        println!(
            "  group commit: {:.0} entries/s, {:.0} messages/s, {:.0} MB/s, stored after p50 {:?} p99 {:?}",
            entries as f64 / seconds,
            (entries * messages) as f64 / seconds,
            (entries * (template.len() as u64 + 64)) as f64 / seconds / 1e6,
            at(0.5),
            at(0.99),
        );
        Ok(())
    }

    fn tell(&self, stored: &Arc<AtomicU64>, sender: &Sender<Duration>) {
        let (stored, sender) = (stored.clone(), sender.clone());
        let (since, writer) = (Instant::now(), std::thread::current());
        self.store.when_stored(Box::new(move |result| {
            result.expect("the disk works");
            let _ = sender.send(since.elapsed());
            if stored.fetch_add(1, Ordering::AcqRel) % (IN_FLIGHT / 2) == 0 {
                writer.unpark();
            }
        }));
    }

    /// One entry after the other, each waiting to be stored.
    fn one_at_a_time(&mut self, template: &BytesMut) -> Result<(), StoreError> {
        let stored = Arc::new(AtomicU64::new(0));
        let (sender, latencies) = channel();
        for _ in 0..500 {
            self.append(template.clone())?;
            self.tell(&stored, &sender);
            while latencies.try_recv().is_err() {
                std::hint::spin_loop();
            }
        }
        let begin = Instant::now();
        let mut seen = Vec::new();
        for _ in 0..1000 {
            self.append(template.clone())?;
            self.tell(&stored, &sender);
            seen.push(latencies.recv().expect("the callback is called"));
        }
        seen.sort();
        println!(
            "  one at a time: {:.0} entries/s, stored after p50 {:?} p99 {:?}",
            1000.0 / begin.elapsed().as_secs_f64(),
            seen[500],
            seen[990]
        );
        Ok(())
    }

    fn dispatch(&self, from: u64, messages: u64) {
        let end = self.store.log().end();
        let begin = Instant::now();
        self.store.commit(end);
        done(|callback| self.store.when_dispatched(end, callback)).expect("dispatch works");
        let spent = begin.elapsed();
        let count = (self.index - from) * messages;
        println!(
            "  dispatch: {:.0} messages/s, {:.0} ns each",
            count as f64 / spent.as_secs_f64(),
            spent.as_nanos() as f64 / count as f64
        );
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = match std::env::args().nth(1) {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    for messages in [1, 64, 1000] {
        let template = template(messages);
        let messages = messages as u64;
        println!("entries of {messages} messages, {} bytes each:", template.len() as u64 / messages);
        let dir = dir.path().join(messages.to_string());
        let mut bench = Bench::open(&dir)?;
        bench.append_only(&template, messages)?;
        bench.dispatch(0, messages);
        let from = bench.index;
        bench.group_commit(&template, messages)?;
        bench.dispatch(from, messages);
        bench.one_at_a_time(&template)?;
        bench.store.close()?;
        drop(bench);
        std::fs::remove_dir_all(dir)?;
    }
    Ok(())
}
