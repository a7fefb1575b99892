//! Opens a CommitLog that may have been left at any moment.
//!
//! Frames are read from the last checkpoint of the views on, or from where the log was durable by the marks where there is none;
//! what lies below is read in the background ([`crate::scrub`]). A broken frame ends the log: it is erased, with everything
//! behind it. So does the end of what is there. A frame that is whole and continues the log, but holds what no append writes,
//! is corruption and stops the node; nothing has been changed then. A filler with no entry behind it goes too, as the next
//! entry may fit before it.
//!
//! A write that was torn has as a rule never been acknowledged. Where whole frames stand behind it nobody can tell: a machine
//! that lost power writes its pages in any order, and so does a disk that damages one of many frames that were durable. Below
//! the mark it was durable in any case. Up to where what is lost goes this member may have acknowledged, and that is marked
//! before anything is erased ([`Marks::doubt`]): the other members have it. Who is alone does not start then.

use std::path::Path;
use std::sync::Arc;

use crate::commit_log::CommitLog;
use crate::error::StoreError;
use crate::frame::{FRAME_HEADER_BYTES, FrameHeader, FrameKind, MAGIC, decode_frame};
use crate::frame_index::StartingPoint;
use crate::frame_reader::{FrameReader, header_at};
use crate::marks::{EntryId, LogEnd, Marks, MarksFile, Tail};
use crate::segment::{Segment, Segments};
use raftmq_world::{Disk, data_end};

/// What was noted of a log before.
pub(crate) struct Found<'a> {
    /// How it ended at the last checkpoint.
    pub(crate) checkpoint: Option<LogEnd>,
    /// What was marked, and now has to be.
    pub(crate) marks: &'a mut Marks,
    pub(crate) file: &'a mut MarksFile,
}

/// A log that was opened.
pub(crate) struct Recovered {
    pub(crate) log: CommitLog,
    /// Frames were read from here on.
    pub(crate) read_from: u64,
    /// Whether the store timestamp of the last message is known.
    pub(crate) knows_newest: bool,
}

/// Opens the log in `dir`, of segments of this length and with this chain value before its first frame.
pub(crate) fn open_log(
    disk: Arc<dyn Disk>,
    dir: &Path,
    (segment_bytes, seed): (u64, u32),
    Found { checkpoint, marks, file }: Found<'_>,
    is_alone: bool,
) -> Result<Recovered, StoreError> {
    if marks.flushed.tail.end == 0 {
        marks.flushed.tail.chain = seed;
    }
    let log = CommitLog::new(Segments::open(disk, dir, segment_bytes)?, seed);
    let durable = marks.flushed.tail;
    // Nothing was checkpointed before it was marked to be durable, but marks may be damaged.
    let checkpoint = checkpoint.filter(|checkpoint| checkpoint.tail.end <= durable.end);
    if checkpoint.is_none() {
        check_is_there(&log, durable)?;
    }
    let start = checkpoint.unwrap_or(marks.flushed);
    let Scan { tail, torn, frames, .. } = Scan::run(&log, start, durable)?;
    log.damage.set_checked_from(start.tail.end);
    log.set_recovered(tail, frames.newest_ms);
    let has_lost = tail.end < durable.end;
    if has_lost && is_alone {
        return Err(lost(&log, frames.at, torn, durable.end));
    }
    if !marks.clean || has_lost || torn.is_some() || frames.at > tail.end {
        let behind = last_whole_behind(&log, tail.end)?.max(durable.last.filter(|_| has_lost));
        if let Some(behind) = behind {
            tracing::warn!(
                physical_offset = tail.end,
                "the log is broken here, and has or had entries up to {behind:?} behind it: this member may have acknowledged them"
            );
            marks.doubt = marks.doubt.max(Some(behind)).filter(|doubt| Some(*doubt) > tail.last);
            if has_lost {
                marks.flushed = LogEnd { tail, last_ms: frames.newest_ms };
            }
            file.write_durably(Marks { clean: false, ..*marks })?;
        }
        erase_behind(&log, tail.end, torn)?;
        rewrite(&log, durable.end, tail.end)?;
    }
    log.segments.ensure(tail.end)?;
    log.zero_ahead.start(&log.segments, log.end())?;
    let knows_newest = checkpoint.is_some() || frames.newest_ms != 0;
    Ok(Recovered { log, read_from: start.tail.end, knows_newest })
}

