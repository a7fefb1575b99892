//! The offsets that a store has noted in memory, and what of them is known to be persisted.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use raftmq_remoting::body::MessageQueue;
use raftmq_world::hash::HashMap;

use super::store::ReadOffsetType;
use crate::error::ClientError;

/// What is noted. It holds the queues a consumer has, which their topics' routes bound.
#[derive(Debug, Default)]
pub(super) struct Table {
    notes: Mutex<HashMap<MessageQueue, Note>>,
}

#[derive(Debug, Clone, Copy)]
struct Note {
    offset: i64,
    frozen: bool,
    /// What is known to be persisted.
    persisted: Option<i64>,
}

impl Table {
    pub(super) fn update(&self, queue: &MessageQueue, offset: i64, increase_only: bool) {
        let mut notes = self.notes.lock();
        let note = Note { offset, frozen: false, persisted: None };
        let note = notes.entry(queue.clone()).or_insert(note);
        if !note.frozen && (offset > note.offset || !increase_only) {
            note.offset = offset;
        }
    }

    pub(super) fn update_and_freeze(&self, queue: &MessageQueue, offset: i64) {
        let mut notes = self.notes.lock();
        let persisted = notes.get(queue).and_then(|note| note.persisted);
        notes.insert(queue.clone(), Note { offset, frozen: true, persisted });
    }

    /// Notes what the store has, unless something was noted in the meantime.
    pub(super) fn found(&self, queue: &MessageQueue, offset: i64) {
        let note = Note { offset, frozen: false, persisted: Some(offset) };
        self.notes.lock().entry(queue.clone()).or_insert(note);
    }

    fn get(&self, queue: &MessageQueue) -> Option<i64> {
        self.notes.lock().get(queue).map(|note| note.offset)
    }

    /// The offset, from where it may be looked for. What is `stored` is asked for only then, and noted.
    pub(super) async fn read(
        &self,
        queue: &MessageQueue,
        from: ReadOffsetType,
        stored: impl Future<Output = Result<Option<i64>, ClientError>>,
    ) -> Result<Option<i64>, ClientError> {
        if from != ReadOffsetType::ReadFromStore
            && let Some(offset) = self.get(queue)
        {
            return Ok(Some(offset));
        }
        if from == ReadOffsetType::ReadFromMemory {
            return Ok(None);
        }
        let offset = stored.await?;
        if let Some(offset) = offset {
            self.found(queue, offset);
        }
        Ok(offset)
    }

    pub(super) fn remove(&self, queue: &MessageQueue) {
        self.notes.lock().remove(queue);
    }

    /// What is noted for those of the queues whose offset is not known to be persisted.
    pub(super) fn unpersisted(&self, queues: &[MessageQueue]) -> Vec<(MessageQueue, i64)> {
        let notes = self.notes.lock();
        let changed = queues.iter().filter_map(|queue| {
            let note = notes.get(queue)?;
            (note.persisted != Some(note.offset)).then(|| (queue.clone(), note.offset))
        });
        changed.collect()
    }

    pub(super) fn persisted(&self, queue: &MessageQueue, offset: i64) {
        if let Some(note) = self.notes.lock().get_mut(queue) {
            note.persisted = Some(offset);
        }
    }

    pub(super) fn to_map(&self, topic: Option<&str>) -> BTreeMap<MessageQueue, i64> {
        let notes = self.notes.lock();
        let wanted = notes.iter().filter(|(queue, _)| topic.is_none_or(|topic| topic == queue.topic));
        wanted.map(|(queue, note)| (queue.clone(), note.offset)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(id: i32) -> MessageQueue {
        MessageQueue { broker_name: "broker-a".into(), queue_id: id, topic: "T".into() }
    }

    #[test]
    fn offsets_rise_or_are_set_or_are_frozen() {
        let table = Table::default();
        table.update(&queue(0), 5, true);
        table.update(&queue(0), 3, true);
        assert_eq!(table.get(&queue(0)), Some(5));
        table.update(&queue(0), 3, false);
        assert_eq!(table.get(&queue(0)), Some(3));
        table.update_and_freeze(&queue(0), 1);
        table.update(&queue(0), 9, false);
        assert_eq!(table.get(&queue(0)), Some(1));
        table.remove(&queue(0));
        table.update(&queue(0), 9, true);
        assert_eq!(table.get(&queue(0)), Some(9));
    }

    #[test]
    fn only_what_has_changed_is_to_be_persisted() {
        let table = Table::default();
        table.found(&queue(0), 5);
        table.update(&queue(1), 6, true);
        table.update(&queue(2), 7, true);
        assert_eq!(table.unpersisted(&[queue(0), queue(1), queue(3)]), [(queue(1), 6)]);
        table.persisted(&queue(1), 6);
        table.found(&queue(1), 2);
        assert_eq!(table.unpersisted(&[queue(0), queue(1)]), []);
        table.update(&queue(0), 8, true);
        assert_eq!(table.unpersisted(&[queue(0), queue(1)]), [(queue(0), 8)]);
        assert_eq!(table.to_map(Some("T")).len(), 3);
        assert_eq!(table.to_map(Some("U")).len(), 0);
        assert_eq!(table.to_map(None).values().sum::<i64>(), 8 + 6 + 7);
    }
}
