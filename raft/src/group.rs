//! A running member of a group: the handle the broker holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::RaftDataMetrics;
use openraft::{BasicNode, Config, Instant as _, Raft, ServerState, SnapshotPolicy};
use parking_lot::{Mutex, RwLock};
use raftmq_store::{
    Derived, FRAME_HEADER_BYTES, FRAME_PAYLOAD_BYTES_MAX, Identity, Store, StoreError, StoreOptions,
};
use raftmq_world::{Acceptor, Mutation, Threads, WhenFull, World};
use tokio::sync::{OnceCell, watch};
use tokio::task::JoinHandle;

use crate::api::{
    FlushMode, GroupConfig, GroupStatus, Member, MemberStatus, MessageBatch, ProposeError, Role, RoleState,
    StartError, SubmitError,
};
use crate::clock::Clocks;
use crate::command::{Command, CommandOutcome, MemberAddress};
use crate::log_storage::{LogStorage, done};
use crate::metadata::Metadata;
use crate::proposer::{Proposer, WriteResponder, propose_error};
use crate::server::{CONNECTIONS_MAX, Server};
use crate::state_machine::{Shared, StateMachine};
use crate::transport::{Peers, Transport};
use crate::types::{CommandProposal, LogId, Proposal, Runtime, TypeConfig, entry_id};
use crate::wire::Hello;

type Core = Raft<TypeConfig, StateMachine>;

/// A leader checks this often whether the members' addresses it has learned are in the log.
const ADDRESS_INTERVAL: Duration = Duration::from_secs(1);
/// A leader that has not heard of a majority for this long does not serve. Far longer than a slow sync.
const QUORUM_SILENCE_MAX: Duration = Duration::from_secs(2);
/// How often a leader looks whether it has.
const QUORUM_CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// A member that a leader has not heard of for this long, or that is behind by so many entries of up to 1 MiB, is not
/// near. Some ten heartbeats at the defaults.
const NEAR_SILENCE_MAX: Duration = Duration::from_secs(2);
const NEAR_LAG_MAX: u64 = 1000;
/// How long a leader that hands over waits for its successor.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a new leader's reput may take to reach what was committed before, between two looks at its role.
const DISPATCH_WAIT: Duration = Duration::from_millis(200);
/// The largest configured timeout, in ms: a typing error should not make a group that never elects.
const TIMEOUT_MS_MAX: u64 = 60_000;

/// A running member. Clones are handles to the same.
#[derive(Clone)]
pub struct Group {
    inner: Arc<Inner>,
}

struct Inner {
    config: GroupConfig,
    threads: Arc<dyn Threads>,
    store: Arc<Store>,
    state: Arc<Shared>,
    raft: Core,
    proposer: Arc<Proposer>,
    peers: Peers,
    clocks: Arc<Clocks>,
    role: watch::Sender<RoleState>,
    /// The other members that are near, where this one leads.
    near: RwLock<BTreeSet<u64>>,
    stopped: watch::Sender<Option<String>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    closed: OnceCell<()>,
}

