//! What went through the broker: totals, and rates over the last 10 s, 1 min and 10 min.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::Serialize;

/// How often a sample of the totals is taken.
pub(crate) const SAMPLE_SECONDS: usize = 10;
/// The spans that rates are given for, in samples.
const SPANS: [usize; 3] = [1, 6, 60];

/// Totals since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Messages stored.
    pub(crate) put_messages: u64,
    /// Bytes of their records.
    pub(crate) put_bytes: u64,
    /// Sends refused or failed.
    pub(crate) put_failed: u64,
    /// Messages brought to consumers.
    pub(crate) get_messages: u64,
    /// Bytes of their records.
    pub(crate) get_bytes: u64,
    /// Pulls that found something.
    pub(crate) get_found: u64,
    /// Pulls that found nothing.
    pub(crate) get_missed: u64,
}

/// A broker's counters and what it holds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct BrokerStats {
    /// Totals since the start.
    pub totals: Totals,
    /// Messages stored in a second, over the last 10 s, 1 min and 10 min.
    pub put_tps: [f64; 3],
    /// Messages brought to consumers in a second, likewise.
    pub get_tps: [f64; 3],
    /// Client connections.
    pub connections: usize,
    /// Pulls that are held.
    pub held_pulls: usize,
    /// Record bytes whose outcome is open.
    pub bytes_in_flight: usize,
    /// Consumer groups with members.
    pub consumer_groups: usize,
    /// Producer groups with members.
    pub producer_groups: usize,
}

/// The counters. Sends and pulls add to them once a batch.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    put_messages: AtomicU64,
    put_bytes: AtomicU64,
    put_failed: AtomicU64,
    get_messages: AtomicU64,
    get_bytes: AtomicU64,
    get_found: AtomicU64,
    get_missed: AtomicU64,
    /// Earlier totals, the newest last.
    samples: Mutex<VecDeque<Totals>>,
}

impl Stats {
    pub(crate) fn put(&self, messages: u64, bytes: u64) {
        self.put_messages.fetch_add(messages, Ordering::Relaxed);
        self.put_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn put_failed(&self, requests: u64) {
        self.put_failed.fetch_add(requests, Ordering::Relaxed);
    }

    pub(crate) fn got(&self, messages: u64, bytes: u64) {
        self.get_messages.fetch_add(messages, Ordering::Relaxed);
        self.get_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.get_found.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn missed(&self) {
        self.get_missed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn totals(&self) -> Totals {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Totals {
            put_messages: load(&self.put_messages),
            put_bytes: load(&self.put_bytes),
            put_failed: load(&self.put_failed),
            get_messages: load(&self.get_messages),
            get_bytes: load(&self.get_bytes),
            get_found: load(&self.get_found),
            get_missed: load(&self.get_missed),
        }
    }

    /// Takes a sample; to be called every [`SAMPLE_SECONDS`].
    pub(crate) fn sample(&self) {
        let mut samples = self.samples.lock();
        samples.push_back(self.totals());
        if samples.len() > SPANS[2] + 1 {
            samples.pop_front();
        }
    }

    /// A counter's rates a second. A span that has not passed yet counts what there is of it.
    pub(crate) fn rates(&self, counter: impl Fn(&Totals) -> u64) -> [f64; 3] {
        let samples = self.samples.lock();
        let Some(last) = samples.back() else { return [0.0; 3] };
        SPANS.map(|span| {
            let span = span.min(samples.len() - 1);
            if span == 0 {
                return 0.0;
            }
            let before = &samples[samples.len() - 1 - span];
            counter(last).saturating_sub(counter(before)) as f64 / (span * SAMPLE_SECONDS) as f64
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_last_samples() {
        let stats = Stats::default();
        assert_eq!(stats.rates(|t| t.put_messages), [0.0; 3]);
        stats.sample();
        stats.put(100, 1000);
        stats.sample();
        assert_eq!(stats.rates(|t| t.put_messages), [10.0; 3]);
        for _ in 0..100 {
            stats.sample();
        }
        assert_eq!(stats.rates(|t| t.put_messages), [0.0; 3]);
        assert_eq!(stats.totals().put_bytes, 1000);
    }
}
