//! What one name server is told, and how.
//!
//! The leader names all topics when it is first told of a connection or a term, and now and then; in between only what has
//! changed since the last registration. Of the others' topics no name server takes notice, so they name none.
//!
//! RocketMQ's name servers keep the topics that a registration does not name, unless they are set to delete them. So one is
//! asked for its settings before it is told changes, and is told everything where it would delete, or does not say. One of
//! RaftMQ's is told which topics are gone, and refuses changes to what it does not know.

use std::sync::Arc;

use raftmq_broker::state::{Changes, Topic};
use raftmq_remoting::body::{DataVersion, RegisterBrokerBody};
use raftmq_remoting::codes::request;
use raftmq_remoting::header::{RegisterBrokerHeader, UnregisterBrokerHeader};
use raftmq_remoting::{Command, Connection, Ext, deadline_in, fastjson};
use tokio::time::Instant;

use crate::described::topic_table;
use crate::limits::{ALL_TOPICS_PERIOD, NAME_SERVER_TIMEOUT, REGISTRATION_PERIOD};
use crate::node::Node;
use crate::peer::{self, PeerError, ask_over};
use crate::registered::broker_id;

/// The id that the leader registers with.
const LEADER_ID: u64 = 0;

/// A name server, as this member talks to it.
pub(crate) struct NameServer<'a> {
    pub(crate) node: &'a Node,
    /// Where it is, a `host:port`.
    pub(crate) address: &'a str,
}

/// What this member registers as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    id: u64,
    term: u64,
}

/// What a name server has been told.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    /// It forgets what it was told when this ends.
    connection: Arc<Connection>,
    identity: Identity,
    /// The topics that it was told of, or would have been if this member led.
    pub(crate) version: u64,
    /// What the last registration called them.
    stamp: DataVersion,
    keeps: Option<Keeps>,
    /// When it was last told anything, and all topics.
    at: Instant,
    all_at: Instant,
}

/// Whether a name server keeps the topics that a registration does not name.
#[derive(Clone, Copy, Debug)]
struct Keeps {
    unnamed: bool,
    /// Its settings may be others by then.
    until: Instant,
}

impl Session {
    /// When it is to be told that this member lives.
    pub(crate) fn due(&self) -> Instant {
        self.at + REGISTRATION_PERIOD
    }
}

