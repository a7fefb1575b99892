//! ConsumeQueue against a list of units: what is published is read back, across files, restarts and crashes.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests reach for the system")]
#![allow(clippy::unwrap_used)]

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use raftmq_store::{Boundary, ConsumeQueue, OpenFiles, StoreError, UNIT_SIZE, Unit};
use raftmq_world::OsDisk;

const NO_LIMIT: u64 = u64::MAX;

fn open(dir: &Path, units_per_file: u64) -> Result<Arc<ConsumeQueue>, StoreError> {
    ConsumeQueue::open(OpenFiles::new(Arc::new(OsDisk), 0), dir, units_per_file)
}

fn recovered(dir: &Path, units_per_file: u64, limit: u64) -> Result<Arc<ConsumeQueue>, StoreError> {
    let queue = open(dir, units_per_file)?;
    queue.recover(limit)?;
    Ok(queue)
}

fn unit(physical_offset: u64) -> Unit {
    Unit { physical_offset, size: 200 + (physical_offset % 7) as u32, tags_code: !(physical_offset as i64) }
}

/// Units that lie `gap` bytes apart.
fn units(count: usize, gap: u64) -> Vec<Unit> {
    (0..count as u64).map(|i| unit(1_000_000 + i * gap)).collect()
}

fn append_all(queue: &Arc<ConsumeQueue>, units: &[Unit]) {
    let next = queue.max_offset();
    for (offset, unit) in (next..).zip(units) {
        queue.append(offset, *unit).unwrap();
    }
    assert_eq!(queue.publish().unwrap(), next + units.len() as u64);
}

fn append_durably(queue: &Arc<ConsumeQueue>, units: &[Unit]) {
    append_all(queue, units);
    queue.flush().unwrap();
}

fn assert_holds(queue: &ConsumeQueue, min: u64, expected: &[Unit]) {
    let max = min + expected.len() as u64;
    assert_eq!((queue.min_offset(), queue.max_offset()), (min, max));
    assert_eq!(queue.read(min, usize::MAX), expected);
    for (offset, unit) in (min..).zip(expected) {
        assert_eq!(queue.get(offset), Some(*unit));
    }
    assert_eq!(queue.get(max), None);
    assert_eq!(queue.get(u64::MAX), None);
    assert_eq!(queue.read(max, 5), []);
    assert_eq!(queue.read(u64::MAX, 5), []);
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn all_bytes(dir: &Path) -> Vec<u8> {
    files(dir).iter().flat_map(|path| fs::read(path).unwrap()).collect()
}

fn write_unit(path: &Path, index: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, index * UNIT_SIZE as u64).unwrap();
}

