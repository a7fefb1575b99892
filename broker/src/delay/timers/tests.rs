use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::delay::fixture::{MemoryLog, REDELIVERY, delivered, limit};
use crate::delay::lane::Delivery;

const START_MS: i64 = 1_700_000_000_000;

#[derive(Clone, Debug)]
enum Op {
    /// Messages that are due so much later than now, or that do not say when; whether the queue shows them at once.
    Arrive(Vec<Option<i64>>, bool),
    /// The queue shows all that is in the log.
    Publish,
    /// Time goes on, or the clock is set back.
    Pass(i64),
    /// The members drop slots of their timer index.
    Drop,
    /// Steps of at most so many messages: so many that are applied, then one that is not.
    Deliver(usize, usize),
    /// Another leader; whether a step of the old one was applied without its knowing, and whether the new one has made
    /// its timer index again. It is ready when its queue shows all.
    Failover(bool, bool),
}

fn op() -> impl Strategy<Value = Op> {
    let due = prop_oneof![
        4 => (-3_000..3_000i64).prop_map(Some),
        2 => (0..5i64).prop_map(Some),
        2 => (0..200_000i64).prop_map(Some),
        1 => Just(None),
        1 => Just(Some(i64::MAX)),
    ];
    prop_oneof![
        4 => (prop::collection::vec(due, 1..20), prop::bool::weighted(0.8))
            .prop_map(|(dues, published)| Op::Arrive(dues, published)),
        1 => Just(Op::Publish),
        4 => prop_oneof![0..50i64, 0..5_000i64, 0..100_000i64, -5_000..0i64, -100_000..0i64].prop_map(Op::Pass),
        1 => Just(Op::Drop),
        6 => (1..12usize, 0..4usize).prop_map(|(messages, steps)| Op::Deliver(messages, steps)),
        1 => any::<(bool, bool)>().prop_map(|(applied, rebuilt)| Op::Failover(applied, rebuilt)),
    ]
}

/// The log of a group, its replicated progress, and what was delivered.
struct Cluster {
    log: MemoryLog,
    due: Vec<i64>,
    now_ms: i64,
    progress: TimerProgress,
    delivered: BTreeSet<u64>,
    lane: TimerLane,
    near_max: usize,
}

impl Cluster {
    fn new(near_max: usize) -> Self {
        let mut cluster = Self {
            log: MemoryLog::default(),
            due: Vec::new(),
            now_ms: START_MS,
            progress: TimerProgress::default(),
            delivered: BTreeSet::new(),
            lane: TimerLane::new(TimerProgress::default()),
            near_max,
        };
        cluster.restart();
        cluster
    }

    fn restart(&mut self) {
        self.lane = TimerLane { near_max: self.near_max, ..TimerLane::new(self.progress) };
    }

    fn arrive(&mut self, later_ms: Option<i64>) {
        let due_ms = later_ms.map_or(0, |later_ms| self.now_ms.saturating_add(later_ms));
        let timer =
            if later_ms.is_some() { format!("TIMER_OUT_MS\u{1}{due_ms}\u{2}") } else { String::new() };
        let properties = format!("REAL_TOPIC\u{1}T\u{2}REAL_QID\u{1}0\u{2}{timer}");
        self.log.append(TIMER_TOPIC, 0, self.now_ms, &properties);
        self.due.push(due_ms);
    }

    fn plan(&mut self, messages: usize) -> Option<Delivery> {
        match self.lane.plan(&self.log, &REDELIVERY, self.now_ms, limit(messages)).unwrap() {
            Step::Deliver(delivery) => Some(delivery),
            Step::Wait(wait) => {
                self.check_wait(wait);
                None
            }
        }
    }

