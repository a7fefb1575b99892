//! The store without threads: its steps are called one by one.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use raftmq_store::{ASYNC_INTERVAL, Callback, FlushMode, Store, StoreError, StoreOptions};
use raftmq_world::{Disk, Next, OsDisk};

use crate::crash_disk::{CrashDisk, Faults};
use crate::manual::Manual;
use crate::model_based::op;
use crate::support::wait_dispatched;
use crate::support::{
    SEGMENT, append_command, append_message, content, damage, flush, id, indexes, open, open_on, open_with,
    options, temp_dir, try_open, world,
};
use crate::{crash_images, model_based};

const FLUSH: &str = "raftmq-flush";
const REPUT: &str = "raftmq-reput";
const CHECKPOINT: &str = "raftmq-checkpoint";
const AHEAD: &str = "raftmq-ahead";
const SCRUB: &str = "raftmq-scrub";
const ALL: [&str; 5] = [FLUSH, REPUT, CHECKPOINT, AHEAD, SCRUB];

type Told = Receiver<Result<(), StoreError>>;

fn ask(ask: impl FnOnce(Callback)) -> Told {
    let (tell, told) = channel();
    ask(Box::new(move |done| drop(tell.send(done))));
    told
}

fn when_stored(store: &Store) -> Told {
    ask(|callback| store.when_stored(callback))
}

/// One that was told, once, that all went well.
fn assert_done(told: &Told) {
    told.try_recv().expect("a word").unwrap();
    assert!(told.try_recv().is_err());
}

/// One that was told, once, that nothing comes of it.
fn assert_refused(told: &Told, why: &str) {
    let error = told.try_recv().expect("a word").unwrap_err();
    assert!(matches!(error, StoreError::Stopped(_)) && error.to_string().contains(why), "{error}");
    assert!(told.try_recv().is_err());
}

fn assert_waits(told: &Told) {
    assert!(matches!(told.try_recv(), Err(TryRecvError::Empty)));
}

fn marked(dir: &Path) -> Vec<u8> {
    std::fs::read(dir.join("marks")).unwrap()
}

#[test]
fn everything_works_without_a_thread() {
    let dir = temp_dir();
    let (manual, _here) = Manual::install(1);
    let store = open(dir.path());
    manual.settle();
    let end = append_message(&store, id(1, 0)).end;
    let stored = when_stored(&store);
    assert!(manual.is_ready(FLUSH) && !manual.is_ready(REPUT));
    assert_eq!(manual.step(FLUSH), Next::Again);
    assert_waits(&stored);
    assert_eq!(manual.step(FLUSH), Next::Again);
    assert_done(&stored);
    assert_eq!(store.flushed_physical_offset(), end);
    // The marks are synced a little later.
    assert_eq!(manual.step(FLUSH), Next::WaitFor(Duration::from_millis(100)));
    manual.pass(Duration::from_millis(100));
    assert_eq!((manual.step(FLUSH), manual.step(FLUSH)), (Next::Again, Next::Wait));

    let dispatched = ask(|callback| store.when_dispatched(end, callback));
    store.set_committed(id(1, 0)).unwrap();
    store.commit(end);
    assert_waits(&dispatched);
    assert_eq!(manual.step(REPUT), Next::Again);
    assert_done(&dispatched);
    assert_done(&ask(|callback| store.when_dispatched(end, callback)));
    assert_eq!(manual.step(REPUT), Next::WaitFor(Duration::from_millis(9900)));

    // A checkpoint, which waits for the log to be flushed.
    append_message(&store, id(1, 1));
    manual.pass(Duration::from_secs(10));
    assert_eq!(manual.step(REPUT), Next::Wait);
    assert_eq!((manual.step(CHECKPOINT), manual.step(CHECKPOINT)), (Next::Wait, Next::Wait));
    assert!(!dir.path().join("dispatched").exists() && !manual.is_ready(CHECKPOINT));
    assert_eq!((manual.step(FLUSH), manual.step(FLUSH)), (Next::Again, Next::Again));
    assert!(manual.is_ready(CHECKPOINT));
    assert_eq!(manual.step(CHECKPOINT), Next::Again);
    assert!(dir.path().join("dispatched").exists());
    assert_eq!((manual.step(CHECKPOINT), manual.step(REPUT)), (Next::Wait, Next::Wait));

    let shortened = ask(|callback| store.truncate_after(Some(0), callback));
    assert_eq!(manual.step(FLUSH), Next::Again);
    assert_eq!(indexes(&store), [0, 1]);
    assert_waits(&shortened);
    assert_eq!(manual.step(FLUSH), Next::Again);
    assert_done(&shortened);
    assert_eq!((indexes(&store), store.flushed_physical_offset()), (vec![0], end));

    // Steps that have nothing to do do nothing.
    let before = content(dir.path());
    manual.settle();
    for name in ALL.into_iter().filter(|name| manual.is_running(name)) {
        assert!(!matches!(manual.step(name), Next::Again | Next::End), "{name}");
    }
    assert!(before == content(dir.path()));
    store.close().unwrap();
    assert!(ALL.iter().all(|name| !manual.is_running(name)));
    store.close().unwrap();
    drop(store);
    let store = open(dir.path());
    assert_eq!((indexes(&store), store.dispatched_physical_offset()), (vec![0], end));
}

