//! The table of consumer offsets, and of the resets that consumers have not been told of.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;
use raftmq_raft::{FIRST_LEVEL, FeatureLevel, Table};
use raftmq_store::StoreError;
use serde::{Deserialize, Serialize};

use super::by_queue::ByQueue;
use super::topics::Topics;

/// One consumer offset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffsetCommit {
    /// The consumer group.
    pub group: String,
    /// The topic.
    pub topic: String,
    /// The queue.
    pub queue_id: u32,
    /// The next queue offset the group will consume.
    pub offset: u64,
}

/// A reset that consumers have been told of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToldReset {
    /// The consumer group.
    pub group: String,
    /// The topic.
    pub topic: String,
    /// The queue.
    pub queue_id: u32,
    /// The reset's number, as [`PendingReset::number`].
    pub number: u64,
}

/// Where a group has to go on in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingReset {
    /// The queue offset.
    pub offset: u64,
    /// Which reset it is: commands that reset are counted, from 1.
    pub number: u64,
}

/// A change of offsets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OffsetCommand {
    /// Sets consumer offsets, later ones over earlier ones.
    Commit(Vec<OffsetCommit>),
    /// Sets consumer offsets, and has each queue's next pull of the group go on from there: what consumers that are
    /// still at work commit for it until then does not count.
    Reset(Vec<OffsetCommit>),
    /// Consumers have been told of resets. A queue that was reset anew in between stays so.
    ClearResets(Vec<ToldReset>),
    /// A topic is gone: so is every offset committed for it.
    ForgetTopic(String),
    /// A group is gone, with every offset that it has committed.
    ForgetGroup(String),
}

/// Every consumer offset.
#[derive(Debug)]
pub struct Offsets {
    topics: Arc<Topics>,
    committed: RwLock<ByQueue<u64>>,
    resets: RwLock<Resets>,
    /// How many resets wait for their pull.
    reset_count: AtomicUsize,
}

/// Resets that no pull has been told of yet.
#[derive(Clone, Debug, Default)]
struct Resets {
    pending: ByQueue<PendingReset>,
    /// How many commands have reset offsets.
    count: u64,
}

/// All of it, sorted by group, topic and queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffsetsImage {
    committed: Vec<OffsetCommit>,
    /// With their numbers.
    resets: Vec<(OffsetCommit, u64)>,
    reset_count: u64,
}

impl Offsets {
    /// None yet. An offset is kept only of a topic that there is.
    pub fn new(topics: Arc<Topics>) -> Self {
        Self {
            topics,
            committed: RwLock::default(),
            resets: RwLock::default(),
            reset_count: AtomicUsize::new(0),
        }
    }

    /// What `group` has committed for a queue.
    pub fn get(&self, group: &str, topic: &str, queue_id: u32) -> Option<u64> {
        self.committed.read().get(group, topic, queue_id).copied()
    }

    /// All that `group` has committed, by topic and queue.
    pub fn of_group(&self, group: &str) -> Vec<OffsetCommit> {
        let committed = self.committed.read();
        let of_group = committed.of_group(group).into_iter();
        of_group.map(|(topic, queue_id, offset)| commit((group, topic, queue_id), *offset)).collect()
    }

    /// Groups that have committed an offset for `topic`.
    pub fn groups_of(&self, topic: &str) -> Vec<String> {
        self.committed.read().groups_with(topic).map(str::to_owned).collect()
    }

    /// How many offsets are committed in all.
    pub fn count(&self) -> usize {
        self.committed.read().len()
    }

    /// Where `group` has to go on in a queue: an operator has reset it, and no pull has been told yet.
    pub fn pending_reset(&self, group: &str, topic: &str, queue_id: u32) -> Option<PendingReset> {
        if self.reset_count.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.resets.read().pending.get(group, topic, queue_id).copied()
    }

