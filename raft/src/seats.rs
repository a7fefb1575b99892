//! Who has which place in the group: the leader's side.
//!
//! A node has one *seat*, whichever directory it comes with. One that comes with a directory that is not a member asks for
//! the seat (`entering.rs`). Once the directory that has it is gone, the leader has the new one receive the log, as a
//! learner; when it has all that is committed it votes, in the place of the one before. Each step is a membership in the
//! log, and what to do next follows from the membership alone: a new leader goes on where the last one stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{BasicNode, ChangeMembers, Instant as _, RaftMetrics};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::api::{Role, RoleState};
use crate::hello::{Acquaintances, Hello};
use crate::server::Seating;
use crate::standing::{Standing, node_of};
use crate::state_machine::Core;
use crate::types::{Membership, NodeId, TypeConfig};
use crate::wire::Sought;

/// How often a leader looks for what there is to do.
const INTERVAL: Duration = Duration::from_millis(200);
/// A directory that has not been heard of for so long is gone. Longer than a slow sync, and than a restart.
const GONE: Duration = Duration::from_secs(2);
/// A change of members that is not committed by then is tried again, as a new look finds it.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(5);

/// The seats of a group, as one of its members sees them.
pub(crate) struct Seats {
    raft: Core,
    role: watch::Receiver<RoleState>,
    standing: Arc<Standing>,
    acquaintances: Arc<Acquaintances>,
    /// Nodes that this member was told of.
    configured: BTreeSet<u64>,
    /// Whom this member is told to found a group with; nobody where it is not.
    founding: String,
    /// Why a node has not got its seat yet.
    waits: Mutex<BTreeMap<u64, String>>,
}

/// A change of members.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Move {
    /// Ends a change of voters that another leader began.
    Finish(BTreeSet<NodeId>),
    /// A learner whose node has come with another directory goes.
    Drop(NodeId),
    /// A directory begins to receive the log.
    Seat { id: NodeId, address: String },
    /// These vote, one of them in the place of another.
    Promote { id: NodeId, voters: BTreeSet<NodeId> },
}

/// What a leader knows when it looks for the next move.
struct View<'a> {
    membership: &'a Membership,
    /// How long it has not heard of a directory, at least.
    silence: &'a dyn Fn(NodeId) -> Duration,
    /// Whether a learner has all that was committed when the leader looked before.
    is_whole: &'a dyn Fn(NodeId) -> bool,
    /// Directories that ask for their node's seat, and where they are.
    asking: &'a BTreeMap<NodeId, String>,
}

impl View<'_> {
    fn voters(&self) -> BTreeSet<NodeId> {
        self.membership.voter_ids().collect()
    }

    fn nodes(&self) -> Vec<NodeId> {
        self.membership.nodes().map(|(id, _)| *id).collect()
    }

    /// The next change, and why nodes that ask have to wait.
    fn next(&self) -> (Option<Move>, BTreeMap<u64, String>) {
        let mut waits = BTreeMap::new();
        let sets = self.membership.get_joint_config();
        if let [_, .., last] = &sets[..] {
            return (Some(Move::Finish(last.clone())), waits);
        }
        let seated: Vec<_> =
            self.asking.iter().map(|(id, address)| self.seat(*id, address, &mut waits)).collect();
        (seated.into_iter().flatten().next().or_else(|| self.promote()), waits)
    }

    fn seat(&self, id: NodeId, address: &str, waits: &mut BTreeMap<u64, String>) -> Option<Move> {
        let (node, nodes, voters) = (node_of(id), self.nodes(), self.voters());
        if nodes.contains(&id) {
            return None;
        }
        let before: Vec<_> = nodes.into_iter().filter(|id| node_of(*id) == node).collect();
        let words = if before.is_empty() {
            format!("node {node} is not among the members of this group")
        } else if before.iter().any(|id| (self.silence)(*id) < GONE) {
            format!(
                "another directory of node {node} is in the group and alive: two nodes have one number, or it has just ended"
            )
        } else if let Some(learner) = before.into_iter().find(|id| !voters.contains(id)) {
            return Some(Move::Drop(learner));
        } else {
            return Some(Move::Seat { id, address: address.to_owned() });
        };
        waits.insert(node, words);
        None
    }

    fn promote(&self) -> Option<Move> {
        let voters = self.voters();
        let learners = self.nodes().into_iter().filter(|id| !voters.contains(id));
        let id = learners.into_iter().find(|id| (self.is_whole)(*id))?;
        let mut with: BTreeSet<_> =
            voters.into_iter().filter(|voter| node_of(*voter) != node_of(id)).collect();
        with.insert(id);
        Some(Move::Promote { id, voters: with })
    }
}

