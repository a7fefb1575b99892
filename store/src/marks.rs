//! Marks: how far the log is durable and committed, as far as this member knew when it last wrote them.
//!
//! Written without a sync after every flush, so after a killed process they are exact and after a lost machine they
//! lag by what the kernel had not written back. Recovery uses them in one direction only: below the flushed mark a
//! broken frame is corruption, not a torn tail. Two slots are written in turn; the newer one with a right checksum
//! counts.
//!
//! | at | size | field (little-endian) |
//! |---|---|---|
//! | 0 | 8 | sequence number of the write |
//! | 8 | 8 | flushed: physical offset |
//! | 16 | 8 | committed term |
//! | 24 | 8 | committed index + 1; zero where nothing is committed |
//! | 32 | 8 | 1 after a clean stop, else 0 |
//! | 40 | 4 | CRC-32C of bytes 0 to 39 |

use std::path::Path;
use std::sync::Arc;

use crate::directory::lost;
use crate::error::StoreError;
use raftmq_world::{Disk, DiskFile, Space};

const SLOT_BYTES: u64 = 512;
const CHECKED_BYTES: usize = 40;

/// Term and index of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryId {
    /// The term.
    pub term: u64,
    /// The index.
    pub index: u64,
}

/// What is marked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// The log is durable below this physical offset.
    pub(crate) flushed: u64,
    /// The last entry known to be committed.
    pub(crate) committed: Option<EntryId>,
    /// Whether the store was closed.
    pub(crate) clean: bool,
}

/// The file of the marks.
#[derive(Debug)]
pub(crate) struct MarksFile {
    file: Arc<dyn DiskFile>,
    sequence: u64,
}

impl MarksFile {
    /// Opens the file, or creates it where there is no log in `log_dir` yet; what it holds is the second value.
    pub(crate) fn open(disk: &dyn Disk, path: &Path, log_dir: &Path) -> Result<(Self, Marks), StoreError> {
        let file = match disk.open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                if !disk.list(log_dir).map_err(StoreError::io("list", log_dir))?.is_empty() {
                    return Err(lost(
                        path,
                        "it is missing, and there is a log: how far that was durable cannot be told",
                    ));
                }
                disk.create(path, 2 * SLOT_BYTES, Space::Allocated).map_err(StoreError::io("create", path))?
            }
            Err(e) => return Err(StoreError::io("open", path)(e)),
        };
        if file.len() != 2 * SLOT_BYTES {
            return Err(lost(
                path,
                &format!("a marks file has {} bytes, not {}", 2 * SLOT_BYTES, file.len()),
            ));
        }
        let newest =
            [0, SLOT_BYTES].into_iter().filter_map(|at| read_slot(file.bytes(), at)).max_by_key(|(n, _)| *n);
        if newest.is_none() && file.bytes().iter().any(|b| *b != 0) {
            return Err(lost(path, "neither of its two slots has the right checksum"));
        }
        let (sequence, marks) = newest.unwrap_or_default();
        Ok((Self { file, sequence }, marks))
    }

    /// Writes the marks; not synced.
    pub(crate) fn write(&mut self, marks: Marks) -> Result<(), StoreError> {
        self.sequence += 1;
        let mut slot = [0; CHECKED_BYTES + 4];
        slot[0..8].copy_from_slice(&self.sequence.to_le_bytes());
        slot[8..16].copy_from_slice(&marks.flushed.to_le_bytes());
        slot[16..24].copy_from_slice(&marks.committed.map_or(0, |c| c.term).to_le_bytes());
        slot[24..32].copy_from_slice(&marks.committed.map_or(0, |c| c.index + 1).to_le_bytes());
        slot[32..40].copy_from_slice(&u64::from(marks.clean).to_le_bytes());
        let checksum = crc32c::crc32c(&slot[..CHECKED_BYTES]);
        slot[CHECKED_BYTES..].copy_from_slice(&checksum.to_le_bytes());
        let at = self.sequence % 2 * SLOT_BYTES;
        self.file.write_at(at, &slot).map_err(StoreError::io("write", self.file.path()))
    }

    /// Makes what was written durable.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        self.file.sync().map_err(StoreError::io("sync", self.file.path()))
    }
}

fn read_slot(bytes: &[u8], at: u64) -> Option<(u64, Marks)> {
    let slot = bytes.get(at as usize..)?.first_chunk::<{ CHECKED_BYTES + 4 }>()?;
    let word = |n: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&slot[n * 8..n * 8 + 8]);
        u64::from_le_bytes(word)
    };
    let stored = u32::from_le_bytes([slot[40], slot[41], slot[42], slot[43]]);
    if crc32c::crc32c(&slot[..CHECKED_BYTES]) != stored || word(0) == 0 {
        return None;
    }
    let committed = word(3).checked_sub(1).map(|index| EntryId { term: word(2), index });
    Some((word(0), Marks { flushed: word(1), committed, clean: word(4) == 1 }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use raftmq_world::OsDisk;

    #[test]
    fn the_newer_intact_slot_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marks");
        let (mut file, marks) = MarksFile::open(&OsDisk, &path, dir.path().join("log").as_path()).unwrap();
        assert_eq!(marks, Marks::default());
        let first = Marks { flushed: 100, committed: None, clean: false };
        let second = Marks { flushed: 200, committed: Some(EntryId { term: 3, index: 0 }), clean: true };
        file.write(first).unwrap();
        file.write(second).unwrap();
        assert_eq!(MarksFile::open(&OsDisk, &path, dir.path().join("log").as_path()).unwrap().1, second);
        // The second write went to slot 0; tear it.
        file.file.write_at(9, &[0xff]).unwrap();
        assert_eq!(MarksFile::open(&OsDisk, &path, dir.path().join("log").as_path()).unwrap().1, first);
        // And the other one.
        file.file.write_at(SLOT_BYTES + 9, &[0xff]).unwrap();
        let error = MarksFile::open(&OsDisk, &path, dir.path().join("log").as_path()).unwrap_err();
        assert!(error.to_string().contains("right checksum"), "{error}");
    }
}
