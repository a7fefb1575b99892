//! Consumer offsets: commits gather here and go through the log in batches; reads see what is gathered first.
//!
//! *Invariant 8*, two promises. What a client was told is committed is in the log. And a newer offset is never followed into the log
//! by an older one: rounds of proposals do not overlap, and what gathered in one term is forgotten in the next, when
//! another member may have committed more.
//!
//! An operator's reset is in the replicated state until consumers have taken it up. Which pull does is decided here.

use raftmq_world::hash::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use raftmq_raft::{Change, Role, RoleState};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;

use crate::error::{Error, Full};
use crate::limits::{Limits, OFFSETS_COMMAND_BYTES, OFFSETS_GATHER};
use crate::replica::Replica;
use crate::state::{OffsetCommand, OffsetCommit, Offsets, PendingReset, ToldReset};

/// Bytes an offset takes in a command besides its names: four numbers of a variable length.
const COMMIT_BYTES: usize = 32;
/// How old the count of committed offsets may be: counting looks at every topic of every group.
const COUNT_AGE: Duration = Duration::from_secs(1);

/// Offsets that are not applied yet.
pub struct PendingOffsets {
    table: Mutex<Table>,
    role: watch::Receiver<RoleState>,
    added: Notify,
    /// Somebody waits for what has gathered: it goes now.
    urgent: Notify,
    /// Held by the one round of proposals that is on its way.
    round: tokio::sync::Mutex<()>,
    /// What is applied.
    committed: Arc<Offsets>,
    max: usize,
    committed_max: usize,
}

#[derive(Default)]
struct Table {
    /// The term in which all of this gathered.
    term: u64,
    /// By group, then topic, then queue.
    offsets: HashMap<String, HashMap<String, HashMap<u32, u64>>>,
    len: usize,
    /// Told what becomes of the next round.
    waiting: Vec<oneshot::Sender<Result<(), Error>>>,
    /// Resets that consumers are about to take up.
    resets: HashMap<QueueOfGroup, Reset>,
    /// When the committed offsets were counted, and how many there are at most.
    counted: Option<(Instant, usize)>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct QueueOfGroup {
    group: String,
    topic: String,
    queue_id: u32,
}

/// How far consumers are with a reset that is pending in the replicated state.
#[derive(Clone, Copy)]
struct Reset {
    number: u64,
    taken: Taken,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    /// A pull over this connection was sent to the offset.
    Told(u64),
    /// Consumers go on from there: it is to be cleared.
    Clearing,
}

/// What became of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// It is what the log says already.
    Committed,
    /// It is to go into the log.
    Pending,
    /// The queue was reset, and no consumer has taken that up: it does not count.
    Ignored,
}

/// What the next round of proposals carries.
struct Round {
    /// The term in which all of this gathered.
    term: u64,
    waiting: Vec<oneshot::Sender<Result<(), Error>>>,
    clears: Vec<Vec<ToldReset>>,
    commits: Vec<Vec<OffsetCommit>>,
}

impl PendingOffsets {
    pub fn new(limits: &Limits, role: watch::Receiver<RoleState>, committed: Arc<Offsets>) -> Self {
        Self {
            table: Mutex::default(),
            role,
            added: Notify::new(),
            urgent: Notify::new(),
            round: tokio::sync::Mutex::default(),
            committed,
            max: limits.pending_offsets,
            committed_max: limits.committed_offsets,
        }
    }

