//! Requests that read and change the settings of topics and groups.

use std::collections::BTreeMap;

use raftmq_broker::names::check_group_name;
use raftmq_broker::state::{FilterType, GroupSubscription, RetryPolicy, SubscriptionGroup, Topic};
use raftmq_message::topic::{is_system_topic, validate_topic};
use raftmq_remoting::body::{
    CustomizedRetryPolicy, DataVersion, ExponentialRetryPolicy, GroupRetryPolicy, SimpleSubscriptionData,
    SubscriptionGroupConfig, SubscriptionGroupList, SubscriptionGroupWrapper, TopicConfig, TopicConfigList,
    TopicFilterType,
};
use raftmq_remoting::codes::response;
use raftmq_remoting::header::{CreateTopicHeader, DeleteGroupHeader, GroupConfigHeader, TopicHeader};
use raftmq_remoting::{Command, fastjson};

use crate::attributes;
use crate::described::{topic_config, topic_table};
use crate::node::Node;
use crate::reply::{Handled, Refusal, Reply, json};

/// Bits that a topic's permission can have: priority, read, write, inherit.
const PERM_MAX: i32 = 15;

/// 17: creates a topic or changes its settings.
pub(crate) async fn put_topic(node: &Node, command: &Command) -> Handled {
    let header = CreateTopicHeader::decode(command)?;
    put_topics(node, &[config_from(header)?]).await
}

/// 18: creates topics or changes their settings; none of them where one is refused.
pub(crate) async fn put_topic_list(node: &Node, command: &Command) -> Handled {
    let list: TopicConfigList =
        fastjson::parse(&command.body).map_err(|error| Refusal::error(format!("topic settings: {error}")))?;
    put_topics(node, &list.topic_config_list).await
}

async fn put_topics(node: &Node, configs: &[TopicConfig]) -> Handled {
    let asked = configs.iter().map(|config| {
        let before = node.state.topics.get(&config.topic_name);
        topic_from(config, before.as_deref())
    });
    let topics = asked.collect::<Result<Vec<_>, _>>()?;
    node.announced(async {
        for topic in topics {
            let (read, write) = (topic.read_queues, topic.write_queues);
            tracing::info!(topic = topic.name, read, write, "topic put");
            node.broker.settings.put_topic(topic).await?;
        }
        Ok(())
    })
    .await?;
    Reply::done()
}

/// The settings that 17 brings, with attributes by signed name.
fn config_from(header: CreateTopicHeader) -> Result<TopicConfig, Refusal> {
    Ok(TopicConfig {
        attributes: attributes::parse(header.attributes.as_deref().unwrap_or_default())?,
        order: header.order,
        perm: header.perm,
        read_queue_nums: header.read_queue_nums,
        topic_filter_type: header.topic_filter_type,
        topic_name: header.topic,
        topic_sys_flag: header.topic_sys_flag.unwrap_or(0),
        write_queue_nums: header.write_queue_nums,
    })
}

/// The topic that is asked for, attributes by signed name, in the place of the one before.
fn topic_from(config: &TopicConfig, before: Option<&Topic>) -> Result<Topic, Refusal> {
    let name = &config.topic_name;
    validate_topic(name).map_err(|error| Refusal::illegal(error.to_string()))?;
    if is_system_topic(name) {
        return Err(Refusal::illegal(format!("The topic[{name}] is conflict with system topic.")));
    }
    let count = |what: &str, count: i32| {
        u32::try_from(count)
            .ok()
            .filter(|count| *count > 0)
            .ok_or_else(|| Refusal::illegal(format!("{what} of topic[{name}] is {count}, must be above 0")))
    };
    if !(0..=PERM_MAX).contains(&config.perm) {
        return Err(Refusal::illegal(format!("perm {} is not a permission", config.perm)));
    }
    let before = before.map(|topic| &topic.attributes);
    Ok(Topic {
        name: name.clone(),
        read_queues: count("readQueueNums", config.read_queue_nums)?,
        write_queues: count("writeQueueNums", config.write_queue_nums)?,
        perm: config.perm as u32,
        sys_flag: config.topic_sys_flag.cast_unsigned(),
        order: config.order,
        filter_type: match config.topic_filter_type {
            TopicFilterType::SingleTag => FilterType::SingleTag,
            TopicFilterType::MultiTag => FilterType::MultiTag,
        },
        attributes: attributes::alter(attributes::OF_TOPICS, before, &config.attributes)?,
    })
}

