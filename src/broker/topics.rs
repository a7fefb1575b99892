//! Making topics and groups: the system's own, those that sends and consumers need, and those that people ask for.
//!
//! A change goes through the log and is then registered at the name servers before anybody is told of it, so that a
//! route that a client asks for next is there.

use std::sync::Arc;

use raftmq_broker::state::{
    Added, GroupCommand, Groups, OffsetCommand, Offsets, SubscriptionGroup, Topic, TopicCommand, Topics,
};
use raftmq_message::topic::{self, GROUP_NAME_LEN_MAX, dlq_topic, retry_topic, validate_group};
use raftmq_remoting::Command as Request;
use raftmq_remoting::body::perm;
use raftmq_remoting::codes::response;
use raftmq_remoting::header::SendHeader;

use super::BrokerConfig;
use super::node::{Node, change};
use super::reply::Refusal;
use super::send::Missing;

const READ_WRITE: u32 = (perm::READ | perm::WRITE) as u32;
const INHERIT: u32 = perm::INHERIT as u32;
/// Queues of the topic that automatically made topics copy; RocketMQ's default.
pub(crate) const AUTO_CREATE_QUEUES: u32 = 8;

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
    topics.push(Topic::new(topic::AUTO_CREATE_TOPIC, AUTO_CREATE_QUEUES, READ_WRITE | INHERIT));
    topics.push(Topic::new(cluster, 16, READ_WRITE | INHERIT));
    topics.push(Topic::new(broker_name, 1, READ_WRITE | INHERIT));
    topics.push(Topic::new(format!("{cluster}_REPLY_TOPIC"), 1, READ_WRITE));
    topics
}

/// Whether a topic is one that the system has made for itself, or for clients as such.
pub(crate) fn is_of_system(config: &BrokerConfig, name: &str) -> bool {
    let BrokerConfig { cluster, broker_name, .. } = config;
    let is_reply_topic = || name.strip_prefix(cluster.as_str()) == Some("_REPLY_TOPIC");
    topic::is_system_topic(name) || name == cluster || name == broker_name || is_reply_topic()
}

/// Makes what a new leader finds missing: the system's topics, and the groups of consumers that it heard of before.
pub(crate) async fn complete(node: &Node) -> Result<(), Refusal> {
    let BrokerConfig { cluster, broker_name, delay_levels, .. } = &node.config;
    for topic in system_topics(cluster, broker_name, delay_levels.len()) {
        match node.state.topics.get(&topic.name) {
            None => add_topic(node, topic).await?,
            Some(present) if lacks_queues(&present, &topic) => {
                node.change::<Topics>(&TopicCommand::Put(topic)).await?;
            }
            Some(_) => {}
        }
    }
    for group in node.clients.consumer_groups() {
        if let Err(refusal) = create_group(node, &group).await {
            tracing::debug!(group, remark = %refusal.remark, "consumer group not made");
        }
    }
    Ok(())
}

/// Whether a topic is the system's and has fewer queues than it should: there may be more delay levels than there were.
fn lacks_queues(present: &Topic, wanted: &Topic) -> bool {
    let has_fewer = present.read_queues < wanted.read_queues || present.write_queues < wanted.write_queues;
    topic::is_system_topic(&wanted.name) && has_fewer
}

/// Makes the topic or the group that a send needs, if it may.
pub(crate) async fn create_for_send(
    node: &Node,
    command: &Request,
    missing: &Missing,
) -> Result<(), Refusal> {
    match missing {
        Missing::Named => create_named(node, &SendHeader::decode(command)?).await,
        Missing::Retry(group) => {
            let group = create_group(node, group).await?;
            // Whoever sends there wants it stored, whatever the group says of retries.
            let queues = group.retry_queues.max(1);
            put_if_missing(node, Topic::new(retry_topic(&group.name), queues, READ_WRITE)).await
        }
        Missing::DeadLetters(group) => {
            put_if_missing(node, Topic::new(dlq_topic(group), 1, READ_WRITE)).await
        }
    }
}

/// Makes the topic that a send names.
async fn create_named(node: &Node, header: &SendHeader<'_>) -> Result<(), Refusal> {
    let name = header.topic.as_ref();
    let missing =
        || Refusal::new(response::TOPIC_NOT_EXIST, format!("topic[{name}] not exist, apply first please!"));
    if !node.config.auto_create_topic {
        return Err(missing());
    }
    let default_topic = node.state.topics.get(&header.default_topic).ok_or_else(missing)?;
    let topic = inherited(name, &default_topic, header.default_topic_queue_nums).ok_or_else(missing)?;
    tracing::info!(topic = name, queues = topic.write_queues, peer_group = %header.producer_group, "making a topic");
    put_if_missing(node, topic).await
}

/// The topic that is made in another's image, with no more queues than that.
fn inherited(name: &str, default_topic: &Topic, wanted_queues: i32) -> Option<Topic> {
    let queues = u32::try_from(wanted_queues).unwrap_or(0).clamp(1, default_topic.write_queues.max(1));
    (default_topic.perm & INHERIT != 0).then(|| Topic::new(name, queues, default_topic.perm & !INHERIT))
}

