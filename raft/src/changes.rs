//! Proposing changes of the replicated state.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use raftmq_store::FRAME_HEADER_BYTES;
use tokio::sync::oneshot;

use crate::api::ProposeError;
use crate::hello::Acquaintances;
use crate::members::Members;
use crate::proposer::propose_error;
use crate::room::Rooms;
use crate::state_machine::Core;
use crate::table::{Change, Outcomes};
use crate::types::{ChangeProposal, Proposal, WriteResponder};

/// Whoever proposes changes on a member.
pub(crate) struct Changes {
    raft: Core,
    members: Arc<Members>,
    acquaintances: Arc<Acquaintances>,
    rooms: Arc<Rooms>,
    /// Bytes that a segment has room for.
    room: u64,
}

impl Changes {
    pub(crate) fn new(
        raft: Core,
        members: Arc<Members>,
        acquaintances: Arc<Acquaintances>,
        rooms: Arc<Rooms>,
        segment_bytes: u64,
    ) -> Self {
        Self { raft, members, acquaintances, rooms, room: segment_bytes - FRAME_HEADER_BYTES as u64 }
    }

    /// Why a change may not be proposed yet: some member could not read it.
    pub(crate) fn check_level(&self, change: &Change) -> Result<(), ProposeError> {
        let (needed, level) = (change.level(), self.members.level());
        if needed <= level {
            return Ok(());
        }
        let addresses = self.acquaintances.addresses();
        let behind = addresses.values().filter(|member| member.reads < needed);
        let behind: Vec<_> =
            behind.map(|member| format!("node {} reads {}", member.id, member.reads)).collect();
        let who = if behind.is_empty() { "not every member has said".to_owned() } else { behind.join(", ") };
        let reason = format!("this needs feature level {needed}, and the group is at {level} ({who})");
        Err(ProposeError::TooEarly(reason))
    }

    /// Proposes a change; returns when it is applied here. With a term it is for that one alone.
    pub(crate) async fn propose(&self, change: Change, term: Option<u64>) -> Result<Outcomes, ProposeError> {
        // Invariant 7.
        if change.is_with_messages() {
            return Err(ProposeError::Refused("a change that belongs to messages, without them".into()));
        }
        let (size, room) = (change.as_bytes().len(), self.room);
        if size as u64 > room {
            return Err(ProposeError::Refused(format!(
                "a change of {size} bytes; a segment has room for {room}"
            )));
        }
        self.check_level(&change)?;
        self.rooms.check()?;
        let (waiting, outcome) = oneshot::channel();
        let stopped = |what: &str| ProposeError::Stopped(what.to_owned());
        let is_late = Arc::new(AtomicBool::new(false));
        let proposal = Proposal::Change(ChangeProposal { change, term, is_late: is_late.clone() });
        self.raft
            .client_write_ff(proposal, Some(WriteResponder(Box::new(waiting))))
            .await
            .map_err(|e| stopped(&e.to_string()))?;
        let outcome = outcome.await;
        if is_late.load(Ordering::Acquire) {
            return Err(ProposeError::NotLeader { leader: None });
        }
        match outcome {
            Ok(Ok(response)) => Ok(response.data),
            Ok(Err(e)) => Err(propose_error(&e)),
            Err(_) => Err(stopped("the Raft core ended before the outcome was known")),
        }
    }
}
