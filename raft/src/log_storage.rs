//! openraft's log storage, directly on the CommitLog.
//!
//! Appending lays a frame out in the page cache and returns; the store's flusher reports when it is durable. The
//! same frame is what replication reads and what consumers are served from: there is no second copy.

use std::fmt::Debug;
use std::future::ready;
use std::io;
use std::ops::{Bound, RangeBounds, RangeInclusive};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::BytesMut;
use futures_util::Stream;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use parking_lot::Mutex;
use raftmq_store::{EntryId, FrameKind, NewEntry, Store, StoreError};
use raftmq_world::{Clock, Mutation, Threads, World};
use serde::{Deserialize, Serialize};

use crate::api::ProposeError;
use crate::done::done;
use crate::lease::Leases;
use crate::mending::once_mended;
use crate::record_file;
use crate::standing::Standing;
use crate::table::Change;
use crate::types::{
    Appended, Entry, Frame, LogId, Payload, Proposal, TypeConfig, Vote, decode_membership, encode_membership,
    entry_id, log_id,
};
use crate::vote_file::VoteFile;

/// Replication reads at most this many bytes at once, and at least one entry. Together with the window of requests on
/// their way it bounds what a slow follower keeps in memory.
const READ_BYTES_MAX: usize = 1 << 20;
/// How many entries are looked up at once while applying.
const APPLY_CHUNK: u64 = 256;

const PURGED_FILE: &str = "purged";

/// The log of one member.
#[derive(Clone)]
pub(crate) struct LogStorage {
    store: Arc<Store>,
    standing: Arc<Standing>,
    clock: Arc<dyn Clock>,
    threads: Arc<dyn Threads>,
    leases: Arc<Leases>,
    votes: Arc<VoteFile>,
    small: Arc<Mutex<Small>>,
}

/// What is kept beside the log.
#[derive(Default)]
struct Small {
    vote: Option<Vote>,
    purged: Option<LogId>,
}

#[derive(Serialize, Deserialize)]
struct PurgedRecord {
    term: u64,
    index: u64,
}

impl LogStorage {
    /// Reads vote and purge position back. May wait for the disk.
    pub(crate) fn open(
        store: Arc<Store>,
        standing: Arc<Standing>,
        leases: Arc<Leases>,
        world: &World,
    ) -> Result<Self, StoreError> {
        let (votes, vote) = VoteFile::open(&store, &world.disk)?;
        leases.recall(vote.as_ref(), vote.is_none() && store.log().last().is_none());
        let purged = record_file::read::<PurgedRecord>(&store, PURGED_FILE)?
            .map(|p| log_id(EntryId { term: p.term, index: p.index }));
        let (clock, threads) = (world.clock.clone(), world.threads.clone());
        let vote = vote.filter(|_| !Mutation::ForgetVote.is_on());
        let (votes, small) = (Arc::new(votes), Arc::new(Mutex::new(Small { vote, purged })));
        Ok(Self { store, standing, clock, threads, leases, votes, small })
    }

