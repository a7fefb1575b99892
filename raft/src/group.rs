//! A running member of a group: the handle the broker holds.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Raft, RaftMetrics, ServerState};
use parking_lot::Mutex;
use raftmq_store::{FRAME_PAYLOAD_BYTES_MAX, Store, StoreError, StoreOptions};
use raftmq_world::{Acceptor, Places, Threads, WhenFull, World};
use tokio::sync::{OnceCell, watch};
use tokio::task::JoinSet;

use crate::agreement::Agreement;
use crate::api::{
    Ended, GroupConfig, GroupStatus, Member, MessageBatch, ProposeError, Role, RoleState, StartError,
};
use crate::changes::Changes;
use crate::clock::Clocks;
use crate::election::Elections;
use crate::entering::{Entering, Renewed};
use crate::greeting::Greeter;
use crate::hello::{Acquaintances, Progress};
use crate::lease::Leases;
use crate::log_storage::LogStorage;
use crate::members::{MemberAddress, Members};
use crate::mending::{Mending, once_mended};
use crate::proposer::Proposer;
use crate::renewal::Renewal;
use crate::role::{RoleWatch, Roles};
use crate::room::Rooms;
use crate::seats::Seats;
use crate::server::{CONNECTIONS_MAX, Desk, Server};
use crate::settings::{identity, introduction, lease_times, members_text, own_member, raft_config};
use crate::standing::{Standing, node_of};
use crate::state_machine::{Core, Shared, StateMachine};
use crate::status::StatusParts;
use crate::table::{Change, FeatureLevel, Outcomes, Tables};
use crate::transport::Transport;
use crate::types::{Runtime, TypeConfig};

/// How long a leader that hands over waits for its successor.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(2);

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
    changes: Arc<Changes>,
    members: Arc<Members>,
    acquaintances: Arc<Acquaintances>,
    clocks: Arc<Clocks>,
    transport: Transport,
    leases: Arc<Leases>,
    rooms: Arc<Rooms>,
    roles: Arc<Roles>,
    stopped: watch::Sender<Option<Ended>>,
    /// What this member waits for to be in a group, while it is in none.
    waits: Arc<Mutex<Option<String>>>,
    tasks: Mutex<JoinSet<()>>,
    closed: OnceCell<()>,
}

impl Group {
    /// Opens the directory, recovers, and joins the group. `tables` are what the log's changes change.
    pub async fn start(config: GroupConfig, tables: Tables, world: World) -> Result<Self, StartError> {
        let raft_config = Arc::new(raft_config(&config)?);
        let own = own_member(&config)?.clone();
        let options = StoreOptions {
            dir: config.dir.clone(),
            identity: identity(&config),
            flush: config.flush,
            reserve_bytes: config.disk_reserve_bytes,
            is_alone: config.members.len() == 1,
        };
        let derived = config.derived.clone();
        let opening = move |world: &World| Store::open(options, derived, world);
        let store = on_thread(&world, "the store could not be opened", opening).await?;
        let (for_standing, node) = (store.clone(), config.node_id);
        let reading = move |world: &World| Standing::open(for_standing, node, &world.random);
        let standing = Arc::new(on_thread(&world, "the directory could not be read", reading).await?);
        let clocks = Arc::new(Clocks::new(world.clock.clone()));
        let leases = Arc::new(Leases::new(standing.id(), lease_times(&config), &world));
        let of_log = (store.clone(), standing.clone(), leases.clone());
        let opening = move |world: &World| LogStorage::open(of_log.0, of_log.1, of_log.2, world);
        let log = on_thread(&world, "the log could not be opened", opening).await?;
        let reads = tables.reads();
        let members = Arc::new(Members::new(config.node_id, reads));
        let state =
            Arc::new(Shared::open(store.clone(), standing.clone(), tables.with(members.clone()), &world)?);
        if let Some(reason) = members.too_old() {
            return Err(StartError::TooOld(reason));
        }
        let listen = config.listen;
        let listener =
            world.network.listen(listen).map_err(|source| StartError::Listen { addr: listen, source })?;
        let said = introduction(&config, &own, reads);
        let acquaintances =
            Acquaintances::new(said, standing.clone(), store.clone(), members.clone(), world.clock.clone());
        let acquaintances = Arc::new(acquaintances);
        let (secret, random) = (config.secret.clone(), world.random.clone());
        let greeter = Greeter { acquaintances: acquaintances.clone(), secret, random };
        let seeds = config.members.iter().map(|member| (member.id, member.raft.clone())).collect();
        let transport = Transport::new(world.network.clone(), greeter.clone(), seeds, clocks.clone());
        let machine = StateMachine::new(state.clone());
        // The core's start may need what has to be mended first.
        let others = config.members.iter().filter(|member| member.id != own.id);
        let mending = Mending::new(store.clone(), transport.clone(), others.map(|other| other.raft.clone()));
        let mut tasks = JoinSet::new();
        tasks.spawn(mending.run());
        dispatch_applied(&store, state.last_applied()).await?;
        // It draws random numbers.
        let core = Raft::new(standing.id(), raft_config, transport.clone(), log, machine);
        let raft: Core =
            Runtime::scope(world.random.number(), core).await.map_err(|e| StartError::Raft(e.to_string()))?;

        let metrics = raft.metrics();
        acquaintances.ask_of_progress(Box::new(move || progress(&metrics.borrow_watched())));

        let stopped = watch::Sender::new(None);
        let failed = stopped.clone();
        let on_failure = Box::new(move |reason: String| note_stop(&failed, Ended::because(reason)));
        let rooms = Arc::new(Rooms::new(standing.id(), store.clone(), world.clock.clone()));
        let looking = rooms.clone();
        let has_room = Box::new(move || looking.check());
        let changes = Changes::new(
            raft.clone(),
            members.clone(),
            acquaintances.clone(),
            rooms.clone(),
            config.segment_bytes,
        );
        let inner = Arc::new(Inner {
            proposer: Arc::new(Proposer::new(config.segment_bytes, on_failure, has_room)),
            changes: Arc::new(changes),
            config,
            threads: world.threads.clone(),
            store,
            state,
            raft,
            members,
            acquaintances,
            clocks,
            transport,
            roles: Arc::new(Roles::new(leases.clone())),
            leases,
            rooms,
            stopped,
            waits: Arc::default(),
            tasks: Mutex::new(tasks),
            closed: OnceCell::new(),
        });
        let acceptor = Acceptor::new(listener, Places::new("a member's", CONNECTIONS_MAX, WhenFull::Refuse));
        inner.spawn_tasks(acceptor, greeter, standing.clone(), reads);
        inner.spawn_entering(own, standing, world);
        Ok(Self { inner })
    }

