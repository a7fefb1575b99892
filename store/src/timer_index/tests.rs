use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::entry::{LAST_SLOT, SLOT_MS};
use super::*;
use raftmq_world::{Disk, DiskFile, DiskLayer, FileLayer, OsDisk, Space};

/// So that slots have several files.
const PER_FILE: u64 = 5;
const NO_LIMIT: u64 = u64::MAX;

fn new(disk: Arc<dyn Disk>, dir: &Path) -> TimerIndex {
    TimerIndex::new(OpenFiles::new(disk, 0), dir, Reads { properties: &[], read: |_| None })
}

/// As of a limit, a checkpoint having recorded that slots before this one are not needed.
fn open(dir: &Path, limit: u64, first_slot: u64) -> Result<TimerIndex, StoreError> {
    open_as(dir, limit, &Numbers::new([("timer_slot", first_slot)]))
}

fn open_as(dir: &Path, limit: u64, recorded: &Numbers) -> Result<TimerIndex, StoreError> {
    let index = TimerIndex { entries_per_file: PER_FILE, ..new(Arc::new(OsDisk), dir) };
    index.recover(limit, recorded)?;
    Ok(index)
}

/// The first slot that is needed, and how many entries there are.
fn held(index: &TimerIndex) -> (u64, u64) {
    (index.held().get("timer_slot"), index.held().get("timers"))
}

fn entry(due_ms: i64, queue_offset: u64) -> TimerEntry {
    TimerEntry { due_ms, queue_offset, physical_offset: 100 + queue_offset * 10, size: 9 }
}

fn all(index: &TimerIndex) -> Vec<TimerEntry> {
    index.due((i64::MIN, 0), i64::MAX, u64::MAX, 1 << 20).unwrap()
}

#[derive(Debug, Clone)]
enum Step {
    /// Messages that are due then, one after the other in the log.
    Put(Vec<i64>),
    Flush,
    WriteOut,
    /// Asks for what is due: after one of the entries, until then, below an offset, at most so many.
    Due(u8, i64, u64, usize),
    /// Drops what is before, makes a checkpoint and opens it again.
    Drop(i64),
    /// Closes, and opens as of this fraction of the log, in 256ths.
    Restart(u8),
}

