//! Pulling: what a request may see, whether it waits, and its answer.
//!
//! What a pull may see is looked up when it comes and again whenever a held one is looked at, as all of it may have changed
//! in between: the topic, its queues and permission, the group's settings, its subscription, who leads.

use std::sync::Arc;

use bytes::BytesMut;
use raftmq_broker::settings::check_group_name;
use raftmq_broker::state::{SubscriptionGroup, Topic};
use raftmq_broker::{Error, Reader};
use raftmq_message::topic::is_system_group;
use raftmq_remoting::body::perm;
use raftmq_remoting::codes::response;
use raftmq_remoting::encode::write_pull_response_header;
use raftmq_remoting::header::{PullHeader, PullResponse, pull_flag};
use raftmq_remoting::{Command, Serialization};
use raftmq_store::{LogSlice, Store};

use super::channel::Channel;
use super::filter::{Filter, FilterError};
use super::inquiry;
use super::limits::{
    HOLD_MAX, PULL_BYTES_MAX, PULL_MESSAGES_MAX, PULL_OUTPUT_BYTES, PULL_TURN_WORK, SEND_AWAY_HOLD,
};
use super::node::Node;
use super::reply::Refusal;
use super::scan::{Found, PullStatus, find};

/// A pull that was found to be allowed.
#[derive(Clone, Debug)]
pub(crate) struct PullRequest {
    pub(crate) opaque: i32,
    pub(crate) serialization: Serialization,
    pub(crate) group: Arc<SubscriptionGroup>,
    pub(crate) topic: Arc<Topic>,
    pub(crate) queue_id: u32,
    /// Below 0 only if the client asks for it.
    pub(crate) offset: i64,
    pub(crate) max_messages: usize,
    pub(crate) max_bytes: usize,
    pub(crate) filter: Filter,
    /// The version of its subscription that the client knows of; `None` where the pull has brought its filter along.
    pub(crate) sub_version: Option<i64>,
}

/// Handles a pull. Its answer is put into the channel's output, now or when messages arrive; the caller flushes.
/// `before_waiting` is called before anything is waited for: what came before this pull has to go on.
pub(crate) async fn handle(
    node: &Arc<Node>,
    channel: &Arc<Channel>,
    command: &Command,
    before_waiting: impl FnMut(),
) -> Result<(), Refusal> {
    match serve(node, channel, command, before_waiting).await {
        Err(refusal)
            if refusal.code == response::SUBSCRIPTION_NOT_LATEST
                && !command.is_oneway()
                && inquiry::wait(node, channel, command) =>
        {
            Ok(())
        }
        served => served.inspect_err(|refusal| trace(node, channel, command, refusal)),
    }
}

/// Leaves a trace of a refused pull if that is due to what its group subscribes to.
pub(crate) fn trace(node: &Node, channel: &Channel, command: &Command, refusal: &Refusal) {
    if let Ok(PullHeader { consumer_group, topic, sub_version, .. }) = PullHeader::decode(command) {
        trace_refusal(node, channel, (&consumer_group, &topic), sub_version, refusal);
    }
}