    /// Hands over messages to be appended. Returns at once; the batch's completion is told what becomes of them.
    pub fn submit(&self, batch: MessageBatch) {
        let inner = &self.inner;
        let role = inner.roles.now();
        if !role.ready || batch.term.is_some_and(|term| term != role.term) {
            return batch.completion.complete(Err(&ProposeError::NotLeader { leader: role.leader }));
        }
        match batch.change.as_ref().map_or(Ok(()), |change| inner.changes.check_level(change)) {
            Ok(()) => inner.proposer.submit(batch),
            Err(error) => batch.completion.complete(Err(&error)),
        }
    }

    /// Proposes a change of the replicated state; returns when it is applied here.
    pub async fn propose(&self, change: Change) -> Result<Outcomes, ProposeError> {
        self.inner.changes.propose(change, None).await
    }

    /// Likewise, for one term alone: in any other nobody is the leader that found the change right.
    pub async fn propose_in(&self, term: u64, change: Change) -> Result<Outcomes, ProposeError> {
        self.inner.changes.propose(change, Some(term)).await
    }

    /// The level of changes that every member reads: others are refused.
    pub fn feature_level(&self) -> FeatureLevel {
        self.inner.members.level()
    }

    /// Whether this member's disk and those of a majority have room for more, as far as this member knows. Otherwise nothing
    /// is taken.
    ///
    /// # Errors
    /// [`ProposeError::NoRoom`].
    pub fn room(&self) -> Result<(), ProposeError> {
        self.inner.rooms.check()
    }

    /// Where a member is reached, once it has said so to the group.
    pub fn address_of(&self, member: u64) -> Option<MemberAddress> {
        self.inner.members.get(member)
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
        let inner = &self.inner;
        let parts = StatusParts {
            metrics: &inner.raft.metrics().borrow_watched().clone(),
            role: inner.roles.now(),
            store: &inner.store,
            acquaintances: &inner.acquaintances,
            clocks: &inner.clocks,
            stopped: inner.stopped.borrow().as_ref().map(|ended| ended.reason.clone()),
            waits: inner.waits.lock().clone(),
            level: inner.members.level(),
        };
        parts.status()
    }

    /// Whether a member has answered this leader lately and has nearly all of its log. Nobody has where this member does
    /// not lead.
    pub fn is_near(&self, member: u64) -> bool {
        self.inner.roles.is_near(member)
    }

