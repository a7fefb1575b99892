//! Streams of bytes between two ends, and listeners for them.
//!
//! They are types and not traits, so that the ones of the operating system cost no indirect call. Another network puts its
//! [`Socket`] and [`Listen`] behind them.

#![expect(
    clippy::disallowed_types,
    reason = "streams of the operating system's network, without an indirect call"
)]

use std::fmt::Debug;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// A network: where to listen, and whom to connect to.
pub trait Network: Debug + Send + Sync {
    /// Listens at an address, also where connections of an earlier process linger. Port 0 is any free one.
    fn listen(&self, address: SocketAddr) -> io::Result<Listener>;

    /// Connects to `host:port`. What is written goes out at once.
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Stream>>;

    /// The address of this machine that `address`, as `host:port`, would see; `None` where there is no way to it.
    fn local_ip(&self, address: &str) -> Option<IpAddr>;
}

/// One end of a stream in another network than the operating system's.
///
/// Dropped it closes both directions; the other end reads what is on its way, and then the end.
pub trait Socket: Debug + Send + Sync {
    /// Reads what there is; nothing means the end.
    fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>>;
    /// Ready when a read would not wait.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Writes what there is room for.
    fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;
    /// Ready when a write would not wait.
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Writes what there is room for, or fails with [`io::ErrorKind::WouldBlock`].
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;
    /// Ends one direction, or both.
    fn shut(&self, how: Shutdown);
}

/// A listener in another network than the operating system's.
pub trait Listen: Debug + Send + Sync {
    /// The next connection, and whose it is.
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Arc<dyn Socket>, SocketAddr)>>;
    /// Where it listens.
    fn local_addr(&self) -> SocketAddr;
}

/// When a silent peer is asked whether it is still there.
#[derive(Clone, Copy, Debug)]
pub struct KeepAlive {
    /// After so much silence, in whole seconds.
    pub after: Duration,
    /// Again after so long, in whole seconds.
    pub interval: Duration,
    /// So many times; then the connection has ended.
    pub probes: u32,
}

/// Accepts connections.
#[derive(Debug)]
pub struct Listener(AnyListener);

#[derive(Debug)]
enum AnyListener {
    Tcp(TcpListener),
    Other(Box<dyn Listen>),
}

impl Listener {
    /// In another network.
    pub fn other(listen: Box<dyn Listen>) -> Self {
        Self(AnyListener::Other(listen))
    }

    pub(crate) fn tcp(listener: TcpListener) -> Self {
        Self(AnyListener::Tcp(listener))
    }

    /// The next connection, and whose it is.
    pub async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        match &self.0 {
            AnyListener::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Stream::tcp(stream)?, peer))
            }
            AnyListener::Other(listener) => {
                let (socket, peer) = poll_fn(|cx| listener.poll_accept(cx)).await?;
                Ok((Stream::other(socket), peer))
            }
        }
    }

    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            AnyListener::Tcp(listener) => listener.local_addr(),
            AnyListener::Other(listener) => Ok(listener.local_addr()),
        }
    }
}

/// Both directions of a connection. Dropped it is closed.
#[derive(Debug)]
pub struct Stream(AnyStream);

#[derive(Debug)]
enum AnyStream {
    Tcp(TcpStream),
    Other(Arc<dyn Socket>),
}

/// What arrives over a connection.
#[derive(Debug)]
pub struct ReadHalf(AnyReadHalf);

#[derive(Debug)]
enum AnyReadHalf {
    Tcp(OwnedReadHalf),
    Other(Arc<dyn Socket>),
}

/// What is sent over a connection. Dropped it ends this direction.
#[derive(Debug)]
pub struct WriteHalf(AnyWriteHalf);

#[derive(Debug)]
enum AnyWriteHalf {
    Tcp(OwnedWriteHalf),
    Other(EndsWithDrop),
}

#[derive(Debug)]
struct EndsWithDrop(Arc<dyn Socket>);

