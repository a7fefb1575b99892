//! What the group promises, and what is known not to be kept yet.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::fault::Kind;

/// A promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Promise {
    /// What was acknowledged is there, once, where it was said to be, and nothing else is.
    Stored,
    /// What was delayed comes once, and not early.
    Delayed,
    /// Everything is consumed, in order and by one member of a group where that was asked for.
    Consumed,
    /// Committed offsets never go back.
    Offsets,
    /// A topic that was deleted is gone with its messages, and begins anew when it is made again.
    Deleted,
    /// A leader's answers are never behind what was acknowledged before the question.
    FreshReads,
    /// The members' logs are the same to the byte.
    EqualLogs,
    /// The members' states are the same as of the same entry.
    EqualStates,
    /// Everything is served again soon after the faults.
    Service,
    /// A group whose disks are all slow elects and stores.
    SlowDisks,
    /// No code panics.
    NoPanic,
}

impl Promise {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Stored,
        Self::Delayed,
        Self::Consumed,
        Self::Offsets,
        Self::Deleted,
        Self::FreshReads,
        Self::EqualLogs,
        Self::EqualStates,
        Self::Service,
        Self::SlowDisks,
        Self::NoPanic,
    ];
}

/// A promise that was not kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Breach {
    /// Which.
    pub promise: Promise,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.promise, self.what)
    }
}

/// What was broken so far.
#[derive(Debug, Default)]
pub(crate) struct Breaches(Vec<Breach>);

impl Breaches {
    pub(crate) fn add(&mut self, promise: Promise, what: impl fmt::Display) {
        self.0.push(Breach { promise, what: what.to_string() });
    }

    pub(crate) fn into_vec(self) -> Vec<Breach> {
        self.0
    }
}

/// Promises known not to be kept yet with some kinds of faults, or whatever happens where none is named.
pub const NOT_KEPT: [(Promise, &[Kind]); 1] = [
    // A member with a damaged file of its own does not start. Where that is so before it has said what changes it reads, the
    // group stays at the level at which a topic that is deleted and made again goes on where it was.
    (Promise::Deleted, &[Kind::FlippedBit]),
];

/// Faults known not to be stood yet: they may break every promise. Each has an ignored test in `tests/seeds.rs`.
pub const NOT_STOOD: [Kind; 1] = [
    // Where everybody who knew more of it is gone, nobody can tell that a directory is an older copy, and it votes.
    Kind::OldDisk,
];
