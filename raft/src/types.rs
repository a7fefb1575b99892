//! openraft's types as this group uses them: log entries that are frames of the CommitLog.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::{Bytes, BytesMut};
use openraft::entry::{RaftEntry, RaftPayload};
use openraft::impls::leader_id_std;
use openraft::{BasicNode, OptionalSend};
use parking_lot::Mutex;
use raftmq_store::{EntryId, FrameHeader, FrameKind, LogFrame, LogSlice, Placed};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::api::ProposeError;
use crate::group_id::GroupId;
use crate::table::{Change, Outcomes};

pub(crate) type NodeId = u64;
pub(crate) type LeaderId = leader_id_std::LeaderId<u64, NodeId>;
pub(crate) type CommittedLeaderId = <LeaderId as openraft::vote::RaftLeaderId>::Committed;
pub(crate) type LogId = openraft::LogId<CommittedLeaderId>;
pub(crate) type Vote = openraft::Vote<LeaderId>;
pub(crate) type Membership = openraft::Membership<NodeId, BasicNode>;
pub(crate) type StoredMembership = openraft::StoredMembership<CommittedLeaderId, NodeId, BasicNode>;

/// tokio, with random numbers from a seed that the core's tasks inherit.
pub(crate) type Runtime = openraft::rt::deterministic_rng::DeterministicRng<openraft::TokioRuntime>;

/// What openraft is told of this group's types.
#[derive(Debug, Clone, Copy, Default, Eq, PartialEq, Ord, PartialOrd)]
pub(crate) struct TypeConfig;

impl openraft::RaftTypeConfig for TypeConfig {
    type D = Proposal;
    type R = Outcomes;
    type NodeId = NodeId;
    type Node = BasicNode;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = Vote;
    type Payload = Payload;
    type Entry = Entry;
    type AsyncRuntime = Runtime;
    type Responder<T>
        = WriteResponder<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(crate) fn log_id(id: EntryId) -> LogId {
    LogId { leader_id: CommittedLeaderId::new(id.term), index: id.index }
}

pub(crate) fn entry_id(log_id: &LogId) -> EntryId {
    EntryId { term: **log_id.committed_leader_id(), index: log_id.index }
}

/// What a leader is asked to append.
#[derive(Debug)]
pub(crate) enum Proposal {
    /// Message records, and where the places they get are told.
    Messages(MessageProposal),
    /// A change of the replicated state alone.
    Change(ChangeProposal),
}

#[derive(Debug)]
pub(crate) struct ChangeProposal {
    pub(crate) change: Change,
    /// The term in which it may be appended, where that matters.
    pub(crate) term: Option<u64>,
    /// Told by the leader's append, read when the entry is applied: it came in another term, and the log did not take it.
    pub(crate) is_late: Arc<AtomicBool>,
}

#[derive(Debug)]
pub(crate) struct MessageProposal {
    /// A change that goes with them.
    pub(crate) change: Option<Change>,
    /// The term in which they may be appended, where that matters.
    pub(crate) term: Option<u64>,
    pub(crate) pieces: Vec<BytesMut>,
    pub(crate) places: Arc<Places>,
}

/// What became of a proposal's messages: written once by the leader's append, read when the entry is committed.
#[derive(Debug, Default)]
pub(crate) struct Places(pub(crate) Mutex<Option<Appended>>);

/// The entry that a proposal became, and the places of its messages, or why the log did not take them.
#[derive(Debug)]
pub(crate) struct Appended {
    pub(crate) id: EntryId,
    pub(crate) placed: Result<Vec<Placed>, ProposeError>,
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Messages(m) => {
                write!(f, "messages({} bytes)", m.pieces.iter().map(|p| p.len()).sum::<usize>())
            }
            Self::Change(ChangeProposal { change, .. }) => write!(f, "{change:?}"),
        }
    }
}

/// Whoever is told what becomes of a write.
pub(crate) trait Waiting<T>: Send {
    /// Its entry is committed.
    fn committed(&mut self, _id: EntryId) {}

    /// It is applied, or has failed.
    fn done(self: Box<Self>, result: T);
}

impl<T: Send> Waiting<T> for oneshot::Sender<T> {
    fn done(self: Box<Self>, result: T) {
        // The receiver may have gone; the outcome is in the log all the same.
        let _ = self.send(result);
    }
}

/// The way from openraft to who waits for a write.
pub(crate) struct WriteResponder<T>(pub(crate) Box<dyn Waiting<T>>);

impl<T: Send + 'static> openraft::raft::responder::Responder<TypeConfig, T> for WriteResponder<T> {
    fn on_commit(&mut self, log_id: LogId) {
        self.0.committed(entry_id(&log_id));
    }

    fn on_complete(self, result: T) {
        self.0.done(result);
    }
}

/// A frame as the log holds it, or as a leader sent it.
#[derive(Clone)]
pub(crate) struct Frame {
    pub(crate) kind: FrameKind,
    change_len: u32,
    pub(crate) bytes: FrameBytes,
}

#[derive(Clone)]
pub(crate) enum FrameBytes {
    Log(LogSlice),
    Wire(Bytes),
}

impl AsRef<[u8]> for FrameBytes {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Log(slice) => slice,
            Self::Wire(bytes) => bytes,
        }
    }
}

impl Frame {
    pub(crate) fn new(header: &FrameHeader, bytes: FrameBytes) -> Self {
        Self { kind: header.kind, change_len: header.command_len, bytes }
    }

