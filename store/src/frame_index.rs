//! Where entries are: the recent ones exactly, older ones to within a megabyte.

use std::collections::VecDeque;

/// How many of the newest entries are known exactly: 8 bytes each. Replication and apply work within these.
const RECENT_MAX: usize = 65_536;

/// A known place at least this often, in bytes of log. From it the frames are walked.
pub(crate) const SPARSE_BYTES: u64 = 1 << 20;

/// Physical offsets of frames by index. Indexes are consecutive.
#[derive(Debug, Default)]
pub(crate) struct FrameIndex {
    /// Physical offsets of the newest entries.
    recent: VecDeque<u64>,
    /// Index of the first of them; with none, of the next to come.
    recent_first: u64,
    /// Some (index, physical offset), both ascending.
    sparse: Vec<(u64, u64)>,
}

/// Where to look for an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StartingPoint {
    /// An entry at or before the one asked for.
    pub(crate) index: u64,
    /// Its frame's physical offset.
    pub(crate) physical_offset: u64,
}

impl FrameIndex {
    /// An index of which only some places are known, up to this entry's.
    pub(crate) fn begin_behind(&mut self, last: StartingPoint) {
        self.recent_first = last.index + 1;
        self.note(last.index, last.physical_offset);
    }

    /// Adds the entry after the last one.
    pub(crate) fn push(&mut self, index: u64, physical_offset: u64) {
        if self.recent.is_empty() && self.sparse.is_empty() {
            self.recent_first = index;
        }
        assert_eq!(index, self.next(), "entries are consecutive");
        self.recent.push_back(physical_offset);
        if self.recent.len() > RECENT_MAX {
            self.recent.pop_front();
            self.recent_first += 1;
        }
        self.note(index, physical_offset);
    }

    /// The index of the next entry.
    fn next(&self) -> u64 {
        self.recent_first + self.recent.len() as u64
    }

    /// Remembers a place if none is known within the last megabyte.
    fn note(&mut self, index: u64, physical_offset: u64) {
        let far = self.sparse.last().is_none_or(|(_, at)| physical_offset >= at + SPARSE_BYTES);
        if far {
            self.sparse.push((index, physical_offset));
        }
    }

    /// Remembers a place found while walking old frames, or a segment's first frame at recovery.
    pub(crate) fn note_old(&mut self, point: StartingPoint) {
        let StartingPoint { index, physical_offset } = point;
        let at = self.sparse.partition_point(|(i, _)| *i < index);
        let near_before = at > 0 && physical_offset < self.sparse[at - 1].1 + SPARSE_BYTES;
        let known = self.sparse.get(at).is_some_and(|(i, _)| *i == index);
        if !near_before && !known {
            self.sparse.insert(at, (index, physical_offset));
        }
    }

    /// The nearest known place at or before `index`; `None` where no such entry can be.
    pub(crate) fn find(&self, index: u64) -> Option<StartingPoint> {
        if index >= self.next() {
            return None;
        }
        if let Some(at) = index.checked_sub(self.recent_first)
            && let Some(&physical_offset) = self.recent.get(at as usize)
        {
            return Some(StartingPoint { index, physical_offset });
        }
        let after = self.sparse.partition_point(|(i, _)| *i <= index);
        let (index, physical_offset) = *self.sparse.get(after.checked_sub(1)?)?;
        Some(StartingPoint { index, physical_offset })
    }

    /// Whether the entry's place is known exactly, or there is no such entry yet.
    pub(crate) fn is_recent(&self, index: u64) -> bool {
        index >= self.recent_first
    }

    /// Forgets the entries from `index` on.
    pub(crate) fn truncate(&mut self, index: u64) {
        let keep = index.saturating_sub(self.recent_first) as usize;
        self.recent.truncate(keep);
        if self.recent.is_empty() {
            self.recent_first = index;
        }
        let keep = self.sparse.partition_point(|(i, _)| *i < index);
        self.sparse.truncate(keep);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_entries_are_exact_and_old_ones_near() {
        let mut index = FrameIndex::default();
        let place = |i: u64| i * 1000;
        let count = RECENT_MAX as u64 + 10_000;
        for i in 5..count {
            index.push(i, place(i));
        }
        for i in [count - 1, count - RECENT_MAX as u64] {
            assert_eq!(index.find(i), Some(StartingPoint { index: i, physical_offset: place(i) }));
        }
        let old = index.find(4000).unwrap();
        assert!(old.index <= 4000 && place(4000) - old.physical_offset < SPARSE_BYTES + 1000);
        assert_eq!(index.find(4), None);
        index.truncate(3000);
        assert_eq!(index.find(2999).map(|p| p.index <= 2999), Some(true));
        index.push(3000, 7);
        assert_eq!(index.find(3000), Some(StartingPoint { index: 3000, physical_offset: 7 }));
    }
}
