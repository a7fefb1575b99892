//! A consumer group as the admin API tells of it: its members, what they want, how far they are.

use raftmq_message::topic::{dlq_topic, retry_topic};
use raftmq_world::hash::HashMap;
use serde::Serialize;

use crate::broker::Broker;
use crate::clients::{Clients, Connection};
use crate::limits::REPORTED_QUEUES_MAX;
use crate::state::Topic;

/// A consumer group.
#[derive(Debug, Serialize)]
pub struct GroupReport {
    name: String,
    consume_enable: bool,
    broadcast_enable: bool,
    retry_queues: u32,
    retry_max_times: i32,
    /// The member it prefers to read from; 0 for the leader.
    broker_id: u64,
    /// What its members do; none where nobody is connected here.
    #[serde(skip_serializing_if = "Option::is_none")]
    consumers: Option<Consumers>,
    /// Messages that are not consumed yet, over the queues that are listed.
    lag: u64,
    /// Its queues, in the order of their topics.
    queues: Vec<QueueReport>,
    /// Queues beyond those that are listed.
    queues_omitted: usize,
    /// Messages in its retry topic, its dead letters.
    retry_messages: u64,
    dead_letters: u64,
}

#[derive(Debug, Serialize)]
struct Consumers {
    consume_type: &'static str,
    message_model: &'static str,
    consume_from_where: &'static str,
    members: Vec<MemberReport>,
    subscriptions: Vec<SubscriptionReport>,
    /// Client ids of members that subscribe differently, those together that do the same; none where all agree.
    conflicts: Vec<Vec<String>>,
}

#[derive(Debug, Serialize)]
struct MemberReport {
    client_id: String,
    address: String,
    language: &'static str,
    version: i32,
}

#[derive(Debug, Serialize)]
struct SubscriptionReport {
    topic: String,
    expression_type: String,
    expression: String,
    version: i64,
}

#[derive(Debug, Serialize)]
struct QueueReport {
    topic: String,
    queue_id: u32,
    min_offset: u64,
    max_offset: u64,
    /// None before the first commit.
    committed: Option<u64>,
    lag: u64,
    /// Where the group goes on once it has been told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pending_reset: Option<u64>,
    /// The client that alone may consume it.
    #[serde(skip_serializing_if = "Option::is_none")]
    locked_by: Option<String>,
}

/// Who holds which queue, as topic and queue id.
type Locks = HashMap<(String, u32), String>;

/// Tells of a group; `None` where there is no such group.
pub fn report<C: Connection>(broker: &Broker<C>, name: &str) -> Option<GroupReport> {
    let state = broker.replica.state();
    let group = state.groups.get(name)?;
    let locks = state.locks.of_group(name).into_iter();
    let locks = locks.map(|lock| ((lock.topic, lock.queue_id), lock.client_id)).collect();
    let (mut queues, mut queues_omitted, mut lag) = (Vec::new(), 0, 0);
    for topic in broker.progress.consumed_topics(name) {
        let room = REPORTED_QUEUES_MAX.saturating_sub(queues.len());
        for queue_id in (0..topic.read_queues).take(room) {
            let queue = queue(broker, name, &topic, queue_id, &locks);
            lag += queue.lag;
            queues.push(queue);
        }
        queues_omitted += (topic.read_queues as usize).saturating_sub(room);
    }
    Some(GroupReport {
        name: name.to_owned(),
        consume_enable: group.consume_enable,
        broadcast_enable: group.consume_broadcast_enable,
        retry_queues: group.retry_queues,
        retry_max_times: group.retry_max_times,
        broker_id: group.broker_id,
        consumers: consumers(&broker.clients, name),
        lag,
        queues,
        queues_omitted,
        retry_messages: messages(broker, &retry_topic(name)),
        dead_letters: messages(broker, &dlq_topic(name)),
    })
}

fn consumers<C: Connection>(clients: &Clients<C>, group: &str) -> Option<Consumers> {
    let known = clients.consumer_group(group)?;
    let members = known.clients.into_iter().map(|client| MemberReport {
        client_id: client.id.to_string(),
        address: client.connection.address().to_string(),
        language: client.language,
        version: client.version,
    });
    let subscriptions = known.subscriptions.into_iter().map(|subscription| SubscriptionReport {
        topic: subscription.topic,
        expression_type: subscription.expression_type,
        expression: subscription.expression,
        version: subscription.version,
    });
    Some(Consumers {
        consume_type: known.consumption.kind.name(),
        message_model: known.consumption.model.name(),
        consume_from_where: known.consumption.from_where.name(),
        members: members.collect(),
        subscriptions: subscriptions.collect(),
        conflicts: clients.conflicts(group),
    })
}

fn queue<C: Connection>(
    broker: &Broker<C>,
    group: &str,
    topic: &Topic,
    queue_id: u32,
    locks: &Locks,
) -> QueueReport {
    let state = broker.replica.state();
    let (min_offset, max_offset) = broker.queues.ends(&topic.name, queue_id);
    let committed = broker.offsets.get(group, &topic.name, queue_id);
    QueueReport {
        topic: topic.name.clone(),
        queue_id,
        min_offset,
        max_offset,
        committed,
        lag: max_offset.saturating_sub(committed.unwrap_or(0).max(min_offset)),
        pending_reset: state.offsets.pending_reset(group, &topic.name, queue_id).map(|reset| reset.offset),
        locked_by: locks.get(&(topic.name.clone(), queue_id)).cloned(),
    }
}

/// Messages in a topic, consumed or not.
fn messages<C: Connection>(broker: &Broker<C>, topic: &str) -> u64 {
    let queues = broker.replica.state().topics.get(topic).map_or(0, |topic| topic.queues());
    let ends = (0..queues).map(|queue_id| broker.queues.ends(topic, queue_id));
    ends.map(|(min, max)| max.saturating_sub(min)).sum()
}
