//! A broker with two queues for each topic that keeps everything in memory, for consumers to work with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use parking_lot::Mutex;
use raftmq_client::MessageQueue;
use raftmq_message::RecordParts;
use raftmq_remoting::body::{ConsumerIdList, HeartbeatData, LockBatchRequest, LockBatchResponse};
use raftmq_remoting::codes::{request, response};
use raftmq_remoting::header::{
    OffsetResponse, PullHeader, PullResponse, QueryConsumerOffsetHeader, QueueHeader, SearchOffsetHeader,
    SendBackHeader, SendHeader, UnregisterClientHeader, UpdateConsumerOffsetHeader, pull_flag,
};
use raftmq_remoting::{Command, Ext, fastjson};
use tokio::sync::watch;

use super::fake::{FakeServer, Reply, stored};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// A message in a queue.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stored {
    pub(crate) body: String,
    pub(crate) properties: String,
    pub(crate) reconsume_times: i32,
}

/// What a broker knows. Tests look at it and change it.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) queues: BTreeMap<(String, i32), Vec<Stored>>,
    /// Committed offsets, by topic and queue.
    pub(crate) offsets: BTreeMap<(String, i32), i64>,
    /// Members of the group besides those that have sent heartbeats.
    pub(crate) others: BTreeSet<String>,
    pub(crate) heartbeats: Vec<HeartbeatData>,
    pub(crate) left: Vec<UnregisterClientHeader>,
    pub(crate) sent_back: Vec<SendBackHeader>,
    /// Topic, properties, and the two numbers about deliveries in vain.
    pub(crate) sent: Vec<(String, String, i32, Option<i32>)>,
    /// Queue ids somebody else holds.
    pub(crate) locked_by_others: BTreeSet<i32>,
    pub(crate) unlocked: Vec<MessageQueue>,
    /// Topic and offset of each pull.
    pub(crate) pulls: Vec<(String, i64)>,
    /// Pulls that brought messages.
    pub(crate) found: usize,
    /// Answer a pull of this queue with code 21 and this offset, once.
    pub(crate) move_to: Option<((String, i32), i64)>,
    /// What is before it was removed from every queue.
    pub(crate) min_offset: i64,
    /// Answer these requests with a code.
    pub(crate) refuse: BTreeMap<i32, i32>,
    /// Answer so many of these requests with code 14, as a busy broker does.
    pub(crate) busy: BTreeMap<i32, u32>,
    /// Carry these requests out, and answer only after a while.
    pub(crate) slow: BTreeMap<i32, Duration>,
    /// Broker id to suggest.
    pub(crate) suggest: i64,
}

pub(crate) struct Broker {
    pub(crate) server: FakeServer,
    state: Shared,
}

#[derive(Clone)]
struct Shared {
    state: Arc<Mutex<State>>,
    /// Counts changes.
    changes: watch::Sender<u64>,
}

impl Broker {
    pub(crate) async fn start() -> Self {
        let state = Shared { state: Arc::default(), changes: watch::Sender::new(0) };
        let shared = state.clone();
        let server = FakeServer::start_raw(move |request| shared.answer(request)).await;
        Self { server, state }
    }

    /// Looks at what the broker knows, or changes it.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        self.state.change(look)
    }

    /// Stores messages, `{body}{n}` each.
    pub(crate) fn store(&self, topic: &str, queue_id: i32, bodies: impl IntoIterator<Item = String>) {
        let stored = bodies.into_iter().map(|body| Stored { body, ..Stored::default() });
        self.with(|state| state.queues.entry((topic.to_owned(), queue_id)).or_default().extend(stored));
    }

    /// Waits until something is so.
    pub(crate) async fn until(&self, what: &str, is_so: impl Fn(&State) -> bool) {
        let mut changes = self.state.changes.subscribe();
        let waiting = async {
            while !is_so(&self.state.state.lock()) {
                changes.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
            panic!("{what} has not come; the broker has {:?}", self.state.state.lock());
        }
    }
}

