//! Messages as a program sees them: to be sent, and received.

use bytes::Bytes;
use raftmq_message::properties::{self, names};
use raftmq_message::{RecordError, RecordIter, RecordView};

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
    /// The queue.
    pub queue_id: i32,
    /// Its place in the queue, counted in messages.
    pub queue_offset: i64,
    /// Its place in the broker's log, in bytes.
    pub physical_offset: i64,
    /// The unique key its producer gave it, if any.
    pub message_id: Option<String>,
    /// What was sent, as it was sent: if [`MessageExt::sys_flag`] says so, compressed.
    pub body: Bytes,
    /// The producer's own number.
    pub flag: i32,
    /// See [`raftmq_message::record::sys_flag`].
    pub sys_flag: i32,
    /// The producer's clock, in ms since 1970.
    pub born_timestamp_ms: i64,
    /// The leader's clock when it was stored, in ms since 1970.
    pub store_timestamp_ms: i64,
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

    /// Every record in the body of an answer. The bodies share its memory.
    pub(crate) fn read_all(records: &Bytes) -> Result<Vec<Self>, RecordError> {
        RecordIter::new(records).map(|record| record.map(|record| Self::read(records, &record))).collect()
    }

    fn read(records: &Bytes, record: &RecordView<'_>) -> Self {
        Self {
            topic: record.topic().to_owned(),
            queue_id: record.queue_id(),
            queue_offset: record.queue_offset(),
            physical_offset: record.physical_offset(),
            message_id: record.property(names::UNIQ_KEY).map(str::to_owned),
            body: records.slice_ref(record.body()),
            flag: record.flag(),
            sys_flag: record.sys_flag(),
            born_timestamp_ms: record.born_timestamp_ms(),
            store_timestamp_ms: record.store_timestamp_ms(),
            reconsume_times: record.reconsume_times(),
            properties: record.properties().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let own = message.with_property(names::UNIQ_KEY, "MINE");
        assert!(!own.properties_with_id("ID").contains("ID\u{2}"));
    }
}
