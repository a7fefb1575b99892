//! A directory of files of one length that together are one long run of bytes.
//!
//! Each file is named by the position of its first byte in that run, in 20 digits, and continues where the one before
//! ends. What the bytes mean is for others to know. One thread adds and removes files while any number read.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;

use crate::error::StoreError;
use crate::open_files::{OpenFiles, Pooled};
use raftmq_world::{Disk, DiskFile, Space};

/// Digits in the name of a file: enough for every `u64`, so that names sort as numbers do.
const NAME_DIGITS: usize = 20;

/// What a disk appends to the name of a file that is still being created; a crash may leave one behind.
const UNFINISHED_SUFFIX: &str = ".new";

/// A file and the position of its first byte in the whole run.
#[derive(Debug, Clone)]
pub struct FileAt {
    /// Position of the first byte of `file`.
    pub start: u64,
    /// The file.
    pub file: Arc<dyn DiskFile>,
}

/// Files of one length, back to back. Which of them are open is the matter of [`OpenFiles`].
#[derive(Debug)]
pub struct MappedFileQueue {
    files: Arc<OpenFiles>,
    dir: PathBuf,
    file_len: u64,
    table: RwLock<Table>,
}

/// Invariant: file `i` covers `[start + i * file_len, start + (i + 1) * file_len)`, and no end overflows.
#[derive(Debug, Default)]
struct Table {
    start: u64,
    files: VecDeque<Pooled>,
}

impl Table {
    fn end(&self, file_len: u64) -> u64 {
        self.start + self.files.len() as u64 * file_len
    }

    fn index_of(&self, offset: u64, file_len: u64) -> Option<usize> {
        let index = usize::try_from(offset.checked_sub(self.start)? / file_len).ok()?;
        (index < self.files.len()).then_some(index)
    }

    fn push(&mut self, start: u64, file: Pooled) {
        if self.files.is_empty() {
            self.start = start;
        }
        self.files.push_back(file);
    }
}

impl MappedFileQueue {
    /// Opens what `dir` holds. Files that were made without waiting for the disk may be missing after a crash, or be
    /// without bytes: the first one is made again, and later ones go, with all behind them. That they are missed is for
    /// those to see who counted on what was in them.
    ///
    /// # Errors
    /// [`StoreError::Contradiction`] where the files have another length than `file_len` bytes,
    /// [`StoreError::Corrupt`] where a name is not a position or one differs in length, [`StoreError::Illegal`] for a
    /// length of 0.
    pub fn open(files: Arc<OpenFiles>, dir: &Path, file_len: u64) -> Result<Self, StoreError> {
        if file_len == 0 {
            return Err(StoreError::Illegal(format!("files of 0 bytes in {}", dir.display())));
        }
        let queue = Self::new(files, dir, file_len);
        let mut found = list_by_offset(&**queue.files.disk(), dir)?;
        for at in 0..found.len() {
            let (start, path) = &found[at];
            if !queue.adopt(*start, path)? {
                found.drain(..at);
                // The last one first: whatever a crash leaves of them is behind the gap too.
                for (_, path) in found.iter().rev() {
                    queue.files.disk().remove(path).map_err(StoreError::io("remove", path))?;
                }
                break;
            }
        }
        Ok(queue)
    }

    /// The same without looking at what `dir` holds: for one that has no files that count.
    pub(crate) fn new(files: Arc<OpenFiles>, dir: &Path, file_len: u64) -> Self {
        Self { files, dir: dir.to_owned(), file_len, table: RwLock::default() }
    }