    /// The table of the present term.
    fn table(&self) -> MutexGuard<'_, Table> {
        let term = self.role.borrow().term;
        let mut table = self.table.lock();
        if table.term != term {
            *table = Table { term, ..Table::default() };
        }
        table
    }

    /// Takes note of an offset that is to be committed. One that is committed already costs nothing.
    pub fn commit(&self, group: &str, topic: &str, queue_id: u32, offset: u64) -> Result<Noted, Error> {
        let mut table = self.table();
        if table.untaken_reset(&self.committed, group, topic, queue_id).is_some() {
            return Ok(Noted::Ignored);
        }
        if let Some(pending) = table.get_mut(group, topic, queue_id) {
            *pending = offset;
            return Ok(Noted::Pending);
        }
        let committed = self.committed.get(group, topic, queue_id);
        if committed == Some(offset) {
            return Ok(Noted::Committed);
        }
        if table.len >= self.max {
            return Err(Full::PendingOffsets(self.max).into());
        }
        if committed.is_none() && !table.admit_new(&self.committed, self.committed_max) {
            return Err(Full::Offsets(self.committed_max).into());
        }
        table.insert(group, topic, queue_id, offset);
        if table.len == 1 {
            self.added.notify_one();
        }
        Ok(Noted::Pending)
    }

    /// Has what is pending now proposed without delay, and tells what becomes of it. Without an answer the outcome is
    /// unknown.
    pub fn when_committed(&self) -> Result<oneshot::Receiver<Result<(), Error>>, Error> {
        let mut table = self.table();
        if table.waiting.len() >= self.max {
            return Err(Full::OffsetRequests(self.max).into());
        }
        let (sender, outcome) = oneshot::channel();
        table.waiting.push(sender);
        self.urgent.notify_one();
        self.added.notify_one();
        Ok(outcome)
    }

    /// What a group has committed for a queue, pending or not.
    pub fn get(&self, group: &str, topic: &str, queue_id: u32) -> Option<u64> {
        let mut table = self.table();
        let reset = table.untaken_reset(&self.committed, group, topic, queue_id);
        let pending = reset.or_else(|| table.get_mut(group, topic, queue_id).copied());
        pending.or_else(|| self.committed.get(group, topic, queue_id))
    }

    /// Where a pull has to go on instead of where it asks, as an operator has reset the queue. Who was told so and asks
    /// again has it from there: the reset is over, wherever that pull begins. So is it when somebody pulls from there
    /// without having been told.
    pub fn take_reset(
        &self,
        connection: u64,
        (group, topic, queue_id): (&str, &str, u32),
        offset: i64,
    ) -> Option<u64> {
        let PendingReset { offset: reset, number } = self.committed.pending_reset(group, topic, queue_id)?;
        let queue = QueueOfGroup { group: group.to_owned(), topic: topic.to_owned(), queue_id };
        let mut table = self.table();
        let known = table.resets.get(&queue).filter(|known| known.number == number).map(|known| known.taken);
        if known == Some(Taken::Clearing) {
            return None;
        }
        let taken_up = known == Some(Taken::Told(connection)) || u64::try_from(offset) == Ok(reset);
        let taken = if taken_up { Taken::Clearing } else { Taken::Told(connection) };
        table.resets.insert(queue, Reset { number, taken });
        if taken_up {
            self.urgent.notify_one();
            self.added.notify_one();
            return None;
        }
        Some(reset)
    }

    /// Whether a queue was reset and consumers have not taken that up.
    pub fn is_reset(&self, group: &str, topic: &str, queue_id: u32) -> bool {
        let is_pending = self.committed.pending_reset(group, topic, queue_id).is_some();
        is_pending && self.table().untaken_reset(&self.committed, group, topic, queue_id).is_some()
    }

    /// Whether so many offsets may be set at once for queues that have none.
    pub fn admit(&self, commits: &[OffsetCommit]) -> Result<(), Error> {
        let mut table = self.table();
        for commit in commits {
            let is_new = self.committed.get(&commit.group, &commit.topic, commit.queue_id).is_none();
            if is_new && !table.admit_new(&self.committed, self.committed_max) {
                return Err(Full::Offsets(self.committed_max).into());
            }
        }
        Ok(())
    }

    /// Forgets what is pending for these queues, whatever it is.
    pub fn discard(&self, commits: &[OffsetCommit]) {
        let mut table = self.table();
        for OffsetCommit { group, topic, queue_id, .. } in commits {
            if let Some(&mut offset) = table.get_mut(group, topic, *queue_id) {
                let (group, topic) = (group.clone(), topic.clone());
                table.remove_if(&OffsetCommit { group, topic, queue_id: *queue_id, offset });
            }
        }
    }

    /// Waits for the round of proposals that is on its way, and lets no other begin until the guard is dropped: what it
    /// carries then is in the log before what is proposed in the meantime.
    pub async fn between_rounds(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.round.lock().await
    }

    /// Forgets what is pending of a group.
    pub fn discard_group(&self, group: &str) {
        let mut table = self.table();
        if let Some(topics) = table.offsets.remove(group) {
            table.len -= topics.values().map(HashMap::len).sum::<usize>();
        }
    }

    /// Forgets what is pending for a topic.
    pub fn discard_topic(&self, topic: &str) {
        let mut table = self.table();
        let Table { offsets, len, .. } = &mut *table;
        offsets.retain(|_, topics| {
            *len -= topics.remove(topic).map_or(0, |queues| queues.len());
            !topics.is_empty()
        });
    }

    /// All that is pending, in pieces that fit a command, and who waits for it. Offsets stay pending until
    /// [`PendingOffsets::forget`].
    fn round(&self) -> Round {
        let mut table = self.table();
        // Some are gone with their topics, or were replaced.
        table.resets.retain(|queue, reset| {
            let pending = self.committed.pending_reset(&queue.group, &queue.topic, queue.queue_id);
            pending.is_some_and(|pending| pending.number == reset.number)
        });
        let clearing = table.resets.iter().filter(|(_, reset)| reset.taken == Taken::Clearing);
        let clears = clearing.map(|(queue, reset)| ToldReset {
            group: queue.group.clone(),
            topic: queue.topic.clone(),
            queue_id: queue.queue_id,
            number: reset.number,
        });
        let clears = in_pieces(clears, |told| told.group.len() + told.topic.len());
        let commits = batches(table.commits());
        Round { term: table.term, waiting: std::mem::take(&mut table.waiting), clears, commits }
    }

    /// Forgets offsets that are applied, unless they have changed since.
    fn forget(&self, commits: &[OffsetCommit]) {
        let mut table = self.table();
        for commit in commits {
            table.remove_if(commit);
        }
    }

    /// Forgets everything: another member leads, and clients commit anew every few seconds.
    pub fn clear(&self) {
        *self.table.lock() = Table::default();
    }

    fn is_idle(&self) -> bool {
        let table = self.table();
        let clearing = table.resets.values().any(|reset| reset.taken == Taken::Clearing);
        table.len == 0 && table.waiting.is_empty() && !clearing
    }

    /// Proposes what gathers. Runs until the task is ended.
    pub async fn run(&self, replica: &Replica) {
        loop {
            if self.is_idle() {
                self.added.notified().await;
            }
            tokio::select! {
                () = tokio::time::sleep(OFFSETS_GATHER) => {}
                () = self.urgent.notified() => {}
            }
            self.flush(replica).await;
        }
    }

    /// Proposes what is pending. What fails stays pending where this member still leads; what no command can carry is
    /// dropped.
    pub async fn flush(&self, replica: &Replica) {
        let _one_at_a_time = self.round.lock().await;
        let Round { term, waiting, clears, commits } = self.round();
        let outcome = self.propose(replica, term, clears, commits).await;
        if let Err(error) = &outcome {
            tracing::debug!(%error, "consumer offsets not committed yet");
        }
        for waiting in waiting {
            // Who asked may have gone meanwhile.
            let _ = waiting.send(outcome.clone());
        }
    }

    async fn propose(
        &self,
        replica: &Replica,
        term: u64,
        clears: Vec<Vec<ToldReset>>,
        commits: Vec<Vec<OffsetCommit>>,
    ) -> Result<(), Error> {
        // What is committed for a queue counts from when its reset is cleared.
        for batch in clears {
            self.check_leading(replica, term)?;
            replica.change_in::<Offsets>(term, &OffsetCommand::ClearResets(batch)).await?;
        }
        let mut outcome = Ok(());
        for batch in commits {
            self.check_leading(replica, term)?;
            let command = OffsetCommand::Commit(batch);
            let change = Change::new::<Offsets>(&command);
            let OffsetCommand::Commit(batch) = command else { continue };
            match change {
                Err(error) => {
                    tracing::warn!(%error, offsets = batch.len(), "dropping consumer offsets");
                    self.forget(&batch);
                    outcome = Err(error.into());
                }
                // What is answered after this is in the log.
                Ok(change) => match replica.propose_in(term, change).await {
                    Ok(_) => self.forget(&batch),
                    Err(error) => outcome = Err(error),
                },
            }
        }
        outcome
    }

    /// A leader that the others do not answer for a moment keeps what is pending; who leads no more does not.
    fn check_leading(&self, replica: &Replica, term: u64) -> Result<(), Error> {
        replica.leading().inspect_err(|_| {
            if replica.role().role != Role::Leader {
                self.clear();
            }
        })?;
        self.check_term(term)
    }

    /// *Invariant 8*: in another term somebody else may have committed newer ones since this gathered.
    fn check_term(&self, term: u64) -> Result<(), Error> {
        let now = self.role.borrow().term;
        if now == term {
            return Ok(());
        }
        Err(Error::OtherTerm { of: term, now })
    }
}

