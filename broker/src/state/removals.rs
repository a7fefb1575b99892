//! What goes together when something is removed. A table that holds nothing of its own: its commands are carried out on
//! others.

use std::sync::Arc;

use raftmq_raft::{FeatureLevel, Table, commands};
use raftmq_store::{StoreError, TopicChange};
use serde::{Deserialize, Serialize};

use super::locks::Locks;
use super::named::NamedCommand;
use super::offsets::Offsets;
use super::topics::Topics;

/// The level from which on topics are removed by [`Removal::Topic`]. Members of earlier releases keep its messages.
pub const REMOVALS_LEVEL: FeatureLevel = 2;

/// Something is removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Removal {
    /// A topic: its settings, its messages, the offsets that were committed for it, and the locks of its queues. One that is
    /// made again begins anew.
    Topic(String),
}

/// Those who hold what is removed.
#[derive(Debug)]
pub struct Removals {
    topics: Arc<Topics>,
    offsets: Arc<Offsets>,
    locks: Arc<Locks>,
}

impl Removals {
    /// From these tables.
    pub fn new(topics: Arc<Topics>, offsets: Arc<Offsets>, locks: Arc<Locks>) -> Self {
        Self { topics, offsets, locks }
    }
}

impl Table for Removals {
    const ID: u8 = 6;
    const NAME: &'static str = "removals";
    const IMAGE_VERSION: u8 = 1;
    const HAS_IMAGE: bool = false;
    type Command = Removal;
    type Outcome = ();
    type Image = ();

    fn level(_: &Removal) -> FeatureLevel {
        REMOVALS_LEVEL
    }

    fn apply(&self, command: Removal) -> Result<(), StoreError> {
        let Removal::Topic(topic) = command;
        self.topics.remove(&topic);
        self.offsets.forget_topic(&topic);
        self.locks.forget_topic(&topic);
        Ok(())
    }

    fn freeze(&self) -> impl FnOnce() + Send + Sync + 'static {
        || ()
    }

    fn restore(&self, (): ()) -> Result<(), StoreError> {
        Ok(())
    }
}

/// What a change means for the messages of topics: *invariant 1*, as queue offsets follow from it. Topics that were deleted
/// before there were removals keep theirs.
pub(super) fn topic_changes(change: &[u8], tell: &mut dyn FnMut(TopicChange<'_>)) {
    for command in commands(change) {
        match command.of::<Topics>() {
            Some(NamedCommand::Put(topic) | NamedCommand::Add { value: topic, .. }) => {
                tell(TopicChange::Made(&topic.name));
            }
            Some(NamedCommand::Delete { .. }) => {}
            None => {
                if let Some(Removal::Topic(topic)) = command.of::<Removals>() {
                    tell(TopicChange::Dropped(&topic));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{GroupCommand, Groups, OffsetCommand, OffsetCommit, State, SubscriptionGroup, Topic};
    use raftmq_raft::Change;

    fn told(change: &Change) -> Vec<(bool, String)> {
        let mut told = Vec::new();
        topic_changes(change.as_bytes(), &mut |change| {
            told.push(match change {
                TopicChange::Made(topic) => (true, topic.to_owned()),
                TopicChange::Dropped(topic) => (false, topic.to_owned()),
            });
        });
        told
    }

    #[test]
    fn of_a_change_it_is_told_in_order_what_it_does_to_topics() {
        let put = |name: &str| NamedCommand::Put(Topic::new(name, 1, 6));
        let add = NamedCommand::Add { value: Topic::new("b", 1, 6), max: 9 };
        let delete = NamedCommand::Delete { name: "a".into() };
        let group = GroupCommand::Put(SubscriptionGroup::new("g"));
        let change = Change::new::<Topics>(&put("a"))
            .and_then(|change| change.and::<Removals>(&Removal::Topic("a".into())))
            .and_then(|change| change.and::<Topics>(&delete))
            .and_then(|change| change.and::<Groups>(&group))
            .and_then(|change| change.and::<Offsets>(&OffsetCommand::ForgetTopic("c".into())))
            .and_then(|change| change.and::<Topics>(&add))
            .unwrap();
        let named = |is_made, name: &str| (is_made, name.to_owned());
        assert_eq!(told(&change), [named(true, "a"), named(false, "a"), named(true, "b")]);
        assert_eq!(change.level(), REMOVALS_LEVEL);
        // Bytes that are no change do nothing.
        let bytes = change.as_bytes();
        for end in 0..bytes.len() {
            topic_changes(&bytes[..end], &mut |_| ());
        }
        topic_changes(&[2, Removals::ID, 9, 0, 0, 0, 77], &mut |change| panic!("{change:?}"));
    }

    #[test]
    fn with_a_topic_goes_what_belongs_to_it() {
        let state = State::default();
        let tables = state.tables();
        let apply = |change: Change| drop(tables.apply(change.as_bytes(), false).unwrap());
        for topic in ["a", "b"] {
            apply(Change::new::<Topics>(&NamedCommand::Put(Topic::new(topic, 1, 6))).unwrap());
            let commits =
                |offset| vec![OffsetCommit { group: "g".into(), topic: topic.into(), queue_id: 0, offset }];
            apply(Change::new::<Offsets>(&OffsetCommand::Commit(commits(5))).unwrap());
            apply(Change::new::<Offsets>(&OffsetCommand::Reset(commits(3))).unwrap());
            let (group, client_id) = (format!("of {topic}"), "c".to_owned());
            let queues = vec![(topic.to_owned(), 0)];
            let locks = crate::state::QueueLocks { group, client_id, queues, now_ms: 9, lease_ms: 60_000 };
            apply(Change::new::<Locks>(&locks).unwrap());
        }
        apply(Change::new::<Removals>(&Removal::Topic("a".into())).unwrap());
        apply(Change::new::<Removals>(&Removal::Topic("never there".into())).unwrap());
        for (topic, is_there) in [("a", false), ("b", true)] {
            assert_eq!(state.topics.has(topic), is_there);
            assert_eq!(state.offsets.get("g", topic, 0).is_some(), is_there);
            assert_eq!(state.offsets.pending_reset("g", topic, 0).is_some(), is_there);
            assert_eq!(state.locks.of_group(&format!("of {topic}")).len(), usize::from(is_there));
        }
        assert_eq!(state.locks.count(), 1);
    }
}