    /// Takes a file found on the disk in as the last one, unless it is behind a gap or never came to be.
    fn adopt(&self, start: u64, path: &Path) -> Result<bool, StoreError> {
        let mut table = self.table.write();
        let is_first = table.files.is_empty();
        if start.checked_add(self.file_len).is_none() {
            return Err(corrupt(path, start, "its end is past the largest position".to_owned()));
        }
        if !is_first && start != table.end(self.file_len) {
            return Ok(false);
        }
        let mut file = self.files.open(path).map_err(StoreError::io("open", path))?;
        if file.is_empty() {
            if !is_first {
                return Ok(false);
            }
            let created = self.files.disk().create_unsynced(path, self.file_len);
            file = created.map_err(StoreError::io("create", path))?;
        }
        if file.len() != self.file_len {
            return Err(self.wrong_length(&*file, start, is_first));
        }
        table.push(start, self.files.keep(file));
        Ok(true)
    }

    /// A first file of another length was made with another setting; a later one that differs was damaged.
    fn wrong_length(&self, file: &dyn DiskFile, start: u64, first: bool) -> StoreError {
        let (found, wanted) = (file.len(), self.file_len);
        if first {
            StoreError::Contradiction {
                path: file.path().to_owned(),
                what: "file length in bytes",
                found: found.to_string(),
                wanted: wanted.to_string(),
            }
        } else {
            corrupt(file.path(), start, format!("it has {found} bytes, the files before it {wanted}"))
        }
    }

