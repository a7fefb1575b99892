//! Disks that fail: nobody is told that something is stored which is not.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use raftmq_store::{FlushMode, FrameKind, Store, StoreError, StoreOptions};
use raftmq_world::{Disk, DiskUsage};

use crate::crash_disk::{CrashDisk, Faults};
use crate::support::{
    Opened, SEGMENT, SOON, append_command, append_message, append_pieces, flush, id, indexes, open_on,
    open_with, options, records, temp_dir, truncate_after, wait_dispatched, world,
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

/// Waits until the store has noticed whether there is room.
fn wait_for_room(store: &Store, has_room: bool) {
    let since = std::time::Instant::now();
    while store.room().is_ok() != has_room {
        assert!(since.elapsed() < SOON);
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

#[test]
fn a_disk_that_fills_is_noticed_before_the_log_needs_it() {
    const RESERVE: u64 = 8 * SEGMENT;
    let dir = temp_dir();
    let disk = CrashDisk::new(dir.path());
    let of_free = |free| Faults { usage: Some(DiskUsage { free, all: 1 << 40 }), ..Faults::default() };
    disk.fail(of_free(1 << 39));
    let options = StoreOptions { reserve_bytes: RESERVE, ..options(dir.path()) };
    let store = open_with(options, &world(Arc::new(disk.clone()))).unwrap();
    assert_eq!(store.room(), Ok(()));
    let segments = || disk.list(&dir.path().join("commitlog")).unwrap().len();
    assert_eq!(segments(), 1);

    // Less than the reserve, and less than what may be on its way beside it.
    for free in [RESERVE - 1, RESERVE + SEGMENT] {
        disk.fail(of_free(free));
        wait_for_room(&store, false);
        let words = store.room().unwrap_err().to_string();
        assert!(words.contains(&format!("{free} bytes are free")), "{words}");
        disk.fail(of_free(1 << 39));
        wait_for_room(&store, true);
    }

    // The reserve is not for segments ahead of need, but for one that is needed.
    disk.fail(of_free(RESERVE));
    wait_for_room(&store, false);
    append_command(&store, id(1, 0), &[1; 50_000]);
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(segments(), 1);
    append_command(&store, id(1, 1), &[1; 50_000]);
    assert_eq!((segments(), indexes(&store)), (2, vec![0, 1]));
    disk.fail(of_free(1 << 39));
    wait_for_room(&store, true);
    let since = std::time::Instant::now();
    while segments() < 3 {
        assert!(since.elapsed() < SOON, "the next one is made ahead of need again");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    store.close().unwrap();
}

/// Nothing may be made any more, whatever is said to be free: a quota. The log has a segment ahead of need for what is on its
/// way.
#[test]
fn a_disk_that_refuses_segments_lacks_room_whatever_it_says() {
    let dir = temp_dir();
    let (disk, store) = open_failing(dir.path(), FlushMode::Sync);
    disk.fail(Faults { create: true, usage: Some(DiskUsage::EMPTY), ..Faults::default() });
    append_command(&store, id(1, 0), &[1; 40_000]);
    wait_for_room(&store, false);
    disk.fail(Faults { usage: Some(DiskUsage::EMPTY), ..Faults::default() });
    wait_for_room(&store, true);
    store.close().unwrap();
}

#[test]
fn a_sector_that_cannot_be_read_is_an_error_that_names_file_and_position() {
    let dir = temp_dir();
    let (disk, store) = open_failing(dir.path(), FlushMode::Sync);
    append_message(&store, id(1, 0));
    drop(store);
    disk.fail(Faults { read: true, ..Faults::default() });
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let error = open_on(&disk, dir.path()).unwrap_err();
    let words = error.to_string();
    assert!(matches!(error, StoreError::Io { doing: "read", .. }), "{words}");
    assert!(words.contains("00000000000000000000: at position 0"), "{words}");
}

#[test]
fn a_checkpoint_that_there_is_no_room_for_is_made_later() {
    for fault in [
        Faults { replace: true, ..Faults::default() },
        // What is derived is kept in memory until then, some of it.
        Faults { write_index: true, ..Faults::default() },
    ] {
        let dir = temp_dir();
        let (disk, store) = open_failing(dir.path(), FlushMode::Sync);
        let failed = failures(&store);
        disk.fail(fault);
        let end = append_message(&store, id(1, 0)).end;
        store.commit(end);
        assert!(wait_dispatched(&store, end));
        store.close().unwrap();
        drop(store);
        assert!(!dir.path().join("dispatched").exists() && failed.try_recv().is_err());
        disk.fail(Faults::default());
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let store = open_on(&disk, dir.path()).unwrap();
        store.commit(end);
        assert!(wait_dispatched(&store, end));
        assert_eq!(store.queue("topic", 0).unwrap().max_offset(), 1);
        assert_eq!(store.index.query("topic", "key-0", 0, i64::MAX, 9).unwrap().len(), 1);
        store.close().unwrap();
        assert!(dir.path().join("dispatched").exists());
    }
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
