//! Reads the log through in the background, round after round, and puts in place what another member has where it is broken.
//!
//! A start reads what may not have been durable, which is where an unclean stop leaves its traces. What lies before may have
//! changed since all the same. A round reads everything that is committed, at a bounded pace; the first one begins at once,
//! as readers check what it has not come to themselves ([`crate::damage`]). Where they meet something broken that segment is
//! read first. A frame that is broken is a spot; what lies behind it is read on from the next segment's start.
//!
//! What is offered for a spot goes in where it continues the frame before it and what is behind it continues it. *Invariant
//! 3* stands: what was written there is written there again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use raftmq_world::{Clock, Next, Step};

use crate::commit_log::CommitLog;
use crate::damage::Offer;
use crate::error::StoreError;
use crate::frame::{FRAME_HEADER_BYTES, decode_frame};
use crate::frame_reader::FrameReader;
use crate::recovery::{Broken, FrameCheck};
use crate::reput::Reput;
use crate::segment::Segment;
use crate::worker::Report;

/// How much of the log a step reads, give or take a frame.
const STEP_BYTES: u64 = 1 << 20;
/// How long a step of a round takes at least: 128 MiB a second. What readers wait for is read as fast as it can be.
const STEP_TIME: Duration = Duration::from_micros(7_812);
/// How often it looks whether more is committed, in the first round.
const WAIT: Duration = Duration::from_secs(1);
/// A round begins so long after the one before, or when that has ended.
const ROUND_INTERVAL: Duration = Duration::from_secs(7 * 24 * 3600);

/// Reads the log through.
pub(crate) struct ScrubStep {
    log: Arc<CommitLog>,
    reput: Arc<Reput>,
    clock: Arc<dyn Clock>,
    reader: FrameReader,
    round: Round,
    /// What is read before the round goes on: segments that readers doubt, and what is behind a spot that was mended.
    first: VecDeque<(Arc<Segment>, FrameCheck)>,
    /// How the log goes on up to each spot.
    spots: BTreeMap<u64, FrameCheck>,
    stop: Arc<AtomicBool>,
    on_failure: Report,
}

/// Once through the log.
struct Round {
    frames: FrameCheck,
    /// Up to where it goes.
    end: u64,
    /// Whether it is the first since the start.
    is_first: bool,
    began: Duration,
    /// When it goes on at the earliest.
    next: Duration,
}

/// How reading on has ended.
enum Read {
    /// There is more.
    Some,
    /// The place to come to is reached.
    All,
    /// A frame is broken.
    Broken(StoreError),
}

impl ScrubStep {
    /// `seed` is the chain value before the log's first frame.
    pub(crate) fn new(
        log: Arc<CommitLog>,
        reput: Arc<Reput>,
        clock: Arc<dyn Clock>,
        (seed, end): (u32, u64),
        stop: Arc<AtomicBool>,
        on_failure: Report,
    ) -> Self {
        let (began, frames) = (clock.passed(), FrameCheck::new(log.start(), seed));
        let round = Round { frames, end, is_first: true, began, next: began };
        let reader = FrameReader::default();
        let (first, spots) = (VecDeque::new(), BTreeMap::new());
        Self { log, reput, clock, reader, round, first, spots, stop, on_failure }
    }

    fn go_on(&mut self) -> Result<Next, StoreError> {
        if let Some(offer) = self.log.damage.take_offer() {
            let Offer { physical_offset, frames, callback } = offer;
            let (told, failed) = match self.mend(physical_offset, &frames) {
                // A disk that does not take it back: another time, or another disk.
                Err(e @ (StoreError::Illegal(_) | StoreError::Io { doing: "write", .. })) => (Err(e), None),
                Err(e) => (Err(StoreError::Stopped(e.to_string())), Some(e)),
                Ok(()) => (Ok(()), None),
            };
            callback(told);
            return failed.map_or(Ok(Next::Again), Err);
        }
        if self.first.is_empty()
            && let Some(segment) = self.log.damage.next_suspect()
        {
            self.first.push_back((self.log.segments.of(segment)?, FrameCheck::entering(segment)));
        }
        match self.first.pop_front() {
            Some((segment, frames)) => self.read_first(segment, frames),
            None => self.read_round(),
        }
    }

