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

/// Files of one length, back to back.
#[derive(Debug)]
pub struct MappedFileQueue {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    file_len: u64,
    max_open: usize,
    table: RwLock<Table>,
}

/// Invariant: file `i` covers `[start + i * file_len, start + (i + 1) * file_len)`, and no end overflows.
#[derive(Debug, Default)]
struct Table {
    start: u64,
    /// `None` for a file that is on the disk and not open at the moment.
    files: VecDeque<Option<Arc<dyn DiskFile>>>,
    open: usize,
}

impl Table {
    fn end(&self, file_len: u64) -> u64 {
        self.start + self.files.len() as u64 * file_len
    }

    fn index_of(&self, offset: u64, file_len: u64) -> Option<usize> {
        let index = usize::try_from(offset.checked_sub(self.start)? / file_len).ok()?;
        (index < self.files.len()).then_some(index)
    }

    /// Keeps `file` open as number `index`, and closes the oldest others beyond `max_open`, the last file excepted:
    /// that is where the writer is.
    fn keep_open(&mut self, index: usize, file: Arc<dyn DiskFile>, max_open: usize) {
        if self.files[index].replace(file).is_none() {
            self.open += 1;
        }
        let last = self.files.len() - 1;
        for other in (0..last).filter(|i| *i != index) {
            if self.open <= max_open {
                break;
            }
            if self.files[other].take().is_some() {
                self.open -= 1;
            }
        }
    }

    /// Counts a file that was taken out of `files`.
    fn taken_out(&mut self, file: Option<Option<Arc<dyn DiskFile>>>) {
        if file.flatten().is_some() {
            self.open -= 1;
        }
    }
}

