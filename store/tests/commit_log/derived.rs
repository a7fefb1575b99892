//! ConsumeQueues and IndexFiles follow the committed log, and are made again from it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use raftmq_message::topic::TIMER_TOPIC;
use raftmq_store::{FrameKind, Store};

use crate::support::{
    Message, Opened, SOON, append_pieces, content, id, open, records, temp_dir, wait_dispatched,
    wait_dispatched_within,
};

/// Appends and commits entries of four messages each, on two queues and with a time of its own.
fn fill(store: &Store, from: u64, count: u64) {
    let mut end = 0;
    for index in from..from + count {
        let message = |queue, n: u32| Message::new("topic", queue, &format!("key-{index}-{n}"), 500);
        let timer = Message::new(TIMER_TOPIC, 0, &format!("timer-{index}"), 50);
        let messages = [message(0, 0), message(1, 1), message(0, 2), timer];
        end =
            append_pieces(store, id(1, index), FrameKind::Messages, &mut [records(&messages)]).unwrap().0.end;
    }
    store.commit(end);
    assert!(wait_dispatched(store, end));
}

fn derived(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    [content(&dir.join("consumequeue")), content(&dir.join("index")), content(&dir.join("timer"))].concat()
}

fn assert_complete(store: &Opened, entries: u64) {
    assert_eq!(store.queue("topic", 0).unwrap().max_offset(), 2 * entries);
    assert_eq!(store.queue("topic", 1).unwrap().max_offset(), entries);
    let timers = store.timers.due((i64::MIN, 0), i64::MAX, u64::MAX, 1000).unwrap();
    assert!(timers.is_sorted());
    let offsets: BTreeSet<_> = timers.iter().map(|timer| timer.queue_offset).collect();
    assert_eq!((timers.len() as u64, offsets), (entries, (0..entries).collect()));
    for index in 0..entries {
        let found = store.index.query("topic", &format!("key-{index}-1"), 0, i64::MAX, 9).unwrap();
        let unit = store.queue("topic", 1).unwrap().get(index).unwrap();
        assert!(found.contains(&unit.physical_offset));
    }
}

fn commit_all(store: &Store) {
    store.commit(store.log().end());
    assert!(wait_dispatched(store, store.log().end()));
}

#[test]
fn whatever_is_deleted_is_made_again_the_same() {
    let dir = temp_dir();
    let store = open(dir.path());
    fill(&store, 0, 60);
    store.close().unwrap();
    drop(store);
    let before = derived(dir.path());
    assert_eq!(before.len(), 3 + 1 + 5);
    for deleted in [
        vec!["consumequeue"],
        vec!["index"],
        vec!["consumequeue", "index"],
        vec!["consumequeue/topic/1"],
        vec!["timer"],
        vec!["timer/00000000000000000003"],
        vec!["dispatched"],
        vec!["dispatched", "index"],
    ] {
        for path in deleted.iter().map(|name| dir.path().join(name)) {
            if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
        }
        let store = open(dir.path());
        commit_all(&store);
        assert_complete(&store, 60);
        store.close().unwrap();
        drop(store);
        assert!(before == derived(dir.path()), "after {deleted:?} were deleted");
    }
}

#[test]
fn damage_in_what_is_derived_is_repaired() {
    let dir = temp_dir();
    let store = open(dir.path());
    fill(&store, 0, 60);
    store.close().unwrap();
    drop(store);
    let before = derived(dir.path());
    for (path, _) in &before {
        // In the middle of what is used; past the slots in an index file.
        let at = if path.starts_with(dir.path().join("index")) { 40 + (1 << 18) * 4 + 20 * 30 } else { 160 };
        let mut bytes = fs::read(path).unwrap();
        bytes[at..at + 20].fill(0);
        fs::write(path, bytes).unwrap();
        let store = open(dir.path());
        commit_all(&store);
        assert_complete(&store, 60);
        store.close().unwrap();
        drop(store);
        assert!(before == derived(dir.path()), "after damage in {}", path.display());
    }
}

/// Without a last checkpoint, and with entries behind the recorded one.
#[test]
fn a_kill_leaves_nothing_double_and_nothing_missing() {
    let dir = temp_dir();
    let store = open(dir.path());
    fill(&store, 0, 20);
    store.close().unwrap();
    drop(store);
    let store = open(dir.path());
    fill(&store, 20, 20);
    drop(store);
    let store = open(dir.path());
    // The queues stand where the checkpoint was until it is known again what is committed.
    assert_eq!(store.queue("topic", 1).unwrap().max_offset(), 20);
    commit_all(&store);
    assert_complete(&store, 40);
    fill(&store, 40, 5);
    assert_complete(&store, 45);
}

#[test]
fn arrivals_are_told_once_a_batch_and_only_of_committed_messages() {
    let dir = temp_dir();
    let store = open(dir.path());
    let (sender, arrived) = mpsc::channel();
    store.set_arrival_listener(Box::new(move |arrivals| sender.send(arrivals.to_vec()).unwrap()));
    let append = |index, queue| {
        let pieces = &mut [records(&[Message::new("topic", queue, "k", 10)])];
        append_pieces(&store, id(1, index), FrameKind::Messages, pieces).unwrap().0.end
    };
    append(0, 0);
    let committed = append(1, 1);
    append(2, 0);
    store.commit(committed);
    assert!(wait_dispatched(&store, committed));
    let mut batch = arrived.recv_timeout(SOON).unwrap();
    batch.sort_by_key(|a| a.queue_id);
    let seen: Vec<_> =
        batch.iter().map(|a| (&*a.topic, a.queue_id, a.max_offset, a.store_timestamp_ms)).collect();
    assert_eq!(seen, [("topic", 0, 1, 1_000_000), ("topic", 1, 1, 1_000_001)]);
    assert!(arrived.try_recv().is_err());
    assert_eq!(store.dispatched_physical_offset(), committed);
    assert!(!wait_dispatched_within(Duration::from_millis(20), &store, store.log().end()));
}

/// What says that the log is committed somewhere inside an entry, or behind its end, is wrong and stops the node.
#[test]
fn a_commit_where_no_entry_ends_is_a_failure() {
    for beyond in [-1i64, 1] {
        let dir = temp_dir();
        let store = open(dir.path());
        let (sender, failed) = mpsc::channel();
        store.on_failure(Box::new(move |reason| sender.send(reason).unwrap()));
        let pieces = &mut [records(&[Message::new("topic", 0, "k", 10)])];
        let end = append_pieces(&store, id(1, 0), FrameKind::Messages, pieces).unwrap().0.end;
        store.commit(end.checked_add_signed(beyond).unwrap());
        assert!(failed.recv_timeout(SOON).unwrap().contains("where no entry ends"));
        assert!(store.queue("topic", 0).is_none_or(|queue| queue.max_offset() == 0) || beyond > 0);
    }
}
