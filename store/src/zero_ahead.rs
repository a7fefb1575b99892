//! Writes zeros into the blocks ahead of the log's end, so that syncing a frame written there later has no allocation
//! to record, and has the next segment ready before it is needed.
//!
//! On ext4 a sync over blocks that are allocated and were never written costs two to three times as much, because
//! each one commits the file system's journal. Zeros cost bandwidth once more, so they are written at a bounded pace:
//! a writer that outruns them goes on in blocks that are only allocated.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex};

use crate::commit_log::{CommitLog, FRAME_PAYLOAD_BYTES_MAX};
use crate::error::StoreError;

/// Never zero nearer than this to the log's end: more than the largest frame, so that no frame being written reaches
/// a chunk chosen at the same time.
const MARGIN_BYTES: u64 = 2 * FRAME_PAYLOAD_BYTES_MAX as u64;
/// How far ahead to go.
const AHEAD_BYTES: u64 = 4 * MARGIN_BYTES;
/// How much at a time.
const CHUNK_BYTES: u64 = 1 << 20;
/// Segments smaller than this are only created ahead, not zeroed.
const SEGMENT_BYTES_MIN: u64 = AHEAD_BYTES;

const NOTHING: u64 = u64::MAX;

/// Which part ahead of the log's end is being zeroed.
#[derive(Debug)]
pub(crate) struct ZeroAhead {
    /// Where the chunk being zeroed starts, or [`NOTHING`].
    busy_from: AtomicU64,
    state: Mutex<State>,
    idle: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Zeroed up to here.
    done: u64,
    busy: bool,
}

impl Default for ZeroAhead {
    fn default() -> Self {
        Self { busy_from: AtomicU64::new(NOTHING), state: Mutex::default(), idle: Condvar::new() }
    }
}

impl ZeroAhead {
    /// Returns when nothing below `end` is being zeroed. Called by the writer before it writes up to there.
    pub(crate) fn wait_clear_of(&self, end: u64) {
        if end <= self.busy_from.load(Ordering::SeqCst) {
            return;
        }
        let mut state = self.state.lock();
        while state.busy {
            self.idle.wait(&mut state);
        }
    }

    /// Prepares one more chunk if the log's end has come near enough. Returns whether it did something.
    pub(crate) fn step(&self, log: &CommitLog) -> Result<bool, StoreError> {
        let end = log.end();
        if log.segment_bytes < SEGMENT_BYTES_MIN {
            // Only have the next segment ready, and only once this one is half full.
            if end % log.segment_bytes >= log.segment_bytes / 2 {
                log.ensure_segment(end + log.segment_bytes)?;
            }
            return Ok(false);
        }
        let Some((from, to)) = self.choose(log, end) else { return Ok(false) };
        let zeroed = log.ensure_segment(from).and_then(|()| {
            let segment = log.segment_of(from)?;
            segment.file.write_zeros(from - segment.base, to - from).map_err(StoreError::io("zero", segment.file.path()))
        });
        let mut state = self.state.lock();
        state.busy = false;
        self.busy_from.store(NOTHING, Ordering::SeqCst);
        self.idle.notify_all();
        if zeroed.is_ok() {
            state.done = to;
        }
        zeroed.map(|()| true)
    }

    /// Picks the next chunk and marks it busy. It lies within one segment and starts at least the margin ahead.
    fn choose(&self, log: &CommitLog, end: u64) -> Option<(u64, u64)> {
        let mut state = self.state.lock();
        let from = state.done.max((end + MARGIN_BYTES).next_multiple_of(CHUNK_BYTES));
        if from >= end + AHEAD_BYTES {
            return None;
        }
        let segment_end = (from / log.segment_bytes + 1) * log.segment_bytes;
        state.busy = true;
        self.busy_from.store(from, Ordering::SeqCst);
        Some((from, (from + CHUNK_BYTES).min(segment_end)))
    }

    /// Zeros the stretch right behind the log's end, before anything is appended: the margin that [`Self::step`] never
    /// touches.
    pub(crate) fn start(&self, log: &CommitLog) -> Result<(), StoreError> {
        let end = log.end();
        if log.segment_bytes < SEGMENT_BYTES_MIN {
            return Ok(());
        }
        log.ensure_segment(end)?;
        let segment = log.segment_of(end)?;
        let from = end.next_multiple_of(4096);
        let to = (end + MARGIN_BYTES).next_multiple_of(CHUNK_BYTES).min(segment.end());
        if to > from {
            segment.file.write_zeros(from - segment.base, to - from).map_err(StoreError::io("zero", segment.file.path()))?;
            segment.file.sync().map_err(StoreError::io("sync", segment.file.path()))?;
        }
        self.state.lock().done = to;
        Ok(())
    }
}
