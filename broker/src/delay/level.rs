//! The lane of a delay level: its queue in the schedule topic, delivered in order.
//!
//! All of its messages wait equally long, so the first one is the one that is due first.
//!
//! Store timestamps never fall along the log, so one leader whose clock was ahead stamps what comes after it with that time
//! too. A message is therefore due at the latest when it has waited as long as its level since this leader first saw it:
//! where the timestamp is ahead of the clock, that is later than the message was sent, and never much. (RocketMQ delivers
//! such a message at once, and with it everything that follows until the clock has caught up.)

use std::collections::VecDeque;

use crate::state::DelayProgress;
use raftmq_message::RecordView;
use raftmq_message::topic::SCHEDULE_TOPIC;
use raftmq_store::StoreError;

use super::lane::{Batch, Lane, Limit, Source, Step, Wait};
use super::redelivery::Redelivery;

/// A level and how far it is delivered.
#[derive(Debug)]
pub(super) struct LevelLane {
    level: u32,
    delay_ms: i64,
    /// Queue offset of the first message that is not delivered.
    next: u64,
    /// The same after the step that was planned last.
    planned: u64,
    /// When the messages below a queue offset had been seen. Both rise, and one is kept for each [`Self::grain_ms`].
    seen: VecDeque<(u64, i64)>,
}

/// Into so many parts of the delay it is told when messages were first seen: they bound what is kept, and by how much such
/// a message may wait too long.
const SEEN_MAX: i64 = 1024;

impl LevelLane {
    /// `next` is the replicated progress.
    pub(super) fn new(level: u32, delay_ms: i64, next: u64) -> Self {
        Self { level, delay_ms, next, planned: next, seen: VecDeque::new() }
    }

    fn grain_ms(&self) -> i64 {
        (self.delay_ms.saturating_add(SEEN_MAX - 1) / SEEN_MAX).max(1)
    }

    /// Notes that the queue reaches to `end` now.
    fn see(&mut self, end: u64, now_ms: i64) {
        // Rounded up: nothing is due too early.
        let grain_ms = self.grain_ms();
        let at_ms = now_ms.saturating_add(grain_ms - 1).div_euclid(grain_ms).saturating_mul(grain_ms);
        // Those of the same time, or of a clock that has been set back since.
        while self.seen.back().is_some_and(|(_, seen_ms)| *seen_ms >= at_ms) {
            self.seen.pop_back();
        }
        if self.seen.back().is_none_or(|(seen, _)| *seen < end) {
            self.seen.push_back((end, at_ms));
        }
        let overdue_ms = now_ms.saturating_sub(self.delay_ms);
        // What the next one stands for as well.
        while self.seen.get(1).is_some_and(|(_, seen_ms)| *seen_ms <= overdue_ms)
            || (self.seen.len() > 1 && self.seen[0].0 <= self.next)
        {
            self.seen.pop_front();
        }
    }

    /// Since when a message is due; one that cannot be read is due at once, and found out then.
    fn due_ms(&self, queue_offset: u64, record: Option<impl AsRef<[u8]>>, now_ms: i64) -> i64 {
        let stored = record.and_then(|record| {
            RecordView::parse(record.as_ref()).ok().map(|record| record.store_timestamp_ms())
        });
        let seen = self.seen.get(self.seen.partition_point(|(end, _)| *end <= queue_offset));
        let seen_ms = seen.map_or(now_ms, |(_, seen_ms)| *seen_ms);
        stored.map_or(i64::MIN, |stored| stored.min(seen_ms).saturating_add(self.delay_ms))
    }
}