#[derive(Debug, Clone)]
enum Step {
    Append(usize),
    Publish,
    Flush,
    /// Close and recover to the physical offset of the unit at this fraction of the queue, in 256ths.
    Restart(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1usize..40).prop_map(Step::Append),
        3 => Just(Step::Publish),
        1 => Just(Step::Flush),
        1 => any::<u8>().prop_map(Step::Restart),
        1 => Just(Step::Restart(u8::MAX)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_a_list(
        per_file in 1u64..40,
        first in prop_oneof![Just(0u64), 1u64..1000],
        steps in prop::collection::vec(step(), 1..20),
        gaps in prop::collection::vec(1u64..5000, 40),
    ) {
        // Each restart syncs.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let mut queue = recovered(dir.path(), per_file, NO_LIMIT).unwrap();
        if first > 0 {
            queue.start_at(first).unwrap();
        }
        let (mut model, mut published): (Vec<Unit>, usize) = (Vec::new(), 0);
        for step in steps {
            match step {
                Step::Append(count) => for gap in &gaps[..count] {
                    let new = unit(model.last().map_or(64, |last| last.physical_offset + gap));
                    queue.append(first + model.len() as u64, new).unwrap();
                    model.push(new);
                },
                Step::Publish => {
                    published = model.len();
                    prop_assert_eq!(queue.publish().unwrap(), first + published as u64);
                }
                Step::Flush => queue.flush().unwrap(),
                Step::Restart(at) => {
                    let kept = published * usize::from(at) / 255;
                    let limit = model.get(kept).filter(|_| kept < published).map_or(NO_LIMIT, |u| u.physical_offset);
                    // As a checkpoint does it: what is kept was flushed.
                    queue.flush().unwrap();
                    drop(queue);
                    queue = recovered(dir.path(), per_file, limit).unwrap();
                    model.truncate(kept);
                    published = kept;
                    let used = kept as u64 * UNIT_SIZE as u64;
                    prop_assert!(all_bytes(dir.path()).iter().skip(used as usize).all(|byte| *byte == 0));
                }
            }
            assert_holds(&queue, first, &model[..published]);
        }
    }

    /// After a crash each sector written since the last flush has its new content or its old one.
    #[test]
    fn a_crash_leaves_what_was_flushed(
        per_file in prop_oneof![1u64..10, 50u64..200],
        flushed in 0usize..300,
        later in 0usize..300,
        lost in prop::collection::vec(any::<bool>(), 32),
        gap in 1u64..256,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let units = units(flushed + later + 1, gap);
        let queue = recovered(dir.path(), per_file, NO_LIMIT).unwrap();
        append_all(&queue, &units[..flushed]);
        queue.flush().unwrap();
        append_all(&queue, &units[flushed..flushed + later]);
        drop(queue);
        let file_len = per_file as usize * UNIT_SIZE;
        for (number, path) in files(dir.path()).iter().enumerate() {
            let mut bytes = fs::read(path).unwrap();
            let durable = (flushed * UNIT_SIZE).saturating_sub(number * file_len);
            for at in durable.min(file_len)..file_len {
                if lost[(number * 7 + at / 512) % lost.len()] {
                    bytes[at] = 0;
                }
            }
            fs::write(path, bytes).unwrap();
        }
        let queue = recovered(dir.path(), per_file, units[flushed].physical_offset).unwrap();
        assert_holds(&queue, 0, &units[..flushed]);
        prop_assert!(all_bytes(dir.path()).iter().skip(flushed * UNIT_SIZE).all(|byte| *byte == 0));
        append_all(&queue, &units[flushed..]);
        assert_holds(&queue, 0, &units);
    }

    #[test]
    fn finds_offsets_by_time_like_a_scan(
        mut times in prop::collection::vec(0i64..50, 0..40),
        asked in -5i64..60,
        gone in 0usize..5,
    ) {
        times.sort_unstable();
        let dir = tempfile::tempdir().unwrap();
        let queue = recovered(dir.path(), 16, NO_LIMIT).unwrap();
        append_all(&queue, &units(times.len(), 1));
        let gone = gone.min(times.len());
        let time_of = |unit: Unit| {
            let index = (unit.physical_offset - 1_000_000) as usize;
            (index >= gone).then(|| times[index])
        };
        let there = || times.iter().copied().enumerate().skip(gone);
        let lower = there().find(|(_, t)| *t >= asked).map_or(times.len(), |(i, _)| i);
        let upper = there().rfind(|(_, t)| *t <= asked).map_or(gone, |(i, _)| i);
        prop_assert_eq!(queue.offset_by_time(asked, Boundary::Lower, time_of).unwrap(), lower as u64);
        prop_assert_eq!(queue.offset_by_time(asked, Boundary::Upper, time_of).unwrap(), upper as u64);
    }
}

/// What a RocketMQ 5 broker answered for four messages stored at these times.
#[test]
fn offsets_by_time_are_those_of_rocketmq() {
    let times = [0, 303, 304, 606];
    let dir = tempfile::tempdir().unwrap();
    let queue = recovered(dir.path(), 2, NO_LIMIT).unwrap();
    let at = |time, boundary| {
        queue
            .offset_by_time(time, boundary, |u| Some(times[(u.physical_offset - 1_000_000) as usize]))
            .unwrap()
    };
    assert_eq!((at(1, Boundary::Lower), at(1, Boundary::Upper)), (0, 0));
    append_all(&queue, &units(4, 1));
    for (time, lower, upper) in [
        (-1, 0, 0),
        (0, 0, 0),
        (1, 1, 0),
        (303, 1, 1),
        (304, 2, 2),
        (305, 3, 2),
        (605, 3, 2),
        (606, 3, 3),
        (607, 4, 3),
        (i64::MAX, 4, 3),
    ] {
        assert_eq!((at(time, Boundary::Lower), at(time, Boundary::Upper)), (lower, upper), "at {time}");
    }
}

#[test]
fn shows_nothing_before_it_is_published() {
    let dir = tempfile::tempdir().unwrap();
    let queue = recovered(dir.path(), 1000, NO_LIMIT).unwrap();
    // More than is held back in memory.
    let units = units(5000, 100);
    for (offset, unit) in (0..).zip(&units) {
        queue.append(offset, *unit).unwrap();
    }
    assert_holds(&queue, 0, &[]);
    queue.publish().unwrap();
    assert_holds(&queue, 0, &units);
}

#[test]
fn refuses_holes_repeats_and_impossible_units() {
    let dir = tempfile::tempdir().unwrap();
    let queue = recovered(dir.path(), 8, NO_LIMIT).unwrap();
    let ok = units(3, 100);
    append_all(&queue, &ok[..2]);
    let last = ok[1].physical_offset;
    let too_large = Unit { size: 1 << 31, ..ok[2] };
    let empty = Unit { size: 0, ..ok[2] };
    let cases = [(3, ok[2]), (1, ok[2]), (2, unit(last)), (2, unit(1 << 63)), (2, too_large), (2, empty)];
    for (offset, unit) in cases {
        let error = queue.append(offset, unit).unwrap_err();
        assert!(matches!(error, StoreError::Divergence(_)), "{error}");
    }
    append_durably(&queue, &ok[2..]);
    assert_holds(&queue, 0, &ok);
    // The order is known after a restart too.
    drop(queue);
    let queue = recovered(dir.path(), 8, NO_LIMIT).unwrap();
    assert!(queue.append(3, ok[2]).is_err());
}

#[test]
fn starts_above_zero_only_when_nothing_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let queue = recovered(dir.path(), 8, NO_LIMIT).unwrap();
    assert!(matches!(queue.start_at(u64::MAX / 2), Err(StoreError::Illegal(_))));
    queue.start_at(13).unwrap();
    assert_holds(&queue, 13, &[]);
    assert!(matches!(queue.start_at(14), Err(StoreError::Divergence(_))));
    drop(queue);
    // Neither a restart nor the loss of every unit changes where it starts.
    let queue = recovered(dir.path(), 8, NO_LIMIT).unwrap();
    assert_holds(&queue, 13, &[]);
    append_durably(&queue, &units(20, 100));
    assert_eq!(queue.read(12, 5), []);
    drop(queue);
    assert_holds(&recovered(dir.path(), 8, 0).unwrap(), 13, &[]);
}

