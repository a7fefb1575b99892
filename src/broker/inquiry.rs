//! Asking a consumer what it subscribes to, where its pull knows of a newer version than its heartbeats have brought.
//!
//! Java's clients raise the version when the queues of a topic change and send a heartbeat then, which they leave out while
//! another is on its way to the other members. Every pull would be refused until the next heartbeat, up to 30 s later. The
//! older subscription is not served instead: that would lose what only the newer one wants. So the client is asked, over
//! its own connection, and what it answers counts as a heartbeat of its own; the pulls wait for that.
//!
//! Who is no member of its group here is not asked, as the answer does not say by which id it would be one; nor is who
//! lacks a subscription that another member's heartbeat has taken away, as the two would take turns at that each second.

use raftmq_world::hash::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use raftmq_broker::clients::{Client, ConsumerData};
use raftmq_remoting::body::RunningSubscriptions;
use raftmq_remoting::codes::{request, response};
use raftmq_remoting::header::{ConsumerClientHeader, PullHeader};
use raftmq_remoting::{Command, fastjson};

use super::channel::Channel;
use super::described::subscription_from;
use super::heartbeat;
use super::limits::{HEARTBEAT_BYTES_MAX, INQUIRIES_MAX, INQUIRY_GAP, INQUIRY_PULLS_MAX, INQUIRY_TIMEOUT};
use super::node::Node;
use super::pull;
use super::relay::{VERSION_RUNNING_INFO, request_to_client};

/// The clients that are asked or were lately.
#[derive(Default)]
pub(crate) struct Inquiries(Mutex<Table>);

#[derive(Default)]
struct Table {
    /// By connection and group.
    inquiries: HashMap<(u64, String), Inquiry>,
    /// Pulls that wait, over all of them.
    pulls: usize,
}

#[derive(Default)]
struct Inquiry {
    /// When the client may be asked again, in ms of the node's clock.
    not_before_ms: u64,
    /// What waits for the answer. Somebody sees to it where there is any.
    waiting: Vec<Command>,
}

/// What becomes of a pull that cannot be served as it is.
#[derive(Debug, PartialEq, Eq)]
enum Added {
    /// It waits with others.
    Behind,
    /// It is the first to wait; its client is to be asked, not before so many ms have passed.
    First(u64),
    Full,
}

impl Inquiries {
    fn add(&self, connection: u64, group: &str, pull: Command, now_ms: u64) -> Added {
        let table = &mut *self.0.lock();
        let key = (connection, group.to_owned());
        if table.pulls >= INQUIRY_PULLS_MAX {
            return Added::Full;
        }
        if table.inquiries.len() >= INQUIRIES_MAX && !table.inquiries.contains_key(&key) {
            table
                .inquiries
                .retain(|_, inquiry| !inquiry.waiting.is_empty() || inquiry.not_before_ms > now_ms);
            if table.inquiries.len() >= INQUIRIES_MAX {
                return Added::Full;
            }
        }
        let inquiry = table.inquiries.entry(key).or_default();
        inquiry.waiting.push(pull);
        table.pulls += 1;
        match inquiry.waiting.len() {
            1 => Added::First(inquiry.not_before_ms.saturating_sub(now_ms)),
            _ => Added::Behind,
        }
    }

    /// Notes that a client is being asked.
    fn asking(&self, connection: u64, group: &str, now_ms: u64) {
        if let Some(inquiry) = self.0.lock().inquiries.get_mut(&(connection, group.to_owned())) {
            inquiry.not_before_ms = now_ms + INQUIRY_GAP.as_millis() as u64;
        }
    }

    /// What has waited for a client's answer.
    fn take(&self, connection: u64, group: &str) -> Vec<Command> {
        let mut table = self.0.lock();
        let inquiry = table.inquiries.get_mut(&(connection, group.to_owned()));
        let waiting = inquiry.map(|inquiry| std::mem::take(&mut inquiry.waiting)).unwrap_or_default();
        table.pulls -= waiting.len();
        waiting
    }
}

