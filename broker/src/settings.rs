//! Making topics and groups: the system's own, those that sends and consumers need, and those that people ask for.

use std::sync::Arc;
use std::time::Duration;

use raftmq_message::topic::{self, dlq_topic, retry_topic};
use raftmq_raft::Change;

use crate::error::{Error, Full};
use crate::limits::Limits;
use crate::names::check_group_name;
use crate::perm;
use crate::replica::Replica;
use crate::state::{
    Added, GroupCommand, Groups, Named, NamedCommand, NamedTable, OffsetCommand, Offsets, REMOVALS_LEVEL,
    Removal, Removals, SubscriptionGroup, Topic, TopicCommand, Topics,
};

const READ_WRITE: u32 = perm::READ | perm::WRITE;
/// Queues of the topic that automatically made topics copy; RocketMQ's default.
pub const AUTO_CREATE_QUEUES: u32 = 8;
/// How long a deletion waits until every member has said that it reads one. A group that is new takes a second or two.
const LEVEL_WAIT: Duration = Duration::from_secs(2);

/// What makes topics and groups, and in which bounds.
pub struct Settings {
    replica: Arc<Replica>,
    cluster: String,
    broker_name: String,
    delay_levels: u32,
    /// Whether a send may make its topic, and a consumer its group.
    auto_create_topic: bool,
    auto_create_group: bool,
    topics_max: usize,
    queues_per_topic_max: u32,
    groups_max: usize,
}

/// A topic that a send names and that does not exist.
#[derive(Clone, Copy, Debug)]
pub struct NamedTopic<'a> {
    /// Its name.
    pub name: &'a str,
    /// The topic in whose image it is made.
    pub default_topic: &'a str,
    /// How many queues the producer wants it to have.
    pub queues: i32,
    /// The producer's group.
    pub producer_group: &'a str,
}

impl Settings {
    /// `cluster` and `broker_name` are also topics' names; `delay_levels` is how many there are.
    pub fn new(
        replica: Arc<Replica>,
        delay_levels: u32,
        (auto_create_topic, auto_create_group): (bool, bool),
        limits: &Limits,
    ) -> Self {
        let config = replica.group().config();
        Self {
            cluster: config.cluster.clone(),
            broker_name: config.broker_name.clone(),
            replica,
            delay_levels,
            auto_create_topic,
            auto_create_group,
            topics_max: limits.topics,
            queues_per_topic_max: limits.queues_per_topic,
            groups_max: limits.groups,
        }
    }

    /// Whether a topic is one that the system has made for itself, or for clients as such.
    pub fn is_of_system(&self, name: &str) -> bool {
        let is_reply_topic = || name.strip_prefix(self.cluster.as_str()) == Some("_REPLY_TOPIC");
        topic::is_system_topic(name) || name == self.cluster || name == self.broker_name || is_reply_topic()
    }

    /// Whether a consumer may make its group.
    pub fn makes_groups(&self) -> bool {
        self.auto_create_group
    }

    /// Makes what a new leader finds missing: the system's topics, and groups of consumers that it has heard of before.
    pub async fn complete(&self, groups: impl IntoIterator<Item = String>) -> Result<(), Error> {
        for topic in system_topics(&self.cluster, &self.broker_name, self.delay_levels) {
            match self.replica.state().topics.get(&topic.name) {
                None => self.add_topic(topic).await?,
                Some(present) if lacks_queues(&present, &topic) => {
                    self.replica.change::<Topics>(&TopicCommand::Put(topic)).await?;
                }
                Some(_) => {}
            }
        }
        for group in groups {
            if let Err(error) = self.create_group(&group).await {
                tracing::debug!(group, %error, "consumer group not made");
            }
        }
        Ok(())
    }

    /// Makes the topic that a send names, if it may.
    pub async fn create_named(&self, named: NamedTopic<'_>) -> Result<(), Error> {
        let NamedTopic { name, default_topic, queues, producer_group } = named;
        let missing = || Error::NoTopic(name.to_owned());
        if !self.auto_create_topic {
            return Err(missing());
        }
        let default_topic = self.replica.state().topics.get(default_topic).ok_or_else(missing)?;
        let topic = inherited(name, &default_topic, queues).ok_or_else(missing)?;
        tracing::info!(topic = name, queues = topic.write_queues, producer_group, "making a topic");
        self.add_if_missing(topic).await
    }

    /// Makes a group, its retry topic, or both.
    pub async fn create_retries(&self, group: &str) -> Result<(), Error> {
        let group = self.create_group(group).await?;
        // Whoever sends there wants it stored, whatever the group says of retries.
        let queues = group.retry_queues.max(1);
        self.add_if_missing(Topic::new(retry_topic(&group.name), queues, READ_WRITE)).await
    }

