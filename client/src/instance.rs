//! A client's presence at the brokers: its id, the groups it belongs to, heartbeats, and what brokers ask it.
//!
//! A heartbeat is due at a broker when none has succeeded over the present connection, when it says something new, and
//! every 30 s. With consumers in the client every broker of every known route gets them, so that whichever member leads
//! next knows the groups; producers alone are made known to leaders.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use raftmq_remoting::body::{ConsumerData, HeartbeatData, ProducerData};
use raftmq_remoting::codes::{request, response};
use raftmq_remoting::header::UnregisterClientHeader;
use raftmq_remoting::{Command, Connection, ConnectionPool, Ext, PeerRequest, fastjson};
use raftmq_world::World;
use raftmq_world::hash::HashMap;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::ClientConfig;
use crate::error::ClientError;
use crate::route::RouteTable;

/// How often a broker hears from a client of which nothing has changed, as with the Java client.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(30);
/// How often it is looked whether a heartbeat is due, and so how soon one that failed is tried again.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a broker may take to answer a heartbeat.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(3);

/// A consumer as its client sees it.
pub(crate) trait GroupMember: Send + Sync {
    /// What heartbeats say of it.
    fn heartbeat(&self) -> ConsumerData;
    /// The membership of its group or a route has changed.
    fn rebalance_now(&self);
    /// A request from a broker that names the consumer's group.
    fn asked(self: Arc<Self>, request: PeerRequest);
}

/// The groups of a client and what brokers were told of them.
#[derive(Debug)]
pub(crate) struct Instance {
    client_id: String,
    lasting_id: String,
    groups: Mutex<Groups>,
    /// Counts changes of what heartbeats say.
    version: AtomicU64,
    /// There may be a heartbeat due.
    work: Notify,
    /// Held by who tells brokers of groups: when each address had its last good heartbeat.
    told: tokio::sync::Mutex<HashMap<String, Told>>,
}

#[derive(Default)]
struct Groups {
    consumers: BTreeMap<String, Weak<dyn GroupMember>>,
    /// How many producers each group has.
    producers: BTreeMap<String, usize>,
}

impl std::fmt::Debug for Groups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.consumers.keys()).entries(self.producers.keys()).finish()
    }
}

/// The last heartbeat an address has answered.
#[derive(Debug)]
struct Told {
    at: Instant,
    version: u64,
    connection: Weak<Connection>,
}

impl Told {
    fn is_due(&self, version: u64) -> bool {
        let connected = self.connection.upgrade().is_some_and(|connection| !connection.is_closed());
        !connected || self.version != version || self.at.elapsed() >= HEARTBEAT_EVERY
    }
}

impl Instance {
    /// The client id ends with the instance name, or, without one, with one that nobody else has.
    pub(crate) fn new(config: &ClientConfig) -> Self {
        let (ip, name) = (config.local_ip(), config.instance_name.as_deref());
        let lasting_id = format!("{ip}@{}", name.unwrap_or("DEFAULT"));
        let name = name.map_or_else(|| unique_name(&config.world), str::to_owned);
        Self {
            client_id: format!("{ip}@{name}"),
            lasting_id,
            groups: Mutex::default(),
            version: AtomicU64::new(0),
            work: Notify::new(),
            told: tokio::sync::Mutex::default(),
        }
    }

    /// What brokers know this client by.
    pub(crate) fn client_id(&self) -> &str {
        &self.client_id
    }

    /// An id that is the same after a restart, for what is kept on this machine; Java's client id with broadcasting.
    pub(crate) fn lasting_id(&self) -> &str {
        &self.lasting_id
    }

    /// Makes a consumer a member of its group. A client can be in a group only once, as brokers tell members apart by
    /// the client's id.
    pub(crate) fn join(&self, group: &str, member: Weak<dyn GroupMember>) -> Result<(), ClientError> {
        let mut groups = self.groups.lock();
        if groups.consumers.get(group).is_some_and(|other| other.strong_count() > 0) {
            let reason = format!("this client has a consumer of group {group} already; use another client");
            return Err(ClientError::Invalid(reason));
        }
        groups.consumers.insert(group.to_owned(), member);
        drop(groups);
        self.changed();
        Ok(())
    }

    /// Takes a consumer out of its group; brokers still have to be told, see [`Instance::unregister`].
    pub(crate) fn leave(&self, group: &str) {
        self.groups.lock().consumers.remove(group);
        self.changed();
    }

    pub(crate) fn add_producer(&self, group: &str) {
        *self.groups.lock().producers.entry(group.to_owned()).or_default() += 1;
        self.changed();
    }

    pub(crate) fn remove_producer(&self, group: &str) {
        let mut groups = self.groups.lock();
        if let Some(count) = groups.producers.get_mut(group) {
            *count -= 1;
            if *count == 0 {
                groups.producers.remove(group);
            }
        }
    }

    /// What heartbeats say has changed.
    pub(crate) fn changed(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
        self.work.notify_one();
    }

    pub(crate) fn member(&self, group: &str) -> Option<Arc<dyn GroupMember>> {
        self.groups.lock().consumers.get(group)?.upgrade()
    }

    fn members(&self) -> Vec<Arc<dyn GroupMember>> {
        self.groups.lock().consumers.values().filter_map(Weak::upgrade).collect()
    }

