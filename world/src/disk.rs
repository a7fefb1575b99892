//! What is asked of a disk, as traits.
//!
//! Every file has a fixed length, is written at positions (never through the mapping, so that a
//! full disk is an error and not a signal) and is read as one slice of bytes. [`OsDisk`](crate::OsDisk) is the real one.

use std::any::Any;
use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file of fixed length.
pub trait DiskFile: Send + Sync + Debug {
    /// The path it was opened under, for error messages.
    fn path(&self) -> &Path;

    /// Its length in bytes; never changes.
    fn len(&self) -> u64;

    /// Whether the file has no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes `bytes` at `position`, all or an error. Past the end is [`io::ErrorKind::InvalidInput`].
    fn write_at(&self, position: u64, bytes: &[u8]) -> io::Result<()>;

    /// Writes the pieces one after the other from `position` on, all or an error.
    fn write_vectored_at(&self, position: u64, pieces: &[IoSlice<'_>]) -> io::Result<()>;

    /// The whole file. Bytes that were written are seen at once. The caller looks only at bytes that are not being
    /// rewritten at the same time: each structure publishes how far it may be read. A page that the disk cannot deliver
    /// is a signal, not an error: for what was written or read lately.
    fn bytes(&self) -> &[u8];

    /// Fills `bytes` with what the file holds from `position` on, all or an error. For what may have been on the disk for
    /// long, and for holes, which some file systems fill as soon as they are looked at through a map.
    fn read_at(&self, position: u64, bytes: &mut [u8]) -> io::Result<()>;

    /// Returns when everything written before is durable.
    fn sync(&self) -> io::Result<()>;

    /// Writes zeros over a range that nothing else touches at the same time, past the page cache where the disk can
    /// do that, and has them read in. Written blocks are cheaper to sync later than blocks that are only allocated.
    /// Not durable by itself.
    fn write_zeros(&self, position: u64, len: u64) -> io::Result<()>;

    /// The first range at or behind `position` that may hold bytes other than zero, or `None` where all the rest is known never
    /// to have been written. Reading may make what is behind a range part of it: the kernel reads ahead.
    fn next_data(&self, position: u64) -> io::Result<Option<Range<u64>>>;
}

/// What a new file has in place of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Blocks: writing to the file later can neither fill the disk nor change where its bytes are.
    Allocated,
    /// Nothing: blocks come as it is written, and a write fails where there are none left. For files of which there
    /// are many, most of them nearly empty.
    Sparse,
}

/// How full a disk is, in bytes of what is not reserved for the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskUsage {
    /// What more can be written.
    pub free: u64,
    /// That, and what is in use.
    pub all: u64,
}

impl DiskUsage {
    /// A disk that never fills: for disks that are made up.
    pub const EMPTY: Self = Self { free: 1 << 60, all: 1 << 60 };

    /// The part that is in use, from 0 to 1.
    pub fn used(&self) -> f64 {
        if self.all == 0 { 1.0 } else { 1.0 - self.free as f64 / self.all as f64 }
    }
}

/// A disk: files by path.
pub trait Disk: Send + Sync + Debug {
    /// Opens an existing file; its length is what the disk has.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Creates a file of `len` zero bytes, or fails with nothing left behind. The directory is created too, and the
    /// file's entry is durable on return.
    fn create(&self, path: &Path, len: u64, space: Space) -> io::Result<Arc<dyn DiskFile>>;

    /// Creates a file of `len` zero bytes without waiting for the disk. Its directory is created too. What of it a crash
    /// leaves is certain only after [`DiskFile::sync`] and a [`sync_dir`](Self::sync_dir) of each directory above it; before
    /// that the file may be missing, or shorter.
    fn create_unsynced(&self, path: &Path, len: u64) -> io::Result<Arc<dyn DiskFile>>;

    /// Returns when what was created directly below `dir` is there for good.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Returns when all that was made and written before below `dir` is there for good: one wait for very many files. What
    /// others wrote to the same file system may become so with it.
    fn sync_all(&self, dir: &Path) -> io::Result<()>;

    /// Files and folders directly below `dir`, sorted by path; none where `dir` does not exist.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;

    /// Removes a file; the removal is durable on return.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Removes a folder with everything below it, if it is there; the removal is durable on return.
    fn remove_all(&self, dir: &Path) -> io::Result<()>;

    /// How much the disk below `dir` has room for. Not always so much can be written: quotas may be smaller.
    fn usage(&self, dir: &Path) -> io::Result<DiskUsage>;

    /// Takes the lock that the file at `path` stands for, made with its folder where it is missing; `None` where
    /// somebody else has it. It is released when what is returned is dropped, or when the process ends.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Any + Send>>>;

    /// The content of a small file, or `None` where there is none.
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>>;

    /// Replaces a small file's content in one step: after a crash it holds the old content or the new.
    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()>;
}

/// Position behind the last byte at or behind `from` that is not zero.
pub fn data_end(file: &dyn DiskFile, from: u64) -> io::Result<Option<u64>> {
    const STEP: u64 = 64 * 1024;
    static ZEROS: [u8; STEP as usize] = [0; STEP as usize];
    // All of them before anything is read.
    let (mut ranges, mut at) = (Vec::new(), from);
    while at < file.len()
        && let Some(range) = file.next_data(at)?.filter(|range| range.start < file.len())
    {
        at = range.end.max(at + 1);
        ranges.push(range.start..range.end.min(file.len()));
    }
    // A page first: of most files no more is written.
    let (mut chunk, mut step, mut found) = (Vec::new(), 4096 - from % 4096, None);
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            chunk.resize(step.min(range.end - at) as usize, 0);
            file.read_at(at, &mut chunk)?;
            // Comparing first: most of what is there is zeros written ahead.
            if chunk[..] != ZEROS[..chunk.len()]
                && let Some(last) = chunk.iter().rposition(|b| *b != 0)
            {
                found = Some(at + last as u64 + 1);
            }
            at += chunk.len() as u64;
            step = STEP;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::{FileLayer, OsDisk};

    /// Counts what is read.
    #[derive(Debug)]
    struct Counted(Arc<dyn DiskFile>, AtomicU64);

    impl FileLayer for Counted {
        fn below(&self) -> &dyn DiskFile {
            &*self.0
        }
        fn read_at(&self, position: u64, bytes: &mut [u8]) -> io::Result<()> {
            self.1.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            self.0.read_at(position, bytes)
        }
    }

    /// The kernel reads ahead, and what it has read counts as written from then on.
    #[test]
    fn the_end_of_the_data_is_found_without_reading_what_was_never_written() {
        const MIB: u64 = 1 << 20;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = OsDisk.create(&path, 64 * MIB, Space::Allocated).unwrap();
        file.write_at(MIB, &[7; 300_000]).unwrap();
        drop(file);
        let file = Counted(OsDisk.open(&path).unwrap(), AtomicU64::new(0));
        for _ in 0..3 {
            for from in [0, MIB + 100_000, 2 * MIB] {
                file.1.store(0, Ordering::Relaxed);
                let end = data_end(&file, from).unwrap();
                assert_eq!(end, (from < 2 * MIB).then_some(MIB + 300_000));
                assert!(file.1.load(Ordering::Relaxed) < 4 * MIB);
            }
        }
    }
}
