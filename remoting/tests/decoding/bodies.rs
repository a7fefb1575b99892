//! Our body for each of Java's.

use raftmq_remoting::body::*;
use raftmq_remoting::fastjson::{BodyError, parse, to_vec};
use serde_json::Value;

use crate::outcome::Outcome;

type Read = fn(&[u8]) -> Result<Vec<u8>, BodyError>;

macro_rules! readers {
    ($($java:literal: $ty:ident $(. $to_json:ident)?;)*) => {
        /// By Java class: reading our body and writing it again.
        pub(crate) const READERS: &[(&str, Read)] = &[$(($java, |text| readers!(@ text $ty $($to_json)?)),)*];
    };
    (@ $text:ident $ty:ident) => { to_vec(&parse::<$ty>($text)?) };
    (@ $text:ident $ty:ident $to_json:ident) => { parse::<$ty>($text)?.$to_json() };
}

readers! {
    "CheckClientRequestBody": CheckClientRequest;
    "ClusterInfo": ClusterInfo;
    "ConsumeMessageDirectlyResult": ConsumeMessageDirectlyResult;
    "ConsumeStats": ConsumeStats.to_json;
    "ConsumerConnection": ConsumerConnection;
    "DataVersion": DataVersion;
    "GetConsumerListByGroupResponseBody": ConsumerIdList;
    "GetConsumerStatusBody": ClientStatus.to_json;
    "GroupList": GroupList;
    "HeartbeatData": HeartbeatData;
    "KVTable": KvTable;
    "LockBatchRequestBody": LockBatchRequest;
    "LockBatchResponseBody": LockBatchResponse;
    "ProducerConnection": ProducerConnection;
    "ProducerTableInfo": ProducerTable;
    "QueryConsumeTimeSpanBody": ConsumeTimeSpan;
    "QuerySubscriptionResponseBody": QuerySubscription;
    "RegisterBrokerBody": RegisterBrokerBody;
    "ResetOffsetBody": OffsetTable.to_json;
    "SubscriptionGroupConfig": SubscriptionGroupConfig;
    "SubscriptionGroupList": SubscriptionGroupList;
    "SubscriptionGroupWrapper": SubscriptionGroupWrapper;
    "TopicConfigSerializeWrapper": TopicConfigSerializeWrapper;
    "TopicList": TopicList;
    "TopicRouteData": TopicRouteData;
    "TopicStatsTable": TopicStatsTable.to_json;
    "UnlockBatchRequestBody": LockBatchRequest;
}

/// What our body has at `path` with `member` there; `text` has a control character in its place.
pub(crate) fn outcome(read: Read, text: &str, path: &str, member: &str) -> Outcome {
    match written(read, text, member) {
        Some(body) => Outcome::Value(at(&body, path).cloned().unwrap_or_default()),
        None => Outcome::Refused,
    }
}

/// Whether our body has a member there at all, whatever its type.
pub(crate) fn has(read: Read, text: &str, path: &str) -> bool {
    let is_there = |member| written(read, text, member).is_some_and(|body| at(&body, path).is_some());
    ["3", "\"x\"", "{}", "[3]"].into_iter().any(is_there)
}

fn written(read: Read, text: &str, member: &str) -> Option<Value> {
    let written = read(text.replace('\u{1}', member).as_bytes()).ok()?;
    Some(parse(&written).unwrap())
}

fn at<'a>(body: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('/').try_fold(body, |at, step| match at {
        Value::Array(elements) => elements.first(),
        Value::Object(members) if step == "*" => members.values().next(),
        Value::Object(members) => members.get(step),
        _ => None,
    })
}
