//! Whether the group has room for more: on this member's disk, and on those of a majority.
//!
//! A member says so to its leader with every [lease](crate::lease) that it gives. A leader proposes nothing while its own
//! disk is full, or too few others have room: whoever asks is told so at once. What a leader has stored already its followers
//! take as well, out of what is kept for that; a follower whose disk is the only full one gets to where there is nothing left
//! of it, takes no entries then (`server.rs`), stays a member, and catches up when there is room. Elections and memberships
//! are not asked for room: they take a few bytes of what is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use raftmq_store::{FrameKind, NoRoom, Store};
use raftmq_world::Clock;

use crate::api::ProposeError;
use crate::electorate::Electorate;
use crate::standing::node_of;
use crate::types::{Entry, NodeId, Payload, entry_id};
use crate::wire::AppendRequest;

/// Who has not answered for so long stores nothing either. Matters only where others have no room.
const SILENT: Duration = Duration::from_secs(2);

/// What is known of the members' disks.
pub(crate) struct Rooms {
    own: NodeId,
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    leading: Mutex<Leading>,
}

/// What a leader knows of its followers; nothing where this member does not lead.
#[derive(Default)]
struct Leading {
    electorate: Electorate,
    said: BTreeMap<NodeId, Said>,
}

/// What a follower has said last.
#[derive(Clone, Copy, Debug)]
struct Said {
    at: Duration,
    has_room: bool,
}

impl Leading {
    /// Whether a majority stores what is proposed. It is for the lease to say where members are only silent.
    fn check(&self, own: NodeId, now: Duration) -> Result<(), ProposeError> {
        let full = |id: &&NodeId| self.said.get(*id).is_some_and(|said| !said.has_room);
        let stores = |id: &&NodeId| {
            **id == own || self.said.get(*id).is_some_and(|said| said.has_room && now < said.at + SILENT)
        };
        let is_short = |quorum: &BTreeSet<NodeId>| {
            quorum.iter().any(|id| full(&id)) && quorum.iter().filter(stores).count() <= quorum.len() / 2
        };
        let Some(quorum) = self.electorate.sets().iter().find(|quorum| is_short(quorum)) else {
            return Ok(());
        };
        let nodes: BTreeSet<_> = quorum.iter().filter(full).map(|id| node_of(*id)).collect();
        let nodes: Vec<_> = nodes.iter().map(u64::to_string).collect();
        Err(ProposeError::NoRoom(format!(
            "no majority of the members has room: full are the disks of nodes {}",
            nodes.join(", ")
        )))
    }
}

impl Rooms {
    pub(crate) fn new(own: NodeId, store: Arc<Store>, clock: Arc<dyn Clock>) -> Self {
        Self { own, store, clock, leading: Mutex::default() }
    }

    /// Whether this member has room for what comes.
    pub(crate) fn own(&self) -> Result<(), NoRoom> {
        self.store.room()
    }

    /// Whether something may be proposed.
    pub(crate) fn check(&self) -> Result<(), ProposeError> {
        self.own().map_err(|no_room| ProposeError::NoRoom(no_room.to_string()))?;
        self.leading.lock().check(self.own, self.clock.passed())
    }

    /// This member leads these voters, or none any more. Who has not said anything yet counts as having room for a while.
    pub(crate) fn lead(&self, electorate: Electorate) {
        let now = self.clock.passed();
        let mut leading = self.leading.lock();
        let said = |id: &NodeId| leading.said.get(id).copied().unwrap_or(Said { at: now, has_room: true });
        let said = electorate.voters().into_iter().map(|id| (id, said(&id))).collect();
        *leading = Leading { electorate, said };
    }

    /// A follower says whether its disk has room.
    pub(crate) fn said(&self, member: NodeId, has_room: bool) {
        let said = Said { at: self.clock.passed(), has_room };
        let Some(before) = self.leading.lock().said.insert(member, said) else { return };
        let node = node_of(member);
        match (before.has_room, has_room) {
            (true, false) => tracing::warn!(node, "the disk of node {node} is full"),
            (false, true) => tracing::info!(node, "the disk of node {node} has room again"),
            _ => {}
        }
    }

    /// Whether this member takes what others have stored already: it has a place for that.
    pub(crate) fn takes(&self, request: &AppendRequest) -> bool {
        let bytes = self.bytes_to_come(request);
        bytes == 0 || self.store.has_room_for(bytes)
    }

    /// Bytes of the entries that this member has not got, but for what elections and memberships bring. A new leader sends
    /// others once more to find out how far a log goes.
    fn bytes_to_come(&self, request: &AppendRequest) -> u64 {
        let (log, entries) = (self.store.log(), &request.entries);
        let last = log.last().map(|last| last.index);
        let below = entries.iter().take_while(|entry| Some(entry.log_id.index) <= last).count();
        // Where this one is the same, those before it are.
        let is_there = |entry: &Entry| {
            let id = entry_id(&entry.log_id);
            matches!(log.frame(id.index), Ok(Some(frame)) if frame.id() == id)
        };
        let known = below.checked_sub(1).filter(|newest| is_there(&entries[*newest])).map_or(0, |_| below);
        let len_of = |entry: &Entry| match &entry.payload {
            Payload::Frame(frame) if !matches!(frame.kind, FrameKind::Blank | FrameKind::Membership) => {
                frame.bytes.as_ref().len() as u64
            }
            _ => 0,
        };
        entries[known..].iter().map(len_of).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn leading(quorums: &[&[NodeId]], full: &[NodeId], silent: &[NodeId]) -> Leading {
        let said = |id: NodeId| {
            let at = if silent.contains(&id) { NOW - SILENT } else { NOW };
            (id, Said { at, has_room: !full.contains(&id) })
        };
        let electorate = Electorate::from(quorums);
        let said = electorate.voters().into_iter().map(said).collect();
        Leading { electorate, said }
    }

    #[test]
    fn a_majority_has_to_have_room() {
        let three: &[&[NodeId]] = &[&[1, 2, 3]];
        let five: &[&[NodeId]] = &[&[1, 2, 3, 4, 5]];
        for (quorums, full, silent, fits) in [
            (&[][..], &[][..], &[][..], true),
            (&[&[1][..]][..], &[], &[], true),
            (three, &[], &[], true),
            (three, &[2], &[], true),
            (three, &[2, 3], &[], false),
            (three, &[2], &[3], false),
            (three, &[2], &[2], true),
            // Not for want of room.
            (three, &[], &[2, 3], true),
            (&[&[1, 2, 3, 4]], &[2], &[], true),
            (&[&[1, 2, 3, 4]], &[2, 3], &[], false),
            (five, &[2, 3], &[], true),
            (five, &[2, 3], &[4], false),
            (&[&[1, 2, 3], &[1, 4, 5]], &[4, 5], &[], false),
        ] {
            let told = leading(quorums, full, silent).check(1, NOW);
            assert_eq!(told.is_ok(), fits, "{quorums:?} {full:?} {silent:?}");
        }
        let words = leading(three, &[2, 3], &[]).check(1, NOW).unwrap_err().to_string();
        assert!(words.contains("nodes 2, 3"), "{words}");
    }
}
