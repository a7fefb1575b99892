//! Producers and consumers as their heartbeats describe them: who is in which group, over which connection, and what
//! consumer groups subscribe to.
//!
//! A member is a connection, and the client id a name that it goes by: a process that takes over the id of another is a
//! member of its own, beside the other and after it.
//!
//! It decides nothing about groups' settings and sends nothing; its methods say which groups have to be told of a
//! change.

mod data;
mod group;

use raftmq_world::hash::{HashMap, HashSet};
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{Error, Full};
use crate::limits::{CLIENT_EXPIRY, Limits, OPERATIONS_PER_GROUP_MAX};
use group::{Change, ConsumerGroup, Member, Members, fingerprint};
use parking_lot::Mutex;

pub use data::{
    Client, Connection, ConsumeFromWhere, ConsumeType, ConsumerData, Consumption, MessageModel, Subscription,
};
pub use group::Wants;

/// The members of all groups.
pub struct Clients<C: Connection> {
    tables: Mutex<Tables<C>>,
    groups_max: usize,
    clients_per_group_max: usize,
    memberships_max: usize,
    memberships_per_connection_max: usize,
    subscription_bytes_max: usize,
}

struct Tables<C: Connection> {
    producers: HashMap<String, Members<C>>,
    consumers: HashMap<String, ConsumerGroup<C>>,
    /// The memberships of each connection.
    by_connection: HashMap<u64, HashSet<Membership>>,
    /// How many memberships there are.
    memberships: usize,
    /// Bytes of memory of all subscriptions.
    subscription_bytes: usize,
}

/// What a member's heartbeat means to its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The members have to be told.
    pub is_to_be_told: bool,
    /// The group wants other messages of a topic than before.
    pub is_refiltered: bool,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Membership {
    is_consumer: bool,
    group: String,
}

impl<C: Connection> Default for Tables<C> {
    fn default() -> Self {
        Self {
            producers: HashMap::default(),
            consumers: HashMap::default(),
            by_connection: HashMap::default(),
            memberships: 0,
            subscription_bytes: 0,
        }
    }
}

impl<C: Connection> Clients<C> {
    pub fn new(limits: &Limits) -> Self {
        Self {
            tables: Mutex::default(),
            groups_max: limits.groups,
            clients_per_group_max: limits.clients_per_group,
            memberships_max: limits.memberships,
            memberships_per_connection_max: limits.memberships_per_connection,
            subscription_bytes_max: limits.subscription_bytes,
        }
    }

    /// A client is a producer of a group.
    pub fn producer(&self, group: &str, client: &Client<C>, now_ms: u64) -> Result<(), Error> {
        let mut tables = self.tables.lock();
        if !tables.producers.contains_key(group) && tables.producers.len() >= self.groups_max {
            return Err(Full::ProducerGroups(self.groups_max).into());
        }
        let membership = Membership { is_consumer: false, group: group.to_owned() };
        self.check_room(&tables, &membership, client.connection.id())?;
        let members = tables.producers.entry(group.to_owned()).or_default();
        let before = join(members, client, now_ms, self.clients_per_group_max)?;
        tables.follow(membership, client, before.is_none());
        Ok(())
    }

