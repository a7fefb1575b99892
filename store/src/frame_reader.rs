//! Reads segments through, frame by frame, as a start and the scrub do.
//!
//! With reads and not through the map: a sector that the disk cannot deliver is an error that names file and position, and no
//! signal that ends the process. What has been read this way lies in the page cache, where the map finds it.

use crate::error::StoreError;
use crate::frame::{FRAME_HEADER_BYTES, FrameHeader};
use crate::segment::Segment;

/// How much is read at once, where a frame has no more.
const READ_BYTES: usize = 1 << 20;

/// Some bytes of one segment.
#[derive(Debug, Default)]
pub(crate) struct FrameReader {
    /// Physical offset of the first one.
    start: u64,
    bytes: Vec<u8>,
    /// They were read for what was asked last.
    is_fresh: bool,
}

impl FrameReader {
    /// What a segment holds from a physical offset on: a whole frame at least where one begins there, else a header at least,
    /// and never more than the rest of the segment.
    pub(crate) fn frame(&mut self, segment: &Segment, physical_offset: u64) -> Result<&[u8], StoreError> {
        self.is_fresh = false;
        let header = self.fill(segment, physical_offset, FRAME_HEADER_BYTES)?;
        let len = FrameHeader::decode(header).map_or(FRAME_HEADER_BYTES, |(header, _)| header.frame_len());
        self.fill(segment, physical_offset, len)
    }

    /// Has the next frame be read from the file in any case. Whether what was given last may be older than the file.
    pub(crate) fn forget(&mut self) -> bool {
        self.bytes.clear();
        !self.is_fresh
    }

    /// At least `len` bytes, or the rest of the segment.
    fn fill(&mut self, segment: &Segment, physical_offset: u64, len: usize) -> Result<&[u8], StoreError> {
        let left = usize::try_from(segment.end() - physical_offset).unwrap_or(usize::MAX);
        let end = physical_offset + len.min(left) as u64;
        if physical_offset < self.start || end > self.start + self.bytes.len() as u64 {
            let position = physical_offset - segment.base;
            self.start = physical_offset;
            self.is_fresh = true;
            self.bytes.resize(len.max(READ_BYTES).min(left), 0);
            let read = segment.file.read_at(position, &mut self.bytes).or_else(|_| {
                // What was not asked for may be what cannot be read.
                self.bytes.truncate(len.min(left));
                segment.file.read_at(position, &mut self.bytes)
            });
            if let Err(e) = read {
                self.bytes.clear();
                return Err(StoreError::io_at("read", segment.file.path(), position)(e));
            }
        }
        Ok(&self.bytes[(physical_offset - self.start) as usize..])
    }
}

/// The frame header at a place in a segment, if there is an intact one that says it stands there.
pub(crate) fn header_at(segment: &Segment, physical_offset: u64) -> Result<Option<FrameHeader>, StoreError> {
    let mut bytes = [0; FRAME_HEADER_BYTES];
    let position = physical_offset - segment.base;
    if segment.file.len().saturating_sub(position) < bytes.len() as u64 {
        return Ok(None);
    }
    let read = segment.file.read_at(position, &mut bytes);
    read.map_err(StoreError::io_at("read", segment.file.path(), position))?;
    let header = FrameHeader::decode(&bytes).ok().map(|(header, _)| header);
    Ok(header.filter(|header| header.physical_offset == physical_offset))
}
