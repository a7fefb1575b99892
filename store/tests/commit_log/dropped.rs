//! Topics that are dropped: they begin anew on every member at the same place of the log, whatever happens around it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use bytes::BytesMut;
use raftmq_store::{Appended, FrameKind, Placed, Store, StoreError};

use crate::manual::Manual;
use crate::support::{
    Message, Opened, append_beside, append_command, append_pieces, frame_bytes, id, open, records, temp_dir,
    truncate_after, wait_dispatched,
};

/// Sends so many messages to a queue; the places that they got, as queue offsets.
fn send(store: &Store, index: u64, topic: &str, queue: i32, count: u64) -> Vec<u64> {
    let message = |n| Message::new(topic, queue, &format!("key-{index}-{n}"), 100);
    let messages: Vec<_> = (0..count).map(message).collect();
    let pieces = &mut [records(&messages)];
    let (_, placed) = append_pieces(store, id(1, index), FrameKind::Messages, pieces).unwrap();
    placed.iter().map(|place| place.queue_offset).collect()
}

fn command(store: &Store, index: u64, command: &str) -> Appended {
    append_command(store, id(1, index), command.as_bytes())
}

fn dispatch(store: &Store) {
    let end = store.log().end();
    store.commit(end);
    assert!(wait_dispatched(store, end));
}

fn max_offset(store: &Store, topic: &str, queue: u32) -> u64 {
    store.queue(topic, queue).map_or(0, |queue| queue.max_offset())
}

/// The units of a queue, each with the entry that its message came with.
fn read(store: &Store, topic: &str, queue: u32) -> Vec<(u64, String)> {
    let Some(queue) = store.queue(topic, queue) else { return Vec::new() };
    let units = queue.read(0, usize::MAX);
    let key = |unit: &raftmq_store::Unit| {
        let record = store.record(unit.physical_offset, unit.size).unwrap().unwrap();
        raftmq_message::RecordView::parse(&record).unwrap().property("UNIQ_KEY").unwrap().to_owned()
    };
    (0..).zip(units.iter().map(key)).collect()
}

/// Brings the follower's log to the leader's.
fn replicate(leader: &Store, follower: &Store) {
    let (frames, theirs) = (frame_bytes(leader), frame_bytes(follower));
    let common = frames.iter().zip(&theirs).take_while(|(one, other)| one == other).count();
    truncate_after(follower, (common as u64).checked_sub(1)).unwrap();
    for (index, frame) in (0..).zip(&frames).skip(common) {
        let (header, ..) = raftmq_store::decode_frame(frame).unwrap();
        assert_eq!(header.index, index);
        follower.append_frame(id(header.term, index), frame).unwrap();
    }
}

#[test]
fn a_topic_begins_anew_behind_the_command_that_drops_it() {
    let (dir, other) = (temp_dir(), temp_dir());
    let (store, follower) = (open(dir.path()), open(other.path()));
    assert_eq!(send(&store, 0, "a", 0, 3), [0, 1, 2]);
    assert_eq!(send(&store, 1, "b", 0, 2), [0, 1]);
    command(&store, 2, "drop a");
    command(&store, 3, "make a");
    assert_eq!(send(&store, 4, "a", 0, 2), [0, 1]);
    assert_eq!(send(&store, 5, "b", 0, 1), [2]);
    // It is all the same whether dispatch meets it in one batch or in many.
    replicate(&store, &follower);
    dispatch(&follower);
    for frame in frame_bytes(&store) {
        let (header, ..) = raftmq_store::decode_frame(&frame).unwrap();
        store.commit(header.end());
        assert!(wait_dispatched(&store, header.end()));
        if header.index == 2 {
            assert_eq!(read(&store, "a", 0), []);
        }
    }
    for store in [&store, &follower] {
        assert_eq!(read(store, "a", 0), [(0, "key-4-0".into()), (1, "key-4-1".into())]);
        assert_eq!(max_offset(store, "b", 0), 3);
    }
    // Both go on the same.
    assert_eq!(send(&store, 6, "a", 1, 1), [0]);
    replicate(&store, &follower);
    assert_eq!(send(&follower, 7, "a", 0, 1), [2]);
}