    /// A client is a member of a consumer group. A heartbeat without subscriptions leaves them as they are.
    pub fn consumer(
        &self,
        data: &ConsumerData,
        without_subscriptions: bool,
        client: &Client<C>,
        now_ms: u64,
    ) -> Result<Joined, Error> {
        let group_name = &data.group;
        let mut tables = self.tables.lock();
        if !tables.consumers.contains_key(group_name) && tables.consumers.len() >= self.groups_max {
            return Err(Full::ConsumerGroups(self.groups_max).into());
        }
        let membership = Membership { is_consumer: true, group: group_name.clone() };
        self.check_room(&tables, &membership, client.connection.id())?;
        let change = match without_subscriptions {
            true => None,
            false => Some(self.change(&tables, data)?),
        };
        let mut subscription_bytes = tables.subscription_bytes;
        let group = tables.consumers.entry(group_name.clone()).or_default();
        let before = join(&mut group.members, client, now_ms, self.clients_per_group_max)?;
        group.consumption = data.consumption;
        let known = before.as_ref().and_then(|member| member.fingerprint);
        let fingerprint = if without_subscriptions { known } else { Some(fingerprint(data)) };
        group.identify(group_name, client.connection.id(), known, fingerprint);
        let is_refiltered = change.as_ref().is_some_and(|change| change.is_refiltered);
        let subscriptions_changed = change.is_some_and(|change| {
            subscription_bytes = subscription_bytes - group.memory_bytes + change.memory_bytes;
            group.subscribe(&data.subscriptions, change)
        });
        let is_known = before.as_ref().is_some_and(|member| member.client.id == client.id);
        let is_to_be_told = (!is_known || subscriptions_changed) && group.shares();
        tables.subscription_bytes = subscription_bytes;
        tables.follow(membership, client, before.is_none());
        Ok(Joined { is_to_be_told, is_refiltered })
    }

    /// What a heartbeat changes in its group's subscriptions, if there is room for that.
    fn change(&self, tables: &Tables<C>, data: &ConsumerData) -> Result<Change, Error> {
        let none = ConsumerGroup::default();
        let group = tables.consumers.get(&data.group).unwrap_or(&none);
        let change = group.change(&data.subscriptions);
        if change.operations > OPERATIONS_PER_GROUP_MAX {
            return Err(Error::TooManyOperations(change.operations));
        }
        let total = tables.subscription_bytes - group.memory_bytes + change.memory_bytes;
        if total > self.subscription_bytes_max && change.memory_bytes > group.memory_bytes {
            return Err(Full::SubscriptionBytes(self.subscription_bytes_max).into());
        }
        Ok(change)
    }

    /// Whether a membership may begin or go on over this connection.
    fn check_room(&self, tables: &Tables<C>, membership: &Membership, connection: u64) -> Result<(), Error> {
        let of_connection = tables.by_connection.get(&connection);
        if of_connection.is_some_and(|known| known.contains(membership)) {
            return Ok(());
        }
        if tables.memberships >= self.memberships_max {
            return Err(Full::Memberships(self.memberships_max).into());
        }
        let max = self.memberships_per_connection_max;
        if of_connection.is_some_and(|known| known.len() >= max) {
            return Err(Full::MembershipsOfConnection(max).into());
        }
        Ok(())
    }

    /// A connection leaves a producer group, a consumer group, or both. Returns whether the consumer group has to be
    /// told.
    pub fn leave(&self, connection: u64, producer: Option<&str>, consumer: Option<&str>) -> bool {
        let mut tables = self.tables.lock();
        if let Some(group) = producer {
            tables.remove(connection, &Membership { is_consumer: false, group: group.to_owned() });
        }
        consumer.is_some_and(|group| {
            tables.remove(connection, &Membership { is_consumer: true, group: group.to_owned() })
        })
    }

    /// A connection has ended. Returns the consumer groups that have to be told.
    pub fn connection_closed(&self, connection: u64) -> Vec<String> {
        let mut tables = self.tables.lock();
        let memberships = tables.by_connection.remove(&connection).unwrap_or_default();
        tables.remove_all(memberships.into_iter().map(|membership| (connection, membership)))
    }

    /// Removes who has not been heard of for too long. Returns the consumer groups that have to be told.
    pub fn expire(&self, now_ms: u64) -> Vec<String> {
        let mut tables = self.tables.lock();
        let silent = tables.silent_since(now_ms.saturating_sub(CLIENT_EXPIRY.as_millis() as u64));
        tables.remove_all(silent)
    }

    /// The connections of a consumer group's members.
    pub fn consumer_connections(&self, group: &str) -> Vec<Arc<C>> {
        let tables = self.tables.lock();
        let members = tables.consumers.get(group).map(|group| group.members.values());
        members.into_iter().flatten().map(|member| member.client.connection.clone()).collect()
    }

