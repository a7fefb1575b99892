//! One member's store: the CommitLog with its threads, and what is derived from it.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use raftmq_message::record::{RecordView, record_total_size};

use crate::commit_log::{Appended, CommitLog, NewEntry};
use crate::consume_queue::{ConsumeQueue, DEFAULT_UNITS_PER_FILE};
use crate::consume_queues::ConsumeQueues;
use crate::directory::{DirectoryLock, Identity};
use crate::disk::Disk;
use crate::error::StoreError;
use crate::flush::{FlushCallback, FlushMode, Flusher};
use crate::index_file::IndexShape;
use crate::index_files::IndexFiles;
use crate::marks::{EntryId, MarksFile};
use crate::queue_offsets::Placed;
use crate::recovery::open_log;
use crate::reput::{ArrivalListener, Reput, recover_derived};
use crate::segment::LogSlice;

/// The smallest segment: room for a few of the smallest entries. Only tests use anything so small.
pub const SEGMENT_BYTES_MIN: u64 = 64 * 1024;
/// The largest: positions within a segment fit 32 bits.
pub const SEGMENT_BYTES_MAX: u64 = 2 << 30;

/// How to open a store.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The data directory.
    pub dir: PathBuf,
    /// Whose it is.
    pub identity: Identity,
    /// When an entry counts as stored.
    pub flush: FlushMode,
}

/// The files of one member. Writing is for the Raft log storage, reading for everyone.
pub struct Store {
    log: Arc<CommitLog>,
    flusher: Arc<Flusher>,
    reput: Arc<Reput>,
    queues: Arc<ConsumeQueues>,
    index: Arc<IndexFiles>,
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    ahead: Arc<AheadThread>,
    failure: Arc<Failure>,
    /// Released by [`Self::close`].
    lock: Mutex<Option<DirectoryLock>>,
}

/// The first failure of one of the store's threads.
#[derive(Default)]
struct Failure {
    reason: Mutex<Option<String>>,
    listener: Mutex<Option<Box<dyn Fn(String) + Send + Sync>>>,
}

impl Failure {
    fn report(&self, reason: String) {
        let first = self.reason.lock().get_or_insert(reason).clone();
        if let Some(listener) = &*self.listener.lock() {
            listener(first);
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the directory, making it if it is new, and recovers what is in it.
    pub fn open(options: StoreOptions, disk: Arc<dyn Disk>) -> Result<Arc<Self>, StoreError> {
        let StoreOptions { dir, identity, flush } = options;
        let segment_bytes = identity.segment_bytes;
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&segment_bytes) || !segment_bytes.is_multiple_of(4096) {
            return Err(StoreError::Illegal(format!(
                "a segment of {segment_bytes} bytes: it must be a multiple of 4096 within {SEGMENT_BYTES_MIN} and {SEGMENT_BYTES_MAX}"
            )));
        }
        let lock = DirectoryLock::take(&dir)?;
        identity.check_or_record(&*disk, &dir)?;
        let (marks_file, marks) = MarksFile::open(&*disk, &dir.join("marks"))?;
        let log = open_log(disk.clone(), &dir.join("commitlog"), segment_bytes, identity.chain_seed(), marks)?;
        let log = Arc::new(log);
        let committed = marks.committed.zip(log.last()).map(|(committed, last)| committed.min(last));
        let flusher = Arc::new(Flusher::new(log.clone(), marks_file, flush, committed));
        flusher.flush_now()?;

        let checkpoint_path = dir.join("dispatched");
        let (queues, index, position) = recover_derived(&disk, &dir, &checkpoint_path, &log, |limit| {
            let queues = ConsumeQueues::open(disk.clone(), &dir, DEFAULT_UNITS_PER_FILE)?;
            queues.recover_all(limit)?;
            Ok((queues, IndexFiles::open(disk.clone(), &dir, IndexShape::default(), limit)?))
        })?;
        seed_offsets(&log, &queues, position)?;
        let (queues, index) = (Arc::new(queues), Arc::new(index));
        let failure = Arc::new(Failure::default());
        let on_failure = {
            let failure = failure.clone();
            Box::new(move |reason| failure.report(reason))
        };
        let reput = Reput::new(log.clone(), queues.clone(), index.clone(), checkpoint_path, position, on_failure);
        let store = Self {
            ahead: Arc::new(AheadThread { log: log.clone(), stop: Mutex::new(false), wake: parking_lot::Condvar::new() }),
            log,
            flusher,
            reput: Arc::new(reput),
            queues,
            index,
            dir,
            disk,
            threads: Mutex::default(),
            failure,
            lock: Mutex::new(Some(lock)),
        };
        store.spawn_threads()?;
        Ok(Arc::new(store))
    }

    fn spawn_threads(&self) -> Result<(), StoreError> {
        let spawned = [self.flusher.spawn(), self.reput.spawn(), self.ahead.spawn()];
        for thread in spawned {
            self.threads.lock().push(thread.map_err(StoreError::io("start a thread for", &self.dir))?);
        }
        Ok(())
    }

    /// Called with the reason when one of the store's threads fails; at once if one has failed already. A failed sync
    /// is also reported to whoever waits for it.
    pub fn on_failure(&self, listener: Box<dyn Fn(String) + Send + Sync>) {
        let failed = self.failure.reason.lock().clone();
        if let Some(reason) = failed {
            listener(reason);
        }
        *self.failure.listener.lock() = Some(listener);
    }

    /// The log, for reading.
    pub fn log(&self) -> &CommitLog {
        &self.log
    }

    /// The leader's append; see [`CommitLog::append`].
    pub fn append(&self, entry: NewEntry<'_>, placed: &mut Vec<Placed>) -> Result<Appended, StoreError> {
        self.log.append(entry, placed)
    }

    /// The follower's append; see [`CommitLog::append_frame`].
    pub fn append_frame(&self, id: EntryId, frame: &[u8]) -> Result<Appended, StoreError> {
        self.log.append_frame(id, frame)
    }

    /// Calls back when everything appended so far is as durable as the flush mode asks.
    pub fn when_stored(&self, callback: FlushCallback) {
        self.flusher.appended(callback);
    }

    /// Makes everything appended so far durable before it returns.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.flusher.flush_now()
    }