impl Group {
    /// Opens the directory, recovers, and joins the group.
    pub async fn start(config: GroupConfig, world: World) -> Result<Self, StartError> {
        let raft_config = Arc::new(raft_config(&config)?);
        let own = config.members.iter().find(|m| m.id == config.node_id).cloned();
        let own = own
            .ok_or_else(|| StartError::Config(format!("node {} is not among the members", config.node_id)))?;
        let options =
            StoreOptions { dir: config.dir.clone(), identity: identity(&config), flush: config.flush.into() };
        let store = open_store(options, config.derived.clone(), &world).await?;
        let clocks = Arc::new(Clocks::new(world.clock.clone()));
        let log = LogStorage::open(store.clone(), config.node_id, &world)?;
        let state = Arc::new(Shared::open(store.clone(), &world)?);
        dispatch_applied(&store, state.last_applied())?;

        let listener =
            world.network.listen(own.raft).map_err(|source| StartError::Listen { addr: own.raft, source })?;
        let hello = Arc::new(hello(&config));
        let peers: Peers = Peers::default();
        peers.write().insert(config.node_id, (*hello).clone());
        let transport = Transport {
            network: world.network.clone(),
            hello: hello.clone(),
            peers: peers.clone(),
            clocks: clocks.clone(),
            out_of_reach: Arc::default(),
            refusals: Arc::default(),
        };
        let machine = StateMachine::new(state.clone());
        // Election timeouts are drawn in it.
        let core = Raft::new(config.node_id, raft_config, transport, log, machine);
        let raft: Core =
            Runtime::scope(world.random.number(), core).await.map_err(|e| StartError::Raft(e.to_string()))?;
        join(&raft, &config).await?;

        let role = RoleState { role: Role::Follower, term: 0, leader: None, ready: false };
        let stopped = watch::Sender::new(None);
        let failed = stopped.clone();
        let on_failure = Box::new(move |reason| note_stop(&failed, reason));
        let inner = Arc::new(Inner {
            proposer: Arc::new(Proposer::new(config.segment_bytes, on_failure)),
            config,
            threads: world.threads,
            store,
            state,
            raft,
            peers,
            clocks,
            role: watch::Sender::new(role),
            near: RwLock::default(),
            stopped,
            tasks: Mutex::default(),
            closed: OnceCell::new(),
        });
        let acceptor = Acceptor::new(listener, "a member's", CONNECTIONS_MAX, WhenFull::Refuse);
        inner.spawn_tasks(acceptor, hello);
        Ok(Self { inner })
    }

    /// Hands over messages to be appended. Returns at once.
    pub fn submit(&self, batch: MessageBatch) -> Result<(), SubmitError> {
        let inner = &self.inner;
        {
            let role = inner.role.borrow();
            if role.role == Role::Stopped {
                return Err(SubmitError::Stopped);
            }
            if !role.ready || batch.term.is_some_and(|term| term != role.term) {
                return Err(SubmitError::NotLeader { leader: role.leader });
            }
        }
        inner.proposer.submit(batch)
    }

    /// Proposes a change of the replicated state; returns when it is applied here.
    pub async fn propose(&self, command: Command) -> Result<CommandOutcome, ProposeError> {
        self.inner.propose(command, None).await
    }

    /// Likewise, for one term alone: in any other nobody is the leader that found the change right.
    pub async fn propose_in(&self, term: u64, command: Command) -> Result<CommandOutcome, ProposeError> {
        self.inner.propose(command, Some(term)).await
    }

    /// The replicated state.
    pub fn metadata(&self) -> &Metadata {
        &self.inner.state.metadata
    }

    /// The store, for reading.
    pub fn store(&self) -> &Arc<Store> {
        &self.inner.store
    }

    /// The configuration this member was started with.
    pub fn config(&self) -> &GroupConfig {
        &self.inner.config
    }

    /// This member's state.
    pub fn status(&self) -> GroupStatus {
        self.inner.status()
    }

    /// Whether a member has answered this leader lately and has nearly all of its log. Nobody has where this member does
    /// not lead.
    pub fn is_near(&self, member: u64) -> bool {
        self.inner.near.read().contains(&member)
    }

    /// Follows the role.
    pub fn watch_role(&self) -> watch::Receiver<RoleState> {
        self.inner.role.subscribe()
    }

