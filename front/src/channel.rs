//! The broker's end of a client's connection: anyone may write to it, from any thread, without waiting.
//!
//! What is written gathers in one buffer. It goes out in one system call, made by whoever flushes; a task of the
//! connection takes over only while the socket takes no more. Nothing here knows what the bytes mean.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use raftmq_broker::clients::Connection;
use raftmq_remoting::Command;
use raftmq_remoting::encode::encode_command;
use raftmq_world::WriteHalf;
use tokio::sync::Notify;

use crate::buffers;
use crate::calls::{CallError, Calls};
use crate::gauge::Gauge;
use crate::limits::Limits;

/// Where a channel's bytes go; a socket, or a buffer in tests.
pub(crate) trait Sink: Send + Sync {
    /// Writes what can be written now.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;
    /// Ends the connection in both directions.
    fn shut(&self);
}

impl Sink for WriteHalf {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        Self::try_write(self, bytes)
    }

    fn shut(&self) {
        Self::shut(self);
    }
}

/// One client connection, as the rest of the broker sees it.
pub(crate) struct Channel<S: Sink = WriteHalf> {
    /// Tells it apart from every other connection of this process.
    pub(crate) id: u64,
    /// The client's address.
    pub(crate) peer: SocketAddr,
    sink: S,
    output: Mutex<Output>,
    /// Tells the connection's writing task that the socket was full.
    blocked: Notify,
    /// Tells the connection's reading task that it may read again.
    resume: Notify,
    requests: Gauge,
    bytes: Gauge,
    limits: ChannelLimits,
    /// Bytes waiting in all channels.
    buffered: Arc<Gauge>,
    /// What the broker asks this client.
    pub(crate) calls: Calls,
    /// When it was last read or written, in ms of the process's clock.
    active_ms: AtomicU64,
    closed: AtomicBool,
}

#[derive(Default)]
struct Output {
    bytes: BytesMut,
    /// The socket took no more; the writing task will go on.
    blocked: bool,
}

/// The part of [`Limits`] that each channel keeps.
#[derive(Clone, Copy)]
struct ChannelLimits {
    requests: usize,
    bytes: usize,
    output_pause: usize,
    output_close: usize,
    output_all: usize,
}

impl<S: Sink> Channel<S> {
    /// `buffered` is shared by all channels of a process.
    pub(crate) fn new(id: u64, peer: SocketAddr, sink: S, limits: &Limits, buffered: Arc<Gauge>) -> Self {
        Self {
            id,
            peer,
            sink,
            output: Mutex::default(),
            blocked: Notify::new(),
            resume: Notify::new(),
            requests: Gauge::default(),
            bytes: Gauge::default(),
            limits: ChannelLimits {
                requests: limits.requests_per_connection,
                bytes: limits.bytes_per_connection,
                output_pause: limits.output_bytes_pause,
                output_close: limits.output_bytes_close,
                output_all: limits.output_bytes,
            },
            buffered,
            calls: Calls::default(),
            active_ms: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        }
    }

    /// Lets `encode` append to the output without sending it; [`Channel::flush`] has to follow.
    pub(crate) fn put(&self, encode: impl FnOnce(&mut BytesMut)) {
        let mut output = self.output.lock();
        if self.is_closed() {
            return;
        }
        if output.bytes.is_empty() {
            output.bytes = buffers::take();
        }
        let before = output.bytes.len();
        encode(&mut output.bytes);
        let added = output.bytes.len().saturating_sub(before);
        self.buffered.add(added);
        if output.bytes.len() > self.limits.output_close {
            tracing::warn!(
                peer = %self.peer, waiting = output.bytes.len(), limit = self.limits.output_close,
                "closing the connection of a client that does not read"
            );
            self.close_locked(&mut output);
        }
    }

