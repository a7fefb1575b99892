//! What the rest takes from its surroundings: clock, network, disk, randomness, and threads for work that blocks.
//!
//! | module | what it is |
//! |---|---|
//! | `clock` | the time of day, and time that only passes |
//! | `disk`, `os_disk` | files; the operating system's, and the only place with `unsafe` |
//! | `disk_layer` | disks and files that do some of it otherwise than those below them |
//! | `network`, `os_network` | streams and listeners; TCP |
//! | `os_machine` | the process's id, the machine's memory, how many files may be open |
//! | `acceptor` | accepting connections within a bound |
//! | `random` | numbers that nobody can foresee, or that a seed decides |
//! | `mutation` | deliberate faults, for the simulator |
//! | `hash` | maps whose order a seed can decide |
//! | `work` | threads that do work in steps, and work that may block |
//!
//! A [`World`] is made once, at the top, and handed down. [`World::system`] is the operating system's; the simulator has
//! one of its own for each node. *Invariant*: nothing outside this crate reaches for any of it by another way; lints see to
//! that (`clippy.toml`). What waits without blocking (sleeps, timeouts) goes by the runtime's clock, which belongs to the
//! world as well.

mod acceptor;
mod clock;
mod disk;
mod disk_layer;
pub mod hash;
mod mutation;
mod network;
mod os_disk;
mod os_machine;
mod os_network;
mod random;
mod work;

use std::sync::Arc;

pub use acceptor::{Accepted, Acceptor, Places, WhenFull};
pub use clock::{Clock, SystemClock};
pub use disk::{Disk, DiskFile, DiskUsage, Space, data_end};
pub use disk_layer::{DiskLayer, FileLayer};
pub use mutation::Mutation;
pub use network::{KeepAlive, Listen, Listener, Network, ReadHalf, Socket, Stream, WriteHalf};
pub use os_disk::{OsDisk, memory_file};
pub use os_network::OsNetwork;
pub use random::Random;
pub use work::{Job, Next, OsThreads, Step, Threads, Worker};

/// Everything a process takes from its surroundings. Clones are handles to the same.
#[derive(Clone, Debug)]
pub struct World {
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// The network.
    pub network: Arc<dyn Network>,
    /// Randomness.
    pub random: Random,
    /// Threads, and a place for work that blocks.
    pub threads: Arc<dyn Threads>,
    /// Tells this process from the others of its machine.
    pub process_id: u32,
    /// The machine's memory, in bytes.
    pub memory_bytes: u64,
    /// How many files what is derived from a log may have open and mapped at a time.
    pub open_files_max: usize,
}

impl World {
    /// The operating system's.
    pub fn system() -> Self {
        Self {
            clock: Arc::new(SystemClock::default()),
            disk: Arc::new(OsDisk),
            network: Arc::new(OsNetwork),
            random: Random::unforeseeable(),
            threads: Arc::new(OsThreads),
            process_id: os_machine::process_id(),
            memory_bytes: os_machine::memory_bytes(),
            open_files_max: os_machine::open_files_max(),
        }
    }
}
