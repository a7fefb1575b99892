//! Pulling messages, and offsets of queues and groups.

use std::borrow::Cow;
use std::time::Duration;

use raftmq_message::topic::validate_group;
use raftmq_remoting::body::MessageQueue;
use raftmq_remoting::codes::{request, response};
use raftmq_remoting::header::{
    OffsetResponse, PullHeader, PullResponse, QueryConsumerOffsetHeader, QueueHeader, SearchOffsetHeader,
    UpdateConsumerOffsetHeader, pull_flag,
};
use raftmq_remoting::{Command, Ext};

use crate::client::Client;
use crate::error::ClientError;
use crate::message::MessageExt;

/// What a pull came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullStatus {
    /// There are messages.
    Found,
    /// The queue ends here.
    NoNewMsg,
    /// There are messages, but none with such a tag.
    NoMatchedMsg,
    /// The offset is outside of the queue; go on at the next one given.
    OffsetIllegal,
}

impl PullStatus {
    /// What a code says; nothing if the pull was refused.
    pub(crate) fn from_code(code: i32) -> Option<Self> {
        match code {
            response::SUCCESS => Some(Self::Found),
            response::PULL_NOT_FOUND => Some(Self::NoNewMsg),
            response::PULL_RETRY_IMMEDIATELY => Some(Self::NoMatchedMsg),
            response::PULL_OFFSET_MOVED => Some(Self::OffsetIllegal),
            _ => None,
        }
    }
}

/// The answer to a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullResult {
    /// What it came to.
    pub status: PullStatus,
    /// Where to go on.
    pub next_begin_offset: i64,
    /// The first offset the queue still has.
    pub min_offset: i64,
    /// The offset the queue's next message will get.
    pub max_offset: i64,
    /// The messages, in the order of their offsets.
    pub messages: Vec<MessageExt>,
}

/// How to pull.
#[derive(Debug, Clone, Copy)]
pub struct PullOptions<'a> {
    /// Tags joined by `||`, or `*` for all.
    pub subscription: &'a str,
    /// Most messages to get. Brokers have a limit of their own.
    pub max_messages: u32,
    /// How long the broker may wait for a message if there is none.
    pub suspend: Duration,
}

impl Default for PullOptions<'_> {
    /// All tags, 32 messages, no waiting.
    fn default() -> Self {
        Self { subscription: "*", max_messages: 32, suspend: Duration::ZERO }
    }
}

/// Reads queues at offsets of the caller's choice, and keeps its group's offsets at the broker.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use raftmq_client::{Client, ClientConfig, PullConsumer, PullOptions};
///
/// let client = Client::new(ClientConfig::new("127.0.0.1:9876"));
/// let consumer = PullConsumer::new(client.clone(), "auditors")?;
/// for queue in client.fetch_queues("Orders").await? {
///     let mut offset = consumer.query_offset(&queue).await?.unwrap_or(0);
///     loop {
///         let pulled = consumer.pull(&queue, offset, PullOptions::default()).await?;
///         if pulled.messages.is_empty() {
///             break;
///         }
///         offset = pulled.next_begin_offset;
///         consumer.update_offset(&queue, offset).await?;
///     }
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct PullConsumer {
    client: Client,
    group: String,
}

impl PullConsumer {
    /// A consumer of a group.
    pub fn new(client: Client, group: impl Into<String>) -> Result<Self, ClientError> {
        let group = group.into();
        validate_group(&group).map_err(|error| ClientError::Invalid(error.to_string()))?;
        Ok(Self { client, group })
    }

    /// Pulls messages of a queue from an offset on.
    pub async fn pull(
        &self,
        queue: &MessageQueue,
        offset: i64,
        options: PullOptions<'_>,
    ) -> Result<PullResult, ClientError> {
        let suspend = if options.suspend.is_zero() { 0 } else { pull_flag::SUSPEND };
        let header = PullHeader {
            consumer_group: Cow::Borrowed(&self.group),
            topic: Cow::Borrowed(&queue.topic),
            queue_id: queue.queue_id,
            queue_offset: offset,
            max_msg_nums: i32::try_from(options.max_messages).unwrap_or(i32::MAX),
            sys_flag: pull_flag::SUBSCRIPTION | suspend,
            commit_offset: 0,
            suspend_timeout_ms: i64::try_from(options.suspend.as_millis()).unwrap_or(i64::MAX),
            subscription: Some(Cow::Borrowed(options.subscription)),
            sub_version: 0,
            expression_type: Some(Cow::Borrowed("TAG")),
            max_msg_bytes: None,
        };
        let request = Command::request(request::PULL_MESSAGE, header.to_ext());
        let config = self.client.config();
        let (try_timeout, timeout) =
            (config.try_timeout + options.suspend, config.request_timeout + options.suspend);
        let (addr, answer) = self.client.call_queue(queue, &request, try_timeout, timeout).await?;
        let Some(status) = PullStatus::from_code(answer.code) else {
            return Err(ClientError::refused(&addr, answer));
        };
        let fields = PullResponse::decode(&answer).map_err(|error| ClientError::header(&addr, &error))?;
        let messages = MessageExt::read_all(&answer.body, &queue.broker_name)
            .map_err(|error| ClientError::Malformed { addr, reason: error.to_string() })?;
        Ok(PullResult {
            status,
            next_begin_offset: fields.next_begin_offset,
            min_offset: fields.min_offset,
            max_offset: fields.max_offset,
            messages,
        })
    }

