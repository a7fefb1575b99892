//! One consumer group as its members' heartbeats describe it: how it consumes, what it wants of each topic, and whether its
//! members agree about that.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use raftmq_remoting::body::{ConsumeFromWhere, ConsumeType, ConsumerData, MessageModel, SubscriptionData};

use super::channel::Sink;
use super::clients::Client;
use super::filter::{Filter, FilterError};

/// What is known about a consumer group's subscription to a topic.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Subscription {
    pub(crate) broadcasting: bool,
    /// The newest version of the subscription that a member has brought, and what it wants or why it cannot be used.
    pub(crate) topic: Option<(i64, Result<Filter, FilterError>)>,
}

/// By client id.
pub(crate) type Members<S> = BTreeMap<Arc<str>, Member<S>>;

pub(crate) struct Member<S: Sink> {
    pub(crate) client: Client<S>,
    pub(crate) heard_ms: u64,
    /// Stands for all it subscribes to; `None` for a producer and where it has not said so yet.
    pub(crate) fingerprint: Option<u64>,
}

/// Members and their subscriptions.
pub(crate) struct ConsumerGroup<S: Sink> {
    pub(crate) consume_from_where: ConsumeFromWhere,
    pub(crate) consume_type: ConsumeType,
    pub(crate) message_model: MessageModel,
    pub(crate) subscriptions: HashMap<String, (SubscriptionData, Result<Filter, FilterError>)>,
    pub(crate) members: Members<S>,
    /// How many members have each fingerprint. They should all have one.
    pub(crate) fingerprints: HashMap<u64, usize>,
}

impl<S: Sink> Default for ConsumerGroup<S> {
    fn default() -> Self {
        Self {
            consume_from_where: ConsumeFromWhere::default(),
            consume_type: ConsumeType::default(),
            message_model: MessageModel::default(),
            subscriptions: HashMap::new(),
            members: BTreeMap::new(),
            fingerprints: HashMap::new(),
        }
    }
}

impl<S: Sink> ConsumerGroup<S> {
    /// Whether there are members that share the queues, and have to share them anew after a change.
    pub(crate) fn shares(&self) -> bool {
        self.message_model != MessageModel::Broadcasting && !self.members.is_empty()
    }

    /// Notes that a member's fingerprint has changed, and tells the log where that makes a difference to the others.
    pub(crate) fn identify(&mut self, group: &str, client: &Arc<str>, before: Option<u64>, now: Option<u64>) {
        if let Some(member) = self.members.get_mut(client) {
            member.fingerprint = now;
        }
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

    pub(crate) fn forget_fingerprint(&mut self, group: &str, fingerprint: Option<u64>) {
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

    /// Takes over newer subscriptions and drops those that are gone. Returns whether that changed anything.
    pub(crate) fn subscribe(&mut self, subscriptions: &[SubscriptionData]) -> bool {
        let mut changed = false;
        for data in subscriptions {
            let newer =
                self.subscriptions.get(&data.topic).is_none_or(|(old, _)| old.sub_version < data.sub_version);
            if newer {
                let is_new = !self.subscriptions.contains_key(&data.topic);
                changed |= is_new;
                self.subscriptions.insert(data.topic.clone(), (data.clone(), Filter::subscription(data)));
            }
        }
        let before = self.subscriptions.len();
        let kept: HashSet<_> = subscriptions.iter().map(|data| data.topic.as_str()).collect();
        self.subscriptions.retain(|topic, _| kept.contains(topic.as_str()));
        changed || self.subscriptions.len() != before
    }
}

/// Stands for how a member consumes and what it subscribes to, whatever the order and the versions.
pub(crate) fn fingerprint(data: &ConsumerData) -> u64 {
    let mut subscriptions: Vec<_> = data
        .subscription_data_set
        .iter()
        .map(|data| (&data.topic, &data.expression_type, &data.sub_string))
        .collect();
    subscriptions.sort_unstable();
    let mut hasher = DefaultHasher::new();
    (data.message_model.name(), data.consume_type.name(), subscriptions).hash(&mut hasher);
    hasher.finish()
}
