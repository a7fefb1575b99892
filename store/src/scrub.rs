//! Checks the segments that a start does not read again, in the background, once.
//!
//! A start reads the end of the log, which is where an unclean stop leaves its traces. What lies before it was durable
//! long ago; if it has changed since, this finds it and the node stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use raftmq_world::{Next, Step};

use crate::commit_log::CommitLog;
use crate::error::StoreError;
use crate::frame::FRAME_HEADER_BYTES;
use crate::frame_reader::FrameReader;
use crate::recovery::FrameCheck;
use crate::worker::Report;

/// How much of the log a step reads, give or take a frame.
const STEP_BYTES: u64 = 1 << 20;

/// Reads the log's old segments through.
pub(crate) struct ScrubStep {
    log: Arc<CommitLog>,
    frames: FrameCheck,
    reader: FrameReader,
    /// Frames from here on were read at the start.
    end: u64,
    stop: Arc<AtomicBool>,
    on_failure: Report,
}

impl ScrubStep {
    /// `seed` is the chain value before the log's first frame.
    pub(crate) fn new(
        log: Arc<CommitLog>,
        seed: u32,
        end: u64,
        stop: Arc<AtomicBool>,
        on_failure: Report,
    ) -> Self {
        let frames = FrameCheck::new(log.start(), seed);
        Self { frames, reader: FrameReader::default(), log, end, stop, on_failure }
    }

    fn read(&mut self) -> Result<Next, StoreError> {
        let frames = &mut self.frames;
        let enough = self.end.min(frames.at + STEP_BYTES);
        while frames.at < enough {
            let segment = self.log.segments.of(frames.at)?;
            let (at, left) = (frames.at, (segment.end() - frames.at) as usize);
            if left < FRAME_HEADER_BYTES {
                frames.at = segment.end();
                continue;
            }
            let bytes = self.reader.frame(&segment, at)?;
            if let Err(broken) = frames.next(bytes, left) {
                // Unless a truncation has reached this far in the meantime.
                return if at >= self.log.end() {
                    Ok(Next::End)
                } else {
                    Err(segment.corrupt(at, broken.what()))
                };
            }
        }
        Ok(if frames.at < self.end { Next::Again } else { Next::End })
    }
}

impl Step for ScrubStep {
    fn step(&mut self) -> Next {
        if self.stop.load(Ordering::Relaxed) {
            return Next::End;
        }
        self.read().unwrap_or_else(|e| {
            tracing::error!("the log is damaged, the node stops: {e}");
            (self.on_failure)(e.to_string());
            Next::End
        })
    }
}