/// Offsets in pieces that fit a command.
pub fn batches(commits: impl Iterator<Item = OffsetCommit>) -> Vec<Vec<OffsetCommit>> {
    in_pieces(commits, |commit| commit.group.len() + commit.topic.len())
}

/// What a command carries for each queue, in pieces that fit one. `names_len` is the length of the names in it.
fn in_pieces<T>(items: impl Iterator<Item = T>, names_len: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let (mut pieces, mut piece, mut bytes) = (Vec::new(), Vec::new(), 0);
    for item in items {
        let size = COMMIT_BYTES + names_len(&item);
        if bytes + size > OFFSETS_COMMAND_BYTES && !piece.is_empty() {
            pieces.push(std::mem::take(&mut piece));
            bytes = 0;
        }
        bytes += size;
        piece.push(item);
    }
    if !piece.is_empty() {
        pieces.push(piece);
    }
    pieces
}

impl Table {
    /// Every pending offset.
    fn commits(&self) -> impl Iterator<Item = OffsetCommit> {
        self.offsets.iter().flat_map(|(group, topics)| {
            topics.iter().flat_map(move |(topic, queues)| {
                queues.iter().map(move |(&queue_id, &offset)| OffsetCommit {
                    group: group.clone(),
                    topic: topic.clone(),
                    queue_id,
                    offset,
                })
            })
        })
    }

