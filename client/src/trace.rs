//! Message trace: what was sent and consumed, when and how it went, as messages that RocketMQ's tools read.
//!
//! A dispatcher is a hook for producers and push consumers. Records are written in the background, many to a message, and
//! never hold up or fail what they tell about: when more come than can be sent away, they are counted and left out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use raftmq_message::id::OffsetMessageId;
use raftmq_message::properties::names;
use raftmq_message::topic::{TRACE_TOPIC, validate_group, validate_topic};
use raftmq_world::Clock;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::client::Client;
use crate::error::{ClientError, SendError};
use crate::hooks::{
    ConsumeMessageContext, ConsumeMessageHook, ConsumeReturnType, SendMessageContext, SendMessageHook,
};
use crate::message::{Message, MessageExt};
use crate::producer::Producer;
use crate::send_result::{SendResult, SendStatus};

/// Records that wait for being sent; the Java client's number of contexts.
const WAITING_MAX: usize = 2048;
/// Bytes of records in one message; the Java client's number.
const BODY_BYTES_MAX: usize = 128_000;
/// Bytes of keys of one message. A message's properties may take twice that.
const KEYS_BYTES_MAX: usize = 16 * 1024;
/// How long records may wait for others to go with them, as in the Java client.
const FLUSH_EVERY: Duration = Duration::from_secs(5);
/// How long a shutdown waits for the last records to be sent.
const SHUTDOWN_MAX: Duration = Duration::from_secs(5);
/// Bytes of a group's name that go into the name of the trace producer's group, which has a limit too.
const GROUP_BYTES_MAX: usize = 200;
/// The region of brokers that were not told theirs; Java's `DEFAULT_TRACE_REGION_ID`.
const REGION: &str = "DefaultRegion";
/// Ends a field.
const FIELD_END: char = '\u{1}';
/// Ends a record.
const RECORD_END: char = '\u{2}';

/// Java's `MessageType`, as far as a producer of this library makes such messages.
#[derive(Debug, Clone, Copy)]
enum MessageType {
    Normal = 0,
    Delay = 3,
}

/// Writes the trace of producers and push consumers to a topic. Java's `AsyncTraceDispatcher`, with
/// `SendMessageTraceHookImpl` and `ConsumeMessageTraceHookImpl`.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use raftmq_client::{AsyncTraceDispatcher, Client, ClientConfig, Message, Producer};
///
/// let client = Client::new(ClientConfig::new("127.0.0.1:9876"));
/// let trace = Arc::new(AsyncTraceDispatcher::new(client.clone(), "orders-service")?);
/// let producer = Producer::new(client, "orders-service")?;
/// producer.register_send_message_hook(trace.clone());
/// producer.send(&Message::new("Orders", "order 1")).await?;
/// trace.shutdown().await;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct AsyncTraceDispatcher {
    topic: String,
    clock: Arc<dyn Clock>,
    /// Nothing once it is shut down.
    records: Mutex<Option<mpsc::Sender<Record>>>,
    sender: Mutex<Option<JoinHandle<()>>>,
    discarded: AtomicU64,
}

/// One record and what it is to be found by.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    text: String,
    /// Separated by spaces.
    keys: String,
}

impl AsyncTraceDispatcher {
    /// A dispatcher to `RMQ_SYS_TRACE_TOPIC`. `group` is that of the producer or consumer. Call it inside a tokio
    /// runtime.
    pub fn new(client: Client, group: &str) -> Result<Self, ClientError> {
        Self::with_topic(client, group, TRACE_TOPIC)
    }

    /// A dispatcher to a topic of the caller's choice.
    pub fn with_topic(client: Client, group: &str, topic: &str) -> Result<Self, ClientError> {
        validate_group(group).map_err(|error| ClientError::Invalid(error.to_string()))?;
        validate_topic(topic).map_err(|error| ClientError::Invalid(error.to_string()))?;
        // A valid name is ASCII.
        let group = &group[..group.len().min(GROUP_BYTES_MAX)];
        let clock = client.config().world.clock.clone();
        let producer = Producer::new(client, format!("_INNER_TRACE_PRODUCER-{group}-{}", clock.now_ms()))?;
        let (records, waiting) = mpsc::channel(WAITING_MAX);
        let sender = tokio::spawn(send_records(producer, topic.to_owned(), waiting));
        Ok(Self {
            topic: topic.to_owned(),
            clock,
            records: Mutex::new(Some(records)),
            sender: Mutex::new(Some(sender)),
            discarded: AtomicU64::new(0),
        })
    }

