//! Sending messages.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use raftmq_message::batch::BatchMessage;
use raftmq_message::id::UniqueKeys;
use raftmq_message::properties::{self, names};
use raftmq_message::topic::{AUTO_CREATE_TOPIC, RETRY_PREFIX, validate_group, validate_topic};
use raftmq_remoting::body::MessageQueue;
use raftmq_remoting::encode::write_send_request;
use raftmq_remoting::header::{SendHeader, SendResponse};
use raftmq_remoting::{Command, Serialization};
use tokio::time::Instant;

use crate::client::{Client, LOOK_EVERY, Tries};
use crate::error::{ClientError, SendError, SendOutcome};
use crate::hooks::{Hooks, SendMessageContext, SendMessageHook};
use crate::message::Message;
use crate::route::{Routed, TopicRoute};
use crate::send_result::{SendResult, SendStatus};

/// The brokers' default limit for a body, a batch's included.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Sends messages to topics. Cheap to share behind a reference: as many sends as one likes may be awaited at a time.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use raftmq_client::{Client, ClientConfig, Message, Producer};
///
/// let client = Client::new(ClientConfig::new("127.0.0.1:9876;127.0.0.1:9877;127.0.0.1:9878"));
/// let producer = Producer::new(client, "orders-service")?;
/// let sent = producer.send(&Message::new("Orders", "order 1").with_keys("1").with_tags("new")).await?;
/// println!("{} is at {} of queue {}", sent.message_id, sent.queue_offset, sent.queue.queue_id);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Producer {
    client: Client,
    group: String,
    keys: UniqueKeys,
    next_queue: AtomicUsize,
    try_timeout: Duration,
    send_timeout: Duration,
    hooks: Hooks<dyn SendMessageHook>,
}

/// What is sent: one message, or a batch in one body.
struct Parcel<'a> {
    topic: &'a str,
    flag: i32,
    body: &'a [u8],
    properties: Cow<'a, str>,
    message_id: String,
    is_batch: bool,
    reconsume_times: i32,
    max_reconsume_times: Option<i32>,
}

impl Producer {
    /// A producer of a group, with the client's timeouts.
    pub fn new(client: Client, group: impl Into<String>) -> Result<Self, ClientError> {
        let group = group.into();
        validate_group(&group).map_err(|error| ClientError::Invalid(error.to_string()))?;
        let (ip, world) = (client.config().local_ip(), &client.config().world);
        let salt = world.random.number();
        let (try_timeout, send_timeout) = (client.config().try_timeout, client.config().request_timeout);
        // Half of the random number is enough to tell producers apart; so is half for where to start.
        let keys = UniqueKeys::new(ip, world.process_id, salt as u32);
        let next_queue = AtomicUsize::new((salt >> 32) as usize);
        let hooks = Hooks::default();
        client.instance().add_producer(&group);
        Ok(Self { client, group, keys, next_queue, try_timeout, send_timeout, hooks })
    }

    /// Sets how long one try may take, and how long a send may take with all its tries.
    #[must_use]
    pub fn with_timeouts(mut self, try_timeout: Duration, send_timeout: Duration) -> Self {
        (self.try_timeout, self.send_timeout) = (try_timeout, send_timeout);
        self
    }

    /// Adds a hook that is called around every send but one-way ones.
    pub fn register_send_message_hook(&self, hook: Arc<dyn SendMessageHook>) {
        tracing::debug!(group = self.group, hook = hook.name(), "hook registered");
        self.hooks.register(hook);
    }

    /// The producer's group.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Sends a message to the topic's next queue and waits until it is stored. A failed try refreshes the route and is
    /// repeated until the time is over, so that a message may be stored twice; both then have the same message id.
    pub async fn send(&self, message: &Message) -> Result<SendResult, SendError> {
        self.send_one(message, None).await
    }

    /// As [`Producer::send`], to a queue of the caller's choice.
    pub async fn send_to(&self, message: &Message, queue: &MessageQueue) -> Result<SendResult, SendError> {
        if queue.topic != message.topic {
            let reason = format!("a message to {} for a queue of {}", message.topic, queue.topic);
            return Err(never_tried(ClientError::Invalid(reason)));
        }
        self.send_one(message, Some(queue)).await
    }

