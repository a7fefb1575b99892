//! Checks the segments that a start does not read again, in the background, once.
//!
//! A start reads what may not have been durable, which is where an unclean stop leaves its traces. If what lies before has
//! changed since, this finds it and the node stops. It reads no further than the log is committed: the rest may be truncated
//! while it is read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use raftmq_world::{Next, Step};

use crate::commit_log::CommitLog;
use crate::error::StoreError;
use crate::frame::FRAME_HEADER_BYTES;
use crate::frame_reader::FrameReader;
use crate::recovery::FrameCheck;
use crate::reput::Reput;
use crate::worker::Report;

/// How much of the log a step reads, give or take a frame.
const STEP_BYTES: u64 = 1 << 20;
/// How often it looks whether more is committed.
const WAIT: Duration = Duration::from_secs(1);

/// Reads the log's old segments through.
pub(crate) struct ScrubStep {
    log: Arc<CommitLog>,
    reput: Arc<Reput>,
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
        reput: Arc<Reput>,
        seed: u32,
        end: u64,
        stop: Arc<AtomicBool>,
        on_failure: Report,
    ) -> Self {
        let (frames, reader) = (FrameCheck::new(log.start(), seed), FrameReader::default());
        Self { frames, reader, log, reput, end, stop, on_failure }
    }

    fn read(&mut self) -> Result<Next, StoreError> {
        let frames = &mut self.frames;
        let committed = self.end.min(self.reput.committed());
        let enough = committed.min(frames.at + STEP_BYTES);
        while frames.at < enough {
            let segment = self.log.segments.of(frames.at)?;
            let (at, left) = (frames.at, (segment.end() - frames.at) as usize);
            if left < FRAME_HEADER_BYTES {
                frames.at = segment.end();
                continue;
            }
            let bytes = self.reader.frame(&segment, at)?;
            frames.next(bytes, left).map_err(|broken| segment.corrupt(at, broken.what()))?;
        }
        Ok(match frames.at {
            at if at >= self.end => Next::End,
            at if at >= committed => Next::WaitFor(WAIT),
            _ => Next::Again,
        })
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
