//! Requests about clients: heartbeats, leaving, membership of groups, checking a subscription.
//!
//! Any member answers them from what it has heard itself; clients with consumers send heartbeats to every member.

use std::sync::Arc;

use raftmq_message::topic::{is_system_group, validate_topic};
use raftmq_remoting::body::{
    CheckClientRequest, ConsumerData, ConsumerIdList, HeartbeatData, SubscriptionData,
};
use raftmq_remoting::codes::response;
use raftmq_remoting::header::{ConsumerGroupHeader, HeartbeatResponse, UnregisterClientHeader};
use raftmq_remoting::{Command, fastjson};
use raftmq_world::WriteHalf;

use super::channel::Channel;
use super::clients::Client;
use super::filter::is_tag_type;
use super::limits::{
    CLIENT_ID_LEN_MAX, EXPRESSION_BYTES_MAX, HEARTBEAT_BYTES_MAX, HEARTBEAT_GROUPS_MAX,
    SUBSCRIPTION_BYTES_PER_GROUP_MAX, SUBSCRIPTIONS_PER_GROUP_MAX,
};
use super::node::Node;
use super::reply::{Handled, Refusal, Reply};
use raftmq_broker::settings::check_group_name;

/// 34: a client is there, with these groups.
pub(crate) async fn heartbeat(node: &Arc<Node>, channel: &Arc<Channel>, command: &Command) -> Handled {
    let heartbeat = read(command)?;
    let client = Client {
        id: heartbeat.client_id.as_str().into(),
        channel: channel.clone(),
        language: command.language,
        version: command.version,
    };
    let now_ms = node.now_ms();
    for producer in &heartbeat.producer_data_set {
        node.clients.producer(&producer.group_name, &client, now_ms)?;
    }
    // As RocketMQ does, a group that does not exist and may not be made is passed over: its pulls are told.
    let consumers =
        || heartbeat.consumer_data_set.iter().filter(|consumer| may_be(node, &consumer.group_name));
    for consumer in consumers() {
        join(node, consumer, heartbeat.is_without_subscriptions(), &client)?;
    }
    // Made afterwards, so that the client finds itself in all of its groups whatever becomes of this.
    for consumer in consumers() {
        if node.leading().is_ok() && !is_system_group(&consumer.group_name) {
            node.create_group(&consumer.group_name).await?;
        }
    }
    let answer = HeartbeatResponse { supports_v2: true, subscription_changed: true };
    Reply::fields(answer.to_ext())
}

/// A client is a member of a consumer group: whoever has to know of that does.
pub(crate) fn join(
    node: &Node,
    consumer: &ConsumerData,
    without_subscriptions: bool,
    client: &Client<WriteHalf>,
) -> Result<(), Refusal> {
    let joined = node.clients.consumer(consumer, without_subscriptions, client, node.now_ms())?;
    if joined.is_to_be_told {
        node.notices.add([consumer.group_name.clone()]);
    }
    if joined.is_refiltered {
        node.long_poll.refiltered(&consumer.group_name);
    }
    Ok(())
}

/// Whether a consumer group exists or is made when it is needed.
fn may_be(node: &Node, group: &str) -> bool {
    node.config.auto_create_group || is_system_group(group) || node.state.groups.get(group).is_some()
}

fn read(command: &Command) -> Result<HeartbeatData, Refusal> {
    if command.body.len() > HEARTBEAT_BYTES_MAX {
        let len = command.body.len();
        return Err(Refusal::illegal(format!("heartbeat of {len} bytes, at most {HEARTBEAT_BYTES_MAX}")));
    }
    let heartbeat: HeartbeatData =
        fastjson::parse(&command.body).map_err(|error| Refusal::error(format!("heartbeat: {error}")))?;
    check(&heartbeat)?;
    Ok(heartbeat)
}

fn check(heartbeat: &HeartbeatData) -> Result<(), Refusal> {
    let id_len = heartbeat.client_id.len();
    if id_len == 0 || id_len > CLIENT_ID_LEN_MAX {
        return Err(Refusal::illegal(format!("a client id of {id_len} bytes")));
    }
    let groups = heartbeat.producer_data_set.len() + heartbeat.consumer_data_set.len();
    if groups > HEARTBEAT_GROUPS_MAX {
        return Err(Refusal::illegal(format!(
            "{groups} groups in a heartbeat, at most {HEARTBEAT_GROUPS_MAX}"
        )));
    }
    heartbeat.producer_data_set.iter().try_for_each(|producer| check_group_name(&producer.group_name))?;
    heartbeat.consumer_data_set.iter().try_for_each(check_consumer)
}

