//! What a name server knows: brokers, their addresses and topics. No sockets and no clock: both are passed in.
//!
//! A broker name stands for a group of members, each registered under an id of its own; 0 is the leader. Rules:
//! - An address has one id in a group: registering it under another removes the old one. So a change of roles is one
//!   registration of each member.
//! - Only the leader says which topics there are. A registration names all of them, or what has changed since the one before
//!   and what is gone; that is taken only where that one is known. One that says nothing of the others lets them stay.
//! - A leader of an older term than the group's is refused: it does not know yet that it was replaced.
//! - So is what a member has said before something newer that came sooner, on another connection.
//! - A member is forgotten when it has been silent for its time limit, and at once when the connection ends that it
//!   registered on. With the leader its term is forgotten, with the last member the group and its topics.
//! - While a group has no leader, the member with the lowest id stands in for it if it has said that it may: it passes
//!   on what only a leader can do, and clients drop brokers that have no leader from their routes.

use std::collections::{BTreeMap, BTreeSet};

use raftmq_remoting::body::{
    BrokerData, ClusterInfo, DataVersion, QueueData, TopicConfig, TopicRouteData, perm,
};

/// The id a leader registers under.
pub(crate) const LEADER_ID: i64 = 0;
/// Queues of a topic on a broker. RocketMQ's own benchmark topic has 1024.
const QUEUES_MAX: i32 = 65_536;
/// Bytes of a name or an address.
const NAME_BYTES_MAX: usize = 255;

/// How much a table holds at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TableLimits {
    /// Broker names.
    pub(crate) groups: usize,
    /// Members of each.
    pub(crate) members: usize,
    /// Topics of each.
    pub(crate) topics: usize,
}

/// Why a registration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TableError {
    #[error("{what} of {len} bytes; at least 1 and at most {NAME_BYTES_MAX} are allowed")]
    Name { what: &'static str, len: usize },
    #[error("broker id {0} is negative")]
    NegativeId(i64),
    #[error("broker {broker} belongs to cluster {expected}, not to {found}")]
    Cluster { broker: String, expected: String, found: String },
    #[error("{addr} says it leads {broker} in term {found}, but that had a leader of term {known}")]
    StaleTerm { addr: String, broker: String, found: i64, known: i64 },
    #[error("{addr} has told newer things of itself in {broker} before")]
    Stale { addr: String, broker: String },
    #[error("{addr} tells changes to what it has not registered in {broker}: it is to register everything")]
    UnknownBefore { addr: String, broker: String },
    #[error("topic {topic:?} has {what} {found}; 0 to {QUEUES_MAX} are allowed")]
    Queues { topic: String, what: &'static str, found: i32 },
    #[error("no room for another of the {what}: {limit} are the limit")]
    Full { what: &'static str, limit: usize },
}

/// What a broker says of itself.
#[derive(Clone, Debug)]
pub(crate) struct Registration {
    pub(crate) cluster: String,
    pub(crate) broker: String,
    pub(crate) id: i64,
    pub(crate) addr: String,
    pub(crate) ha_addr: String,
    pub(crate) version: DataVersion,
    pub(crate) topics: BTreeMap<String, TopicConfig>,
    pub(crate) others: Others,
    /// It may stand in for a missing leader.
    pub(crate) may_stand_in: bool,
    /// How long it may be silent.
    pub(crate) timeout_ms: u64,
}

/// What a registration says of the topics that it does not name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Others {
    /// There are none.
    Gone,
    /// Nothing. RocketMQ's brokers say as much when they register a new topic.
    Unknown,
    /// They are as the registration with this version said, but for those deleted since.
    Since(DataVersion, Vec<String>),
}

/// Addresses of a group's leader, told to the other members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leader {
    pub(crate) addr: String,
    pub(crate) ha_addr: String,
}

