//! Who votes in a group.

use std::collections::BTreeSet;

use crate::types::{Membership, NodeId};

/// Sets of voters, a majority of each of which decides: two while voters change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Electorate(Vec<BTreeSet<NodeId>>);

impl Electorate {
    pub(crate) fn of(membership: &Membership) -> Self {
        Self(membership.get_joint_config().clone())
    }

    pub(crate) fn sets(&self) -> &[BTreeSet<NodeId>] {
        &self.0
    }

    /// Each of them once.
    pub(crate) fn voters(&self) -> BTreeSet<NodeId> {
        self.0.iter().flatten().copied().collect()
    }

    pub(crate) fn has(&self, id: NodeId) -> bool {
        self.0.iter().any(|set| set.contains(&id))
    }

    pub(crate) fn is_alone(&self, own: NodeId) -> bool {
        self.0.iter().all(|set| set.len() == 1 && set.contains(&own))
    }

    /// Whether these are a majority of each set.
    pub(crate) fn is_majority(&self, ids: &BTreeSet<NodeId>) -> bool {
        self.0.iter().all(|set| set.intersection(ids).count() > set.len() / 2)
    }
}

#[cfg(test)]
impl From<&[&[NodeId]]> for Electorate {
    fn from(sets: &[&[NodeId]]) -> Self {
        Self(sets.iter().map(|set| set.iter().copied().collect()).collect())
    }
}
