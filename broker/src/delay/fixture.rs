//! A log for the tests of lanes: in memory, with nothing but delayed messages.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bytes::BytesMut;
use raftmq_message::topic::TIMER_TOPIC;
use raftmq_message::{RecordIter, RecordParts, record, timer};
use raftmq_store::{StoreError, TimerEntry, Unit};

use super::lane::{Delivery, Limit, Source};
use super::redelivery::Redelivery;

/// What a minute is to the timer index.
const SLOT_MS: i64 = 60_000;

pub(super) const REDELIVERY: Redelivery = Redelivery {
    store_host: std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1),
};

pub(super) fn limit(messages: usize) -> Limit {
    Limit { messages, bytes: 1 << 20, omit: false }
}

/// An encoded record with these properties; its body says how many there were before it.
pub(super) fn delayed(topic: &str, queue_id: i32, properties: &str) -> Vec<u8> {
    numbered(topic, queue_id, properties, 0)
}

fn numbered(topic: &str, queue_id: i32, properties: &str, number: u64) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    let parts = RecordParts {
        topic,
        queue_id,
        flag: 7,
        sys_flag: record::sys_flag::COMPRESSED,
        born_timestamp_ms: 1_700_000_000_001,
        born_host: "10.1.2.3:4567".parse().unwrap(),
        store_host: "10.0.0.1:10911".parse().unwrap(),
        reconsume_times: 3,
        prepared_transaction_offset: 0,
        body: &number.to_be_bytes(),
        properties: &[properties],
    };
    parts.encode_into(&mut bytes).unwrap();
    bytes.to_vec()
}

#[derive(Debug, Default)]
pub(super) struct MemoryLog {
    queues: BTreeMap<(String, u32), Vec<Unit>>,
    records: BTreeMap<u64, Vec<u8>>,
    timers: BTreeSet<TimerEntry>,
    /// What is due before is left out of the timer index.
    indexed_from_ms: i64,
    /// Messages at the end of each queue that are not published yet; the timer index has them.
    pub(super) unpublished: u64,
    /// Whether queues cannot be read.
    pub(super) fails: bool,
}

impl MemoryLog {
    /// Lets go of the slots of the timer index that are wholly before a time, as every member does.
    pub(super) fn drop_timers_before(&mut self, due_ms: i64) {
        self.indexed_from_ms = self.indexed_from_ms.max(slot_start_ms(due_ms));
    }

    /// The same log with the timer index made again, as on a member that lost it: with slots that were dropped.
    pub(super) fn rebuild(&mut self) {
        (self.indexed_from_ms, self.unpublished) = (0, 0);
    }

    fn indexed(&self) -> impl Iterator<Item = &TimerEntry> {
        self.timers.iter().filter(|entry| entry.due_ms >= self.indexed_from_ms)
    }

    /// Appends a message; its body is its queue offset.
    pub(super) fn append(&mut self, topic: &str, queue_id: u32, stored_ms: i64, properties: &str) {
        let queue = self.queues.entry((topic.to_owned(), queue_id)).or_default();
        let queue_offset = queue.len() as u64;
        let physical_offset = self.records.len() as u64 * 1000;
        let mut bytes = numbered(topic, queue_id as i32, properties, queue_offset);
        record::patch_positions(&mut bytes, queue_offset, physical_offset, stored_ms).unwrap();
        let (size, due_ms) = (bytes.len() as u32, timer::due_ms(properties));
        queue.push(Unit { physical_offset, size, tags_code: due_ms });
        if topic == TIMER_TOPIC {
            self.timers.insert(TimerEntry { due_ms, queue_offset, physical_offset, size });
        }
        self.records.insert(physical_offset, bytes);
    }
}

impl Source for MemoryLog {
    type Record = Vec<u8>;

    fn queue_range(&self, topic: &str, queue_id: u32) -> Range<u64> {
        let len = self.queues.get(&(topic.to_owned(), queue_id)).map_or(0, |queue| queue.len() as u64);
        0..len.saturating_sub(self.unpublished)
    }

    fn units(&self, topic: &str, queue_id: u32, from: u64, max: usize) -> Result<Vec<Unit>, StoreError> {
        if self.fails {
            return Err(StoreError::Illegal("the disk fails".to_owned()));
        }
        let end = self.queue_range(topic, queue_id).end.min(from.saturating_add(max as u64));
        let queue = self.queues.get(&(topic.to_owned(), queue_id));
        Ok(queue.into_iter().flatten().take(end as usize).skip(from as usize).copied().collect())
    }

    fn record(&self, physical_offset: u64, size: u32) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.records.get(&physical_offset).filter(|bytes| bytes.len() == size as usize).cloned())
    }

    fn timers_due(
        &self,
        after: (i64, u64),
        until_ms: i64,
        below_offset: u64,
        max: usize,
    ) -> Result<Vec<TimerEntry>, StoreError> {
        let wanted = |entry: &&TimerEntry| {
            (entry.due_ms, entry.queue_offset) > after
                && entry.due_ms <= until_ms
                && entry.queue_offset < below_offset
        };
        Ok(self.indexed().filter(wanted).take(max).copied().collect())
    }

    fn next_timer_slot_ms(&self, due_ms: i64) -> Option<i64> {
        let slot_ms = slot_start_ms(due_ms);
        self.indexed().find(|entry| entry.due_ms >= slot_ms).map(|entry| slot_start_ms(entry.due_ms))
    }
}

fn slot_start_ms(due_ms: i64) -> i64 {
    due_ms.max(0) / SLOT_MS * SLOT_MS
}

/// The queue offsets that delivered messages had, in order.
pub(super) fn delivered(delivery: &Delivery) -> Vec<u64> {
    let offsets: Vec<_> = RecordIter::new(&delivery.records)
        .map(|record| u64::from_be_bytes(record.unwrap().body().try_into().unwrap()))
        .collect();
    assert_eq!(offsets.len(), delivery.count as usize);
    offsets
}
