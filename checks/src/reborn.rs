//! A topic that is deleted and made again, over and over: each time it begins anew.
//!
//! One program makes it, sends, reads, commits an offset, and deletes it while more is sent. What was acknowledged before a
//! topic was deleted is never found in the next one of its name, whose offsets count from 0. What may be stored at any time,
//! as its outcome is unknown, is left out.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use raftmq_client::{Client, ClientError, Routed};
use raftmq_message::RecordIter;
use raftmq_remoting::Command;
use raftmq_remoting::body::TopicFilterType;
use raftmq_remoting::codes::{request, response};
use raftmq_remoting::header::{CreateTopicHeader, PullHeader, SendHeader, SendResponse};
use raftmq_world::Clock;
use tokio::time::{sleep, timeout};

use crate::lane::BROKER_NAME;

/// Messages of a topic before it is deleted, besides those that are sent while it is.
const MESSAGES: u64 = 5;
/// How many send while the topic is deleted.
const CHASERS: u64 = 2;
/// Between two tries of what has to come about.
const PAUSE: Duration = Duration::from_millis(50);
/// How long what has to come about may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The group that commits offsets.
const GROUP: &str = "reborn";

/// What was seen of such a topic.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// How often it began anew.
    pub generations: u64,
    /// What cannot be.
    pub breaches: Vec<String>,
}

/// The program.
#[derive(Debug)]
pub struct Reborn {
    client: Client,
    clock: Arc<dyn Clock>,
    topic: String,
    /// A topic that stays: its route says who leads.
    anchor: String,
    /// For one try.
    try_timeout: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By generation, its messages in the order in which they were sent first.
    sent: Vec<Vec<Sent>>,
    /// Tries to send of unknown outcome.
    unknown_sends: u64,
    unknown_commit: bool,
    unknown_deletion: bool,
    unknown_making: bool,
    routed: Option<Routed>,
    seen: Seen,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    /// It may be stored at any time.
    Unknown,
    NotStored,
    /// At this offset, as is known since then.
    Stored(u64, Duration),
}

impl Reborn {
    /// A topic of this name.
    pub fn new(
        client: Client,
        clock: Arc<dyn Clock>,
        topic: &str,
        anchor: &str,
        try_timeout: Duration,
    ) -> Self {
        let (topic, anchor) = (topic.to_owned(), anchor.to_owned());
        Self { client, clock, topic, anchor, try_timeout, state: Mutex::default() }
    }

    /// Until it is told to stop. The last generation comes after that.
    pub async fn run(self, stop: &AtomicBool) -> Seen {
        let mut begins_anew = false;
        loop {
            let is_last = stop.load(Ordering::Relaxed);
            if let Err(what) = self.turn(&mut begins_anew, is_last).await {
                self.state.lock().seen.breaches.push(what);
                break;
            }
            if is_last {
                break;
            }
        }
        self.state.into_inner().seen
    }

    async fn turn(&self, begins_anew: &mut bool, is_last: bool) -> Result<(), String> {
        let end = self.clock.passed() + PATIENCE;
        while !*begins_anew {
            *begins_anew = self.begins_anew().await?;
            if !*begins_anew && !is_last {
                return Ok(());
            }
            if self.clock.passed() >= end {
                return Err(format!("{}: it goes on where it was deleted", self.topic));
            }
        }
        self.generation().await
    }

    /// Whether deletions delete by now: not before every member has said that it reads them.
    async fn begins_anew(&self) -> Result<bool, String> {
        self.make().await?;
        let first = self.send().await;
        self.delete().await?;
        self.make().await?;
        let second = self.send().await;
        self.delete().await?;
        Ok(matches!((first, second), (Sent::Stored(..), Sent::Stored(0, _))))
    }

    async fn generation(&self) -> Result<(), String> {
        self.make().await?;
        self.check_offset().await;
        self.read().await;
        for _ in 0..MESSAGES {
            self.send().await;
        }
        self.read().await;
        self.commit().await;
        let generation = self.state.lock().sent.len();
        let deleted = AtomicBool::new(false);
        let chase = async || {
            while !deleted.load(Ordering::Relaxed) {
                self.send().await;
                tokio::task::yield_now().await;
            }
        };
        let delete = async {
            let outcome = self.delete().await;
            deleted.store(true, Ordering::Relaxed);
            outcome
        };
        let chased_from = self.state.lock().sent[generation - 1].len();
        let (outcome, (), ()) = tokio::join!(delete, chase(), chase());
        let mut state = self.state.lock();
        if state.unknown_making {
            // It may have been made again by then, and have these.
            state.sent[generation - 1][chased_from..].fill(Sent::Unknown);
        }
        state.seen.generations += 1;
        outcome
    }

