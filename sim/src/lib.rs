//! Whole clusters in one process on one thread, on simulated time, network and disk, from a seed.
//!
//! | module | what it is |
//! |---|---|
//! | `time` | simulated time, and the clocks of machines and processes |
//! | `network` | streams between hosts, with delays, cuts and resets |
//! | `disk` | machines: a disk that knows what is durable, and fails |
//! | `threads` | threads and jobs as steps between other things |
//! | `host` | a process: a runtime whose clock the simulation moves |
//!
//! The same seed gives the same history.

mod disk;
mod host;
mod network;
mod threads;
mod time;

pub use disk::{DiskCopy, DiskFaults, Ending, HostDisk, Machine, Pace};
pub use host::Process;
pub use network::{Fabric, HostId, HostNetwork, NetworkCounts, Way, host_ip};
pub use time::{EPOCH_MS, HostClock, MachineClock};