    /// Sends what is waiting, or leaves it to the writing task where the socket is full.
    pub(crate) fn flush(&self) {
        let mut output = self.output.lock();
        if output.blocked || output.bytes.is_empty() {
            return;
        }
        if let Err(error) = self.drain(&mut output) {
            tracing::debug!(peer = %self.peer, %error, "write failed");
            self.close_locked(&mut output);
        }
        if output.blocked {
            self.blocked.notify_one();
        }
    }

    /// [`Channel::put`] and [`Channel::flush`].
    pub(crate) fn write(&self, encode: impl FnOnce(&mut BytesMut)) {
        self.put(encode);
        self.flush();
    }

    /// Writes until all is written or the socket is full, which it notes.
    fn drain(&self, output: &mut Output) -> io::Result<()> {
        output.blocked = false;
        while !output.bytes.is_empty() {
            match self.sink.try_write(&output.bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    output.bytes.advance(written);
                    self.buffered.sub(written);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    output.blocked = true;
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        buffers::give(std::mem::take(&mut output.bytes));
        Ok(())
    }

    /// Ends the connection. Its reading task sees the end and tidies up.
    pub(crate) fn close(&self) {
        self.close_locked(&mut self.output.lock());
    }

    fn close_locked(&self, output: &mut Output) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        self.buffered.sub(output.bytes.len());
        *output = Output::default();
        self.sink.shut();
        self.calls.end();
        self.blocked.notify_one();
        self.resume.notify_one();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Whether a large answer should not be added now.
    pub(crate) fn is_congested(&self) -> bool {
        self.waiting() > self.limits.output_pause || self.are_all_congested()
    }

    /// Whether all connections together have too much waiting to be sent.
    pub(crate) fn are_all_congested(&self) -> bool {
        self.buffered.get() > self.limits.output_all
    }

    /// Whether it has requests whose outcome is open, or answers that wait to be sent.
    pub(crate) fn is_at_work(&self) -> bool {
        self.requests.get() > 0 || self.waiting() > 0
    }

    /// Bytes waiting to be sent.
    pub(crate) fn waiting(&self) -> usize {
        self.output.lock().bytes.len()
    }

    /// Counts requests whose outcome is open and the bytes they hold.
    pub(crate) fn begin(&self, requests: usize, bytes: usize) {
        self.requests.add(requests);
        self.bytes.add(bytes);
    }

    /// Counts them as done.
    pub(crate) fn end(&self, requests: usize, bytes: usize) {
        self.requests.sub(requests);
        self.bytes.sub(bytes);
        self.resume.notify_one();
    }

    /// Whether this connection's open requests or unsent answers are at their limits.
    pub(crate) fn must_pause(&self) -> bool {
        !self.is_closed()
            && (self.requests.get() >= self.limits.requests
                || self.bytes.get() >= self.limits.bytes
                || self.waiting() > self.limits.output_pause)
    }

    /// Waits until this connection's open requests and unsent answers are below their limits.
    pub(crate) async fn may_read(&self) {
        while self.must_pause() {
            // A wake-up between the check and this is kept by the notify.
            self.resume.notified().await;
        }
    }

    /// Notes that the client was heard of.
    pub(crate) fn touch(&self, now_ms: u64) {
        self.active_ms.store(now_ms, Ordering::Relaxed);
    }

    /// When the client was last heard of.
    pub(crate) fn active_ms(&self) -> u64 {
        self.active_ms.load(Ordering::Relaxed)
    }
}

impl Channel<WriteHalf> {
    /// Sends what the socket did not take at once. Ends with the connection.
    pub(crate) async fn write_loop(&self) {
        while !self.is_closed() {
            self.blocked.notified().await;
            while !self.is_closed() && self.output.lock().blocked {
                if let Err(error) = self.write_when_possible().await {
                    tracing::debug!(peer = %self.peer, %error, "write failed");
                    self.close();
                }
                self.resume.notify_one();
            }
        }
    }

    async fn write_when_possible(&self) -> io::Result<()> {
        self.sink.writable().await?;
        self.drain(&mut self.output.lock())
    }
}

impl<S: Sink> Channel<S> {
    /// Asks the client and waits for its answer, whatever code that has.
    pub(crate) async fn call(&self, mut request: Command, patience: Duration) -> Result<Command, CallError> {
        if self.is_congested() {
            return Err(CallError::Congested);
        }
        request.opaque = self.calls.next_opaque();
        let asked = self.calls.open(request.opaque)?;
        let mut written = Ok(());
        self.write(|out| written = encode_command(&request, out));
        written?;
        // The end of a connection that came before the request was noted does not end the wait.
        if self.is_closed() {
            return Err(CallError::Closed);
        }
        asked.answer(patience).await
    }
}

impl<S: Sink + 'static> Connection for Channel<S> {
    fn id(&self) -> u64 {
        self.id
    }

    fn address(&self) -> SocketAddr {
        self.peer
    }

    fn is_closed(&self) -> bool {
        Self::is_closed(self)
    }
}

impl<S: Sink> std::fmt::Debug for Channel<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Channel({} {})", self.id, self.peer)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Takes so many bytes and then no more.
    #[derive(Default)]
    struct Pipe {
        room: AtomicUsize,
        taken: Mutex<Vec<u8>>,
        shut: AtomicBool,
    }