    async fn send_one(
        &self,
        message: &Message,
        queue: Option<&MessageQueue>,
    ) -> Result<SendResult, SendError> {
        let parcel = self.parcel(message).map_err(never_tried)?;
        self.deliver_hooked(parcel, std::slice::from_ref(message), queue).await
    }

    /// Sends messages of one topic to its next queue, where they are stored one behind the other.
    pub async fn send_batch(&self, messages: &[Message]) -> Result<SendResult, SendError> {
        let (body, message_id) = self.batch(messages).map_err(never_tried)?;
        let topic = &messages[0].topic;
        let parcel = Parcel {
            topic,
            flag: 0,
            body: &body,
            properties: Cow::Borrowed(""),
            message_id,
            is_batch: true,
            reconsume_times: 0,
            max_reconsume_times: None,
        };
        self.deliver_hooked(parcel, messages, None).await
    }

    /// Sends a message without waiting for an answer: it may be lost without anyone noticing.
    pub async fn send_oneway(&self, message: &Message) -> Result<(), SendError> {
        let parcel = self.parcel(message).map_err(never_tried)?;
        let mut tries = Tries::new(self.send_timeout);
        let mut routed = None;
        loop {
            let attempt = self.try_oneway(&parcel, &tries, &mut routed).await;
            match self.after(attempt, &parcel, &mut tries, &mut routed).await? {
                Some(()) => return Ok(()),
                None => continue,
            }
        }
    }

    /// A key that no other message or batch has.
    pub(crate) fn unique_key(&self) -> String {
        self.keys.next(self.client.now_ms()).to_string()
    }

