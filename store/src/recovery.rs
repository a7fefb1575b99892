//! Opens a CommitLog that may have been left at any moment.
//!
//! Frames are checked from the segment before the one that holds the flushed mark on. A broken frame below that mark
//! is corruption and stops the node. A broken frame above it is the torn end of writes that were never acknowledged:
//! it is erased, with everything behind it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::commit_log::{CommitLog, corrupt, segment_path};
use crate::disk::Disk;
use crate::error::StoreError;
use crate::frame::{FRAME_HEADER_BYTES, FrameHeader, FrameKind, decode_frame};
use crate::marks::{EntryId, Marks};
use crate::segment::Segment;

/// Opens the log in `dir`. `seed` is the chain value before the first frame.
pub(crate) fn open_log(
    disk: Arc<dyn Disk>,
    dir: &Path,
    segment_bytes: u64,
    seed: u32,
    marks: Marks,
) -> Result<CommitLog, StoreError> {
    let segments = open_segments(&*disk, dir, segment_bytes)?;
    let log = CommitLog::new(disk, dir, segment_bytes, seed, segments.clone());
    let first_checked = first_checked(&segments, marks.flushed);
    for segment in &segments[..first_checked] {
        note_first_frame(&log, segment)?;
    }
    let mut scan = Scan { log: &log, marks, last: None, end: 0, chain: seed, at: 0, torn: None };
    if let Some(first) = segments.get(first_checked) {
        scan.at = first.base;
        scan.end = first.base;
        // Behind segments that are not read again, the first frame's own chain value is taken for right.
        if first_checked > 0 || first.base > 0 {
            scan.chain = frame_in(first, first.base).map_or(seed, |(header, _)| header.chain);
        }
        while scan.step()? {}
    }
    if scan.at < marks.flushed {
        return Err(scan.lost_below_mark());
    }
    let (last, end, chain, torn) = (scan.last, scan.end, scan.chain, scan.torn.take());
    log.set_recovered(last, chain, end);
    if !marks.clean || torn.is_some() {
        erase_behind(&log, end, torn)?;
    }
    log.ensure_segment(end)?;
    log.zero_ahead.start(&log)?;
    Ok(log)
}

/// The position up to which the last segments are checked again at a start: the segment before the one that holds the
/// flushed mark.
fn first_checked(segments: &[Arc<Segment>], flushed: u64) -> usize {
    let holds_mark = segments.partition_point(|s| s.end() <= flushed);
    holds_mark.saturating_sub(1).min(segments.len().saturating_sub(1))
}

fn open_segments(disk: &dyn Disk, dir: &Path, segment_bytes: u64) -> Result<Vec<Arc<Segment>>, StoreError> {
    let mut segments: Vec<Arc<Segment>> = Vec::new();
    for path in disk.list(dir).map_err(StoreError::io("list", dir))? {
        if path.extension().is_some_and(|e| e == "new") {
            disk.remove(&path).map_err(StoreError::io("remove", &path))?;
            continue;
        }
        let base = base_of(&path)?;
        let file = disk.open(&path).map_err(StoreError::io("open", &path))?;
        let segment = Arc::new(Segment { file, base });
        let expected = segments.last().map_or(base, |s| s.end());
        if segment.file.len() != segment_bytes || base != expected || !base.is_multiple_of(segment_bytes) {
            return Err(corrupt(
                &segment,
                base,
                format!(
                    "a segment of {} bytes; expected {} of {segment_bytes} bytes",
                    segment.file.len(),
                    segment_path(dir, expected).display()
                ),
            ));
        }
        segments.push(segment);
    }
    Ok(segments)
}

fn base_of(path: &Path) -> Result<u64, StoreError> {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let digits = name.len() == 20 && name.bytes().all(|b| b.is_ascii_digit());
    name.parse().ok().filter(|_| digits).ok_or_else(|| {
        StoreError::Illegal(format!("{} is not a segment of the log: its name is not a physical offset", path.display()))
    })
}

/// The frame header at a place in a segment, if there is an intact one that says it stands there.
fn frame_in(segment: &Segment, physical_offset: u64) -> Option<(FrameHeader, u32)> {
    let position = (physical_offset - segment.base) as usize;
    FrameHeader::decode(segment.file.bytes().get(position..)?).ok().filter(|(h, _)| h.physical_offset == physical_offset)
}

/// Remembers where a segment that is not checked again begins.
fn note_first_frame(log: &CommitLog, segment: &Segment) -> Result<(), StoreError> {
    let Some((header, _)) = frame_in(segment, segment.base) else {
        return Err(corrupt(segment, segment.base, "a segment below the flushed mark has no frame at its start".into()));
    };
    log.frames.write().note_old(header.index, header.physical_offset);
    Ok(())
}

/// Reads frames one after the other.
struct Scan<'a> {
    log: &'a CommitLog,
    marks: Marks,
    last: Option<EntryId>,
    /// Behind the last entry. A filler behind it does not count: what follows may fit before it.
    end: u64,
    chain: u32,
    /// Where the next frame is looked for.
    at: u64,
    /// What stands there instead, if not zeros.
    torn: Option<String>,
}