    /// Makes the topic of a group's dead letters.
    pub async fn create_dead_letters(&self, group: &str) -> Result<(), Error> {
        self.add_if_missing(Topic::new(dlq_topic(group), 1, READ_WRITE)).await
    }

    /// A group's settings, the group and its retry topic made if they are missing and may be. As RocketMQ has it, that is so
    /// for who consumes, gives back or locks; who looks at a group, commits for it or leaves it does not make it.
    pub async fn create_group(&self, name: &str) -> Result<Arc<SubscriptionGroup>, Error> {
        let state = self.replica.state();
        let absent = || Error::NoGroup(name.to_owned());
        let group = match state.groups.get(name) {
            Some(group) => group,
            None => {
                if !self.auto_create_group {
                    return Err(absent());
                }
                // No such group can be, which is what RocketMQ says of it.
                check_group_name(name).map_err(|error| Error::NoSuchGroupCanBe(Box::new(error)))?;
                self.add(SubscriptionGroup::new(name), self.groups_max, Full::Groups).await?;
                state.groups.get(name).ok_or_else(absent)?
            }
        };
        if group.retry_queues > 0 {
            self.add_if_missing(Topic::new(retry_topic(name), group.retry_queues, READ_WRITE)).await?;
        }
        Ok(group)
    }

    /// Creates a group or changes it.
    pub async fn put_group(&self, group: SubscriptionGroup) -> Result<(), Error> {
        self.put(&self.replica.state().groups, group, self.groups_max, Full::Groups).await
    }

    /// Removes a group; with its offsets where that is wanted. For one term alone.
    pub async fn delete_group(&self, term: u64, name: &str, with_offsets: bool) -> Result<(), Error> {
        let mut change = Change::new::<Groups>(&GroupCommand::Delete { name: name.to_owned() })?;
        if with_offsets {
            change = change.and::<Offsets>(&OffsetCommand::ForgetGroup(name.to_owned()))?;
        }
        self.replica.propose_in(term, change).await.map(drop)
    }

    /// Creates a topic unless it exists.
    async fn add_if_missing(&self, topic: Topic) -> Result<(), Error> {
        if self.replica.state().topics.has(&topic.name) { Ok(()) } else { self.add_topic(topic).await }
    }

    /// Creates a topic or changes it.
    pub async fn put_topic(&self, topic: Topic) -> Result<(), Error> {
        self.check_queues(&topic)?;
        self.put(&self.replica.state().topics, topic, self.topics_max, Full::Topics).await
    }

    /// Creates a topic unless it exists.
    async fn add_topic(&self, topic: Topic) -> Result<(), Error> {
        self.check_queues(&topic)?;
        self.add(topic, self.topics_max, Full::Topics).await
    }

    /// Creates one of `table` or changes it. Where there may be no more than `max`, a new one is refused as `full`.
    async fn put<T: Named + PartialEq>(
        &self,
        table: &NamedTable<T>,
        value: T,
        max: usize,
        full: fn(usize) -> Full,
    ) -> Result<(), Error> {
        if !table.has(value.name()) {
            self.add(value.clone(), max, full).await?;
            // Somebody else's may have been the first of that name.
            if table.get(value.name()).as_deref() == Some(&value) {
                return Ok(());
            }
        }
        self.replica.change::<NamedTable<T>>(&NamedCommand::Put(value)).await.map(drop)
    }

    /// Creates one unless it exists. Any number may be on their way at a time.
    async fn add<T: Named>(&self, value: T, max: usize, full: fn(usize) -> Full) -> Result<(), Error> {
        let command = NamedCommand::Add { value, max: u32::try_from(max).unwrap_or(u32::MAX) };
        match self.replica.change::<NamedTable<T>>(&command).await? {
            Added::Full => Err(full(max).into()),
            Added::Done => Ok(()),
        }
    }

    fn check_queues(&self, topic: &Topic) -> Result<(), Error> {
        let (queues, max) = (topic.queues(), self.queues_per_topic_max);
        if queues > max { Err(Error::TooManyQueues { queues, max }) } else { Ok(()) }
    }

    /// Removes a topic with its messages and what consumers have noted of it; it need not exist.
    ///
    /// While members of an earlier release have a part in the group its messages stay, and a topic of that name has them again.
    pub async fn delete_topic(&self, term: u64, name: &str) -> Result<(), Error> {
        let change = if self.reads_removals().await {
            Change::new::<Removals>(&Removal::Topic(name.to_owned()))?
        } else {
            Change::new::<Topics>(&TopicCommand::Delete { name: name.to_owned() })?
                .and::<Offsets>(&OffsetCommand::ForgetTopic(name.to_owned()))?
        };
        self.replica.propose_in(term, change).await.map(drop)
    }

