//! Who members say that they are, when a connection begins, and who of them takes part.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use raftmq_store::{EntryId, Store};
use raftmq_world::Clock;

use crate::group_id::GroupId;
use crate::members::{MemberAddress, Members, too_old};
use crate::standing::{Standing, node_of};
use crate::table::FeatureLevel;
use crate::types::NodeId;

/// Who speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) cluster: String,
    pub(crate) broker_name: String,
    pub(crate) segment_bytes: u64,
    /// The group, once the speaker is in one.
    pub(crate) group: Option<GroupId>,
    pub(crate) id: NodeId,
    /// How often its directory has started, and a number of this start.
    pub(crate) start: (u64, u64),
    /// The term that the speaker is in.
    pub(crate) term: u64,
    /// The end of its log.
    pub(crate) last: Option<EntryId>,
    /// Where members reach it, as `host:port`.
    pub(crate) raft: String,
    pub(crate) client: String,
    pub(crate) admin: String,
    /// The highest level of a change that the speaker reads.
    pub(crate) reads: FeatureLevel,
    /// The level that the group is at, as far as the speaker knows.
    pub(crate) level: FeatureLevel,
}

impl Hello {
    /// The number of the node that speaks.
    pub(crate) fn node(&self) -> u64 {
        node_of(self.id)
    }

    /// Why the other side has no part in this group, if it has none, or this side none in the other's. Who is in no group
    /// yet contradicts none.
    pub(crate) fn contradiction(&self, other: &Self) -> Option<String> {
        let ours = (&self.cluster, &self.broker_name, self.segment_bytes);
        let theirs = (&other.cluster, &other.broker_name, other.segment_bytes);
        if ours != theirs {
            return Some(format!(
                "node {} is of cluster {}, group {}, with segments of {} bytes; this is node {} of cluster {}, group {}, with segments of {} bytes",
                other.node(),
                theirs.0,
                theirs.1,
                theirs.2,
                self.node(),
                ours.0,
                ours.1,
                ours.2
            ));
        }
        if let (Some(ours), Some(theirs)) = (self.group, other.group)
            && ours != theirs
        {
            return Some(format!(
                "node {} is of the group that was founded as {theirs}, this is node {} of {ours}: two groups of one name",
                other.node(),
                self.node(),
            ));
        }
        too_old(other.node(), other.reads, self.level)
            .or_else(|| too_old(self.node(), self.reads, other.level))
    }

    /// What goes into the log of it.
    pub(crate) fn address(&self) -> MemberAddress {
        MemberAddress {
            id: self.node(),
            directory: self.id,
            start: self.start,
            raft: self.raft.clone(),
            client: self.client.clone(),
            admin: self.admin.clone(),
            reads: self.reads,
        }
    }
}

/// What a member says of itself that does not change while it runs.
#[derive(Clone, Debug)]
pub(crate) struct Introduction {
    pub(crate) cluster: String,
    pub(crate) broker_name: String,
    pub(crate) segment_bytes: u64,
    pub(crate) raft: String,
    pub(crate) client: String,
    pub(crate) admin: String,
    pub(crate) reads: FeatureLevel,
}

/// How far this member and, where it leads, the others are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    pub(crate) term: u64,
    /// The directories that are members, as far as is known here.
    pub(crate) members: BTreeSet<NodeId>,
    /// What a leader knows that others have stored: a log that ends before has gone back.
    pub(crate) acknowledged: BTreeMap<NodeId, u64>,
}

/// What a directory has said of itself last.
struct Told {
    hello: Hello,
    /// Its log was not what it was when it had started: why this member says so.
    has_gone_back: Option<String>,
}

/// What this member says of itself, and what the others have said since it started.
pub(crate) struct Acquaintances {
    introduction: Introduction,
    standing: Arc<Standing>,
    store: Arc<Store>,
    members: Arc<Members>,
    /// By directory, also of those that are not members, or not yet.
    told: RwLock<BTreeMap<NodeId, Told>>,
    progress: OnceLock<ProgressOf>,
    /// Directories that have asked for the seat of their node, by node, and when.
    seeking: Mutex<BTreeMap<u64, (Hello, Duration)>>,
    /// When a leader was last heard of, by the time that passes here.
    heard_leader: Mutex<Option<Duration>>,
    clock: Arc<dyn Clock>,
}

/// Says how far a member and the others are, as of now.
pub(crate) type ProgressOf = Box<dyn Fn() -> Progress + Send + Sync>;