    /// The offset a queue was reset to, while consumers have not taken that up.
    fn untaken_reset(&self, committed: &Offsets, group: &str, topic: &str, queue_id: u32) -> Option<u64> {
        let PendingReset { offset, number } = committed.pending_reset(group, topic, queue_id)?;
        let queue = QueueOfGroup { group: group.to_owned(), topic: topic.to_owned(), queue_id };
        let known = self.resets.get(&queue);
        let clearing = known.is_some_and(|known| known.number == number && known.taken == Taken::Clearing);
        (!clearing).then_some(offset)
    }

    fn get_mut(&mut self, group: &str, topic: &str, queue_id: u32) -> Option<&mut u64> {
        self.offsets.get_mut(group)?.get_mut(topic)?.get_mut(&queue_id)
    }

    /// Counts an offset that nothing is committed for yet. False where there are too many.
    fn admit_new(&mut self, committed: &Offsets, max: usize) -> bool {
        let now = Instant::now();
        let fresh = self.counted.filter(|(at, _)| now.duration_since(*at) < COUNT_AGE);
        // Pending ones that replace a committed one are counted twice.
        let (at, count) = fresh.unwrap_or_else(|| (now, committed.count() + self.len));
        let admitted = count < max;
        self.counted = Some((at, count + usize::from(admitted)));
        admitted
    }

    fn insert(&mut self, group: &str, topic: &str, queue_id: u32, offset: u64) {
        let topics = self.offsets.entry(group.to_owned()).or_default();
        let replaced = topics.entry(topic.to_owned()).or_default().insert(queue_id, offset);
        self.len += usize::from(replaced.is_none());
    }

    fn remove_if(&mut self, commit: &OffsetCommit) {
        let Some(topics) = self.offsets.get_mut(&commit.group) else { return };
        let Some(queues) = topics.get_mut(&commit.topic) else { return };
        if queues.get(&commit.queue_id) != Some(&commit.offset) {
            return;
        }
        queues.remove(&commit.queue_id);
        self.len -= 1;
        if queues.is_empty() {
            topics.remove(&commit.topic);
        }
        if topics.is_empty() {
            self.offsets.remove(&commit.group);
        }
    }
}

/// What is known of a queue when a group without an offset asks for one.
#[derive(Clone, Copy, Debug)]
pub struct YoungQueue {
    pub min_offset: u64,
    pub max_offset: u64,
    /// Bytes of log from the queue's first message to the log's end.
    pub bytes_behind: u64,
}