    /// Removes the entries behind `last`; see [`CommitLog::truncate_after`].
    pub fn truncate_after(&self, last: Option<u64>) -> Result<(), StoreError> {
        let new_end = match last {
            Some(index) => self.log.frame(index)?.map_or(self.log.end(), |frame| frame.header.end()),
            None => self.log.start(),
        };
        self.flusher.shorten(new_end, || self.log.truncate_after(last, self.flusher.committed()))
    }

    /// The log is committed up to `physical_offset`, a frame's end: dispatch may go up to there.
    pub fn commit(&self, physical_offset: u64) {
        self.reput.commit(physical_offset);
    }

    /// Notes what is committed, for a later start; written with the next marks.
    pub fn set_committed(&self, id: EntryId) {
        self.flusher.set_committed(Some(id));
    }

    /// The last entry known to be committed; after a start, what was known before it, at most.
    pub fn committed(&self) -> Option<EntryId> {
        self.flusher.committed()
    }

    /// Waits until everything below `physical_offset` is readable in the ConsumeQueues.
    pub fn wait_dispatched(&self, physical_offset: u64, timeout: Duration) -> bool {
        self.reput.wait_dispatched(physical_offset, timeout)
    }

    /// A small file in the data directory, for whoever keeps a state of their own beside the log.
    pub fn read_file(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.dir.join(name);
        self.disk.read(&path).map_err(StoreError::io("read", &path))
    }

    /// Replaces such a file, durably.
    pub fn write_file(&self, name: &str, content: &[u8]) -> Result<(), StoreError> {
        let path = self.dir.join(name);
        self.disk.replace(&path, content).map_err(StoreError::io("write", &path))
    }

    /// A queue, once something was dispatched to it.
    pub fn queue(&self, topic: &str, queue_id: u32) -> Option<Arc<ConsumeQueue>> {
        self.queues.get(topic, queue_id)
    }

    /// The record that a ConsumeQueue unit names.
    pub fn record(&self, physical_offset: u64, size: u32) -> Option<LogSlice> {
        self.log.slice(physical_offset, size as usize)
    }

