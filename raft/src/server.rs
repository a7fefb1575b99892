//! The receiving side of the members' transport.
//!
//! Requests of a connection are handed to the Raft core in the order they arrive, without waiting for the one before;
//! replies go back in the same order.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use openraft::async_runtime::watch::WatchReceiver;
use parking_lot::Mutex;
use raftmq_store::Store;
use raftmq_world::{Accepted, Acceptor, Mutation, Stream, Threads};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::task::coop::{Unconstrained, unconstrained};
use tokio::time::{Instant, sleep};

use crate::clock::Clocks;
use crate::greeting::Greeter;
use crate::hello::{Acquaintances, Hello};
use crate::lease::Leases;
use crate::room::Rooms;
use crate::standing::node_of;
use crate::state_machine::Core;
use crate::transport::KEEP_ALIVE;
use crate::types::{LogId, NodeId, log_id};
use crate::wire::{self, AppendResponse, Candidacy, Kind, LeaseReply, Message, Sought, VoteResponse};

/// Connections at once: those of members, of strangers, and of strangers that are being shown out.
pub(crate) const CONNECTIONS_MAX: usize = 1024;
/// Connections at once that have not proved to be a member's. Each holds less than 8 KiB.
const STRANGERS_MAX: usize = 64;
/// Connections of one node at once. Each may hold a message that has not all arrived.
const CONNECTIONS_OF_NODE_MAX: usize = 16;
/// Requests of a connection that wait for the core at once; no more is read meanwhile.
const REQUESTS_MAX: usize = 128;
/// Read at a time. Large: an append request of a megabyte should take few reads.
const READ_BYTES: usize = 256 * 1024;
/// So much of the log is given to a member that has lost some of it, and a frame at least.
const FRAMES_BYTES_MAX: usize = 1 << 20;
/// How often a member without room for entries looks whether there is some again, and how long the entries of a connection
/// wait for that before it ends. Whoever sends them does so again at once, up to a window full.
const ROOM_LOOK: Duration = Duration::from_millis(50);
const ROOM_PATIENCE: Duration = Duration::from_millis(500);
/// A new connection says who it is within this time.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);

type Reply = Pin<Box<dyn Future<Output = Option<BytesMut>> + Send>>;

/// What all connections share.
pub(crate) struct Server {
    greeter: Greeter,
    /// Free connections of each node that has called; those that nobody knows have none.
    free: Mutex<BTreeMap<u64, Arc<Semaphore>>>,
    desk: Desk,
    places: Arc<dyn Seating>,
    strangers: Mutex<Strangers>,
    /// Why a connection was closed the last time that it was worth a line.
    last_reason: Mutex<String>,
}

/// Connections that have not proved to be a member's. The oldest makes way for a new one: a member needs a moment, and
/// somebody who keeps the rest must not keep members out.
#[derive(Default)]
struct Strangers {
    accepted: u64,
    waiting: VecDeque<(u64, AbortHandle)>,
}

impl Strangers {
    /// Has a connection's session begin.
    fn receive(&mut self, session: impl FnOnce(u64) -> AbortHandle) {
        if self.waiting.len() >= STRANGERS_MAX
            && let Some((_, oldest)) = self.waiting.pop_front()
        {
            oldest.abort();
        }
        self.accepted += 1;
        self.waiting.push_back((self.accepted, session(self.accepted)));
    }

    /// It is a member's, or has ended.
    fn forget(&mut self, number: u64) {
        self.waiting.retain(|(waiting, _)| *waiting != number);
    }
}

/// Who tells directories where they belong.
pub(crate) trait Seating: Send + Sync {
    /// Whether there is, or is to be, a node of this number in the group.
    fn has_node(&self, node: u64) -> bool;

    /// What a directory is told that asks.
    fn seek(&self, theirs: &Hello, founding: &str, for_seat: bool) -> Sought;
}

impl Server {
    pub(crate) fn new(greeter: Greeter, places: Arc<dyn Seating>, desk: Desk) -> Self {
        Self {
            greeter,
            free: Mutex::default(),
            desk,
            places,
            strangers: Mutex::default(),
            last_reason: Mutex::default(),
        }
    }