/// A directory that has not asked for a seat for so long is not counted on.
const SEEKING_MAX: Duration = Duration::from_secs(5);
/// More directories are remembered only where they are members.
const STRANGERS_MAX: usize = 64;

impl Acquaintances {
    pub(crate) fn new(
        introduction: Introduction,
        standing: Arc<Standing>,
        store: Arc<Store>,
        members: Arc<Members>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let own = Self {
            introduction,
            standing,
            store,
            members,
            told: RwLock::default(),
            progress: OnceLock::new(),
            seeking: Mutex::default(),
            heard_leader: Mutex::default(),
            clock,
        };
        let hello = own.own();
        own.told.write().insert(hello.id, Told { hello, has_gone_back: None });
        own
    }

    /// What this member says of itself now.
    pub(crate) fn own(&self) -> Hello {
        let Introduction { cluster, broker_name, segment_bytes, raft, client, admin, reads } =
            self.introduction.clone();
        Hello {
            cluster,
            broker_name,
            segment_bytes,
            group: self.standing.group(),
            id: self.standing.id(),
            start: self.standing.start(),
            term: self.progress().term,
            last: self.store.log().last(),
            raft,
            client,
            admin,
            reads,
            level: self.members.level(),
        }
    }

    /// This member's Raft id.
    pub(crate) fn id(&self) -> NodeId {
        self.standing.id()
    }

    /// This member's node.
    pub(crate) fn node_id(&self) -> u64 {
        node_of(self.standing.id())
    }

    /// A directory asks for the seat of its node: the one that has it is gone.
    pub(crate) fn note_seeking(&self, theirs: &Hello) {
        self.seeking.lock().insert(theirs.node(), (theirs.clone(), self.clock.passed()));
    }

    /// The directories that ask for the seat of their node now, and where they are.
    pub(crate) fn seeking(&self) -> BTreeMap<NodeId, String> {
        let mut seeking = self.seeking.lock();
        seeking.retain(|_, (_, at)| self.clock.passed().saturating_sub(*at) < SEEKING_MAX);
        seeking.values().map(|(theirs, _)| (theirs.id, theirs.raft.clone())).collect()
    }

    /// Whether a member's directory is gone, and the one that its node has come with has no more of the log than this member.
    pub(crate) fn is_replaced(&self, id: NodeId) -> bool {
        let seeking = self.seeking.lock();
        let Some((theirs, at)) = seeking.get(&node_of(id)).filter(|(theirs, _)| theirs.id != id) else {
            return false;
        };
        self.clock.passed().saturating_sub(*at) < SEEKING_MAX && theirs.last <= self.store.log().last()
    }

    /// A leader has sent something.
    pub(crate) fn note_leader(&self) {
        *self.heard_leader.lock() = Some(self.clock.passed());
    }

    /// How long no leader was heard of; without end where none was since the start.
    pub(crate) fn leader_silence(&self) -> Duration {
        let heard = *self.heard_leader.lock();
        heard.map_or(Duration::MAX, |heard| self.clock.passed().saturating_sub(heard))
    }

    /// From now on `progress` says how far this member and the others are.
    pub(crate) fn ask_of_progress(&self, progress: ProgressOf) {
        // It is told once, when the core has started.
        let _ = self.progress.set(progress);
    }

    fn progress(&self) -> Progress {
        self.progress.get().map(|progress| progress()).unwrap_or_default()
    }

    /// Whether a directory has said who it is.
    pub(crate) fn knows(&self, id: NodeId) -> bool {
        self.told.read().contains_key(&id)
    }

    /// Where a directory's node was last heard to be.
    pub(crate) fn address_of(&self, id: NodeId) -> Option<String> {
        if let Some(told) = self.told.read().get(&id) {
            return Some(told.hello.raft.clone());
        }
        self.members.get(node_of(id)).filter(|known| known.directory == id).map(|known| known.raft)
    }

    /// Takes note of who another is, or says why it has no part in this group.
    pub(crate) fn meet(&self, theirs: Hello) -> Result<(), String> {
        let own = self.own();
        if let Some(reason) = own.contradiction(&theirs) {
            return Err(reason);
        }
        if theirs.group.is_none() || own.group.is_none() {
            // What it asks is where it belongs.
            return Ok(());
        }
        if let Some(reason) = self.older_copy(&theirs) {
            return Err(reason);
        }
        let mut told = self.told.write();
        let before = told.get(&theirs.id);
        // Between starts no log goes back, and what was said may be older than what was acknowledged since.
        let has_gone_back = match before.filter(|before| before.hello.start == theirs.start) {
            Some(before) => before.has_gone_back.clone(),
            None => gone_back(&theirs, &self.progress()),
        };
        told.insert(theirs.id, Told { hello: theirs, has_gone_back });
        if told.len() > STRANGERS_MAX {
            let members = self.progress().members;
            told.retain(|id, _| members.contains(id) || *id == own.id);
        }
        Ok(())
    }

