//! Crashes at any moment, with any part of what was not synced on the medium: whatever was reported stored is there,
//! in order, and what was truncated never is.

use std::sync::Arc;

use proptest::prelude::*;
use raftmq_world::Disk;

use crate::crash_disk::{Chance, CrashDisk, Image};
use crate::manual;
use crate::model::Model;
use crate::model_based::{Member, Op, op};
use crate::support::{append_command, frame_bytes, id, open_on, temp_dir};

/// Entries that may be there after a crash, and how many must be.
struct Allowed {
    /// One of these, or the start of one.
    logs: [Model; 2],
    at_least: usize,
}

impl Allowed {
    /// Which start of which log this is.
    fn check(&self, found: &[Vec<u8>]) -> Model {
        let is_start_of = |model: &&Model| {
            found.len() <= model.entries.len() && found.iter().zip(&model.entries).all(|(f, e)| *f == e.frame)
        };
        assert!(
            found.len() >= self.at_least,
            "{} entries were stored, {} are there",
            self.at_least,
            found.len()
        );
        let mut model = self.logs.iter().find(is_start_of).expect("the entries are those of the log").clone();
        model.entries.truncate(found.len());
        model
    }
}

/// Appends, truncates and commits until a crash; returns what the crash left and what it may have left.
fn until_crash(member: &mut Member, disk: &CrashDisk, ops: &[Op]) -> (Image, Allowed) {
    for op in ops {
        let before = member.model.clone();
        let mut lowest = before.entries.len();
        if let Op::Truncate(less) = op {
            lowest = before.entries.len().saturating_sub(*less).max(before.committed);
            disk.lower_watermark(lowest as u64);
        }
        // Raft commits nothing that is not stored, here: there is one member.
        if let Op::Commit(_) = op
            && before.committed + 6 > disk.watermark() as usize
        {
            continue;
        }
        member.apply(op);
        let entries = member.model.entries.len();
        if entries >= lowest {
            let told = disk.clone();
            member.store().when_stored(Box::new(move |stored| {
                // What was waiting when the process stopped is told that it has.
                if stored.is_ok() {
                    told.raise_watermark(entries as u64);
                }
            }));
        }
        if let Op::Truncate(_) = op {
            // Callbacks of what is now gone have been called: a truncation flushes first.
            disk.lower_watermark(entries as u64);
        }
        manual::turns();
        if let Some(image) = disk.take_captured() {
            let at_least = (image.watermark as usize).min(lowest);
            let logs = [member.model.clone(), before];
            return (image, Allowed { logs, at_least });
        }
    }
    let image = disk.capture();
    let at_least = image.watermark as usize;
    (image, Allowed { logs: [member.model.clone(), member.model.clone()], at_least })
}

pub(crate) fn run(rounds: &[(Vec<Op>, u64)], seed: u64) {
    let mut chance = Chance(seed);
    let mut dir = temp_dir();
    let mut disk = CrashDisk::new(dir.path());
    let open = |disk: &CrashDisk, dir: &tempfile::TempDir| {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        open_on(&disk, dir.path()).unwrap()
    };
    let mut member = Member::new(open(&disk, &dir));
    for (ops, changes) in rounds {
        disk.capture_after(*changes);
        let (image, allowed) = until_crash(&mut member, &disk, ops);
        member.stop(false);
        let committed = allowed.logs.iter().map(|model| model.committed).min().unwrap();

        dir = temp_dir();
        disk = CrashDisk::after_crash(dir.path(), image, &mut chance);
        let store = open(&disk, &dir);
        let mut model = allowed.check(&frame_bytes(&store));
        assert!(committed <= model.entries.len());
        // What an open store has found is durable.
        disk.raise_watermark(model.entries.len() as u64);
        let known = store.committed().map_or(0, |c| c.index as usize + 1);
        let most = allowed.logs.iter().map(|model| model.committed).max().unwrap();
        assert!(known <= most, "{known} are said to be committed, {most} were");
        model.committed = committed.max(known);
        member.model = model;
        member.restarted(store);
        member.term += 1;
        member.model.check_log(member.store());
        member.model.check_dispatched(member.store());
    }
    member.stop(true);
    member.restarted(open(&disk, &dir));
    member.model.check_log(member.store());
}

/// After a clean stop and a start, of two entries only the second reached the medium, and no mark did. It must not be
/// taken for the entry behind the first one when that is appended again.
#[test]
fn the_mark_of_a_clean_stop_does_not_outlive_the_next_start() {
    let dir = temp_dir();
    let disk = CrashDisk::new(dir.path());
    let open = |disk: &CrashDisk, dir: &tempfile::TempDir| {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        open_on(&disk, dir.path()).unwrap()
    };
    let store = open(&disk, &dir);
    append_command(&store, id(1, 0), &[1; 448]);
    store.close().unwrap();
    drop(store);
    let store = open(&disk, &dir);
    let second = append_command(&store, id(1, 1), &[2; 448]);
    append_command(&store, id(1, 2), &[3; 448]);
    let frames = frame_bytes(&store);
    let image = disk.capture();
    drop(store);

    let dir = temp_dir();
    let disk = CrashDisk::with_survivors(dir.path(), image, |name, position, versions| {
        (name.starts_with("commitlog") && position >= second.end).then_some(versions - 1)
    });
    let store = open(&disk, &dir);
    assert_eq!(frame_bytes(&store), frames[..1]);
    store.append_frame(id(1, 1), &frames[1]).unwrap();
    drop(store);
    assert_eq!(frame_bytes(&open(&disk, &dir)), frames[..2]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 400, ..ProptestConfig::default() })]
    #[test]
    fn what_was_stored_survives_and_what_was_truncated_does_not(
        rounds in proptest::collection::vec((proptest::collection::vec(op(), 1..25), 0..80u64), 1..4),
        seed: u64,
    ) {
        run(&rounds, seed);
    }
}