impl Drop for EndsWithDrop {
    fn drop(&mut self) {
        self.0.shut(Shutdown::Write);
    }
}

impl Stream {
    /// In another network.
    pub fn other(socket: Arc<dyn Socket>) -> Self {
        Self(AnyStream::Other(socket))
    }

    /// Without the kernel's waiting for more to send.
    pub(crate) fn tcp(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self(AnyStream::Tcp(stream)))
    }

    /// Has a peer that has gone without a word noticed.
    pub fn keep_alive(&self, how: KeepAlive) -> io::Result<()> {
        match &self.0 {
            AnyStream::Tcp(stream) => {
                let keepalive = TcpKeepalive::new()
                    .with_time(how.after)
                    .with_interval(how.interval)
                    .with_retries(how.probes);
                SockRef::from(stream).set_tcp_keepalive(&keepalive)
            }
            AnyStream::Other(_) => Ok(()),
        }
    }

    /// Its two directions.
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self.0 {
            AnyStream::Tcp(stream) => {
                let (reader, writer) = stream.into_split();
                (ReadHalf(AnyReadHalf::Tcp(reader)), WriteHalf(AnyWriteHalf::Tcp(writer)))
            }
            AnyStream::Other(socket) => (
                ReadHalf(AnyReadHalf::Other(socket.clone())),
                WriteHalf(AnyWriteHalf::Other(EndsWithDrop(socket))),
            ),
        }
    }
}

impl ReadHalf {
    /// Returns when there is something to read, or the end.
    pub async fn readable(&self) -> io::Result<()> {
        match &self.0 {
            AnyReadHalf::Tcp(reader) => reader.readable().await,
            AnyReadHalf::Other(socket) => poll_fn(|cx| socket.poll_readable(cx)).await,
        }
    }
}

impl WriteHalf {
    /// Returns when there is room to write, or the connection has ended.
    pub async fn writable(&self) -> io::Result<()> {
        match &self.0 {
            AnyWriteHalf::Tcp(writer) => writer.writable().await,
            AnyWriteHalf::Other(writer) => poll_fn(|cx| writer.0.poll_writable(cx)).await,
        }
    }

    /// Writes what there is room for, or fails with [`io::ErrorKind::WouldBlock`].
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match &self.0 {
            AnyWriteHalf::Tcp(writer) => writer.try_write(bytes),
            AnyWriteHalf::Other(writer) => writer.0.try_write(bytes),
        }
    }

    /// Ends the connection in both directions.
    pub fn shut(&self) {
        match &self.0 {
            AnyWriteHalf::Tcp(writer) => {
                // It fails only when the peer has ended the connection already.
                let _ = SockRef::from(writer.as_ref()).shutdown(Shutdown::Both);
            }
            AnyWriteHalf::Other(writer) => writer.0.shut(Shutdown::Both),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            AnyStream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            AnyStream::Other(socket) => socket.poll_read(cx, buf),
        }
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            AnyReadHalf::Tcp(reader) => Pin::new(reader).poll_read(cx, buf),
            AnyReadHalf::Other(socket) => socket.poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            AnyStream::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            AnyStream::Other(socket) => socket.poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            AnyStream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
            AnyStream::Other(socket) => {
                let first = pieces.iter().find(|piece| !piece.is_empty());
                socket.poll_write(cx, first.map_or(&[], |piece| &piece[..]))
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        matches!(self.0, AnyStream::Tcp(_))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            AnyStream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            AnyStream::Other(socket) => {
                socket.shut(Shutdown::Write);
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            AnyWriteHalf::Tcp(writer) => Pin::new(writer).poll_write(cx, bytes),
            AnyWriteHalf::Other(writer) => writer.0.poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            AnyWriteHalf::Tcp(writer) => Pin::new(writer).poll_shutdown(cx),
            AnyWriteHalf::Other(writer) => {
                writer.0.shut(Shutdown::Write);
                Poll::Ready(Ok(()))
            }
        }
    }
}
