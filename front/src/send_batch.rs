//! The sends of one socket read: gathered, submitted together, and answered together when the log has taken them.

use std::sync::Arc;

use bytes::BytesMut;
use raftmq_broker::Error;
use raftmq_message::id::OffsetMessageId;
use raftmq_raft::{Completion, MessageBatch, Placed, ProposeError};
use raftmq_remoting::codes::response;
use raftmq_remoting::encode::{EncodeError, write_response, write_send_response};
use raftmq_remoting::header::SendResponse;
use raftmq_remoting::{Command, Serialization};

use crate::channel::Channel;
use crate::limits::JOINED_IDS_MAX;
use crate::node::Node;
use crate::reply::Refusal;
use raftmq_broker::send::{Encoded, REGION, Records, RecordsEnd};

/// Records of sends that are not submitted yet.
#[derive(Default)]
pub(crate) struct SendBatch {
    records: Records,
    replies: Vec<OpenReply>,
    count: u32,
    room: usize,
}

/// What has to be known to answer a send.
struct OpenReply {
    opaque: i32,
    serialization: Serialization,
    oneway: bool,
    /// Its answer is a code alone.
    code_only: bool,
    queue_id: i32,
    /// Messages of the request.
    records: u32,
    /// Where its unique key ends in the batch's keys; the one before says where it begins.
    key_end: usize,
}

impl SendBatch {
    /// A batch whose records are likely to take so many bytes, if there are any.
    pub(crate) fn with_room(bytes: usize) -> Self {
        Self { room: bytes, ..Self::default() }
    }

    /// Where to encode the next send to.
    pub(crate) fn records(&mut self) -> &mut Records {
        if self.records.bytes.capacity() == 0 {
            self.records.bytes.reserve(self.room);
        }
        &mut self.records
    }

    /// Takes up a request whose records were just appended, from `start` on. Submits those before it where all together
    /// are too much for one entry. Its answer is a code alone where `code_only` says so.
    pub(crate) fn add(
        &mut self,
        node: &Arc<Node>,
        channel: &Arc<Channel>,
        (request, code_only): (&Command, bool),
        encoded: &Encoded,
        start: RecordsEnd,
    ) {
        if start.bytes > 0 && self.records.bytes.len() > node.broker.submit_bytes {
            let own = self.records.split_off(start);
            self.submit(node, channel);
            self.records = own;
        }
        self.count += encoded.records;
        self.replies.push(OpenReply {
            opaque: request.opaque,
            serialization: request.serialization,
            oneway: request.is_oneway(),
            code_only,
            queue_id: encoded.queue_id,
            records: encoded.records,
            key_end: self.records.keys.len(),
        });
    }

    /// Hands what has gathered to the log. Its answers are written when the log has decided.
    pub(crate) fn submit(&mut self, node: &Arc<Node>, channel: &Arc<Channel>) {
        if self.replies.is_empty() {
            return;
        }
        let Self { records: Records { bytes: records, keys }, replies, count, room } = std::mem::take(self);
        self.room = room;
        let bytes = records.len();
        let open =
            Box::new(OpenSends { node: node.clone(), channel: channel.clone(), replies, keys, count, bytes });
        let in_flight = open.begin();
        let limit = node.process.limits.bytes_in_flight;
        if in_flight > limit {
            let remark = format!("{in_flight} bytes of messages are on their way, the limit is {limit}");
            return open.refuse(&Refusal::busy(remark));
        }
        node.replica.submit(MessageBatch { records, count, change: None, term: None, completion: open });
    }
}

/// Sends whose outcome is open.
struct OpenSends {
    node: Arc<Node>,
    channel: Arc<Channel>,
    replies: Vec<OpenReply>,
    keys: String,
    /// Messages in all.
    count: u32,
    /// Bytes of their records.
    bytes: usize,
}

impl Completion for OpenSends {
    fn complete(self: Box<Self>, outcome: Result<&[Placed], &ProposeError>) {
        match outcome {
            Ok(places) => self.stored(places),
            Err(error) => self.refuse(&self.node.replica.not_stored(error).into()),
        }
    }
}

impl OpenSends {
    /// Counts them as open; returns the record bytes that are open in all.
    fn begin(&self) -> usize {
        self.channel.begin(self.replies.len(), self.bytes);
        self.node.process.bytes_in_flight.add(self.bytes)
    }

    fn end(&self) {
        self.node.process.bytes_in_flight.sub(self.bytes);
        self.channel.flush();
        self.channel.end(self.replies.len(), self.bytes);
    }