    /// The records that were left out because too many waited.
    pub fn discarded(&self) -> u64 {
        self.discarded.load(Ordering::Relaxed)
    }

    /// Sends what waits, for 5 s at most. What is traced afterwards is left out.
    pub async fn shutdown(&self) {
        drop(self.records.lock().take());
        let sender = self.sender.lock().take();
        let Some(mut sender) = sender else { return };
        if tokio::time::timeout(SHUTDOWN_MAX, &mut sender).await.is_err() {
            sender.abort();
            tracing::warn!(topic = self.topic, "the last trace records could not be sent in time");
        }
    }

    fn append(&self, record: Record) {
        let sent = self.records.lock().as_ref().map(|records| records.try_send(record).is_ok());
        if sent == Some(false) && self.discarded.fetch_add(1, Ordering::Relaxed).is_power_of_two() {
            tracing::warn!(topic = self.topic, discarded = self.discarded(), "trace records are left out");
        }
    }

    /// Whether to trace messages of a topic: not those of the trace itself.
    fn traces(&self, topic: &str) -> bool {
        !topic.starts_with(&self.topic)
    }
}

impl SendMessageHook for AsyncTraceDispatcher {
    fn name(&self) -> &str {
        "SendMessageTraceHook"
    }

    /// Does nothing: all is known afterwards.
    fn send_message_before(&self, _: &SendMessageContext<'_>) {}

    fn send_message_after(
        &self,
        context: &SendMessageContext<'_>,
        outcome: Result<&SendResult, &SendError>,
        cost: Duration,
    ) {
        let offset_ids = outcome.map_or("", |result| result.offset_message_id.as_str());
        let mut offset_ids = offset_ids.split(',');
        for (message, id) in context.messages.iter().zip(context.message_id.split(',')) {
            if self.traces(&message.topic) {
                let offset_id = offset_ids.next().unwrap_or_default();
                self.append(published(context, message, id, offset_id, outcome, cost));
            }
        }
    }
}

impl ConsumeMessageHook for AsyncTraceDispatcher {
    fn name(&self) -> &str {
        "ConsumeMessageTraceHook"
    }

    fn consume_message_before(&self, context: &ConsumeMessageContext<'_>) {
        for message in traced(context) {
            if self.traces(&message.topic) {
                self.append(before(context, message));
            }
        }
    }

    fn consume_message_after(
        &self,
        context: &ConsumeMessageContext<'_>,
        outcome: ConsumeReturnType,
        cost: Duration,
    ) {
        for message in traced(context) {
            if self.traces(&message.topic) {
                self.append(after(context, message, outcome, cost, self.clock.now_ms()));
            }
        }
    }
}

/// The messages whose broker wants them traced: all but those it marks.
fn traced<'a>(context: &ConsumeMessageContext<'a>) -> impl Iterator<Item = &'a MessageExt> {
    context.messages.iter().filter(|message| message.property(names::TRACE_ON) != Some("false"))
}

/// `Pub`: a message was sent, or could not be.
fn published(
    context: &SendMessageContext<'_>,
    message: &Message,
    id: &str,
    offset_id: &str,
    outcome: Result<&SendResult, &SendError>,
    cost: Duration,
) -> Record {
    let [tags, keys] = [names::TAGS, names::KEYS].map(|name| message.property(name).unwrap_or_default());
    let store_host = OffsetMessageId::parse(offset_id).map(|id| id.store_host.to_string());
    let success = outcome.is_ok_and(|result| result.status == SendStatus::SendOk);
    let text = record(&[
        "Pub",
        &context.begin_timestamp_ms.to_string(),
        REGION,
        context.producer_group,
        &message.topic,
        id,
        tags,
        keys,
        &store_host.unwrap_or_default(),
        &message.body.len().to_string(),
        &cost.as_millis().to_string(),
        &(message_type(message) as u8).to_string(),
        offset_id,
        &success.to_string(),
    ]);
    Record { text, keys: joined(id, keys) }
}

