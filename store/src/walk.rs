//! Reading entries: by walking the frames, and by index.

use crate::commit_log::CommitLog;
use crate::error::StoreError;
use crate::frame::{FRAME_HEADER_BYTES, FrameHeader, FrameKind};
use crate::frame_index::{SPARSE_BYTES, StartingPoint};
use crate::marks::{EntryId, Tail};
use crate::segment::LogSlice;

/// An entry as it stands in the log.
#[derive(Clone, Debug)]
pub struct LogFrame {
    /// Its header.
    pub header: FrameHeader,
    /// The whole frame.
    pub bytes: LogSlice,
}

impl LogFrame {
    /// Term and index.
    pub fn id(&self) -> EntryId {
        EntryId { term: self.header.term, index: self.header.index }
    }

    fn check(&self, log: &CommitLog) -> Result<(), StoreError> {
        log.check_frame(self.bytes.segment(), &self.header)
    }

    /// The bytes behind the header.
    pub fn payload(&self) -> &[u8] {
        &self.bytes.as_ref()[FRAME_HEADER_BYTES..]
    }

    /// The command that it holds, alone or in front of messages; empty where there is none.
    pub fn command(&self) -> &[u8] {
        self.header.parts(self.payload()).0
    }

    /// Of messages, the records: what is behind the command.
    pub fn records(&self) -> &[u8] {
        &self.bytes.as_ref()[self.header.records_at()..]
    }
}

/// A walk over the entries of a log, in order. *Invariants 1 and 3*, read back: each frame it meets continues the one
/// before.
///
/// A truncation may overtake a walk over entries that are not committed. What it then meets may be no frame any more;
/// that ends the walk as the log's end does, and is not taken for damage.
#[derive(Debug)]
pub struct Walk<'a> {
    log: &'a CommitLog,
    at: u64,
    /// How many truncations there had been when the walk began.
    truncations: u64,
    /// The header checksum of the frame before, once there was one.
    chain: Option<u32>,
    /// The entry before.
    last: Option<EntryId>,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(log: &'a CommitLog, at: u64) -> Self {
        Self { log, at, truncations: log.truncations(), chain: None, last: None }
    }

    /// The next entry, or `None` at the log's end. Headers are checked, payloads where nobody has read them since the start.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<LogFrame>, StoreError> {
        let read = self.read().and_then(|frame| {
            frame.as_ref().map_or(Ok(()), |frame| frame.check(self.log))?;
            Ok(frame)
        });
        self.unless_truncated(read)
    }

    /// The next entry, of which the header alone is checked.
    fn pass(&mut self) -> Result<Option<LogFrame>, StoreError> {
        let read = self.read();
        self.unless_truncated(read)
    }

    fn unless_truncated<T>(&self, read: Result<Option<T>, StoreError>) -> Result<Option<T>, StoreError> {
        match read {
            Err(_) if self.log.truncations() != self.truncations => Ok(None),
            other => other,
        }
    }

    fn read(&mut self) -> Result<Option<LogFrame>, StoreError> {
        loop {
            let segment_end = self.log.segments.end_of(self.at);
            if segment_end - self.at < FRAME_HEADER_BYTES as u64 {
                self.at = segment_end;
            }
            let Some((frame, checksum)) = frame_at(self.log, self.at)? else { return Ok(None) };
            self.check(&frame)?;
            (self.at, self.chain) = (frame.header.end(), Some(checksum));
            if frame.header.kind != FrameKind::Filler {
                self.last = Some(frame.id());
                return Ok(Some(frame));
            }
        }
    }

    fn check(&self, frame: &LogFrame) -> Result<(), StoreError> {
        let (header, id) = (&frame.header, frame.id());
        let chained = self.chain.is_none_or(|chain| chain == header.chain);
        let follows = header.kind == FrameKind::Filler
            || self.last.is_none_or(|last| last.index + 1 == id.index && last.term <= id.term);
        if chained && follows {
            return Ok(());
        }
        let what = format!("entry {id:?} does not continue {:?}, checksum {:08x?}", self.last, self.chain);
        Err(self.log.segments.of(self.at)?.corrupt(self.at, what))
    }

    /// How the log ends behind the entry returned last, if there was one.
    pub(crate) fn tail(&self, frame: &LogFrame) -> Tail {
        let chain = self.chain.unwrap_or_default();
        Tail { last: Some(frame.id()), at: frame.header.physical_offset, chain, end: self.at }
    }

    /// Physical offset behind the entry returned last.
    pub fn position(&self) -> u64 {
        self.at
    }
}

