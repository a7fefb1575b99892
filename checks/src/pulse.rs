//! How long the group went without acknowledging anything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use raftmq_world::Clock;

/// Counts acknowledgements and remembers the longest time between two of them. Shared by all lanes.
#[derive(Debug)]
pub struct Pulse {
    clock: Arc<dyn Clock>,
    origin: Duration,
    began_us: u64,
    beats: AtomicU64,
    last_us: AtomicU64,
    longest_us: AtomicU64,
    /// By queue, the offset behind the last one that was acknowledged.
    ends: Mutex<BTreeMap<u32, u64>>,
}

impl Pulse {
    /// Of a run that begins now.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        // The wall clock first, so that what is reckoned from it is not later than it was.
        let began_us = clock.now_ms().unsigned_abs() * 1000;
        Self {
            origin: clock.passed(),
            clock,
            began_us,
            beats: AtomicU64::new(0),
            last_us: AtomicU64::new(0),
            longest_us: AtomicU64::new(0),
            ends: Mutex::default(),
        }
    }

    /// Where a queue must end at least: behind everything of it that was acknowledged before.
    pub fn end_of(&self, queue: u32) -> u64 {
        self.ends.lock().get(&queue).copied().unwrap_or(0)
    }

    /// When the run began, in µs since the epoch.
    pub fn began_us(&self) -> u64 {
        self.began_us
    }

    /// µs since the run began.
    pub fn now_us(&self) -> u64 {
        self.clock.passed().saturating_sub(self.origin).as_micros() as u64
    }

    /// A message was acknowledged at an offset of a queue. Gives the time, in µs since the run began.
    pub fn acknowledged(&self, queue: u32, queue_offset: u64) -> u64 {
        let mut ends = self.ends.lock();
        let end = ends.entry(queue).or_default();
        *end = (*end).max(queue_offset + 1);
        drop(ends);
        self.beat()
    }

    fn beat(&self) -> u64 {
        let now = self.now_us();
        let last = self.last_us.fetch_max(now, Ordering::AcqRel);
        self.longest_us.fetch_max(now.saturating_sub(last), Ordering::AcqRel);
        self.beats.fetch_add(1, Ordering::Relaxed);
        now
    }

    /// Acknowledgements so far.
    pub fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    /// Starts to look for the longest gap anew. A gap that is open now counts from where it began.
    pub fn start_over(&self) {
        self.longest_us.store(0, Ordering::Release);
    }

    /// The longest gap since [`Pulse::start_over`], the open one included.
    pub fn longest_gap(&self) -> Duration {
        let open = self.now_us().saturating_sub(self.last_us.load(Ordering::Acquire));
        Duration::from_micros(self.longest_us.load(Ordering::Acquire).max(open))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_is_kept_until_it_is_asked_to_start_over() {
        let pulse = Pulse::new(Arc::new(raftmq_world::SystemClock::default()));
        let pause = Duration::from_millis(20);
        pulse.beat();
        std::thread::sleep(pause);
        assert!(pulse.longest_gap() >= pause, "a gap that is still open counts");
        pulse.beat();
        pulse.beat();
        assert!(pulse.longest_gap() >= pause);
        let kept = pulse.longest_gap();
        pulse.start_over();
        pulse.beat();
        assert!(pulse.longest_gap() < kept);
        assert_eq!(pulse.beats(), 4);
    }
}
