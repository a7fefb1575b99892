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

use parking_lot::{Condvar, Mutex};

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
    /// Index + 1 and term of the last entry known to be committed.
    committed: Mutex<Option<EntryId>>,
    state: Mutex<State>,
    work: Condvar,
    idle: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<FlushCallback>,
    /// A sync runs outside the lock.
    syncing: bool,
    failed: Option<String>,
    stop: bool,
}

impl std::fmt::Debug for Flusher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flusher").field("mode", &self.mode).field("flushed", &self.flushed).finish_non_exhaustive()
    }
}

impl Flusher {
    pub(crate) fn new(log: Arc<CommitLog>, marks: MarksFile, mode: FlushMode, committed: Option<EntryId>) -> Self {
        // What recovery found was read from the medium or from the page cache; sync it before counting on it.
        Self {
            log,
            marks,
            mode,
            flushed: AtomicU64::new(0),
            committed: Mutex::new(committed),
            state: Mutex::default(),
            work: Condvar::new(),
            idle: Condvar::new(),
        }
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
        if let Some(reason) = &state.failed {
            let error = io::Error::other(reason.clone());
            drop(state);
            callback(Err(error));
            return;
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
        let mut state = self.state.lock();
        while state.syncing {
            self.idle.wait(&mut state);
        }
        if let Some(reason) = &state.failed {
            return Err(StoreError::Illegal(reason.clone()));
        }
        self.flush_locked(&mut state)
    }

    fn flush_locked(&self, state: &mut State) -> Result<(), StoreError> {
        let waiting = std::mem::take(&mut state.waiting);
        let synced = self.sync(false);
        if let Err(e) = &synced {
            state.failed = Some(e.to_string());
        }
        call(waiting, &synced);
        synced
    }

    /// Runs `change`, which shortens the log to at most `new_end`, with everything before it flushed and no sync at
    /// the same time. The mark is lowered first: a crash in the middle must not look like corruption.
    pub(crate) fn shorten(&self, new_end: u64, change: impl FnOnce() -> Result<(), StoreError>) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        while state.syncing {
            self.idle.wait(&mut state);
        }
        self.flush_locked(&mut state)?;
        if new_end < self.flushed() {
            self.flushed.store(new_end, Ordering::Release);
            self.write_marks(false)?;
            self.marks.sync()?;
        }
        change()
    }

    /// Last flush and the mark of a clean stop. The thread ends.
    pub(crate) fn close(&self) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        state.stop = true;
        self.work.notify_all();
        while state.syncing {
            self.idle.wait(&mut state);
        }
        if let Some(reason) = &state.failed {
            return Err(StoreError::Illegal(reason.clone()));
        }
        let waiting = std::mem::take(&mut state.waiting);
        let synced = self.sync(true).and_then(|()| self.marks.sync());
        call(waiting, &synced);
        synced
    }

    fn sync(&self, clean: bool) -> Result<(), StoreError> {
        let end = self.log.end();
        self.log.sync(self.flushed(), end)?;
        self.flushed.store(end, Ordering::Release);
        self.write_marks(clean)
    }

    fn write_marks(&self, clean: bool) -> Result<(), StoreError> {
        self.marks.write(Marks { flushed: self.flushed(), committed: self.committed(), clean })
    }

    fn run(&self) {
        let mut state = self.state.lock();
        loop {
            match self.mode {
                FlushMode::Sync if state.waiting.is_empty() && !state.stop => self.work.wait(&mut state),
                FlushMode::Async if !state.stop => {
                    self.work.wait_for(&mut state, ASYNC_INTERVAL);
                }
                _ => {}
            }
            if state.stop || state.failed.is_some() {
                return;
            }
            if state.waiting.is_empty() && (self.mode == FlushMode::Sync || self.log.end() <= self.flushed()) {
                continue;
            }
            let waiting = std::mem::take(&mut state.waiting);
            state.syncing = true;
            let synced = parking_lot::MutexGuard::unlocked(&mut state, || {
                let synced = self.sync(false);
                call(waiting, &synced);
                synced
            });
            state.syncing = false;
            if let Err(e) = synced {
                tracing::error!("flush failed, the node stops: {e}");
                state.failed = Some(e.to_string());
            }
            self.idle.notify_all();
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
