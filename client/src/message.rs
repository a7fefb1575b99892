//! Messages as a program sees them: to be sent, and received.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use raftmq_message::id::OffsetMessageId;
use raftmq_message::properties::{self, names};
use raftmq_message::record::sys_flag;
use raftmq_message::{RecordError, RecordIter, RecordView};

use crate::compression::decompress;

/// A message to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The topic.
    pub topic: String,
    /// What the consumer gets.
    pub body: Bytes,
    /// The user's own number.
    pub flag: i32,
    /// `key 0x01 value 0x02` repeated, see [`raftmq_message::properties`].
    properties: String,
}

impl Message {
    /// A message without tags, keys and properties.
    pub fn new(topic: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self { topic: topic.into(), body: body.into(), flag: 0, properties: String::new() }
    }

    /// Sets the tag consumers filter by.
    #[must_use]
    pub fn with_tags(self, tags: &str) -> Self {
        self.with_property(names::TAGS, tags)
    }

    /// Sets the keys the message can be found by, separated by spaces.
    #[must_use]
    pub fn with_keys(self, keys: &str) -> Self {
        self.with_property(names::KEYS, keys)
    }

    /// Has the broker deliver the message after the delay of a level, from 1 on; by default the levels are 1s 5s 10s 30s
    /// 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h. 0 is no delay. Java's `setDelayTimeLevel`.
    #[must_use]
    pub fn with_delay_level(self, level: u32) -> Self {
        let level = if level == 0 { String::new() } else { level.to_string() };
        self.with_property(names::DELAY, &level)
    }

    /// Has the broker deliver the message that many ms after it got it. Java's `setDelayTimeMs`, of 5.x.
    #[must_use]
    pub fn with_delay_time_ms(self, delay_ms: u64) -> Self {
        self.with_property(names::TIMER_DELAY_MS, &delay_ms.to_string())
    }

    /// Has the broker deliver the message at a time, in ms since 1970. Java's `setDeliverTimeMs`, of 5.x.
    #[must_use]
    pub fn with_deliver_time_ms(self, timestamp_ms: u64) -> Self {
        self.with_property(names::TIMER_DELIVER_MS, &timestamp_ms.to_string())
    }

    /// Sets a property. The bytes 1 and 2 cannot be in it and are left out; an empty value removes it.
    #[must_use]
    pub fn with_property(mut self, name: &str, value: &str) -> Self {
        let clean = |text: &str| text.replace(['\u{1}', '\u{2}'], "");
        let (name, value) = (clean(name), clean(value));
        self.properties = properties::remove(&self.properties, &name);
        if !name.is_empty() && !value.is_empty() {
            properties::append(&mut self.properties, &name, &value);
        }
        self
    }

    /// A property's value.
    pub fn property(&self, name: &str) -> Option<&str> {
        properties::get(&self.properties, name)
    }

    /// A message with the properties as they are.
    pub(crate) fn with_raw_properties(self, properties: String) -> Self {
        Self { properties, ..self }
    }

    /// All properties with the message id among them; one that the caller has set stays.
    pub(crate) fn properties_with_id(&self, id: &str) -> String {
        let mut all = self.properties.clone();
        if self.property(names::UNIQ_KEY).is_none() {
            properties::append(&mut all, names::UNIQ_KEY, id);
        }
        all
    }
}

/// A message as a broker stores it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageExt {
    /// The topic.
    pub topic: String,
    /// Name of the broker it was pulled from.
    pub broker_name: Arc<str>,
    /// The queue.
    pub queue_id: i32,
    /// Its place in the queue, counted in messages.
    pub queue_offset: i64,
    /// Its place in the broker's log, in bytes.
    pub physical_offset: i64,
    /// The unique key its producer gave it, if any.
    pub message_id: Option<String>,
    /// What was sent. Decompressed if it was compressed; if that failed, [`MessageExt::sys_flag`] still says that it is.
    pub body: Bytes,
    /// The producer's own number.
    pub flag: i32,
    /// See [`raftmq_message::record::sys_flag`].
    pub sys_flag: i32,
    /// The producer's clock, in ms since 1970.
    pub born_timestamp_ms: i64,
    /// The producer's address as its broker saw it.
    pub born_host: SocketAddr,
    /// The leader's clock when it was stored, in ms since 1970.
    pub store_timestamp_ms: i64,
    /// The address of the broker that stored it.
    pub store_host: SocketAddr,
    /// How often it was delivered in vain.
    pub reconsume_times: i32,
    /// `key 0x01 value 0x02` repeated.
    pub properties: String,
}