    fn parcel<'a>(&self, message: &'a Message) -> Result<Parcel<'a>, ClientError> {
        check_topic(&message.topic)?;
        check_body(message.body.len())?;
        let message_id = self.message_id(message);
        let mut properties = message.properties_with_id(&message_id);
        let (mut reconsume_times, mut max_reconsume_times) = (0, None);
        if message.topic.starts_with(RETRY_PREFIX) {
            // What is a property for the consumer that returns a message is a field of the request.
            reconsume_times = take_number(&mut properties, names::RECONSUME_TIME).unwrap_or(0);
            max_reconsume_times = take_number(&mut properties, names::MAX_RECONSUME_TIMES);
        }
        let Message { topic, body, flag, .. } = message;
        Ok(Parcel {
            topic,
            flag: *flag,
            body,
            properties: Cow::Owned(properties),
            message_id,
            is_batch: false,
            reconsume_times,
            max_reconsume_times,
        })
    }

    fn message_id(&self, message: &Message) -> String {
        message.property(names::UNIQ_KEY).map_or_else(|| self.unique_key(), str::to_owned)
    }

    /// The body of a batch and the ids of its messages.
    fn batch(&self, messages: &[Message]) -> Result<(Bytes, String), ClientError> {
        let first =
            messages.first().ok_or_else(|| ClientError::Invalid("a batch without messages".to_owned()))?;
        check_topic(&first.topic)?;
        if let Some(other) = messages.iter().find(|message| message.topic != first.topic) {
            let reason = format!("a batch for the topics {} and {}", first.topic, other.topic);
            return Err(ClientError::Invalid(reason));
        }
        let mut body = BytesMut::new();
        let mut ids = Vec::with_capacity(messages.len());
        for message in messages {
            let id = self.message_id(message);
            let properties = message.properties_with_id(&id);
            BatchMessage { flag: message.flag, body: &message.body, properties: &properties }
                .encode_into(&mut body)
                .map_err(|problem| ClientError::Invalid(format!("batch message {}: {problem}", ids.len())))?;
            check_body(body.len())?;
            ids.push(id);
        }
        Ok((body.freeze(), ids.join(",")))
    }

    /// As [`Producer::deliver`], with the hooks around it.
    async fn deliver_hooked(
        &self,
        parcel: Parcel<'_>,
        messages: &[Message],
        queue: Option<&MessageQueue>,
    ) -> Result<SendResult, SendError> {
        if self.hooks.is_empty() {
            return self.deliver(parcel, queue).await;
        }
        let message_id = parcel.message_id.clone();
        let context = SendMessageContext {
            producer_group: &self.group,
            messages,
            message_id: &message_id,
            queue,
            begin_timestamp_ms: self.client.now_ms(),
        };
        self.hooks.each(|hook| hook.send_message_before(&context));
        let began = Instant::now();
        let outcome = self.deliver(parcel, queue).await;
        let cost = began.elapsed();
        self.hooks.each(|hook| hook.send_message_after(&context, outcome.as_ref(), cost));
        outcome
    }

    /// Tries until the parcel is stored or the time is over.
    async fn deliver(
        &self,
        parcel: Parcel<'_>,
        queue: Option<&MessageQueue>,
    ) -> Result<SendResult, SendError> {
        let mut tries = Tries::new(self.send_timeout);
        let mut routed = None;
        loop {
            let attempt = self.try_deliver(&parcel, queue, &tries, &mut routed).await;
            if let Some(result) = self.after(attempt, &parcel, &mut tries, &mut routed).await? {
                return Ok(result);
            }
        }
    }

    /// What follows a try: its result, or after a failure worth another try a new route and nothing.
    async fn after<T>(
        &self,
        attempt: Result<T, ClientError>,
        parcel: &Parcel<'_>,
        tries: &mut Tries,
        routed: &mut Option<Routed>,
    ) -> Result<Option<T>, SendError> {
        let error = match attempt {
            Ok(done) => return Ok(Some(done)),
            Err(error) => error,
        };
        let mut next = tries.failed(error).await;
        if next.is_ok() {
            let after = routed.as_ref().map_or(0, |routed| routed.lookup);
            let refreshed = self.client.refreshed(parcel.topic, after, true, tries).await;
            next = refreshed.map(|route| *routed = route);
        }
        next.map(|()| None).map_err(|source| SendError {
            outcome: if tries.may_have_been_executed { SendOutcome::Unknown } else { SendOutcome::NotStored },
            tries: tries.failed,
            source,
        })
    }

    async fn try_deliver(
        &self,
        parcel: &Parcel<'_>,
        queue: Option<&MessageQueue>,
        tries: &Tries,
        routed: &mut Option<Routed>,
    ) -> Result<SendResult, ClientError> {
        let deadline = Instant::now() + tries.bound(self.try_timeout);
        let left = || deadline.saturating_duration_since(Instant::now());
        let Routed { route, lookup } = self.route(parcel.topic, tries, routed).await?;
        let (broker_name, queue_id) = match queue {
            Some(queue) => (queue.broker_name.as_str(), queue.queue_id),
            None => self.next_queue(parcel.topic, &route)?,
        };
        let addr = leader(parcel.topic, &route, broker_name)?;
        let connection = self.client.connection_within(addr, left()).await?;
        let header = self.header(parcel, broker_name, queue_id);
        let exchange = connection.exchange(left(), |opaque, out| {
            write_send_request(out, Serialization::Json, opaque, false, &header, parcel.body)
        });
        let answer = tokio::select! {
            answer = exchange => answer?,
            moved = self.client.leader_moved(parcel.topic, broker_name, addr, lookup, true, LOOK_EVERY) => {
                return Err(moved);
            }
        };
        read_answer(parcel, broker_name, addr, answer)
    }

    async fn try_oneway(
        &self,
        parcel: &Parcel<'_>,
        tries: &Tries,
        routed: &mut Option<Routed>,
    ) -> Result<(), ClientError> {
        let timeout = tries.bound(self.try_timeout);
        let Routed { route, .. } = self.route(parcel.topic, tries, routed).await?;
        let (broker_name, queue_id) = self.next_queue(parcel.topic, &route)?;
        let addr = leader(parcel.topic, &route, broker_name)?;
        let connection = self.client.connection_within(addr, timeout).await?;
        let header = self.header(parcel, broker_name, queue_id);
        let encode = |opaque, out: &mut BytesMut| {
            write_send_request(out, Serialization::Json, opaque, true, &header, parcel.body)
        };
        Ok(connection.send_oneway(timeout, encode).await?)
    }

    async fn route(
        &self,
        topic: &str,
        tries: &Tries,
        routed: &mut Option<Routed>,
    ) -> Result<Routed, ClientError> {
        if let Some(routed) = routed {
            return Ok(routed.clone());
        }
        let lookup = tokio::time::timeout(tries.left(), self.client.routes().get_for_sending(topic)).await;
        let found =
            lookup.map_err(|_| ClientError::NameServer { reason: "no answer in time".to_owned() })??;
        Ok(routed.insert(found).clone())
    }

    fn next_queue<'r>(&self, topic: &str, route: &'r TopicRoute) -> Result<(&'r str, i32), ClientError> {
        let n = self.next_queue.fetch_add(1, Ordering::Relaxed);
        let (broker_name, queue_id) = route.nth_writable(n).ok_or_else(|| ClientError::Unroutable {
            topic: topic.to_owned(),
            what: "queue with a leader that can be written to".to_owned(),
        })?;
        // A route holds at most 2^16 queues for each broker name.
        Ok((broker_name, queue_id as i32))
    }

    fn header<'a>(&'a self, parcel: &'a Parcel<'_>, broker_name: &'a str, queue_id: i32) -> SendHeader<'a> {
        SendHeader {
            producer_group: Cow::Borrowed(&self.group),
            topic: Cow::Borrowed(parcel.topic),
            default_topic: Cow::Borrowed(AUTO_CREATE_TOPIC),
            default_topic_queue_nums: i32::try_from(self.client.config().default_topic_queues)
                .unwrap_or(i32::MAX),
            queue_id,
            sys_flag: 0,
            born_timestamp_ms: self.client.now_ms(),
            flag: parcel.flag,
            properties: Cow::Borrowed(&parcel.properties),
            reconsume_times: parcel.reconsume_times,
            unit_mode: false,
            max_reconsume_times: parcel.max_reconsume_times,
            batch: parcel.is_batch,
            broker_name: Some(Cow::Borrowed(broker_name)),
        }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.client.instance().remove_producer(&self.group);
    }
}