    /// This member's role at this moment. What it answers as a leader that is ready is fresh as of this.
    pub fn role(&self) -> RoleState {
        self.inner.roles.now()
    }

    /// Follows the role. Whoever answers by it asks for [`role`](Self::role).
    pub fn watch_role(&self) -> watch::Receiver<RoleState> {
        self.inner.roles.subscribe()
    }

    /// Resolves when this member has stopped, by itself (an I/O error, a divergence) or because it was told to.
    pub async fn stopped(&self) -> Ended {
        let mut stopped = self.inner.stopped.subscribe();
        let ended = stopped.wait_for(Option::is_some).await.ok().and_then(|ended| ended.clone());
        ended.unwrap_or_else(|| Ended::because("the member was dropped"))
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
        let others = metrics
            .replication
            .unwrap_or_default()
            .into_iter()
            .filter(|(id, _)| node_of(*id) != inner.config.node_id);
        let successor = others
            .filter(|(id, _)| voters.contains(id))
            .max_by_key(|(_, matched)| matched.as_ref().map(|m| m.index));
        let Some((successor, _)) = successor else { return };
        tracing::info!(successor = node_of(successor), "handing leadership over");
        // The others may vote for it at once.
        inner.leases.renounce();
        if inner.raft.trigger().transfer_leader(successor).await.is_err() {
            return;
        }
        let mut role = inner.roles.subscribe();
        let own = inner.config.node_id;
        let moved = role.wait_for(|r| r.role != Role::Leader && r.leader.is_some_and(|leader| leader != own));
        if tokio::time::timeout(TRANSFER_TIMEOUT, moved).await.is_err() {
            tracing::warn!(successor = node_of(successor), "leadership was not taken over in time");
        }
    }

    /// Stops: flushes, writes the checkpoint, closes. Afterwards nothing is taken any more.
    pub async fn shutdown(&self) {
        self.inner.stop(Ended::because("shut down")).await;
    }
}

impl Inner {
    fn spawn_tasks(
        self: &Arc<Self>,
        acceptor: Acceptor,
        greeter: Greeter,
        standing: Arc<Standing>,
        reads: FeatureLevel,
    ) {
        let failed = self.stopped.clone();
        self.store.on_failure(Box::new(move |reason| note_stop(&failed, Ended::because(reason))));
        let mut tasks = self.tasks.lock();
        let seats = Arc::new(Seats::new(
            self.raft.clone(),
            self.roles.subscribe(),
            standing,
            self.acquaintances.clone(),
            self.config.members.iter().map(|member| member.id).collect(),
            self.founding(),
        ));
        let desk = Desk {
            raft: self.raft.clone(),
            clocks: self.clocks.clone(),
            leases: self.leases.clone(),
            rooms: self.rooms.clone(),
            store: self.store.clone(),
            threads: self.threads.clone(),
        };
        tasks.spawn(seats.clone().run());
        let server = Server::new(greeter, seats, desk);
        tasks.spawn(crate::server::serve(acceptor, server));
        tasks.spawn(self.proposer.clone().run(self.raft.clone()));
        let watch = RoleWatch {
            raft: self.raft.clone(),
            store: self.store.clone(),
            proposer: self.proposer.clone(),
            roles: self.roles.clone(),
            leases: self.leases.clone(),
        };
        tasks.spawn(watch.run());
        let renewal = Renewal {
            raft: self.raft.clone(),
            transport: self.transport.clone(),
            leases: self.leases.clone(),
            rooms: self.rooms.clone(),
            interval: Duration::from_millis(self.config.heartbeat_ms),
        };
        tasks.spawn(renewal.run());
        let elections = Elections {
            raft: self.raft.clone(),
            transport: self.transport.clone(),
            leases: self.leases.clone(),
            store: self.store.clone(),
            node_id: self.acquaintances.id(),
        };
        tasks.spawn(elections.run());
        let agreement = Agreement {
            raft: self.raft.clone(),
            role: self.roles.subscribe(),
            members: self.members.clone(),
            acquaintances: self.acquaintances.clone(),
            changes: self.changes.clone(),
            reads,
        };
        tasks.spawn(agreement.run());
        drop(tasks);
        // Not among the tasks: it is the one that stops them.
        tokio::spawn(self.clone().stop_on_failure());
    }

    /// Whom this member is told to found a group with; nobody where it is not.
    fn founding(&self) -> String {
        if self.config.founds { members_text(&self.config.members) } else { String::new() }
    }

