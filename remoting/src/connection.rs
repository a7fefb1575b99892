//! One connection to a server: requests of many callers pipelined, answers matched by opaque.
//!
//! One task owns the socket and both directions of it. Callers append encoded frames to a shared buffer, which goes out
//! in one write however many they are. What the peer asks of its own accord goes into a channel, if there is one; those who
//! read there may answer. When the connection ends every caller is told so, and whether its request had
//! left completely: an incomplete frame is never carried out.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use parking_lot::Mutex;
use raftmq_world::hash::HashMap;
use raftmq_world::{Network, ReadHalf, Stream, WriteHalf};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::Sender;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::command::Command;
use crate::encode::{EncodeError, encode_command};
use crate::frame::{self, FRAME_LEN_MAX};

/// Encoded requests that wait for the socket, in bytes. Two of the largest frames fit.
const UNWRITTEN_BYTES_MAX: usize = 2 * FRAME_LEN_MAX;
/// Room made for each read.
const READ_BYTES: usize = 64 * 1024;
/// Capacity above which an emptied write buffer is given back.
const KEPT_BYTES: usize = 1024 * 1024;
/// A connection on which this many requests in a row timed out, and that was silent for [`SILENCE`], is closed.
const TIMEOUTS_MAX: u32 = 3;
/// See [`TIMEOUTS_MAX`].
const SILENCE: Duration = Duration::from_secs(5);

/// A request that got no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// There is no connection.
    #[error("connect to {addr}: {reason}")]
    Connect {
        /// The peer.
        addr: String,
        /// What the system said.
        reason: String,
    },
    /// The connection ended before the whole request had left.
    #[error("not sent to {addr}: {reason}")]
    NotSent {
        /// The peer.
        addr: String,
        /// How the connection ended, or what was full.
        reason: String,
    },
    /// The connection ended after the request had left.
    #[error("no answer from {addr}: {reason}")]
    Lost {
        /// The peer.
        addr: String,
        /// How the connection ended.
        reason: String,
    },
    /// No answer in time.
    #[error("no answer from {addr} within {} ms", waited.as_millis())]
    Timeout {
        /// The peer.
        addr: String,
        /// How long the caller was willing to wait.
        waited: Duration,
        /// Whether the request was handed to the connection.
        sent: bool,
    },
    /// The request does not fit into a frame.
    #[error("request for {addr}: {source}")]
    Encode {
        /// The peer.
        addr: String,
        /// What does not fit.
        source: EncodeError,
    },
}

impl CallError {
    /// Whether the peer may have carried the request out.
    pub fn may_have_been_executed(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::Timeout { sent: true, .. })
    }
}

/// The moment a timeout is over; in a far future where the clock cannot tell it.
pub fn deadline_in(timeout: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);
    let now = Instant::now();
    now.checked_add(timeout).unwrap_or_else(|| now + FAR)
}

/// A connection to a broker or a name server. Dropping it closes it.
#[derive(Debug)]
pub struct Connection {
    shared: Arc<Shared>,
}

/// A request that came from the other end.
#[derive(Debug)]
pub struct PeerRequest {
    /// What it asks.
    pub command: Command,
    shared: Arc<Shared>,
}

impl PeerRequest {
    /// Who asks.
    pub fn addr(&self) -> &str {
        &self.shared.addr
    }

    /// Answers, where the peer wants an answer and is still there.
    pub fn reply(&self, mut answer: Command) {
        if self.command.is_oneway() {
            return;
        }
        answer.opaque = self.command.opaque;
        if let Err(error) = self.shared.queue_answer(&answer) {
            tracing::debug!(addr = self.addr(), code = self.command.code, %error, "an answer was not sent");
        }
    }
}

#[derive(Debug)]
struct Shared {
    addr: String,
    /// Where to put what the peer asks; without it such requests are passed over.
    requests: Option<Sender<PeerRequest>>,
    state: Mutex<State>,
    /// One permit for each request that waits for its answer.
    in_flight: Semaphore,
    /// There is something to write.
    work: Notify,
    /// The write buffer was taken.
    room: Notify,
    /// The connection is to end.
    end: Notify,
}