    /// Client ids of a consumer group whose members subscribe differently, those together that do the same; none where
    /// all agree. An id that several members go by may be on several sides.
    pub fn conflicts(&self, group: &str) -> Vec<Vec<String>> {
        let tables = self.tables.lock();
        let conflicting = tables.consumers.get(group).filter(|group| group.fingerprints.len() > 1);
        let mut parties: HashMap<u64, Vec<String>> = HashMap::default();
        for member in conflicting.into_iter().flat_map(|group| group.members.values()) {
            if let Some(fingerprint) = member.fingerprint {
                parties.entry(fingerprint).or_default().push(member.client.id.to_string());
            }
        }
        let mut parties: Vec<_> = parties.into_values().collect();
        for party in &mut parties {
            party.sort_unstable();
            party.dedup();
        }
        parties.sort_unstable();
        parties
    }

    /// Client ids of a consumer group, one for each member.
    pub fn consumer_ids(&self, group: &str) -> Vec<String> {
        let tables = self.tables.lock();
        let members = tables.consumers.get(group).map(|group| group.members.values());
        members.into_iter().flatten().map(|member| member.client.id.to_string()).collect()
    }

    /// The newest member of a consumer group that goes by a client id.
    pub fn consumer_client(&self, group: &str, id: &str) -> Option<Client<C>> {
        let tables = self.tables.lock();
        tables.consumers.get(group)?.newest(id).map(|member| member.client.clone())
    }

    /// The member of a consumer group that a connection is, and how the group consumes, without its subscriptions.
    pub fn member(&self, group: &str, connection: u64) -> Option<(Client<C>, ConsumerData)> {
        let tables = self.tables.lock();
        let known = tables.consumers.get(group)?;
        let data = ConsumerData {
            group: group.to_owned(),
            consumption: known.consumption,
            ..ConsumerData::default()
        };
        Some((known.members.get(&connection)?.client.clone(), data))
    }

    /// The version of a consumer group's subscription to a topic.
    pub fn subscription_version(&self, group: &str, topic: &str) -> Option<i64> {
        let tables = self.tables.lock();
        tables.consumers.get(group)?.subscriptions.get(topic).map(|known| known.data.version)
    }

    /// Whether a member of a consumer group goes by a client id over a newer connection than this one.
    pub fn is_succeeded(&self, group: &str, id: &str, connection: u64) -> bool {
        let tables = self.tables.lock();
        let newest = tables.consumers.get(group).and_then(|group| group.newest(id));
        newest.is_some_and(|member| member.client.connection.id() > connection)
    }

    /// The members of a consumer group; of those that go by one client id the newest.
    pub fn consumer_clients(&self, group: &str) -> Vec<Client<C>> {
        let tables = self.tables.lock();
        let members = tables.consumers.get(group).map(|group| group.members.values());
        let clients = members.into_iter().flatten().map(|member| &member.client);
        // The oldest come first, and the newer take their places.
        let newest: BTreeMap<_, _> = clients.map(|client| (&client.id, client)).collect();
        newest.into_values().cloned().collect()
    }

    /// Consumer groups whose members subscribe to a topic.
    pub fn groups_subscribing(&self, topic: &str) -> Vec<String> {
        let tables = self.tables.lock();
        let groups = tables.consumers.iter().filter(|(_, group)| group.subscriptions.contains_key(topic));
        groups.map(|(name, _)| name.clone()).collect()
    }

    /// What a consumer group wants of a topic.
    pub fn subscription(&self, group: &str, topic: &str) -> Option<Subscription> {
        let tables = self.tables.lock();
        tables.consumers.get(group)?.subscriptions.get(topic).map(|known| known.data.clone())
    }

    /// How many producers there are in all groups.
    pub fn producer_count(&self) -> usize {
        self.tables.lock().producers.values().map(BTreeMap::len).sum()
    }

    /// Every producer with its group and the time of the node's clock at which it was last heard of.
    pub fn producers(&self) -> Vec<(String, Client<C>, u64)> {
        let tables = self.tables.lock();
        let of_group = |(group, members): (&String, &Members<C>)| {
            let known = |member: &Member<C>| (group.clone(), member.client.clone(), member.heard_ms);
            members.values().map(known).collect::<Vec<_>>()
        };
        tables.producers.iter().flat_map(of_group).collect()
    }

