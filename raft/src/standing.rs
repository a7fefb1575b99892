//! Which member of which group a directory is: its Raft id, the group, how often it has started.
//!
//! A node keeps its number for life: clients know it by that. What votes and acknowledges is its *directory*, under a Raft
//! id of its own: the node's number in the low 16 bits, above it a number that was drawn when the directory was made. A
//! directory that has lost something comes back under a new Raft id, so that what the old one has promised is never
//! counted again, and takes the node's place once it is whole (`seats.rs`).

use std::sync::Arc;

use parking_lot::Mutex;
use raftmq_store::{Store, StoreError};
use raftmq_world::Random;
use serde::{Deserialize, Serialize};

use crate::group_id::GroupId;
use crate::record_file;
use crate::types::NodeId;

const FILE: &str = "member";
const VERSION: u8 = 1;

/// Bits of a Raft id that are the node's number.
const NODE_BITS: u32 = 16;
/// The highest number of a node.
pub(crate) const NODE_MAX: u64 = (1 << NODE_BITS) - 1;

/// The number of the node whose directory has this Raft id.
pub(crate) fn node_of(id: NodeId) -> u64 {
    id & NODE_MAX
}

/// A Raft id that no directory has had.
fn draw_id(node: u64, random: &Random) -> NodeId {
    // Zero above the number would be any directory's.
    let drawn = random.number().max(1 << NODE_BITS);
    (drawn & !NODE_MAX) | node
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    version: u8,
    id: NodeId,
    group: Option<GroupId>,
    /// Whether the group has taken this directory in.
    is_seated: bool,
    /// The founding members as a membership frame has them, where this directory is one of them.
    founding: Option<Vec<u8>>,
    starts: u64,
}

/// What a directory is, as its file `member` says.
pub(crate) struct Standing {
    store: Arc<Store>,
    record: Mutex<Record>,
    /// Drawn at this start: two copies of a directory that have started equally often are not the same.
    run: u64,
}

impl Standing {
    /// Reads it, or makes it for a directory that is new, and counts this start.
    ///
    /// # Errors
    /// The disk refused; the file is damaged, of another layout, or missing beside a log.
    pub(crate) fn open(store: Arc<Store>, node: u64, random: &Random) -> Result<Self, StoreError> {
        let mut record = match record_file::read::<Record>(&store, FILE)? {
            Some(record) if record.version == VERSION => record,
            Some(Record { version, .. }) => {
                return Err(StoreError::Illegal(format!(
                    "the file {FILE} has layout {version}, this build reads layout {VERSION}"
                )));
            }
            None if store.log().last().is_some() => {
                return Err(StoreError::Illegal(format!(
                    "the file {FILE} is missing beside a log: empty the directory, and this node returns as a new member"
                )));
            }
            None => Record {
                version: VERSION,
                id: draw_id(node, random),
                group: None,
                is_seated: false,
                founding: None,
                starts: 0,
            },
        };
        record.starts += 1;
        record_file::write(&store, FILE, &record)?;
        Ok(Self { store, record: Mutex::new(record), run: random.number() })
    }

    /// Its Raft id.
    pub(crate) fn id(&self) -> NodeId {
        self.record.lock().id
    }

    /// Whether its group has taken it in under its Raft id.
    pub(crate) fn is_seated(&self) -> bool {
        self.record.lock().is_seated
    }

    /// Its group, once it is in one.
    pub(crate) fn group(&self) -> Option<GroupId> {
        self.record.lock().group
    }

    /// The founding members, where it is one of them.
    pub(crate) fn founding(&self) -> Option<Vec<u8>> {
        self.record.lock().founding.clone()
    }

    /// How often it has started under this Raft id, and a number of this start.
    pub(crate) fn start(&self) -> (u64, u64) {
        (self.record.lock().starts, self.run)
    }

    /// Takes a seat in a group, the first or the same again. Durable on return.
    pub(crate) fn enter(&self, group: GroupId, founding: Option<Vec<u8>>) -> Result<(), StoreError> {
        self.change(|record| {
            record.group = Some(group);
            record.is_seated = true;
            record.founding = founding;
        })
    }

    /// Takes another Raft id, from the next start on: what was promised under this one does not count any more.
    pub(crate) fn renew(&self, random: &Random) -> Result<(), StoreError> {
        self.change(|record| {
            record.id = draw_id(node_of(record.id), random);
            record.is_seated = false;
            record.founding = None;
            record.starts = 0;
        })
    }

    fn change(&self, change: impl FnOnce(&mut Record)) -> Result<(), StoreError> {
        let mut record = self.record.lock();
        let mut changed = record.clone();
        change(&mut changed);
        record_file::write(&self.store, FILE, &changed)?;
        *record = changed;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use raftmq_store::FlushMode;
    use raftmq_testkit::{queues_alone, store_options};
    use raftmq_world::World;

    use super::*;

    fn with_store<T>(dir: &std::path::Path, act: impl FnOnce(Arc<Store>) -> T) -> T {
        let world = World::system();
        let store = Store::open(store_options(dir, FlushMode::Async), queues_alone(dir), &world).unwrap();
        let done = act(store.clone());
        store.close().unwrap();
        done
    }

    #[test]
    fn a_directory_keeps_its_id_and_its_group_and_counts_its_starts() {
        let dir = tempfile::tempdir().unwrap();
        let random = Random::seeded(1);
        let open = |store| Standing::open(store, 3, &random).unwrap();
        let group = GroupId::draw(&random);
        let id = with_store(dir.path(), |store| {
            let standing = open(store);
            assert_eq!((standing.group(), standing.start().0), (None, 1));
            standing.enter(group, Some(vec![1])).unwrap();
            standing.id()
        });
        assert_eq!(node_of(id), 3);
        with_store(dir.path(), |store| {
            let standing = open(store);
            assert_eq!((standing.id(), standing.group(), standing.start().0), (id, Some(group), 2));
            assert_eq!(standing.founding(), Some(vec![1]));
            standing.renew(&random).unwrap();
        });
        with_store(dir.path(), |store| {
            let standing = open(store);
            assert!(standing.id() != id && node_of(standing.id()) == 3);
            assert_eq!((standing.group(), standing.founding(), standing.start().0), (Some(group), None, 1));
            assert!(!standing.is_seated());
            standing.enter(group, None).unwrap();
            assert!(standing.is_seated());
        });
        assert_eq!(group.to_string().parse(), Ok(group));
    }

    #[test]
    fn ids_are_never_the_bare_number_of_a_node() {
        let random = Random::seeded(7);
        for node in [1, 2, NODE_MAX] {
            let ids: std::collections::BTreeSet<_> = (0..100).map(|_| draw_id(node, &random)).collect();
            assert!(ids.len() == 100 && ids.iter().all(|id| node_of(*id) == node && *id > NODE_MAX));
        }
    }
}
