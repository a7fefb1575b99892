//! The timer index: which messages with a time of their own are due when.
//!
//! A slot for each minute in which messages are due: a directory `timer/<minute in 20 digits>/`, in it files of entries in
//! the order of the log. The order within a minute is found by whoever reads it, with memory for what is asked for only.
//! A view; which records have a time is for others to know. What is added is found at once and held back until there is
//! enough to write, or until a checkpoint: messages of one batch may belong to thousands of minutes.
//!
//! Consumers of the whole member wait for reput, so adding never waits for the disk and writes one slot at most:
//! files and directories are made without syncing them. A checkpoint does that before it counts what is in them; what a
//! crash leaves of the others is dropped at the next start.

mod entry;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::StoreError;
use crate::mapped_file_queue::{FileAt, MappedFileQueue, list_by_offset, offset_name};
use crate::open_files::OpenFiles;
use crate::view::{Committed, Numbers, Reads, View};
pub use entry::TimerEntry;
use entry::{ENTRY_SIZE, slot_of, slot_start_ms};
use raftmq_world::data_end;

/// The directory below that of the store.
const DIRECTORY: &str = "timer";
const ENTRY: u64 = ENTRY_SIZE as u64;
/// Entries in a file of a slot, 2 MiB. Files are sparse, so a slot with few entries takes little.
const ENTRIES_PER_FILE: u64 = 65_536;
/// Entries that one slot holds back before they are written.
const SLOT_PENDING_MAX: usize = 4096;
/// Entries that all slots together hold back, 16 MiB: nearly a minute of 10,000 a second, so that mostly checkpoints
/// write them. With this many, each that is added has one slot written, the slots in turn: the 4,300 there are hold 121 on
/// average.
const PENDING_MAX: usize = 524_288;

