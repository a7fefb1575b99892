//! IndexFiles against a list of what was put.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests reach for the system")]
#![allow(clippy::unwrap_used)]

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use raftmq_store::{IndexFiles, IndexShape, Keys, Numbers, Reads, StoreError, View};
use raftmq_world::OsDisk;

const NO_LIMIT: u64 = u64::MAX;

/// One slot for all keys of some tests makes long chains.
fn shape(slots: u32, entries: u32) -> IndexShape {
    IndexShape { slots, entries }
}

fn open(dir: &Path, shape: IndexShape, limit: u64) -> Result<IndexFiles, StoreError> {
    open_as(dir, shape, limit, &Numbers::default())
}

/// With what a checkpoint had recorded.
fn open_as(dir: &Path, shape: IndexShape, limit: u64, recorded: &Numbers) -> Result<IndexFiles, StoreError> {
    let keys: Reads<Keys> = Reads { properties: &[], read: |_, _| () };
    let index = IndexFiles::new(Arc::new(OsDisk), dir, shape, keys);
    index.recover(limit, recorded)?;
    Ok(index)
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let dir = dir.join("index");
    if !dir.exists() {
        return Vec::new();
    }
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[derive(Debug, Clone)]
struct Put {
    key: String,
    physical: u64,
    time_ms: i64,
}

fn put_all(index: &IndexFiles, puts: &[Put]) {
    for put in puts {
        index.add("topic", &put.key, put.physical, put.time_ms).unwrap();
    }
}

/// Newest first, by whole seconds, a message once even if it has the key twice.
fn model_query(puts: &[Put], key: &str, begin_ms: i64, end_ms: i64, max: usize) -> Vec<u64> {
    let second = |put: &Put| put.time_ms.div_euclid(1000) * 1000;
    let matches = |put: &&Put| put.key == key && second(put) <= end_ms && second(put) + 999 >= begin_ms;
    let mut found: Vec<u64> = puts.iter().rev().filter(matches).map(|put| put.physical).collect();
    found.dedup();
    found.truncate(max);
    found
}

/// Puts with physical offsets that rise, or stay for another key of the same message, and a clock that sometimes is
/// set back.
fn puts() -> impl Strategy<Value = Vec<Put>> {
    let put = (0u8..6, prop_oneof![1 => Just(0u64), 4 => 1u64..500], -3000i64..6000);
    prop::collection::vec(put, 0..120).prop_map(|steps| {
        let (mut physical, mut time_ms) = (64, 1_700_000_000_000);
        let mut puts = Vec::new();
        for (key, gap, passed) in steps {
            physical += gap;
            time_ms += passed;
            puts.push(Put { key: format!("key{key}"), physical, time_ms });
        }
        puts
    })
}

/// As many entries as a file of `shape` takes must not be keys of one message.
fn fits(puts: &[Put], shape: IndexShape) -> bool {
    puts.chunk_by(|a, b| a.physical == b.physical).all(|keys| keys.len() < shape.entries as usize - 1)
}

fn assert_answers(index: &IndexFiles, puts: &[Put]) {
    let from = 1_700_000_000_000;
    for key in 0..7 {
        let key = format!("key{key}");
        for (begin, end, max) in [
            (i64::MIN, i64::MAX, 1000),
            (i64::MIN, i64::MAX, 3),
            (from, from + 40_000, 1000),
            (from + 9_500, from + 9_500, 9),
        ] {
            let found = index.query("topic", &key, begin, end, max).unwrap();
            assert_eq!(found, model_query(puts, &key, begin, end, max), "{key} from {begin} to {end}, {max}");
        }
        assert_eq!(index.query("other", &key, i64::MIN, i64::MAX, 9).unwrap(), []);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn answers_like_a_list(
        shape in (1u32..40, 8u32..60).prop_map(|(slots, entries)| shape(slots, entries)),
        puts in puts(),
        flush_at in 0usize..120,
        cut_at in 0usize..130,
    ) {
        prop_assume!(fits(&puts, shape));
        let dir = tempfile::tempdir().unwrap();
        let index = open(dir.path(), shape, NO_LIMIT).unwrap();
        let (early, late) = puts.split_at(flush_at.min(puts.len()));
        put_all(&index, early);
        assert_answers(&index, early);
        index.flush().unwrap();
        put_all(&index, late);
        assert_answers(&index, &puts);
        index.flush().unwrap();
        index.flush().unwrap();
        drop(index);
        assert_answers(&open(dir.path(), shape, NO_LIMIT).unwrap(), &puts);
        // Cut at a message, and put what follows again.
        let limit = puts.get(cut_at).map_or(NO_LIMIT, |put| put.physical);
        let kept = puts.partition_point(|put| put.physical < limit);
        let index = open(dir.path(), shape, limit).unwrap();
        assert_answers(&index, &puts[..kept]);
        put_all(&index, &puts[kept..]);
        assert_answers(&index, &puts);
    }

    /// After a crash each sector written since the last flush has its new content or its old one.
    #[test]
    fn a_crash_leaves_what_was_flushed(
        shape in (1u32..40, prop_oneof![8u32..60, Just(200)]).prop_map(|(slots, entries)| shape(slots, entries)),
        puts in puts(),
        flush_at in 0usize..120,
        flush_again in any::<bool>(),
        lost in prop::collection::vec(any::<bool>(), 32),
    ) {
        prop_assume!(fits(&puts, shape));
        let dir = tempfile::tempdir().unwrap();
        let index = open(dir.path(), shape, NO_LIMIT).unwrap();
        let limit = puts.get(flush_at).map_or(NO_LIMIT, |put| put.physical);
        let flushed = puts.partition_point(|put| put.physical < limit);
        put_all(&index, &puts[..flushed]);
        index.flush().unwrap();
        let durable: Vec<_> = files(dir.path()).into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect();
        put_all(&index, &puts[flushed..]);
        if flush_again {
            index.flush().unwrap();
        }
        drop(index);
        for path in files(dir.path()) {
            let new = fs::read(&path).unwrap();
            let old = durable.iter().find(|(_, p)| *p == path).map_or(vec![0; new.len()], |(old, _)| old.clone());
            let byte = |at: usize| if lost[at / 512 % lost.len()] { old[at] } else { new[at] };
            fs::write(&path, (0..new.len()).map(byte).collect::<Vec<_>>()).unwrap();
        }
        let index = open(dir.path(), shape, limit).unwrap();
        assert_answers(&index, &puts[..flushed]);
        put_all(&index, &puts[flushed..]);
        assert_answers(&index, &puts);
    }
}

fn simple_puts(count: u64) -> Vec<Put> {
    (0..count)
        .map(|i| Put {
            key: format!("key{}", i % 6),
            physical: 64 + i * 10,
            time_ms: 1_700_000_000_000 + i as i64,
        })
        .collect()
}

#[test]
fn files_are_named_by_the_log_and_cut_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let puts = simple_puts(25);
    let index = open(dir.path(), shape(4, 11), NO_LIMIT).unwrap();
    assert!(files(dir.path()).is_empty());
    put_all(&index, &puts);
    index.flush().unwrap();
    let names = |dir: &Path| {
        files(dir).iter().map(|f| f.file_name().unwrap().to_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(dir.path()), [64, 164, 264].map(|start| format!("{start:020}")));
    drop(index);
    // Exactly at the start of a file, then within one: the file written last is the one before.
    for (limit, left) in [(264, 20), (100, 4), (64, 0)] {
        assert_answers(&open(dir.path(), shape(4, 11), limit).unwrap(), &puts[..left]);
    }
    assert!(files(dir.path()).is_empty());
}

/// Before the files are removed, and after.
#[test]
fn full_files_go_with_a_checkpoint_when_their_messages_have_left_the_log() {
    for removed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let puts = simple_puts(25);
        let index = open(dir.path(), shape(4, 11), NO_LIMIT).unwrap();
        put_all(&index, &puts);
        index.flush().unwrap();
        let before = index.held();
        index.drop_below(puts[9].physical).unwrap();
        assert_answers(&index, &puts);
        index.drop_below(puts[9].physical + 1).unwrap();
        assert_answers(&index, &puts[10..]);
        let recorded = index.held();
        assert_eq!((before.get("index_entries"), recorded.get("index_entries")), (25, 15));
        assert_eq!(open_as(dir.path(), shape(4, 11), NO_LIMIT, &before).unwrap().held(), before);
        if removed {
            index.clean_up(0, &recorded).unwrap();
            assert_eq!(files(dir.path()).len(), 2);
            assert_answers(&index, &puts[10..]);
        }
        drop(index);
        let index = open_as(dir.path(), shape(4, 11), NO_LIMIT, &recorded).unwrap();
        assert_eq!((index.held(), files(dir.path()).len()), (recorded, 2));
        // The file that is written stays.
        index.drop_below(u64::MAX).unwrap();
        index.clean_up(0, &index.held()).unwrap();
        assert_eq!(files(dir.path()).len(), 1);
        assert_answers(&index, &puts[20..]);
    }
}

#[test]
fn what_was_cut_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let puts = simple_puts(30);
    let index = open(dir.path(), shape(4, 100), NO_LIMIT).unwrap();
    put_all(&index, &puts);
    index.flush().unwrap();
    drop(index);
    drop(open(dir.path(), shape(4, 100), puts[10].physical).unwrap());
    assert_answers(&open(dir.path(), shape(4, 100), NO_LIMIT).unwrap(), &puts[..10]);
}