    /// What a consumer group wants of a topic; `None` where it has no members.
    pub fn wants(&self, group: &str, topic: &str) -> Option<Wants> {
        let tables = self.tables.lock();
        let group = tables.consumers.get(group)?;
        let known = group.subscriptions.get(topic);
        Some(Wants {
            broadcasting: group.consumption.model == MessageModel::Broadcasting,
            topic: known.map(|known| (known.data.version, known.filter.clone())),
        })
    }

    /// Names of consumer groups with members.
    pub fn consumer_groups(&self) -> Vec<String> {
        self.tables.lock().consumers.keys().cloned().collect()
    }

    /// How many groups of producers and of consumers have members.
    pub fn group_counts(&self) -> (usize, usize) {
        let tables = self.tables.lock();
        (tables.producers.len(), tables.consumers.len())
    }

    /// Topics that a consumer group subscribes to.
    pub fn subscribed_topics(&self, group: &str) -> Vec<String> {
        let tables = self.tables.lock();
        tables
            .consumers
            .get(group)
            .map(|group| group.subscriptions.keys().cloned().collect())
            .unwrap_or_default()
    }

    /// The members of a producer group, `None` where it has none.
    pub fn producer_group(&self, group: &str) -> Option<Vec<Client<C>>> {
        self.tables.lock().producers.get(group).map(clients_of)
    }

    /// A consumer group, `None` where it has no members.
    pub fn consumer_group(&self, group: &str) -> Option<ConsumersOfGroup<C>> {
        let tables = self.tables.lock();
        let group = tables.consumers.get(group)?;
        let subscriptions = group.subscriptions.values().map(|known| known.data.clone());
        let mut subscriptions: Vec<_> = subscriptions.collect();
        subscriptions.sort_by(|a, b| a.topic.cmp(&b.topic));
        Some(ConsumersOfGroup {
            clients: clients_of(&group.members),
            consumption: group.consumption,
            subscriptions,
        })
    }
}

/// The members of a consumer group and what they want.
#[derive(Debug)]
pub struct ConsumersOfGroup<C> {
    /// Its members, the oldest connection first.
    pub clients: Vec<Client<C>>,
    /// How it consumes.
    pub consumption: Consumption,
    /// What it subscribes to, by topic.
    pub subscriptions: Vec<Subscription>,
}

fn clients_of<C: Connection>(members: &Members<C>) -> Vec<Client<C>> {
    members.values().map(|member| member.client.clone()).collect()
}

/// Adds or renews a member; returns what it was before.
fn join<C: Connection>(
    members: &mut Members<C>,
    client: &Client<C>,
    now_ms: u64,
    max: usize,
) -> Result<Option<Member<C>>, Error> {
    let connection = client.connection.id();
    if !members.contains_key(&connection) && members.len() >= max {
        return Err(Full::ClientsOfGroup(max).into());
    }
    let member = Member { client: client.clone(), heard_ms: now_ms, fingerprint: None };
    Ok(members.insert(connection, member))
}

impl<C: Connection> Tables<C> {
    /// Notes a membership with its connection.
    fn follow(&mut self, membership: Membership, client: &Client<C>, is_new: bool) {
        let connection = client.connection.id();
        self.memberships += usize::from(is_new);
        // An ended connection's memberships are not taken out a second time.
        if client.connection.is_closed() {
            self.remove(connection, &membership);
            return;
        }
        self.by_connection.entry(connection).or_default().insert(membership);
    }

    fn forget(&mut self, connection: u64, membership: &Membership) {
        if let Some(memberships) = self.by_connection.get_mut(&connection) {
            memberships.remove(membership);
            if memberships.is_empty() {
                self.by_connection.remove(&connection);
            }
        }
    }