impl Scan<'_> {
    /// Reads one frame; `false` at the log's end.
    fn step(&mut self) -> Result<bool, StoreError> {
        let Ok(segment) = self.log.segment_of(self.at) else { return Ok(false) };
        let position = (self.at - segment.base) as usize;
        let rest = &segment.file.bytes()[position..];
        if rest.len() < FRAME_HEADER_BYTES {
            self.at = segment.end();
            return Ok(true);
        }
        if rest[..FRAME_HEADER_BYTES].iter().all(|b| *b == 0) {
            return Ok(false);
        }
        match self.read(rest) {
            Ok(()) => Ok(true),
            Err(what) if self.at < self.marks.flushed => Err(corrupt(&segment, self.at, what)),
            Err(what) => {
                self.torn = Some(what);
                Ok(false)
            }
        }
    }

    fn read(&mut self, bytes: &[u8]) -> Result<(), String> {
        let (header, checksum, payload) = decode_frame(bytes).map_err(|e| e.to_string())?;
        if header.physical_offset != self.at {
            return Err(format!("a frame that says it stands at physical offset {}", header.physical_offset));
        }
        // A filler leaves the chain of entries where it was: it is dropped again if no entry follows it.
        let chain_here = self.chain_at();
        if header.chain != chain_here {
            return Err(format!("a frame behind checksum {:08x}; the frame before it has {chain_here:08x}", header.chain));
        }
        if header.kind == FrameKind::Filler {
            if header.frame_len() != bytes.len() {
                return Err(format!("a filler of {} bytes with {} left in the segment", header.frame_len(), bytes.len()));
            }
            self.at = header.end();
            return Ok(());
        }
        if self.last.is_some_and(|l| header.index != l.index + 1 || header.term < l.term) {
            return Err(format!("entry {} of term {} behind {:?}", header.index, header.term, self.last));
        }
        let found = RecordCount::of(header.kind, payload)?;
        if found != header.records {
            return Err(format!("{found} records where {} were announced", header.records));
        }
        self.log.frames.write().push(header.index, header.physical_offset);
        self.last = Some(EntryId { term: header.term, index: header.index });
        self.chain = checksum;
        self.at = header.end();
        self.end = self.at;
        Ok(())
    }

    /// The chain value that the frame at the scan's place must carry: of the filler right before it, if there is one.
    fn chain_at(&self) -> u32 {
        let left = self.log.segment_bytes - self.end % self.log.segment_bytes;
        let filler_before = self.at > self.end && left >= FRAME_HEADER_BYTES as u64;
        let filler = || self.log.segment_of(self.end).ok().and_then(|s| frame_in(&s, self.end));
        if filler_before { filler().map_or(self.chain, |(_, checksum)| checksum) } else { self.chain }
    }

    fn lost_below_mark(&self) -> StoreError {
        let (path, position) = match self.log.segment_of(self.at) {
            Ok(segment) => (segment.file.path().to_owned(), self.at - segment.base),
            Err(_) => (PathBuf::from(&self.log.dir), 0),
        };
        StoreError::Corrupt {
            path,
            position,
            physical_offset: self.at,
            what: format!("the log ends here, and it was durable up to physical offset {}", self.marks.flushed),
        }
    }
}

/// How many message records a payload holds.
struct RecordCount;

impl RecordCount {
    fn of(kind: FrameKind, payload: &[u8]) -> Result<u32, String> {
        if kind != FrameKind::Messages {
            return Ok(0);
        }
        let mut count = 0;
        for record in raftmq_message::RecordIter::new(payload) {
            record.map_err(|e| e.to_string())?;
            count += 1;
        }
        Ok(count)
    }
}

/// Erases what stands behind the log's end, so that it can never be taken for entries later.
fn erase_behind(log: &CommitLog, end: u64, torn: Option<String>) -> Result<(), StoreError> {
    let Ok(segment) = log.segment_of(end) else { return Ok(()) };
    let dirty_end = last_data(&segment, end - segment.base).map_err(StoreError::io("read", segment.file.path()))?;
    let later = log.segments().iter().any(|s| s.base > end && s.file.bytes()[..FRAME_HEADER_BYTES].iter().any(|b| *b != 0));
    if dirty_end.is_none() && !later {
        return Ok(());
    }
    tracing::warn!(
        file = %segment.file.path().display(),
        physical_offset = end,
        "erasing the torn end of the log: {}",
        torn.unwrap_or_else(|| "bytes of an unfinished write".into())
    );
    let to = dirty_end.map_or(end, |position| segment.base + position);
    log.erase(end, to)
}

/// Position behind the last byte at or behind `position` that is not zero.
fn last_data(segment: &Segment, position: u64) -> std::io::Result<Option<u64>> {
    const STEP: usize = 64 * 1024;
    let bytes = segment.file.bytes();
    let mut found = None;
    let mut at = position;
    while at < segment.file.len() {
        let Some(data) = segment.file.next_data(at)? else { break };
        let chunk_end = (data as usize + STEP).min(bytes.len());
        let chunk = &bytes[data as usize..chunk_end];
        if let Some(last) = chunk.iter().rposition(|b| *b != 0) {
            found = Some(data + last as u64 + 1);
        }
        at = chunk_end as u64;
    }
    Ok(found)
}