impl Shared {
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock());
        self.changes.send_modify(|count| *count += 1);
        result
    }

    fn answer(&self, request: Command) -> Reply {
        if let Some(code) = self.state.lock().refuse.get(&request.code) {
            return Reply::Answer(Command::response_to(&request, *code).with_remark("refused by the test"));
        }
        if let Some(left) = self.state.lock().busy.get_mut(&request.code).filter(|left| **left > 0) {
            *left -= 1;
            let answer = Command::response_to(&request, response::SERVICE_NOT_AVAILABLE);
            return Reply::Answer(answer.with_remark("[BUSY]for the test"));
        }
        let slow = self.state.lock().slow.get(&request.code).copied();
        match (slow, self.carry_out(request)) {
            (Some(time), Reply::Answer(answer)) => Reply::Later(Box::pin(async move {
                tokio::time::sleep(time).await;
                answer
            })),
            (_, reply) => reply,
        }
    }

    fn carry_out(&self, request: Command) -> Reply {
        let done = || Reply::Answer(Command::response_to(&request, response::SUCCESS));
        let code = |code| Reply::Answer(Command::response_to(&request, code));
        let body = |body| Reply::Answer(Command::response_to(&request, response::SUCCESS).with_body(body));
        let offset = |offset| {
            let ext = OffsetResponse { offset }.to_ext();
            Reply::Answer(Command::response_to(&request, response::SUCCESS).with_ext(ext))
        };
        match request.code {
            request::HEART_BEAT => {
                let heartbeat = fastjson::parse(&request.body).unwrap();
                self.change(|state| state.heartbeats.push(heartbeat));
                done()
            }
            request::UNREGISTER_CLIENT => {
                let header = UnregisterClientHeader::decode(&request).unwrap();
                self.change(|state| state.left.push(header));
                done()
            }
            request::GET_CONSUMER_LIST_BY_GROUP => {
                let consumer_id_list = self.state.lock().members();
                body(fastjson::to_vec(&ConsumerIdList { consumer_id_list }).unwrap())
            }
            request::QUERY_CONSUMER_OFFSET => {
                let header = QueryConsumerOffsetHeader::decode(&request).unwrap();
                match self.state.lock().offsets.get(&(header.topic, header.queue_id)) {
                    Some(known) => offset(*known),
                    None => code(response::QUERY_NOT_FOUND),
                }
            }
            request::UPDATE_CONSUMER_OFFSET => {
                let header = UpdateConsumerOffsetHeader::decode(&request).unwrap();
                let queue = (header.topic, header.queue_id);
                self.change(|state| state.offsets.insert(queue, header.commit_offset));
                done()
            }
            request::GET_MAX_OFFSET => {
                let header = QueueHeader::decode(&request).unwrap();
                let state = self.state.lock();
                offset(state.queues.get(&(header.topic, header.queue_id)).map_or(0, Vec::len) as i64)
            }
            request::GET_MIN_OFFSET => offset(0),
            // As if each message had been stored one ms after the one before.
            request::SEARCH_OFFSET_BY_TIMESTAMP => {
                offset(SearchOffsetHeader::decode(&request).unwrap().timestamp)
            }
            request::CONSUMER_SEND_MSG_BACK => {
                let header = SendBackHeader::decode(&request).unwrap();
                self.change(|state| state.sent_back.push(header));
                done()
            }
            request::SEND_MESSAGE_V2 => {
                let header = SendHeader::decode(&request).unwrap();
                let (topic, properties) = (header.topic.to_string(), header.properties.to_string());
                let (times, most) = (header.reconsume_times, header.max_reconsume_times);
                self.change(|state| state.sent.push((topic, properties, times, most)));
                stored(&request)
            }
            request::LOCK_BATCH_MQ => {
                let mut asked: LockBatchRequest = fastjson::parse(&request.body).unwrap();
                let state = self.state.lock();
                asked.mq_set.retain(|queue| !state.locked_by_others.contains(&queue.queue_id));
                body(fastjson::to_vec(&LockBatchResponse { lock_ok_mq_set: asked.mq_set }).unwrap())
            }
            request::UNLOCK_BATCH_MQ => {
                let asked: LockBatchRequest = fastjson::parse(&request.body).unwrap();
                self.change(|state| state.unlocked.extend(asked.mq_set));
                done()
            }
            request::CHECK_CLIENT_CONFIG => done(),
            request::PULL_MESSAGE => Reply::Later(Box::pin(self.clone().pull(request))),
            other => panic!("unexpected request {other}"),
        }
    }

    async fn pull(self, request: Command) -> Command {
        let header = PullHeader::decode(&request).unwrap();
        let key = (header.topic.to_string(), header.queue_id);
        self.change(|state| {
            state.pulls.push((key.0.clone(), header.queue_offset));
            if header.sys_flag & pull_flag::COMMIT_OFFSET != 0 {
                state.offsets.insert(key.clone(), header.commit_offset);
            }
        });
        let deadline = tokio::time::Instant::now() + Duration::from_millis(header.suspend_timeout_ms as u64);
        let mut changes = self.changes.subscribe();
        loop {
            if let Some((code, fields, body)) = self.try_pull(&key, header.queue_offset, header.max_msg_nums)
            {
                self.change(|state| state.found += usize::from(code == response::SUCCESS));
                return Command::response_to(&request, code).with_ext(fields).with_body(body);
            }
            if tokio::time::timeout_at(deadline, changes.changed()).await.is_err() {
                let fields = PullResponse { next_begin_offset: header.queue_offset, ..Default::default() };
                return Command::response_to(&request, response::PULL_NOT_FOUND).with_ext(fields.to_ext());
            }
        }
    }

    fn try_pull(&self, key: &(String, i32), offset: i64, max: i32) -> Option<(i32, Ext, Vec<u8>)> {
        let mut state = self.state.lock();
        if let Some((_, next_begin_offset)) = state.move_to.take_if(|(queue, _)| queue == key) {
            let fields = PullResponse { next_begin_offset, ..Default::default() };
            return Some((response::PULL_OFFSET_MOVED, fields.to_ext(), Vec::new()));
        }
        let queue = state.queues.get(key)?;
        if offset < state.min_offset {
            let (min_offset, max_offset) = (state.min_offset, queue.len() as i64);
            let fields =
                PullResponse { next_begin_offset: min_offset, min_offset, max_offset, ..Default::default() };
            return Some((response::PULL_OFFSET_MOVED, fields.to_ext(), Vec::new()));
        }
        let found = queue.get(usize::try_from(offset).unwrap()..).filter(|found| !found.is_empty())?;
        let found = &found[..found.len().min(max as usize)];
        let records: Vec<u8> =
            (offset..).zip(found).flat_map(|(offset, stored)| record(key, offset, stored)).collect();
        let fields = PullResponse {
            next_begin_offset: offset + found.len() as i64,
            max_offset: queue.len() as i64,
            suggest_which_broker_id: state.suggest,
            ..Default::default()
        };
        Some((response::SUCCESS, fields.to_ext(), records))
    }
}

impl State {
    fn members(&self) -> Vec<String> {
        let present = self.heartbeats.iter().map(|heartbeat| heartbeat.client_id.clone());
        self.others.iter().cloned().chain(present).collect::<BTreeSet<_>>().into_iter().collect()
    }
}

/// A record at an offset; its physical offset is a hundred times that.
pub(crate) fn record(key: &(String, i32), offset: i64, stored: &Stored) -> Vec<u8> {
    let host = "127.0.0.1:1".parse().unwrap();
    let parts = RecordParts {
        topic: &key.0,
        queue_id: key.1,
        flag: 0,
        sys_flag: 0,
        born_timestamp_ms: 11,
        born_host: host,
        store_host: host,
        reconsume_times: stored.reconsume_times,
        prepared_transaction_offset: 0,
        body: stored.body.as_bytes(),
        properties: &[&stored.properties],
    };
    let mut out = BytesMut::new();
    parts.encode_into(&mut out).unwrap();
    raftmq_message::record::patch_positions(&mut out, offset as u64, offset as u64 * 100, 12).unwrap();
    out.to_vec()
}
