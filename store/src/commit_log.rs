//! The CommitLog: every entry of the group as a frame, in segments of fixed length.
//!
//! One writer at a time appends or truncates; readers need no lock beyond two short ones and get slices of the mapped
//! segments. It knows frames and message positions; it does not know Raft, commit rules, or when to sync.
//!
//! *Invariant 1*: layout is a pure function of the log's prefix. Where a frame goes depends on nothing but the bytes
//! before it and the group's segment length, fillers included: see [`CommitLog::room_for`], the only place that
//! decides. An entry that is refused leaves no trace.

use std::borrow::Cow;
use std::io::IoSlice;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::BytesMut;
use parking_lot::{Mutex, RwLock};
use raftmq_world::Mutation;

use crate::damage::Damage;
use crate::error::StoreError;
use crate::frame::{FRAME_HEADER_BYTES, FRAME_PAYLOAD_BYTES_MAX, FrameHeader, FrameKind, decode_frame};
use crate::frame_index::FrameIndex;
use crate::marks::{EntryId, LogEnd, Tail};
use crate::queue_offsets::{Placed, QueueOffsets};
use crate::segment::{LogSlice, Segments};
use crate::topic_changes::{self, TopicChanges};
use crate::zero_ahead::ZeroAhead;

/// An entry as the leader hands it over: not laid out yet.
#[derive(Debug)]
pub struct NewEntry<'a> {
    /// Term and index.
    pub id: EntryId,
    /// What the payload is.
    pub kind: FrameKind,
    /// This node; zero for an entry that founds the group.
    pub leader: u64,
    /// A command that belongs to messages and stands in front of them; empty where there is none.
    pub command: &'a [u8],
    /// The payload, or the rest of it, in pieces. Each piece of messages holds whole records, which are patched in place.
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

/// The log.
#[derive(Debug)]
pub struct CommitLog {
    pub(crate) segments: Segments,
    /// Chain value before the first frame.
    pub(crate) seed: u32,
    pub(crate) topic_changes: TopicChanges,
    pub(crate) frames: RwLock<FrameIndex>,
    pub(crate) writer: Mutex<Writer>,
    /// Physical offset behind the last frame; bytes below it are readable.
    pub(crate) end: AtomicU64,
    pub(crate) truncations: AtomicU64,
    pub(crate) zero_ahead: ZeroAhead,
    pub(crate) damage: Damage,
}

/// What the next append depends on.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) tail: Tail,
    pub(crate) offsets: QueueOffsets,
    /// Why nothing is appended any more.
    pub(crate) stopped: Option<String>,
}

/// Where a frame goes.
struct Room {
    /// The filler that comes before it, encoded, and where that goes.
    filler: Option<(u64, [u8; FRAME_HEADER_BYTES])>,
    /// Physical offset of the frame.
    start: u64,
    /// Checksum of the header before it.
    chain: u32,
}

impl CommitLog {
    pub(crate) fn new(segments: Segments, seed: u32) -> Self {
        let LogEnd { tail, .. } = LogEnd::of_nothing(segments.start(), seed);
        Self {
            end: AtomicU64::new(tail.end),
            segments,
            seed,
            topic_changes: topic_changes::none,
            frames: RwLock::default(),
            writer: Mutex::new(Writer { tail, offsets: QueueOffsets::default(), stopped: None }),
            truncations: AtomicU64::new(0),
            zero_ahead: ZeroAhead::default(),
            damage: Damage::default(),
        }
    }

    /// Sets the state that recovery found.
    pub(crate) fn set_recovered(&self, tail: Tail, newest_ms: i64) {
        let mut writer = self.writer.lock();
        writer.tail = tail;
        writer.offsets.saw_timestamp(newest_ms);
        self.end.store(tail.end, Ordering::SeqCst);
    }

    pub(crate) fn with_offsets<T>(&self, f: impl FnOnce(&mut QueueOffsets) -> T) -> T {
        f(&mut self.writer.lock().offsets)
    }

    /// Refuses everything that would be written from now on. Returns whether every write so far went well.
    pub(crate) fn stop(&self) -> bool {
        let mut writer = self.writer.lock();
        let intact = writer.stopped.is_none();
        writer.stopped.get_or_insert_with(|| "it was closed".to_owned());
        intact
    }

    /// Physical offset of the first byte that is still there.
    pub fn start(&self) -> u64 {
        self.segments.start()
    }

    /// Physical offset behind the last frame.
    pub fn end(&self) -> u64 {
        self.end.load(Ordering::SeqCst)
    }

    /// Bytes that are taken from the disk behind the log's end.
    pub(crate) fn ahead(&self) -> u64 {
        self.segments.reach().saturating_sub(self.end())
    }

    /// Whether an entry's place is known exactly, so that reading it touches nothing else.
    pub fn is_recent(&self, index: u64) -> bool {
        self.frames.read().is_recent(index)
    }

