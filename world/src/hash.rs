//! Hash maps whose order a seed can decide.
//!
//! The standard library's order differs from map to map. That is a good defence against clients who choose their keys, and
//! keeps a history from being repeated. Here one seed decides for all maps that a thread makes: a random one of the process,
//! or the one that the simulator has set.

#![expect(clippy::disallowed_types, reason = "the maps themselves, and where their seed comes from")]

use std::cell::Cell;
use std::hash::{BuildHasher, DefaultHasher, Hasher, RandomState};
use std::sync::OnceLock;

/// A hash map in the order that the seed decides.
pub type HashMap<K, V> = std::collections::HashMap<K, V, Seeded>;
/// A hash set in the order that the seed decides.
pub type HashSet<K> = std::collections::HashSet<K, Seeded>;

thread_local! {
    static FIXED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Decides the order of all maps that this thread makes from now on.
pub fn fix_order(seed: u64) {
    FIXED.set(Some(seed));
}

/// SipHash that begins with a seed.
#[derive(Clone, Copy, Debug)]
pub struct Seeded(u64);

impl Default for Seeded {
    fn default() -> Self {
        static OF_PROCESS: OnceLock<u64> = OnceLock::new();
        Self(FIXED.get().unwrap_or_else(|| *OF_PROCESS.get_or_init(|| RandomState::new().hash_one(0))))
    }
}

impl BuildHasher for Seeded {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0);
        hasher
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(seed: u64) -> Vec<u32> {
        fix_order(seed);
        (0..100).collect::<HashSet<u32>>().into_iter().collect()
    }

    #[test]
    fn a_seed_decides_the_order() {
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
    }
}
