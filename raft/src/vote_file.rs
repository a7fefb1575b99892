//! The file of the vote: whom this member has voted for, in two slots, so that a vote costs one sync.
//!
//! A record has 17 bytes, little-endian: the term, the node id, and 1 where that one was known to lead. A term of 0 stands
//! for no vote.

use std::sync::Arc;

use parking_lot::Mutex;
use raftmq_store::{Slots, Store, StoreError};
use raftmq_world::Disk;

use crate::types::{LeaderId, Vote};

const FILE: &str = "votes";

/// The file, open.
#[derive(Debug)]
pub(crate) struct VoteFile(Mutex<Slots>);

impl VoteFile {
    /// Opens the file, or makes it, and reads the vote. May wait for the disk.
    ///
    /// # Errors
    /// It is damaged, or missing beside a log in which others were voted for.
    pub(crate) fn open(store: &Store, disk: &Arc<dyn Disk>) -> Result<(Self, Option<Vote>), StoreError> {
        let path = store.path_of(FILE);
        let (slots, vote) = match Slots::open(&**disk, &path)? {
            Some((slots, record)) => (slots, decode(&record)?),
            None => {
                let term = store.log().last().map_or(0, |last| last.term);
                if term > 0 {
                    return Err(StoreError::Illegal(format!(
                        "the file {FILE} is missing beside a log of term {term}: this member may have voted"
                    )));
                }
                (Slots::make(&**disk, &path, &encode(None))?, None)
            }
        };
        Ok((Self(Mutex::new(slots)), vote))
    }

    /// Records a vote; returns when it is durable.
    pub(crate) fn write(&self, vote: &Vote) -> Result<(), StoreError> {
        self.0.lock().write(&encode(Some(vote)))
    }
}

fn vote_of(term: u64, node_id: u64, committed: bool) -> Vote {
    let leader_id: LeaderId = openraft::vote::RaftLeaderId::new(term, node_id);
    Vote { leader_id, committed }
}

fn encode(vote: Option<&Vote>) -> Vec<u8> {
    let (term, node_id, committed) =
        vote.map_or((0, 0, false), |vote| (vote.leader_id.term, vote.leader_id.voted_for, vote.committed));
    [&term.to_le_bytes()[..], &node_id.to_le_bytes(), &[u8::from(committed)]].concat()
}

fn decode(record: &[u8]) -> Result<Option<Vote>, StoreError> {
    let bad = || StoreError::Illegal(format!("the file {FILE} holds no vote"));
    let (term, rest) = record.split_first_chunk::<8>().ok_or_else(bad)?;
    let (node_id, rest) = rest.split_first_chunk::<8>().ok_or_else(bad)?;
    let [committed @ (0 | 1)] = rest else { return Err(bad()) };
    let (term, node_id) = (u64::from_le_bytes(*term), u64::from_le_bytes(*node_id));
    Ok((term > 0).then(|| vote_of(term, node_id, *committed == 1)))
}

#[cfg(test)]
mod tests {
    use raftmq_store::FlushMode;
    use raftmq_testkit::{queues_alone, store_options};
    use raftmq_world::{OsDisk, World};

    use super::*;

    fn with_store(test: impl FnOnce(&Store, &Arc<dyn Disk>)) {
        let dir = tempfile::tempdir().unwrap();
        let options = store_options(dir.path(), FlushMode::Async);
        let store = Store::open(options, queues_alone(dir.path()), &World::system()).unwrap();
        let disk: Arc<dyn Disk> = Arc::new(OsDisk);
        test(&store, &disk);
        store.close().unwrap();
    }

    #[test]
    fn the_last_vote_reads_back() {
        with_store(|store, disk| {
            let (file, vote) = VoteFile::open(store, disk).unwrap();
            assert_eq!(vote, None);
            for vote in [vote_of(1, 2, false), vote_of(1, 2, true), vote_of(u64::MAX, 3, false)] {
                file.write(&vote).unwrap();
                assert_eq!(VoteFile::open(store, disk).unwrap().1, Some(vote));
            }
        });
    }

    #[test]
    fn what_is_no_vote_is_refused() {
        assert!(decode(&[0; 16]).is_err() && decode(&[0; 18]).is_err() && decode(&[2; 17]).is_err());
        assert_eq!(decode(&encode(None)).unwrap(), None);
    }
}
