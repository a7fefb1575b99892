//! Settings of a client.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use raftmq_world::World;

use crate::name_servers::parse_name_servers;

/// Settings of a [`Client`](crate::Client).
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Name servers as `host:port`.
    pub name_servers: Vec<String>,
    /// For a TCP connection to stand.
    pub connect_timeout: Duration,
    /// For one try of a request. Short, so that a broker that hangs is noticed and left.
    pub try_timeout: Duration,
    /// For a request with all its tries.
    pub request_timeout: Duration,
    /// Requests on one connection that wait for answers at a time; more callers queue up.
    pub in_flight_max: usize,
    /// Queues that a topic created by sending to it gets at most.
    pub default_topic_queues: u32,
    /// What tells this client from others of the same machine; Java's `instanceName`. By default every client has one
    /// of its own. Two clients with the same name look like one to brokers and must not be in one group.
    pub instance_name: Option<String>,
    /// Clock, network, disk, randomness and threads.
    pub world: World,
}

impl ClientConfig {
    /// The address of this machine that a name server sees, for ids.
    pub(crate) fn local_ip(&self) -> IpAddr {
        let towards = self.name_servers.first();
        let seen = towards.and_then(|server| self.world.network.local_ip(server));
        seen.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    /// The defaults. `name_servers` is a list as `host:port;host:port`.
    pub fn new(name_servers: &str) -> Self {
        Self {
            name_servers: parse_name_servers(name_servers),
            connect_timeout: Duration::from_millis(500),
            try_timeout: Duration::from_millis(300),
            request_timeout: Duration::from_secs(3),
            in_flight_max: 4096,
            default_topic_queues: 4,
            instance_name: None,
            world: World::system(),
        }
    }
}
