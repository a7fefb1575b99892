//! What the listeners of consumers were given, in the order in which they began with it.

#![expect(clippy::disallowed_types, reason = "who works in real time waits for what listeners are given")]

#[expect(
    clippy::disallowed_types,
    reason = "tests on real time wait for what their listeners are given"
)]
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use raftmq_world::{Clock, SystemClock};

use crate::body::Stamp;

/// A message in a listener.
#[derive(Debug, Clone, Copy)]
pub struct Delivery {
    /// Which of the group's members.
    pub member: u32,
    /// The queue it came from.
    pub queue: u32,
    /// Its place there.
    pub queue_offset: u64,
    /// Which message it is, if its body is one that was sent, to the last byte.
    pub stamp: Option<Stamp>,
    /// How often it had been delivered in vain, as it says itself.
    pub reconsume_times: i32,
    /// Whether it came from the group's retry topic.
    pub is_retry: bool,
    /// When the listener began, in µs since the log began.
    pub began_us: u64,
    /// When it was done or its member was gone, likewise.
    pub ended_us: u64,
    /// Whether the listener said that it has consumed it.
    pub consumed: bool,
}

/// Deliveries to the members of a group. Clones are the same log.
#[derive(Debug, Clone)]
pub struct Deliveries {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    clock: Arc<dyn Clock>,
    origin: Duration,
    entries: Mutex<Vec<Delivery>>,
    changed: Condvar,
}

impl Default for Deliveries {
    fn default() -> Self {
        Self::new(Arc::new(SystemClock::default()))
    }
}

impl Deliveries {
    /// An empty log that begins now.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let (origin, entries, changed) = (clock.passed(), Mutex::default(), Condvar::new());
        Self { shared: Arc::new(Shared { clock, origin, entries, changed }) }
    }

    /// µs since the log began.
    pub fn now_us(&self) -> u64 {
        self.shared.clock.passed().saturating_sub(self.shared.origin).as_micros() as u64
    }

    fn entries(&self) -> MutexGuard<'_, Vec<Delivery>> {
        self.shared.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A listener begins with a message. `delivery` says all but the times.
    #[must_use]
    pub fn begin(&self, delivery: Delivery) -> InListener {
        let mut entries = self.entries();
        // Within the lock, so that the order of the entries is the order of their times.
        entries.push(Delivery { began_us: self.now_us(), ended_us: u64::MAX, consumed: false, ..delivery });
        InListener { log: self.clone(), at: entries.len() - 1 }
    }

    /// All so far, in the order in which they began.
    pub fn all(&self) -> Vec<Delivery> {
        self.entries().clone()
    }

    /// How many messages listeners said to have consumed.
    pub fn consumed(&self) -> usize {
        self.entries().iter().filter(|delivery| delivery.consumed).count()
    }

    /// Waits until a condition holds; false if it does not in time.
    #[must_use]
    pub fn wait(&self, timeout: Duration, mut is_so: impl FnMut(&[Delivery]) -> bool) -> bool {
        let waiting =
            self.shared.changed.wait_timeout_while(self.entries(), timeout, |entries| !is_so(entries));
        let (_entries, waited) = waiting.unwrap_or_else(PoisonError::into_inner);
        !waited.timed_out()
    }
}

/// A message that a listener is at work on. Dropped, it counts as not consumed.
#[derive(Debug)]
pub struct InListener {
    log: Deliveries,
    at: usize,
}

impl InListener {
    /// The listener says that it has consumed the message.
    pub fn consumed(self) {
        self.log.entries()[self.at].consumed = true;
    }
}

impl Drop for InListener {
    fn drop(&mut self) {
        let mut entries = self.log.entries();
        entries[self.at].ended_us = self.log.now_us();
        drop(entries);
        self.log.shared.changed.notify_all();
    }
}