impl NameServer<'_> {
    /// What this member is to register as. A member that is about to lead says nothing until it serves.
    pub(crate) fn identity(&self) -> Option<Identity> {
        let role = self.node.replica.role();
        Some(Identity { id: broker_id(&role, self.node.config.node_id)?, term: role.term })
    }

    /// Tells it what it does not know yet. `before` is what it was told; without, it is told everything.
    pub(crate) async fn tell(
        &self,
        identity: Identity,
        before: Option<Session>,
    ) -> Result<Session, PeerError> {
        let holds = |session: &Session| session.identity == identity && !session.connection.is_closed();
        let Some(mut session) = before.filter(holds) else {
            return self.register_all(identity, None).await;
        };
        let now = Instant::now();
        if identity.id != LEADER_ID && now < session.due() {
            session.version = self.node.state.topics.version();
            return Ok(session);
        }
        if identity.id != LEADER_ID || now >= session.all_at + ALL_TOPICS_PERIOD {
            return self.register_all(identity, session.keeps).await;
        }
        let Some(changes) = self.node.state.topics.changed_since(session.version) else {
            return self.register_all(identity, session.keeps).await;
        };
        if changes.version == session.version && now < session.due() {
            return Ok(session);
        }
        let keeps = self.keeps_unnamed(&session).await;
        session.keeps = Some(keeps);
        if !keeps.unnamed {
            return self.register_all(identity, session.keeps).await;
        }
        match self.register_changes(&session, &changes).await {
            // It does not know any more what these are changes to.
            Err(PeerError::Refused { .. }) => self.register_all(identity, session.keeps).await,
            told => told,
        }
    }

    /// Tells everything: who this member is and, if it leads, which topics there are.
    async fn register_all(&self, identity: Identity, keeps: Option<Keeps>) -> Result<Session, PeerError> {
        let deadline = deadline_in(NAME_SERVER_TIMEOUT);
        let connection = self.node.process.peers.get_within(self.address, NAME_SERVER_TIMEOUT).await?;
        let topics = &self.node.state.topics;
        // Read before the topics: what changes in between is told again.
        let version = topics.version();
        let stamp = self.stamp(identity, version);
        let leads = identity.id == LEADER_ID;
        let named = if leads { topics.all() } else { Vec::new() };
        let body = RegisterBrokerBody { all_topics: leads, ..body(&named, stamp) };
        ask_over(&connection, self.registration(identity, &body)?, deadline).await?;
        let now = Instant::now();
        Ok(Session { connection, identity, version, stamp, keeps, at: now, all_at: now })
    }

    /// Tells what has changed; that may be nothing but that this member lives.
    async fn register_changes(
        &self,
        session: &Session,
        changes: &Changes<Topic>,
    ) -> Result<Session, PeerError> {
        let stamp = self.stamp(session.identity, changes.version);
        let body = RegisterBrokerBody {
            changed_since: Some(session.stamp),
            deleted_topics: changes.deleted.clone(),
            ..body(&changes.put, stamp)
        };
        let register = self.registration(session.identity, &body)?;
        ask_over(&session.connection, register, deadline_in(NAME_SERVER_TIMEOUT)).await?;
        Ok(Session { version: changes.version, stamp, at: Instant::now(), ..session.clone() })
    }

    /// Asks it whether it keeps topics that a registration does not name. One that does not answer that does not.
    async fn keeps_unnamed(&self, session: &Session) -> Keeps {
        if let Some(keeps) = session.keeps.filter(|keeps| Instant::now() < keeps.until) {
            return keeps;
        }
        let ask = Command::request(request::GET_NAMESRV_CONFIG, Ext::new());
        let answer = ask_over(&session.connection, ask, deadline_in(NAME_SERVER_TIMEOUT)).await;
        let unnamed = answer.is_ok_and(|answer| keeps_unnamed(&String::from_utf8_lossy(&answer.body)));
        Keeps { unnamed, until: Instant::now() + ALL_TOPICS_PERIOD }
    }

    fn stamp(&self, identity: Identity, version: u64) -> DataVersion {
        let Identity { id, term } = identity;
        self.node.registered.stamp(term, version, Some(id), self.node.process.wall_ms())
    }

    fn registration(&self, identity: Identity, body: &RegisterBrokerBody) -> Result<Command, PeerError> {
        let config = &self.node.config;
        let body = fastjson::to_vec(body).map_err(|error| PeerError::Body(error.to_string()))?;
        let header = RegisterBrokerHeader {
            broker_name: config.broker_name.clone(),
            broker_addr: config.advertise.to_string(),
            cluster_name: config.cluster.clone(),
            ha_server_addr: Some(raft_address(self.node)),
            broker_id: identity.id as i64,
            compressed: false,
            body_crc32: raftmq_message::body_crc(&body).cast_signed(),
            heartbeat_timeout_ms: None,
            enable_acting_master: None,
        };
        Ok(Command::request(request::REGISTER_BROKER, header.to_ext()).with_body(body))
    }

    /// Tells it that this member leaves.
    pub(crate) async fn leave(&self, identity: Identity) -> Result<(), PeerError> {
        let config = &self.node.config;
        let header = UnregisterBrokerHeader {
            broker_name: config.broker_name.clone(),
            broker_addr: config.advertise.to_string(),
            cluster_name: config.cluster.clone(),
            broker_id: identity.id as i64,
        };
        let leave = Command::request(request::UNREGISTER_BROKER, header.to_ext());
        peer::ask(&self.node.process.peers, self.address, leave, NAME_SERVER_TIMEOUT).await.map(drop)
    }
}

/// A registration that names these topics.
fn body(topics: &[Arc<Topic>], stamp: DataVersion) -> RegisterBrokerBody {
    let mut wrapper = topic_table(topics, stamp);
    // Name servers have no use for them, and a registration has to fit a frame.
    wrapper.topic_config_table.values_mut().for_each(|topic| topic.attributes.clear());
    RegisterBrokerBody { topic_config_serialize_wrapper: wrapper, ..RegisterBrokerBody::default() }
}

/// Where the group's members reach this one; empty where it is not known.
fn raft_address(node: &Node) -> String {
    let members = node.replica.group().status().members.into_iter();
    let own = members.filter(|member| member.id == node.config.node_id).map(|member| member.raft);
    own.last().unwrap_or_default()
}

/// Whether a name server with these settings, a text of properties, keeps the topics that a registration does not name.
fn keeps_unnamed(settings: &str) -> bool {
    /// One of RocketMQ 5.x says so, and RaftMQ's do.
    const DELETES: &str = "deleteTopicWithBrokerRegistration";
    /// One of RocketMQ has this, and where it has the other not, it always keeps them.
    const OF_ROCKETMQ: &str = "kvConfigPath";
    let mut settings = settings.lines().filter_map(|line| line.split_once('='));
    let value =
        |name: &str| settings.clone().find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim());
    match value(DELETES) {
        Some(deletes) => deletes == "false",
        None => settings.any(|(key, _)| key.trim() == OF_ROCKETMQ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_server_keeps_what_is_not_named_if_its_settings_say_so() {
        for (settings, keeps) in [
            ("listenPort=9876\ndeleteTopicWithBrokerRegistration=false\n", true),
            ("kvConfigPath=/x=y\r\ndeleteTopicWithBrokerRegistration=true\r\n", false),
            ("rocketmqHome=/r\nkvConfigPath=/x\n", true),
            ("brokerTimeoutMillis=30000\nlistenPort=9876\n", false),
            ("", false),
        ] {
            assert_eq!(keeps_unnamed(settings), keeps, "{settings:?}");
        }
    }
}
