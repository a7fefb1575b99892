//! Flushing: makes appended entries durable, many with one sync, and tells who waits for that.
//!
//! In `sync` mode an entry counts as stored when a sync that began after it was written has returned. In `async` mode
//! it counts at once, and a sync follows within [`ASYNC_INTERVAL`]. A sync that fails is final: every wait from then
//! on fails, because the kernel may have dropped the pages it could not write.
//!
//! The marks are written after each flush, and synced within [`MARKS_INTERVAL`] or ten times as long as that takes, whichever
//! is longer: so long a machine that loses power may leave marks behind what was durable.
//!
//! In an open store [`FlushStep`] alone syncs and shortens the log and writes the marks. Others leave requests with the
//! [`Flusher`] and are called back. A flush is two steps: the first takes who waits and notes the log's end, the second
//! syncs up to there and tells them. What is appended between the two is neither counted nor told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use raftmq_world::{Clock, Mutation, Next, Step, Threads};

use crate::commit_log::CommitLog;
use crate::error::StoreError;
use crate::marks::{EntryId, LogEnd, Marks, MarksFile, Tail};
use crate::worker::{Callback, Handle, Report};

/// How long an entry may stay in the page cache alone in `async` mode.
pub const ASYNC_INTERVAL: Duration = Duration::from_millis(200);

/// How long marks that have changed may stay unsynced, on a disk that syncs them faster.
const MARKS_INTERVAL: Duration = Duration::from_millis(100);
/// The part of its time for which the flush waits for syncs of the marks at most.
const MARKS_SHARE: u32 = 10;

/// Finds how the log is to end, by what is known to be committed; nothing where it ends so already.
pub(crate) type FindTail = Box<dyn FnOnce(Option<EntryId>) -> Result<Option<Tail>, StoreError> + Send>;

/// When an entry counts as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushMode {
    /// When it is on the medium.
    Sync,
    /// When it is in the page cache.
    Async,
}

/// Takes requests for the [`FlushStep`], and knows what it has reached.
pub(crate) struct Flusher {
    log: Arc<CommitLog>,
    mode: FlushMode,
    flushed: AtomicU64,
    /// The last entry known to be committed.
    committed: Mutex<Option<EntryId>>,
    doubt: Mutex<Option<EntryId>>,
    state: Mutex<State>,
    worker: Handle,
}

#[derive(Default)]
struct State {
    /// To be told after the next sync.
    waiting: Vec<Callback>,
    shorten: Vec<Shorten>,
    /// The marks are to be synced with it.
    with_marks: bool,
    /// The step looks at this again without being woken.
    awake: bool,
    /// The step is to end, with a last flush.
    closing: bool,
    /// How the step has ended then.
    closed: Option<Result<(), StoreError>>,
    /// Why nothing becomes durable any more.
    stopped: Option<String>,
}

/// A request to remove the entries behind `last`.
struct Shorten {
    last: Option<u64>,
    tail: FindTail,
    callback: Callback,
}

impl State {
    fn check(&self) -> Result<(), StoreError> {
        self.stopped.as_ref().map_or(Ok(()), |reason| Err(StoreError::Stopped(reason.clone())))
    }
}

impl std::fmt::Debug for Flusher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flusher")
            .field("mode", &self.mode)
            .field("flushed", &self.flushed)
            .finish_non_exhaustive()
    }
}

impl Flusher {
    /// `found` are the marks as of the last stop. What lies above their flushed mark is synced by [`FlushStep::begin`]
    /// before anybody counts on it.
    pub(crate) fn new(log: Arc<CommitLog>, found: Marks, mode: FlushMode) -> Self {
        let committed = found.committed.zip(log.last()).map(|(committed, last)| committed.min(last));
        Self {
            flushed: AtomicU64::new(found.flushed.tail.end.min(log.end())),
            doubt: Mutex::new(found.doubt.filter(|doubt| Some(*doubt) > log.last())),
            log,
            mode,
            committed: Mutex::new(committed),
            state: Mutex::default(),
            worker: Handle::default(),
        }
    }

