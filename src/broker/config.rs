//! What serving a group's clients needs to know.

use std::net::SocketAddr;

use raftmq_broker::delay::DelayLevels;

/// What a broker needs to know to start.
#[derive(Clone, Debug)]
pub(crate) struct BrokerConfig {
    /// The cluster's name.
    pub(crate) cluster: String,
    /// The group's name as clients see it.
    pub(crate) broker_name: String,
    /// This member's id in the group, from 1; also its broker id while it follows.
    pub(crate) node_id: u64,
    /// Where to listen for clients.
    pub(crate) listen: SocketAddr,
    /// Whether to listen on the VIP port as well, see [`vip_address`].
    pub(crate) vip: bool,
    /// Where clients reach this member; in routes, message ids and records.
    pub(crate) advertise: SocketAddr,
    /// The name servers, as `host:port`.
    pub(crate) namesrv: Vec<String>,
    /// Whether a send may make its topic.
    pub(crate) auto_create_topic: bool,
    /// Whether a consumer may make its group.
    pub(crate) auto_create_group: bool,
    /// How long each delay level is.
    pub(crate) delay_levels: DelayLevels,
}
