//! Routes of topics: asked for when first needed, again every 30 s, and at once when a send has failed.

use raftmq_world::hash::HashMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use raftmq_message::topic::AUTO_CREATE_TOPIC;
use raftmq_remoting::body::{TopicRouteData, perm};
use raftmq_remoting::codes::{request, response};
use raftmq_remoting::header::RouteHeader;
use raftmq_remoting::{Command, fastjson};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::ClientError;
use crate::name_servers::NameServers;

/// How long the route of the topic that new ones copy stands in for that of a topic nobody knew.
const DEFAULT_ROUTE_AGE_MAX: Duration = Duration::from_secs(1);
/// Topics a table remembers. Past it, what is asked for anew pushes out everything that is older than a refresh.
const TOPICS_MAX: usize = 16 * 1024;
/// Queues taken from a route for each broker name. RocketMQ's own benchmark topic has 1024.
const QUEUES_MAX: u32 = 64 * 1024;

/// Where a topic lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRoute {
    /// Queues by broker name.
    pub queues: Vec<BrokerQueues>,
    /// Addresses by broker name, then broker id; 0 is the leader.
    pub brokers: HashMap<String, HashMap<i64, String>>,
}

/// A topic's queues behind a broker name, numbered from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerQueues {
    /// The broker name.
    pub broker_name: String,
    /// How many consumers see.
    pub read_queues: u32,
    /// How many producers see.
    pub write_queues: u32,
}

impl TopicRoute {
    /// The leader's address, as `host:port`.
    pub fn leader(&self, broker_name: &str) -> Option<&str> {
        self.brokers.get(broker_name)?.get(&0).map(String::as_str)
    }

    /// Every queue that can be written to and whose leader is known, as broker name and queue id.
    pub fn writable(&self) -> impl Iterator<Item = (&str, u32)> {
        let led = self.queues.iter().filter(|queues| self.leader(&queues.broker_name).is_some());
        led.flat_map(|queues| (0..queues.write_queues).map(|id| (queues.broker_name.as_str(), id)))
    }

    /// The `n`th of the queues that can be written to, counted round and round.
    pub fn nth_writable(&self, n: usize) -> Option<(&str, u32)> {
        let led = || self.queues.iter().filter(|queues| self.leader(&queues.broker_name).is_some());
        // At most 2^16 for each broker name.
        let total: usize = led().map(|queues| queues.write_queues as usize).sum();
        let mut n = n.checked_rem(total)?;
        for queues in led() {
            let here = queues.write_queues as usize;
            if n < here {
                return Some((&queues.broker_name, n as u32));
            }
            n -= here;
        }
        None
    }

    /// Every queue that can be read from, as broker name and queue id.
    pub fn readable(&self) -> impl Iterator<Item = (&str, u32)> {
        self.queues.iter().flat_map(|q| (0..q.read_queues).map(|id| (q.broker_name.as_str(), id)))
    }

    pub(crate) fn from_body(body: TopicRouteData) -> Self {
        let count =
            |n: i32, allowed: bool| if allowed { u32::try_from(n).unwrap_or(0).min(QUEUES_MAX) } else { 0 };
        let queues = body.queue_datas.into_iter().map(|queue| BrokerQueues {
            read_queues: count(queue.read_queue_nums, queue.perm & perm::READ != 0),
            write_queues: count(queue.write_queue_nums, queue.perm & perm::WRITE != 0),
            broker_name: queue.broker_name,
        });
        let brokers = body.broker_datas.into_iter();
        Self {
            queues: queues.collect(),
            brokers: brokers.map(|b| (b.broker_name, b.broker_addrs.into_iter().collect())).collect(),
        }
    }

    /// The route a topic that does not exist yet will most likely have.
    pub(crate) fn for_new_topic(mut self, queues_max: u32) -> Self {
        for queues in &mut self.queues {
            queues.write_queues = queues.write_queues.min(queues_max);
            queues.read_queues = queues.read_queues.min(queues_max);
        }
        self
    }
}

/// A route and which lookup it came from.
#[derive(Debug, Clone)]
pub struct Routed {
    /// The route.
    pub route: Arc<TopicRoute>,
    /// Counts lookups of this topic; see [`RouteTable::refresh`].
    pub lookup: u64,
}

