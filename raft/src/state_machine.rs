//! The state machine: applies committed entries.
//!
//! A change is carried out by the [`Tables`]; a messages frame is let through to reput. The tables' images as of some index
//! are written to a checkpoint file now and then, so that a start applies only what came after.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, TryStreamExt};
use openraft::entry::RaftPayload;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, Raft, RaftSnapshotBuilder, Snapshot, SnapshotMeta};
use parking_lot::Mutex;
use raftmq_store::{EntryId, FrameKind, Store, StoreError};
use raftmq_world::{Clock, Mutation, Threads, World};
use serde::{Deserialize, Serialize};

use crate::api::StartError;
use crate::done::done;
use crate::group_id::GroupId;
use crate::record_file;
use crate::standing::Standing;
use crate::table::{Outcomes, TableImage, Tables};
use crate::types::{
    CommittedLeaderId, Entry, FrameBytes, LogId, NodeId, Payload, StoredMembership, TypeConfig,
    decode_membership, encode_membership, entry_id, log_id,
};

const CHECKPOINT_FILE: &str = "metadata";
/// The layout of a checkpoint, its first byte. The first layout had none, and began with 0 or 1.
const CHECKPOINT_VERSION: u8 = 4;
/// How often a changed state is written down.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(10);
/// After so much of the log it is written down sooner: a start applies what is behind before the member serves. But no more than
/// this part of the time goes into it.
const CHECKPOINT_BYTES: u64 = 64 << 20;
const CHECKPOINT_SHARE: u32 = 10;

/// openraft's core over all of this.
pub(crate) type Core = Raft<TypeConfig, StateMachine>;

/// Applies entries in log order.
pub(crate) struct StateMachine {
    shared: Arc<Shared>,
    /// How far the checkpoint went that was begun last, and when that was.
    begun: (Option<LogId>, u64, Duration),
    /// Nothing while one is being made; else how long the last one took.
    took: Arc<Mutex<Option<Duration>>>,
}

/// What others see of the state machine.
pub(crate) struct Shared {
    tables: Tables,
    store: Arc<Store>,
    standing: Arc<Standing>,
    clock: Arc<dyn Clock>,
    threads: Arc<dyn Threads>,
    applied: Mutex<Applied>,
    /// The last change, where [`Mutation::ApplyTwice`] is on.
    before: Mutex<Option<Vec<u8>>>,
    /// One checkpoint is written at a time, and none behind the last, which this tells of.
    writing: Arc<tokio::sync::Mutex<bool>>,
}

#[derive(Clone, Default)]
struct Applied {
    last: Option<LogId>,
    membership: StoredMembership,
    /// Physical offset behind the last entry that was applied since the start.
    end: u64,
}

/// The state as of an entry: the content of the checkpoint file, and of a snapshot.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct StateImage {
    version: u8,
    /// Of which group this is the state.
    group: Option<GroupId>,
    applied: Option<(u64, u64)>,
    membership_at: Option<(u64, u64)>,
    /// As in a membership frame; nothing where there is none yet.
    membership: Vec<u8>,
    tables: Vec<TableImage>,
}

fn to_pair(id: LogId) -> (u64, u64) {
    let id = entry_id(&id);
    (id.term, id.index)
}

fn from_pair((term, index): (u64, u64)) -> LogId {
    log_id(EntryId { term, index })
}

fn read_checkpoint(store: &Store) -> Result<Option<StateImage>, StoreError> {
    match record_file::read::<u8>(store, CHECKPOINT_FILE)? {
        Some(CHECKPOINT_VERSION) => record_file::read(store, CHECKPOINT_FILE),
        Some(other) => Err(StoreError::Illegal(format!(
            "the file {CHECKPOINT_FILE} has layout {other}, this build reads layout {CHECKPOINT_VERSION}: the directory \
             belongs to another version"
        ))),
        None => Ok(None),
    }
}

/// Has tables take on the state that a checkpoint's content holds, for fuzzers; whether they have.
pub(crate) fn restore(content: &[u8], tables: &Tables) -> bool {
    let image: Option<StateImage> = record_file::decode(content).ok();
    image.is_some_and(|image| image.applied().is_ok() && tables.restore(&image.tables).is_ok())
}

