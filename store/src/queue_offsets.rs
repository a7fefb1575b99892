//! The next queue offset of every queue at the log's end, uncommitted entries included.
//!
//! The leader gives positions by it, a follower checks by it; both advance it in log order, and a truncation takes
//! it back. What is refused leaves it as it was.
//!
//! A command that drops a topic sets its counters to 0 where it stands in the log. What they were before is kept until the
//! command is dispatched, as no truncation reaches it then.

use std::collections::VecDeque;

use bytes::BytesMut;
use raftmq_message::record::{RecordView, patch_positions};
use raftmq_world::hash::HashMap;

use crate::consume_queues::check_topic;
use crate::error::StoreError;
use crate::topic_changes::{TopicChange, TopicChanges};

/// Queue ids are below this. RocketMQ's tools allow no more than 65,535 queues a topic; the bound keeps a lying record
/// from making the table huge.
pub const QUEUE_ID_MAX: u32 = 65_535;

/// In place of the queue offset of a record that no queue takes: its topic was dropped while it was on its way. It stands
/// in the log, and whoever sent it is told that it is not stored.
pub(crate) const NOWHERE: u64 = i64::MAX as u64;

/// Next queue offsets by topic and queue.
#[derive(Debug, Default)]
pub(crate) struct QueueOffsets {
    topics: Vec<TopicOffsets>,
    by_name: HashMap<Box<str>, usize>,
    /// The topic looked up last: in a batch it mostly is the next one too.
    recent: usize,
    /// The newest store timestamp seen, in ms since the epoch. *Invariant 6*: later messages get no earlier one, whatever
    /// the new leader's clock says, so that a queue can be searched by time.
    newest_ms: i64,
    /// That of the last message in the log, or less where it is not known: the next one's is not below it.
    last_ms: i64,
    /// How to take back what commands have changed, in log order.
    undo: VecDeque<Undo>,
}

#[derive(Debug)]
struct TopicOffsets {
    name: Box<str>,
    /// By queue id.
    next: Vec<u64>,
    /// It was dropped, and not made again since, as far as that was seen: from a start on, which is as far back as what is
    /// sent may have found its topic.
    is_gone: bool,
}

/// A topic before a command changed it.
#[derive(Debug)]
struct Undo {
    /// Physical offset of the command's frame.
    physical_offset: u64,
    topic: usize,
    was_gone: bool,
    /// Its counters, where they were changed.
    next: Option<Vec<u64>>,
}

/// A message's place, given once: its queue offset and the physical offset of its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Place in its queue.
    pub queue_offset: u64,
    /// Place of its record in the log.
    pub physical_offset: u64,
}

impl Placed {
    /// Whether a queue has it: not where its topic was deleted while it was on its way.
    pub fn is_in_queue(&self) -> bool {
        self.queue_offset != NOWHERE
    }
}

impl QueueOffsets {
    /// The counter of a queue, made with zero if it is new, and whether its topic is gone. Only names and ids that a
    /// ConsumeQueue can have are let in: dispatch of the committed log must not meet any other.
    fn counter(&mut self, topic: &str, queue_id: i32) -> Result<(&mut u64, bool), StoreError> {
        let queue = u32::try_from(queue_id).ok().filter(|id| *id <= QUEUE_ID_MAX).ok_or_else(|| {
            StoreError::Illegal(format!(
                "queue id {queue_id} of topic {topic} is not within 0 to {QUEUE_ID_MAX}"
            ))
        })? as usize;
        if self.topics.get(self.recent).is_none_or(|recent| &*recent.name != topic) {
            self.recent = self.topic(topic)?;
        }
        let TopicOffsets { next, is_gone, .. } = &mut self.topics[self.recent];
        if next.len() <= queue {
            next.resize(queue + 1, 0);
        }
        Ok((&mut next[queue], *is_gone))
    }

    fn topic(&mut self, name: &str) -> Result<usize, StoreError> {
        if let Some(&at) = self.by_name.get(name) {
            return Ok(at);
        }
        check_topic(name)?;
        let at = self.topics.len();
        self.topics.push(TopicOffsets { name: name.into(), next: Vec::new(), is_gone: false });
        self.by_name.insert(name.into(), at);
        Ok(at)
    }

    /// Sets a queue's next offset, at recovery.
    pub(crate) fn set(&mut self, topic: &str, queue_id: u32, next: u64) -> Result<(), StoreError> {
        let queue_id = i32::try_from(queue_id).unwrap_or(-1);
        *self.counter(topic, queue_id)?.0 = next;
        Ok(())
    }