    /// Ends memberships, given with their connections; returns the consumer groups that have to be told.
    fn remove_all(&mut self, memberships: impl IntoIterator<Item = (u64, Membership)>) -> Vec<String> {
        let told =
            memberships.into_iter().filter(|(connection, membership)| self.remove(*connection, membership));
        told.map(|(_, membership)| membership.group).collect()
    }

    /// Ends a membership of a connection; returns whether its group has to be told.
    fn remove(&mut self, connection: u64, membership: &Membership) -> bool {
        let Membership { is_consumer, group: name } = membership;
        let members = if *is_consumer {
            self.consumers.get_mut(name).map(|group| &mut group.members)
        } else {
            self.producers.get_mut(name)
        };
        let Some(removed) = members.and_then(|members| members.remove(&connection)) else { return false };
        self.memberships -= 1;
        self.forget(connection, membership);
        if !is_consumer {
            if self.producers.get(name).is_some_and(BTreeMap::is_empty) {
                self.producers.remove(name);
            }
            return false;
        }
        let Some(group) = self.consumers.get_mut(name) else { return false };
        group.forget_fingerprint(name, removed.fingerprint);
        let tell = group.shares();
        if group.members.is_empty() {
            self.subscription_bytes -= group.memory_bytes;
            self.consumers.remove(name);
        }
        tell
    }

    fn silent_since(&self, before_ms: u64) -> Vec<(u64, Membership)> {
        let of = |is_consumer: bool, group: &String, members: &Members<C>| {
            let silent = members.iter().filter(|(_, member)| member.heard_ms < before_ms);
            silent
                .map(|(connection, _)| (*connection, Membership { is_consumer, group: group.clone() }))
                .collect::<Vec<_>>()
        };
        let producers = self.producers.iter().flat_map(|(name, members)| of(false, name, members));
        let consumers = self.consumers.iter().flat_map(|(name, group)| of(true, name, &group.members));
        producers.chain(consumers).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Filter;
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicBool, Ordering};

    struct Nowhere {
        id: u64,
        closed: AtomicBool,
    }

    impl Nowhere {
        fn close(&self) {
            self.closed.store(true, Ordering::Relaxed);
        }
    }

    impl Connection for Nowhere {
        fn id(&self) -> u64 {
            self.id
        }
        fn address(&self) -> SocketAddr {
            ([127, 0, 0, 1], 1).into()
        }
        fn is_closed(&self) -> bool {
            self.closed.load(Ordering::Relaxed)
        }
    }

    fn client(id: &str, connection: u64) -> Client<Nowhere> {
        let connection = Arc::new(Nowhere { id: connection, closed: AtomicBool::new(false) });
        Client { id: id.into(), connection, language: "JAVA", version: 493 }
    }

    fn data(group: &str, subscriptions: &[(&str, i64, &str)]) -> ConsumerData {
        let subscription = |(topic, version, tag): &(&str, i64, &str)| Subscription {
            topic: (*topic).to_owned(),
            version: *version,
            expression: (*tag).to_owned(),
            ..Subscription::default()
        };
        ConsumerData {
            group: group.to_owned(),
            subscriptions: subscriptions.iter().map(subscription).collect(),
            ..ConsumerData::default()
        }
    }

    fn broadcasting(mut data: ConsumerData) -> ConsumerData {
        data.consumption.model = MessageModel::Broadcasting;
        data
    }

    fn clients() -> Clients<Nowhere> {
        Clients::new(&Limits { groups: 2, clients_per_group: 2, ..Limits::default() })
    }

