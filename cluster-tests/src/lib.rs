//! Real processes, faults and checkers.
//!
//! | module | what it holds |
//! |---|---|
//! | [`harness`] | a group of three real processes, and the faults done to it |
//! | [`workload`] | producers that send until they are told to stop, and the history of what they were answered |
//! | [`members`] | push consumers that come and go |
//! | [`readback`] | reading every queue back once the faults are over |
//! | [`commit_logs`] | the members' logs against each other, byte for byte |
//! | [`attack`] | input that no peer should send |
//! | [`torture`] | a long run: faults in an order drawn from a seed |
//! | [`companions`] | what may go on beside the load of such a run: consumers, delayed messages |
//!
//! The history and the checkers of it are in `checks/`. The harness knows nothing of messages.
//! What a broker promises is read off its wire protocol and its files alone: nothing here links the broker's code.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "works on real processes in real time"
)]

pub mod attack;
pub mod commit_logs;
pub mod companions;
pub mod harness;
pub mod members;
pub mod readback;
pub mod torture;
pub mod workload;
