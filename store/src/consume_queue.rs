//! The ConsumeQueue: where the messages of one queue of one topic lie in the log.
//!
//! One unit of 20 bytes for each message, in RocketMQ's layout, at position queue offset × 20. It is derived from the
//! log and holds committed messages only; reput is its one writer, any thread reads.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::error::StoreError;
use crate::mapped_file_queue::{FileAt, MappedFileQueue};
use raftmq_world::{Disk, data_end};

/// Bytes of a unit, all big-endian: physical offset (8), size (4), tags code (8).
pub const UNIT_SIZE: usize = 20;
const UNIT: u64 = UNIT_SIZE as u64;

/// Units in a file unless told otherwise. RocketMQ has 300,000, 6 MB; these make 1.3 MB, so that retention gives space
/// back in smaller pieces, and at 100,000 messages a second over all queues there are one or two new files a second.
pub const DEFAULT_UNITS_PER_FILE: u64 = 65_536;

/// Files of a queue kept open: the one being written, and a few for consumers that lag behind by different amounts.
const OPEN_FILES_MAX: usize = 4;

/// Bytes of appended units that are held back before they are written without being published.
const PENDING_BYTES_MAX: usize = 64 * 1024;

/// Capacity that the buffer of pending units keeps between batches: 64 units, so that thousands of queues that had a
/// burst once do not hold memory for it.
const PENDING_BYTES_KEPT: usize = 64 * UNIT_SIZE;

/// The smallest piece a disk writes whole; a unit inside of one was written entirely or not at all.
const SECTOR: usize = 512;

/// Where a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Physical offset of its record in the log; below 2^63.
    pub physical_offset: u64,
    /// Bytes of its record; from 1 to 2^31 - 1. A size of 0 marks a place where no unit is.
    pub size: u32,
    /// Hash of its tags, or another number that tells what it is: whoever makes the queues decides.
    pub tags_code: i64,
}

impl Unit {
    fn encode(self) -> [u8; UNIT_SIZE] {
        let mut bytes = [0; UNIT_SIZE];
        bytes[..8].copy_from_slice(&self.physical_offset.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.size.to_be_bytes());
        bytes[12..].copy_from_slice(&self.tags_code.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8; UNIT_SIZE]) -> Self {
        let [p0, p1, p2, p3, p4, p5, p6, p7, s0, s1, s2, s3, tags_code @ ..] = *bytes;
        Self {
            physical_offset: u64::from_be_bytes([p0, p1, p2, p3, p4, p5, p6, p7]),
            size: u32::from_be_bytes([s0, s1, s2, s3]),
            tags_code: i64::from_be_bytes(tags_code),
        }
    }

    /// Whether this can be a unit at all: both numbers are signed in RocketMQ's layout.
    fn is_possible(self) -> bool {
        self.size != 0 && self.size <= i32::MAX as u32 && self.physical_offset <= i64::MAX as u64
    }

    /// Whether this can follow a unit of physical offset `previous` in a queue that ends below `limit`.
    fn continues(self, previous: Option<u64>, limit: u64) -> bool {
        self.is_possible()
            && self.physical_offset < limit
            && previous.is_none_or(|previous| self.physical_offset > previous)
    }
}

/// Which of the messages around a point in time is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boundary {
    /// The first one stored at that time or later.
    Lower,
    /// The last one stored at that time or before.
    Upper,
}

/// The units of one queue.
#[derive(Debug)]
pub struct ConsumeQueue {
    files: MappedFileQueue,
    /// What readers may see. Invariant: every unit in `[min_offset, max_offset)` is in a file, and none changes.
    max_offset: AtomicU64,
    /// Units below this are durable. Held while files are synced, so that flushes do not overlap.
    flushed: Mutex<u64>,
    writer: Mutex<Writer>,
    removed: AtomicBool,
}

/// Invariant: `max_offset <= written <= next`, and `pending` holds the units `[written, next)`.
#[derive(Debug, Default)]
struct Writer {
    pending: Vec<u8>,
    written: u64,
    next: u64,
    last_physical: Option<u64>,
}