    /// Resolves with the reason when this member has stopped, by itself (an I/O error, a divergence) or because it was
    /// told to.
    pub async fn stopped(&self) -> String {
        let mut stopped = self.inner.stopped.subscribe();
        match stopped.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "the member was dropped".into(),
        }
    }

    /// Hands leadership to the member whose log is furthest, if this one leads. Returns when another leads, or after
    /// two seconds.
    pub async fn transfer_leadership(&self) {
        let inner = &self.inner;
        let metrics = inner.raft.metrics().borrow_watched().clone();
        if metrics.state != ServerState::Leader {
            return;
        }
        let voters: Vec<u64> = metrics.membership_config.membership().voter_ids().collect();
        let others =
            metrics.replication.unwrap_or_default().into_iter().filter(|(id, _)| *id != inner.config.node_id);
        let successor = others
            .filter(|(id, _)| voters.contains(id))
            .max_by_key(|(_, matched)| matched.as_ref().map(|m| m.index));
        let Some((successor, _)) = successor else { return };
        tracing::info!(successor, "handing leadership over");
        if inner.raft.trigger().transfer_leader(successor).await.is_err() {
            return;
        }
        let mut role = inner.role.subscribe();
        let own = inner.config.node_id;
        let moved = role.wait_for(|r| r.role != Role::Leader && r.leader.is_some_and(|leader| leader != own));
        if tokio::time::timeout(TRANSFER_TIMEOUT, moved).await.is_err() {
            tracing::warn!(successor, "leadership was not taken over in time");
        }
    }

    /// Stops: flushes, writes the checkpoint, closes. Afterwards every call answers "stopped".
    pub async fn shutdown(&self) {
        self.inner.stop("shut down".into()).await;
    }
}

impl Inner {
    fn spawn_tasks(self: &Arc<Self>, acceptor: Acceptor, hello: Arc<Hello>) {
        let failed = self.stopped.clone();
        self.store.on_failure(Box::new(move |reason| note_stop(&failed, reason)));
        let mut tasks = self.tasks.lock();
        let members = self.config.members.iter().map(|m| m.id);
        let server = Server::new(hello, self.peers.clone(), members, self.raft.clone(), self.clocks.clone());
        tasks.push(tokio::spawn(crate::server::serve(acceptor, server)));
        tasks.push(tokio::spawn(self.proposer.clone().run(self.raft.clone())));
        tasks.push(tokio::spawn(self.clone().follow_role()));
        tasks.push(tokio::spawn(self.clone().record_addresses()));
        drop(tasks);
        // Not among the tasks: it is the one that stops them.
        tokio::spawn(self.clone().stop_on_failure());
    }

    async fn propose(&self, command: Command, term: Option<u64>) -> Result<CommandOutcome, ProposeError> {
        // Invariant 7.
        if matches!(command, Command::DelayProgress(_)) {
            return Err(ProposeError::Refused("a step of delayed delivery without its messages".into()));
        }
        let bytes = command.encode().map_err(|e| ProposeError::Refused(e.to_string()))?;
        let room = self.config.segment_bytes - FRAME_HEADER_BYTES as u64;
        if bytes.len() as u64 > room {
            let size = bytes.len();
            return Err(ProposeError::Refused(format!(
                "a command of {size} bytes; a segment has room for {room}"
            )));
        }
        let (responder, outcome) = WriteResponder::oneshot();
        let stopped = |what: &str| ProposeError::Stopped(what.to_owned());
        let is_late = Arc::new(AtomicBool::new(false));
        let proposal = CommandProposal { bytes, term, is_late: is_late.clone() };
        let proposal = Proposal::Command(proposal);
        self.raft.client_write_ff(proposal, Some(responder)).await.map_err(|e| stopped(&e.to_string()))?;
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

    /// Keeps the role state up to date.
    async fn follow_role(self: Arc<Self>) {
        let mut server = self.raft.server_metrics();
        let mut data = self.raft.data_metrics();
        loop {
            let (state, leader, term, alone) = {
                let metrics = server.borrow_and_update();
                let voters = metrics.membership_config.membership().voter_ids().count();
                (metrics.state, metrics.current_leader, metrics.vote.leader_id.term, voters == 1)
            };
            let role = role_of(state);
            let (applied, acked) = {
                let metrics = data.borrow_and_update();
                *self.near.write() = near(&metrics);
                (metrics.last_applied, metrics.last_quorum_acked.as_ref().map(|at| at.elapsed()))
            };
            // A leader's first entry of its own term is behind everything that was committed before.
            let applied_own_term = applied.is_some_and(|id| entry_id(&id).term == term);
            // It stays leader without a quorum, but can commit nothing, and another may have been elected meanwhile.
            // The only voter is its own majority, and hears nothing while it writes nothing.
            let heard = alone
                || Mutation::ServeWithoutLease.is_on()
                || acked.is_some_and(|silence| silence < QUORUM_SILENCE_MAX);
            let was_ready = {
                let r = self.role.borrow();
                r.ready && r.term == term && r.role == Role::Leader
            };
            let ready = role == Role::Leader
                && applied_own_term
                && heard
                && (was_ready || self.dispatched_all().await);
            self.set_role(RoleState { role, term, leader, ready });
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
                () = tokio::time::sleep(QUORUM_CHECK_INTERVAL) => false,
            };
            if closed {
                self.set_role(RoleState { role: Role::Stopped, term, leader: None, ready: false });
                return;
            }
        }
    }

