//! What all connections and tasks of a broker share, and the decision whether it serves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use raftmq_broker::views::Views;
use raftmq_raft::{
    Command, CommandOutcome, Group, ProposeError, Role, RoleState, SubmitError, SubscriptionGroup,
};
use raftmq_remoting::ConnectionPool;
use raftmq_store::{FRAME_HEADER_BYTES, FRAME_PAYLOAD_BYTES_MAX};
use raftmq_world::hash::HashMap;
use raftmq_world::{World, WriteHalf};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::BrokerConfig;
use super::channel::Channel;
use super::clients::Clients;
use super::delay::Delay;
use super::filter_cache::FilterCache;
use super::gauge::Gauge;
use super::inquiry::Inquiries;
use super::limits::{
    CONNECTION_IDLE, NAME_SERVER_TIMEOUT, PEER_REQUESTS_MAX, REPORTS_AT_ONCE, SETTLE_MAX,
    STATUS_REQUESTS_MAX, SUBMIT_BYTES,
};
use super::locks::LockClock;
use super::long_poll::LongPoll;
use super::notices::Notices;
use super::offsets::PendingOffsets;
use super::refusal_log::RefusalLog;
use super::registration::{Registration, broker_id};
use super::reply::{Handled, Refusal};
use super::send::SendSettings;
use super::stats::{BrokerStats, Stats};

/// As what a member serves a pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// It has every acknowledged message, and takes offsets.
    Leader,
    /// It may lag.
    Follower,
}

/// How long a proposal may take before its outcome is called unknown: no longer than clients wait for an answer.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(3);

pub(crate) struct Node {
    pub(crate) config: BrokerConfig,
    pub(crate) world: World,
    /// Connections to name servers and to the leader.
    pub(crate) peers: ConnectionPool,
    pub(crate) group: Group,
    pub(crate) role: watch::Receiver<RoleState>,
    pub(crate) send: SendSettings,
    pub(crate) clients: Clients<WriteHalf>,
    pub(crate) long_poll: LongPoll,
    pub(crate) filters: FilterCache,
    pub(crate) notices: Notices,
    pub(crate) inquiries: Inquiries,
    pub(crate) refusal_log: RefusalLog,
    pub(crate) offsets: PendingOffsets,
    pub(crate) delay: Delay,
    pub(crate) lock_clock: LockClock,
    /// The right to ask all members of a group.
    pub(crate) status_requests: Semaphore,
    /// The right to make a long answer about groups.
    reports: Semaphore,
    pub(crate) registration: Registration,
    pub(crate) stats: Stats,
    /// Record bytes that are submitted together, unless one request has more.
    pub(crate) submit_bytes: usize,
    /// Record bytes whose outcome is open.
    pub(crate) bytes_in_flight: Gauge,
    /// Bytes that wait to be sent, over all connections.
    pub(crate) buffered_output: Arc<Gauge>,
    /// Bytes of incomplete frames, over all connections.
    pub(crate) buffered_input: Gauge,
    /// When the broker started, in ms since the epoch.
    pub(crate) boot_timestamp_ms: i64,
    channels: Mutex<HashMap<u64, Arc<Channel>>>,
    next_channel: AtomicU64,
    started: Instant,
    stopping: AtomicBool,
}

impl Node {
    pub(crate) fn new(config: BrokerConfig, group: Group, views: Views, world: World) -> Self {
        let limits = &config.limits;
        // What a frame of the log can hold at most.
        let entry_bytes =
            FRAME_PAYLOAD_BYTES_MAX.min(group.config().segment_bytes as usize - FRAME_HEADER_BYTES);
        Self {
            role: group.watch_role(),
            send: SendSettings::new(
                &config.cluster,
                config.advertise,
                limits.message_bytes,
                entry_bytes,
                config.delay_levels.len(),
                &world,
            ),
            clients: Clients::new(limits),
            long_poll: LongPoll::new(limits),
            delay: Delay::new(world.clock.clone(), views.timers),
            filters: FilterCache::default(),
            notices: Notices::new(limits),
            inquiries: Inquiries::default(),
            refusal_log: RefusalLog::default(),
            offsets: PendingOffsets::new(limits, group.watch_role()),
            lock_clock: LockClock::default(),
            status_requests: Semaphore::new(STATUS_REQUESTS_MAX),
            reports: Semaphore::new(REPORTS_AT_ONCE),
            registration: Registration::new(config.namesrv.len()),
            stats: Stats::default(),
            submit_bytes: SUBMIT_BYTES.min(entry_bytes),
            bytes_in_flight: Gauge::default(),
            buffered_output: Arc::default(),
            buffered_input: Gauge::default(),
            boot_timestamp_ms: world.clock.now_ms(),
            channels: Mutex::default(),
            peers: ConnectionPool::new(world.network.clone(), NAME_SERVER_TIMEOUT, PEER_REQUESTS_MAX),
            next_channel: AtomicU64::new(0),
            started: Instant::now(),
            stopping: AtomicBool::new(false),
            config,
            group,
            world,
        }
    }

