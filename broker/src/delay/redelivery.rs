//! A delayed message as it is delivered: a new record in the queue that it was sent to.
//!
//! As RocketMQ does it, everything is kept but its place: body, flags, when and where it was made, how often it was
//! consumed, and all properties, those included that had it delayed.

use std::net::SocketAddr;

use bytes::BytesMut;
use raftmq_message::properties::names;
use raftmq_message::topic::{SCHEDULE_TOPIC, TIMER_TOPIC};
use raftmq_message::{BuildError, RecordError, RecordParts, RecordView};
use raftmq_store::{QUEUE_ID_MAX, check_topic};

/// Why a message cannot be delivered, now or ever.
#[derive(Debug, thiserror::Error)]
pub(super) enum Undeliverable {
    #[error("its record is not in the log any more")]
    Gone,
    #[error("its record cannot be read: {0}")]
    Unreadable(#[from] RecordError),
    #[error("the topic {0:?} that it was sent to is none")]
    Topic(String),
    #[error("the queue {0:?} that it was sent to is none")]
    Queue(String),
    #[error("its record cannot be written: {0}")]
    Unwritable(#[from] BuildError),
}

/// Makes records of delivered messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Redelivery {
    /// This broker.
    pub(super) store_host: SocketAddr,
}

impl Redelivery {
    /// Appends the record unless it has more than `room` bytes; tells whether it did.
    pub(super) fn encode(
        &self,
        delayed: &RecordView<'_>,
        room: usize,
        out: &mut BytesMut,
    ) -> Result<bool, Undeliverable> {
        let parts = RecordParts {
            topic: real_topic(delayed)?,
            queue_id: real_queue(delayed)?,
            flag: delayed.flag(),
            sys_flag: delayed.sys_flag(),
            born_timestamp_ms: delayed.born_timestamp_ms(),
            born_host: delayed.born_host(),
            store_host: self.store_host,
            reconsume_times: delayed.reconsume_times(),
            prepared_transaction_offset: 0,
            body: delayed.body(),
            properties: &[delayed.properties()],
        };
        if parts.encoded_len() > room {
            return Ok(false);
        }
        parts.encode_into(out)?;
        Ok(true)
    }
}

/// The topic that a message was sent to. One that would have it delayed again is none: it would come round for ever.
fn real_topic<'a>(delayed: &RecordView<'a>) -> Result<&'a str, Undeliverable> {
    let topic = delayed.property(names::REAL_TOPIC).unwrap_or_default();
    if check_topic(topic).is_err() || [SCHEDULE_TOPIC, TIMER_TOPIC].contains(&topic) {
        return Err(Undeliverable::Topic(topic.to_owned()));
    }
    Ok(topic)
}

fn real_queue(delayed: &RecordView<'_>) -> Result<i32, Undeliverable> {
    let queue = delayed.property(names::REAL_QID).unwrap_or_default();
    let id = queue.parse().ok().filter(|id| (0..=QUEUE_ID_MAX as i32).contains(id));
    id.ok_or_else(|| Undeliverable::Queue(queue.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delay::fixture::delayed;

    fn redeliver(properties: &str) -> Result<Vec<u8>, Undeliverable> {
        let record = delayed(SCHEDULE_TOPIC, 1, properties);
        let mut out = BytesMut::new();
        let redelivery = Redelivery { store_host: "10.0.0.9:10911".parse().unwrap() };
        assert!(redelivery.encode(&RecordView::parse(&record).unwrap(), 1000, &mut out)?);
        let len = out.len();
        assert!(!redelivery.encode(&RecordView::parse(&record).unwrap(), len - 1, &mut out)?);
        assert_eq!(out.len(), len);
        Ok(out.to_vec())
    }

    #[test]
    fn everything_is_kept_but_the_place() {
        let properties = "REAL_TOPIC\u{1}T\u{2}KEYS\u{1}k\u{2}DELAY\u{1}2\u{2}REAL_QID\u{1}3\u{2}";
        let record = delayed(SCHEDULE_TOPIC, 1, properties);
        let before = RecordView::parse(&record).unwrap();
        let bytes = redeliver(properties).unwrap();
        let after = RecordView::parse(&bytes).unwrap();
        assert_eq!((after.topic(), after.queue_id()), ("T", 3));
        assert_eq!(after.properties(), properties);
        let kept = |record: &RecordView<'_>| {
            let (born, sys_flag) = (record.born_timestamp_ms(), record.sys_flag());
            (
                record.body().to_vec(),
                record.flag(),
                sys_flag,
                born,
                record.born_host(),
                record.reconsume_times(),
            )
        };
        assert_eq!(kept(&after), kept(&before));
        assert_eq!(after.store_host().to_string(), "10.0.0.9:10911");
        assert_eq!((after.queue_offset(), after.physical_offset(), after.store_timestamp_ms()), (0, 0, 0));
    }

    #[test]
    fn a_place_that_is_none_is_named() {
        for (topic, queue, why) in [
            ("", "1", "topic \"\""),
            ("../x", "1", "topic \"../x\""),
            (SCHEDULE_TOPIC, "1", "topic \"SCHEDULE"),
            (TIMER_TOPIC, "1", "topic \"rmq_sys"),
            ("T", "", "queue \"\""),
            ("T", "-1", "queue \"-1\""),
            ("T", "65536", "queue \"65536\""),
        ] {
            let properties = format!("REAL_TOPIC\u{1}{topic}\u{2}REAL_QID\u{1}{queue}\u{2}");
            let error = redeliver(&properties).unwrap_err().to_string();
            assert!(error.contains(why), "{topic} {queue}: {error}");
        }
    }
}
