//! Bodies about message queues: locks, and statistics in maps keyed by queue.
//!
//! Java peers write such a map with whole objects as keys, `{{"brokerName":"b","queueId":0,"topic":"T"}:1}`, and 5.x
//! clients read it in no other form, so these bodies are written by their own `to_json`.

use std::collections::BTreeMap;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use crate::fastjson::{self, BodyError};

/// A queue of a topic on a broker.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MessageQueue {
    pub broker_name: String,
    pub queue_id: i32,
    pub topic: String,
}

/// A map keyed by queue.
pub type QueueMap<V> = BTreeMap<MessageQueue, V>;

/// Body of 41 and 42: queues a client locks or unlocks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LockBatchRequest {
    pub client_id: String,
    pub consumer_group: String,
    pub mq_set: Vec<MessageQueue>,
    pub only_this_broker: bool,
}

/// Answer to 41: the queues the client now holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LockBatchResponse {
    #[serde(rename = "lockOKMQSet")]
    pub lock_ok_mq_set: Vec<MessageQueue>,
}

/// State of one queue in [`TopicStatsTable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicOffset {
    /// Milliseconds since 1970, 0 for an empty queue.
    pub last_update_timestamp: i64,
    pub max_offset: i64,
    pub min_offset: i64,
}

/// Answer to 202: the queues of a topic.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicStatsTable {
    #[serde(deserialize_with = "read_map")]
    pub offset_table: QueueMap<TopicOffset>,
    /// Messages a second.
    pub topic_put_tps: f64,
}

impl TopicStatsTable {
    /// The body as Java peers read it.
    pub fn to_json(&self) -> Result<Vec<u8>, BodyError> {
        let mut out = b"{\"offsetTable\":".to_vec();
        write_map(&mut out, &self.offset_table)?;
        out.extend_from_slice(b",\"topicPutTps\":");
        serde_json::to_writer(&mut out, &self.topic_put_tps)?;
        out.push(b'}');
        Ok(out)
    }
}

/// A consumer group's progress in one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OffsetWrapper {
    pub broker_offset: i64,
    pub consumer_offset: i64,
    pub pull_offset: i64,
    /// Store time of the last consumed message, milliseconds since 1970.
    pub last_timestamp: i64,
}

/// Answer to 208: a consumer group's progress.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumeStats {
    /// Messages a second.
    pub consume_tps: f64,
    #[serde(deserialize_with = "read_map")]
    pub offset_table: QueueMap<OffsetWrapper>,
}

impl ConsumeStats {
    /// The body as Java peers read it.
    pub fn to_json(&self) -> Result<Vec<u8>, BodyError> {
        let mut out = b"{\"consumeTps\":".to_vec();
        serde_json::to_writer(&mut out, &self.consume_tps)?;
        out.extend_from_slice(b",\"offsetTable\":");
        write_map(&mut out, &self.offset_table)?;
        out.push(b'}');
        Ok(out)
    }
}

/// Answer to 317: the progress of every group.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ConsumeStatsList {
    /// `ip:port`.
    pub broker_addr: String,
    /// By group, one for each of its topics.
    pub groups: Vec<(String, Vec<ConsumeStats>)>,
    /// Messages that are not consumed yet, over all groups.
    pub total_diff: i64,
}

impl ConsumeStatsList {
    /// The body as Java peers read it.
    pub fn to_json(&self) -> Result<Vec<u8>, BodyError> {
        let mut out = b"{\"brokerAddr\":".to_vec();
        serde_json::to_writer(&mut out, &self.broker_addr)?;
        out.extend_from_slice(b",\"consumeStatsList\":[");
        for (index, (group, topics)) in self.groups.iter().enumerate() {
            out.extend_from_slice(if index > 0 { b",{" } else { b"{" });
            serde_json::to_writer(&mut out, group)?;
            out.extend_from_slice(b":[");
            for (index, stats) in topics.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                out.extend_from_slice(&stats.to_json()?);
            }
            out.extend_from_slice(b"]}");
        }
        out.extend_from_slice(b"],\"totalDiff\":");
        serde_json::to_writer(&mut out, &self.total_diff)?;
        // Messages that were fetched and are not consumed: what only a client knows.
        out.extend_from_slice(b",\"totalInflightDiff\":0}");
        Ok(out)
    }
}

/// Offsets by queue: body of 220, answer to 222, and what consumers keep in files for broadcast groups.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OffsetTable {
    #[serde(deserialize_with = "read_map")]
    pub offset_table: QueueMap<i64>,
}

impl OffsetTable {
    /// The body as Java peers read it.
    pub fn to_json(&self) -> Result<Vec<u8>, BodyError> {
        let mut out = b"{\"offsetTable\":".to_vec();
        write_map(&mut out, &self.offset_table)?;
        out.push(b'}');
        Ok(out)
    }
}

/// A consumer's answer to 221: how far it is.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientStatus {
    #[serde(deserialize_with = "read_map")]
    pub message_queue_table: QueueMap<i64>,
}

impl ClientStatus {
    /// The body as Java peers read it.
    pub fn to_json(&self) -> Result<Vec<u8>, BodyError> {
        let mut out = b"{\"messageQueueTable\":".to_vec();
        write_map(&mut out, &self.message_queue_table)?;
        out.push(b'}');
        Ok(out)
    }
}

/// Answer to 223: how far each member of a consumer group is, by client id.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ConsumerStatus {
    pub consumer_table: BTreeMap<String, QueueMap<i64>>,
}

impl ConsumerStatus {
    /// The body as Java peers read it.
    pub fn to_json(&self) -> Result<Vec<u8>, BodyError> {
        let mut out = b"{\"consumerTable\":{".to_vec();
        for (index, (client, queues)) in self.consumer_table.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            serde_json::to_writer(&mut out, client)?;
            out.push(b':');
            write_map(&mut out, queues)?;
        }
        // A member that clients fill, not brokers.
        out.extend_from_slice(b"},\"messageQueueTable\":{}}");
        Ok(out)
    }
}

/// A queue's part of the answer to 303. All times in milliseconds since 1970, the delay in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueueTimeSpan {
    /// Store time of the last consumed message.
    pub consume_time_stamp: i64,
    /// How long the next message has been waiting.
    pub delay_time: i64,
    /// Store time of the last message.
    pub max_time_stamp: i64,
    pub message_queue: MessageQueue,
    /// Store time of the first message.
    pub min_time_stamp: i64,
}

/// Answer to 303: how far behind a group is, in time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumeTimeSpan {
    pub consume_time_span_set: Vec<QueueTimeSpan>,
}

/// Writes a map with its keys as bare objects.
pub(super) fn write_map<V: Serialize>(out: &mut Vec<u8>, map: &QueueMap<V>) -> Result<(), BodyError> {
    out.push(b'{');
    for (index, (queue, value)) in map.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        serde_json::to_writer(&mut *out, queue)?;
        out.push(b':');
        serde_json::to_writer(&mut *out, value)?;
    }
    out.push(b'}');
    Ok(())
}

/// Reads a map whose keys [`crate::fastjson`] has made strings.
fn read_map<'de, D: Deserializer<'de>, V: Deserialize<'de>>(
    deserializer: D,
) -> Result<QueueMap<V>, D::Error> {
    let by_text = BTreeMap::<String, V>::deserialize(deserializer)?;
    let entries = by_text.into_iter().map(|(text, value)| {
        let queue =
            fastjson::parse(text.as_bytes()).map_err(|e| D::Error::custom(format!("queue {text:?}: {e}")))?;
        Ok((queue, value))
    });
    entries.collect()
}