/// 215: removes a topic. One that does not exist is a success, one that cannot exist too.
///
/// Tools of 5.x ask every member, in no certain order, and stop at the first error: so a follower passes it on.
pub(crate) async fn delete_topic(node: &Node, command: &Command) -> Handled {
    let topic = TopicHeader::decode(command)?.topic;
    if topic.trim().is_empty() {
        return Err(Refusal::illegal("The specified topic is blank."));
    }
    if is_system_topic(&topic) {
        return Err(Refusal::illegal(format!("The topic[{topic}] is conflict with system topic.")));
    }
    let term = node.leading()?;
    if node.state.topics.has(&topic) {
        tracing::info!(topic, "topic deleted");
        let deletion = async {
            // As with a group: nothing that is noted until it is gone is committed for the next one of its name.
            let _no_round = node.broker.offsets.between_rounds().await;
            node.broker.offsets.discard_topic(&topic);
            let outcome = node.broker.settings.delete_topic(term, &topic).await;
            node.broker.offsets.discard_topic(&topic);
            outcome
        };
        node.announced(deletion).await?;
    }
    Reply::done()
}

/// 21: every topic's settings.
pub(crate) fn get_all_topics(node: &Node) -> Handled {
    let version = node.data_version();
    json(&topic_table(&node.state.topics.all(), version))
}

/// 351: a topic's settings.
pub(crate) fn get_topic(node: &Node, command: &Command) -> Handled {
    let name = TopicHeader::decode(command)?.topic;
    let topic = node.state.topics.get(&name).ok_or_else(|| {
        Refusal::new(response::TOPIC_NOT_EXIST, format!("No topic in this broker. topic: {name}"))
    })?;
    json(&topic_config(&topic))
}

/// 200: creates a group or changes its settings.
pub(crate) async fn put_group(node: &Node, command: &Command) -> Handled {
    let config: SubscriptionGroupConfig =
        fastjson::parse(&command.body).map_err(|error| Refusal::error(format!("group settings: {error}")))?;
    put_groups(node, &[config]).await
}

/// 225: creates groups or changes their settings; none of them where one is refused.
pub(crate) async fn put_group_list(node: &Node, command: &Command) -> Handled {
    let list: SubscriptionGroupList =
        fastjson::parse(&command.body).map_err(|error| Refusal::error(format!("group settings: {error}")))?;
    put_groups(node, &list.group_config_list).await
}

async fn put_groups(node: &Node, configs: &[SubscriptionGroupConfig]) -> Handled {
    let queues_max = node.process.limits.group.queues_per_topic;
    let groups: Vec<_> = configs
        .iter()
        .map(|config| {
            let before = node.state.groups.get(&config.group_name);
            group_from(config, before.as_deref(), queues_max)
        })
        .collect::<Result<_, _>>()?;
    for group in groups {
        tracing::info!(group = group.name, "subscription group put");
        node.broker.settings.put_group(group).await?;
    }
    Reply::done()
}

/// The group that is asked for, attributes by signed name, in the place of the one before.
fn group_from(
    config: &SubscriptionGroupConfig,
    before: Option<&SubscriptionGroup>,
    queues_max: u32,
) -> Result<SubscriptionGroup, Refusal> {
    let name = &config.group_name;
    check_group_name(name)?;
    let negative = |what: &str| Refusal::illegal(format!("{what} of group[{name}] is below 0"));
    let before = before.map(|group| &group.attributes);
    let retry_queues = u32::try_from(config.retry_queue_nums).map_err(|_| negative("retryQueueNums"))?;
    if retry_queues > queues_max {
        let remark = format!("retryQueueNums of group[{name}] is {retry_queues}, at most {queues_max}");
        return Err(Refusal::illegal(remark));
    }
    Ok(SubscriptionGroup {
        name: name.clone(),
        consume_enable: config.consume_enable,
        consume_from_min_enable: config.consume_from_min_enable,
        consume_broadcast_enable: config.consume_broadcast_enable,
        retry_queues,
        retry_max_times: config.retry_max_times,
        broker_id: u64::try_from(config.broker_id).map_err(|_| negative("brokerId"))?,
        which_broker_when_consume_slowly: u64::try_from(config.which_broker_when_consume_slowly)
            .map_err(|_| negative("whichBrokerWhenConsumeSlowly"))?,
        notify_consumer_ids_changed: config.notify_consumer_ids_changed_enable,
        consume_message_orderly: config.consume_message_orderly,
        group_sys_flag: config.group_sys_flag,
        consume_timeout_minutes: config.consume_timeout_minute,
        attributes: attributes::alter(attributes::OF_GROUPS, before, &config.attributes)?,
        retry_policy: retry_policy_from(&config.group_retry_policy),
        subscriptions: config.subscription_data_set.iter().map(subscription_from).collect(),
    })
}