/// The table. Times are in ms of any clock that does not go backwards.
#[derive(Debug)]
pub(crate) struct Table {
    limits: TableLimits,
    /// By broker name.
    groups: BTreeMap<String, Group>,
}

#[derive(Debug)]
struct Group {
    cluster: String,
    /// By id. Never empty.
    members: BTreeMap<i64, Member>,
    topics: BTreeMap<String, Queues>,
    /// The term the leader has registered with; it stays when that one registers under another id. 0 if none is known.
    leader_term: i64,
    /// Whether producers are kept away.
    write_wiped: bool,
}

#[derive(Debug)]
struct Member {
    addr: String,
    ha_addr: String,
    version: DataVersion,
    may_stand_in: bool,
    connection: u64,
    seen_ms: u64,
    timeout_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Queues {
    perm: i32,
    read: i32,
    write: i32,
    sys_flag: i32,
}

impl Table {
    pub(crate) fn new(limits: TableLimits) -> Self {
        Self { limits, groups: BTreeMap::new() }
    }

    /// Takes up a registration that came on `connection`. A refused one changes nothing.
    pub(crate) fn register(
        &mut self,
        now_ms: u64,
        connection: u64,
        registration: Registration,
    ) -> Result<(), TableError> {
        let topics = self.check(&registration)?;
        let Registration {
            cluster,
            broker,
            id,
            addr,
            ha_addr,
            version,
            others,
            may_stand_in,
            timeout_ms,
            ..
        } = registration;
        let group = self.groups.entry(broker).or_insert_with(|| Group {
            cluster,
            members: BTreeMap::new(),
            topics: BTreeMap::new(),
            leader_term: 0,
            write_wiped: false,
        });
        group.members.retain(|other, member| *other == id || member.addr != addr);
        let member = Member { addr, ha_addr, version, may_stand_in, connection, seen_ms: now_ms, timeout_ms };
        group.members.insert(id, member);
        if id == LEADER_ID {
            group.leader_term = version.state_version;
            group.take(topics, others);
        }
        Ok(())
    }

    /// The topics of a registration that is in order.
    fn check(&self, registration: &Registration) -> Result<BTreeMap<String, Queues>, TableError> {
        let Registration { cluster, broker, id, addr, version, topics, others, .. } = registration;
        for (what, text) in [("cluster name", cluster), ("broker name", broker), ("broker address", addr)] {
            check_name(what, text)?;
        }
        if *id < 0 {
            return Err(TableError::NegativeId(*id));
        }
        match self.groups.get(broker) {
            Some(group) => self.check_group(group, registration)?,
            None if self.groups.len() >= self.limits.groups => {
                return Err(TableError::Full { what: "broker names", limit: self.limits.groups });
            }
            None => {}
        }
        // Only a leader's topics count.
        if *id != LEADER_ID {
            return Ok(BTreeMap::new());
        }
        let group = self.groups.get(broker);
        if let Some(group) = group
            && version.state_version < group.leader_term
        {
            let (addr, broker) = (addr.clone(), broker.clone());
            let (found, known) = (version.state_version, group.leader_term);
            return Err(TableError::StaleTerm { addr, broker, found, known });
        }
        if let Others::Since(before, _) = others
            && group.and_then(Group::leader).is_none_or(|m| (&m.addr, &m.version) != (addr, before))
        {
            let (addr, broker) = (addr.clone(), broker.clone());
            return Err(TableError::UnknownBefore { addr, broker });
        }
        let stay = group.filter(|_| *others != Others::Gone);
        let staying = stay.map_or(0, |group| group.topics.len());
        let new = topics.keys().filter(|topic| stay.is_none_or(|group| !group.topics.contains_key(*topic)));
        if staying + new.count() > self.limits.topics {
            return Err(TableError::Full { what: "topics of a broker", limit: self.limits.topics });
        }
        topics.iter().map(|(topic, config)| Ok((topic.clone(), Queues::read(topic, config)?))).collect()
    }