    /// The encoded change it carries: all of a command's payload, or what stands in front of messages.
    pub(crate) fn change(&self) -> Option<&[u8]> {
        match self.kind {
            FrameKind::Command => Some(self.payload()),
            FrameKind::Messages if self.change_len > 0 => self.payload().get(..self.change_len as usize),
            _ => None,
        }
    }

    pub(crate) fn payload(&self) -> &[u8] {
        self.bytes.as_ref().get(raftmq_store::FRAME_HEADER_BYTES..).unwrap_or_default()
    }
}

/// The payload of an entry on its way into the log or out of it.
pub(crate) enum Payload {
    Blank,
    Membership(Membership),
    Proposal(Proposal),
    Frame(Frame),
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blank => write!(f, "blank"),
            Self::Membership(m) => write!(f, "membership({m})"),
            Self::Proposal(p) => write!(f, "{p}"),
            Self::Frame(frame) => write!(f, "{:?}({} bytes)", frame.kind, frame.bytes.as_ref().len()),
        }
    }
}

impl RaftPayload for Payload {
    type D = Proposal;
    type NodeId = NodeId;
    type Node = BasicNode;

    fn blank() -> Self {
        Self::Blank
    }

    fn with_normal(self, data: Proposal) -> Self {
        Self::Proposal(data)
    }

    fn with_membership(self, membership: Membership) -> Self {
        Self::Membership(membership)
    }

    fn get_membership(&self) -> Option<Membership> {
        match self {
            Self::Membership(m) => Some(m.clone()),
            // What cannot be decoded was refused when it was appended; see `LogStorage`.
            Self::Frame(frame) if frame.kind == FrameKind::Membership => {
                decode_membership(frame.payload()).ok().map(|(_, membership)| membership)
            }
            _ => None,
        }
    }
}

/// A log entry.
pub(crate) struct Entry {
    pub(crate) log_id: LogId,
    pub(crate) payload: Payload,
}

impl From<LogFrame> for Entry {
    fn from(frame: LogFrame) -> Self {
        Self {
            log_id: log_id(frame.id()),
            payload: Payload::Frame(Frame::new(&frame.header, FrameBytes::Log(frame.bytes))),
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.log_id, self.payload)
    }
}

impl RaftEntry for Entry {
    type CommittedLeaderId = CommittedLeaderId;
    type Payload = Payload;

    fn new(log_id: LogId, payload: Payload) -> Self {
        Self { log_id, payload }
    }

    fn log_id_parts(&self) -> (&CommittedLeaderId, u64) {
        (&self.log_id.leader_id, self.log_id.index)
    }

    fn set_log_id(&mut self, new: LogId) {
        self.log_id = new;
    }

    fn get_membership(&self) -> Option<Membership> {
        self.payload.get_membership()
    }
}

/// Members as a membership frame holds them: bincode of their group, voter sets and addresses.
#[derive(Serialize, Deserialize)]
struct StoredMembers {
    group: GroupId,
    voters: Vec<BTreeSet<u64>>,
    nodes: BTreeMap<u64, String>,
}

/// The payload of a membership frame. The same members give the same bytes on every node: the founding entry is
/// written by each founding member for itself.
pub(crate) fn encode_membership(
    group: GroupId,
    membership: &Membership,
) -> Result<Vec<u8>, bincode::error::EncodeError> {
    let stored = StoredMembers {
        group,
        voters: membership.get_joint_config().clone(),
        nodes: membership.nodes().map(|(id, node)| (*id, node.addr.clone())).collect(),
    };
    bincode::serde::encode_to_vec(&stored, bincode::config::standard())
}

pub(crate) fn decode_membership(bytes: &[u8]) -> Result<(GroupId, Membership), String> {
    const MEMBERSHIP_BYTES_MAX: usize = 64 * 1024;
    let config = bincode::config::standard().with_limit::<MEMBERSHIP_BYTES_MAX>();
    let (stored, read): (StoredMembers, usize) = bincode::serde::decode_from_slice(bytes, config)
        .map_err(|e| format!("undecodable membership: {e}"))?;
    if read != bytes.len() {
        return Err(format!("{} bytes behind a membership", bytes.len() - read));
    }
    let nodes: BTreeMap<_, _> =
        stored.nodes.into_iter().map(|(id, addr)| (id, BasicNode::new(addr))).collect();
    let membership =
        Membership::new(stored.voters, nodes).map_err(|e| format!("impossible membership: {e}"))?;
    Ok((stored.group, membership))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_membership_survives_its_encoding_and_lies_are_refused() {
        let nodes: BTreeMap<_, _> =
            [1, 2, 3, 4].map(|id| (id, BasicNode::new(format!("127.0.0.1:{id}")))).into();
        let voters = vec![BTreeSet::from([1, 2, 3]), BTreeSet::from([2, 3])];
        let membership = Membership::new(voters, nodes).unwrap();
        let group = GroupId::from_bytes([5; 16]);
        let bytes = encode_membership(group, &membership).unwrap();
        assert_eq!(decode_membership(&bytes).unwrap(), (group, membership));
        for end in 0..bytes.len() {
            assert!(decode_membership(&bytes[..end]).is_err());
        }
        assert!(decode_membership(&[bytes, vec![0]].concat()).is_err());
    }
}
