//! Registration: telling every name server who this member is and which topics the group has.
//!
//! Each name server has a task of its own, so that one that is down delays neither the others nor the broker. A member
//! registers when it starts, when its role or a topic changes, and every few seconds.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use raftmq_raft::{Role, RoleState};
use raftmq_remoting::body::{DataVersion, RegisterBrokerBody};
use raftmq_remoting::codes::request;
use raftmq_remoting::header::{RegisterBrokerHeader, UnregisterBrokerHeader};
use raftmq_remoting::{Command, fastjson};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::config_codes::all_topics;
use super::limits::{NAME_SERVER_TIMEOUT, REGISTRATION_PERIOD};
use super::node::Node;
use super::peer;

/// How soon a failed registration is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// How long after the start it is not worth a warning that a name server has not answered yet: members with name servers
/// inside start one after the other.
const START_PATIENCE_MS: u64 = 10_000;

/// What a name server has last been told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Told {
    /// Version of the topics.
    version: u64,
    /// The last attempt failed, so nobody waits for this one.
    failing: bool,
    /// It was warned of that.
    warned: bool,
}

pub(crate) struct Registration {
    /// One for each name server, in the configuration's order.
    told: Vec<watch::Sender<Told>>,
    stamp: Mutex<Stamp>,
}

/// The data version, made anew when what it stands for changes.
#[derive(Default)]
struct Stamp {
    of: Option<(u64, u64, Option<u64>)>,
    version: DataVersion,
}

impl Registration {
    pub(crate) fn new(name_servers: usize) -> Self {
        Self { told: (0..name_servers).map(|_| watch::Sender::default()).collect(), stamp: Mutex::default() }
    }

    /// The data version last registered.
    pub(crate) fn data_version(&self) -> DataVersion {
        self.stamp.lock().version
    }

    /// Waits until the name servers that answer know this version of the topics. Those that do not answer are known
    /// soon, and are not waited for the next time.
    pub(crate) async fn wait_for(&self, version: u64) {
        let told = futures_util::future::join_all(self.told.iter().map(|told| async {
            let mut told = told.subscribe();
            // The sender lives as long as this does.
            let _ = told.wait_for(|told| told.version >= version || told.failing).await;
        }));
        if timeout(NAME_SERVER_TIMEOUT + RETRY, told).await.is_err() {
            tracing::warn!(version, "not every name server knows the changed topics in time");
        }
    }

    /// A version that is newer than every one before it: by the term where a leader changes, else by the count.
    fn stamp(&self, term: u64, version: u64, broker_id: Option<u64>, now_ms: i64) -> DataVersion {
        let mut stamp = self.stamp.lock();
        if stamp.of != Some((term, version, broker_id)) {
            stamp.of = Some((term, version, broker_id));
            stamp.version = DataVersion {
                counter: version as i64,
                state_version: term as i64,
                timestamp: now_ms.max(stamp.version.timestamp + 1),
            };
        }
        stamp.version
    }

