//! Requests about clients: heartbeats, leaving, membership of groups, checking a subscription.
//!
//! Any member answers them from what it has heard itself; clients with consumers send heartbeats to every member.

use std::sync::Arc;

use raftmq_broker::clients::{Client, ConsumerData};
use raftmq_broker::filter::is_tag_type;
use raftmq_broker::names::check_group_name;
use raftmq_message::topic::is_system_group;
use raftmq_remoting::body::{CheckClientRequest, ConsumerIdList, HeartbeatData, SubscriptionData};
use raftmq_remoting::codes::response;
use raftmq_remoting::command::language;
use raftmq_remoting::header::{ConsumerGroupHeader, HeartbeatResponse, UnregisterClientHeader};
use raftmq_remoting::{Command, fastjson};

use crate::channel::Channel;
use crate::described::consumer_from;
use crate::limits::{CLIENT_ID_LEN_MAX, HEARTBEAT_GROUPS_MAX};
use crate::node::Node;
use crate::reply::{Handled, Refusal, Reply};

/// 34: a client is there, with these groups.
pub(crate) async fn heartbeat(node: &Arc<Node>, channel: &Arc<Channel>, command: &Command) -> Handled {
    let (heartbeat, consumers) = read(command)?;
    let client = Client {
        id: heartbeat.client_id.as_str().into(),
        connection: channel.clone(),
        language: language::name(command.language),
        version: command.version,
    };
    let now_ms = node.process.now_ms();
    for producer in &heartbeat.producer_data_set {
        node.broker.clients.producer(&producer.group_name, &client, now_ms)?;
    }
    // As RocketMQ does, a group that does not exist and may not be made is passed over: its pulls are told.
    let consumers = || consumers.iter().filter(|consumer| may_be(node, &consumer.group));
    for consumer in consumers() {
        join(node, consumer, heartbeat.is_without_subscriptions(), &client)?;
    }
    // Made afterwards, so that the client finds itself in all of its groups whatever becomes of this.
    for consumer in consumers() {
        if node.leading().is_ok() && !is_system_group(&consumer.group) {
            node.create_group(&consumer.group).await?;
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
    client: &Client<Channel>,
) -> Result<(), Refusal> {
    let joined =
        node.broker.clients.consumer(consumer, without_subscriptions, client, node.process.now_ms())?;
    if joined.is_to_be_told {
        node.notices.add([consumer.group.clone()]);
    }
    if joined.is_refiltered {
        node.broker.pulls.refiltered(&consumer.group);
    }
    Ok(())
}

/// Whether a consumer group exists or is made when it is needed.
fn may_be(node: &Node, group: &str) -> bool {
    node.config.auto_create_group || is_system_group(group) || node.state.groups.get(group).is_some()
}

/// A heartbeat, and its consumers as the broker knows them.
fn read(command: &Command) -> Result<(HeartbeatData, Vec<ConsumerData>), Refusal> {
    let heartbeat: HeartbeatData =
        fastjson::parse(&command.body).map_err(|error| Refusal::error(format!("heartbeat: {error}")))?;
    let consumers = check(&heartbeat)?;
    Ok((heartbeat, consumers))
}

fn check(heartbeat: &HeartbeatData) -> Result<Vec<ConsumerData>, Refusal> {
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
    let consumers: Vec<_> = heartbeat.consumer_data_set.iter().map(consumer_from).collect();
    consumers.iter().try_for_each(ConsumerData::check)?;
    Ok(consumers)
}

/// 35: a client leaves a producer group, a consumer group, or both. What goes by its id over another connection stays.
pub(crate) fn unregister(node: &Node, channel: &Channel, command: &Command) -> Handled {
    let header = UnregisterClientHeader::decode(command)?;
    let (producer, consumer) = (header.producer_group.as_deref(), header.consumer_group.as_deref());
    if node.broker.clients.leave(channel.id, producer, consumer) {
        node.notices.add(consumer.map(str::to_owned));
    }
    Reply::done()
}

/// 38: the members of a consumer group.
pub(crate) fn consumer_list(node: &Node, command: &Command) -> Handled {
    let group = ConsumerGroupHeader::decode(command)?.consumer_group;
    let consumer_id_list = node.broker.clients.consumer_ids(&group);
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
        let filter = node.broker.pulls.filters().parse(sub_string, Some(expression_type));
        filter.map_err(|error| Refusal::new(response::SUBSCRIPTION_PARSE_FAILED, error.to_string()))?;
    }
    Reply::done()
}

#[cfg(test)]
mod tests {
    use raftmq_remoting::body::{self, ProducerData};

    use super::*;

    fn heartbeat() -> HeartbeatData {
        let consumer = body::ConsumerData {
            group_name: "g".into(),
            subscription_data_set: vec![SubscriptionData {
                topic: "t".into(),
                ..SubscriptionData::default()
            }],
            ..body::ConsumerData::default()
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
        assert!(check(&heartbeat()).is_ok());
        type Spoil = fn(&mut HeartbeatData);
        let spoils: [Spoil; 5] = [
            |h| h.client_id.clear(),
            |h| h.client_id = "c".repeat(CLIENT_ID_LEN_MAX + 1),
            |h| h.producer_data_set = vec![ProducerData { group_name: "p".into() }; HEARTBEAT_GROUPS_MAX],
            |h| h.producer_data_set[0].group_name = "a b".into(),
            |h| h.consumer_data_set[0].subscription_data_set[0].topic = "a b".into(),
        ];
        for (index, spoil) in spoils.iter().enumerate() {
            let mut heartbeat = heartbeat();
            spoil(&mut heartbeat);
            assert!(check(&heartbeat).is_err(), "{index}");
        }
    }
}