    /// Who waits wakes up in time, and has delivered everything before: all that the queue shows, or, with the clock
    /// behind the bound, up to the first message that is before the bound and not due.
    fn check_wait(&self, wait: Wait) {
        assert!(wait.for_arrivals);
        let shown = self.log.queue_range(TIMER_TOPIC, 0).end;
        let bound = bound(&self.progress);
        let held = (self.progress.scanned..shown).find(|offset| {
            (self.due[*offset as usize], *offset) <= bound && self.due[*offset as usize] > self.now_ms
        });
        let open: Vec<_> = (0..held.map_or(shown, |held| held + 1))
            .zip(&self.due)
            .filter(|(offset, _)| !self.delivered.contains(offset))
            .collect();
        let first = open.iter().map(|(_, due_ms)| **due_ms).min();
        assert!(first.is_none_or(|first| first > self.now_ms), "{first:?} is left at {}", self.now_ms);
        assert!(wait.until_ms.is_none_or(|until_ms| until_ms > self.now_ms), "{wait:?} at {}", self.now_ms);
        if let Some(first) = first.filter(|first| *first < i64::MAX) {
            assert!(wait.until_ms.is_some_and(|until_ms| until_ms <= first), "{wait:?} for {first}");
        }
    }

    /// The log applies a step.
    fn apply(&mut self, delivery: &Delivery) {
        let DelayProgress::Timer { from, to } = delivery.progress else { panic!("{delivery:?}") };
        assert_eq!(from, self.progress);
        self.progress = to;
        let offsets = delivered(delivery);
        for offset in &offsets {
            assert!(self.due[*offset as usize] <= self.now_ms, "{offset} is early");
            assert!(self.delivered.insert(*offset), "{offset} was delivered before");
        }
        // In the order of their times, those before the bound in the order of their arrival first.
        let late = offsets.iter().take_while(|o| (self.due[**o as usize], **o) <= bound(&from)).count();
        assert!(offsets[..late].is_sorted());
        assert!(offsets[late..].is_sorted_by_key(|offset| (self.due[*offset as usize], *offset)));
        // What progress says.
        let expected: BTreeSet<_> =
            (0..to.scanned).filter(|offset| (self.due[*offset as usize], *offset) <= bound(&to)).collect();
        assert_eq!(self.delivered, expected);
    }