#[test]
fn refuses_messages_out_of_order_and_with_too_many_keys() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path(), shape(4, 4), NO_LIMIT).unwrap();
    index.add("t", "a", 100, 0).unwrap();
    assert!(matches!(index.add("t", "b", 99, 0), Err(StoreError::Divergence(_))));
    index.add("t", "b", 100, 0).unwrap();
    index.add("t", "c", 100, 0).unwrap();
    assert!(matches!(index.add("t", "d", 100, 0), Err(StoreError::TooLarge { .. })));
    index.add("t", "d", 101, 0).unwrap();
    let query = |key| index.query("t", key, 0, 0, 9).unwrap();
    assert_eq!((query("a"), query("c"), query("d")), (vec![100], vec![100], vec![101]));
}

#[test]
fn a_damaged_index_is_an_error() {
    let shape = shape(4, 60);
    let slots_end = 40 + 4 * 4;
    let entry = |number: u64| slots_end + number * 20;
    // In the last file: its header, its first entry, an entry in the middle. Then the header of a full one.
    for (file, position, bytes) in [
        (1, 0, vec![0; 40]),
        (1, 16, vec![1; 8]),
        (1, entry(1), vec![0; 20]),
        (1, entry(5), vec![0; 20]),
        (1, entry(5) + 16, vec![0, 0, 0, 77]),
        (0, 36, vec![0, 0, 0, 9]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let index = open(dir.path(), shape, NO_LIMIT).unwrap();
        put_all(&index, &simple_puts(100));
        index.flush().unwrap();
        drop(index);
        let path = &files(dir.path())[file];
        OpenOptions::new().write(true).open(path).unwrap().write_all_at(&bytes, position).unwrap();
        let error = open(dir.path(), shape, NO_LIMIT).unwrap_err();
        assert!(matches!(&error, StoreError::Corrupt { path: p, .. } if p == path), "{error}");
    }
}

#[test]
fn a_chain_that_does_not_lead_back_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let shape = shape(1, 10);
    let index = open(dir.path(), shape, NO_LIMIT).unwrap();
    put_all(&index, &simple_puts(12));
    let path = &files(dir.path())[0];
    let file = OpenOptions::new().write(true).open(path).unwrap();
    // The last entry of the first file points at itself.
    file.write_all_at(&9u32.to_be_bytes(), 40 + 4 + 9 * 20 + 16).unwrap();
    let error = index.query("topic", "key1", i64::MIN, i64::MAX, 1000).unwrap_err();
    assert!(matches!(&error, StoreError::Corrupt { path: p, .. } if p == path), "{error}");
}

