//! Prepares the log ahead of its end, chunk after chunk, and looks whether the disk has room for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use raftmq_world::{Next, Step};

use crate::commit_log::CommitLog;
use crate::room::{LogSpace, Room};

/// Pause between two chunks of a megabyte: bounds the preparation to some 100 MB/s.
const PAUSE: Duration = Duration::from_millis(10);
/// Pause when there is nothing to do. At 1 GB/s the log grows by a quarter of the prepared stretch in it.
const IDLE_PAUSE: Duration = Duration::from_millis(15);
/// Steps that nothing is prepared in after a failure: some second.
const FAILED_STEPS: u32 = 64;

/// Prepares chunk after chunk.
pub(crate) struct AheadStep {
    log: Arc<CommitLog>,
    room: Arc<Room>,
    stop: Arc<AtomicBool>,
    /// The last time that something was to be prepared it failed.
    has_failed: bool,
    /// Steps until it is tried again.
    resting: u32,
}

impl AheadStep {
    pub(crate) fn new(log: Arc<CommitLog>, room: Arc<Room>, stop: Arc<AtomicBool>) -> Self {
        Self { log, room, stop, has_failed: false, resting: 0 }
    }

    /// Looks how much room there is. Says whether another segment may be made ahead of need.
    pub(crate) fn look(&self) -> bool {
        self.room.look(LogSpace {
            ahead: self.log.ahead(),
            segment: self.log.segments.segment_bytes(),
            may_make: !self.has_failed,
        })
    }
}

impl Step for AheadStep {
    fn step(&mut self) -> Next {
        if self.stop.load(Ordering::Relaxed) {
            return Next::End;
        }
        let may_make = self.look();
        if self.resting > 0 {
            self.resting -= 1;
            return Next::WaitFor(IDLE_PAUSE);
        }
        let prepared = self.log.zero_ahead.step(&self.log.segments, may_make, || self.log.end());
        self.has_failed = prepared.is_err();
        match prepared {
            Ok(true) => Next::WaitFor(PAUSE),
            Ok(false) => Next::WaitFor(IDLE_PAUSE),
            Err(e) => {
                // Where it cannot be helped the writer meets the same trouble when it gets there, and fails with it.
                tracing::warn!("cannot prepare the log ahead: {e}");
                self.resting = FAILED_STEPS;
                Next::WaitFor(IDLE_PAUSE)
            }
        }
    }
}
