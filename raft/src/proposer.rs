//! The batcher: takes whatever messages have gathered and proposes them as one entry.
//!
//! There is no timer. While fewer than [`PIPELINE_MAX`] entries are on their way a batch is proposed at once; while
//! that many are, new messages gather, so batches grow with the load. Everything is bounded by
//! [`BYTES_ON_THEIR_WAY_MAX`].

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::BytesMut;
use openraft::errors::ClientWriteError;
use openraft::raft::ClientWriteResult;
use parking_lot::Mutex;
use raftmq_store::EntryId;
use tokio::sync::Notify;

use crate::api::{Completion, MessageBatch, ProposeError};
use crate::standing::node_of;
use crate::state_machine::Core;
use crate::table::Change;
use crate::types::{
    Appended, MessageProposal, Places, Proposal, TypeConfig, Waiting, WriteResponder, entry_id,
};

/// Entries of messages on their way at once. One would leave the disks idle while a batch travels; many would make
/// batches small. With 1,024 messages in flight, eight gave a fifth more throughput than four.
pub(crate) const PIPELINE_MAX: usize = 8;
/// Bytes of records in one entry, unless a single batch is larger or segments are small. Follower and flush work in
/// units of this.
const ENTRY_BYTES_MAX: usize = 1 << 20;
/// Bytes of records waiting or on their way in all; past it, submitters are told "busy".
pub(crate) const BYTES_ON_THEIR_WAY_MAX: usize = 32 << 20;

/// Gathers batches of messages and proposes them.
pub(crate) struct Proposer {
    state: Mutex<State>,
    wake: Notify,
    /// How far batches are joined, in bytes of records.
    entry_bytes: usize,
    /// Told why the member has to stop.
    on_failure: OnFailure,
    has_room: HasRoom,
}

/// Says whether the disks have room for what is proposed.
pub(crate) type HasRoom = Box<dyn Fn() -> Result<(), ProposeError> + Send + Sync>;

/// Told why the member has to stop.
pub(crate) type OnFailure = Box<dyn Fn(String) + Send + Sync>;

#[derive(Default)]
struct State {
    waiting: VecDeque<MessageBatch>,
    bytes: usize,
    proposals: usize,
    closed: bool,
}

/// What a batch takes of the bytes that may be on their way.
fn bytes_of(batch: &MessageBatch) -> usize {
    batch.records.len() + batch.change.as_ref().map_or(0, |change| change.as_bytes().len())
}

impl State {
    /// Why a batch is not taken.
    fn why_not(&self, batch: &MessageBatch) -> Option<ProposeError> {
        // Invariant 7.
        if batch.term.is_none() && batch.change.as_ref().is_some_and(Change::is_with_messages) {
            let reason = "a change that belongs to messages without the term it is for";
            return Some(ProposeError::Refused(reason.into()));
        }
        if self.closed {
            // Nothing was written.
            return Some(ProposeError::NotLeader { leader: None });
        }
        // A batch of any size is taken when nothing else is on its way.
        let is_too_much = self.bytes > 0 && self.bytes + bytes_of(batch) > BYTES_ON_THEIR_WAY_MAX;
        is_too_much.then_some(ProposeError::Busy { bytes: self.bytes, limit: BYTES_ON_THEIR_WAY_MAX })
    }
}

impl Proposer {
    /// Segments of `segment_bytes` hold a few entries each, however small they are.
    pub(crate) fn new(segment_bytes: u64, on_failure: OnFailure, has_room: HasRoom) -> Self {
        let quarter = usize::try_from(segment_bytes / 4).unwrap_or(ENTRY_BYTES_MAX);
        let entry_bytes = ENTRY_BYTES_MAX.min(quarter);
        Self { state: Mutex::default(), wake: Notify::new(), entry_bytes, on_failure, has_room }
    }