    /// Reads on where somebody waits for it.
    fn read_first(&mut self, segment: Arc<Segment>, mut frames: FrameCheck) -> Result<Next, StoreError> {
        let committed = self.reput.committed();
        match read_on(&self.log, &mut self.reader, &mut frames, segment.end().min(committed))? {
            Read::Some => self.first.push_front((segment, frames)),
            Read::All if !self.log.damage.seems_whole(segment.base) => {
                let what = "it was found broken again and again, and is whole";
                return Err(segment.corrupt(segment.base, what.to_owned()));
            }
            Read::All => {}
            Read::Broken(what) => self.note_spot(&segment, frames, &what),
        }
        Ok(Next::Again)
    }

    fn read_round(&mut self) -> Result<Next, StoreError> {
        let now = self.clock.passed();
        let round = &mut self.round;
        if round.frames.at >= round.end {
            return Ok(self.begin_another(now));
        }
        if now < round.next {
            return Ok(Next::WaitFor(round.next - now));
        }
        let committed = round.end.min(self.reput.committed());
        if round.frames.at >= committed {
            return Ok(Next::WaitFor(WAIT));
        }
        let from = round.frames.at;
        let read = read_on(&self.log, &mut self.reader, &mut round.frames, committed)?;
        round.next = now + STEP_TIME;
        if let Read::Broken(what) = read {
            let segment = self.log.segments.of(round.frames.at)?;
            let broken = std::mem::replace(&mut round.frames, FrameCheck::entering(segment.end()));
            self.note_spot(&segment, broken, &what);
        }
        let round = &self.round;
        if round.is_first && round.frames.at > from {
            self.log.damage.read_below(round.frames.at);
        }
        Ok(Next::Again)
    }

    /// The round has ended: begins the next one, or says when.
    fn begin_another(&mut self, now: Duration) -> Next {
        let round = &mut self.round;
        if std::mem::take(&mut round.is_first) {
            self.log.damage.read_below(round.end);
        }
        let due = round.began + ROUND_INTERVAL;
        if now < due {
            return Next::WaitFor(due - now);
        }
        (round.began, round.next) = (now, now);
        (round.frames, round.end) =
            (FrameCheck::new(self.log.start(), self.log.seed), self.reput.committed());
        Next::Again
    }

    fn note_spot(&mut self, segment: &Segment, frames: FrameCheck, what: &StoreError) {
        let at = frames.at;
        self.spots.insert(at, frames);
        self.log.damage.found(segment.base, at, what.to_string());
    }

    /// Puts frames in the place of what is broken at a spot, as many as are needed. Where there are too few, the spot moves
    /// behind them.
    ///
    /// # Errors
    /// [`StoreError::Illegal`] where they do not belong there. A write that the disk refused changes nothing. Everything else
    /// stops the node.
    fn mend(&mut self, spot: u64, mut offered: &[u8]) -> Result<(), StoreError> {
        let Some(mut frames) = self.spots.get(&spot).cloned() else { return Ok(()) };
        let segment = self.log.segments.of(spot)?;
        let wrong = |what: String| {
            StoreError::Illegal(format!(
                "what another member has at physical offset {spot} does not fit: {what}"
            ))
        };
        loop {
            let left = (segment.end() - frames.at) as usize;
            let goes_on = left < FRAME_HEADER_BYTES || frames.at >= self.reput.committed() || {
                self.reader.forget();
                self.reader.frame(&segment, frames.at).is_ok_and(|own| frames.clone().next(own, left).is_ok())
            };
            if goes_on || offered.is_empty() {
                break self.end_mending(segment, spot, frames, goes_on);
            }
            let (at, mut behind) = (frames.at, frames.clone());
            let (header, checksum) = behind.next(offered, left).map_err(|broken| wrong(broken.what()))?;
            let (frame, rest) = offered.split_at(header.frame_len());
            self.check_continues(&segment, &behind, checksum)?;
            let position = at - segment.base;
            segment.file.write_at(position, frame).map_err(StoreError::io("write", segment.file.path()))?;
            (frames, offered) = (behind, rest);
        }
    }