    fn step(&mut self, messages: usize) -> bool {
        let Some(delivery) = self.plan(messages) else { return false };
        assert!(delivery.count as usize <= messages);
        self.apply(&delivery);
        self.lane.applied();
        true
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_message_is_delivered_once_and_not_early(
        ops in prop::collection::vec(op(), 1..60),
        near_max in prop_oneof![2..10usize, Just(NEAR_MAX)],
    ) {
        let mut cluster = Cluster::new(near_max);
        for op in ops {
            match op {
                Op::Arrive(dues, published) => {
                    if !published || cluster.log.unpublished > 0 {
                        cluster.log.unpublished += dues.len() as u64;
                    }
                    dues.into_iter().for_each(|due| cluster.arrive(due));
                }
                Op::Publish => cluster.log.unpublished = 0,
                Op::Pass(ms) => cluster.now_ms += ms,
                Op::Drop => cluster.log.drop_timers_before(cluster.progress.due_ms),
                Op::Deliver(messages, steps) => {
                    for _ in 0..steps {
                        cluster.step(messages);
                    }
                    // Not taken by the log.
                    cluster.plan(messages);
                }
                Op::Failover(applied, rebuilt) => {
                    if applied && let Some(delivery) = cluster.plan(5) {
                        cluster.apply(&delivery);
                    }
                    cluster.log.unpublished = 0;
                    if rebuilt {
                        cluster.log.rebuild();
                    }
                    cluster.restart();
                }
            }
        }
        cluster.log.unpublished = 0;
        while cluster.step(3) {}
        cluster.now_ms *= 2;
        while cluster.step(100) {}
        prop_assert!((0..).zip(&cluster.due).all(|(o, due)| *due == i64::MAX || cluster.delivered.contains(&o)));
    }
}

#[test]
fn what_cannot_be_delivered_counts_as_delivered() {
    let mut cluster = Cluster::new(NEAR_MAX);
    cluster.arrive(Some(0));
    cluster.log.append(TIMER_TOPIC, 0, START_MS, &format!("TIMER_OUT_MS\u{1}{START_MS}\u{2}"));
    cluster.due.push(START_MS);
    cluster.arrive(Some(0));
    let delivery = cluster.plan(10).unwrap();
    assert_eq!(delivered(&delivery), [0, 2]);
    let to = TimerProgress { scanned: 3, due_ms: START_MS, offset: 2 };
    assert_eq!(delivery.progress, DelayProgress::Timer { from: TimerProgress::default(), to });

    // One that the log refuses is passed over.
    let omit = Limit { omit: true, ..limit(1) };
    let Step::Deliver(delivery) = cluster.lane.plan(&cluster.log, &REDELIVERY, START_MS, omit).unwrap()
    else {
        panic!("nothing is due")
    };
    assert_eq!((delivery.count, delivery.records.len(), delivery.full), (0, 0, true));
    cluster.lane.applied();
    assert_eq!(delivered(&cluster.plan(10).unwrap()), [2]);
}

#[test]
fn a_clock_that_was_ahead_makes_nothing_early() {
    const HOUR_MS: i64 = 3_600_000;
    let mut cluster = Cluster::new(NEAR_MAX);
    cluster.arrive(Some(HOUR_MS));
    cluster.now_ms += HOUR_MS;
    assert!(cluster.step(1));
    // Another leader, whose clock is right, and messages that are due before the bound.
    cluster.now_ms -= HOUR_MS;
    cluster.restart();
    [0, 5, 3, 2 * HOUR_MS].into_iter().for_each(|later_ms| cluster.arrive(Some(later_ms)));
    let offsets = |cluster: &mut Cluster| {
        let delivery = cluster.plan(9)?;
        cluster.apply(&delivery);
        cluster.lane.applied();
        assert!(!delivery.full);
        Some(delivered(&delivery))
    };
    assert_eq!(offsets(&mut cluster), Some(vec![1]));
    cluster.now_ms += 4;
    assert_eq!(offsets(&mut cluster), None);
    cluster.now_ms += 1;
    assert_eq!(offsets(&mut cluster), Some(vec![2, 3]));
    cluster.now_ms += 2 * HOUR_MS;
    assert_eq!(offsets(&mut cluster), Some(vec![4]));
}

#[test]
fn a_queue_that_cannot_be_read_is_not_empty() {
    let mut cluster = Cluster::new(NEAR_MAX);
    cluster.arrive(Some(0));
    cluster.log.fails = true;
    assert!(cluster.lane.plan(&cluster.log, &REDELIVERY, START_MS, limit(1)).is_err());
    cluster.log.fails = false;
    assert!(cluster.step(1));
}

#[test]
fn the_index_is_asked_before_what_is_due_then() {
    let mut cluster = Cluster::new(NEAR_MAX);
    let wait = |cluster: &mut Cluster| match cluster.lane.plan(
        &cluster.log,
        &REDELIVERY,
        cluster.now_ms,
        limit(1),
    ) {
        Ok(Step::Wait(wait)) => wait.until_ms.map(|until_ms| until_ms - cluster.now_ms),
        step => panic!("{step:?}"),
    };
    assert_eq!(wait(&mut cluster), None);
    cluster.arrive(Some(3_600_000));
    // It came while everything was before the horizon.
    assert_eq!(wait(&mut cluster), Some(3_600_000));
    cluster.restart();
    let asked = wait(&mut cluster).unwrap();
    assert!((3_600_000 - SLOT_AND_AHEAD_MS..3_600_000).contains(&asked), "{asked}");
    cluster.now_ms += asked;
    let mut looks = 0;
    while cluster.now_ms < START_MS + 3_600_000 {
        cluster.now_ms += wait(&mut cluster).unwrap();
        looks += 1;
    }
    assert_eq!(cluster.now_ms, START_MS + 3_600_000);
    assert!(looks <= 8, "{looks} looks within a minute");
    assert!(cluster.step(1));
}

/// A minute of the index may begin so much before what is due in it.
const SLOT_AND_AHEAD_MS: i64 = 60_000 + AHEAD_MS;