/// Some minutes, the ends of time, and the same time twice.
fn due_ms() -> impl Strategy<Value = i64> {
    prop_oneof![
        8 => 0..6 * SLOT_MS,
        2 => (0..4i64).prop_map(|minute| minute * SLOT_MS),
        1 => Just(i64::MAX),
        1 => Just(SLOT_MS * LAST_SLOT as i64),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::collection::vec(due_ms(), 1..20).prop_map(Step::Put),
        1 => Just(Step::Flush),
        1 => Just(Step::WriteOut),
        6 => (any::<u8>(), due_ms(), 0..80u64, 0..12usize).prop_map(|(a, u, b, m)| Step::Due(a, u, b, m)),
        1 => (0..4 * SLOT_MS).prop_map(Step::Drop),
        1 => any::<u8>().prop_map(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_a_sorted_set(steps in prop::collection::vec(step(), 1..30)) {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let mut index = open(dir.path(), NO_LIMIT, 0).unwrap();
        let (mut model, mut next, mut first_slot) = (BTreeSet::new(), 0, 0);
        for step in steps {
            match step {
                Step::Put(times) => for due_ms in times {
                    index.add(entry(due_ms, next)).unwrap();
                    if slot_of(due_ms) >= first_slot {
                        model.insert(entry(due_ms, next));
                    }
                    next += 1;
                },
                Step::Flush => index.flush().unwrap(),
                Step::WriteOut => index.slots().into_iter().try_for_each(|id| index.write_out(id)).unwrap(),
                Step::Due(after, until, below, max) => {
                    let after = model.iter().nth(model.len() * usize::from(after) / 256);
                    let after = after.map_or((0, 0), |e: &TimerEntry| (e.due_ms, e.queue_offset));
                    let expected: Vec<_> = model
                        .iter()
                        .filter(|e| (e.due_ms, e.queue_offset) > after && e.due_ms <= until)
                        .filter(|e| e.queue_offset < below)
                        .take(max)
                        .copied()
                        .collect();
                    prop_assert_eq!(index.due(after, until, below, max).unwrap(), expected);
                }
                Step::Drop(before) => {
                    index.drop_before(before);
                    first_slot = first_slot.max(slot_of(before));
                    model.retain(|e| e.slot() >= first_slot);
                    index.flush().unwrap();
                    prop_assert_eq!(held(&index), (first_slot, model.len() as u64));
                    index.clean_up(0, &index.held()).unwrap();
                    index = open(dir.path(), NO_LIMIT, first_slot).unwrap();
                }
                Step::Restart(at) => {
                    // As a checkpoint does it: what is kept was flushed.
                    index.flush().unwrap();
                    next = next * u64::from(at) / 255;
                    index = open(dir.path(), entry(0, next).physical_offset, first_slot).unwrap();
                    model.retain(|e| e.queue_offset < next);
                }
            }
            prop_assert_eq!(held(&index), (first_slot, model.len() as u64));
            prop_assert_eq!(all(&index), model.iter().copied().collect::<Vec<_>>());
            for at in [i64::MIN, 0, 2 * SLOT_MS, i64::MAX] {
                let next = model.iter().find(|e| e.slot() >= slot_of(at)).map(|e| slot_start_ms(e.slot()));
                prop_assert_eq!(index.next_slot_ms(at), next);
                let count = model.iter().filter(|e| e.slot() >= slot_of(at)).count();
                prop_assert_eq!(index.count_from(at), count as u64);
            }
        }
    }
}

#[test]
fn slots_that_hold_back_too_much_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let index = new(Arc::new(OsDisk), dir.path());
    let (slots, count) = (100, PENDING_MAX as u64 + 10);
    for offset in 0..count {
        index.add(entry((offset % slots) as i64 * SLOT_MS, offset)).unwrap();
    }
    assert!(index.state.lock().pending <= PENDING_MAX);
    for offset in count..count + SLOT_PENDING_MAX as u64 {
        index.add(entry(i64::MAX, offset)).unwrap();
        assert!(index.state.lock().slots[&LAST_SLOT].pending.len() < SLOT_PENDING_MAX);
        assert!(index.state.lock().pending <= PENDING_MAX);
    }
    assert_eq!(all(&index).len() as u64, count + SLOT_PENDING_MAX as u64);
    assert_eq!(index.due((0, 5000), 0, u64::MAX, 2).unwrap(), [entry(0, 5100), entry(0, 5200)]);
    let open_files: usize = fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter(|fd| fs::read_link(fd.as_ref().unwrap().path()).is_ok_and(|to| to.starts_with(dir.path())))
        .count();
    assert_eq!(open_files, 0);
}

/// Counts what is asked of it, and keeps what is not durable yet.
#[derive(Debug, Default)]
struct Counts {
    created: AtomicU64,
    /// Syncs, durable creations and removals.
    waits: AtomicU64,
    unsynced: Mutex<BTreeSet<PathBuf>>,
}

#[derive(Clone, Debug, Default)]
struct CountingDisk(Arc<Counts>);

#[derive(Debug)]
struct CountingFile(Arc<dyn DiskFile>, Arc<Counts>);

impl Counts {
    fn wait(&self) {
        self.waits.fetch_add(1, Ordering::Relaxed);
    }
}

impl FileLayer for CountingFile {
    fn below(&self) -> &dyn DiskFile {
        &*self.0
    }
    fn write_at(&self, position: u64, bytes: &[u8]) -> io::Result<()> {
        self.1.unsynced.lock().insert(self.path().to_owned());
        self.0.write_at(position, bytes)
    }
    fn write_vectored_at(&self, position: u64, pieces: &[io::IoSlice<'_>]) -> io::Result<()> {
        self.1.unsynced.lock().insert(self.path().to_owned());
        self.0.write_vectored_at(position, pieces)
    }
    fn sync(&self) -> io::Result<()> {
        self.1.wait();
        self.1.unsynced.lock().remove(self.path());
        Ok(())
    }
}

impl DiskLayer for CountingDisk {
    fn below(&self) -> &dyn Disk {
        &OsDisk
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(CountingFile(OsDisk.open(path)?, self.0.clone())))
    }
    fn create(&self, path: &Path, len: u64, space: Space) -> io::Result<Arc<dyn DiskFile>> {
        self.0.wait();
        OsDisk.create(path, len, space)
    }
    fn create_unsynced(&self, path: &Path, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        self.0.created.fetch_add(1, Ordering::Relaxed);
        // Up to the directory of the store, that of the index has to be found in.
        self.0.unsynced.lock().extend(path.ancestors().take(4).map(Path::to_owned));
        Ok(Arc::new(CountingFile(OsDisk.create_unsynced(path, len)?, self.0.clone())))
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.wait();
        self.0.unsynced.lock().remove(dir);
        Ok(())
    }
    fn sync_all(&self, dir: &Path) -> io::Result<()> {
        self.0.wait();
        self.0.unsynced.lock().retain(|path| !path.starts_with(dir));
        Ok(())
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.wait();
        OsDisk.remove(path)
    }
    fn remove_all(&self, dir: &Path) -> io::Result<()> {
        self.0.wait();
        OsDisk.remove_all(dir)
    }
}

#[test]
fn adding_does_not_wait_for_the_disk_and_writes_one_slot_at_most() {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let disk = CountingDisk::default();
    let index = new(Arc::new(disk.clone()), dir.path());
    let written = |index: &TimerIndex| {
        let state = index.state.lock();
        state.slots.values().filter(|slot| slot.written > 0).count() as u64
    };
    let (slots, count) = (400, PENDING_MAX as u64 + 1_000);
    for offset in 0..count {
        let created = disk.0.created.load(Ordering::Relaxed);
        index.add(entry((offset % slots) as i64 * SLOT_MS, offset)).unwrap();
        assert!(disk.0.created.load(Ordering::Relaxed) <= created + 1, "at {offset}");
    }
    assert!((1..slots).contains(&written(&index)), "{}", written(&index));
    assert_eq!(disk.0.waits.load(Ordering::Relaxed), 0);
    // A checkpoint does.
    index.flush().unwrap();
    assert_eq!(written(&index), slots);
    assert_eq!(*disk.0.unsynced.lock(), BTreeSet::new());
    // Another file in a slot that there is.
    for offset in count..count + ENTRIES_PER_FILE {
        index.add(entry(SLOT_MS, offset)).unwrap();
    }
    assert!(!disk.0.unsynced.lock().is_empty());
    index.flush().unwrap();
    let parents: BTreeSet<_> = [dir.path().to_owned(), dir.path().join(DIRECTORY)].into();
    let unsynced = disk.0.unsynced.lock().clone();
    assert!(unsynced.is_subset(&parents), "{unsynced:?}");
    assert_eq!(all(&index).len() as u64, count + ENTRIES_PER_FILE);
}

#[test]
fn what_a_crash_leaves_of_files_that_were_not_synced_goes() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path(), NO_LIMIT, 0).unwrap();
    (0..5).for_each(|offset| index.add(entry(1, offset)).unwrap());
    index.flush().unwrap();
    for offset in 5..23 {
        index.add(entry(1, offset)).unwrap();
        index.add(entry(SLOT_MS, 50 + offset)).unwrap();
        index.add(entry(2 * SLOT_MS, 80 + offset)).unwrap();
    }
    index.flush().unwrap();
    drop(index);
    let file =
        |slot, start| dir.path().join(DIRECTORY).join(offset_name(slot)).join(offset_name(start * ENTRY));
    fs::OpenOptions::new().write(true).open(file(0, 5)).unwrap().set_len(0).unwrap();
    fs::OpenOptions::new().write(true).open(file(1, 0)).unwrap().set_len(70).unwrap();
    fs::remove_file(file(2, 0)).unwrap();
    let limit = entry(1, 5).physical_offset;
    let index = open(dir.path(), limit, 0).unwrap();
    assert_eq!(all(&index), (0..5).map(|offset| entry(1, offset)).collect::<Vec<_>>());
    assert!(!file(0, 5).exists() && !file(0, 10).exists());
    assert!(!file(1, 0).parent().unwrap().exists() && !file(2, 0).parent().unwrap().exists());
    (5..9).for_each(|offset| index.add(entry(1, offset)).unwrap());
    index.flush().unwrap();
    drop(index);
    assert_eq!(all(&open(dir.path(), NO_LIMIT, 0).unwrap()).len(), 9);
}