    pub(crate) fn start(&self, threads: &dyn Threads, step: FlushStep) -> std::io::Result<()> {
        self.worker.start(threads, "raftmq-flush", Box::new(step))
    }

    /// The log is durable below this physical offset.
    pub(crate) fn flushed(&self) -> u64 {
        self.flushed.load(Ordering::Acquire)
    }

    pub(crate) fn committed(&self) -> Option<EntryId> {
        *self.committed.lock()
    }

    /// Up to where this member may have acknowledged entries that it has lost; see [`Marks::doubt`].
    pub(crate) fn doubt(&self) -> Option<EntryId> {
        *self.doubt.lock()
    }

    /// Notes what is committed; written with the next marks. *Invariant 3*: it is in one log with what was committed
    /// before, in which terms do not fall.
    pub(crate) fn set_committed(&self, committed: EntryId) -> Result<(), StoreError> {
        let mut known = self.committed.lock();
        let before = known.get_or_insert(committed);
        let (index, term) = (committed.index.cmp(&before.index), committed.term.cmp(&before.term));
        if index != term && term != std::cmp::Ordering::Equal {
            return Err(StoreError::Divergence(format!(
                "entry {committed:?} is said to be committed, and {before:?} was"
            )));
        }
        *before = committed.max(*before);
        Ok(())
    }

    /// Something was appended; `callback` is told when it is stored.
    pub(crate) fn appended(&self, callback: Callback) {
        match self.mode {
            FlushMode::Sync if !Mutation::AckBeforeSync.is_on() => self.flush(callback),
            FlushMode::Sync | FlushMode::Async => {
                let stopped = self.state.lock().check();
                callback(stopped);
            }
        }
    }

    /// `callback` is told when everything appended so far is durable, whatever the mode.
    pub(crate) fn flush(&self, callback: Callback) {
        self.ask(callback, |state, callback| state.waiting.push(callback));
    }

    /// The same, and the next start knows it, whatever happens.
    pub(crate) fn flush_with_marks(&self, callback: Callback) {
        self.ask(callback, |state, callback| {
            state.waiting.push(callback);
            state.with_marks = true;
        });
    }

    /// Flushes, then removes the entries behind `last`. `tail` is asked right before that, and may still refuse.
    pub(crate) fn shorten(&self, last: Option<u64>, tail: FindTail, callback: Callback) {
        self.ask(callback, |state, callback| state.shorten.push(Shorten { last, tail, callback }));
    }

    fn ask(&self, callback: Callback, add: impl FnOnce(&mut State, Callback)) {
        let mut state = self.state.lock();
        if let Err(e) = state.check() {
            drop(state);
            return callback(Err(e));
        }
        add(&mut state, callback);
        let asleep = !std::mem::replace(&mut state.awake, true);
        drop(state);
        if asleep {
            self.worker.wake();
        }
    }

    /// Refuses appends, flushes a last time with the mark of a clean stop where every write went well, and ends the
    /// step.
    pub(crate) fn close(&self) -> Result<(), StoreError> {
        self.state.lock().closing = true;
        self.worker.wake();
        self.worker.join();
        let mut state = self.state.lock();
        state.closed.take().unwrap_or_else(|| Err(StoreError::Stopped(state.stopped_reason())))
    }

    /// Ends the step without another flush.
    pub(crate) fn abandon(&self) {
        self.state.lock().stopped.get_or_insert_with(|| "it was dropped".to_owned());
        self.worker.wake();
        self.worker.join();
    }
}

impl State {
    fn stopped_reason(&self) -> String {
        self.stopped.clone().unwrap_or_else(|| "nobody flushes".to_owned())
    }
}