    /// Why a directory is not the one that the group knows, if it is a copy of an earlier time.
    pub(crate) fn older_copy(&self, theirs: &Hello) -> Option<String> {
        let recorded = self.members.get(theirs.node()).filter(|known| known.directory == theirs.id);
        let told = self.told.read().get(&theirs.id).map(|told| told.hello.start);
        let seen = recorded.map(|recorded| recorded.start).into_iter().chain(told);
        let seen = seen.max_by_key(|(starts, _)| *starts)?;
        is_older(theirs.start, seen).then(|| {
            format!(
                "the directory of node {} is an older copy: this is its start {}, and the group has seen its start {}",
                theirs.node(),
                theirs.start.0,
                seen.0
            )
        })
    }

    /// Why a directory's log is not what it was before its last start, if it had acknowledged more to this leader.
    pub(crate) fn gone_back(&self, id: NodeId) -> Option<String> {
        self.told.read().get(&id)?.has_gone_back.clone()
    }

    /// Where the other nodes are, as far as they have said so.
    pub(crate) fn others(&self) -> Vec<String> {
        let own = self.node_id();
        let others = self.addresses().into_iter().filter(|(node, _)| *node != own);
        others.map(|(_, address)| address.raft).collect()
    }

    /// What members have said, by node, and of the others what the log has of them.
    pub(crate) fn addresses(&self) -> BTreeMap<u64, MemberAddress> {
        let mut addresses = self.members.all();
        let (told, progress) = (self.told.read(), self.progress());
        let hellos = told.values().map(|told| &told.hello);
        let members = hellos.filter(|hello| progress.members.contains(&hello.id));
        addresses.extend(members.map(|hello| (hello.node(), hello.address())));
        addresses
    }
}

/// Why the log that a directory has started with is not what it was, if it had acknowledged more to this leader.
fn gone_back(theirs: &Hello, progress: &Progress) -> Option<String> {
    let stored = *progress.acknowledged.get(&theirs.id)?;
    let ends = theirs.last.map(|last| last.index);
    (theirs.term <= progress.term && ends < Some(stored)).then(|| {
        format!(
            "the log of node {} has gone back: it ends at entry {ends:?}, and it had acknowledged entry {stored}",
            theirs.node()
        )
    })
}

/// Whether a start was of a copy that another start has overtaken.
fn is_older((starts, run): (u64, u64), (recorded, recorded_run): (u64, u64)) -> bool {
    starts < recorded || (starts == recorded && run != recorded_run)
}

#[cfg(test)]
mod tests {
    use raftmq_store::FlushMode;
    use raftmq_testkit::{queues_alone, store_options};
    use raftmq_world::{Random, World};

    use super::*;
    use crate::members::MembersCommand;
    use crate::table::Table;

    const GROUP: GroupId = GroupId::from_bytes([7; 16]);

    fn hello(node: u64, reads: FeatureLevel) -> Hello {
        Hello {
            cluster: "C".into(),
            broker_name: "b".into(),
            segment_bytes: 1 << 20,
            group: Some(GROUP),
            id: 1 << 20 | node,
            start: (1, 7),
            term: 3,
            last: Some(EntryId { term: 3, index: 9 }),
            raft: "r:1".into(),
            client: "c:1".into(),
            admin: "a:1".into(),
            reads,
            level: 1,
        }
    }

    /// Of a member in the group, of node 1.
    fn acquaintances(reads: FeatureLevel, act: impl FnOnce(&Acquaintances, &Members)) {
        let (dir, world) = (tempfile::tempdir().unwrap(), World::system());
        let options = store_options(dir.path(), FlushMode::Async);
        let store = Store::open(options, queues_alone(dir.path()), &world).unwrap();
        let standing = Arc::new(Standing::open(store.clone(), 1, &Random::seeded(1)).unwrap());
        standing.enter(GROUP, None).unwrap();
        let members = Arc::new(Members::new(standing.id(), reads));
        let Hello { cluster, broker_name, segment_bytes, raft, client, admin, .. } = hello(1, reads);
        let own = Introduction { cluster, broker_name, segment_bytes, raft, client, admin, reads };
        act(&Acquaintances::new(own, standing, store.clone(), members.clone(), world.clock), &members);
        store.close().unwrap();
    }

