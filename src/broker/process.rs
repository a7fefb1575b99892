//! What belongs to the process, however many groups it serves: connections, their bounds and memory, clients, the right to
//! what is costly, connections to other servers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use raftmq_broker::clients::Clients;
use raftmq_remoting::ConnectionPool;
use raftmq_world::hash::HashMap;
use raftmq_world::{World, WriteHalf};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::channel::Channel;
use super::gauge::Gauge;
use super::limits::{
    CONNECTION_IDLE, Limits, NAME_SERVER_TIMEOUT, PEER_REQUESTS_MAX, REPORTS_AT_ONCE, STATUS_REQUESTS_MAX,
};

/// What all groups of a process share.
pub(crate) struct Process {
    pub(crate) world: World,
    pub(crate) limits: Limits,
    /// Connections to name servers and to leaders.
    pub(crate) peers: ConnectionPool,
    /// Who is in which group of producers or consumers.
    pub(crate) clients: Arc<Clients<Channel>>,
    /// The right to ask all members of a consumer group.
    pub(crate) status_requests: Semaphore,
    /// The right to make a long answer about consumer groups.
    pub(crate) reports: Semaphore,
    /// Record bytes whose outcome is open.
    pub(crate) bytes_in_flight: Gauge,
    /// Bytes that wait to be sent, over all connections.
    pub(crate) buffered_output: Arc<Gauge>,
    /// Bytes of incomplete frames, over all connections.
    pub(crate) buffered_input: Gauge,
    channels: Mutex<HashMap<u64, Arc<Channel>>>,
    next_channel: AtomicU64,
    started: Instant,
}

impl Process {
    pub(crate) fn new(limits: Limits, world: World) -> Self {
        Self {
            peers: ConnectionPool::new(world.network.clone(), NAME_SERVER_TIMEOUT, PEER_REQUESTS_MAX),
            clients: Arc::new(Clients::new(&limits.group)),
            status_requests: Semaphore::new(STATUS_REQUESTS_MAX),
            reports: Semaphore::new(REPORTS_AT_ONCE),
            bytes_in_flight: Gauge::default(),
            buffered_output: Arc::default(),
            buffered_input: Gauge::default(),
            channels: Mutex::default(),
            next_channel: AtomicU64::new(0),
            started: Instant::now(),
            world,
            limits,
        }
    }

    /// The time of day, in ms since the epoch, as store timestamps are.
    pub(crate) fn wall_ms(&self) -> i64 {
        self.world.clock.now_ms()
    }

    /// The process's clock: ms since it started.
    pub(crate) fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// A channel for a new connection.
    pub(crate) fn open_channel(&self, peer: SocketAddr, sink: WriteHalf) -> Arc<Channel> {
        let id = self.next_channel.fetch_add(1, Ordering::Relaxed);
        let channel = Arc::new(Channel::new(id, peer, sink, &self.limits, self.buffered_output.clone()));
        channel.touch(self.now_ms());
        self.channels.lock().insert(id, channel.clone());
        channel
    }

    /// Forgets a connection.
    pub(crate) fn close_channel(&self, channel: &Channel) {
        channel.close();
        self.channels.lock().remove(&channel.id);
    }

    pub(crate) fn channels(&self) -> Vec<Arc<Channel>> {
        self.channels.lock().values().cloned().collect()
    }

    /// How many connections there are.
    pub(crate) fn connections(&self) -> usize {
        self.channels.lock().len()
    }

    /// Closes connections that are idle.
    pub(crate) fn close_idle(&self) {
        let idle_since = self.now_ms().saturating_sub(CONNECTION_IDLE.as_millis() as u64);
        for channel in self.channels().iter().filter(|channel| channel.active_ms() < idle_since) {
            tracing::debug!(peer = %channel.peer, "closing an idle connection");
            channel.close();
        }
    }
}
