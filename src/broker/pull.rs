//! Pulling: what a request may see, what it finds in a queue, and its answer.

use std::sync::Arc;

use bytes::BytesMut;
use raftmq_message::topic::is_system_group;
use raftmq_raft::{SubscriptionGroup, Topic};
use raftmq_remoting::body::perm;
use raftmq_remoting::codes::response;
use raftmq_remoting::encode::write_pull_response_header;
use raftmq_remoting::header::{PullHeader, PullResponse, pull_flag};
use raftmq_remoting::{Command, Serialization};
use raftmq_store::{LogSlice, Store, Unit};

use super::channel::Channel;
use super::filter::Filter;
use super::limits::{HOLD_MAX, PULL_BYTES_MAX, PULL_MESSAGES_MAX, PULL_SCAN_UNITS};
use super::node::Node;
use super::reply::Refusal;
use super::topics;

/// A pull that was found to be allowed.
#[derive(Clone, Debug)]
pub(crate) struct PullRequest {
    pub(crate) opaque: i32,
    pub(crate) serialization: Serialization,
    pub(crate) topic: String,
    pub(crate) queue_id: u32,
    /// Below 0 only if the client asks for it.
    pub(crate) offset: i64,
    pub(crate) max_messages: usize,
    pub(crate) max_bytes: usize,
    pub(crate) filter: Filter,
}

/// What came of looking for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PullStatus {
    Found,
    NoMatchedMessage,
    MessageWasRemoving,
    OffsetOverflowOne,
    OffsetOverflowBadly,
    OffsetTooSmall,
    NoMessageInQueue,
}

impl PullStatus {
    /// The name that answers carry as their remark.
    fn name(self) -> &'static str {
        match self {
            Self::Found => "FOUND",
            Self::NoMatchedMessage => "NO_MATCHED_MESSAGE",
            Self::MessageWasRemoving => "MESSAGE_WAS_REMOVING",
            Self::OffsetOverflowOne => "OFFSET_OVERFLOW_ONE",
            Self::OffsetOverflowBadly => "OFFSET_OVERFLOW_BADLY",
            Self::OffsetTooSmall => "OFFSET_TOO_SMALL",
            Self::NoMessageInQueue => "NO_MESSAGE_IN_QUEUE",
        }
    }
}

/// Messages found in a queue, or the reason why there are none.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) status: PullStatus,
    /// Where the next pull goes on.
    pub(crate) next_offset: i64,
    min_offset: i64,
    max_offset: i64,
    /// Physical offset and length of records that lie back to back.
    runs: Vec<(u64, u32)>,
    messages: u64,
}

impl Found {
    fn nothing(status: PullStatus, next_offset: i64, min_offset: i64, max_offset: i64) -> Self {
        Self { status, next_offset, min_offset, max_offset, runs: Vec::new(), messages: 0 }
    }

    /// The response code. An empty queue is "nothing new" to who is at its start and "moved" to who is elsewhere.
    pub(crate) fn code(&self, asked: i64) -> i32 {
        match self.status {
            PullStatus::Found => response::SUCCESS,
            PullStatus::NoMatchedMessage | PullStatus::MessageWasRemoving => response::PULL_RETRY_IMMEDIATELY,
            PullStatus::OffsetOverflowOne => response::PULL_NOT_FOUND,
            PullStatus::NoMessageInQueue if asked == 0 => response::PULL_NOT_FOUND,
            PullStatus::NoMessageInQueue | PullStatus::OffsetOverflowBadly | PullStatus::OffsetTooSmall => {
                response::PULL_OFFSET_MOVED
            }
        }
    }
}