    impl Sink for Pipe {
        fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
            let n = bytes.len().min(self.room.load(Ordering::Relaxed));
            if n == 0 {
                return Err(ErrorKind::WouldBlock.into());
            }
            self.room.fetch_sub(n, Ordering::Relaxed);
            self.taken.lock().extend_from_slice(&bytes[..n]);
            Ok(n)
        }
        fn shut(&self) {
            self.shut.store(true, Ordering::Relaxed);
        }
    }

    fn channel(limits: &Limits, room: usize) -> Channel<Pipe> {
        let pipe = Pipe { room: AtomicUsize::new(room), ..Pipe::default() };
        Channel::new(1, ([127, 0, 0, 1], 1).into(), pipe, limits, Arc::default())
    }

    #[test]
    fn what_does_not_fit_waits_in_order() {
        let channel = channel(&Limits::default(), 3);
        channel.write(|out| out.extend_from_slice(b"abcde"));
        channel.write(|out| out.extend_from_slice(b"fg"));
        assert_eq!((channel.waiting(), channel.sink.taken.lock().as_slice()), (4, b"abc".as_slice()));
        assert_eq!(channel.buffered.get(), 4);
        channel.sink.room.store(10, Ordering::Relaxed);
        channel.drain(&mut channel.output.lock()).unwrap();
        assert_eq!(channel.sink.taken.lock().as_slice(), b"abcdefg");
        assert_eq!(channel.buffered.get(), 0);
    }

    #[test]
    fn a_client_that_does_not_read_is_closed_at_the_limit() {
        let limits = Limits { output_bytes_close: 10, ..Limits::default() };
        let channel = channel(&limits, 0);
        channel.write(|out| out.extend_from_slice(&[0; 10]));
        assert!(!channel.is_closed());
        channel.write(|out| out.extend_from_slice(&[0]));
        assert!(channel.is_closed() && channel.sink.shut.load(Ordering::Relaxed));
        assert_eq!((channel.waiting(), channel.buffered.get()), (0, 0));
        channel.write(|out| out.extend_from_slice(b"late"));
        assert_eq!(channel.waiting(), 0);
    }

    #[tokio::test]
    async fn reading_pauses_while_too_much_is_open() {
        let limits = Limits { requests_per_connection: 2, ..Limits::default() };
        let channel = Arc::new(channel(&limits, 0));
        channel.may_read().await;
        channel.begin(2, 100);
        let waiting = tokio::spawn({
            let channel = channel.clone();
            async move { channel.may_read().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        channel.end(1, 50);
        waiting.await.unwrap();
        channel.begin(1, limits.bytes_per_connection);
        channel.close();
        channel.may_read().await;
    }
}