impl Lane for LevelLane {
    fn plan(
        &mut self,
        source: &impl Source,
        redelivery: &Redelivery,
        now_ms: i64,
        limit: Limit,
    ) -> Result<Step, StoreError> {
        let queue_id = self.level - 1;
        let range = source.queue_range(SCHEDULE_TOPIC, queue_id);
        let first = self.next.max(range.start);
        self.see(range.end, now_ms);
        let mut wait = Wait { until_ms: None, for_arrivals: true };
        let mut batch = Batch::new(redelivery, limit);
        let mut full = false;
        for (offset, unit) in (first..).zip(source.units(SCHEDULE_TOPIC, queue_id, first, limit.messages)?) {
            let due_ms = self.due_ms(offset, source.record(unit.physical_offset, unit.size)?, now_ms);
            if due_ms > now_ms {
                wait = Wait { until_ms: Some(due_ms), for_arrivals: false };
                break;
            }
            if !batch.take(source, unit.physical_offset, unit.size)? {
                full = true;
                break;
            }
        }
        full |= batch.taken() == limit.messages;
        if batch.taken() == 0 {
            return Ok(Step::Wait(wait));
        }
        self.planned = first + batch.taken() as u64;
        let progress = DelayProgress::Level { level: self.level, from: self.next, to: self.planned };
        Ok(batch.into_step(progress, full))
    }

    fn applied(&mut self) {
        self.next = self.planned;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delay::fixture::{MemoryLog, REDELIVERY, delivered, limit};
    use crate::delay::lane::Delivery;

    const DELAY_MS: i64 = 5_000;
    const WAY_BACK: &str = "REAL_TOPIC\u{1}T\u{2}REAL_QID\u{1}1\u{2}";

    fn log(stored_ms: &[i64]) -> MemoryLog {
        let mut log = MemoryLog::default();
        stored_ms.iter().for_each(|at| log.append(SCHEDULE_TOPIC, 1, *at, WAY_BACK));
        log
    }

    fn deliver(lane: &mut LevelLane, log: &MemoryLog, now_ms: i64, limit: Limit) -> Delivery {
        match lane.plan(log, &REDELIVERY, now_ms, limit).unwrap() {
            Step::Deliver(delivery) => delivery,
            step => panic!("{step:?}"),
        }
    }

    fn wait(lane: &mut LevelLane, log: &MemoryLog, now_ms: i64) -> Wait {
        match lane.plan(log, &REDELIVERY, now_ms, limit(9)).unwrap() {
            Step::Wait(wait) => wait,
            step => panic!("{step:?}"),
        }
    }

    #[test]
    fn messages_are_delivered_in_order_when_they_are_due() {
        let log = log(&[100, 100, 101, 110, 200]);
        let mut lane = LevelLane::new(2, DELAY_MS, 0);
        assert_eq!(wait(&mut lane, &log, 5_099), Wait { until_ms: Some(5_100), for_arrivals: false });
        let first = deliver(&mut lane, &log, 5_105, limit(2));
        assert_eq!((delivered(&first), first.full), (vec![0, 1], true));
        assert_eq!(first.progress, DelayProgress::Level { level: 2, from: 0, to: 2 });
        // It was not taken: the same again, with what is due by now.
        let again = deliver(&mut lane, &log, 5_110, limit(9));
        assert_eq!((delivered(&again), again.full), (vec![0, 1, 2, 3], false));
        lane.applied();
        assert_eq!(wait(&mut lane, &log, 5_110), Wait { until_ms: Some(5_200), for_arrivals: false });
        // Another leader, from the replicated progress.
        let mut lane = LevelLane::new(2, DELAY_MS, 4);
        assert_eq!(delivered(&deliver(&mut lane, &log, 9_999, limit(9))), [4]);
        lane.applied();
        assert_eq!(wait(&mut lane, &log, 9_999), Wait { until_ms: None, for_arrivals: true });
        let mut other = LevelLane::new(3, DELAY_MS, 0);
        assert_eq!(wait(&mut other, &log, 9_999).until_ms, None);
    }

    #[test]
    fn a_clock_that_was_ahead_holds_nothing_up() {
        const HOUR_MS: i64 = 3_600_000;
        let mut log = log(&[80, HOUR_MS, HOUR_MS]);
        let mut lane = LevelLane::new(2, DELAY_MS, 0);
        assert_eq!(wait(&mut lane, &log, 100).until_ms, Some(5_080));
        log.append(SCHEDULE_TOPIC, 1, HOUR_MS, WAY_BACK);
        assert_eq!(wait(&mut lane, &log, 2_100).until_ms, Some(5_080));
        assert_eq!(delivered(&deliver(&mut lane, &log, 5_080, limit(9))), [0]);
        lane.applied();
        assert_eq!(wait(&mut lane, &log, 5_080).until_ms, Some(5_100));
        assert_eq!(delivered(&deliver(&mut lane, &log, 5_100, limit(9))), [1, 2]);
        lane.applied();
        // They wait as long as their level each, and not as long as the clock was ahead.
        assert_eq!(wait(&mut lane, &log, 5_100).until_ms, Some(7_100));
        assert_eq!(delivered(&deliver(&mut lane, &log, 7_100, limit(9))), [3]);
        lane.applied();
        // This leader's own clock was ahead and is set right.
        log.append(SCHEDULE_TOPIC, 1, HOUR_MS, WAY_BACK);
        assert_eq!(wait(&mut lane, &log, HOUR_MS).until_ms, Some(HOUR_MS + DELAY_MS));
        assert_eq!(wait(&mut lane, &log, 8_000).until_ms, Some(13_000));
        assert_eq!(wait(&mut lane, &log, 9_000).until_ms, Some(13_000));
    }

    #[test]
    fn what_is_kept_of_when_messages_were_seen_is_bounded() {
        let mut lane = LevelLane::new(2, DELAY_MS, 0);
        for at in 0..4 * DELAY_MS {
            lane.see(at as u64, at);
            assert!(lane.seen.len() <= SEEN_MAX as usize + 2, "{}", lane.seen.len());
            assert!(lane.seen.iter().is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1));
        }
    }