impl MessageExt {
    /// A property's value.
    pub fn property(&self, name: &str) -> Option<&str> {
        properties::get(&self.properties, name)
    }

    /// Its tags. Java's `getTags`.
    pub fn tags(&self) -> Option<&str> {
        self.property(names::TAGS)
    }

    /// Its keys, separated by spaces. Java's `getKeys`.
    pub fn keys(&self) -> Option<&str> {
        self.property(names::KEYS)
    }

    /// The broker's id of the message, by which operators find it. Java's `getOffsetMsgId`.
    pub fn offset_message_id(&self) -> String {
        // A broker's offsets are not negative.
        let physical_offset = u64::try_from(self.physical_offset).unwrap_or(0);
        OffsetMessageId { store_host: self.store_host, physical_offset }.format().to_string()
    }

    /// Every record in the body of an answer from a broker. The bodies share its memory.
    pub(crate) fn read_all(records: &Bytes, broker_name: &str) -> Result<Vec<Self>, RecordError> {
        let broker_name = Arc::from(broker_name);
        RecordIter::new(records)
            .map(|record| record.map(|record| Self::read(records, &record, &broker_name)))
            .collect()
    }

    fn read(records: &Bytes, record: &RecordView<'_>, broker_name: &Arc<str>) -> Self {
        Self {
            topic: record.topic().to_owned(),
            broker_name: broker_name.clone(),
            queue_id: record.queue_id(),
            queue_offset: record.queue_offset(),
            physical_offset: record.physical_offset(),
            message_id: record.property(names::UNIQ_KEY).map(str::to_owned),
            body: records.slice_ref(record.body()),
            flag: record.flag(),
            sys_flag: record.sys_flag(),
            born_timestamp_ms: record.born_timestamp_ms(),
            born_host: record.born_host(),
            store_timestamp_ms: record.store_timestamp_ms(),
            store_host: record.store_host(),
            reconsume_times: record.reconsume_times(),
            properties: record.properties().to_owned(),
        }
        .decompressed()
    }

    fn decompressed(mut self) -> Self {
        if self.sys_flag & sys_flag::COMPRESSED == 0 {
            return self;
        }
        match decompress(self.sys_flag, &self.body) {
            Ok(body) => {
                self.body = body;
                self.sys_flag &= !(sys_flag::COMPRESSED | sys_flag::COMPRESSION_MASK);
            }
            Err(error) => {
                tracing::warn!(topic = self.topic, id = self.message_id, %error, "a body stays compressed");
            }
        }
        self
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A message as it comes from a broker.
    pub(crate) fn message(queue_offset: i64, body: &'static str) -> MessageExt {
        let host = "127.0.0.1:1".parse().unwrap();
        MessageExt {
            topic: "T".to_owned(),
            broker_name: "broker-a".into(),
            queue_id: 0,
            queue_offset,
            physical_offset: queue_offset * 100,
            message_id: None,
            body: body.into(),
            flag: 0,
            sys_flag: 0,
            born_timestamp_ms: 1,
            born_host: host,
            store_timestamp_ms: 2,
            store_host: host,
            reconsume_times: 0,
            properties: String::new(),
        }
    }

    #[test]
    fn properties_are_set_replaced_cleaned_and_removed() {
        let message =
            Message::new("t", "body").with_tags("a").with_keys("k1 k2").with_property("x", "1\u{2}2");
        assert_eq!(message.property("x"), Some("12"));
        let message = message.with_tags("b").with_property("x", "");
        assert_eq!(
            message.properties_with_id("ID"),
            "KEYS\u{1}k1 k2\u{2}TAGS\u{1}b\u{2}UNIQ_KEY\u{1}ID\u{2}"
        );
        assert_eq!(
            Message::new("t", "").with_delay_level(3).with_delay_level(0).property(names::DELAY),
            None
        );
        let timed = Message::new("t", "").with_delay_level(3).with_delay_time_ms(5).with_deliver_time_ms(7);
        let set =
            [names::DELAY, names::TIMER_DELAY_MS, names::TIMER_DELIVER_MS].map(|name| timed.property(name));
        assert_eq!(set, [Some("3"), Some("5"), Some("7")]);
        let own = message.with_property(names::UNIQ_KEY, "MINE");
        assert!(!own.properties_with_id("ID").contains("ID\u{2}"));
    }
}
