//! Asking another server, a name server or the leader, over a connection that is kept.

use std::time::Duration;

use raftmq_remoting::{CallError, Command, Connection, ConnectionPool, deadline_in};
use tokio::time::Instant;

/// Why a server has not done what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("code {code}: {remark}")]
    Refused { code: i32, remark: String },
    #[error("the request cannot be written: {0}")]
    Body(String),
}

/// Sends a request to `address`, a `host:port`, and waits for the answer of its success; connecting counts towards the patience. A
/// connection that owes an answer for so long is not used again.
pub(crate) async fn ask(
    peers: &ConnectionPool,
    address: &str,
    request: Command,
    patience: Duration,
) -> Result<Command, PeerError> {
    let deadline = deadline_in(patience);
    let connection = peers.get_within(address, patience).await?;
    ask_over(&connection, request, deadline).await
}

/// As [`ask`], over a connection that there is.
pub(crate) async fn ask_over(
    connection: &Connection,
    request: Command,
    deadline: Instant,
) -> Result<Command, PeerError> {
    let answer = connection.call(request, deadline.saturating_duration_since(Instant::now())).await;
    if let Err(CallError::Timeout { .. }) = answer {
        connection.close();
    }
    match answer? {
        answer @ Command { code: 0, .. } => Ok(answer),
        Command { code, remark, .. } => Err(PeerError::Refused { code, remark: remark.unwrap_or_default() }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use raftmq_remoting::Ext;
    use raftmq_testkit::{FakeServer, Reply};
    use raftmq_world::World;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(3);

    fn peers() -> ConnectionPool {
        ConnectionPool::new(World::system().network, PATIENCE, 8)
    }

    #[tokio::test]
    async fn a_connection_is_kept_and_an_ended_one_replaced() {
        let asked = AtomicUsize::new(0);
        let server = FakeServer::start_raw(move |request| match asked.fetch_add(1, Ordering::Relaxed) {
            1 => Reply::Answer(Command::response_to(&request, 1)),
            2 => Reply::Close,
            _ => Reply::Answer(Command::response_to(&request, 0)),
        });
        let server = server.await;
        let (peers, server) = (peers(), server.addr.to_string());
        let ask = || ask(&peers, &server, Command::request(103, Ext::new()), PATIENCE);
        ask().await.unwrap();
        let first = peers.get(&server).await.unwrap();
        assert!(matches!(ask().await, Err(PeerError::Refused { code: 1, .. })));
        assert!(!first.is_closed());
        assert!(matches!(ask().await, Err(PeerError::Call(_))) && first.is_closed());
        ask().await.unwrap();
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_is_given_up() {
        let server = FakeServer::start_raw(|_| Reply::Silence).await;
        let (peers, server) = (peers(), server.addr.to_string());
        let silent = peers.get(&server).await.unwrap();
        let short = Duration::from_millis(50);
        let outcome = ask(&peers, &server, Command::request(103, Ext::new()), short).await;
        assert!(matches!(outcome, Err(PeerError::Call(CallError::Timeout { .. }))) && silent.is_closed());
    }
}
