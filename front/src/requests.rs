//! The table of requests: a row for each code that this broker knows. Whatever is dispatched goes by it, and
//! `docs/requests.md` is made from it. To add a request, write its handler and its row.

use std::pin::Pin;
use std::sync::Arc;

use raftmq_remoting::Command;
use raftmq_remoting::codes::request::{self as codes, *};

use crate::channel::Channel;
use crate::limits::{HEARTBEAT_BYTES_MAX, SETTINGS_BYTES_MAX};
use crate::node::Node;
use crate::reply::{Handled, Refusal};
use crate::{config_codes, group_codes, heartbeat, locks, offset_admin, queue_codes, relay, stats_codes};

/// Who may serve a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServedBy {
    /// The group's leader.
    Leader,
    /// The leader, or the member that the consumer group reads from.
    Reader,
    /// Every member, from what it knows itself.
    Any,
}

/// What a member does with a request that it may not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Otherwise {
    /// It says who leads.
    Refuse,
    /// It has the leader do it, and answers as that does.
    PassOn,
}

/// On what a right is needed, as access control of RocketMQ 5.x has it: its requests' headers and
/// `DefaultAuthorizationContextBuilder` say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    /// On the topic that it names.
    Topic,
    /// On the group that it names.
    Group,
    /// On both.
    GroupAndTopic,
    /// On the cluster.
    Cluster,
    /// On nothing.
    Nothing,
}

/// What is done to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Pub,
    Sub,
    Create,
    Update,
    Delete,
    Get,
    List,
}

type Waiting<'a> = Pin<Box<dyn Future<Output = Handled> + Send + 'a>>;