/// The name by which a policy of growing delays goes.
const EXPONENTIAL: &str = "EXPONENTIAL";

fn retry_policy_from(policy: &GroupRetryPolicy) -> RetryPolicy {
    let exponential = policy.exponential_retry_policy.as_ref();
    RetryPolicy {
        is_exponential: policy.kind == EXPONENTIAL,
        exponential: exponential.map(|policy| (policy.initial, policy.max, policy.multiplier)),
        customized: policy.customized_retry_policy.as_ref().map(|policy| policy.next.clone()),
    }
}

fn retry_policy(policy: &RetryPolicy) -> GroupRetryPolicy {
    let kind = if policy.is_exponential { EXPONENTIAL.to_owned() } else { GroupRetryPolicy::default().kind };
    GroupRetryPolicy {
        kind,
        exponential_retry_policy: policy
            .exponential
            .map(|(initial, max, multiplier)| ExponentialRetryPolicy { initial, max, multiplier }),
        customized_retry_policy: policy.customized.clone().map(|next| CustomizedRetryPolicy { next }),
    }
}

fn subscription_from(subscription: &SimpleSubscriptionData) -> GroupSubscription {
    GroupSubscription {
        topic: subscription.topic.clone(),
        expression_type: subscription.expression_type.clone(),
        expression: subscription.expression.clone(),
        version: subscription.version,
    }
}

fn subscription(subscription: &GroupSubscription) -> SimpleSubscriptionData {
    SimpleSubscriptionData {
        topic: subscription.topic.clone(),
        expression_type: subscription.expression_type.clone(),
        expression: subscription.expression.clone(),
        version: subscription.version,
    }
}

fn group_config(group: &SubscriptionGroup) -> SubscriptionGroupConfig {
    SubscriptionGroupConfig {
        group_name: group.name.clone(),
        consume_enable: group.consume_enable,
        consume_from_min_enable: group.consume_from_min_enable,
        consume_broadcast_enable: group.consume_broadcast_enable,
        consume_message_orderly: group.consume_message_orderly,
        // All three came from signed numbers.
        retry_queue_nums: group.retry_queues as i32,
        retry_max_times: group.retry_max_times,
        broker_id: group.broker_id as i64,
        which_broker_when_consume_slowly: group.which_broker_when_consume_slowly as i64,
        notify_consumer_ids_changed_enable: group.notify_consumer_ids_changed,
        group_sys_flag: group.group_sys_flag,
        consume_timeout_minute: group.consume_timeout_minutes,
        attributes: group.attributes.clone(),
        group_retry_policy: retry_policy(&group.retry_policy),
        subscription_data_set: group.subscriptions.iter().map(subscription).collect(),
    }
}

/// 201: every group's settings.
pub(crate) fn get_all_groups(node: &Node) -> Handled {
    let groups = node.state.groups.all();
    json(&SubscriptionGroupWrapper {
        data_version: DataVersion { counter: node.state.groups.version() as i64, ..node.data_version() },
        forbidden_table: BTreeMap::new(),
        subscription_group_table: groups
            .iter()
            .map(|group| (group.name.clone(), group_config(group)))
            .collect(),
    })
}

/// 352: a group's settings.
pub(crate) fn get_group(node: &Node, command: &Command) -> Handled {
    let name = GroupConfigHeader::decode(command)?.group;
    match node.state.groups.get(&name) {
        Some(group) => json(&group_config(&group)),
        None => {
            let remark = format!("No group in this broker. group: {name}");
            Err(Refusal::new(response::SUBSCRIPTION_GROUP_NOT_EXIST, remark))
        }
    }
}

