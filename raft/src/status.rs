//! A member's state, for people and tools.

use openraft::{Instant as _, RaftMetrics};
use raftmq_store::Store;

use crate::api::{GroupStatus, MemberStatus, Role, RoleState};
use crate::clock::Clocks;
use crate::hello::Acquaintances;
use crate::role::NEAR_SILENCE_MAX;
use crate::table::FeatureLevel;
use crate::types::TypeConfig;

/// What a member's state is made of.
pub(crate) struct StatusParts<'a> {
    pub(crate) metrics: &'a RaftMetrics<TypeConfig>,
    pub(crate) role: RoleState,
    pub(crate) store: &'a Store,
    pub(crate) acquaintances: &'a Acquaintances,
    pub(crate) clocks: &'a Clocks,
    pub(crate) stopped: Option<String>,
    pub(crate) level: FeatureLevel,
}

impl StatusParts<'_> {
    pub(crate) fn status(self) -> GroupStatus {
        let Self { metrics, ref role, store, .. } = self;
        let leads = role.role == Role::Leader;
        let ready = self.stopped.is_none() && if leads { role.ready } else { role.leader.is_some() };
        GroupStatus {
            node_id: self.acquaintances.node_id(),
            role: role.role,
            term: metrics.current_term,
            leader_id: role.leader,
            last_index: metrics.last_log_index,
            commit_index: metrics.local_committed.as_ref().map(|id| id.index),
            applied_index: metrics.last_applied.as_ref().map(|id| id.index),
            min_physical_offset: store.min_physical_offset(),
            max_physical_offset: store.max_physical_offset(),
            flushed_physical_offset: store.flushed_physical_offset(),
            dispatched_physical_offset: store.dispatched_physical_offset(),
            feature_level: self.level,
            ready,
            members: self.members(),
            stopped: self.stopped,
        }
    }

    fn members(&self) -> Vec<MemberStatus> {
        let Self { metrics, role, .. } = self;
        let own = self.acquaintances.node_id();
        let membership = metrics.membership_config.membership();
        let voters: Vec<u64> = membership.voter_ids().collect();
        let addresses = self.acquaintances.addresses();
        let last = metrics.last_log_index;
        let of_member = |(id, node): (&u64, &openraft::BasicNode)| {
            let address = addresses.get(id);
            let matched = match (&metrics.replication, *id == own) {
                (Some(_), true) => last,
                (Some(replication), false) => replication.get(id).and_then(|m| m.as_ref().map(|m| m.index)),
                (None, _) => None,
            };
            MemberStatus {
                id: *id,
                raft: node.addr.clone(),
                client: address.map(|a| a.client.clone()),
                admin: address.map(|a| a.admin.clone()),
                reads: address.map(|a| a.reads),
                voter: voters.contains(id),
                role: match role.leader {
                    Some(leader) if leader == *id => Role::Leader,
                    _ if *id == own => role.role,
                    _ if voters.contains(id) => Role::Follower,
                    _ => Role::Learner,
                },
                online: self.online(*id),
                clock_ahead_ms: metrics.heartbeat.as_ref().and(self.clocks.ahead_ms(*id)),
                matched_index: matched,
                lag: metrics
                    .replication
                    .as_ref()
                    .and(last)
                    .map(|l| l + 1 - matched.map_or(0, |m| m + 1).min(l + 1)),
            }
        };
        membership.nodes().map(of_member).collect()
    }

    fn online(&self, member: u64) -> Option<bool> {
        match &self.metrics.heartbeat {
            _ if member == self.acquaintances.node_id() => Some(self.role.role != Role::Stopped),
            Some(heard) => {
                let heard = heard.get(&member).and_then(Option::as_ref);
                Some(heard.is_some_and(|heard| heard.elapsed() < NEAR_SILENCE_MAX))
            }
            None => (self.role.leader == Some(member)).then_some(true),
        }
    }
}
