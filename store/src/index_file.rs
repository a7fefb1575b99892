//! One IndexFile: a hash table on disk from topic and key to the physical offsets of messages.
//!
//! | bytes | what (all big-endian) |
//! |---|---|
//! | 40 | header: smallest and largest store time in ms (8 + 8), first and last physical offset (8 + 8), slots (4), number of the next entry (4) |
//! | 4 × slots | number of the slot's newest entry, 0 for none |
//! | 20 × entries | hash (4), physical offset (8), store time in s (4), number of the entry before in the same slot (4) |
//!
//! This is RocketMQ's layout but for three things. The store time of an entry counts from 1970 and not from the first
//! time in the file, so that a clock that was set back needs no care; the header's times are the first millisecond of
//! the smallest and the last one of the largest. The slots in the header are those of the table,
//! not those in use, which tells a file made with other settings. The slots of the file being written are in memory
//! only, as each put would change a random one: they are written once, when the file is full, and put together again
//! from the entries at recovery. Entry 0 is never used.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use crate::error::StoreError;
use raftmq_world::{DiskFile, data_end};

const HEADER_SIZE: usize = 40;
const SLOT_SIZE: usize = 4;
const ENTRY_SIZE: usize = 20;

/// Bytes of entries that are held back before they are written.
const PENDING_BYTES_MAX: usize = 64 * 1024;

/// The smallest piece a disk writes whole.
const SECTOR: usize = 512;

/// How many slots and entries a file has; a setting that all files of a store share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexShape {
    /// Slots of the hash table.
    pub slots: u32,
    /// Places for entries, the unused first one included.
    pub entries: u32,
}

/// RocketMQ's 5 million slots and 20 million entries make 420 MB; these make 22 MB, of which 1 MB (the slots of the
/// file being written) is in memory. The ratio is the same.
impl Default for IndexShape {
    fn default() -> Self {
        Self { slots: 1 << 18, entries: 1 << 20 }
    }
}

impl IndexShape {
    /// # Errors
    /// [`StoreError::Illegal`] where there is no slot or no usable entry, or where numbers would not fit 31 bits.
    pub(crate) fn check(self) -> Result<Self, StoreError> {
        let range = |n: u32, min: u32| (min..=i32::MAX as u32).contains(&n);
        if range(self.slots, 1) && range(self.entries, 2) {
            return Ok(self);
        }
        Err(StoreError::Illegal(format!(
            "{self:?}: an index file needs a slot and two entries, below 2^31 each"
        )))
    }

    pub(crate) fn file_len(self) -> u64 {
        self.entry_position(self.entries)
    }

    fn entry_position(self, number: u32) -> u64 {
        HEADER_SIZE as u64 + u64::from(self.slots) * SLOT_SIZE as u64 + u64::from(number) * ENTRY_SIZE as u64
    }

    fn slot_of(self, hash: u32) -> u32 {
        hash % self.slots
    }
}

/// The first 40 bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) first_time_ms: i64,
    pub(crate) last_time_ms: i64,
    pub(crate) first_physical: u64,
    pub(crate) last_physical: u64,
    slots: u32,
    /// Number of the next entry; the first is 1.
    next: u32,
}

