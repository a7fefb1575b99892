//! The ConsumeQueue: where the messages of one queue of one topic lie in the log.
//!
//! One unit of 20 bytes for each message, in RocketMQ's layout, at position queue offset × 20. It is derived from the
//! log and holds committed messages only; reput is its one writer, any thread reads.
//!
//! New units are held back in memory, where they are read like the others, until there are enough to write, or until a
//! checkpoint. So a queue with few messages costs reput no file, whether it is new or one of very many, and nothing of it
//! is open between two checkpoints. What a crash loses of them is dispatched again.

mod by_time;
mod changes;
mod recovery;
mod unit;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::error::StoreError;
use crate::mapped_file_queue::{FileAt, MappedFileQueue};
use crate::open_files::OpenFiles;
pub use by_time::Boundary;
pub(crate) use changes::Changes;
use unit::UNIT;
pub use unit::{UNIT_SIZE, Unit};

/// Units in a file unless told otherwise. RocketMQ has 300,000, 6 MB; these make 1.3 MB, so that retention gives space
/// back in smaller pieces, and at 100,000 messages a second over all queues there are one or two new files a second.
pub const DEFAULT_UNITS_PER_FILE: u64 = 65_536;

/// Bytes of units that are held back: with 64 of them they are written at the end of a batch.
const HELD_BACK_MAX: usize = 64 * UNIT_SIZE;

/// With so many, 51,200 units, reput waits for a checkpoint that is writing to the same queue.
const HELD_BACK_WAIT: usize = 800 * HELD_BACK_MAX;

/// Capacity that a queue keeps for them between two writes by reput, so that it need not grow each time. A checkpoint
/// gives all of it back: there may be very many queues.
const CAPACITY_KEPT: usize = 4 * HELD_BACK_MAX;

/// The units of one queue.
#[derive(Debug)]
pub struct ConsumeQueue {
    files: MappedFileQueue,
    changes: Arc<Changes<Self>>,
    /// What readers may see. Invariant: every unit in `[min_offset, max_offset)` is in a file or held back, and none changes.
    max_offset: AtomicU64,
    /// Units below this are in files, the others are held back. Changed with the tail locked.
    written: AtomicU64,
    tail: Mutex<Tail>,
    /// Held by who writes to files or removes them, and locked before the tail.
    on_disk: Mutex<OnDisk>,
}

/// The end of the queue. Invariant: `max_offset <= next`, and `held_back` holds the units `[written, next)`.
#[derive(Debug, Default)]
struct Tail {
    held_back: Vec<u8>,
    next: u64,
    last_physical: Option<u64>,
    /// It is among the changed ones.
    is_listed: bool,
    /// Its topic was dropped: nothing is appended any more, and its units are not counted.
    is_dropped: bool,
}

/// What is known to be durable.
#[derive(Debug, Default)]
struct OnDisk {
    /// Units below this.
    synced: u64,
    /// Not so the end of the file that holds the last of them: units were dropped there.
    has_dropped: bool,
    made: Made,
}

/// What was made without waiting for the disk: directories to be synced before a crash cannot lose it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Made {
    /// Nothing.
    #[default]
    Nothing,
    /// Files: the queue's directory.
    Files,
    /// The queue's directory too: those above it.
    Directory,
}

/// What was written and is not durable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unsynced {
    /// Byte positions.
    from: u64,
    end: u64,
    /// Units that are durable once those are.
    units: u64,
    pub(crate) made: Made,
}

impl ConsumeQueue {
    /// Opens the queue in `dir`, empty where there is none. Before anything else it must be brought to a known state
    /// by [`recover`](Self::recover); until then it shows no units.
    ///
    /// # Errors
    /// As [`MappedFileQueue::open`]; [`StoreError::Corrupt`] where a file starts in the middle of a unit.
    pub fn open(files: Arc<OpenFiles>, dir: &Path, units_per_file: u64) -> Result<Arc<Self>, StoreError> {
        Self::open_among(files, dir, units_per_file, Arc::default())
    }