fn read_answer(
    parcel: &Parcel<'_>,
    broker_name: &str,
    addr: &str,
    answer: Command,
) -> Result<SendResult, ClientError> {
    let Some(status) = SendStatus::from_code(answer.code) else {
        return Err(ClientError::refused(addr, answer));
    };
    let fields = SendResponse::decode(&answer).map_err(|error| ClientError::header(addr, &error))?;
    Ok(SendResult {
        status,
        message_id: parcel.message_id.clone(),
        offset_message_id: fields.msg_id.into_owned(),
        queue: MessageQueue {
            broker_name: broker_name.to_owned(),
            queue_id: fields.queue_id,
            topic: parcel.topic.to_owned(),
        },
        queue_offset: fields.queue_offset,
    })
}

fn leader<'r>(topic: &str, route: &'r TopicRoute, broker_name: &str) -> Result<&'r str, ClientError> {
    route.leader(broker_name).ok_or_else(|| ClientError::Unroutable {
        topic: topic.to_owned(),
        what: format!("leader for broker {broker_name}"),
    })
}

/// Takes a property that is a number out of a list.
fn take_number(properties: &mut String, name: &str) -> Option<i32> {
    let number = properties::get(properties, name)?.parse().ok();
    *properties = properties::remove(properties, name);
    number
}

fn never_tried(source: ClientError) -> SendError {
    SendError { outcome: SendOutcome::NotStored, tries: 0, source }
}

fn check_topic(topic: &str) -> Result<(), ClientError> {
    validate_topic(topic).map_err(|error| ClientError::Invalid(error.to_string()))
}

fn check_body(len: usize) -> Result<(), ClientError> {
    match len {
        0 => Err(ClientError::Invalid("a message without a body".to_owned())),
        len if len > BODY_BYTES_MAX => {
            Err(ClientError::Invalid(format!("a body of {len} bytes is over the limit of {BODY_BYTES_MAX}")))
        }
        _ => Ok(()),
    }
}
