//! One member's store: the CommitLog, what is derived from it, and the work in the background.

use std::any::Any;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use raftmq_message::record::RecordView;

use crate::ahead::AheadStep;
use crate::arrivals::ArrivalListener;
use crate::checkpoint::{CheckpointStep, Checkpoints, recorded_end, recover_views};
use crate::commit_log::{Appended, CommitLog, NewEntry};
use crate::consume_queue::ConsumeQueue;
use crate::consume_queues::ConsumeQueues;
use crate::damage::{Offer, Spot};
use crate::derived::Derived;
use crate::directory::{self, Identity};
use crate::error::StoreError;
use crate::flush::{FlushMode, FlushStep, Flusher};
use crate::frame::{FRAME_HEADER_BYTES, FrameKind, decode_frame};
use crate::frame_reader::FrameReader;
use crate::marks::{EntryId, MarksFile, Tail};
use crate::queue_offsets::{NOWHERE, Placed};
use crate::recovery::{Found, Recovered, open_log};
use crate::reput::{Reput, ReputStep};
use crate::room::{NoRoom, Room};
use crate::scrub::ScrubStep;
use crate::segment::LogSlice;
use crate::topic_changes;
use crate::worker::{Callback, Handle, Report, Stop};
use raftmq_world::{Disk, Mutation, World};

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
    /// Bytes of the disk that are left free for what is derived and for small files; of a small disk a part.
    pub reserve_bytes: u64,
    /// Whether no other member has what this one has. What is broken near the end of what was durable is not cut off then for others
    /// to bring it again: the directory is refused.
    pub is_alone: bool,
}

/// The files of one member. Writing is for the Raft log storage, reading for everyone.
///
/// What it does in the background are steps on the world's threads, and nothing here waits for one of them but
/// [`Store::close`] and the drop. Dropped without a close it leaves the files as a killed process would.
pub struct Store {
    log: Arc<CommitLog>,
    flusher: Arc<Flusher>,
    reput: Arc<Reput>,
    checkpoints: Arc<Checkpoints>,
    room: Arc<Room>,
    ahead: Handle,
    scrub: Arc<Handle>,
    /// Ends these two.
    stop: Arc<AtomicBool>,
    queues: Arc<ConsumeQueues>,
    /// Topics that the log drops behind what was dispatched before the start, and where.
    drops_ahead: Mutex<Vec<(u64, String)>>,
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    failure: Arc<Failure>,
    /// Of the directory. Released by [`Self::close`].
    lock: Mutex<Option<Box<dyn Any + Send>>>,
}

