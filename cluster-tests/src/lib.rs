//! Real processes, faults and checkers.
//!
//! | module | what it holds |
//! |---|---|
//! | [`harness`] | a group of three real processes, and the faults done to it |
//! | [`workload`] | producers that send until they are told to stop, and the history of what they were answered |
//! | [`history`] | that history, and [`body`]: what the messages hold |
//! | [`members`] | push consumers that come and go |
//! | [`deliveries`] | what they were given, and when |
//! | [`readback`] | reading every queue back once the faults are over |
//! | [`checker`] | the history against what was read back: pure functions, no network |
//! | [`commit_logs`] | the members' logs against each other, byte for byte |
//! | [`attack`] | input that no peer should send |
//! | [`torture`] | a long run: faults in an order drawn from a seed |
//! | [`companions`] | what may go on beside the load of such a run: consumers, delayed messages |
//!
//! The checker knows nothing of the harness or of how the messages were sent; the harness knows nothing of messages.
//! What a broker promises is read off its wire protocol and its files alone: nothing here links the broker's code.

pub mod attack;
pub mod body;
pub mod checker;
pub mod commit_logs;
pub mod companions;
pub mod deliveries;
pub mod harness;
pub mod history;
pub mod members;
pub mod pulse;
pub mod readback;
pub mod rng;
pub mod torture;
pub mod workload;