impl Seats {
    pub(crate) fn new(
        raft: Core,
        role: watch::Receiver<RoleState>,
        standing: Arc<Standing>,
        acquaintances: Arc<Acquaintances>,
        configured: BTreeSet<u64>,
        founding: String,
    ) -> Self {
        Self { raft, role, standing, acquaintances, configured, founding, waits: Mutex::default() }
    }

    /// Runs until the task is ended.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut leading: Option<(u64, Instant)> = None;
        let mut committed = None;
        loop {
            tokio::time::sleep(INTERVAL).await;
            let role = self.role.borrow().clone();
            if !role.ready {
                leading = None;
                continue;
            }
            let since = match leading {
                Some((term, since)) if term == role.term => since,
                _ => leading.insert((role.term, Instant::now())).1,
            };
            let metrics = self.raft.metrics().borrow_watched().clone();
            let made = self.next(&metrics, since, committed);
            committed = metrics.local_committed.as_ref().map(|id| id.index);
            if let Some(made) = made {
                self.make(made).await;
            }
        }
    }

    fn next(
        &self,
        metrics: &RaftMetrics<TypeConfig>,
        leading_since: Instant,
        committed: Option<u64>,
    ) -> Option<Move> {
        let asking = self.acquaintances.seeking();
        let silence = |id: NodeId| {
            let heard =
                metrics.heartbeat.as_ref().and_then(|heard| heard.get(&id)?.as_ref().map(|at| at.elapsed()));
            if id == self.standing.id() {
                Duration::ZERO
            } else {
                heard.unwrap_or_else(|| leading_since.elapsed())
            }
        };
        let is_whole = |id: NodeId| {
            let matched =
                metrics.replication.as_ref().and_then(|known| known.get(&id)?.as_ref().map(|m| m.index));
            committed.is_some() && matched >= committed
        };
        let membership = metrics.membership_config.membership();
        let view = View { membership, silence: &silence, is_whole: &is_whole, asking: &asking };
        let (next, waits) = view.next();
        *self.waits.lock() = waits;
        next
    }

    async fn make(&self, made: Move) {
        tracing::info!("{}", made.words());
        let change: ChangeMembers<NodeId, BasicNode> = match made.clone() {
            Move::Finish(voters) | Move::Promote { voters, .. } => ChangeMembers::ReplaceAllVoters(voters),
            Move::Drop(learner) => ChangeMembers::RemoveNodes([learner].into()),
            Move::Seat { id, address } => ChangeMembers::AddNodes([(id, BasicNode::new(address))].into()),
        };
        match tokio::time::timeout(CHANGE_TIMEOUT, self.raft.change_membership(change, false)).await {
            Ok(Ok(_)) => tracing::info!("done: {}", made.words()),
            Ok(Err(error)) => tracing::warn!("not done: {}: {error}", made.words()),
            Err(_) => tracing::warn!("not done yet: {}", made.words()),
        }
    }

    /// Whether a directory is a member, where this member leads and can say so.
    fn is_member(&self, id: NodeId) -> Option<bool> {
        let role = self.role.borrow().clone();
        if role.role != Role::Leader || !role.ready {
            return None;
        }
        // One that is not committed yet may be another in the end.
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = &metrics.membership_config;
        let is_committed = membership.log_id().as_ref() <= metrics.local_committed.as_ref();
        is_committed.then(|| membership.membership().nodes().any(|(member, _)| *member == id))
    }
}

impl Move {
    fn words(&self) -> String {
        match self {
            Self::Finish(_) => "a change of voters that was begun is finished".into(),
            Self::Drop(id) => {
                format!("node {} has come with another directory, the last one goes", node_of(*id))
            }
            Self::Seat { id, address } => {
                format!(
                    "node {} has come with another directory, it learns the log at {address}",
                    node_of(*id)
                )
            }
            Self::Promote { id, .. } => format!("node {} has the log and votes", node_of(*id)),
        }
    }
}

