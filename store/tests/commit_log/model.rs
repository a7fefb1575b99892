//! A model of a store that is as simple as can be: lists.

use std::collections::BTreeMap;

use raftmq_message::RecordIter;
use raftmq_message::topic::TIMER_TOPIC;
use raftmq_store::{EntryId, FrameKind, Placed, Store, TimerEntry, Unit};

use crate::support::{HEADER, Message, Opened, SEGMENT, frames, wait_dispatched};

/// An entry that was appended.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) id: EntryId,
    pub(crate) kind: FrameKind,
    pub(crate) messages: Vec<Message>,
    /// The command in front of the messages.
    pub(crate) command: Vec<u8>,
    /// The frame as it was read back right after the append.
    pub(crate) frame: Vec<u8>,
}

impl Entry {
    /// The topic that begins anew behind it.
    fn renewed(&self) -> Option<&str> {
        let command =
            if self.kind == FrameKind::Command { &self.frame[HEADER as usize..] } else { &self.command };
        std::str::from_utf8(command).ok()?.strip_prefix("renew ")
    }
}

/// What a store should hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) entries: Vec<Entry>,
    /// How many of them are committed.
    pub(crate) committed: usize,
    /// What is due before is not asked for any more.
    pub(crate) timers_from_ms: i64,
}

type Queue = (String, i32);

/// What is derived from some entries.
#[derive(Default)]
struct DerivedModel {
    queues: BTreeMap<Queue, Vec<Unit>>,
    /// Topic, key, physical offset.
    keys: Vec<(String, String, u64)>,
}

impl Model {
    pub(crate) fn next_index(&self) -> u64 {
        self.entries.len() as u64
    }

    pub(crate) fn last(&self) -> Option<EntryId> {
        self.entries.last().map(|e| e.id)
    }

    /// Where each frame starts, and where the log ends.
    pub(crate) fn layout(&self) -> (Vec<u64>, u64) {
        let mut end = 0;
        let mut starts = Vec::new();
        for entry in &self.entries {
            let len = entry.frame.len() as u64;
            if end / SEGMENT != (end + len - 1) / SEGMENT {
                end = (end / SEGMENT + 1) * SEGMENT;
            }
            starts.push(end);
            end += len;
        }
        (starts, end)
    }

    /// End of the committed part.
    pub(crate) fn committed_end(&self) -> u64 {
        match self.committed {
            0 => 0,
            n => self.layout().0[n - 1] + self.entries[n - 1].frame.len() as u64,
        }
    }

    /// What belongs to the first `entries` entries.
    fn derived(&self, entries: usize) -> DerivedModel {
        let (starts, _) = self.layout();
        let mut derived = DerivedModel::default();
        for (entry, start) in self.entries[..entries].iter().zip(starts) {
            if let Some(renewed) = entry.renewed() {
                derived.queues.retain(|(topic, _), _| topic != renewed);
            }
            let mut physical_offset = start + HEADER + entry.command.len() as u64;
            for message in &entry.messages {
                let size = crate::support::records(std::slice::from_ref(message)).len() as u32;
                let tags_code = message.due_ms().unwrap_or_else(|| raftmq_message::hash::tags_code("TagA"));
                let unit = Unit { physical_offset, size, tags_code };
                derived.queues.entry((message.topic.clone(), message.queue_id)).or_default().push(unit);
                derived.keys.push((message.topic.clone(), message.key.clone(), physical_offset));
                physical_offset += u64::from(size);
            }
        }
        derived
    }

    /// The places that the last entry's messages must have been given.
    pub(crate) fn last_placed(&self) -> Vec<Placed> {
        let DerivedModel { queues, .. } = self.derived(self.entries.len());
        let start = *self.layout().0.last().unwrap();
        let mut placed: Vec<_> = queues
            .values()
            .flat_map(|units| (0..).zip(units))
            .filter(|(_, unit)| unit.physical_offset >= start)
            .map(|(queue_offset, unit)| Placed { queue_offset, physical_offset: unit.physical_offset })
            .collect();
        placed.sort_by_key(|p| p.physical_offset);
        placed
    }

