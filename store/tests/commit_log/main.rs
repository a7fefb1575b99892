//! The store with its CommitLog: against a model, from leader to follower, through damage, crashes and failing disks.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests reach for the system")]
#![allow(clippy::unwrap_used)]

mod crash_disk;
mod crash_images;
mod derived;
mod dropped;
mod dropped_crashes;
mod failing_disk;
mod followers;
mod large_segments;
mod manual;
mod mending;
mod model;
mod model_based;
mod recovery;
mod slots;
mod steps;
mod support;
mod vanished;
mod views;
