//! A broker with two queues in memory: pulls, offsets, members of groups.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::BytesMut;
use parking_lot::Mutex;
use raftmq_client::MessageQueue;
use raftmq_message::RecordParts;
use raftmq_message::record::patch_positions;
use raftmq_remoting::body::{ConsumerIdList, HeartbeatData};
use raftmq_remoting::codes::{request, response};
use raftmq_remoting::header::{
    OffsetResponse, PullHeader, PullResponse, QueryConsumerOffsetHeader, QueueHeader, SearchOffsetHeader,
    UpdateConsumerOffsetHeader,
};
use raftmq_remoting::{Command, fastjson};
use tokio::sync::watch;

use super::fake::{FakeServer, Reply, refused};

/// The queues of topic `T`, and what clients have said of them.
#[derive(Clone, Default)]
pub(crate) struct FakeQueues {
    state: Arc<Mutex<State>>,
    /// Counts pulls that were answered with messages.
    found: Arc<watch::Sender<usize>>,
    /// The offset of the last pull.
    pulled: Arc<watch::Sender<Option<i64>>>,
}

#[derive(Default)]
struct State {
    /// Tags of the messages, by queue id. The body is the offset.
    messages: BTreeMap<i32, Vec<String>>,
    committed: BTreeMap<i32, i64>,
    /// Where the next pull of a queue is told to go.
    resets: BTreeMap<i32, i64>,
    members: BTreeSet<String>,
    left: usize,
}

pub(crate) fn queue(queue_id: i32) -> MessageQueue {
    MessageQueue { broker_name: "broker-a".into(), queue_id, topic: "T".into() }
}

impl FakeQueues {
    /// Adds messages with a tag to a queue.
    pub(crate) fn store(&self, queue_id: i32, tag: &str, count: usize) {
        let mut state = self.state.lock();
        let messages = state.messages.entry(queue_id).or_default();
        messages.extend(std::iter::repeat_n(tag.to_owned(), count));
    }

    /// The offset a group has committed.
    pub(crate) fn committed(&self, queue_id: i32) -> Option<i64> {
        self.state.lock().committed.get(&queue_id).copied()
    }

    pub(crate) fn commit(&self, queue_id: i32, offset: i64) {
        self.state.lock().committed.insert(queue_id, offset);
    }

    /// Has the next pull of a queue sent elsewhere.
    pub(crate) fn reset(&self, queue_id: i32, offset: i64) {
        self.state.lock().resets.insert(queue_id, offset);
    }

    /// Makes somebody a member of the group who never leaves.
    pub(crate) fn join(&self, client_id: &str) {
        self.state.lock().members.insert(client_id.to_owned());
    }

    /// How many clients have left a group in order.
    pub(crate) fn left(&self) -> usize {
        self.state.lock().left
    }

    /// Follows the number of pulls that brought messages.
    pub(crate) fn found(&self) -> watch::Receiver<usize> {
        self.found.subscribe()
    }

    /// Follows the offset of the last pull.
    pub(crate) fn pulled(&self) -> watch::Receiver<Option<i64>> {
        self.pulled.subscribe()
    }

    pub(crate) async fn serve(&self) -> FakeServer {
        let queues = self.clone();
        FakeServer::start(move |request| queues.answer(&request)).await
    }

    fn answer(&self, request: &Command) -> Reply {
        let state = &mut *self.state.lock();
        let offset_of = |offset| {
            let answer = Command::response_to(request, response::SUCCESS);
            Reply::Answer(answer.with_ext(OffsetResponse { offset }.to_ext()))
        };
        match request.code {
            request::PULL_MESSAGE => self.pull(state, request),
            request::GET_MIN_OFFSET => offset_of(0),
            request::GET_MAX_OFFSET => {
                let header = QueueHeader::decode(request).unwrap();
                offset_of(state.messages.get(&header.queue_id).map_or(0, Vec::len) as i64)
            }
            // Every message was stored a millisecond after the one before.
            request::SEARCH_OFFSET_BY_TIMESTAMP => {
                offset_of(SearchOffsetHeader::decode(request).unwrap().timestamp)
            }
            request::QUERY_CONSUMER_OFFSET => {
                let header = QueryConsumerOffsetHeader::decode(request).unwrap();
                match state.committed.get(&header.queue_id) {
                    Some(offset) => offset_of(*offset),
                    None => refused(request, response::QUERY_NOT_FOUND),
                }
            }
            request::UPDATE_CONSUMER_OFFSET => {
                let header = UpdateConsumerOffsetHeader::decode(request).unwrap();
                state.committed.insert(header.queue_id, header.commit_offset);
                Reply::Answer(Command::response_to(request, response::SUCCESS))
            }
            request::HEART_BEAT => {
                let heartbeat: HeartbeatData = fastjson::parse(&request.body).unwrap();
                if !heartbeat.consumer_data_set.is_empty() {
                    state.members.insert(heartbeat.client_id);
                }
                Reply::Answer(Command::response_to(request, response::SUCCESS))
            }
            request::GET_CONSUMER_LIST_BY_GROUP => {
                let list = ConsumerIdList { consumer_id_list: state.members.iter().cloned().collect() };
                let body = fastjson::to_vec(&list).unwrap();
                Reply::Answer(Command::response_to(request, response::SUCCESS).with_body(body))
            }
            request::UNREGISTER_CLIENT => {
                state.left += 1;
                Reply::Answer(Command::response_to(request, response::SUCCESS))
            }
            code => panic!("unexpected request {code}"),
        }
    }

    /// Pulls that find nothing are held for good.
    fn pull(&self, state: &mut State, request: &Command) -> Reply {
        let header = PullHeader::decode(request).unwrap();
        self.pulled.send_replace(Some(header.queue_offset));
        let messages = state.messages.entry(header.queue_id).or_default();
        let fields = |next_begin_offset| PullResponse {
            next_begin_offset,
            min_offset: 0,
            max_offset: messages.len() as i64,
            ..PullResponse::default()
        };
        if let Some(offset) = state.resets.remove(&header.queue_id) {
            let answer = Command::response_to(request, response::PULL_OFFSET_MOVED);
            return Reply::Answer(answer.with_ext(fields(offset).to_ext()));
        }
        let start = usize::try_from(header.queue_offset).unwrap();
        let end = messages.len().min(start + usize::try_from(header.max_msg_nums).unwrap());
        if start >= end {
            return Reply::Silence;
        }
        self.found.send_modify(|found| *found += 1);
        let mut records = BytesMut::new();
        for (at, tag) in (start..end).map(|at| (at, &messages[at])) {
            encode(&mut records, header.queue_id, at, tag);
        }
        let answer = Command::response_to(request, response::SUCCESS);
        Reply::Answer(answer.with_ext(fields(end as i64).to_ext()).with_body(records.to_vec()))
    }
}

fn encode(out: &mut BytesMut, queue_id: i32, offset: usize, tag: &str) {
    let host = "127.0.0.1:1".parse().unwrap();
    let (body, properties) = (offset.to_string(), format!("TAGS\u{1}{tag}\u{2}"));
    let parts = RecordParts {
        topic: "T",
        queue_id,
        flag: 0,
        sys_flag: 0,
        born_timestamp_ms: 0,
        born_host: host,
        store_host: host,
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body: body.as_bytes(),
        properties: &[&properties],
    };
    let at = out.len();
    parts.encode_into(out).unwrap();
    patch_positions(&mut out[at..], offset as u64, offset as u64, 0).unwrap();
}