/// Routes by topic.
#[derive(Debug)]
pub struct RouteTable {
    name_servers: NameServers,
    topics: RwLock<HashMap<String, Arc<Entry>>>,
    /// Queues that a topic created by sending to it gets at most.
    default_queues: u32,
    /// Counts the lookups that have found something else than the one before.
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Entry {
    /// Lookups that have succeeded.
    lookups: AtomicU64,
    known: RwLock<Option<Known>>,
    /// Held while asking, so that one caller asks and the others wait for it.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Known {
    route: Arc<TopicRoute>,
    at: Instant,
    is_default: bool,
}

impl RouteTable {
    /// An empty table.
    pub fn new(name_servers: NameServers, default_queues: u32) -> Self {
        Self { name_servers, topics: RwLock::default(), default_queues, changes: watch::Sender::new(0) }
    }

    /// Tells of routes that have changed.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The addresses of all brokers of all known routes, or of those that lead.
    pub(crate) fn broker_addrs(&self, leaders_only: bool) -> BTreeSet<String> {
        let mut addrs = BTreeSet::new();
        for entry in self.topics.read().values() {
            let Some(route) = entry.known.read().as_ref().map(|known| known.route.clone()) else { continue };
            let members = route.brokers.values().flatten();
            let wanted = members.filter(|(id, _)| !leaders_only || **id == 0);
            addrs.extend(wanted.map(|(_, addr)| addr.clone()));
        }
        addrs
    }

    /// The name servers this table asks.
    pub fn name_servers(&self) -> &NameServers {
        &self.name_servers
    }

    /// The route of a topic that exists.
    pub async fn get(&self, topic: &str) -> Result<Routed, ClientError> {
        let entry = self.entry(topic);
        match entry.current(false) {
            Some(routed) => Ok(routed),
            None => self.look_up(topic, &entry, entry.lookups.load(Ordering::Acquire), false).await,
        }
    }

    /// The route to send to a topic. If nobody knows the topic, a queue of the topic that new ones copy will do: the
    /// broker creates the topic when the message arrives.
    pub async fn get_for_sending(&self, topic: &str) -> Result<Routed, ClientError> {
        let entry = self.entry(topic);
        match entry.current(true) {
            Some(routed) => Ok(routed),
            None => self.look_up(topic, &entry, entry.lookups.load(Ordering::Acquire), true).await,
        }
    }

    /// Asks anew, unless that has happened since the lookup numbered `after`. However many callers find out at the
    /// same time that a route is wrong, the name server is asked once.
    pub async fn refresh(&self, topic: &str, after: u64, for_sending: bool) -> Result<Routed, ClientError> {
        let entry = self.entry(topic);
        self.look_up(topic, &entry, after, for_sending).await
    }

    /// Asks anew for every topic that is known. Failures leave what is known in place.
    pub async fn refresh_all(&self) {
        let entries: Vec<_> = self.topics.read().iter().map(|(t, e)| (t.clone(), e.clone())).collect();
        for (topic, entry) in entries {
            let Some(is_default) = entry.known.read().as_ref().map(|known| known.is_default) else {
                continue;
            };
            let after = entry.lookups.load(Ordering::Acquire);
            if let Err(error) = self.look_up(&topic, &entry, after, is_default).await {
                tracing::debug!(topic, %error, "the route was not refreshed");
            }
        }
    }

    fn entry(&self, topic: &str) -> Arc<Entry> {
        if let Some(entry) = self.topics.read().get(topic) {
            return entry.clone();
        }
        let mut topics = self.topics.write();
        if topics.len() >= TOPICS_MAX {
            topics.retain(|_, entry| {
                entry.known.read().as_ref().is_some_and(|k| k.at.elapsed() < REFRESH_EVERY)
            });
        }
        topics.entry(topic.to_owned()).or_default().clone()
    }

