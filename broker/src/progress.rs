//! How far consumer groups are.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::clients::{Clients, Connection};
use crate::offsets::PendingOffsets;
use crate::queues::Queues;
use crate::replica::Replica;
use crate::state::Topic;

/// Tells how far groups are.
pub struct Progress<C: Connection> {
    replica: Arc<Replica>,
    queues: Arc<Queues>,
    offsets: Arc<PendingOffsets>,
    clients: Arc<Clients<C>>,
}

/// How far a group is in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueProgress {
    /// The queue's end.
    pub max_offset: u64,
    /// What the group has committed; 0 before the first commit.
    pub committed: u64,
    /// When the last message that it has consumed was stored, in ms since the epoch.
    pub consumed_stored_ms: Option<i64>,
}

impl QueueProgress {
    /// Messages that are not consumed yet.
    pub fn lag(&self) -> u64 {
        self.max_offset.saturating_sub(self.committed)
    }
}

/// The same in time, in ms since the epoch; `None` where there is no such message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSpan {
    /// When the queue's first message was stored.
    pub first_ms: Option<i64>,
    /// When its last one was.
    pub last_ms: Option<i64>,
    /// When the last one that the group has consumed was; before the first commit, as the first.
    pub consumed_ms: Option<i64>,
    /// When the next one for the group was.
    pub next_ms: Option<i64>,
}

impl<C: Connection> Progress<C> {
    /// Of the groups of a member.
    pub fn new(
        replica: Arc<Replica>,
        queues: Arc<Queues>,
        offsets: Arc<PendingOffsets>,
        clients: Arc<Clients<C>>,
    ) -> Self {
        Self { replica, queues, offsets, clients }
    }

    /// Topics that a group has committed offsets for.
    pub fn committed_topics(&self, group: &str) -> BTreeSet<String> {
        let commits = self.replica.state().offsets.of_group(group);
        commits.into_iter().map(|commit| commit.topic).collect()
    }

    /// What a group consumes: what its members subscribe to, its retry topic with that; where none is connected, what it
    /// has committed offsets for.
    pub fn consumed_topics(&self, group: &str) -> Vec<Arc<Topic>> {
        let subscribed: BTreeSet<String> = self.clients.subscribed_topics(group).into_iter().collect();
        let names = if subscribed.is_empty() { self.committed_topics(group) } else { subscribed };
        names.iter().filter_map(|name| self.replica.state().topics.get(name)).collect()
    }

    /// How far a group is in a queue.
    pub fn of_queue(&self, group: &str, topic: &str, queue_id: u32) -> QueueProgress {
        let committed = self.offsets.get(group, topic, queue_id).unwrap_or(0);
        let last = committed.checked_sub(1);
        QueueProgress {
            max_offset: self.queues.ends(topic, queue_id).1,
            committed,
            consumed_stored_ms: last.and_then(|last| self.queues.stored_at(topic, queue_id, last)),
        }
    }

    /// How far it is in time.
    pub fn span(&self, group: &str, topic: &str, queue_id: u32) -> QueueSpan {
        let stored_at = |offset| self.queues.stored_at(topic, queue_id, offset);
        let (min, max) = self.queues.ends(topic, queue_id);
        let committed = self.offsets.get(group, topic, queue_id).unwrap_or(0);
        let first_ms = stored_at(min);
        QueueSpan {
            first_ms,
            last_ms: max.checked_sub(1).and_then(stored_at),
            consumed_ms: committed.checked_sub(1).map_or(first_ms, stored_at),
            next_ms: if committed < max { stored_at(committed.max(min)) } else { None },
        }
    }
}
