//! What a consumer tells operators of its work: the answers to 307 and 309.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::queue::write_map;
use super::{QueueMap, SubscriptionData};
use crate::fastjson::BodyError;

/// Answer to 307.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ConsumerRunningInfo {
    /// Settings, and `PROP_` names about the client.
    pub properties: BTreeMap<String, String>,
    pub subscription_set: Vec<SubscriptionData>,
    pub mq_table: QueueMap<ProcessQueueInfo>,
    /// By topic.
    pub status_table: BTreeMap<String, ConsumeStatus>,
}

impl ConsumerRunningInfo {
    /// The body as Java peers read it.
    pub fn to_json(&self) -> Result<Vec<u8>, BodyError> {
        let mut out = b"{\"mqTable\":".to_vec();
        write_map(&mut out, &self.mq_table)?;
        out.extend_from_slice(b",\"properties\":");
        serde_json::to_writer(&mut out, &self.properties)?;
        out.extend_from_slice(b",\"statusTable\":");
        serde_json::to_writer(&mut out, &self.status_table)?;
        out.extend_from_slice(b",\"subscriptionSet\":");
        serde_json::to_writer(&mut out, &self.subscription_set)?;
        out.push(b'}');
        Ok(out)
    }
}

/// The part of an answer to 307 that says what the consumer subscribes to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RunningSubscriptions {
    pub subscription_set: Vec<SubscriptionData>,
}

/// A queue that a consumer works on. Times are in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProcessQueueInfo {
    pub commit_offset: i64,
    pub cached_msg_min_offset: i64,
    pub cached_msg_max_offset: i64,
    pub cached_msg_count: i32,
    pub cached_msg_size_in_mi_b: i32,
    pub locked: bool,
    pub last_lock_timestamp: i64,
    /// As Java spells it.
    pub droped: bool,
    pub last_pull_timestamp: i64,
    pub last_consume_timestamp: i64,
}

/// What a consumer has done with a topic. Rates are messages a second.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ConsumeStatus {
    #[serde(rename = "pullTPS")]
    pub pull_tps: f64,
    /// Milliseconds for each batch.
    #[serde(rename = "consumeRT")]
    pub consume_rt: f64,
    #[serde(rename = "consumeOKTPS")]
    pub consume_ok_tps: f64,
    #[serde(rename = "consumeFailedTPS")]
    pub consume_failed_tps: f64,
    #[serde(rename = "consumeFailedMsgs")]
    pub consume_failed_msgs: i64,
}

/// Answer to 309: what the listener made of a message.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumeMessageDirectlyResult {
    pub order: bool,
    pub auto_commit: bool,
    /// `CR_SUCCESS`, `CR_LATER` or `CR_THROW_EXCEPTION`.
    pub consume_result: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remark: Option<String>,
    /// Milliseconds.
    pub spent_time_mills: i64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::MessageQueue;

    #[test]
    fn queues_are_bare_objects() {
        let queue = MessageQueue { broker_name: "b".into(), queue_id: 1, topic: "T".into() };
        let info = ConsumerRunningInfo {
            mq_table: [(queue, ProcessQueueInfo { cached_msg_count: 3, ..Default::default() })].into(),
            status_table: [("T".to_owned(), ConsumeStatus { consume_failed_msgs: 2, ..Default::default() })]
                .into(),
            ..Default::default()
        };
        let text = String::from_utf8(info.to_json().unwrap()).unwrap();
        assert!(
            text.starts_with(r#"{"mqTable":{{"brokerName":"b","queueId":1,"topic":"T"}:{"commitOffset":0,"#),
            "{text}"
        );
        assert!(text.contains(r#""cachedMsgCount":3,"cachedMsgSizeInMiB":0,"locked":false"#), "{text}");
        assert!(text.contains(r#""statusTable":{"T":{"pullTPS":0.0,"consumeRT":0.0,"#), "{text}");
        assert!(text.ends_with(r#""subscriptionSet":[]}"#), "{text}");
        let subscription = SubscriptionData { topic: "T".into(), sub_version: 7, ..Default::default() };
        let info = ConsumerRunningInfo { subscription_set: vec![subscription.clone()], ..info };
        let read: RunningSubscriptions = crate::fastjson::parse(&info.to_json().unwrap()).unwrap();
        assert_eq!(read.subscription_set, [subscription]);
    }
}
