//! Checks what is read before anybody has checked it since the start; see [`crate::damage`].

use crate::commit_log::CommitLog;
use crate::error::StoreError;
use crate::frame::{FRAME_HEADER_BYTES, FRAME_PAYLOAD_BYTES_MAX, FrameHeader, MAGIC, decode_frame};
use crate::frame_reader::{FrameReader, header_at};
use crate::segment::Segment;

impl CommitLog {
    /// Checks that a part of the log within a frame is as it was written, where that is not known yet.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] where it is not; the scrub looks after it then.
    pub(crate) fn check(
        &self,
        segment: &Segment,
        physical_offset: u64,
        len: usize,
    ) -> Result<(), StoreError> {
        let end = physical_offset + len as u64;
        if self.damage.is_checked(segment.base, physical_offset, end)
            || self.damage.is_whole(physical_offset, end)
        {
            return Ok(());
        }
        let found = whole_frame_around(segment, physical_offset);
        match found {
            Ok(Some(header)) if header.end() >= end => {
                self.damage.note_whole(&header);
                Ok(())
            }
            other => {
                self.damage.suspect(segment.base);
                other?;
                Err(segment.corrupt(physical_offset, "a message within a broken frame".into()))
            }
        }
    }

    /// Checks the payload of a frame that is about to be used, where it is not known yet to be as it was written.
    pub(crate) fn check_frame(&self, segment: &Segment, header: &FrameHeader) -> Result<(), StoreError> {
        let (start, end) = (header.physical_offset, header.end());
        if self.damage.is_checked(segment.base, start, end) || self.damage.is_whole(start, end) {
            return Ok(());
        }
        let mut reader = FrameReader::default();
        decode_frame(reader.frame(segment, start)?).map_err(|e| segment.corrupt(start, e.to_string()))?;
        self.damage.note_whole(header);
        Ok(())
    }
}

/// The frame that holds the byte at a physical offset, if there is a whole one.
fn whole_frame_around(segment: &Segment, physical_offset: u64) -> Result<Option<FrameHeader>, StoreError> {
    const STEP: u64 = 64 * 1024;
    let file = &segment.file;
    let highest = (physical_offset - segment.base).min(file.len());
    let lowest = highest.saturating_sub((FRAME_HEADER_BYTES + FRAME_PAYLOAD_BYTES_MAX) as u64);
    let (mut end, mut piece) = (highest, Vec::new());
    while end > lowest {
        let start = end.saturating_sub(STEP).max(lowest);
        // A magic may lie across the piece's end.
        let until = (end + MAGIC.len() as u64 - 1).min(highest);
        piece.resize((until - start) as usize, 0);
        file.read_at(start, &mut piece).map_err(StoreError::io_at("read", file.path(), start))?;
        let mut candidates = piece.windows(MAGIC.len()).enumerate().rev().filter(|(_, four)| *four == MAGIC);
        // What looks like a frame within another's payload ends before the byte, or is not whole.
        let around = candidates.find_map(|(at, _)| {
            let header = header_at(segment, segment.base + start + at as u64).transpose()?;
            match header {
                Ok(header) if header.end() <= physical_offset => None,
                other => Some(other),
            }
        });
        if let Some(header) = around {
            let header = header?;
            let mut reader = FrameReader::default();
            let is_whole = decode_frame(reader.frame(segment, header.physical_offset)?).is_ok();
            return Ok(is_whole.then_some(header));
        }
        end = start;
    }
    Ok(None)
}