    /// The last entry.
    pub fn last(&self) -> Option<EntryId> {
        self.writer.lock().tail.last
    }

    /// How the log ends; the store timestamp may be less where it is not known.
    pub(crate) fn tail(&self) -> LogEnd {
        let writer = self.writer.lock();
        LogEnd { tail: writer.tail, last_ms: writer.offsets.last_ms() }
    }

    /// The length of a segment in bytes.
    pub fn segment_bytes(&self) -> u64 {
        self.segments.segment_bytes()
    }

    /// Counts truncations, for readers that one may overtake.
    pub(crate) fn truncations(&self) -> u64 {
        self.truncations.load(Ordering::SeqCst)
    }

    /// Bytes of the log, or `None` where they do not lie within one segment below the log's end.
    pub fn slice(&self, physical_offset: u64, len: usize) -> Option<LogSlice> {
        if physical_offset.checked_add(len as u64)? > self.end() {
            return None;
        }
        LogSlice::new(self.segments.of(physical_offset).ok()?, physical_offset, len)
    }

    /// The leader's append: lays the entry out behind the last frame. `placed` receives one place for each message.
    ///
    /// *Invariant 2*: positions are given here, the first moment at which the entry's index is known, and nowhere
    /// else.
    ///
    /// # Errors
    /// [`StoreError::Illegal`], [`StoreError::TooLarge`] and [`StoreError::Divergence`] refuse the entry, and nothing
    /// has changed. Where the disk refused to write, or the entry would have been laid out wrongly, nothing can be
    /// appended any more.
    pub fn append(&self, entry: NewEntry<'_>, placed: &mut Vec<Placed>) -> Result<Appended, StoreError> {
        let NewEntry { id, kind, leader, command, pieces, now_ms } = entry;
        if kind == FrameKind::Filler {
            return Err(StoreError::Illegal("a filler is not an entry".into()));
        }
        if kind != FrameKind::Messages && !command.is_empty() {
            return Err(StoreError::Illegal(format!("a command beside an entry of kind {kind:?}")));
        }
        let mut writer = self.writer.lock();
        writer.check_next(id)?;
        let payload_len = command.len() + pieces.iter().map(|p| p.len()).sum::<usize>();
        self.check_size(payload_len)?;
        let room = self.room_for(&writer.tail, FRAME_HEADER_BYTES + payload_len);
        self.segments.ensure(room.start)?;

        let first_new = placed.len();
        writer.offsets.change_topics(room.start, &command_of(kind, command, pieces), self.topic_changes);
        if kind == FrameKind::Messages {
            let records_at = (FRAME_HEADER_BYTES + command.len()) as u64;
            // What goes with a command was not sent: a delayed message goes where it was to go, as RocketMQ has it.
            let (at, is_sent) =
                (room.start + records_at, command.is_empty() && !Mutation::StoreBehindDrop.is_on());
            if let Err(e) = writer.offsets.place(pieces, at, now_ms, is_sent, placed) {
                writer.offsets.undo_changes(room.start);
                return Err(e);
            }
        }
        let header = FrameHeader {
            kind,
            payload_len: payload_len as u32,
            records: (placed.len() - first_new) as u32,
            command_len: command.len() as u32,
            term: id.term,
            index: id.index,
            physical_offset: room.start,
            leader,
            chain: room.chain,
            payload_checksum: pieces
                .iter()
                .fold(crc32c::crc32c(command), |checksum, piece| crc32c::crc32c_append(checksum, piece)),
        };
        let (bytes, checksum) = header.encode();
        let mut slices = Vec::with_capacity(2 + pieces.len());
        slices.push(IoSlice::new(&bytes));
        if !command.is_empty() {
            slices.push(IoSlice::new(command));
        }
        slices.extend(pieces.iter().map(|p| IoSlice::new(p)));
        let written = self.write(&mut writer, &room, &header, checksum, &slices);
        if written.is_err() {
            placed.truncate(first_new);
        }
        written
    }

