//! The listening socket: accepts connections up to their limit and starts a task for each.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use super::connection;
use super::node::Node;

/// Connections that the system keeps waiting to be accepted: a whole cluster's clients coming back at once.
const BACKLOG: u32 = 1024;
/// Pause after the system could not accept, which mostly means that no file descriptors are left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Listens at an address, also where connections of an earlier process linger.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket =
        if address.is_ipv4() { tokio::net::TcpSocket::new_v4()? } else { tokio::net::TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts connections. Runs until the task is ended.
pub(crate) async fn run(node: Arc<Node>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => accept(&node, stream, peer),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn accept(node: &Arc<Node>, stream: TcpStream, peer: SocketAddr) {
    if let Err(error) = stream.set_nodelay(true) {
        return tracing::debug!(%peer, %error, "connection lost");
    }
    let (reader, writer) = stream.into_split();
    match node.open_channel(peer, writer) {
        Some(channel) => drop(tokio::spawn(connection::serve(node.clone(), channel, reader))),
        None => {
            tracing::warn!(%peer, limit = node.config.limits.connections, "too many connections, refusing one")
        }
    }
}