/// `SubBefore`: a message is about to be consumed.
fn before(context: &ConsumeMessageContext<'_>, message: &MessageExt) -> Record {
    let (id, keys) = identity(message);
    let text = record(&[
        "SubBefore",
        &context.begin_timestamp_ms.to_string(),
        message.property(names::MSG_REGION).unwrap_or(REGION),
        context.consumer_group,
        context.request_id,
        &id,
        &message.reconsume_times.to_string(),
        keys,
    ]);
    Record { text, keys: joined(&id, keys) }
}

/// `SubAfter`: a message was consumed, or not.
fn after(
    context: &ConsumeMessageContext<'_>,
    message: &MessageExt,
    outcome: ConsumeReturnType,
    cost: Duration,
    now_ms: i64,
) -> Record {
    let (id, keys) = identity(message);
    // A batch has at least the message at hand.
    let cost_each = cost.as_millis() / context.messages.len().max(1) as u128;
    let text = record(&[
        "SubAfter",
        context.request_id,
        &id,
        &cost_each.to_string(),
        &outcome.is_success().to_string(),
        keys,
        &(outcome as u8).to_string(),
        &now_ms.to_string(),
        context.consumer_group,
    ]);
    Record { text, keys: joined(&id, keys) }
}

fn identity(message: &MessageExt) -> (String, &str) {
    let id = message.message_id.clone().unwrap_or_else(|| message.offset_message_id());
    (id, message.keys().unwrap_or_default())
}

fn message_type(message: &Message) -> MessageType {
    const DELAYING: [&str; 4] =
        [names::DELAY, names::TIMER_DELAY_SEC, names::TIMER_DELAY_MS, names::TIMER_DELIVER_MS];
    let delayed = DELAYING.iter().any(|name| message.property(name).is_some());
    if delayed { MessageType::Delay } else { MessageType::Normal }
}

fn record(fields: &[&str]) -> String {
    let mut text = fields.join(&String::from(FIELD_END));
    text.push(RECORD_END);
    text
}

fn joined(id: &str, keys: &str) -> String {
    if keys.is_empty() { id.to_owned() } else { format!("{id} {keys}") }
}

/// Sends records until there will be no more.
async fn send_records(producer: Producer, topic: String, mut records: mpsc::Receiver<Record>) {
    let mut next = None;
    loop {
        let first = match next.take() {
            Some(record) => record,
            None => match records.recv().await {
                Some(record) => record,
                None => return,
            },
        };
        let mut parcel = Parcel::new(first);
        next = parcel.fill(&mut records).await;
        let message = Message::new(topic.as_str(), parcel.body).with_keys(&parcel.keys);
        if let Err(error) = producer.send(&message).await {
            tracing::warn!(topic, %error, "trace records could not be sent");
        }
    }
}

/// Records that go into one message.
struct Parcel {
    body: String,
    keys: String,
}

impl Parcel {
    fn new(first: Record) -> Self {
        Self { body: first.text, keys: first.keys }
    }

    /// Adds records until the parcel is full, its time is over or there are no more. Gives back what did not fit.
    async fn fill(&mut self, records: &mut mpsc::Receiver<Record>) -> Option<Record> {
        let deadline = Instant::now() + FLUSH_EVERY;
        while let Ok(Some(record)) = tokio::time::timeout_at(deadline, records.recv()).await {
            if let Err(too_much) = self.add(record) {
                return Some(too_much);
            }
        }
        None
    }

