//! Accepting connections within a bound.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::network::{Listener, Stream};

/// The pause after the system could not accept, which mostly means that no file descriptors are left.
const PAUSE: Duration = Duration::from_millis(50);

/// What becomes of a connection that is one too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// It is closed, and a warning says so.
    Refuse,
    /// It waits in the system's queue.
    Wait,
}

/// A connection within the bound.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub stream: Stream,
    /// Whose it is.
    pub peer: SocketAddr,
    /// Its place; to be kept as long as the connection.
    pub place: OwnedSemaphorePermit,
}

/// Places for connections, so many at a time. Clones are the same places, so that several listeners can share them.
#[derive(Clone, Debug)]
pub struct Places {
    /// For the log: whose connections these are.
    whose: &'static str,
    free: Arc<Semaphore>,
    limit: usize,
    when_full: WhenFull,
}

impl Places {
    /// `limit` places; `whose` names their connections in the log, as in "a client's".
    pub fn new(whose: &'static str, limit: usize, when_full: WhenFull) -> Self {
        Self { whose, free: Arc::new(Semaphore::new(limit)), limit, when_full }
    }
}

/// Accepts connections as long as there are places.
#[derive(Debug)]
pub struct Acceptor {
    listener: Listener,
    places: Places,
}

impl Acceptor {
    /// Takes the connections of a listener.
    pub fn new(listener: Listener, places: Places) -> Self {
        Self { listener, places }
    }

    /// The listener.
    pub fn listener(&self) -> &Listener {
        &self.listener
    }

    /// The next connection. Nothing is lost if this is dropped before it ends.
    pub async fn next(&self) -> Accepted {
        loop {
            let place = match self.places.when_full {
                WhenFull::Refuse => None,
                // The semaphore is never closed; an error could only make the loop turn again.
                WhenFull::Wait => match self.places.free.clone().acquire_owned().await {
                    Ok(place) => Some(place),
                    Err(_) => continue,
                },
            };
            let (stream, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept {} connection", self.places.whose);
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            match place.or_else(|| self.places.free.clone().try_acquire_owned().ok()) {
                Some(place) => return Accepted { stream, peer, place },
                None => {
                    tracing::warn!(%peer, limit = self.places.limit, "too many connections, refusing {} one", self.places.whose);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::{Network, OsNetwork};

    async fn acceptor(when_full: WhenFull) -> (Acceptor, String) {
        let listener = OsNetwork.listen(([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (Acceptor::new(listener, Places::new("a test's", 1, when_full)), address)
    }

    #[tokio::test]
    async fn one_too_many_is_refused() {
        let (acceptor, address) = acceptor(WhenFull::Refuse).await;
        let _first = OsNetwork.connect(&address).await.unwrap();
        let kept = acceptor.next().await;
        let mut second = OsNetwork.connect(&address).await.unwrap();
        let third = tokio::spawn(async move { acceptor.next().await });
        assert_eq!(second.read(&mut [0; 8]).await.unwrap_or(0), 0, "closed");
        drop(kept);
        let mut stream = OsNetwork.connect(&address).await.unwrap();
        let mut accepted = third.await.unwrap();
        stream.write_all(b"x").await.unwrap();
        assert_eq!(accepted.stream.read_u8().await.unwrap(), b'x');
    }

    #[tokio::test]
    async fn one_too_many_waits() {
        let (acceptor, address) = acceptor(WhenFull::Wait).await;
        let _streams =
            (OsNetwork.connect(&address).await.unwrap(), OsNetwork.connect(&address).await.unwrap());
        let first = acceptor.next().await;
        let second = tokio::spawn(async move { acceptor.next().await });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        second.await.unwrap();
    }
}
