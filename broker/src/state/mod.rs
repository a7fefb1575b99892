//! The replicated state of a group: a table for each kind. To add one, write its module and put it into [`State::tables`].
//!
//! | table | number | what it holds |
//! |---|---|---|
//! | [`Topics`] | 1 | topics |
//! | [`Groups`] | 2 | subscription groups |
//! | [`Offsets`] | 3 | consumer offsets, and resets that consumers have not been told of |
//! | [`Locks`] | 4 | queue locks |
//! | [`DelayTable`] | 5 | how far delayed messages are delivered |
//!
//! Number 0 is the group's own table of members.

mod by_queue;
mod delay;
#[cfg(test)]
mod golden;
mod groups;
mod locks;
mod named;
mod offsets;
mod topics;

use std::sync::Arc;

use raftmq_raft::{FeatureLevel, Tables};

pub use delay::{DelayProgress, DelayTable, Delivered, TimerProgress};
pub use groups::{GroupCommand, GroupSubscription, Groups, RetryPolicy, SubscriptionGroup};
pub use locks::{Locks, LocksImage, QueueLock, QueueLocks};
pub use named::Added;
pub use offsets::{OffsetCommand, OffsetCommit, Offsets, OffsetsImage, PendingReset, ToldReset};
pub use topics::{FilterType, Topic, TopicCommand, Topics};

/// The highest level of changes that this release reads. Level 1 has all that there is.
pub const FEATURE_LEVEL: FeatureLevel = 1;

/// Every table. Clones are handles to the same.
#[derive(Clone, Debug)]
pub struct State {
    /// Topics.
    pub topics: Arc<Topics>,
    /// Subscription groups.
    pub groups: Arc<Groups>,
    /// Consumer offsets.
    pub offsets: Arc<Offsets>,
    /// Queue locks.
    pub locks: Arc<Locks>,
    /// Delayed messages.
    pub delay: Arc<DelayTable>,
}

impl Default for State {
    fn default() -> Self {
        let topics = Arc::<Topics>::default();
        Self {
            offsets: Arc::new(Offsets::new(topics.clone())),
            topics,
            groups: Arc::default(),
            locks: Arc::default(),
            delay: Arc::default(),
        }
    }
}

impl State {
    /// The tables, for the group to change.
    pub fn tables(&self) -> Tables {
        Tables::new(FEATURE_LEVEL)
            .with(self.topics.clone())
            .with(self.groups.clone())
            .with(self.offsets.clone())
            .with(self.locks.clone())
            .with(self.delay.clone())
    }
}