    /// The length of each file in bytes.
    pub fn file_len(&self) -> u64 {
        self.file_len
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The positions covered by files, or `None` where there is no file.
    pub fn range(&self) -> Option<Range<u64>> {
        let table = self.table.read();
        (!table.files.is_empty()).then(|| table.start..table.end(self.file_len))
    }

    /// The start of every file, in order.
    pub fn starts(&self) -> Vec<u64> {
        let table = self.table.read();
        (0..table.files.len() as u64).map(|i| table.start + i * self.file_len).collect()
    }

    /// The file that holds position `offset`, opened if it was not.
    ///
    /// # Errors
    /// The disk refused to open it, or it has another length than when the queue was opened.
    pub fn file_at(&self, offset: u64) -> Result<Option<FileAt>, StoreError> {
        {
            let table = self.table.read();
            let Some(index) = table.index_of(offset, self.file_len) else { return Ok(None) };
            if let Some(file) = table.files[index].get() {
                return Ok(Some(FileAt { start: table.start + index as u64 * self.file_len, file }));
            }
        }
        self.reopen(offset)
    }

    fn reopen(&self, offset: u64) -> Result<Option<FileAt>, StoreError> {
        let mut table = self.table.write();
        let Some(index) = table.index_of(offset, self.file_len) else { return Ok(None) };
        let start = table.start + index as u64 * self.file_len;
        if let Some(file) = table.files[index].get() {
            return Ok(Some(FileAt { start, file }));
        }
        let path = self.path_of(start);
        let file = self.files.open(&path).map_err(StoreError::io("open", &path))?;
        if file.len() != self.file_len {
            return Err(self.wrong_length(&*file, start, false));
        }
        table.files[index] = self.files.keep(file.clone());
        Ok(Some(FileAt { start, file }))
    }

    /// Creates the file that starts at `start`: where the last one ends, or anywhere if there is none. Its bytes are 0.
    ///
    /// # Errors
    /// [`StoreError::Divergence`] for any other `start`; the disk refused (nothing was changed then).
    pub fn push(&self, start: u64) -> Result<FileAt, StoreError> {
        self.push_created(start, |path| self.files.disk().create(path, self.file_len, Space::Sparse))
    }

    /// The same without waiting for the disk: see [`Disk::create_unsynced`].
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub(crate) fn push_unsynced(&self, start: u64) -> Result<FileAt, StoreError> {
        self.push_created(start, |path| self.files.disk().create_unsynced(path, self.file_len))
    }

    fn push_created(
        &self,
        start: u64,
        create: impl FnOnce(&Path) -> io::Result<Arc<dyn DiskFile>>,
    ) -> Result<FileAt, StoreError> {
        let fits = match self.range() {
            Some(range) => start == range.end,
            None => true,
        };
        if !fits || start.checked_add(self.file_len).is_none() {
            let range = self.range();
            return Err(StoreError::Divergence(format!(
                "a file at {start} does not continue {range:?} in {}",
                self.dir.display()
            )));
        }
        // Without the lock, which readers need: allocating takes milliseconds. There is one writer.
        let path = self.path_of(start);
        let file = create(&path).map_err(StoreError::io("create", &path))?;
        self.table.write().push(start, self.files.keep(file.clone()));
        Ok(FileAt { start, file })
    }

    /// Removes every file that starts at or after `offset`, the last one first: whatever a crash leaves has no gap.
    ///
    /// # Errors
    /// The disk refused; the files from there on are no longer part of the queue either way.
    pub fn remove_from(&self, offset: u64) -> Result<(), StoreError> {
        loop {
            let start = {
                let mut table = self.table.write();
                if table.files.is_empty() {
                    return Ok(());
                }
                let start = table.end(self.file_len) - self.file_len;
                if start < offset {
                    return Ok(());
                }
                table.files.pop_back().iter().for_each(|file| self.files.close(file));
                start
            };
            self.remove(start)?;
        }
    }

    /// Removes every file that ends at or below `offset`, the first one first, but never the last file: its name is
    /// what remembers where the run of bytes has got to.
    ///
    /// # Errors
    /// The disk refused; the files before that one are gone, and it is no longer part of the queue.
    pub fn remove_below(&self, offset: u64) -> Result<(), StoreError> {
        loop {
            let start = {
                let mut table = self.table.write();
                if table.files.len() < 2 || table.start + self.file_len > offset {
                    return Ok(());
                }
                let start = table.start;
                table.files.pop_front().iter().for_each(|file| self.files.close(file));
                table.start += self.file_len;
                start
            };
            self.remove(start)?;
        }
    }

    /// Closes every file; each is opened again when it is asked for. Gives back the memory that reading through all
    /// of a file has mapped.
    pub fn close_files(&self) {
        self.table.read().files.iter().for_each(|file| self.files.close(file));
    }

    /// Has no files any more; those on the disk are for others to remove. Who reads one of them now can go on.
    pub(crate) fn forget_files(&self) {
        let files = std::mem::take(&mut self.table.write().files);
        files.iter().for_each(|file| self.files.close(file));
    }

    /// Returns when the files that were made are there for good, so far as this depends on the directory itself.
    pub(crate) fn sync_dir(&self) -> Result<(), StoreError> {
        self.files.disk().sync_dir(&self.dir).map_err(StoreError::io("sync", &self.dir))
    }

    fn remove(&self, start: u64) -> Result<(), StoreError> {
        let path = self.path_of(start);
        self.files.disk().remove(&path).map_err(StoreError::io("remove", &path))
    }

    fn path_of(&self, start: u64) -> PathBuf {
        self.dir.join(offset_name(start))
    }
}

impl Drop for MappedFileQueue {
    fn drop(&mut self) {
        self.close_files();
    }
}

/// The name of the file that starts at `offset`.
pub(crate) fn offset_name(offset: u64) -> String {
    format!("{offset:0NAME_DIGITS$}")
}

fn parse_offset(name: &str) -> Option<u64> {
    let digits = name.len() == NAME_DIGITS && name.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| name.parse().ok()).flatten()
}

/// The files of `dir` by the offset in their name, in order. Files whose creation a crash interrupted are removed.
pub(crate) fn list_by_offset(disk: &dyn Disk, dir: &Path) -> Result<Vec<(u64, PathBuf)>, StoreError> {
    let mut files = Vec::new();
    for path in disk.list(dir).map_err(StoreError::io("list", dir))? {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if let Some(start) = parse_offset(name) {
            files.push((start, path));
        } else if name.strip_suffix(UNFINISHED_SUFFIX).is_some_and(|n| parse_offset(n).is_some()) {
            disk.remove(&path).map_err(StoreError::io("remove", &path))?;
        } else {
            return Err(corrupt(&path, 0, format!("its name is not an offset in {NAME_DIGITS} digits")));
        }
    }
    files.sort();
    Ok(files)
}

