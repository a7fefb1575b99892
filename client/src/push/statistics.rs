//! What a push consumer has done, counted for operators.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use raftmq_remoting::body::ConsumeStatus;
use tokio::time::Instant;

/// What a consumer has done, by topic.
#[derive(Debug, Default)]
pub(super) struct Statistics {
    topics: Mutex<BTreeMap<String, Counts>>,
}

/// Counted since the topic was first met.
#[derive(Debug)]
struct Counts {
    since: Instant,
    pulled: usize,
    consumed: usize,
    failed: usize,
    batches: u32,
    cost: Duration,
}

impl Default for Counts {
    fn default() -> Self {
        let since = Instant::now();
        Self { since, pulled: 0, consumed: 0, failed: 0, batches: 0, cost: Duration::ZERO }
    }
}

impl Statistics {
    pub(super) fn pulled(&self, topic: &str, count: usize) {
        self.count(topic, |counts| counts.pulled += count);
    }

    pub(super) fn consumed(&self, topic: &str, count: usize, success: bool, cost: Duration) {
        self.count(topic, |counts| {
            *(if success { &mut counts.consumed } else { &mut counts.failed }) += count;
            counts.batches = counts.batches.saturating_add(1);
            counts.cost += cost;
        });
    }

    fn count(&self, topic: &str, count: impl FnOnce(&mut Counts)) {
        let mut topics = self.topics.lock();
        match topics.get_mut(topic) {
            Some(counts) => count(counts),
            None => count(topics.entry(topic.to_owned()).or_default()),
        }
    }

    pub(super) fn table(&self) -> BTreeMap<String, ConsumeStatus> {
        self.topics.lock().iter().map(|(topic, counts)| (topic.clone(), counts.status())).collect()
    }
}

impl Counts {
    fn status(&self) -> ConsumeStatus {
        let seconds = self.since.elapsed().as_secs_f64().max(1.0);
        ConsumeStatus {
            pull_tps: self.pulled as f64 / seconds,
            consume_rt: self.cost.as_secs_f64() * 1000.0 / f64::from(self.batches.max(1)),
            consume_ok_tps: self.consumed as f64 / seconds,
            consume_failed_tps: self.failed as f64 / seconds,
            consume_failed_msgs: i64::try_from(self.failed).unwrap_or(i64::MAX),
        }
    }
}
