//! Asking another server, a name server or the leader, over a connection that is kept.

use std::time::Duration;

use raftmq_remoting::{CallError, Command, ConnectionPool, deadline_in};
use tokio::time::Instant;

/// Why a server has not done what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("code {code}: {remark}")]
    Refused { code: i32, remark: String },
}

/// Sends a request to `address`, a `host:port`, and waits for its success; connecting counts towards the patience. A
/// connection that owes an answer for so long is not used again.
pub(crate) async fn ask(
    peers: &ConnectionPool,
    address: &str,
    request: Command,
    patience: Duration,
) -> Result<(), PeerError> {
    let deadline = deadline_in(patience);
    let connection = peers.get_within(address, patience).await?;
    let answer = connection.call(request, deadline.saturating_duration_since(Instant::now())).await;
    if let Err(CallError::Timeout { .. }) = answer {
        connection.close();
    }
    match answer? {
        Command { code: 0, .. } => Ok(()),
        Command { code, remark, .. } => Err(PeerError::Refused { code, remark: remark.unwrap_or_default() }),
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use raftmq_remoting::encode::encode_command;
    use raftmq_remoting::{Ext, frame};
    use raftmq_world::World;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(3);

    fn peers() -> ConnectionPool {
        ConnectionPool::new(World::system().network, PATIENCE, 8)
    }

    /// Answers each request with the next of `codes`, then closes.
    async fn server(codes: &'static [i32]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut input = BytesMut::new();
                for code in codes {
                    let request = loop {
                        if let Some(frame) = frame::decode(&mut input, 1 << 20).unwrap() {
                            break Command::decode(frame).unwrap();
                        }
                        if stream.read_buf(&mut input).await.unwrap() == 0 {
                            return;
                        }
                    };
                    let mut out = BytesMut::new();
                    encode_command(&Command::response_to(&request, *code), &mut out).unwrap();
                    stream.write_all(&out).await.unwrap();
                }
            }
        });
        address
    }

    #[tokio::test]
    async fn a_connection_is_kept_and_an_ended_one_replaced() {
        let (peers, server) = (peers(), server(&[0, 1]).await);
        let ask = || ask(&peers, &server, Command::request(103, Ext::new()), PATIENCE);
        ask().await.unwrap();
        let first = peers.get(&server).await.unwrap();
        assert!(matches!(ask().await, Err(PeerError::Refused { code: 1, .. })));
        while !first.is_closed() {
            tokio::task::yield_now().await;
        }
        ask().await.unwrap();
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (peers, server) = (peers(), listener.local_addr().unwrap().to_string());
        let silent = peers.get(&server).await.unwrap();
        let short = Duration::from_millis(50);
        let outcome = ask(&peers, &server, Command::request(103, Ext::new()), short).await;
        assert!(matches!(outcome, Err(PeerError::Call(CallError::Timeout { .. }))) && silent.is_closed());
    }
}
