//! Writes zeros into the blocks ahead of the log's end, so that syncing a frame written there later has no allocation
//! to record, and has the next segment ready before it is needed.
//!
//! On ext4 a sync over blocks that are allocated and were never written costs two to three times as much, because
//! each one also records that they are written now. Zeros cost bandwidth once more, so they are written at a bounded pace,
//! and not at all while the log grows fast: then the disk is better used for the log, and a sync serves so many
//! messages that its own cost matters little. Such a writer goes on in blocks that are only allocated.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::error::StoreError;
use crate::frame::{FRAME_HEADER_BYTES, FRAME_PAYLOAD_BYTES_MAX};
use crate::segment::Segments;

/// Never zero nearer than this to the log's end. A frame being written ends behind the log's end by less than twice
/// its length (it may skip the rest of a segment that it did not fit in), so it never reaches a chunk this far ahead.
const MARGIN_BYTES: u64 = 2 * (FRAME_PAYLOAD_BYTES_MAX + FRAME_HEADER_BYTES) as u64;
/// How far ahead to go.
const AHEAD_BYTES: u64 = 4 * MARGIN_BYTES;
/// How much at a time.
const CHUNK_BYTES: u64 = 1 << 20;
/// Segments smaller than this are only created ahead, not zeroed.
const SEGMENT_BYTES_MIN: u64 = AHEAD_BYTES;

/// Above this growth between two steps, on average, nothing is zeroed. Steps are 10 to 15 ms apart, so this is some
/// 30 MB/s.
const GROWTH_BYTES_MAX: u64 = CHUNK_BYTES / 3;
/// Steps that the average goes over.
const GROWTH_STEPS: u64 = 16;

const NOTHING: u64 = u64::MAX;

/// Which part ahead of the log's end is being zeroed.
#[derive(Debug)]
pub(crate) struct ZeroAhead {
    /// Where the chunk being zeroed starts, or [`NOTHING`].
    busy_from: AtomicU64,
    /// Held while a chunk is zeroed.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Zeroed up to here.
    done: u64,
    /// The log's end at the last step.
    seen: u64,
    /// Its growth between two steps on average, times [`GROWTH_STEPS`].
    growth: u64,
}

impl State {
    /// Notes how far the log has come, and whether it grows too fast for zeros to be worth it.
    fn grows_fast(&mut self, end: u64) -> bool {
        let grown = end.saturating_sub(self.seen);
        self.seen = end;
        self.growth = self.growth - self.growth / GROWTH_STEPS + grown;
        self.growth > GROWTH_BYTES_MAX * GROWTH_STEPS
    }
}

impl Default for ZeroAhead {
    fn default() -> Self {
        Self { busy_from: AtomicU64::new(NOTHING), state: Mutex::default() }
    }
}

impl ZeroAhead {
    /// Returns when nothing below `end` is being zeroed. Called by the writer before it writes up to there.
    pub(crate) fn wait_clear_of(&self, end: u64) {
        if end > self.busy_from.load(Ordering::SeqCst) {
            drop(self.state.lock());
        }
    }

    /// Prepares one more chunk if the log's end, which `end` tells, has come near enough, in another segment where that may be
    /// made. Returns whether it did something.
    pub(crate) fn step(
        &self,
        segments: &Segments,
        may_make: bool,
        end: impl Fn() -> u64,
    ) -> Result<bool, StoreError> {
        if segments.segment_bytes() < SEGMENT_BYTES_MIN {
            // Only have the next segment ready, and only once this one is half full.
            let end = end();
            if end % segments.segment_bytes() >= segments.segment_bytes() / 2 {
                segments.ensure_if(may_make, end + segments.segment_bytes())?;
            }
            return Ok(false);
        }
        let mut state = self.state.lock();
        let Some((from, to)) = self.choose(&mut state, segments, &end) else {
            drop(state);
            segments.ensure_if(may_make, end() + MARGIN_BYTES)?;
            return Ok(false);
        };
        let zeroed = segments.ensure_if(may_make, from).and_then(|is_there| {
            if is_there {
                let segment = segments.of(from)?;
                let zeroed = segment.file.write_zeros(from - segment.base, to - from);
                zeroed.map_err(StoreError::io("zero", segment.file.path()))?;
            }
            Ok(is_there)
        });
        self.busy_from.store(NOTHING, Ordering::SeqCst);
        if matches!(zeroed, Ok(true)) {
            state.done = to;
        }
        zeroed
    }

    /// Picks the next chunk and marks it busy. It lies within one segment and starts at least the margin ahead.
    fn choose(&self, state: &mut State, segments: &Segments, now: impl Fn() -> u64) -> Option<(u64, u64)> {
        let end = now();
        let from = state.done.max((end + MARGIN_BYTES).next_multiple_of(CHUNK_BYTES));
        if state.grows_fast(end) || from >= end + AHEAD_BYTES {
            return None;
        }
        self.busy_from.store(from, Ordering::SeqCst);
        // The log may have grown up to here in the meantime. The writer looks at `busy_from` after it has published
        // an end; this looks at the end after it has published `busy_from`: one of the two sees the other.
        if now() + MARGIN_BYTES > from {
            self.busy_from.store(NOTHING, Ordering::SeqCst);
            return None;
        }
        Some((from, (from + CHUNK_BYTES).min(segments.end_of(from))))
    }

    /// Zeros the stretch right behind the log's end, before anything is appended: the margin that [`Self::step`] never
    /// touches.
    pub(crate) fn start(&self, segments: &Segments, end: u64) -> Result<(), StoreError> {
        if segments.segment_bytes() < SEGMENT_BYTES_MIN {
            return Ok(());
        }
        let segment = segments.of(end)?;
        let from = end.next_multiple_of(4096);
        let to = (end + MARGIN_BYTES).next_multiple_of(CHUNK_BYTES).min(segment.end());
        if to > from {
            segment
                .file
                .write_zeros(from - segment.base, to - from)
                .map_err(StoreError::io("zero", segment.file.path()))?;
            segment.file.sync().map_err(StoreError::io("sync", segment.file.path()))?;
        }
        let mut state = self.state.lock();
        state.done = to;
        state.seen = end;
        Ok(())
    }
}