    /// *Invariant 5*: nobody is told of success without the place that it means.
    fn stored(&self, places: &[Placed]) {
        if places.len() != self.count as usize {
            tracing::error!(places = places.len(), count = self.count, "an outcome without its places");
            return self.refuse(&Error::from(&ProposeError::Unknown).into());
        }
        // Where the topic of some was deleted meanwhile, their bytes are not told apart.
        let stored = places.iter().filter(|place| place.is_in_queue()).count();
        self.node.stats.put(stored as u64, self.bytes as u64);
        self.channel.put(|out| {
            let (mut at, mut key_start) = (0, 0);
            for reply in &self.replies {
                let own = &places[at..at + reply.records as usize];
                let key = &self.keys[key_start..reply.key_end];
                at += reply.records as usize;
                key_start = reply.key_end;
                if !reply.oneway {
                    self.write_stored(out, reply, own, key);
                }
            }
        });
        self.end();
    }

    fn write_stored(&self, out: &mut BytesMut, reply: &OpenReply, places: &[Placed], key: &str) {
        // All of a request's messages go to one topic.
        if !places.iter().all(Placed::is_in_queue) {
            self.node.stats.put_failed(1);
            let deleted = Refusal::from(Error::TopicDeleted);
            return deleted.write(out, reply.serialization, reply.opaque);
        }
        let written = if reply.code_only {
            write_response(out, reply.serialization, reply.opaque, response::SUCCESS, None, &[], &[])
        } else {
            self.write_places(out, reply, places, key)
        };
        if let Err(error) = written {
            tracing::warn!(%error, "the answer to a stored message cannot be written");
        }
    }

    fn write_places(
        &self,
        out: &mut BytesMut,
        reply: &OpenReply,
        places: &[Placed],
        key: &str,
    ) -> Result<(), EncodeError> {
        let store_host = self.node.config.advertise;
        let id =
            |place: &Placed| OffsetMessageId { store_host, physical_offset: place.physical_offset }.format();
        let first = id(&places[0]);
        let joined;
        // Clients know their messages by their own keys; an answer must stay a legal frame.
        let msg_id = if places.len() == 1 || places.len() > JOINED_IDS_MAX {
            first.as_str()
        } else {
            joined = places.iter().map(|place| id(place).to_string()).collect::<Vec<_>>().join(",");
            &joined
        };
        let fields = SendResponse {
            msg_id: msg_id.into(),
            queue_id: reply.queue_id,
            // The log keeps queue offsets within 63 bits.
            queue_offset: places[0].queue_offset as i64,
            transaction_id: (!key.is_empty()).then(|| key.into()),
            region: Some(REGION.into()),
            trace_on: true,
        };
        write_send_response(out, reply.serialization, reply.opaque, response::SUCCESS, None, &fields)
    }

    fn refuse(&self, refusal: &Refusal) {
        self.node.stats.put_failed(self.replies.len() as u64);
        self.channel.put(|out| {
            for reply in self.replies.iter().filter(|reply| !reply.oneway) {
                refusal.write(out, reply.serialization, reply.opaque);
            }
        });
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use raftmq_remoting::frame::{self, FRAME_LEN_MAX};
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::tests::Fixture;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nobody_is_told_of_success_without_a_place() {
        let f = Fixture::start().await;
        let node = f.broker.node.clone();
        let listener = node.process.world.network.listen(([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut client = node.process.world.network.connect(&address).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        let channel = node.process.open_channel(peer, stream.into_split().1);
        let reply = OpenReply {
            opaque: 5,
            serialization: Serialization::Json,
            oneway: false,
            code_only: false,
            queue_id: 0,
            records: 2,
            key_end: 0,
        };
        node.connections.add(channel.clone());
        let (own, keys) = (node.clone(), String::new());
        let open = OpenSends { node: own, channel, replies: vec![reply], keys, count: 2, bytes: 0 };
        assert_eq!(node.connections.at_work(), 0);
        open.begin();
        assert_eq!(node.connections.at_work(), 1, "a stop waits for it");
        open.stored(&[Placed { queue_offset: 0, physical_offset: 0 }]);
        assert_eq!(node.connections.at_work(), 0);
        let mut input = BytesMut::new();
        let answer = loop {
            if let Some(frame) = frame::decode(&mut input, FRAME_LEN_MAX).unwrap() {
                break Command::decode(frame).unwrap();
            }
            assert!(client.read_buf(&mut input).await.unwrap() > 0);
        };
        let unknown = Refusal::from(Error::from(&ProposeError::Unknown)).code;
        assert_eq!((answer.opaque, answer.code), (5, unknown));
        assert_ne!(unknown, response::SUCCESS);
        f.stop().await;
    }
}
