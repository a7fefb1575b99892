//! The checkpoint: up to where in the log ConsumeQueues, IndexFiles and the timer index are complete and durable.
//!
//! A start drops what they hold behind it and dispatches from there on. How much they held is recorded with it, so that
//! files which were deleted are noticed and made again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use raftmq_world::{Disk, Next, Step, Threads};

use crate::commit_log::CommitLog;
use crate::consume_queues::ConsumeQueues;
use crate::error::StoreError;
use crate::flush::Flusher;
use crate::index_files::IndexFiles;
use crate::reput::Stop;
use crate::timer_index::{self, TimerIndex};
use crate::worker::{Handle, Report};

/// The checkpoint's file in the data directory.
const FILE: &str = "dispatched";

/// Up to where the derived files were complete, and what they held then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// Physical offset.
    position: u64,
    /// Units in all queues.
    units: u64,
    /// Entries in all index files.
    index_entries: u64,
    /// The first minute of the timer index that is needed.
    timer_slot: u64,
    /// Entries of the timer index from there on.
    timers: u64,
}

impl Checkpoint {
    fn write(self, disk: &dyn Disk, path: &Path) -> Result<(), StoreError> {
        let Self { position, units, index_entries, timer_slot, timers } = self;
        let text = format!(
            "dispatched={position}\nunits={units}\nindex_entries={index_entries}\ntimer_slot={timer_slot}\ntimers={timers}\n"
        );
        disk.replace(path, text.as_bytes()).map_err(StoreError::io("write", path))
    }

    fn read(disk: &dyn Disk, path: &Path) -> Result<Option<Self>, StoreError> {
        let Some(bytes) = disk.read(path).map_err(StoreError::io("read", path))? else { return Ok(None) };
        let text = String::from_utf8_lossy(&bytes);
        let number =
            |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')?.parse().ok());
        let read = || {
            Some(Self {
                position: number("dispatched")?,
                units: number("units")?,
                index_entries: number("index_entries")?,
                timer_slot: number("timer_slot")?,
                timers: number("timers")?,
            })
        };
        Ok(read())
    }
}

/// What is derived from the log.
#[derive(Clone, Debug)]
pub(crate) struct Derived {
    pub(crate) queues: Arc<ConsumeQueues>,
    pub(crate) index: Arc<IndexFiles>,
    pub(crate) timers: Arc<TimerIndex>,
}

/// The same, just opened.
pub(crate) type Opened = (ConsumeQueues, IndexFiles, TimerIndex);

impl Derived {
    /// What it holds, everything below `position` having been published.
    pub(crate) fn as_of(&self, position: u64) -> Checkpoint {
        let units = self.queues.max_offsets().map(|(_, _, max)| max).sum();
        let (timer_slot, timers) = self.timers.held();
        Checkpoint { position, units, index_entries: self.index.entries(), timer_slot, timers }
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.queues.flush_all()?;
        self.index.flush()?;
        self.timers.flush()
    }
}

/// Takes requests for the [`CheckpointStep`].
#[derive(Debug, Default)]
pub(crate) struct Checkpoints {
    state: Mutex<State>,
    worker: Handle,
}

#[derive(Debug, Default)]
struct State {
    /// To be made next.
    next: Option<Checkpoint>,
    /// One is being made, or is to be made.
    busy: bool,
    /// How the flush of the log went that the one being made waits for.
    log_flushed: Option<Result<(), StoreError>>,
    /// The step is to end.
    stop: Option<Stop>,
}

impl Checkpoints {
    pub(crate) fn start(&self, threads: &dyn Threads, step: CheckpointStep) -> std::io::Result<()> {
        self.worker.start(threads, "raftmq-checkpoint", Box::new(step))
    }

    /// Whether one is being made, or is to be made.
    pub(crate) fn is_busy(&self) -> bool {
        self.state.lock().busy
    }

    /// Has a checkpoint made, after the one that is being made. What is added to the derived files meanwhile is not
    /// counted.
    pub(crate) fn record(&self, checkpoint: Checkpoint) {
        let mut state = self.state.lock();
        state.next = Some(checkpoint);
        state.busy = true;
        drop(state);
        self.worker.wake();
    }

    /// Ends the step, with the checkpoints that are to be made or at once, and returns when it has ended.
    pub(crate) fn stop(&self, how: Stop) {
        self.state.lock().stop.get_or_insert(how);
        self.worker.wake();
        self.worker.join();
    }

