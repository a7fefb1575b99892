//! Opening what a crash or a mistake has left.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raftmq_store::{FrameKind, Identity, Store, StoreError, StoreOptions};
use raftmq_world::OsDisk;

use crate::support::{
    HEADER, Message, SEGMENT, SOON, append_command, append_message, append_pieces, content, damage, flush,
    frame_bytes, id, identity, indexes, log_bytes, open, open_with, options, records, segment_path, temp_dir,
    truncate_after, try_open, wait_dispatched, world,
};

/// A log of ten entries of which the first five are flushed, its frames and where each starts.
fn ten_entries(dir: &Path) -> (Vec<Vec<u8>>, Vec<u64>) {
    let store = open(dir);
    let mut starts = Vec::new();
    for index in 0..10 {
        starts.push(append_message(&store, id(1, index)).start);
        if index == 4 {
            flush(&store).unwrap();
        }
    }
    (frame_bytes(&store), starts)
}

#[test]
fn a_torn_end_is_erased_and_does_not_come_back() {
    let short = HEADER / 2;
    // What is put over the start of entry 7, and how far into it.
    let tears: [(&str, u64, Vec<u8>); 5] = [
        ("half a header", short, vec![0; 200]),
        ("half a payload", HEADER + 100, vec![0; 150]),
        ("garbage", 0, vec![0xa5; 300]),
        ("zeros for all of its header", 0, vec![0; 64]),
        ("zeros for a page", 0, vec![0; 512]),
    ];
    for (what, into, bytes) in tears {
        let dir = temp_dir();
        let (frames, starts) = ten_entries(dir.path());
        damage(dir.path(), starts[7] + into, &bytes);
        {
            let store = open(dir.path());
            // More was whole behind it, and may have been acknowledged.
            assert_eq!(store.doubt(), Some(id(1, 9)), "{what}");
            assert_eq!(indexes(&store), (0..7).collect::<Vec<_>>(), "{what}");
            assert_eq!(log_bytes(dir.path()).len() as u64, starts[7], "{what}");
            // The same entry again: what was behind it would fit behind it now, if it were still there.
            store.append_frame(id(1, 7), &frames[7]).unwrap();
        }
        let store = open(dir.path());
        assert_eq!(frame_bytes(&store), frames[..8], "{what}");
        assert_eq!(store.doubt(), Some(id(1, 9)), "{what}");
        append_message(&store, id(2, 8));
        flush(&store).unwrap();
        assert_eq!(store.doubt(), None, "{what}");
        store.close().unwrap();
        drop(store);
        assert_eq!(indexes(&open(dir.path())), (0..9).collect::<Vec<_>>(), "{what}");
    }
}

/// The torn entry is the last one of its segment, and later segments have frames.
#[test]
fn segments_behind_a_torn_end_are_dropped() {
    for tear_first_byte_of_later_ones in [false, true] {
        let dir = temp_dir();
        let frames = {
            let store = open(dir.path());
            for index in 0..6 {
                append_command(&store, id(1, index), &vec![index as u8; 40_000]);
            }
            frame_bytes(&store)
        };
        damage(dir.path(), 2 * SEGMENT, &[0; 64]);
        if tear_first_byte_of_later_ones {
            (3..6).for_each(|segment| damage(dir.path(), segment * SEGMENT, &[0; 64]));
        }
        let store = open(dir.path());
        assert_eq!(indexes(&store), [0, 1]);
        for (index, frame) in (2..4).zip(&frames[2..]) {
            store.append_frame(id(1, index), frame).unwrap();
        }
        drop(store);
        assert_eq!(frame_bytes(&open(dir.path())), frames[..4]);
    }
}

/// Entries that fill their segments: with one of them lost without a trace, the log ends where a segment does.
#[test]
fn segments_behind_a_lost_one_are_dropped() {
    let dir = temp_dir();
    let frames = {
        let store = open(dir.path());
        for index in 0..5 {
            append_command(&store, id(1, index), &vec![index as u8; (SEGMENT - HEADER) as usize]);
        }
        frame_bytes(&store)
    };
    damage(dir.path(), 2 * SEGMENT, &[0; SEGMENT as usize]);
    let store = open(dir.path());
    assert_eq!(indexes(&store), [0, 1]);
    store.append_frame(id(1, 2), &frames[2]).unwrap();
    drop(store);
    assert_eq!(frame_bytes(&open(dir.path())), frames[..3]);
}

/// A whole frame that stands where it says, but does not belong behind the one before.
#[test]
fn a_frame_of_another_history_is_not_taken_in() {
    let dir = temp_dir();
    let (frames, starts) = ten_entries(dir.path());
    let (mut header, _, payload) = raftmq_store::decode_frame(&frames[7]).unwrap();
    header.chain ^= 1;
    damage(dir.path(), starts[7], &[&header.encode().0[..], payload].concat());
    assert_eq!(indexes(&open(dir.path())), (0..7).collect::<Vec<_>>());
}

