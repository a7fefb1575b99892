//! What the group's log knows of its members: where clients reach them, which changes each can read, and the feature level
//! that all of them have agreed on.
//!
//! A change may be proposed once the group is at its level, and the leader raises that when every member has said that it
//! reads the next: from then on one that cannot is told so in words, as it connects and as it starts, and never gets to an
//! entry that would stop it.

use std::collections::BTreeMap;

use parking_lot::RwLock;
use raftmq_store::StoreError;
use serde::{Deserialize, Serialize};

use crate::table::{FIRST_LEVEL, FeatureLevel, Table};

/// Where a member is reached, and what it can read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberAddress {
    /// Its node id.
    pub id: u64,
    /// The Raft id of its directory.
    pub directory: u64,
    /// How often that has started, and a number of its last start.
    pub start: (u64, u64),
    /// Its address for the other members, as `host:port`.
    pub raft: String,
    /// Its address for clients, as `ip:port`.
    pub client: String,
    /// Its admin API, as `ip:port`.
    pub admin: String,
    /// The highest level of a change that it reads.
    pub reads: FeatureLevel,
}

/// A change of what is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum MembersCommand {
    /// Records what a member says of itself.
    Put(MemberAddress),
    /// Every member reads changes of this level.
    RaiseLevel(FeatureLevel),
}

/// The members as of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MembersImage {
    members: Vec<MemberAddress>,
    level: FeatureLevel,
}

/// The members that have said who they are, as one of them knows them.
#[derive(Debug)]
pub(crate) struct Members {
    node_id: u64,
    /// The highest level of a change that it reads.
    reads: FeatureLevel,
    known: RwLock<Known>,
}

#[derive(Debug)]
struct Known {
    members: BTreeMap<u64, MemberAddress>,
    level: FeatureLevel,
}

impl Members {
    pub(crate) fn new(node_id: u64, reads: FeatureLevel) -> Self {
        Self { node_id, reads, known: RwLock::new(Known { members: BTreeMap::new(), level: FIRST_LEVEL }) }
    }

    /// Why this member has no part in the group, if it reads too little of it.
    pub(crate) fn too_old(&self) -> Option<String> {
        too_old(self.node_id, self.reads, self.level())
    }

    /// What is known of them, by id.
    pub(crate) fn all(&self) -> BTreeMap<u64, MemberAddress> {
        self.known.read().members.clone()
    }

    /// What is known of one.
    pub(crate) fn get(&self, id: u64) -> Option<MemberAddress> {
        self.known.read().members.get(&id).cloned()
    }

    /// The level that every member reads.
    pub(crate) fn level(&self) -> FeatureLevel {
        self.known.read().level
    }
}

/// The level that the members of `ids` can agree on, as far as is known what they read; `None` while it is not known of each.
pub(crate) fn common_level(
    ids: impl IntoIterator<Item = u64>,
    known: &BTreeMap<u64, MemberAddress>,
) -> Option<FeatureLevel> {
    let reads: Option<Vec<_>> = ids.into_iter().map(|id| known.get(&id).map(|member| member.reads)).collect();
    reads?.into_iter().min()
}

/// Why a member has no part in a group that is at `level`, if it reads too little of it.
pub(crate) fn too_old(node_id: u64, reads: FeatureLevel, level: FeatureLevel) -> Option<String> {
    (reads < level).then(|| {
        format!(
            "node {node_id} is of a release that reads changes up to feature level {reads}, and the group is at level \
             {level}: start the release there that the other members run"
        )
    })
}

impl Table for Members {
    const ID: u8 = 0;
    const NAME: &'static str = "members";
    const IMAGE_VERSION: u8 = 1;
    type Command = MembersCommand;
    type Outcome = ();
    type Image = MembersImage;

    fn level(_: &MembersCommand) -> FeatureLevel {
        FIRST_LEVEL
    }

    fn apply(&self, command: MembersCommand) -> Result<(), StoreError> {
        let mut known = self.known.write();
        match command {
            MembersCommand::Put(member) => drop(known.members.insert(member.id, member)),
            MembersCommand::RaiseLevel(level) if level < known.level => {
                let before = known.level;
                return Err(StoreError::Divergence(format!("feature level {level} behind level {before}")));
            }
            MembersCommand::RaiseLevel(level) => match too_old(self.node_id, self.reads, level) {
                // It was away while the others went on, and reads in its log that they did: what follows is not for it.
                Some(words) => return Err(StoreError::Illegal(words)),
                None => known.level = level,
            },
        }
        Ok(())
    }

    fn freeze(&self) -> impl FnOnce() -> MembersImage + Send + Sync + 'static {
        let known = self.known.read();
        let image = MembersImage { members: known.members.values().cloned().collect(), level: known.level };
        move || image
    }

    fn restore(&self, image: MembersImage) -> Result<(), StoreError> {
        let members = image.members.into_iter().map(|member| (member.id, member)).collect();
        *self.known.write() = Known { members, level: image.level };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Change;

    fn member(id: u64, reads: FeatureLevel) -> MemberAddress {
        MemberAddress {
            id,
            directory: 9,
            start: (2, 5),
            raft: "r:0".into(),
            client: "c:1".into(),
            admin: "a:2".into(),
            reads,
        }
    }

    #[test]
    fn members_agree_on_what_the_oldest_reads_once_each_has_said() {
        let known: BTreeMap<_, _> = [member(1, 3), member(2, 2)].map(|member| (member.id, member)).into();
        assert_eq!(common_level([1, 2], &known), Some(2));
        assert_eq!(common_level([1], &known), Some(3));
        assert_eq!((common_level([1, 2, 3], &known), common_level([], &known)), (None, None));
        assert_eq!(too_old(2, 2, 2), None);
        let words = too_old(2, 1, 2).unwrap();
        assert!(
            words.contains("node 2") && words.contains("level 1") && words.contains("level 2"),
            "{words}"
        );
    }

    #[test]
    fn the_level_never_falls() {
        let members = Members::new(1, 3);
        members.apply(MembersCommand::RaiseLevel(3)).unwrap();
        assert!(matches!(members.apply(MembersCommand::RaiseLevel(2)), Err(StoreError::Divergence(_))));
        assert_eq!(members.level(), 3);
    }

    #[test]
    fn a_member_that_reads_too_little_is_told_so_by_the_log_as_well() {
        let members = Members::new(7, 1);
        let words = members.apply(MembersCommand::RaiseLevel(2)).unwrap_err().to_string();
        assert!(words.contains("node 7") && words.contains("up to feature level 1"), "{words}");
        assert_eq!(members.level(), 1);
    }

    /// What stands in logs and checkpoints.
    #[test]
    fn its_commands_and_its_image_are_written_as_ever() {
        let bytes = |command| Change::new::<Members>(&command).unwrap().as_bytes().to_vec();
        assert_eq!(
            bytes(MembersCommand::Put(member(3, 1))),
            b"\x01\x00\x12\0\0\0\x00\x03\x09\x02\x05\x03r:0\x03c:1\x03a:2\x01"
        );
        assert_eq!(bytes(MembersCommand::RaiseLevel(2)), b"\x01\x00\x02\0\0\0\x01\x02");
        let members = Members::new(1, 1);
        members.apply(MembersCommand::Put(member(3, 1))).unwrap();
        let image = bincode::serde::encode_to_vec(members.freeze()(), bincode::config::standard()).unwrap();
        assert_eq!(image, b"\x01\x03\x09\x02\x05\x03r:0\x03c:1\x03a:2\x01\x01");
    }
}