    fn check_group(&self, group: &Group, registration: &Registration) -> Result<(), TableError> {
        if group.cluster != registration.cluster {
            return Err(TableError::Cluster {
                broker: registration.broker.clone(),
                expected: group.cluster.clone(),
                found: registration.cluster.clone(),
            });
        }
        let age = |version: &DataVersion| (version.state_version, version.timestamp);
        let stored = group.members.values().find(|member| member.addr == registration.addr);
        if stored.is_some_and(|stored| age(&stored.version) > age(&registration.version)) {
            let (addr, broker) = (registration.addr.clone(), registration.broker.clone());
            return Err(TableError::Stale { addr, broker });
        }
        let known = group.members.iter().any(|(id, m)| *id == registration.id || m.addr == registration.addr);
        if !known && group.members.len() >= self.limits.members {
            return Err(TableError::Full { what: "members of a broker name", limit: self.limits.members });
        }
        Ok(())
    }

    /// Forgets a member that says it leaves, if it is still registered so.
    pub(crate) fn unregister(&mut self, broker: &str, id: i64, addr: &str) {
        self.forget(|name, member_id, member| name == broker && member_id == id && member.addr == addr);
    }

    /// Forgets the members whose registrations came on a connection that has ended.
    pub(crate) fn connection_closed(&mut self, connection: u64) {
        self.forget(|_, _, member| member.connection == connection);
    }

    /// Forgets the members that have been silent for too long.
    pub(crate) fn expire(&mut self, now_ms: u64) {
        self.forget(|_, _, member| member.seen_ms.saturating_add(member.timeout_ms) < now_ms);
    }

    fn forget(&mut self, which: impl Fn(&str, i64, &Member) -> bool) {
        self.groups.retain(|name, group| {
            group.members.retain(|id, member| {
                let forgotten = which(name, *id, member);
                if forgotten {
                    if *id == LEADER_ID {
                        // Otherwise a group that was set up anew, at term 1, would have no leader here.
                        group.leader_term = 0;
                    }
                    tracing::info!(broker = name, id, addr = member.addr, "broker gone");
                }
                !forgotten
            });
            !group.members.is_empty()
        });
    }

    /// Notes that a member lives. False if it is not registered.
    pub(crate) fn touch(&mut self, now_ms: u64, broker: &str, addr: &str) -> bool {
        let members = self.groups.get_mut(broker).into_iter().flat_map(|group| group.members.values_mut());
        members.filter(|member| member.addr == addr).map(|member| member.seen_ms = now_ms).count() > 0
    }

    /// The data version a member has last registered with.
    pub(crate) fn version(&self, broker: &str, addr: &str) -> Option<DataVersion> {
        let member = self.groups.get(broker)?.members.values().find(|member| member.addr == addr)?;
        Some(member.version)
    }

    /// The leader of a group.
    pub(crate) fn leader(&self, broker: &str) -> Option<Leader> {
        let member = self.groups.get(broker)?.leader()?;
        Some(Leader { addr: member.addr.clone(), ha_addr: member.ha_addr.clone() })
    }

    /// Where a topic lives, if it does. The order of queues is left to the caller.
    pub(crate) fn route(&self, topic: &str) -> Option<TopicRouteData> {
        let mut route = TopicRouteData::default();
        for (name, group) in &self.groups {
            if let Some(queues) = group.topics.get(topic) {
                route.queue_datas.push(queues.data(name, group.write_wiped));
                route.broker_datas.push(group.data(name));
            }
        }
        (!route.queue_datas.is_empty()).then_some(route)
    }

    /// Every broker and cluster.
    pub(crate) fn cluster_info(&self) -> ClusterInfo {
        let mut info = ClusterInfo::default();
        for (name, group) in &self.groups {
            info.broker_addr_table.insert(name.clone(), group.data(name));
            info.cluster_addr_table.entry(group.cluster.clone()).or_default().insert(name.clone());
        }
        info
    }

