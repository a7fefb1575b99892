//! One consumer group as its members' heartbeats describe it: how it consumes, what it wants of each topic, and whether its
//! members agree about that.

use raftmq_world::hash::{HashMap, HashSet};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::data::{Client, Connection, ConsumerData, Consumption, MessageModel, Subscription};
use crate::filter::{Filter, FilterError};

/// What is known about a consumer group's subscription to a topic.
#[derive(Debug, PartialEq, Eq)]
pub struct Wants {
    /// Whether each member gets all messages.
    pub broadcasting: bool,
    /// The newest version of the subscription that a member has brought, and what it wants or why it cannot be used.
    pub topic: Option<(i64, Result<Filter, FilterError>)>,
}

/// A subscription as a member has brought it, and what it wants or why it cannot be used.
pub(super) struct Known {
    pub(super) data: Subscription,
    pub(super) filter: Result<Filter, FilterError>,
}

impl Known {
    /// Bytes of memory that it holds, roughly, its place in the table included.
    fn memory_bytes(&self) -> usize {
        let Subscription { topic, expression, expression_type, tags, codes, .. } = &self.data;
        let texts = 2 * topic.len() + expression.len() + expression_type.len();
        let tags = tags.iter().map(|tag| size_of::<String>() + tag.len()).sum::<usize>();
        let filter = self.filter.as_ref().map_or(0, Filter::memory_bytes);
        size_of::<(String, Self)>() + texts + tags + size_of_val(codes.as_slice()) + filter
    }

    fn operations(&self) -> usize {
        self.filter.as_ref().map_or(0, Filter::operations)
    }
}

/// What a group's subscriptions are to become.
pub(super) struct Change {
    newer: Vec<Known>,
    /// Whether other messages of a topic are wanted afterwards than before.
    pub(super) is_refiltered: bool,
    /// Bytes of memory afterwards.
    pub(super) memory_bytes: usize,
    /// Operations of all expressions afterwards.
    pub(super) operations: usize,
}

/// By connection, the oldest first.
pub(super) type Members<C> = BTreeMap<u64, Member<C>>;

pub(super) struct Member<C: Connection> {
    pub(super) client: Client<C>,
    pub(super) heard_ms: u64,
    /// Stands for all it subscribes to; `None` for a producer and where it has not said so yet.
    pub(super) fingerprint: Option<u64>,
}

/// Members and their subscriptions.
pub(super) struct ConsumerGroup<C: Connection> {
    pub(super) consumption: Consumption,
    /// By topic.
    pub(super) subscriptions: HashMap<String, Known>,
    /// Bytes of memory of the subscriptions.
    pub(super) memory_bytes: usize,
    pub(super) members: Members<C>,
    /// How many members have each fingerprint. They should all have one.
    pub(super) fingerprints: HashMap<u64, usize>,
}

impl<C: Connection> Default for ConsumerGroup<C> {
    fn default() -> Self {
        Self {
            consumption: Consumption::default(),
            subscriptions: HashMap::default(),
            memory_bytes: 0,
            members: BTreeMap::new(),
            fingerprints: HashMap::default(),
        }
    }
}

impl<C: Connection> ConsumerGroup<C> {
    /// Whether there are members that share the queues, and have to share them anew after a change.
    pub(super) fn shares(&self) -> bool {
        self.consumption.model != MessageModel::Broadcasting && !self.members.is_empty()
    }

    /// The newest member that goes by a client id and can be reached.
    pub(super) fn newest(&self, client: &str) -> Option<&Member<C>> {
        let mut members = self.members.values().rev();
        members.find(|member| *member.client.id == *client && !member.client.connection.is_closed())
    }

    /// Notes that a member's fingerprint has changed, and tells the log where that makes a difference to the others.
    pub(super) fn identify(&mut self, group: &str, connection: u64, before: Option<u64>, now: Option<u64>) {
        let Some(member) = self.members.get_mut(&connection) else { return };
        member.fingerprint = now;
        let client = member.client.id.clone();
        if before == now {
            return;
        }
        self.forget_fingerprint(group, before);
        let Some(now) = now else { return };
        let same = self.fingerprints.entry(now).or_default();
        *same += 1;
        if *same == 1 && self.fingerprints.len() > 1 {
            let ways = self.fingerprints.len();
            tracing::warn!(group, %client, ways, "the members of a consumer group subscribe differently");
        }
    }

    pub(super) fn forget_fingerprint(&mut self, group: &str, fingerprint: Option<u64>) {
        let Some(fingerprint) = fingerprint else { return };
        let Some(same) = self.fingerprints.get_mut(&fingerprint) else { return };
        *same -= 1;
        if *same == 0 {
            self.fingerprints.remove(&fingerprint);
            if self.fingerprints.len() == 1 {
                tracing::info!(group, "the members of a consumer group subscribe alike again");
            }
        }
    }

    /// What a member's subscriptions change: newer ones are taken over, and those that are gone go.
    pub(super) fn change(&self, subscriptions: &[Subscription]) -> Change {
        let mut newer = HashMap::default();
        for data in subscriptions {
            let known = self.subscriptions.get(&data.topic).map(|known| known.data.version);
            let version = newer.get(&data.topic).map(|known: &Known| known.data.version).or(known);
            if version.is_none_or(|version| version < data.version) {
                let known = Known { data: data.clone(), filter: data.filter() };
                newer.insert(&data.topic, known);
            }
        }
        let stay = subscriptions.iter().map(|data| &data.topic).filter(|topic| !newer.contains_key(topic));
        let stay: HashSet<_> = stay.collect();
        let stay = stay.into_iter().filter_map(|topic| self.subscriptions.get(topic));
        let (mut memory_bytes, mut operations) = (0, 0);
        for known in stay.chain(newer.values()) {
            memory_bytes += known.memory_bytes();
            operations += known.operations();
        }
        let is_other = |known: &Known| {
            let before = self.subscriptions.get(&known.data.topic);
            before.is_some_and(|before| before.filter != known.filter)
        };
        let is_refiltered = newer.values().any(is_other);
        Change { newer: newer.into_values().collect(), is_refiltered, memory_bytes, operations }
    }

    /// Carries out a change that `subscriptions` ask for. Returns whether the topics are others now.
    pub(super) fn subscribe(&mut self, subscriptions: &[Subscription], change: Change) -> bool {
        let mut changed = false;
        for known in change.newer {
            changed |= self.subscriptions.insert(known.data.topic.clone(), known).is_none();
        }
        let before = self.subscriptions.len();
        let kept: HashSet<_> = subscriptions.iter().map(|data| data.topic.as_str()).collect();
        self.subscriptions.retain(|topic, _| kept.contains(topic.as_str()));
        self.memory_bytes = change.memory_bytes;
        changed || self.subscriptions.len() != before
    }
}

/// Stands for how a member consumes and what it subscribes to, whatever the order and the versions.
pub(super) fn fingerprint(data: &ConsumerData) -> u64 {
    let mut subscriptions: Vec<_> = data
        .subscriptions
        .iter()
        .map(|data| (&data.topic, &data.expression_type, &data.expression))
        .collect();
    subscriptions.sort_unstable();
    let mut hasher = DefaultHasher::new();
    (data.consumption.model.name(), data.consumption.kind.name(), subscriptions).hash(&mut hasher);
    hasher.finish()
}