    fn commit(&self, commits: &[OffsetCommit]) {
        let mut committed = self.committed.write();
        for commit in commits.iter().filter(|commit| self.is_kept(commit)) {
            if self.pending_reset(&commit.group, &commit.topic, commit.queue_id).is_none() {
                committed.insert(&commit.group, &commit.topic, commit.queue_id, commit.offset);
            }
        }
    }

    /// An offset that was on its way while its topic was deleted would come back with the next topic of that name.
    fn is_kept(&self, commit: &OffsetCommit) -> bool {
        self.topics.has(&commit.topic)
    }

    fn reset(&self, commits: &[OffsetCommit]) {
        self.change_resets(|resets| {
            resets.count += 1;
            // What is set here is not held back by a reset before this one.
            for OffsetCommit { group, topic, queue_id, .. } in commits {
                resets.pending.remove_if(group, topic, *queue_id, |_| true);
            }
        });
        self.commit(commits);
        self.change_resets(|resets| {
            for commit in commits.iter().filter(|commit| self.is_kept(commit)) {
                let reset = PendingReset { offset: commit.offset, number: resets.count };
                resets.pending.insert(&commit.group, &commit.topic, commit.queue_id, reset);
            }
        });
    }

    fn clear_resets(&self, told: &[ToldReset]) {
        self.change_resets(|resets| {
            for ToldReset { group, topic, queue_id, number } in told {
                resets.pending.remove_if(group, topic, *queue_id, |pending| pending.number == *number);
            }
        });
    }

    pub(super) fn forget_topic(&self, topic: &str) {
        self.committed.write().remove_topic(topic);
        self.change_resets(|resets| resets.pending.remove_topic(topic));
    }

    fn change_resets(&self, change: impl FnOnce(&mut Resets)) {
        let mut resets = self.resets.write();
        change(&mut resets);
        self.reset_count.store(resets.pending.len(), Ordering::Release);
    }
}

fn commit((group, topic, queue_id): (&str, &str, u32), offset: u64) -> OffsetCommit {
    OffsetCommit { group: group.to_owned(), topic: topic.to_owned(), queue_id, offset }
}

impl Table for Offsets {
    const ID: u8 = 3;
    const NAME: &'static str = "offsets";
    const IMAGE_VERSION: u8 = 1;
    type Command = OffsetCommand;
    type Outcome = ();
    type Image = OffsetsImage;

    fn level(_: &OffsetCommand) -> FeatureLevel {
        FIRST_LEVEL
    }

    fn apply(&self, command: OffsetCommand) -> Result<(), StoreError> {
        match command {
            OffsetCommand::Commit(commits) => self.commit(&commits),
            OffsetCommand::Reset(resets) => self.reset(&resets),
            OffsetCommand::ClearResets(told) => self.clear_resets(&told),
            OffsetCommand::ForgetTopic(topic) => self.forget_topic(&topic),
            OffsetCommand::ForgetGroup(group) => {
                self.committed.write().remove_group(&group);
                self.change_resets(|resets| resets.pending.remove_group(&group));
            }
        }
        Ok(())
    }