    /// Whether every member reads a removal.
    async fn reads_removals(&self) -> bool {
        const LOOK: Duration = Duration::from_millis(20);
        let reads = || self.replica.group().feature_level() >= REMOVALS_LEVEL;
        let reached = async {
            while !reads() {
                tokio::time::sleep(LOOK).await;
            }
        };
        // Where it takes longer some member is of an earlier release.
        let _ = tokio::time::timeout(LEVEL_WAIT, reached).await;
        reads()
    }
}

/// The topics that every broker has, as RocketMQ 4.9 makes them, and the timers' of 5.x.
fn system_topics(cluster: &str, broker_name: &str, delay_levels: u32) -> Vec<Topic> {
    let plain = [
        (topic::SELF_TEST_TOPIC, 1),
        (topic::BENCHMARK_TOPIC, 16),
        (topic::OFFSET_MOVED_TOPIC, 1),
        (topic::SCHEDULE_TOPIC, delay_levels),
        (topic::TIMER_TOPIC, 1),
        (topic::TRACE_TOPIC, 1),
        (topic::TRANS_HALF_TOPIC, 1),
        (topic::TRANS_OP_HALF_TOPIC, 1),
        (topic::TRANS_CHECK_MAX_TIME_TOPIC, 1),
    ];
    let mut topics: Vec<_> =
        plain.into_iter().map(|(name, queues)| Topic::new(name, queues, READ_WRITE)).collect();
    topics.push(Topic::new(topic::AUTO_CREATE_TOPIC, AUTO_CREATE_QUEUES, READ_WRITE | perm::INHERIT));
    topics.push(Topic::new(cluster, 16, READ_WRITE | perm::INHERIT));
    topics.push(Topic::new(broker_name, 1, READ_WRITE | perm::INHERIT));
    topics.push(Topic::new(format!("{cluster}_REPLY_TOPIC"), 1, READ_WRITE));
    topics
}

/// Whether a topic is the system's and has fewer queues than it should: there may be more delay levels than there were.
fn lacks_queues(present: &Topic, wanted: &Topic) -> bool {
    let has_fewer = present.read_queues < wanted.read_queues || present.write_queues < wanted.write_queues;
    topic::is_system_topic(&wanted.name) && has_fewer
}

/// The topic that is made in another's image, with no more queues than that.
fn inherited(name: &str, default_topic: &Topic, wanted_queues: i32) -> Option<Topic> {
    let queues = u32::try_from(wanted_queues).unwrap_or(0).clamp(1, default_topic.write_queues.max(1));
    (default_topic.perm & perm::INHERIT != 0)
        .then(|| Topic::new(name, queues, default_topic.perm & !perm::INHERIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_inherits_permission_and_at_most_as_many_queues() {
        let system = system_topics("C", "b", 18);
        let default_topic = system.iter().find(|topic| topic.name == "TBW102").unwrap();
        for (wanted, queues) in [(4, 4), (16, 8), (0, 1), (-3, 1)] {
            let topic = inherited("t", default_topic, wanted).unwrap();
            assert_eq!((topic.write_queues, topic.read_queues, topic.perm), (queues, queues, READ_WRITE));
        }
        assert_eq!(inherited("t", &Topic::new("plain", 4, READ_WRITE), 4), None);
    }

    #[test]
    fn system_topics_are_valid_and_there_once() {
        let topics = system_topics("DefaultCluster", "broker-a", 18);
        let names: std::collections::BTreeSet<_> = topics.iter().map(|topic| topic.name.as_str()).collect();
        assert_eq!(names.len(), topics.len());
        for name in ["DefaultCluster", "broker-a", "DefaultCluster_REPLY_TOPIC", "SCHEDULE_TOPIC_XXXX"] {
            assert!(names.contains(name), "{name}");
        }
        assert!(names.iter().all(|name| topic::validate_topic(name).is_ok()));
    }

    #[test]
    fn a_system_topic_gets_the_queues_it_lacks() {
        let schedule = |queues| Topic::new(topic::SCHEDULE_TOPIC, queues, READ_WRITE);
        for (present, wanted, lacks) in [(18, 18, false), (18, 20, true), (18, 5, false)] {
            assert_eq!(lacks_queues(&schedule(present), &schedule(wanted)), lacks, "{present} {wanted}");
        }
        let cluster = |queues| Topic::new("DefaultCluster", queues, READ_WRITE);
        assert!(!lacks_queues(&cluster(4), &cluster(16)), "operators may change it");
    }
}
