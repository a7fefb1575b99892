//! What all connections and tasks of a broker share, and the decision whether it serves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use raftmq_broker::clients::Clients;
use raftmq_broker::delay::DelayDelivery;
use raftmq_broker::locks::QueueLocking;
use raftmq_broker::offsets::PendingOffsets;
use raftmq_broker::pull::Pulls;
use raftmq_broker::send::{SendSettings, Sends};
use raftmq_broker::settings::Settings;
use raftmq_broker::state::{State, SubscriptionGroup};
use raftmq_broker::views::Views;
use raftmq_broker::{Error, Replica};
use raftmq_raft::Group;
use raftmq_remoting::ConnectionPool;
use raftmq_store::{FRAME_HEADER_BYTES, FRAME_PAYLOAD_BYTES_MAX};
use raftmq_world::hash::HashMap;
use raftmq_world::{World, WriteHalf};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::BrokerConfig;
use super::channel::Channel;
use super::gauge::Gauge;
use super::inquiry::Inquiries;
use super::limits::{
    CONNECTION_IDLE, NAME_SERVER_TIMEOUT, PEER_REQUESTS_MAX, REPORTS_AT_ONCE, STATUS_REQUESTS_MAX,
    SUBMIT_BYTES,
};
use super::notices::Notices;
use super::refusal_log::RefusalLog;
use super::registration::{Registration, broker_id};
use super::reply::{Handled, Refusal};
use super::stats::{BrokerStats, Stats};

pub(crate) struct Node {
    pub(crate) config: BrokerConfig,
    pub(crate) world: World,
    /// Connections to name servers and to the leader.
    pub(crate) peers: ConnectionPool,
    pub(crate) replica: Arc<Replica>,
    pub(crate) group: Group,
    pub(crate) state: State,
    pub(crate) settings: Settings,
    pub(crate) sends: Sends,
    pub(crate) clients: Arc<Clients<Channel>>,
    pub(crate) pulls: Pulls,
    pub(crate) notices: Notices,
    pub(crate) inquiries: Inquiries,
    pub(crate) refusal_log: RefusalLog,
    pub(crate) offsets: Arc<PendingOffsets>,
    pub(crate) delay: DelayDelivery,
    pub(crate) locks: Arc<QueueLocking>,
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
}

impl Node {
    pub(crate) fn new(config: BrokerConfig, group: Group, state: State, views: Views, world: World) -> Self {
        let limits = &config.limits;
        let replica = Arc::new(Replica::new(group.clone(), state.clone()));
        let offsets = PendingOffsets::new(&limits.group, group.watch_role(), state.offsets.clone());
        let (offsets, clients) = (Arc::new(offsets), Arc::new(Clients::new(&limits.group)));
        // What a frame of the log can hold at most.
        let entry_bytes =
            FRAME_PAYLOAD_BYTES_MAX.min(group.config().segment_bytes as usize - FRAME_HEADER_BYTES);
        let settings = SendSettings::new(
            &config.cluster,
            config.advertise,
            limits.group.message_bytes,
            entry_bytes,
            config.delay_levels.count(),
            &world,
        );
        let locks = Arc::new(QueueLocking::new(replica.clone(), &limits.group));
        let delay_levels = config.delay_levels.clone();
        let auto_create = (config.auto_create_topic, config.auto_create_group);
        Self {
            pulls: Pulls::new(
                replica.clone(),
                offsets.clone(),
                clients.clone(),
                config.auto_create_group,
                &limits.group,
            ),
            clients,
            delay: DelayDelivery::new(
                replica.clone(),
                views.timers,
                delay_levels,
                config.advertise,
                entry_bytes,
                &world,
            ),
            settings: Settings::new(replica.clone(), config.delay_levels.count(), auto_create, &limits.group),
            sends: Sends::new(replica.clone(), locks.clone(), settings),
            locks,
            notices: Notices::new(limits.group.groups),
            inquiries: Inquiries::default(),
            refusal_log: RefusalLog::default(),
            offsets,
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
            replica,
            config,
            group,
            state,
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

    /// Whether this member serves what only a leader serves, and in which term; otherwise the answer to whoever asks.
    pub(crate) fn leading(&self) -> Result<u64, Refusal> {
        Ok(self.replica.leading()?)
    }

    /// A group's settings, the group and its retry topic made if they are missing and may be, see [`Settings`].
    pub(crate) async fn create_group(&self, name: &str) -> Result<Arc<SubscriptionGroup>, Refusal> {
        self.announced(self.settings.create_group(name)).await
    }

    /// Does what may change topics. The name servers know of that before anybody is told, so that a route that a client asks
    /// for next is there.
    pub(crate) async fn announced<T>(
        &self,
        change: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Refusal> {
        let before = self.state.topics.version();
        let done = change.await?;
        let version = self.state.topics.version();
        if version != before {
            self.registration.wait_for(version).await;
        }
        Ok(done)
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
        broker_id(&self.replica.role(), self.config.node_id)
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
        self.pulls.connection_closed(channel.id);
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
            held_pulls: self.pulls.held(),
            bytes_in_flight: self.bytes_in_flight.get(),
            consumer_groups,
            producer_groups,
        }
    }
}