    #[test]
    fn who_reads_too_little_is_told_so_by_whoever_is_ahead() {
        acquaintances(2, |newer, members| {
            assert_eq!(newer.meet(hello(2, 1)), Ok(()));
            members.apply(MembersCommand::RaiseLevel(2)).unwrap();
            let words = newer.meet(hello(2, 1)).unwrap_err();
            assert!(words.contains("node 2") && words.contains("level 1"), "{words}");
            // The other way round: it is the one that connects.
            assert_eq!(hello(2, 1).contradiction(&newer.own()).unwrap(), words);
            assert_eq!(newer.meet(hello(2, 2)), Ok(()));
        });
    }

    #[test]
    fn who_is_of_another_group_has_no_part_in_this_one() {
        let own = hello(1, 1);
        assert_eq!(own.contradiction(&hello(2, 1)), None);
        assert_eq!(own.contradiction(&Hello { group: None, ..hello(2, 1) }), None);
        for other in [
            Hello { cluster: "D".into(), ..hello(2, 1) },
            Hello { broker_name: "c".into(), ..hello(2, 1) },
            Hello { segment_bytes: 1 << 21, ..hello(2, 1) },
            Hello { group: Some(GroupId::from_bytes([8; 16])), ..hello(2, 1) },
        ] {
            assert!(own.contradiction(&other).is_some(), "{other:?}");
        }
    }

    #[test]
    fn a_directory_that_has_gone_back_is_told_so() {
        acquaintances(1, |own, members| {
            let follower = hello(2, 1);
            assert_eq!(own.meet(follower.clone()), Ok(()));
            let progress = Arc::new(Mutex::new(Progress {
                term: 3,
                members: [follower.id].into(),
                acknowledged: [(follower.id, 9)].into(),
            }));
            let asked = progress.clone();
            own.ask_of_progress(Box::new(move || asked.lock().clone()));
            let mut starts = 1;
            let mut is_found = |last, term, restarts: u64| {
                starts += restarts;
                let last = (last > 0).then_some(EntryId { term: 3, index: last });
                own.meet(Hello { last, term, start: (starts, 7), ..follower.clone() }).unwrap();
                own.gone_back(follower.id)
            };
            assert_eq!(is_found(9, 3, 1), None);
            // Said before what it has acknowledged since.
            assert_eq!(is_found(8, 3, 0), None);
            assert!(is_found(8, 3, 1).is_some());
            assert!(is_found(9, 3, 0).is_some(), "until it starts again");
            assert!(is_found(0, 3, 1).is_some());
            // It follows somebody newer, who may have had it drop what this one counts on.
            assert_eq!(is_found(8, 4, 1), None);
            *progress.lock() = Progress { term: 4, ..Progress::default() };
            assert_eq!(is_found(8, 3, 1), None);

            members
                .apply(MembersCommand::Put(MemberAddress { start: (15, 9), ..follower.address() }))
                .unwrap();
            for older in [(1, 7), (14, 9), (15, 7)] {
                assert!(
                    own.meet(Hello { start: older, ..follower.clone() }).unwrap_err().contains("older copy")
                );
            }
            assert_eq!(own.meet(Hello { start: (15, 9), ..follower.clone() }), Ok(()));
            assert_eq!(own.meet(Hello { start: (16, 1), ..follower.clone() }), Ok(()));
            // Another directory of that node counts from 1 again.
            assert_eq!(own.meet(Hello { id: follower.id ^ 1 << 40, ..follower }), Ok(()));
        });
    }

    #[test]
    fn where_a_node_is_goes_by_what_it_said_last() {
        acquaintances(1, |own, members| {
            let (told, recorded) =
                (hello(2, 1), MemberAddress { raft: "r:9".into(), ..hello(3, 1).address() });
            own.meet(told.clone()).unwrap();
            members.apply(MembersCommand::Put(recorded.clone())).unwrap();
            assert_eq!(own.address_of(told.id), Some("r:1".into()));
            assert_eq!(own.address_of(recorded.directory), Some("r:9".into()));
            assert_eq!(own.address_of(recorded.directory ^ 1 << 40), None);
        });
    }
}
