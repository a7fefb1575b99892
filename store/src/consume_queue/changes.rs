//! What has changed in the ConsumeQueues of a table since the last checkpoint, so that nobody needs to walk all of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// Shared by all queues `Q` of a table.
#[derive(Debug)]
pub(crate) struct Changes<Q> {
    /// Readable units over all queues of topics that are not dropped.
    units: AtomicU64,
    /// Queues with something that is not durable. A queue sees to it that it is not among them twice.
    queues: Mutex<Vec<Weak<Q>>>,
}

impl<Q> Default for Changes<Q> {
    fn default() -> Self {
        Self { units: AtomicU64::new(0), queues: Mutex::default() }
    }
}

impl<Q> Changes<Q> {
    /// A queue has `now` units in place of `before`.
    pub(crate) fn count(&self, before: u64, now: u64) {
        self.units.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
    }

    pub(crate) fn units(&self) -> u64 {
        self.units.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, queue: Weak<Q>) {
        self.queues.lock().push(queue);
    }

    /// Takes out the queues that were added; those that nobody has any more are left out.
    pub(crate) fn take(&self) -> Vec<Arc<Q>> {
        std::mem::take(&mut *self.queues.lock()).iter().filter_map(Weak::upgrade).collect()
    }

    /// Of a table that is empty again.
    pub(crate) fn clear(&self) {
        self.units.store(0, Ordering::Relaxed);
        self.queues.lock().clear();
    }
}
