//! Files that are open, over everybody who has many: a bounded number of descriptors and maps.
//!
//! Who has many files keeps a [`Pooled`] of each and opens it again where it was closed meanwhile. Whoever reads a file holds
//! it, so it stays as long as that takes. To find an open file nothing is locked here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use raftmq_world::{Disk, DiskFile, World};

use crate::error::StoreError;

/// Files that a checkpoint syncs one by one. Where there are more of them the disk is asked once for all that is on it,
/// which takes less time: it may have to write for others as well, but finds the blocks for all of it together.
const SYNC_EACH_MAX: usize = 64;

/// Fewer than these are of no use.
const FILES_MIN: usize = 8;

/// The disk, and what of it is kept open.
#[derive(Debug)]
pub struct OpenFiles {
    disk: Arc<dyn Disk>,
    max: usize,
    ring: Mutex<Ring>,
}

/// A hand goes round the places and closes what was not used since it was there before.
#[derive(Debug, Default)]
struct Ring {
    places: Vec<Option<Arc<Open>>>,
    free: Vec<usize>,
    hand: usize,
}

/// An open file.
#[derive(Debug)]
struct Open {
    file: Arc<dyn DiskFile>,
    used: AtomicBool,
    place: usize,
}

/// A file that is open, unless it was closed for others.
#[derive(Debug, Default)]
pub(crate) struct Pooled(Weak<Open>);

impl Pooled {
    /// The file where it is open.
    pub(crate) fn get(&self) -> Option<Arc<dyn DiskFile>> {
        let open = self.0.upgrade()?;
        // Not written where it says so already: many may read it at the same time.
        if !open.used.load(Ordering::Relaxed) {
            open.used.store(true, Ordering::Relaxed);
        }
        Some(open.file.clone())
    }
}

impl OpenFiles {
    /// At most `max` files of `disk`, and those beyond that are in use at the moment.
    pub fn new(disk: Arc<dyn Disk>, max: usize) -> Arc<Self> {
        Arc::new(Self { disk, max: max.max(FILES_MIN), ring: Mutex::default() })
    }

    /// As many as the world allows.
    pub fn of(world: &World) -> Arc<Self> {
        Self::new(world.disk.clone(), world.open_files_max)
    }

    /// The disk.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// Opens a file. It is not counted before it is [kept](Self::keep).
    pub(crate) fn open(&self, path: &Path) -> std::io::Result<Arc<dyn DiskFile>> {
        self.disk.open(path)
    }

    /// Keeps an open file, and closes another one that is not in use where there are too many.
    pub(crate) fn keep(&self, file: Arc<dyn DiskFile>) -> Pooled {
        let mut ring = self.ring.lock();
        let (place, closed) = ring.make_room(self.max);
        let open = Arc::new(Open { file, used: AtomicBool::new(false), place });
        let pooled = Pooled(Arc::downgrade(&open));
        ring.places[place] = Some(open);
        drop(ring);
        // Unmapping takes its time.
        drop(closed);
        pooled
    }

    /// Closes a file that was kept; for those who read it now it stays.
    pub(crate) fn close(&self, pooled: &Pooled) {
        let Some(open) = pooled.0.upgrade() else { return };
        let mut ring = self.ring.lock();
        let kept = ring.places[open.place].take_if(|other| Arc::ptr_eq(other, &open));
        if kept.is_some() {
            ring.free.push(open.place);
        }
        drop(ring);
        drop((kept, open));
    }

    /// Makes durable what was written to `parts` below `dir`, the directory of the store. `sync` does it for one of them, and
    /// names the directories that are to be synced with it; of all that each is synced once.
    pub(crate) fn sync<T>(
        &self,
        dir: &Path,
        parts: &[T],
        sync: impl Fn(&T, &mut BTreeSet<PathBuf>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        if parts.len() > SYNC_EACH_MAX {
            return self.disk.sync_all(dir).map_err(StoreError::io("sync", dir));
        }
        let mut dirs = BTreeSet::new();
        parts.iter().try_for_each(|part| sync(part, &mut dirs))?;
        dirs.iter().try_for_each(|dir| self.disk.sync_dir(dir).map_err(StoreError::io("sync", dir)))
    }

    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.ring.lock().places.iter().flatten().count()
    }
}

impl Ring {
    /// A place that is free now, and what was closed for it.
    fn make_room(&mut self, max: usize) -> (usize, Option<Arc<Open>>) {
        if let Some(free) = self.free.pop() {
            return (free, None);
        }
        if self.places.len() >= max
            && let Some(place) = self.find_unused()
        {
            return (place, self.places[place].take());
        }
        self.places.push(None);
        (self.places.len() - 1, None)
    }

    /// Twice round: what was used since the last time is spared once, and what is in use each time.
    fn find_unused(&mut self) -> Option<usize> {
        for _ in 0..2 * self.places.len() {
            let place = self.hand;
            self.hand = (place + 1) % self.places.len();
            let Some(open) = &self.places[place] else { continue };
            if Arc::strong_count(&open.file) == 1 && !open.used.swap(false, Ordering::Relaxed) {
                return Some(place);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raftmq_world::memory_file;

    fn kept(files: &OpenFiles, name: &str) -> Pooled {
        files.keep(memory_file(Path::new(name), 4096).unwrap())
    }

    #[test]
    fn what_was_not_used_for_the_longest_is_closed_for_others() {
        let files = OpenFiles::new(Arc::new(raftmq_world::OsDisk), 10);
        let first: Vec<_> = (0..10).map(|n| kept(&files, &n.to_string())).collect();
        assert!(first[0].get().is_some() && first[3].get().is_some());
        let held = first[1].get();
        let later: Vec<_> = (10..17).map(|n| kept(&files, &n.to_string())).collect();
        assert_eq!(files.count(), 10);
        let open: Vec<_> = (0..10).filter(|n| first[*n].get().is_some()).collect();
        assert_eq!(open, [0, 1, 3]);
        assert!(later.iter().all(|file| file.get().is_some()));
        drop(held);

        // One that is closed leaves its place to the next, and its handle finds nothing any more.
        files.close(&later[2]);
        files.close(&later[2]);
        assert!(later[2].get().is_none() && files.count() == 9);
        let next = kept(&files, "next");
        assert!(files.count() == 10 && next.get().is_some() && first[3].get().is_some());
    }

    #[test]
    fn what_is_in_use_is_not_closed() {
        let files = OpenFiles::new(Arc::new(raftmq_world::OsDisk), 1);
        let first: Vec<_> = (0..FILES_MIN).map(|n| kept(&files, &n.to_string())).collect();
        let held: Vec<_> = first.iter().map(|file| file.get().unwrap()).collect();
        let one_more = kept(&files, "one more");
        assert!(first.iter().all(|file| file.get().is_some()) && one_more.get().is_some());
        assert_eq!(files.count(), FILES_MIN + 1);
        drop(held);
        let last = kept(&files, "last");
        assert!(files.count() == FILES_MIN + 1 && last.get().is_some());
    }
}
