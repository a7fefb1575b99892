//! What a broker takes from its process.

use std::sync::Arc;

use raftmq_world::{Clock, Threads};

/// What a broker takes from its process: no more of the world than it needs.
#[derive(Clone)]
pub struct Surroundings {
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// For what waits for the disk.
    pub threads: Arc<dyn Threads>,
    /// The process's number, for unique keys.
    pub process_id: u32,
    /// A random number, for the same, and where sends that leave their queue open begin.
    pub salt: u32,
}