    async fn look_up(
        &self,
        topic: &str,
        entry: &Entry,
        after: u64,
        for_sending: bool,
    ) -> Result<Routed, ClientError> {
        let _asking = entry.asking.lock().await;
        if entry.lookups.load(Ordering::Acquire) > after
            && let Some(routed) = entry.current(for_sending)
        {
            return Ok(routed);
        }
        let (route, is_default) = match self.ask(topic).await {
            Ok(route) => (route, false),
            Err(unknown @ ClientError::NoRoute { .. }) if for_sending => {
                match self.ask(AUTO_CREATE_TOPIC).await {
                    Ok(route) => (route.for_new_topic(self.default_queues), true),
                    Err(ClientError::NoRoute { .. }) => return Err(unknown),
                    Err(error) => return Err(error),
                }
            }
            Err(error) => return Err(error),
        };
        let route = Arc::new(route);
        let known = Known { route: route.clone(), at: Instant::now(), is_default };
        let before = entry.known.write().replace(known);
        let lookup = entry.lookups.fetch_add(1, Ordering::AcqRel) + 1;
        if before.is_none_or(|before| before.route != route) {
            self.changes.send_modify(|count| *count += 1);
        }
        Ok(Routed { route, lookup })
    }

    async fn ask(&self, topic: &str) -> Result<TopicRoute, ClientError> {
        let header = RouteHeader { topic: topic.to_owned(), accept_standard_json_only: true };
        let request = Command::request(request::GET_ROUTEINFO_BY_TOPIC, header.to_ext());
        let (addr, answer) = self.name_servers.ask(&request).await?;
        let remark = answer.remark.unwrap_or_default();
        match answer.code {
            response::SUCCESS => {}
            response::TOPIC_NOT_EXIST => {
                return Err(ClientError::NoRoute { topic: topic.to_owned(), reason: remark });
            }
            code => {
                return Err(ClientError::NameServer {
                    reason: format!("{addr} answered code {code}: {remark}"),
                });
            }
        }
        let body: TopicRouteData = fastjson::parse(&answer.body).map_err(|error| {
            ClientError::NameServer { reason: format!("unreadable route from {addr}: {error}") }
        })?;
        Ok(TopicRoute::from_body(body))
    }
}

/// How often a client asks for the routes it knows, as the Java client does.
pub(crate) const REFRESH_EVERY: Duration = Duration::from_secs(30);

impl Entry {
    fn current(&self, for_sending: bool) -> Option<Routed> {
        // Read before the route: a lookup that finishes in between makes the number too old, never the route.
        let lookup = self.lookups.load(Ordering::Acquire);
        let known = self.known.read();
        let known = known.as_ref()?;
        let usable = !known.is_default || for_sending && known.at.elapsed() < DEFAULT_ROUTE_AGE_MAX;
        usable.then(|| Routed { route: known.route.clone(), lookup })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raftmq_remoting::body::{BrokerData, QueueData};

    fn route(perm: i32) -> TopicRoute {
        let queue = |name: &str, n| QueueData {
            broker_name: name.into(),
            perm,
            read_queue_nums: n,
            write_queue_nums: n,
            topic_sys_flag: 0,
        };
        let broker = |name: &str, id| BrokerData {
            broker_addrs: [(id, format!("{name}:1"))].into(),
            broker_name: name.into(),
            ..BrokerData::default()
        };
        TopicRoute::from_body(TopicRouteData {
            broker_datas: vec![broker("a", 0), broker("b", 2)],
            queue_datas: vec![queue("a", 2), queue("b", 1), queue("c", -5)],
            ..TopicRouteData::default()
        })
    }

    #[test]
    fn only_queues_with_a_leader_and_permission_are_written_to() {
        let both = route(perm::READ | perm::WRITE);
        assert_eq!(both.writable().collect::<Vec<_>>(), [("a", 0), ("a", 1)]);
        let picked: Vec<_> = (0..3).map(|n| both.nth_writable(n)).collect();
        assert_eq!(picked, [Some(("a", 0)), Some(("a", 1)), Some(("a", 0))]);
        assert_eq!(both.readable().collect::<Vec<_>>(), [("a", 0), ("a", 1), ("b", 0)]);
        assert_eq!((both.leader("a"), both.leader("b"), both.leader("c")), (Some("a:1"), None, None));
        assert_eq!(route(perm::READ).writable().count(), 0);
        assert_eq!(route(perm::READ).nth_writable(0), None);
        assert_eq!(route(perm::WRITE).readable().count(), 0);
    }

    #[test]
    fn a_new_topic_gets_no_more_queues_than_asked_for() {
        let default = route(perm::READ | perm::WRITE).for_new_topic(1);
        assert_eq!(default.writable().collect::<Vec<_>>(), [("a", 0)]);
    }
}
