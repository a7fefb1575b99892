//! Disks that fail: nobody is told that something is stored which is not.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use raftmq_store::{FlushMode, FrameKind, Store, StoreError, StoreOptions};
use raftmq_world::Disk;

use crate::crash_disk::{CrashDisk, Faults};
use crate::support::{
    Opened, SOON, append_command, append_message, append_pieces, flush, id, indexes, open_on, open_with,
    options, records, temp_dir, truncate_after, wait_dispatched, world,
};

fn open_failing(dir: &Path, flush: FlushMode) -> (CrashDisk, Opened) {
    let disk = CrashDisk::new(dir);
    let store = open_with(StoreOptions { flush, ..options(dir) }, &world(Arc::new(disk.clone()))).unwrap();
    (disk, store)
}

fn when_stored(store: &Store) -> Receiver<Result<(), StoreError>> {
    let (sender, told) = channel();
    store.when_stored(Box::new(move |stored| sender.send(stored).unwrap()));
    told
}

fn failures(store: &Store) -> Receiver<String> {
    let (sender, failed) = channel();
    store.on_failure(Box::new(move |reason| sender.send(reason).unwrap()));
    failed
}

#[test]
fn a_failed_sync_is_told_to_all_and_is_final() {
    let dir = temp_dir();
    let (disk, store) = open_failing(dir.path(), FlushMode::Sync);
    let failed = failures(&store);
    append_message(&store, id(1, 0));
    when_stored(&store).recv_timeout(SOON).unwrap().unwrap();
    let flushed = store.flushed_physical_offset();
    assert_eq!(flushed, store.log().end());

    disk.fail(Faults { sync: true, ..Faults::default() });
    append_message(&store, id(1, 1));
    let told = when_stored(&store);
    let error = told.recv_timeout(SOON).unwrap().unwrap_err();
    assert!(error.to_string().contains("sync"), "{error}");
    assert!(failed.recv_timeout(SOON).unwrap().contains("flush"));

    // The disk works again, and it makes no difference: the pages may be gone.
    disk.fail(Faults::default());
    append_message(&store, id(1, 2));
    assert!(when_stored(&store).recv_timeout(SOON).unwrap().is_err());
    assert!(matches!(flush(&store), Err(StoreError::Stopped(_))));
    assert!(truncate_after(&store, Some(1)).is_err());
    assert!(store.close().is_err());
    assert_eq!(store.flushed_physical_offset(), flushed);
    assert!(failed.try_recv().is_err(), "a failure is told once");
    let (late, told) = channel();
    store.on_failure(Box::new(move |reason| late.send(reason).unwrap()));
    assert!(told.recv_timeout(SOON).unwrap().contains("flush"));
}

#[test]
fn in_async_mode_a_failed_sync_stops_the_node_too() {
    let dir = temp_dir();
    let (disk, store) = open_failing(dir.path(), FlushMode::Async);
    let failed = failures(&store);
    disk.fail(Faults { sync: true, ..Faults::default() });
    append_message(&store, id(1, 0));
    when_stored(&store).recv_timeout(SOON).unwrap().unwrap();
    assert!(failed.recv_timeout(SOON).unwrap().contains("flush"));
    assert!(when_stored(&store).recv_timeout(SOON).unwrap().is_err());
}

#[test]
fn in_async_mode_a_sync_follows() {
    let dir = temp_dir();
    let (_, store) = open_failing(dir.path(), FlushMode::Async);
    let end = append_message(&store, id(1, 0)).end;
    let since = std::time::Instant::now();
    while store.flushed_physical_offset() < end {
        assert!(since.elapsed() < SOON);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn a_full_disk_refuses_a_new_segment_and_changes_nothing() {
    let dir = temp_dir();
    let (disk, store) = open_failing(dir.path(), FlushMode::Sync);
    append_command(&store, id(1, 0), &[1; 30_000]);
    disk.fail(Faults { create: true, ..Faults::default() });
    let large = || [bytes::BytesMut::from(&[2; 60_000][..])];
    let error = append_pieces(&store, id(1, 1), FrameKind::Command, &mut large()).unwrap_err();
    assert!(
        matches!(&error, StoreError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull),
        "{error}"
    );
    assert!(error.to_string().contains("00000000000000065536"), "{error}");
    // What fits is not affected, and neither is its place.
    let small = append_command(&store, id(1, 1), b"small");
    assert_eq!(small.start, 30_000 + 64);
    disk.fail(Faults::default());
    append_pieces(&store, id(1, 2), FrameKind::Command, &mut large()).unwrap();
    store.close().unwrap();
}

#[test]
fn a_refused_write_stops_all_appends_and_leaves_no_trace() {
    let dir = temp_dir();
    let (disk, store) = open_failing(dir.path(), FlushMode::Sync);
    append_message(&store, id(1, 0));
    disk.fail(Faults { write: true, ..Faults::default() });
    let pieces = || [records(&[crate::support::Message::new("topic", 0, "k", 10)])];
    let error = append_pieces(&store, id(1, 1), FrameKind::Messages, &mut pieces()).unwrap_err();
    assert!(matches!(error, StoreError::Io { doing: "write", .. }), "{error}");
    disk.fail(Faults::default());
    let error = append_pieces(&store, id(1, 1), FrameKind::Messages, &mut pieces()).unwrap_err();
    assert!(matches!(error, StoreError::Stopped(_)), "{error}");
    assert_eq!(indexes(&store), [0]);
    store.close().unwrap();
    drop(store);
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let store = open_on(&disk, dir.path()).unwrap();
    assert_eq!(indexes(&store), [0]);
    append_message(&store, id(1, 1));
}

/// A write to what is derived fails: the node stops, and the log is whole.
#[test]
fn a_queue_that_cannot_be_written_stops_the_node() {
    let dir = temp_dir();
    let (disk, store) = open_failing(dir.path(), FlushMode::Sync);
    let failed = failures(&store);
    let end = append_message(&store, id(1, 0)).end;
    disk.fail(Faults { create: true, ..Faults::default() });
    store.commit(end);
    assert!(failed.recv_timeout(SOON).unwrap().contains("dispatch: create"));
    assert!(!wait_dispatched(&store, end));
    disk.fail(Faults::default());
    store.close().unwrap();
    drop(store);
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let store = open_on(&disk, dir.path()).unwrap();
    store.commit(end);
    assert!(wait_dispatched(&store, end));
    assert_eq!(store.queue("topic", 0).unwrap().max_offset(), 1);
}