    fn append_entry(&self, entry: Entry) -> Result<(), StoreError> {
        let id = entry_id(&entry.log_id);
        let mut only_in = None;
        let (kind, command, mut pieces, places) = match entry.payload {
            Payload::Frame(frame) => {
                self.check_frame(&frame)?;
                return self.store.append_frame(id, frame.bytes.as_ref()).map(drop);
            }
            Payload::Blank => (FrameKind::Blank, Vec::new(), Vec::new(), None),
            Payload::Membership(membership) => {
                let group = self.standing.group().ok_or_else(|| {
                    StoreError::Illegal("members of a group that this directory is not in".into())
                })?;
                let bytes =
                    encode_membership(group, &membership).map_err(|e| StoreError::Illegal(e.to_string()))?;
                (FrameKind::Membership, Vec::new(), vec![BytesMut::from(&bytes[..])], None)
            }
            // Invariants 8 and 9: what was right to propose in one term may not be in another. This index has to be filled
            // all the same, and whoever proposed it hears why once it is.
            Payload::Proposal(Proposal::Change(proposal))
                if proposal.term.is_some_and(|term| term != id.term) =>
            {
                proposal.is_late.store(true, Ordering::Release);
                (FrameKind::Blank, Vec::new(), Vec::new(), None)
            }
            Payload::Proposal(Proposal::Change(proposal)) => {
                (FrameKind::Command, Vec::new(), vec![BytesMut::from(proposal.change.as_bytes())], None)
            }
            Payload::Proposal(Proposal::Messages(messages)) => {
                only_in = messages.term.filter(|term| *term != id.term);
                let change = messages.change.map(Change::into_bytes).unwrap_or_default();
                (FrameKind::Messages, change, messages.pieces, Some(messages.places))
            }
        };
        // Every member lays the founding entry out for itself, and all must come to the same bytes.
        let leader = if id.term == 0 { 0 } else { self.standing.id() };
        let entry = NewEntry {
            id,
            kind,
            leader,
            command: &command,
            pieces: &mut pieces,
            now_ms: self.clock.now_ms(),
        };
        let Some(places) = places else { return self.store.append(entry, &mut Vec::new()).map(drop) };
        let mut placed = Vec::new();
        let told = match only_in {
            // Invariant 7: whoever led in that term does not any more.
            Some(_) => Err(ProposeError::NotLeader { leader: None }),
            None => match self.store.append(entry, &mut placed) {
                Ok(_) => Ok(placed),
                Err(e @ (StoreError::Illegal(_) | StoreError::TooLarge { .. })) => {
                    Err(ProposeError::Refused(e.to_string()))
                }
                Err(e) => return Err(e),
            },
        };
        let refused = told.is_err();
        *places.0.lock() = Some(Appended { id, placed: told });
        if !refused {
            return Ok(());
        }
        // The log is as before, and this index has to be filled: a blank takes the messages' place, and whoever sent
        // them hears why once it is committed.
        let blank = NewEntry { id, kind: FrameKind::Blank, leader, command: &[], pieces: &mut [], now_ms: 0 };
        self.store.append(blank, &mut Vec::new()).map(drop)
    }

    /// A membership that a leader sent is decoded before it is appended, so that reading it back cannot fail.
    fn check_frame(&self, frame: &Frame) -> Result<(), StoreError> {
        if frame.kind == FrameKind::Membership {
            let (group, _) = decode_membership(frame.payload()).map_err(StoreError::Illegal)?;
            if let Some(own) = self.standing.group().filter(|own| *own != group) {
                return Err(StoreError::Divergence(format!(
                    "an entry of the group that was founded as {group} in the log of {own}"
                )));
            }
        }
        Ok(())
    }

    fn read(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<Entry>, StoreError> {
        let purged = self.small.lock().purged;
        let start =
            purged.map_or(start, |p| start.max(p.index + 1)).max(self.store.log().first_index().unwrap_or(0));
        let mut entries = Vec::new();
        if start >= end {
            return Ok(entries);
        }
        let mut bytes = 0;
        let Some(mut walk) = self.store.log().walk_from(start)? else { return Ok(entries) };
        while let Some(frame) = walk.next()? {
            if frame.header.index >= end || (bytes > 0 && bytes + frame.bytes.len() > bytes_max) {
                break;
            }
            bytes += frame.bytes.len();
            entries.push(Entry::from(frame));
        }
        Ok(entries)
    }
}

/// The last entry of each term in a part of the log.
fn last_of_terms(store: &Store, mut first: EntryId, last: EntryId) -> Result<Vec<EntryId>, StoreError> {
    let mut found = Vec::new();
    while first.term != last.term {
        // The first is of its term, the end is not.
        let (mut of_term, mut end) = (first, last);
        while of_term.index + 1 < end.index {
            let middle = of_term.index + (end.index - of_term.index) / 2;
            let missing = || StoreError::Illegal(format!("entry {middle} is not in the log"));
            let middle = store.log().id_of(middle)?.ok_or_else(missing)?;
            *if middle.term == first.term { &mut of_term } else { &mut end } = middle;
        }
        found.push(of_term);
        first = end;
    }
    found.push(last);
    Ok(found)
}

/// The half-open range of indexes that `range` means.
fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(n) => *n,
        Bound::Excluded(n) => n.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(n) => n.saturating_add(1),
        Bound::Excluded(n) => *n,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<TypeConfig> for LogStorage {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        Ok(once_mended(&self.store, || ready(self.read(start, end, usize::MAX))).await?)
    }

