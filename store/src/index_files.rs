//! The IndexFiles of a broker: where the messages with a key are, newest first.
//!
//! Files in `index/` below the store's directory, each named by the physical offset of its first message (RocketMQ names
//! them by the clock; the log knows nothing of a replica's clock). A view; what the keys of a record are is for others to
//! know.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use raftmq_message::hash::index_key_hash;

use crate::error::StoreError;
use crate::index_file::{Header, IndexShape, Search, WritableIndex};
use crate::mapped_file_queue::{list_by_offset, offset_name};
use crate::view::{Committed, Numbers, Reads, View};
use raftmq_world::{Disk, DiskFile};

/// The directory below that of the store.
const DIRECTORY: &str = "index";

/// Names the keys of a message, one after the other.
pub type Keys = fn(&Committed<'_>, &mut dyn FnMut(&str));

/// All index files: full ones, which are opened when a query needs them, and the one being written.
#[derive(Debug)]
pub struct IndexFiles {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    shape: IndexShape,
    keys: Reads<Keys>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Full files whose messages all lie below this physical offset are not needed any more.
    start: u64,
    /// In the order of the log, all before `writable`.
    full: Vec<FullFile>,
    writable: Option<WritableIndex>,
    /// Full files that were not synced since they were completed.
    unsynced: Vec<Arc<dyn DiskFile>>,
    /// A file was made since the directory was synced.
    has_new: bool,
}

#[derive(Clone, Copy, Debug)]
struct FullFile {
    start: u64,
    /// Physical offset of its last message.
    last: u64,
    first_time_ms: i64,
    last_time_ms: i64,
}

impl FullFile {
    fn new(header: &Header) -> Self {
        let Header { first_physical, last_physical, first_time_ms, last_time_ms, .. } = *header;
        Self { start: first_physical, last: last_physical, first_time_ms, last_time_ms }
    }
}

impl IndexFiles {
    /// The index below `store_dir`: empty until it is [recovered](View::recover), as which it may be refused:
    /// [`StoreError::Corrupt`] where entries are missing or a file is not one of an index,
    /// [`StoreError::Contradiction`] where the files have another shape, [`StoreError::Illegal`] for a shape without room.
    pub fn new(disk: Arc<dyn Disk>, store_dir: &Path, shape: IndexShape, keys: Reads<Keys>) -> Self {
        Self { disk, dir: store_dir.join(DIRECTORY), shape, keys, state: Mutex::default() }
    }

    /// What the files say, entries from `limit` on and files wholly below `start` being removed durably.
    fn read(&self, limit: u64, start: u64) -> Result<State, StoreError> {
        let mut files = list_by_offset(&*self.disk, &self.dir)?;
        // The last one first: whatever a crash leaves is the start of the index.
        while let Some((_, path)) = files.pop_if(|(first, _)| *first >= limit) {
            self.disk.remove(&path).map_err(StoreError::io("remove", &path))?;
        }
        let Some((last, _)) = files.pop() else { return Ok(State { start, ..State::default() }) };
        let mut full = files.iter().map(|(first, _)| self.read_full(*first)).collect::<Result<_, _>>()?;
        self.remove_all(take_dropped(&mut full, start))?;
        let writable = WritableIndex::recover(self.open_file(last)?, self.shape, last, limit)?;
        Ok(State { start, full, writable: Some(writable), ..State::default() })
    }

    fn remove_all(&self, files: Vec<FullFile>) -> Result<(), StoreError> {
        for path in files.iter().map(|file| self.path_of(file.start)) {
            self.disk.remove(&path).map_err(StoreError::io("remove", &path))?;
        }
        Ok(())
    }

    fn read_full(&self, start: u64) -> Result<FullFile, StoreError> {
        let file = self.open_file(start)?;
        let header = Header::read(&*file, self.shape, start)?;
        if header.is_full(self.shape) {
            return Ok(FullFile::new(&header));
        }
        Err(StoreError::Corrupt {
            path: file.path().to_owned(),
            position: 0,
            physical_offset: start,
            what: format!(
                "{header:?}: it is not full, though another file follows; remove the index to have it rebuilt"
            ),
        })
    }

    fn path_of(&self, start: u64) -> PathBuf {
        self.dir.join(offset_name(start))
    }

    fn open_file(&self, start: u64) -> Result<Arc<dyn DiskFile>, StoreError> {
        let path = self.path_of(start);
        self.disk.open(&path).map_err(StoreError::io("open", &path))
    }

    /// Adds a key of the message at `physical_offset`, stored at `store_time_ms`. Queries find it at once. For reput only.
    ///
    /// # Errors
    /// [`StoreError::Divergence`] where the message lies before the last one added; [`StoreError::TooLarge`] where the
    /// message has more keys than a file has room for (this key is left out); the disk refused.
    pub fn add(
        &self,
        topic: &str,
        key: &str,
        physical_offset: u64,
        store_time_ms: i64,
    ) -> Result<(), StoreError> {
        let hash = index_key_hash(topic, key).unsigned_abs();
        let mut state = self.state.lock();
        let State { full, writable, unsynced, has_new, .. } = &mut *state;
        if let Some(current) = writable {
            self.check_follows(current, physical_offset)?;
        }
        if let Some(complete) = writable.take_if(|current| current.is_full()) {
            full.push(FullFile::new(complete.header()));
            unsynced.push(complete.seal()?);
        }
        let current = match writable {
            Some(current) => current,
            None => {
                *has_new = true;
                writable.insert(self.create(physical_offset)?)
            }
        };
        current.put(hash, physical_offset, store_time_ms)
    }

    /// Checks that a key of the message at `physical` can come after what `current` holds, in it or in a next file.
    fn check_follows(&self, current: &WritableIndex, physical: u64) -> Result<(), StoreError> {
        let Header { first_physical, last_physical, .. } = *current.header();
        if physical < last_physical {
            return Err(StoreError::Divergence(format!(
                "{}: a key of the message at {physical}, after one of the message at {last_physical}",
                self.dir.display()
            )));
        }
        if current.is_full() && physical == first_physical {
            let limit = u64::from(self.shape.entries) - 1;
            return Err(StoreError::TooLarge { what: "number of keys of a message", size: limit + 1, limit });
        }
        Ok(())
    }

    /// Without waiting for the disk: what of it a crash leaves lies behind the last checkpoint, and goes at the next start.
    fn create(&self, physical: u64) -> Result<WritableIndex, StoreError> {
        let path = self.path_of(physical);
        let file = self.disk.create_unsynced(&path, self.shape.file_len());
        let file = file.map_err(StoreError::io("create", &path))?;
        Ok(WritableIndex::new(file, self.shape, physical))
    }

    /// The physical offsets of messages with that key, newest first, at most `max`. Messages whose key has the same
    /// hash, and messages stored less than a second outside of `[begin_ms, end_ms]`, may be among them: the record
    /// itself decides. May read from the disk.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] where the index contradicts itself; the disk refused.
    pub fn query(
        &self,
        topic: &str,
        key: &str,
        begin_ms: i64,
        end_ms: i64,
        max: usize,
    ) -> Result<Vec<u64>, StoreError> {
        if begin_ms > end_ms {
            return Ok(Vec::new());
        }
        let hash = index_key_hash(topic, key).unsigned_abs();
        let mut search = Search { hash, times_ms: begin_ms..=end_ms, max, found: Vec::new() };
        // Only what is in memory is looked at with the lock held: a slot may be long, and reput is waiting.
        let (begun, full) = {
            let state = self.state.lock();
            let begun = state.writable.as_ref().map(|writable| writable.begin_search(&mut search));
            let may_hold = |f: &&FullFile| search.may_hold(f.first_time_ms, f.last_time_ms);
            (begun, state.needed().filter(may_hold).copied().collect::<Vec<_>>())
        };
        if let Some((file, number)) = begun {
            search.walk(&*file, self.shape, number)?;
        }
        for FullFile { start, last, .. } in full.into_iter().rev() {
            if search.is_done() {
                break;
            }
            let walked = self.open_file(start).and_then(|file| search.walk_full(&*file, self.shape));
            // Files before one that went meanwhile have gone as well.
            if walked.is_err() && last < self.state.lock().start {
                break;
            }
            walked?;
        }
        Ok(search.found)
    }
}

impl State {
    /// The full files that are needed: all but some of the first.
    fn needed(&self) -> impl Iterator<Item = &FullFile> {
        self.full.iter().filter(|file| file.last >= self.start)
    }
}

/// Takes those out that lie wholly below `start`, which are the first ones.
fn take_dropped(full: &mut Vec<FullFile>, start: u64) -> Vec<FullFile> {
    let kept = full.partition_point(|file| file.last < start);
    full.drain(..kept).collect()
}

impl View for IndexFiles {
    fn dir(&self) -> &Path {
        &self.dir
    }

    fn properties(&self) -> &'static [&'static str] {
        self.keys.properties
    }

    fn put(&self, committed: &Committed<'_>) -> Result<(), StoreError> {
        let (topic, physical_offset) = (committed.record.topic(), committed.physical_offset());
        let stored = committed.record.store_timestamp_ms();
        let mut failed = None;
        (self.keys.read)(committed, &mut |key| {
            if failed.is_none() {
                failed = self.add(topic, key, physical_offset, stored).err();
            }
        });
        failed.map_or(Ok(()), Err)
    }

    fn held(&self) -> Numbers {
        let state = self.state.lock();
        let in_full = state.needed().count() as u64 * (u64::from(self.shape.entries) - 1);
        let entries =
            in_full + state.writable.as_ref().map_or(0, |writable| u64::from(writable.header().entries()));
        Numbers::new([("index_start", state.start), ("index_entries", entries)])
    }

    fn flush(&self) -> Result<(), StoreError> {
        let (current, full, has_new) = {
            let mut state = self.state.lock();
            let current = state.writable.as_mut().map(WritableIndex::write_out).transpose()?.flatten();
            (current, state.unsynced.clone(), std::mem::take(&mut state.has_new))
        };
        for file in full.iter().chain(current.iter().map(|current| &current.file)) {
            file.sync().map_err(StoreError::io("sync", file.path()))?;
        }
        // Its own, and that of the store.
        for dir in self.dir.ancestors().take(if has_new { 2 } else { 0 }) {
            self.disk.sync_dir(dir).map_err(StoreError::io("sync", dir))?;
        }
        let mut state = self.state.lock();
        state.unsynced.retain(|file| !full.iter().any(|synced| Arc::ptr_eq(file, synced)));
        if let (Some(done), Some(writable)) = (current, &mut state.writable) {
            writable.synced(&done);
        }
        Ok(())
    }

    fn clean_up(&self, _: u64, recorded: &Numbers) -> Result<(), StoreError> {
        let dropped = take_dropped(&mut self.state.lock().full, recorded.get("index_start"));
        self.remove_all(dropped)
    }

    fn recover(&self, physical_limit: u64, recorded: &Numbers) -> Result<(), StoreError> {
        self.shape.check()?;
        *self.state.lock() = State::default();
        *self.state.lock() = self.read(physical_limit, recorded.get("index_start"))?;
        Ok(())
    }

    /// Full files go with the next checkpoint, which does not count them any more.
    fn drop_below(&self, physical_offset: u64) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        state.start = state.start.max(physical_offset);
        Ok(())
    }
}
