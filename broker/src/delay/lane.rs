//! What delivers delayed messages step by step: a lane for each level, and one for messages with a time of their own.
//!
//! A lane decides what to deliver next from what the store holds, a clock and its own progress, nothing else. Each step
//! becomes one entry of the log, the messages with the progress that they mean, so however often leaders change, every
//! message is delivered once. See `driver.rs` for who takes the steps.

use std::ops::Range;

use crate::state::DelayProgress;
use bytes::BytesMut;
use raftmq_message::RecordView;
use raftmq_store::{LogSlice, Store, StoreError, TimerEntry, TimerIndex, Unit};

use super::redelivery::{Redelivery, Undeliverable};

/// What a lane does next.
#[derive(Debug)]
pub(super) enum Step {
    /// Puts messages where they belong.
    Deliver(Delivery),
    /// Nothing is due.
    Wait(Wait),
}

/// One entry of the log.
#[derive(Debug)]
pub(super) struct Delivery {
    /// Encoded records, back to back.
    pub(super) records: BytesMut,
    /// How many records.
    pub(super) count: u32,
    /// What is delivered with it.
    pub(super) progress: DelayProgress,
    /// Whether there may be more that is due.
    pub(super) full: bool,
}

/// When to look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wait {
    /// At this time, in ms since the epoch.
    pub(super) until_ms: Option<i64>,
    /// When messages arrive.
    pub(super) for_arrivals: bool,
}

/// How much one step may deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    /// Messages, at least one.
    pub(super) messages: usize,
    /// Bytes of their records; one message may have more.
    pub(super) bytes: usize,
    /// Whether messages are counted as delivered without being so: the log refuses them.
    pub(super) omit: bool,
}

/// What a lane reads.
pub(super) trait Source {
    /// The record of a message.
    type Record: AsRef<[u8]>;

    /// The offsets that a queue holds.
    fn queue_range(&self, topic: &str, queue_id: u32) -> Range<u64>;
    /// Where messages of a queue are, from an offset on. None where the queue ends there; what cannot be read is an
    /// error.
    fn units(&self, topic: &str, queue_id: u32, from: u64, max: usize) -> Result<Vec<Unit>, StoreError>;
    /// The record at a place; None where there is none any more, an error where it cannot be read now.
    fn record(&self, physical_offset: u64, size: u32) -> Result<Option<Self::Record>, StoreError>;
    /// See [`TimerIndex::due`].
    fn timers_due(
        &self,
        after: (i64, u64),
        until_ms: i64,
        below_offset: u64,
        max: usize,
    ) -> Result<Vec<TimerEntry>, StoreError>;
    /// See [`TimerIndex::next_slot_ms`].
    fn next_timer_slot_ms(&self, due_ms: i64) -> Option<i64>;
}

/// What this member has stored.
pub(super) struct Stored<'a> {
    pub(super) store: &'a Store,
    pub(super) timers: &'a TimerIndex,
}

impl Source for Stored<'_> {
    type Record = LogSlice;

    fn queue_range(&self, topic: &str, queue_id: u32) -> Range<u64> {
        self.store.queue(topic, queue_id).map_or(0..0, |queue| queue.min_offset()..queue.max_offset())
    }

    fn units(&self, topic: &str, queue_id: u32, from: u64, max: usize) -> Result<Vec<Unit>, StoreError> {
        let queue = self.store.queue(topic, queue_id);
        queue.map_or_else(|| Ok(Vec::new()), |queue| queue.try_read(from, max))
    }

    fn record(&self, physical_offset: u64, size: u32) -> Result<Option<LogSlice>, StoreError> {
        self.store.record(physical_offset, size)
    }

    fn timers_due(
        &self,
        after: (i64, u64),
        until_ms: i64,
        below_offset: u64,
        max: usize,
    ) -> Result<Vec<TimerEntry>, StoreError> {
        self.timers.due(after, until_ms, below_offset, max)
    }

    fn next_timer_slot_ms(&self, due_ms: i64) -> Option<i64> {
        self.timers.next_slot_ms(due_ms)
    }
}

/// Delivers delayed messages in steps.
pub(super) trait Lane {
    /// What to do at `now_ms`, in ms since the epoch. Until [`applied`](Self::applied) it may be asked again and answers
    /// with a step from the same progress.
    fn plan(
        &mut self,
        source: &impl Source,
        redelivery: &Redelivery,
        now_ms: i64,
        limit: Limit,
    ) -> Result<Step, StoreError>;

    /// The entry of the last step is applied.
    fn applied(&mut self);
}

/// The records of a step.
pub(super) struct Batch<'a> {
    redelivery: &'a Redelivery,
    limit: Limit,
    records: BytesMut,
    count: u32,
    /// Messages that it stands for, the ones that could not be delivered included.
    taken: usize,
}

impl<'a> Batch<'a> {
    pub(super) fn new(redelivery: &'a Redelivery, limit: Limit) -> Self {
        Self { redelivery, limit, records: BytesMut::new(), count: 0, taken: 0 }
    }

    /// Takes a message, unless there is no room for it.
    pub(super) fn take(
        &mut self,
        source: &impl Source,
        physical_offset: u64,
        size: u32,
    ) -> Result<bool, StoreError> {
        if self.taken >= self.limit.messages {
            return Ok(false);
        }
        if !self.limit.omit {
            match self.encode(source.record(physical_offset, size)?) {
                Ok(true) => self.count += 1,
                Ok(false) => return Ok(false),
                Err(why) => tracing::warn!(physical_offset, "a delayed message is not delivered: {why}"),
            }
        }
        self.taken += 1;
        Ok(true)
    }

    /// `false` where there is no room.
    fn encode(&mut self, record: Option<impl AsRef<[u8]>>) -> Result<bool, Undeliverable> {
        let record = record.ok_or(Undeliverable::Gone)?;
        let room = match self.count {
            0 => usize::MAX,
            _ => self.limit.bytes.saturating_sub(self.records.len()),
        };
        self.redelivery.encode(&RecordView::parse(record.as_ref())?, room, &mut self.records)
    }

    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    pub(super) fn into_step(self, progress: DelayProgress, full: bool) -> Step {
        Step::Deliver(Delivery { records: self.records, count: self.count, progress, full })
    }
}
