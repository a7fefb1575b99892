//! A lane: one message after the other to one queue, each tried until it is stored or given up.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use raftmq_client::{Client, ClientError, Routed};
use raftmq_message::id::OffsetMessageId;
use raftmq_remoting::Command;
use raftmq_remoting::codes::{request, response};
use raftmq_remoting::header::{SendHeader, SendResponse};
use tokio::time::{Instant, sleep, timeout};

use crate::body::Stamp;
use crate::history::{Ack, Lane, Sent};
use crate::pulse::Pulse;

/// The group that clients see.
pub const BROKER_NAME: &str = "broker-a";
/// The first pause between tries; each further one is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// The longest pause between tries.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// What is sent, and how.
#[derive(Debug, Clone)]
pub struct WorkloadOptions {
    /// As clients take them.
    pub name_servers: String,
    /// Made if it is not there.
    pub topic: String,
    /// Its queues. Lanes take them in turn.
    pub queues: u32,
    /// TCP connections to the leader.
    pub connections: u32,
    /// Messages in flight on each connection.
    pub lanes: u32,
    /// Length of every body, at least [`crate::body::STAMP_BYTES`].
    pub body_bytes: usize,
    /// Properties of every message, as brokers store them.
    pub properties: String,
    /// A number that tells this run's messages from all others.
    pub run: u64,
    /// For one try.
    pub try_timeout: Duration,
    /// Until a message is given up.
    pub message_timeout: Duration,
    /// Between a message and the next of the same lane.
    pub pause: Duration,
}

impl WorkloadOptions {
    /// Eight connections with four lanes each.
    pub fn new(name_servers: String, run: u64) -> Self {
        Self {
            name_servers,
            topic: "ClusterTest".to_owned(),
            queues: 8,
            connections: 8,
            lanes: 4,
            body_bytes: 128,
            properties: String::new(),
            run,
            // Under the time an election takes, so that little of a failover is spent waiting for a leader that hangs.
            try_timeout: Duration::from_millis(300),
            message_timeout: Duration::from_secs(60),
            pause: Duration::ZERO,
        }
    }
}

/// What runs a lane.
#[derive(Debug)]
pub struct LaneTask {
    number: u32,
    queue: u32,
    client: Client,
    options: WorkloadOptions,
    pulse: Arc<Pulse>,
    stop: Arc<AtomicBool>,
    routed: Option<Routed>,
}

/// What is known after a try.
enum Try {
    Acknowledged {
        queue_offset: u64,
        physical_offset: u64,
    },
    /// It has not stored the message, and never will.
    NotStored,
    /// It may have stored the message, or may yet.
    Unknown,
}

impl LaneTask {
    /// A lane of this number, over a client that it may share.
    pub fn new(
        number: u32,
        client: Client,
        options: &WorkloadOptions,
        pulse: Arc<Pulse>,
        stop: Arc<AtomicBool>,
    ) -> Self {
        let queue = number % options.queues;
        Self { number, queue, client, options: options.clone(), pulse, stop, routed: None }
    }

    /// Sends until it is told to stop; its last message is finished.
    pub async fn run(mut self) -> Lane {
        let mut messages = Vec::new();
        while !self.stop.load(Ordering::Acquire) {
            messages.push(self.deliver(messages.len() as u64).await);
            if !self.options.pause.is_zero() {
                sleep(self.options.pause).await;
            }
        }
        Lane { queue: self.queue, messages }
    }

