//! The CommitLog: every entry of the group as a frame, in segments of fixed length.
//!
//! One writer at a time appends or truncates; readers need no lock beyond two short ones and get slices of the mapped
//! segments. It knows frames and message positions; it does not know Raft, commit rules, or when to sync.
//!
//! *Invariant 1*: layout is a pure function of the log's prefix. Where a frame goes depends on nothing but the bytes
//! before it and the group's segment length, fillers included: see [`CommitLog::make_room`], the only place that
//! decides.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::BytesMut;
use parking_lot::{Mutex, RwLock};

use crate::disk::Disk;
use crate::error::StoreError;
use crate::frame::{FRAME_HEADER_BYTES, FrameHeader, FrameKind, decode_frame};
use crate::frame_index::FrameIndex;
use crate::marks::EntryId;
use crate::queue_offsets::{Placed, QueueOffsets};
use crate::segment::{LogSlice, Segment};
use crate::zero_ahead::ZeroAhead;

/// The largest payload of a frame in bytes. Above a message at its limit of 4 MiB with all its properties, and small
/// enough that a follower can hold a few on their way.
pub const FRAME_PAYLOAD_BYTES_MAX: usize = 8 << 20;

/// An entry as the leader hands it over: not laid out yet.
#[derive(Debug)]
pub struct NewEntry<'a> {
    /// Term and index.
    pub id: EntryId,
    /// What the payload is.
    pub kind: FrameKind,
    /// This node; zero for an entry that founds the group.
    pub leader: u64,
    /// The payload in pieces. Message records are patched in place.
    pub pieces: &'a mut [BytesMut],
    /// The leader's clock, in ms since the epoch: the store timestamp of messages.
    pub now_ms: i64,
}

/// What an append did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Physical offset of the frame.
    pub start: u64,
    /// Physical offset behind it: the log's end now.
    pub end: u64,
}

/// An entry as it stands in the log.
#[derive(Clone, Debug)]
pub struct LogFrame {
    /// Its header.
    pub header: FrameHeader,
    /// The whole frame.
    pub bytes: LogSlice,
}

impl LogFrame {
    /// Term and index.
    pub fn id(&self) -> EntryId {
        EntryId { term: self.header.term, index: self.header.index }
    }

    /// The bytes behind the header.
    pub fn payload(&self) -> &[u8] {
        &self.bytes.as_ref()[FRAME_HEADER_BYTES..]
    }
}

/// The log.
#[derive(Debug)]
pub struct CommitLog {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) segment_bytes: u64,
    /// Chain value before the first frame.
    pub(crate) seed: u32,
    segments: RwLock<Vec<Arc<Segment>>>,
    pub(crate) frames: RwLock<FrameIndex>,
    writer: Mutex<Writer>,
    /// Physical offset behind the last frame; bytes below it are readable.
    end: AtomicU64,
    pub(crate) zero_ahead: ZeroAhead,
}

/// What the next append depends on.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) last: Option<EntryId>,
    pub(crate) chain: u32,
    pub(crate) offsets: QueueOffsets,
}

impl CommitLog {
    pub(crate) fn new(disk: Arc<dyn Disk>, dir: &Path, segment_bytes: u64, seed: u32, segments: Vec<Arc<Segment>>) -> Self {
        Self {
            disk,
            dir: dir.to_owned(),
            segment_bytes,
            seed,
            segments: RwLock::new(segments),
            frames: RwLock::default(),
            writer: Mutex::new(Writer { last: None, chain: seed, offsets: QueueOffsets::default() }),
            end: AtomicU64::new(0),
            zero_ahead: ZeroAhead::default(),
        }
    }

    /// Sets the state that recovery found.
    pub(crate) fn set_recovered(&self, last: Option<EntryId>, chain: u32, end: u64) {
        let mut writer = self.writer.lock();
        writer.last = last;
        writer.chain = chain;
        self.end.store(end, Ordering::Release);
    }

    pub(crate) fn with_offsets<T>(&self, f: impl FnOnce(&mut QueueOffsets) -> T) -> T {
        f(&mut self.writer.lock().offsets)
    }

