//! A member's state, for people and tools.

use std::collections::BTreeMap;

use openraft::{Instant as _, RaftMetrics};
use raftmq_store::{EntryId, Store};

use crate::api::{GroupStatus, MemberStatus, Role, RoleState};
use crate::clock::Clocks;
use crate::hello::Acquaintances;
use crate::members::MemberAddress;
use crate::role::NEAR_SILENCE_MAX;
use crate::standing::node_of;
use crate::table::FeatureLevel;
use crate::types::{NodeId, TypeConfig};

/// What a member says that may have acknowledged what it has lost.
fn doubt(until: EntryId) -> String {
    format!(
        "up to entry {} of term {} it may have acknowledged what its disk has lost: it receives the log again, and until then \
         helps to elect only who has that, or once every node was heard",
        until.index, until.term
    )
}

/// What a member's state is made of.
pub(crate) struct StatusParts<'a> {
    pub(crate) metrics: &'a RaftMetrics<TypeConfig>,
    pub(crate) role: RoleState,
    pub(crate) store: &'a Store,
    pub(crate) acquaintances: &'a Acquaintances,
    pub(crate) clocks: &'a Clocks,
    pub(crate) stopped: Option<String>,
    pub(crate) waits: Option<String>,
    pub(crate) level: FeatureLevel,
}

impl StatusParts<'_> {
    pub(crate) fn status(self) -> GroupStatus {
        let Self { metrics, ref role, store, .. } = self;
        let leads = role.role == Role::Leader;
        // Whom its vote names may be long gone.
        let follows = || role.leader.is_some() && self.acquaintances.leader_silence() < NEAR_SILENCE_MAX;
        let ready = self.stopped.is_none() && if leads { role.ready } else { follows() };
        GroupStatus {
            node_id: self.acquaintances.node_id(),
            group_id: self.acquaintances.own().group.map(|group| group.to_string()),
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
            waits: self.waits.or_else(|| self.store.doubt().map(doubt)),
            damaged: store.damage().into_iter().map(|spot| spot.what).collect(),
            mended: store.mended(),
        }
    }

    /// One for each node: a directory that learns the log stands for its node already.
    fn members(&self) -> Vec<MemberStatus> {
        let membership = self.metrics.membership_config.membership();
        // While voters change, both majorities are needed: a new one counts when that is done.
        let sets = membership.get_joint_config();
        let votes = |id: &NodeId| !sets.is_empty() && sets.iter().all(|set| set.contains(id));
        let (mut members, addresses) = (BTreeMap::new(), self.acquaintances.addresses());
        for (id, node) in membership.nodes() {
            let is_new = sets.first().is_none_or(|before| !before.contains(id));
            if is_new || !members.contains_key(&node_of(*id)) {
                let node_id = node_of(*id);
                let address = addresses.get(&node_id).filter(|address| address.directory == *id);
                members.insert(node_id, self.member(*id, address, &node.addr, votes(id)));
            }
        }
        members.into_values().collect()
    }

    /// `address` is what it has said of itself, if it has; `recorded` where it was when it became a member.
    fn member(
        &self,
        id: NodeId,
        address: Option<&MemberAddress>,
        recorded: &str,
        is_voter: bool,
    ) -> MemberStatus {
        let Self { metrics, role, .. } = self;
        let (node, own) = (node_of(id), id == self.acquaintances.id());
        let last = metrics.last_log_index;
        let matched = match (&metrics.replication, own) {
            (Some(_), true) => last,
            (Some(replication), false) => replication.get(&id).and_then(|m| m.as_ref().map(|m| m.index)),
            (None, _) => None,
        };
        MemberStatus {
            id: node,
            directory: format!("{id:016x}"),
            raft: address.map_or_else(|| recorded.to_owned(), |a| a.raft.clone()),
            client: address.map(|a| a.client.clone()),
            admin: address.map(|a| a.admin.clone()),
            reads: address.map(|a| a.reads),
            voter: is_voter,
            role: match role.leader {
                Some(leader) if leader == node && is_voter => Role::Leader,
                _ if own => role.role,
                _ if is_voter => Role::Follower,
                _ => Role::Learner,
            },
            online: self.online(id),
            clock_ahead_ms: metrics.heartbeat.as_ref().and(self.clocks.ahead_ms(node)),
            matched_index: matched,
            lag: metrics
                .replication
                .as_ref()
                .and(last)
                .map(|l| l + 1 - matched.map_or(0, |m| m + 1).min(l + 1)),
        }
    }

    fn online(&self, id: NodeId) -> Option<bool> {
        match &self.metrics.heartbeat {
            _ if id == self.acquaintances.id() => Some(self.role.role != Role::Stopped),
            Some(heard) => {
                let heard = heard.get(&id).and_then(Option::as_ref);
                Some(heard.is_some_and(|heard| heard.elapsed() < NEAR_SILENCE_MAX))
            }
            None => (self.role.leader == Some(node_of(id))).then_some(true),
        }
    }
}