    /// Takes a batch, or tells it why not.
    pub(crate) fn submit(&self, batch: MessageBatch) {
        let has_room = (self.has_room)();
        let mut state = self.state.lock();
        if let Some(error) = state.why_not(&batch).or(has_room.err()) {
            drop(state);
            return batch.completion.complete(Err(&error));
        }
        state.bytes += bytes_of(&batch);
        state.waiting.push_back(batch);
        if state.proposals < PIPELINE_MAX {
            self.wake.notify_one();
        }
    }

    /// Proposes until the Raft core is gone.
    pub(crate) async fn run(self: Arc<Self>, raft: Core) {
        loop {
            self.refuse_without_room();
            let batches = self.take();
            if batches.is_empty() {
                self.wake.notified().await;
                continue;
            }
            let (proposal, waiting) = self.proposal(batches);
            let responder = WriteResponder(Box::new(waiting));
            if raft.client_write_ff(proposal, Some(responder)).await.is_err() {
                break;
            }
        }
        self.close("the Raft core has stopped");
    }

    /// Refuses what waits and what comes.
    pub(crate) fn close(&self, reason: &str) {
        let waiting = {
            let mut state = self.state.lock();
            state.closed = true;
            std::mem::take(&mut state.waiting)
        };
        self.refuse(waiting, &ProposeError::Stopped(reason.to_owned()));
    }

    /// Refuses what waits: nothing of it was proposed.
    pub(crate) fn refuse_waiting(&self, leader: Option<u64>) {
        let waiting = std::mem::take(&mut self.state.lock().waiting);
        self.refuse(waiting, &ProposeError::NotLeader { leader });
    }

    /// Likewise where there is no room for it any more. What is on its way has its place.
    fn refuse_without_room(&self) {
        if let Err(error) = (self.has_room)() {
            let waiting = std::mem::take(&mut self.state.lock().waiting);
            self.refuse(waiting, &error);
        }
    }

    fn refuse(&self, waiting: VecDeque<MessageBatch>, error: &ProposeError) {
        self.state.lock().bytes -= waiting.iter().map(bytes_of).sum::<usize>();
        for batch in waiting {
            batch.completion.complete(Err(error));
        }
    }

    /// The batches of the next entry; none while the pipeline is full. One with a change is alone in its entry.
    fn take(&self) -> Vec<MessageBatch> {
        let mut state = self.state.lock();
        let mut batches = Vec::new();
        let mut bytes = 0;
        if state.proposals >= PIPELINE_MAX {
            return batches;
        }
        while let Some(next) = state.waiting.front() {
            let is_alone = next.change.is_some();
            if bytes > 0 && (is_alone || bytes + bytes_of(next) > self.entry_bytes) {
                break;
            }
            bytes += bytes_of(next);
            batches.extend(state.waiting.pop_front());
            if is_alone {
                break;
            }
        }
        state.proposals += usize::from(!batches.is_empty());
        batches
    }

    fn proposal(self: &Arc<Self>, batches: Vec<MessageBatch>) -> (Proposal, MessagesWaiting) {
        let mut pieces: Vec<BytesMut> = Vec::with_capacity(batches.len());
        let mut completions = Vec::with_capacity(batches.len());
        let (mut bytes, mut change, mut term) = (0, None, None);
        for batch in batches {
            bytes += bytes_of(&batch);
            // One with a change is the only one.
            (change, term) = (batch.change, batch.term);
            pieces.push(batch.records);
            completions.push((batch.count as usize, batch.completion));
        }
        let places = Arc::new(Places::default());
        let waiting = MessagesWaiting {
            proposer: self.clone(),
            at_commit: change.is_none(),
            places: places.clone(),
            completions,
            bytes,
            answered: false,
        };
        (Proposal::Messages(MessageProposal { change, term, pieces, places }), waiting)
    }

    fn done(&self, bytes: usize) {
        let mut state = self.state.lock();
        state.bytes -= bytes;
        state.proposals -= 1;
        if !state.waiting.is_empty() {
            self.wake.notify_one();
        }
    }
}

