//! Segments of the CommitLog, the table of them, and slices of them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use crate::error::StoreError;
use raftmq_world::{Disk, DiskFile, Space};

/// One file of the log.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) file: Arc<dyn DiskFile>,
    /// Physical offset of its first byte; also its name.
    pub(crate) base: u64,
}

impl Segment {
    /// Physical offset behind its last byte.
    pub(crate) fn end(&self) -> u64 {
        self.base + self.file.len()
    }

    /// An error about what stands at a place in this segment.
    pub(crate) fn corrupt(&self, physical_offset: u64, what: String) -> StoreError {
        StoreError::Corrupt {
            path: self.file.path().to_owned(),
            position: physical_offset - self.base,
            physical_offset,
            what,
        }
    }
}

/// The segments of a log, in order, each beginning where the one before ends.
#[derive(Debug)]
pub(crate) struct Segments {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    segment_bytes: u64,
    table: RwLock<Vec<Arc<Segment>>>,
    /// Held while files are created or removed, which takes milliseconds; the table's readers need not wait for it.
    changing: Mutex<()>,
}

impl Segments {
    /// Opens the segments in `dir`. Files whose creation was interrupted are removed.
    pub(crate) fn open(disk: Arc<dyn Disk>, dir: &Path, segment_bytes: u64) -> Result<Self, StoreError> {
        let mut table: Vec<Arc<Segment>> = Vec::new();
        let mut unfinished = Vec::new();
        for path in disk.list(dir).map_err(StoreError::io("list", dir))? {
            if path.extension().is_some_and(|e| e == "new") {
                unfinished.push(path);
                continue;
            }
            let base = base_of(&path, segment_bytes)?;
            let file = disk.open(&path).map_err(StoreError::io("open", &path))?;
            let segment = Arc::new(Segment { file, base });
            let expected = table.last().map_or(base, |s| s.end());
            if segment.file.len() != segment_bytes || base != expected || !base.is_multiple_of(segment_bytes)
            {
                let (found, name) = (segment.file.len(), segment_path(dir, expected));
                return Err(segment.corrupt(
                    base,
                    format!(
                        "a segment of {found} bytes; expected {} of {segment_bytes} bytes",
                        name.display()
                    ),
                ));
            }
            table.push(segment);
        }
        for path in unfinished {
            disk.remove(&path).map_err(StoreError::io("remove", &path))?;
        }
        Ok(Self {
            disk,
            dir: dir.to_owned(),
            segment_bytes,
            table: RwLock::new(table),
            changing: Mutex::default(),
        })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// Physical offset of the first byte that is still there.
    pub(crate) fn start(&self) -> u64 {
        self.table.read().first().map_or(0, |s| s.base)
    }

    /// End of the segment that a byte at `physical_offset` is in. At a boundary that is the later segment.
    pub(crate) fn end_of(&self, physical_offset: u64) -> u64 {
        (physical_offset / self.segment_bytes + 1) * self.segment_bytes
    }

    /// The segment that a byte at `physical_offset` is in.
    pub(crate) fn of(&self, physical_offset: u64) -> Result<Arc<Segment>, StoreError> {
        let table = self.table.read();
        let found = table.first().and_then(|first| {
            let at = physical_offset.checked_sub(first.base)? / self.segment_bytes;
            table.get(usize::try_from(at).ok()?)
        });
        found.cloned().ok_or_else(|| {
            StoreError::Illegal(format!(
                "physical offset {physical_offset} is not within the log, which has {} segments from {} on",
                table.len(),
                table.first().map_or(0, |s| s.base)
            ))
        })
    }

    /// All of them.
    pub(crate) fn list(&self) -> Vec<Arc<Segment>> {
        self.table.read().clone()
    }

    /// Physical offset behind the last byte of the last one.
    pub(crate) fn reach(&self) -> u64 {
        self.table.read().last().map_or(0, |s| s.end())
    }

    /// As [`Self::ensure`], where others may be made; says whether they are there.
    pub(crate) fn ensure_if(&self, may_make: bool, physical_offset: u64) -> Result<bool, StoreError> {
        if may_make {
            self.ensure(physical_offset)?;
        }
        Ok(self.reach() > physical_offset)
    }

    /// Creates the segments up to the one that holds `physical_offset`, if they are not there yet.
    pub(crate) fn ensure(&self, physical_offset: u64) -> Result<(), StoreError> {
        if self.reach() > physical_offset {
            return Ok(());
        }
        let _changing = self.changing.lock();
        while self.reach() <= physical_offset {
            let first = physical_offset / self.segment_bytes * self.segment_bytes;
            let base = self.table.read().last().map_or(first, |s| s.end());
            let path = segment_path(&self.dir, base);
            let created = self.disk.create(&path, self.segment_bytes, Space::Allocated);
            let file = created.map_err(StoreError::io("create", &path))?;
            self.table.write().push(Arc::new(Segment { file, base }));
        }
        Ok(())
    }

    /// Removes the segments from `physical_offset` on, durably, the last one first: what is left at any moment is a
    /// prefix of what was there. The first one stays in any case.
    pub(crate) fn remove_from(&self, physical_offset: u64) -> Result<(), StoreError> {
        let _changing = self.changing.lock();
        loop {
            let path = match self.table.read().as_slice() {
                [_, .., last] if last.base >= physical_offset => last.file.path().to_owned(),
                _ => return Ok(()),
            };
            self.disk.remove(&path).map_err(StoreError::io("remove", &path))?;
            self.table.write().pop();
        }
    }

    /// Makes durable what was written between two physical offsets.
    pub(crate) fn sync(&self, from: u64, to: u64) -> Result<(), StoreError> {
        let touched: Vec<_> =
            self.table.read().iter().filter(|s| s.end() > from && s.base < to).cloned().collect();
        touched.iter().try_for_each(|s| s.file.sync().map_err(StoreError::io("sync", s.file.path())))
    }
}

fn segment_path(dir: &Path, base: u64) -> PathBuf {
    dir.join(format!("{base:020}"))
}

fn base_of(path: &Path, segment_bytes: u64) -> Result<u64, StoreError> {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let digits = name.len() == 20 && name.bytes().all(|b| b.is_ascii_digit());
    let possible =
        |base: &u64| digits && base.checked_add(segment_bytes).is_some_and(|end| end <= i64::MAX as u64);
    name.parse().ok().filter(possible).ok_or_else(|| {
        StoreError::Illegal(format!(
            "{} is not a segment of the log: its name is not a physical offset",
            path.display()
        ))
    })
}

/// Bytes of the log, borrowed from a mapped segment. Cheap to clone; keeps the segment's map alive.
#[derive(Clone)]
pub struct LogSlice {
    segment: Arc<Segment>,
    start: usize,
    end: usize,
}

impl LogSlice {
    /// The bytes from `physical_offset` on. They must lie within the segment.
    pub(crate) fn new(segment: Arc<Segment>, physical_offset: u64, len: usize) -> Option<Self> {
        let start = usize::try_from(physical_offset.checked_sub(segment.base)?).ok()?;
        let end = start.checked_add(len)?;
        (end as u64 <= segment.file.len()).then_some(Self { segment, start, end })
    }

    pub(crate) fn segment(&self) -> &Segment {
        &self.segment
    }

    /// Physical offset of the first byte.
    pub fn physical_offset(&self) -> u64 {
        self.segment.base + self.start as u64
    }

    /// A part of the slice; both ends must lie within it.
    pub fn slice(&self, range: std::ops::Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.end - self.start,
            "{range:?} of {} bytes",
            self.end - self.start
        );
        Self { segment: self.segment.clone(), start: self.start + range.start, end: self.start + range.end }
    }
}

impl AsRef<[u8]> for LogSlice {
    fn as_ref(&self) -> &[u8] {
        &self.segment.file.bytes()[self.start..self.end]
    }
}

impl std::ops::Deref for LogSlice {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.as_ref()
    }
}

impl fmt::Debug for LogSlice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogSlice({}+{})", self.physical_offset(), self.end - self.start)
    }
}

impl From<LogSlice> for bytes::Bytes {
    fn from(slice: LogSlice) -> Self {
        bytes::Bytes::from_owner(slice)
    }
}