impl MappedFileQueue {
    /// Opens what `dir` holds; nothing is created. Of the files at most `max_open`, though never fewer than two, are
    /// kept open (a descriptor and a map each); the others are opened again when they are asked for.
    ///
    /// # Errors
    /// [`StoreError::Contradiction`] where the files have another length than `file_len` bytes,
    /// [`StoreError::Corrupt`] where a name is not a position, a file is missing in the middle or one differs in
    /// length, [`StoreError::Illegal`] for a length of 0.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, file_len: u64, max_open: usize) -> Result<Self, StoreError> {
        if file_len == 0 {
            return Err(StoreError::Illegal(format!("files of 0 bytes in {}", dir.display())));
        }
        let queue = Self::new(disk, dir, file_len, max_open);
        for (start, path) in list_by_offset(&*queue.disk, dir)? {
            queue.adopt(start, &path)?;
        }
        Ok(queue)
    }

    /// The same without looking at what `dir` holds: for one that has no files.
    pub(crate) fn new(disk: Arc<dyn Disk>, dir: &Path, file_len: u64, max_open: usize) -> Self {
        Self { disk, dir: dir.to_owned(), file_len, max_open: max_open.max(2), table: RwLock::default() }
    }

    /// Takes a file found on the disk in as the last one.
    fn adopt(&self, start: u64, path: &Path) -> Result<(), StoreError> {
        let mut table = self.table.write();
        let end = table.end(self.file_len);
        if !table.files.is_empty() && start != end {
            return Err(corrupt(path, start, format!("the file before it ends at {end}: one is missing")));
        }
        if start.checked_add(self.file_len).is_none() {
            return Err(corrupt(path, start, "its end is past the largest position".to_owned()));
        }
        let file = self.disk.open(path).map_err(StoreError::io("open", path))?;
        if file.len() != self.file_len {
            return Err(self.wrong_length(&*file, start, table.files.is_empty()));
        }
        if table.files.is_empty() {
            table.start = start;
        }
        table.files.push_back(None);
        let index = table.files.len() - 1;
        table.keep_open(index, file, self.max_open);
        Ok(())
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
            if let Some(file) = &table.files[index] {
                let start = table.start + index as u64 * self.file_len;
                return Ok(Some(FileAt { start, file: Arc::clone(file) }));
            }
        }
        self.reopen(offset)
    }

    fn reopen(&self, offset: u64) -> Result<Option<FileAt>, StoreError> {
        let mut table = self.table.write();
        let Some(index) = table.index_of(offset, self.file_len) else { return Ok(None) };
        let start = table.start + index as u64 * self.file_len;
        let file = match &table.files[index] {
            Some(file) => Arc::clone(file),
            None => {
                let path = self.path_of(start);
                let file = self.disk.open(&path).map_err(StoreError::io("open", &path))?;
                if file.len() != self.file_len {
                    return Err(self.wrong_length(&*file, start, false));
                }
                table.keep_open(index, Arc::clone(&file), self.max_open);
                file
            }
        };
        Ok(Some(FileAt { start, file }))
    }

    /// Creates the file that starts at `start`: where the last one ends, or anywhere if there is none. Its bytes are 0.
    ///
    /// # Errors
    /// [`StoreError::Divergence`] for any other `start`; the disk refused (nothing was changed then).
    pub fn push(&self, start: u64) -> Result<FileAt, StoreError> {
        self.push_created(start, |path| self.disk.create(path, self.file_len, Space::Sparse))
    }

    /// The same without waiting for the disk: see [`Disk::create_unsynced`].
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub(crate) fn push_unsynced(&self, start: u64) -> Result<FileAt, StoreError> {
        self.push_created(start, |path| self.disk.create_unsynced(path, self.file_len))
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
        let mut table = self.table.write();
        if table.files.is_empty() {
            table.start = start;
        }
        table.files.push_back(None);
        let index = table.files.len() - 1;
        table.keep_open(index, Arc::clone(&file), self.max_open);
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
                let file = table.files.pop_back();
                table.taken_out(file);
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
                let file = table.files.pop_front();
                table.taken_out(file);
                table.start += self.file_len;
                start
            };
            self.remove(start)?;
        }
    }

    /// Closes every file; each is opened again when it is asked for. Gives back the memory that reading through all
    /// of a file has mapped.
    pub fn close_files(&self) {
        let mut table = self.table.write();
        table.files.iter_mut().for_each(|file| *file = None);
        table.open = 0;
    }

    fn remove(&self, start: u64) -> Result<(), StoreError> {
        let path = self.path_of(start);
        self.disk.remove(&path).map_err(StoreError::io("remove", &path))
    }

    fn path_of(&self, start: u64) -> PathBuf {
        self.dir.join(offset_name(start))
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

    fn open(dir: &Path) -> Result<MappedFileQueue, StoreError> {
        MappedFileQueue::open(Arc::new(OsDisk), dir, LEN, 2)
    }

    fn with_files(dir: &Path, starts: &[u64]) -> MappedFileQueue {
        let queue = open(dir).unwrap();
        for start in starts {
            queue.push(*start).unwrap();
        }
        queue
    }

    fn open_files(queue: &MappedFileQueue) -> usize {
        let table = queue.table.read();
        assert_eq!(table.open, table.files.iter().flatten().count());
        table.open
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
    fn keeps_few_files_open_and_always_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let starts: Vec<u64> = (0..6).map(|i| i * LEN).collect();
        let queue = with_files(dir.path(), &starts);
        assert_eq!(open_files(&queue), 2);
        let held = queue.file_at(0).unwrap().unwrap();
        for start in &starts {
            queue.file_at(*start).unwrap().unwrap().file.write_at(0, &[*start as u8 + 1]).unwrap();
            assert_eq!(open_files(&queue), 2);
            assert!(queue.table.read().files[5].is_some());
        }
        // A file that the queue has closed stays readable for those who hold it.
        assert_eq!(held.file.bytes()[0], 1);
        queue.close_files();
        assert_eq!(open_files(&queue), 0);
        assert_eq!(queue.file_at(0).unwrap().unwrap().file.bytes()[0], 1);
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
        assert_eq!(queue.range(), None);
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
        assert!(MappedFileQueue::open(Arc::new(OsDisk), dir.path(), 0, 2).is_err());
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
        let (zero, one, two) = (offset_name(0), offset_name(LEN), offset_name(2 * LEN));
        for (error, culprit) in [
            (case(&["4096"], None), "4096"),
            (case(&["not-a-number-in-20-di"], None), "not-a-number"),
            (case(&["99999999999999999999"], None), "9999"),
            (case(&["18446744073709551615"], None), "largest position"),
            (case(&[&zero, &two], None), &two),
            (case(&[&zero], Some(&one)), "it has 7 bytes"),
        ] {
            assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
            assert!(error.to_string().contains(culprit), "{error}");
        }
        let error = case(&[], Some(&zero));
        assert!(matches!(error, StoreError::Contradiction { .. }), "{error}");
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
