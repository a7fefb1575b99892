//! The real disk, but for how much of it is free.

use std::any::Any;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use raftmq_world::{Disk, DiskFile, DiskUsage, OsDisk, Space, World};

/// A disk that is as full as a test says. Clones are handles to the same.
#[derive(Clone, Debug)]
pub struct ToldDisk(Arc<Mutex<DiskUsage>>);

impl Default for ToldDisk {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(DiskUsage::EMPTY)))
    }
}

impl ToldDisk {
    /// So many bytes are free from now on.
    pub fn set_free(&self, bytes: u64) {
        self.0.lock().free = bytes;
    }

    /// The system's world, with this disk.
    pub fn world(&self) -> World {
        World { disk: Arc::new(self.clone()), ..World::system() }
    }
}

impl Disk for ToldDisk {
    fn usage(&self, _: &Path) -> io::Result<DiskUsage> {
        Ok(*self.0.lock())
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        OsDisk.open(path)
    }

    fn create(&self, path: &Path, len: u64, space: Space) -> io::Result<Arc<dyn DiskFile>> {
        OsDisk.create(path, len, space)
    }

    fn create_unsynced(&self, path: &Path, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        OsDisk.create_unsynced(path, len)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        OsDisk.sync_dir(dir)
    }

    fn sync_all(&self, dir: &Path) -> io::Result<()> {
        OsDisk.sync_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        OsDisk.list(dir)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        OsDisk.remove(path)
    }

    fn remove_all(&self, dir: &Path) -> io::Result<()> {
        OsDisk.remove_all(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Any + Send>>> {
        OsDisk.lock(path)
    }

    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        OsDisk.read(path)
    }

    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        OsDisk.replace(path, content)
    }
}
