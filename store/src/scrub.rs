//! Checks the segments that a start does not read again, in the background, once.
//!
//! A start reads the end of the log, which is where an unclean stop leaves its traces. What lies before it was durable
//! long ago; if it has changed since, this finds it and the node stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crate::commit_log::CommitLog;
use crate::error::StoreError;
use crate::frame::FRAME_HEADER_BYTES;
use crate::recovery::FrameCheck;

/// Reads the log's old segments through.
pub(crate) struct Scrub {
    log: Arc<CommitLog>,
    /// The chain value before the log's first frame.
    seed: u32,
    /// Frames from here on were read at the start.
    end: u64,
    stop: AtomicBool,
    on_failure: Box<dyn Fn(String) + Send + Sync>,
}

impl Scrub {
    pub(crate) fn new(
        log: Arc<CommitLog>,
        seed: u32,
        end: u64,
        on_failure: Box<dyn Fn(String) + Send + Sync>,
    ) -> Self {
        Self { log, seed, end, stop: AtomicBool::new(false), on_failure }
    }

    pub(crate) fn spawn(self: &Arc<Self>) -> std::io::Result<JoinHandle<()>> {
        let scrub = self.clone();
        std::thread::Builder::new().name("raftmq-scrub".into()).spawn(move || {
            if let Err(e) = scrub.run() {
                tracing::error!("the log is damaged, the node stops: {e}");
                (scrub.on_failure)(e.to_string());
            }
        })
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn run(&self) -> Result<(), StoreError> {
        let mut frames = FrameCheck::new(self.log.start(), self.seed);
        while frames.at < self.end && !self.stop.load(Ordering::Relaxed) {
            let segment = self.log.segments.of(frames.at)?;
            let rest = &segment.file.bytes()[(frames.at - segment.base) as usize..];
            if rest.len() < FRAME_HEADER_BYTES {
                frames.at = segment.end();
                continue;
            }
            let at = frames.at;
            if let Err(what) = frames.next(rest) {
                // Unless a truncation has reached this far in the meantime.
                return if at >= self.log.end() { Ok(()) } else { Err(segment.corrupt(at, what)) };
            }
        }
        Ok(())
    }
}
