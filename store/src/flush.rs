//! The flush thread: makes appended entries durable, many with one sync, and tells who waits for that.
//!
//! In `sync` mode an entry counts as stored when a sync that began after it was written has returned. In `async` mode
//! it counts at once, and a sync follows within [`ASYNC_INTERVAL`]. A sync that fails is final: every wait from then
//! on fails, because the kernel may have dropped the pages it could not write.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::commit_log::CommitLog;
use crate::error::StoreError;
use crate::marks::{EntryId, Marks, MarksFile};

/// How long an entry may stay in the page cache alone in `async` mode.
pub const ASYNC_INTERVAL: Duration = Duration::from_millis(200);

/// Called once, when an append is as durable as the mode asks, or failed. Must not block.
pub type FlushCallback = Box<dyn FnOnce(io::Result<()>) + Send>;

/// When an entry counts as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushMode {
    /// When it is on the medium.
    Sync,
    /// When it is in the page cache.
    Async,
}

pub(crate) struct Flusher {
    log: Arc<CommitLog>,
    marks: MarksFile,
    mode: FlushMode,
    flushed: AtomicU64,
    /// The last entry known to be committed.
    committed: Mutex<Option<EntryId>>,
    state: Mutex<State>,
    work: Condvar,
    idle: Condvar,
    on_failure: Box<dyn Fn(String) + Send + Sync>,
}

#[derive(Default)]
struct State {
    waiting: Vec<FlushCallback>,
    /// A sync runs outside the lock, or callbacks are told of one.
    syncing: bool,
    /// Why nothing becomes durable any more.
    stopped: Option<String>,
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
    /// `found` are the marks as of the last stop. What lies above their flushed mark is synced by
    /// [`begin`](Self::begin) before anybody counts on it.
    pub(crate) fn new(
        log: Arc<CommitLog>,
        marks: MarksFile,
        found: Marks,
        mode: FlushMode,
        on_failure: Box<dyn Fn(String) + Send + Sync>,
    ) -> Self {
        let committed = found.committed.zip(log.last()).map(|(committed, last)| committed.min(last));
        Self {
            flushed: AtomicU64::new(found.flushed.min(log.end())),
            log,
            marks,
            mode,
            committed: Mutex::new(committed),
            state: Mutex::default(),
            work: Condvar::new(),
            idle: Condvar::new(),
            on_failure,
        }
    }

    /// Makes what recovery found durable, and the fact that the log is in use: were the mark of a clean stop still
    /// there after a crash, the torn end of the log would not be looked for.
    pub(crate) fn begin(&self) -> Result<(), StoreError> {
        self.flush_now()?;
        self.marks.sync()
    }

    pub(crate) fn spawn(self: &Arc<Self>) -> io::Result<JoinHandle<()>> {
        let flusher = self.clone();
        std::thread::Builder::new().name("raftmq-flush".into()).spawn(move || flusher.run())
    }

    /// The log is durable below this physical offset.
    pub(crate) fn flushed(&self) -> u64 {
        self.flushed.load(Ordering::Acquire)
    }

    pub(crate) fn committed(&self) -> Option<EntryId> {
        *self.committed.lock()
    }

    /// Notes what is committed; written with the next marks.
    pub(crate) fn set_committed(&self, committed: Option<EntryId>) {
        let mut known = self.committed.lock();
        *known = committed.max(*known);
    }

    /// Something was appended; `callback` is told when it is stored.
    pub(crate) fn appended(&self, callback: FlushCallback) {
        let mut state = self.state.lock();
        if let Err(e) = state.check() {
            drop(state);
            return callback(Err(e.into()));
        }
        match self.mode {
            FlushMode::Sync => {
                state.waiting.push(callback);
                if !state.syncing {
                    self.work.notify_one();
                }
            }
            FlushMode::Async => {
                drop(state);
                callback(Ok(()));
            }
        }
    }

    /// Makes everything appended so far durable before it returns, whatever the mode. Waiting callbacks are called.
    pub(crate) fn flush_now(&self) -> Result<(), StoreError> {
        self.flush(&mut self.state.lock(), false)
    }

