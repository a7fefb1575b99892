//! What is checked of the rooms that `ARCHITECTURE.md` draws: arrows between crates point down, and the modules of a
//! crate do not use each other in circles. The rules themselves are in `tests/rooms.rs`.
//!
//! | module | what it is |
//! |---|---|
//! | `workspace` | the crates with what their `Cargo.toml` names |
//! | `arrows` | which crate names one that it may not |
//! | `source` | one file: what it declares and which paths it names |
//! | `tree` | the modules of a crate, and where a path leads |
//! | `circles` | files that use each other |
//! | `outside` | names of other crates that a room must not know |
//!
//! # What it cannot see
//! * Methods that are called on anything but `self`, and types that nobody names. Whoever has a value of a type has had its
//!   name from somewhere, mostly in the same file.
//! * What a macro makes of its arguments, but for the paths that stand in them.
//! * Paths in texts, as in `#[serde(with = "…")]`.
//! * A trait that comes in with `*` for its methods alone.
//! * A path whose first name is a local variable or a type parameter that is called like something that came in with `*`: it
//!   is taken for that.
//!
//! A file that `#[path]` names is not found, and that fails.

mod arrows;
mod circles;
mod outside;
mod source;
mod tree;
mod workspace;

pub use arrows::{Room, wrong_arrows};
pub use circles::{Circle, circles};
pub use outside::named;
pub use tree::{Read, Ties, Tree};
pub use workspace::{Package, packages};
