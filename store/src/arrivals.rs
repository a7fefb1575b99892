//! Arrivals: what a batch of committed messages brought to which queues.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use raftmq_world::hash::HashMap;

use crate::consume_queue::{ConsumeQueue, Unit};
use crate::error::StoreError;
use crate::view::Committed;

/// What one batch of dispatched messages brought to one queue.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The topic.
    pub topic: Arc<str>,
    /// The queue.
    pub queue_id: u32,
    /// The queue's offset after it: the next to be written.
    pub max_offset: u64,
    /// Tags code of the last message, or what its unit has in place of it.
    pub tags_code: i64,
    /// When the last message was stored, in ms since the epoch.
    pub store_timestamp_ms: i64,
}

/// Told of arrivals by the reput step, once a batch. Must not block.
pub type ArrivalListener = Box<dyn Fn(&[Arrival]) + Send + Sync>;

/// The batch that is being dispatched.
#[derive(Default)]
pub(crate) struct Arrivals {
    touched: Mutex<Touched>,
    /// Published, and not told yet.
    published: Mutex<Vec<Arrival>>,
    listener: RwLock<Option<ArrivalListener>>,
}

/// Queues that got units since they were last made readable.
#[derive(Default)]
struct Touched {
    topics: Vec<(Arc<str>, BTreeMap<u32, TouchedQueue>)>,
    by_name: HashMap<Arc<str>, usize>,
    /// The topic looked up last: mostly the next one too.
    recent: usize,
}

/// One such queue.
struct TouchedQueue {
    queue: Arc<ConsumeQueue>,
    tags_code: i64,
    store_timestamp_ms: i64,
}

impl fmt::Debug for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrivals").field("published", &self.published).finish_non_exhaustive()
    }
}

impl Arrivals {
    pub(crate) fn set_listener(&self, listener: ArrivalListener) {
        *self.listener.write() = Some(listener);
    }

    /// Adds a message to its queue, which `find` looks up where this batch has not touched it yet.
    pub(crate) fn append(
        &self,
        committed: &Committed<'_>,
        tags_code: i64,
        find: impl FnOnce() -> Result<Arc<ConsumeQueue>, StoreError>,
    ) -> Result<(), StoreError> {
        let record = &committed.record;
        let (physical_offset, size) = (committed.physical_offset(), committed.size());
        let mut touched = self.touched.lock();
        let queue = touched.queue(record.topic(), record.queue_id() as u32, find)?;
        queue.queue.append(committed.queue_offset(), Unit { physical_offset, size, tags_code })?;
        queue.tags_code = tags_code;
        queue.store_timestamp_ms = record.store_timestamp_ms();
        Ok(())
    }

    /// Makes the new units readable.
    pub(crate) fn publish(&self) -> Result<(), StoreError> {
        let arrivals = std::mem::take(&mut *self.touched.lock()).publish()?;
        self.published.lock().extend(arrivals);
        Ok(())
    }

    /// Tells the listener.
    pub(crate) fn announce(&self) {
        let arrivals = std::mem::take(&mut *self.published.lock());
        if !arrivals.is_empty()
            && let Some(listener) = &*self.listener.read()
        {
            listener(&arrivals);
        }
    }

    /// Forgets a batch that came to no end.
    pub(crate) fn clear(&self) {
        *self.touched.lock() = Touched::default();
        self.published.lock().clear();
    }
}

impl Touched {
    /// The queue, looked up without an allocation once it is known.
    fn queue(
        &mut self,
        topic: &str,
        queue_id: u32,
        find: impl FnOnce() -> Result<Arc<ConsumeQueue>, StoreError>,
    ) -> Result<&mut TouchedQueue, StoreError> {
        if self.topics.get(self.recent).is_none_or(|(recent, _)| &**recent != topic) {
            self.recent = self.topic(topic);
        }
        match self.topics[self.recent].1.entry(queue_id) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(new) => {
                Ok(new.insert(TouchedQueue { queue: find()?, tags_code: 0, store_timestamp_ms: 0 }))
            }
        }
    }

    fn topic(&mut self, name: &str) -> usize {
        if let Some(&at) = self.by_name.get(name) {
            return at;
        }
        let name: Arc<str> = name.into();
        self.topics.push((name.clone(), BTreeMap::new()));
        self.by_name.insert(name, self.topics.len() - 1);
        self.topics.len() - 1
    }

    fn publish(self) -> Result<Vec<Arrival>, StoreError> {
        let mut arrivals = Vec::new();
        for (topic, queues) in self.topics {
            for (queue_id, touched) in queues {
                let max_offset = touched.queue.publish()?;
                let TouchedQueue { tags_code, store_timestamp_ms, .. } = touched;
                arrivals.push(Arrival {
                    topic: topic.clone(),
                    queue_id,
                    max_offset,
                    tags_code,
                    store_timestamp_ms,
                });
            }
        }
        Ok(arrivals)
    }
}