/// When a message is due, in ms since 1970; `None` for all that have no time of their own.
pub type DueMs = fn(&Committed<'_>) -> Option<i64>;

/// All slots.
#[derive(Debug)]
pub struct TimerIndex {
    /// Of a slot none stays open between two uses: there may be thousands of slots, each read through when it is.
    files: Arc<OpenFiles>,
    /// Of the store.
    store_dir: PathBuf,
    dir: PathBuf,
    entries_per_file: u64,
    due_ms: Reads<DueMs>,
    state: Mutex<State>,
    /// Held by who writes entries to files.
    writing: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// Invariant: none is empty.
    slots: BTreeMap<u64, Slot>,
    /// Slots before this one are not needed any more.
    first_slot: u64,
    /// Neither are slots whose messages all lie below this physical offset.
    start: u64,
    /// Entries that are held back, over all slots.
    pending: usize,
    /// The slot whose turn it is to be written.
    turn: u64,
}

impl State {
    /// The slots from this one on that are needed.
    fn needed(&self, from: u64) -> impl Iterator<Item = (u64, &Slot)> {
        let needed = self.slots.range(from.max(self.first_slot)..);
        needed.map(|(id, slot)| (*id, slot)).filter(|(_, slot)| slot.last_physical >= self.start)
    }

    /// The next slot that holds something back.
    fn take_turn(&mut self) -> Option<u64> {
        let waits = |(id, slot): (&u64, &Slot)| (!slot.pending.is_empty()).then_some(*id);
        let next = self.slots.range(self.turn..).find_map(waits);
        let next = next.or_else(|| self.slots.range(..self.turn).find_map(waits));
        self.turn = next.map_or(0, |id| id + 1);
        next
    }
}

/// What is due in one minute: `written` entries in files, then those that are held back.
#[derive(Debug)]
struct Slot {
    files: Arc<MappedFileQueue>,
    written: u64,
    /// Entries that are durable.
    synced: u64,
    pending: Vec<TimerEntry>,
    last_physical: u64,
}

impl TimerIndex {
    /// The index below `store_dir`: empty until it is [recovered](View::recover).
    pub fn new(files: Arc<OpenFiles>, store_dir: &Path, due_ms: Reads<DueMs>) -> Self {
        let (dir, store_dir) = (store_dir.join(DIRECTORY), store_dir.to_owned());
        let (state, writing) = Default::default();
        Self { files, store_dir, dir, entries_per_file: ENTRIES_PER_FILE, due_ms, state, writing }
    }

    /// What the files say up to `limit`. Slots that are not needed are removed durably.
    fn read(&self, limit: u64, first_slot: u64, start: u64) -> Result<State, StoreError> {
        let mut state = State { first_slot, start, ..State::default() };
        for (id, dir) in list_by_offset(&**self.files.disk(), &self.dir)? {
            let slot = if id < first_slot { None } else { self.read_slot(id, limit)? };
            match slot.filter(|slot| slot.last_physical >= start) {
                Some(slot) => drop(state.slots.insert(id, slot)),
                None => self.files.disk().remove_all(&dir).map_err(StoreError::io("remove", &dir))?,
            }
        }
        Ok(state)
    }

    /// The slot with its entries below the limit; `None` where it has none.
    fn read_slot(&self, slot: u64, limit: u64) -> Result<Option<Slot>, StoreError> {
        self.remove_unfinished(slot)?;
        let files = MappedFileQueue::open(self.files.clone(), &self.dir_of(slot), self.file_len())?;
        let (mut written, mut last_physical) = (0, 0);
        let mut has_dropped = false;
        for start in files.starts() {
            // Behind a file that is not full nothing counts.
            let Some(FileAt { file, .. }) = files.file_at(start)?.filter(|_| start == written * ENTRY) else {
                break;
            };
            let end = data_end(&*file, 0).map_err(StoreError::io("read", file.path()))?;
            let entries = end.map_or(0, |end| (end as usize).div_ceil(ENTRY_SIZE));
            for bytes in file.bytes().as_chunks().0.iter().take(entries) {
                let continues = |entry: &TimerEntry| {
                    entry.slot() == slot
                        && entry.physical_offset < limit
                        && (written == 0 || entry.physical_offset > last_physical)
                };
                let Some(entry) = TimerEntry::decode(bytes).filter(continues) else { break };
                (written, last_physical) = (written + 1, entry.physical_offset);
            }
        }
        if written > 0 {
            // A file that is used in part stays.
            files.remove_from((written * ENTRY).next_multiple_of(files.file_len()))?;
            has_dropped = clear_from(&files, written * ENTRY)?;
            files.close_files();
        }
        let files = Arc::new(files);
        // What was dropped is durable with the next checkpoint, as if the last entry had come since.
        let synced = written - u64::from(has_dropped);
        let slot = Slot { files, written, synced, pending: Vec::new(), last_physical };
        Ok((written > 0).then_some(slot))
    }

    /// Removes files whose creation a crash interrupted, and those behind one that it left out.
    fn remove_unfinished(&self, slot: u64) -> Result<(), StoreError> {
        let mut end = Some(0);
        let disk = self.files.disk();
        for (start, path) in list_by_offset(&**disk, &self.dir_of(slot))? {
            let file = disk.open(&path).map_err(StoreError::io("open", &path))?;
            end =
                end.filter(|end| *end == start && file.len() == self.file_len()).map(|end| end + file.len());
            if end.is_none() {
                disk.remove(&path).map_err(StoreError::io("remove", &path))?;
            }
        }
        Ok(())
    }

    fn file_len(&self) -> u64 {
        self.entries_per_file * ENTRY
    }

    fn dir_of(&self, slot: u64) -> PathBuf {
        self.dir.join(offset_name(slot))
    }

    /// Adds an entry, which is found at once. For reput only.
    ///
    /// # Errors
    /// [`StoreError::Divergence`] where the message does not lie behind the last one of its minute in the log; the disk
    /// refused.
    fn add(&self, entry: TimerEntry) -> Result<(), StoreError> {
        let id = entry.slot();
        let to_write = {
            let mut state = self.state.lock();
            if id < state.first_slot {
                return Ok(());
            }
            let slot = match state.slots.get_mut(&id) {
                Some(slot) => slot,
                None => {
                    // Not looked for on the disk: whatever is there is being removed.
                    let (dir, file_len) = (self.dir_of(id), self.file_len());
                    let files = MappedFileQueue::new(self.files.clone(), &dir, file_len);
                    let (files, pending) = (Arc::new(files), Vec::new());
                    let new = Slot { files, written: 0, synced: 0, pending, last_physical: 0 };
                    state.slots.entry(id).or_insert(new)
                }
            };
            if entry.physical_offset <= slot.last_physical && slot.len() > 0 {
                let (dir, last) = (self.dir_of(id), slot.last_physical);
                return Err(StoreError::Divergence(format!(
                    "{}: {entry:?}, after a message at {last}",
                    dir.display()
                )));
            }
            slot.last_physical = entry.physical_offset;
            slot.pending.push(entry);
            let is_full = slot.pending.len() >= SLOT_PENDING_MAX;
            state.pending += 1;
            match state.pending > PENDING_MAX {
                _ if is_full => Some(id),
                true => state.take_turn(),
                false => None,
            }
        };
        to_write.map_or(Ok(()), |id| self.write_out(id))
    }

    fn slots(&self) -> Vec<u64> {
        self.state.lock().slots.keys().copied().collect()
    }

    /// Writes what a slot holds back to its files, without waiting for the disk.
    fn write_out(&self, id: u64) -> Result<(), StoreError> {
        let _writing = self.writing.lock();
        let (files, written, entries) = {
            let state = self.state.lock();
            let Some(slot) = state.slots.get(&id).filter(|slot| !slot.pending.is_empty()) else {
                return Ok(());
            };
            (slot.files.clone(), slot.written, slot.pending.clone())
        };
        let bytes: Vec<u8> = entries.iter().flat_map(TimerEntry::encode).collect();
        write_at(&files, written * ENTRY, &bytes)?;
        files.close_files();
        let mut state = self.state.lock();
        // A slot that was removed in between is not needed any more.
        let Some(slot) = state.slots.get_mut(&id) else { return Ok(()) };
        slot.written += entries.len() as u64;
        slot.pending = slot.pending.split_off(entries.len());
        state.pending -= entries.len();
        Ok(())
    }

    /// What is due before is not needed any more. Slots wholly before it are removed with the next checkpoint.
    pub fn drop_before(&self, due_ms: i64) {
        let mut state = self.state.lock();
        state.first_slot = state.first_slot.max(slot_of(due_ms));
    }

    /// Removes a slot if it lies before `first_slot`, or all of its messages below `start`. A checkpoint that does not
    /// count it comes first.
    fn remove_unneeded(&self, id: u64, first_slot: u64, start: u64) -> Result<(), StoreError> {
        // Who writes to it now is done first, so that it does not come back.
        let writing = self.writing.lock();
        {
            let mut state = self.state.lock();
            let is_unneeded = |slot: &Slot| id < first_slot || slot.last_physical < start;
            if !state.slots.get(&id).is_some_and(is_unneeded) {
                return Ok(());
            }
            state.pending -= state.slots.remove(&id).map_or(0, |slot| slot.pending.len());
        }
        // One that is not too early may be made again: its files are not written before the old ones are gone.
        let _writing = (id >= first_slot).then_some(writing);
        let dir = self.dir_of(id);
        self.files.disk().remove_all(&dir).map_err(StoreError::io("remove", &dir))
    }

    /// What of a slot is written and not durable.
    fn unsynced(&self, id: u64) -> Option<Unsynced> {
        let state = self.state.lock();
        let slot = state.slots.get(&id).filter(|slot| slot.synced < slot.written)?;
        Some(Unsynced { id, files: slot.files.clone(), synced: slot.synced, written: slot.written })
    }

    /// Syncs the files of a slot, and names the directories that are to be synced with them.
    fn sync_files(&self, unsynced: &Unsynced, dirs: &mut BTreeSet<PathBuf>) -> Result<(), StoreError> {
        let Unsynced { files, synced, written, .. } = unsynced;
        let mut position = synced * ENTRY;
        while let Some(FileAt { start, file }) =
            files.file_at(position)?.filter(|_| position < written * ENTRY)
        {
            file.sync().map_err(StoreError::io("sync", file.path()))?;
            position = start + files.file_len();
        }
        files.close_files();
        let files_with = |entries: u64| entries.div_ceil(self.entries_per_file);
        if files_with(*written) > files_with(*synced) {
            // Where the slot is new, that of all slots and that of the store too.
            let above = if *synced == 0 { 3 } else { 1 };
            dirs.extend(files.dir().ancestors().take(above).map(Path::to_owned));
        }
        Ok(())
    }

    /// The first `max` entries, in order, of those behind (due, queue offset) `after` that are due at `until_ms` or
    /// before and whose queue offset is below `below_offset`. Reads the minutes in question through, and needs memory
    /// for twice `max` entries.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] where entries are damaged; the disk refused.
    pub fn due(
        &self,
        after: (i64, u64),
        until_ms: i64,
        below_offset: u64,
        max: usize,
    ) -> Result<Vec<TimerEntry>, StoreError> {
        let start = self.state.lock().start;
        let mut wanted =
            Smallest { start, after, until_ms, below_offset, max, limit: None, found: Vec::new() };
        let (mut from, last) = (slot_of(after.0), slot_of(until_ms));
        while from <= last && wanted.found.len() < max {
            let (id, files, written) = {
                let state = self.state.lock();
                let Some((id, slot)) = state.needed(from).next().filter(|(id, _)| *id <= last) else { break };
                slot.pending.iter().for_each(|entry| wanted.take(*entry));
                (id, slot.files.clone(), slot.written)
            };
            if let Err(e) = read(&files, written, |entry| wanted.take(entry))
                && self.state.lock().needed(id).any(|(_, slot)| Arc::ptr_eq(&slot.files, &files))
            {
                return Err(e);
            }
            from = id + 1;
        }
        Ok(wanted.sorted())
    }

    /// How many entries there are in the minute of `due_ms` and in later ones.
    pub fn count_from(&self, due_ms: i64) -> u64 {
        self.state.lock().needed(slot_of(due_ms)).map(|(_, slot)| slot.len()).sum()
    }

    /// When the first message may be due that is in the minute of `due_ms` or in a later one.
    pub fn next_slot_ms(&self, due_ms: i64) -> Option<i64> {
        self.state.lock().needed(slot_of(due_ms)).next().map(|(slot, _)| slot_start_ms(slot))
    }
}

impl View for TimerIndex {
    fn dir(&self) -> &Path {
        &self.dir
    }

    fn properties(&self) -> &'static [&'static str] {
        self.due_ms.properties
    }

    fn put(&self, committed: &Committed<'_>) -> Result<(), StoreError> {
        let Some(due_ms) = (self.due_ms.read)(committed) else { return Ok(()) };
        let (physical_offset, size) = (committed.physical_offset(), committed.size());
        self.add(TimerEntry { due_ms, queue_offset: committed.queue_offset(), physical_offset, size })
    }

    fn held(&self) -> Numbers {
        let state = self.state.lock();
        let timers = state.needed(0).map(|(_, slot)| slot.len()).sum();
        Numbers::new([("timer_slot", state.first_slot), ("timer_start", state.start), ("timers", timers)])
    }

    fn flush(&self) -> Result<(), StoreError> {
        // All before the first sync: a file system makes what was written by then durable together.
        let slots = self.slots();
        slots.iter().try_for_each(|id| self.write_out(*id))?;
        let unsynced: Vec<_> = slots.into_iter().filter_map(|id| self.unsynced(id)).collect();
        self.files.sync(&self.store_dir, &unsynced, |slot, dirs| self.sync_files(slot, dirs))?;
        let mut state = self.state.lock();
        for Unsynced { id, written, .. } in unsynced {
            if let Some(slot) = state.slots.get_mut(&id) {
                slot.synced = written;
            }
        }
        Ok(())
    }

    fn clean_up(&self, _: u64, recorded: &Numbers) -> Result<(), StoreError> {
        let (first_slot, start) = (recorded.get("timer_slot"), recorded.get("timer_start"));
        self.slots().into_iter().try_for_each(|id| self.remove_unneeded(id, first_slot, start))
    }

    fn recover(&self, physical_limit: u64, recorded: &Numbers) -> Result<(), StoreError> {
        *self.state.lock() = State::default();
        let (first_slot, start) = (recorded.get("timer_slot"), recorded.get("timer_start"));
        *self.state.lock() = self.read(physical_limit, first_slot, start)?;
        Ok(())
    }

    /// Slots go with the next checkpoint, which does not count them any more.
    fn drop_below(&self, physical_offset: u64) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        state.start = state.start.max(physical_offset);
        Ok(())
    }
}

