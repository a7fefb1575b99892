//! What a member of a group is told and what it tells: configuration, errors, status, batches of messages.

use std::net::SocketAddr;
use std::path::PathBuf;

use bytes::BytesMut;
use raftmq_store::{Derived, FlushMode, Placed, StoreError};
use serde::Serialize;

use crate::secret::Secret;
use crate::table::{Change, FeatureLevel};

/// A node of the group, as configured: where to look for it. Who the members are is in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its node id, from 1 to 65,535.
    pub id: u64,
    /// Where other members reach it, as `host:port`; a host's name is resolved whenever a connection is opened.
    pub raft: String,
}

/// What a member needs to know to start.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// The cluster's name.
    pub cluster: String,
    /// The group's name; clients see it as the broker name.
    pub broker_name: String,
    /// This member.
    pub node_id: u64,
    /// The directory that holds everything this member stores.
    pub dir: PathBuf,
    /// What is derived from the log there.
    pub derived: Derived,
    /// The nodes to look for, this one included.
    pub members: Vec<Member>,
    /// Whether a directory that is new may found a group, together with the others of `members`.
    pub founds: bool,
    /// What the members of the group know and nobody else does.
    pub secret: Option<Secret>,
    /// Where to listen for the other members.
    pub listen: SocketAddr,
    /// Where this member is reached by clients and over HTTP; told to the others.
    pub client: SocketAddr,
    /// The admin API's address.
    pub admin: SocketAddr,
    /// What an acknowledgement waits for.
    pub flush: FlushMode,
    /// Bytes of the disk that are left free; of a small disk a part. With less nothing is stored.
    pub disk_reserve_bytes: u64,
    /// The length of a log segment in bytes; fixed when the group is created.
    pub segment_bytes: u64,
    /// The heartbeat interval in ms.
    pub heartbeat_ms: u64,
    /// The election timeout's range in ms.
    pub election_timeout_ms: (u64, u64),
}

/// Why a member did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration makes no sense.
    #[error("configuration: {0}")]
    Config(String),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The group has gone on to changes that this release does not read.
    #[error("{0}")]
    TooOld(String),
    /// An address could not be bound.
    #[error("listen on {addr}: {source}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The Raft core refused.
    #[error("raft: {0}")]
    Raft(String),
}

/// Why a member runs no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The reason, for people.
    pub reason: String,
    /// Whether it is to be started again at once: its directory returns as another member.
    pub starts_again: bool,
}

impl Ended {
    pub(crate) fn because(reason: impl std::fmt::Display) -> Self {
        Self { reason: reason.to_string(), starts_again: false }
    }
}

/// What a member is to its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Serves writes.
    Leader,
    /// Follows.
    Follower,
    /// Stands for election.
    Candidate,
    /// Receives the log without a vote.
    Learner,
    /// Has stopped.
    Stopped,
}

/// A member's role at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleState {
    /// The role.
    pub role: Role,
    /// The term.
    pub term: u64,
    /// The leader it knows.
    pub leader: Option<u64>,
    /// Whether it is a leader that has applied and dispatched all that was committed before its term, and that nobody can
    /// have replaced: a majority has promised that for some time yet.
    pub ready: bool,
}

