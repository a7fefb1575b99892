//! Random numbers.

use std::sync::Arc;

use parking_lot::Mutex;

/// A source of random numbers; not for secrets. Clones draw from the same source.
#[derive(Clone, Debug)]
pub struct Random(Arc<Mutex<fastrand::Rng>>);

impl Random {
    /// Seeded by the operating system.
    #[expect(clippy::disallowed_methods, reason = "where the operating system's randomness comes in")]
    pub fn unforeseeable() -> Self {
        Self(Arc::new(Mutex::new(fastrand::Rng::new())))
    }

    /// The same numbers for the same seed.
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))))
    }

    /// Any number.
    pub fn number(&self) -> u64 {
        self.0.lock().u64(..)
    }

    /// Changes the order.
    pub fn shuffle<T>(&self, items: &mut [T]) {
        self.0.lock().shuffle(items);
    }

    /// A number below `end`; 0 where `end` is 0.
    pub fn below(&self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.0.lock().u64(..end) }
    }
}