/// The first failure of one of the store's steps.
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

    fn reporter(self: &Arc<Self>) -> Report {
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
    /// Opens the directory, making it if it is new, recovers what is in it, and starts the work in the background. What
    /// is derived has been made for this directory and this disk.
    pub fn open(options: StoreOptions, derived: Derived, world: &World) -> Result<Arc<Self>, StoreError> {
        let StoreOptions { dir, identity, flush, reserve_bytes, is_alone } = options;
        let (disk, clock) = (world.disk.clone(), world.clock.clone());
        check_segment_bytes(identity.segment_bytes)?;
        let lock = directory::lock(&*disk, &dir)?;
        let log_dir = dir.join("commitlog");
        identity.check_or_record(&*disk, &dir, &log_dir)?;
        let (mut marks_file, mut marks) = MarksFile::open(&*disk, &dir.join("marks"), &log_dir)?;
        let seed = identity.chain_seed();
        let found =
            Found { checkpoint: recorded_end(&*disk, &dir)?, marks: &mut marks, file: &mut marks_file };
        let shape = (identity.segment_bytes, seed);
        let recovered = open_log(disk.clone(), &log_dir, shape, found, is_alone)?;
        let Recovered { mut log, read_from, knows_newest } = recovered;
        let bytes_read = log.end().saturating_sub(read_from);
        tracing::info!(dir = %dir.display(), end = log.end(), bytes_read, "the log is read");
        if !knows_newest {
            let newest_ms = newest_before(&log, read_from)?;
            log.with_offsets(|offsets| offsets.saw_timestamp(newest_ms));
        }
        check_committed(&log, marks.committed)?;
        let Derived { queues, views, topic_changes } = derived;
        log.topic_changes = topic_changes;
        let log = Arc::new(log);
        let failure = Arc::new(Failure::default());
        let flusher = Arc::new(Flusher::new(log.clone(), marks, flush));
        let mut flush = FlushStep::new(flusher.clone(), marks_file, clock.clone(), failure.reporter());
        flush.begin()?;

        let dispatched = recover_views(&*disk, &dir, &log, &views)?;
        let drops_ahead = seed_offsets(&log, &queues, dispatched.tail.end)?;
        let reput = Arc::new(Reput::new(log.clone(), views.clone(), dispatched));
        let checkpoints = Arc::new(Checkpoints::new(dispatched.tail.end));
        let stop = Arc::new(AtomicBool::new(false));
        let scrub = ScrubStep::new(
            log.clone(),
            reput.clone(),
            clock.clone(),
            (seed, read_from),
            stop.clone(),
            failure.reporter(),
        );
        let make = CheckpointStep::new(
            checkpoints.clone(),
            views,
            flusher.clone(),
            disk.clone(),
            &dir,
            failure.reporter(),
        );
        let dispatch = ReputStep::new(reput.clone(), checkpoints.clone(), clock, failure.reporter());
        let room = Arc::new(Room::new(disk.clone(), &dir, reserve_bytes));
        let ahead = AheadStep::new(log.clone(), room.clone(), stop.clone());
        ahead.look();
        let store = Self {
            log,
            flusher,
            reput,
            checkpoints,
            room,
            ahead: Handle::default(),
            scrub: Arc::default(),
            stop,
            queues,
            drops_ahead: Mutex::new(drops_ahead),
            dir,
            disk,
            failure,
            lock: Mutex::new(Some(lock)),
        };
        let threads = &*world.threads;
        // Those first that others ask for something.
        let started = store
            .flusher
            .start(threads, flush)
            .and_then(|()| store.checkpoints.start(threads, make))
            .and_then(|()| store.reput.start(threads, dispatch))
            .and_then(|()| store.ahead.start(threads, "raftmq-ahead", Box::new(ahead)))
            .and_then(|()| store.scrub.start(threads, "raftmq-scrub", Box::new(scrub)));
        let scrub = store.scrub.clone();
        store.log.damage.on_work(Box::new(move || scrub.wake()));
        started.map_err(StoreError::io("start a thread for", &store.dir))?;
        Ok(Arc::new(store))
    }

    /// Called once, with the reason, when one of the store's steps fails; at once if one has failed already. A
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

    /// Whether the disk has room for more, as of some milliseconds ago. Where it has none nothing is to be appended that
    /// can be done without: an append that fails stops the node.
    pub fn room(&self) -> Result<(), NoRoom> {
        self.room.check()
    }

    /// Whether entries of so many bytes have a place all the same, which other members have stored already.
    pub fn has_room_for(&self, bytes: u64) -> bool {
        self.room.takes(bytes, self.log.ahead(), self.log.segments.segment_bytes())
    }

    /// Calls back when everything appended so far is as durable as the flush mode asks.
    pub fn when_stored(&self, callback: Callback) {
        self.flusher.appended(callback);
    }

    /// Makes everything appended so far durable, whatever the flush mode, and calls back.
    pub fn flush(&self, callback: Callback) {
        self.flusher.flush(callback);
    }

    /// Removes the entries behind `last` (all of them where it is `None`), durably, and calls back: then nothing of them
    /// can come back to life. None of them may be committed, by what [`set_committed`](Self::set_committed) or
    /// [`commit`](Self::commit) said. Nothing may be appended until then.
    pub fn truncate_after(&self, last: Option<u64>, callback: Callback) {
        let (log, reput) = (self.log.clone(), self.reput.clone());
        let find_tail = move |committed| tail_after(&log, &reput, last, committed);
        match find_tail(self.flusher.committed()) {
            Ok(Some(_)) => self.flusher.shorten(last, Box::new(find_tail), callback),
            other => callback(other.map(drop)),
        }
    }

    /// The log is committed up to `physical_offset`, a frame's end: dispatch may go up to there.
    pub fn commit(&self, physical_offset: u64) {
        self.reput.commit(physical_offset);
    }

    /// At a start: the log is committed up to `physical_offset`, and commands up to there were applied before. What they
    /// have dropped is found by nobody, as by [`hide_dropped`](Self::hide_dropped), until dispatch has come there again.
    pub fn commit_applied(&self, physical_offset: u64) {
        for (at, topic) in std::mem::take(&mut *self.drops_ahead.lock()) {
            if at < physical_offset {
                self.hide(&topic, at);
            }
        }
        self.commit(physical_offset);
    }

    /// Notes what is committed, for a later start; written with the next marks.
    ///
    /// # Errors
    /// [`StoreError::Divergence`] where no log holds both this entry and the one that was committed before.
    pub fn set_committed(&self, id: EntryId) -> Result<(), StoreError> {
        self.flusher.set_committed(id)
    }

    /// The last entry known to be committed; after a start, what was known before it, at most.
    pub fn committed(&self) -> Option<EntryId> {
        self.flusher.committed()
    }

    /// The last entry that this member may have acknowledged and has lost: a machine that lost power, or a damaged disk, has
    /// left something whole behind something broken, and the log was cut there. `None` once the log has come as far again,
    /// or as far as an entry of a later term.
    pub fn doubt(&self) -> Option<EntryId> {
        self.flusher.doubt()
    }

    /// Calls back when everything below `physical_offset` is readable in every view. Few may wait for that: where
    /// there are too many, the one that has waited longest is told that it was refused.
    pub fn when_dispatched(&self, physical_offset: u64, callback: Callback) {
        self.reput.when_dispatched(physical_offset, callback);
    }

    /// A small file in the data directory, for whoever keeps a state of their own beside the log.
    pub fn read_file(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.dir.join(name);
        self.disk.read(&path).map_err(StoreError::io("read", &path))
    }

    /// Where such a file is.
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Replaces such a file, durably.
    pub fn write_file(&self, name: &str, content: &[u8]) -> Result<(), StoreError> {
        let path = self.dir.join(name);
        self.disk.replace(&path, content).map_err(StoreError::io("write", &path))
    }

    /// A command at `physical_offset` is about to be applied: topics that it drops have no queues any more, though dispatch
    /// comes to it a moment later. So nobody who finds a topic of that name made again finds messages of the one before.
    pub fn hide_dropped(&self, command: &[u8], physical_offset: u64) {
        for topic in topic_changes::dropped(self.log.topic_changes, command) {
            self.hide(&topic, physical_offset);
        }
    }

    fn hide(&self, topic: &str, physical_offset: u64) {
        // A start may apply again what was dispatched before.
        if physical_offset >= self.dispatched_physical_offset() {
            self.queues.hide(topic, physical_offset);
        }
    }

    /// A queue, once something was dispatched to it.
    pub fn queue(&self, topic: &str, queue_id: u32) -> Option<Arc<ConsumeQueue>> {
        self.queues.get(topic, queue_id)
    }

    /// The record that a ConsumeQueue unit names, or several that lie back to back; `None` where the log does not go so far.
    ///
    /// # Errors
    /// What is there was damaged; it is looked after.
    pub fn record(&self, physical_offset: u64, size: u32) -> Result<Option<LogSlice>, StoreError> {
        let Some(record) = self.log.slice(physical_offset, size as usize) else { return Ok(None) };
        self.log.check(record.segment(), physical_offset, record.len())?;
        Ok(Some(record))
    }

    /// Whether a record that a ConsumeQueue unit names can be read now.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn check_record(&self, physical_offset: u64, size: u32) -> Result<(), StoreError> {
        if self.log.damage.is_checked_at_a_glance(physical_offset, physical_offset + u64::from(size)) {
            return Ok(());
        }
        self.record(physical_offset, size).map(drop)
    }

    /// The record that starts at a physical offset, where one does that a queue has taken and it is dispatched. For offsets
    /// that come from outside: whatever stands there is checked.
    pub fn record_at(&self, physical_offset: u64) -> Option<LogSlice> {
        let dispatched = self.dispatched_physical_offset();
        let readable = dispatched.checked_sub(physical_offset)?;
        let segment = self.log.segments.of(physical_offset).ok()?;
        self.log.check(&segment, physical_offset, 1).ok()?;
        let bytes = segment.file.bytes().get((physical_offset - segment.base) as usize..)?;
        let bytes = bytes.get(..usize::try_from(readable).ok()?).unwrap_or(bytes);
        let record = RecordView::parse(bytes).ok()?;
        let here =
            record.physical_offset() as u64 == physical_offset && record.queue_offset() as u64 != NOWHERE;
        here.then(|| LogSlice::new(segment.clone(), physical_offset, record.total_size()))?
    }

    /// `callback` is told when the views are recorded to be complete up to a physical offset: the next start checks no more than what
    /// is behind that, and cuts nothing before it. Dropped where that does not come about.
    pub fn when_checkpointed(&self, physical_offset: u64, callback: Callback) {
        self.checkpoints.when_made(physical_offset, callback);
    }

    /// Whether an error is of damage of the disk, to what is committed, and what others have is brought: it is looked after, and who
    /// has met it may come again.
    pub fn is_looked_after(&self, error: &StoreError) -> bool {
        self.reput.is_looked_after(error)
    }

    /// Calls back each time that something broken was found in the log, from whichever thread. Whoever is called brings what
    /// others have in its place, by [`mend`](Self::mend).
    pub fn on_damage(&self, listener: Box<dyn Fn() + Send + Sync>) {
        self.log.damage.on_spot(listener);
    }

    /// What is broken in the log, as far as it is known.
    pub fn damage(&self) -> Vec<Spot> {
        self.log.damage.spots()
    }

    /// How many broken places were mended since the start.
    pub fn mended(&self) -> u64 {
        self.log.damage.mended()
    }

    /// What another member has from a [spot](Spot) on, whole frames one behind the other: as many of them as are needed are put
    /// in place, durably.
    ///
    /// # Errors
    /// Told to `callback`. They do not fit there, or the disk does not take them.
    pub fn mend(&self, physical_offset: u64, frames: Bytes, callback: Callback) {
        self.log.damage.offer(Offer { physical_offset, frames, callback });
    }

    /// Whole frames from the one at a physical offset on, of some `bytes_max` together and one at least, as far as they are
    /// committed. Empty where none begins there, or where it is broken here too. May wait for the disk.
    pub fn committed_frames(&self, physical_offset: u64, bytes_max: usize) -> Vec<u8> {
        let (mut at, mut frames, mut reader) = (physical_offset, Vec::new(), FrameReader::default());
        let Ok(segment) = self.log.segments.of(physical_offset) else { return frames };
        let end = segment.end().min(self.reput.committed());
        while at + FRAME_HEADER_BYTES as u64 <= end && frames.len() < bytes_max {
            let read = reader.frame(&segment, at).map(decode_frame);
            let Ok(Ok((header, ..))) = read else { break };
            let Ok(frame) = reader.frame(&segment, at) else { break };
            if header.physical_offset != at || header.end() > end {
                break;
            }
            frames.extend_from_slice(&frame[..header.frame_len()]);
            at = header.end();
        }
        frames
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

    /// Called by the reput step after a batch became readable, once a batch. Replaces an earlier listener.
    pub fn set_arrival_listener(&self, listener: ArrivalListener) {
        self.queues.set_arrival_listener(listener);
    }

    /// Stops the work in the background, makes everything durable and marks a clean stop. Nothing is appended any more.
    /// The directory may be opened again afterwards. A second call does nothing. Not for callbacks and listeners.
    pub fn close(&self) -> Result<(), StoreError> {
        let Some(_lock) = self.lock.lock().take() else { return Ok(()) };
        // The last checkpoint needs the flusher.
        self.stop_derived(Stop::Checkpoint);
        let closed = self.flusher.close();
        // Where the flusher had failed before, it did not do that.
        self.log.stop();
        self.join_others();
        closed
    }

    fn stop_derived(&self, how: Stop) {
        self.stop.store(true, Ordering::Relaxed);
        self.ahead.wake();
        self.scrub.wake();
        self.reput.stop(how);
        self.checkpoints.stop(how);
    }

    fn join_others(&self) {
        self.ahead.join();
        self.scrub.join();
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if self.lock.lock().is_none() {
            return;
        }
        self.stop_derived(Stop::AtOnce);
        self.log.stop();
        self.flusher.abandon();
        self.join_others();
    }
}

