//! Marks: how far the log is durable and committed, as far as this member knew when it last wrote them.
//!
//! Written after every flush, and synced every so often ([`crate::flush`]): after a killed process they are exact, after a
//! lost machine they lag by that interval at most. Recovery begins to read where the log was durable. Below that a broken
//! frame is corruption, above it the torn end of a write, unless something whole stands behind it: then this member may have
//! acknowledged what it has lost there, and remembers so ([`Marks::doubt`]).
//!
//! There are four slots, each in a block of 4,096 bytes of its own, and the newest one with a right checksum counts. The
//! first two are written in turn and synced, each before the other is written again: whatever a crash tears, one of them is
//! whole. The other two are written in turn and not synced. In each slot:
//!
//! | at | size | field (little-endian) |
//! |---|---|---|
//! | 0 | 8 | sequence number of the write |
//! | 8 | 8 | flushed: physical offset behind the last durable frame |
//! | 16 | 8 | that frame's term |
//! | 24 | 8 | its index + 1; zero where nothing is durable |
//! | 32 | 8 | its physical offset |
//! | 40 | 8 | its header's checksum |
//! | 48 | 8 | store timestamp of the last durable message in ms; zero where it is not known |
//! | 56 | 8 | committed term |
//! | 64 | 8 | committed index + 1; zero where nothing is committed |
//! | 72 | 8 | term of the entry up to which this member may have acknowledged more than it has |
//! | 80 | 8 | its index + 1; zero where there is none |
//! | 88 | 8 | 1 after a clean stop, else 0 |
//! | 96 | 4 | CRC-32C of bytes 0 to 95 |

use std::path::Path;
use std::sync::Arc;

use crate::directory::lost;
use crate::error::StoreError;
use crate::slots::read_all;
use raftmq_world::{Disk, DiskFile};

/// What is written as a whole at most, by kernels and by disks: a torn write spoils one slot.
const SLOT_BYTES: u64 = 4096;
const CHECKED_BYTES: usize = 96;
/// Slots that are synced whenever one is written, and slots that are not.
const SYNCED_SLOTS: u64 = 2;
const OTHER_SLOTS: u64 = 2;
const FILE_BYTES: u64 = (SYNCED_SLOTS + OTHER_SLOTS) * SLOT_BYTES;

/// Term and index of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryId {
    /// The term.
    pub term: u64,
    /// The index.
    pub index: u64,
}

/// How a log ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tail {
    /// The last entry.
    pub(crate) last: Option<EntryId>,
    /// Physical offset of its frame.
    pub(crate) at: u64,
    /// Its header checksum, or the seed.
    pub(crate) chain: u32,
    /// Physical offset behind it.
    pub(crate) end: u64,
}

/// How a part of the log ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogEnd {
    /// Its last frame, and where it ends.
    pub(crate) tail: Tail,
    /// The store timestamp of the last message in it, in ms; zero where there is none, and in marks where it is not known.
    pub(crate) last_ms: i64,
}

impl LogEnd {
    /// Of a part in which there is nothing.
    pub(crate) fn of_nothing(start: u64, seed: u32) -> Self {
        Self { tail: Tail { last: None, at: 0, chain: seed, end: start }, last_ms: 0 }
    }
}

/// What is marked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// How the durable part of the log ends.
    pub(crate) flushed: LogEnd,
    /// The last entry known to be committed.
    pub(crate) committed: Option<EntryId>,
    /// Something whole was cut off behind something broken: this member may have acknowledged entries up to this one, and
    /// does not have them.
    pub(crate) doubt: Option<EntryId>,
    /// Whether the store was closed.
    pub(crate) clean: bool,
}

/// The file of the marks.
#[derive(Debug)]
pub(crate) struct MarksFile {
    file: Arc<dyn DiskFile>,
    sequence: u64,
    /// Which of the synced slots is written next: the older one, or the one that is torn.
    next_synced: u64,
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
                make(disk, path)?
            }
            Err(e) => return Err(StoreError::io("open", path)(e)),
        };
        if file.len() != FILE_BYTES {
            return Err(lost(path, &format!("a marks file has {FILE_BYTES} bytes, not {}", file.len())));
        }
        let content = read_all(&*file)?;
        let Some((sequence, marks)) = newest(&content, path)? else {
            return Err(lost(path, "it holds nothing: how far the log was durable cannot be told"));
        };
        let written = |slot: u64| read_slot(&content, slot * SLOT_BYTES).map_or(0, |(sequence, _)| sequence);
        let next_synced = (0..SYNCED_SLOTS).min_by_key(|slot| written(*slot)).unwrap_or_default();
        Ok((Self { file, sequence, next_synced }, marks))
    }

    /// Writes the marks; not synced.
    pub(crate) fn write(&mut self, marks: Marks) -> Result<(), StoreError> {
        self.sequence += 1;
        self.write_slot(SYNCED_SLOTS + self.sequence % OTHER_SLOTS, marks)
    }

    /// Writes the marks and makes them durable.
    pub(crate) fn write_durably(&mut self, marks: Marks) -> Result<(), StoreError> {
        self.sequence += 1;
        self.write_slot(self.next_synced, marks)?;
        self.sync()?;
        self.next_synced = (self.next_synced + 1) % SYNCED_SLOTS;
        Ok(())
    }

    fn write_slot(&self, slot: u64, marks: Marks) -> Result<(), StoreError> {
        let bytes = slot_of(self.sequence, marks);
        self.file.write_at(slot * SLOT_BYTES, &bytes).map_err(StoreError::io("write", self.file.path()))
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.file.sync().map_err(StoreError::io("sync", self.file.path()))
    }
}