    /// Physical offset of the first byte that is still there.
    pub fn start(&self) -> u64 {
        self.segments.read().first().map_or(0, |s| s.base)
    }

    /// Physical offset behind the last frame.
    pub fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// The last entry.
    pub fn last(&self) -> Option<EntryId> {
        self.writer.lock().last
    }

    /// The length of a segment in bytes.
    pub fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// The leader's append: lays the entry out behind the last frame. `placed` receives one place for each message.
    ///
    /// *Invariant 2*: positions are given here, the first moment at which the entry's index is known, and nowhere
    /// else.
    pub fn append(&self, entry: NewEntry<'_>, placed: &mut Vec<Placed>) -> Result<Appended, StoreError> {
        let mut writer = self.writer.lock();
        check_follows(writer.last, entry.id)?;
        let payload_len: usize = entry.pieces.iter().map(|p| p.len()).sum();
        self.check_size(payload_len)?;
        let physical_offset = self.make_room(&mut writer, FRAME_HEADER_BYTES + payload_len)?;

        let first_new = placed.len();
        let mut payload_checksum = 0;
        let mut at = physical_offset + FRAME_HEADER_BYTES as u64;
        for piece in entry.pieces.iter_mut() {
            if entry.kind == FrameKind::Messages {
                writer.offsets.place(piece, at, entry.now_ms, placed)?;
            }
            payload_checksum = crc32c::crc32c_append(payload_checksum, piece);
            at += piece.len() as u64;
        }
        let header = FrameHeader {
            kind: entry.kind,
            payload_len: payload_len as u32,
            records: (placed.len() - first_new) as u32,
            term: entry.id.term,
            index: entry.id.index,
            physical_offset,
            leader: entry.leader,
            chain: writer.chain,
            payload_checksum,
        };
        let (bytes, chain) = header.encode();
        let mut slices = Vec::with_capacity(1 + entry.pieces.len());
        slices.push(IoSlice::new(&bytes));
        slices.extend(entry.pieces.iter().map(|p| IoSlice::new(p)));
        self.write(&header, &slices)?;
        Ok(self.publish(&mut writer, &header, chain))
    }

    /// The follower's append: the same bytes at the same place, or an error that stops the node.
    ///
    /// `frame` is what the leader's log holds for the entry `id`.
    pub fn append_frame(&self, id: EntryId, frame: &[u8]) -> Result<Appended, StoreError> {
        let (header, checksum, payload) = decode_frame(frame)
            .map_err(|e| StoreError::Illegal(format!("entry {} of term {} was received broken: {e}", id.index, id.term)))?;
        if frame.len() != header.frame_len() || (header.term, header.index) != (id.term, id.index) {
            return Err(StoreError::Illegal(format!(
                "received {} bytes as entry {} of term {}, and they hold a frame of {} bytes for entry {} of term {}",
                frame.len(),
                id.index,
                id.term,
                header.frame_len(),
                header.index,
                header.term
            )));
        }
        let mut writer = self.writer.lock();
        check_follows(writer.last, id)?;
        self.check_size(payload.len())?;
        let physical_offset = self.make_room(&mut writer, frame.len())?;
        if header.physical_offset != physical_offset || header.chain != writer.chain {
            return Err(StoreError::Divergence(format!(
                "entry {} of term {} stands at physical offset {} behind checksum {:08x} in the leader's log; \
                 here it would stand at {physical_offset} behind {:08x}",
                id.index, id.term, header.physical_offset, header.chain, writer.chain
            )));
        }
        if header.kind == FrameKind::Messages {
            let records = writer.offsets.check(payload, physical_offset + FRAME_HEADER_BYTES as u64)?;
            if records != header.records {
                return Err(StoreError::Divergence(format!(
                    "entry {} announces {} records and holds {records}",
                    id.index, header.records
                )));
            }
        }
        self.write(&header, &[IoSlice::new(frame)])?;
        Ok(self.publish(&mut writer, &header, checksum))
    }

