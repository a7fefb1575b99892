//! What operators want to know of a consumer, or have it do, and only the consumer can answer: asked over the
//! consumer's own connection and handed on.
//!
//! Any member answers: consumers send their heartbeats to each.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use raftmq_broker::clients::Client;
use raftmq_message::id::OffsetMessageId;
use raftmq_remoting::body::{ClientStatus, ConsumerStatus};
use raftmq_remoting::codes::{request, response};
use raftmq_remoting::command::language;
use raftmq_remoting::header::{ConsumerClientHeader, ConsumerStatusHeader};
use raftmq_remoting::{Command, Ext, fastjson};

use crate::calls::CallError;
use crate::channel::Channel;
use crate::limits::{CALL_TIMEOUT, STATUS_BYTES_MAX, STATUS_CALLS_MAX, STATUS_REQUESTS_MAX, STATUS_TIMEOUT};
use crate::node::Node;
use crate::reply::{Handled, Refusal, Reply};

/// The first version of clients (V3_1_8_SNAPSHOT) that answers 307 and 309.
pub(crate) const VERSION_RUNNING_INFO: i32 = 62;
/// The first version of clients (V3_0_7_SNAPSHOT) that answers 221.
const VERSION_STATUS: i32 = 28;

/// A request in a form that every client reads.
pub(crate) fn request_to_client(code: i32, ext: Ext) -> Command {
    let mut request = Command::request(code, ext);
    request.language = language::JAVA;
    request
}

/// 307: a consumer's running state.
pub(crate) async fn running_info(node: Arc<Node>, command: Command) -> Handled {
    let header = ConsumerClientHeader::decode(&command)?;
    ask(&node, &header, request_to_client(command.code, command.ext.clone())).await
}

/// 309: a consumer consumes a message, whoever else has or will.
pub(crate) async fn consume_directly(node: Arc<Node>, command: Command) -> Handled {
    let header = ConsumerClientHeader::decode(&command)?;
    let id = header.msg_id.as_deref().unwrap_or_default();
    let id = OffsetMessageId::parse(id).map_err(|error| Refusal::error(format!("msgId: {error}")))?;
    node.replica.settle().await;
    let missing = || {
        let remark = format!("can not find message by the offset, {}", id.physical_offset);
        Refusal::error(remark)
    };
    let record = node.replica.store().record_at(id.physical_offset).ok_or_else(missing)?;
    let mut ext = command.ext.clone();
    ext.set("brokerName", &node.config.broker_name);
    ask(&node, &header, request_to_client(command.code, ext).with_body(record)).await
}

/// Asks a member of a consumer group and hands its answer on.
async fn ask(node: &Node, header: &ConsumerClientHeader, request: Command) -> Handled {
    let (group, id) = (&header.consumer_group, &header.client_id);
    let client = node
        .broker
        .clients
        .consumer_client(group, id)
        .ok_or_else(|| Refusal::error(format!("The Consumer <{group}> <{id}> not online")))?;
    if client.version < VERSION_RUNNING_INFO {
        let remark = format!(
            "The Consumer <{id}> Version <{}> too low to finish, please upgrade it to V3_1_8_SNAPSHOT",
            client.version
        );
        return Err(Refusal::error(remark));
    }
    match client.connection.call(request, CALL_TIMEOUT).await {
        Ok(answer) if answer.code == response::SUCCESS => Ok(Reply { ext: answer.ext, body: answer.body }),
        Ok(answer) => Err(Refusal::new(answer.code, answer.remark.unwrap_or_default())),
        Err(error @ CallError::Timeout(_)) => Err(Refusal::new(
            response::CONSUME_MSG_TIMEOUT,
            format!("consumer <{group}> <{id}> Timeout: {error}"),
        )),
        Err(error) => Err(Refusal::error(format!("invoke consumer <{group}> <{id}> Exception: {error}"))),
    }
}

/// 223: how far each member of a consumer group is in its queues of a topic. Members that do not answer are left out.
pub(crate) async fn consumer_status(node: Arc<Node>, command: Command) -> Handled {
    let mut header = ConsumerStatusHeader::decode(&command)?;
    let _asking = node.process.status_requests.try_acquire().map_err(|_| {
        Refusal::busy(format!("{STATUS_REQUESTS_MAX} groups are being asked how far they are"))
    })?;
    let wanted = header.client_id.take().filter(|id| !id.trim().is_empty());
    let mut clients = node.broker.clients.consumer_clients(&header.group);
    if clients.is_empty() {
        let remark = format!("No Any Consumer online in the consumer group: [{}]", header.group);
        return Err(Refusal::error(remark));
    }
    clients.retain(|client| wanted.as_deref().is_none_or(|id| id == &*client.id));
    if let Some(old) = clients.iter().find(|client| client.version < VERSION_STATUS) {
        let remark = format!("the client does not support this feature. version={}", old.version);
        return Err(Refusal::error(remark));
    }
    let asking = clients.into_iter().map(|client| status_of(client, header.clone()));
    let mut answers = stream::iter(asking).buffer_unordered(STATUS_CALLS_MAX);
    let (mut status, mut bytes) = (ConsumerStatus::default(), 0);
    while let Some(answer) = answers.next().await {
        let Some((id, answer)) = answer else { continue };
        bytes += answer.len();
        if bytes > STATUS_BYTES_MAX {
            let remark = format!("the members' answers have more than {STATUS_BYTES_MAX} bytes");
            return Err(Refusal::error(remark));
        }
        match fastjson::parse::<ClientStatus>(&answer) {
            Ok(client) => drop(status.consumer_table.insert(id.to_string(), client.message_queue_table)),
            Err(error) => tracing::debug!(client = %id, %error, "an answer that cannot be read"),
        }
    }
    Reply::body(status.to_json().map_err(|error| Refusal::error(error.to_string()))?)
}

/// What a member answers, if it does.
async fn status_of(
    client: Client<Channel>,
    header: ConsumerStatusHeader,
) -> Option<(Arc<str>, bytes::Bytes)> {
    let request = request_to_client(request::GET_CONSUMER_STATUS_FROM_CLIENT, header.to_ext());
    match client.connection.call(request, STATUS_TIMEOUT).await {
        Ok(answer) if answer.code == response::SUCCESS => Some((client.id, answer.body)),
        Ok(answer) => {
            tracing::debug!(client = %client.id, code = answer.code, remark = ?answer.remark, "no status");
            None
        }
        Err(error) => {
            tracing::debug!(client = %client.id, %error, "no status");
            None
        }
    }
}