/// What handles a request.
#[derive(Clone, Copy)]
pub(crate) enum Handler {
    /// It is stored with the others of its read, and answered when the log has taken it.
    Send,
    /// So is the copy of a message that a consumer gives back.
    GiveBack,
    /// It is answered when there are messages for it, or its time is over.
    Pull,
    /// It is answered at once.
    AtOnce(fn(&Arc<Node>, &Arc<Channel>, &Command) -> Handled),
    /// It is answered before the connection's next request is looked at.
    InTurn(for<'a> fn(&'a Arc<Node>, &'a Arc<Channel>, &'a Command) -> Waiting<'a>),
    /// It is answered when others have done their part; the connection goes on.
    Later(fn(&Arc<Node>, &Command) -> Result<Waiting<'static>, Refusal>),
    /// It is known, and not done.
    Not(&'static str),
}

/// What is needed: on one thing, any of some actions.
pub(crate) type Right = (Resource, &'static [Action]);

/// A request.
pub(crate) struct Row {
    pub(crate) code: i32,
    pub(crate) served_by: ServedBy,
    pub(crate) otherwise: Otherwise,
    /// For access control; so far only the document tells of it.
    #[cfg_attr(not(test), expect(dead_code, reason = "nobody is kept out yet"))]
    pub(crate) right: Right,
    /// Bytes of its body at most; else those of a frame.
    pub(crate) body_max: Option<usize>,
    pub(crate) handler: Handler,
}

impl Row {
    const fn new(code: i32, served_by: ServedBy, right: Right, handler: Handler) -> Self {
        Self { code, served_by, otherwise: Otherwise::Refuse, right, body_max: None, handler }
    }

    const fn within(self, body_max: usize) -> Self {
        Self { body_max: Some(body_max), ..self }
    }

    const fn passed_on(self) -> Self {
        Self { otherwise: Otherwise::PassOn, ..self }
    }

    /// RocketMQ's name of it.
    pub(crate) fn name(&self) -> &'static str {
        codes::name(self.code).unwrap_or("unnamed")
    }
}

/// The row of a code, or the answer that there is none.
pub(crate) fn row(code: i32) -> Result<&'static Row, Refusal> {
    REQUESTS.iter().find(|row| row.code == code).ok_or_else(|| {
        let name = codes::name(code).map(|name| format!(" ({name})")).unwrap_or_default();
        Refusal::unsupported(format!(" request type {code} not supported{name}"))
    })
}

macro_rules! at_once {
    ($handler:path, node) => {
        Handler::AtOnce(|node, _, _| $handler(node))
    };
    ($handler:path, command) => {
        Handler::AtOnce(|_, _, command| $handler(command))
    };
    ($handler:path) => {
        Handler::AtOnce(|node, _, command| $handler(node, command))
    };
    ($handler:path, channel) => {
        Handler::AtOnce(|node, channel, command| $handler(node, channel, command))
    };
}

macro_rules! in_turn {
    ($handler:path, node) => {
        Handler::InTurn(|node, _, _| Box::pin($handler(node)))
    };
    ($handler:path) => {
        Handler::InTurn(|node, _, command| Box::pin($handler(node, command)))
    };
    ($handler:path, channel) => {
        Handler::InTurn(|node, channel, command| Box::pin($handler(node, channel, command)))
    };
}

macro_rules! later {
    ($handler:path) => {
        Handler::Later(|node, command| Ok(Box::pin($handler(node.clone(), command.clone()))))
    };
}

use Action::*;
use Resource::*;
use ServedBy::*;

/// Every request that this broker knows.
pub(crate) static REQUESTS: &[Row] = &[
    // Sending.
    Row::new(SEND_MESSAGE_V2, Leader, (Topic, &[Pub]), Handler::Send),
    Row::new(SEND_MESSAGE, Leader, (Topic, &[Pub]), Handler::Send),
    Row::new(SEND_BATCH_MESSAGE, Leader, (Topic, &[Pub]), Handler::Send),
    Row::new(CONSUMER_SEND_MSG_BACK, Leader, (Group, &[Sub]), Handler::GiveBack),
    Row::new(
        END_TRANSACTION,
        Leader,
        (Topic, &[Pub]),
        Handler::Not("transactional messages are not supported"),
    ),
    Row::new(
        SEND_REPLY_MESSAGE,
        Leader,
        (Topic, &[Pub]),
        Handler::Not("replies to requests are not supported"),
    ),
    Row::new(
        SEND_REPLY_MESSAGE_V2,
        Leader,
        (Topic, &[Pub]),
        Handler::Not("replies to requests are not supported"),
    ),
    // Consuming.
    Row::new(PULL_MESSAGE, Reader, (GroupAndTopic, &[Sub]), Handler::Pull),
    Row::new(LITE_PULL_MESSAGE, Reader, (GroupAndTopic, &[Sub]), Handler::Pull),
    Row::new(
        UPDATE_CONSUMER_OFFSET,
        Leader,
        (GroupAndTopic, &[Sub, Update]),
        Handler::Later(|node, command| Ok(Box::pin(queue_codes::update_consumer_offset(node, command)?))),
    ),
    Row::new(
        QUERY_CONSUMER_OFFSET,
        Leader,
        (GroupAndTopic, &[Sub, Get]),
        in_turn!(queue_codes::query_consumer_offset),
    ),
    Row::new(LOCK_BATCH_MQ, Leader, (GroupAndTopic, &[Sub]), in_turn!(locks::lock)),
    Row::new(UNLOCK_BATCH_MQ, Leader, (GroupAndTopic, &[Sub]), in_turn!(locks::unlock, channel)),
    Row::new(HEART_BEAT, Any, (GroupAndTopic, &[Sub]), in_turn!(heartbeat::heartbeat, channel))
        .within(HEARTBEAT_BYTES_MAX),
    Row::new(UNREGISTER_CLIENT, Any, (Group, &[Pub, Sub]), at_once!(heartbeat::unregister, channel)),
    Row::new(GET_CONSUMER_LIST_BY_GROUP, Any, (Group, &[Sub, Get]), at_once!(heartbeat::consumer_list)),
    Row::new(CHECK_CLIENT_CONFIG, Any, (GroupAndTopic, &[Sub]), at_once!(heartbeat::check_client)),
    // Queues.
    Row::new(GET_MAX_OFFSET, Leader, (Topic, &[Get]), in_turn!(queue_codes::max_offset)),
    Row::new(GET_MIN_OFFSET, Leader, (Topic, &[Get]), at_once!(queue_codes::min_offset)),
    Row::new(SEARCH_OFFSET_BY_TIMESTAMP, Leader, (Topic, &[Get]), at_once!(queue_codes::search_offset)),
    Row::new(GET_EARLIEST_MSG_STORETIME, Leader, (Topic, &[Get]), at_once!(queue_codes::earliest_store_time)),
    Row::new(VIEW_MESSAGE_BY_ID, Any, (Topic, &[Get]), in_turn!(queue_codes::view_message)),
    // Settings of topics and groups.
    Row::new(UPDATE_AND_CREATE_TOPIC, Leader, (Topic, &[Create]), in_turn!(config_codes::put_topic)),
    Row::new(
        UPDATE_AND_CREATE_TOPIC_LIST,
        Leader,
        (Topic, &[Create]),
        in_turn!(config_codes::put_topic_list),
    )
    .within(SETTINGS_BYTES_MAX),
    Row::new(DELETE_TOPIC_IN_BROKER, Leader, (Topic, &[Delete]), in_turn!(config_codes::delete_topic))
        .passed_on(),
    Row::new(GET_ALL_TOPIC_CONFIG, Any, (Topic, &[List]), at_once!(config_codes::get_all_topics, node)),
    Row::new(GET_TOPIC_CONFIG, Any, (Topic, &[Get]), at_once!(config_codes::get_topic)),
    Row::new(
        UPDATE_AND_CREATE_SUBSCRIPTIONGROUP,
        Leader,
        (Group, &[Create]),
        in_turn!(config_codes::put_group),
    )
    .within(SETTINGS_BYTES_MAX),
    Row::new(
        UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST,
        Leader,
        (Group, &[Create]),
        in_turn!(config_codes::put_group_list),
    )
    .within(SETTINGS_BYTES_MAX),
    Row::new(
        GET_ALL_SUBSCRIPTIONGROUP_CONFIG,
        Any,
        (Group, &[List]),
        at_once!(config_codes::get_all_groups, node),
    ),
    Row::new(GET_SUBSCRIPTIONGROUP_CONFIG, Any, (Group, &[Get]), at_once!(config_codes::get_group)),
    Row::new(DELETE_SUBSCRIPTIONGROUP, Leader, (Group, &[Delete]), in_turn!(config_codes::delete_group)),
    // What operators do to groups, and what they ask of them.
    Row::new(
        INVOKE_BROKER_TO_RESET_OFFSET,
        Leader,
        (GroupAndTopic, &[Update]),
        in_turn!(offset_admin::reset_offset),
    ),
    Row::new(CLONE_GROUP_OFFSET, Leader, (GroupAndTopic, &[Update]), in_turn!(offset_admin::clone_offsets)),
    Row::new(GET_CONSUMER_RUNNING_INFO, Any, (Group, &[Get]), later!(relay::running_info)),
    Row::new(CONSUME_MESSAGE_DIRECTLY, Any, (GroupAndTopic, &[Sub]), later!(relay::consume_directly)),
    Row::new(
        INVOKE_BROKER_TO_GET_CONSUMER_STATUS,
        Any,
        (GroupAndTopic, &[Get]),
        later!(relay::consumer_status),
    ),
    Row::new(GET_CONSUMER_CONNECTION_LIST, Any, (Group, &[Get]), at_once!(group_codes::consumer_connection)),
    Row::new(
        GET_PRODUCER_CONNECTION_LIST,
        Any,
        (Cluster, &[Get]),
        at_once!(group_codes::producer_connection),
    ),
    Row::new(GET_ALL_PRODUCER_INFO, Any, (Cluster, &[Get]), in_turn!(group_codes::all_producers, node)),
    Row::new(GET_CONSUME_STATS, Leader, (GroupAndTopic, &[Get]), in_turn!(group_codes::consume_stats)),
    Row::new(
        GET_BROKER_CONSUME_STATS,
        Leader,
        (Cluster, &[Get]),
        in_turn!(group_codes::broker_consume_stats),
    ),
    Row::new(QUERY_TOPIC_CONSUME_BY_WHO, Any, (Topic, &[Get]), at_once!(group_codes::groups_of_topic)),
    Row::new(QUERY_TOPICS_BY_CONSUMER, Any, (Group, &[Get]), at_once!(group_codes::topics_of_group)),
    Row::new(
        QUERY_SUBSCRIPTION_BY_CONSUMER,
        Any,
        (GroupAndTopic, &[Get]),
        at_once!(group_codes::subscription),
    ),
    Row::new(
        QUERY_CONSUME_TIME_SPAN,
        Leader,
        (GroupAndTopic, &[Get]),
        in_turn!(group_codes::consume_time_span),
    ),
    // The broker.
    Row::new(GET_BROKER_RUNTIME_INFO, Any, (Cluster, &[Get]), at_once!(stats_codes::runtime_info, node)),
    Row::new(GET_TOPIC_STATS_INFO, Any, (Topic, &[Get]), in_turn!(stats_codes::topic_stats)),
    Row::new(GET_BROKER_CONFIG, Any, (Cluster, &[Get]), at_once!(stats_codes::broker_config, node)),
    Row::new(
        UPDATE_BROKER_CONFIG,
        Any,
        (Cluster, &[Update]),
        at_once!(stats_codes::update_broker_config, command),
    ),
    Row::new(
        GET_SYSTEM_TOPIC_LIST_FROM_BROKER,
        Any,
        (Nothing, &[]),
        at_once!(stats_codes::system_topics, node),
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/requests.md");

    fn document() -> String {
        let mut out = String::from(
            "# Requests\n\n\
             The requests of RocketMQ's remoting protocol that this broker knows, made from the table in \
             `front/src/requests.rs`. Every other code is refused with code 3 and its name. *Served by*: the group's \
             leader, the member that a consumer group reads from, or any member from what it knows itself; a member that \
             may not serve it answers code 14 and who leads, or passes it on. *Right*: what access control of RocketMQ \
             5.x asks for; a send to a group's retry topic asks for Sub on the group instead. *Answer*: at once; in turn, before the connection's next request is looked at; later, \
             while the connection goes on.\n\n\
             | code | name | served by | right | answer | body, bytes at most |\n\
             |---|---|---|---|---|---|\n",
        );
        for row in REQUESTS {
            let served_by = match (row.served_by, row.otherwise) {
                (Leader, Otherwise::PassOn) => "leader; passed on",
                (Leader, Otherwise::Refuse) => "leader",
                (Reader, _) => "reader",
                (Any, _) => "any",
            };
            let answer = match row.handler {
                Handler::Send | Handler::GiveBack => "when a majority has it",
                Handler::Pull => "when there are messages, or in time",
                Handler::AtOnce(_) => "at once",
                Handler::InTurn(_) => "in turn",
                Handler::Later(_) => "later",
                Handler::Not(why) => why,
            };
            let (resource, actions) = row.right;
            let actions: Vec<_> = actions.iter().map(|action| format!("{action:?}")).collect();
            let right = match resource {
                Nothing => "none".to_owned(),
                resource => format!("{resource:?} {}", actions.join(" or ")),
            };
            let body = row.body_max.map(|bytes| bytes.to_string()).unwrap_or_default();
            out +=
                &format!("| {} | {} | {served_by} | {right} | {answer} | {body} |\n", row.code, row.name());
        }
        out
    }

    #[test]
    fn every_code_has_one_row_and_a_name() {
        let codes: BTreeSet<_> = REQUESTS.iter().map(|row| row.code).collect();
        assert_eq!(codes.len(), REQUESTS.len());
        assert!(REQUESTS.iter().all(|row| row.name() != "unnamed"));
    }

    #[test]
    fn a_code_without_a_row_is_refused_by_name() {
        let refusal = row(GET_TIMER_METRICS).err().unwrap();
        assert_eq!(refusal.remark, " request type 61 not supported (GET_TIMER_METRICS)");
        assert_eq!(row(99_999).err().unwrap().remark, " request type 99999 not supported");
    }

    /// `cargo test write_the_document -- --ignored` writes it anew.
    #[test]
    fn the_document_says_what_the_table_says() {
        let written = std::fs::read_to_string(DOCUMENT).unwrap_or_default();
        assert!(
            written == document(),
            "docs/requests.md is another: cargo test write_the_document -- --ignored"
        );
    }

    #[test]
    #[ignore = "writes the document"]
    fn write_the_document() {
        std::fs::write(DOCUMENT, document()).unwrap();
    }
}