#[test]
fn a_truncation_brings_back_what_a_topic_was() {
    for restart in [false, true] {
        let dir = temp_dir();
        let mut store = open(dir.path());
        send(&store, 0, "a", 0, 3);
        send(&store, 1, "a", 1, 2);
        command(&store, 2, "renew a");
        send(&store, 3, "a", 0, 1);
        command(&store, 4, "renew a");
        send(&store, 5, "a", 0, 5);
        command(&store, 6, "drop a");
        if restart {
            store.close().unwrap();
            drop(store);
            store = open(dir.path());
        }
        let next = |store: &Store, index| {
            let placed = (send(store, index, "a", 0, 1)[0], send(store, index + 1, "a", 1, 1)[0]);
            truncate_after(store, Some(index - 1)).unwrap();
            placed
        };
        for (last, expected) in [(5, (5, 0)), (4, (0, 0)), (3, (1, 0)), (2, (0, 0)), (1, (3, 2)), (0, (3, 0))]
        {
            truncate_after(&store, Some(last)).unwrap();
            assert_eq!(next(&store, last + 1), expected, "behind entry {last}, restarted: {restart}");
        }
        // Refused entries leave no trace either.
        let bad = &mut [BytesMut::from(&b"no record"[..])];
        let refused = append_beside(&store, id(1, 1), FrameKind::Messages, b"renew a", bad);
        assert!(matches!(refused, Err(StoreError::Illegal(_))), "{refused:?}");
        assert_eq!(next(&store, 1), (3, 0));
    }
}

#[test]
fn what_was_on_its_way_while_its_topic_was_dropped_is_nowhere() {
    let (dir, other) = (temp_dir(), temp_dir());
    let (store, mut follower) = (open(dir.path()), open(other.path()));
    send(&store, 0, "a", 0, 2);
    command(&store, 1, "drop a");
    let messages = ["a", "b", "a"].map(|topic| Message::new(topic, 0, &format!("late-{topic}"), 100));
    let (_, placed) =
        append_pieces(&store, id(1, 2), FrameKind::Messages, &mut [records(&messages)]).unwrap();
    let in_queue: Vec<_> = placed.iter().map(Placed::is_in_queue).collect();
    assert_eq!((in_queue, placed[1].queue_offset), (vec![false, true, false], 0));
    // What goes with a command was not on its way to a topic that was found.
    let late = &mut [records(&[Message::new("a", 1, "delayed", 100)])];
    let (_, delayed) = append_beside(&store, id(1, 3), FrameKind::Messages, b"due", late).unwrap();
    assert_eq!(delayed[0].queue_offset, 0);
    truncate_after(&store, Some(2)).unwrap();
    command(&store, 3, "make a");
    assert_eq!(send(&store, 4, "a", 0, 1), [0]);
    assert_eq!(send(&store, 5, "b", 0, 1), [1]);

    // A follower takes what the leader says, whether it has seen the command or only what stands behind it.
    for (last, frame) in (0..).zip(frame_bytes(&store)) {
        let (header, ..) = raftmq_store::decode_frame(&frame).unwrap();
        follower.append_frame(id(1, header.index), &frame).unwrap();
        dispatch(&follower);
        if last == 1 {
            follower.close().unwrap();
            drop(follower);
            follower = open(other.path());
        }
    }
    dispatch(&store);
    for store in [&store, &follower] {
        assert_eq!(read(store, "a", 0), [(0, "key-4-0".into())]);
        assert_eq!(read(store, "b", 0), [(0, "late-b".into()), (1, "key-5-0".into())]);
        assert_eq!(store.index.query("a", "late-a", 0, i64::MAX, 9).unwrap(), []);
        // Nor is it found where it stands.
        assert!(store.record_at(placed[0].physical_offset).is_none());
        assert!(store.record_at(placed[1].physical_offset).is_some());
    }
}

fn files(dir: &Path) -> Vec<String> {
    let below = |path: &Path| {
        let entries = fs::read_dir(path).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
    };
    let queues = dir.join("consumequeue");
    let mut found = Vec::new();
    let mut dirs = below(&queues);
    while let Some(path) = dirs.pop() {
        if path.is_dir() {
            dirs.append(&mut below(&path));
        } else {
            found.push(path.strip_prefix(&queues).unwrap().parent().unwrap().display().to_string());
        }
    }
    found.sort();
    found.retain(|dir| !dir.is_empty());
    found
}

/// A checkpoint, and the steps that it takes.
fn checkpoint(manual: &Manual) {
    manual.settle();
    manual.pass(Duration::from_secs(10));
    manual.settle();
}