#[test]
fn what_is_appended_between_the_steps_of_a_flush_is_not_told_as_stored_by_it() {
    let dir = temp_dir();
    let (manual, _here) = Manual::install(1);
    let store = open(dir.path());
    let ends = [append_message(&store, id(1, 0)).end, append_message(&store, id(1, 1)).end];
    let first = when_stored(&store);
    assert_eq!(manual.step(FLUSH), Next::Again);
    let third_end = append_message(&store, id(1, 2)).end;
    let later = [when_stored(&store), ask(|callback| store.flush(callback))];
    assert_eq!(manual.step(FLUSH), Next::Again);
    assert_done(&first);
    later.iter().for_each(assert_waits);
    assert_eq!(store.flushed_physical_offset(), ends[1]);
    assert!(manual.is_ready(FLUSH), "nobody has to be woken for those who came meanwhile");
    assert_eq!((manual.step(FLUSH), manual.step(FLUSH)), (Next::Again, Next::Again));
    later.iter().for_each(assert_done);
    assert_eq!(store.flushed_physical_offset(), third_end);
}

/// Who keeps a watermark may ignore all but the first word.
#[test]
fn the_newest_is_told_first() {
    let dir = temp_dir();
    let disk = CrashDisk::new(dir.path());
    let (manual, _here) = Manual::install(1);
    let store = open_with(options(dir.path()), &world(Arc::new(disk.clone()))).unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let wait = |n: u32| {
        let order = order.clone();
        store.when_stored(Box::new(move |stored| order.lock().unwrap().push((n, stored.is_ok()))));
    };
    append_message(&store, id(1, 0));
    (0..3).for_each(wait);
    assert_eq!((manual.step(FLUSH), manual.step(FLUSH)), (Next::Again, Next::Again));
    disk.fail(Faults { sync: true, ..Faults::default() });
    (3..5).for_each(wait);
    assert_eq!(manual.step(FLUSH), Next::Again);
    wait(5);
    assert_eq!(manual.step(FLUSH), Next::End);
    let expected = [(2, true), (1, true), (0, true), (5, false), (4, false), (3, false)];
    assert_eq!(*order.lock().unwrap(), expected);
}

/// The failures that a store reports from now on.
fn failures_of(store: &Store) -> Arc<Mutex<Vec<String>>> {
    let failures = Arc::new(Mutex::new(Vec::new()));
    let failed = failures.clone();
    store.on_failure(Box::new(move |reason| failed.lock().unwrap().push(reason)));
    failures
}

#[test]
fn a_failing_sync_tells_everybody_once() {
    let dir = temp_dir();
    let disk = CrashDisk::new(dir.path());
    let (manual, _here) = Manual::install(1);
    let store = open_with(options(dir.path()), &world(Arc::new(disk.clone()))).unwrap();
    let failures = failures_of(&store);
    append_message(&store, id(1, 0));
    let end = append_message(&store, id(1, 1)).end;
    store.commit(end);
    manual.step(REPUT);
    manual.pass(Duration::from_secs(10));
    manual.step(REPUT);

    let all = |store: &Store| {
        let shortened = ask(|callback| store.truncate_after(Some(0), callback));
        [when_stored(store), ask(|callback| store.flush(callback)), shortened]
    };
    append_message(&store, id(1, 2));
    let shorten = || ask(|callback| store.truncate_after(Some(1), callback));
    let mut waiting = vec![when_stored(&store), ask(|callback| store.flush(callback)), shorten()];
    assert_eq!(manual.step(CHECKPOINT), Next::Wait);
    assert_eq!(manual.step(FLUSH), Next::Again);
    waiting.extend([when_stored(&store), ask(|callback| store.flush(callback)), shorten()]);
    disk.fail(Faults { sync: true, ..Faults::default() });
    let before = marked(dir.path());
    assert_eq!(manual.step(FLUSH), Next::End);
    waiting.iter().for_each(|told| assert_refused(told, "a flush failed: sync"));
    // The checkpoint that waited fails with it, and what is asked for now is refused at once.
    disk.fail(Faults::default());
    assert_eq!(manual.step(CHECKPOINT), Next::End);
    assert!(!dir.path().join("dispatched").exists());
    waiting = vec![when_stored(&store), ask(|callback| store.flush(callback)), shorten()];
    waiting.iter().for_each(|told| assert_refused(told, "a flush failed: sync"));
    let [_, _, committed] = all(&store);
    assert!(matches!(committed.try_recv().unwrap(), Err(StoreError::Divergence(_))));
    assert!(store.close().is_err());
    assert_eq!((indexes(&store), store.flushed_physical_offset()), (vec![0, 1, 2], 0));
    assert!(before == marked(dir.path()));
    let failures = failures.lock().unwrap();
    assert!(failures.len() == 1 && failures[0].contains("flush: sync"), "{failures:?}");
}