/// Those who wait for an entry of messages. Dropped without an answer, it tells them that the core has ended.
pub(crate) struct MessagesWaiting {
    proposer: Arc<Proposer>,
    /// They are answered when the entry is committed; with a change, when that is applied.
    at_commit: bool,
    places: Arc<Places>,
    /// How many records, and whom to tell.
    completions: Vec<(usize, Box<dyn Completion>)>,
    bytes: usize,
    answered: bool,
}

impl MessagesWaiting {
    /// *Invariant 5*: an acknowledgement says where this very entry's messages stand. Where that is not known, it is not
    /// known what is stored for whom, and the member stops.
    fn stored(&mut self, id: EntryId) {
        let appended = self.places.0.lock().take();
        let announced: usize = self.completions.iter().map(|(count, _)| count).sum();
        let placed = match appended {
            Some(Appended { id: own, placed: Ok(placed) }) if own == id && placed.len() == announced => {
                placed
            }
            Some(Appended { id: own, placed: Err(error) }) if own == id => return self.failed(&error),
            other => {
                let reason = format!("entry {id:?} of {announced} messages was committed as {}", said(other));
                tracing::error!("an outcome without its places, the node stops: {reason}");
                (self.proposer.on_failure)(reason);
                return self.failed(&ProposeError::Unknown);
            }
        };
        self.answered = true;
        self.proposer.done(self.bytes);
        let mut rest = &placed[..];
        for (count, completion) in std::mem::take(&mut self.completions) {
            let (own, others) = rest.split_at(count);
            rest = others;
            completion.complete(Ok(own));
        }
    }

    fn failed(&mut self, error: &ProposeError) {
        self.answered = true;
        self.proposer.done(self.bytes);
        for (_, completion) in std::mem::take(&mut self.completions) {
            completion.complete(Err(error));
        }
    }
}

impl Waiting<ClientWriteResult<TypeConfig>> for MessagesWaiting {
    fn committed(&mut self, id: EntryId) {
        if self.at_commit {
            self.stored(id);
        }
    }

    fn done(mut self: Box<Self>, result: ClientWriteResult<TypeConfig>) {
        match result {
            _ if self.answered => {}
            Ok(written) => self.stored(entry_id(&written.log_id)),
            Err(e) => self.failed(&propose_error(&e)),
        }
    }
}

impl Drop for MessagesWaiting {
    fn drop(&mut self) {
        if !self.answered {
            self.failed(&ProposeError::Stopped("the Raft core ended before the outcome was known".into()));
        }
    }
}

fn said(appended: Option<Appended>) -> String {
    match appended {
        Some(Appended { id, placed: Ok(placed) }) => format!("{id:?} with {} places", placed.len()),
        Some(Appended { id, placed: Err(error) }) => format!("{id:?}, which {error}"),
        None => "one that was never appended here".to_owned(),
    }
}