/// Does what the [`Flusher`] was asked for.
pub(crate) struct FlushStep {
    flusher: Arc<Flusher>,
    marks: MarksFile,
    /// How the durable part of the log ends.
    durable: LogEnd,
    /// Whether marks are written that are not synced, and when a sync of marks is due at the earliest.
    unsynced: bool,
    next_sync: Duration,
    clock: Arc<dyn Clock>,
    on_failure: Report,
    /// What the second step of a flush has to do.
    taken: Option<Taken>,
    /// When `async` mode last looked for something to flush.
    looked: Duration,
    /// At a close, whether every write had gone well.
    clean: Option<bool>,
}

/// A flush that has begun.
struct Taken {
    /// How the log ended when it began.
    tail: LogEnd,
    waiting: Vec<Callback>,
    shorten: Vec<Shorten>,
    /// The marks are synced, too.
    with_marks: bool,
    clean: bool,
}

impl FlushStep {
    pub(crate) fn new(
        flusher: Arc<Flusher>,
        marks: MarksFile,
        clock: Arc<dyn Clock>,
        on_failure: Report,
    ) -> Self {
        let now = clock.passed();
        Self {
            flusher,
            marks,
            durable: LogEnd::default(),
            unsynced: false,
            next_sync: now,
            looked: now,
            clock,
            on_failure,
            taken: None,
            clean: None,
        }
    }

    /// Makes what recovery found durable, and the fact that the log is in use: were the mark of a clean stop still
    /// there after a crash, the torn end of the log would not be looked for. Called before the start.
    pub(crate) fn begin(&mut self) -> Result<(), StoreError> {
        self.sync(self.flusher.log.tail())?;
        self.write_marks_durably(false)
    }

    /// The first step of a flush, if there is one to do.
    fn take(&mut self) -> Next {
        let pause = self.pause();
        let mut state = self.flusher.state.lock();
        if state.stopped.is_some() || state.closing {
            let closing = state.stopped.is_none();
            drop(state);
            return if closing { self.take_last() } else { self.end(Vec::new()) };
        }
        if state.waiting.is_empty() && state.shorten.is_empty() && pause != Next::Again {
            state.awake = false;
            drop(state);
            return self.sync_marks(pause);
        }
        state.awake = true;
        let (waiting, shorten) = (std::mem::take(&mut state.waiting), std::mem::take(&mut state.shorten));
        let with_marks = std::mem::take(&mut state.with_marks);
        drop(state);
        self.taken =
            Some(Taken { tail: self.flusher.log.tail(), waiting, shorten, with_marks, clean: false });
        Next::Again
    }

    /// When to look again if nobody asks; at once where `async` mode has something to flush.
    fn pause(&mut self) -> Next {
        if self.flusher.mode == FlushMode::Sync {
            return Next::Wait;
        }
        let now = self.clock.passed();
        let left = (self.looked + ASYNC_INTERVAL).saturating_sub(now);
        if !left.is_zero() {
            return Next::WaitFor(left);
        }
        self.looked = now;
        if self.flusher.log.end() > self.flusher.flushed() {
            return Next::Again;
        }
        Next::WaitFor(ASYNC_INTERVAL)
    }

    /// Syncs the marks while nobody waits for a flush, if that is due, or says when it is.
    fn sync_marks(&mut self, pause: Next) -> Next {
        if !self.unsynced {
            return pause;
        }
        let left = self.next_sync.saturating_sub(self.clock.passed());
        if left.is_zero() {
            return match self.write_marks_durably(false) {
                Ok(()) => Next::Again,
                Err(e) => self.fail("sync of the marks", &e, Vec::new()),
            };
        }
        match pause {
            Next::WaitFor(other) => Next::WaitFor(left.min(other)),
            _ => Next::WaitFor(left),
        }
    }