    /// Logs how a connection ended. A member that is refused comes back at once: each reason is told once.
    fn report(&self, from: SocketAddr, error: &io::Error) {
        if matches!(
            error.kind(),
            // The store says it of the last.
            io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::StorageFull
        ) {
            tracing::debug!("the connection from {from} ended: {error}");
            return;
        }
        let reason = error.to_string();
        let mut last = self.last_reason.lock();
        if *last != reason {
            tracing::warn!("the connection from {from} was closed: {reason}");
            *last = reason;
        }
    }

    /// Room for one more connection of who said `theirs`, or why there is none.
    fn admit(&self, theirs: &Hello) -> Result<OwnedSemaphorePermit, String> {
        let node = theirs.node();
        if !self.places.has_node(node) {
            return Err(format!("node {node} is not a member of this group"));
        }
        // Who has gone back hears so when it asks where it belongs, and may ask nothing else.
        let free = self
            .free
            .lock()
            .entry(node)
            .or_insert_with(|| Arc::new(Semaphore::new(CONNECTIONS_OF_NODE_MAX)))
            .clone();
        let full = |_| format!("node {node} has {CONNECTIONS_OF_NODE_MAX} connections open");
        free.try_acquire_owned().map_err(full)
    }
}

/// Accepts members' connections until it is dropped.
pub(crate) async fn serve(acceptor: Acceptor, server: Server) {
    let server = Arc::new(server);
    loop {
        let Accepted { stream, peer, place } = acceptor.next().await;
        // The session cannot be done before it is noted: that takes the same lock.
        server.strangers.lock().receive(|number| {
            let server = server.clone();
            let session = async move {
                let ended = Session::run(stream, &server, number).await;
                server.strangers.lock().forget(number);
                if let Err(e) = ended {
                    server.report(peer, &e);
                }
                drop(place);
            };
            tokio::spawn(session).abort_handle()
        });
    }
}

/// One connection of a member.
struct Session {
    stream: Stream,
    received: BytesMut,
    replies: FuturesOrdered<Polled>,
    /// Entries that there is no room for, and since when they wait.
    held: Option<(Message, Instant)>,
    caller: Arc<Caller>,
}

/// Who has called, and what it may ask of.
struct Caller {
    theirs: Hello,
    /// Why it may only ask where it belongs, if that is so.
    has_no_part: Option<String>,
    desk: Desk,
    acquaintances: Arc<Acquaintances>,
    places: Arc<dyn Seating>,
}

impl Session {
    async fn run(mut stream: Stream, server: &Server, number: u64) -> io::Result<()> {
        stream.keep_alive(KEEP_ALIVE)?;
        let mut received = BytesMut::with_capacity(wire::HELLO_BYTES_MAX);
        let accepting = server.greeter.accept(&mut stream, &mut received, |theirs| server.admit(theirs));
        let greeted = tokio::time::timeout(HELLO_TIMEOUT, accepting).await;
        let (theirs, _admitted) =
            greeted.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no hello"))??;
        server.strangers.lock().forget(number);
        let acquaintances = &server.greeter.acquaintances;
        let has_no_part = match (theirs.group, acquaintances.own().group) {
            (Some(_), Some(_)) => acquaintances.meet(theirs.clone()).err(),
            _ => Some("one of the two is in no group yet".to_owned()),
        };
        let caller = Caller {
            theirs,
            has_no_part,
            desk: server.desk.clone(),
            acquaintances: acquaintances.clone(),
            places: server.places.clone(),
        };
        let (replies, caller) = (FuturesOrdered::new(), Arc::new(caller));
        let session = Self { stream, received, replies, held: None, caller };
        Box::pin(session.exchange()).await
    }