/// A member's state, for people and tools.
#[derive(Clone, Debug, Serialize)]
pub struct GroupStatus {
    /// This member.
    pub node_id: u64,
    /// The group's id, once this member is in one.
    pub group_id: Option<String>,
    /// Its role.
    pub role: Role,
    /// The term.
    pub term: u64,
    /// The leader it knows.
    pub leader_id: Option<u64>,
    /// Index of the last entry in its log.
    pub last_index: Option<u64>,
    /// Index up to which it knows entries to be committed.
    pub commit_index: Option<u64>,
    /// Index up to which entries are applied here.
    pub applied_index: Option<u64>,
    /// First byte of the log that is still there.
    pub min_physical_offset: u64,
    /// End of what is appended.
    pub max_physical_offset: u64,
    /// End of what is durable here.
    pub flushed_physical_offset: u64,
    /// End of what consumers can see here.
    pub dispatched_physical_offset: u64,
    /// The level of changes that every member reads.
    pub feature_level: FeatureLevel,
    /// Whether it serves: a leader that is ready, or a follower that knows a leader.
    pub ready: bool,
    /// Why it has stopped, where it has.
    pub stopped: Option<String>,
    /// What it waits for to be taken into a group, while it is in none, or to be whole again.
    pub waits: Option<String>,
    /// Places of its log that are broken, with file and position, and wait to be mended from another member.
    pub damaged: Vec<String>,
    /// How many such places were mended since the start.
    pub mended: u64,
    /// Every member.
    pub members: Vec<MemberStatus>,
}

/// What this member knows of a member.
#[derive(Clone, Debug, Serialize)]
pub struct MemberStatus {
    /// Its node id.
    pub id: u64,
    /// The Raft id of its directory, in hexadecimal digits.
    pub directory: String,
    /// Where members reach it.
    pub raft: String,
    /// Where clients reach it, once it has said so.
    pub client: Option<String>,
    /// Its admin API, once it has said so.
    pub admin: Option<String>,
    /// The highest level of changes that it reads, once it has said so.
    pub reads: Option<FeatureLevel>,
    /// Whether it votes.
    pub voter: bool,
    /// Its role as seen from here: the leader is certain, the others are followers or learners.
    pub role: Role,
    /// Whether it runs, as far as is known here: of itself and its leader every member knows, of the others the leader,
    /// by whether they have answered in the last two seconds.
    pub online: Option<bool>,
    /// How far its clock is ahead of this one's in ms at least, below 0 behind; on the leader only, of who has answered.
    pub clock_ahead_ms: Option<i64>,
    /// Index up to which its log is known to equal the leader's; on the leader only.
    pub matched_index: Option<u64>,
    /// Entries it is behind the leader's log; on the leader only.
    pub lag: Option<u64>,
}

/// Messages to be appended together.
pub struct MessageBatch {
    /// Encoded records back to back; queue offset, physical offset and store timestamp are still zero.
    pub records: BytesMut,
    /// How many records.
    pub count: u32,
    /// What they mean for the replicated state. Both are one entry, which holds nothing else: whoever sees the one sees
    /// the other, whatever fails in between.
    pub change: Option<Change>,
    /// The term in which they may be appended, where that matters: in any other nobody is the leader that they are for.
    /// With a change only.
    pub term: Option<u64>,
    /// Told of the outcome: when the entry is committed, or, with a change, when that is applied.
    pub completion: Box<dyn Completion>,
}

/// Told once what became of a batch, already while it is submitted where it is not taken. Runs on a runtime thread and must
/// not block.
pub trait Completion: Send + Sync {
    /// `Ok`: committed; one position for each record, in order.
    fn complete(self: Box<Self>, outcome: Result<&[Placed], &ProposeError>);
}

/// Why a proposal was not committed, or is not known to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Not the leader, or not in the term that was asked for: nothing was written.
    #[error("not the leader (leader: {leader:?})")]
    NotLeader {
        /// The leader this member knows.
        leader: Option<u64>,
    },
    /// Not every member reads such a change yet: nothing was written.
    #[error("{0}")]
    TooEarly(String),
    /// Too much is on its way already: nothing was written.
    #[error("{bytes} bytes are on their way, the limit is {limit}")]
    Busy {
        /// Bytes on their way.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// There is no room for it on the disks: nothing was written.
    #[error("{0}")]
    NoRoom(String),
    /// The leader changed while the entry was on its way: it may be committed or not.
    #[error("the leader changed: the outcome is unknown")]
    Unknown,
    /// Refused before anything was written.
    #[error("refused: {0}")]
    Refused(String),
    /// This member has stopped; what was on its way may be committed or not.
    #[error("stopped: {0}")]
    Stopped(String),
}
