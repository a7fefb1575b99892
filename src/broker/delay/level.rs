//! The lane of a delay level: its queue in the schedule topic, delivered in order.
//!
//! All of its messages wait equally long, so the first one is the one that is due first.

use raftmq_message::RecordView;
use raftmq_message::topic::SCHEDULE_TOPIC;
use raftmq_raft::DelayProgress;
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
}

impl LevelLane {
    /// `next` is the replicated progress.
    pub(super) fn new(level: u32, delay_ms: i64, next: u64) -> Self {
        Self { level, delay_ms, next, planned: next }
    }

    /// Since when a message is due; one that cannot be read is due at once, and found out then.
    fn due_ms(&self, record: Option<impl AsRef<[u8]>>) -> i64 {
        let stored = record.and_then(|record| {
            RecordView::parse(record.as_ref()).ok().map(|record| record.store_timestamp_ms())
        });
        stored.map_or(i64::MIN, |stored| stored.saturating_add(self.delay_ms))
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
        let first = self.next.max(source.queue_range(SCHEDULE_TOPIC, queue_id).start);
        let mut wait = Wait { until_ms: None, for_arrivals: true };
        let mut batch = Batch::new(redelivery, limit);
        let mut full = false;
        for unit in source.units(SCHEDULE_TOPIC, queue_id, first, limit.messages) {
            let due_ms = self.due_ms(source.record(unit.physical_offset, unit.size));
            if due_ms > now_ms {
                wait = Wait { until_ms: Some(due_ms), for_arrivals: false };
                break;
            }
            if !batch.take(source, unit.physical_offset, unit.size) {
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
    use crate::broker::delay::fixture::{MemoryLog, REDELIVERY, delivered, limit};
    use crate::broker::delay::lane::Delivery;

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
