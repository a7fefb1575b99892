//! The sending side of the members' transport: one connection for each replication stream, heartbeat and election.
//!
//! Append requests are pipelined: a bounded window of them is on its way at once, and replies come in order.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderError, TransferLeaderResponse,
};
use openraft::{BasicNode, OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use parking_lot::Mutex;
use raftmq_world::{KeepAlive, Network, Stream as WorldStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

use crate::clock::Clocks;
use crate::greeting::Greeter;
use crate::hello::{Acquaintances, Hello};
use crate::standing::node_of;
use crate::state_machine::StateImage;
use crate::types::{CommittedLeaderId, LogId, NodeId, TypeConfig, Vote};
use crate::wire::{
    self, AppendRequest, AppendResponse, Candidacy, Kind, Message, Sought, VoteRequest, VoteResponse,
};

/// Requests of one stream on their way at once.
const WINDOW_REQUESTS_MAX: usize = 64;
/// Bytes of entries of one stream on their way at once; one request is always let through.
const WINDOW_BYTES_MAX: usize = 8 << 20;
/// A stream whose oldest request has waited this long is given up. Longer than a slow sync of the follower, which
/// replies only then.
const STREAM_TIMEOUT: Duration = Duration::from_secs(5);
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// How long it is not worth a warning that a member has not been in reach since this one started: groups start one member
/// after the other.
const START_PATIENCE: Duration = Duration::from_secs(10);
const READ_BUFFER_BYTES: usize = 16 * 1024;

/// Makes connections to members.
#[derive(Clone)]
pub(crate) struct Transport {
    network: Arc<dyn Network>,
    greeter: Greeter,
    /// Where this member was told to look for nodes.
    seeds: Arc<BTreeMap<u64, String>>,
    clocks: Arc<Clocks>,
    /// Members that could not be connected to the last time.
    out_of_reach: Arc<Mutex<BTreeMap<NodeId, OutOfReach>>>,
    /// Why members would not talk, or were not who they should be.
    refusals: Arc<Mutex<BTreeMap<NodeId, String>>>,
    /// The term for which this member stands after it has heard from every node that its log is the longest.
    heard_all: Arc<AtomicU64>,
}

/// A member that cannot be connected to.
struct OutOfReach {
    since: Instant,
    warned: bool,
}

impl Transport {
    /// From now on this member's requests for votes say whether it has heard from every node, in a term.
    pub(crate) fn says_heard_all(&self, term: u64, heard_all: bool) {
        self.heard_all.store(if heard_all { term } else { 0 }, Ordering::Relaxed);
    }

    pub(crate) fn acquaintances(&self) -> &Acquaintances {
        &self.greeter.acquaintances
    }

    pub(crate) fn new(
        network: Arc<dyn Network>,
        greeter: Greeter,
        seeds: BTreeMap<u64, String>,
        clocks: Arc<Clocks>,
    ) -> Self {
        Self {
            network,
            greeter,
            seeds: Arc::new(seeds),
            clocks,
            out_of_reach: Arc::default(),
            refusals: Arc::default(),
            heard_all: Arc::default(),
        }
    }

    /// Where a member may be, the likeliest first: as it has said itself, as the configuration has it, as it was when it
    /// became a member. Members move, and not all hear of it in the same order.
    fn addresses(&self, target: NodeId, recorded: &str) -> Vec<String> {
        let told = self.greeter.acquaintances.address_of(target);
        let seed = self.seeds.get(&node_of(target)).cloned();
        let mut addresses = Vec::new();
        for address in told.into_iter().chain(seed).chain([recorded.to_owned()]) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }

    /// Connects to a member, wherever it is.
    async fn connect(&self, target: NodeId, recorded: &str) -> io::Result<Connection> {
        let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in self.addresses(target, recorded) {
            let connecting = self.connect_to(target, &address);
            let outcome = timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or_else(|_| {
                Err(io::Error::new(io::ErrorKind::TimedOut, format!("connecting to {address}")))
            });
            match outcome {
                Ok(connection) => {
                    self.note_reach(target, &address, None);
                    return Ok(connection);
                }
                Err(error) => failed = error,
            }
        }
        self.note_reach(target, recorded, Some(&failed));
        Err(failed)
    }

    async fn connect_to(&self, target: NodeId, address: &str) -> io::Result<Connection> {
        let (mut connection, theirs) = Connection::open(self, address).await?;
        let acquaintances = &self.greeter.acquaintances;
        let answered = if theirs.id == target {
            // What it had acknowledged came over connections that have ended.
            let id = theirs.id;
            acquaintances.meet(theirs).and_then(|()| acquaintances.gone_back(id).map_or(Ok(()), Err))
        } else {
            Err(format!(
                "node {} of another directory answers at {address}, where node {} was looked for",
                theirs.node(),
                node_of(target)
            ))
        };
        answered.map_err(|reason| self.note_refusal(target, io::Error::other(reason)))?;
        connection.target = target;
        Ok(connection)
    }

    /// Asks whoever is at an address where this directory belongs, and `for_seat` to be taken in. `founding` is whom it is told
    /// to found a group with.
    ///
    /// # Errors
    /// It cannot be reached, or has nothing to do with this member.
    pub(crate) async fn seek(
        &self,
        address: &str,
        founding: &str,
        for_seat: bool,
    ) -> io::Result<(Hello, Sought)> {
        let (mut connection, theirs) = Connection::open(self, address).await?;
        let mut out = BytesMut::new();
        let id = connection.take_id();
        wire::put_seek(&mut out, id, founding, for_seat);
        connection.send(&out, &[]).await?;
        let reply = connection.receive(self).await?;
        let sought = wire::read_sought(reply).map_err(io::Error::other)?;
        Ok((theirs, sought))
    }

    /// Asks whoever of this group is at an address for whole frames of the log, from the one at a physical offset on; empty where
    /// it has none to give.
    pub(crate) async fn frames(&self, address: &str, physical_offset: u64) -> io::Result<Bytes> {
        let (mut connection, theirs) = Connection::open(self, address).await?;
        let group = self.greeter.acquaintances.own().group;
        if theirs.group.is_none() || theirs.group != group {
            return Err(io::Error::other(format!("node {} is not of this group", theirs.node())));
        }
        let mut out = BytesMut::new();
        let id = connection.take_id();
        wire::put_frames(&mut out, id, physical_offset);
        connection.send_in_time(&out).await?;
        let reply = connection.receive(self).await?;
        wire::read_frames_reply(reply).map_err(io::Error::other)
    }

    /// Logs why this member and another do not talk, once for each reason.
    fn note_refusal(&self, target: NodeId, error: io::Error) -> io::Error {
        let reason = error.to_string();
        if self.refusals.lock().insert(target, reason.clone()).as_ref() != Some(&reason) {
            let node = node_of(target);
            tracing::warn!(node, "no talking to node {node}: {reason}");
        }
        error
    }

    /// Logs when a member goes out of reach and when it is back, not every attempt in between. One that has never been
    /// in reach may be about to start.
    fn note_reach(&self, target: NodeId, address: &str, error: Option<&io::Error>) {
        let mut out_of_reach = self.out_of_reach.lock();
        let node = node_of(target);
        let Some(error) = error else {
            if out_of_reach.remove(&target).is_some_and(|member| member.warned) {
                tracing::info!(node, address, "a member is back in reach");
            }
            return;
        };
        let member =
            out_of_reach.entry(target).or_insert_with(|| OutOfReach { since: Instant::now(), warned: false });
        let was_there = self.greeter.acquaintances.knows(target);
        if !member.warned && (was_there || member.since.elapsed() >= START_PATIENCE) {
            member.warned = true;
            tracing::warn!(node, address, "a member is out of reach: {error}");
        }
    }
}

/// A way to one member; connected when it is first used.
pub(crate) struct Link {
    transport: Transport,
    target: NodeId,
    /// As of when it became a member.
    address: String,
    connection: Option<Connection>,
}

impl Link {
    /// What connects it.
    pub(crate) fn transport(&self) -> &Transport {
        &self.transport
    }

    /// The next request is sent over a new connection.
    pub(crate) fn disconnect(&mut self) {
        self.connection = None;
    }

    /// Asks whether the member would vote for this one.
    pub(crate) async fn would_vote(&mut self, candidacy: Candidacy, option: &RPCOption) -> Rpc<VoteResponse> {
        self.call_vote(Kind::PreVote, candidacy, option).await
    }
}

impl RaftNetworkFactory<TypeConfig> for Transport {
    type Network = Link;

    async fn new_client(&mut self, target: NodeId, node: &BasicNode) -> Link {
        Link { transport: self.clone(), target, address: node.addr.clone(), connection: None }
    }
}

/// An open connection. After an error, or when a write was cut short, it is not used again.
pub(crate) struct Connection {
    stream: WorldStream,
    received: BytesMut,
    next_id: u64,
    /// A write has begun and not ended.
    writing: bool,
    /// Who has answered.
    target: NodeId,
}

/// A peer that has gone without a word is noticed within some ten seconds.
pub(crate) const KEEP_ALIVE: KeepAlive =
    KeepAlive { after: Duration::from_secs(5), interval: Duration::from_secs(2), probes: 3 };

impl Connection {
    /// Connects, and finds out who answers.
    async fn open(transport: &Transport, address: &str) -> io::Result<(Self, Hello)> {
        let mut stream = transport.network.connect(address).await?;
        stream.keep_alive(KEEP_ALIVE)?;
        let mut received = BytesMut::with_capacity(READ_BUFFER_BYTES);
        let theirs = transport.greeter.call(&mut stream, &mut received).await?;
        let connection = Self { stream, received, next_id: 1, writing: false, target: theirs.id };
        Ok((connection, theirs))
    }

    pub(crate) fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    /// Sends `head`, then `frames`, with as few system calls as the socket takes.
    async fn send(&mut self, head: &[u8], frames: &[&[u8]]) -> io::Result<()> {
        self.writing = true;
        if frames.is_empty() {
            self.stream.write_all(head).await?;
        } else {
            let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(1 + frames.len());
            slices.push(IoSlice::new(head));
            slices.extend(frames.iter().map(|f| IoSlice::new(f)));
            let mut rest = &mut slices[..];
            while !rest.is_empty() {
                let written = self.stream.write_vectored(rest).await?;
                if written == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                IoSlice::advance_slices(&mut rest, written);
            }
        }
        self.writing = false;
        Ok(())
    }

    /// Sends a message that is too small to wait for its reader.
    pub(crate) async fn send_in_time(&mut self, message: &[u8]) -> io::Result<()> {
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the member does not read");
        timeout(CONNECT_TIMEOUT, self.send(message, &[])).await.map_err(late)?
    }

    /// The next message. Nothing is lost if this is dropped before it ends.
    pub(crate) async fn receive(&mut self, transport: &Transport) -> io::Result<Message> {
        loop {
            if let Some(message) = wire::take_message(&mut self.received).map_err(io::Error::other)? {
                if message.kind == Kind::Refusal {
                    let refused = io::Error::new(io::ErrorKind::PermissionDenied, message.refusal());
                    return Err(transport.note_refusal(self.target, refused));
                }
                return Ok(message);
            }
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

type Rpc<T> = Result<T, RPCError<TypeConfig>>;

fn unreachable(error: &io::Error) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::new(error))
}

impl Link {
    /// Forgets a connection on which a write was cut short.
    fn drop_broken(&mut self) {
        if self.connection.as_ref().is_some_and(|c| c.writing) {
            self.connection = None;
        }
    }

    /// The open connection, or a new one.
    pub(crate) async fn connection(&mut self) -> io::Result<&mut Connection> {
        self.drop_broken();
        if self.connection.is_none() {
            self.connection = Some(self.transport.connect(self.target, &self.address).await?);
        }
        Ok(self.connection.as_mut().expect("set above"))
    }

    /// Sends a request and waits for its reply. A reply that does not come in time ends the connection.
    async fn call(&mut self, option: &RPCOption, write: impl FnOnce(&mut BytesMut, u64)) -> Rpc<Message> {
        let deadline = Instant::now() + option.hard_ttl();
        let transport = self.transport.clone();
        let exchange = async {
            let connection = self.connection().await?;
            let id = connection.take_id();
            let mut out = BytesMut::new();
            write(&mut out, id);
            connection.send(&out, &[]).await?;
            loop {
                let message = connection.receive(&transport).await?;
                // Replies to what was given up before are passed over.
                if message.id == id {
                    return Ok(message);
                }
            }
        };
        let outcome = timeout_at(deadline, exchange).await;
        match outcome {
            Ok(Ok(message)) => Ok(message),
            Ok(Err(e)) => {
                self.connection = None;
                Err(unreachable(&e))
            }
            Err(_) => {
                self.connection = None;
                Err(self.timed_out(RPCTypes::Vote, option.hard_ttl()))
            }
        }
    }

    fn timed_out(&self, action: RPCTypes, timeout: Duration) -> RPCError<TypeConfig> {
        RPCError::Timeout(Timeout {
            action,
            id: self.transport.greeter.acquaintances.id(),
            target: self.target,
            timeout,
        })
    }

    async fn call_vote(&mut self, kind: Kind, candidacy: Candidacy, option: &RPCOption) -> Rpc<VoteResponse> {
        let reply = self.call(option, |out, id| wire::put_candidacy(out, kind, id, &candidacy)).await?;
        wire::read_vote_reply(reply).map_err(|e| unreachable(&io::Error::other(e)))
    }
}

/// A request that waits for its reply.
struct OnItsWay {
    id: u64,
    prev: Option<LogId>,
    last: Option<LogId>,
    bytes: usize,
    since: Instant,
}

/// A stream of append requests over a link, and the replies to them.
struct AppendStream<'a, S> {
    link: &'a mut Link,
    /// `None` once it has ended.
    requests: Option<S>,
    on_their_way: VecDeque<OnItsWay>,
    bytes: usize,
    ended: bool,
}

/// What a stream does next.
enum Step {
    Reply(io::Result<Message>),
    Request(Option<AppendRequest>),
    TimedOut,
}

impl<S> AppendStream<'_, S>
where
    S: Stream<Item = AppendRequest> + OptionalSend + Unpin,
{
    /// The outcome of the oldest request on its way; `None` when all are answered and no more come.
    async fn next(&mut self) -> Option<Rpc<StreamAppendResult<TypeConfig>>> {
        while !self.ended {
            if self.requests.is_none() && self.on_their_way.is_empty() {
                return None;
            }
            let outcome = match self.step().await {
                Step::Reply(Ok(message)) => self.on_reply(message).transpose(),
                Step::Reply(Err(e)) => Some(Err(unreachable(&e))),
                Step::Request(Some(request)) => self.send(request).await.err().map(|e| Err(unreachable(&e))),
                Step::Request(None) => {
                    self.requests = None;
                    None
                }
                Step::TimedOut => Some(Err(self.link.timed_out(RPCTypes::AppendEntries, STREAM_TIMEOUT))),
            };
            if let Some(outcome) = outcome {
                if !matches!(outcome, Ok(Ok(_))) {
                    self.ended = true;
                }
                if outcome.is_err() {
                    self.link.connection = None;
                }
                return Some(outcome);
            }
        }
        None
    }

    async fn step(&mut self) -> Step {
        let room = self.on_their_way.len() < WINDOW_REQUESTS_MAX && self.bytes < WINDOW_BYTES_MAX;
        let transport = self.link.transport.clone();
        // Connected when there is something to send: the pause after a failure lies in the stream of requests.
        let Some(connection) = self.link.connection.as_mut() else {
            return match (&mut self.requests, self.on_their_way.is_empty()) {
                (Some(requests), true) => Step::Request(requests.next().await),
                _ => Step::Reply(Err(io::ErrorKind::NotConnected.into())),
            };
        };
        let deadline = self.on_their_way.front().map(|oldest| oldest.since + STREAM_TIMEOUT);
        let waiting = deadline.is_some();
        let requests = &mut self.requests;
        let next_request = async {
            match requests {
                Some(requests) => requests.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            reply = connection.receive(&transport), if waiting => Step::Reply(reply),
            request = next_request, if room => Step::Request(request),
            () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)), if waiting => Step::TimedOut,
        }
    }

    async fn send(&mut self, request: AppendRequest) -> io::Result<()> {
        let connection = self.link.connection().await?;
        let id = connection.take_id();
        let mut head = BytesMut::with_capacity(128);
        let frames = wire::put_append_head(&mut head, id, &request);
        let bytes = frames.iter().map(|f| f.len()).sum();
        timeout(STREAM_TIMEOUT, connection.send(&head, &frames))
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the member does not read"))??;
        let last = request.entries.last().map(|e| e.log_id).or(request.prev_log_id);
        self.bytes += bytes;
        self.on_their_way.push_back(OnItsWay {
            id,
            prev: request.prev_log_id,
            last,
            bytes,
            since: Instant::now(),
        });
        Ok(())
    }

    /// `Ok(None)` for a reply to an earlier stream over the same connection.
    fn on_reply(&mut self, message: Message) -> Rpc<Option<StreamAppendResult<TypeConfig>>> {
        let Some(oldest) = self.on_their_way.front() else { return Ok(None) };
        if message.kind == Kind::AppendReply && message.id < oldest.id {
            return Ok(None);
        }
        if message.kind != Kind::AppendReply || message.id != oldest.id {
            let what = format!(
                "a {:?} message {} where the reply to {} was due",
                message.kind, message.id, oldest.id
            );
            return Err(unreachable(&io::Error::other(what)));
        }
        let (response, clock_ms) =
            wire::read_append_reply(message).map_err(|e| unreachable(&io::Error::other(e)))?;
        let oldest = self.on_their_way.pop_front().expect("looked at above");
        self.link.transport.clocks.compare(node_of(self.link.target), clock_ms, oldest.since.elapsed());
        self.bytes -= oldest.bytes;
        if oldest.prev.is_none() && response == AppendResponse::Conflict {
            return Err(unreachable(&io::Error::other("a conflict with nothing to conflict with")));
        }
        Ok(Some(response.into_stream_result(oldest.prev, oldest.last)))
    }
}

impl RaftNetworkV2<TypeConfig> for Link {
    type SnapshotData = StateImage;

    async fn append_entries(&mut self, request: AppendRequest, option: RPCOption) -> Rpc<AppendResponse> {
        let requests = futures_util::stream::once(std::future::ready(request));
        let mut replies = self.stream_append(Box::pin(requests), option).await?;
        match replies.next().await {
            Some(Ok(result)) => Ok(result.into()),
            Some(Err(e)) => Err(e),
            None => Err(unreachable(&io::ErrorKind::UnexpectedEof.into())),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        requests: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Rpc<BoxStream<'s, Rpc<StreamAppendResult<TypeConfig>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            self.drop_broken();
            let stream = AppendStream {
                link: self,
                requests: Some(requests),
                on_their_way: VecDeque::new(),
                bytes: 0,
                ended: false,
            };
            let replies = futures_util::stream::unfold(stream, |mut stream| async move {
                stream.next().await.map(|outcome| (outcome, stream))
            });
            let replies: BoxStream<'s, _> = Box::pin(replies);
            Ok(replies)
        })
    }

    async fn vote(&mut self, request: VoteRequest, option: RPCOption) -> Rpc<VoteResponse> {
        let heard_all = self.transport.heard_all.load(Ordering::Relaxed) == request.vote.leader_id.term;
        self.call_vote(Kind::Vote, Candidacy { request, heard_all }, &option).await
    }

    /// Nothing is ever purged from the log, so no member needs one.
    async fn full_snapshot(
        &mut self,
        _vote: Vote,
        _snapshot: openraft::Snapshot<CommittedLeaderId, NodeId, BasicNode, StateImage>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let error =
            io::Error::new(io::ErrorKind::Unsupported, "snapshots are not sent: the log holds every entry");
        Err(StreamingError::Unreachable(Unreachable::new(&error)))
    }

    async fn transfer_leader(
        &mut self,
        request: wire::TransferRequest,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>> {
        let reply = self.call(&option, |out, id| wire::put_transfer(out, id, &request)).await?;
        let taken = wire::read_transfer_reply(reply).map_err(|e| unreachable(&io::Error::other(e)))?;
        let expected = *request.from_leader();
        Ok(if taken { Ok(()) } else { Err(TransferLeaderError::VoteChanged { expected, actual: expected }) })
    }
}
