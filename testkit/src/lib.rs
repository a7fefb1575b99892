//! What tests of several crates share.
//!
//! | module | what it is |
//! |---|---|
//! | `address` | addresses on loopback that nobody else takes |
//! | `server` | a server that does as it is told |
//! | `group` | members of a group and stores, with the settings of tests |
//! | `disk` | a disk that is as full as a test says |

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "tests are on the real network, and fail where it does"
)]

mod address;
#[cfg(feature = "group")]
mod disk;
#[cfg(feature = "group")]
mod group;
mod server;

pub use address::free_address;
#[cfg(feature = "group")]
pub use disk::ToldDisk;
#[cfg(feature = "group")]
pub use group::{group_config, queues_alone, store_options};
pub use server::{FakeServer, Reply};