    #[test]
    fn a_queue_that_cannot_be_read_is_not_empty() {
        let mut log = log(&[0]);
        log.fails = true;
        let mut lane = LevelLane::new(2, DELAY_MS, 0);
        assert!(lane.plan(&log, &REDELIVERY, DELAY_MS, limit(1)).is_err());
        log.fails = false;
        assert_eq!(delivered(&deliver(&mut lane, &log, DELAY_MS, limit(1))), [0]);
    }

    #[test]
    fn bytes_bound_a_step_and_one_message_always_fits() {
        let log = log(&[0; 5]);
        let mut lane = LevelLane::new(2, DELAY_MS, 0);
        let all = deliver(&mut lane, &log, DELAY_MS, limit(9));
        let one = all.records.len() / 5;
        for (bytes, count) in [(0, 1), (one, 1), (2 * one - 1, 1), (2 * one, 2), (5 * one, 5)] {
            let delivery = deliver(&mut lane, &log, DELAY_MS, Limit { bytes, ..limit(9) });
            assert_eq!((delivery.count, delivery.full), (count, count < 5), "{bytes}");
        }
    }

    #[test]
    fn what_cannot_be_delivered_is_passed_over() {
        let mut log = log(&[0]);
        log.append(SCHEDULE_TOPIC, 1, 0, "DELAY\u{1}2\u{2}");
        log.append(SCHEDULE_TOPIC, 1, 0, WAY_BACK);
        let mut lane = LevelLane::new(2, DELAY_MS, 0);
        let delivery = deliver(&mut lane, &log, DELAY_MS, limit(9));
        assert_eq!(delivered(&delivery), [0, 2]);
        assert_eq!(delivery.progress, DelayProgress::Level { level: 2, from: 0, to: 3 });
        let omitted = deliver(&mut lane, &log, DELAY_MS, Limit { omit: true, ..limit(1) });
        assert_eq!((omitted.count, omitted.progress), (0, DelayProgress::Level { level: 2, from: 0, to: 1 }));
    }
}