    /// The same for one of many, with what has changed in them.
    pub(crate) fn open_among(
        files: Arc<OpenFiles>,
        dir: &Path,
        units_per_file: u64,
        changes: Arc<Changes<Self>>,
    ) -> Result<Arc<Self>, StoreError> {
        let files = MappedFileQueue::open(files, dir, file_len(units_per_file)?)?;
        let start = files.range().map_or(0, |range| range.start);
        if !start.is_multiple_of(UNIT) {
            return Err(StoreError::Corrupt {
                path: dir.to_owned(),
                position: 0,
                physical_offset: start,
                what: "its first file starts in the middle of a unit".to_owned(),
            });
        }
        let queue = Self::new(files, changes);
        queue.restart(start / UNIT, None, OnDisk { synced: start / UNIT, ..OnDisk::default() });
        Ok(Arc::new(queue))
    }

    /// One that has no files yet; nothing is looked for on the disk.
    pub(crate) fn new_among(
        files: Arc<OpenFiles>,
        dir: &Path,
        units_per_file: u64,
        changes: Arc<Changes<Self>>,
    ) -> Result<Arc<Self>, StoreError> {
        let files = MappedFileQueue::new(files, dir, file_len(units_per_file)?);
        Ok(Arc::new(Self::new(files, changes)))
    }

    fn new(files: MappedFileQueue, changes: Arc<Changes<Self>>) -> Self {
        let (max_offset, written) = Default::default();
        let (tail, on_disk) = Default::default();
        Self { files, changes, max_offset, written, tail, on_disk }
    }

    /// Makes an empty queue that has no files start at `queue_offset`: its earlier messages were never here. The file
    /// made for it remembers that.
    ///
    /// # Errors
    /// [`StoreError::Divergence`] where the queue has files or units, [`StoreError::Illegal`] where the offset is past
    /// what the name of a file can say; the disk refused.
    pub fn start_at(&self, queue_offset: u64) -> Result<(), StoreError> {
        {
            let tail = self.tail.lock();
            self.check_not_dropped(&tail)?;
            if self.files.range().is_some() || tail.next != 0 {
                return Err(StoreError::Divergence(format!(
                    "{} has units and cannot start at {queue_offset}",
                    self.files.dir().display()
                )));
            }
        }
        let position = queue_offset.checked_mul(UNIT).ok_or_else(|| {
            StoreError::Illegal(format!("queue offset {queue_offset} is past every file position"))
        })?;
        self.files.push(position)?;
        self.restart(queue_offset, None, OnDisk { synced: queue_offset, ..OnDisk::default() });
        Ok(())
    }