    /// The record that starts at a physical offset, where one does and it is dispatched. For offsets that come from
    /// outside: whatever stands there is checked.
    pub fn record_at(&self, physical_offset: u64) -> Option<LogSlice> {
        let segment = self.log.segment_of(physical_offset).ok()?;
        let bytes = segment.file.bytes().get((physical_offset - segment.base) as usize..)?;
        let size = record_total_size(bytes).ok()?;
        let end = physical_offset.checked_add(size as u64)?;
        let slice = self.log.slice(physical_offset, size).filter(|_| end <= self.dispatched_physical_offset())?;
        let record = RecordView::parse(&slice).ok()?;
        (record.physical_offset() as u64 == physical_offset).then_some(slice)
    }

    /// First byte of the log that is still there.
    pub fn min_physical_offset(&self) -> u64 {
        self.log.start()
    }

    /// End of what was appended.
    pub fn max_physical_offset(&self) -> u64 {
        self.log.end()
    }

    /// End of what is durable here.
    pub fn flushed_physical_offset(&self) -> u64 {
        self.flusher.flushed()
    }

    /// End of what was dispatched: what consumers can see.
    pub fn dispatched_physical_offset(&self) -> u64 {
        self.reput.dispatched()
    }

    /// Called on the reput thread after a batch became readable, once a batch. Replaces an earlier listener.
    pub fn set_arrival_listener(&self, listener: ArrivalListener) {
        self.reput.set_listener(listener);
    }

    /// Physical offsets of messages with a key, newest first.
    pub fn query_index(&self, topic: &str, key: &str, begin_ms: i64, end_ms: i64, max: usize) -> Result<Vec<u64>, StoreError> {
        self.index.query(topic, key, begin_ms, end_ms, max)
    }

    /// Stops the threads, makes everything durable and marks a clean stop. Later appends never become durable.
    pub fn close(&self) -> Result<(), StoreError> {
        self.reput.stop();
        *self.ahead.stop.lock() = true;
        self.ahead.wake.notify_all();
        let closed = self.flusher.close();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            if thread.join().is_err() {
                tracing::error!("a thread of the store had panicked");
            }
        }
        drop(self.lock.lock().take());
        closed
    }
}

/// Sets the next queue offsets at the log's end: what the ConsumeQueues hold, and what stands in the log behind it.
fn seed_offsets(log: &CommitLog, queues: &ConsumeQueues, dispatched: u64) -> Result<(), StoreError> {
    log.with_offsets(|offsets| {
        for (topic, queue_id, next) in queues.max_offsets() {
            offsets.set(&topic, queue_id, next)?;
        }
        let mut walk = log.walk(dispatched);
        while let Some(frame) = walk.next()? {
            if frame.header.kind == crate::frame::FrameKind::Messages {
                let start = frame.header.physical_offset + crate::frame::FRAME_HEADER_BYTES as u64;
                offsets.check(frame.payload(), start)?;
            }
        }
        Ok(())
    })
}

/// The thread that prepares blocks ahead of the log's end.
struct AheadThread {
    log: Arc<CommitLog>,
    stop: Mutex<bool>,
    wake: parking_lot::Condvar,
}

/// Pause between two chunks of a megabyte: bounds the preparation to some 100 MB/s.
const AHEAD_PAUSE: Duration = Duration::from_millis(10);
/// Pause when there is nothing to do. At 1 GB/s the log grows by a quarter of the prepared stretch in it.
const AHEAD_IDLE: Duration = Duration::from_millis(15);

impl AheadThread {
    fn spawn(self: &Arc<Self>) -> std::io::Result<JoinHandle<()>> {
        let ahead = self.clone();
        std::thread::Builder::new().name("raftmq-ahead".into()).spawn(move || {
            loop {
                let pause = match ahead.log.prepare_ahead() {
                    Ok(true) => AHEAD_PAUSE,
                    Ok(false) => AHEAD_IDLE,
                    Err(e) => {
                        // The writer meets the same trouble when it gets there, and fails with it.
                        tracing::warn!("cannot prepare the log ahead: {e}");
                        Duration::from_secs(1)
                    }
                };
                let mut stop = ahead.stop.lock();
                if *stop || (!ahead.wake.wait_for(&mut stop, pause).timed_out() && *stop) {
                    return;
                }
            }
        })
    }
}