/// What of a slot is written and not durable.
struct Unsynced {
    id: u64,
    files: Arc<MappedFileQueue>,
    synced: u64,
    written: u64,
}

impl Slot {
    fn len(&self) -> u64 {
        self.written + self.pending.len() as u64
    }
}

/// Keeps the smallest entries of those that are shown to it.
struct Smallest {
    /// Messages below this physical offset are not in the log any more.
    start: u64,
    after: (i64, u64),
    until_ms: i64,
    below_offset: u64,
    max: usize,
    /// The largest that may still be among them, once there are too many.
    limit: Option<TimerEntry>,
    found: Vec<TimerEntry>,
}

impl Smallest {
    fn take(&mut self, entry: TimerEntry) {
        let fits = (entry.due_ms, entry.queue_offset) > self.after
            && entry.due_ms <= self.until_ms
            && entry.queue_offset < self.below_offset
            && entry.physical_offset >= self.start
            && self.limit.is_none_or(|limit| entry < limit);
        if !fits {
            return;
        }
        self.found.push(entry);
        if self.found.len() >= self.max.saturating_mul(2) {
            self.shorten();
        }
    }

    fn shorten(&mut self) {
        if self.found.len() > self.max {
            let (_, limit, _) = self.found.select_nth_unstable(self.max - 1);
            self.limit = Some(*limit);
            self.found.truncate(self.max);
        }
    }