    /// Compares the log with the model, entry by entry.
    pub(crate) fn check_log(&self, store: &Store) {
        let log = store.log();
        let (starts, end) = self.layout();
        assert_eq!((log.last(), log.end()), (self.last(), end));
        let walked = frames(store);
        assert_eq!(walked.len(), self.entries.len());
        let mut next = BTreeMap::<Queue, i64>::new();
        for ((entry, start), frame) in self.entries.iter().zip(&starts).zip(&walked) {
            assert_eq!((frame.id(), frame.header.kind), (entry.id, entry.kind));
            assert_eq!((frame.header.physical_offset, &frame.bytes[..]), (*start, &entry.frame[..]));
            assert_eq!(&log.frame(entry.id.index).unwrap().unwrap().bytes[..], &entry.frame[..]);
            if let Some(renewed) = entry.renewed() {
                next.retain(|(topic, _), _| topic != renewed);
            }
            let of_messages = if entry.kind == FrameKind::Messages { frame.records() } else { &[] };
            let mut count = 0;
            for (record, message) in RecordIter::new(of_messages).zip(&entry.messages) {
                let record = record.unwrap();
                let queue = (message.topic.clone(), message.queue_id);
                assert_eq!((record.topic(), record.queue_id()), (&queue.0[..], queue.1));
                assert_eq!(record.body(), message.body);
                let offset = next.entry(queue).or_default();
                assert_eq!(record.queue_offset(), *offset);
                *offset += 1;
                count += 1;
            }
            assert_eq!(count, entry.messages.len());
        }
        assert!(log.frame(self.next_index()).unwrap().is_none());
        assert!(log.frame(u64::MAX).unwrap().is_none());
    }

    /// Compares what consumers see with the model, the committed entries being dispatched first.
    pub(crate) fn check_dispatched(&self, store: &Opened) {
        store.commit(self.committed_end());
        assert!(wait_dispatched(store, self.committed_end()));
        let DerivedModel { queues, keys } = self.derived(self.committed);
        for ((topic, queue_id), units) in &queues {
            let queue = store.queue(topic, *queue_id as u32).unwrap();
            assert_eq!(&queue.read(0, usize::MAX), units);
            let unit = units[units.len() - 1];
            let record = store.record(unit.physical_offset, unit.size).unwrap().unwrap();
            assert_eq!(&store.record_at(unit.physical_offset).unwrap()[..], &record[..]);
        }
        let all_queues: usize = ["topic", "other", TIMER_TOPIC]
            .iter()
            .flat_map(|topic| (0..4).filter_map(|id| store.queue(topic, id)))
            .filter(|queue| queue.max_offset() > 0)
            .count();
        assert_eq!(all_queues, queues.len());
        let mut timers: Vec<_> = (0..)
            .zip(queues.get(&(TIMER_TOPIC.to_owned(), 0)).into_iter().flatten())
            .map(|(queue_offset, Unit { physical_offset, size, tags_code })| TimerEntry {
                due_ms: *tags_code,
                queue_offset,
                physical_offset: *physical_offset,
                size: *size,
            })
            .collect();
        timers.retain(|timer| timer.due_ms >= self.timers_from_ms);
        timers.sort();
        let after = (self.timers_from_ms - 1, u64::MAX);
        assert_eq!(store.timers.due(after, i64::MAX, u64::MAX, 1000).unwrap(), timers);
        for (topic, key, physical_offset) in keys.iter().rev().take(5) {
            let found = store.index.query(topic, key, 0, i64::MAX, 100).unwrap();
            assert!(found.contains(physical_offset), "{key} at {physical_offset}, found {found:?}");
        }
        for entry in self.entries.iter().skip(self.committed).filter(|e| !e.messages.is_empty()) {
            let message = &entry.messages[0];
            assert_eq!(store.index.query(&message.topic, &message.key, 0, i64::MAX, 100).unwrap(), []);
        }
    }
}