    /// The last of each term, and of the range. Headers alone tell, so nothing is waited for that was not damaged there.
    async fn get_key_log_ids(&mut self, range: RangeInclusive<LogId>) -> Result<Vec<LogId>, io::Error> {
        let (first, last) = (entry_id(range.start()), entry_id(range.end()));
        let found = once_mended(&self.store, || ready(last_of_terms(&self.store, first, last))).await?;
        Ok(found.into_iter().map(log_id).collect())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.small.lock().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        if self.store.log().is_recent(start) {
            let read = || ready(self.read(start, end, READ_BYTES_MAX));
            return Ok(once_mended(&self.store, read).await?);
        }
        // A follower that is far behind: finding the place may walk much of a segment that is not in memory.
        let read_on_thread = || {
            let reader = self.clone();
            let reading = self.threads.run(move || reader.read(start, end, READ_BYTES_MAX));
            async { reading.await.ok_or_else(|| StoreError::Stopped("entries could not be read".into()))? }
        };
        Ok(once_mended(&self.store, read_on_thread).await?)
    }

    /// Applies without holding more than a chunk of handles, however long the range is.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        let reader = self.clone();
        let chunks = futures_util::stream::unfold((reader, start), move |(reader, next)| async move {
            if next >= end {
                return None;
            }
            let until = end.min(next + APPLY_CHUNK);
            match once_mended(&reader.store, || ready(reader.read(next, until, usize::MAX))).await {
                Ok(entries) => {
                    let read = entries.len() as u64;
                    // An empty chunk ends the stream: the range was not in the log.
                    (read > 0)
                        .then(|| (entries.into_iter().map(Ok).collect::<Vec<_>>(), (reader, next + read)))
                }
                Err(e) => Some((vec![Err(io::Error::from(e))], (reader, end))),
            }
        });
        futures_util::StreamExt::flat_map(chunks, futures_util::stream::iter)
    }
}