    /// The queue's directory.
    pub(crate) fn dir(&self) -> &Path {
        self.files.dir()
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

    /// Queue offset of the first unit that is held back.
    fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
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
            let in_files = end.min(self.written());
            if next >= in_files {
                if self.read_held_back(next, end, &mut units) {
                    break;
                }
                continue;
            }
            let file = match self.files.file_at(next * UNIT) {
                Ok(file) => file,
                Err(error) => return (units, Some(error)),
            };
            let Some(FileAt { start, file }) = file else { break };
            let first = (next - start / UNIT) as usize;
            let (here, _) = file.bytes().as_chunks::<UNIT_SIZE>();
            units.extend(here[first..].iter().take((in_files - next) as usize).map(Unit::decode));
            next = from + units.len() as u64;
        }
        (units, None)
    }

    /// Adds the units from `from` on that are held back, all that there are before `end`; `false` where the first of them
    /// was written to a file meanwhile.
    fn read_held_back(&self, from: u64, end: u64, units: &mut Vec<Unit>) -> bool {
        let tail = self.tail.lock();
        let Some(skipped) = from.checked_sub(self.written.load(Ordering::Relaxed)) else { return false };
        let (held_back, _) = tail.held_back.as_chunks::<UNIT_SIZE>();
        let held_back = held_back.get(skipped as usize..).unwrap_or_default();
        units.extend(held_back.iter().take((end - from) as usize).map(Unit::decode));
        true
    }

    fn unit_at(&self, queue_offset: u64) -> Result<Option<Unit>, StoreError> {
        let (units, failed) = self.read_until(queue_offset, 1);
        failed.map_or(Ok(units.first().copied()), Err)
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
        let time_at = |offset| Ok(self.unit_at(offset)?.and_then(&store_time_of));
        by_time::find(self.min_offset()..self.max_offset(), time_ms, boundary, time_at)
    }

    /// Adds a unit, not yet seen by readers. For reput only. *Invariant 4*: it continues what is there.
    ///
    /// # Errors
    /// [`StoreError::Divergence`] where `queue_offset` is not the next one, or the unit does not lie behind the one
    /// before in the log: a hole or a repeat means that this structure is not what the log says, and has to be removed
    /// and rebuilt.
    pub fn append(&self, queue_offset: u64, unit: Unit) -> Result<(), StoreError> {
        let mut tail = self.tail.lock();
        if queue_offset != tail.next || !unit.continues(tail.last_physical, u64::MAX) {
            return Err(self.divergence(&tail, queue_offset, unit));
        }
        self.check_not_dropped(&tail)?;
        tail.held_back.extend_from_slice(&unit.encode());
        tail.next += 1;
        tail.last_physical = Some(unit.physical_offset);
        Ok(())
    }

    #[cold]
    fn divergence(&self, tail: &Tail, queue_offset: u64, unit: Unit) -> StoreError {
        StoreError::Divergence(format!(
            "{}: {unit:?} at queue offset {queue_offset} does not follow the last one (next queue offset {}, \
             physical offset before it {:?}); remove this directory to have it rebuilt",
            self.files.dir().display(),
            tail.next,
            tail.last_physical,
        ))
    }

    /// Shows readers everything appended so far, and returns the new maximum offset. Called by reput at the
    /// end of a batch. Where much is held back it is written, all of it at once.
    ///
    /// # Errors
    /// The disk refused to write.
    pub fn publish(self: &Arc<Self>) -> Result<u64, StoreError> {
        let (next, held_back) = {
            let mut tail = self.tail.lock();
            if !tail.held_back.is_empty() {
                self.list(&mut tail);
            }
            self.show(tail.next);
            (tail.next, tail.held_back.len())
        };
        if held_back >= HELD_BACK_MAX {
            // A checkpoint that writes to it now may wait for the disk.
            let free = self.on_disk.try_lock();
            let free = free.or_else(|| (held_back >= HELD_BACK_WAIT).then(|| self.on_disk.lock()));
            free.map_or(Ok(()), |mut on_disk| self.write_held_back(&mut on_disk, CAPACITY_KEPT))?;
        }
        Ok(next)
    }

    /// Has the next checkpoint look at it.
    fn list(self: &Arc<Self>, tail: &mut Tail) {
        if !std::mem::replace(&mut tail.is_listed, true) {
            self.changes.add(Arc::downgrade(self));
        }
    }

    fn show(&self, max_offset: u64) {
        // Release: who reads this maximum sees what was written before.
        let before = self.max_offset.swap(max_offset, Ordering::AcqRel);
        self.changes.count(before, max_offset);
    }

    /// Writes what was published and is held back to files, without waiting for the disk, and gives its memory back. What is
    /// published from now on has it listed again.
    pub(crate) fn write_out(&self) -> Result<(), StoreError> {
        let mut on_disk = self.on_disk.lock();
        self.tail.lock().is_listed = false;
        self.write_held_back(&mut on_disk, 0)
    }

    fn write_held_back(&self, on_disk: &mut OnDisk, capacity_kept: usize) -> Result<(), StoreError> {
        // With the tail locked, readers would wait for the disk.
        let (position, units) = {
            let (tail, written) = (self.tail.lock(), self.written());
            let published = (self.max_offset() - written) as usize * UNIT_SIZE;
            (written * UNIT, tail.held_back[..published].to_vec())
        };
        self.write_at(on_disk, position, &units)?;
        let mut tail = self.tail.lock();
        tail.held_back.drain(..units.len());
        if tail.held_back.capacity() > capacity_kept {
            tail.held_back.shrink_to_fit();
        }
        self.written.store((position + units.len() as u64) / UNIT, Ordering::Release);
        Ok(())
    }

    fn write_at(&self, on_disk: &mut OnDisk, mut position: u64, mut rest: &[u8]) -> Result<(), StoreError> {
        while !rest.is_empty() {
            let FileAt { start, file } = match self.files.file_at(position)? {
                Some(file) => file,
                None => {
                    let made = if self.files.range().is_none() { Made::Directory } else { Made::Files };
                    on_disk.made = on_disk.made.max(made);
                    self.files.push_unsynced(position)?
                }
            };
            let within = position - start;
            let room = usize::try_from(file.len() - within).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at(rest.len().min(room));
            file.write_at(within, now).map_err(StoreError::io("write", file.path()))?;
            position += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    /// Returns when every unit published before is durable. Directories above the queue's own are for others to sync.
    ///
    /// # Errors
    /// The disk refused.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.write_out()?;
        let unsynced = self.unsynced();
        self.sync_files(&unsynced)?;
        if unsynced.made > Made::Nothing {
            self.files.sync_dir()?;
        }
        self.synced(&unsynced);
        Ok(())
    }

    /// What was written to files and is not durable. It is taken for durable unless the disk refuses it, and then the
    /// member stops.
    pub(crate) fn unsynced(&self) -> Unsynced {
        let mut on_disk = self.on_disk.lock();
        let units = self.written();
        let end = units * UNIT + u64::from(std::mem::take(&mut on_disk.has_dropped));
        Unsynced { from: on_disk.synced * UNIT, end, units, made: std::mem::take(&mut on_disk.made) }
    }

    /// Syncs the files that it is in.
    pub(crate) fn sync_files(&self, unsynced: &Unsynced) -> Result<(), StoreError> {
        let mut position = unsynced.from;
        while position < unsynced.end {
            let found = {
                // Not while they are being removed.
                let _on_disk = self.on_disk.lock();
                // Files at the start may have been removed since; those need no sync.
                position = position.max(self.files.range().map_or(u64::MAX, |range| range.start));
                self.files.file_at(position)?
            };
            let Some(FileAt { start, file }) = found else { break };
            file.sync().map_err(StoreError::io("sync", file.path()))?;
            position = start + self.files.file_len();
        }
        Ok(())
    }

    /// It is durable now.
    pub(crate) fn synced(&self, unsynced: &Unsynced) {
        self.on_disk.lock().synced = unsynced.units;
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
        let _on_disk = self.on_disk.lock();
        self.files.remove_below(end)
    }

    /// Brings the queue to the state in which every unit points below `physical_limit`, and publishes that; later ones
    /// are removed, durably once it is flushed. To be called before anybody uses the queue, with a limit up to which
    /// everything had been flushed; what lies above may be torn, have holes, or be missing.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] where units below the limit are missing: the queue is to be removed and rebuilt from
    /// the log. The disk refused.
    pub fn recover(self: &Arc<Self>, physical_limit: u64) -> Result<(), StoreError> {
        let found = recovery::recover(&self.files, physical_limit)?;
        let made = if found.is_unused { Made::Directory } else { Made::Nothing };
        let on_disk = OnDisk { synced: found.next, has_dropped: found.has_dropped, made };
        self.restart(found.next, found.last_physical, on_disk);
        if found.has_dropped {
            self.list(&mut self.tail.lock());
        }
        // Reading all of a file has mapped all of it.
        self.files.close_files();
        Ok(())
    }

    fn restart(&self, next: u64, last_physical: Option<u64>, state: OnDisk) {
        let mut on_disk = self.on_disk.lock();
        let mut tail = self.tail.lock();
        *on_disk = state;
        self.written.store(next, Ordering::Release);
        let Tail { is_listed, is_dropped, .. } = *tail;
        *tail = Tail { next, last_physical, is_listed, is_dropped, ..Tail::default() };
        self.show(next);
    }

    /// Its topic is dropped: nothing can be appended any more, and its units are not counted. What was published is read as
    /// before, and the next checkpoint has it written and made durable as before: a start may go back to where it counted.
    pub(crate) fn leave(&self) {
        let mut tail = self.tail.lock();
        if !std::mem::replace(&mut tail.is_dropped, true) {
            self.changes.count(self.max_offset(), 0);
        }
    }

    /// Takes the files of a queue away from it that has [left](Self::leave); those on the disk are for who calls this to
    /// remove. Readers that hold the queue find it empty.
    pub(crate) fn retire(&self) {
        let mut on_disk = self.on_disk.lock();
        let mut tail = self.tail.lock();
        *on_disk = OnDisk::default();
        self.written.store(0, Ordering::Release);
        *tail = Tail { is_dropped: true, ..Tail::default() };
        self.max_offset.store(0, Ordering::Release);
        self.files.forget_files();
    }

    fn check_not_dropped(&self, tail: &Tail) -> Result<(), StoreError> {
        if tail.is_dropped {
            return Err(StoreError::Divergence(format!("{} was deleted", self.files.dir().display())));
        }
        Ok(())
    }
}

/// The length of a file in bytes.
fn file_len(units_per_file: u64) -> Result<u64, StoreError> {
    units_per_file.checked_mul(UNIT).ok_or_else(|| {
        StoreError::Illegal(format!("{units_per_file} units in a file are too many to count its bytes"))
    })
}
