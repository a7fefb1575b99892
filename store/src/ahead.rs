//! Prepares the log ahead of its end, chunk after chunk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use raftmq_world::{Next, Step};

use crate::commit_log::CommitLog;

/// Pause between two chunks of a megabyte: bounds the preparation to some 100 MB/s.
const PAUSE: Duration = Duration::from_millis(10);
/// Pause when there is nothing to do. At 1 GB/s the log grows by a quarter of the prepared stretch in it.
const IDLE_PAUSE: Duration = Duration::from_millis(15);
/// Pause after a failure.
const FAILED_PAUSE: Duration = Duration::from_secs(1);

/// Prepares chunk after chunk.
pub(crate) struct AheadStep {
    pub(crate) log: Arc<CommitLog>,
    pub(crate) stop: Arc<AtomicBool>,
}

impl Step for AheadStep {
    fn step(&mut self) -> Next {
        if self.stop.load(Ordering::Relaxed) {
            return Next::End;
        }
        match self.log.zero_ahead.step(&self.log.segments, || self.log.end()) {
            Ok(true) => Next::WaitFor(PAUSE),
            Ok(false) => Next::WaitFor(IDLE_PAUSE),
            Err(e) => {
                // The writer meets the same trouble when it gets there, and fails with it.
                tracing::warn!("cannot prepare the log ahead: {e}");
                Next::WaitFor(FAILED_PAUSE)
            }
        }
    }
}
