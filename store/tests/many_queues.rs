//! Very many queues, on a disk that counts what is asked of it: how much is open, and for how much somebody waits.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests reach for the system")]
#![allow(clippy::unwrap_used)]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use raftmq_store::{ConsumeQueues, Numbers, OpenFiles, Reads, TagsCode, Unit, View};
use raftmq_world::{Disk, DiskFile, DiskLayer, FileLayer, OsDisk, Space};

/// Files that may be open.
const OPEN_MAX: usize = 20;
const TOPICS: u32 = 60;
/// Of each topic.
const QUEUES: u32 = 8;

/// What was asked of a disk.
#[derive(Debug, Default)]
struct Counts {
    /// Open at the moment, and the most that ever were.
    open: Mutex<(usize, usize)>,
    opened: AtomicU64,
    created: AtomicU64,
    file_syncs: AtomicU64,
    /// Durable creations and removals, and syncs of everything.
    waits: AtomicU64,
    dir_syncs: Mutex<Vec<PathBuf>>,
}

impl Counts {
    fn syncs(&self) -> (u64, u64, u64) {
        let dirs = self.dir_syncs.lock().len() as u64;
        (self.file_syncs.load(Ordering::Relaxed), dirs, self.waits.load(Ordering::Relaxed))
    }

    fn clear(&self) {
        [&self.opened, &self.created, &self.file_syncs, &self.waits]
            .iter()
            .for_each(|count| count.store(0, Ordering::Relaxed));
        self.dir_syncs.lock().clear();
    }

    fn is_open(&self) -> usize {
        self.open.lock().0
    }

    fn most_open(&self) -> usize {
        self.open.lock().1
    }
}

#[derive(Clone, Debug, Default)]
struct CountingDisk(Arc<Counts>);

#[derive(Debug)]
struct CountingFile(Arc<dyn DiskFile>, Arc<Counts>);

impl CountingDisk {
    fn file(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        let mut open = self.0.open.lock();
        open.0 += 1;
        open.1 = open.1.max(open.0);
        Arc::new(CountingFile(file, self.0.clone()))
    }

