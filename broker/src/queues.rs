//! Looking into queues: their ends, offsets by time, when messages were stored.

use std::sync::Arc;

use raftmq_message::RecordView;
use raftmq_store::{Boundary, LogSlice, Store, Unit};

use crate::error::Error;
use crate::offsets::YoungQueue;
use crate::replica::Replica;

/// The queues of a group.
pub struct Queues {
    replica: Arc<Replica>,
}

impl Queues {
    /// As this member has them.
    pub fn new(replica: Arc<Replica>) -> Self {
        Self { replica }
    }

    fn store(&self) -> &Store {
        self.replica.store()
    }

    /// The id of a queue that its topic has, or had when it had more.
    pub fn id(&self, topic: &str, queue_id: i32) -> Option<u32> {
        let topic = self.replica.state().topics.get(topic)?;
        let queue_id = u32::try_from(queue_id).ok()?;
        let had = || self.store().queue(&topic.name, queue_id).is_some();
        (queue_id < topic.queues() || had()).then_some(queue_id)
    }

    /// The offset of a queue's first message, and that behind its last; 0 both in one that never had any.
    pub fn ends(&self, topic: &str, queue_id: u32) -> (u64, u64) {
        let queue = self.store().queue(topic, queue_id);
        queue.map_or((0, 0), |queue| (queue.min_offset(), queue.max_offset()))
    }

    /// When the message at an offset was stored, in ms since the epoch.
    pub fn stored_at(&self, topic: &str, queue_id: u32, offset: u64) -> Option<i64> {
        let unit = self.store().queue(topic, queue_id)?.get(offset)?;
        store_time(self.store(), unit)
    }

    /// The offset that belongs to a time in ms since the epoch; 0 in a queue that never had a message.
    ///
    /// # Errors
    /// The queue could not be read.
    pub fn offset_at(
        &self,
        topic: &str,
        queue_id: u32,
        timestamp_ms: i64,
        boundary: Boundary,
    ) -> Result<u64, Error> {
        let Some(queue) = self.store().queue(topic, queue_id) else { return Ok(0) };
        let found = queue.offset_by_time(timestamp_ms, boundary, |unit| store_time(self.store(), unit));
        found.map_err(|error| Error::Store(error.to_string()))
    }

    /// The record at a physical offset, if one starts there.
    pub fn record_at(&self, physical_offset: i64) -> Option<LogSlice> {
        self.store().record_at(u64::try_from(physical_offset).ok()?)
    }

    /// A queue that exists, with messages or without, as a group without an offset has to know it.
    pub fn young(&self, topic: &str, queue_id: i32) -> Option<YoungQueue> {
        let queue_id = self.id(topic, queue_id)?;
        let end = self.store().dispatched_physical_offset();
        let Some(queue) = self.store().queue(topic, queue_id) else {
            return Some(YoungQueue { min_offset: 0, max_offset: 0, bytes_behind: 0 });
        };
        let first = queue.get(0);
        Some(YoungQueue {
            min_offset: queue.min_offset(),
            max_offset: queue.max_offset(),
            bytes_behind: first.map_or(u64::MAX, |unit| end.saturating_sub(unit.physical_offset)),
        })
    }
}

fn store_time(store: &Store, unit: Unit) -> Option<i64> {
    let slice = store.record(unit.physical_offset, unit.size).ok()??;
    RecordView::parse(&slice).ok().map(|record| record.store_timestamp_ms())
}