    fn add(&mut self, record: Record) -> Result<(), Record> {
        let (body, keys) = (self.body.len() + record.text.len(), self.keys.len() + 1 + record.keys.len());
        if body > BODY_BYTES_MAX || keys > KEYS_BYTES_MAX {
            return Err(record);
        }
        self.body.push_str(&record.text);
        self.keys.push(' ');
        self.keys.push_str(&record.keys);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raftmq_remoting::body::MessageQueue;

    fn shown(record: &Record) -> String {
        record.text.replace(FIELD_END, "|").replace(RECORD_END, "#")
    }

    fn received() -> MessageExt {
        MessageExt {
            message_id: Some("M0".to_owned()),
            reconsume_times: 2,
            properties: "KEYS\u{1}k1 k2\u{2}MSG_REGION\u{1}R\u{2}".to_owned(),
            ..crate::message::tests::message(3, "hello")
        }
    }

    /// The field order is the one of the Java client's `TraceDataEncoder`, which 4.9.7 and 5.4.0 share.
    #[test]
    fn sends_are_written_as_java_writes_them() {
        let message = Message::new("T", "hello").with_tags("tg").with_keys("k1 k2");
        let context = SendMessageContext {
            producer_group: "G",
            messages: std::slice::from_ref(&message),
            message_id: "M0",
            queue: None,
            begin_timestamp_ms: 1000,
        };
        let host = "127.0.0.1:10911".parse().unwrap();
        let offset_id = OffsetMessageId { store_host: host, physical_offset: 3 }.format().to_string();
        let mut result = SendResult {
            status: SendStatus::SendOk,
            message_id: "M0".into(),
            offset_message_id: offset_id.clone(),
            queue: MessageQueue::default(),
            queue_offset: 0,
        };
        let cost = Duration::from_millis(7);
        let sent = published(&context, &message, "M0", &offset_id, Ok(&result), cost);
        let expected =
            format!("Pub|1000|DefaultRegion|G|T|M0|tg|k1 k2|127.0.0.1:10911|5|7|0|{offset_id}|true#");
        assert_eq!((shown(&sent), sent.keys.as_str()), (expected, "M0 k1 k2"));
        result.status = SendStatus::FlushDiskTimeout;
        let delayed = message.clone().with_delay_level(3);
        let sent = published(&context, &delayed, "M0", "no id", Ok(&result), cost);
        assert_eq!(shown(&sent), "Pub|1000|DefaultRegion|G|T|M0|tg|k1 k2||5|7|3|no id|false#");
    }

    #[test]
    fn consumptions_are_written_as_java_writes_them() {
        let messages = [received(), MessageExt { message_id: None, properties: String::new(), ..received() }];
        let queue = MessageQueue::default();
        let context = ConsumeMessageContext {
            consumer_group: "G",
            messages: &messages,
            queue: &queue,
            request_id: "RID",
            begin_timestamp_ms: 1000,
        };
        assert_eq!(shown(&before(&context, &messages[0])), "SubBefore|1000|R|G|RID|M0|2|k1 k2#");
        let done = after(&context, &messages[0], ConsumeReturnType::Failed, Duration::from_millis(15), 2000);
        assert_eq!(shown(&done), "SubAfter|RID|M0|7|false|k1 k2|4|2000|G#");
        let without = before(&context, &messages[1]);
        let offset_id = messages[1].offset_message_id();
        assert_eq!(shown(&without), format!("SubBefore|1000|DefaultRegion|G|RID|{offset_id}|2|#"));
        assert_eq!(without.keys, offset_id);
        let unwanted = [MessageExt { properties: "TRACE_ON\u{1}false\u{2}".into(), ..received() }];
        assert_eq!(traced(&ConsumeMessageContext { messages: &unwanted, ..context }).count(), 0);
    }

    #[test]
    fn a_parcel_has_an_end() {
        let record = |text: usize, keys: usize| Record { text: "t".repeat(text), keys: "k".repeat(keys) };
        let mut parcel = Parcel::new(record(BODY_BYTES_MAX - 10, 10));
        assert_eq!(parcel.add(record(11, 1)), Err(record(11, 1)));
        assert_eq!(parcel.add(record(10, 1)), Ok(()));
        let mut parcel = Parcel::new(record(10, KEYS_BYTES_MAX - 10));
        assert_eq!(parcel.add(record(1, 10)), Err(record(1, 10)));
        assert_eq!(parcel.add(record(1, 9)), Ok(()));
    }
}