    /// The time of day, in ms since the epoch, as store timestamps are.
    pub(crate) fn wall_ms(&self) -> i64 {
        self.world.clock.now_ms()
    }

    /// The node's clock: ms since it started.
    pub(crate) fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Whether this member serves what only a leader serves, and in which term; otherwise the answer to whoever asks. The
    /// one place that decides it.
    pub(crate) fn leading(&self) -> Result<u64, Refusal> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(Refusal::unavailable("this broker is stopping"));
        }
        let role = self.role.borrow();
        if role.role == Role::Leader && role.ready {
            return Ok(role.term);
        }
        if role.role == Role::Leader {
            return Err(Refusal::unavailable("this broker has just become the leader and is not ready yet"));
        }
        let leader = role.leader;
        drop(role);
        Err(self.not_leader(leader))
    }

    /// As what this member serves a group's pulls: as the leader, or as a follower where the group prefers to read from
    /// one; otherwise the answer to whoever asks.
    pub(crate) fn reader(&self, group: &SubscriptionGroup) -> Result<Reader, Refusal> {
        let refusal = match self.leading() {
            Ok(_) => return Ok(Reader::Leader),
            Err(refusal) => refusal,
        };
        let reads = group.broker_id != 0 && !self.is_stopping() && self.role.borrow().role != Role::Stopped;
        if reads { Ok(Reader::Follower) } else { Err(refusal) }
    }

    /// The broker id that a group should pull from: 0, the leader's, unless it prefers a member that follows. The leader
    /// names one that keeps up with it; a follower knows of itself only.
    pub(crate) fn preferred_reader(&self, group: &SubscriptionGroup) -> u64 {
        let preferred = group.broker_id;
        let follows = preferred != 0
            && if preferred == self.config.node_id {
                self.role.borrow().role == Role::Follower
            } else {
                self.group.is_near(preferred)
            };
        if follows { preferred } else { 0 }
    }

    /// Where clients reach the leader, where that is another member.
    pub(crate) fn other_leader(&self) -> Option<String> {
        let leader = self.role.borrow().leader.filter(|id| *id != self.config.node_id)?;
        let members = self.group.metadata().members();
        members.into_iter().find(|member| member.id == leader).map(|member| member.client)
    }

    /// The answer that names the leader.
    fn not_leader(&self, leader: Option<u64>) -> Refusal {
        let Some(id) = leader.filter(|id| *id != self.config.node_id) else {
            return Refusal::unavailable("there is no leader at the moment");
        };
        let member = self.group.metadata().members().into_iter().find(|member| member.id == id);
        let address = member.map(|member| format!(" at {}", member.client)).unwrap_or_default();
        Refusal::unavailable(format!("not the leader, the leader is node {id}{address}"))
    }

    /// The answer to messages that were not taken.
    pub(crate) fn submit_refusal(&self, error: &SubmitError) -> Refusal {
        match error {
            SubmitError::NotLeader { leader } => self.not_leader(*leader),
            SubmitError::Busy { .. } | SubmitError::Illegal(_) | SubmitError::Stopped => error.into(),
        }
    }

    /// The answer to what was not committed.
    pub(crate) fn propose_refusal(&self, error: &ProposeError) -> Refusal {
        match error {
            ProposeError::NotLeader { leader } => self.not_leader(*leader),
            ProposeError::Unknown | ProposeError::Refused(_) | ProposeError::Stopped(_) => error.into(),
        }
    }

    /// Changes the replicated state; returns when the change is applied here.
    pub(crate) async fn propose(&self, command: Command) -> Result<CommandOutcome, Refusal> {
        self.propose_in(self.leading()?, command).await
    }

    /// Likewise, for one term alone: what was found right in it may be wrong in another.
    pub(crate) async fn propose_in(&self, term: u64, command: Command) -> Result<CommandOutcome, Refusal> {
        self.leading()?;
        match tokio::time::timeout(PROPOSE_TIMEOUT, self.group.propose_in(term, command)).await {
            Ok(outcome) => outcome.map_err(|error| self.propose_refusal(&error)),
            Err(_) => Err(Refusal::unavailable(format!(
                "the outcome is unknown: not committed in {PROPOSE_TIMEOUT:?}"
            ))),
        }
    }

    /// Waits a moment until queues show all that has been acknowledged by now: a message is acknowledged when its entry
    /// is committed, and seen by consumers when it is dispatched, shortly after.
    pub(crate) async fn settle(&self) {
        const LOOK: Duration = Duration::from_millis(1);
        let store = self.group.store();
        let appended = store.max_physical_offset();
        let dispatched = async {
            while store.dispatched_physical_offset() < appended {
                tokio::time::sleep(LOOK).await;
            }
        };
        // What is appended and not committed may take longer, or be gone again.
        let _ = tokio::time::timeout(SETTLE_MAX, dispatched).await;
    }

    /// Makes an answer that takes long beside the network thread; others wait for their turn.
    pub(crate) async fn report(
        self: &Arc<Self>,
        make: impl FnOnce(&Self) -> Handled + Send + 'static,
    ) -> Handled {
        // It is never closed.
        let _right = self.reports.acquire().await;
        let node = self.clone();
        let made = self.world.threads.run(move || make(&node)).await;
        made.unwrap_or_else(|| Err(Refusal::error("the report failed")))
    }

    /// The id this member is registered as, if it is.
    pub(crate) fn broker_id(&self) -> Option<u64> {
        broker_id(&self.role.borrow(), self.config.node_id)
    }

    /// Where the group's members reach this one; empty where it is not known.
    pub(crate) fn raft_address(&self) -> String {
        let members = self.group.status().members;
        members
            .into_iter()
            .find(|member| member.id == self.config.node_id)
            .map(|member| member.raft)
            .unwrap_or_default()
    }

    /// From now on nothing is served that takes new work.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// A channel for a new connection.
    pub(crate) fn open_channel(&self, peer: std::net::SocketAddr, sink: WriteHalf) -> Arc<Channel> {
        let id = self.next_channel.fetch_add(1, Ordering::Relaxed);
        let channel =
            Arc::new(Channel::new(id, peer, sink, &self.config.limits, self.buffered_output.clone()));
        channel.touch(self.now_ms());
        self.channels.lock().insert(id, channel.clone());
        channel
    }

    /// Forgets a connection and everything that hangs on it.
    pub(crate) fn close_channel(&self, channel: &Channel) {
        channel.close();
        self.channels.lock().remove(&channel.id);
        self.long_poll.connection_closed(channel.id);
        self.notices.add(self.clients.connection_closed(channel.id));
    }

    pub(crate) fn channels(&self) -> Vec<Arc<Channel>> {
        self.channels.lock().values().cloned().collect()
    }

    /// Removes clients that are silent and closes connections that are idle.
    pub(crate) fn expire(&self) {
        let now_ms = self.now_ms();
        self.notices.add(self.clients.expire(now_ms));
        let idle_since = now_ms.saturating_sub(CONNECTION_IDLE.as_millis() as u64);
        for channel in self.channels().iter().filter(|channel| channel.active_ms() < idle_since) {
            tracing::debug!(peer = %channel.peer, "closing an idle connection");
            channel.close();
        }
    }

    pub(crate) fn stats(&self) -> BrokerStats {
        let (producer_groups, consumer_groups) = self.clients.group_counts();
        BrokerStats {
            totals: self.stats.totals(),
            put_tps: self.stats.rates(|totals| totals.put_messages),
            get_tps: self.stats.rates(|totals| totals.get_messages),
            connections: self.channels.lock().len(),
            held_pulls: self.long_poll.len(),
            bytes_in_flight: self.bytes_in_flight.get(),
            consumer_groups,
            producer_groups,
        }
    }
}
