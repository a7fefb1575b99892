//! The next queue offset of every queue at the log's end, uncommitted entries included.
//!
//! The leader gives positions by it, a follower checks by it; both advance it in log order, and a truncation takes
//! it back.

use std::collections::HashMap;

use raftmq_message::record::{RecordView, patch_positions};

use crate::error::StoreError;

/// Queue ids are below this. RocketMQ's tools allow no more than 65,535 queues a topic; the bound keeps a lying record
/// from making the table huge.
pub const QUEUE_ID_MAX: u32 = 65_535;

/// Next queue offsets by topic and queue.
#[derive(Debug, Default)]
pub(crate) struct QueueOffsets {
    by_topic: HashMap<Box<str>, Vec<u64>>,
    /// The newest store timestamp seen, in ms since the epoch. Later messages get no earlier one, whatever the new
    /// leader's clock says, so that a queue can be searched by time.
    newest_ms: i64,
}

/// A message's place, given once: its queue offset and the physical offset of its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Place in its queue.
    pub queue_offset: u64,
    /// Place of its record in the log.
    pub physical_offset: u64,
}

impl QueueOffsets {
    /// The counter of a queue, made with zero if it is new.
    fn counter(&mut self, topic: &str, queue_id: i32) -> Result<&mut u64, StoreError> {
        let queue_id = u32::try_from(queue_id).ok().filter(|id| *id <= QUEUE_ID_MAX).ok_or_else(|| {
            StoreError::Illegal(format!("queue id {queue_id} of topic {topic} is not within 0 to {QUEUE_ID_MAX}"))
        })?;
        if !self.by_topic.contains_key(topic) {
            self.by_topic.insert(topic.into(), Vec::new());
        }
        let queues = self.by_topic.get_mut(topic).expect("inserted above");
        let at = queue_id as usize;
        if queues.len() <= at {
            queues.resize(at + 1, 0);
        }
        Ok(&mut queues[at])
    }

    /// Sets a queue's next offset, at recovery.
    pub(crate) fn set(&mut self, topic: &str, queue_id: u32, next: u64) -> Result<(), StoreError> {
        let queue_id = i32::try_from(queue_id).unwrap_or(-1);
        *self.counter(topic, queue_id)? = next;
        Ok(())
    }

    /// The leader's side of invariant 2, "positions are given once": writes queue offset, physical offset and store
    /// timestamp into each record of `records`, which will stand at `physical_offset` in the log.
    pub(crate) fn place(
        &mut self,
        records: &mut [u8],
        physical_offset: u64,
        store_timestamp_ms: i64,
        placed: &mut Vec<Placed>,
    ) -> Result<(), StoreError> {
        self.newest_ms = self.newest_ms.max(store_timestamp_ms);
        let store_timestamp_ms = self.newest_ms;
        let mut at = 0;
        while at < records.len() {
            let record = RecordView::parse(&records[at..]).map_err(|e| bad_record(physical_offset, at, &e))?;
            let size = record.total_size();
            let next = self.counter(record.topic(), record.queue_id())?;
            let here = Placed { queue_offset: *next, physical_offset: physical_offset + at as u64 };
            *next += 1;
            patch_positions(&mut records[at..], here.queue_offset, here.physical_offset, store_timestamp_ms)
                .map_err(|e| bad_record(physical_offset, at, &e))?;
            placed.push(here);
            at += size;
        }
        Ok(())
    }

    /// The follower's side of invariant 2: every record's positions continue what this log holds. Returns how many
    /// records there are. On an error the counters are as before.
    pub(crate) fn check(&mut self, records: &[u8], physical_offset: u64) -> Result<u32, StoreError> {
        let mut at = 0;
        let mut count = 0;
        while at < records.len() {
            match self.check_one(&records[at..], physical_offset + at as u64) {
                Ok(size) => at += size,
                Err(e) => {
                    self.take_back(&records[..at])?;
                    return Err(e);
                }
            }
            count += 1;
        }
        Ok(count)
    }

    fn check_one(&mut self, bytes: &[u8], physical_offset: u64) -> Result<usize, StoreError> {
        let record = RecordView::parse(bytes).map_err(|e| bad_record(physical_offset, 0, &e))?;
        if record.physical_offset() as u64 != physical_offset {
            return Err(StoreError::Divergence(format!(
                "the record at physical offset {physical_offset} says it stands at {}",
                record.physical_offset()
            )));
        }
        let next = self.counter(record.topic(), record.queue_id())?;
        if record.queue_offset() as u64 != *next {
            return Err(StoreError::Divergence(format!(
                "the record at physical offset {physical_offset} has queue offset {} in queue {} of topic {}, whose next is {next}",
                record.queue_offset(),
                record.queue_id(),
                record.topic(),
            )));
        }
        *next += 1;
        self.newest_ms = self.newest_ms.max(record.store_timestamp_ms());
        Ok(record.total_size())
    }

    /// Takes the counters back to before `records` were appended. Frames must be taken back from the last one on.
    pub(crate) fn take_back(&mut self, records: &[u8]) -> Result<(), StoreError> {
        let mut at = 0;
        while at < records.len() {
            let record = RecordView::parse(&records[at..]).map_err(|e| bad_record(0, at, &e))?;
            let next = self.counter(record.topic(), record.queue_id())?;
            *next = (*next).min(record.queue_offset() as u64);
            at += record.total_size();
        }
        Ok(())
    }
}

fn bad_record(physical_offset: u64, at: usize, error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Illegal(format!("message record at physical offset {}: {error}", physical_offset + at as u64))
}
