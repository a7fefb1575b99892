//! Registration: telling every name server who this member is and which topics the group has.
//!
//! Each name server has a task of its own, so that one that is down delays neither the others nor the broker. A member
//! registers when it starts, when its role or a topic changes, and every few seconds.

use raftmq_remoting::body::RegisterBrokerBody;
use raftmq_remoting::codes::request;
use raftmq_remoting::header::{RegisterBrokerHeader, UnregisterBrokerHeader};
use raftmq_remoting::{Command, fastjson};
use tokio::time::sleep;

use crate::described::all_topics;
use crate::limits::{NAME_SERVER_TIMEOUT, REGISTRATION_PERIOD, REGISTRATION_RETRY};
use crate::node::Node;
use crate::peer;
use crate::registered::{Told, broker_id};

/// How long after the start it is not worth a warning that a name server has not answered yet: members with name servers
/// inside start one after the other.
const START_PATIENCE_MS: u64 = 10_000;

/// Registers at one name server, again and again. Runs until the task is ended.
pub(crate) async fn run(node: &Node, index: usize) {
    let name_server = &node.config.namesrv[index];
    let mut role = node.replica.watch_role();
    let mut topics = node.state.topics.subscribe();
    loop {
        role.mark_unchanged();
        topics.mark_unchanged();
        let version = node.state.topics.version();
        let pause = match register(node, name_server).await {
            Ok(()) => {
                report(node, index, Told { version, ..Told::default() });
                REGISTRATION_PERIOD
            }
            Err(reason) => {
                tracing::debug!(name_server, reason, "not registered");
                report(node, index, Told { failing: true, ..Told::default() });
                REGISTRATION_RETRY
            }
        };
        tokio::select! {
            changed = role.changed() => if changed.is_err() { return },
            changed = topics.changed() => if changed.is_err() { return },
            () = sleep(pause) => {}
        }
    }
}

/// Notes how an attempt went. A name server that has never answered may be about to start.
fn report(node: &Node, index: usize, mut told: Told) {
    let before = *node.registered.told[index].borrow();
    let patient = before.version == 0 && node.process.now_ms() < START_PATIENCE_MS;
    told.warned = told.failing && (before.warned || !patient);
    node.registered.told[index].send_replace(told);
    let name_server = &node.config.namesrv[index];
    match (before.warned, told.warned) {
        (false, true) => tracing::warn!(name_server, "name server does not answer"),
        (true, false) => tracing::info!(name_server, "name server answers again"),
        _ => {}
    }
}

/// Registers once. A member that is about to lead says nothing until it serves.
async fn register(node: &Node, name_server: &str) -> Result<(), String> {
    let (broker_id, term) = {
        let role = node.replica.role();
        (broker_id(&role, node.config.node_id), role.term)
    };
    let Some(id) = broker_id else { return Ok(()) };
    let stamp = node.registered.stamp(term, node.state.topics.version(), broker_id, node.process.wall_ms());
    let mut topics = all_topics(&node.state.topics, stamp);
    // Name servers have no use for them, and a registration has to fit a frame.
    topics.topic_config_table.values_mut().for_each(|topic| topic.attributes.clear());
    let body = RegisterBrokerBody { topic_config_serialize_wrapper: topics, ..RegisterBrokerBody::default() };
    let body = fastjson::to_vec(&body).map_err(|error| error.to_string())?;
    let header = RegisterBrokerHeader {
        broker_name: node.config.broker_name.clone(),
        broker_addr: node.config.advertise.to_string(),
        cluster_name: node.config.cluster.clone(),
        ha_server_addr: Some(raft_address(node)),
        broker_id: id as i64,
        compressed: false,
        body_crc32: raftmq_message::body_crc(&body).cast_signed(),
        heartbeat_timeout_ms: None,
        enable_acting_master: None,
    };
    let register = Command::request(request::REGISTER_BROKER, header.to_ext()).with_body(body);
    let registered = peer::ask(&node.process.peers, name_server, register, NAME_SERVER_TIMEOUT).await;
    registered.map(drop).map_err(|error| error.to_string())
}

/// Where the group's members reach this one; empty where it is not known.
fn raft_address(node: &Node) -> String {
    let members = node.replica.group().status().members.into_iter();
    let own = members.filter(|member| member.id == node.config.node_id).map(|member| member.raft);
    own.last().unwrap_or_default()
}

/// Tells every name server that this member leaves.
pub(crate) async fn unregister(node: &Node) {
    let Some(id) = broker_id(&node.replica.role(), node.config.node_id) else { return };
    let leave = |name_server: &String| {
        let name_server = name_server.clone();
        let header = UnregisterBrokerHeader {
            broker_name: node.config.broker_name.clone(),
            broker_addr: node.config.advertise.to_string(),
            cluster_name: node.config.cluster.clone(),
            broker_id: id as i64,
        };
        async move {
            let leave = Command::request(request::UNREGISTER_BROKER, header.to_ext());
            let left = peer::ask(&node.process.peers, &name_server, leave, NAME_SERVER_TIMEOUT).await;
            if let Err(error) = left {
                tracing::debug!(name_server, %error, "not unregistered");
            }
        }
    };
    futures_util::future::join_all(node.config.namesrv.iter().map(leave)).await;
}
