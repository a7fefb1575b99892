//! Waiting for what the store does in the background.

use raftmq_store::{Callback, StoreError};
use tokio::sync::oneshot;

/// Asks the store for something and waits to be told how it went.
pub(crate) async fn done(ask: impl FnOnce(Callback)) -> Result<(), StoreError> {
    let (tell, told) = oneshot::channel();
    ask(Box::new(move |done| {
        // Who asked may wait no longer.
        let _ = tell.send(done);
    }));
    told.await.unwrap_or_else(|_| Err(StoreError::Stopped("nobody answers any more".into())))
}
