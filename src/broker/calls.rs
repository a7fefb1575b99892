//! Requests of the broker to a client, over the client's own connection: numbered, and each waiting for its answer.

use raftmq_world::hash::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use raftmq_remoting::Command;
use raftmq_remoting::encode::{EncodeError, encode_command};
use tokio::sync::oneshot;

use super::channel::{Channel, Sink};
use super::limits::CALLS_PER_CONNECTION_MAX;

/// Why a client has not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("the client's connection has ended")]
    Closed,
    #[error("no answer in {0:?}")]
    Timeout(Duration),
    #[error("[BUSY]the client has {CALLS_PER_CONNECTION_MAX} requests to answer")]
    TooMany,
    #[error("[BUSY]the client does not read")]
    Congested,
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

/// The requests to one client that wait for their answers.
#[derive(Default)]
pub(crate) struct Calls {
    /// By number.
    open: Mutex<HashMap<i32, oneshot::Sender<Command>>>,
    next: AtomicU32,
}

impl Calls {
    /// The number of the next request to this client.
    pub(crate) fn next_opaque(&self) -> i32 {
        (self.next.fetch_add(1, Ordering::Relaxed) & 0x7FFF_FFFF) as i32
    }

    fn open(&self, opaque: i32) -> Result<oneshot::Receiver<Command>, CallError> {
        let mut open = self.open.lock();
        if open.len() >= CALLS_PER_CONNECTION_MAX {
            return Err(CallError::TooMany);
        }
        let (sender, answer) = oneshot::channel();
        open.insert(opaque, sender);
        Ok(answer)
    }

    /// Hands an answer to whoever waits for it. One that nobody waits for any more is dropped.
    pub(crate) fn answered(&self, answer: Command) {
        let waiting = self.open.lock().remove(&answer.opaque);
        if let Some(waiting) = waiting {
            // Who asked may have given up just now.
            let _ = waiting.send(answer);
        }
    }

    /// Lets everyone know who waits that no answer will come.
    pub(crate) fn end(&self) {
        self.open.lock().clear();
    }
}

/// Forgets a request when who asked waits no longer.
struct Waiting<'a> {
    calls: &'a Calls,
    opaque: i32,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.calls.open.lock().remove(&self.opaque);
    }
}

impl<S: Sink> Channel<S> {
    /// Asks the client and waits for its answer, whatever code that has.
    pub(crate) async fn call(&self, mut request: Command, patience: Duration) -> Result<Command, CallError> {
        if self.is_congested() {
            return Err(CallError::Congested);
        }
        request.opaque = self.calls.next_opaque();
        let answer = self.calls.open(request.opaque)?;
        let _waiting = Waiting { calls: &self.calls, opaque: request.opaque };
        let mut written = Ok(());
        self.write(|out| written = encode_command(&request, out));
        written?;
        // The end of a connection that came before the request was noted does not end the wait.
        if self.is_closed() {
            return Err(CallError::Closed);
        }
        match tokio::time::timeout(patience, answer).await {
            Ok(answer) => answer.map_err(|_| CallError::Closed),
            Err(_) => Err(CallError::Timeout(patience)),
        }
    }
}