#[derive(Debug)]
struct State {
    unwritten: BytesMut,
    /// Bytes ever put into `unwritten`.
    queued_bytes: u64,
    /// Bytes ever taken by the socket. Never more than `queued_bytes`.
    written_bytes: u64,
    waiters: HashMap<i32, Waiter>,
    next_opaque: i32,
    /// Why the connection ended.
    ended: Option<String>,
    timeouts_in_a_row: u32,
    heard_at: Instant,
}

#[derive(Debug)]
struct Waiter {
    /// `queued_bytes` at the end of its frame: it has left when `written_bytes` is at least that.
    frame_end: u64,
    answer: oneshot::Sender<Result<Command, CallError>>,
}

impl Connection {
    /// Connects. At most `in_flight_max` requests wait for answers at a time; more callers queue up.
    pub async fn connect(
        network: &dyn Network,
        addr: &str,
        timeout: Duration,
        in_flight_max: usize,
    ) -> Result<Self, CallError> {
        Self::connect_with(network, addr, timeout, in_flight_max, None).await
    }

    /// As [`Connection::connect`], with a place for what the peer asks.
    pub async fn connect_with(
        network: &dyn Network,
        addr: &str,
        timeout: Duration,
        in_flight_max: usize,
        requests: Option<Sender<PeerRequest>>,
    ) -> Result<Self, CallError> {
        let failed = |reason: String| CallError::Connect { addr: addr.to_owned(), reason };
        let connecting = tokio::time::timeout(timeout, network.connect(addr)).await;
        let stream = connecting
            .map_err(|_| failed(format!("no connection within {} ms", timeout.as_millis())))?
            .map_err(|error| failed(error.to_string()))?;
        let shared = Arc::new(Shared {
            addr: addr.to_owned(),
            requests,
            state: Mutex::new(State {
                unwritten: BytesMut::new(),
                queued_bytes: 0,
                written_bytes: 0,
                waiters: HashMap::default(),
                next_opaque: 1,
                ended: None,
                timeouts_in_a_row: 0,
                heard_at: Instant::now(),
            }),
            in_flight: Semaphore::new(in_flight_max.max(1)),
            work: Notify::new(),
            room: Notify::new(),
            end: Notify::new(),
        });
        tokio::spawn(own_socket(shared.clone(), stream));
        Ok(Self { shared })
    }

    /// The peer, as it was given.
    pub fn addr(&self) -> &str {
        &self.shared.addr
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.shared.state.lock().ended.is_some()
    }

    /// Ends the connection.
    pub fn close(&self) {
        self.shared.end("closed");
    }

    /// Sends a request and waits for its answer, whatever its code.
    pub async fn call(&self, mut request: Command, timeout: Duration) -> Result<Command, CallError> {
        self.exchange(timeout, |opaque, out| {
            request.opaque = opaque;
            encode_command(&request, out)
        })
        .await
    }

    /// Sends a request that gets no answer. Returns when it is on its way.
    pub async fn call_oneway(&self, request: Command, timeout: Duration) -> Result<(), CallError> {
        let mut request = request.oneway();
        self.send_oneway(timeout, |opaque, out| {
            request.opaque = opaque;
            encode_command(&request, out)
        })
        .await
    }

