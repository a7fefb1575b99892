//! Brings what other members have where this member's log is broken.
//!
//! Logs are the same to the byte, so a frame is asked for by where it stands. The store says where something is broken, checks
//! what comes, and puts it in place.

use std::sync::Arc;
use std::time::Duration;

use raftmq_store::{Store, StoreError};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::done::done;
use crate::transport::Transport;

/// How long the others are left alone when none of them had what is missing.
const PAUSE: Duration = Duration::from_secs(1);
/// How often it is looked whether what is broken is mended.
const LOOK: Duration = Duration::from_millis(50);
/// How long another may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Does something with the log again until nothing that it meets is broken any more.
pub(crate) async fn once_mended<T, F: Future<Output = Result<T, StoreError>>>(
    store: &Store,
    mut act: impl FnMut() -> F,
) -> Result<T, StoreError> {
    loop {
        match act().await {
            Err(e) if store.is_looked_after(&e) => sleep(LOOK).await,
            done => return done,
        }
    }
}

pub(crate) struct Mending {
    store: Arc<Store>,
    transport: Transport,
    /// Where other nodes were said to be, besides where they have said so themselves.
    seeds: Vec<String>,
    found: Arc<Notify>,
}

impl Mending {
    pub(crate) fn new(store: Arc<Store>, transport: Transport, seeds: impl Iterator<Item = String>) -> Self {
        let (found, seeds) = (Arc::new(Notify::new()), seeds.collect::<Vec<_>>());
        let notify = found.clone();
        // Who is alone has nobody to wait for.
        if !seeds.is_empty() {
            store.on_damage(Box::new(move || notify.notify_one()));
        }
        Self { store, transport, seeds, found }
    }

    /// Runs until it is dropped.
    pub(crate) async fn run(self) {
        loop {
            let spots = self.store.damage();
            if spots.is_empty() {
                self.found.notified().await;
                continue;
            }
            let mut mended = false;
            for spot in &spots {
                mended |= self.mend(spot.physical_offset).await;
            }
            if !mended {
                sleep(PAUSE).await;
            }
        }
    }

    /// Asks one after the other; whether something of one's was put in place.
    async fn mend(&self, physical_offset: u64) -> bool {
        for address in self.addresses() {
            let asked = timeout(ANSWER_MAX, self.transport.frames(&address, physical_offset)).await;
            let frames = match asked {
                Ok(Ok(frames)) if !frames.is_empty() => frames,
                Ok(Ok(_)) => continue,
                Ok(Err(error)) => {
                    tracing::debug!(address, physical_offset, "no frames to mend the log with: {error}");
                    continue;
                }
                Err(_) => continue,
            };
            match done(|callback| self.store.mend(physical_offset, frames, callback)).await {
                Ok(()) => return true,
                Err(error) => tracing::warn!(address, physical_offset, "the log is not mended: {error}"),
            }
        }
        false
    }

    fn addresses(&self) -> Vec<String> {
        let mut addresses = self.transport.acquaintances().others();
        for seed in &self.seeds {
            if !addresses.contains(seed) {
                addresses.push(seed.clone());
            }
        }
        addresses
    }
}