#[test]
fn another_shape_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path(), shape(10, 20), NO_LIMIT).unwrap();
    put_all(&index, &simple_puts(5));
    index.flush().unwrap();
    // The last one has files of the same length.
    for other in [shape(11, 20), shape(10, 21), shape(15, 19)] {
        let error = open(dir.path(), other, NO_LIMIT).unwrap_err();
        assert!(matches!(error, StoreError::Contradiction { .. }), "{error}");
    }
    for senseless in [shape(0, 20), shape(10, 1), shape(1 << 31, 20), shape(10, u32::MAX)] {
        assert!(matches!(open(dir.path(), senseless, NO_LIMIT), Err(StoreError::Illegal(_))));
    }
}

#[test]
fn long_chains_are_found_on_disk_and_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path(), shape(16, 20_000), NO_LIMIT).unwrap();
    // More than is held back in memory, and some that is.
    let puts: Vec<_> =
        simple_puts(10_000).into_iter().map(|put| Put { key: "key0".to_owned(), ..put }).collect();
    put_all(&index, &puts);
    assert_eq!(
        index.query("topic", "key0", i64::MIN, i64::MAX, usize::MAX).unwrap(),
        model_query(&puts, "key0", i64::MIN, i64::MAX, usize::MAX)
    );
}

#[test]
fn times_beyond_the_format_do_not_overflow() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path(), shape(4, 20), NO_LIMIT).unwrap();
    for (physical, time_ms) in (64..).zip([i64::MIN, -1, 0, i64::MAX]) {
        index.add("t", "k", physical, time_ms).unwrap();
    }
    assert_eq!(index.query("t", "k", i64::MIN, i64::MAX, 9).unwrap(), [67, 66, 65, 64]);
    assert_eq!(index.query("t", "k", 5, 1, 9).unwrap(), []);
    assert_eq!(index.query("t", "k", i64::MIN, i64::MAX, 0).unwrap(), []);
}