    #[test]
    fn members_are_told_of_every_change_and_of_nothing_else() {
        let clients = clients();
        let data = data("g", &[("t", 1, "*")]);
        let beat =
            |client: &Client<Nowhere>, at| clients.consumer(&data, false, client, at).unwrap().is_to_be_told;
        let connections =
            || clients.consumer_connections("g").iter().map(|connection| connection.id()).collect::<Vec<_>>();
        let (a, b) = (client("a", 1), client("b", 2));
        assert!(beat(&a, 0));
        assert!(!beat(&a, 1));
        assert!(beat(&b, 1));
        assert_eq!(clients.consumer_ids("g"), ["a", "b"]);
        assert!(beat(&client("c", 2), 2), "its name has changed");
        assert_eq!(clients.consumer_ids("g"), ["a", "c"]);
        assert!(!clients.leave(3, None, Some("g")), "who is no member");
        assert_eq!(clients.connection_closed(1), ["g"]);
        assert!(beat(&client("a", 3), 2));
        assert_eq!(connections(), [2, 3]);
        assert!(clients.leave(2, None, Some("g")));
        assert_eq!(connections(), [3]);
        assert!(clients.connection_closed(3).is_empty(), "nobody is left to be told");
        assert!(clients.consumer_ids("g").is_empty());
        assert!(clients.tables.lock().by_connection.is_empty());
    }

    #[test]
    fn members_of_a_broadcast_group_are_not_told() {
        let clients = clients();
        let data = broadcasting(data("g", &[("t", 1, "*")]));
        for (id, connection) in [("a", 1), ("b", 2)] {
            let joined = clients.consumer(&data, false, &client(id, connection), 0).unwrap();
            assert!(!joined.is_to_be_told);
        }
        assert!(clients.wants("g", "t").unwrap().broadcasting);
        assert!(!clients.leave(1, None, Some("g")));
    }

    #[test]
    fn who_takes_over_a_client_id_is_a_member_of_its_own() {
        let clients = Clients::<Nowhere>::new(&Limits::default());
        let (old, new) = (client("a", 1), client("a", 2));
        let found = || clients.consumer_client("g", "a").map(|client| client.connection.id());
        let beat = |client, subs: &[(&str, i64, &str)]| {
            clients.producer("p", client, 0).unwrap();
            clients.consumer(&data("g", subs), false, client, 0).unwrap().is_to_be_told
        };
        assert!(beat(&old, &[("t", 1, "A")]));
        assert!(beat(&new, &[("t", 2, "B")]));
        assert!(!beat(&old, &[("t", 1, "A")]), "neither is new with its next heartbeat");
        assert_eq!(clients.consumer_ids("g"), ["a", "a"]);
        assert_eq!(clients.consumer_group("g").unwrap().clients.len(), 2);
        assert_eq!((clients.producer_group("p").unwrap().len(), clients.producer_count()), (2, 2));
        assert_eq!(clients.conflicts("g"), [["a"], ["a"]]);
        assert_eq!((found(), clients.consumer_clients("g").len()), (Some(2), 1));
        assert!(clients.is_succeeded("g", "a", 1) && !clients.is_succeeded("g", "a", 2));
        new.connection.close();
        assert_eq!(found(), Some(1), "whom nobody can ask any more is passed over");

        assert!(clients.leave(1, Some("p"), Some("g")));
        assert!(clients.connection_closed(1).is_empty(), "it has left");
        assert_eq!(clients.consumer_ids("g"), ["a"]);
        assert_eq!(clients.producer_group("p").unwrap().len(), 1);
        assert!(clients.conflicts("g").is_empty());
        clients.connection_closed(2);
        assert_eq!((clients.group_counts(), clients.tables.lock().memberships), ((0, 0), 0));
    }

