//! Requests of the broker to a client, over the client's own connection: numbered, and each waiting for its answer.

use raftmq_world::hash::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use raftmq_remoting::Command;
use raftmq_remoting::encode::EncodeError;
use tokio::sync::oneshot;

use crate::limits::CALLS_PER_CONNECTION_MAX;

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

    pub(crate) fn open(&self, opaque: i32) -> Result<Asked<'_>, CallError> {
        let mut open = self.open.lock();
        if open.len() >= CALLS_PER_CONNECTION_MAX {
            return Err(CallError::TooMany);
        }
        let (sender, answer) = oneshot::channel();
        open.insert(opaque, sender);
        Ok(Asked { answer, waiting: Waiting { calls: self, opaque } })
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

/// A request that is about to be sent.
pub(crate) struct Asked<'a> {
    answer: oneshot::Receiver<Command>,
    waiting: Waiting<'a>,
}

impl Asked<'_> {
    /// Waits for the answer, whatever code that has.
    pub(crate) async fn answer(self, patience: Duration) -> Result<Command, CallError> {
        let _waiting = self.waiting;
        match tokio::time::timeout(patience, self.answer).await {
            Ok(answer) => answer.map_err(|_| CallError::Closed),
            Err(_) => Err(CallError::Timeout(patience)),
        }
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