/// Looks for messages. `units` gives the existing units of the queue from an offset on.
pub(crate) fn scan<I: Iterator<Item = Unit>>(
    request: &PullRequest,
    min_offset: u64,
    max_offset: u64,
    units: impl FnOnce(u64, usize) -> I,
) -> Found {
    // Queue offsets stay within 63 bits.
    let (min, max, asked) = (min_offset as i64, max_offset as i64, request.offset);
    let nothing = |status, next| Found::nothing(status, next, min, max);
    if max == 0 {
        return nothing(PullStatus::NoMessageInQueue, 0);
    }
    if asked < min {
        return nothing(PullStatus::OffsetTooSmall, min);
    }
    if asked == max {
        return nothing(PullStatus::OffsetOverflowOne, asked);
    }
    if asked > max {
        return nothing(PullStatus::OffsetOverflowBadly, max);
    }
    let mut found = nothing(PullStatus::NoMatchedMessage, asked);
    let mut bytes = 0;
    for unit in units(asked as u64, PULL_SCAN_UNITS) {
        if request.filter.wants(unit.tags_code) {
            let full = bytes + unit.size as usize > request.max_bytes && found.messages > 0;
            if full || found.messages as usize >= request.max_messages {
                break;
            }
            bytes += unit.size as usize;
            found.messages += 1;
            match found.runs.last_mut() {
                Some((start, len)) if *start + u64::from(*len) == unit.physical_offset => *len += unit.size,
                _ => found.runs.push((unit.physical_offset, unit.size)),
            }
        }
        found.next_offset += 1;
    }
    if found.messages > 0 {
        found.status = PullStatus::Found;
    } else if found.next_offset == asked {
        // The queue's start has moved since its offsets were read.
        found.status = PullStatus::MessageWasRemoving;
        found.next_offset = asked + 1;
    }
    found
}

/// Looks for messages in the store.
pub(crate) fn find(store: &Store, request: &PullRequest) -> Found {
    match store.queue(&request.topic, request.queue_id) {
        Some(queue) => scan(request, queue.min_offset(), queue.max_offset(), |from, max| {
            // A few at a time: most pulls stop early.
            const CHUNK: usize = 64;
            let chunks = (from..from.saturating_add(max as u64)).step_by(CHUNK);
            chunks.map(move |at| queue.read(at, CHUNK)).take_while(|units| !units.is_empty()).flatten()
        }),
        None => Found::nothing(PullStatus::NoMessageInQueue, 0, 0, 0),
    }
}