pub(crate) fn check_consumer(consumer: &ConsumerData) -> Result<(), Refusal> {
    check_group_name(&consumer.group_name)?;
    let subscriptions = &consumer.subscription_data_set;
    if subscriptions.len() > SUBSCRIPTIONS_PER_GROUP_MAX {
        let count = subscriptions.len();
        return Err(Refusal::illegal(format!(
            "{count} subscriptions, at most {SUBSCRIPTIONS_PER_GROUP_MAX}"
        )));
    }
    let mut bytes = 0;
    for subscription in subscriptions {
        validate_topic(&subscription.topic).map_err(|error| Refusal::illegal(error.to_string()))?;
        if subscription.sub_string.len() > EXPRESSION_BYTES_MAX {
            return Err(Refusal::illegal(format!(
                "the expression for {} is longer than {EXPRESSION_BYTES_MAX} bytes",
                subscription.topic
            )));
        }
        bytes += subscription_bytes(subscription);
    }
    if bytes > SUBSCRIPTION_BYTES_PER_GROUP_MAX {
        return Err(Refusal::illegal(format!(
            "subscriptions of {bytes} bytes, at most {SUBSCRIPTION_BYTES_PER_GROUP_MAX}"
        )));
    }
    Ok(())
}

/// What a subscription holds in text and numbers.
fn subscription_bytes(subscription: &SubscriptionData) -> usize {
    let tags = subscription.tags_set.iter().map(|tag| size_of::<String>() + tag.len()).sum::<usize>();
    let texts = subscription.topic.len() + subscription.sub_string.len() + subscription.expression_type.len();
    texts + tags + size_of_val(subscription.code_set.as_slice())
}

/// 35: a client leaves a producer group, a consumer group, or both. What goes by its id over another connection stays.
pub(crate) fn unregister(node: &Node, channel: &Channel, command: &Command) -> Handled {
    let header = UnregisterClientHeader::decode(command)?;
    let (producer, consumer) = (header.producer_group.as_deref(), header.consumer_group.as_deref());
    if node.clients.leave(channel.id, producer, consumer) {
        node.notices.add(consumer.map(str::to_owned));
    }
    Reply::done()
}

/// 38: the members of a consumer group.
pub(crate) fn consumer_list(node: &Node, command: &Command) -> Handled {
    let group = ConsumerGroupHeader::decode(command)?.consumer_group;
    let consumer_id_list = node.clients.consumer_ids(&group);
    if consumer_id_list.is_empty() {
        return Err(Refusal::error(format!("no consumer for this group, {group}")));
    }
    Reply::body(
        fastjson::to_vec(&ConsumerIdList { consumer_id_list })
            .map_err(|error| Refusal::error(error.to_string()))?,
    )
}

/// 46: whether a subscription's expression can be used. Clients ask before they use anything but tags.
pub(crate) fn check_client(node: &Node, command: &Command) -> Handled {
    let request: CheckClientRequest =
        fastjson::parse(&command.body).map_err(|error| Refusal::error(format!("client check: {error}")))?;
    let SubscriptionData { sub_string, expression_type, .. } = &request.subscription_data;
    if !is_tag_type(Some(expression_type)) {
        let filter = node.filters.parse(sub_string, Some(expression_type));
        filter.map_err(|error| Refusal::new(response::SUBSCRIPTION_PARSE_FAILED, error.to_string()))?;
    }
    Reply::done()
}

#[cfg(test)]
mod tests {
    use raftmq_remoting::body::ProducerData;

    use super::*;

    fn heartbeat() -> HeartbeatData {
        let consumer = ConsumerData {
            group_name: "g".into(),
            subscription_data_set: vec![SubscriptionData {
                topic: "t".into(),
                ..SubscriptionData::default()
            }],
            ..ConsumerData::default()
        };
        HeartbeatData {
            client_id: "c".into(),
            consumer_data_set: vec![consumer],
            producer_data_set: vec![ProducerData { group_name: "p".into() }],
            ..HeartbeatData::default()
        }
    }

    #[test]
    fn hostile_heartbeats_are_refused() {
        assert_eq!(check(&heartbeat()), Ok(()));
        type Spoil = fn(&mut HeartbeatData);
        let spoils: [Spoil; 9] = [
            |h| h.client_id.clear(),
            |h| h.client_id = "c".repeat(CLIENT_ID_LEN_MAX + 1),
            |h| h.producer_data_set = vec![ProducerData { group_name: "p".into() }; HEARTBEAT_GROUPS_MAX],
            |h| h.producer_data_set[0].group_name = "a b".into(),
            |h| {
                let one = h.consumer_data_set[0].subscription_data_set[0].clone();
                h.consumer_data_set[0].subscription_data_set = vec![one; 1025];
            },
            |h| h.consumer_data_set[0].subscription_data_set[0].topic = "a b".into(),
            |h| h.consumer_data_set[0].subscription_data_set[0].code_set = vec![7; 16 * 1024],
            |h| h.consumer_data_set[0].subscription_data_set[0].tags_set = vec![String::new(); 4096],
            |h| {
                h.consumer_data_set[0].subscription_data_set[0].sub_string =
                    "x".repeat(EXPRESSION_BYTES_MAX + 1)
            },
        ];
        for (index, spoil) in spoils.iter().enumerate() {
            let mut heartbeat = heartbeat();
            spoil(&mut heartbeat);
            assert!(check(&heartbeat).is_err(), "{index}");
        }
    }
}