    fn log_flushed(&self, flushed: Result<(), StoreError>) {
        self.state.lock().log_flushed = Some(flushed);
        self.worker.wake();
    }
}

/// Makes checkpoints, one at a time, apart from dispatch: syncing thousands of queues takes long.
pub(crate) struct CheckpointStep {
    checkpoints: Arc<Checkpoints>,
    derived: Derived,
    flusher: Arc<Flusher>,
    disk: Arc<dyn Disk>,
    path: PathBuf,
    on_failure: Report,
    /// Waits for the log to be flushed; all else is durable.
    making: Option<Checkpoint>,
}

impl CheckpointStep {
    pub(crate) fn new(
        checkpoints: Arc<Checkpoints>,
        derived: Derived,
        flusher: Arc<Flusher>,
        disk: Arc<dyn Disk>,
        dir: &Path,
        on_failure: Report,
    ) -> Self {
        Self { checkpoints, derived, flusher, disk, path: dir.join(FILE), on_failure, making: None }
    }

    fn go_on(&mut self) -> Result<Next, StoreError> {
        let mut state = self.checkpoints.state.lock();
        if state.stop == Some(Stop::AtOnce) {
            return Ok(Next::End);
        }
        if let Some(checkpoint) = self.making {
            let Some(flushed) = state.log_flushed.take() else { return Ok(Next::Wait) };
            drop(state);
            flushed?;
            checkpoint.write(&*self.disk, &self.path)?;
            self.derived.timers.remove_before(checkpoint.timer_slot)?;
            self.making = None;
            return Ok(Next::Again);
        }
        let Some(checkpoint) = state.next.take() else {
            state.busy = false;
            return Ok(if state.stop.is_some() { Next::End } else { Next::Wait });
        };
        drop(state);
        self.derived.flush()?;
        self.making = Some(checkpoint);
        // Committed entries may be dispatched before they are durable here. A checkpoint must not be ahead of the log
        // that a start finds.
        let checkpoints = self.checkpoints.clone();
        self.flusher.flush(Box::new(move |flushed| checkpoints.log_flushed(flushed)));
        Ok(Next::Wait)
    }
}

impl Step for CheckpointStep {
    fn step(&mut self) -> Next {
        self.go_on().unwrap_or_else(|e| {
            tracing::error!("a checkpoint failed, the node stops: {e}");
            (self.on_failure)(format!("checkpoint: {e}"));
            Next::End
        })
    }
}