/// Where a group starts that has no offset, by the rule of RocketMQ 4.9: at 0 where the queue has had no message, or
/// still has its first one and that is likely to be in memory. `None` leaves it to the client, which would
/// ask for an empty queue's end, and pass over what is sent before it has done so.
pub fn first_offset(queue: Option<YoungQueue>, memory_bytes: u64) -> Option<u64> {
    /// The part of memory that RocketMQ takes to hold the log, in percent.
    const LOG_PERCENT: u64 = 40;
    let queue = queue?;
    let is_recent = queue.bytes_behind <= memory_bytes / 100 * LOG_PERCENT;
    (queue.max_offset == 0 || queue.min_offset == 0 && is_recent).then_some(0)
}

#[cfg(test)]
mod tests {
    use raftmq_raft::Table as _;

    use super::*;
    use crate::state::{State, Topic, TopicCommand};

    fn leader(term: u64) -> RoleState {
        RoleState { role: Role::Leader, term, leader: Some(1), ready: true }
    }

    /// Of a topic with these queues.
    fn with(limits: &Limits) -> PendingOffsets {
        let state = State::default();
        state.topics.apply(TopicCommand::Put(Topic::new("t", 8, 6))).unwrap();
        PendingOffsets::new(limits, watch::channel(leader(1)).1, state.offsets)
    }

    fn pending(max: usize) -> PendingOffsets {
        with(&Limits { pending_offsets: max, ..Limits::default() })
    }

    fn apply(offsets: &PendingOffsets, command: OffsetCommand) {
        offsets.committed.apply(command).unwrap();
    }

    fn commits(offsets: &PendingOffsets) -> Vec<Vec<OffsetCommit>> {
        offsets.round().commits
    }

    #[test]
    fn a_read_sees_what_is_pending_first() {
        let offsets = pending(10);
        offsets.commit("g", "t", 0, 5).unwrap();
        assert_eq!(offsets.get("g", "t", 0), Some(5));
        let batch = commits(&offsets).remove(0);
        apply(&offsets, OffsetCommand::Commit(batch.clone()));
        offsets.commit("g", "t", 0, 7).unwrap();
        offsets.forget(&batch);
        assert_eq!(offsets.get("g", "t", 0), Some(7), "a later commit outlives an earlier proposal");
        let batch = commits(&offsets).remove(0);
        apply(&offsets, OffsetCommand::Commit(batch.clone()));
        offsets.forget(&batch);
        assert!(commits(&offsets).is_empty() && offsets.table.lock().offsets.is_empty());
        assert_eq!(offsets.get("g", "t", 0), Some(7));
        offsets.commit("g", "t", 0, 7).unwrap();
        assert_eq!(offsets.table.lock().len, 0, "an offset that is committed already is not proposed again");
        offsets.commit("g", "t", 0, 3).unwrap();
        assert_eq!(offsets.get("g", "t", 0), Some(3), "offsets may go back");
    }

    #[test]
    fn pending_offsets_are_bounded_and_cleared() {
        let offsets = pending(2);
        for queue in 0..2 {
            offsets.commit("g", "t", queue, 1).unwrap();
        }
        assert!(matches!(offsets.commit("g", "t", 2, 1), Err(Error::Full(Full::PendingOffsets(2)))));
        offsets.commit("g", "t", 1, 2).unwrap();
        offsets.clear();
        offsets.commit("g", "t", 2, 1).unwrap();
    }

    #[test]
    fn what_gathered_in_one_term_is_forgotten_in_the_next() {
        let (role, watched) = watch::channel(leader(1));
        let offsets = PendingOffsets::new(&Limits::default(), watched, State::default().offsets);
        offsets.commit("g", "t", 0, 5).unwrap();
        let mut outcome = offsets.when_committed().unwrap();
        let round = offsets.round();
        offsets.check_term(round.term).unwrap();
        role.send_replace(leader(3));
        assert!(offsets.check_term(round.term).is_err(), "nor is a round that has begun gone on with");
        drop(round);
        assert_eq!(offsets.get("g", "t", 0), None);
        assert!(commits(&offsets).is_empty());
        assert_eq!(outcome.try_recv(), Err(oneshot::error::TryRecvError::Closed), "the outcome is unknown");
    }