    /// That of the last message in the log, or less where it is not known.
    pub(crate) fn last_ms(&self) -> i64 {
        self.last_ms
    }

    /// Does to the counters what a command at `physical_offset` means for them: *invariant 1*, on every member alike.
    pub(crate) fn change_topics(&mut self, physical_offset: u64, command: &[u8], changes: TopicChanges) {
        if !command.is_empty() {
            changes(command, &mut |change| self.change_topic(physical_offset, change));
        }
    }

    fn change_topic(&mut self, physical_offset: u64, change: TopicChange<'_>) {
        let (topic, is_gone) = match change {
            // A name that no topic can have has no counters.
            TopicChange::Dropped(name) => (self.topic(name).ok(), true),
            TopicChange::Made(name) => (self.by_name.get(name).copied(), false),
        };
        let Some(topic) = topic.filter(|topic| is_gone || self.topics[*topic].is_gone) else { return };
        let offsets = &mut self.topics[topic];
        let next = is_gone.then(|| std::mem::take(&mut offsets.next));
        let was_gone = std::mem::replace(&mut offsets.is_gone, is_gone);
        self.undo.push_back(Undo { physical_offset, topic, was_gone, next });
    }

    /// Takes back what commands from `physical_offset` on have changed. What messages have is not taken back with it.
    pub(crate) fn undo_changes(&mut self, physical_offset: u64) {
        while self.undo.back().is_some_and(|undo| undo.physical_offset >= physical_offset)
            && let Some(undo) = self.undo.pop_back()
        {
            let offsets = &mut self.topics[undo.topic];
            offsets.is_gone = undo.was_gone;
            offsets.next = undo.next.unwrap_or_else(|| std::mem::take(&mut offsets.next));
        }
    }

    /// What commands below `physical_offset` have changed is not taken back any more: they are committed.
    pub(crate) fn settle_changes(&mut self, physical_offset: u64) {
        while self.undo.front().is_some_and(|undo| undo.physical_offset < physical_offset) {
            self.undo.pop_front();
        }
    }

    /// All that is in the log has been seen.
    pub(crate) fn end_recovery(&mut self) {
        self.last_ms = self.newest_ms;
    }

    /// A message was stored at that time.
    pub(crate) fn saw_timestamp(&mut self, store_timestamp_ms: i64) {
        self.newest_ms = self.newest_ms.max(store_timestamp_ms);
    }

    /// *Invariant 2*, the leader's side: positions are given once. Writes queue offset, physical offset and store
    /// timestamp into each record of `pieces`, which will stand at `physical_offset` in the log back to back. Those whose
    /// topic is gone are placed nowhere where `is_sent`: whoever sent them had found it before, and whoever makes it again
    /// finds it empty.
    ///
    /// On an error counters and `placed` are as before; some records may have been written into.
    pub(crate) fn place(
        &mut self,
        pieces: &mut [BytesMut],
        physical_offset: u64,
        store_timestamp_ms: i64,
        is_sent: bool,
        placed: &mut Vec<Placed>,
    ) -> Result<(), StoreError> {
        let (before, last_ms) = (placed.len(), self.last_ms);
        let store_timestamp_ms = self.newest_ms.max(store_timestamp_ms);
        let mut start = physical_offset;
        for n in 0..pieces.len() {
            if let Err((at, e)) = self.place_piece(&mut pieces[n], start, store_timestamp_ms, is_sent, placed)
            {
                placed.truncate(before);
                for done in &pieces[..n] {
                    self.take_back(done, &[])?;
                }
                self.take_back(&pieces[n][..at], &[])?;
                self.last_ms = last_ms;
                return Err(e);
            }
            start += pieces[n].len() as u64;
        }
        (self.newest_ms, self.last_ms) = (store_timestamp_ms, store_timestamp_ms);
        Ok(())
    }

    /// On an error the position of the record that was not placed is with it.
    fn place_piece(
        &mut self,
        records: &mut [u8],
        physical_offset: u64,
        store_timestamp_ms: i64,
        is_sent: bool,
        placed: &mut Vec<Placed>,
    ) -> Result<(), (usize, StoreError)> {
        let mut at = 0;
        while at < records.len() {
            let here = physical_offset + at as u64;
            let record = RecordView::parse(&records[at..]).map_err(|e| (at, bad_record(here, &e)))?;
            let size = record.total_size();
            let (next, is_gone) = self.counter(record.topic(), record.queue_id()).map_err(|e| (at, e))?;
            let is_nowhere = is_sent && is_gone;
            let queue_offset = if is_nowhere { NOWHERE } else { *next };
            let place = Placed { queue_offset, physical_offset: here };
            patch_positions(&mut records[at..], queue_offset, here, store_timestamp_ms)
                .map_err(|e| (at, bad_record(here, &e)))?;
            *next += u64::from(!is_nowhere);
            placed.push(place);
            at += size;
        }
        Ok(())
    }