#[test]
fn a_truncation_that_fails_tells_everybody_once() {
    let dir = temp_dir();
    let disk = CrashDisk::new(dir.path());
    let (manual, _here) = Manual::install(1);
    let store = open_with(options(dir.path()), &world(Arc::new(disk.clone()))).unwrap();
    let failures = failures_of(&store);
    append_message(&store, id(1, 0));
    append_message(&store, id(1, 1));
    let stored = when_stored(&store);
    let (told, failing) = (channel(), disk.clone());
    // Between the flush and the truncation.
    store.flush(Box::new(move |done| {
        failing.fail(Faults { sync: true, ..Faults::default() });
        told.0.send(done).unwrap();
    }));
    let waiting = [Some(0), None].map(|last| ask(|callback| store.truncate_after(last, callback)));
    assert_eq!(manual.step(FLUSH), Next::Again);
    let late = when_stored(&store);
    assert_eq!(manual.step(FLUSH), Next::End);
    assert_done(&stored);
    assert_done(&told.1);
    assert!(matches!(waiting[0].try_recv().unwrap(), Err(StoreError::Io { doing: "sync", .. })));
    assert_refused(&waiting[1], "a truncation failed: sync");
    assert_refused(&late, "a truncation failed: sync");
    assert_eq!(indexes(&store), [0, 1]);
    let failures = failures.lock().unwrap();
    assert!(failures.len() == 1 && failures[0].contains("truncation: sync"), "{failures:?}");
}

/// Those who wait at a close or a drop are told, once and truthfully.
#[test]
fn a_close_and_a_drop_with_pending_waiters() {
    let mut removals = BTreeSet::new();
    for (close, seed) in [true, false].into_iter().flat_map(|close| (0..20).map(move |seed| (close, seed))) {
        let dir = temp_dir();
        let (manual, _here) = Manual::install(seed);
        let store = open(dir.path());
        let end = append_message(&store, id(1, 0)).end;
        let last_end = append_message(&store, id(1, 1)).end;
        // Where dispatch fails there is no last checkpoint, for which all that waits would be flushed before the close.
        store.commit(end - seed / 3 % 2);
        manual.step(REPUT);
        let early = when_stored(&store);
        for _ in 0..seed % 3 {
            manual.step(FLUSH);
        }
        let late = [when_stored(&store), ask(|callback| store.flush(callback))];
        let removed = ask(|callback| store.truncate_after(Some(0), callback));
        let never = ask(|callback| store.when_dispatched(last_end, callback));
        if close {
            store.close().unwrap();
            assert_done(&early);
            late.iter().for_each(assert_done);
        } else {
            drop(store);
            let told = |told: &Told| told.try_recv().expect("a word").is_ok();
            let (early, late) = (told(&early), [told(&late[0]), told(&late[1])]);
            assert!(early >= late[0] && late[0] == late[1]);
        }
        assert_refused(&never, if seed / 3 % 2 == 1 { "dispatch failed" } else { "closed" });
        assert!(ALL.iter().all(|name| !manual.is_running(name)));
        let removed = match removed.try_recv().expect("a word") {
            Ok(()) => true,
            Err(StoreError::Stopped(_)) => false,
            Err(e) => panic!("{e}"),
        };
        removals.insert((close, removed));
        assert_eq!(indexes(&open(dir.path())), if removed { vec![0] } else { vec![0, 1] });
    }
    assert_eq!(removals.len(), 4, "{removals:?}");
}

#[test]
fn a_step_may_be_the_last_to_hold_the_store() {
    let dir = temp_dir();
    let (manual, _here) = Manual::install(1);
    let store = open(dir.path());
    let end = append_message(&store, id(1, 0)).end;
    store.commit(end);
    manual.step(REPUT);
    manual.pass(Duration::from_secs(10));
    manual.step(REPUT);
    manual.step(CHECKPOINT);
    // A checkpoint waits for the flusher, and the flusher drops the store.
    let kept = store.clone();
    store.when_stored(Box::new(move |stored| {
        stored.unwrap();
        drop(kept);
    }));
    let late = ask(|callback| store.flush(callback));
    manual.step(FLUSH);
    drop(store);
    manual.settle();
    assert_done(&late);
    assert!(ALL.iter().all(|name| !manual.is_running(name)));
    assert_eq!(indexes(&open(dir.path())), [0]);
}

