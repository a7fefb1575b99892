//! The next queue offset of every queue at the log's end, uncommitted entries included.
//!
//! The leader gives positions by it, a follower checks by it; both advance it in log order, and a truncation takes
//! it back. What is refused leaves it as it was.

use bytes::BytesMut;
use raftmq_message::record::{RecordView, patch_positions};
use raftmq_world::hash::HashMap;

use crate::consume_queues::check_topic;
use crate::error::StoreError;

/// Queue ids are below this. RocketMQ's tools allow no more than 65,535 queues a topic; the bound keeps a lying record
/// from making the table huge.
pub const QUEUE_ID_MAX: u32 = 65_535;

/// Next queue offsets by topic and queue.
#[derive(Debug, Default)]
pub(crate) struct QueueOffsets {
    topics: Vec<TopicOffsets>,
    by_name: HashMap<Box<str>, usize>,
    /// The topic looked up last: in a batch it mostly is the next one too.
    recent: usize,
    /// The newest store timestamp seen, in ms since the epoch. Later messages get no earlier one, whatever the new
    /// leader's clock says, so that a queue can be searched by time.
    newest_ms: i64,
}

#[derive(Debug)]
struct TopicOffsets {
    name: Box<str>,
    /// By queue id.
    next: Vec<u64>,
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
    /// The counter of a queue, made with zero if it is new. Only names and ids that a ConsumeQueue can have are let
    /// in: dispatch of the committed log must not meet any other.
    fn counter(&mut self, topic: &str, queue_id: i32) -> Result<&mut u64, StoreError> {
        let queue = u32::try_from(queue_id).ok().filter(|id| *id <= QUEUE_ID_MAX).ok_or_else(|| {
            StoreError::Illegal(format!(
                "queue id {queue_id} of topic {topic} is not within 0 to {QUEUE_ID_MAX}"
            ))
        })? as usize;
        if self.topics.get(self.recent).is_none_or(|recent| &*recent.name != topic) {
            self.recent = self.topic(topic)?;
        }
        let next = &mut self.topics[self.recent].next;
        if next.len() <= queue {
            next.resize(queue + 1, 0);
        }
        Ok(&mut next[queue])
    }

    fn topic(&mut self, name: &str) -> Result<usize, StoreError> {
        if let Some(&at) = self.by_name.get(name) {
            return Ok(at);
        }
        check_topic(name)?;
        let at = self.topics.len();
        self.topics.push(TopicOffsets { name: name.into(), next: Vec::new() });
        self.by_name.insert(name.into(), at);
        Ok(at)
    }

    /// Sets a queue's next offset, at recovery.
    pub(crate) fn set(&mut self, topic: &str, queue_id: u32, next: u64) -> Result<(), StoreError> {
        let queue_id = i32::try_from(queue_id).unwrap_or(-1);
        *self.counter(topic, queue_id)? = next;
        Ok(())
    }

    /// A message was stored at that time.
    pub(crate) fn saw_timestamp(&mut self, store_timestamp_ms: i64) {
        self.newest_ms = self.newest_ms.max(store_timestamp_ms);
    }

    /// The leader's side of invariant 2, "positions are given once": writes queue offset, physical offset and store
    /// timestamp into each record of `pieces`, which will stand at `physical_offset` in the log back to back.
    ///
    /// On an error counters and `placed` are as before; some records may have been written into.
    pub(crate) fn place(
        &mut self,
        pieces: &mut [BytesMut],
        physical_offset: u64,
        store_timestamp_ms: i64,
        placed: &mut Vec<Placed>,
    ) -> Result<(), StoreError> {
        let before = placed.len();
        let store_timestamp_ms = self.newest_ms.max(store_timestamp_ms);
        let mut start = physical_offset;
        for n in 0..pieces.len() {
            if let Err((at, e)) = self.place_piece(&mut pieces[n], start, store_timestamp_ms, placed) {
                placed.truncate(before);
                for done in &pieces[..n] {
                    self.take_back(done)?;
                }
                self.take_back(&pieces[n][..at])?;
                return Err(e);
            }
            start += pieces[n].len() as u64;
        }
        self.newest_ms = store_timestamp_ms;
        Ok(())
    }

    /// On an error the position of the record that was not placed is with it.
    fn place_piece(
        &mut self,
        records: &mut [u8],
        physical_offset: u64,
        store_timestamp_ms: i64,
        placed: &mut Vec<Placed>,
    ) -> Result<(), (usize, StoreError)> {
        let mut at = 0;
        while at < records.len() {
            let here = physical_offset + at as u64;
            let record = RecordView::parse(&records[at..]).map_err(|e| (at, bad_record(here, &e)))?;
            let size = record.total_size();
            let next = self.counter(record.topic(), record.queue_id()).map_err(|e| (at, e))?;
            let place = Placed { queue_offset: *next, physical_offset: here };
            patch_positions(&mut records[at..], place.queue_offset, here, store_timestamp_ms)
                .map_err(|e| (at, bad_record(here, &e)))?;
            *next += 1;
            placed.push(place);
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
        let record = RecordView::parse(bytes).map_err(|e| bad_record(physical_offset, &e))?;
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
        self.saw_timestamp(record.store_timestamp_ms());
        Ok(record.total_size())
    }

    /// Takes the counters back to before `records` were appended.
    pub(crate) fn take_back(&mut self, records: &[u8]) -> Result<(), StoreError> {
        let mut at = 0;
        while at < records.len() {
            let record = RecordView::parse(&records[at..]).map_err(|e| bad_record(at as u64, &e))?;
            let next = self.counter(record.topic(), record.queue_id())?;
            *next = (*next).min(record.queue_offset() as u64);
            at += record.total_size();
        }
        Ok(())
    }
}

fn bad_record(physical_offset: u64, error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Illegal(format!("message record at physical offset {physical_offset}: {error}"))
}