/// Brings the derived files back to a position in the log from which dispatch goes on, and returns it. *Invariant 4*, read
/// back: whatever does not fit together is deleted, and the position is the log's start. `open` opens them as of a position, without what the
/// timer index has before a slot.
pub(crate) fn recover_derived(
    disk: &dyn Disk,
    dir: &Path,
    log: &CommitLog,
    open: impl Fn(u64, u64) -> Result<Opened, StoreError>,
) -> Result<(Derived, u64), StoreError> {
    let open = |Checkpoint { position, timer_slot, .. }: Checkpoint| {
        let (queues, index, timers) = open(position, timer_slot)?;
        let derived = Derived { queues: Arc::new(queues), index: Arc::new(index), timers: Arc::new(timers) };
        Ok::<_, StoreError>(derived)
    };
    let path = dir.join(FILE);
    let nothing = Checkpoint { position: log.start(), units: 0, index_entries: 0, timer_slot: 0, timers: 0 };
    let recorded = Checkpoint::read(disk, &path)?.filter(|c| (log.start()..=log.end()).contains(&c.position));
    let checkpoint = recorded.unwrap_or(nothing);
    let why = match open(checkpoint) {
        Ok(derived) if derived.as_of(checkpoint.position) == checkpoint => {
            return Ok((derived, checkpoint.position));
        }
        Ok(derived) => {
            format!("{checkpoint:?} was recorded, {:?} is there", derived.as_of(checkpoint.position))
        }
        // A disk that fails is no reason to delete anything.
        Err(e @ StoreError::Io { .. }) => return Err(e),
        Err(e) => e.to_string(),
    };
    tracing::warn!("making what is derived from the log again: {why}");
    // First of all: should this be interrupted, what it leaves must not pass for what was recorded.
    nothing.write(disk, &path)?;
    for folder in ["consumequeue", "index", timer_index::DIRECTORY].map(|name| dir.join(name)) {
        disk.remove_all(&folder).map_err(StoreError::io("remove", &folder))?;
    }
    Ok((open(nothing)?, nothing.position))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TimerEntry;
    use crate::consume_queue::Unit;
    use crate::flush::FlushMode;
    use crate::flush::FlushStep;
    use crate::index_file::IndexShape;
    use crate::marks::MarksFile;
    use crate::recovery::tests::log_of_blanks;
    use raftmq_world::{OsDisk, SystemClock};

    fn open_derived(dir: &Path, limit: u64, first_slot: u64) -> Result<Opened, StoreError> {
        let disk: Arc<dyn Disk> = Arc::new(OsDisk);
        let queues = ConsumeQueues::open(disk.clone(), dir, 100)?;
        queues.recover_all(limit)?;
        let index = IndexFiles::open(disk.clone(), dir, IndexShape { slots: 8, entries: 100 }, limit)?;
        Ok((queues, index, TimerIndex::open(disk, dir, limit, first_slot)?))
    }

    /// Publishes messages that would stand at these physical offsets.
    fn publish(derived: &Derived, offsets: std::ops::Range<u64>) {
        let queue = derived.queues.get_or_create("topic", 0).unwrap();
        for physical_offset in offsets {
            queue.append(queue.max_offset(), Unit { physical_offset, size: 1, tags_code: 0 }).unwrap();
            queue.publish().unwrap();
            derived.index.put("topic", "key", physical_offset, 0).unwrap();
            let due_ms = physical_offset as i64 * 2_000;
            derived.timers.put(TimerEntry { due_ms, queue_offset: 0, physical_offset, size: 1 }).unwrap();
        }
    }

    #[test]
    fn what_is_published_while_a_checkpoint_is_made_is_not_counted() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let disk: Arc<dyn Disk> = Arc::new(OsDisk);
        let log_dir = dir.join("commitlog");
        let (marks_file, marks) = MarksFile::open(&*disk, &dir.join("marks"), &log_dir).unwrap();
        let log = log_of_blanks(&log_dir, marks, 1, 3);
        let flusher = Arc::new(Flusher::new(log.clone(), marks, FlushMode::Async));
        let clock = Arc::new(SystemClock::default());
        let mut flush = FlushStep::new(flusher.clone(), marks_file, clock, Box::new(|_| ()));
        let (derived, position) =
            recover_derived(&*disk, dir, &log, |limit, slot| open_derived(dir, limit, slot)).unwrap();
        assert_eq!(position, 0);

        let checkpoints = Arc::new(Checkpoints::default());
        let no_failure = Box::new(|reason| panic!("{reason}"));
        let mut make = CheckpointStep::new(
            checkpoints.clone(),
            derived.clone(),
            flusher.clone(),
            disk.clone(),
            dir,
            no_failure,
        );
        publish(&derived, 1..50);
        // What is due in the first minute, 29 messages, is not needed any more.
        derived.timers.drop_before(60_000);
        checkpoints.record(derived.as_of(50));
        publish(&derived, 50..90);
        assert_eq!((make.step(), make.step()), (Next::Wait, Next::Wait), "the log is not flushed");
        assert_eq!(Checkpoint::read(&*disk, &dir.join(FILE)).unwrap(), None);
        assert_eq!((flush.step(), flush.step()), (Next::Again, Next::Again));
        assert_eq!((checkpoints.is_busy(), make.step(), make.step()), (true, Next::Again, Next::Wait));
        assert!(!checkpoints.is_busy());
        // The log is durable as far as the checkpoint goes, whatever the mode.
        assert_eq!(flusher.flushed(), log.end());
        let recorded = Checkpoint::read(&*disk, &dir.join(FILE)).unwrap();
        let expected = Checkpoint { position: 50, units: 49, index_entries: 49, timer_slot: 1, timers: 20 };
        assert_eq!(recorded, Some(expected));
        assert!(!dir.join("timer").join(format!("{:020}", 0)).exists());

        drop((derived, make));
        let (derived, position) =
            recover_derived(&*disk, dir, &log, |limit, slot| open_derived(dir, limit, slot)).unwrap();
        assert_eq!((position, derived.queues.max_offset("topic", 0)), (50, 49));
        // A checkpoint behind the log's end counts for nothing.
        Checkpoint { position: log.end() + 1, ..expected }.write(&*disk, &dir.join(FILE)).unwrap();
        let (derived, position) =
            recover_derived(&*disk, dir, &log, |limit, slot| open_derived(dir, limit, slot)).unwrap();
        assert_eq!((position, derived.queues.max_offset("topic", 0)), (0, 0));
    }
}