    /// One sync for all who wait. The lock is released meanwhile, so that appends go on; there is one sync at a time.
    fn flush(&self, state: &mut MutexGuard<'_, State>, clean: bool) -> Result<(), StoreError> {
        while state.syncing {
            self.idle.wait(state);
        }
        state.check()?;
        let mut waiting = std::mem::take(&mut state.waiting);
        state.syncing = true;
        let synced = MutexGuard::unlocked(state, || self.sync(clean));
        if let Err(e) = &synced {
            // From here on everybody is refused, and who came during the sync is told.
            state.stopped = Some(format!("a flush failed: {e}"));
            waiting.append(&mut state.waiting);
        }
        MutexGuard::unlocked(state, || {
            call(waiting, &synced);
            if let Err(e) = &synced {
                tracing::error!("flush failed, the node stops: {e}");
                (self.on_failure)(format!("flush: {e}"));
            }
        });
        state.syncing = false;
        self.idle.notify_all();
        if !state.waiting.is_empty() {
            self.work.notify_one();
        }
        synced
    }

    /// Runs `change`, which shortens the log to `new_end`, with everything before it flushed and no sync at the same
    /// time. The mark is lowered first: a crash in the middle must not look like corruption.
    pub(crate) fn shorten(
        &self,
        new_end: u64,
        change: impl FnOnce() -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        self.flush(&mut state, false)?;
        self.flushed.store(new_end.min(self.flushed()), Ordering::Release);
        let shortened = self.write_marks(false).and_then(|()| self.marks.sync()).and_then(|()| change());
        if let Err(e) = &shortened {
            state.stopped = Some(format!("a truncation failed: {e}"));
        }
        shortened
    }

    /// Last flush, and the mark of a clean stop where `clean`. The thread ends.
    pub(crate) fn close(&self, clean: bool) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        let mut closed = self.flush(&mut state, clean);
        // Who came during that sync.
        while closed.is_ok() && !state.waiting.is_empty() {
            closed = self.flush(&mut state, clean);
        }
        let closed = closed.and_then(|()| self.marks.sync());
        state.stopped.get_or_insert_with(|| "it was closed".to_owned());
        self.end(state);
        closed
    }

    /// Ends the thread without another flush.
    pub(crate) fn abandon(&self) {
        let mut state = self.state.lock();
        state.stopped.get_or_insert_with(|| "it was dropped".to_owned());
        self.end(state);
    }

    fn end(&self, mut state: MutexGuard<'_, State>) {
        let waiting = std::mem::take(&mut state.waiting);
        let stopped = state.check();
        self.work.notify_all();
        drop(state);
        call(waiting, &stopped);
    }

    fn sync(&self, clean: bool) -> Result<(), StoreError> {
        let end = self.log.end();
        self.log.segments.sync(self.flushed(), end)?;
        self.flushed.store(end, Ordering::Release);
        self.write_marks(clean)
    }

    fn write_marks(&self, clean: bool) -> Result<(), StoreError> {
        self.marks.write(Marks { flushed: self.flushed(), committed: self.committed(), clean })
    }

    fn run(&self) {
        let mut state = self.state.lock();
        loop {
            if state.stopped.is_some() {
                return;
            }
            if state.syncing {
                self.idle.wait(&mut state);
                continue;
            }
            match self.mode {
                FlushMode::Sync if state.waiting.is_empty() => {
                    self.work.wait(&mut state);
                    continue;
                }
                FlushMode::Sync => {}
                FlushMode::Async => {
                    self.work.wait_for(&mut state, ASYNC_INTERVAL);
                    if self.log.end() <= self.flushed() || state.stopped.is_some() {
                        continue;
                    }
                }
            }
            if self.flush(&mut state, false).is_err() {
                return;
            }
        }
    }
}

/// Tells everyone who waited. The newest first: who keeps a watermark then ignores the rest.
fn call(waiting: Vec<FlushCallback>, synced: &Result<(), StoreError>) {
    for callback in waiting.into_iter().rev() {
        callback(match synced {
            Ok(()) => Ok(()),
            Err(e) => Err(io::Error::other(e.to_string())),
        });
    }
}