/// The error for a log that ends before what was durable.
fn lost(log: &CommitLog, at: u64, torn: Option<String>, durable: u64) -> StoreError {
    let what =
        torn.unwrap_or_else(|| format!("the log ends here, and was durable up to physical offset {durable}"));
    match log.segments.of(at) {
        Ok(segment) => segment.corrupt(at, what),
        Err(_) => no_segment(log, at, what),
    }
}

fn no_segment(log: &CommitLog, at: u64, what: String) -> StoreError {
    StoreError::Corrupt { path: log.segments.dir().to_owned(), position: 0, physical_offset: at, what }
}

/// What is wrong with a frame.
pub(crate) enum Broken {
    /// It may be the torn end of a write.
    Torn(String),
    /// It was written as it stands and does not continue the log. No crash leaves that.
    Wrong(String),
}

impl Broken {
    pub(crate) fn what(self) -> String {
        match self {
            Self::Torn(what) | Self::Wrong(what) => what,
        }
    }
}

/// Checks that frames continue each other: *invariants 1, 2 and 6*, read back.
#[derive(Clone)]
pub(crate) struct FrameCheck {
    /// Where the next frame must stand.
    pub(crate) at: u64,
    /// The chain value that it must carry, where that is known.
    chain: Option<u32>,
    /// The last entry.
    last: Option<EntryId>,
    /// The store timestamp of the last message, in ms.
    newest_ms: i64,
    /// Bytes of the filler before, if there was one.
    filled: usize,
}

impl FrameCheck {
    pub(crate) fn new(at: u64, chain: u32) -> Self {
        Self { at, chain: Some(chain), last: None, newest_ms: 0, filled: 0 }
    }

    /// For the frames from a place on at which one begins, whatever stands before it.
    pub(crate) fn entering(at: u64) -> Self {
        Self { at, chain: None, last: None, newest_ms: 0, filled: 0 }
    }

    /// For the frames behind a part of the log.
    fn behind(LogEnd { tail, last_ms }: LogEnd) -> Self {
        Self { last: tail.last, newest_ms: last_ms, ..Self::new(tail.end, tail.chain) }
    }

    /// Checks the frame that `bytes` start with, and goes on behind it. Its segment has `left` bytes from there on, and those
    /// are the first of them.
    pub(crate) fn next(&mut self, bytes: &[u8], left: usize) -> Result<(FrameHeader, u32), Broken> {
        let (header, checksum, payload) = decode_frame(bytes).map_err(|e| Broken::Torn(e.to_string()))?;
        if header.physical_offset != self.at {
            let at = header.physical_offset;
            return Err(Broken::Torn(format!("a frame that says it stands at physical offset {at}")));
        }
        if let Some(expected) = self.chain.filter(|chain| *chain != header.chain) {
            let found = header.chain;
            return Err(Broken::Torn(format!(
                "a frame behind checksum {found:08x}; the frame before it has {expected:08x}"
            )));
        }
        let len = header.frame_len();
        if header.kind != FrameKind::Filler {
            self.entry(&header, payload).map_err(Broken::Wrong)?;
            if len <= self.filled {
                let filled = self.filled;
                return Err(Broken::Wrong(format!("a frame of {len} bytes behind a filler of {filled}")));
            }
            self.last = Some(EntryId { term: header.term, index: header.index });
            self.filled = 0;
        } else if len != left {
            return Err(Broken::Wrong(format!("a filler of {len} bytes with {left} left in the segment")));
        } else {
            self.filled = len;
        }
        self.chain = Some(checksum);
        self.at = header.end();
        Ok((header, checksum))
    }

    fn entry(&mut self, header: &FrameHeader, payload: &[u8]) -> Result<(), String> {
        let FrameHeader { term, index, .. } = *header;
        if self.last.is_some_and(|l| l.index.checked_add(1) != Some(index) || term < l.term) {
            return Err(format!("entry {index} of term {term} behind {:?}", self.last));
        }
        let mut records = 0;
        if header.kind == FrameKind::Messages {
            let mut at = header.physical_offset + header.records_at() as u64;
            for record in raftmq_message::RecordIter::new(&payload[header.command_len as usize..]) {
                let record = record.map_err(|e| e.to_string())?;
                let (says, stored_ms) = (record.physical_offset() as u64, record.store_timestamp_ms());
                if says != at {
                    return Err(format!("a record at physical offset {at} that says it stands at {says}"));
                }
                if stored_ms < self.newest_ms {
                    let newest_ms = self.newest_ms;
                    return Err(format!(
                        "a record at physical offset {at} with store timestamp {stored_ms}, behind {newest_ms}"
                    ));
                }
                self.newest_ms = stored_ms;
                at += record.total_size() as u64;
                records += 1;
            }
        }
        if records != header.records {
            return Err(format!("{records} records where {} were announced", header.records));
        }
        Ok(())
    }
}

