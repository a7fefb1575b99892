//! A small record that is replaced often, each time with one sync: the slots of a file that is made once.
//!
//! There are two, each in a block of 4,096 bytes of its own. A record is written over the older one and synced, so whatever
//! a crash tears, what was durable before is whole. The newest whole slot counts. In each slot:
//!
//! | at | size | field (little-endian) |
//! |---|---|---|
//! | 0 | 4 | CRC-32C of what follows, the record included |
//! | 4 | 4 | length of the record |
//! | 8 | 8 | sequence number of the write, from 1 |
//! | 16 | | the record |

use std::path::Path;
use std::sync::Arc;

use raftmq_world::{Disk, DiskFile};

use crate::directory::lost;
use crate::error::StoreError;

/// What is written as a whole at most, by kernels and by disks: a torn write spoils one slot.
const SLOT_BYTES: usize = 4096;
const HEAD_BYTES: usize = 16;
/// The longest record.
const RECORD_BYTES_MAX: usize = 256;
const SLOTS: u64 = 2;
const FILE_BYTES: u64 = SLOTS * SLOT_BYTES as u64;

/// The file of a record.
#[derive(Debug)]
pub struct Slots {
    file: Arc<dyn DiskFile>,
    sequence: u64,
    /// Which slot is written next: never the one whose record counts.
    next: u64,
}

impl Slots {
    /// Opens the file and reads its record; `None` where there is no such file. What is read is durable: a process that was
    /// killed may have written it without having synced it.
    ///
    /// # Errors
    /// The file holds no whole record, or the disk refuses.
    pub fn open(disk: &dyn Disk, path: &Path) -> Result<Option<(Self, Vec<u8>)>, StoreError> {
        let file = match disk.open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StoreError::io("open", path)(e)),
        };
        if file.len() != FILE_BYTES {
            return Err(lost(path, &format!("a file of slots has {FILE_BYTES} bytes, not {}", file.len())));
        }
        file.sync().map_err(StoreError::io("sync", path))?;
        let content = read_all(&*file)?;
        let newest = (0..SLOTS).filter_map(|slot| Some((slot, read(&content, slot)?)));
        let Some((slot, (sequence, record))) = newest.max_by_key(|(_, (sequence, _))| *sequence) else {
            return Err(lost(path, "none of its slots has the right checksum"));
        };
        Ok(Some((Self { file, sequence, next: (slot + 1) % SLOTS }, record)))
    }

    /// Makes the file with a first record, durably and as a whole.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn make(disk: &dyn Disk, path: &Path, record: &[u8]) -> Result<Self, StoreError> {
        let mut content = slot_of(1, record);
        content.resize(FILE_BYTES as usize, 0);
        disk.replace(path, &content).map_err(StoreError::io("create", path))?;
        let file = disk.open(path).map_err(StoreError::io("open", path))?;
        Ok(Self { file, sequence: 1, next: 1 })
    }

    /// Replaces the record, durably.
    ///
    /// # Errors
    /// The disk refuses: either record may be there afterwards.
    pub fn write(&mut self, record: &[u8]) -> Result<(), StoreError> {
        let path = self.file.path();
        let position = self.next * SLOT_BYTES as u64;
        let written = self.file.write_at(position, &slot_of(self.sequence + 1, record));
        written.map_err(StoreError::io("write", path))?;
        self.file.sync().map_err(StoreError::io("sync", path))?;
        self.sequence += 1;
        self.next = (self.next + 1) % SLOTS;
        Ok(())
    }
}

/// What a small file holds.
pub(crate) fn read_all(file: &dyn DiskFile) -> Result<Vec<u8>, StoreError> {
    let mut content = vec![0; file.len() as usize];
    file.read_at(0, &mut content).map_err(StoreError::io("read", file.path()))?;
    Ok(content)
}

fn slot_of(sequence: u64, record: &[u8]) -> Vec<u8> {
    assert!(record.len() <= RECORD_BYTES_MAX, "a record of {} bytes", record.len());
    let mut slot = vec![0; 4];
    slot.extend_from_slice(&(record.len() as u32).to_le_bytes());
    slot.extend_from_slice(&sequence.to_le_bytes());
    slot.extend_from_slice(record);
    let checksum = crc32c::crc32c(&slot[4..]);
    slot[..4].copy_from_slice(&checksum.to_le_bytes());
    slot
}

/// The sequence number and the record of a whole slot.
fn read(bytes: &[u8], slot: u64) -> Option<(u64, Vec<u8>)> {
    let bytes = bytes.get(slot as usize * SLOT_BYTES..)?;
    let (checksum, checked) = bytes.split_first_chunk::<4>()?;
    let (len, rest) = checked.split_first_chunk::<4>()?;
    let (sequence, rest) = rest.split_first_chunk::<8>()?;
    let (len, sequence) = (u32::from_le_bytes(*len) as usize, u64::from_le_bytes(*sequence));
    if len > RECORD_BYTES_MAX || sequence == 0 {
        return None;
    }
    let record = rest.get(..len)?;
    let is_whole = crc32c::crc32c(&checked[..HEAD_BYTES - 4 + len]) == u32::from_le_bytes(*checksum);
    is_whole.then(|| (sequence, record.to_vec()))
}

#[cfg(test)]
mod tests {
    use raftmq_world::OsDisk;

    use super::*;

    #[test]
    fn the_newest_whole_record_counts_and_the_other_is_written_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("slots");
        assert!(Slots::open(&OsDisk, &path).unwrap().is_none());
        let mut slots = Slots::make(&OsDisk, &path, b"first").unwrap();
        let read = || Slots::open(&OsDisk, &path).unwrap().unwrap();
        assert_eq!((read().1, read().0.next), (b"first".to_vec(), 1));
        slots.write(b"second, and longer").unwrap();
        slots.write(b"third").unwrap();
        assert_eq!((read().1, read().0.next), (b"third".to_vec(), 1));
        OsDisk.open(&path).unwrap().write_at(HEAD_BYTES as u64 + 1, &[0xff]).unwrap();
        let (mut slots, record) = read();
        assert_eq!((record, slots.next), (b"second, and longer".to_vec(), 0));
        slots.write(b"fourth").unwrap();
        assert_eq!(read().1, b"fourth");
    }

    #[test]
    fn a_file_without_a_whole_record_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("slots");
        for (content, words) in [
            (vec![0; FILE_BYTES as usize], "checksum"),
            (vec![0; 5], "bytes"),
            (vec![0xff; FILE_BYTES as usize], "checksum"),
        ] {
            std::fs::write(&path, content).unwrap();
            let error = Slots::open(&OsDisk, &path).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("slots"), "{error}");
        }
    }
}
