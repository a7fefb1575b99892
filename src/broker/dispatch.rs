//! From request codes to handlers: every request that is answered once and at once. Sends, returned messages, pulls and
//! what others have to do their part of are the connection's.

use std::sync::Arc;

use raftmq_remoting::Command;
use raftmq_remoting::codes::request::*;

use super::channel::Channel;
use super::node::Node;
use super::reply::{Handled, Refusal};
use super::{config_codes, group_codes, heartbeat, locks, offset_admin, queue_codes, stats_codes};

/// Handles a request.
pub(crate) async fn handle(node: &Arc<Node>, channel: &Arc<Channel>, command: &Command) -> Handled {
    match command.code {
        QUERY_CONSUMER_OFFSET => queue_codes::query_consumer_offset(node, command).await,
        SEARCH_OFFSET_BY_TIMESTAMP => queue_codes::search_offset(node, command),
        GET_MAX_OFFSET => queue_codes::max_offset(node, command).await,
        GET_MIN_OFFSET => queue_codes::min_offset(node, command),
        GET_EARLIEST_MSG_STORETIME => queue_codes::earliest_store_time(node, command),
        VIEW_MESSAGE_BY_ID => queue_codes::view_message(node, command).await,

        HEART_BEAT => heartbeat::heartbeat(node, channel, command).await,
        UNREGISTER_CLIENT => heartbeat::unregister(node, channel, command),
        GET_CONSUMER_LIST_BY_GROUP => heartbeat::consumer_list(node, command),
        CHECK_CLIENT_CONFIG => heartbeat::check_client(node, command),

        LOCK_BATCH_MQ => locks::lock(node, command).await,
        UNLOCK_BATCH_MQ => locks::unlock(node, channel, command).await,

        UPDATE_AND_CREATE_TOPIC => config_codes::put_topic(node, command).await,
        UPDATE_AND_CREATE_TOPIC_LIST => config_codes::put_topic_list(node, command).await,
        DELETE_TOPIC_IN_BROKER => config_codes::delete_topic(node, command).await,
        GET_ALL_TOPIC_CONFIG => config_codes::get_all_topics(node),
        GET_TOPIC_CONFIG => config_codes::get_topic(node, command),
        UPDATE_AND_CREATE_SUBSCRIPTIONGROUP => config_codes::put_group(node, command).await,
        UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST => config_codes::put_group_list(node, command).await,
        GET_ALL_SUBSCRIPTIONGROUP_CONFIG => config_codes::get_all_groups(node),
        GET_SUBSCRIPTIONGROUP_CONFIG => config_codes::get_group(node, command),
        DELETE_SUBSCRIPTIONGROUP => config_codes::delete_group(node, command).await,

        INVOKE_BROKER_TO_RESET_OFFSET => offset_admin::reset_offset(node, command).await,
        CLONE_GROUP_OFFSET => offset_admin::clone_offsets(node, command).await,

        GET_CONSUMER_CONNECTION_LIST => group_codes::consumer_connection(node, command),
        GET_PRODUCER_CONNECTION_LIST => group_codes::producer_connection(node, command),
        GET_ALL_PRODUCER_INFO => group_codes::all_producers(node).await,
        GET_CONSUME_STATS => group_codes::consume_stats(node, command).await,
        GET_BROKER_CONSUME_STATS => group_codes::broker_consume_stats(node, command).await,
        QUERY_TOPIC_CONSUME_BY_WHO => group_codes::groups_of_topic(node, command),
        QUERY_TOPICS_BY_CONSUMER => group_codes::topics_of_group(node, command),
        QUERY_SUBSCRIPTION_BY_CONSUMER => group_codes::subscription(node, command),
        QUERY_CONSUME_TIME_SPAN => group_codes::consume_time_span(node, command).await,

        GET_BROKER_RUNTIME_INFO => stats_codes::runtime_info(node),
        GET_TOPIC_STATS_INFO => stats_codes::topic_stats(node, command).await,
        GET_BROKER_CONFIG => stats_codes::broker_config(node),
        UPDATE_BROKER_CONFIG => stats_codes::update_broker_config(command),
        GET_SYSTEM_TOPIC_LIST_FROM_BROKER => stats_codes::system_topics(node),

        END_TRANSACTION => Err(Refusal::unsupported("transactional messages are not supported")),
        SEND_REPLY_MESSAGE | SEND_REPLY_MESSAGE_V2 => {
            Err(Refusal::unsupported("replies to requests are not supported"))
        }
        code => Err(Refusal::unsupported(format!(" request type {code} not supported"))),
    }
}
