//! The table of subscription groups.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::named::{Named, NamedCommand, NamedTable};

/// A subscription group's configuration, with the defaults that RocketMQ gives a group it creates by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriptionGroup {
    /// Its name.
    pub name: String,
    /// Whether it may consume at all.
    pub consume_enable: bool,
    /// Whether it may start at the smallest offset.
    pub consume_from_min_enable: bool,
    /// Whether broadcasting is allowed.
    pub consume_broadcast_enable: bool,
    /// Queues of its retry topic.
    pub retry_queues: u32,
    /// Redeliveries before a message goes to the dead letter queue.
    pub retry_max_times: i32,
    /// The broker it prefers.
    pub broker_id: u64,
    /// The broker it is sent to when it lags.
    pub which_broker_when_consume_slowly: u64,
    /// Whether members are told when the membership changes.
    pub notify_consumer_ids_changed: bool,
    /// 5.x: whether it consumes in order.
    pub consume_message_orderly: bool,
    /// 5.x: system bits.
    pub group_sys_flag: i32,
    /// 5.x: minutes a message may take.
    pub consume_timeout_minutes: i32,
    /// 5.x attributes, by name without sign.
    pub attributes: BTreeMap<String, String>,
    /// 5.x: when failed messages are retried; carried for those who ask.
    pub retry_policy: RetryPolicy,
    /// 5.x: subscriptions kept with the settings; carried for those who ask.
    pub subscriptions: Vec<GroupSubscription>,
}

/// When a group's failed messages are retried, as 5.x clients set it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Whether the exponential one applies, not the customized one.
    pub is_exponential: bool,
    /// First delay, longest delay, both in ms, and the factor from each to the next.
    pub exponential: Option<(i64, i64, i64)>,
    /// Delays one by one, in ms.
    pub customized: Option<Vec<i64>>,
}

/// A subscription kept with a group's settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupSubscription {
    /// The topic.
    pub topic: String,
    /// `TAG` or `SQL92`.
    pub expression_type: String,
    /// The expression.
    pub expression: String,
    /// Its version.
    pub version: i64,
}

impl SubscriptionGroup {
    /// A group with RocketMQ's defaults.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            consume_enable: true,
            consume_from_min_enable: true,
            consume_broadcast_enable: true,
            retry_queues: 1,
            retry_max_times: 16,
            broker_id: 0,
            which_broker_when_consume_slowly: 1,
            notify_consumer_ids_changed: true,
            consume_message_orderly: false,
            group_sys_flag: 0,
            consume_timeout_minutes: 15,
            attributes: BTreeMap::new(),
            retry_policy: RetryPolicy::default(),
            subscriptions: Vec::new(),
        }
    }
}

impl Named for SubscriptionGroup {
    const TABLE: u8 = 2;
    const KIND: &'static str = "groups";

    fn name(&self) -> &str {
        &self.name
    }
}

/// A change of subscription groups.
pub type GroupCommand = NamedCommand<SubscriptionGroup>;

/// Every subscription group by name.
pub type Groups = NamedTable<SubscriptionGroup>;