impl Header {
    fn encode(&self) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        bytes[..8].copy_from_slice(&self.first_time_ms.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.last_time_ms.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.first_physical.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.last_physical.to_be_bytes());
        bytes[32..36].copy_from_slice(&self.slots.to_be_bytes());
        bytes[36..].copy_from_slice(&self.next.to_be_bytes());
        bytes
    }

    /// Reads and checks the header of a file of the length that belongs to `shape`, named by `start`.
    pub(crate) fn read(file: &dyn DiskFile, shape: IndexShape, start: u64) -> Result<Self, StoreError> {
        if file.len() != shape.file_len() {
            return Err(contradiction(file.path(), "file length in bytes", file.len(), shape.file_len()));
        }
        let bytes = &mut [0; HEADER_SIZE];
        file.read_at(0, bytes).map_err(StoreError::io("read", file.path()))?;
        let u64_at = |at: usize| u64::from(u32_at(bytes, at)) << 32 | u64::from(u32_at(bytes, at + 4));
        let header = Self {
            first_time_ms: u64_at(0).cast_signed(),
            last_time_ms: u64_at(8).cast_signed(),
            first_physical: u64_at(16),
            last_physical: u64_at(24),
            slots: u32_at(bytes, 32),
            next: u32_at(bytes, 36),
        };
        if header.slots != 0 && header.slots != shape.slots {
            return Err(contradiction(file.path(), "slots", u64::from(header.slots), u64::from(shape.slots)));
        }
        let times = header.first_time_ms <= header.last_time_ms;
        let offsets = header.first_physical == start && start <= header.last_physical;
        if !times || !offsets || header.slots == 0 || !(2..=shape.entries).contains(&header.next) {
            return Err(corrupt(file, 0, start, format!("{header:?} cannot be its header")));
        }
        Ok(header)
    }

    /// How many entries there are; the first place is never used.
    pub(crate) fn entries(&self) -> u32 {
        self.next - 1
    }

    /// Whether no place for an entry is left.
    pub(crate) fn is_full(&self, shape: IndexShape) -> bool {
        self.next >= shape.entries
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    hash: u32,
    physical: u64,
    time_s: u32,
    previous: u32,
}

impl Entry {
    fn encode(&self) -> [u8; ENTRY_SIZE] {
        let mut bytes = [0; ENTRY_SIZE];
        bytes[..4].copy_from_slice(&self.hash.to_be_bytes());
        bytes[4..12].copy_from_slice(&self.physical.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.time_s.to_be_bytes());
        bytes[16..].copy_from_slice(&self.previous.to_be_bytes());
        bytes
    }

    /// An entry has whole seconds: the message was stored at any time of that one.
    fn times_ms(&self) -> (i64, i64) {
        let first_ms = i64::from(self.time_s) * 1000;
        (first_ms, first_ms + 999)
    }