    /// *Invariants 2 and 6*, the follower's side: every record's positions and its store timestamp continue what this log
    /// holds; one that its leader has placed nowhere continues nothing. Returns how many records there are. On an error the
    /// counters are as before.
    pub(crate) fn check(&mut self, records: &[u8], physical_offset: u64) -> Result<u32, StoreError> {
        let (mut at, mut count, last_ms) = (0, 0, self.last_ms);
        while at < records.len() {
            match self.check_one(&records[at..], physical_offset + at as u64) {
                Ok(size) => at += size,
                Err(e) => {
                    self.take_back(&records[..at], &[])?;
                    self.last_ms = last_ms;
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
        let (stored_ms, last_ms) = (record.store_timestamp_ms(), self.last_ms);
        if stored_ms < last_ms {
            return Err(StoreError::Divergence(format!(
                "the record at physical offset {physical_offset} has store timestamp {stored_ms}, behind one of {last_ms}"
            )));
        }
        let (next, _) = self.counter(record.topic(), record.queue_id())?;
        let queue_offset = record.queue_offset() as u64;
        if ![*next, NOWHERE].contains(&queue_offset) {
            return Err(StoreError::Divergence(format!(
                "the record at physical offset {physical_offset} has queue offset {} in queue {} of topic {}, whose next is {next}",
                record.queue_offset(),
                record.queue_id(),
                record.topic(),
            )));
        }
        *next += u64::from(queue_offset != NOWHERE);
        self.last_ms = stored_ms;
        self.saw_timestamp(stored_ms);
        Ok(record.total_size())
    }

    /// Takes the counters back to before `records` were appended. Those of topics in `settled` are there already.
    pub(crate) fn take_back(&mut self, records: &[u8], settled: &[String]) -> Result<(), StoreError> {
        self.last_ms = 0;
        let mut at = 0;
        while at < records.len() {
            let record = RecordView::parse(&records[at..]).map_err(|e| bad_record(at as u64, &e))?;
            if settled.is_empty() || settled.iter().all(|topic| topic != record.topic()) {
                // One that is nowhere has the largest offset of all.
                let (next, _) = self.counter(record.topic(), record.queue_id())?;
                *next = (*next).min(record.queue_offset() as u64);
            }
            at += record.total_size();
        }
        Ok(())
    }
}

fn bad_record(physical_offset: u64, error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Illegal(format!("message record at physical offset {physical_offset}: {error}"))
}

#[cfg(test)]
pub(crate) mod tests {
    use raftmq_message::RecordParts;

    use super::*;

    /// A record of topic t, queue 0, without positions.
    pub(crate) fn record() -> Vec<u8> {
        let host = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let parts = RecordParts {
            topic: "t",
            queue_id: 0,
            flag: 0,
            sys_flag: 0,
            born_timestamp_ms: 0,
            born_host: host,
            store_host: host,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: b"body",
            properties: &[],
        };
        let mut bytes = Vec::new();
        parts.encode_into(&mut bytes).unwrap();
        bytes
    }

    fn placed(offsets: &mut QueueOffsets, at: u64, now_ms: i64) -> BytesMut {
        let mut pieces = [BytesMut::from(&record()[..])];
        offsets.place(&mut pieces, at, now_ms, true, &mut Vec::new()).unwrap();
        let [piece] = pieces;
        piece
    }

    #[test]
    fn a_follower_refuses_a_store_timestamp_that_falls() {
        let (mut leader, mut follower) = (QueueOffsets::default(), QueueOffsets::default());
        let first = placed(&mut leader, 0, 100);
        let end = first.len() as u64;
        let mut second = placed(&mut leader, end, 50);
        follower.check(&first, 0).unwrap();
        patch_positions(&mut second, 1, end, 99).unwrap();
        assert!(matches!(follower.check(&second, end), Err(StoreError::Divergence(_))));
        assert!(matches!(follower.check(&second, end), Err(StoreError::Divergence(_))));
        // What another leader had stamped later is taken back before.
        follower.take_back(&first, &[]).unwrap();
        patch_positions(&mut second, 0, end, 99).unwrap();
        follower.check(&second, end).unwrap();
        assert!(follower.newest_ms == 100 && leader.newest_ms == 100);
    }
}