#[test]
fn in_async_mode_a_sync_comes_when_it_is_time_or_asked_for() {
    let dir = temp_dir();
    let (manual, _here) = Manual::install(1);
    let options = StoreOptions { flush: FlushMode::Async, ..options(dir.path()) };
    let store = open_with(options, &world(Arc::new(OsDisk))).unwrap();
    manual.settle();
    let half = ASYNC_INTERVAL / 2;
    manual.pass(half);
    let first = append_message(&store, id(1, 0)).end;
    assert_done(&when_stored(&store));
    assert!(!manual.is_ready(FLUSH));
    assert_eq!(manual.step(FLUSH), Next::WaitFor(half));
    manual.pass(half);
    assert!(manual.is_ready(FLUSH));
    assert_eq!((manual.step(FLUSH), manual.step(FLUSH)), (Next::Again, Next::Again));
    assert_eq!(store.flushed_physical_offset(), first);
    assert_eq!(manual.step(FLUSH), Next::WaitFor(ASYNC_INTERVAL));
    manual.pass(half);
    let second = append_message(&store, id(1, 1)).end;
    let flushed = ask(|callback| store.flush(callback));
    assert!(manual.is_ready(FLUSH));
    assert_eq!((manual.step(FLUSH), manual.step(FLUSH)), (Next::Again, Next::Again));
    assert_done(&flushed);
    assert_eq!(store.flushed_physical_offset(), second);
    manual.pass(half);
    assert_eq!(manual.step(FLUSH), Next::WaitFor(ASYNC_INTERVAL), "there is nothing to flush");
}

#[test]
fn few_may_wait_for_dispatch() {
    let dir = temp_dir();
    let (manual, _here) = Manual::install(1);
    let store = open(dir.path());
    let end = append_message(&store, id(1, 0)).end;
    let waiting: Vec<_> = (0..65).map(|_| ask(|callback| store.when_dispatched(end, callback))).collect();
    assert!(matches!(waiting[0].try_recv().unwrap(), Err(StoreError::Illegal(_))));
    waiting[1..].iter().for_each(assert_waits);
    store.commit(end);
    manual.settle();
    waiting[1..].iter().for_each(assert_done);
}

#[test]
fn old_segments_are_read_through_in_steps() {
    let dir = temp_dir();
    let store = open(dir.path());
    for index in 0..40 {
        append_command(&store, id(1, index), &[7; SEGMENT as usize - 64]);
    }
    let end = store.max_physical_offset();
    store.commit(end);
    assert!(wait_dispatched(&store, end));
    store.close().unwrap();
    drop(store);
    for segment in [3, 30] {
        let at = segment * SEGMENT + 100;
        damage(dir.path(), at, &[8]);
        let (manual, _here) = Manual::install(1);
        let store = open(dir.path());
        let mut steps = 0;
        while store.damage().is_empty() {
            // Each is followed by a pause.
            match manual.step(SCRUB) {
                Next::WaitFor(pause) => manual.pass(pause),
                _ => steps += 1,
            }
            assert!(steps < 4);
        }
        assert_eq!(steps, at / (1 << 20) + 1);
        assert_eq!(store.damage()[0].physical_offset, segment * SEGMENT);
        damage(dir.path(), at, &[7]);
    }
}

/// Between a killed process and the next one nothing is left to do: neither holds anything of the other.
#[test]
fn a_store_is_opened_again_by_the_same_scheduler() {
    let dir = temp_dir();
    let disk: Arc<dyn Disk> = Arc::new(CrashDisk::new(dir.path()));
    let (manual, _here) = Manual::install(1);
    for index in 0..5 {
        let store = open_on(&disk, dir.path()).unwrap();
        assert!(matches!(try_open(dir.path()), Err(StoreError::InUse { .. })));
        append_message(&store, id(1, index));
        flush(&store).unwrap();
        if index % 2 == 0 {
            store.close().unwrap();
        }
        drop(store);
        assert!(!manual.turn());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn in_any_order_of_steps_the_store_holds_what_the_model_says(
        ops in proptest::collection::vec(op(), 1..40),
        seed: u64,
    ) {
        let (_manual, _here) = Manual::install(seed);
        model_based::run(&ops);
    }

    #[test]
    fn in_any_order_of_steps_what_was_stored_survives(
        rounds in proptest::collection::vec((proptest::collection::vec(op(), 1..25), 0..80u64), 1..4),
        seed: u64,
    ) {
        let (_manual, _here) = Manual::install(seed);
        crash_images::run(&rounds, seed);
    }
}