    async fn make(&self) -> Result<(), String> {
        let header = CreateTopicHeader {
            topic: self.topic.clone(),
            default_topic: Some("TBW102".to_owned()),
            read_queue_nums: 1,
            write_queue_nums: 1,
            perm: 6,
            topic_filter_type: TopicFilterType::SingleTag,
            topic_sys_flag: Some(0),
            order: false,
            attributes: None,
        };
        let request = Command::request(request::UPDATE_AND_CREATE_TOPIC, header.to_ext());
        if self.insist(request).await? {
            self.state.lock().unknown_making = true;
        }
        self.state.lock().sent.push(Vec::new());
        Ok(())
    }

    async fn delete(&self) -> Result<(), String> {
        let ext = [("topic", self.topic.as_str())].into_iter().collect();
        if self.insist(Command::request(request::DELETE_TOPIC_IN_BROKER, ext)).await? {
            self.state.lock().unknown_deletion = true;
        }
        Ok(())
    }

    /// Asks until it is done. Says whether a try before may be carried out later.
    async fn insist(&self, request: Command) -> Result<bool, String> {
        let (end, mut tries) = (self.clock.passed() + PATIENCE, 0);
        loop {
            let what = match self.ask(request.clone()).await {
                Ok(answer) if answer.code == response::SUCCESS => return Ok(tries > 0),
                Ok(answer) => format!("{}: {:?}", answer.code, answer.remark),
                Err(error) => error.to_string(),
            };
            tries += 1;
            if self.clock.passed() >= end {
                return Err(format!(
                    "request {} for {} is not carried out: {what}",
                    request.code, self.topic
                ));
            }
            sleep(PAUSE).await;
        }
    }

    /// Sends the next message, once.
    async fn send(&self) -> Sent {
        let (generation, number, before) = {
            let mut state = self.state.lock();
            let generation = state.sent.len() - 1;
            // Whatever may be stored at any time.
            state.sent[generation].push(Sent::Unknown);
            let number = state.sent[generation].len() - 1;
            (generation, number, number as u64)
        };
        let header = SendHeader {
            producer_group: Cow::Borrowed("reborn"),
            topic: Cow::Borrowed(&self.topic),
            // There is none of this name: it is not to be made by sending to it.
            default_topic: Cow::Borrowed("none"),
            default_topic_queue_nums: 1,
            queue_id: 0,
            sys_flag: 0,
            born_timestamp_ms: 0,
            flag: 0,
            properties: Cow::Borrowed(""),
            reconsume_times: 0,
            unit_mode: false,
            max_reconsume_times: None,
            batch: false,
            broker_name: Some(Cow::Borrowed(BROKER_NAME)),
        };
        let body = Bytes::from(format!("{generation}-{number}"));
        let request = Command::request(request::SEND_MESSAGE_V2, header.to_ext()).with_body(body);
        let sent = match self.ask(request).await {
            Err(error) if error.may_have_been_executed() => Sent::Unknown,
            Err(_) => Sent::NotStored,
            Ok(answer) => match answer.code {
                response::SUCCESS => {
                    let offset = SendResponse::decode(&answer).ok();
                    let offset = offset.and_then(|fields| u64::try_from(fields.queue_offset).ok());
                    offset.map_or(Sent::Unknown, |offset| Sent::Stored(offset, self.clock.passed()))
                }
                response::SYSTEM_BUSY | response::TOPIC_NOT_EXIST => Sent::NotStored,
                _ => Sent::Unknown,
            },
        };
        let mut state = self.state.lock();
        state.sent[generation][number] = sent;
        state.unknown_sends += u64::from(sent == Sent::Unknown);
        // Chasers are on their way at the same time.
        let most = before + state.unknown_sends + CHASERS;
        if let Sent::Stored(offset, _) = sent
            && offset > most
            && state.seen.generations > 0
        {
            let what = format!(
                "{}: message {number} of generation {generation} was stored at {offset}, and no more than {most} were sent",
                self.topic
            );
            state.seen.breaches.push(what);
        }
        sent
    }