impl Seating for Seats {
    fn has_node(&self, node: u64) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let mut nodes = metrics.membership_config.membership().nodes();
        self.configured.contains(&node) || nodes.any(|(id, _)| node_of(*id) == node)
    }

    fn seek(&self, theirs: &Hello, founding: &str, for_seat: bool) -> Sought {
        let mut sought = Sought { founding: self.founding.clone(), ..Sought::default() };
        if self.standing.group().is_none() {
            if founding != self.founding {
                sought.words = format!(
                    "node {} was told to found a group of {:?}, node {} of {founding:?}",
                    self.acquaintances.node_id(),
                    self.founding,
                    theirs.node()
                );
            }
            return sought;
        }
        sought.founders = self.standing.founding().unwrap_or_default();
        sought.is_member = self.is_member(theirs.id);
        let gone_back =
            self.acquaintances.older_copy(theirs).or_else(|| self.acquaintances.gone_back(theirs.id));
        if gone_back.is_some() {
            sought.is_member = Some(false);
        } else if for_seat {
            self.acquaintances.note_seeking(theirs);
        }
        if sought.is_member == Some(false) {
            let waits = self.waits.lock().get(&theirs.node()).cloned();
            sought.words = gone_back.or(waits).unwrap_or_else(|| "it will be taken in".into());
        } else if sought.is_member.is_none() {
            let own = self.acquaintances.node_id();
            let is_there = self.acquaintances.leader_silence() < GONE;
            let leader = self.role.borrow().leader.filter(|leader| is_there && *leader != own);
            sought.words = match leader {
                Some(leader) => format!("node {leader} leads"),
                None => "the group has no leader that could take members in: it waits for a majority of its members".into(),
            };
        }
        sought
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHER: u64 = 1 << 20;

    fn membership(voters: &[&[u64]], nodes: &[u64]) -> Membership {
        let voters = voters.iter().map(|set| set.iter().copied().collect()).collect();
        let nodes: BTreeMap<_, _> = nodes.iter().map(|id| (*id, BasicNode::new("a:1"))).collect();
        Membership::new(voters, nodes).unwrap()
    }

    fn next(membership: &Membership, gone: &[u64], whole: &[u64], asking: &[u64]) -> (Option<Move>, usize) {
        let asking = asking.iter().map(|id| (*id, "b:1".into())).collect();
        let silence = |id: NodeId| if gone.contains(&id) { GONE } else { Duration::ZERO };
        let is_whole = |id: NodeId| whole.contains(&id);
        let view = View { membership, silence: &silence, is_whole: &is_whole, asking: &asking };
        let (next, waits) = view.next();
        (next, waits.len())
    }

    #[test]
    fn a_node_with_another_directory_learns_and_then_votes_in_its_place() {
        let new = OTHER | 2;
        let three = membership(&[&[1, 2, 3]], &[1, 2, 3]);
        assert_eq!(next(&three, &[], &[], &[]), (None, 0));
        let seat = Move::Seat { id: new, address: "b:1".into() };
        assert_eq!(next(&three, &[2], &[], &[new]), (Some(seat), 0));
        let learning = membership(&[&[1, 2, 3]], &[1, 2, 3, new]);
        assert_eq!(next(&learning, &[2], &[], &[new]), (None, 0));
        let voters = BTreeSet::from([1, 3, new]);
        let promote = Move::Promote { id: new, voters: voters.clone() };
        assert_eq!(next(&learning, &[2], &[new], &[new]), (Some(promote), 0));
        let joint = membership(&[&[1, 2, 3], &[1, 3, new]], &[1, 2, 3, new]);
        assert_eq!(next(&joint, &[2], &[new], &[]), (Some(Move::Finish(voters)), 0));
        let done = membership(&[&[1, 3, new]], &[1, 3, new]);
        assert_eq!(next(&done, &[], &[new], &[new]), (None, 0));
    }

    #[test]
    fn a_seat_whose_directory_lives_is_not_given_away() {
        let three = membership(&[&[1, 2, 3]], &[1, 2, 3]);
        assert_eq!(next(&three, &[], &[], &[OTHER | 2]), (None, 1));
        assert_eq!(next(&three, &[2], &[], &[OTHER | 4]), (None, 1), "a node that is not in the group");
    }

    #[test]
    fn one_that_is_emptied_again_while_it_learns_begins_anew() {
        let (first, second) = (OTHER | 2, (2 * OTHER) | 2);
        let learning = membership(&[&[1, 2, 3]], &[1, 2, 3, first]);
        assert_eq!(next(&learning, &[2], &[], &[second]), (None, 1), "the first one still answers");
        assert_eq!(next(&learning, &[2, first], &[], &[second]), (Some(Move::Drop(first)), 0));
    }
}