    /// Whether consumers see all that is committed here.
    async fn dispatched_all(self: &Arc<Self>) -> bool {
        let Some(committed) = self.store.committed() else { return true };
        let Ok(Some(frame)) = self.store.log().frame(committed.index) else { return false };
        let dispatched = done(|callback| self.store.when_dispatched(frame.header.end(), callback));
        matches!(tokio::time::timeout(DISPATCH_WAIT, dispatched).await, Ok(Ok(())))
    }

    fn set_role(&self, new: RoleState) {
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

    /// As a leader, puts the addresses that members told into the log.
    async fn record_addresses(self: Arc<Self>) {
        loop {
            tokio::time::sleep(ADDRESS_INTERVAL).await;
            if !self.role.borrow().ready {
                continue;
            }
            let known: BTreeMap<u64, MemberAddress> =
                self.state.metadata.members().into_iter().map(|m| (m.id, m)).collect();
            let told: Vec<MemberAddress> = self.peers.read().values().map(member_address).collect();
            for address in told.into_iter().filter(|a| known.get(&a.id) != Some(a)) {
                if let Err(e) = self.propose(Command::PutMember(address), None).await {
                    tracing::debug!("a member's address was not recorded: {e}");
                }
            }
        }
    }

    /// Stops this member when the Raft core or a thread of the store has failed.
    async fn stop_on_failure(self: Arc<Self>) {
        let mut core = self.raft.metrics();
        let mut stopped = self.stopped.subscribe();
        let reason = loop {
            if let Err(fatal) = &core.borrow_and_update().running_state {
                break format!("the Raft core has stopped: {fatal}");
            }
            tokio::select! {
                changed = core.changed() => if changed.is_err() { break "the Raft core has stopped".into() },
                reason = stopped.wait_for(Option::is_some) => {
                    break reason.ok().and_then(|r| r.clone()).unwrap_or_default();
                }
            }
        };
        self.stop(reason).await;
    }

    /// Returns when everything is closed, whoever began it.
    async fn stop(&self, reason: String) {
        note_stop(&self.stopped, reason.clone());
        self.closed.get_or_init(|| self.close(reason)).await;
    }

    async fn close(&self, reason: String) {
        let tasks = std::mem::take(&mut *self.tasks.lock());
        self.proposer.close(&reason);
        if let Err(e) = self.raft.shutdown().await {
            tracing::error!("the Raft core ended badly: {e}");
        }
        for task in tasks {
            task.abort();
        }
        let term = self.role.borrow().term;
        self.set_role(RoleState { role: Role::Stopped, term, leader: None, ready: false });
        // Close the log in any case; a state that was not checkpointed is applied again.
        let checkpointed = self.state.checkpoint().await;
        let store = self.store.clone();
        match self.threads.run(move || store.close()).await.map(|closed| closed.and(checkpointed)) {
            Some(Ok(())) => tracing::info!("stopped"),
            Some(Err(e)) => tracing::error!("stopped without a clean close: {e}"),
            None => tracing::error!("the store was not closed"),
        }
    }

    fn status(&self) -> GroupStatus {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let role = self.role.borrow().clone();
        let last_index = metrics.last_log_index;
        let stopped = self.stopped.borrow().clone();
        let leads = role.role == Role::Leader;
        let ready = stopped.is_none() && if leads { role.ready } else { role.leader.is_some() };
        GroupStatus {
            node_id: self.config.node_id,
            role: role.role,
            term: metrics.current_term,
            leader_id: role.leader,
            last_index,
            commit_index: metrics.local_committed.map(|id| id.index),
            applied_index: metrics.last_applied.map(|id| id.index),
            min_physical_offset: self.store.min_physical_offset(),
            max_physical_offset: self.store.max_physical_offset(),
            flushed_physical_offset: self.store.flushed_physical_offset(),
            dispatched_physical_offset: self.store.dispatched_physical_offset(),
            ready,
            stopped,
            members: self.member_statuses(&metrics, &role),
        }
    }

    fn member_statuses(
        &self,
        metrics: &openraft::RaftMetrics<TypeConfig>,
        role: &RoleState,
    ) -> Vec<MemberStatus> {
        let membership = metrics.membership_config.membership();
        let voters: Vec<u64> = membership.voter_ids().collect();
        let recorded: BTreeMap<u64, MemberAddress> =
            self.state.metadata.members().into_iter().map(|m| (m.id, m)).collect();
        let told = self.peers.read();
        let last = metrics.last_log_index;
        let online = |id: u64| match &metrics.heartbeat {
            _ if id == self.config.node_id => Some(role.role != Role::Stopped),
            Some(heard) => {
                let heard = heard.get(&id).and_then(Option::as_ref);
                Some(heard.is_some_and(|heard| heard.elapsed() < NEAR_SILENCE_MAX))
            }
            None => (role.leader == Some(id)).then_some(true),
        };
        membership
            .nodes()
            .map(|(id, node)| {
                let address = told.get(id).map(member_address).or_else(|| recorded.get(id).cloned());
                let matched = match (&metrics.replication, *id == self.config.node_id) {
                    (Some(_), true) => last,
                    (Some(replication), false) => {
                        replication.get(id).and_then(|m| m.as_ref().map(|m| m.index))
                    }
                    (None, _) => None,
                };
                MemberStatus {
                    id: *id,
                    raft: node.addr.clone(),
                    client: address.as_ref().map(|a| a.client.clone()),
                    admin: address.map(|a| a.admin),
                    voter: voters.contains(id),
                    role: match role.leader {
                        Some(leader) if leader == *id => Role::Leader,
                        _ if *id == self.config.node_id => role.role,
                        _ if voters.contains(id) => Role::Follower,
                        _ => Role::Learner,
                    },
                    online: online(*id),
                    clock_ahead_ms: metrics.heartbeat.as_ref().and(self.clocks.ahead_ms(*id)),
                    matched_index: matched,
                    lag: metrics
                        .replication
                        .as_ref()
                        .and(last)
                        .map(|l| l + 1 - matched.map_or(0, |m| m + 1).min(l + 1)),
                }
            })
            .collect()
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
    heard.map(|(member, _)| *member).filter(|member| lag(member) <= NEAR_LAG_MAX).collect()
}

/// The first reason counts.
fn note_stop(stopped: &watch::Sender<Option<String>>, reason: String) {
    stopped.send_if_modified(|known| {
        let first = known.is_none();
        if first {
            *known = Some(reason);
        }
        first
    });
}

fn member_address(hello: &Hello) -> MemberAddress {
    MemberAddress { id: hello.node_id, client: hello.client.clone(), admin: hello.admin.clone() }
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

impl From<FlushMode> for raftmq_store::FlushMode {
    fn from(mode: FlushMode) -> Self {
        match mode {
            FlushMode::Sync => Self::Sync,
            FlushMode::Async => Self::Async,
        }
    }
}

fn identity(config: &GroupConfig) -> Identity {
    Identity {
        cluster: config.cluster.clone(),
        broker_name: config.broker_name.clone(),
        node_id: config.node_id,
        segment_bytes: config.segment_bytes,
    }
}

/// Members in the order of their ids, as `1=127.0.0.1:10912,2=...`.
fn members_text(members: &[Member]) -> String {
    let mut members: Vec<_> = members.iter().map(|member| (member.id, member.raft)).collect();
    members.sort_unstable();
    members.iter().map(|(id, raft)| format!("{id}={raft}")).collect::<Vec<_>>().join(",")
}

fn hello(config: &GroupConfig) -> Hello {
    Hello {
        cluster: config.cluster.clone(),
        broker_name: config.broker_name.clone(),
        segment_bytes: config.segment_bytes,
        members: members_text(&config.members),
        node_id: config.node_id,
        client: config.client.to_string(),
        admin: config.admin.to_string(),
    }
}

async fn open_store(
    options: StoreOptions,
    derived: Derived,
    world: &World,
) -> Result<Arc<Store>, StartError> {
    let opened = {
        let world = world.clone();
        world.threads.clone().run(move || Store::open(options, derived, &world)).await
    };
    Ok(opened.ok_or_else(|| StartError::Raft("the store could not be opened".into()))??)
}

/// What was applied before the stop can be dispatched before a leader says so again. What else is known to be committed
/// follows as it is applied: whatever contradicts the state is not shown.
fn dispatch_applied(store: &Store, applied: Option<u64>) -> Result<(), StoreError> {
    if let Some(applied) = applied
        && let Some(frame) = store.log().frame(applied)?
    {
        store.commit(frame.header.end());
    }
    Ok(())
}

/// Founds the group if this member's directory is new, or compares the configured members with the recorded ones.
async fn join(raft: &Core, config: &GroupConfig) -> Result<(), StartError> {
    let failed = |e: &dyn std::fmt::Display| StartError::Raft(e.to_string());
    let configured: BTreeMap<u64, BasicNode> =
        config.members.iter().map(|m| (m.id, BasicNode::new(m.raft.to_string()))).collect();
    if !raft.is_initialized().await.map_err(|e| failed(&e))? {
        if Mutation::TwoFounders.is_on() && config.node_id == 2 {
            let alone = configured.into_iter().filter(|(id, _)| *id == 2).collect::<BTreeMap<_, _>>();
            return raft.initialize(alone).await.map_err(|e| failed(&e));
        }
        // Every member does this for itself; all write the same founding entry.
        return raft.initialize(configured).await.map_err(|e| failed(&e));
    }
    let recorded: BTreeMap<u64, BasicNode> = {
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.membership().nodes().map(|(id, node)| (*id, node.clone())).collect()
    };
    if !recorded.is_empty() && recorded != configured {
        return Err(StartError::Config(format!(
            "the members are configured as {}, and the group's log has {}",
            list(&configured),
            list(&recorded)
        )));
    }
    Ok(())
}

fn list(members: &BTreeMap<u64, BasicNode>) -> String {
    members.iter().map(|(id, node)| format!("{id}={}", node.addr)).collect::<Vec<_>>().join(",")
}

/// openraft's settings.
fn raft_config(config: &GroupConfig) -> Result<Config, StartError> {
    let (election_min, election_max) = config.election_timeout_ms;
    if config.heartbeat_ms == 0 || election_max > TIMEOUT_MS_MAX || election_min < 2 * config.heartbeat_ms {
        return Err(StartError::Config(format!(
            "heartbeat of {} ms, election timeout of {election_min} to {election_max} ms: the timeout must be at least \
             two heartbeats and at most {TIMEOUT_MS_MAX} ms",
            config.heartbeat_ms
        )));
    }
    Config {
        cluster_name: format!("{}/{}", config.cluster, config.broker_name),
        heartbeat_interval: config.heartbeat_ms,
        election_timeout_min: election_min,
        election_timeout_max: election_max,
        enable_pre_vote: Some(true),
        // A leader that was killed has to be elected again like any other.
        enable_leader_restore: Some(false),
        // An entry goes to the followers while the leader's own disk still works on it.
        broadcast_submitted_on_append: Some(true),
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: 0,
        purge_batch_size: 1,
        // Nothing is purged, so a follower that lags gets entries however far back it is.
        replication_lag_threshold: u64::MAX,
        max_payload_entries: 256,
        backoff: "50ms".into(),
        ..Config::default()
    }
    .validate()
    .map_err(|e| StartError::Config(e.to_string()))
}

const _: () = assert!(FRAME_PAYLOAD_BYTES_MAX + (1 << 20) < crate::wire::MESSAGE_BYTES_MAX);