/// Has a pull wait until its client has said what it subscribes to. Returns whether it does; otherwise it is to be
/// refused.
pub(crate) fn wait(node: &Arc<Node>, channel: &Arc<Channel>, command: &Command) -> bool {
    let Ok(header) = PullHeader::decode(command) else { return false };
    let group = header.consumer_group.to_string();
    let Some((client, _)) = node.clients.member(&group, channel.id) else { return false };
    if client.version < VERSION_RUNNING_INFO {
        return false;
    }
    // A copy of what is needed of it, as its bytes are part of a larger buffer.
    let ext = PullHeader { subscription: None, expression_type: None, ..header }.to_ext();
    let pull = Command { ext, body: bytes::Bytes::new(), remark: None, ..command.clone() };
    match node.inquiries.add(channel.id, &group, pull, node.now_ms()) {
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
    node.inquiries.asking(channel.id, group, node.now_ms());
    match ask(node, client, group).await {
        Ok(()) => tracing::debug!(group, client = %client.id, "a client was asked for its subscriptions"),
        Err(error) => {
            tracing::debug!(group, client = %client.id, error, "a client's subscriptions are not known")
        }
    }
    for pull in node.inquiries.take(channel.id, group) {
        let served = pull::serve(node, channel, &pull, || channel.flush()).await;
        if let Err(refusal) = served {
            pull::trace(node, channel, &pull, &refusal);
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
    let member = node.clients.member(group, client.connection.id).ok_or("it is no member any more")?;
    let subscriptions = told.subscription_set.iter().map(subscription_from).collect();
    let told = ConsumerData { subscriptions, ..member.1 };
    told.check().map_err(|error| error.to_string())?;
    heartbeat::join(node, &told, false, &member.0).map_err(|refusal| refusal.remark.into_owned())
}

#[cfg(test)]
mod tests {
    use raftmq_remoting::Ext;

    use super::*;

    fn add(inquiries: &Inquiries, connection: u64, now_ms: u64) -> Added {
        inquiries.add(connection, "g", Command::request(11, Ext::new()), now_ms)
    }

    #[test]
    fn a_client_is_asked_once_a_second_for_all_that_waits() {
        let inquiries = Inquiries::default();
        let gap = INQUIRY_GAP.as_millis() as u64;
        assert_eq!(add(&inquiries, 1, 5), Added::First(0));
        inquiries.asking(1, "g", 5);
        assert_eq!((add(&inquiries, 1, 6), add(&inquiries, 2, 6)), (Added::Behind, Added::First(0)));
        assert_eq!(inquiries.take(1, "g").len(), 2);
        assert_eq!(add(&inquiries, 1, 105), Added::First(gap - 100));
        assert_eq!((inquiries.take(1, "g").len(), inquiries.take(1, "g").len()), (1, 0));
        assert_eq!(add(&inquiries, 1, 6 + gap), Added::First(0));
    }

    #[test]
    fn clients_and_their_pulls_are_bounded_and_forgotten() {
        let inquiries = Inquiries::default();
        for connection in 0..INQUIRIES_MAX as u64 {
            assert_eq!(add(&inquiries, connection, 0), Added::First(0));
            inquiries.asking(connection, "g", 0);
        }
        assert_eq!(add(&inquiries, u64::MAX, 0), Added::Full);
        while inquiries.0.lock().pulls < INQUIRY_PULLS_MAX {
            assert_eq!(add(&inquiries, 0, 0), Added::Behind);
        }
        assert_eq!(add(&inquiries, 0, 0), Added::Full);
        for connection in 0..INQUIRIES_MAX as u64 {
            inquiries.take(connection, "g");
        }
        let later = INQUIRY_GAP.as_millis() as u64;
        assert_eq!(add(&inquiries, u64::MAX, later - 1), Added::Full, "they were asked just now");
        assert_eq!(add(&inquiries, u64::MAX, later), Added::First(0));
        let table = inquiries.0.lock();
        assert_eq!((table.inquiries.len(), table.pulls), (1, 1));
    }
}