    fn check_size(&self, payload_len: usize) -> Result<(), StoreError> {
        let limit = FRAME_PAYLOAD_BYTES_MAX.min(self.segment_bytes as usize - FRAME_HEADER_BYTES);
        if payload_len > limit {
            return Err(StoreError::TooLarge { what: "an entry", size: payload_len as u64, limit: limit as u64 });
        }
        Ok(())
    }

    /// Where a frame of `frame_len` bytes goes: behind the last one if this segment has room for all of it, else at
    /// the start of the next segment, the rest of this one becoming a filler.
    fn make_room(&self, writer: &mut Writer, frame_len: usize) -> Result<u64, StoreError> {
        let end = self.end();
        let segment_end = self.segment_end_at(end);
        let left = segment_end - end;
        if left >= frame_len as u64 {
            self.ensure_segment(end)?;
            return Ok(end);
        }
        self.ensure_segment(segment_end)?;
        if left >= FRAME_HEADER_BYTES as u64 {
            let (bytes, chain) = filler(writer, end, left).encode();
            self.write_at(end, &[IoSlice::new(&bytes)])?;
            writer.chain = chain;
        }
        self.end.store(segment_end, Ordering::Release);
        Ok(segment_end)
    }

    /// End of the segment that a frame written at `end` would go into. At a boundary that is the next segment.
    fn segment_end_at(&self, end: u64) -> u64 {
        (end / self.segment_bytes + 1) * self.segment_bytes
    }

    /// Creates the segments up to the one that holds `physical_offset`, if they are not there yet.
    pub(crate) fn ensure_segment(&self, physical_offset: u64) -> Result<(), StoreError> {
        while self.segments.read().last().is_none_or(|s| s.end() <= physical_offset) {
            let mut segments = self.segments.write();
            let base = match segments.last() {
                Some(last) if last.end() > physical_offset => break,
                Some(last) => last.end(),
                None => physical_offset / self.segment_bytes * self.segment_bytes,
            };
            let path = segment_path(&self.dir, base);
            let file = self.disk.create(&path, self.segment_bytes).map_err(StoreError::io("create", &path))?;
            segments.push(Arc::new(Segment { file, base }));
        }
        Ok(())
    }