    /// The offset the group has stored for a queue, if it has.
    pub async fn query_offset(&self, queue: &MessageQueue) -> Result<Option<i64>, ClientError> {
        self.client.committed_offset(&self.group, queue, Some(false)).await
    }

    /// Stores the group's offset for a queue.
    pub async fn update_offset(&self, queue: &MessageQueue, offset: i64) -> Result<(), ClientError> {
        self.client.commit_offset(&self.group, queue, offset).await
    }
}

impl Client {
    /// The offset the next message of a queue will get.
    pub async fn max_offset(&self, queue: &MessageQueue) -> Result<i64, ClientError> {
        self.bound_offset(queue, request::GET_MAX_OFFSET).await
    }

    /// The offset of the first message a queue still has.
    pub async fn min_offset(&self, queue: &MessageQueue) -> Result<i64, ClientError> {
        self.bound_offset(queue, request::GET_MIN_OFFSET).await
    }

    /// The smallest offset of a queue whose message was stored at that time, in ms since 1970, or later.
    pub async fn search_offset(&self, queue: &MessageQueue, timestamp_ms: i64) -> Result<i64, ClientError> {
        let header = SearchOffsetHeader {
            topic: queue.topic.clone(),
            queue_id: queue.queue_id,
            timestamp: timestamp_ms,
            boundary_type: None,
        };
        let (addr, answer) = self.ask(queue, request::SEARCH_OFFSET_BY_TIMESTAMP, header.to_ext()).await?;
        read_offset(&addr, answer)
    }

    /// The offset that brokers keep of a group for a queue; nothing if there is none. Where `set_zero_if_not_found` is
    /// absent a broker answers 0 for a young queue then.
    pub(crate) async fn committed_offset(
        &self,
        group: &str,
        queue: &MessageQueue,
        set_zero_if_not_found: Option<bool>,
    ) -> Result<Option<i64>, ClientError> {
        let header = QueryConsumerOffsetHeader {
            consumer_group: group.to_owned(),
            topic: queue.topic.clone(),
            queue_id: queue.queue_id,
            set_zero_if_not_found,
        };
        let (addr, answer) = self.ask(queue, request::QUERY_CONSUMER_OFFSET, header.to_ext()).await?;
        match answer.code {
            response::QUERY_NOT_FOUND => Ok(None),
            _ => read_offset(&addr, answer).map(Some),
        }
    }

    /// Has brokers keep the offset of a group for a queue.
    pub(crate) async fn commit_offset(
        &self,
        group: &str,
        queue: &MessageQueue,
        offset: i64,
    ) -> Result<(), ClientError> {
        let header = UpdateConsumerOffsetHeader {
            consumer_group: group.to_owned(),
            topic: queue.topic.clone(),
            queue_id: queue.queue_id,
            commit_offset: offset,
        };
        let (addr, answer) = self.ask(queue, request::UPDATE_CONSUMER_OFFSET, header.to_ext()).await?;
        if answer.code == response::SUCCESS { Ok(()) } else { Err(ClientError::refused(&addr, answer)) }
    }

    async fn bound_offset(&self, queue: &MessageQueue, code: i32) -> Result<i64, ClientError> {
        let header =
            QueueHeader { topic: queue.topic.clone(), queue_id: queue.queue_id, committed: Some(true) };
        let (addr, answer) = self.ask(queue, code, header.to_ext()).await?;
        read_offset(&addr, answer)
    }

    pub(crate) async fn ask(
        &self,
        queue: &MessageQueue,
        code: i32,
        ext: Ext,
    ) -> Result<(String, Command), ClientError> {
        let config = self.config();
        let request = Command::request(code, ext);
        self.call_queue(queue, &request, config.try_timeout, config.request_timeout).await
    }
}

fn read_offset(addr: &str, answer: Command) -> Result<i64, ClientError> {
    if answer.code != response::SUCCESS {
        return Err(ClientError::refused(addr, answer));
    }
    let fields = OffsetResponse::decode(&answer).map_err(|error| ClientError::header(addr, &error))?;
    Ok(fields.offset)
}
