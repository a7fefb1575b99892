//! Asking a consumer what it subscribes to, where its pull knows of a newer version than its heartbeats have brought.
//!
//! Java's clients raise the version when the queues of a topic change and send a heartbeat then, which they leave out while
//! another is on its way to the other members. Every pull would be refused until the next heartbeat, up to 30 s later. The
//! older subscription is not served instead: that would lose what only the newer one wants. So the client is asked, over
//! its own connection, and what it answers counts as a heartbeat of its own; the pulls wait for that.
//!
//! Who is no member of its group here is not asked, as the answer does not say by which id it would be one; nor is who
//! lacks a subscription that another member's heartbeat has taken away, as the two would take turns at that each second.

use std::sync::Arc;
use std::time::Duration;

use raftmq_broker::clients::{Client, ConsumerData};
use raftmq_remoting::body::RunningSubscriptions;
use raftmq_remoting::codes::{request, response};
use raftmq_remoting::header::{ConsumerClientHeader, PullHeader};
use raftmq_remoting::{Command, fastjson};

use crate::channel::Channel;
use crate::described::subscription_from;
use crate::heartbeat;
use crate::inquiries::Added;
use crate::limits::{HEARTBEAT_BYTES_MAX, INQUIRY_TIMEOUT};
use crate::node::Node;
use crate::pull::{serve, trace};
use crate::relay::{VERSION_RUNNING_INFO, request_to_client};
use crate::reply::Refusal;

/// Handles a pull. Its answer is put into the channel's output, now or when messages arrive; the caller flushes.
/// `before_waiting` is called before anything is waited for: what came before this pull has to go on.
pub(crate) async fn pull(
    node: &Arc<Node>,
    channel: &Arc<Channel>,
    command: &Command,
    before_waiting: impl FnMut(),
) -> Result<(), Refusal> {
    match serve(node, channel, command, before_waiting).await {
        Err(refusal)
            if refusal.code == response::SUBSCRIPTION_NOT_LATEST
                && !command.is_oneway()
                && wait(node, channel, command) =>
        {
            Ok(())
        }
        served => served.inspect_err(|refusal| trace(node, channel, command, refusal)),
    }
}

/// Has a pull wait until its client has said what it subscribes to. Returns whether it does; otherwise it is to be
/// refused.
fn wait(node: &Arc<Node>, channel: &Arc<Channel>, command: &Command) -> bool {
    let Ok(header) = PullHeader::decode(command) else { return false };
    let group = header.consumer_group.to_string();
    let Some((client, _)) = node.broker.clients.member(&group, channel.id) else { return false };
    if client.version < VERSION_RUNNING_INFO {
        return false;
    }
    // A copy of what is needed of it, as its bytes are part of a larger buffer.
    let ext = PullHeader { subscription: None, expression_type: None, ..header }.to_ext();
    let pull = Command { ext, body: bytes::Bytes::new(), remark: None, ..command.clone() };
    match node.inquiries.add(channel.id, &group, pull, node.process.now_ms()) {
        Added::Full => return false,
        Added::Behind => {}
        Added::First(delay_ms) => {
            let node = node.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(delay_ms)).await;
                inquire(&node, &client, &group).await;
            });
        }
    }
    true
}

/// Asks a client, and serves what has waited for its answer, or refuses that.
async fn inquire(node: &Arc<Node>, client: &Client<Channel>, group: &str) {
    let channel = &client.connection;
    node.inquiries.asking(channel.id, group, node.process.now_ms());
    match ask(node, client, group).await {
        Ok(()) => tracing::debug!(group, client = %client.id, "a client was asked for its subscriptions"),
        Err(error) => {
            tracing::debug!(group, client = %client.id, error, "a client's subscriptions are not known")
        }
    }
    for pull in node.inquiries.take(channel.id, group) {
        let served = serve(node, channel, &pull, || channel.flush()).await;
        if let Err(refusal) = served {
            trace(node, channel, &pull, &refusal);
            channel.put(|out| refusal.write(out, pull.serialization, pull.opaque));
        }
    }
    channel.flush();
}

/// Asks a client what it subscribes to in a group, and takes that over.
async fn ask(node: &Node, client: &Client<Channel>, group: &str) -> Result<(), String> {
    let (consumer_group, client_id) = (group.to_owned(), client.id.to_string());
    let mut ext = ConsumerClientHeader { consumer_group, client_id, msg_id: None }.to_ext();
    ext.set("jstackEnable", "false");
    let question = request_to_client(request::GET_CONSUMER_RUNNING_INFO, ext);
    let answer =
        client.connection.call(question, INQUIRY_TIMEOUT).await.map_err(|error| error.to_string())?;
    let (code, len) = (answer.code, answer.body.len());
    if code != response::SUCCESS || len > HEARTBEAT_BYTES_MAX {
        return Err(format!("code {code} with {len} bytes: {}", answer.remark.unwrap_or_default()));
    }
    let told: RunningSubscriptions = fastjson::parse(&answer.body).map_err(|error| error.to_string())?;
    if told.subscription_set.is_empty() {
        return Err("it names none".to_owned());
    }
    // It may have left meanwhile.
    let member = node.broker.clients.member(group, client.connection.id).ok_or("it is no member any more")?;
    let subscriptions = told.subscription_set.iter().map(subscription_from).collect();
    let told = ConsumerData { subscriptions, ..member.1 };
    told.check().map_err(|error| error.to_string())?;
    heartbeat::join(node, &told, false, &member.0).map_err(|refusal| refusal.remark.into_owned())
}
