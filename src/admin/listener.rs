//! Accepting HTTP connections within bounds: so many at a time, and none for longer than ten seconds, so that idle ones
//! cannot keep the others out for long.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use raftmq_world::{Accepted, Acceptor, Listener as WorldListener, Places, Stream, WhenFull};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;

/// Connections at a time; more wait in the system's queue. Each may hold a request header of some 400 KiB.
const CONNECTIONS_MAX: usize = 64;
/// How long a connection lives. Answers take milliseconds; who asks again and again connects again.
const LIFETIME: Duration = Duration::from_secs(10);

pub(super) struct BoundedListener(Acceptor);

impl BoundedListener {
    pub(super) fn new(listener: WorldListener) -> Self {
        Self(Acceptor::new(listener, Places::new("an admin", CONNECTIONS_MAX, WhenFull::Wait)))
    }
}

impl Listener for BoundedListener {
    type Io = BoundedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (BoundedStream, SocketAddr) {
        let Accepted { stream, peer, place } = self.0.next().await;
        let end = Box::pin(tokio::time::sleep(LIFETIME));
        (BoundedStream { stream, end, _place: place }, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.listener().local_addr()
    }
}

/// A connection that fails when its time is over.
pub(super) struct BoundedStream {
    stream: Stream,
    end: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl BoundedStream {
    fn check_end(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.end.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for BoundedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_end(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check_end(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