/// The frame that starts at `physical_offset`, and its header's checksum; `None` at the log's end.
fn frame_at(log: &CommitLog, physical_offset: u64) -> Result<Option<(LogFrame, u32)>, StoreError> {
    if physical_offset >= log.end() {
        return Ok(None);
    }
    let segment = log.segments.of(physical_offset)?;
    let bytes = &segment.file.bytes()[(physical_offset - segment.base) as usize..];
    let (header, checksum) =
        FrameHeader::decode(bytes).map_err(|e| segment.corrupt(physical_offset, e.to_string()))?;
    if header.physical_offset != physical_offset || header.frame_len() > bytes.len() {
        let (len, says) = (header.frame_len(), header.physical_offset);
        return Err(
            segment.corrupt(physical_offset, format!("a frame of {len} bytes that says it stands at {says}"))
        );
    }
    let bytes = LogSlice::new(segment, physical_offset, header.frame_len());
    Ok(bytes.map(|bytes| (LogFrame { header, bytes }, checksum)))
}

impl CommitLog {
    /// Index of the first entry that is still there.
    pub fn first_index(&self) -> Option<u64> {
        self.walk(self.start()).next().ok().flatten().map(|frame| frame.header.index)
    }

    /// The entry with this index, or `None` where the log does not hold it.
    pub fn frame(&self, index: u64) -> Result<Option<LogFrame>, StoreError> {
        Ok(self.find(index)?.map(|(frame, _)| frame))
    }

    /// Term and index of the entry with this index, by its header alone.
    pub fn id_of(&self, index: u64) -> Result<Option<EntryId>, StoreError> {
        Ok(self.look_up(index)?.map(|(frame, _)| frame.id()))
    }

    /// Walks the entries from the frame at `physical_offset` on, fillers left out.
    pub fn walk(&self, physical_offset: u64) -> Walk<'_> {
        Walk::new(self, physical_offset)
    }

    /// Walks the entries from the one with this index on; `None` where the log does not hold it. Unlike a walk from a
    /// place that was looked up before, this one knows of every truncation since the look-up.
    pub fn walk_from(&self, index: u64) -> Result<Option<Walk<'_>>, StoreError> {
        let found = self.find(index)?;
        Ok(found.map(|(frame, walk)| Walk {
            at: frame.header.physical_offset,
            chain: None,
            last: None,
            ..walk
        }))
    }

    /// The entry with this index, and the walk that goes on behind it.
    fn find(&self, index: u64) -> Result<Option<(LogFrame, Walk<'_>)>, StoreError> {
        let Some((frame, walk)) = self.look_up(index)? else { return Ok(None) };
        let checked = frame.check(self).map(Some);
        Ok(walk.unless_truncated(checked)?.map(|()| (frame, walk)))
    }

    /// The same by its header alone.
    fn look_up(&self, index: u64) -> Result<Option<(LogFrame, Walk<'_>)>, StoreError> {
        // The walk begins before the look-up: it has to notice a truncation in between.
        let mut walk = Walk::new(self, 0);
        let Some(from) = self.frames.read().find(index) else { return Ok(None) };
        walk.at = from.physical_offset;
        let mut noted = from;
        while let Some(frame) = walk.pass()? {
            let here =
                StartingPoint { index: frame.header.index, physical_offset: frame.header.physical_offset };
            if here.index >= index {
                return Ok((here.index == index).then_some((frame, walk)));
            }
            if here.physical_offset >= noted.physical_offset + SPARSE_BYTES {
                let mut frames = self.frames.write();
                if self.truncations() == walk.truncations {
                    frames.note_old(here);
                }
                noted = here;
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::marks::Marks;
    use crate::recovery::tests::log_of_blanks;

    #[test]
    fn a_frame_that_does_not_continue_the_one_before_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let log = log_of_blanks(dir.path(), Marks::default(), 5, 3);
        let second = log.frame(1).unwrap().unwrap().header;
        let read = |header: FrameHeader| {
            let segment = log.segments.of(second.physical_offset).unwrap();
            segment.file.write_at(second.physical_offset, &header.encode().0).unwrap();
            let mut walk = log.walk(0);
            (walk.next().unwrap().unwrap(), walk.next()).1
        };
        assert!(read(second).unwrap().is_some());
        for wrong in [
            FrameHeader { index: 2, ..second },
            FrameHeader { term: 4, ..second },
            FrameHeader { chain: 0, ..second },
        ] {
            assert!(matches!(read(wrong), Err(StoreError::Corrupt { .. })), "{wrong:?}");
        }
    }
}