#[test]
fn a_filler_without_an_entry_behind_it_is_dropped() {
    for close in [false, true] {
        let dir = temp_dir();
        let store = open(dir.path());
        append_command(&store, id(1, 0), &[1; 60_000]);
        flush(&store).unwrap();
        append_command(&store, id(1, 1), &[2; 10_000]);
        drop(store);
        damage(dir.path(), SEGMENT, &[0; 64]);
        let store = open(dir.path());
        assert_eq!(indexes(&store), [0]);
        if close {
            store.close().unwrap();
        }
        drop(store);
        let store = open(dir.path());
        assert_eq!(append_command(&store, id(1, 1), b"small").start, 60_000 + HEADER);
        drop(store);
        assert_eq!(indexes(&open(dir.path())), [0, 1]);
    }
}

fn corrupt_file_and_position(error: StoreError) -> (PathBuf, u64) {
    match error {
        StoreError::Corrupt { path, position, .. } => (path, position),
        other => panic!("{other}"),
    }
}

#[test]
fn damage_below_the_flushed_mark_is_an_error_that_changes_nothing() {
    // In the last frame that is durable, and in the first of its segment. What lies between is found by and by.
    for (entry, into, bytes) in [(4, 0, vec![0; 64]), (4, 20, vec![9]), (0, 0, vec![9])] {
        let dir = temp_dir();
        let (_, starts) = ten_entries(dir.path());
        damage(dir.path(), starts[entry] + into, &bytes);
        let before = content(dir.path());
        for _ in 0..2 {
            let (path, position) = corrupt_file_and_position(try_open(dir.path()).unwrap_err());
            assert_eq!((path, position), (segment_path(dir.path(), 0), starts[entry]));
            assert!(before == content(dir.path()));
        }
    }
}

#[test]
fn a_log_shorter_than_its_mark_is_an_error() {
    let dir = temp_dir();
    let store = open(dir.path());
    for index in 0..4 {
        append_command(&store, id(1, index), &[7; 50_000]);
    }
    store.close().unwrap();
    drop(store);
    // One more may have been made ahead.
    for base in [3 * SEGMENT, 4 * SEGMENT] {
        let _ = fs::remove_file(segment_path(dir.path(), base));
    }
    let error = try_open(dir.path()).unwrap_err();
    assert!(error.to_string().contains("it was durable up to"), "{error}");
    // All of it gone, the marks not.
    fs::remove_dir_all(dir.path().join("commitlog")).unwrap();
    let error = try_open(dir.path()).unwrap_err();
    assert!(error.to_string().contains("it was durable up to"), "{error}");
}

#[test]
fn a_segment_that_is_not_one_is_named() {
    let two_segments = |dir: &Path| {
        let store = open(dir);
        for index in 0..2 {
            append_command(&store, id(1, index), &[7; 50_000]);
        }
        store.close().unwrap();
    };
    let second = |dir: &Path| segment_path(dir, SEGMENT);
    type Spoil = fn(&Path, &Path);
    let cases: [(&str, Spoil); 6] = [
        ("expected", |_, second| fs::write(second, [1; 100]).unwrap()),
        ("", |_, second| fs::write(second, []).unwrap()),
        ("not a physical offset", |dir, _| fs::write(dir.join("commitlog/notes.txt"), "hello").unwrap()),
        ("not a physical offset", |dir, _| fs::write(segment_path(dir, i64::MAX as u64), "hello").unwrap()),
        ("expected", |dir, second| fs::rename(second, segment_path(dir, 2 * SEGMENT)).unwrap()),
        ("expected", |dir, second| fs::rename(second, segment_path(dir, SEGMENT + 1)).unwrap()),
    ];
    for (why, spoil) in cases {
        let dir = temp_dir();
        two_segments(dir.path());
        spoil(dir.path(), &second(dir.path()));
        let before = content(dir.path());
        let error = try_open(dir.path()).unwrap_err();
        assert!(
            error.to_string().contains("commitlog/") && error.to_string().contains(why),
            "{why:?}: {error}"
        );
        assert!(before == content(dir.path()));
    }
}

#[test]
fn files_of_an_interrupted_creation_are_removed() {
    let dir = temp_dir();
    drop(ten_entries(dir.path()));
    let leftovers =
        ["commitlog/00000000000000065536.new", "identity.new", "dispatched.new"].map(|n| dir.path().join(n));
    leftovers.iter().for_each(|path| fs::write(path, "half").unwrap());
    let store = open(dir.path());
    assert_eq!(store.log().last(), Some(id(1, 9)));
    assert!(!leftovers[0].exists());
    append_command(&store, id(1, 10), &[7; 65_000]);
}