pub(crate) fn propose_error(error: &ClientWriteError<TypeConfig>) -> ProposeError {
    match error {
        ClientWriteError::ForwardToLeader(forward) => {
            ProposeError::NotLeader { leader: forward.leader_id.map(node_of) }
        }
        ClientWriteError::LogEntryDiscarded(_) => ProposeError::Unknown,
        other => ProposeError::Refused(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use raftmq_store::Placed;

    use super::*;
    use crate::table::tests::{Sum, SumCommand};

    type Told = Arc<Mutex<Vec<Result<Vec<Placed>, ProposeError>>>>;

    struct Tell(Told);

    impl Completion for Tell {
        fn complete(self: Box<Self>, outcome: Result<&[Placed], &ProposeError>) {
            self.0.lock().push(outcome.map(<[Placed]>::to_vec).map_err(Clone::clone));
        }
    }

    fn batch(told: &Told, count: u32) -> MessageBatch {
        let completion = Box::new(Tell(told.clone()));
        MessageBatch { records: BytesMut::from(&[1][..]), count, change: None, term: None, completion }
    }

    const ID: EntryId = EntryId { term: 2, index: 9 };

    /// What batches of one and two messages are told when their entry is committed and the log says this of it, and
    /// whether the member stops.
    fn outcome(appended: Option<Appended>) -> (Vec<Result<Vec<Placed>, ProposeError>>, bool) {
        let (told, failed) = (Told::default(), Arc::new(Mutex::new(false)));
        let stops = failed.clone();
        let proposer =
            Arc::new(Proposer::new(1 << 30, Box::new(move |_| *stops.lock() = true), Box::new(|| Ok(()))));
        proposer.submit(batch(&told, 1));
        proposer.submit(batch(&told, 2));
        let (proposal, mut waiting) = proposer.proposal(proposer.take());
        let Proposal::Messages(messages) = proposal else { panic!("{proposal}") };
        *messages.places.0.lock() = appended;
        waiting.committed(ID);
        let state = proposer.state.lock();
        assert_eq!((state.bytes, state.proposals), (0, 0));
        drop(state);
        (std::mem::take(&mut *told.lock()), *failed.lock())
    }

    #[test]
    fn an_outcome_without_its_places_is_unknown_and_stops_the_member() {
        let placed =
            |count| (0..count).map(|n| Placed { queue_offset: n, physical_offset: 100 + n }).collect();
        let appended = |id, placed| Some(Appended { id, placed });
        let (told, stops) = outcome(appended(ID, Ok(placed(3))));
        let lens: Vec<_> = told.iter().map(|told| told.as_ref().unwrap().len()).collect();
        assert_eq!((lens, stops), (vec![1, 2], false));
        assert_eq!(told[1].as_ref().unwrap()[0], Placed { queue_offset: 1, physical_offset: 101 });
        let refused = ProposeError::Refused("as it is".into());
        let expected = vec![Err(refused.clone()), Err(refused.clone())];
        assert_eq!(outcome(appended(ID, Err(refused.clone()))), (expected, false));
        let other = EntryId { term: 1, ..ID };
        for appended in [
            None,
            appended(ID, Ok(placed(2))),
            appended(ID, Ok(placed(4))),
            appended(other, Ok(placed(3))),
            appended(other, Err(refused)),
        ] {
            let unknown = vec![Err(ProposeError::Unknown), Err(ProposeError::Unknown)];
            assert_eq!(outcome(appended), (unknown, true));
        }
    }

    #[test]
    fn what_waits_is_refused_when_there_is_no_room_any_more() {
        let (told, has_room) = (Told::default(), Arc::new(Mutex::new(true)));
        let looks = has_room.clone();
        let no_room = ProposeError::NoRoom("full".into());
        let refusal = no_room.clone();
        let look = move || if *looks.lock() { Ok(()) } else { Err(refusal.clone()) };
        let proposer = Arc::new(Proposer::new(1 << 30, Box::new(|_| ()), Box::new(look)));
        proposer.submit(batch(&told, 1));
        proposer.submit(batch(&told, 1));
        *has_room.lock() = false;
        proposer.submit(batch(&told, 1));
        assert_eq!(std::mem::take(&mut *told.lock()), [Err(no_room.clone())]);
        proposer.refuse_without_room();
        assert_eq!(std::mem::take(&mut *told.lock()), [Err(no_room.clone()), Err(no_room)]);
        assert_eq!(proposer.state.lock().bytes, 0);
        *has_room.lock() = true;
        proposer.submit(batch(&told, 1));
        assert!(told.lock().is_empty());
    }

    #[test]
    fn a_change_that_belongs_to_messages_is_for_a_term() {
        let proposer = Proposer::new(1 << 30, Box::new(|_| ()), Box::new(|| Ok(())));
        let told = Told::default();
        for term in [Some(1), None] {
            let change = Some(Change::new::<Sum<9>>(&SumCommand::Add(1)).unwrap());
            proposer.submit(MessageBatch { change, term, ..batch(&told, 1) });
        }
        assert!(matches!(told.lock()[..], [Err(ProposeError::Refused(_))]));
    }
}
