//! The handle of a step, there before the step is started, and how a step is ended.

use std::io;
use std::sync::{Arc, OnceLock};

use raftmq_world::{Step, Threads, Worker};

use crate::error::StoreError;

/// Called once, with how what was asked for has ended. Must not block.
pub type Callback = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// Told why the node has to stop.
pub(crate) type Report = Box<dyn Fn(String) + Send + Sync>;

/// How the steps that make what is derived end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// With a last checkpoint.
    Checkpoint,
    /// Just so, as if the process had been killed.
    AtOnce,
}

/// Wakes a step and waits for its end. Of a step that is not started there is nothing to wake and nothing to wait for.
#[derive(Debug, Default)]
pub(crate) struct Handle(OnceLock<Arc<dyn Worker>>);

impl Handle {
    pub(crate) fn start(
        &self,
        threads: &dyn Threads,
        name: &'static str,
        step: Box<dyn Step>,
    ) -> io::Result<()> {
        let worker = threads.start(name, step)?;
        // Whoever had something for it in the meantime could not wake it yet.
        self.0.get_or_init(|| worker).wake();
        Ok(())
    }

    pub(crate) fn wake(&self) {
        if let Some(worker) = self.0.get() {
            worker.wake();
        }
    }

    pub(crate) fn join(&self) {
        if let Some(worker) = self.0.get() {
            worker.join();
        }
    }
}
