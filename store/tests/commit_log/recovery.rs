//! Opening what a crash or a mistake has left.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raftmq_store::{FrameKind, Identity, Store, StoreError, StoreOptions};
use raftmq_world::OsDisk;

use crate::support::{
    HEADER, Message, Opened, SEGMENT, SOON, append_command, append_message, append_pieces, content, damage,
    flush, frame_bytes, id, identity, indexes, log_bytes, open, open_with, options, records, segment_path,
    temp_dir, truncate_after, try_open, wait_dispatched, world,
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

/// Two thirds of a log of ten entries are durable, and dispatched up to the third one: where each starts.
fn with_a_checkpoint(dir: &Path) -> Vec<u64> {
    let store = open(dir);
    let starts: Vec<_> = (0..3).map(|index| append_message(&store, id(1, index)).start).collect();
    let end = store.max_physical_offset();
    store.commit(end);
    assert!(wait_dispatched(&store, end));
    store.close().unwrap();
    drop(store);
    // What follows is durable, and behind the checkpoint.
    let store = open(dir);
    let more = (3..10).map(|index| {
        let start = append_message(&store, id(1, index)).start;
        if index == 6 {
            flush(&store).unwrap();
        }
        start
    });
    let starts = starts.into_iter().chain(more).collect();
    store.set_committed(id(1, 6)).unwrap();
    flush(&store).unwrap();
    starts
}

fn open_alone(dir: &Path) -> Result<Opened, StoreError> {
    open_with(StoreOptions { is_alone: true, ..options(dir) }, &world(Arc::new(OsDisk)))
}

/// Others have it, or nobody has.
#[test]
fn what_is_broken_behind_the_checkpoint_is_cut_off_and_where_it_was_durable_only_if_others_have_it() {
    // In a payload, in a header, no trace of the frame, no trace of the last one, nothing behind the checkpoint.
    let breaks: [(usize, u64, Vec<u8>); 5] = [
        (4, HEADER + 50, vec![9]),
        (5, 20, vec![9]),
        (5, 0, vec![0; 64]),
        (9, 0, vec![0; 600]),
        (3, 0, vec![0; 10_000]),
    ];
    for (entry, into, bytes) in breaks {
        let dir = temp_dir();
        let starts = with_a_checkpoint(dir.path());
        damage(dir.path(), starts[entry] + into, &bytes);
        let before = content(dir.path());
        for _ in 0..2 {
            let (path, position) = corrupt_file_and_position(open_alone(dir.path()).unwrap_err());
            assert_eq!((path, position), (segment_path(dir.path(), 0), starts[entry]));
            assert!(before == content(dir.path()));
        }
        for _ in 0..2 {
            let store = open(dir.path());
            assert_eq!(indexes(&store), (0..entry as u64).collect::<Vec<_>>());
            assert_eq!((store.doubt(), log_bytes(dir.path()).len() as u64), (Some(id(1, 9)), starts[entry]));
        }
        // As far again as it was: nothing is doubted any more.
        let store = open(dir.path());
        for index in entry as u64..10 {
            assert!(store.doubt().is_some());
            append_message(&store, id(1, index));
            flush(&store).unwrap();
        }
        assert_eq!(store.doubt(), None);
    }
}

/// It is not read at the start: the scrub finds it.
#[test]
fn what_is_broken_before_the_checkpoint_keeps_nobody_from_starting() {
    for (entry, into) in [(0, 0), (0, HEADER + 5), (1, 20), (2, 0), (2, HEADER + 5)] {
        let dir = temp_dir();
        let starts = with_a_checkpoint(dir.path());
        damage(dir.path(), starts[entry] + into, &[9]);
        let store = open_alone(dir.path()).unwrap();
        assert_eq!((store.log().last(), store.doubt()), (Some(id(1, 9)), None));
        append_message(&store, id(1, 10));
        flush(&store).unwrap();
    }
}

/// Nothing tells then how the log goes on behind the mark but the frame that stands there.
#[test]
fn without_a_checkpoint_the_last_durable_frame_has_to_be_there() {
    for (into, bytes) in [(0, vec![0; 64]), (20, vec![9])] {
        let dir = temp_dir();
        let (_, starts) = ten_entries(dir.path());
        damage(dir.path(), starts[4] + into, &bytes);
        let before = content(dir.path());
        for _ in 0..2 {
            let (path, position) = corrupt_file_and_position(try_open(dir.path()).unwrap_err());
            assert_eq!((path, position), (segment_path(dir.path(), 0), starts[4]));
            assert!(before == content(dir.path()));
        }
    }
}

/// Whatever is changed in the file of the checkpoint: it counts as it was written, or not at all.
#[test]
fn a_damaged_checkpoint_is_none() {
    let dir = temp_dir();
    with_a_checkpoint(dir.path());
    let path = dir.path().join("dispatched");
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(&path, damaged).unwrap();
        let store = open_alone(dir.path()).unwrap();
        assert_eq!(indexes(&store), (0..10).collect::<Vec<_>>(), "{at}");
    }
}

#[test]
fn a_log_shorter_than_its_mark_is_an_error_to_who_is_alone() {
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
    let error = open_alone(dir.path()).unwrap_err();
    assert!(error.to_string().contains("was durable up to"), "{error}");
    // All of it gone, the marks not.
    fs::remove_dir_all(dir.path().join("commitlog")).unwrap();
    let error = open_alone(dir.path()).unwrap_err();
    assert!(error.to_string().contains("was durable up to"), "{error}");
    let store = open(dir.path());
    assert_eq!((store.log().last(), store.doubt()), (None, Some(id(1, 3))));
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