/// Appends the answer to the channel's output without sending it.
pub(crate) fn answer(node: &Node, channel: &Channel, request: &PullRequest, found: &Found) {
    let mut found_fields = PullResponse {
        suggest_which_broker_id: 0,
        next_begin_offset: found.next_offset,
        min_offset: found.min_offset,
        max_offset: found.max_offset,
        topic_sys_flag: Some(0),
        group_sys_flag: Some(0),
        ..PullResponse::default()
    };
    let mut code = found.code(request.offset);
    let mut remark = found.status.name();
    let mut slices = records(node.group.store(), found);
    if found.status == PullStatus::Found && slices.is_none() {
        // Retention has taken the records between the lookup and here.
        (code, remark) = (response::PULL_RETRY_IMMEDIATELY, PullStatus::MessageWasRemoving.name());
        found_fields.next_begin_offset = request.offset;
    } else if !found.runs.is_empty() && channel.is_congested() {
        // The client, or all of them together, reads slower than it asks; it may ask again, but not at once where
        // others have to read first.
        let asks_at_once = !channel.are_all_congested();
        code = if asks_at_once { response::PULL_RETRY_IMMEDIATELY } else { response::FLOW_CONTROL };
        remark = "[BUSY]too many bytes wait to be sent";
        found_fields.next_begin_offset = request.offset;
        slices = None;
    }
    let slices = slices.unwrap_or_default();
    let len = slices.iter().map(|slice| slice.len()).sum();
    if slices.is_empty() {
        node.stats.missed();
    } else {
        node.stats.got(found.messages, len as u64);
    }
    channel.put(|out| write(out, request, code, remark, &found_fields, &slices, len));
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

/// Handles a pull. Its answer is put into the channel's output, now or when messages arrive; the caller flushes.
pub(crate) async fn handle(
    node: &Arc<Node>,
    channel: &Arc<Channel>,
    command: &Command,
) -> Result<(), Refusal> {
    node.leading()?;
    let header = PullHeader::decode(command)?;
    let group = match consumer_group(node, &header.consumer_group) {
        Some(group) => group,
        None => {
            let group = topics::create_group(node, &header.consumer_group).await?;
            node.leading()?;
            group
        }
    };
    let request = check(node, command, &header, &group)?;
    if header.sys_flag & pull_flag::COMMIT_OFFSET != 0 && header.commit_offset >= 0 {
        topics::check_group_name(&header.consumer_group)?;
        let offset = header.commit_offset as u64;
        // A commit that finds no room is made again with the next pull.
        let _ = node.offsets.commit(
            node.group.metadata(),
            &header.consumer_group,
            &header.topic,
            request.queue_id,
            offset,
        );
    }
    let hold_ms = u64::try_from(header.suspend_timeout_ms).unwrap_or(0).min(HOLD_MAX.as_millis() as u64);
    let may_hold = header.sys_flag & pull_flag::SUSPEND != 0 && hold_ms > 0;
    let mut found = find(node.group.store(), &request);
    if found.code(request.offset) == response::PULL_OFFSET_MOVED {
        // Before it is sent elsewhere: it may know an offset from an acknowledgement.
        node.settle().await;
        node.leading()?;
        found = find(node.group.store(), &request);
    }
    if may_hold && found.code(request.offset) == response::PULL_NOT_FOUND {
        node.long_poll.hold(node, channel, request, node.now_ms() + hold_ms);
    } else {
        answer(node, channel, &request, &found);
    }
    Ok(())
}

/// The group's settings; tools' groups need no creation.
fn consumer_group(node: &Node, name: &str) -> Option<Arc<SubscriptionGroup>> {
    node.group
        .metadata()
        .group(name)
        .or_else(|| is_system_group(name).then(|| Arc::new(SubscriptionGroup::new(name))))
}

/// Checks what a pull asks for, in RocketMQ's order.
fn check(
    node: &Node,
    command: &Command,
    header: &PullHeader<'_>,
    group: &SubscriptionGroup,
) -> Result<PullRequest, Refusal> {
    let name = header.topic.as_ref();
    if !group.consume_enable {
        let remark = format!("subscription group no permission, {}", header.consumer_group);
        return Err(Refusal::new(response::NO_PERMISSION, remark));
    }
    let topic = existing_topic(node, name)?;
    if topic.perm & perm::READ as u32 == 0 {
        let remark = format!("the topic[{name}] pulling message is forbidden");
        return Err(Refusal::new(response::NO_PERMISSION, remark));
    }
    let queue_id = existing_queue(&topic, header.queue_id)?;
    let wanted = usize::try_from(header.max_msg_nums).unwrap_or(0).clamp(1, PULL_MESSAGES_MAX);
    let max_bytes =
        header.max_msg_bytes.and_then(|bytes| usize::try_from(bytes).ok()).filter(|bytes| *bytes > 0);
    Ok(PullRequest {
        opaque: command.opaque,
        serialization: command.serialization,
        topic: name.to_owned(),
        queue_id,
        offset: header.queue_offset,
        max_messages: wanted,
        max_bytes: max_bytes.map_or(PULL_BYTES_MAX, |bytes| bytes.min(PULL_BYTES_MAX)),
        filter: filter(node, header, group)?,
    })
}

/// A topic, or the answer that there is none.
pub(crate) fn existing_topic(node: &Node, name: &str) -> Result<Arc<Topic>, Refusal> {
    node.group.metadata().topic(name).ok_or_else(|| {
        Refusal::new(response::TOPIC_NOT_EXIST, format!("topic[{name}] not exist, apply first please!"))
    })
}

/// A queue's id, or the answer that the topic has no such queue.
pub(crate) fn existing_queue(topic: &Topic, queue_id: i32) -> Result<u32, Refusal> {
    let queues = topic.read_queues.max(topic.write_queues);
    u32::try_from(queue_id).ok().filter(|id| *id < queues).ok_or_else(|| {
        Refusal::error(format!("queueId[{queue_id}] is illegal, topic[{}] has {queues} queues", topic.name))
    })
}

/// The filter a pull brings, or the one its group's heartbeats have brought.
///
/// A member that has not heard of the group yet, or only of an older subscription, gives everything: clients filter by
/// tag once more, while an error would hold them up until their next heartbeat.
fn filter(node: &Node, header: &PullHeader<'_>, group: &SubscriptionGroup) -> Result<Filter, Refusal> {
    let expression_type = header.expression_type.as_deref();
    if header.sys_flag & pull_flag::SUBSCRIPTION != 0 {
        let expression = header.subscription.as_deref().unwrap_or_default();
        return Filter::parse(expression, expression_type).map_err(filter_refusal);
    }
    // Only to refuse what is not TAG.
    Filter::parse("", expression_type).map_err(filter_refusal)?;
    let known = node.clients.subscription(&header.consumer_group, &header.topic, header.sub_version);
    if known.broadcasting && !group.consume_broadcast_enable {
        let remark =
            format!("the consumer group[{}] can not consume by broadcast way", header.consumer_group);
        return Err(Refusal::new(response::NO_PERMISSION, remark));
    }
    Ok(known.filter.unwrap_or(Filter::All))
}

/// How a refused expression is answered.
pub(crate) fn filter_refusal(error: super::filter::FilterError) -> Refusal {
    let code = match error {
        super::filter::FilterError::Sql => response::SYSTEM_ERROR,
        _ => response::SUBSCRIPTION_PARSE_FAILED,
    };
    Refusal::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(offset: i64) -> PullRequest {
        PullRequest {
            opaque: 1,
            serialization: Serialization::Json,
            topic: "t".into(),
            queue_id: 0,
            offset,
            max_messages: 32,
            max_bytes: 1000,
            filter: Filter::All,
        }
    }

    /// Units of 100 bytes in pairs that lie back to back, with tags codes 0 and 1 in turn.
    fn units(from: u64, max: usize) -> impl Iterator<Item = Unit> {
        (from..10).take(max).map(|at| Unit {
            physical_offset: at / 2 * 1000 + at % 2 * 100,
            size: 100,
            tags_code: (at % 2) as i64,
        })
    }

    fn run(request: &PullRequest) -> Found {
        scan(request, 2, 10, units)
    }

    #[test]
    fn offsets_outside_the_queue_are_answered_as_rocketmq_does() {
        use PullStatus::{NoMessageInQueue, OffsetOverflowBadly, OffsetOverflowOne, OffsetTooSmall};
        for (asked, status, code, next) in [
            (1, OffsetTooSmall, 21, 2),
            (-1, OffsetTooSmall, 21, 2),
            (10, OffsetOverflowOne, 19, 10),
            (11, OffsetOverflowBadly, 21, 10),
        ] {
            let found = run(&request(asked));
            assert_eq!((found.status, found.code(asked), found.next_offset), (status, code, next), "{asked}");
        }
        for (asked, code) in [(0, 19), (5, 21)] {
            let found = scan(&request(asked), 0, 0, units);
            assert_eq!((found.status, found.code(asked), found.next_offset), (NoMessageInQueue, code, 0));
        }
    }

    #[test]
    fn records_that_lie_together_are_one_run() {
        let found = run(&PullRequest { max_messages: 3, ..request(2) });
        assert_eq!((found.status, found.next_offset, found.messages), (PullStatus::Found, 5, 3));
        assert_eq!(found.runs, [(1000, 200), (2000, 100)]);
    }

    #[test]
    fn bytes_are_bounded_but_for_the_first_message() {
        let found = run(&PullRequest { max_bytes: 250, ..request(2) });
        assert_eq!((found.messages, found.next_offset), (2, 4));
        let found = run(&PullRequest { max_bytes: 1, ..request(2) });
        assert_eq!((found.messages, found.next_offset), (1, 3));
    }

    #[test]
    fn a_filter_skips_and_always_goes_forward() {
        let only = |code| Filter::codes(std::iter::once(code));
        let found = run(&PullRequest { filter: only(1), max_messages: 2, ..request(2) });
        assert_eq!((found.messages, found.next_offset), (2, 7));
        assert_eq!(found.runs, [(1100, 100), (2100, 100)]);
        let found = run(&PullRequest { filter: only(7), ..request(2) });
        assert_eq!((found.status, found.code(2), found.next_offset), (PullStatus::NoMatchedMessage, 20, 10));
    }

    #[test]
    fn units_that_have_gone_meanwhile_are_stepped_over() {
        let found = scan(&request(3), 2, 10, |_, _| std::iter::empty());
        assert_eq!((found.status, found.code(3), found.next_offset), (PullStatus::MessageWasRemoving, 20, 4));
    }
}
