//! One member's store: the CommitLog with its threads, and what is derived from it.

use std::any::Any;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use raftmq_message::record::RecordView;

use crate::checkpoint::{Checkpoints, Derived, Opened, recover_derived};
use crate::commit_log::{Appended, CommitLog, NewEntry};
use crate::consume_queue::{ConsumeQueue, DEFAULT_UNITS_PER_FILE};
use crate::consume_queues::ConsumeQueues;
use crate::directory::{self, Identity};
use crate::error::StoreError;
use crate::flush::{FlushCallback, FlushMode, Flusher};
use crate::frame::FrameKind;
use crate::index_file::IndexShape;
use crate::index_files::IndexFiles;
use crate::marks::{EntryId, MarksFile};
use crate::queue_offsets::Placed;
use crate::recovery::open_log;
use crate::reput::{ArrivalListener, Reput, Stop};
use crate::scrub::Scrub;
use crate::segment::LogSlice;
use crate::timer_index::{TimerEntry, TimerIndex};
use raftmq_world::Disk;

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
///
/// Dropped without [`Store::close`] it leaves the files as a killed process would, and stops its threads.
pub struct Store {
    log: Arc<CommitLog>,
    flusher: Arc<Flusher>,
    reput: Arc<Reput>,
    derived: Derived,
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    threads: Mutex<Threads>,
    ahead: Arc<AheadThread>,
    scrub: Arc<Scrub>,
    failure: Arc<Failure>,
    /// Of the directory. Released by [`Self::close`].
    lock: Mutex<Option<Box<dyn Any + Send>>>,
}

#[derive(Default)]
struct Threads {
    reput: Option<JoinHandle<()>>,
    others: Vec<JoinHandle<()>>,
}

/// The first failure of one of the store's threads.
#[derive(Default)]
struct Failure {
    state: Mutex<FailureState>,
}

#[derive(Default)]
struct FailureState {
    reason: Option<String>,
    listener: Option<Box<dyn Fn(String) + Send + Sync>>,
}

impl Failure {
    fn report(&self, reason: String) {
        let mut state = self.state.lock();
        if state.reason.is_some() {
            return;
        }
        if let Some(listener) = &state.listener {
            listener(reason.clone());
        }
        state.reason = Some(reason);
    }

    fn reporter(self: &Arc<Self>) -> Box<dyn Fn(String) + Send + Sync> {
        let failure = self.clone();
        Box::new(move |reason| failure.report(reason))
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
        check_segment_bytes(identity.segment_bytes)?;
        let lock = directory::lock(&*disk, &dir)?;
        let log_dir = dir.join("commitlog");
        identity.check_or_record(&*disk, &dir, &log_dir)?;
        let (marks_file, marks) = MarksFile::open(&*disk, &dir.join("marks"), &log_dir)?;
        let seed = identity.chain_seed();
        let (log, unread_below) = open_log(disk.clone(), &log_dir, identity.segment_bytes, seed, marks)?;
        let log = Arc::new(log);
        let failure = Arc::new(Failure::default());
        let flusher = Arc::new(Flusher::new(log.clone(), marks_file, marks, flush, failure.reporter()));
        flusher.begin()?;

        let (derived, dispatched) =
            recover_derived(&*disk, &dir, &log, |limit, slot| open_derived(&disk, &dir, limit, slot))?;
        seed_offsets(&log, &derived.queues, dispatched)?;
        let checkpoints = Checkpoints::new(derived.clone(), flusher.clone(), disk.clone(), &dir);
        let store = Self {
            ahead: Arc::new(AheadThread {
                log: log.clone(),
                stop: Mutex::new(false),
                wake: parking_lot::Condvar::new(),
            }),
            reput: Arc::new(Reput::new(log.clone(), derived.clone(), dispatched, failure.reporter())),
            scrub: Arc::new(Scrub::new(log.clone(), seed, unread_below, failure.reporter())),
            log,
            flusher,
            derived,
            dir,
            disk,
            threads: Mutex::default(),
            failure,
            lock: Mutex::new(Some(lock)),
        };
        store.spawn_threads(checkpoints).map_err(StoreError::io("start a thread for", &store.dir))?;
        Ok(Arc::new(store))
    }