    /// The members of one broker name.
    pub(crate) fn members(&self, broker: &str) -> Option<BrokerData> {
        Some(self.groups.get(broker)?.data(broker))
    }

    /// Topics of a cluster or of all, whose flags a test likes.
    pub(crate) fn topics(&self, cluster: Option<&str>, likes: impl Fn(i32) -> bool) -> BTreeSet<String> {
        let groups =
            self.groups.values().filter(|group| cluster.is_none_or(|cluster| group.cluster == cluster));
        let topics = groups.flat_map(|group| &group.topics);
        topics.filter(|(_, queues)| likes(queues.sys_flag)).map(|(topic, _)| topic.clone()).collect()
    }

    /// Some member's address.
    pub(crate) fn any_addr(&self) -> Option<String> {
        let members = self.groups.values().flat_map(|group| group.members.values());
        members.map(|member| member.addr.clone()).next()
    }

    /// Forgets a topic in a cluster or in all, until a leader names it again.
    pub(crate) fn delete_topic(&mut self, topic: &str, cluster: Option<&str>) {
        for group in self.groups.values_mut() {
            if cluster.is_none_or(|cluster| group.cluster == cluster) {
                group.topics.remove(topic);
            }
        }
    }

    /// Keeps producers away from a broker name or lets them back. Returns how many topics it has.
    pub(crate) fn wipe_write(&mut self, broker: &str, wiped: bool) -> usize {
        self.groups.get_mut(broker).map_or(0, |group| {
            group.write_wiped = wiped;
            group.topics.len()
        })
    }
}

impl Group {
    fn leader(&self) -> Option<&Member> {
        self.members.get(&LEADER_ID)
    }

    /// Takes in the topics that the leader names.
    fn take(&mut self, named: BTreeMap<String, Queues>, others: Others) {
        match others {
            Others::Gone => self.topics = named,
            Others::Unknown => self.topics.extend(named),
            Others::Since(_, deleted) => {
                self.topics.extend(named);
                for topic in &deleted {
                    self.topics.remove(topic);
                }
            }
        }
    }

    fn data(&self, name: &str) -> BrokerData {
        let mut addrs: BTreeMap<_, _> =
            self.members.iter().map(|(id, member)| (*id, member.addr.clone())).collect();
        if let Some((id, lowest)) = self.members.first_key_value()
            && *id != LEADER_ID
            && lowest.may_stand_in
        {
            addrs.remove(id);
            addrs.insert(LEADER_ID, lowest.addr.clone());
        }
        BrokerData {
            broker_addrs: addrs,
            broker_name: name.to_owned(),
            cluster: self.cluster.clone(),
            enable_acting_master: false,
        }
    }
}

impl Queues {
    fn read(topic: &str, config: &TopicConfig) -> Result<Self, TableError> {
        check_name("topic name", topic)?;
        let counts = [("read queues", config.read_queue_nums), ("write queues", config.write_queue_nums)];
        for (what, found) in counts {
            if !(0..=QUEUES_MAX).contains(&found) {
                return Err(TableError::Queues { topic: topic.to_owned(), what, found });
            }
        }
        Ok(Self {
            perm: config.perm,
            read: config.read_queue_nums,
            write: config.write_queue_nums,
            sys_flag: config.topic_sys_flag,
        })
    }

    fn data(&self, broker: &str, write_wiped: bool) -> QueueData {
        QueueData {
            broker_name: broker.to_owned(),
            perm: if write_wiped { self.perm & !perm::WRITE } else { self.perm },
            read_queue_nums: self.read,
            topic_sys_flag: self.sys_flag,
            write_queue_nums: self.write,
        }
    }
}

fn check_name(what: &'static str, text: &str) -> Result<(), TableError> {
    if text.is_empty() || text.len() > NAME_BYTES_MAX {
        return Err(TableError::Name { what, len: text.len() });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