fn corrupt(path: &Path, start: u64, what: String) -> StoreError {
    StoreError::Corrupt { path: path.to_owned(), position: 0, physical_offset: start, what }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use raftmq_world::OsDisk;

    const LEN: u64 = 4096;

    /// With a pool of the smallest size.
    fn open(dir: &Path) -> Result<MappedFileQueue, StoreError> {
        MappedFileQueue::open(pool(), dir, LEN)
    }

    fn pool() -> Arc<OpenFiles> {
        OpenFiles::new(Arc::new(OsDisk), 0)
    }

    fn with_files(dir: &Path, starts: &[u64]) -> MappedFileQueue {
        let queue = open(dir).unwrap();
        for start in starts {
            queue.push(*start).unwrap();
        }
        queue
    }

    fn open_files(queue: &MappedFileQueue) -> usize {
        let open = queue.table.read().files.iter().filter(|file| file.get().is_some()).count();
        assert_eq!(open, queue.files.count());
        open
    }

    #[test]
    fn finds_files_by_offset_and_reopens_them() {
        let dir = tempfile::tempdir().unwrap();
        let queue = with_files(dir.path(), &[LEN, 2 * LEN, 3 * LEN]);
        for queue in [queue, open(dir.path()).unwrap()] {
            assert_eq!(queue.range(), Some(LEN..4 * LEN));
            assert_eq!(queue.starts(), [LEN, 2 * LEN, 3 * LEN]);
            assert!(queue.file_at(LEN - 1).unwrap().is_none());
            assert!(queue.file_at(4 * LEN).unwrap().is_none());
            assert!(queue.file_at(u64::MAX).unwrap().is_none());
            for offset in [LEN, 2 * LEN - 1, 2 * LEN, 4 * LEN - 1] {
                let found = queue.file_at(offset).unwrap().unwrap();
                assert_eq!(found.start, offset / LEN * LEN);
                assert!(found.file.path().ends_with(offset_name(found.start)));
            }
        }
    }

    #[test]
    fn keeps_few_files_open() {
        let dir = tempfile::tempdir().unwrap();
        let starts: Vec<u64> = (0..20).map(|i| i * LEN).collect();
        let queue = with_files(dir.path(), &starts);
        let few = open_files(&queue);
        assert!(few < starts.len());
        let held = queue.file_at(0).unwrap().unwrap();
        for start in &starts {
            queue.file_at(*start).unwrap().unwrap().file.write_at(0, &[(*start / LEN) as u8 + 1]).unwrap();
            assert_eq!(open_files(&queue), few);
        }
        // A file that the queue has closed stays readable for those who hold it.
        queue.close_files();
        assert_eq!(open_files(&queue), 0);
        assert_eq!(held.file.bytes()[0], 1);
        assert_eq!(queue.file_at(0).unwrap().unwrap().file.bytes()[0], 1);
        // Another queue shares the bound, and one that is dropped leaves its part.
        let other = MappedFileQueue::open(queue.files.clone(), dir.path(), LEN).unwrap();
        assert_eq!(queue.files.count(), few);
        drop(other);
        assert_eq!(queue.files.count(), open_files(&queue));
        queue.forget_files();
        assert_eq!((queue.range(), queue.files.count()), (None, 0));
        assert_eq!(open(dir.path()).unwrap().starts(), starts);
    }

    #[test]
    fn removes_at_both_ends() {
        let dir = tempfile::tempdir().unwrap();
        let queue = with_files(dir.path(), &[0, LEN, 2 * LEN, 3 * LEN]);
        queue.remove_from(2 * LEN + 1).unwrap();
        assert_eq!(queue.range(), Some(0..3 * LEN));
        queue.remove_below(2 * LEN - 1).unwrap();
        assert_eq!(queue.range(), Some(LEN..3 * LEN));
        queue.remove_below(u64::MAX).unwrap();
        assert_eq!(queue.range(), Some(2 * LEN..3 * LEN));
        assert_eq!(open(dir.path()).unwrap().range(), queue.range());
        assert_eq!(open_files(&queue), 1);
        queue.remove_from(0).unwrap();
        assert_eq!((queue.range(), open_files(&queue)), (None, 0));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn refuses_a_file_that_does_not_continue() {
        let dir = tempfile::tempdir().unwrap();
        let queue = with_files(dir.path(), &[LEN]);
        for start in [0, LEN, LEN + 1, 3 * LEN] {
            assert!(matches!(queue.push(start), Err(StoreError::Divergence(_))), "{start}");
        }
        let empty = open(&dir.path().join("none")).unwrap();
        assert!(matches!(empty.push(u64::MAX - 1), Err(StoreError::Divergence(_))));
        assert!(MappedFileQueue::open(pool(), dir.path(), 0).is_err());
    }

    #[test]
    fn names_what_is_wrong_with_a_directory() {
        let length =
            |len: u64| move |dir: &Path, name: &str| fs::write(dir.join(name), vec![0; len as usize]);
        let full = length(LEN);
        let case = |files: &[&str], short: Option<&str>| {
            let dir = tempfile::tempdir().unwrap();
            files.iter().for_each(|name| full(dir.path(), name).unwrap());
            if let Some(name) = short {
                length(7)(dir.path(), name).unwrap();
            }
            open(dir.path()).unwrap_err()
        };
        let (zero, one) = (offset_name(0), offset_name(LEN));
        for (error, culprit) in [
            (case(&["4096"], None), "4096"),
            (case(&["not-a-number-in-20-di"], None), "not-a-number"),
            (case(&["99999999999999999999"], None), "9999"),
            (case(&["18446744073709551615"], None), "largest position"),
            (case(&[&zero], Some(&one)), "it has 7 bytes"),
        ] {
            assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
            assert!(error.to_string().contains(culprit), "{error}");
        }
        let error = case(&[], Some(&zero));
        assert!(matches!(error, StoreError::Contradiction { .. }), "{error}");
    }

    #[test]
    fn takes_in_what_a_crash_left_of_files_that_were_not_synced() {
        let names: Vec<_> = (0..4).map(|i| offset_name(i * LEN)).collect();
        for (empty, missing, left) in
            [(None, Some(1), 1), (Some(1), None, 1), (Some(3), None, 3), (Some(0), None, 4)]
        {
            let dir = tempfile::tempdir().unwrap();
            for (at, name) in names.iter().enumerate().filter(|(at, _)| Some(*at) != missing) {
                fs::write(dir.path().join(name), vec![1; if Some(at) == empty { 0 } else { LEN as usize }])
                    .unwrap();
            }
            let queue = open(dir.path()).unwrap();
            assert_eq!(queue.range(), Some(0..left * LEN), "{empty:?} {missing:?}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count() as u64, left);
            let first = queue.file_at(0).unwrap().unwrap().file;
            assert_eq!(first.bytes(), vec![u8::from(empty != Some(0)); LEN as usize]);
            assert_eq!(open(dir.path()).unwrap().range(), queue.range());
        }
    }

    #[test]
    fn forgets_a_file_whose_creation_was_interrupted() {
        let dir = tempfile::tempdir().unwrap();
        drop(with_files(dir.path(), &[0]));
        let unfinished = dir.path().join(format!("{}{UNFINISHED_SUFFIX}", offset_name(LEN)));
        fs::write(&unfinished, b"half").unwrap();
        assert_eq!(open(dir.path()).unwrap().range(), Some(0..LEN));
        assert!(!unfinished.exists());
    }
}
