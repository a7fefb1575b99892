//! Who members say that they are, when a connection begins, and who of them takes part.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::members::{MemberAddress, Members, too_old};
use crate::table::FeatureLevel;

/// Who speaks: up to the members the same for every member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) cluster: String,
    pub(crate) broker_name: String,
    pub(crate) segment_bytes: u64,
    /// Every member with its address: those who think of it differently would elect and append past each other.
    pub(crate) members: String,
    pub(crate) node_id: u64,
    pub(crate) client: String,
    pub(crate) admin: String,
    /// The highest level of a change that the speaker reads.
    pub(crate) reads: FeatureLevel,
    /// The level that the group is at, as far as the speaker knows.
    pub(crate) level: FeatureLevel,
}

impl Hello {
    /// Why the other side has no part in this group, if it has none, or this side none in the other's.
    pub(crate) fn contradiction(&self, other: &Self) -> Option<String> {
        if self.members != other.members {
            let (id, members) = (other.node_id, &other.members);
            let (own_id, own_members) = (self.node_id, &self.members);
            return Some(format!(
                "node {id} was told that the members are {members}, this is node {own_id}, which was told {own_members}"
            ));
        }
        let ours = (&self.cluster, &self.broker_name, self.segment_bytes);
        let theirs = (&other.cluster, &other.broker_name, other.segment_bytes);
        if ours != theirs {
            return Some(format!(
                "node {} is of cluster {}, group {}, with segments of {} bytes; this is node {} of cluster {}, group {}, with segments of {} bytes",
                other.node_id, theirs.0, theirs.1, theirs.2, self.node_id, ours.0, ours.1, ours.2
            ));
        }
        too_old(other.node_id, other.reads, self.level)
            .or_else(|| too_old(self.node_id, self.reads, other.level))
    }

    /// What goes into the log of it.
    pub(crate) fn address(&self) -> MemberAddress {
        let Self { node_id: id, reads, .. } = *self;
        MemberAddress { id, client: self.client.clone(), admin: self.admin.clone(), reads }
    }
}

/// What this member says of itself, and what the others have said since it started.
pub(crate) struct Acquaintances {
    own: Hello,
    members: Arc<Members>,
    told: RwLock<BTreeMap<u64, Hello>>,
}

impl Acquaintances {
    /// `own` is of whatever level; `members` has the present one.
    pub(crate) fn new(own: Hello, members: Arc<Members>) -> Self {
        let told = RwLock::new([(own.node_id, own.clone())].into());
        Self { own, members, told }
    }

    /// What this member says of itself now.
    pub(crate) fn own(&self) -> Hello {
        Hello { level: self.members.level(), ..self.own.clone() }
    }

    /// This member's id.
    pub(crate) fn node_id(&self) -> u64 {
        self.own.node_id
    }

    /// Whether another has said who it is.
    pub(crate) fn knows(&self, member: u64) -> bool {
        self.told.read().contains_key(&member)
    }

    /// Takes note of who another is, or says why it has no part in this group.
    pub(crate) fn meet(&self, theirs: Hello) -> Result<(), String> {
        if let Some(reason) = self.own().contradiction(&theirs) {
            return Err(reason);
        }
        self.told.write().insert(theirs.node_id, theirs);
        Ok(())
    }

    /// What members have said, and of the others what the log has of them.
    pub(crate) fn addresses(&self) -> BTreeMap<u64, MemberAddress> {
        let mut addresses = self.members.all();
        addresses.extend(self.told.read().iter().map(|(id, hello)| (*id, hello.address())));
        addresses
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::MembersCommand;
    use crate::table::Table;

    fn hello(node_id: u64, reads: FeatureLevel) -> Hello {
        Hello {
            cluster: "C".into(),
            broker_name: "b".into(),
            segment_bytes: 1 << 20,
            members: "1=a:1,2=b:2".into(),
            node_id,
            client: "c:1".into(),
            admin: "a:1".into(),
            reads,
            level: 1,
        }
    }

    #[test]
    fn who_reads_too_little_is_told_so_by_whoever_is_ahead() {
        let members = Arc::new(Members::new(1, 2));
        let newer = Acquaintances::new(hello(1, 2), members.clone());
        assert_eq!(newer.meet(hello(2, 1)), Ok(()));
        members.apply(MembersCommand::RaiseLevel(2)).unwrap();
        let words = newer.meet(hello(2, 1)).unwrap_err();
        assert!(words.contains("node 2") && words.contains("level 1"), "{words}");
        // The other way round: it is the one that connects.
        let older = Acquaintances::new(hello(2, 1), Arc::new(Members::new(2, 1)));
        assert_eq!(older.meet(newer.own()).unwrap_err(), words);
        assert_eq!(newer.meet(hello(2, 2)), Ok(()));
    }

    #[test]
    fn who_is_of_another_group_has_no_part_in_this_one() {
        let own = hello(1, 1);
        assert_eq!(own.contradiction(&hello(2, 1)), None);
        for other in [
            Hello { cluster: "D".into(), ..hello(2, 1) },
            Hello { broker_name: "c".into(), ..hello(2, 1) },
            Hello { segment_bytes: 1 << 21, ..hello(2, 1) },
            Hello { members: "1=a:1".into(), ..hello(2, 1) },
        ] {
            assert!(own.contradiction(&other).is_some(), "{other:?}");
        }
    }
}