#[test]
fn what_a_crash_may_leave_behind_the_checkpoint_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path(), NO_LIMIT, 0).unwrap();
    for offset in 0..13 {
        index.add(entry(1, offset)).unwrap();
    }
    index.add(entry(SLOT_MS, 13)).unwrap();
    index.flush().unwrap();
    drop(index);
    let file = |start: u64| dir.path().join("timer").join(offset_name(0)).join(offset_name(start * ENTRY));
    // Of those behind the seventh the ninth did not reach the disk, the others did.
    let second = fs::OpenOptions::new().write(true).open(file(5)).unwrap();
    second.write_all_at(&[0; ENTRY_SIZE], 3 * ENTRY).unwrap();
    let limit = entry(1, 7).physical_offset;
    let index = open(dir.path(), limit, 0).unwrap();
    assert_eq!(held(&index), (0, 7));
    assert!(!file(10).exists());
    // The same place again.
    for offset in 7..9 {
        index.add(entry(1, offset)).unwrap();
    }
    index.flush().unwrap();
    drop(index);
    let index = open(dir.path(), NO_LIMIT, 0).unwrap();
    assert_eq!(all(&index), (0..9).map(|offset| entry(1, offset)).collect::<Vec<_>>());
}

/// Messages in three minutes, those of the first of which leave the log.
#[test]
fn slots_go_with_a_checkpoint_when_their_messages_have_left_the_log() {
    for removed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let index = TimerIndex { entries_per_file: PER_FILE, ..new(Arc::new(OsDisk), dir.path()) };
        let put = |index: &TimerIndex, offset| index.add(entry(offset as i64 / 3 * SLOT_MS, offset)).unwrap();
        let entries = |offsets: std::ops::Range<u64>| -> Vec<_> {
            offsets.map(|offset| entry(offset as i64 / 3 * SLOT_MS, offset)).collect()
        };
        (0..9).for_each(|offset| put(&index, offset));
        index.flush().unwrap();
        let before = index.held();
        index.drop_below(entry(0, 2).physical_offset).unwrap();
        assert_eq!((held(&index), all(&index)), ((0, 9), entries(2..9)));
        index.drop_below(entry(0, 3).physical_offset).unwrap();
        assert_eq!((held(&index), all(&index)), ((0, 6), entries(3..9)));
        assert_eq!((index.count_from(0), index.next_slot_ms(0)), (6, Some(SLOT_MS)));
        let (recorded, slot) = (index.held(), index.dir_of(0));
        assert_eq!(open_as(dir.path(), NO_LIMIT, &before).unwrap().held(), before);
        if removed {
            index.clean_up(0, &recorded).unwrap();
        }
        assert_eq!(slot.exists(), !removed);
        // The slot is needed again.
        index.add(entry(7, 9)).unwrap();
        index.clean_up(0, &recorded).unwrap();
        index.flush().unwrap();
        let with_late = [vec![entry(7, 9)], entries(3..9)].concat();
        assert_eq!(all(&index), with_late);
        let later = index.held();
        drop(index);
        assert_eq!(all(&open_as(dir.path(), NO_LIMIT, &later).unwrap()), with_late);
        // As of the checkpoint before it.
        let limit = entry(7, 9).physical_offset;
        let index = open_as(dir.path(), limit, &recorded).unwrap();
        assert_eq!((index.held(), all(&index)), (recorded, entries(3..9)));
        assert!(!slot.exists());
    }
}