    /// The same at a close, until nobody waits any more.
    fn take_last(&mut self) -> Next {
        let first = self.clean.is_none();
        let clean = *self.clean.get_or_insert_with(|| self.flusher.log.stop());
        let mut state = self.flusher.state.lock();
        let (waiting, shorten) = (std::mem::take(&mut state.waiting), std::mem::take(&mut state.shorten));
        let done = !first && waiting.is_empty();
        let closed = "it was closed";
        if done {
            state.stopped = Some(closed.to_owned());
        }
        drop(state);
        refuse(callbacks(shorten), closed);
        if done {
            let synced = self.write_marks_durably(clean);
            self.flusher.state.lock().closed = Some(synced);
            return Next::End;
        }
        let (tail, shorten) = (self.flusher.log.tail(), Vec::new());
        self.taken = Some(Taken { tail, waiting, shorten, with_marks: true, clean });
        Next::Again
    }

    /// The second step of a flush: one sync for all who waited when it began.
    fn flush(&mut self, taken: Taken) -> Next {
        let Taken { tail, waiting, shorten, with_marks, clean } = taken;
        if self.flusher.state.lock().stopped.is_some() {
            return self.end(waiting.into_iter().chain(callbacks(shorten)).collect());
        }
        let flushed = self.sync(tail).and_then(|()| match with_marks {
            true => self.write_marks_durably(clean),
            false => self.write_marks(clean),
        });
        if let Err(e) = flushed {
            let left = waiting.into_iter().chain(callbacks(shorten)).collect();
            return self.fail("flush", &e, left);
        }
        // The newest first: who keeps a watermark then ignores the rest.
        waiting.into_iter().rev().for_each(|callback| callback(Ok(())));
        let mut shorten = shorten.into_iter();
        while let Some(Shorten { last, tail, callback }) = shorten.next() {
            let committed = self.flusher.committed();
            let new_tail = match tail(committed) {
                Ok(Some(tail)) => tail,
                other => {
                    callback(other.map(drop));
                    continue;
                }
            };
            let shortened = self.shorten(new_tail, last, committed);
            if let Err(e) = shortened {
                let next = self.fail("truncation", &e, callbacks(shorten).collect());
                callback(Err(e));
                return next;
            }
            callback(Ok(()));
        }
        Next::Again
    }

    /// *Invariant 5*: who waits is told once this has returned, so an entry counts only when it is durable.
    fn sync(&mut self, durable: LogEnd) -> Result<(), StoreError> {
        let (tail, flushed) = (durable.tail, self.flusher.flushed());
        let end = tail.end;
        // Invariant 3: the mark is lowered before the log is shortened.
        if end < flushed {
            return Err(StoreError::Divergence(format!(
                "the log ends at physical offset {end}, and was flushed up to {flushed}"
            )));
        }
        self.flusher.log.segments.sync(flushed, end)?;
        self.durable = durable;
        self.flusher.flushed.store(end, Ordering::Release);
        // Whatever it had acknowledged: it holds what a later leader had, or what it had itself.
        let mut doubt = self.flusher.doubt.lock();
        *doubt = doubt.filter(|doubt| Some(*doubt) > tail.last);
        Ok(())
    }

    /// Removes the entries behind `last`, after which the log ends with `tail`; everything before it has been flushed.
    /// *Invariant 3*: the mark is lowered first, as a crash in the middle must not look like corruption.
    fn shorten(
        &mut self,
        tail: Tail,
        last: Option<u64>,
        committed: Option<EntryId>,
    ) -> Result<(), StoreError> {
        self.flusher.flushed.store(tail.end, Ordering::Release);
        // The last message of what is left was not looked for.
        self.durable = LogEnd { tail, last_ms: 0 };
        if Mutation::SkipTruncationSync.is_on() {
            self.write_marks(false)?;
        } else {
            self.write_marks_durably(false)?;
        }
        self.flusher.log.truncate_after(last, committed)
    }

    fn write_marks(&mut self, clean: bool) -> Result<(), StoreError> {
        if self.clock.passed() >= self.next_sync {
            return self.write_marks_durably(clean);
        }
        self.unsynced = true;
        self.marks.write(self.present(clean))
    }

