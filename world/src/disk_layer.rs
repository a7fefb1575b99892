//! Disks that do some of it otherwise than the one below them, and leave the rest to it: what tests count and refuse.

use std::any::Any;
use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, DiskFile, DiskUsage, Space};

/// A [`Disk`] over another: what it does not say itself is as below.
#[allow(missing_docs, reason = "as in `Disk`")]
pub trait DiskLayer: Send + Sync + Debug {
    /// The one below.
    fn below(&self) -> &dyn Disk;

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.below().open(path)
    }
    fn create(&self, path: &Path, len: u64, space: Space) -> io::Result<Arc<dyn DiskFile>> {
        self.below().create(path, len, space)
    }
    fn create_unsynced(&self, path: &Path, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        self.below().create_unsynced(path, len)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.below().sync_dir(dir)
    }
    fn sync_all(&self, dir: &Path) -> io::Result<()> {
        self.below().sync_all(dir)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.below().remove(path)
    }
    fn remove_all(&self, dir: &Path) -> io::Result<()> {
        self.below().remove_all(dir)
    }
    fn usage(&self, dir: &Path) -> io::Result<DiskUsage> {
        self.below().usage(dir)
    }
}

impl<T: DiskLayer> Disk for T {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        DiskLayer::open(self, path)
    }
    fn create(&self, path: &Path, len: u64, space: Space) -> io::Result<Arc<dyn DiskFile>> {
        DiskLayer::create(self, path, len, space)
    }
    fn create_unsynced(&self, path: &Path, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        DiskLayer::create_unsynced(self, path, len)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        DiskLayer::sync_dir(self, dir)
    }
    fn sync_all(&self, dir: &Path) -> io::Result<()> {
        DiskLayer::sync_all(self, dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.below().list(dir)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        DiskLayer::remove(self, path)
    }
    fn remove_all(&self, dir: &Path) -> io::Result<()> {
        DiskLayer::remove_all(self, dir)
    }
    fn usage(&self, dir: &Path) -> io::Result<DiskUsage> {
        DiskLayer::usage(self, dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Any + Send>>> {
        self.below().lock(path)
    }
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        self.below().read(path)
    }
    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.below().replace(path, content)
    }
}

/// A [`DiskFile`] over another: what it does not say itself is as below.
#[allow(missing_docs, reason = "as in `DiskFile`")]
pub trait FileLayer: Send + Sync + Debug {
    /// The one below.
    fn below(&self) -> &dyn DiskFile;

    fn write_at(&self, position: u64, bytes: &[u8]) -> io::Result<()> {
        self.below().write_at(position, bytes)
    }
    fn write_vectored_at(&self, position: u64, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        self.below().write_vectored_at(position, pieces)
    }
    fn read_at(&self, position: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.below().read_at(position, bytes)
    }
    fn sync(&self) -> io::Result<()> {
        self.below().sync()
    }
}

impl<T: FileLayer> DiskFile for T {
    fn path(&self) -> &Path {
        self.below().path()
    }
    fn len(&self) -> u64 {
        self.below().len()
    }
    fn write_at(&self, position: u64, bytes: &[u8]) -> io::Result<()> {
        FileLayer::write_at(self, position, bytes)
    }
    fn write_vectored_at(&self, position: u64, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        FileLayer::write_vectored_at(self, position, pieces)
    }
    fn bytes(&self) -> &[u8] {
        self.below().bytes()
    }
    fn read_at(&self, position: u64, bytes: &mut [u8]) -> io::Result<()> {
        FileLayer::read_at(self, position, bytes)
    }
    fn sync(&self) -> io::Result<()> {
        FileLayer::sync(self)
    }
    fn write_zeros(&self, position: u64, len: u64) -> io::Result<()> {
        self.below().write_zeros(position, len)
    }
    fn next_data(&self, position: u64) -> io::Result<Option<Range<u64>>> {
        self.below().next_data(position)
    }
}