    async fn exchange(mut self) -> io::Result<()> {
        loop {
            while self.replies.len() < REQUESTS_MAX {
                let Some(message) = self.next_request().await? else { break };
                match self.caller.handle(message) {
                    Ok(reply) => self.replies.push_back(Polled::start(reply).await),
                    Err(error) => return self.refuse(error).await,
                }
            }
            let waiting_for_room = self.held.is_some();
            let reading = self.replies.len() < REQUESTS_MAX && !waiting_for_room;
            let replying = !self.replies.is_empty();
            if self.received.capacity() - self.received.len() < READ_BYTES / 4 {
                self.received.reserve(READ_BYTES);
            }
            tokio::select! {
                biased;
                Some(reply) = self.replies.next(), if replying => self.reply(reply).await?,
                read = self.stream.read_buf(&mut self.received), if reading => {
                    if read? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                () = sleep(ROOM_LOOK), if waiting_for_room => {}
            }
        }
    }

    /// Ends the connection, and says why.
    async fn refuse(&mut self, error: io::Error) -> io::Result<()> {
        let mut out = BytesMut::new();
        wire::put_refusal(&mut out, 0, &error.to_string());
        self.stream.write_all(&out).await?;
        Err(error)
    }

    /// The next request that has arrived, if it can be taken. With little room entries are taken one request after the other;
    /// those that have no place wait, and are refused after a while: the core would end at a log that cannot be written.
    async fn next_request(&mut self) -> io::Result<Option<Message>> {
        let (message, since) = match self.held.take() {
            Some(held) => held,
            None => match wire::take_message(&mut self.received).map_err(io::Error::other)? {
                Some(message) => (message, Instant::now()),
                None => return Ok(None),
            },
        };
        let rooms = &self.caller.desk.rooms;
        if message.kind != Kind::Append || rooms.own().is_ok() {
            return Ok(Some(message));
        }
        if self.replies.is_empty() {
            if message.append().is_none_or(|request| rooms.takes(&request)) {
                return Ok(Some(message));
            }
            if since.elapsed() >= ROOM_PATIENCE {
                let full =
                    io::Error::new(io::ErrorKind::StorageFull, "its disk is full, it takes no entries");
                return self.refuse(full).await.map(|()| None);
            }
        }
        self.held = Some((message, since));
        Ok(None)
    }

    /// Writes a reply, with those behind it that are ready too.
    async fn reply(&mut self, first: Option<BytesMut>) -> io::Result<()> {
        let ended = || io::Error::new(io::ErrorKind::UnexpectedEof, "the Raft core has stopped");
        let mut out = first.ok_or_else(ended)?;
        while let Some(Some(next)) = futures_util::FutureExt::now_or_never(self.replies.next()) {
            out.extend_from_slice(&next.ok_or_else(ended)?);
        }
        self.stream.write_all(&out).await
    }
}

/// A reply's future that has been polled once, so that its request is in the core's queue already.
enum Polled {
    Ready(Option<Option<BytesMut>>),
    Pending(Unconstrained<Reply>),
}

impl Polled {
    async fn start(reply: Reply) -> Self {
        // Without the runtime's budget for one task, which could put off just this poll and let a later request pass.
        let mut reply = unconstrained(reply);
        match futures_util::poll!(&mut reply) {
            Poll::Ready(bytes) => Self::Ready(Some(bytes)),
            Poll::Pending => Self::Pending(reply),
        }
    }
}

impl Future for Polled {
    type Output = Option<BytesMut>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Ready(bytes) => Poll::Ready(bytes.take().flatten()),
            Self::Pending(reply) => Pin::new(reply).poll(context),
        }
    }
}

/// Who answers requests.
#[derive(Clone)]
pub(crate) struct Desk {
    pub(crate) raft: Core,
    pub(crate) clocks: Arc<Clocks>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) rooms: Arc<Rooms>,
    pub(crate) store: Arc<Store>,
    pub(crate) threads: Arc<dyn Threads>,
}

