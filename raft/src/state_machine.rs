//! The state machine: applies committed entries.
//!
//! A command changes the [`Metadata`]; a messages frame is let through to reput. The metadata as of some index is
//! written to a checkpoint file now and then, so that a start applies only what came after.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, TryStreamExt};
use openraft::entry::RaftPayload;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder, Snapshot, SnapshotMeta};
use parking_lot::Mutex;
use raftmq_store::{EntryId, FrameKind, Store, StoreError};
use raftmq_world::{Clock, Mutation, Threads, World};
use serde::{Deserialize, Serialize};

use crate::api::StartError;
use crate::command::{Command, CommandOutcome};
use crate::log_storage::{decode_record, done, read_record, write_record};
use crate::metadata::{Metadata, MetadataImage, MetadataSnapshot};
use crate::types::{
    CommittedLeaderId, Entry, FrameBytes, LogId, NodeId, Payload, StoredMembership, TypeConfig,
    decode_membership, encode_membership, entry_id, log_id,
};

const CHECKPOINT_FILE: &str = "metadata";
/// The layout of a checkpoint, its first byte. The first layout had none, and began with 0 or 1.
const CHECKPOINT_VERSION: u8 = 2;
/// How often a changed state is written down.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(10);

/// Applies entries in log order.
pub(crate) struct StateMachine {
    shared: Arc<Shared>,
    /// The last entry in a checkpoint that was begun, and when that was.
    checkpointed: (Option<LogId>, Duration),
}

/// What others see of the state machine.
pub(crate) struct Shared {
    pub(crate) metadata: Arc<Metadata>,
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    threads: Arc<dyn Threads>,
    applied: Mutex<Applied>,
    /// The last command, where [`Mutation::ApplyTwice`] is on.
    before: Mutex<Option<Command>>,
    /// One checkpoint is written at a time, and none behind the last, which this tells of.
    writing: Arc<tokio::sync::Mutex<bool>>,
}

#[derive(Clone, Default)]
struct Applied {
    last: Option<LogId>,
    membership: StoredMembership,
}

/// The state as of an entry: the content of the checkpoint file, and of a snapshot.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct StateImage {
    version: u8,
    applied: Option<(u64, u64)>,
    membership_at: Option<(u64, u64)>,
    membership: Vec<u8>,
    metadata: MetadataImage,
}

fn to_pair(id: LogId) -> (u64, u64) {
    let id = entry_id(&id);
    (id.term, id.index)
}

fn from_pair((term, index): (u64, u64)) -> LogId {
    log_id(EntryId { term, index })
}

fn read_checkpoint(store: &Store) -> Result<Option<StateImage>, StoreError> {
    match read_record::<u8>(store, CHECKPOINT_FILE)? {
        Some(CHECKPOINT_VERSION) => read_record(store, CHECKPOINT_FILE),
        Some(other) => Err(StoreError::Illegal(format!(
            "the file {CHECKPOINT_FILE} has layout {other}, this build reads layout {CHECKPOINT_VERSION}: the directory \
             belongs to another version"
        ))),
        None => Ok(None),
    }
}

/// The state that a checkpoint's content holds, for fuzzers.
pub(crate) fn restored(content: &[u8]) -> Option<Metadata> {
    let image: StateImage = decode_record(content).ok()?;
    image.applied().ok()?;
    let metadata = Metadata::default();
    metadata.restore(image.metadata).ok()?;
    Some(metadata)
}

