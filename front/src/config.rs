//! What serving a group's clients needs to know.

use std::net::SocketAddr;

use raftmq_broker::delay::DelayLevels;

/// What a broker needs to know to start.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// The cluster's name.
    pub cluster: String,
    /// The group's name as clients see it.
    pub broker_name: String,
    /// This member's id in the group, from 1; also its broker id while it follows.
    pub node_id: u64,
    /// Where to listen for clients.
    pub listen: SocketAddr,
    /// Whether to listen on the VIP port as well, two below.
    pub vip: bool,
    /// Where clients reach this member; in routes, message ids and records.
    pub advertise: SocketAddr,
    /// The name servers, as `host:port`.
    pub namesrv: Vec<String>,
    /// Whether a send may make its topic.
    pub auto_create_topic: bool,
    /// Whether a consumer may make its group.
    pub auto_create_group: bool,
    /// How long each delay level is.
    pub delay_levels: DelayLevels,
}