    /// Reads it all, once, and looks whether it is of this generation and complete.
    async fn read(&self) {
        let began = self.clock.passed();
        // Who says where the queue ends has dispatched what was acknowledged before; a pull does not wait for that.
        let queue = [("topic", self.topic.as_str()), ("queueId", "0")].into_iter().collect();
        let end = self.ask(Command::request(request::GET_MAX_OFFSET, queue)).await;
        if !end.is_ok_and(|answer| answer.code == response::SUCCESS) {
            return;
        }
        let mut found = Vec::new();
        loop {
            let header = PullHeader {
                consumer_group: Cow::Borrowed(GROUP),
                topic: Cow::Borrowed(&self.topic),
                queue_id: 0,
                queue_offset: found.len() as i64,
                max_msg_nums: 32,
                // It brings its subscription along.
                sys_flag: 4,
                commit_offset: 0,
                suspend_timeout_ms: 0,
                subscription: Some(Cow::Borrowed("*")),
                sub_version: 0,
                expression_type: Some(Cow::Borrowed("TAG")),
                max_msg_bytes: None,
            };
            let Ok(answer) = self.ask(Command::request(request::PULL_MESSAGE, header.to_ext())).await else {
                return;
            };
            match answer.code {
                response::SUCCESS => {}
                response::PULL_NOT_FOUND | response::PULL_OFFSET_MOVED => break,
                _ => return,
            }
            let before = found.len();
            for record in RecordIter::new(&answer.body) {
                let Ok(record) = record else { return };
                found.push((record.queue_offset(), String::from_utf8_lossy(record.body()).into_owned()));
            }
            if found.len() == before {
                return;
            }
        }
        self.check(began, &found);
    }

    fn check(&self, began: Duration, found: &[(i64, String)]) {
        let mut state = self.state.lock();
        let State { sent, unknown_deletion, seen, .. } = &mut *state;
        let generation = sent.len() - 1;
        let mut tell =
            |what: String| seen.breaches.push(format!("{}, generation {generation}: {what}", self.topic));
        for (at, (offset, body)) in found.iter().enumerate() {
            let of = body.split_once('-').and_then(|(of, n)| Some((of.parse().ok()?, n.parse().ok()?)));
            let known = of.and_then(|(of, number): (usize, usize)| Some((of, *sent.get(of)?.get(number)?)));
            let is_right = match known {
                Some((_, Sent::Unknown)) => true,
                Some((of, Sent::Stored(stored, _))) => of == generation && stored == at as u64,
                _ => false,
            };
            if !is_right || *offset != at as i64 {
                tell(format!("{body} is at {at}, of which is known: {known:?}; it says it is at {offset}"));
            }
        }
        for (number, sent) in sent[generation].iter().enumerate() {
            let Sent::Stored(offset, since) = sent else { continue };
            let expected = format!("{generation}-{number}");
            let is_there = found.get(*offset as usize).is_some_and(|(_, body)| *body == expected);
            // A read that began before says nothing.
            if !is_there && *since <= began && !*unknown_deletion {
                tell(format!("{expected} is not at {offset}; {} messages are there", found.len()));
            }
        }
    }

    fn offset_request(&self, code: i32, offset: Option<&str>) -> Command {
        let fields = [("consumerGroup", GROUP), ("topic", self.topic.as_str()), ("queueId", "0")];
        let offset = offset.map(|offset| ("commitOffset", offset));
        Command::request(code, fields.into_iter().chain(offset).collect())
    }

    async fn commit(&self) {
        let answer = self.ask(self.offset_request(request::UPDATE_CONSUMER_OFFSET, Some("3"))).await;
        let done = answer.is_ok_and(|answer| answer.code == response::SUCCESS);
        self.state.lock().unknown_commit |= !done;
    }

    /// What was committed for the topic before it is gone.
    async fn check_offset(&self) {
        let Ok(answer) = self.ask(self.offset_request(request::QUERY_CONSUMER_OFFSET, None)).await else {
            return;
        };
        let offset = answer.ext.get_i64("offset").ok().flatten().unwrap_or(0);
        let mut state = self.state.lock();
        if answer.code == response::SUCCESS && offset != 0 && !state.unknown_commit {
            let what = format!("{}: {offset} is committed, and nothing was since it was made", self.topic);
            state.seen.breaches.push(what);
        }
    }

    /// Asks the leader, once.
    async fn ask(&self, request: Command) -> Result<Command, ClientError> {
        let asked = self.try_ask(request).await;
        if asked.as_ref().map_or(true, |answer| answer.code == response::SERVICE_NOT_AVAILABLE) {
            let after = self.state.lock().routed.take().map_or(0, |routed| routed.lookup);
            let refreshed = self.client.routes().refresh(&self.anchor, after, false);
            // Without an answer the next try looks the route up again.
            let routed = timeout(self.try_timeout, refreshed).await.ok().and_then(Result::ok);
            self.state.lock().routed = routed;
            sleep(PAUSE).await;
        }
        asked
    }

    async fn try_ask(&self, request: Command) -> Result<Command, ClientError> {
        let known = self.state.lock().routed.clone();
        let routed = match known {
            Some(routed) => routed,
            None => self.client.routes().get(&self.anchor).await?,
        };
        let unroutable = || ClientError::Unroutable { topic: self.anchor.clone(), what: "leader".to_owned() };
        let leader = routed.route.leader(BROKER_NAME).ok_or_else(unroutable)?;
        let connection = self.client.connection_within(leader, self.try_timeout).await?;
        Ok(connection.call(request, self.try_timeout).await?)
    }
}