/// Reads frames one after the other.
struct Scan<'a> {
    log: &'a CommitLog,
    /// Behind the last entry.
    tail: Tail,
    /// What is read next stands behind the tail, or behind the filler after it.
    frames: FrameCheck,
    reader: FrameReader,
    /// How the log ended by its marks: where it goes so far, it has that frame.
    durable: Tail,
    /// What stands there instead, if not zeros.
    torn: Option<String>,
}

impl<'a> Scan<'a> {
    fn run(log: &'a CommitLog, start: LogEnd, durable: Tail) -> Result<Self, StoreError> {
        note_old(log, start.tail)?;
        let (frames, reader) = (FrameCheck::behind(start), FrameReader::default());
        let mut scan = Self { log, tail: start.tail, frames, reader, durable, torn: None };
        while scan.step()? {}
        Ok(scan)
    }

    /// Reads one frame; `false` at the log's end.
    fn step(&mut self) -> Result<bool, StoreError> {
        let at = self.frames.at;
        let Ok(segment) = self.log.segments.of(at) else { return Ok(false) };
        let left = (segment.end() - at) as usize;
        if left < FRAME_HEADER_BYTES {
            self.frames.at = segment.end();
            return Ok(true);
        }
        let bytes = self.reader.frame(&segment, at)?;
        if bytes[..FRAME_HEADER_BYTES].iter().all(|b| *b == 0) {
            return Ok(false);
        }
        match self.frames.next(bytes, left) {
            Ok((header, checksum)) => {
                if header.kind != FrameKind::Filler {
                    let last = Some(EntryId { term: header.term, index: header.index });
                    let tail = Tail { last, at, chain: checksum, end: header.end() };
                    if at < self.durable.end && tail.end >= self.durable.end && tail != self.durable {
                        let marked = self.durable;
                        return Err(segment
                            .corrupt(at, format!("{tail:?} in the place of {marked:?}, which is marked")));
                    }
                    self.tail = tail;
                    self.log.frames.write().push(header.index, header.physical_offset);
                }
                Ok(true)
            }
            Err(Broken::Torn(what)) => {
                self.torn = Some(what);
                Ok(false)
            }
            Err(Broken::Wrong(what)) => Err(segment.corrupt(at, what)),
        }
    }
}

/// The last frame that is marked as durable has to be there, where nothing else tells how the log goes on behind it.
fn check_is_there(log: &CommitLog, Tail { last, at, chain, end }: Tail) -> Result<(), StoreError> {
    let Some(last) = last else { return Ok(()) };
    let what =
        format!("the log's last frame is not here, {last:?}, and it was durable up to physical offset {end}");
    let Ok(segment) = log.segments.of(at) else { return Err(no_segment(log, at, what)) };
    let header = header_at(&segment, at)?;
    let is_it = |header: &FrameHeader| {
        (header.term, header.index, header.end(), header.encode().1) == (last.term, last.index, end, chain)
    };
    if header.as_ref().is_some_and(is_it) { Ok(()) } else { Err(segment.corrupt(at, what)) }
}

/// Remembers where the part of the log that is not read now can be entered: at each segment, and at its last frame.
fn note_old(log: &CommitLog, Tail { last, at, end, .. }: Tail) -> Result<(), StoreError> {
    let Some(last) = last else { return Ok(()) };
    if end > log.segments.reach() {
        let what =
            format!("the log ends at physical offset {}, and was durable up to {end}", log.segments.reach());
        return Err(no_segment(log, at, what));
    }
    for segment in log.segments.list().iter().filter(|segment| segment.base < end) {
        note_first_frame(log, segment)?;
    }
    log.frames.write().begin_behind(StartingPoint { index: last.index, physical_offset: at });
    Ok(())
}

