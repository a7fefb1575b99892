//! Our header for each of Java's.

use raftmq_remoting::ext::Ext;
use raftmq_remoting::header::*;
use raftmq_remoting::{Command, HeaderError};
use serde_json::Value;

use crate::outcome::{Outcome, of_java};
use crate::record::Version;

type Read = fn(&Command) -> Result<Ext, HeaderError>;

macro_rules! readers {
    ($($java:literal: $code:literal $ty:ident $to_ext:ident;)*) => {
        /// By Java class: the code of the command, and reading and writing our header.
        pub(crate) const READERS: &[(&str, (i32, Read))] =
            &[$(($java, ($code, |command| Ok($ty::decode(command)?.$to_ext()))),)*];
    };
}

readers! {
    "CloneGroupOffsetRequestHeader": 314 CloneOffsetsHeader to_ext;
    "ConsumeMessageDirectlyResultRequestHeader": 309 ConsumerClientHeader to_ext;
    "ConsumerSendMsgBackRequestHeader": 36 SendBackHeader to_ext;
    "CreateTopicRequestHeader": 17 CreateTopicHeader to_ext;
    "DeleteSubscriptionGroupRequestHeader": 207 DeleteGroupHeader to_ext;
    "DeleteTopicFromNamesrvRequestHeader": 216 DeleteTopicRouteHeader to_ext;
    "DeleteTopicRequestHeader": 215 TopicHeader to_ext;
    "GetConsumeStatsInBrokerHeader": 317 BrokerConsumeStatsHeader to_ext;
    "GetConsumeStatsRequestHeader": 208 ConsumeStatsHeader to_ext;
    "GetConsumerConnectionListRequestHeader": 203 ConsumerGroupHeader to_ext;
    "GetConsumerListByGroupRequestHeader": 38 ConsumerGroupHeader to_ext;
    "GetConsumerRunningInfoRequestHeader": 307 ConsumerClientHeader to_ext;
    "GetConsumerStatusRequestHeader": 223 ConsumerStatusHeader to_ext;
    "GetEarliestMsgStoretimeRequestHeader": 32 QueueHeader to_ext;
    "GetEarliestMsgStoretimeResponseHeader": 0 EarliestStoreTimeResponse to_ext;
    "GetMaxOffsetRequestHeader": 30 QueueHeader to_ext;
    "GetMaxOffsetResponseHeader": 0 OffsetResponse to_ext;
    "GetMinOffsetRequestHeader": 31 QueueHeader to_ext;
    "GetProducerConnectionListRequestHeader": 204 ProducerGroupHeader to_ext;
    "GetRouteInfoRequestHeader": 105 RouteHeader to_ext;
    "GetSubscriptionGroupConfigRequestHeader": 352 GroupConfigHeader to_ext;
    "GetTopicConfigRequestHeader": 351 TopicHeader to_ext;
    "GetTopicStatsInfoRequestHeader": 202 TopicHeader to_ext;
    "GetTopicsByClusterRequestHeader": 224 ClusterHeader to_ext;
    "NotifyConsumerIdsChangedRequestHeader": 40 ConsumerGroupHeader to_ext;
    "PullMessageRequestHeader": 11 PullHeader to_ext;
    "PullMessageResponseHeader": 0 PullResponse to_ext;
    "QueryConsumeTimeSpanRequestHeader": 303 GroupTopicHeader to_ext;
    "QueryConsumerOffsetRequestHeader": 14 QueryConsumerOffsetHeader to_ext;
    "QueryMessageRequestHeader": 12 QueryMessageHeader to_ext;
    "QueryMessageResponseHeader": 0 QueryMessageResponse to_ext;
    "QuerySubscriptionByConsumerRequestHeader": 345 QuerySubscriptionHeader to_ext;
    "QueryTopicConsumeByWhoRequestHeader": 300 TopicHeader to_ext;
    "QueryTopicsByConsumerRequestHeader": 343 GroupConfigHeader to_ext;
    "RegisterBrokerRequestHeader": 103 RegisterBrokerHeader to_ext;
    "RegisterBrokerResponseHeader": 0 RegisterBrokerResponse to_ext;
    "ResetOffsetRequestHeader": 222 ResetOffsetHeader to_ext;
    "SearchOffsetRequestHeader": 29 SearchOffsetHeader to_ext;
    "SearchOffsetResponseHeader": 0 OffsetResponse to_ext;
    "SendMessageRequestHeader": 10 SendHeader to_ext_v1;
    "SendMessageRequestHeaderV2": 310 SendHeader to_ext;
    "UnRegisterBrokerRequestHeader": 104 UnregisterBrokerHeader to_ext;
    "UnregisterClientRequestHeader": 35 UnregisterClientHeader to_ext;
    "UpdateConsumerOffsetRequestHeader": 15 UpdateConsumerOffsetHeader to_ext;
    "ViewMessageRequestHeader": 33 ViewMessageHeader to_ext;
}

/// A header with usual values.
fn usual(versions: &[Version<'_>]) -> Ext {
    let mut ext = Ext::new();
    for (key, value) in versions.iter().flat_map(|version| version.base.as_object().unwrap()) {
        ext.set(key, value.as_str().unwrap());
    }
    ext
}

/// Whether our header has the field.
pub(crate) fn has((code, read): (i32, Read), versions: &[Version<'_>], field: &str) -> bool {
    read(&Command::request(code, usual(versions))).unwrap().get(field).is_some()
}

/// What our header makes of `text` in `field`, the other fields being usual.
pub(crate) fn outcome(
    (code, read): (i32, Read),
    versions: &[Version<'_>],
    field: &str,
    text: Option<&str>,
) -> Outcome {
    let mut ext = usual(versions);
    let usual = ext.get(field).unwrap().into_owned();
    match text {
        Some(text) => ext.set(field, text),
        None => ext.remove(field),
    };
    let Ok(header) = read(&Command::request(code, ext)) else { return Outcome::Refused };
    Outcome::Value(header.get(field).map_or(Value::Null, |text| typed(&usual, &text)))
}

/// A field's text as JSON of its type, which a usual value shows.
fn typed(usual: &str, text: &str) -> Value {
    match usual {
        "true" => Value::from(text == "true"),
        "3" => serde_json::from_str(text).unwrap(),
        _ => Value::from(text),
    }
}

/// What Java has without the field. Where the field has to be there it is null, and whoever uses it throws.
pub(crate) fn absent(field: &Value) -> Outcome {
    match of_java(&field["absent"]) {
        Outcome::Value(Value::Null) if field["notNull"] == true => Outcome::Refused,
        outcome => outcome,
    }
}