    fn write(&self, header: &FrameHeader, pieces: &[IoSlice<'_>]) -> Result<(), StoreError> {
        self.write_at(header.physical_offset, pieces)
    }

    fn write_at(&self, physical_offset: u64, pieces: &[IoSlice<'_>]) -> Result<(), StoreError> {
        let segment = self.segment_of(physical_offset)?;
        let len: usize = pieces.iter().map(|p| p.len()).sum();
        self.zero_ahead.wait_clear_of(physical_offset + len as u64);
        let written = match pieces {
            [one] => segment.file.write_at(physical_offset - segment.base, one),
            many => segment.file.write_vectored_at(physical_offset - segment.base, many),
        };
        written.map_err(StoreError::io("write", segment.file.path()))
    }

    fn publish(&self, writer: &mut Writer, header: &FrameHeader, chain: u32) -> Appended {
        let appended = Appended { start: header.physical_offset, end: header.end() };
        writer.last = Some(EntryId { term: header.term, index: header.index });
        writer.chain = chain;
        self.frames.write().push(header.index, header.physical_offset);
        self.end.store(appended.end, Ordering::Release);
        appended
    }

    /// Removes the entries behind `last` (all of them where it is `None`), durably: on return nothing of them can come
    /// back to life.
    ///
    /// *Invariant 3*: the caller says up to where entries are committed; nothing at or below that is removed.
    pub fn truncate_after(&self, last: Option<u64>, committed: Option<EntryId>) -> Result<(), StoreError> {
        let mut writer = self.writer.lock();
        if committed.is_some_and(|c| last.is_none_or(|last| last < c.index)) {
            return Err(StoreError::Divergence(format!(
                "asked to truncate the log after {last:?}, and it is committed up to {committed:?}"
            )));
        }
        let first_removed = last.map_or(0, |last| last + 1);
        let Some(old_last) = writer.last.filter(|l| l.index >= first_removed) else { return Ok(()) };
        let kept = match last {
            Some(index) => Some(self.frame(index)?.ok_or_else(|| {
                StoreError::Illegal(format!("asked to truncate after entry {index}, which is not in the log"))
            })?),
            None => None,
        };
        let first_there = self.first_index().unwrap_or(0);
        for index in (first_removed.max(first_there)..=old_last.index).rev() {
            if let Some(frame) = self.frame(index)?
                && frame.header.kind == FrameKind::Messages
            {
                writer.offsets.take_back(frame.payload())?;
            }
        }
        let old_end = self.end();
        let (new_end, chain) = match &kept {
            Some(frame) => (frame.header.end(), frame.header.encode().1),
            None => (self.start(), self.seed),
        };
        writer.last = kept.map(|frame| frame.id());
        writer.chain = chain;
        self.frames.write().truncate(first_removed);
        self.end.store(new_end, Ordering::Release);
        self.erase(new_end, old_end)
    }

    /// Makes everything from `from` on zero, durably. `to` is the end of what may have been written.
    pub(crate) fn erase(&self, from: u64, to: u64) -> Result<(), StoreError> {
        // Whole segments first, the last one first: what is left at any moment is a prefix of what was there.
        loop {
            let mut segments = self.segments.write();
            let Some(last) = segments.last().filter(|s| s.base >= from && segments.len() > 1).cloned() else { break };
            self.disk.remove(last.file.path()).map_err(StoreError::io("remove", last.file.path()))?;
            segments.pop();
        }
        let Ok(segment) = self.segment_of(from) else { return Ok(()) };
        let end = to.min(segment.end());
        if end > from {
            self.zero_ahead.wait_clear_of(u64::MAX);
            segment
                .file
                .write_zeros(from - segment.base, end - from)
                .map_err(StoreError::io("erase", segment.file.path()))?;
        }
        segment.file.sync().map_err(StoreError::io("sync", segment.file.path()))
    }

    /// Index of the first entry in the first segment.
    pub fn first_index(&self) -> Option<u64> {
        let start = self.start();
        (start < self.end()).then(|| self.header_at(start).ok().flatten().map(|h| h.index)).flatten()
    }

    /// The entry with this index, or `None` where the log does not hold it.
    pub fn frame(&self, index: u64) -> Result<Option<LogFrame>, StoreError> {
        let Some(from) = self.frames.read().find(index) else { return Ok(None) };
        let mut walk = self.walk(from.physical_offset);
        while let Some(frame) = walk.next()? {
            if frame.header.index == index {
                return Ok(Some(frame));
            }
            if frame.header.index > index {
                return Ok(None);
            }
            self.frames.write().note_old(frame.header.index, frame.header.physical_offset);
        }
        Ok(None)
    }

    /// Walks the entries from the frame at `physical_offset` on, fillers left out.
    pub fn walk(&self, physical_offset: u64) -> Walk<'_> {
        Walk { log: self, at: physical_offset }
    }

    /// The header at a frame's start; `None` at the log's end.
    fn header_at(&self, physical_offset: u64) -> Result<Option<FrameHeader>, StoreError> {
        if physical_offset >= self.end() {
            return Ok(None);
        }
        let segment = self.segment_of(physical_offset)?;
        let position = physical_offset - segment.base;
        let bytes = &segment.file.bytes()[position as usize..];
        match FrameHeader::decode(bytes) {
            Ok((header, _)) if header.physical_offset == physical_offset && header.frame_len() <= bytes.len() => {
                Ok(Some(header))
            }
            Ok((header, _)) => Err(corrupt(
                &segment,
                physical_offset,
                format!("a frame of {} bytes that says it stands at {}", header.frame_len(), header.physical_offset),
            )),
            Err(e) => Err(corrupt(&segment, physical_offset, e.to_string())),
        }
    }

    pub(crate) fn segment_of(&self, physical_offset: u64) -> Result<Arc<Segment>, StoreError> {
        let segments = self.segments.read();
        let found = segments.first().and_then(|first| {
            let at = physical_offset.checked_sub(first.base)? / self.segment_bytes;
            segments.get(usize::try_from(at).ok()?)
        });
        found.cloned().ok_or_else(|| {
            StoreError::Illegal(format!(
                "physical offset {physical_offset} is not within the log, which has {} segments from {} on",
                segments.len(),
                segments.first().map_or(0, |s| s.base)
            ))
        })
    }

    pub(crate) fn segments(&self) -> Vec<Arc<Segment>> {
        self.segments.read().clone()
    }

    /// Bytes of the log, or `None` where they do not lie within one segment below the log's end.
    pub fn slice(&self, physical_offset: u64, len: usize) -> Option<LogSlice> {
        if physical_offset.checked_add(len as u64)? > self.end() {
            return None;
        }
        LogSlice::new(self.segment_of(physical_offset).ok()?, physical_offset, len)
    }

    /// Makes durable what was written between two physical offsets.
    pub(crate) fn sync(&self, from: u64, to: u64) -> Result<(), StoreError> {
        for segment in self.segments().iter().filter(|s| s.end() > from && s.base < to) {
            segment.file.sync().map_err(StoreError::io("sync", segment.file.path()))?;
        }
        Ok(())
    }

    /// Prepares the blocks ahead of the log's end, one step; see [`ZeroAhead`]. Returns whether there may be more to
    /// do at once.
    pub(crate) fn prepare_ahead(&self) -> Result<bool, StoreError> {
        self.zero_ahead.step(self)
    }
}

/// A walk over the entries of a log, in order.
#[derive(Debug)]
pub struct Walk<'a> {
    log: &'a CommitLog,
    at: u64,
}

