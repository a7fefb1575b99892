//! The handle of a step, there before the step is started.

use std::io;
use std::sync::{Arc, OnceLock};

use raftmq_world::{Step, Threads, Worker};

/// Told why the node has to stop.
pub(crate) type Report = Box<dyn Fn(String) + Send + Sync>;

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