impl Shared {
    /// Reads the checkpoint back, if there is one that this log goes on from.
    pub(crate) fn open(
        store: Arc<Store>,
        standing: Arc<Standing>,
        tables: Tables,
        world: &World,
    ) -> Result<Self, StartError> {
        let mut applied = Applied::default();
        if let Some(image) = read_checkpoint(&store)? {
            let known = image.applied.map(|(_, index)| index);
            let last = store.log().last().map(|l| l.index);
            // It is written after the log was flushed up to there, so a log that ends before it has lost entries.
            if known > last {
                return Err(StoreError::Divergence(format!(
                    "the state was checkpointed at entry {known:?} and the log ends at {last:?}: where other members have \
                     what is lost, empty the directory, and this node returns as a new one"
                ))
                .into());
            }
            // Before it is in a group a member has a state as well: none at all.
            if image.group != standing.group() && image.applied.is_some() {
                return Err(StoreError::Divergence(format!(
                    "the state is of the group {:?}, and the directory of {:?}",
                    image.group,
                    standing.group()
                ))
                .into());
            }
            applied = image.applied()?;
            tables.restore(&image.tables)?;
        }
        Ok(Self {
            tables,
            store,
            standing,
            clock: world.clock.clone(),
            threads: world.threads.clone(),
            applied: Mutex::new(applied),
            before: Mutex::default(),
            writing: Arc::default(),
        })
    }

    /// Index of the last applied entry.
    pub(crate) fn last_applied(&self) -> Option<u64> {
        self.applied.lock().last.map(|id| id.index)
    }

    /// The state as of the last applied entry. Called between entries, or when no more are applied.
    fn moment(&self) -> Moment {
        Moment {
            group: self.standing.group(),
            applied: self.applied.lock().clone(),
            tables: Box::new(self.tables.freeze()),
        }
    }

    /// Writes the image of `moment` down and returns it, the log behind it being durable first.
    async fn write(&self, moment: Moment, is_last: bool) -> Result<StateImage, StoreError> {
        let image = self.threads.run(move || moment.image()).await.unwrap_or_else(not_done)?;
        let mut written_last = self.writing.clone().lock_owned().await;
        if *written_last {
            return not_done();
        }
        done(|callback| self.store.flush(callback)).await?;
        let store = self.store.clone();
        let write = move || {
            let written = record_file::write(&store, CHECKPOINT_FILE, &image);
            // The next one may begin only now, whether or not this one is still waited for.
            *written_last = is_last;
            drop(written_last);
            written.map(|()| image)
        };
        self.threads.run(write).await.unwrap_or_else(not_done)
    }

    /// Writes the image of `moment` down once the views are complete up to `end`; how long that took.
    async fn write_when_checkpointed(&self, moment: Moment, end: u64) -> Result<Duration, StoreError> {
        done(|callback| self.store.when_checkpointed(end, callback)).await?;
        let began = self.clock.passed();
        self.write(moment, false).await?;
        Ok(self.clock.passed().saturating_sub(began))
    }

    /// Writes the state down, at a stop; not again after that.
    pub(crate) async fn checkpoint(&self) -> Result<(), StoreError> {
        self.write(self.moment(), true).await.map(drop)
    }

    /// Each entry is applied once, in order: what invariants 7 to 9 say of commands rests on that.
    fn check_next(&self, entry: &Entry) -> Result<(), StoreError> {
        let last = self.applied.lock().last.map(|last| entry_id(&last));
        let next = entry_id(&entry.log_id);
        if last.is_none_or(|last| last.index < next.index && last.term <= next.term) {
            return Ok(());
        }
        Err(StoreError::Divergence(format!("entry {next:?} is to be applied behind {last:?}")))
    }

    fn apply(&self, entry: &Entry) -> Result<Outcomes, io::Error> {
        self.check_next(entry)?;
        let outcome = match &entry.payload {
            Payload::Frame(frame) => match frame.change() {
                Some(change) => {
                    // First: who finds what it makes finds nothing that it drops.
                    if let FrameBytes::Log(slice) = &frame.bytes {
                        self.store.hide_dropped(change, slice.physical_offset());
                    }
                    self.change(change, frame.kind == FrameKind::Messages).map_err(|e| match e {
                        StoreError::Illegal(what) => {
                            StoreError::Illegal(format!("the change in entry {}: {what}", entry.log_id))
                        }
                        other => other,
                    })?
                }
                None => Outcomes::default(),
            },
            Payload::Proposal(_) => {
                return Err(io::Error::other(format!("entry {} was not read from the log", entry.log_id)));
            }
            _ => Outcomes::default(),
        };
        let mut applied = self.applied.lock();
        if let Some(membership) = entry.payload.get_membership() {
            applied.membership = StoredMembership::new(Some(entry.log_id), membership);
        }
        applied.last = Some(entry.log_id);
        Ok(outcome)
    }

    fn change(&self, change: &[u8], is_with_messages: bool) -> Result<Outcomes, StoreError> {
        let outcomes = self.tables.apply(change, is_with_messages)?;
        if Mutation::ApplyTwice.is_on()
            && let Some(before) = self.before.lock().replace(change.to_vec())
        {
            self.tables.apply(&before, true)?;
        }
        Ok(outcomes)
    }
}

fn not_done<T>() -> Result<T, StoreError> {
    Err(StoreError::Stopped("the member stops".into()))
}