/// Remembers where a segment that is not read now begins, if that can be told: what is broken there is found later.
fn note_first_frame(log: &CommitLog, segment: &Segment) -> Result<(), StoreError> {
    let header = header_at(segment, segment.base)?;
    // A log begins with the first of all entries.
    let index = header.map(|header| header.index).or((segment.base == 0).then_some(0));
    if let Some(index) = index {
        log.frames.write().note_old(StartingPoint { index, physical_offset: segment.base });
    }
    Ok(())
}

/// The last entry behind the log's end of which the frame is whole.
fn last_whole_behind(log: &CommitLog, end: u64) -> Result<Option<EntryId>, StoreError> {
    let mut last_whole = None;
    for segment in log.segments.list().iter().filter(|segment| segment.end() > end) {
        let from = end.max(segment.base) - segment.base;
        last_whole = last_whole.max(last_whole_frame(segment, from)?);
    }
    Ok(last_whole)
}

/// Erases what stands behind the log's end, so that it can never be taken for entries later.
fn erase_behind(log: &CommitLog, end: u64, torn: Option<String>) -> Result<(), StoreError> {
    // Segments behind the end are made again when they are needed.
    log.segments.remove_from(log.segments.end_of(end))?;
    let Ok(segment) = log.segments.of(end) else { return Ok(()) };
    let dirty =
        data_end(&*segment.file, end - segment.base).map_err(StoreError::io("read", segment.file.path()))?;
    let Some(dirty_end) = dirty else { return Ok(()) };
    tracing::warn!(
        file = %segment.file.path().display(),
        physical_offset = end,
        "erasing the torn end of the log: {}",
        torn.unwrap_or_else(|| "bytes of an unfinished write".into())
    );
    log.erase(end, segment.base + dirty_end)
}

/// The last entry from `from` on in a segment of which the frame is whole, wherever it stands.
fn last_whole_frame(segment: &Segment, from: u64) -> Result<Option<EntryId>, StoreError> {
    const STEP: u64 = 64 * 1024;
    let file = &segment.file;
    let data_end = data_end(&**file, from).map_err(StoreError::io("read", file.path()))?.unwrap_or(from);
    let (mut at, mut last, mut reader, mut piece) = (from, None, FrameReader::default(), Vec::new());
    while at + (MAGIC.len() as u64) <= data_end {
        piece.resize(STEP.min(data_end - at) as usize, 0);
        file.read_at(at, &mut piece).map_err(StoreError::io_at("read", file.path(), at))?;
        let Some(found) = piece.windows(MAGIC.len()).position(|four| four == MAGIC) else {
            // A magic may lie across the piece's end.
            at += (piece.len() - (MAGIC.len() - 1)) as u64;
            continue;
        };
        at += found as u64;
        let Some(header) = header_at(segment, segment.base + at)? else {
            at += MAGIC.len() as u64;
            continue;
        };
        // What looks like a frame within its payload is a message's.
        let is_whole = decode_frame(reader.frame(segment, segment.base + at)?).is_ok();
        if is_whole && header.kind != FrameKind::Filler {
            last = last.max(Some(EntryId { term: header.term, index: header.index }));
        }
        at += header.frame_len() as u64;
    }
    Ok(last)
}