    /// Registers at one name server, again and again. Runs until the task is ended.
    pub(crate) async fn run(&self, node: &Arc<Node>, index: usize) {
        let name_server = &node.config.namesrv[index];
        let mut role = node.replica.watch_role();
        let mut topics = node.state.topics.subscribe();
        loop {
            role.mark_unchanged();
            topics.mark_unchanged();
            let version = node.state.topics.version();
            let pause = match self.register(node, name_server).await {
                Ok(()) => {
                    self.report(node, index, Told { version, ..Told::default() });
                    REGISTRATION_PERIOD
                }
                Err(reason) => {
                    tracing::debug!(name_server, reason, "not registered");
                    self.report(node, index, Told { failing: true, ..Told::default() });
                    RETRY
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
    fn report(&self, node: &Node, index: usize, mut told: Told) {
        let before = *self.told[index].borrow();
        let patient = before.version == 0 && node.now_ms() < START_PATIENCE_MS;
        told.warned = told.failing && (before.warned || !patient);
        self.told[index].send_replace(told);
        let name_server = &node.config.namesrv[index];
        match (before.warned, told.warned) {
            (false, true) => tracing::warn!(name_server, "name server does not answer"),
            (true, false) => tracing::info!(name_server, "name server answers again"),
            _ => {}
        }
    }

    /// Registers once. A member that is about to lead says nothing until it serves.
    async fn register(&self, node: &Arc<Node>, name_server: &str) -> Result<(), String> {
        let (broker_id, term) = {
            let role = node.replica.role();
            (broker_id(&role, node.config.node_id), role.term)
        };
        let Some(id) = broker_id else { return Ok(()) };
        let stamp = self.stamp(term, node.state.topics.version(), broker_id, node.wall_ms());
        let mut topics = all_topics(node, stamp);
        // Name servers have no use for them, and a registration has to fit a frame.
        topics.topic_config_table.values_mut().for_each(|topic| topic.attributes.clear());
        let body =
            RegisterBrokerBody { topic_config_serialize_wrapper: topics, ..RegisterBrokerBody::default() };
        let body = fastjson::to_vec(&body).map_err(|error| error.to_string())?;
        let header = RegisterBrokerHeader {
            broker_name: node.config.broker_name.clone(),
            broker_addr: node.config.advertise.to_string(),
            cluster_name: node.config.cluster.clone(),
            ha_server_addr: Some(node.raft_address()),
            broker_id: id as i64,
            compressed: false,
            body_crc32: raftmq_message::body_crc(&body).cast_signed(),
            heartbeat_timeout_ms: None,
            enable_acting_master: None,
        };
        let register = Command::request(request::REGISTER_BROKER, header.to_ext()).with_body(body);
        let registered = peer::ask(&node.peers, name_server, register, NAME_SERVER_TIMEOUT).await;
        registered.map_err(|error| error.to_string())
    }
}

/// The id a member registers as: the leader is 0, everybody else has its node id. `None` where it must not register.
pub(crate) fn broker_id(role: &RoleState, node_id: u64) -> Option<u64> {
    match role.role {
        Role::Leader => role.ready.then_some(0),
        Role::Follower | Role::Candidate | Role::Learner => Some(node_id),
        Role::Stopped => None,
    }
}

/// Tells every name server that this member leaves.
pub(crate) async fn unregister(node: &Arc<Node>) {
    let Some(id) = node.broker_id() else { return };
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
            let left = peer::ask(&node.peers, &name_server, leave, NAME_SERVER_TIMEOUT).await;
            if let Err(error) = left {
                tracing::debug!(name_server, %error, "not unregistered");
            }
        }
    };
    futures_util::future::join_all(node.config.namesrv.iter().map(leave)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leader_is_zero_once_it_serves_and_the_others_are_themselves() {
        let role = |role, ready| RoleState { role, term: 1, leader: None, ready };
        assert_eq!(broker_id(&role(Role::Leader, true), 1), Some(0));
        assert_eq!(broker_id(&role(Role::Leader, false), 1), None);
        assert_eq!(broker_id(&role(Role::Follower, false), 1), Some(1));
        assert_eq!(broker_id(&role(Role::Candidate, false), 3), Some(3));
        assert_eq!(broker_id(&role(Role::Stopped, false), 3), None);
    }

    #[test]
    fn a_data_version_changes_with_what_it_stands_for_only() {
        let registration = Registration::new(0);
        let first = registration.stamp(3, 7, Some(1), 1_000);
        assert_eq!((first.counter, first.state_version), (7, 3));
        assert_eq!(registration.stamp(3, 7, Some(1), 1_000), first);
        let as_leader = registration.stamp(4, 7, Some(0), 1_000);
        assert!(as_leader.state_version == 4 && as_leader.timestamp > first.timestamp);
        assert_eq!(registration.data_version(), as_leader);
    }

    #[tokio::test]
    async fn nobody_waits_for_a_name_server_that_fails() {
        let registration = Registration::new(2);
        registration.told[0].send_replace(Told { version: 5, ..Told::default() });
        registration.told[1].send_replace(Told { failing: true, ..Told::default() });
        timeout(Duration::from_millis(50), registration.wait_for(5)).await.unwrap();
        let waiting = registration.wait_for(6);
        tokio::pin!(waiting);
        assert!(timeout(Duration::from_millis(20), &mut waiting).await.is_err());
        registration.told[0].send_replace(Told { version: 6, ..Told::default() });
        timeout(Duration::from_millis(50), waiting).await.unwrap();
    }
}
