//! Segments of the CommitLog and slices of them.

use std::fmt;
use std::sync::Arc;

use crate::disk::DiskFile;

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