    /// What is returned takes a second where there are a million offsets.
    fn freeze(&self) -> impl FnOnce() -> OffsetsImage + Send + Sync + 'static {
        let (committed, resets) = (self.committed.read().clone(), self.resets.read().clone());
        move || OffsetsImage {
            committed: committed.all().map(|(g, t, q, offset)| commit((g, t, q), *offset)).collect(),
            resets: resets
                .pending
                .all()
                .map(|(g, t, q, r)| (commit((g, t, q), r.offset), r.number))
                .collect(),
            reset_count: resets.count,
        }
    }

    fn restore(&self, image: OffsetsImage) -> Result<(), StoreError> {
        let mut committed = ByQueue::default();
        for OffsetCommit { group, topic, queue_id, offset } in &image.committed {
            committed.insert(group, topic, *queue_id, *offset);
        }
        *self.committed.write() = committed;
        let mut pending = ByQueue::default();
        for (OffsetCommit { group, topic, queue_id, offset }, number) in image.resets {
            pending.insert(&group, &topic, queue_id, PendingReset { offset, number });
        }
        self.change_resets(|resets| *resets = Resets { pending, count: image.reset_count });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::topics::{Topic, TopicCommand};

    fn table() -> Offsets {
        let topics = Arc::<Topics>::default();
        topics.apply(TopicCommand::Put(Topic::new("t", 4, 6))).unwrap();
        Offsets::new(topics)
    }

    fn at(offset: u64) -> Vec<OffsetCommit> {
        vec![commit(("g", "t", 1), offset)]
    }

    fn state(table: &Offsets) -> (Option<u64>, Option<u64>) {
        (table.get("g", "t", 1), table.pending_reset("g", "t", 1).map(|reset| reset.offset))
    }

    #[test]
    fn a_reset_holds_commits_off_until_it_is_told() {
        let table = table();
        let apply = |command| table.apply(command).unwrap();
        let told = |number| {
            let (group, topic) = ("g".to_owned(), "t".to_owned());
            OffsetCommand::ClearResets(vec![ToldReset { group, topic, queue_id: 1, number }])
        };
        apply(OffsetCommand::Commit(at(50)));
        assert_eq!(state(&table), (Some(50), None));
        apply(OffsetCommand::Reset(at(10)));
        apply(OffsetCommand::Commit(at(60)));
        assert_eq!(state(&table), (Some(10), Some(10)));
        apply(OffsetCommand::Reset(at(10)));
        apply(told(1));
        assert_eq!(state(&table), (Some(10), Some(10)), "told of the first only, if to the same offset");
        apply(told(2));
        apply(OffsetCommand::Commit(at(21)));
        assert_eq!(state(&table), (Some(21), None));
        apply(OffsetCommand::Reset(at(5)));
        apply(OffsetCommand::ForgetTopic("t".into()));
        assert_eq!(state(&table), (None, None));
        let restored = self::table();
        restored.restore(table.freeze()()).unwrap();
        restored.apply(OffsetCommand::Reset(at(5))).unwrap();
        let next = restored.pending_reset("g", "t", 1);
        assert_eq!(next, Some(PendingReset { offset: 5, number: 4 }), "numbers are never used again");
    }

    #[test]
    fn nothing_is_kept_of_a_topic_that_there_is_not() {
        let table = table();
        let lost = vec![commit(("g", "gone", 0), 7)];
        table.apply(OffsetCommand::Commit(lost.clone())).unwrap();
        table.apply(OffsetCommand::Reset(lost)).unwrap();
        assert_eq!((table.get("g", "gone", 0), table.pending_reset("g", "gone", 0)), (None, None));
        assert_eq!((table.count(), table.groups_of("gone").len()), (0, 0));
    }

    #[test]
    fn an_image_is_of_its_moment_and_restores_everything() {
        let table = table();
        table.apply(OffsetCommand::Commit(at(1))).unwrap();
        table.apply(OffsetCommand::Reset(vec![commit(("h", "t", 2), 2)])).unwrap();
        let frozen = table.freeze();
        table.apply(OffsetCommand::Reset(at(3))).unwrap();
        table.apply(OffsetCommand::ForgetGroup("h".into())).unwrap();
        assert_eq!((table.get("h", "t", 2), table.pending_reset("h", "t", 2)), (None, None));
        let image = frozen();
        assert_eq!(image.committed, [at(1).remove(0), commit(("h", "t", 2), 2)]);
        assert_eq!((&image.resets[..], image.reset_count), (&[(commit(("h", "t", 2), 2), 1)][..], 1));
        let restored = self::table();
        restored.restore(image.clone()).unwrap();
        assert_eq!(restored.freeze()(), image);
        assert_eq!((state(&restored), restored.count()), ((Some(1), None), 2));
        assert_eq!(restored.pending_reset("h", "t", 2), Some(PendingReset { offset: 2, number: 1 }));
        assert_eq!(restored.of_group("h"), [commit(("h", "t", 2), 2)]);
    }
}
