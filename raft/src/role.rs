//! A member's role, followed from openraft's metrics: who leads, in which term, and whether a leader is ready to serve.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::RaftDataMetrics;
use openraft::{Instant as _, ServerState};
use parking_lot::RwLock;
use raftmq_store::Store;
use tokio::sync::watch;

use crate::api::{Role, RoleState};
use crate::done::done;
use crate::lease::Leases;
use crate::proposer::Proposer;
use crate::standing::node_of;
use crate::state_machine::Core;
use crate::types::{LogId, TypeConfig, entry_id};

/// How often a leader looks whether it has its lease, and which members are near, where nobody asks.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// A member that a leader has not heard of for this long, or that is behind by so many entries of up to 1 MiB, is not
/// near. Some ten heartbeats at the defaults.
pub(crate) const NEAR_SILENCE_MAX: Duration = Duration::from_secs(2);
const NEAR_LAG_MAX: u64 = 1000;
/// How long a new leader's reput may take to reach what was committed before, between two looks at its role.
const DISPATCH_WAIT: Duration = Duration::from_millis(200);

/// What others see of a member's role.
pub(crate) struct Roles {
    role: watch::Sender<RoleState>,
    leases: Arc<Leases>,
    /// The other members that are near, where this one leads.
    near: RwLock<BTreeSet<u64>>,
}

impl Roles {
    /// Of a member that has not begun to follow anybody.
    pub(crate) fn new(leases: Arc<Leases>) -> Self {
        let role = RoleState { role: Role::Follower, term: 0, leader: None, ready: false };
        Self { role: watch::Sender::new(role), leases, near: RwLock::default() }
    }

    /// The role at this moment: whoever follows it is told a little later that a lease is over.
    pub(crate) fn now(&self) -> RoleState {
        let role = self.role.borrow().clone();
        if !role.ready || self.leases.is_held(role.term) {
            return role;
        }
        // It is to be told of when the lease is held again.
        self.role.send_if_modified(|present| {
            let is_ready = present.ready && present.term == role.term;
            present.ready &= !is_ready;
            is_ready
        });
        RoleState { ready: false, ..role }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<RoleState> {
        self.role.subscribe()
    }

    /// Whether a member has answered this leader lately and has nearly all of its log.
    pub(crate) fn is_near(&self, member: u64) -> bool {
        self.near.read().contains(&member)
    }

    pub(crate) fn set(&self, new: RoleState) {
        self.role.send_if_modified(|old| {
            if *old == new {
                return false;
            }
            if is_news(old, &new) {
                tracing::info!(role = ?new.role, term = new.term, leader = new.leader, "role");
            }
            if new.role == Role::Leader && old.ready != new.ready {
                tracing::info!(term = new.term, ready = new.ready, "as leader");
            }
            *old = new;
            true
        });
    }

    pub(crate) fn set_stopped(&self) {
        let term = self.role.borrow().term;
        self.set(RoleState { role: Role::Stopped, term, leader: None, ready: false });
    }
}

/// Keeps the role up to date.
pub(crate) struct RoleWatch {
    pub(crate) raft: Core,
    pub(crate) store: Arc<Store>,
    pub(crate) proposer: Arc<Proposer>,
    pub(crate) roles: Arc<Roles>,
    pub(crate) leases: Arc<Leases>,
}

impl RoleWatch {
    /// Runs until the Raft core ends.
    pub(crate) async fn run(self) {
        let mut server = self.raft.server_metrics();
        let mut data = self.raft.data_metrics();
        // The last term in which all that was committed before could be seen here.
        let mut dispatched_in = None;
        loop {
            let (state, leader, term) = {
                let metrics = server.borrow_and_update();
                (metrics.state, metrics.current_leader.map(node_of), metrics.vote.leader_id.term)
            };
            let role = role_of(state);
            let applied = {
                let metrics = data.borrow_and_update();
                *self.roles.near.write() = near(&metrics);
                metrics.last_applied
            };
            // A leader's first entry of its own term is behind everything that was committed before.
            let applied_own_term = applied.is_some_and(|id| entry_id(&id).term == term);
            // It stays leader without a majority, but can commit nothing, and another may have been elected meanwhile.
            let ready = role == Role::Leader
                && applied_own_term
                && self.leases.is_held(term)
                && (dispatched_in == Some(term) || self.dispatched_all().await);
            if ready {
                dispatched_in = Some(term);
            }
            self.roles.set(RoleState { role, term, leader, ready });
            if !ready {
                self.proposer.refuse_waiting(leader);
            }
            if role == Role::Stopped {
                return;
            }
            let waits_for_data = role == Role::Leader && !ready;
            let closed = tokio::select! {
                changed = server.changed() => changed.is_err(),
                changed = data.changed(), if waits_for_data => changed.is_err(),
                () = self.leases.renewed() => false,
                () = tokio::time::sleep(LOOK_INTERVAL) => false,
            };
            if closed {
                self.roles.set_stopped();
                return;
            }
        }
    }

    /// Whether consumers see all that is committed here.
    async fn dispatched_all(&self) -> bool {
        let Some(committed) = self.store.committed() else { return true };
        let Ok(Some(frame)) = self.store.log().frame(committed.index) else { return false };
        let dispatched = done(|callback| self.store.when_dispatched(frame.header.end(), callback));
        matches!(tokio::time::timeout(DISPATCH_WAIT, dispatched).await, Ok(Ok(())))
    }
}

/// Whether a change is worth a line of its own. A follower of a new term is one once it knows whom it follows.
fn is_news(old: &RoleState, new: &RoleState) -> bool {
    let follows_nobody = new.role == Role::Follower && new.leader.is_none();
    let led = old.role == Role::Leader;
    let moved =
        (old.role, new.leader) != (new.role, old.leader) || (new.leader.is_some() && old.term != new.term);
    moved && (led || !follows_nobody)
}

/// The members that are near by a leader's metrics; others' have no heartbeats.
fn near(metrics: &RaftDataMetrics<TypeConfig>) -> BTreeSet<u64> {
    let index = |id: Option<&LogId>| id.map_or(0, |id| id.index);
    let last = index(metrics.last_log.as_ref());
    let heard = metrics
        .heartbeat
        .iter()
        .flatten()
        .filter(|(_, heard)| heard.as_ref().is_some_and(|heard| heard.elapsed() < NEAR_SILENCE_MAX));
    let matched = |member: &u64| metrics.replication.as_ref()?.get(member)?.as_ref();
    let lag = |member: &u64| last.saturating_sub(index(matched(member)));
    heard.map(|(member, _)| *member).filter(|member| lag(member) <= NEAR_LAG_MAX).map(node_of).collect()
}

fn role_of(state: ServerState) -> Role {
    match state {
        ServerState::Leader => Role::Leader,
        ServerState::Follower => Role::Follower,
        ServerState::Candidate => Role::Candidate,
        ServerState::Learner => Role::Learner,
        ServerState::Shutdown => Role::Stopped,
    }
}
