//! The lane of messages with a time of their own.
//!
//! Its progress says: of the messages with a queue offset below `scanned`, those are delivered whose (due, queue offset)
//! is at or before a bound; of the others, none. A step moves both. With `scanned` go the messages that have come since
//! and were *late*, due before the bound already; they are found by walking the queue, whose units tell when each is due.
//! With the bound go those that are due by now; they are found in the timer index.
//!
//! *Invariant 7*, where it is planned: the bound never falls. Where the clock that moved it was ahead, what comes later may be late and yet not due: the walk
//! delivers up to the first such message and goes on when that is due. Nothing is delivered early then, and until the
//! clock has reached the bound again messages may wait for those that came before them.
//!
//! The index is not asked at every step. What is due soon is kept in memory, up to a *horizon* and to a number, and
//! messages that come are added to it while the queue is walked.

use std::collections::BTreeMap;

use crate::state::{DelayProgress, TimerProgress};
use raftmq_message::topic::TIMER_TOPIC;
use raftmq_store::StoreError;

use super::lane::{Batch, Lane, Limit, Source, Step, Wait};
use super::redelivery::Redelivery;

/// When a message is due, and its queue offset.
type Key = (i64, u64);

/// Where a record is.
#[derive(Clone, Copy, Debug)]
struct Place {
    physical_offset: u64,
    size: u32,
}

/// A late message.
#[derive(Clone, Copy, Debug)]
struct Late {
    due_ms: i64,
    place: Place,
}

/// Messages that are due soon, kept in memory: some 4 MiB. More than six seconds of 10,000 a second, so that a minute of
/// the index is read through every few seconds only.
const NEAR_MAX: usize = 65_536;
/// Late messages that are kept. The walk waits until they are delivered.
const LATE_MAX: usize = 4096;
/// Units that are walked at once.
const WALK_UNITS: usize = 4096;
/// The index is asked for what is due so much later, and not again before what is due then is only
/// [`AHEAD_MS`] away.
const LOAD_MS: i64 = 10_000;
const AHEAD_MS: i64 = 1_000;
/// Behind everything.
const END: Key = (i64::MAX, u64::MAX);

/// All messages with a time of their own.
#[derive(Debug)]
pub(super) struct TimerLane {
    progress: TimerProgress,
    /// The progress after the step that was planned last.
    planned: TimerProgress,
    /// The queue is walked up to here.
    seen: u64,
    /// Messages with an offset in `progress.scanned..seen` and a key at or before the bound, by offset.
    late: BTreeMap<u64, Late>,
    /// Messages with an offset below `seen` and a key behind the bound, up to the horizon.
    near: BTreeMap<Key, Place>,
    horizon: Key,
    near_max: usize,
}

impl TimerLane {
    /// From the replicated progress.
    pub(super) fn new(progress: TimerProgress) -> Self {
        Self {
            progress,
            planned: progress,
            seen: progress.scanned,
            late: BTreeMap::new(),
            near: BTreeMap::new(),
            horizon: bound(&progress),
            near_max: NEAR_MAX,
        }
    }

    /// Takes up the messages that have come.
    fn walk(&mut self, source: &impl Source) -> Result<(), StoreError> {
        let range = source.queue_range(TIMER_TOPIC, 0);
        self.seen = self.seen.max(range.start);
        while self.seen < range.end && self.late.len() < LATE_MAX {
            let units = source.units(TIMER_TOPIC, 0, self.seen, WALK_UNITS)?;
            if units.is_empty() {
                break;
            }
            for unit in units {
                let place = Place { physical_offset: unit.physical_offset, size: unit.size };
                self.take_up((unit.tags_code, self.seen), place);
                self.seen += 1;
            }
        }
        Ok(())
    }

    fn take_up(&mut self, key: Key, place: Place) {
        if key <= bound(&self.progress) {
            self.late.insert(key.1, Late { due_ms: key.0, place });
        } else if key <= self.horizon {
            self.near.insert(key, place);
            self.shorten();
        }
    }

    /// Draws the horizon in where too much is before it.
    fn shorten(&mut self) {
        if self.near.len() > self.near_max {
            self.near.pop_last();
            self.horizon = self.near.last_key_value().map_or(bound(&self.progress), |(key, _)| *key);
        }
    }

    /// Moves the horizon on where it comes near.
    fn look_ahead(&mut self, source: &impl Source, now_ms: i64) -> Result<(), StoreError> {
        while self.horizon.0 < now_ms.saturating_add(AHEAD_MS) && self.near.len() <= self.near_max / 2 {
            let until_ms = now_ms.saturating_add(LOAD_MS);
            match source.next_timer_slot_ms(self.horizon.0) {
                None => self.horizon = END,
                Some(slot_ms) if slot_ms > until_ms => self.horizon = (slot_ms - 1, u64::MAX),
                Some(_) => {
                    let room = self.near_max - self.near.len();
                    let found = source.timers_due(self.horizon, until_ms, self.seen, room)?;
                    self.horizon = match found.last() {
                        Some(last) if found.len() == room => (last.due_ms, last.queue_offset),
                        _ => (until_ms, u64::MAX),
                    };
                    self.near.extend(found.into_iter().map(|entry| {
                        let place = Place { physical_offset: entry.physical_offset, size: entry.size };
                        ((entry.due_ms, entry.queue_offset), place)
                    }));
                }
            }
        }
        Ok(())
    }

    fn wait(&self) -> Wait {
        let next = self.near.first_key_value().map(|((due_ms, _), _)| *due_ms);
        let held = self.late.first_key_value().map(|(_, late)| late.due_ms);
        // With much before the horizon it is moved when some of that is delivered.
        let looks = self.horizon != END && self.near.len() <= self.near_max / 2;
        let look = looks.then(|| self.horizon.0.saturating_sub(AHEAD_MS - 1));
        Wait { until_ms: next.into_iter().chain(held).chain(look).min(), for_arrivals: true }
    }
}

/// What is delivered at or before this, of the messages that are scanned.
fn bound(progress: &TimerProgress) -> Key {
    (progress.due_ms, progress.offset)
}

impl Lane for TimerLane {
    fn plan(
        &mut self,
        source: &impl Source,
        redelivery: &Redelivery,
        now_ms: i64,
        limit: Limit,
    ) -> Result<Step, StoreError> {
        self.walk(source)?;
        self.look_ahead(source, now_ms)?;
        let mut to = TimerProgress { scanned: self.seen, ..self.progress };
        let mut batch = Batch::new(redelivery, limit);
        let (mut full, mut held) = (false, false);
        // Those that are held or that there was no room for count as not scanned. What is due may be among what comes
        // behind them.
        for (offset, Late { due_ms, place }) in &self.late {
            held = *due_ms > now_ms;
            full = !held && !batch.take(source, place.physical_offset, place.size)?;
            if held || full {
                to.scanned = *offset;
                break;
            }
        }
        let left = held || full;
        for (key, place) in self.near.range(..=(now_ms, u64::MAX)).filter(|_| !left) {
            full = !batch.take(source, place.physical_offset, place.size)?;
            if full {
                break;
            }
            (to.due_ms, to.offset) = *key;
        }
        if batch.taken() == 0 {
            return Ok(Step::Wait(self.wait()));
        }
        self.planned = to;
        Ok(batch.into_step(DelayProgress::Timer { from: self.progress, to }, full))
    }

    fn applied(&mut self) {
        self.progress = self.planned;
        self.late = self.late.split_off(&self.progress.scanned);
        let bound = bound(&self.progress);
        self.near = self.near.split_off(&bound);
        self.near.remove(&bound);
    }
}

#[cfg(test)]
mod tests;