#[test]
fn a_directory_is_opened_as_what_it_was_made_or_not_at_all() {
    let dir = temp_dir();
    drop(ten_entries(dir.path()));
    let with = |change: fn(&mut Identity)| {
        let mut identity = identity();
        change(&mut identity);
        open_with(StoreOptions { identity, ..options(dir.path()) }, &world(Arc::new(OsDisk))).unwrap_err()
    };
    type Change = fn(&mut Identity);
    let cases: [(&str, Change); 4] = [
        ("cluster", |i| i.cluster = "other".into()),
        ("broker_name", |i| i.broker_name = "broker-b".into()),
        ("node_id", |i| i.node_id = 2),
        ("segment_bytes", |i| i.segment_bytes *= 2),
    ];
    for (setting, change) in cases {
        match with(change) {
            StoreError::Contradiction { what, path, .. } => {
                assert_eq!((what, path), (setting, dir.path().join("identity")))
            }
            other => panic!("{setting}: {other}"),
        }
    }
    for segment_bytes in [0, 4096, SEGMENT + 1, 4 << 30] {
        let identity = Identity { segment_bytes, ..identity() };
        let error = open_with(StoreOptions { identity, ..options(dir.path()) }, &world(Arc::new(OsDisk)))
            .unwrap_err();
        assert!(matches!(error, StoreError::Illegal(_)), "{error}");
    }
    for (file, spoil) in
        [("identity", None), ("marks", None), ("marks", Some(vec![7; 1024])), ("marks", Some(vec![0; 9]))]
    {
        let path = dir.path().join(file);
        let kept = fs::read(&path).unwrap();
        match spoil {
            None => fs::remove_file(&path).unwrap(),
            Some(bytes) => fs::write(&path, bytes).unwrap(),
        }
        assert_eq!(corrupt_file_and_position(try_open(dir.path()).unwrap_err()), (path.clone(), 0));
        fs::write(&path, kept).unwrap();
    }
    assert_eq!(open(dir.path()).log().last(), Some(id(1, 9)));
}

#[test]
fn only_one_has_a_directory_open() {
    let dir = temp_dir();
    let first = open(dir.path());
    assert!(matches!(try_open(dir.path()), Err(StoreError::InUse { .. })));
    // Closed, it may be opened again, though somebody still holds the old one.
    first.close().unwrap();
    let second = open(dir.path());
    first.close().unwrap();
    assert!(matches!(try_open(dir.path()), Err(StoreError::InUse { .. })));
    drop(second);
    open(dir.path());
}

#[test]
fn nothing_is_written_after_a_close() {
    let dir = temp_dir();
    let store = open(dir.path());
    append_message(&store, id(1, 0));
    store.close().unwrap();
    let before = content(dir.path());
    let error = append_pieces(&store, id(1, 1), FrameKind::Blank, &mut []).unwrap_err();
    assert!(matches!(error, StoreError::Stopped(_)), "{error}");
    assert!(truncate_after(&store, None).is_err());
    assert!(flush(&store).is_err());
    let (sender, told) = std::sync::mpsc::channel();
    store.when_stored(Box::new(move |stored| sender.send(stored.is_err()).unwrap()));
    assert!(told.recv_timeout(SOON).unwrap());
    assert!(before == content(dir.path()));
}

/// A leader elected after a restart may have a clock that lags; its messages still come later in their queue.
#[test]
fn store_timestamps_do_not_go_back_after_a_restart() {
    let dir = temp_dir();
    let timestamps = |store: &Store| -> Vec<i64> {
        let payloads = frame_bytes(store);
        let record = |frame: &Vec<u8>| {
            raftmq_message::RecordView::parse(&frame[HEADER as usize..]).unwrap().store_timestamp_ms()
        };
        payloads.iter().map(record).collect()
    };
    let append = |store: &Store, index, now_ms| {
        let mut pieces = [records(&[Message::new("topic", 0, "k", 10)])];
        let entry = raftmq_store::NewEntry {
            id: id(1, index),
            kind: FrameKind::Messages,
            leader: 1,
            command: &[],
            pieces: &mut pieces,
            now_ms,
        };
        store.append(entry, &mut Vec::new()).unwrap().end
    };
    let store = open(dir.path());
    append(&store, 0, 5000);
    let end = append(&store, 1, 4000);
    store.commit(end);
    assert!(wait_dispatched(&store, end));
    store.close().unwrap();
    drop(store);
    let store = open(dir.path());
    append(&store, 2, 3000);
    append(&store, 3, 6000);
    assert_eq!(timestamps(&store), [5000, 5000, 5000, 6000]);
}
