//! Requests that tools make to look into groups: who is connected, who consumes what, and how far each group is.

use std::collections::BTreeSet;
use std::sync::Arc;

use raftmq_broker::state::Topic;
use raftmq_remoting::Command;
use raftmq_remoting::body::{
    ConsumeStats, ConsumeStatsList, ConsumeTimeSpan, GroupList, OffsetWrapper, ProducerConnection,
    ProducerInfo, ProducerTable, QuerySubscription, QueueMap, QueueTimeSpan, TopicList,
};
use raftmq_remoting::codes::response;
use raftmq_remoting::header::{
    BrokerConsumeStatsHeader, ConsumeStatsHeader, ConsumerGroupHeader, GroupConfigHeader, GroupTopicHeader,
    ProducerGroupHeader, QuerySubscriptionHeader, TopicHeader,
};

use crate::described::{self, connection_of, subscription_data};
use crate::limits::{REPORTED_PRODUCERS_MAX, REPORTED_QUEUES_MAX};
use crate::node::Node;
use crate::reply::{Handled, Refusal, body, json};

/// 203: the members of a consumer group and what they subscribe to.
pub(crate) fn consumer_connection(node: &Node, command: &Command) -> Handled {
    let group = ConsumerGroupHeader::decode(command)?.consumer_group;
    match node.broker.clients.consumer_group(&group) {
        Some(known) => json(&described::consumer_connection(known)),
        None => {
            let remark = format!("the consumer group[{group}] not online");
            Err(Refusal::new(response::CONSUMER_NOT_ONLINE, remark))
        }
    }
}

/// 204: the members of a producer group.
pub(crate) fn producer_connection(node: &Node, command: &Command) -> Handled {
    let group = ProducerGroupHeader::decode(command)?.producer_group;
    match node.broker.clients.producer_group(&group) {
        Some(clients) => {
            json(&ProducerConnection { connection_set: clients.iter().map(connection_of).collect() })
        }
        None => Err(Refusal::error(format!("the producer group[{group}] not exist"))),
    }
}

/// 328: the producers by group.
pub(crate) async fn all_producers(node: &Arc<Node>) -> Handled {
    let count = node.broker.clients.producer_count();
    if count > REPORTED_PRODUCERS_MAX {
        let remark =
            format!("{count} producers, at most {REPORTED_PRODUCERS_MAX}: ask for one group at a time");
        return Err(Refusal::error(remark));
    }
    node.report(producer_table).await
}

fn producer_table(node: &Node) -> Handled {
    let boot_ms = node.boot_timestamp_ms;
    let mut table = ProducerTable::default();
    for (group, client, heard_ms) in node.broker.clients.producers() {
        table.data.entry(group).or_default().push(ProducerInfo {
            client_id: client.id.to_string(),
            language: client.language.to_owned(),
            last_update_timestamp: boot_ms.saturating_add(i64::try_from(heard_ms).unwrap_or(i64::MAX)),
            remote_ip: format!("/{}", client.connection.peer),
            version: client.version,
        });
    }
    json(&table)
}

/// 300: the groups that consume a topic, or did.
pub(crate) fn groups_of_topic(node: &Node, command: &Command) -> Handled {
    let topic = TopicHeader::decode(command)?.topic;
    let mut groups: BTreeSet<String> = node.broker.clients.groups_subscribing(&topic).into_iter().collect();
    groups.extend(node.state.offsets.groups_of(&topic));
    json(&GroupList { group_list: groups.into_iter().collect() })
}

/// 343: the topics that a group has consumed.
pub(crate) fn topics_of_group(node: &Node, command: &Command) -> Handled {
    let group = GroupConfigHeader::decode(command)?.group;
    json(&TopicList {
        topic_list: node.broker.progress.committed_topics(&group).into_iter().collect(),
        ..TopicList::default()
    })
}

/// 345: what a group wants of a topic.
pub(crate) fn subscription(node: &Node, command: &Command) -> Handled {
    let QuerySubscriptionHeader { group, topic } = QuerySubscriptionHeader::decode(command)?;
    let topic = topic.unwrap_or_default();
    let subscription_data = node.broker.clients.subscription(&group, &topic).map(subscription_data);
    json(&QuerySubscription { group, topic, subscription_data })
}

/// 208: how far a consumer group is.
pub(crate) async fn consume_stats(node: &Arc<Node>, command: &Command) -> Handled {
    node.replica.settle().await;
    node.leading()?;
    let header = ConsumeStatsHeader::decode(command)?;
    node.report(move |node| stats_of_group(node, &header)).await
}

fn stats_of_group(node: &Node, header: &ConsumeStatsHeader) -> Handled {
    let mut stats = ConsumeStats::default();
    for topic in wanted_topics(node, header) {
        check_length(stats.offset_table.len(), &topic)?;
        stats.offset_table.append(&mut progress_in(node, &header.consumer_group, &topic));
    }
    // Rates are measured for the broker as a whole.
    body(stats.to_json())
}

/// Of which topics a group's progress is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Wanted<'a> {
    /// Those that the group consumes.
    Consumed,
    /// This one, where the group subscribes to it, or to none.
    One(&'a str),
    /// These, whether it consumes them or not.
    Listed(BTreeSet<&'a str>),
}

/// As RocketMQ reads it, the list goes before the single topic, and blanks are no names.
fn wanted(header: &ConsumeStatsHeader) -> Wanted<'_> {
    let is_name = |name: &&str| !name.trim().is_empty();
    let list = header.topic_list.as_deref().unwrap_or_default();
    let listed: BTreeSet<_> = list.split(';').filter(is_name).collect();
    match header.topic.as_deref().filter(is_name) {
        _ if !listed.is_empty() => Wanted::Listed(listed),
        Some(topic) => Wanted::One(topic),
        None => Wanted::Consumed,
    }
}