impl Caller {
    /// The future of the reply to a request; `None` when the core has stopped.
    fn handle(self: &Arc<Self>, message: Message) -> io::Result<Reply> {
        let id = message.id;
        if message.kind == Kind::Seek {
            let (founding, for_seat) = wire::read_seek(message).map_err(io::Error::other)?;
            let caller = self.clone();
            return Ok(Box::pin(async move {
                let mut out = BytesMut::new();
                wire::put_sought(&mut out, id, &caller.places.seek(&caller.theirs, &founding, for_seat));
                Some(out)
            }));
        }
        if let Some(reason) = &self.has_no_part {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason.clone()));
        }
        self.handle_member(message)
    }

    fn handle_member(self: &Arc<Self>, message: Message) -> io::Result<Reply> {
        let (id, raft, mut out) = (message.id, self.desk.raft.clone(), BytesMut::new());
        Ok(match message.kind {
            Kind::Append => {
                let request = wire::read_append(message).map_err(io::Error::other)?;
                self.check_speaks_for_itself(request.vote.leader_id.voted_for)?;
                let (clocks, acquaintances) = (self.desk.clocks.clone(), self.acquaintances.clone());
                Box::pin(async move {
                    let response = raft.append_entries(request).await.ok()?;
                    if !matches!(response, AppendResponse::HigherVote(_)) {
                        acquaintances.note_leader();
                    }
                    wire::put_append_reply(&mut out, id, &response, clocks.now_ms());
                    Some(out)
                })
            }
            Kind::Lease => {
                let (vote, asked) = wire::read_lease(message).map_err(io::Error::other)?;
                self.check_speaks_for_itself(vote.leader_id.voted_for)?;
                let given = self.desk.leases.give(&vote, asked);
                if given.is_some() {
                    self.acquaintances.note_leader();
                }
                let reply = LeaseReply { given, has_room: self.desk.rooms.own().is_ok() };
                wire::put_lease_reply(&mut out, id, reply);
                Box::pin(std::future::ready(Some(out)))
            }
            Kind::PreVote => {
                let candidacy = wire::read_candidacy(message).map_err(io::Error::other)?;
                self.check_speaks_for_itself(candidacy.request.vote.leader_id.voted_for)?;
                wire::put_vote_reply(&mut out, id, &self.desk.would_vote(&candidacy));
                Box::pin(std::future::ready(Some(out)))
            }
            Kind::Vote => {
                let candidacy = wire::read_candidacy(message).map_err(io::Error::other)?;
                self.check_speaks_for_itself(candidacy.request.vote.leader_id.voted_for)?;
                // It goes on where the connection ends: the core may give its vote all the same.
                let voting = tokio::spawn(self.desk.clone().vote(candidacy));
                Box::pin(async move {
                    wire::put_vote_reply(&mut out, id, &voting.await.ok()??);
                    Some(out)
                })
            }
            Kind::Frames => {
                let at = wire::read_frames(message).map_err(io::Error::other)?;
                let (store, threads) = (self.desk.store.clone(), self.desk.threads.clone());
                Box::pin(async move {
                    let frames = threads.run(move || store.committed_frames(at, FRAMES_BYTES_MAX)).await;
                    wire::put_frames_reply(&mut out, id, &frames.unwrap_or_default());
                    Some(out)
                })
            }
            Kind::Transfer => {
                let request = wire::read_transfer(message).map_err(io::Error::other)?;
                self.check_speaks_for_itself(request.from_leader().leader_id.voted_for)?;
                Box::pin(async move {
                    let taken = raft.handle_transfer_leader(request).await.ok()?;
                    wire::put_transfer_reply(&mut out, id, taken.is_ok());
                    Some(out)
                })
            }
            kind => return Err(io::Error::other(format!("an unexpected {kind:?} message"))),
        })
    }

    /// A leader sends its own entries, a candidate asks for itself.
    fn check_speaks_for_itself(&self, id: NodeId) -> io::Result<()> {
        if id == self.theirs.id {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "node {} speaks for a directory of node {} that is not its own",
            self.theirs.node(),
            node_of(id)
        )))
    }
}

impl Desk {
    fn last_log(&self) -> Option<LogId> {
        self.raft.data_metrics().borrow_watched().last_log
    }

    /// Whether this member may have acknowledged, and lost, what who asks does not have. Once that one has heard from every
    /// node, whatever is still there is in its log.
    fn doubts(&self, candidacy: &Candidacy) -> bool {
        let doubt = self.store.doubt().map(log_id);
        doubt > candidacy.request.last_log_id && !candidacy.heard_all && !Mutation::VoteInDoubt.is_on()
    }

    /// Whether this member would vote for who asks.
    fn would_vote(&self, candidacy: &Candidacy) -> VoteResponse {
        let (candidate, own_last) = (candidacy.request.vote.leader_id.voted_for, self.last_log());
        let granted = !self.doubts(candidacy)
            && self.leases.would_vote(candidate, candidacy.request.last_log_id, own_last);
        VoteResponse::new(self.leases.vote(), own_last, granted)
    }

    /// Gives this member's vote, or does not; nothing when the core has stopped.
    async fn vote(self, candidacy: Candidacy) -> Option<VoteResponse> {
        if self.doubts(&candidacy) {
            return Some(VoteResponse::new(self.leases.vote(), self.last_log(), false));
        }
        let mut request = candidacy.request;
        let Some(undecided) = self.leases.may_vote(request.leadership_transfer) else {
            return Some(VoteResponse::new(self.leases.vote(), self.last_log(), false));
        };
        // So the core's own lease, which is no lease here, does not count.
        request.leadership_transfer = true;
        let response = self.raft.vote(request).await.ok()?;
        undecided.decided(&response.vote, response.vote_granted);
        Some(response)
    }
}
