//! Files of views that a power failure takes away or leaves empty, as neither they nor their directories were synced yet:
//! what was in them is made again from the log.

use std::path::Path;
use std::sync::Arc;

use raftmq_store::{FrameKind, Unit};
use raftmq_world::Disk;

use crate::crash_disk::{Chance, CrashDisk, Image};
use crate::manual::Manual;
use crate::support::{
    Message, Opened, append_pieces, flush, id, open_on, records, temp_dir, wait_dispatched,
};

fn open(disk: &CrashDisk, dir: &Path) -> Opened {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    open_on(&disk, dir).unwrap()
}

/// An entry with a message for each of these queues.
fn fill(store: &Opened, index: u64, queues: std::ops::Range<i32>) {
    let messages: Vec<_> = queues.map(|queue| Message::new("topic", queue, "key", 50)).collect();
    append_pieces(store, id(1, index), FrameKind::Messages, &mut [records(&messages)]).unwrap();
    flush(store).unwrap();
    dispatch_all(store);
}

fn dispatch_all(store: &Opened) {
    store.commit(store.log().end());
    assert!(wait_dispatched(store, store.log().end()));
}

fn units(store: &Opened, queues: i32) -> Vec<Vec<Unit>> {
    (0..queues)
        .map(|queue| store.queue("topic", queue as u32).map_or(Vec::new(), |q| q.read(0, 99)))
        .collect()
}

/// What was on the medium after so many changes by a last checkpoint, and what the queues had; `None` where it was complete
/// before. Half of the queues are older than that.
fn crashed(queues: i32, changes: u64) -> Option<(Image, Vec<Vec<Unit>>)> {
    let dir = temp_dir();
    let disk = CrashDisk::new(dir.path());
    let store = open(&disk, dir.path());
    fill(&store, 0, 0..queues / 2);
    store.close().unwrap();
    drop(store);
    let store = open(&disk, dir.path());
    fill(&store, 1, 0..queues);
    fill(&store, 2, 0..queues);
    let held = units(&store, queues);
    disk.capture_after(changes);
    store.close().unwrap();
    disk.take_captured().map(|image| (image, held))
}

fn assert_made_again(queues: i32, image: &Image, held: &[Vec<Unit>], seed: u64) {
    let dir = temp_dir();
    let disk = CrashDisk::after_crash(dir.path(), image.clone(), &mut Chance(seed));
    for _ in 0..2 {
        let store = open(&disk, dir.path());
        dispatch_all(&store);
        assert_eq!(units(&store, queues), held, "{queues} queues, seed {seed}");
        store.close().unwrap();
    }
    // What was counted is durable: nothing is made from the log's start.
    let image = disk.capture();
    let dir = temp_dir();
    let disk = CrashDisk::with_survivors(dir.path(), image, |_, _, _| None);
    let store = open(&disk, dir.path());
    assert_eq!(store.dispatched_physical_offset(), store.log().end());
    assert_eq!(units(&store, queues), held);
}

fn at_any_moment(queues: i32, step: usize) {
    let (_manual, _here) = Manual::install(1);
    let mut moments = 0;
    for changes in (0..).step_by(step) {
        let Some((image, held)) = crashed(queues, changes) else { break };
        (1..5).for_each(|seed| assert_made_again(queues, &image, &held, seed + 7 * changes));
        moments += 1;
    }
    assert!(moments > 5, "{moments}");
}

#[test]
fn queues_that_are_synced_one_by_one() {
    at_any_moment(6, 1);
}

#[test]
fn queues_that_are_synced_together() {
    at_any_moment(70, 13);
}