/// The same for a pull of a group from a topic, whose client knows of a version of the subscription.
pub(crate) fn trace_refusal(
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
    if let Some(before) = node.refusal_log.note(group, *code, node.now_ms()) {
        let known = node.clients.subscription_version(group, topic);
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
    let group = match consumer_group(node, &header.consumer_group) {
        Some(group) => group,
        None => {
            node.leading()?;
            before_waiting();
            node.create_group(&header.consumer_group).await?
        }
    };
    let reader = node.replica.reader(&group)?;
    let request = request(node, command, &header, group)?;
    if reader == Reader::Leader {
        // Before a reset is taken up: what consumers have committed until then does not count.
        commit_offset(node, &header, request.queue_id)?;
    }
    let hold_ms = u64::try_from(header.suspend_timeout_ms).unwrap_or(0).min(HOLD_MAX.as_millis() as u64);
    let may_hold = header.sys_flag & pull_flag::SUSPEND != 0 && hold_ms > 0;
    if let Some(found) = reset(node, channel, &request, reader) {
        if reader == Reader::Follower && may_hold {
            send_away(node, channel, request, hold_ms);
            return Ok(());
        }
        answer(node, channel, &request, &found, reader);
        return Ok(());
    }
    let mut found = find(node.group.store(), &request);
    if reader == Reader::Leader && is_moved(&found, &request) {
        // Before it is sent elsewhere: it may know an offset from an acknowledgement.
        before_waiting();
        node.replica.settle().await;
        node.leading()?;
        found = find(node.group.store(), &request);
    }
    let work = found.work;
    if may_hold && found.may_wait(request.offset, reader) {
        node.long_poll.hold(node, channel, request, node.now_ms() + hold_ms);
    } else if may_hold && reader == Reader::Follower && is_moved(&found, &request) {
        send_away(node, channel, request, hold_ms);
    } else {
        answer(node, channel, &request, &found, reader);
    }
    if work > PULL_TURN_WORK || channel.waiting() > PULL_OUTPUT_BYTES {
        before_waiting();
        tokio::task::yield_now().await;
    }
    Ok(())
}

fn is_moved(found: &Found, request: &PullRequest) -> bool {
    found.code(request.offset) == response::PULL_OFFSET_MOVED
}

/// Has a follower's client ask the leader, after a moment: a client asks again at once, and asks here again while it
/// knows of no leader.
fn send_away(node: &Node, channel: &Arc<Channel>, request: PullRequest, hold_ms: u64) {
    let wait_ms = hold_ms.min(SEND_AWAY_HOLD.as_millis() as u64);
    node.long_poll.delay(node, channel, request, node.now_ms() + wait_ms);
}

/// The group's settings; tools' groups need no creation.
fn consumer_group(node: &Node, name: &str) -> Option<Arc<SubscriptionGroup>> {
    node.state
        .groups
        .get(name)
        .or_else(|| is_system_group(name).then(|| Arc::new(SubscriptionGroup::new(name))))
}

/// Where an operator wants the group to go on, if this client has not been told yet. A follower leaves that to the
/// leader.
pub(crate) fn reset(node: &Node, channel: &Channel, request: &PullRequest, reader: Reader) -> Option<Found> {
    let PullRequest { group, topic, queue_id, offset, .. } = request;
    let state = &node.state;
    let queue_of_group = (group.name.as_str(), topic.name.as_str(), *queue_id);
    let offset = match reader {
        Reader::Leader => node.offsets.take_reset(channel.id, queue_of_group, *offset),
        Reader::Follower => {
            state.offsets.pending_reset(&group.name, &topic.name, *queue_id).map(|reset| reset.offset)
        }
    }?;
    let queue = node.group.store().queue(&topic.name, *queue_id);
    let (min, max) = queue.map_or((0, 0), |queue| (queue.min_offset(), queue.max_offset()));
    Some(Found::nothing(PullStatus::OffsetReset, offset as i64, min as i64, max as i64))
}

/// Commits the offset that a pull brings along, if it does. It never falls that way: pulls may overtake each other.
fn commit_offset(node: &Node, header: &PullHeader<'_>, queue_id: u32) -> Result<(), Refusal> {
    if header.sys_flag & pull_flag::COMMIT_OFFSET == 0 {
        return Ok(());
    }
    let Ok(offset) = u64::try_from(header.commit_offset) else { return Ok(()) };
    let (group, topic) = (&header.consumer_group, &header.topic);
    if node.offsets.get(group, topic, queue_id).is_none_or(|committed| committed < offset) {
        check_group_name(group)?;
        // A commit that finds no room is made again with the next pull.
        let _ = node.offsets.commit(group, topic, queue_id, offset);
    }
    Ok(())
}

/// What a pull asks for, if that is allowed.
fn request(
    node: &Node,
    command: &Command,
    header: &PullHeader<'_>,
    group: Arc<SubscriptionGroup>,
) -> Result<PullRequest, Refusal> {
    let sub_version = (header.sys_flag & pull_flag::SUBSCRIPTION == 0).then_some(header.sub_version);
    let (topic, queue_id, filter) =
        check(node, &group, &header.topic, header.queue_id, || match sub_version {
            Some(version) => subscribed(node, &group, &header.topic, version),
            None => brought(node, header),
        })?;
    let max_bytes =
        header.max_msg_bytes.and_then(|bytes| usize::try_from(bytes).ok()).filter(|bytes| *bytes > 0);
    Ok(PullRequest {
        opaque: command.opaque,
        serialization: command.serialization,
        group,
        topic,
        queue_id,
        offset: header.queue_offset,
        max_messages: usize::try_from(header.max_msg_nums).unwrap_or(0).clamp(1, PULL_MESSAGES_MAX),
        max_bytes: max_bytes.map_or(PULL_BYTES_MAX, |bytes| bytes.min(PULL_BYTES_MAX)),
        filter,
        sub_version,
    })
}

/// Looks up anew what a pull that was held depends on. Returns as what it is served.
pub(crate) fn renew(node: &Node, request: &mut PullRequest) -> Result<Reader, Refusal> {
    let group = held_group(node, &request.group.name)?;
    let reader = node.replica.reader(&group)?;
    // Queue ids stay within 31 bits.
    let queue_id = request.queue_id as i32;
    let (topic, _, filter) =
        check(node, &group, &request.topic.name, queue_id, || match request.sub_version {
            Some(version) => subscribed(node, &group, &request.topic.name, version),
            None => Ok(request.filter.clone()),
        })?;
    (request.group, request.topic, request.filter) = (group, topic, filter);
    Ok(reader)
}

/// The settings of a group whose pull is held. If it is gone and may be made, those that the client's next pull makes it
/// with.
pub(crate) fn held_group(node: &Node, name: &str) -> Result<Arc<SubscriptionGroup>, Refusal> {
    let made_anew = || node.config.auto_create_group.then(|| Arc::new(SubscriptionGroup::new(name)));
    consumer_group(node, name).or_else(made_anew).ok_or_else(|| Error::NoGroup(name.to_owned()).into())
}

/// Checks what a pull asks for, in RocketMQ's order.
fn check(
    node: &Node,
    group: &SubscriptionGroup,
    name: &str,
    queue_id: i32,
    filter: impl FnOnce() -> Result<Filter, Refusal>,
) -> Result<(Arc<Topic>, u32, Filter), Refusal> {
    if !group.consume_enable {
        let remark = format!("subscription group no permission, {}", group.name);
        return Err(Refusal::new(response::NO_PERMISSION, remark));
    }
    let topic = existing_topic(node, name)?;
    if topic.perm & perm::READ as u32 == 0 {
        let remark = format!("the topic[{name}] pulling message is forbidden");
        return Err(Refusal::new(response::NO_PERMISSION, remark));
    }
    let read_queues = topic.read_queues;
    let queue = u32::try_from(queue_id).ok().filter(|id| *id < read_queues).ok_or_else(|| {
        Refusal::illegal(format!(
            "queueId[{queue_id}] is illegal, topic:[{name}] topicConfig.readQueueNums:[{read_queues}]"
        ))
    })?;
    Ok((topic, queue, filter()?))
}

/// A topic, or the answer that there is none.
pub(crate) fn existing_topic(node: &Node, name: &str) -> Result<Arc<Topic>, Refusal> {
    node.state.topics.get(name).ok_or_else(|| {
        Refusal::new(response::TOPIC_NOT_EXIST, format!("topic[{name}] not exist, apply first please!"))
    })
}

/// A queue's id, or the answer that the topic has no such queue.
pub(crate) fn existing_queue(topic: &Topic, queue_id: i32) -> Result<u32, Refusal> {
    let queues = topic.queues();
    u32::try_from(queue_id).ok().filter(|id| *id < queues).ok_or_else(|| {
        Refusal::illegal(format!("queueId[{queue_id}] is illegal, topic[{}] has {queues} queues", topic.name))
    })
}

/// The filter that a pull brings along.
fn brought(node: &Node, header: &PullHeader<'_>) -> Result<Filter, Refusal> {
    let expression = header.subscription.as_deref().unwrap_or_default();
    let filter = node.filters.parse(expression, header.expression_type.as_deref());
    filter.map_err(|error| unparsed(&error))
}

/// The filter that its group's heartbeats have brought, if that is as new as what the client knows of.
fn subscribed(node: &Node, group: &SubscriptionGroup, topic: &str, version: i64) -> Result<Filter, Refusal> {
    let absent = |what: &str| {
        Refusal::new(response::SUBSCRIPTION_NOT_EXIST, format!("the consumer's {what} not exist"))
    };
    let known = node.clients.subscription(&group.name, topic);
    let known = known.ok_or_else(|| absent("group info"))?;
    if known.broadcasting && !group.consume_broadcast_enable {
        let remark = format!("the consumer group[{}] can not consume by broadcast way", group.name);
        return Err(Refusal::new(response::NO_PERMISSION, remark));
    }
    let (latest, filter) = known.topic.ok_or_else(|| absent("subscription"))?;
    if latest < version {
        let remark = "the consumer's subscription not latest";
        return Err(Refusal::new(response::SUBSCRIPTION_NOT_LATEST, remark));
    }
    filter.map_err(|error| unparsed(&error))
}

/// The answer to a pull with an expression that cannot be used.
fn unparsed(error: &FilterError) -> Refusal {
    let remark = format!("parse the consumer's subscription failed: {error}");
    Refusal::new(response::SUBSCRIPTION_PARSE_FAILED, remark)
}

/// Appends the answer to the channel's output without sending it.
pub(crate) fn answer(node: &Node, channel: &Channel, request: &PullRequest, found: &Found, reader: Reader) {
    let mut fields = PullResponse {
        suggest_which_broker_id: node.replica.preferred_reader(&request.group) as i64,
        next_begin_offset: found.next_offset,
        min_offset: found.min_offset,
        max_offset: found.max_offset,
        topic_sys_flag: Some(request.topic.sys_flag as i32),
        group_sys_flag: Some(request.group.group_sys_flag),
        ..PullResponse::default()
    };
    let mut code = found.code(request.offset);
    let mut remark = found.status.name();
    let mut slices = records(node.group.store(), found);
    if reader == Reader::Follower && code == response::PULL_OFFSET_MOVED {
        // It may only lag: the leader knows the queue's ends.
        code = response::PULL_RETRY_IMMEDIATELY;
        fields.next_begin_offset = request.offset;
        fields.suggest_which_broker_id = 0;
    } else if found.status == PullStatus::Found && slices.is_none() {
        // Retention has taken the records between the lookup and here.
        (code, remark) = (response::PULL_RETRY_IMMEDIATELY, PullStatus::MessageWasRemoving.name());
        fields.next_begin_offset = request.offset;
    } else if !found.runs.is_empty() && channel.is_congested() {
        // The client, or all of them together, reads slower than it asks; it may ask again, but not at once where
        // others have to read first.
        let asks_at_once = !channel.are_all_congested();
        code = if asks_at_once { response::PULL_RETRY_IMMEDIATELY } else { response::FLOW_CONTROL };
        remark = "[BUSY]too many bytes wait to be sent";
        fields.next_begin_offset = request.offset;
        slices = None;
    }
    let slices = slices.unwrap_or_default();
    let len = slices.iter().map(|slice| slice.len()).sum();
    if slices.is_empty() {
        node.stats.missed();
    } else {
        node.stats.got(found.messages, len as u64);
    }
    channel.put(|out| write(out, request, code, remark, &fields, &slices, len));
}

/// The found records as slices of the log; `None` if some are not there any more.
fn records(store: &Store, found: &Found) -> Option<Vec<LogSlice>> {
    found.runs.iter().map(|(offset, len)| store.record(*offset, *len)).collect()
}

fn write(
    out: &mut BytesMut,
    request: &PullRequest,
    code: i32,
    remark: &str,
    fields: &PullResponse,
    slices: &[LogSlice],
    len: usize,
) {
    let (serialization, opaque) = (request.serialization, request.opaque);
    match write_pull_response_header(out, serialization, opaque, code, Some(remark), fields, len) {
        Ok(()) => slices.iter().for_each(|slice| out.extend_from_slice(slice)),
        Err(error) => {
            Refusal::error(format!("the messages cannot be sent: {error}")).write(out, serialization, opaque);
        }
    }
}
