//! Measures what the derived structures cost for each message: `cargo run --release -p raftmq-store --example
//! derived_bench [directory]`. Writes some 100 MB there, or into a temporary directory, and removes it again.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "measures in real time")]

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use raftmq_store::{
    ConsumeQueues, DEFAULT_UNITS_PER_FILE, IndexFiles, IndexShape, Keys, Numbers, OpenFiles, Reads,
    StoreError, TagsCode, Unit, View,
};
use raftmq_world::OsDisk;

const MESSAGES: u64 = 2_000_000;
const QUEUES: u64 = 8;

fn report(what: &str, count: u64, since: Instant) {
    println!("{what}: {:.0} ns each ({count})", since.elapsed().as_nanos() as f64 / count as f64);
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = match std::env::args().nth(1) {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    for batch in [16, 256, 4096] {
        consume_queues(&dir.path().join(batch.to_string()), batch)?;
    }
    index_files(dir.path())?;
    Ok(())
}

fn open_queues(dir: &Path) -> Result<ConsumeQueues, StoreError> {
    let tags_code: Reads<TagsCode> = Reads { properties: &[], read: |_| 0 };
    let files = OpenFiles::new(Arc::new(OsDisk), 1024);
    let queues = ConsumeQueues::new(files, dir, DEFAULT_UNITS_PER_FILE, tags_code);
    queues.recover(u64::MAX, &Numbers::default())?;
    Ok(queues)
}

fn open_index(dir: &Path) -> Result<IndexFiles, StoreError> {
    let keys: Reads<Keys> = Reads { properties: &[], read: |_, _| () };
    let index = IndexFiles::new(Arc::new(OsDisk), dir, IndexShape::default(), keys);
    index.recover(u64::MAX, &Numbers::default())?;
    Ok(index)
}

fn consume_queues(dir: &Path, batch: u64) -> Result<(), StoreError> {
    let queues = open_queues(dir)?;
    let since = Instant::now();
    for queue in 0..QUEUES {
        queues.get_or_create("bench", queue as u32)?;
    }
    for message in 0..MESSAGES {
        let queue = queues.get_or_create("bench", (message % QUEUES) as u32)?;
        let unit = Unit { physical_offset: 64 + message * 200, size: 200, tags_code: 7 };
        queue.append(message / QUEUES, unit)?;
        if (message + 1) % batch == 0 {
            for queue in 0..QUEUES {
                queues.get_or_create("bench", queue as u32)?.publish()?;
            }
        }
    }
    report(
        &format!("look-up, append and publish, {batch} messages over {QUEUES} queues a batch"),
        MESSAGES,
        since,
    );
    let since = Instant::now();
    queues.flush()?;
    report("flush of a queue", QUEUES, since);
    let since = Instant::now();
    let mut read = 0;
    for queue in 0..QUEUES {
        let queue = queues.get_or_create("bench", queue as u32)?;
        while read < queue.max_offset() {
            read += queue.read(read, 32).len() as u64;
        }
        read = 0;
    }
    report("read, 32 at a time", MESSAGES, since);
    drop(queues);
    let since = Instant::now();
    open_queues(dir)?;
    report("open and recovery of a queue", QUEUES, since);
    Ok(())
}

fn index_files(dir: &Path) -> Result<(), StoreError> {
    let index = open_index(dir)?;
    let keys: Vec<String> =
        (0..MESSAGES).map(|message| format!("7F0000010D2A18B4AAC2{message:012X}")).collect();
    let since = Instant::now();
    for (message, key) in (0..).zip(&keys) {
        index.add("bench", key, 64 + message * 200, message as i64 / 100)?;
    }
    report("index put", MESSAGES, since);
    let since = Instant::now();
    index.flush()?;
    report("flush of the index", 1, since);
    let since = Instant::now();
    let mut found = 0;
    for key in keys.iter().step_by(1000) {
        found += index.query("bench", key, 0, i64::MAX, 32)?.len() as u64;
    }
    report("index query", found, since);
    drop(index);
    let since = Instant::now();
    open_index(dir)?;
    report("open and recovery of the index", 1, since);
    Ok(())
}