    /// The follower's append: the same bytes at the same place, or an error that stops the node (*invariants 1 and 2*).
    ///
    /// `frame` is what the leader's log holds for the entry `id`.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn append_frame(&self, id: EntryId, frame: &[u8]) -> Result<Appended, StoreError> {
        let (header, checksum, payload) = decode_received(id, frame)?;
        let mut writer = self.writer.lock();
        writer.check_next(id)?;
        self.check_size(payload.len())?;
        let room = self.room_for(&writer.tail, frame.len());
        if header.physical_offset != room.start || header.chain != room.chain {
            return Err(StoreError::Divergence(format!(
                "entry {} of term {} stands at physical offset {} behind checksum {:08x} in the leader's log; \
                 here it would stand at {} behind {:08x}",
                id.index, id.term, header.physical_offset, header.chain, room.start, room.chain
            )));
        }
        self.segments.ensure(room.start)?;
        let (command, messages) = header.parts(payload);
        writer.offsets.change_topics(room.start, command, self.topic_changes);
        let records = match writer.offsets.check(messages, room.start + header.records_at() as u64) {
            Ok(records) => records,
            Err(e) => {
                writer.offsets.undo_changes(room.start);
                return Err(e);
            }
        };
        if records != header.records {
            writer.offsets.take_back(messages, &[])?;
            writer.offsets.undo_changes(room.start);
            return Err(StoreError::Divergence(format!(
                "entry {} announces {} records and holds {records}",
                id.index, header.records
            )));
        }
        self.write(&mut writer, &room, &header, checksum, &[IoSlice::new(frame)])
    }

    fn check_size(&self, payload_len: usize) -> Result<(), StoreError> {
        let limit = FRAME_PAYLOAD_BYTES_MAX.min(self.segment_bytes() as usize - FRAME_HEADER_BYTES);
        if payload_len > limit {
            return Err(StoreError::TooLarge {
                what: "an entry",
                size: payload_len as u64,
                limit: limit as u64,
            });
        }
        Ok(())
    }

    /// Where a frame of `frame_len` bytes goes: behind the last one if this segment has room for all of it, else at
    /// the start of the next segment, the rest of this one becoming a filler.
    fn room_for(&self, tail: &Tail, frame_len: usize) -> Room {
        let segment_end = self.segments.end_of(tail.end);
        let left = segment_end - tail.end;
        if left >= frame_len as u64 {
            return Room { filler: None, start: tail.end, chain: tail.chain };
        }
        if left < FRAME_HEADER_BYTES as u64 {
            return Room { filler: None, start: segment_end, chain: tail.chain };
        }
        let (bytes, chain) = filler(tail, left).encode();
        Room { filler: Some((tail.end, bytes)), start: segment_end, chain }
    }

    /// Writes filler and frame and makes the frame readable.
    fn write(
        &self,
        writer: &mut Writer,
        room: &Room,
        header: &FrameHeader,
        checksum: u32,
        frame: &[IoSlice<'_>],
    ) -> Result<Appended, StoreError> {
        let len = frame.iter().map(|piece| piece.len()).sum();
        if let Err(e) = check_layout(&writer.tail, room, header, len, self.segment_bytes()) {
            writer.stopped = Some(e.to_string());
            return Err(e);
        }
        let before =
            room.filler.iter().try_for_each(|(at, bytes)| self.write_at(*at, &[IoSlice::new(bytes)]));
        if let Err(e) = before.and_then(|()| self.write_at(room.start, frame)) {
            // Some of it may be written. The next start erases that.
            writer.stopped = Some(e.to_string());
            return Err(e);
        }
        let last = EntryId { term: header.term, index: header.index };
        writer.tail = Tail { last: Some(last), at: room.start, chain: checksum, end: header.end() };
        self.frames.write().push(header.index, header.physical_offset);
        self.end.store(header.end(), Ordering::SeqCst);
        Ok(Appended { start: header.physical_offset, end: header.end() })
    }

    fn write_at(&self, physical_offset: u64, pieces: &[IoSlice<'_>]) -> Result<(), StoreError> {
        let segment = self.segments.of(physical_offset)?;
        let len: usize = pieces.iter().map(|p| p.len()).sum();
        self.zero_ahead.wait_clear_of(physical_offset + len as u64);
        let written = match pieces {
            [one] => segment.file.write_at(physical_offset - segment.base, one),
            many => segment.file.write_vectored_at(physical_offset - segment.base, many),
        };
        written.map_err(StoreError::io("write", segment.file.path()))
    }

    /// Makes everything from `from` on zero, durably. `to` is the end of what may have been written there in its
    /// segment; later segments are removed.
    pub(crate) fn erase(&self, from: u64, to: u64) -> Result<(), StoreError> {
        self.segments.remove_from(from)?;
        let Ok(segment) = self.segments.of(from) else { return Ok(()) };
        let to = to.min(segment.end());
        if to > from {
            self.zero_ahead.wait_clear_of(u64::MAX);
            let zeroed = segment.file.write_zeros(from - segment.base, to - from);
            zeroed.map_err(StoreError::io("erase", segment.file.path()))?;
        }
        segment.file.sync().map_err(StoreError::io("sync", segment.file.path()))
    }
}

impl Writer {
    pub(crate) fn check_working(&self) -> Result<(), StoreError> {
        self.stopped.as_ref().map_or(Ok(()), |reason| Err(StoreError::Stopped(reason.clone())))
    }

    /// Entries are consecutive and terms never fall.
    fn check_next(&self, id: EntryId) -> Result<(), StoreError> {
        self.check_working()?;
        let follows = match self.tail.last {
            Some(last) => last.index.checked_add(1) == Some(id.index) && id.term >= last.term,
            None => true,
        };
        if follows {
            return Ok(());
        }
        Err(StoreError::Divergence(format!(
            "entry {id:?} does not follow the last one, {:?}",
            self.tail.last
        )))
    }
}

/// *Invariant 1*, once more before anything is written: `len` bytes, what the header says, go to where it says, at once
/// behind what is there and within one segment.
fn check_layout(
    tail: &Tail,
    room: &Room,
    header: &FrameHeader,
    len: usize,
    segment_bytes: u64,
) -> Result<(), StoreError> {
    let filled = match &room.filler {
        Some((at, _)) => *at == tail.end && room.start.is_multiple_of(segment_bytes),
        None => room.start - tail.end.min(room.start) < FRAME_HEADER_BYTES as u64,
    };
    let within = (header.end() - 1) / segment_bytes == room.start / segment_bytes;
    let as_said = (header.physical_offset, header.chain, header.frame_len()) == (room.start, room.chain, len);
    if room.start >= tail.end && filled && within && as_said {
        return Ok(());
    }
    Err(StoreError::Divergence(format!(
        "{len} bytes at physical offset {} behind checksum {:08x}, where the log ends at {}, are no place for {header:?}",
        room.start, room.chain, tail.end
    )))
}

/// A frame that another member sent as the entry `id`: header, checksum, payload.
fn decode_received(id: EntryId, frame: &[u8]) -> Result<(FrameHeader, u32, &[u8]), StoreError> {
    let EntryId { term, index } = id;
    let (header, checksum, payload) = decode_frame(frame)
        .map_err(|e| StoreError::Illegal(format!("entry {index} of term {term} was received broken: {e}")))?;
    if header.kind == FrameKind::Filler {
        return Err(StoreError::Illegal(format!("received a filler as entry {index} of term {term}")));
    }
    if frame.len() != header.frame_len() || (header.term, header.index) != (term, index) {
        return Err(StoreError::Illegal(format!(
            "received {} bytes as entry {index} of term {term}, and they hold a frame of {} bytes for entry {} of term {}",
            frame.len(),
            header.frame_len(),
            header.index,
            header.term
        )));
    }
    Ok((header, checksum, payload))
}

/// The command in an entry.
fn command_of<'a>(kind: FrameKind, command: &'a [u8], pieces: &'a [BytesMut]) -> Cow<'a, [u8]> {
    match (kind, pieces) {
        (FrameKind::Command, [one]) => Cow::Borrowed(one),
        (FrameKind::Command, many) => Cow::Owned(many.concat()),
        _ => Cow::Borrowed(command),
    }
}

/// The filler that ends a segment with `left` bytes behind the tail.
fn filler(tail: &Tail, left: u64) -> FrameHeader {
    FrameHeader {
        kind: FrameKind::Filler,
        payload_len: (left - FRAME_HEADER_BYTES as u64) as u32,
        records: 0,
        command_len: 0,
        term: tail.last.map_or(0, |l| l.term),
        index: tail.last.map_or(0, |l| l.index),
        physical_offset: tail.end,
        leader: 0,
        chain: tail.chain,
        payload_checksum: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_goes_nowhere_but_behind_the_last_one() {
        const SEGMENT: u64 = 4096;
        let tail = Tail { last: None, at: 0, chain: 7, end: 1000 };
        let header = |physical_offset, payload_len| FrameHeader {
            kind: FrameKind::Blank,
            payload_len,
            physical_offset,
            chain: 7,
            ..filler(&tail, FRAME_HEADER_BYTES as u64)
        };
        let room = |start, filler: Option<u64>| Room {
            filler: filler.map(|at| (at, [0; FRAME_HEADER_BYTES])),
            start,
            chain: 7,
        };
        let check = |room, header: FrameHeader, len| check_layout(&tail, &room, &header, len, SEGMENT);
        assert!(check(room(1000, None), header(1000, 36), 100).is_ok());
        assert!(check(room(4096, Some(1000)), header(4096, 36), 100).is_ok());
        for (room, header, len) in [
            (room(1000, None), header(1000, 36), 99),
            (room(1000, None), header(1001, 36), 100),
            (room(999, None), header(999, 36), 100),
            (room(1064, None), header(1064, 36), 100),
            (room(1000, None), header(1000, 3040), 3104),
            (room(4096, Some(1001)), header(4096, 36), 100),
            (room(2000, Some(1000)), header(2000, 36), 100),
            (room(1000, None), FrameHeader { chain: 8, ..header(1000, 36) }, 100),
        ] {
            assert!(matches!(check(room, header, len), Err(StoreError::Divergence(_))), "{header:?}");
        }
    }
}