/// 207: removes a group, and its offsets where that is wanted, be they left from a group that was removed before.
pub(crate) async fn delete_group(node: &Node, command: &Command) -> Handled {
    let term = node.leading()?;
    let header = DeleteGroupHeader::decode(command)?;
    let (name, state) = (&header.group_name, &node.state);
    let clean_offsets = header.clean_offset || header.remove_offset;
    if state.groups.get(name).is_some() || clean_offsets && !state.offsets.of_group(name).is_empty() {
        tracing::info!(group = name, clean_offsets, "subscription group deleted");
        // What it has been told is committed is in the log; the rest must not bring it back, be it on its way now or
        // committed until it is gone.
        let _no_round = node.broker.offsets.between_rounds().await;
        node.broker.offsets.discard_group(name);
        let outcome = node.broker.settings.delete_group(term, name, clean_offsets).await;
        node.broker.offsets.discard_group(name);
        outcome?;
    }
    Reply::done()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(topic: &str) -> CreateTopicHeader {
        CreateTopicHeader {
            topic: topic.into(),
            default_topic: None,
            read_queue_nums: 4,
            write_queue_nums: 8,
            perm: 6,
            topic_filter_type: TopicFilterType::MultiTag,
            topic_sys_flag: Some(1),
            order: true,
            attributes: Some("+message.type=NORMAL".into()),
        }
    }

    fn topic_of(header: CreateTopicHeader, before: Option<&Topic>) -> Result<Topic, Refusal> {
        topic_from(&config_from(header)?, before)
    }

    #[test]
    fn a_topic_survives_the_way_in_and_out() {
        let topic = topic_of(header("t"), None).unwrap();
        let config = topic_config(&topic);
        assert_eq!((config.read_queue_nums, config.write_queue_nums, config.perm), (4, 8, 6));
        assert_eq!((config.topic_sys_flag, config.order), (1, true));
        assert_eq!(config.topic_filter_type, TopicFilterType::MultiTag);
        assert_eq!(config.attributes["message.type"], "NORMAL");
        let change = CreateTopicHeader { attributes: Some("-message.type".into()), ..header("t") };
        assert!(topic_of(change.clone(), None).is_err());
        assert!(topic_of(change, Some(&topic)).unwrap().attributes.is_empty());
    }

    #[test]
    fn bad_topics_are_refused() {
        for bad in [
            header("a b"),
            header("TBW102"),
            CreateTopicHeader { read_queue_nums: 0, ..header("t") },
            CreateTopicHeader { write_queue_nums: -1, ..header("t") },
            CreateTopicHeader { perm: 16, ..header("t") },
        ] {
            let refusal = topic_of(bad.clone(), None).unwrap_err();
            assert_eq!(refusal.code, response::INVALID_PARAMETER, "{bad:?}");
        }
    }

    #[test]
    fn a_group_survives_the_way_in_and_out() {
        let config = SubscriptionGroupConfig {
            group_name: "g".into(),
            consume_enable: false,
            retry_queue_nums: 3,
            retry_max_times: -1,
            group_sys_flag: 2,
            group_retry_policy: GroupRetryPolicy {
                kind: EXPONENTIAL.into(),
                exponential_retry_policy: Some(ExponentialRetryPolicy { initial: 1, max: 9, multiplier: 2 }),
                customized_retry_policy: Some(CustomizedRetryPolicy { next: vec![5, 7] }),
            },
            subscription_data_set: vec![SimpleSubscriptionData {
                topic: "t".into(),
                expression_type: "TAG".into(),
                expression: "a || b".into(),
                version: 3,
            }],
            attributes: [("+priority.factor".to_owned(), "100".to_owned())].into(),
            ..SubscriptionGroupConfig::default()
        };
        let group = group_from(&config, None, 8).unwrap();
        let attributes = [("priority.factor".to_owned(), "100".to_owned())].into();
        assert_eq!(group_config(&group), SubscriptionGroupConfig { attributes, ..config.clone() });
        let again = SubscriptionGroupConfig { attributes: BTreeMap::new(), ..config.clone() };
        assert_eq!(group_from(&again, Some(&group), 8).unwrap(), group, "what is not named stays");
        for bad in [
            SubscriptionGroupConfig { broker_id: -1, ..config.clone() },
            SubscriptionGroupConfig { retry_queue_nums: 9, ..config.clone() },
            SubscriptionGroupConfig { retry_queue_nums: -1, ..config.clone() },
            SubscriptionGroupConfig { group_name: "a b".into(), ..config },
        ] {
            assert_eq!(group_from(&bad, None, 8).unwrap_err().code, response::INVALID_PARAMETER, "{bad:?}");
        }
    }
}
