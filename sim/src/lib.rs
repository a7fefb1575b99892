//! Whole clusters in one process on one thread, on simulated time, network and disk, from a seed.
//!
//! | module | what it is |
//! |---|---|
//! | `time` | simulated time, and the clocks of machines and processes |
//! | `network` | streams between hosts, with delays, cuts and resets |
//! | `disk` | machines: a disk that knows what is durable, and fails |
//! | `beside` | whether what runs now holds up the network thread |
//! | `threads` | threads and jobs as steps between other things |
//! | `host` | a process: a runtime whose clock the simulation moves |
//! | `entropy` | the operating system's random numbers, from a seed |
//! | `cluster` | members with their supervisors, and programs that use them |
//! | `fault` | the kinds of faults |
//! | `nemesis` | faults, drawn and done |
//! | `programs` | what uses the cluster meanwhile |
//! | `promise` | what is promised, and what is known not to be kept yet |
//! | `scenario` | a run: programs, faults, and whether every promise was kept |
//!
//! The same seed gives the same history.

mod beside;
mod cluster;
mod disk;
pub mod entropy;
mod fault;
mod host;
mod nemesis;
mod network;
mod programs;
mod promise;
mod scenario;
mod threads;
mod time;

pub use cluster::{Cluster, ClusterOptions, DATA_DIR, LOG_DIR, MEMBERS, SimulationClock, Trace};
pub use disk::{DiskCopy, DiskFaults, DiskOp, Ending, HostDisk, Machine, Pace};
pub use fault::Kind;
pub use host::Process;
pub use nemesis::Nemesis;
pub use network::{Fabric, HostId, HostNetwork, NetworkCounts, Way, host_ip};
pub use promise::{Breach, NOT_KEPT, NOT_STOOD, Promise};
pub use scenario::{Report, ScenarioOptions, run};
pub use time::{EPOCH_MS, HostClock, MachineClock};