/// The state as of an entry, before it is made into an image: that takes long where there are many offsets.
struct Moment {
    group: Option<GroupId>,
    applied: Applied,
    tables: Box<dyn FnOnce() -> Result<Vec<TableImage>, StoreError> + Send + Sync>,
}

impl Moment {
    fn image(self) -> Result<StateImage, StoreError> {
        let applied = self.applied;
        let members = applied.membership.log_id().and(self.group);
        let membership = members.map(|group| encode_membership(group, applied.membership.membership()));
        let membership = membership.transpose().map_err(|e| StoreError::Illegal(e.to_string()))?;
        Ok(StateImage {
            version: CHECKPOINT_VERSION,
            group: self.group,
            applied: applied.last.map(to_pair),
            membership_at: applied.membership.log_id().as_ref().copied().map(to_pair),
            membership: membership.unwrap_or_default(),
            tables: (self.tables)()?,
        })
    }
}

impl StateImage {
    fn applied(&self) -> Result<Applied, StoreError> {
        let last = self.applied.map(from_pair);
        let Some(at) = self.membership_at else { return Ok(Applied { last, ..Applied::default() }) };
        let (group, membership) = decode_membership(&self.membership).map_err(StoreError::Illegal)?;
        if self.group != Some(group) {
            return Err(StoreError::Illegal(format!(
                "members of the group {group} in a state of {:?}",
                self.group
            )));
        }
        let membership = StoredMembership::new(Some(from_pair(at)), membership);
        Ok(Applied { last, membership, end: 0 })
    }

    fn into_snapshot(self) -> Result<StateSnapshot, io::Error> {
        let applied = self.applied()?;
        let meta = SnapshotMeta { last_log_id: applied.last, last_membership: applied.membership };
        Ok(Snapshot { meta, snapshot: self })
    }
}

type StateSnapshot = Snapshot<CommittedLeaderId, NodeId, openraft::BasicNode, StateImage>;

impl StateMachine {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let begun = (None, 0, shared.clock.passed());
        Self { shared, begun, took: Arc::new(Mutex::new(Some(Duration::ZERO))) }
    }

    /// Writes the state down in the background if it is time to.
    ///
    /// That of now, once there is a checkpoint of the views that goes as far: a start cuts off nothing before that, and must not
    /// find a state of what is not there any more.
    fn checkpoint_if_due(&mut self) {
        let (last, end) = {
            let applied = self.shared.applied.lock();
            (applied.last, applied.end)
        };
        let (last_begun, end_begun, at) = self.begun;
        let (now, mut took) = (self.shared.clock.passed(), self.took.lock());
        let Some(last_took) = *took else { return };
        let due = if end.saturating_sub(end_begun) < CHECKPOINT_BYTES {
            CHECKPOINT_INTERVAL
        } else {
            CHECKPOINT_INTERVAL.min(CHECKPOINT_SHARE * last_took)
        };
        if last == last_begun || now < at + due {
            return;
        }
        *took = None;
        self.begun = (last, end, now);
        let (shared, moment, took) = (self.shared.clone(), self.shared.moment(), self.took.clone());
        tokio::spawn(async move {
            let written = shared.write_when_checkpointed(moment, end).await;
            let took_now = match written {
                Ok(took_now) => took_now,
                Err(StoreError::Stopped(_)) => return,
                Err(e) => {
                    tracing::error!("the state could not be checkpointed: {e}");
                    CHECKPOINT_INTERVAL / CHECKPOINT_SHARE
                }
            };
            *took.lock() = Some(took_now);
        });
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = StateImage;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let applied = self.shared.applied.lock().clone();
        Ok((applied.last, applied.membership))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let outcome = self.shared.apply(&entry)?;
            if let Payload::Frame(frame) = &entry.payload
                && let FrameBytes::Log(slice) = &frame.bytes
            {
                let end = slice.physical_offset() + slice.len() as u64;
                self.shared.applied.lock().end = end;
                self.shared.store.commit(end);
            }
            if let Some(responder) = responder {
                responder.send(outcome);
            }
        }
        self.checkpoint_if_due();
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder { moment: Some(self.shared.moment()), shared: self.shared.clone() }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<CommittedLeaderId, NodeId, openraft::BasicNode>,
        image: StateImage,
    ) -> Result<(), io::Error> {
        let applied = Applied { last: meta.last_log_id, membership: meta.last_membership.clone(), end: 0 };
        record_file::write(&self.shared.store, CHECKPOINT_FILE, &image)?;
        self.shared.tables.restore(&image.tables)?;
        *self.shared.applied.lock() = applied;
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<StateSnapshot>, io::Error> {
        match read_checkpoint(&self.shared.store)? {
            Some(image) if image.applied.is_some() => image.into_snapshot().map(Some),
            _ => Ok(None),
        }
    }
}

