//! Removing entries from the log's end.

use std::sync::atomic::Ordering;

use crate::commit_log::{CommitLog, Writer};
use crate::error::StoreError;
use crate::frame::FrameKind;
use crate::marks::{EntryId, LogEnd, Tail};
use crate::topic_changes;

impl CommitLog {
    /// Where the log would end if the entries behind `last` were removed (all of them where it is `None`); nothing
    /// where there are none.
    ///
    /// *Invariant 3*: the caller says up to where entries are committed, and nothing at or below that is removed.
    pub(crate) fn tail_after(
        &self,
        last: Option<u64>,
        committed: Option<EntryId>,
    ) -> Result<Option<Tail>, StoreError> {
        if committed.is_some_and(|c| last.is_none_or(|last| last < c.index)) {
            return Err(StoreError::Divergence(format!(
                "asked to truncate the log after {last:?}, and it is committed up to {committed:?}"
            )));
        }
        if self.last().is_none_or(|l| last.is_some_and(|last| l.index <= last)) {
            return Ok(None);
        }
        let not_there = || {
            StoreError::Illegal(format!("asked to truncate after entry {last:?}, which is not in the log"))
        };
        let Some(index) = last else {
            let LogEnd { tail, .. } = LogEnd::of_nothing(0, self.seed);
            return if self.start() == 0 { Ok(Some(tail)) } else { Err(not_there()) };
        };
        let kept = self.frame(index)?.ok_or_else(not_there)?;
        let (header, last) = (&kept.header, Some(kept.id()));
        let (at, chain, end) = (header.physical_offset, header.encode().1, header.end());
        Ok(Some(Tail { last, at, chain, end }))
    }

    /// Removes the entries behind `last` (all of them where it is `None`), durably: on return nothing of them can come
    /// back to life.
    ///
    /// *Invariant 3*: `committed` is the last entry known to be committed; nothing at or below it is removed.
    pub(crate) fn truncate_after(
        &self,
        last: Option<u64>,
        committed: Option<EntryId>,
    ) -> Result<(), StoreError> {
        let Some(tail) = self.tail_after(last, committed)? else { return Ok(()) };
        let mut writer = self.writer.lock();
        writer.check_working()?;
        let old_end = self.end();
        let truncated = self.cut(&mut writer, tail).and_then(|()| self.erase(tail.end, old_end));
        if let Err(e) = &truncated {
            writer.stopped = Some(e.to_string());
        }
        truncated
    }

    fn cut(&self, writer: &mut Writer, tail: Tail) -> Result<(), StoreError> {
        // First what commands have changed: a topic that was dropped is as it was then, and no message behind that counts
        // for it.
        writer.offsets.undo_changes(tail.end);
        let mut dropped = Vec::new();
        let mut walk = self.walk(tail.end);
        while let Some(frame) = walk.next()? {
            dropped.append(&mut topic_changes::dropped(self.topic_changes, frame.command()));
            if frame.header.kind == FrameKind::Messages {
                writer.offsets.take_back(frame.records(), &dropped)?;
            }
        }
        writer.tail = tail;
        // Together for readers: one that has not noticed the truncation finds no entry behind the new end, and places
        // found before it are not remembered after it.
        let mut frames = self.frames.write();
        frames.truncate(tail.last.map_or(0, |l| l.index + 1));
        self.end.store(tail.end, Ordering::SeqCst);
        self.truncations.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}