#[test]
fn damage_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path(), NO_LIMIT, 0).unwrap();
    for offset in 0..8 {
        index.add(entry(1, offset)).unwrap();
    }
    assert!(matches!(index.add(entry(2, 7)), Err(StoreError::Divergence(_))));
    index.flush().unwrap();
    let slot = dir.path().join("timer").join(offset_name(0));
    let file = fs::OpenOptions::new().write(true).open(slot.join(offset_name(0))).unwrap();
    file.write_all_at(&[1], 2 * ENTRY + 9).unwrap();
    let error = index.due((0, 0), 5, 100, 10).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { position: 64, .. }), "{error}");
    drop(index);
    // A checkpoint tells that some are missing.
    assert_eq!(held(&open(dir.path(), NO_LIMIT, 0).unwrap()), (0, 2));
    fs::remove_file(slot.join(offset_name(0))).unwrap();
    assert_eq!(held(&open(dir.path(), NO_LIMIT, 0).unwrap()), (0, 0));
    fs::create_dir_all(&slot).unwrap();
    fs::write(slot.join(offset_name(ENTRY * PER_FILE)), vec![0; (ENTRY * PER_FILE) as usize]).unwrap();
    assert_eq!(held(&open(dir.path(), NO_LIMIT, 0).unwrap()), (0, 0));
    assert!(!slot.exists());
    fs::create_dir_all(slot.join("x")).unwrap();
    assert!(matches!(open(dir.path(), NO_LIMIT, 0), Err(StoreError::Corrupt { .. })));
}

/// How long the reput thread may stand still: `cargo test --release -p raftmq-store --lib -- --ignored --nocapture
/// a_million`. With a checkpoint's flush every second beside it.
#[test]
#[ignore = "a measurement"]
fn a_million_timers_over_three_days() {
    const COUNT: u64 = 1_000_000;
    const DAYS_3_MS: u64 = 3 * 24 * 3_600_000;
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let index = Arc::new(new(Arc::new(OsDisk), dir.path()));
    let (flushing, stop) = (index.clone(), Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let stopped = stop.clone();
    let flushes = std::thread::spawn(move || {
        let mut longest = Duration::ZERO;
        while !stopped.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_secs(1));
            let since = Instant::now();
            flushing.flush().unwrap();
            longest = longest.max(since.elapsed());
        }
        longest
    });
    let (started, mut longest) = (Instant::now(), Duration::ZERO);
    for offset in 0..COUNT {
        // In an order that jumps about.
        let due_ms = offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) % DAYS_3_MS;
        let since = Instant::now();
        index.add(entry(due_ms as i64, offset)).unwrap();
        longest = longest.max(since.elapsed());
    }
    let took = started.elapsed();
    stop.store(true, Ordering::Relaxed);
    println!(
        "{COUNT} puts took {took:?}, the longest {longest:?}; the longest flush {:?}",
        flushes.join().unwrap()
    );
    assert_eq!(index.count_from(0), COUNT);
}
