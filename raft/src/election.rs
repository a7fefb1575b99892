//! When a member stands for election: after its leader's [lease](crate::lease) is over, and once it has heard from a majority
//! that they would vote for it. openraft holds the election, and never begins one by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::network::RPCOption;
use openraft::{BasicNode, RaftNetworkFactory, ServerState};
use tokio::time::{sleep, timeout};

use crate::lease::Leases;
use crate::state_machine::Core;
use crate::transport::Transport;
use crate::types::{NodeId, Vote};
use crate::wire::VoteRequest;

/// How long others may take to say whether they would vote for this member.
const ASKING_MAX: Duration = Duration::from_millis(500);

/// Has this member stand when it is time.
pub(crate) struct Elections {
    pub(crate) raft: Core,
    pub(crate) transport: Transport,
    pub(crate) leases: Arc<Leases>,
    pub(crate) node_id: NodeId,
}

/// The members by the last configuration.
struct Electorate {
    quorums: Vec<BTreeSet<NodeId>>,
    nodes: BTreeMap<NodeId, BasicNode>,
}

impl Electorate {
    /// Whether those who are for it are enough.
    fn is_won(&self, votes: &BTreeSet<NodeId>) -> bool {
        self.quorums.iter().all(|quorum| quorum.intersection(votes).count() > quorum.len() / 2)
    }

    fn is_alone(&self, own: NodeId) -> bool {
        self.quorums.iter().all(|quorum| quorum.len() == 1 && quorum.contains(&own))
    }
}

impl Elections {
    /// Runs until the Raft core ends.
    pub(crate) async fn run(mut self) {
        let mut server = self.raft.server_metrics();
        loop {
            let (may_stand, electorate) = {
                let metrics = server.borrow_and_update();
                let membership = metrics.membership_config.membership();
                let electorate = Electorate {
                    quorums: membership.get_joint_config().clone(),
                    nodes: membership.nodes().map(|(id, node)| (*id, node.clone())).collect(),
                };
                let is_voter = electorate.quorums.iter().any(|quorum| quorum.contains(&self.node_id));
                (is_voter && metrics.state != ServerState::Leader, electorate)
            };
            let is_alone = electorate.is_alone(self.node_id);
            let wait = self.leases.stand_at(is_alone).saturating_sub(self.leases.now());
            let is_time = tokio::select! {
                biased;
                changed = server.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    false
                }
                () = sleep(wait), if may_stand => wait.is_zero(),
            };
            if !is_time {
                continue;
            }
            self.leases.begin_to_ask();
            let would_win = is_alone || self.would_win(&electorate).await;
            self.leases.has_asked(would_win);
            if would_win && self.stand(is_alone).await.is_none() {
                return;
            }
        }
    }

    /// Whether a majority says that it would vote for this member.
    async fn would_win(&mut self, electorate: &Electorate) -> bool {
        let last = self.raft.data_metrics().borrow_watched().last_log;
        let known = self.leases.vote();
        let leader_id = openraft::vote::RaftLeaderId::new(known.leader_id.term + 1, self.node_id);
        let request = VoteRequest::new(Vote { leader_id, committed: false }, last);
        let mut answers = FuturesUnordered::new();
        for (id, node) in &electorate.nodes {
            if *id == self.node_id || !electorate.quorums.iter().any(|quorum| quorum.contains(id)) {
                continue;
            }
            let mut link = self.transport.new_client(*id, node).await;
            let request = request.clone();
            answers.push(async move {
                let answer = link.would_vote(request, &RPCOption::new(ASKING_MAX)).await;
                (*id, answer.is_ok_and(|response| response.vote_granted))
            });
        }
        let mut votes = BTreeSet::from([self.node_id]);
        let counting = async {
            while let Some((id, granted)) = answers.next().await {
                votes.extend(granted.then_some(id));
                if electorate.is_won(&votes) {
                    return true;
                }
            }
            false
        };
        timeout(ASKING_MAX, counting).await.unwrap_or_default()
    }

    /// Has the core stand, if nothing has come of the leader meanwhile; nothing once the core has ended.
    async fn stand(&self, is_alone: bool) -> Option<()> {
        let Some(undecided) = self.leases.stand(is_alone) else { return Some(()) };
        tracing::info!("standing for election");
        self.raft.trigger().elect(false).await.ok()?;
        // The core takes requests in order: when it has come to this one it has stood.
        let vote = self.raft.with_raft_state(|state| *state.vote_ref()).await.ok()?;
        undecided.decided(&vote, true);
        Some(())
    }
}