    /// Where the frame behind is whole by itself it has to continue what is to be put before it: both were committed.
    fn check_continues(
        &mut self,
        segment: &Segment,
        frames: &FrameCheck,
        checksum: u32,
    ) -> Result<(), StoreError> {
        let at = frames.at;
        if (segment.end() - at) < FRAME_HEADER_BYTES as u64 || at >= self.reput.committed() {
            return Ok(());
        }
        let Ok(own) = self.reader.frame(segment, at) else { return Ok(()) };
        match decode_frame(own) {
            Ok((header, ..)) if header.physical_offset == at && header.chain != checksum => {
                Err(StoreError::Divergence(format!(
                    "another member's frame before physical offset {at} has checksum {checksum:08x}, and what is there \
                     stands behind {:08x}",
                    header.chain
                )))
            }
            _ => Ok(()),
        }
    }

    fn end_mending(
        &mut self,
        segment: Arc<Segment>,
        spot: u64,
        frames: FrameCheck,
        goes_on: bool,
    ) -> Result<(), StoreError> {
        if frames.at == spot && !goes_on {
            return Err(StoreError::Illegal(format!("nothing was offered for physical offset {spot}")));
        }
        segment.file.sync().map_err(StoreError::io("sync", segment.file.path()))?;
        self.reader.forget();
        self.spots.remove(&spot);
        if goes_on {
            tracing::info!(physical_offset = spot, until = frames.at, "the log is mended here");
            self.first.push_front((segment, frames));
        } else {
            let what = segment.corrupt(frames.at, "broken, as is what stood before it".into());
            self.note_spot(&segment, frames, &what);
        }
        self.log.damage.gone(spot);
        Ok(())
    }
}

/// Reads frames up to a place, some of them.
///
/// # Errors
/// What is there was written as it stands, and must not stand there.
fn read_on(
    log: &CommitLog,
    reader: &mut FrameReader,
    frames: &mut FrameCheck,
    end: u64,
) -> Result<Read, StoreError> {
    let enough = end.min(frames.at + STEP_BYTES);
    while frames.at < enough {
        let segment = log.segments.of(frames.at)?;
        let (at, left) = (frames.at, (segment.end() - frames.at) as usize);
        if left < FRAME_HEADER_BYTES {
            frames.at = segment.end();
            continue;
        }
        let checked = reader.frame(&segment, at).map(|bytes| frames.next(bytes, left));
        match checked {
            Ok(Ok(_)) => {}
            // It may have been read before it was written as it is now.
            _ if reader.forget() => {}
            Ok(Err(Broken::Torn(what))) => return Ok(Read::Broken(segment.corrupt(at, what))),
            Ok(Err(Broken::Wrong(what))) => return Err(segment.corrupt(at, what)),
            Err(e) => return Ok(Read::Broken(e)),
        }
    }
    Ok(if frames.at >= end { Read::All } else { Read::Some })
}

impl Step for ScrubStep {
    fn step(&mut self) -> Next {
        if self.stop.load(Ordering::Relaxed) {
            while let Some(Offer { callback, .. }) = self.log.damage.take_offer() {
                callback(Err(StoreError::Stopped("it was closed".into())));
            }
            return Next::End;
        }
        self.go_on().unwrap_or_else(|e| {
            tracing::error!("the log is damaged, the node stops: {e}");
            (self.on_failure)(e.to_string());
            Next::End
        })
    }
}