    fn spawn_threads(&self, checkpoints: Checkpoints) -> std::io::Result<()> {
        let mut threads = self.threads.lock();
        threads.others.push(self.flusher.spawn()?);
        threads.others.push(self.ahead.spawn()?);
        threads.others.push(self.scrub.spawn()?);
        threads.reput = Some(self.reput.spawn(checkpoints)?);
        Ok(())
    }

    /// Called once, with the reason, when one of the store's threads fails; at once if one has failed already. A
    /// failed sync is also reported to whoever waits for it. Must not call back into the store.
    pub fn on_failure(&self, listener: Box<dyn Fn(String) + Send + Sync>) {
        let mut state = self.failure.state.lock();
        if let Some(reason) = &state.reason {
            listener(reason.clone());
        }
        state.listener = Some(listener);
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

    /// Removes the entries behind `last`; see [`CommitLog::truncate_after`]. None of them may be committed, by what
    /// [`set_committed`](Self::set_committed) or [`commit`](Self::commit) said.
    pub fn truncate_after(&self, last: Option<u64>) -> Result<(), StoreError> {
        let committed = self.flusher.committed();
        let Some(tail) = self.log.tail_after(last, committed)? else { return Ok(()) };
        let dispatchable = self.reput.committed();
        if tail.end < dispatchable {
            return Err(StoreError::Divergence(format!(
                "asked to truncate the log at physical offset {}, and it is committed up to {dispatchable}",
                tail.end
            )));
        }
        self.flusher.shorten(tail.end, || self.log.truncate_after(last, committed))
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
        self.derived.queues.get(topic, queue_id)
    }

    /// The record that a ConsumeQueue unit names.
    pub fn record(&self, physical_offset: u64, size: u32) -> Option<LogSlice> {
        self.log.slice(physical_offset, size as usize)
    }

    /// The record that starts at a physical offset, where one does and it is dispatched. For offsets that come from
    /// outside: whatever stands there is checked.
    pub fn record_at(&self, physical_offset: u64) -> Option<LogSlice> {
        let dispatched = self.dispatched_physical_offset();
        let readable = dispatched.checked_sub(physical_offset)?;
        let segment = self.log.segments.of(physical_offset).ok()?;
        let bytes = segment.file.bytes().get((physical_offset - segment.base) as usize..)?;
        let bytes = bytes.get(..usize::try_from(readable).ok()?).unwrap_or(bytes);
        let record = RecordView::parse(bytes).ok()?;
        let here = record.physical_offset() as u64 == physical_offset;
        here.then(|| LogSlice::new(segment.clone(), physical_offset, record.total_size()))?
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
    pub fn query_index(
        &self,
        topic: &str,
        key: &str,
        begin_ms: i64,
        end_ms: i64,
        max: usize,
    ) -> Result<Vec<u64>, StoreError> {
        self.derived.index.query(topic, key, begin_ms, end_ms, max)
    }

    /// Messages with a time of their own: the first `max`, in order, of those behind (due, queue offset) `after` that are
    /// due at `until_ms` or before and whose queue offset is below `below_offset`. Reads through the minutes in question.
    pub fn timers_due(
        &self,
        after: (i64, u64),
        until_ms: i64,
        below_offset: u64,
        max: usize,
    ) -> Result<Vec<TimerEntry>, StoreError> {
        self.derived.timers.due(after, until_ms, below_offset, max)
    }

    /// When the first such message may be due that is due in the minute of `due_ms` or in a later one.
    pub fn next_timer_slot_ms(&self, due_ms: i64) -> Option<i64> {
        self.derived.timers.next_slot_ms(due_ms)
    }

    /// How many such messages there are that are due in the minute of `due_ms` or in a later one.
    pub fn timers_from(&self, due_ms: i64) -> u64 {
        self.derived.timers.count_from(due_ms)
    }

    /// Messages with a time before `due_ms` are not asked for any more. Whole minutes of them are removed with the next
    /// checkpoint.
    pub fn drop_timers_before(&self, due_ms: i64) {
        self.derived.timers.drop_before(due_ms);
    }

    /// Stops the threads, makes everything durable and marks a clean stop. Nothing is appended any more. The directory
    /// may be opened again afterwards. A second call does nothing.
    pub fn close(&self) -> Result<(), StoreError> {
        let Some(_lock) = self.lock.lock().take() else { return Ok(()) };
        // The last checkpoint needs the flusher.
        self.stop_threads_before_flusher(Stop::Checkpoint);
        let clean = self.log.stop();
        let closed = self.flusher.close(clean);
        self.join_others();
        closed
    }

    fn stop_threads_before_flusher(&self, how: Stop) {
        self.reput.stop(how);
        self.scrub.stop();
        *self.ahead.stop.lock() = true;
        self.ahead.wake.notify_all();
        let reput = self.threads.lock().reput.take();
        reput.into_iter().for_each(join);
    }

    fn join_others(&self) {
        let others = std::mem::take(&mut self.threads.lock().others);
        others.into_iter().for_each(join);
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if self.lock.lock().is_none() {
            return;
        }
        self.stop_threads_before_flusher(Stop::AtOnce);
        self.log.stop();
        self.flusher.abandon();
        self.join_others();
    }
}

/// Waits for a thread's end, but for that of the calling one: a callback may have held the store last.
fn join(thread: JoinHandle<()>) {
    if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
        tracing::error!("a thread of the store had panicked");
    }
}

fn check_segment_bytes(segment_bytes: u64) -> Result<(), StoreError> {
    if (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&segment_bytes) && segment_bytes.is_multiple_of(4096)
    {
        return Ok(());
    }
    Err(StoreError::Illegal(format!(
        "a segment of {segment_bytes} bytes: it must be a multiple of 4096 within {SEGMENT_BYTES_MIN} and {SEGMENT_BYTES_MAX}"
    )))
}

/// Opens what is derived from the log as it was at `limit`, without what the timer index has before a slot.
fn open_derived(disk: &Arc<dyn Disk>, dir: &Path, limit: u64, first_slot: u64) -> Result<Opened, StoreError> {
    let queues = ConsumeQueues::open(disk.clone(), dir, DEFAULT_UNITS_PER_FILE)?;
    queues.recover_all(limit)?;
    let index = IndexFiles::open(disk.clone(), dir, IndexShape::default(), limit)?;
    Ok((queues, index, TimerIndex::open(disk.clone(), dir, limit, first_slot)?))
}

/// Sets the next queue offsets at the log's end: what the ConsumeQueues hold, and what stands in the log behind it.
fn seed_offsets(log: &CommitLog, queues: &ConsumeQueues, dispatched: u64) -> Result<(), StoreError> {
    log.with_offsets(|offsets| {
        for (topic, queue_id, next) in queues.max_offsets() {
            offsets.set(&topic, queue_id, next)?;
        }
        let mut walk = log.walk(dispatched);
        while let Some(frame) = walk.next()? {
            if frame.header.kind == FrameKind::Messages {
                let start = frame.header.physical_offset + frame.header.records_at() as u64;
                offsets.check(frame.records(), start)?;
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
                let pause = match ahead.log.zero_ahead.step(&ahead.log) {
                    Ok(true) => AHEAD_PAUSE,
                    Ok(false) => AHEAD_IDLE,
                    Err(e) => {
                        // The writer meets the same trouble when it gets there, and fails with it.
                        tracing::warn!("cannot prepare the log ahead: {e}");
                        Duration::from_secs(1)
                    }
                };
                let mut stop = ahead.stop.lock();
                if !*stop {
                    ahead.wake.wait_for(&mut stop, pause);
                }
                if *stop {
                    return;
                }
            }
        })
    }
}
