//! TCP.

#![expect(clippy::disallowed_types, reason = "the operating system's network")]

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use futures_util::future::BoxFuture;
use tokio::net::{TcpSocket, TcpStream};

use crate::network::{Listener, Network, Stream};

/// Connections that the system keeps waiting to be accepted: a whole cluster's clients coming back at once.
const BACKLOG: u32 = 1024;

/// The operating system's network.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsNetwork;

impl Network for OsNetwork {
    fn listen(&self, address: SocketAddr) -> io::Result<Listener> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG).map(Listener::tcp)
    }

    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        Box::pin(async move { Stream::tcp(TcpStream::connect(address).await?) })
    }

    /// Nothing is sent: connecting a datagram socket only chooses a route.
    fn local_ip(&self, address: &str) -> Option<IpAddr> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        socket.connect(address).ok()?;
        Some(socket.local_addr().ok()?.ip())
    }
}