/// Writes the state as it was when the builder was made, once.
pub(crate) struct SnapshotBuilder {
    moment: Option<Moment>,
    shared: Arc<Shared>,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = StateImage;

    async fn build_snapshot(&mut self) -> Result<StateSnapshot, io::Error> {
        let moment = self.moment.take().ok_or_else(|| io::Error::other("the snapshot was built already"))?;
        self.shared.write(moment, false).await?.into_snapshot()
    }
}

#[cfg(test)]
mod tests {
    use raftmq_store::{FlushMode, NewEntry};
    use raftmq_testkit::{queues_alone, store_options};

    use super::*;
    use crate::table::Change;
    use crate::table::tests::{Sum, SumCommand};

    /// Its commands belong to messages.
    type Steps = Sum<9>;

    fn open(dir: &std::path::Path) -> (Arc<Store>, Arc<Steps>, Shared) {
        let world = World::system();
        let store = Store::open(store_options(dir, FlushMode::Async), queues_alone(dir), &world).unwrap();
        let steps = Arc::<Steps>::default();
        let standing = Arc::new(Standing::open(store.clone(), 1, &world.random).unwrap());
        let shared =
            Shared::open(store.clone(), standing, Tables::new(2).with(steps.clone()), &world).unwrap();
        (store, steps, shared)
    }

    /// Appends an entry with a step, in front of messages or alone.
    fn append(store: &Store, index: u64, step: SumCommand, kind: FrameKind) {
        let step = Change::new::<Steps>(&step).unwrap();
        let (alone, with_messages) = match kind {
            FrameKind::Messages => (&[][..], step.as_bytes()),
            _ => (step.as_bytes(), &[][..]),
        };
        let (id, pieces) = (EntryId { term: 1, index }, &mut [alone.into()]);
        let entry = NewEntry { id, kind, leader: 1, command: with_messages, pieces, now_ms: 0 };
        store.append(entry, &mut Vec::new()).unwrap();
    }

    fn apply(store: &Store, shared: &Shared, index: u64) -> Result<Outcomes, String> {
        let frame = store.log().frame(index).unwrap().unwrap();
        shared.apply(&Entry::from(frame)).map_err(|e| e.to_string())
    }

    #[tokio::test]
    async fn a_change_that_contradicts_the_state_stops_the_member_and_entries_are_applied_once() {
        let dir = tempfile::tempdir().unwrap();
        let (store, steps, shared) = open(dir.path());
        append(&store, 0, SumCommand::Add(5), FrameKind::Messages);
        append(&store, 1, SumCommand::Add(2), FrameKind::Messages);
        append(&store, 2, SumCommand::Sub(9), FrameKind::Messages);
        let diverges = |outcome: Result<Outcomes, String>| {
            assert!(outcome.as_ref().is_err_and(|e| e.starts_with("divergence")), "{outcome:?}");
        };
        apply(&store, &shared, 0).unwrap();
        diverges(apply(&store, &shared, 0));
        diverges(apply(&store, &shared, 2));
        assert_eq!(steps.get(), 5);
        shared.checkpoint().await.unwrap();
        drop(shared);
        store.close().unwrap();
        drop(store);

        // The step behind the checkpoint is applied again, the one before it is not.
        let (store, steps, shared) = open(dir.path());
        assert_eq!((shared.last_applied(), steps.get()), (Some(0), 5));
        apply(&store, &shared, 1).unwrap();
        diverges(apply(&store, &shared, 2));
        assert_eq!((shared.last_applied(), steps.get()), (Some(1), 7));
        store.close().unwrap();
    }

    #[test]
    fn a_step_without_messages_stops_the_member() {
        let dir = tempfile::tempdir().unwrap();
        let (store, steps, shared) = open(dir.path());
        append(&store, 0, SumCommand::Add(5), FrameKind::Command);
        assert!(apply(&store, &shared, 0).is_err_and(|e| e.starts_with("divergence")));
        assert_eq!((shared.last_applied(), steps.get()), (None, 0));
        store.close().unwrap();
    }

    #[test]
    fn an_unreadable_change_is_told_with_its_entry() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _, shared) = open(dir.path());
        let (id, pieces) = (EntryId { term: 1, index: 0 }, &mut [(&[3, 0, 0][..]).into()]);
        let entry = NewEntry { id, kind: FrameKind::Command, leader: 1, command: &[], pieces, now_ms: 0 };
        store.append(entry, &mut Vec::new()).unwrap();
        let error = apply(&store, &shared, 0).unwrap_err();
        assert!(error.contains("entry T1") || error.contains("entry 1"), "{error}");
        assert!(error.contains("feature level 3"), "{error}");
        store.close().unwrap();
    }
}