    /// As [`Connection::call`], with the frame written by `encode` under the opaque it is given.
    pub async fn exchange(
        &self,
        timeout: Duration,
        encode: impl FnOnce(i32, &mut BytesMut) -> Result<(), EncodeError>,
    ) -> Result<Command, CallError> {
        let shared = &*self.shared;
        let deadline = deadline_in(timeout);
        let too_late = |sent| CallError::Timeout { addr: shared.addr.clone(), waited: timeout, sent };
        let permit = timeout_at(deadline, shared.in_flight.acquire()).await;
        let _permit = permit.map_err(|_| too_late(false))?.map_err(|_| shared.not_sent("closed"))?;
        timeout_at(deadline, shared.wait_for_room()).await.map_err(|_| too_late(false))?;
        let (answer, answered) = oneshot::channel();
        let opaque = shared.queue(Some(answer), encode)?;
        let _forget = Forget { shared, opaque };
        match timeout_at(deadline, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(CallError::Lost { addr: shared.addr.clone(), reason: "abandoned".to_owned() }),
            Err(_) => {
                shared.count_timeout();
                Err(too_late(true))
            }
        }
    }

    /// As [`Connection::call_oneway`], with the frame written by `encode`.
    pub async fn send_oneway(
        &self,
        timeout: Duration,
        encode: impl FnOnce(i32, &mut BytesMut) -> Result<(), EncodeError>,
    ) -> Result<(), CallError> {
        let shared = &*self.shared;
        let too_late = |_| CallError::Timeout { addr: shared.addr.clone(), waited: timeout, sent: false };
        tokio::time::timeout(timeout, shared.wait_for_room()).await.map_err(too_late)?;
        shared.queue(None, encode).map(drop)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.end("dropped by its owner");
    }
}

impl Shared {
    fn not_sent(&self, reason: &str) -> CallError {
        CallError::NotSent { addr: self.addr.clone(), reason: reason.to_owned() }
    }

    async fn wait_for_room(&self) {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            // Registered before looking, so that room made in between is not missed.
            room.as_mut().enable();
            if self.state.lock().has_room() {
                return;
            }
            room.await;
        }
    }

    /// Puts a frame into the write buffer and, if an answer is wanted, its waiter into the table.
    fn queue(
        &self,
        answer: Option<oneshot::Sender<Result<Command, CallError>>>,
        encode: impl FnOnce(i32, &mut BytesMut) -> Result<(), EncodeError>,
    ) -> Result<i32, CallError> {
        let mut state = self.state.lock();
        if let Some(reason) = &state.ended {
            return Err(self.not_sent(reason));
        }
        let opaque = state.take_opaque();
        let before = state.unwritten.len();
        encode(opaque, &mut state.unwritten)
            .map_err(|source| CallError::Encode { addr: self.addr.clone(), source })?;
        state.queued_bytes += (state.unwritten.len() - before) as u64;
        if let Some(answer) = answer {
            let frame_end = state.queued_bytes;
            state.waiters.insert(opaque, Waiter { frame_end, answer });
        }
        drop(state);
        self.work.notify_one();
        Ok(opaque)
    }

    /// As [`Shared::queue`], for an answer, which has the peer's opaque already.
    fn queue_answer(&self, answer: &Command) -> Result<(), CallError> {
        if !self.state.lock().has_room() {
            return Err(self.not_sent("the write buffer is full"));
        }
        self.queue(None, |_, out| encode_command(answer, out)).map(drop)
    }

    fn received(self: &Arc<Self>, command: Command) {
        let waiter = {
            let mut state = self.state.lock();
            state.timeouts_in_a_row = 0;
            state.heard_at = Instant::now();
            if command.is_response() { state.waiters.remove(&command.opaque) } else { None }
        };
        match waiter {
            // A caller that gave up in this moment is not there any more.
            Some(waiter) => drop(waiter.answer.send(Ok(command))),
            None if command.is_response() => {
                tracing::trace!(addr = self.addr, code = command.code, "an answer nobody waits for");
            }
            None => self.asked(command),
        }
    }

    /// The peer asks something. Where too much of that waits already it is left out: who asked will ask again.
    fn asked(self: &Arc<Self>, command: Command) {
        let code = command.code;
        let request = PeerRequest { command, shared: self.clone() };
        let Some(requests) = &self.requests else {
            return tracing::trace!(addr = self.addr, code, "an unexpected request");
        };
        if requests.try_send(request).is_err() {
            tracing::warn!(addr = self.addr, code, "a request of the peer was left out");
        }
    }

    fn count_timeout(&self) {
        let mut state = self.state.lock();
        state.timeouts_in_a_row += 1;
        let hopeless = state.timeouts_in_a_row >= TIMEOUTS_MAX && state.heard_at.elapsed() >= SILENCE;
        drop(state);
        if hopeless {
            self.end("silent");
        }
    }

    /// Ends the connection and tells every waiter. The first reason stays.
    fn end(&self, reason: &str) {
        let mut state = self.state.lock();
        if state.ended.is_some() {
            return;
        }
        state.ended = Some(reason.to_owned());
        let written_bytes = state.written_bytes;
        let waiters = std::mem::take(&mut state.waiters);
        state.unwritten = BytesMut::new();
        drop(state);
        for waiter in waiters.into_values() {
            let error = if waiter.frame_end <= written_bytes {
                CallError::Lost { addr: self.addr.clone(), reason: reason.to_owned() }
            } else {
                self.not_sent(reason)
            };
            // The receiver may be gone: its caller gave up.
            drop(waiter.answer.send(Err(error)));
        }
        self.room.notify_waiters();
        self.end.notify_one();
    }
}

