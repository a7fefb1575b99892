//! 11 and 361: pulls. Their headers, and the answers to those that are held too.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::BytesMut;
use raftmq_broker::Error;
use raftmq_broker::pull::{Outcome, Pull, Pulled, Served, Waiter, Wanted};
use raftmq_broker::state::SubscriptionGroup;
use raftmq_remoting::codes::response;
use raftmq_remoting::encode::write_pull_response_header;
use raftmq_remoting::header::{PullHeader, PullResponse, pull_flag};
use raftmq_remoting::{Command, Serialization};

use crate::channel::Channel;
use crate::limits::{PULL_OUTPUT_BYTES, PULL_TURN_WORK};
use crate::node::Node;
use crate::reply::Refusal;

/// Leaves a trace of a refused pull if that is due to what its group subscribes to.
pub(crate) fn trace(node: &Node, channel: &Channel, command: &Command, refusal: &Refusal) {
    if let Ok(PullHeader { consumer_group, topic, sub_version, .. }) = PullHeader::decode(command) {
        trace_refusal(node, channel, (&consumer_group, &topic), sub_version, refusal);
    }
}

/// The same for a pull of a group from a topic, whose client knows of a version of the subscription.
fn trace_refusal(
    node: &Node,
    channel: &Channel,
    (group, topic): (&str, &str),
    version: i64,
    refusal: &Refusal,
) {
    let Refusal { code, remark } = refusal;
    if ![response::SUBSCRIPTION_NOT_EXIST, response::SUBSCRIPTION_NOT_LATEST].contains(code) {
        return;
    }
    if let Some(before) = node.refusal_log.note(group, *code, node.process.now_ms()) {
        let known = node.broker.clients.subscription_version(group, topic);
        let client = channel.peer;
        tracing::warn!(group, topic, %client, version, ?known, code, %remark, before, "a pull is refused");
    }
}

/// Serves a pull as what is known of its group allows.
pub(crate) async fn serve(
    node: &Arc<Node>,
    channel: &Arc<Channel>,
    command: &Command,
    mut before_waiting: impl FnMut(),
) -> Result<(), Refusal> {
    let header = PullHeader::decode(command)?;
    let group = match node.broker.pulls.group(&header.consumer_group) {
        Some(group) => group,
        None => {
            node.leading()?;
            before_waiting();
            node.create_group(&header.consumer_group).await?
        }
    };
    let answering = Answering { opaque: command.opaque, serialization: command.serialization };
    let waiter = || -> Box<dyn Waiter> {
        Box::new(PullWaiter {
            node: Arc::downgrade(node),
            channel: channel.clone(),
            answering,
            version: header.sub_version,
        })
    };
    let (served, work) =
        node.broker.pulls.pull(&pull(channel, &header, group), &mut before_waiting, waiter).await?;
    if let Served::Answered(pulled) = served {
        answering.answer(node, channel, pulled);
    }
    if work > PULL_TURN_WORK || channel.waiting() > PULL_OUTPUT_BYTES {
        before_waiting();
        tokio::task::yield_now().await;
    }
    Ok(())
}

fn pull<'a>(channel: &Channel, header: &'a PullHeader<'_>, group: Arc<SubscriptionGroup>) -> Pull<'a> {
    let is = |flag| header.sys_flag & flag != 0;
    let hold_ms = if is(pull_flag::SUSPEND) { header.suspend_timeout_ms } else { 0 };
    Pull {
        connection: channel.id,
        group,
        topic: &header.topic,
        queue_id: header.queue_id,
        offset: header.queue_offset,
        max_messages: header.max_msg_nums,
        max_bytes: header.max_msg_bytes,
        wanted: if is(pull_flag::SUBSCRIPTION) {
            Wanted::Brought {
                expression: header.subscription.as_deref().unwrap_or_default(),
                expression_type: header.expression_type.as_deref(),
            }
        } else {
            Wanted::Subscribed { version: header.sub_version }
        },
        commit_offset: is(pull_flag::COMMIT_OFFSET).then_some(header.commit_offset),
        hold: Duration::from_millis(u64::try_from(hold_ms).unwrap_or(0)),
    }
}

/// A pull that is held for a client of this protocol.
struct PullWaiter {
    /// It holds the pulls that are held, and is not to be held by them.
    node: Weak<Node>,
    channel: Arc<Channel>,
    answering: Answering,
    version: i64,
}

impl Waiter for PullWaiter {
    fn connection(&self) -> u64 {
        self.channel.id
    }

    fn is_gone(&self) -> bool {
        self.channel.is_closed()
    }

    fn answer(&self, pulled: Pulled) {
        if let Some(node) = self.node.upgrade() {
            self.answering.answer(&node, &self.channel, pulled);
        }
    }

    fn refuse(&self, group: &str, topic: &str, error: Error) {
        let Some(node) = self.node.upgrade() else { return };
        let refusal = Refusal::from(error);
        trace_refusal(&node, &self.channel, (group, topic), self.version, &refusal);
        let Answering { opaque, serialization } = self.answering;
        self.channel.put(|out| refusal.write(out, serialization, opaque));
    }

    fn flush(&self) {
        self.channel.flush();
    }
}

/// What has to be known to answer a pull.
#[derive(Clone, Copy)]
struct Answering {
    opaque: i32,
    serialization: Serialization,
}

impl Answering {
    /// Appends the answer to the channel's output without sending it.
    fn answer(self, node: &Node, channel: &Channel, mut pulled: Pulled) {
        let mut code = match pulled.outcome {
            Outcome::Found => response::SUCCESS,
            Outcome::NothingNew => response::PULL_NOT_FOUND,
            Outcome::AskAgain => response::PULL_RETRY_IMMEDIATELY,
            Outcome::Moved => response::PULL_OFFSET_MOVED,
        };
        let mut remark = pulled.status.name();
        if !pulled.records.is_empty() && channel.is_congested() {
            // The client, or all of them together, reads slower than it asks; it may ask again, but not at once where
            // others have to read first.
            let asks_at_once = !channel.are_all_congested();
            code = if asks_at_once { response::PULL_RETRY_IMMEDIATELY } else { response::FLOW_CONTROL };
            remark = "[BUSY]too many bytes wait to be sent";
            pulled.next_offset = pulled.asked;
            pulled.records.clear();
        }
        let len = pulled.records.iter().map(|slice| slice.len()).sum();
        if pulled.records.is_empty() {
            node.stats.missed();
        } else {
            node.stats.got(pulled.messages, len as u64);
        }
        channel.put(|out| self.write(out, code, remark, &pulled, len));
    }

    fn write(self, out: &mut BytesMut, code: i32, remark: &str, pulled: &Pulled, len: usize) {
        let Self { opaque, serialization } = self;
        let fields = PullResponse {
            suggest_which_broker_id: pulled.suggested_reader as i64,
            next_begin_offset: pulled.next_offset,
            min_offset: pulled.min_offset,
            max_offset: pulled.max_offset,
            topic_sys_flag: Some(pulled.topic_sys_flag as i32),
            group_sys_flag: Some(pulled.group_sys_flag),
            ..PullResponse::default()
        };
        match write_pull_response_header(out, serialization, opaque, code, Some(remark), &fields, len) {
            Ok(()) => pulled.records.iter().for_each(|slice| out.extend_from_slice(slice)),
            Err(error) => {
                Refusal::error(format!("the messages cannot be sent: {error}")).write(
                    out,
                    serialization,
                    opaque,
                );
            }
        }
    }
}
