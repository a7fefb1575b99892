//! The receiving side of the members' transport.
//!
//! Requests of a connection are handed to the Raft core in the order they arrive, without waiting for the one before;
//! replies go back in the same order.

use std::collections::BTreeMap;
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
use raftmq_world::{Accepted, Acceptor, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::coop::{Unconstrained, unconstrained};

use crate::clock::Clocks;
use crate::hello::Acquaintances;
use crate::lease::Leases;
use crate::state_machine::Core;
use crate::transport::KEEP_ALIVE;
use crate::types::LogId;
use crate::wire::{self, Kind, Message, VoteRequest, VoteResponse};

/// Connections at once. A member opens a handful; the rest is room for reconnects.
pub(crate) const CONNECTIONS_MAX: usize = 128;
/// Connections of one member at once. Each may hold a message that has not all arrived.
const CONNECTIONS_OF_MEMBER_MAX: usize = 16;
/// Requests of a connection that wait for the core at once; no more is read meanwhile.
const REQUESTS_MAX: usize = 128;
/// Read at a time. Large: an append request of a megabyte should take few reads.
const READ_BYTES: usize = 256 * 1024;
/// A new connection says who it is within this time.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);

type Reply = Pin<Box<dyn Future<Output = Option<BytesMut>> + Send>>;

/// What all connections share.
pub(crate) struct Server {
    acquaintances: Arc<Acquaintances>,
    /// Free connections of each member; nobody else is let in.
    free: BTreeMap<u64, Arc<Semaphore>>,
    desk: Desk,
    /// Why a connection was closed the last time that it was worth a line.
    last_reason: Mutex<String>,
}

impl Server {
    pub(crate) fn new(
        acquaintances: Arc<Acquaintances>,
        members: impl Iterator<Item = u64>,
        desk: Desk,
    ) -> Self {
        let free = members.map(|id| (id, Arc::new(Semaphore::new(CONNECTIONS_OF_MEMBER_MAX)))).collect();
        Self { acquaintances, free, desk, last_reason: Mutex::default() }
    }

    /// Logs how a connection ended. A member that is refused comes back at once: each reason is told once.
    fn report(&self, from: SocketAddr, error: &io::Error) {
        if matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
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
    fn admit(&self, message: Message) -> Result<OwnedSemaphorePermit, String> {
        let theirs = wire::read_hello(message).map_err(|e| e.to_string())?;
        let id = theirs.node_id;
        let free = self.free.get(&id).cloned();
        let free = free.ok_or_else(|| format!("node {id} is not a member of this group"));
        self.acquaintances.meet(theirs)?;
        let full = |_| format!("node {id} has {CONNECTIONS_OF_MEMBER_MAX} connections open");
        free?.try_acquire_owned().map_err(full)
    }
}

/// Accepts members' connections until it is dropped.
pub(crate) async fn serve(acceptor: Acceptor, server: Server) {
    let server = Arc::new(server);
    loop {
        let Accepted { stream, peer, place } = acceptor.next().await;
        let server = server.clone();
        tokio::spawn(async move {
            if let Err(e) = Session::run(stream, &server).await {
                server.report(peer, &e);
            }
            drop(place);
        });
    }
}

/// One connection of a member.
struct Session {
    stream: Stream,
    received: BytesMut,
    replies: FuturesOrdered<Polled>,
    desk: Desk,
}

impl Session {
    async fn run(stream: Stream, server: &Server) -> io::Result<()> {
        stream.keep_alive(KEEP_ALIVE)?;
        let received = BytesMut::with_capacity(wire::HELLO_BYTES_MAX);
        let mut session =
            Self { stream, received, replies: FuturesOrdered::new(), desk: server.desk.clone() };
        let greeted = tokio::time::timeout(HELLO_TIMEOUT, session.greet(server)).await;
        let _admitted = greeted.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no hello"))??;
        session.exchange().await
    }

    /// Reads who is speaking, and says who this is.
    async fn greet(&mut self, server: &Server) -> io::Result<OwnedSemaphorePermit> {
        let message = loop {
            let taken = wire::take_message_within(&mut self.received, wire::HELLO_BYTES_MAX);
            if let Some(message) = taken.map_err(io::Error::other)? {
                break message;
            }
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        if message.kind != Kind::Hello {
            return Err(io::Error::other(format!("a {:?} message before the hello", message.kind)));
        }
        let mut out = BytesMut::new();
        match server.admit(message) {
            Ok(admitted) => {
                wire::put_hello(&mut out, &server.acquaintances.own());
                self.stream.write_all(&out).await?;
                Ok(admitted)
            }
            Err(reason) => {
                wire::put_refusal(&mut out, 0, &reason);
                self.stream.write_all(&out).await?;
                Err(io::Error::other(reason))
            }
        }
    }

    async fn exchange(&mut self) -> io::Result<()> {
        loop {
            while self.replies.len() < REQUESTS_MAX {
                let Some(message) = wire::take_message(&mut self.received).map_err(io::Error::other)? else {
                    break;
                };
                let reply = self.desk.handle(message)?;
                self.replies.push_back(Polled::start(reply).await);
            }
            let reading = self.replies.len() < REQUESTS_MAX;
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
            }
        }
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
}

impl Desk {
    /// The future of the reply to a request; it brings nothing when the core has stopped.
    fn handle(&self, message: Message) -> io::Result<Reply> {
        let id = message.id;
        let mut out = BytesMut::new();
        let raft = self.raft.clone();
        Ok(match message.kind {
            Kind::Append => {
                let request = wire::read_append(message).map_err(io::Error::other)?;
                let clocks = self.clocks.clone();
                Box::pin(async move {
                    let response = raft.append_entries(request).await.ok()?;
                    wire::put_append_reply(&mut out, id, &response, clocks.now_ms());
                    Some(out)
                })
            }
            Kind::Lease => {
                let (vote, asked) = wire::read_lease(message).map_err(io::Error::other)?;
                wire::put_lease_reply(&mut out, id, self.leases.give(&vote, asked));
                Box::pin(std::future::ready(Some(out)))
            }
            Kind::PreVote => {
                let request = wire::read_vote_request(message).map_err(io::Error::other)?;
                wire::put_vote_reply(&mut out, id, &self.would_vote(&request));
                Box::pin(std::future::ready(Some(out)))
            }
            Kind::Vote => {
                let request = wire::read_vote_request(message).map_err(io::Error::other)?;
                // It goes on where the connection ends: the core may give its vote all the same.
                let voting = tokio::spawn(self.clone().vote(request));
                Box::pin(async move {
                    wire::put_vote_reply(&mut out, id, &voting.await.ok()??);
                    Some(out)
                })
            }
            Kind::Transfer => {
                let request = wire::read_transfer(message).map_err(io::Error::other)?;
                Box::pin(async move {
                    let taken = raft.handle_transfer_leader(request).await.ok()?;
                    wire::put_transfer_reply(&mut out, id, taken.is_ok());
                    Some(out)
                })
            }
            kind => return Err(io::Error::other(format!("an unexpected {kind:?} message"))),
        })
    }

    fn last_log(&self) -> Option<LogId> {
        self.raft.data_metrics().borrow_watched().last_log
    }

    /// Whether this member would vote for who asks.
    fn would_vote(&self, request: &VoteRequest) -> VoteResponse {
        let (candidate, own_last) = (request.vote.leader_id.voted_for, self.last_log());
        let granted = self.leases.would_vote(candidate, request.last_log_id, own_last);
        VoteResponse::new(self.leases.vote(), own_last, granted)
    }

    /// Gives this member's vote, or does not; nothing when the core has stopped.
    async fn vote(self, mut request: VoteRequest) -> Option<VoteResponse> {
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