impl Walk<'_> {
    /// The next entry, or `None` at the log's end. Headers are checked, payloads are not.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<LogFrame>, StoreError> {
        loop {
            let segment_end = self.log.segment_end_at(self.at);
            if segment_end - self.at < FRAME_HEADER_BYTES as u64 {
                self.at = segment_end;
            }
            let Some(header) = self.log.header_at(self.at)? else { return Ok(None) };
            self.at = header.end();
            if header.kind == FrameKind::Filler {
                continue;
            }
            let segment = self.log.segment_of(header.physical_offset)?;
            let bytes = LogSlice::new(segment, header.physical_offset, header.frame_len()).ok_or_else(|| {
                StoreError::Illegal(format!("the frame at physical offset {} leaves its segment", header.physical_offset))
            })?;
            return Ok(Some(LogFrame { header, bytes }));
        }
    }

    /// Physical offset behind the entry returned last.
    pub fn position(&self) -> u64 {
        self.at
    }
}

/// The filler that ends a segment: `left` bytes from `end` on.
pub(crate) fn filler(writer: &Writer, end: u64, left: u64) -> FrameHeader {
    FrameHeader {
        kind: FrameKind::Filler,
        payload_len: (left - FRAME_HEADER_BYTES as u64) as u32,
        records: 0,
        term: writer.last.map_or(0, |l| l.term),
        index: writer.last.map_or(0, |l| l.index),
        physical_offset: end,
        leader: 0,
        chain: writer.chain,
        payload_checksum: 0,
    }
}

pub(crate) fn segment_path(dir: &Path, base: u64) -> PathBuf {
    dir.join(format!("{base:020}"))
}

pub(crate) fn corrupt(segment: &Segment, physical_offset: u64, what: String) -> StoreError {
    StoreError::Corrupt {
        path: segment.file.path().to_owned(),
        position: physical_offset - segment.base,
        physical_offset,
        what,
    }
}

/// Entries are consecutive and terms never fall.
fn check_follows(last: Option<EntryId>, id: EntryId) -> Result<(), StoreError> {
    match last {
        Some(last) if id.index != last.index + 1 || id.term < last.term => {
            Err(StoreError::Divergence(format!("entry {id:?} does not follow the last one, {last:?}")))
        }
        _ => Ok(()),
    }
}
