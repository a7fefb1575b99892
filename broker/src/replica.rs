//! This member's part in its group: whether it serves, and how it changes the replicated state.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use raftmq_raft::{Change, Group, MessageBatch, Outcomes, ProposeError, Role, RoleState, Table};
use raftmq_store::Store;
use tokio::sync::watch;

use crate::error::{Error, NotServing};
use crate::limits::SETTLE_MAX;
use crate::state::{State, SubscriptionGroup};

/// How long a proposal may take before its outcome is called unknown: no longer than clients wait for an answer.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// As what a member serves a pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// It has every acknowledged message, and takes offsets.
    Leader,
    /// It may lag.
    Follower,
}

/// A member of a group, as those see it who serve with it.
pub struct Replica {
    group: Group,
    state: State,
    role: watch::Receiver<RoleState>,
    node_id: u64,
    stopping: AtomicBool,
}

impl Replica {
    /// Of a running member, whose tables are those of `state`.
    pub fn new(group: Group, state: State) -> Self {
        Self {
            role: group.watch_role(),
            node_id: group.config().node_id,
            group,
            state,
            stopping: AtomicBool::new(false),
        }
    }

    /// The group.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// The replicated state.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What is stored.
    pub fn store(&self) -> &Arc<Store> {
        self.group.store()
    }

    /// This member's role now.
    pub fn role(&self) -> RoleState {
        self.group.role()
    }

    /// Follows the role.
    pub fn watch_role(&self) -> watch::Receiver<RoleState> {
        self.role.clone()
    }

    /// This member's node id.
    pub fn node_id(&self) -> u64 {
        self.node_id
    }

    /// Whether this member serves what only a leader serves, and in which term. The one place that decides it.
    pub fn leading(&self) -> Result<u64, NotServing> {
        if self.is_stopping() {
            return Err(NotServing::Stopping);
        }
        let role = self.role();
        match (role.role, role.ready) {
            (Role::Leader, true) => Ok(role.term),
            (Role::Leader, false) => Err(NotServing::NotReady),
            _ => Err(self.not_leader(role.leader)),
        }
    }

    /// As what this member serves a group's pulls: as the leader, or as a follower where the group prefers to read from
    /// one.
    pub fn reader(&self, group: &SubscriptionGroup) -> Result<Reader, NotServing> {
        let not_serving = match self.leading() {
            Ok(_) => return Ok(Reader::Leader),
            Err(not_serving) => not_serving,
        };
        let reads = group.broker_id != 0 && !self.is_stopping() && self.role.borrow().role != Role::Stopped;
        if reads { Ok(Reader::Follower) } else { Err(not_serving) }
    }

    /// The broker id that a group should pull from: 0, the leader's, unless it prefers a member that follows. The leader
    /// names one that keeps up with it; a follower knows of itself only.
    pub fn preferred_reader(&self, group: &SubscriptionGroup) -> u64 {
        let preferred = group.broker_id;
        let follows = preferred != 0
            && if preferred == self.node_id {
                self.role.borrow().role == Role::Follower
            } else {
                self.group.is_near(preferred)
            };
        if follows { preferred } else { 0 }
    }

    /// Where clients reach the leader, where that is another member.
    pub fn other_leader(&self) -> Option<String> {
        let leader = self.role.borrow().leader.filter(|id| *id != self.node_id)?;
        self.group.address_of(leader).map(|member| member.client)
    }

    fn not_leader(&self, leader: Option<u64>) -> NotServing {
        match leader.filter(|id| *id != self.node_id) {
            None => NotServing::NoLeader,
            Some(id) => {
                NotServing::Follows { id, address: self.group.address_of(id).map(|member| member.client) }
            }
        }
    }

    /// Hands messages to the log; their completion is told what becomes of them.
    pub fn submit(&self, batch: MessageBatch) {
        self.group.submit(batch);
    }

    /// Why messages were not stored.
    pub fn not_stored(&self, error: &ProposeError) -> Error {
        match error {
            ProposeError::NotLeader { leader } => self.not_leader(*leader).into(),
            error => error.into(),
        }
    }

    /// Changes a table; returns when the change is applied here.
    pub async fn change<T: Table>(&self, command: &T::Command) -> Result<T::Outcome, Error> {
        self.change_in::<T>(self.leading()?, command).await
    }

    /// Likewise, for one term alone: what was found right in it may be wrong in another.
    pub async fn change_in<T: Table>(&self, term: u64, command: &T::Command) -> Result<T::Outcome, Error> {
        let outcomes = self.propose_in(term, Change::new::<T>(command)?).await?;
        outcomes.first::<T>().ok_or_else(|| Error::Unknown("it is of another change".to_owned()))
    }

    /// The same for a change of any tables.
    pub async fn propose_in(&self, term: u64, change: Change) -> Result<Outcomes, Error> {
        self.leading()?;
        match tokio::time::timeout(PROPOSE_TIMEOUT, self.group.propose_in(term, change)).await {
            Ok(outcome) => outcome.map_err(|error| self.not_stored(&error)),
            Err(_) => Err(Error::Unknown(format!("not committed in {PROPOSE_TIMEOUT:?}"))),
        }
    }

    /// Whether this member leads and does not serve: it is not ready yet, or others may have been elected.
    pub fn is_between(&self) -> bool {
        matches!(self.leading(), Err(NotServing::NotReady))
    }

    /// Waits a moment until this member serves, or leads no more.
    pub async fn settle_role(&self) {
        let mut role = self.watch_role();
        let settled = role.wait_for(|role| role.role != Role::Leader || role.ready);
        let _ = tokio::time::timeout(SETTLE_MAX, settled).await;
    }

    /// Waits a moment until queues show all that has been acknowledged by now: a message is acknowledged when its entry
    /// is committed, and seen by consumers when it is dispatched, shortly after.
    pub async fn settle(&self) {
        const LOOK: Duration = Duration::from_millis(1);
        let store = self.store();
        let appended = store.max_physical_offset();
        let dispatched = async {
            while store.dispatched_physical_offset() < appended {
                tokio::time::sleep(LOOK).await;
            }
        };
        // What is appended and not committed may take longer, or be gone again.
        let _ = tokio::time::timeout(SETTLE_MAX, dispatched).await;
    }

    /// From now on nothing is served that takes new work.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether it is about to end.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}