/// A group's settings, the group and its retry topic made if they are missing and may be. As RocketMQ has it, that is so
/// for who consumes, gives back or locks; who looks at a group, commits for it or leaves it does not make it.
pub(crate) async fn create_group(node: &Node, name: &str) -> Result<Arc<SubscriptionGroup>, Refusal> {
    let state = &node.state;
    let group = match state.groups.get(name) {
        Some(group) => group,
        None => {
            if !node.config.auto_create_group {
                return Err(absent_group(name));
            }
            // No such group can be, which is what RocketMQ says of it.
            check_group_name(name)
                .map_err(|refusal| Refusal { code: response::SUBSCRIPTION_GROUP_NOT_EXIST, ..refusal })?;
            let group = SubscriptionGroup::new(name);
            add_group(node, group).await?;
            state.groups.get(name).ok_or_else(|| absent_group(name))?
        }
    };
    let topic = retry_topic(name);
    if state.topics.get(&topic).is_none() && group.retry_queues > 0 {
        put_if_missing(node, Topic::new(topic, group.retry_queues, READ_WRITE)).await?;
    }
    Ok(group)
}

/// The answer to requests of a group that does not exist and may not be made.
pub(crate) fn absent_group(name: &str) -> Refusal {
    let remark = format!("subscription group [{name}] does not exist");
    Refusal::new(response::SUBSCRIPTION_GROUP_NOT_EXIST, remark)
}

/// Checks a group's name, room for the prefix of its retry topic included.
pub(crate) fn check_group_name(name: &str) -> Result<(), Refusal> {
    validate_group(name).map_err(|error| Refusal::illegal(error.to_string()))?;
    if retry_topic(name).len() > GROUP_NAME_LEN_MAX {
        return Err(Refusal::illegal(format!(
            "the group name of {} bytes is too long for its retry topic",
            name.len()
        )));
    }
    Ok(())
}

/// Creates a group or changes it.
pub(crate) async fn put_group(node: &Node, group: SubscriptionGroup) -> Result<(), Refusal> {
    let state = &node.state;
    if state.groups.get(&group.name).is_none() {
        add_group(node, group.clone()).await?;
        if state.groups.get(&group.name).as_deref() == Some(&group) {
            return Ok(());
        }
    }
    node.change::<Groups>(&GroupCommand::Put(group)).await.map(drop)
}

/// Creates a group unless it exists.
async fn add_group(node: &Node, group: SubscriptionGroup) -> Result<(), Refusal> {
    let max = node.config.limits.groups;
    let command = GroupCommand::Add { group, max: u32::try_from(max).unwrap_or(u32::MAX) };
    match node.change::<Groups>(&command).await? {
        Added::Full => Err(Refusal::busy(format!("there are {max} subscription groups"))),
        Added::Done => Ok(()),
    }
}

/// Creates a topic unless it exists, and lets the name servers know.
async fn put_if_missing(node: &Node, topic: Topic) -> Result<(), Refusal> {
    if node.state.topics.get(&topic.name).is_none() {
        add_topic(node, topic).await?;
    }
    node.registration.wait_for(node.state.topics.version()).await;
    Ok(())
}

/// Creates a topic or changes it, and lets the name servers know.
pub(crate) async fn put(node: &Node, topic: Topic) -> Result<(), Refusal> {
    check_queues(node, &topic)?;
    let state = &node.state;
    let is_new = state.topics.get(&topic.name).is_none();
    if is_new {
        add_topic(node, topic.clone()).await?;
    }
    // Somebody else's may have been the first of that name.
    if !is_new || state.topics.get(&topic.name).as_deref() != Some(&topic) {
        node.change::<Topics>(&TopicCommand::Put(topic)).await?;
    }
    node.registration.wait_for(state.topics.version()).await;
    Ok(())
}

/// Creates a topic unless it exists. Any number of topics may be on their way at a time.
async fn add_topic(node: &Node, topic: Topic) -> Result<(), Refusal> {
    check_queues(node, &topic)?;
    let max = node.config.limits.topics;
    let command = TopicCommand::Add { topic, max: u32::try_from(max).unwrap_or(u32::MAX) };
    match node.change::<Topics>(&command).await? {
        Added::Full => Err(Refusal::busy(format!("there are {max} topics"))),
        Added::Done => Ok(()),
    }
}

fn check_queues(node: &Node, topic: &Topic) -> Result<(), Refusal> {
    let (queues, max) = (topic.queues(), node.config.limits.queues_per_topic);
    if queues > max {
        return Err(Refusal::illegal(format!("a topic has at most {max} queues, not {queues}")));
    }
    Ok(())
}

/// Removes a topic; it need not exist.
pub(crate) async fn delete(node: &Node, name: &str) -> Result<(), Refusal> {
    if node.state.topics.get(name).is_some() {
        let deleted = change::<Topics>(&TopicCommand::Delete { name: name.to_owned() })?;
        let forgotten = deleted.and::<Offsets>(&OffsetCommand::ForgetTopic(name.to_owned()));
        let change = forgotten.map_err(|error| Refusal::error(error.to_string()))?;
        node.propose_in(node.leading()?, change).await?;
        node.registration.wait_for(node.state.topics.version()).await;
    }
    Ok(())
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

    #[test]
    fn a_group_has_to_leave_room_for_its_retry_topic() {
        assert!(check_group_name(&"g".repeat(248)).is_ok());
        assert!(check_group_name(&"g".repeat(249)).is_err());
        assert!(check_group_name("a b").is_err());
    }
}
