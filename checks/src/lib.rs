//! What was promised against what is there: for real clusters and for simulated ones.
//!
//! | module | what it holds |
//! |---|---|
//! | [`lane`] | a producer with one message in flight, each try of which is judged |
//! | [`history`] | what lanes were answered, and [`body`]: what the messages hold |
//! | [`deliveries`] | what consumers were given, and when |
//! | [`listener`] | a listener that notes them |
//! | [`checker`] | the history against what was read back: pure functions |
//! | [`readback`] | reading every queue back |
//! | [`pulse`] | how long nothing was acknowledged |
//! | [`reborn`] | a topic that is deleted and made again |
//! | [`rng`] | numbers from a seed |
//!
//! The checkers know nothing of how the messages were sent, nor of what was done to the cluster meanwhile.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests reach for the system")
)]

pub mod body;
pub mod checker;
pub mod deliveries;
pub mod history;
pub mod lane;
pub mod listener;
pub mod pulse;
pub mod readback;
pub mod reborn;
pub mod rng;
