//! Whether the disk has room for what comes, looked at again and again.
//!
//! The log takes its segments ahead of need, so what is on its way always fits while there is a stretch ahead of its end, or
//! room to make one. What is derived, and small files, need room of their own: so much, the *reserve*, is left free. Who
//! adds to the log asks here first, and where there is no room it is refused by name, long before a write would fail.
//!
//! What other members have stored already is taken for longer: up to the log's last stretch, and half of the reserve. So of
//! disks that fill together, none is left without an entry that another took while there was room.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use raftmq_world::Disk;

/// What may still come into the log once there is found to be no room: the entries that are on their way, eight of up to
/// 8 MiB at worst, and what comes until somebody looks again.
const ON_ITS_WAY_BYTES: u64 = 64 << 20;
/// Of small segments entries are small too, a quarter of one.
const ON_ITS_WAY_SEGMENTS: u64 = 4;
/// Of a small disk the reserve takes no more than this part.
const RESERVE_PART: u64 = 16;
/// Kept in the log's last stretch for what elections bring; of small segments a quarter of one.
const LAST_BYTES: u64 = 1 << 20;
/// By this part of the reserve more has to be free before it goes on: what is written in between, such as a checkpoint that
/// takes the place of another, should not make it change its mind.
const AGAIN_PART: u64 = 8;

/// Why nothing is added to the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{free} bytes are free below {}, {reserve} are kept, and the log has {ahead} ahead of its end",
    dir.display()
)]
pub struct NoRoom {
    dir: PathBuf,
    free: u64,
    reserve: u64,
    ahead: u64,
}

/// What of the log is there already, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogSpace {
    /// Taken from the disk ahead of the log's end.
    pub(crate) ahead: u64,
    /// A segment.
    pub(crate) segment: u64,
    /// Whether one could be made the last time that it was tried. Where a quota is in the way, the disk does not say so.
    pub(crate) may_make: bool,
}

/// How much room the disk had when it was last looked at.
#[derive(Debug)]
pub(crate) struct Room {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    reserve: u64,
    seen: RwLock<Seen>,
}

/// What was seen when it was last looked at.
#[derive(Debug, Default)]
struct Seen {
    lacks: Option<NoRoom>,
    /// Bytes of the segments that may be made.
    segments: u64,
    /// More than half of the reserve is used up.
    is_spent: bool,
}

impl Room {
    pub(crate) fn new(disk: Arc<dyn Disk>, dir: &Path, reserve: u64) -> Self {
        Self { disk, dir: dir.to_owned(), reserve, seen: RwLock::default() }
    }

    /// Whether there is room.
    pub(crate) fn check(&self) -> Result<(), NoRoom> {
        self.seen.read().lacks.clone().map_or(Ok(()), Err)
    }

    /// Whether entries of so many bytes have a place in a log of `segment` bytes a segment that has `ahead` behind its end.
    pub(crate) fn takes(&self, bytes: u64, ahead: u64, segment: u64) -> bool {
        let seen = self.seen.read();
        // Twice: what does not fit in the rest of a segment begins in the next.
        let taken = bytes.saturating_mul(2).saturating_add(LAST_BYTES.min(segment / 4));
        seen.lacks.is_none() || !seen.is_spent && taken <= ahead.saturating_add(seen.segments)
    }

    /// Looks at the disk, and says whether the log may take another segment ahead of need.
    pub(crate) fn look(&self, log: LogSpace) -> bool {
        let Ok(usage) = self.disk.usage(&self.dir) else {
            // What was so stays so, and whatever fails will say what it was.
            return true;
        };
        let reserve = self.reserve.min(usage.all / RESERVE_PART);
        let segments = log.segments(usage.free, reserve);
        let lacked = self.seen.read().lacks.is_some();
        let lacks = lacks(usage.free, reserve, log, lacked);
        let mut seen = self.seen.write();
        (seen.segments, seen.is_spent) = (segments, usage.free < reserve / 2);
        let no_room = || NoRoom { dir: self.dir.clone(), free: usage.free, reserve, ahead: log.ahead };
        seen.lacks = lacks.then(no_room);
        match &seen.lacks {
            Some(no_room) if !lacked => {
                tracing::error!("the disk is full, nothing is stored until there is room: {no_room}");
            }
            None if lacked => tracing::info!(free = usage.free, "the disk has room again"),
            _ => {}
        }
        usage.free >= reserve.saturating_add(log.segment)
    }
}

impl LogSpace {
    /// Bytes of the segments that may be made beside the reserve.
    fn segments(&self, free: u64, reserve: u64) -> u64 {
        let made = if self.may_make { free.saturating_sub(reserve) / self.segment } else { 0 };
        made.saturating_mul(self.segment)
    }
}

/// Whether there is too little room; `lacked` is whether there was before.
fn lacks(free: u64, reserve: u64, log: LogSpace, lacked: bool) -> bool {
    let on_its_way = ON_ITS_WAY_BYTES.min(log.segment.saturating_mul(ON_ITS_WAY_SEGMENTS));
    let kept = if lacked { reserve + reserve / AGAIN_PART } else { reserve };
    free < kept || log.ahead.saturating_add(log.segments(free, reserve)) < on_its_way
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn room_is_for_what_is_on_its_way_beside_the_reserve() {
        let log = |ahead| LogSpace { ahead: ahead * MIB, segment: 1024 * MIB, may_make: true };
        let lacks = |free: u64, log, lacked| lacks(free * MIB, 256 * MIB, log, lacked);
        assert!(!lacks(2000, log(0), false), "for another segment");
        assert!(!lacks(300, log(64), false), "in the one that there is");
        assert!(lacks(300, log(63), false), "in neither");
        assert!(lacks(1279, log(63), false) && !lacks(1280, log(63), false));
        assert!(lacks(255, log(1000), false), "what is derived needs the reserve");
        // A segment that could not be made does not count, whatever is said to be free.
        assert!(lacks(9999, LogSpace { may_make: false, ..log(63) }, false));
        assert!(!lacks(9999, LogSpace { may_make: false, ..log(64) }, false));
        // Once there was none there has to be more.
        assert!(lacks(287, log(64), true) && !lacks(288, log(64), true));
        let small = |ahead| LogSpace { ahead, segment: 64 << 10, may_make: true };
        assert!(lacks(256, small(255 << 10), false) && !lacks(256, small(256 << 10), false));
    }

    #[test]
    fn what_others_have_stored_is_taken_for_longer() {
        let room = Room::new(Arc::new(raftmq_world::OsDisk), Path::new("/"), 256 * MIB);
        let takes = |bytes, ahead| room.takes(bytes, ahead, 1024 * MIB);
        assert!(takes(1 << 40, 0), "there is room");
        let no_room = NoRoom { dir: "/".into(), free: 0, reserve: 0, ahead: 0 };
        *room.seen.write() = Seen { lacks: Some(no_room.clone()), segments: MIB, is_spent: false };
        assert!(takes(4 * MIB, 8 * MIB) && !takes(4 * MIB + 1, 8 * MIB));
        assert!(room.takes(16 << 10, 48 << 10, 64 << 10));
        *room.seen.write() = Seen { lacks: Some(no_room), segments: MIB, is_spent: true };
        assert!(!takes(1, 64 * MIB));
    }
}