    #[test]
    fn a_reset_is_told_once_to_each_connection_and_over_when_taken_up() {
        let offsets = pending(10);
        let reset = |offset| vec![OffsetCommit { group: "g".into(), topic: "t".into(), queue_id: 0, offset }];
        let pull = |connection, offset| offsets.take_reset(connection, ("g", "t", 0), offset);
        let commit = |offset| offsets.commit("g", "t", 0, offset).unwrap();
        assert_eq!(pull(1, 9), None);
        commit(50);
        apply(&offsets, OffsetCommand::Reset(reset(10)));
        assert_eq!(offsets.get("g", "t", 0), Some(10), "not what was pending before");
        offsets.discard(&reset(10));
        assert!(commits(&offsets).is_empty());
        assert_eq!((pull(1, 50), commit(51)), (Some(10), Noted::Ignored));
        assert_eq!(pull(2, 50), Some(10), "another connection has not been told");
        apply(&offsets, OffsetCommand::Reset(reset(10)));
        assert_eq!(pull(2, 50), Some(10), "nor anyone of a second reset, if to the same offset");
        assert_eq!(pull(2, 51), None, "who was told may pull from anywhere");
        assert_eq!((pull(1, 50), commit(52)), (None, Noted::Pending), "it is over for everyone");
        let round = offsets.round();
        assert_eq!((round.clears.concat().len(), round.commits.concat()[0].offset), (1, 52));
        apply(&offsets, OffsetCommand::ClearResets(round.clears.concat()));
        assert!(offsets.round().clears.is_empty());
        apply(&offsets, OffsetCommand::Reset(reset(30)));
        assert_eq!(pull(3, 30), None, "who pulls from there need not be told");
        let clears = offsets.round().clears.concat();
        assert_eq!(clears.iter().map(|told| told.number).collect::<Vec<_>>(), [3]);
        apply(&offsets, OffsetCommand::Reset(reset(30)));
        apply(&offsets, OffsetCommand::ClearResets(clears));
        assert_eq!(pull(3, 31), Some(30), "a reset in between is not cleared with the one before");
    }

    #[test]
    fn new_offsets_end_where_there_are_too_many_and_known_ones_go_on() {
        let offsets = with(&Limits { committed_offsets: 3, ..Limits::default() });
        let commit = |queue_id| OffsetCommit { group: "g".into(), topic: "t".into(), queue_id, offset: 1 };
        apply(&offsets, OffsetCommand::Commit(vec![commit(0)]));
        for queue in 1..3 {
            offsets.commit("g", "t", queue, 5).unwrap();
        }
        assert_eq!(offsets.commit("g", "t", 3, 5), Err(Full::Offsets(3).into()));
        for queue in 0..3 {
            offsets.commit("g", "t", queue, 6).unwrap();
        }
    }

    #[test]
    fn an_offset_that_fits_no_command_makes_no_empty_batch() {
        let offsets = pending(10);
        let group = "g".repeat(raftmq_raft::CHANGE_BYTES_MAX);
        offsets.commit(&group, "t", 0, 1).unwrap();
        let batches = commits(&offsets);
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [1]);
        assert!(Change::new::<Offsets>(&OffsetCommand::Commit(batches[0].clone())).is_err());
    }

    #[test]
    fn a_batch_fits_a_command() {
        let offsets = pending(10_000);
        let group = "g".repeat(200);
        for queue in 0..2000 {
            offsets.commit(&group, "topic", queue, u64::MAX / 2).unwrap();
        }
        let batches = commits(&offsets);
        assert_eq!(batches.iter().map(Vec::len).sum::<usize>(), 2000);
        assert!(batches.len() > 1);
        for batch in batches {
            Change::new::<Offsets>(&OffsetCommand::Commit(batch)).unwrap();
        }
    }

    #[test]
    fn a_new_group_starts_at_the_first_message_of_a_young_queue_only() {
        let queue =
            |min_offset, max_offset, bytes_behind| YoungQueue { min_offset, max_offset, bytes_behind };
        assert_eq!(first_offset(Some(queue(0, 5, 400)), 1000), Some(0));
        assert_eq!(first_offset(Some(queue(0, 5, 401)), 1000), None);
        assert_eq!(
            first_offset(Some(queue(0, 0, u64::MAX)), 1000),
            Some(0),
            "it starts with the first message"
        );
        assert_eq!(first_offset(Some(queue(1, 5, 0)), 1000), None);
        assert_eq!(first_offset(None, 1000), None);
    }
}