/// 40 units in files of 16; what is damaged and which file the error has to name.
#[test]
fn a_missing_unit_below_the_limit_is_an_error() {
    let none = [0; UNIT_SIZE];
    for (file, index, culprit) in [(0, 0, 0), (0, 15, 0), (1, 0, 1), (1, 15, 1), (2, 0, 2), (2, 3, 2)] {
        let dir = tempfile::tempdir().unwrap();
        append_durably(&recovered(dir.path(), 16, NO_LIMIT).unwrap(), &units(40, 100));
        let files = files(dir.path());
        write_unit(&files[file], index, &none);
        let error = recovered(dir.path(), 16, NO_LIMIT).unwrap_err();
        assert!(matches!(&error, StoreError::Corrupt { path, .. } if *path == files[culprit]), "{error}");
    }
}

#[test]
fn a_file_of_another_length_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    append_durably(&recovered(dir.path(), 16, NO_LIMIT).unwrap(), &units(40, 100));
    assert!(matches!(open(dir.path(), 17), Err(StoreError::Contradiction { .. })));
    assert!(matches!(open(dir.path(), 0), Err(StoreError::Illegal(_))));
    assert!(matches!(open(dir.path(), u64::MAX), Err(StoreError::Illegal(_))));
    fs::write(&files(dir.path())[1], b"short").unwrap();
    assert!(matches!(open(dir.path(), 16), Err(StoreError::Corrupt { .. })));
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(format!("{:020}", 7)), [0; 16 * UNIT_SIZE]).unwrap();
    assert!(matches!(open(dir.path(), 16), Err(StoreError::Corrupt { .. })));
}

#[test]
fn what_cannot_be_read_is_told_apart_from_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let queue = open(dir.path(), 2).unwrap();
    let units = units(20, 300);
    append_durably(&queue, &units);
    // One that is not open any more: only a few are.
    fs::rename(&files(dir.path())[1], dir.path().join("away")).unwrap();
    assert_eq!(queue.try_read(0, 9).unwrap(), units[..2]);
    assert!(matches!(queue.try_read(2, 9), Err(StoreError::Io { .. })));
    assert_eq!(queue.read(2, 9), []);
    assert_eq!(queue.try_read(2, 0).unwrap(), []);
    assert_eq!(queue.try_read(20, 9).unwrap(), []);
    fs::rename(dir.path().join("away"), dir.path().join(format!("{:020}", 2 * UNIT_SIZE))).unwrap();
    assert_eq!(queue.try_read(2, 9).unwrap(), units[2..11]);

    let dir = tempfile::tempdir().unwrap();
    let queue = recovered(dir.path(), 2, NO_LIMIT).unwrap();
    queue.start_at(4).unwrap();
    append_all(&queue, &units);
    assert!(matches!(queue.try_read(3, 9), Err(StoreError::Illegal(_))));
}

#[test]
fn readers_see_whole_units_while_one_thread_writes() {
    let dir = tempfile::tempdir().unwrap();
    let queue = recovered(dir.path(), 512, NO_LIMIT).unwrap();
    let units = units(8000, 3);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| units.chunks(37).for_each(|batch| append_all(&queue, batch)));
        let mut seen = 0;
        loop {
            let finished = writer.is_finished();
            let read = queue.read(seen as u64, 700);
            assert_eq!(read, units[seen..seen + read.len()]);
            seen += read.len();
            if seen > 0 {
                assert_eq!(queue.get(seen as u64 / 2), Some(units[seen / 2]));
            }
            if finished && read.is_empty() {
                break;
            }
        }
        assert_eq!(seen, units.len());
    });
    assert_holds(&queue, 0, &units);
}
