//! Clients and topics as bodies of this protocol describe them.

use std::sync::Arc;

use raftmq_broker::clients::{
    Client, ConsumeFromWhere, ConsumeType, ConsumerData, ConsumersOfGroup, Consumption, MessageModel,
    Subscription,
};
use raftmq_broker::state::{FilterType, Topic};
use raftmq_remoting::body;

use crate::channel::Channel;

pub(crate) fn consumer_from(data: &body::ConsumerData) -> ConsumerData {
    ConsumerData {
        group: data.group_name.clone(),
        consumption: Consumption {
            from_where: match data.consume_from_where {
                body::ConsumeFromWhere::LastOffset => ConsumeFromWhere::LastOffset,
                body::ConsumeFromWhere::FirstOffset => ConsumeFromWhere::FirstOffset,
                body::ConsumeFromWhere::Timestamp => ConsumeFromWhere::Timestamp,
                body::ConsumeFromWhere::MinOffset => ConsumeFromWhere::MinOffset,
                body::ConsumeFromWhere::MaxOffset => ConsumeFromWhere::MaxOffset,
                body::ConsumeFromWhere::LastOffsetAndFromMinWhenBootFirst => {
                    ConsumeFromWhere::LastOffsetAndFromMinWhenBootFirst
                }
            },
            kind: match data.consume_type {
                body::ConsumeType::Passively => ConsumeType::Passively,
                body::ConsumeType::Actively => ConsumeType::Actively,
                body::ConsumeType::Pop => ConsumeType::Pop,
            },
            model: match data.message_model {
                body::MessageModel::Clustering => MessageModel::Clustering,
                body::MessageModel::Broadcasting => MessageModel::Broadcasting,
            },
        },
        subscriptions: data.subscription_data_set.iter().map(subscription_from).collect(),
    }
}

pub(crate) fn subscription_from(data: &body::SubscriptionData) -> Subscription {
    Subscription {
        topic: data.topic.clone(),
        expression: data.sub_string.clone(),
        expression_type: data.expression_type.clone(),
        tags: data.tags_set.clone(),
        codes: data.code_set.clone(),
        is_class_filter: data.class_filter_mode,
        version: data.sub_version,
    }
}

pub(crate) fn subscription_data(subscription: Subscription) -> body::SubscriptionData {
    body::SubscriptionData {
        topic: subscription.topic,
        sub_string: subscription.expression,
        expression_type: subscription.expression_type,
        tags_set: subscription.tags,
        code_set: subscription.codes,
        class_filter_mode: subscription.is_class_filter,
        sub_version: subscription.version,
    }
}

pub(crate) fn connection_of(client: &Client<Channel>) -> body::Connection {
    body::Connection {
        client_addr: client.connection.peer.to_string(),
        client_id: client.id.to_string(),
        language: client.language.to_owned(),
        version: client.version,
    }
}

pub(crate) fn consumer_connection(group: ConsumersOfGroup<Channel>) -> body::ConsumerConnection {
    let Consumption { from_where, kind, model } = group.consumption;
    body::ConsumerConnection {
        connection_set: group.clients.iter().map(connection_of).collect(),
        consume_from_where: match from_where {
            ConsumeFromWhere::LastOffset => body::ConsumeFromWhere::LastOffset,
            ConsumeFromWhere::FirstOffset => body::ConsumeFromWhere::FirstOffset,
            ConsumeFromWhere::Timestamp => body::ConsumeFromWhere::Timestamp,
            ConsumeFromWhere::MinOffset => body::ConsumeFromWhere::MinOffset,
            ConsumeFromWhere::MaxOffset => body::ConsumeFromWhere::MaxOffset,
            ConsumeFromWhere::LastOffsetAndFromMinWhenBootFirst => {
                body::ConsumeFromWhere::LastOffsetAndFromMinWhenBootFirst
            }
        },
        consume_type: match kind {
            ConsumeType::Passively => body::ConsumeType::Passively,
            ConsumeType::Actively => body::ConsumeType::Actively,
            ConsumeType::Pop => body::ConsumeType::Pop,
        },
        message_model: match model {
            MessageModel::Clustering => body::MessageModel::Clustering,
            MessageModel::Broadcasting => body::MessageModel::Broadcasting,
        },
        subscription_table: group
            .subscriptions
            .into_iter()
            .map(|subscription| (subscription.topic.clone(), subscription_data(subscription)))
            .collect(),
    }
}

/// A topic's settings as clients read them.
pub(crate) fn topic_config(topic: &Topic) -> body::TopicConfig {
    body::TopicConfig {
        attributes: topic.attributes.clone(),
        order: topic.order,
        // Permissions have four bits, and the numbers of queues are bounded far below 31.
        perm: topic.perm as i32,
        read_queue_nums: topic.read_queues as i32,
        topic_filter_type: match topic.filter_type {
            FilterType::SingleTag => body::TopicFilterType::SingleTag,
            FilterType::MultiTag => body::TopicFilterType::MultiTag,
        },
        topic_name: topic.name.clone(),
        topic_sys_flag: topic.sys_flag.cast_signed(),
        write_queue_nums: topic.write_queues as i32,
    }
}

/// Topics' settings, as 21 carries them.
pub(crate) fn topic_table(
    topics: &[Arc<Topic>],
    data_version: body::DataVersion,
) -> body::TopicConfigSerializeWrapper {
    body::TopicConfigSerializeWrapper {
        data_version,
        topic_config_table: topics.iter().map(|topic| (topic.name.clone(), topic_config(topic))).collect(),
    }
}