    /// Tries until the message is stored or its time is over.
    async fn deliver(&mut self, sequence: u64) -> Sent {
        let sent_us = self.pulse.now_us();
        let stamp = Stamp { run: self.options.run, lane: self.number, sequence, sent_us };
        let body = Bytes::from(stamp.body(self.options.body_bytes));
        let deadline = Instant::now() + self.options.message_timeout;
        let mut sent = Sent { sent_us, unknown_tries: 0, ack: None };
        let mut pause = PAUSE_MIN;
        loop {
            match self.attempt(&body).await {
                Try::Acknowledged { queue_offset, physical_offset } => {
                    let at_us = self.pulse.acknowledged(self.queue, queue_offset);
                    sent.ack = Some(Ack { queue_offset, physical_offset, at_us });
                    return sent;
                }
                Try::NotStored => {}
                Try::Unknown => sent.unknown_tries += 1,
            }
            if Instant::now() >= deadline {
                return sent;
            }
            self.refresh_route().await;
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn refresh_route(&mut self) {
        let after = self.routed.take().map_or(0, |routed| routed.lookup);
        let refreshed = self.client.routes().refresh(&self.options.topic, after, false);
        // Without an answer the next try looks the route up again.
        self.routed = timeout(self.options.try_timeout, refreshed).await.ok().and_then(Result::ok);
    }

    async fn attempt(&mut self, body: &Bytes) -> Try {
        let answer = match self.exchange(body).await {
            Ok(answer) => answer,
            Err(error) if error.may_have_been_executed() => return Try::Unknown,
            Err(_) => return Try::NotStored,
        };
        match answer.code {
            response::SUCCESS => self.read_ack(&answer),
            response::SYSTEM_BUSY | response::NO_PERMISSION | response::TOPIC_NOT_EXIST => Try::NotStored,
            _ => Try::Unknown,
        }
    }

    /// An acknowledgement that does not say where the message is counts as none.
    fn read_ack(&self, answer: &Command) -> Try {
        let Ok(fields) = SendResponse::decode(answer) else { return Try::Unknown };
        let physical_offset = OffsetMessageId::parse(&fields.msg_id).map(|id| id.physical_offset);
        match (u64::try_from(fields.queue_offset), physical_offset) {
            (Ok(queue_offset), Ok(physical_offset)) if fields.queue_id == self.queue as i32 => {
                Try::Acknowledged { queue_offset, physical_offset }
            }
            _ => Try::Unknown,
        }
    }

    async fn exchange(&mut self, body: &Bytes) -> Result<Command, ClientError> {
        let deadline = Instant::now() + self.options.try_timeout;
        let addr = self.leader(deadline).await?;
        let connection = self.client.connection_within(&addr, left(deadline)).await?;
        let header = SendHeader {
            producer_group: Cow::Borrowed("cluster-tests"),
            topic: Cow::Borrowed(&self.options.topic),
            default_topic: Cow::Borrowed("TBW102"),
            default_topic_queue_nums: 4,
            queue_id: self.queue as i32,
            sys_flag: 0,
            // Only its order of magnitude matters to a broker.
            born_timestamp_ms: (self.pulse.now_us() / 1000) as i64,
            flag: 0,
            properties: Cow::Borrowed(&self.options.properties),
            reconsume_times: 0,
            unit_mode: false,
            max_reconsume_times: None,
            batch: false,
            broker_name: Some(Cow::Borrowed(BROKER_NAME)),
        };
        let request = Command::request(request::SEND_MESSAGE_V2, header.to_ext()).with_body(body.clone());
        Ok(connection.call(request, left(deadline)).await?)
    }

    async fn leader(&mut self, deadline: Instant) -> Result<String, ClientError> {
        let topic = &self.options.topic;
        if self.routed.is_none() {
            let lookup = timeout(left(deadline), self.client.routes().get(topic)).await;
            let reason = "no name server answered in time".to_owned();
            self.routed = Some(lookup.map_err(|_| ClientError::NoRoute { topic: topic.clone(), reason })??);
        }
        let route = self.routed.as_ref().map(|routed| &routed.route);
        let leader = route.and_then(|route| route.leader(BROKER_NAME)).map(str::to_owned);
        leader.ok_or_else(|| ClientError::Unroutable { topic: topic.clone(), what: "leader".to_owned() })
    }
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}