fn wanted_topics(node: &Node, header: &ConsumeStatsHeader) -> Vec<Arc<Topic>> {
    let topic = |name: &str| node.state.topics.get(name);
    match wanted(header) {
        Wanted::Consumed => node.broker.progress.consumed_topics(&header.consumer_group),
        Wanted::One(name) => {
            let subscribed = node.broker.clients.subscribed_topics(&header.consumer_group);
            let is_consumed = subscribed.is_empty() || subscribed.iter().any(|topic| topic == name);
            topic(name).filter(|_| is_consumed).into_iter().collect()
        }
        Wanted::Listed(names) => names.into_iter().filter_map(topic).collect(),
    }
}

/// 317: how far every group is in every topic.
pub(crate) async fn broker_consume_stats(node: &Arc<Node>, command: &Command) -> Handled {
    node.replica.settle().await;
    node.leading()?;
    let header = BrokerConsumeStatsHeader::decode(command)?;
    node.report(move |node| stats_of_groups(node, &header)).await
}

fn stats_of_groups(node: &Node, header: &BrokerConsumeStatsHeader) -> Handled {
    let mut list =
        ConsumeStatsList { broker_addr: node.config.advertise.to_string(), ..ConsumeStatsList::default() };
    let mut queues = 0;
    for group in node.state.groups.all() {
        let mut of_group = Vec::new();
        for topic in node
            .broker
            .progress
            .consumed_topics(&group.name)
            .iter()
            .filter(|topic| topic.order || !header.is_order)
        {
            check_length(queues, topic)?;
            let offset_table = progress_in(node, &group.name, topic);
            queues += offset_table.len();
            list.total_diff += offset_table.values().map(lag).sum::<i64>();
            of_group.push(ConsumeStats { consume_tps: 0.0, offset_table });
        }
        list.groups.push((group.name.clone(), of_group));
    }
    body(list.to_json())
}

/// Whether there is room for a topic's queues beside so many others.
fn check_length(queues: usize, topic: &Topic) -> Result<(), Refusal> {
    if queues + topic.read_queues as usize > REPORTED_QUEUES_MAX {
        let remark =
            format!("more than {REPORTED_QUEUES_MAX} queues: ask for one group or one topic at a time");
        return Err(Refusal::error(remark));
    }
    Ok(())
}

/// How far a group is in each queue of a topic.
fn progress_in(node: &Node, group: &str, topic: &Topic) -> QueueMap<OffsetWrapper> {
    (0..topic.read_queues)
        .map(|id| (node.message_queue(&topic.name, id), progress(node, group, &topic.name, id)))
        .collect()
}

fn progress(node: &Node, group: &str, topic: &str, queue_id: u32) -> OffsetWrapper {
    let progress = node.broker.progress.of_queue(group, topic, queue_id);
    OffsetWrapper {
        broker_offset: progress.max_offset as i64,
        consumer_offset: progress.committed as i64,
        pull_offset: progress.committed as i64,
        last_timestamp: progress.consumed_stored_ms.unwrap_or(0),
    }
}

/// Messages that are not consumed yet.
fn lag(progress: &OffsetWrapper) -> i64 {
    progress.broker_offset.saturating_sub(progress.consumer_offset).max(0)
}

/// 303: how far behind a group is in a topic, in time.
pub(crate) async fn consume_time_span(node: &Arc<Node>, command: &Command) -> Handled {
    node.replica.settle().await;
    node.leading()?;
    let header = GroupTopicHeader::decode(command)?;
    let missing = || Refusal::new(response::TOPIC_NOT_EXIST, format!("topic[{}] not exist", header.topic));
    let topic = node.state.topics.get(&header.topic).ok_or_else(missing)?;
    node.report(move |node| {
        let spans = (0..topic.read_queues).map(|id| time_span(node, &header.group, &topic.name, id));
        json(&ConsumeTimeSpan { consume_time_span_set: spans.collect() })
    })
    .await
}

fn time_span(node: &Node, group: &str, topic: &str, queue_id: u32) -> QueueTimeSpan {
    let span = node.broker.progress.span(group, topic, queue_id);
    // -1 where there is no such message, as RocketMQ has it.
    QueueTimeSpan {
        message_queue: node.message_queue(topic, queue_id),
        min_time_stamp: span.first_ms.unwrap_or(-1),
        max_time_stamp: span.last_ms.unwrap_or(-1),
        consume_time_stamp: span.consumed_ms.unwrap_or(-1),
        delay_time: span.next_ms.map_or(0, |next_ms| (node.process.wall_ms() - next_ms).max(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_room_for_so_many_queues() {
        let topic = Topic::new("t", 1024, 6);
        assert!(check_length(REPORTED_QUEUES_MAX - 1024, &topic).is_ok());
        let refusal = check_length(REPORTED_QUEUES_MAX - 1023, &topic).unwrap_err();
        assert!(refusal.remark.contains("50000 queues"), "{refusal:?}");
    }

    #[test]
    fn a_list_of_topics_goes_before_a_single_one() {
        let header = |topic: &str, list: &str| ConsumeStatsHeader {
            consumer_group: "g".into(),
            topic: Some(topic.to_owned()),
            topic_list: Some(list.to_owned()),
        };
        assert_eq!(wanted(&header(" ", " ; ")), Wanted::Consumed);
        assert_eq!(wanted(&header("a", "")), Wanted::One("a"));
        assert_eq!(wanted(&header("a", "c;b;")), Wanted::Listed(["b", "c"].into()));
    }
}
