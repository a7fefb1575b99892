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
use raftmq_store::Store;
use raftmq_world::Mutation;
use tokio::time::{sleep, timeout};

use crate::electorate::Electorate;
use crate::lease::Leases;
use crate::state_machine::Core;
use crate::transport::Transport;
use crate::types::{NodeId, Vote};
use crate::wire::{Candidacy, VoteRequest};

/// How long others may take to say whether they would vote for this member.
const ASKING_MAX: Duration = Duration::from_millis(500);

/// Has this member stand when it is time.
pub(crate) struct Elections {
    pub(crate) raft: Core,
    pub(crate) transport: Transport,
    pub(crate) leases: Arc<Leases>,
    pub(crate) store: Arc<Store>,
    pub(crate) node_id: NodeId,
}

/// Where members were when they became that.
type Nodes = BTreeMap<NodeId, BasicNode>;

/// What the voters have said.
struct Heard {
    /// A majority would vote for this member.
    is_won: bool,
    /// Every voter has answered, or has been replaced, and nobody's log goes further.
    all: bool,
}

impl Elections {
    /// Runs until the Raft core ends.
    pub(crate) async fn run(mut self) {
        let mut server = self.raft.server_metrics();
        loop {
            let (may_stand, electorate, nodes) = {
                let metrics = server.borrow_and_update();
                let membership = metrics.membership_config.membership();
                let electorate = Electorate::of(membership);
                let may_stand = electorate.has(self.node_id) && metrics.state != ServerState::Leader;
                let nodes: Nodes = membership.nodes().map(|(id, node)| (*id, node.clone())).collect();
                (may_stand, electorate, nodes)
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
            let heard_all = if is_alone { Some(false) } else { self.would_win(&electorate, &nodes).await };
            self.leases.has_asked(heard_all.is_some());
            let Some(heard_all) = heard_all else { continue };
            self.transport.says_heard_all(self.next_term(), heard_all);
            if self.stand(is_alone).await.is_none() {
                return;
            }
        }
    }

    fn next_term(&self) -> u64 {
        self.leases.vote().leader_id.term + 1
    }

    /// Whether a majority says that it would vote for this member; whether every node was heard for that.
    ///
    /// Who may have acknowledged what it has lost, this member or one that is asked, goes by its own log only where every
    /// node was heard and nobody's log goes further than this one: whatever was acknowledged and is still there is in it.
    async fn would_win(&mut self, electorate: &Electorate, nodes: &Nodes) -> Option<bool> {
        let in_doubt = self.store.doubt().is_some() && !Mutation::VoteInDoubt.is_on();
        let heard = self.ask(electorate, nodes, false, in_doubt).await;
        if heard.is_won && !in_doubt {
            return Some(false);
        }
        (heard.all && self.ask(electorate, nodes, true, false).await.is_won).then_some(true)
    }

    /// Asks the voters whether they would vote for this member, all of them where `all`, else until a majority would.
    async fn ask(&mut self, electorate: &Electorate, nodes: &Nodes, heard_all: bool, all: bool) -> Heard {
        let last = self.raft.data_metrics().borrow_watched().last_log;
        let leader_id = openraft::vote::RaftLeaderId::new(self.next_term(), self.node_id);
        let request = VoteRequest::new(Vote { leader_id, committed: false }, last);
        let candidacy = Candidacy { request, heard_all };
        let mut answers = FuturesUnordered::new();
        let others: Vec<_> = electorate.voters().into_iter().filter(|id| *id != self.node_id).collect();
        for id in others.iter().copied() {
            let node = nodes.get(&id).cloned().unwrap_or_default();
            let mut link = self.transport.new_client(id, &node).await;
            let candidacy = candidacy.clone();
            answers.push(async move { (id, link.would_vote(candidacy, &RPCOption::new(ASKING_MAX)).await) });
        }
        let (mut votes, mut no_longer) = (BTreeSet::from([self.node_id]), BTreeSet::new());
        let counting = async {
            while let Some((id, answer)) = answers.next().await {
                let Ok(answer) = answer else { continue };
                votes.extend(answer.vote_granted.then_some(id));
                no_longer.extend((answer.last_log_id <= last).then_some(id));
                if electorate.is_majority(&votes) && !all {
                    return;
                }
            }
        };
        // Who has not answered by then is not heard.
        let _ = timeout(ASKING_MAX, counting).await;
        let acquaintances = self.transport.acquaintances();
        let all = others.iter().all(|id| no_longer.contains(id) || acquaintances.is_replaced(*id));
        Heard { is_won: electorate.is_majority(&votes), all }
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