    #[test]
    fn of_two_that_go_by_one_id_only_the_silent_one_expires() {
        let clients = clients();
        let expiry = CLIENT_EXPIRY.as_millis() as u64;
        for (connection, at) in [(1, 1000), (2, 2000)] {
            clients.consumer(&data("g", &[]), false, &client("a", connection), at).unwrap();
        }
        assert_eq!(clients.expire(1001 + expiry), ["g"]);
        let left = clients.consumer_connections("g");
        assert_eq!(left.iter().map(|connection| connection.id()).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn silent_clients_expire() {
        let clients = clients();
        let (a, b) = (client("a", 1), client("b", 2));
        let expiry = CLIENT_EXPIRY.as_millis() as u64;
        clients.consumer(&data("g", &[]), false, &a, 1000).unwrap();
        clients.consumer(&data("g", &[]), false, &b, 2000).unwrap();
        clients.producer("p", &a, 1000).unwrap();
        assert!(clients.expire(1000 + expiry).is_empty());
        assert_eq!(clients.expire(1001 + expiry), ["g"]);
        assert_eq!((clients.consumer_ids("g"), clients.group_counts()), (vec!["b".to_owned()], (0, 1)));
    }

    #[test]
    fn newer_subscriptions_replace_older_ones_and_missing_ones_go() {
        let clients = clients();
        let a = client("a", 1);
        let joined = |subs: &[(&str, i64, &str)]| clients.consumer(&data("g", subs), false, &a, 0).unwrap();
        let beat = |subs: &[(&str, i64, &str)]| joined(subs).is_to_be_told;
        assert_eq!(clients.wants("g", "t"), None);
        beat(&[("t", 5, "A"), ("u", 1, "*")]);
        let known = |topic: &str| clients.wants("g", topic).unwrap().topic;
        let tag = |tag: &str| Filter::parse(tag, None);
        assert_eq!((known("t"), known("u")), (Some((5, tag("A"))), Some((1, Ok(Filter::All)))));
        assert!(!beat(&[("t", 4, "B"), ("u", 1, "*")]));
        assert_eq!(known("t"), Some((5, tag("A"))));
        assert!(beat(&[("t", 6, "B")]));
        assert_eq!((known("t"), known("u")), (Some((6, tag("B"))), None));
        clients.consumer(&data("g", &[]), true, &a, 0).unwrap();
        assert_eq!(known("t"), Some((6, tag("B"))), "a heartbeat without subscriptions changes none");
        for (version, tag, is_refiltered) in [(6, "A", false), (7, "B", false), (8, "B||C", true)] {
            assert_eq!(joined(&[("t", version, tag)]).is_refiltered, is_refiltered, "{version} {tag}");
        }
        assert!(joined(&[("t", 9, " || ")]).is_refiltered);
        assert!(known("t").unwrap().1.is_err(), "what cannot be used is told to who pulls");
    }

    #[test]
    fn members_that_subscribe_differently_are_known() {
        let clients = Clients::new(&Limits::default());
        let named = |id: &str| client(id, id.as_bytes()[0].into());
        let beat = |id: &str, subs: &[(&str, i64, &str)]| {
            clients.consumer(&data("g", subs), false, &named(id), 0).unwrap();
        };
        beat("a", &[("t", 1, "*"), ("u", 1, "A")]);
        beat("b", &[("u", 2, "A"), ("t", 2, "*")]);
        assert!(clients.conflicts("g").is_empty(), "neither the order nor the version matters");
        beat("c", &[("t", 3, "*"), ("u", 3, "B")]);
        beat("d", &[("t", 4, "*")]);
        assert_eq!(clients.conflicts("g"), [vec!["a", "b"], vec!["c"], vec!["d"]]);
        clients.consumer(&data("g", &[]), true, &named("c"), 1).unwrap();
        assert_eq!(clients.conflicts("g").len(), 3, "a heartbeat without subscriptions says nothing new");
        clients.leave(named("d").connection.id(), None, Some("g"));
        beat("c", &[("t", 5, "*"), ("u", 5, "A")]);
        assert!(clients.conflicts("g").is_empty());
        let broadcasting = broadcasting(data("g", &[("t", 6, "*"), ("u", 6, "A")]));
        clients.consumer(&broadcasting, false, &named("b"), 2).unwrap();
        assert_eq!(clients.conflicts("g"), [vec!["a", "c"], vec!["b"]]);
        clients.connection_closed(named("b").connection.id());
        assert!(clients.conflicts("g").is_empty());
    }

    #[test]
    fn groups_and_their_clients_are_bounded() {
        let clients = clients();
        for connection in [1, 2] {
            clients.producer("p", &client("a", connection), 0).unwrap();
        }
        assert!(clients.producer("p", &client("a", 3), 0).is_err());
        // However many ids it claims, a connection is one member.
        for n in 0..10 {
            clients.producer("p", &client(&format!("client-{n}"), 2), 0).unwrap();
        }
        clients.producer("q", &client("a", 1), 0).unwrap();
        assert!(clients.producer("r", &client("a", 1), 0).is_err());
        for group in ["g", "h"] {
            clients.consumer(&data(group, &[]), false, &client("a", 1), 0).unwrap();
        }
        assert!(clients.consumer(&data("i", &[]), false, &client("a", 1), 0).is_err());
    }

    #[test]
    fn memberships_are_bounded_in_all_and_for_each_connection() {
        let limits = Limits { memberships: 3, memberships_per_connection: 2, ..Limits::default() };
        let clients = Clients::new(&limits);
        let (a, b) = (client("a", 1), client("b", 2));
        clients.producer("p", &a, 0).unwrap();
        clients.consumer(&data("g", &[]), false, &a, 0).unwrap();
        assert!(clients.producer("q", &a, 0).unwrap_err().to_string().contains("connection"));
        clients.producer("p", &b, 0).unwrap();
        assert!(clients.consumer(&data("g", &[]), false, &b, 0).is_err());
        clients.producer("p", &a, 1).unwrap();
        assert!(clients.producer("p", &client("a", 3), 1).is_err());
        clients.leave(1, None, Some("g"));
        clients.consumer(&data("g", &[]), false, &b, 0).unwrap();
        for connection in 1..=2 {
            clients.connection_closed(connection);
        }
        assert_eq!(clients.group_counts(), (0, 0));
        assert_eq!(clients.tables.lock().memberships, 0);
    }

    #[test]
    fn subscriptions_are_bounded_over_all_groups_and_let_go_with_them() {
        let max = 100_000;
        let clients = Clients::new(&Limits { subscription_bytes: max, ..Limits::default() });
        let a = client("a", 1);
        let costly = |group: &str, version: i64, terms: usize| {
            let mut data = data(group, &[("t", version, &vec!["a = 'x'"; terms].join(" OR "))]);
            data.subscriptions[0].expression_type = "SQL92".into();
            data
        };
        let beat = |data: &ConsumerData| clients.consumer(data, false, &a, 0);
        let accepted = (0..).take_while(|n| beat(&costly(&format!("g{n}"), 1, 50)).is_ok()).count();
        assert!((5..50).contains(&accepted), "{accepted}");
        assert_eq!(beat(&costly("another", 1, 50)), Err(Full::SubscriptionBytes(max).into()));
        assert!(beat(&costly("g0", 2, 100)).is_err());
        assert!(beat(&costly("g0", 3, 50)).is_ok(), "what replaces as much has room");
        assert!(beat(&costly("g0", 4, 10)).is_ok());
        assert!(clients.tables.lock().subscription_bytes <= max);
        assert!(!clients.tables.lock().consumers.contains_key("another"));
        clients.connection_closed(1);
        assert_eq!(clients.tables.lock().subscription_bytes, 0);
    }

    #[test]
    fn the_expressions_of_a_group_have_so_many_operations() {
        let clients = Clients::new(&Limits::default());
        let expression = vec!["a = 'x'"; 100].join(" OR ");
        let topics: Vec<_> = (0..40).map(|n| format!("t{n}")).collect();
        let all: Vec<_> = topics.iter().map(|topic| (topic.as_str(), 1, expression.as_str())).collect();
        let mut data = data("g", &all);
        for subscription in &mut data.subscriptions {
            subscription.expression_type = "SQL92".into();
        }
        let beat = |data: &ConsumerData| clients.consumer(data, false, &client("a", 1), 0);
        assert!(matches!(beat(&data), Err(Error::TooManyOperations(_))));
        data.subscriptions.truncate(5);
        assert!(beat(&data).is_ok());
    }

    #[test]
    fn a_heartbeat_that_comes_after_its_connection_has_ended_leaves_nothing() {
        let clients = clients();
        let a = client("a", 1);
        a.connection.close();
        clients.consumer(&data("g", &[]), false, &a, 0).unwrap();
        assert_eq!(clients.group_counts(), (0, 0));
    }
}