impl Shared {
    /// Reads the checkpoint back, if there is one that this log goes on from.
    pub(crate) fn open(store: Arc<Store>, world: &World) -> Result<Self, StartError> {
        let metadata = Arc::new(Metadata::default());
        let mut applied = Applied::default();
        if let Some(image) = read_checkpoint(&store)? {
            let known = image.applied.map(|(_, index)| index);
            let last = store.log().last().map(|l| l.index);
            // It is written after the log was flushed up to there, so a log that ends before it has lost entries.
            if known > last {
                return Err(StoreError::Divergence(format!(
                    "the state was checkpointed at entry {known:?} and the log ends at {last:?}"
                ))
                .into());
            }
            applied = image.applied()?;
            metadata.restore(image.metadata)?;
        }
        Ok(Self {
            metadata,
            store,
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
        Moment { applied: self.applied.lock().clone(), metadata: self.metadata.snapshot() }
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
            let written = write_record(&store, CHECKPOINT_FILE, &image);
            // The next one may begin only now, whether or not this one is still waited for.
            *written_last = is_last;
            drop(written_last);
            written.map(|()| image)
        };
        self.threads.run(write).await.unwrap_or_else(not_done)
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

    fn apply(&self, entry: &Entry) -> Result<CommandOutcome, io::Error> {
        self.check_next(entry)?;
        let outcome = match &entry.payload {
            Payload::Frame(frame) => match frame.command() {
                Some(command) => {
                    let command = Command::decode(command)
                        .map_err(|e| io::Error::other(format!("command in entry {}: {e}", entry.log_id)))?;
                    check_command(&command, frame.kind)?;
                    let outcome = self.metadata.apply(&command)?;
                    if Mutation::ApplyTwice.is_on()
                        && let Some(before) = self.before.lock().replace(command)
                    {
                        self.metadata.apply(&before)?;
                    }
                    outcome
                }
                None => CommandOutcome::Done,
            },
            Payload::Proposal(_) => {
                return Err(io::Error::other(format!("entry {} was not read from the log", entry.log_id)));
            }
            _ => CommandOutcome::Done,
        };
        let mut applied = self.applied.lock();
        if let Some(membership) = entry.payload.get_membership() {
            applied.membership = StoredMembership::new(Some(entry.log_id), membership);
        }
        applied.last = Some(entry.log_id);
        Ok(outcome)
    }
}

/// *Invariant 7*, read back: a step of delayed delivery is one entry with its messages.
fn check_command(command: &Command, kind: FrameKind) -> Result<(), StoreError> {
    if kind != FrameKind::Messages && matches!(command, Command::DelayProgress(_)) {
        return Err(StoreError::Divergence(format!(
            "a step of delayed delivery without messages: {command:?}"
        )));
    }
    Ok(())
}

fn not_done<T>() -> Result<T, StoreError> {
    Err(StoreError::Stopped("the member stops".into()))
}

/// The state as of an entry, before it is made into an image: that takes long where there are many offsets.
#[derive(Clone)]
struct Moment {
    applied: Applied,
    metadata: MetadataSnapshot,
}

impl Moment {
    fn image(&self) -> Result<StateImage, StoreError> {
        let applied = &self.applied;
        let membership = encode_membership(applied.membership.membership())
            .map_err(|e| StoreError::Illegal(e.to_string()))?;
        Ok(StateImage {
            version: CHECKPOINT_VERSION,
            applied: applied.last.map(to_pair),
            membership_at: applied.membership.log_id().as_ref().copied().map(to_pair),
            membership,
            metadata: self.metadata.image(),
        })
    }
}

impl StateImage {
    fn applied(&self) -> Result<Applied, StoreError> {
        let membership = decode_membership(&self.membership).map_err(StoreError::Illegal)?;
        Ok(Applied {
            last: self.applied.map(from_pair),
            membership: StoredMembership::new(self.membership_at.map(from_pair), membership),
        })
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
        let now = shared.clock.passed();
        Self { shared, checkpointed: (None, now) }
    }

    /// Writes the state down in the background if it is time to.
    fn checkpoint_if_due(&mut self) {
        let (last, now) = (self.shared.applied.lock().last, self.shared.clock.passed());
        if last == self.checkpointed.0 || now < self.checkpointed.1 + CHECKPOINT_INTERVAL {
            return;
        }
        self.checkpointed = (last, now);
        let (shared, moment) = (self.shared.clone(), self.shared.moment());
        tokio::spawn(async move {
            if let Err(e) = shared.write(moment, false).await {
                tracing::error!("the state could not be checkpointed: {e}");
            }
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
                self.shared.store.commit(slice.physical_offset() + slice.len() as u64);
            }
            if let Some(responder) = responder {
                responder.send(outcome);
            }
        }
        self.checkpoint_if_due();
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder { moment: self.shared.moment(), shared: self.shared.clone() }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<CommittedLeaderId, NodeId, openraft::BasicNode>,
        image: StateImage,
    ) -> Result<(), io::Error> {
        let applied = Applied { last: meta.last_log_id, membership: meta.last_membership.clone() };
        write_record(&self.shared.store, CHECKPOINT_FILE, &image)?;
        self.shared.metadata.restore(image.metadata)?;
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

/// Writes the state as it was when the builder was made.
pub(crate) struct SnapshotBuilder {
    moment: Moment,
    shared: Arc<Shared>,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = StateImage;

    async fn build_snapshot(&mut self) -> Result<StateSnapshot, io::Error> {
        self.shared.write(self.moment.clone(), false).await?.into_snapshot()
    }
}

#[cfg(test)]
mod tests {
    use raftmq_store::{FlushMode, NewEntry};
    use raftmq_testkit::{queues_alone, store_options};

    use super::*;
    use crate::command::DelayProgress;

    fn open(dir: &std::path::Path) -> (Arc<Store>, Shared) {
        let world = World::system();
        let store = Store::open(store_options(dir, FlushMode::Async), queues_alone(dir), &world).unwrap();
        (store.clone(), Shared::open(store, &world).unwrap())
    }

    /// Appends an entry with a step of delayed delivery, among messages or alone.
    fn append(store: &Store, index: u64, from: u64, to: u64, kind: FrameKind) {
        let step = Command::DelayProgress(DelayProgress::Level { level: 1, from, to }).encode().unwrap();
        let (alone, with_messages) = match kind {
            FrameKind::Messages => (&[][..], &step[..]),
            _ => (&step[..], &[][..]),
        };
        let (id, pieces) = (EntryId { term: 1, index }, &mut [alone.into()]);
        let entry = NewEntry { id, kind, leader: 1, command: with_messages, pieces, now_ms: 0 };
        store.append(entry, &mut Vec::new()).unwrap();
    }

    fn apply(store: &Store, shared: &Shared, index: u64) -> Result<CommandOutcome, String> {
        let frame = store.log().frame(index).unwrap().unwrap();
        shared.apply(&Entry::from(frame)).map_err(|e| e.to_string())
    }

    #[tokio::test]
    async fn a_step_that_does_not_continue_the_state_stops_the_member_and_entries_are_applied_once() {
        let dir = tempfile::tempdir().unwrap();
        let (store, shared) = open(dir.path());
        append(&store, 0, 0, 5, FrameKind::Messages);
        append(&store, 1, 5, 7, FrameKind::Messages);
        append(&store, 2, 6, 9, FrameKind::Messages);
        let diverges = |outcome: Result<CommandOutcome, String>| {
            assert!(outcome.as_ref().is_err_and(|e| e.starts_with("divergence")), "{outcome:?}");
        };
        apply(&store, &shared, 0).unwrap();
        diverges(apply(&store, &shared, 0));
        diverges(apply(&store, &shared, 2));
        shared.checkpoint().await.unwrap();
        drop(shared);
        store.close().unwrap();
        drop(store);

        // The step behind the checkpoint is applied again, the one before it is not.
        let (store, shared) = open(dir.path());
        assert_eq!((shared.last_applied(), shared.metadata.delay_level(1)), (Some(0), 5));
        apply(&store, &shared, 1).unwrap();
        diverges(apply(&store, &shared, 2));
        assert_eq!((shared.last_applied(), shared.metadata.delay_level(1)), (Some(1), 7));
        store.close().unwrap();
    }

    #[test]
    fn a_step_without_messages_stops_the_member() {
        let dir = tempfile::tempdir().unwrap();
        let (store, shared) = open(dir.path());
        append(&store, 0, 0, 5, FrameKind::Command);
        assert!(apply(&store, &shared, 0).is_err_and(|e| e.starts_with("divergence")));
        assert_eq!((shared.last_applied(), shared.metadata.delay_level(1)), (None, 0));
        store.close().unwrap();
    }
}