    fn sorted(mut self) -> Vec<TimerEntry> {
        self.shorten();
        self.found.sort_unstable();
        self.found
    }
}

fn read(files: &MappedFileQueue, written: u64, mut take: impl FnMut(TimerEntry)) -> Result<(), StoreError> {
    let mut at = 0;
    while at < written {
        let Some(FileAt { start, file }) = files.file_at(at * ENTRY)? else {
            let what = format!("a file is missing at position {}", at * ENTRY);
            return Err(corrupt(files.dir(), at * ENTRY, what));
        };
        let (entries, _) = file.bytes().as_chunks::<ENTRY_SIZE>();
        for bytes in entries.iter().take((written - at) as usize) {
            let damaged = || corrupt(file.path(), at * ENTRY - start, "a damaged entry".to_owned());
            take(TimerEntry::decode(bytes).ok_or_else(damaged)?);
            at += 1;
        }
    }
    files.close_files();
    Ok(())
}

fn write_at(files: &MappedFileQueue, mut position: u64, mut rest: &[u8]) -> Result<(), StoreError> {
    while !rest.is_empty() {
        let FileAt { start, file } = match files.file_at(position)? {
            Some(file) => file,
            None => files.push_unsynced(position)?,
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

/// Zeroes what stands behind `position` in its file, if anything does. Not synced: there may be thousands of slots.
fn clear_from(files: &MappedFileQueue, position: u64) -> Result<bool, StoreError> {
    let Some(FileAt { start, file }) = files.file_at(position)? else { return Ok(false) };
    let from = position - start;
    let Some(end) = data_end(&*file, from).map_err(StoreError::io("read", file.path()))? else {
        return Ok(false);
    };
    file.write_at(from, &vec![0; (end - from) as usize]).map_err(StoreError::io("write", file.path()))?;
    Ok(true)
}

fn corrupt(path: &Path, position: u64, what: String) -> StoreError {
    let what = format!("{what}; remove the timer index to have it rebuilt");
    StoreError::Corrupt { path: path.to_owned(), position, physical_offset: position, what }
}

#[cfg(test)]
mod tests;
