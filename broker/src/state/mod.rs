//! What a member keeps of its group, message bodies aside: *tables*, which are replicated and change through the log, and
//! *views*, which each member derives from it.
//!
//! To add a table, write its module and put it into [`State::tables`].
//!
//! | table | number | what it holds |
//! |---|---|---|
//! | [`Topics`] | 1 | topics |
//! | [`Groups`] | 2 | subscription groups |
//! | [`Offsets`] | 3 | consumer offsets, and resets that consumers have not been told of |
//! | [`Locks`] | 4 | queue locks |
//! | [`DelayTable`] | 5 | how far delayed messages are delivered |
//! | [`Removals`] | 6 | nothing; it removes what is in several of these |
//!
//! Number 0 is the group's own table of members.
//!
//! To add a view, write a file that implements [`View`](raftmq_store::View) and put it into [`Views::new`]. It may read any
//! property of a record; those that it [names](raftmq_store::View::properties) are found in the one pass that all views
//! share. At the first start with it everything derived is made again from the log.

mod by_queue;
mod delay;
#[cfg(test)]
mod golden;
mod groups;
mod locks;
mod named;
mod offsets;
mod reads;
mod removals;
mod topics;

use std::path::Path;
use std::sync::Arc;

use raftmq_raft::{FeatureLevel, Tables};
use raftmq_store::{
    ConsumeQueues, DEFAULT_UNITS_PER_FILE, Derived, IndexFiles, IndexShape, OpenFiles, TimerIndex,
};

pub use delay::{DelayProgress, DelayTable, Delivered, TimerProgress};
pub use groups::{GroupCommand, GroupSubscription, Groups, RetryPolicy, SubscriptionGroup};
pub use locks::{Locks, LocksImage, QueueLock, QueueLocks};
pub use named::{Added, Changes, Named, NamedCommand, NamedTable};
pub use offsets::{OffsetCommand, OffsetCommit, Offsets, OffsetsImage, PendingReset, ToldReset};
pub use removals::{REMOVALS_LEVEL, Removal, Removals};
pub use topics::{FilterType, Topic, TopicCommand, Topics};

/// The highest level of changes that this release reads. Level 1 has all but [`Removals`], level 2 has these.
pub const FEATURE_LEVEL: FeatureLevel = 2;

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
    /// What removes.
    pub removals: Arc<Removals>,
}

impl Default for State {
    fn default() -> Self {
        let (topics, locks) = (Arc::<Topics>::default(), Arc::<Locks>::default());
        let offsets = Arc::new(Offsets::new(topics.clone()));
        Self {
            removals: Arc::new(Removals::new(topics.clone(), offsets.clone(), locks.clone())),
            topics,
            groups: Arc::default(),
            offsets,
            locks,
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
            .with(self.removals.clone())
    }
}

/// The views of a member's log.
#[derive(Clone, Debug)]
pub struct Views {
    /// All of them, for the store. The ConsumeQueues are read [there](raftmq_store::Store::queue).
    pub derived: Derived,
    /// Messages by key and time.
    pub index: Arc<IndexFiles>,
    /// Messages with a time of their own, by that time.
    pub timers: Arc<TimerIndex>,
}

impl Views {
    /// Those in a data directory. Nothing is read yet.
    pub fn new(files: &Arc<OpenFiles>, dir: &Path) -> Self {
        let queues = ConsumeQueues::new(files.clone(), dir, DEFAULT_UNITS_PER_FILE, reads::TAGS_CODE);
        let mut derived = Derived::new(queues).with_topic_changes(removals::topic_changes);
        let index = IndexFiles::new(files.disk().clone(), dir, IndexShape::default(), reads::KEYS);
        let index = derived.add(index);
        let timers = derived.add(TimerIndex::new(files.clone(), dir, reads::DUE_MS));
        Self { derived, index, timers }
    }
}
