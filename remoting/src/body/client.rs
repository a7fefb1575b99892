//! Bodies about clients: heartbeats, subscriptions, connections.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::names;

names! {
    /// Where a group without offsets starts.
    ConsumeFromWhere {
        LastOffset = 0 or "CONSUME_FROM_LAST_OFFSET",
        FirstOffset = 4 or "CONSUME_FROM_FIRST_OFFSET",
        Timestamp = 5 or "CONSUME_FROM_TIMESTAMP",
        MinOffset = 2 or "CONSUME_FROM_MIN_OFFSET",
        MaxOffset = 3 or "CONSUME_FROM_MAX_OFFSET",
        LastOffsetAndFromMinWhenBootFirst = 1 or "CONSUME_FROM_LAST_OFFSET_AND_FROM_MIN_WHEN_BOOT_FIRST",
    }
}

names! {
    /// How a consumer gets its messages.
    ConsumeType {
        Passively = 1 or "CONSUME_PASSIVELY",
        Actively = 0 or "CONSUME_ACTIVELY",
        Pop = 2 or "CONSUME_POP",
    }
}

names! {
    /// Whether a group shares messages or each member gets all.
    MessageModel {
        Clustering = 1 or "CLUSTERING",
        Broadcasting = 0 or "BROADCASTING",
    }
}

/// What a consumer wants of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubscriptionData {
    pub class_filter_mode: bool,
    /// Java hashes of `tags_set`.
    pub code_set: Vec<i32>,
    /// `TAG` or `SQL92`.
    pub expression_type: String,
    pub sub_string: String,
    /// Grows with each change; milliseconds from Java, nanoseconds from Go.
    pub sub_version: i64,
    pub tags_set: Vec<String>,
    pub topic: String,
}

impl Default for SubscriptionData {
    fn default() -> Self {
        Self {
            class_filter_mode: false,
            code_set: Vec::new(),
            expression_type: "TAG".to_owned(),
            sub_string: String::new(),
            sub_version: 0,
            tags_set: Vec::new(),
            topic: String::new(),
        }
    }
}

/// A producer group in a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProducerData {
    pub group_name: String,
}

/// A consumer group in a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumerData {
    pub consume_from_where: ConsumeFromWhere,
    pub consume_type: ConsumeType,
    pub group_name: String,
    pub message_model: MessageModel,
    pub subscription_data_set: Vec<SubscriptionData>,
    pub unit_mode: bool,
}

/// Body of a heartbeat (34).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HeartbeatData {
    #[serde(rename = "clientID")]
    pub client_id: String,
    pub consumer_data_set: Vec<ConsumerData>,
    pub heartbeat_fingerprint: i32,
    pub producer_data_set: Vec<ProducerData>,
    /// The subscriptions are left out as they have not changed.
    pub without_sub: bool,
}

impl HeartbeatData {
    /// Whether subscriptions stay as they are. Only a heartbeat with a fingerprint of them may leave them out, see
    /// `ClientManageProcessor.heartBeat` of RocketMQ 5.4.0.
    pub fn is_without_subscriptions(&self) -> bool {
        self.without_sub && self.heartbeat_fingerprint != 0
    }
}

/// Body of 46: a subscription to be checked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CheckClientRequest {
    pub client_id: String,
    pub group: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    pub subscription_data: SubscriptionData,
}

/// Answer to 38: the members of a consumer group.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumerIdList {
    pub consumer_id_list: Vec<String>,
}

/// One client's connection.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Connection {
    /// `ip:port`.
    pub client_addr: String,
    pub client_id: String,
    /// Name of the language, see [`crate::command::language`].
    pub language: String,
    pub version: i32,
}

/// Answer to 203: the connections of a consumer group.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumerConnection {
    pub connection_set: Vec<Connection>,
    pub consume_from_where: ConsumeFromWhere,
    pub consume_type: ConsumeType,
    pub message_model: MessageModel,
    /// By topic.
    pub subscription_table: BTreeMap<String, SubscriptionData>,
}

/// Answer to 204: the connections of a producer group.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProducerConnection {
    pub connection_set: Vec<Connection>,
}

/// Answer to 328: the producers by group.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProducerTable {
    pub data: BTreeMap<String, Vec<ProducerInfo>>,
}

/// A producer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProducerInfo {
    pub client_id: String,
    /// Name of the language, see [`crate::command::language`].
    pub language: String,
    /// When it was last heard of, milliseconds since 1970.
    pub last_update_timestamp: i64,
    /// `/ip:port`.
    #[serde(rename = "remoteIP")]
    pub remote_ip: String,
    pub version: i32,
}

/// Answer to 300: consumer groups.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupList {
    pub group_list: Vec<String>,
}

/// Answer to 345: what a group wants of a topic; without a subscription where nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QuerySubscription {
    pub group: String,
    pub topic: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscription_data: Option<SubscriptionData>,
}
