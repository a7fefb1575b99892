//! Alone in its process: whatever else draws random numbers would take some of those that the seed gives.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "it is about what the system gives")]

use std::hash::{BuildHasher, RandomState};

use raftmq_sim::entropy;

#[test]
fn the_standard_librarys_maps_follow_the_seed() {
    let drawn = |seed| {
        // Keys are drawn once for each thread.
        let draw = move || {
            entropy::seed(seed);
            RandomState::new().hash_one(1)
        };
        std::thread::spawn(draw).join().expect("a draw")
    };
    assert_eq!(drawn(5), drawn(5));
    assert_ne!(drawn(5), drawn(6));
}