impl ConsumeQueue {
    /// Opens the queue in `dir`, empty where there is none. Before anything else it must be brought to a known state
    /// by [`recover`](Self::recover); until then it shows no units.
    ///
    /// # Errors
    /// As [`MappedFileQueue::open`]; [`StoreError::Corrupt`] where a file starts in the middle of a unit.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, units_per_file: u64) -> Result<Self, StoreError> {
        let file_len = units_per_file.checked_mul(UNIT).ok_or_else(|| {
            StoreError::Illegal(format!("{units_per_file} units in a file are too many to count its bytes"))
        })?;
        let files = MappedFileQueue::open(disk, dir, file_len, OPEN_FILES_MAX)?;
        let start = files.range().map_or(0, |range| range.start);
        if !start.is_multiple_of(UNIT) {
            return Err(StoreError::Corrupt {
                path: dir.to_owned(),
                position: 0,
                physical_offset: start,
                what: "its first file starts in the middle of a unit".to_owned(),
            });
        }
        let first = start / UNIT;
        Ok(Self {
            files,
            max_offset: AtomicU64::new(first),
            flushed: Mutex::new(first),
            writer: Mutex::new(Writer { written: first, next: first, ..Writer::default() }),
            removed: AtomicBool::new(false),
        })
    }

    /// Makes an empty queue that has no files start at `queue_offset`: its earlier messages were never here. The file
    /// made for it remembers that.
    ///
    /// # Errors
    /// [`StoreError::Divergence`] where the queue has files or units, [`StoreError::Illegal`] where the offset is past
    /// what the name of a file can say; the disk refused.
    pub fn start_at(&self, queue_offset: u64) -> Result<(), StoreError> {
        let mut writer = self.writer.lock();
        self.check_not_removed()?;
        if self.files.range().is_some() || writer.next != 0 {
            return Err(StoreError::Divergence(format!(
                "{} has units and cannot start at {queue_offset}",
                self.files.dir().display()
            )));
        }
        let position = queue_offset.checked_mul(UNIT).ok_or_else(|| {
            StoreError::Illegal(format!("queue offset {queue_offset} is past every file position"))
        })?;
        self.files.push(position)?;
        self.restart(&mut writer, queue_offset, None);
        Ok(())
    }

    /// Whether there is no file: nothing was ever published, or the queue was deleted.
    pub(crate) fn is_without_files(&self) -> bool {
        self.files.range().is_none()
    }

    /// The first queue offset that may be there: that of the first file.
    pub fn min_offset(&self) -> u64 {
        self.files.range().map_or(0, |range| range.start / UNIT)
    }

    /// The queue offset of the next message to be published.
    pub fn max_offset(&self) -> u64 {
        self.max_offset.load(Ordering::Acquire)
    }

    /// The published unit at `queue_offset`. A file that the disk refuses to open is logged and reads as no unit.
    pub fn get(&self, queue_offset: u64) -> Option<Unit> {
        self.unit_at(queue_offset).unwrap_or_else(|error| {
            tracing::error!(%error, queue_offset, "cannot read a consume queue");
            None
        })
    }

    /// The published units from queue offset `from` on, at most `max_units`; none where `from` is below the minimum
    /// or at the maximum. A file that the disk refuses to open is logged and ends the answer.
    pub fn read(&self, from: u64, max_units: usize) -> Vec<Unit> {
        let (units, failed) = self.read_until(from, max_units);
        if let Some(error) = failed {
            let queue_offset = from + units.len() as u64;
            tracing::error!(%error, queue_offset, "cannot read a consume queue");
        }
        units
    }

    /// The same for who has to tell the end of the queue from a failure: no units mean that `from` is at the maximum or
    /// above, or that none are asked for.
    ///
    /// # Errors
    /// The disk refused to open the file that holds `from`; [`StoreError::Illegal`] where none does.
    pub fn try_read(&self, from: u64, max_units: usize) -> Result<Vec<Unit>, StoreError> {
        let (units, failed) = self.read_until(from, max_units);
        match failed {
            Some(error) if units.is_empty() => Err(error),
            None if units.is_empty() && max_units > 0 && from < self.max_offset() => {
                let dir = self.files.dir().display();
                Err(StoreError::Illegal(format!("{dir} does not hold queue offset {from} any more")))
            }
            _ => Ok(units),
        }
    }

    /// What can be read, and why it is not more where a file could not be opened.
    fn read_until(&self, from: u64, max_units: usize) -> (Vec<Unit>, Option<StoreError>) {
        let end = self.max_offset().min(from.saturating_add(max_units as u64));
        let mut units = Vec::with_capacity(end.saturating_sub(from) as usize);
        let mut next = from;
        while next < end {
            let file = match self.files.file_at(next * UNIT) {
                Ok(file) => file,
                Err(error) => return (units, Some(error)),
            };
            let Some(FileAt { start, file }) = file else { break };
            let first = (next - start / UNIT) as usize;
            let (here, _) = file.bytes().as_chunks::<UNIT_SIZE>();
            units.extend(here[first..].iter().take((end - next) as usize).map(Unit::decode));
            next = from + units.len() as u64;
        }
        (units, None)
    }

    fn unit_at(&self, queue_offset: u64) -> Result<Option<Unit>, StoreError> {
        if queue_offset >= self.max_offset() {
            return Ok(None);
        }
        let Some(FileAt { start, file }) = self.files.file_at(queue_offset * UNIT)? else { return Ok(None) };
        let (units, _) = file.bytes().as_chunks::<UNIT_SIZE>();
        Ok(units.get((queue_offset - start / UNIT) as usize).map(Unit::decode))
    }

    /// The queue offset that belongs to a point in time, by the rule of RocketMQ 5:
    ///
    /// | `time_ms` | lower | upper |
    /// |---|---|---|
    /// | any, the queue is empty | minimum | minimum |
    /// | before the first message | minimum | minimum |
    /// | in between | first stored at that time or later | last stored at that time or before |
    /// | after the last message | maximum | last message |
    ///
    /// `store_time_of` says when a message was stored, in milliseconds, or `None` where the log no longer has it, which
    /// counts as before any time. Where times go backwards along the queue some offset close by is returned.
    ///
    /// # Errors
    /// The disk refused to open a file.
    pub fn offset_by_time(
        &self,
        time_ms: i64,
        boundary: Boundary,
        store_time_of: impl Fn(Unit) -> Option<i64>,
    ) -> Result<u64, StoreError> {
        let time_at = |offset| Ok::<_, StoreError>(self.unit_at(offset)?.and_then(&store_time_of));
        let (mut low, mut high) = (self.min_offset(), self.max_offset());
        let min = low;
        // The first message past the point: below `low` none is, from `high` on all are.
        while low < high {
            let middle = low + (high - low) / 2;
            let past = time_at(middle)?.is_some_and(|stored| match boundary {
                Boundary::Lower => stored >= time_ms,
                Boundary::Upper => stored > time_ms,
            });
            if past {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        // A message that is gone is not the last one before the point.
        if boundary == Boundary::Upper && low > min && time_at(low - 1)?.is_some() {
            return Ok(low - 1);
        }
        Ok(low)
    }

    /// Adds a unit, not yet seen by readers. For reput only. *Invariant 4*: it continues what is there.
    ///
    /// # Errors
    /// [`StoreError::Divergence`] where `queue_offset` is not the next one, or the unit does not lie behind the one
    /// before in the log: a hole or a repeat means that this structure is not what the log says, and has to be removed
    /// and rebuilt. The disk refused.
    pub fn append(&self, queue_offset: u64, unit: Unit) -> Result<(), StoreError> {
        let mut writer = self.writer.lock();
        if queue_offset != writer.next || !unit.continues(writer.last_physical, u64::MAX) {
            return Err(self.divergence(&writer, queue_offset, unit));
        }
        self.check_not_removed()?;
        writer.pending.extend_from_slice(&unit.encode());
        writer.next += 1;
        writer.last_physical = Some(unit.physical_offset);
        if writer.pending.len() >= PENDING_BYTES_MAX {
            self.write_pending(&mut writer)?;
        }
        Ok(())
    }

    #[cold]
    fn divergence(&self, writer: &Writer, queue_offset: u64, unit: Unit) -> StoreError {
        StoreError::Divergence(format!(
            "{}: {unit:?} at queue offset {queue_offset} does not follow the last one (next queue offset {}, \
             physical offset before it {:?}); remove this directory to have it rebuilt",
            self.files.dir().display(),
            writer.next,
            writer.last_physical,
        ))
    }

    /// Shows readers everything appended so far, and returns the new maximum offset. Called by reput at the
    /// end of a batch: one write for all units of the batch.
    ///
    /// # Errors
    /// The disk refused; nothing more is shown then.
    pub fn publish(&self) -> Result<u64, StoreError> {
        let mut writer = self.writer.lock();
        self.write_pending(&mut writer)?;
        // Release: who reads this maximum sees the bytes written before.
        self.max_offset.store(writer.written, Ordering::Release);
        Ok(writer.written)
    }

    fn write_pending(&self, writer: &mut Writer) -> Result<(), StoreError> {
        let mut position = writer.written * UNIT;
        let mut rest = writer.pending.as_slice();
        while !rest.is_empty() {
            let FileAt { start, file } = match self.files.file_at(position)? {
                Some(file) => file,
                None => self.files.push(position)?,
            };
            let within = position - start;
            let room = usize::try_from(file.len() - within).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at(rest.len().min(room));
            file.write_at(within, now).map_err(StoreError::io("write", file.path()))?;
            position += now.len() as u64;
            rest = later;
        }
        writer.written = writer.next;
        if writer.pending.capacity() > PENDING_BYTES_KEPT {
            writer.pending = Vec::new();
        }
        writer.pending.clear();
        Ok(())
    }

    /// Returns when every unit published before is durable.
    ///
    /// # Errors
    /// The disk refused.
    pub fn flush(&self) -> Result<(), StoreError> {
        let mut flushed = self.flushed.lock();
        let to = self.max_offset();
        let mut position = flushed.saturating_mul(UNIT);
        while position < to * UNIT {
            // Files at the start may have been removed since; those need no sync.
            let first = self.files.range().map_or(u64::MAX, |range| range.start);
            position = position.max(first);
            let Some(FileAt { start, file }) = self.files.file_at(position)? else { break };
            file.sync().map_err(StoreError::io("sync", file.path()))?;
            position = start + self.files.file_len();
        }
        *flushed = to;
        Ok(())
    }

    /// Removes the files all of whose units point below `physical_offset`. The last file stays: it says where the queue
    /// has got to.
    ///
    /// # Errors
    /// The disk refused.
    pub(crate) fn drop_below(&self, physical_offset: u64) -> Result<(), StoreError> {
        let mut end = 0;
        for start in self.files.starts() {
            // There is none yet in the file that is being filled.
            let last = self.unit_at((start + self.files.file_len()) / UNIT - 1)?;
            if last.is_none_or(|last| last.physical_offset >= physical_offset) {
                break;
            }
            end = start + self.files.file_len();
        }
        self.files.remove_below(end)
    }

    /// Brings the queue to the state in which every unit points below `physical_limit`, and publishes that: later
    /// ones are removed durably, so that none can come back to life. To be called before anybody uses the queue, with
    /// a limit up to which everything had been flushed; what lies above may be torn or have holes.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] where units below the limit are missing: the queue is to be removed and rebuilt from
    /// the log. The disk refused.
    pub fn recover(&self, physical_limit: u64) -> Result<(), StoreError> {
        let mut writer = self.writer.lock();
        let starts = self.files.starts();
        let Some(last_used) = self.last_used_file(&starts, physical_limit)? else {
            self.restart(&mut writer, 0, None);
            return Ok(());
        };
        let previous = self.check_full_files(&starts[..last_used], physical_limit)?;
        for start in &starts[last_used + 1..] {
            check_dropped(&self.existing(*start)?, 0, physical_limit)?;
        }
        self.files.remove_from(starts[last_used] + self.files.file_len())?;
        let file = self.existing(starts[last_used])?;
        let (used, last_physical) = count_units(&file, previous, physical_limit);
        check_dropped(&file, used, physical_limit)?;
        clear_from(&file, used)?;
        self.restart(&mut writer, file.start / UNIT + used as u64, last_physical);
        // Reading all of a file has mapped all of it.
        self.files.close_files();
        Ok(())
    }

    /// The index of the last file whose first unit belongs to the queue, or of the first file: its name says where the
    /// queue starts.
    fn last_used_file(&self, starts: &[u64], limit: u64) -> Result<Option<usize>, StoreError> {
        for (index, start) in starts.iter().enumerate().rev() {
            if index == 0 || Unit::decode(&units_of(&self.existing(*start)?)[0]).continues(None, limit) {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// Checks at both ends of each file that it is full; returns the physical offset of the last unit.
    fn check_full_files(&self, starts: &[u64], limit: u64) -> Result<Option<u64>, StoreError> {
        let mut previous = None;
        for start in starts {
            let file = self.existing(*start)?;
            let units = units_of(&file);
            // Where a file has a single unit, that is both ends.
            for index in [0, units.len() - 1].into_iter().take(units.len()) {
                let unit = Unit::decode(&units[index]);
                if !unit.continues(previous, limit) {
                    let what =
                        format!("{unit:?} after physical offset {previous:?}, in a file that has to be full");
                    return Err(corrupt(&file, index, &what));
                }
                previous = Some(unit.physical_offset);
            }
        }
        Ok(previous)
    }

    /// A file that is known to be part of the queue.
    fn existing(&self, start: u64) -> Result<FileAt, StoreError> {
        self.files.file_at(start)?.ok_or_else(|| {
            StoreError::Divergence(format!(
                "{} changed while it was being recovered",
                self.files.dir().display()
            ))
        })
    }

    fn restart(&self, writer: &mut Writer, next: u64, last_physical: Option<u64>) {
        *writer = Writer { pending: Vec::new(), written: next, next, last_physical };
        *self.flushed.lock() = next;
        self.max_offset.store(next, Ordering::Release);
    }

    /// Lets go of the queue's files, which are about to be removed. Readers that hold the queue find it empty; nothing can be
    /// appended any more.
    pub(crate) fn retire(&self) {
        let mut writer = self.writer.lock();
        self.removed.store(true, Ordering::Relaxed);
        self.restart(&mut writer, 0, None);
        self.files.close_files();
    }

    /// Called with the writer locked, which orders it with [`retire`](Self::retire).
    fn check_not_removed(&self) -> Result<(), StoreError> {
        if self.removed.load(Ordering::Relaxed) {
            return Err(StoreError::Divergence(format!("{} was deleted", self.files.dir().display())));
        }
        Ok(())
    }
}

fn units_of(file: &FileAt) -> &[[u8; UNIT_SIZE]] {
    file.file.bytes().as_chunks::<UNIT_SIZE>().0
}

/// How many units from the start of `file` on belong to the queue, and the physical offset of the last one.
fn count_units(file: &FileAt, previous: Option<u64>, limit: u64) -> (usize, Option<u64>) {
    let mut last = previous;
    for (index, bytes) in units_of(file).iter().enumerate() {
        let unit = Unit::decode(bytes);
        if !unit.continues(last, limit) {
            return (index, last);
        }
        last = Some(unit.physical_offset);
    }
    (units_of(file).len(), last)
}

/// Checks that no unit below the limit is among those from `from` on, which are to be dropped: such a unit was flushed,
/// and so was what should be before it. One that lies in two sectors proves nothing, it may be half of a later unit.
fn check_dropped(file: &FileAt, from: usize, limit: u64) -> Result<(), StoreError> {
    let dropped = written_from(file, from)?;
    for (index, bytes) in (from..).zip(dropped) {
        let position = index * UNIT_SIZE;
        let whole = position / SECTOR == (position + UNIT_SIZE - 1) / SECTOR;
        let unit = Unit::decode(bytes);
        if whole && unit.continues(None, limit) {
            let what = format!("{unit:?} lies below {limit}, but units before it are missing");
            return Err(corrupt(file, index, &what));
        }
    }
    Ok(())
}

/// Zeroes the units from `from` on where they are not, durably.
fn clear_from(file: &FileAt, from: usize) -> Result<(), StoreError> {
    let dropped = written_from(file, from)?.len();
    if dropped == 0 {
        return Ok(());
    }
    let FileAt { file, .. } = file;
    let zeros = vec![0; dropped * UNIT_SIZE];
    file.write_at((from * UNIT_SIZE) as u64, &zeros).map_err(StoreError::io("write", file.path()))?;
    file.sync().map_err(StoreError::io("sync", file.path()))
}

/// The units from `from` on, up to the last one that is not zero. What was never written is not looked at.
fn written_from(file: &FileAt, from: usize) -> Result<&[[u8; UNIT_SIZE]], StoreError> {
    let end =
        data_end(&*file.file, (from * UNIT_SIZE) as u64).map_err(StoreError::io("read", file.file.path()))?;
    let count = end.map_or(0, |end| (end as usize).div_ceil(UNIT_SIZE) - from);
    Ok(&units_of(file)[from..from + count])
}

fn corrupt(file: &FileAt, unit: usize, what: &str) -> StoreError {
    let position = (unit * UNIT_SIZE) as u64;
    StoreError::Corrupt {
        path: file.file.path().to_owned(),
        position,
        physical_offset: file.start + position,
        what: format!("{what}; remove the queue's directory to have it rebuilt"),
    }
}