    fn write_marks_durably(&mut self, clean: bool) -> Result<(), StoreError> {
        let began = self.clock.passed();
        self.marks.write_durably(self.present(clean))?;
        let now = self.clock.passed();
        self.next_sync = now + MARKS_INTERVAL.max(MARKS_SHARE * now.saturating_sub(began));
        self.unsynced = false;
        Ok(())
    }

    fn present(&self, clean: bool) -> Marks {
        let (flushed, committed, doubt) = (self.durable, self.flusher.committed(), self.flusher.doubt());
        Marks { flushed, committed, doubt, clean }
    }

    /// From here on everybody is refused. Who came during the sync is told as well.
    fn fail(&mut self, what: &str, e: &StoreError, left: Vec<Callback>) -> Next {
        self.flusher.state.lock().stopped.get_or_insert_with(|| format!("a {what} failed: {e}"));
        let next = self.end(left);
        tracing::error!("{what} failed, the node stops: {e}");
        (self.on_failure)(format!("{what}: {e}"));
        next
    }

    /// Tells `left`, and whoever waits, that nothing becomes durable any more.
    fn end(&mut self, mut left: Vec<Callback>) -> Next {
        let mut state = self.flusher.state.lock();
        left.append(&mut state.waiting);
        left.extend(callbacks(std::mem::take(&mut state.shorten)));
        let reason = state.stopped_reason();
        drop(state);
        refuse(left, &reason);
        Next::End
    }
}

impl Step for FlushStep {
    fn step(&mut self) -> Next {
        match self.taken.take() {
            Some(taken) => self.flush(taken),
            None => self.take(),
        }
    }
}

fn callbacks(requests: impl IntoIterator<Item = Shorten>) -> impl Iterator<Item = Callback> {
    requests.into_iter().map(|request| request.callback)
}

/// The newest first, as when all is well.
fn refuse(waiting: impl IntoIterator<Item = Callback>, reason: &str) {
    let waiting: Vec<_> = waiting.into_iter().collect();
    waiting.into_iter().rev().for_each(|callback| callback(Err(StoreError::Stopped(reason.to_owned()))));
}

#[cfg(test)]
mod tests {
    use raftmq_world::{OsDisk, SystemClock};

    use super::*;
    use crate::recovery::tests::log_of_blanks;

    #[test]
    fn what_contradicts_what_was_flushed_or_committed_is_a_divergence() {
        let dir = tempfile::tempdir().unwrap();
        let log_dir = dir.path().join("commitlog");
        let (marks, found) = MarksFile::open(&OsDisk, &dir.path().join("marks"), &log_dir).unwrap();
        let log = log_of_blanks(&log_dir, found, 1, 1);
        let LogEnd { tail, last_ms } = log.tail();
        let flusher = Arc::new(Flusher::new(log.clone(), found, FlushMode::Sync));
        let clock = Arc::new(SystemClock::default());
        let mut step = FlushStep::new(flusher.clone(), marks, clock, Box::new(|_| ()));
        step.sync(LogEnd { tail, last_ms }).unwrap();
        let shorter = Tail { end: tail.end - 1, ..tail };
        assert!(matches!(step.sync(LogEnd { tail: shorter, last_ms: 0 }), Err(StoreError::Divergence(_))));
        assert_eq!(flusher.flushed(), log.end());

        let set = |term, index| flusher.set_committed(EntryId { term, index });
        set(2, 5).unwrap();
        for (term, index) in [(3, 5), (1, 5), (3, 4), (1, 6)] {
            assert!(matches!(set(term, index), Err(StoreError::Divergence(_))), "{term} {index}");
        }
        assert_eq!(flusher.committed(), Some(EntryId { term: 2, index: 5 }));
        for (term, index) in [(1, 4), (2, 4), (2, 5), (2, 6), (3, 7)] {
            set(term, index).unwrap();
        }
        assert_eq!(flusher.committed(), Some(EntryId { term: 3, index: 7 }));
    }
}