    /// Decodes the entry at the start of `bytes`, which has at least one.
    fn decode(bytes: &[u8]) -> Self {
        Self {
            hash: u32_at(bytes, 0),
            physical: u64::from(u32_at(bytes, 4)) << 32 | u64::from(u32_at(bytes, 8)),
            time_s: u32_at(bytes, 12),
            previous: u32_at(bytes, 16),
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// What a query looks for, and what it has found so far.
#[derive(Debug)]
pub(crate) struct Search {
    pub(crate) hash: u32,
    pub(crate) times_ms: RangeInclusive<i64>,
    pub(crate) max: usize,
    pub(crate) found: Vec<u64>,
}

impl Search {
    pub(crate) fn is_done(&self) -> bool {
        self.found.len() >= self.max
    }

    /// Whether a message stored from `first_ms` to `last_ms` may be in the range of time.
    pub(crate) fn may_hold(&self, first_ms: i64, last_ms: i64) -> bool {
        *self.times_ms.start() <= last_ms && first_ms <= *self.times_ms.end()
    }

    fn look_at(&mut self, entry: &Entry) {
        let (first_ms, last_ms) = entry.times_ms();
        // A message that has the same key twice has neighbouring entries.
        let repeated = self.found.last() == Some(&entry.physical);
        if entry.hash == self.hash && self.may_hold(first_ms, last_ms) && !repeated {
            self.found.push(entry.physical);
        }
    }

    /// Follows a slot from entry `number` back, all of it in the file.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] where an entry does not point at an earlier one.
    pub(crate) fn walk(
        &mut self,
        file: &dyn DiskFile,
        shape: IndexShape,
        mut number: u32,
    ) -> Result<(), StoreError> {
        let mut bound = shape.entries;
        while number != 0 && !self.is_done() {
            let position = shape.entry_position(number);
            if number >= bound {
                return Err(corrupt(
                    file,
                    position,
                    0,
                    format!("entry {number} is not before entry {bound}"),
                ));
            }
            let entry = Entry::decode(&file.bytes()[position as usize..]);
            self.look_at(&entry);
            bound = number;
            number = entry.previous;
        }
        Ok(())
    }

    /// Looks through a file that is complete.
    pub(crate) fn walk_full(&mut self, file: &dyn DiskFile, shape: IndexShape) -> Result<(), StoreError> {
        let slot = HEADER_SIZE + shape.slot_of(self.hash) as usize * SLOT_SIZE;
        self.walk(file, shape, u32_at(file.bytes(), slot))
    }
}

/// A file whose entries below `next` are written and not yet durable.
#[derive(Debug)]
pub(crate) struct ToSync {
    pub(crate) file: Arc<dyn DiskFile>,
    next: u32,
}

/// The file that entries are being added to.
#[derive(Debug)]
pub(crate) struct WritableIndex {
    file: Arc<dyn DiskFile>,
    shape: IndexShape,
    header: Header,
    slots: Box<[u32]>,
    /// Encoded entries `[written, header.next)`, not in the file yet.
    pending: Vec<u8>,
    written: u32,
    /// The value of `header.next` when the file was last synced.
    synced: u32,
}

impl WritableIndex {
    /// Takes a new file, all zero.
    pub(crate) fn new(file: Arc<dyn DiskFile>, shape: IndexShape, physical: u64) -> Self {
        let header = Header {
            first_time_ms: i64::MAX,
            last_time_ms: i64::MIN,
            first_physical: physical,
            last_physical: physical,
            slots: shape.slots,
            next: 1,
        };
        let slots = vec![0; shape.slots as usize].into_boxed_slice();
        Self { file, shape, header, slots, pending: Vec::new(), written: 1, synced: 1 }
    }

    /// Takes an existing file, drops the entries from `physical_limit` on durably and rebuilds the slots. Everything
    /// below the limit has to have been flushed; what lies above may be torn.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] where entries below the limit are missing; [`StoreError::Contradiction`] where it was
    /// made with another shape; the disk refused.
    pub(crate) fn recover(
        file: Arc<dyn DiskFile>,
        shape: IndexShape,
        start: u64,
        physical_limit: u64,
    ) -> Result<Self, StoreError> {
        // Every flush writes the header: what lies past its count was never flushed.
        let end = Header::read(&*file, shape, start)?.next;
        let mut index = Self::new(file, shape, start);
        for number in 1..end {
            let entry = index.entry_in_file(number);
            if !index.continues(&entry, physical_limit) {
                break;
            }
            index.count(&entry);
        }
        index.check_dropped(end, physical_limit)?;
        (index.written, index.synced) = (index.header.next, index.header.next);
        index.clear_dropped()?;
        Ok(index)
    }

    fn entry_in_file(&self, number: u32) -> Entry {
        Entry::decode(&self.file.bytes()[self.shape.entry_position(number) as usize..])
    }

    /// Whether `entry` can be the next one of a file that ends below `limit`.
    fn continues(&self, entry: &Entry, limit: u64) -> bool {
        let first = self.header.next == 1;
        (self.header.last_physical..limit).contains(&entry.physical)
            && (!first || entry.physical == self.header.first_physical)
            && entry.hash <= i32::MAX as u32
            && entry.previous == self.slots[self.shape.slot_of(entry.hash) as usize]
    }

    /// Checks that the entries found are all there were below the limit. An entry in two sectors proves nothing: it may
    /// be half of a later one.
    fn check_dropped(&self, end: u32, limit: u64) -> Result<(), StoreError> {
        for number in self.header.next..end {
            let position = self.shape.entry_position(number);
            let whole = position / SECTOR as u64 == (position + ENTRY_SIZE as u64 - 1) / SECTOR as u64;
            let entry = self.entry_in_file(number);
            let below = (self.header.last_physical.max(1)..limit).contains(&entry.physical);
            if self.header.next == 1 || (whole && below) {
                let what = format!(
                    "{entry:?}, number {number}, does not follow the {} before it; remove the index to have it rebuilt",
                    self.header.next - 1
                );
                return Err(corrupt(&*self.file, position, entry.physical, what));
            }
        }
        Ok(())
    }

    /// Zeroes the places of entries that are not in use, and writes the header that says so.
    fn clear_dropped(&mut self) -> Result<(), StoreError> {
        let from = self.shape.entry_position(self.header.next);
        let end = data_end(&*self.file, from).map_err(StoreError::io("read", self.file.path()))?;
        let header_differs = self.file.bytes()[..HEADER_SIZE] != self.header.encode();
        if end.is_none() && !header_differs {
            return Ok(());
        }
        let zeros = vec![0; end.map_or(0, |end| (end - from) as usize)];
        self.file.write_at(from, &zeros).map_err(StoreError::io("write", self.file.path()))?;
        self.write_header()?;
        self.file.sync().map_err(StoreError::io("sync", self.file.path()))
    }

    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    pub(crate) fn is_full(&self) -> bool {
        self.header.is_full(self.shape)
    }

    /// Adds an entry; the file is not full, and `physical` is not below that of the entry before.
    pub(crate) fn put(&mut self, hash: u32, physical: u64, time_ms: i64) -> Result<(), StoreError> {
        let time_s = u32::try_from(time_ms.max(0) / 1000).unwrap_or(u32::MAX);
        let previous = self.slots[self.shape.slot_of(hash) as usize];
        let entry = Entry { hash, physical, time_s, previous };
        self.pending.extend_from_slice(&entry.encode());
        self.count(&entry);
        if self.pending.len() >= PENDING_BYTES_MAX {
            self.write_pending()?;
        }
        Ok(())
    }

    /// Makes `entry` the newest one of its slot and of the file.
    fn count(&mut self, entry: &Entry) {
        let (first_ms, last_ms) = entry.times_ms();
        self.slots[self.shape.slot_of(entry.hash) as usize] = self.header.next;
        self.header.next += 1;
        self.header.last_physical = entry.physical;
        self.header.first_time_ms = self.header.first_time_ms.min(first_ms);
        self.header.last_time_ms = self.header.last_time_ms.max(last_ms);
    }

    fn write_pending(&mut self) -> Result<(), StoreError> {
        let position = self.shape.entry_position(self.written);
        self.file.write_at(position, &self.pending).map_err(StoreError::io("write", self.file.path()))?;
        self.pending.clear();
        self.written = self.header.next;
        Ok(())
    }

    fn write_header(&self) -> Result<(), StoreError> {
        self.file.write_at(0, &self.header.encode()).map_err(StoreError::io("write", self.file.path()))
    }

    /// Writes what is in memory, the slots excepted. Returns what to sync where something has changed since the last
    /// time, and to hand to [`synced`](Self::synced) afterwards.
    pub(crate) fn write_out(&mut self) -> Result<Option<ToSync>, StoreError> {
        if self.synced == self.header.next {
            return Ok(None);
        }
        self.write_pending()?;
        self.write_header()?;
        Ok(Some(ToSync { file: Arc::clone(&self.file), next: self.header.next }))
    }

    /// Remembers that `done` was synced, which may have been another file.
    pub(crate) fn synced(&mut self, done: &ToSync) {
        if Arc::ptr_eq(&self.file, &done.file) {
            self.synced = done.next;
        }
    }

    /// Completes the file, slots included. It is returned to be synced.
    pub(crate) fn seal(mut self) -> Result<Arc<dyn DiskFile>, StoreError> {
        let slots: Vec<u8> = self.slots.iter().flat_map(|number| number.to_be_bytes()).collect();
        self.file.write_at(HEADER_SIZE as u64, &slots).map_err(StoreError::io("write", self.file.path()))?;
        self.write_pending()?;
        self.write_header()?;
        Ok(self.file)
    }

    /// Looks at the entries in memory. Returns the file and the number in it to go on from with [`Search::walk`],
    /// which needs nothing of this any more.
    pub(crate) fn begin_search(&self, search: &mut Search) -> (Arc<dyn DiskFile>, u32) {
        let mut number = self.slots[self.shape.slot_of(search.hash) as usize];
        while number >= self.written && !search.is_done() {
            let entry = Entry::decode(&self.pending[(number - self.written) as usize * ENTRY_SIZE..]);
            search.look_at(&entry);
            number = entry.previous;
        }
        (Arc::clone(&self.file), number)
    }
}

fn contradiction(path: &Path, what: &'static str, found: u64, wanted: u64) -> StoreError {
    StoreError::Contradiction {
        path: path.to_owned(),
        what,
        found: found.to_string(),
        wanted: wanted.to_string(),
    }
}

fn corrupt(file: &dyn DiskFile, position: u64, physical_offset: u64, what: String) -> StoreError {
    StoreError::Corrupt { path: file.path().to_owned(), position, physical_offset, what }
}
