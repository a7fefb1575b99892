//! What belongs to the process, however many groups it serves: the bounds of connections and their memory, the right to what
//! is costly, connections to other servers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use raftmq_remoting::ConnectionPool;
use raftmq_world::{Places, WhenFull, World, WriteHalf};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::channel::Channel;
use crate::gauge::Gauge;
use crate::limits::{Limits, NAME_SERVER_TIMEOUT, PEER_REQUESTS_MAX, REPORTS_AT_ONCE, STATUS_REQUESTS_MAX};

/// What all groups of a process share.
pub struct Process {
    pub(crate) world: World,
    pub(crate) limits: Limits,
    /// Places for client connections.
    pub(crate) places: Places,
    /// Connections to name servers and to leaders.
    pub(crate) peers: ConnectionPool,
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
    next_channel: AtomicU64,
    started: Instant,
}

impl Process {
    /// A process that serves no group yet.
    pub fn new(limits: Limits, world: World) -> Self {
        Self {
            places: Places::new("a client's", limits.connections, WhenFull::Refuse),
            peers: ConnectionPool::new(world.network.clone(), NAME_SERVER_TIMEOUT, PEER_REQUESTS_MAX),
            status_requests: Semaphore::new(STATUS_REQUESTS_MAX),
            reports: Semaphore::new(REPORTS_AT_ONCE),
            bytes_in_flight: Gauge::default(),
            buffered_output: Arc::default(),
            buffered_input: Gauge::default(),
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

    /// A channel for a new connection. Its id is its own in the process.
    pub(crate) fn open_channel(&self, peer: SocketAddr, sink: WriteHalf) -> Arc<Channel> {
        let id = self.next_channel.fetch_add(1, Ordering::Relaxed);
        let channel = Channel::new(id, peer, sink, &self.limits, self.buffered_output.clone());
        channel.touch(self.now_ms());
        Arc::new(channel)
    }
}