/// Makes a file that says that nothing is durable, durably and as a whole. Slots that are never written are zero.
fn make(disk: &dyn Disk, path: &Path) -> Result<Arc<dyn DiskFile>, StoreError> {
    let mut content = slot_of(1, Marks::default()).to_vec();
    content.resize(FILE_BYTES as usize, 0);
    disk.replace(path, &content).map_err(StoreError::io("create", path))?;
    disk.open(path).map_err(StoreError::io("open", path))
}

/// The newest marks of a file with this content that has any, with their number.
fn newest(content: &[u8], path: &Path) -> Result<Option<(u64, Marks)>, StoreError> {
    let slots = (0..content.len() as u64).step_by(SLOT_BYTES as usize);
    let newest = slots.filter_map(|at| read_slot(content, at)).max_by_key(|(n, _)| *n);
    if newest.is_none() && content.iter().any(|b| *b != 0) {
        return Err(lost(path, "none of its slots has the right checksum"));
    }
    Ok(newest)
}

fn slot_of(sequence: u64, marks: Marks) -> [u8; CHECKED_BYTES + 4] {
    let entry = |id: Option<EntryId>| id.map_or([0, 0], |id| [id.term, id.index + 1]);
    let Marks { flushed: LogEnd { tail: flushed, last_ms }, committed, doubt, clean } = marks;
    let [last, committed, doubt] = [flushed.last, committed, doubt].map(entry);
    let words = [
        &[sequence, flushed.end][..],
        &last,
        &[flushed.at, flushed.chain.into(), last_ms.cast_unsigned()],
        &committed,
        &doubt,
        &[clean.into()],
    ];
    let mut slot = [0; CHECKED_BYTES + 4];
    for (word, bytes) in words.concat().iter().zip(slot.chunks_exact_mut(8)) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    let checksum = crc32c::crc32c(&slot[..CHECKED_BYTES]);
    slot[CHECKED_BYTES..].copy_from_slice(&checksum.to_le_bytes());
    slot
}

fn read_slot(bytes: &[u8], at: u64) -> Option<(u64, Marks)> {
    let slot = bytes.get(at as usize..)?.first_chunk::<{ CHECKED_BYTES + 4 }>()?;
    let word = |n: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&slot[n * 8..n * 8 + 8]);
        u64::from_le_bytes(word)
    };
    let (checked, stored) = slot.split_last_chunk::<4>()?;
    if crc32c::crc32c(checked) != u32::from_le_bytes(*stored) || word(0) == 0 {
        return None;
    }
    let entry = |n| Some(EntryId { term: word(n), index: word(n + 1).checked_sub(1)? });
    let tail = Tail { last: entry(2), at: word(4), chain: u32::try_from(word(5)).ok()?, end: word(1) };
    let flushed = LogEnd { tail, last_ms: word(6).cast_signed() };
    Some((word(0), Marks { flushed, committed: entry(7), doubt: entry(9), clean: word(11) == 1 }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use raftmq_world::OsDisk;

    fn open(dir: &Path) -> Result<(MarksFile, Marks), StoreError> {
        MarksFile::open(&OsDisk, &dir.join("marks"), &dir.join("log"))
    }

    fn flushed(end: u64) -> Marks {
        let tail = Tail { end, ..Tail::default() };
        Marks { flushed: LogEnd { tail, last_ms: 0 }, ..Marks::default() }
    }

    fn tear(dir: &Path, slot: u64) {
        OsDisk.open(&dir.join("marks")).unwrap().write_at(slot * SLOT_BYTES + 9, &[0xff]).unwrap();
    }

    #[test]
    fn the_newest_intact_slot_counts() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let (mut file, marks) = open(dir).unwrap();
        assert_eq!(marks, Marks::default());
        let id = |term, index| Some(EntryId { term, index });
        let second = Marks {
            flushed: LogEnd {
                tail: Tail { last: id(4, 0), at: 100, chain: u32::MAX, end: 200 },
                last_ms: -1,
            },
            committed: id(3, 0),
            doubt: id(5, 7),
            clean: true,
        };
        file.write_durably(flushed(50)).unwrap();
        file.write(flushed(100)).unwrap();
        file.write(second).unwrap();
        assert_eq!(open(dir).unwrap().1, second);
        let holds = |slot: u64, marks| {
            read_slot(file.file.bytes(), slot * SLOT_BYTES).is_some_and(|(_, m)| m == marks)
        };
        let at = |marks| (0..4).find(|slot| holds(*slot, marks)).unwrap();
        for (torn, left) in [(second, flushed(100)), (flushed(100), flushed(50)), (flushed(50), flushed(0))] {
            tear(dir, at(torn));
            assert_eq!(open(dir).unwrap().1, left);
        }
        tear(dir, at(flushed(0)));
        let error = open(dir).unwrap_err();
        assert!(error.to_string().contains("right checksum"), "{error}");
    }

    /// Whatever is torn of what is not synced, and in the middle of a sync.
    #[test]
    fn one_synced_slot_is_whole_at_any_time() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        for round in 1..6 {
            let (mut file, _) = open(dir).unwrap();
            let being_written = file.next_synced;
            file.write_durably(flushed(10 * round)).unwrap();
            file.write(flushed(10 * round + 1)).unwrap();
            [2, 3].into_iter().for_each(|slot| tear(dir, slot));
            assert_eq!(open(dir).unwrap().1, flushed(10 * round));
            tear(dir, being_written);
            // The one that is torn is written next.
            let (file, marks) = open(dir).unwrap();
            assert_eq!((marks, file.next_synced), (flushed(10 * (round - 1)), being_written));
            drop(file);
            let (mut file, _) = open(dir).unwrap();
            file.write_durably(flushed(10 * round)).unwrap();
        }
    }
}