/// Nothing is made again from the log's start, wherever a member ends between a drop and the checkpoint that counts it.
#[test]
fn a_dropped_topics_files_go_with_the_next_checkpoint() {
    let dir = temp_dir();
    let (manual, _here) = Manual::install(3);
    let store = open(dir.path());
    send(&store, 0, "a", 0, 3);
    send(&store, 1, "b", 0, 1);
    store.commit(store.log().end());
    checkpoint(&manual);
    let reopened = |store: Opened| {
        drop(store);
        open(dir.path())
    };
    let since = command(&store, 2, "renew a").start;
    // More than are held back.
    send(&store, 3, "a", 0, 70);
    store.commit(store.log().end());
    manual.settle();
    assert_eq!(max_offset(&store, "a", 0), 70);
    let anew = format!("@{since:020}/a/0");
    assert_eq!(files(dir.path()), [anew.as_str(), "a/0", "b/0"]);
    // Ended before the checkpoint: as of the last one the topic is what it was.
    let store = reopened(store);
    assert_eq!((max_offset(&store, "a", 0), max_offset(&store, "b", 0)), (3, 1));
    assert_eq!(files(dir.path()), ["a/0", "b/0"]);
    store.commit(store.log().end());
    checkpoint(&manual);
    assert_eq!(files(dir.path()), [anew.as_str(), "b/0"]);
    // Ended behind it.
    let store = reopened(store);
    assert_eq!((max_offset(&store, "a", 0), max_offset(&store, "b", 0)), (70, 1));
    assert_eq!(send(&store, 4, "a", 0, 1), [70]);
    command(&store, 5, "drop a");
    store.commit(store.log().end());
    checkpoint(&manual);
    assert_eq!(files(dir.path()), ["b/0"]);
    let store = reopened(store);
    assert_eq!((max_offset(&store, "a", 0), max_offset(&store, "b", 0)), (0, 1));
    // And all of it made again comes to the same.
    store.close().unwrap();
    drop(store);
    fs::remove_file(dir.path().join("dispatched")).unwrap();
    let store = open(dir.path());
    assert_eq!(max_offset(&store, "b", 0), 0);
    store.commit(store.log().end());
    manual.settle();
    assert_eq!((max_offset(&store, "a", 0), max_offset(&store, "b", 0)), (0, 1));
    command(&store, 6, "make a");
    assert_eq!(send(&store, 7, "a", 0, 1), [0]);
}

/// Who finds a topic made again, as a command was applied, must not find what dispatch is about to drop.
#[test]
fn what_is_to_be_dropped_is_hidden_until_it_is() {
    let dir = temp_dir();
    let (manual, _here) = Manual::install(1);
    let store = open(dir.path());
    let hide =
        |store: &Store, topic: &str, at: u64| store.hide_dropped(format!("drop {topic}").as_bytes(), at);
    send(&store, 0, "a", 0, 3);
    send(&store, 1, "b", 0, 3);
    store.commit(store.log().end());
    manual.settle();
    let first = command(&store, 2, "renew a");
    send(&store, 3, "a", 0, 2);
    let second = command(&store, 4, "renew a");
    let held = store.queue("a", 0).unwrap();
    hide(&store, "a", first.start);
    assert!(store.queue("a", 0).is_none() && store.queue("b", 0).is_some());
    // Who had found it before goes on.
    assert_eq!(held.read(0, 9).len(), 3);
    hide(&store, "a", second.start);
    store.commit(second.start);
    manual.settle();
    assert!(store.queue("a", 0).is_none(), "it is to be dropped once more");
    store.commit(second.end);
    manual.settle();
    assert!(store.queue("a", 0).is_none());
    assert_eq!(send(&store, 5, "a", 0, 1), [0]);
    store.commit(store.log().end());
    manual.settle();
    assert_eq!(max_offset(&store, "a", 0), 1);
    // A start applies again what was dispatched before.
    hide(&store, "a", second.start);
    assert_eq!(max_offset(&store, "a", 0), 1);

    // Or it has applied what it has to dispatch again.
    let third = command(&store, 6, "renew a");
    store.close().unwrap();
    drop(store);
    let store = open(dir.path());
    assert_eq!(max_offset(&store, "a", 0), 1, "nothing has dropped it yet");
    store.commit_applied(third.start);
    assert_eq!(max_offset(&store, "a", 0), 1);
    drop(store);
    let store = open(dir.path());
    store.commit_applied(third.end);
    assert!(store.queue("a", 0).is_none());
    assert_eq!(send(&store, 7, "a", 0, 1), [0]);
    store.commit(store.log().end());
    manual.settle();
    assert_eq!(max_offset(&store, "a", 0), 1);
}