    fn wait(&self) {
        self.0.waits.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for CountingFile {
    fn drop(&mut self) {
        self.1.open.lock().0 -= 1;
    }
}

impl FileLayer for CountingFile {
    fn below(&self) -> &dyn DiskFile {
        &*self.0
    }
    fn sync(&self) -> io::Result<()> {
        self.1.file_syncs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

impl DiskLayer for CountingDisk {
    fn below(&self) -> &dyn Disk {
        &OsDisk
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.0.opened.fetch_add(1, Ordering::Relaxed);
        Ok(self.file(OsDisk.open(path)?))
    }
    fn create(&self, path: &Path, len: u64, space: Space) -> io::Result<Arc<dyn DiskFile>> {
        self.wait();
        Ok(self.file(OsDisk.create(path, len, space)?))
    }
    fn create_unsynced(&self, path: &Path, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        self.0.created.fetch_add(1, Ordering::Relaxed);
        Ok(self.file(OsDisk.create_unsynced(path, len)?))
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        assert!(dir.exists());
        self.0.dir_syncs.lock().push(dir.to_owned());
        Ok(())
    }
    fn sync_all(&self, _: &Path) -> io::Result<()> {
        self.wait();
        Ok(())
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.wait();
        OsDisk.remove(path)
    }
    fn remove_all(&self, dir: &Path) -> io::Result<()> {
        self.wait();
        OsDisk.remove_all(dir)
    }
}

fn temp_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn recovered(disk: &CountingDisk, dir: &Path, limit: u64) -> ConsumeQueues {
    let tags_code: Reads<TagsCode> = Reads { properties: &[], read: |_| 0 };
    let files = OpenFiles::new(Arc::new(disk.clone()), OPEN_MAX);
    let queues = ConsumeQueues::new(files, dir, 1000, tags_code);
    queues.recover(limit, &Numbers::default()).unwrap();
    queues
}

/// Where the first messages begin in the log; those of a later round are behind it.
fn physical_offset(round: u64, topic: u32, queue: u32) -> u64 {
    1000 + 100_000 * round + u64::from(topic * QUEUES + queue) * 100
}

fn name(topic: u32) -> String {
    format!("topic-{topic}")
}

/// A message for each queue of these topics, as reput brings it.
fn dispatch(queues: &ConsumeQueues, round: u64, topics: std::ops::Range<u32>) {
    for topic in topics {
        for queue in 0..QUEUES {
            let unit = Unit { physical_offset: physical_offset(round, topic, queue), size: 90, tags_code: 5 };
            let queue = queues.get_or_create(&name(topic), queue).unwrap();
            queue.append(queue.max_offset(), unit).unwrap();
            queue.publish().unwrap();
        }
    }
}

fn assert_complete(queues: &ConsumeQueues, rounds: u64) {
    assert_eq!(queues.held().get("units"), rounds * u64::from(TOPICS * QUEUES));
    for topic in 0..TOPICS {
        for queue in 0..QUEUES {
            let units = queues.get(&name(topic), queue).unwrap().read(0, 100);
            let found: Vec<_> = units.iter().map(|unit| unit.physical_offset).collect();
            let expected: Vec<_> = (0..rounds).map(|round| physical_offset(round, topic, queue)).collect();
            assert_eq!(found, expected, "{topic} {queue}");
        }
    }
}

#[test]
fn few_files_are_open_however_many_queues_there_are() {
    let dir = temp_dir();
    let disk = CountingDisk::default();
    let queues = recovered(&disk, dir.path(), u64::MAX);
    for round in 0..3 {
        dispatch(&queues, round, 0..TOPICS);
        assert_complete(&queues, round + 1);
        queues.flush().unwrap();
        assert_complete(&queues, round + 1);
    }
    // Who reads a file has it for as long as that takes.
    assert!(disk.0.most_open() <= OPEN_MAX + 1, "{}", disk.0.most_open());
    drop(queues);
    assert_eq!(disk.0.is_open(), 0);
    let queues = recovered(&disk, dir.path(), u64::MAX);
    assert_complete(&queues, 3);
    assert!(disk.0.most_open() <= OPEN_MAX + 1, "{}", disk.0.most_open());
}

#[test]
fn a_queue_costs_reput_no_file_and_a_checkpoint_what_has_changed() {
    let dir = temp_dir();
    let disk = CountingDisk::default();
    let queues = recovered(&disk, dir.path(), u64::MAX);
    dispatch(&queues, 0, 0..TOPICS);
    assert_complete(&queues, 1);
    assert_eq!((disk.0.created.load(Ordering::Relaxed), disk.0.syncs()), (0, (0, 0, 0)));
    // So many are made durable together.
    queues.flush().unwrap();
    assert_eq!(disk.0.created.load(Ordering::Relaxed), u64::from(TOPICS * QUEUES));
    assert_eq!(disk.0.syncs(), (0, 0, 1));

    disk.0.clear();
    queues.flush().unwrap();
    assert_eq!((disk.0.opened.load(Ordering::Relaxed), disk.0.syncs()), (0, (0, 0, 0)));
    dispatch(&queues, 1, 3..4);
    dispatch(&queues, 2, 3..4);
    assert_eq!((disk.0.opened.load(Ordering::Relaxed), disk.0.syncs()), (0, (0, 0, 0)));
    queues.flush().unwrap();
    let few = u64::from(QUEUES);
    assert!(disk.0.opened.load(Ordering::Relaxed) <= 2 * few);
    assert_eq!(disk.0.syncs(), (few, 0, 0));

    // New ones: their directories, that of their topic, and those above it once.
    disk.0.clear();
    dispatch(&queues, 0, TOPICS..TOPICS + 2);
    queues.flush().unwrap();
    assert_eq!(disk.0.syncs(), (2 * few, 2 * few + 2 + 2, 0));
    let mut dirs = disk.0.dir_syncs.lock().clone();
    dirs.sort();
    dirs.dedup();
    assert_eq!(dirs.len() as u64, 2 * few + 2 + 2);
}

#[test]
fn a_queue_with_many_messages_is_written_before_a_checkpoint() {
    let dir = temp_dir();
    let disk = CountingDisk::default();
    let queues = recovered(&disk, dir.path(), u64::MAX);
    (0..2500).for_each(|round| dispatch(&queues, round, 0..1));
    assert_eq!(disk.0.created.load(Ordering::Relaxed), 3 * u64::from(QUEUES));
    assert_eq!(disk.0.syncs(), (0, 0, 0));
    queues.flush().unwrap();
    assert_eq!(disk.0.syncs(), (3 * u64::from(QUEUES), u64::from(QUEUES) + 3, 0));
}

/// A start drops what the last checkpoint did not count from each of them, and waits for the disk for none.
#[test]
fn a_start_waits_for_no_queue() {
    let dir = temp_dir();
    let disk = CountingDisk::default();
    let queues = recovered(&disk, dir.path(), u64::MAX);
    for round in 0..2 {
        dispatch(&queues, round, 0..TOPICS);
        queues.flush().unwrap();
    }
    drop(queues);
    disk.0.clear();
    for _ in 0..2 {
        let queues = recovered(&disk, dir.path(), physical_offset(1, 0, 0));
        assert_complete(&queues, 1);
    }
    assert_eq!(disk.0.syncs(), (0, 0, 0));
    // What was dropped is durable with the next checkpoint, also where nothing has come since.
    let queues = recovered(&disk, dir.path(), physical_offset(1, 0, 2));
    assert_eq!(queues.held().get("units"), u64::from(TOPICS * QUEUES));
    drop(queues);
    let queues = recovered(&disk, dir.path(), physical_offset(0, 0, 2));
    assert_eq!(queues.held().get("units"), 2);
    assert_eq!(disk.0.syncs(), (0, 0, 0));
    queues.flush().unwrap();
    assert_eq!(disk.0.syncs(), (0, 0, 1));
    dispatch(&queues, 1, 0..1);
    queues.flush().unwrap();
    assert_eq!(disk.0.syncs(), (u64::from(QUEUES), 0, 1));
}

/// A process that was killed may not have synced it, and nobody knows.
#[test]
fn a_file_without_units_is_synced_with_its_directories_once_it_has_some() {
    let dir = temp_dir();
    let disk = CountingDisk::default();
    let queues = recovered(&disk, dir.path(), u64::MAX);
    dispatch(&queues, 0, 0..1);
    queues.flush().unwrap();
    drop(queues);
    let queues = recovered(&disk, dir.path(), 0);
    assert_eq!(queues.held().get("units"), 0);
    disk.0.clear();
    dispatch(&queues, 0, 0..1);
    queues.flush().unwrap();
    assert_eq!(disk.0.syncs(), (u64::from(QUEUES), u64::from(QUEUES) + 3, 0));
}

/// Where round 0 is over.
const ROUND_0_END: u64 = 100_000;

#[test]
fn what_is_dropped_is_given_back() {
    let dir = temp_dir();
    let disk = CountingDisk::default();
    let queues = recovered(&disk, dir.path(), u64::MAX);
    dispatch(&queues, 0, 0..TOPICS);
    queues.flush().unwrap();
    assert_complete(&queues, 1);
    disk.0.clear();
    // Also of those that somebody still holds.
    let _held: Vec<_> = (0..TOPICS).map(|topic| queues.get(&name(topic), 3).unwrap()).collect();
    for topic in 1..TOPICS {
        queues.drop_topic(&name(topic), ROUND_0_END).unwrap();
    }
    assert_eq!(queues.held().get("units"), u64::from(QUEUES), "those that were dropped count no more");
    let checkpoint = |position| {
        queues.flush().unwrap();
        queues.clean_up(position, &queues.held()).unwrap();
    };
    checkpoint(ROUND_0_END);
    assert_eq!(queues.held().get("units"), u64::from(QUEUES));
    assert_eq!((disk.0.opened.load(Ordering::Relaxed), disk.0.syncs()), (0, (0, 0, 0)));
    checkpoint(ROUND_0_END + 1);
    assert_eq!(disk.0.syncs(), (0, 0, u64::from(TOPICS) - 1), "one wait for each topic");
    assert!(disk.0.is_open() <= QUEUES as usize);
    let dirs = disk.list(&dir.path().join("consumequeue")).unwrap();
    assert_eq!(dirs.iter().filter(|dir| dir.is_dir()).count(), 1);
    assert_eq!(queues.held().get("units"), u64::from(QUEUES));
    queues.drop_topic(&name(0), ROUND_0_END + 2).unwrap();
    checkpoint(ROUND_0_END + 3);
    assert_eq!((disk.0.is_open(), queues.held().get("units")), (0, 0));
    // And made again, from the beginning.
    dispatch(&queues, 7, 0..1);
    queues.flush().unwrap();
    let queue = queues.get(&name(0), 3).unwrap();
    assert_eq!(queue.read(0, 9).len(), 1);
}

/// A checkpoint may be as of before the drop: what is not durable of them by then is what it costs.
#[test]
fn a_checkpoint_makes_what_was_dropped_since_durable() {
    let dir = temp_dir();
    let disk = CountingDisk::default();
    let queues = recovered(&disk, dir.path(), u64::MAX);
    dispatch(&queues, 0, 0..TOPICS);
    queues.flush().unwrap();
    dispatch(&queues, 1, 0..1);
    dispatch(&queues, 1, TOPICS..TOPICS + 1);
    let counted = queues.held().get("units");
    let at = 2 * ROUND_0_END;
    disk.0.clear();
    for topic in 0..TOPICS + 1 {
        queues.drop_topic(&name(topic), at).unwrap();
    }
    // Made again, in other directories.
    dispatch(&queues, 2, 0..1);
    assert_eq!((queues.held().get("units"), disk.0.syncs()), (u64::from(QUEUES), (0, 0, 0)));
    queues.flush().unwrap();
    let few = u64::from(QUEUES);
    let (topics, above) = (2, 3);
    assert_eq!(disk.0.syncs(), (3 * few, 2 * few + topics + above, 0));
    let dirs = disk.0.dir_syncs.lock().clone();
    for above in ["", "consumequeue", &format!("consumequeue/@{at:020}"), "consumequeue/topic-60"] {
        assert!(dirs.contains(&dir.path().join(above)), "{above}");
    }
    drop(queues);
    assert_eq!(recovered(&disk, dir.path(), at).held().get("units"), counted);
}