/// Writes what is not known to be durable once more, as it stands. After a sync that failed the kernel may hold pages
/// that differ from the medium and count as written; a sync alone would pass them over.
fn rewrite(log: &CommitLog, from: u64, to: u64) -> Result<(), StoreError> {
    const STEP: u64 = 1 << 20;
    let mut piece = vec![0; STEP as usize];
    for segment in log.segments.list().iter().filter(|s| s.end() > from && s.base < to) {
        let (file, end) = (&segment.file, to.min(segment.end()) - segment.base);
        let mut position = from.saturating_sub(segment.base);
        while position < end {
            let piece = &mut piece[..STEP.min(end - position) as usize];
            file.read_at(position, piece).map_err(StoreError::io_at("read", file.path(), position))?;
            file.write_at(position, piece).map_err(StoreError::io("write", file.path()))?;
            position += piece.len() as u64;
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use raftmq_message::record::patch_positions;
    use raftmq_world::OsDisk;

    use super::*;
    use crate::NewEntry;
    use crate::queue_offsets::tests::record;

    const SEGMENT: u64 = 64 * 1024;

    /// Opens a log, with marks that are kept elsewhere.
    pub(crate) fn open(dir: &Path, mut found: Marks) -> Result<CommitLog, StoreError> {
        let elsewhere = tempfile::tempdir().unwrap();
        let (mut file, _) =
            MarksFile::open(&OsDisk, &elsewhere.path().join("marks"), &elsewhere.path().join("log")).unwrap();
        let found = Found { checkpoint: None, marks: &mut found, file: &mut file };
        open_log(Arc::new(OsDisk), dir, (SEGMENT, 7), found, false).map(|recovered| recovered.log)
    }

    /// A new log with so many blanks of a term.
    pub(crate) fn log_of_blanks(dir: &Path, found: Marks, term: u64, count: u64) -> Arc<CommitLog> {
        let log = open(dir, found).unwrap();
        for index in 0..count {
            let (id, kind) = (EntryId { term, index }, FrameKind::Blank);
            let entry = NewEntry { id, kind, leader: 1, command: &[], pieces: &mut [], now_ms: 0 };
            log.append(entry, &mut Vec::new()).unwrap();
        }
        Arc::new(log)
    }

    /// A frame of two records with these physical offsets, relative to where they stand, and store timestamps.
    fn frame(index: u64, at: u64, chain: u32, records: [(u64, i64); 2]) -> (Vec<u8>, u32) {
        let mut payload = Vec::new();
        for (off, stored_ms) in records {
            let here = at + (FRAME_HEADER_BYTES + payload.len()) as u64;
            let mut record = record();
            patch_positions(&mut record, 0, here + off, stored_ms).unwrap();
            payload.extend(record);
        }
        let header = FrameHeader {
            kind: FrameKind::Messages,
            payload_len: payload.len() as u32,
            records: 2,
            command_len: 0,
            term: 1,
            index,
            physical_offset: at,
            leader: 1,
            chain,
            payload_checksum: crc32c::crc32c(&payload),
        };
        let (bytes, checksum) = header.encode();
        ([&bytes[..], &payload].concat(), checksum)
    }

    /// Checks a frame that ends its segment.
    fn next_of(check: &mut FrameCheck, frame: &[u8]) -> Result<(), Broken> {
        check.next(frame, frame.len()).map(drop)
    }

    #[test]
    fn a_whole_frame_that_no_append_writes_is_wrong() {
        let good = frame(0, 0, 7, [(0, 5), (0, 5)]);
        let end = good.0.len() as u64;
        let next = |records| {
            let mut check = FrameCheck::new(0, 7);
            next_of(&mut check, &good.0).ok().unwrap();
            next_of(&mut check, &frame(1, end, good.1, records).0)
        };
        assert!(next([(0, 5), (0, 6)]).is_ok());
        for records in [[(1, 5), (0, 6)], [(0, 5), (1, 6)], [(0, 4), (0, 6)], [(0, 6), (0, 5)]] {
            assert!(matches!(next(records), Err(Broken::Wrong(_))), "{records:?}");
        }
        // There was room for it before the filler.
        let filler = FrameHeader {
            kind: FrameKind::Filler,
            payload_len: good.0.len() as u32 - FRAME_HEADER_BYTES as u32,
            records: 0,
            physical_offset: 0,
            payload_checksum: 0,
            ..FrameHeader::decode(&good.0).unwrap().0
        };
        let mut check = FrameCheck::new(0, 7);
        let (mut bytes, chain) = (filler.encode().0.to_vec(), filler.encode().1);
        bytes.resize(filler.frame_len(), 0);
        next_of(&mut check, &bytes).ok().unwrap();
        let behind = frame(0, end, chain, [(0, 5), (0, 5)]);
        assert!(matches!(next_of(&mut check, &behind.0), Err(Broken::Wrong(_))));
    }

    #[test]
    fn a_start_does_not_take_a_wrong_frame_for_a_torn_one() {
        for (records, starts) in [([(0, 5), (0, 5)], true), ([(0, 5), (0, 4)], false)] {
            let dir = tempfile::tempdir().unwrap();
            let open = || open(dir.path(), Marks::default());
            let log = open().unwrap();
            log.segments.of(0).unwrap().file.write_at(0, &frame(0, 0, 7, records).0).unwrap();
            drop(log);
            match open() {
                Ok(log) => assert!(starts && log.last().is_some()),
                Err(e) => assert!(!starts && matches!(e, StoreError::Corrupt { .. }), "{e}"),
            }
        }
    }
}