/// *Invariant 3*, read back: where the log reaches as far as entries were known to be committed, it holds that entry. It
/// may end before it: others had it when this member had not flushed it. What the start has not read is not looked at.
fn check_committed(log: &CommitLog, committed: Option<EntryId>) -> Result<(), StoreError> {
    let was_read = |committed: &EntryId| {
        log.is_recent(committed.index) && log.last().is_some_and(|last| last.index >= committed.index)
    };
    let reached = committed.filter(was_read);
    let Some(committed) = reached else { return Ok(()) };
    match log.frame(committed.index)?.map(|frame| frame.id()) {
        Some(found) if found != committed => Err(StoreError::Divergence(format!(
            "entry {committed:?} was committed, and the log has {found:?} in its place"
        ))),
        _ => Ok(()),
    }
}

/// Where the log would end without the entries behind `last`, by what is committed and by what may be dispatched; nothing
/// where there are none.
fn tail_after(
    log: &CommitLog,
    reput: &Reput,
    last: Option<u64>,
    committed: Option<EntryId>,
) -> Result<Option<Tail>, StoreError> {
    let Some(tail) = log.tail_after(last, committed)? else { return Ok(None) };
    let dispatchable = reput.committed();
    if tail.end < dispatchable {
        return Err(StoreError::Divergence(format!(
            "asked to truncate the log at physical offset {}, and it is committed up to {dispatchable}",
            tail.end
        )));
    }
    Ok(Some(tail))
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

/// Sets the next queue offsets at the log's end: what the ConsumeQueues hold, and what stands in the log behind it.
/// Returns which topics are dropped there, and where.
fn seed_offsets(
    log: &CommitLog,
    queues: &ConsumeQueues,
    dispatched: u64,
) -> Result<Vec<(u64, String)>, StoreError> {
    log.with_offsets(|offsets| {
        for (topic, queue_id, next) in queues.max_offsets() {
            offsets.set(&topic, queue_id, next)?;
        }
        let mut drops = Vec::new();
        let mut walk = log.walk(dispatched);
        while let Some(frame) = walk.next()? {
            let dropped = topic_changes::dropped(log.topic_changes, frame.command()).into_iter();
            drops.extend(dropped.map(|topic| (frame.header.physical_offset, topic)));
            if !Mutation::KeepCountersAtStart.is_on() {
                offsets.change_topics(frame.header.physical_offset, frame.command(), log.topic_changes);
            }
            if frame.header.kind == FrameKind::Messages {
                let start = frame.header.physical_offset + frame.header.records_at() as u64;
                offsets.check(frame.records(), start)?;
            }
        }
        offsets.end_recovery();
        Ok(drops)
    })
}

/// The last store timestamp below `end`. *Invariant 6*: later messages must not have an earlier one, however long there were
/// only commands.
fn newest_before(log: &CommitLog, mut end: u64) -> Result<i64, StoreError> {
    let mut newest_ms = 0;
    while newest_ms == 0 && end > log.start() {
        let start = (end - 1) / log.segment_bytes() * log.segment_bytes();
        let mut walk = log.walk(start);
        while let Some(frame) = walk.next()?.filter(|frame| frame.header.physical_offset < end) {
            if frame.header.kind == FrameKind::Messages
                && let Ok(record) = RecordView::parse(frame.records())
            {
                newest_ms = record.store_timestamp_ms();
            }
        }
        end = start;
    }
    Ok(newest_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::marks::Marks;
    use crate::queue_offsets::tests::record;
    use crate::recovery::tests::{log_of_blanks, open};

    #[test]
    fn a_log_that_holds_another_entry_than_was_committed_is_a_divergence() {
        let dir = tempfile::tempdir().unwrap();
        let log = log_of_blanks(dir.path(), Marks::default(), 4, 3);
        let check = |term, index| check_committed(&log, Some(EntryId { term, index }));
        assert!(check_committed(&log, None).is_ok());
        assert!(check(4, 2).is_ok() && check(5, 3).is_ok());
        for (term, index) in [(3, 1), (5, 1), (5, 2)] {
            assert!(matches!(check(term, index), Err(StoreError::Divergence(_))), "{term} {index}");
        }
    }

    #[test]
    fn the_last_store_timestamp_is_found_behind_segments_of_commands() {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path(), Marks::default()).unwrap();
        let append = |index, kind, payload: &[u8], now_ms| {
            let (id, pieces) = (EntryId { term: 1, index }, &mut [payload.into()]);
            let entry = NewEntry { id, kind, leader: 1, command: &[], pieces, now_ms };
            log.append(entry, &mut Vec::new()).unwrap().start
        };
        append(0, FrameKind::Messages, &record(), 70);
        append(1, FrameKind::Messages, &record(), 90);
        assert_eq!(newest_before(&log, 0).unwrap(), 0);
        let mut last = 0;
        for index in 2..20 {
            last = append(index, FrameKind::Command, &[1; 20_000], 0);
        }
        assert!(last > 4 * 64 * 1024);
        assert_eq!(newest_before(&log, last / (64 * 1024) * 64 * 1024).unwrap(), 90);
    }
}