    /// A route has changed.
    pub(crate) fn route_changed(&self) {
        self.members().iter().for_each(|member| member.rebalance_now());
        if !self.groups.lock().consumers.is_empty() {
            self.work.notify_one();
        }
    }

    fn heartbeat(&self) -> HeartbeatData {
        // Outside of the lock: consumers have locks of their own.
        let consumer_data_set = self.members().iter().map(|member| member.heartbeat()).collect();
        let groups = self.groups.lock();
        let producer = |group: &String| ProducerData { group_name: group.clone() };
        HeartbeatData {
            client_id: self.client_id.clone(),
            consumer_data_set,
            producer_data_set: groups.producers.keys().map(producer).collect(),
            ..HeartbeatData::default()
        }
    }

    /// Sends a heartbeat to every broker that is due one, and waits for the answers.
    pub(crate) async fn send_heartbeats(&self, routes: &RouteTable, pool: &Arc<ConnectionPool>) {
        let mut told = self.told.lock().await;
        let version = self.version.load(Ordering::Acquire);
        let heartbeat = self.heartbeat();
        if heartbeat.consumer_data_set.is_empty() && heartbeat.producer_data_set.is_empty() {
            return;
        }
        let addrs = routes.broker_addrs(heartbeat.consumer_data_set.is_empty());
        told.retain(|addr, _| addrs.contains(addr));
        let Ok(body) = fastjson::to_vec(&heartbeat) else { return };
        let request = Command::request(request::HEART_BEAT, Ext::new()).with_body(body);
        let mut sending = JoinSet::new();
        for addr in addrs {
            if told.get(&addr).is_none_or(|told| told.is_due(version)) {
                let (pool, request) = (pool.clone(), request.clone());
                sending.spawn(async move { (heartbeat_to(&pool, &addr, request).await, addr) });
            }
        }
        while let Some(sent) = sending.join_next().await {
            match sent {
                Ok((Ok(connection), addr)) => {
                    let connection = Arc::downgrade(&connection);
                    told.insert(addr, Told { at: Instant::now(), version, connection });
                }
                Ok((Err(error), addr)) => {
                    match error {
                        // What the client says of itself is wrong for this broker; nothing else tells the user.
                        ClientError::Refused { .. } => tracing::warn!(addr, %error, "heartbeat refused"),
                        _ => tracing::debug!(addr, %error, "heartbeat failed"),
                    }
                    told.remove(&addr);
                }
                Err(error) => tracing::error!(%error, "a heartbeat panicked"),
            }
        }
    }

    /// Tells every broker that the client has left a consumer group, unless it has joined it again. Brokers that cannot be
    /// told find out by the connection's end or the missing heartbeats.
    pub(crate) async fn unregister(
        &self,
        group: &str,
        routes: &RouteTable,
        pool: &Arc<ConnectionPool>,
        timeout: Duration,
    ) {
        // A heartbeat that still names the group is answered before, and one with another consumer of it is sent behind.
        let _told = self.told.lock().await;
        if self.member(group).is_some() {
            return;
        }
        let header = UnregisterClientHeader {
            client_id: self.client_id().to_owned(),
            producer_group: None,
            consumer_group: Some(group.to_owned()),
        };
        let request = Command::request(request::UNREGISTER_CLIENT, header.to_ext());
        let mut telling = JoinSet::new();
        for addr in routes.broker_addrs(false) {
            let (pool, request) = (pool.clone(), request.clone());
            telling.spawn(async move {
                if let Err(error) = pool.call(&addr, request, timeout).await {
                    tracing::debug!(addr, %error, "not unregistered");
                }
            });
        }
        while telling.join_next().await.is_some() {}
    }

    /// Resolves when there may be a heartbeat due.
    pub(crate) async fn heartbeat_may_be_due(&self) {
        tokio::select! {
            () = self.work.notified() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// The process and a random number; the Java client makes its default name in the same way, with a time.
fn unique_name(world: &World) -> String {
    format!("{}#{}", world.process_id, world.random.number())
}

async fn heartbeat_to(
    pool: &ConnectionPool,
    addr: &str,
    request: Command,
) -> Result<Arc<Connection>, ClientError> {
    let connection = pool.get(addr).await?;
    let answer = connection.call(request, HEARTBEAT_TIMEOUT).await?;
    if answer.code == response::SUCCESS { Ok(connection) } else { Err(ClientError::refused(addr, answer)) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::client::Client;

    #[test]
    fn every_client_has_an_id_of_its_own() {
        let config = ClientConfig::new("");
        let ids: BTreeSet<_> = (0..100).map(|_| Instance::new(&config).client_id().to_owned()).collect();
        assert_eq!(ids.len(), 100);
        let named = Instance::new(&ClientConfig { instance_name: Some("mine".to_owned()), ..config });
        assert_eq!(named.client_id(), "127.0.0.1@mine");
    }

    #[tokio::test]
    async fn nobody_leaves_a_group_while_heartbeats_are_on_their_way() {
        let client = Client::new(ClientConfig::new("127.0.0.1:9"));
        let sending = client.instance().told.lock().await;
        let mut leaving = std::pin::pin!(client.unregister("g"));
        // Without a broker that is known there is nothing else to wait for.
        assert!(tokio::time::timeout(Duration::ZERO, &mut leaving).await.is_err());
        drop(sending);
        leaving.await;
    }
}