    fn spawn_entering(self: &Arc<Self>, own: Member, standing: Arc<Standing>, world: World) {
        let others = self.config.members.iter().filter(|member| member.id != own.id).cloned().collect();
        let entering = Entering {
            raft: self.raft.clone(),
            standing,
            transport: self.transport.clone(),
            threads: world.threads,
            random: world.random,
            role: self.roles.subscribe(),
            acquaintances: self.acquaintances.clone(),
            others,
            own,
            founding: self.founding(),
            waits: self.waits.clone(),
        };
        let stopped = self.stopped.clone();
        self.tasks.lock().spawn(async move {
            let ended = match entering.run().await {
                Ok(Renewed(reason)) => Ended { reason, starts_again: true },
                Err(error) => Ended::because(error),
            };
            note_stop(&stopped, ended);
        });
    }

    /// Stops this member when the Raft core or a thread of the store has failed.
    async fn stop_on_failure(self: Arc<Self>) {
        let mut core = self.raft.metrics();
        let mut stopped = self.stopped.subscribe();
        let ended = loop {
            if let Err(fatal) = &core.borrow_and_update().running_state {
                break Ended::because(format!("the Raft core has stopped: {fatal}"));
            }
            tokio::select! {
                changed = core.changed() => if changed.is_err() { break Ended::because("the Raft core has stopped") },
                ended = stopped.wait_for(Option::is_some) => {
                    let ended = ended.ok().and_then(|ended| ended.clone());
                    break ended.unwrap_or_else(|| Ended::because("the member was dropped"));
                }
            }
        };
        self.stop(ended).await;
    }

    /// Returns when everything is closed, whoever began it.
    async fn stop(&self, ended: Ended) {
        note_stop(&self.stopped, ended.clone());
        self.closed.get_or_init(|| self.close(ended.reason)).await;
    }

    async fn close(&self, reason: String) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        // Connections of other members may be served a little longer.
        self.leases.stop();
        self.proposer.close(&reason);
        if let Err(e) = self.raft.shutdown().await {
            tracing::error!("the Raft core ended badly: {e}");
        }
        // What they held is free then: another start may want the listener.
        tasks.shutdown().await;
        self.roles.set_stopped();
        // Close the log in any case; a state that was not checkpointed is applied again.
        let checkpointed = self.state.checkpoint().await;
        let store = self.store.clone();
        match self.threads.run(move || store.close()).await.map(|closed| closed.and(checkpointed)) {
            Some(Ok(())) => tracing::info!("stopped"),
            Some(Err(e)) => tracing::error!("stopped without a clean close: {e}"),
            None => tracing::error!("the store was not closed"),
        }
    }
}

/// How far a member is by its core, and the others where it leads.
fn progress(metrics: &RaftMetrics<TypeConfig>) -> Progress {
    let membership = metrics.membership_config.membership();
    let replication = metrics.replication.iter().flatten();
    Progress {
        term: metrics.current_term,
        members: membership.nodes().map(|(id, _)| *id).collect(),
        acknowledged: replication.filter_map(|(id, stored)| Some((*id, stored.as_ref()?.index))).collect(),
    }
}

/// The first reason counts.
fn note_stop(stopped: &watch::Sender<Option<Ended>>, ended: Ended) {
    stopped.send_if_modified(|known| {
        let first = known.is_none();
        if first {
            *known = Some(ended);
        }
        first
    });
}

/// Does on a thread what waits for the disk; `refused` says what was not done where no thread did it.
async fn on_thread<T: Send + 'static, E: Send + 'static>(
    world: &World,
    refused: &str,
    act: impl FnOnce(&World) -> Result<T, E> + Send + 'static,
) -> Result<T, StartError>
where
    StartError: From<E>,
{
    let for_act = world.clone();
    let done = world.threads.run(move || act(&for_act)).await;
    Ok(done.ok_or_else(|| StartError::Raft(refused.to_owned()))??)
}

/// What was applied before the stop can be dispatched before a leader says so again. What else is known to be committed
/// follows as it is applied: whatever contradicts the state is not shown.
async fn dispatch_applied(store: &Store, applied: Option<u64>) -> Result<(), StoreError> {
    let Some(applied) = applied else { return Ok(()) };
    if let Some(frame) = once_mended(store, || ready(store.log().frame(applied))).await? {
        store.commit_applied(frame.header.end());
    }
    Ok(())
}

const _: () = assert!(FRAME_PAYLOAD_BYTES_MAX + (1 << 20) < crate::wire::MESSAGE_BYTES_MAX);