impl State {
    fn has_room(&self) -> bool {
        self.unwritten.len() < UNWRITTEN_BYTES_MAX || self.ended.is_some()
    }

    fn take_opaque(&mut self) -> i32 {
        loop {
            let opaque = self.next_opaque;
            self.next_opaque = opaque.checked_add(1).unwrap_or(1);
            // Ends, as far fewer requests are in flight than there are numbers.
            if !self.waiters.contains_key(&opaque) {
                return opaque;
            }
        }
    }
}

/// Takes the waiter out of the table when its caller is done or gone.
struct Forget<'a> {
    shared: &'a Shared,
    opaque: i32,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.shared.state.lock().waiters.remove(&self.opaque);
    }
}

async fn own_socket(shared: Arc<Shared>, stream: Stream) {
    let (reader, writer) = stream.into_split();
    let reason = tokio::select! {
        reason = read_all(&shared, reader) => reason,
        reason = write_all(&shared, writer) => reason,
        () = shared.end.notified() => return,
    };
    shared.end(&reason);
}

async fn read_all(shared: &Arc<Shared>, mut reader: ReadHalf) -> String {
    let mut input = BytesMut::new();
    loop {
        // A frame's length was checked when it was first seen, so this is bounded.
        input.reserve(frame::missing(&input).unwrap_or(0).max(READ_BYTES));
        match reader.read_buf(&mut input).await {
            Ok(0) => return "closed by the peer".to_owned(),
            Ok(_) => {}
            Err(error) => return format!("read: {error}"),
        }
        loop {
            match frame::decode(&mut input, FRAME_LEN_MAX) {
                Ok(None) => break,
                Ok(Some(frame)) => match Command::decode(frame) {
                    Ok(command) => shared.received(command),
                    Err(error) => return format!("bad header from the peer: {error}"),
                },
                Err(error) => return format!("bad frame from the peer: {error}"),
            }
        }
    }
}

async fn write_all(shared: &Shared, mut writer: WriteHalf) -> String {
    let mut output = BytesMut::new();
    loop {
        shared.work.notified().await;
        std::mem::swap(&mut output, &mut shared.state.lock().unwritten);
        shared.room.notify_waiters();
        let mut at = 0;
        while at < output.len() {
            match writer.write(&output[at..]).await {
                Ok(0) => return "write: the socket takes nothing".to_owned(),
                Ok(written) => {
                    at += written;
                    shared.state.lock().written_bytes += written as u64;
                }
                Err(error) => return format!("write: {error}"),
            }
        }
        output.clear();
        if output.capacity() > KEPT_BYTES {
            output = BytesMut::new();
        }
    }
}
