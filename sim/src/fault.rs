//! The kinds of faults that there are.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A kind of fault. What is done to a member may be done to several at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// A member's process is killed.
    Kill,
    /// A member's machine loses its power.
    PowerLoss,
    /// A member's machine loses its power right behind something that its disk does.
    PowerLossBehind,
    /// A member is asked to stop.
    Stop,
    /// A member does nothing for a while.
    Hang,
    /// A member and another do not hear each other.
    Cut,
    /// A member does not hear another, which hears it.
    CutOneWay,
    /// A member hears no other, and none hears it.
    Isolation,
    /// What two members say to each other takes long.
    Delay,
    /// Connections between two members are reset.
    Reset,
    /// A disk is slow.
    SlowDisk,
    /// The next sync fails.
    FailedSync,
    /// A disk is full for a while, but for some of what a member keeps free.
    FullDisk,
    /// A disk is full for a while, and nothing is left of what a member keeps free.
    SpentDisk,
    /// The time of day jumps.
    ClockJump,
    /// A clock goes too fast or too slowly.
    ClockDrift,
    /// A bit of what was durable flips while a machine is down.
    FlippedBit,
    /// A machine comes back with an empty disk.
    EmptiedDisk,
    /// A machine comes back with what was on its disk a while ago.
    OldDisk,
    /// A consumer's process is killed.
    ClientKill,
    /// A client does nothing for a while.
    ClientHang,
    /// A client and a member do not hear each other.
    ClientCut,
    /// Connections between a client and a member are reset.
    ClientReset,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 23] = [
        Self::Kill,
        Self::PowerLoss,
        Self::PowerLossBehind,
        Self::Stop,
        Self::Hang,
        Self::Cut,
        Self::CutOneWay,
        Self::Isolation,
        Self::Delay,
        Self::Reset,
        Self::SlowDisk,
        Self::FailedSync,
        Self::FullDisk,
        Self::SpentDisk,
        Self::ClockJump,
        Self::ClockDrift,
        Self::FlippedBit,
        Self::EmptiedDisk,
        Self::OldDisk,
        Self::ClientKill,
        Self::ClientHang,
        Self::ClientCut,
        Self::ClientReset,
    ];

    /// Whether it takes from a member what that had promised to keep.
    pub(crate) fn takes_what_was_durable(self) -> bool {
        matches!(self, Self::FlippedBit | Self::EmptiedDisk | Self::OldDisk)
    }

    /// Whether it is done to a client.
    pub(crate) fn is_a_clients(self) -> bool {
        matches!(self, Self::ClientKill | Self::ClientHang | Self::ClientCut | Self::ClientReset)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