impl RaftLogStorage<TypeConfig> for LogStorage {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let last_purged_log_id = self.small.lock().purged;
        let last = self.store.log().last().map(log_id);
        Ok(LogState { last_purged_log_id, last_log_id: last.max(last_purged_log_id) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        // Nobody is promised anything against it any more, and whoever was has the promise kept.
        self.leases.know(vote);
        let began = self.leases.pace.begin();
        // Writes are serialized: what was appended before the vote is durable before it.
        if self.store.flushed_physical_offset() < self.store.max_physical_offset() {
            done(|callback| self.store.flush(callback)).await?;
        }
        // That the one voted for was elected need not be known after a restart.
        let is_recorded = self.small.lock().vote.is_some_and(|known| known.leader_id == vote.leader_id);
        if !is_recorded {
            let (votes, vote) = (self.votes.clone(), *vote);
            if Mutation::VoteBeforeSync.is_on() {
                self.threads.block(Box::new(move || drop(votes.write(&vote))));
            } else {
                let lost = || io::Error::other("the vote could not be written any more");
                self.threads.run(move || votes.write(&vote)).await.ok_or_else(lost)??;
            }
        }
        self.leases.pace.ended(began);
        self.small.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(committed) = committed {
            self.store.set_committed(entry_id(&committed))?;
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.store.committed().map(log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        for entry in entries {
            self.append_entry(entry)?;
        }
        // Invariant 5: this member counts for the entries once this says that they are stored.
        let (leases, began) = (self.leases.clone(), self.leases.pace.begin());
        self.store.when_stored(Box::new(move |stored| {
            leases.pace.ended(began);
            callback.io_completed(stored.map_err(io::Error::from));
        }));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        Ok(done(|callback| self.store.truncate_after(last.map(|id| id.index), callback)).await?)
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let id = entry_id(&upto);
        record_file::write(&self.store, PURGED_FILE, &PurgedRecord { term: id.term, index: id.index })?;
        self.small.lock().purged = Some(upto);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use raftmq_store::FlushMode;
    use raftmq_testkit::{queues_alone, store_options};

    use super::*;
    use crate::table::tests::{Sum, SumCommand};
    use crate::types::{ChangeProposal, MessageProposal};

    fn open(dir: &std::path::Path) -> (Arc<Store>, LogStorage) {
        let world = World::system();
        let store = Store::open(store_options(dir, FlushMode::Async), queues_alone(dir), &world).unwrap();
        let standing = Arc::new(Standing::open(store.clone(), 1, &world.random).unwrap());
        let log = LogStorage::open(store.clone(), standing, Leases::of_a_test(&world), &world).unwrap();
        (store, log)
    }

    #[test]
    fn a_change_for_another_term_leaves_a_blank_and_is_told_to_be_late() {
        let dir = tempfile::tempdir().unwrap();
        let (store, log) = open(dir.path());
        for (index, term, kind) in [
            (0, None, FrameKind::Command),
            (1, Some(4), FrameKind::Blank),
            (2, Some(5), FrameKind::Command),
            (3, Some(6), FrameKind::Blank),
        ] {
            let is_late = Arc::default();
            let change = Change::new::<Sum<1>>(&SumCommand::Add(1)).unwrap();
            let proposal = ChangeProposal { change, term, is_late: Arc::clone(&is_late) };
            let payload = Payload::Proposal(Proposal::Change(proposal));
            log.append_entry(Entry { log_id: log_id(EntryId { term: 5, index }), payload }).unwrap();
            assert_eq!(store.log().frame(index).unwrap().unwrap().header.kind, kind);
            assert_eq!(is_late.load(Ordering::Acquire), kind == FrameKind::Blank);
        }
        store.close().unwrap();
    }

    #[test]
    fn messages_that_are_not_taken_leave_a_blank_and_hear_why() {
        let dir = tempfile::tempdir().unwrap();
        let (store, log) = open(dir.path());
        let step = |texts| Change::new::<Sum<9>>(&SumCommand::Text(vec![String::new(); texts])).unwrap();
        for (index, term, texts, kind) in [
            (0, None, 1, FrameKind::Messages),
            (1, Some(4), 1, FrameKind::Blank),
            (2, Some(5), 1, FrameKind::Messages),
            (3, Some(5), 64 * 1024, FrameKind::Blank),
        ] {
            let places = Arc::new(crate::types::Places::default());
            let proposal = MessageProposal {
                change: Some(step(texts)),
                term,
                pieces: Vec::new(),
                places: places.clone(),
            };
            let id = EntryId { term: 5, index };
            let payload = Payload::Proposal(Proposal::Messages(proposal));
            log.append_entry(Entry { log_id: log_id(id), payload }).unwrap();
            assert_eq!(store.log().frame(index).unwrap().unwrap().header.kind, kind);
            // One for another term says nothing about what it holds.
            let appended = places.0.lock().take().unwrap();
            assert_eq!(appended.id, id);
            match appended.placed {
                Ok(_) => assert_eq!(kind, FrameKind::Messages),
                Err(ProposeError::NotLeader { .. }) => assert_eq!(index, 1),
                Err(ProposeError::Refused(why)) => assert_eq!(index, 3, "{why}"),
                Err(other) => panic!("{other}"),
            }
        }
        store.close().unwrap();
    }
}
