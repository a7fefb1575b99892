//! Threads that do work in steps, and a place for work that may block.
//!
//! Work in the background is a [`Step`] that somebody calls again and again. The operating system's threads call it in a
//! loop and sleep where it says so; the simulator calls it between other things, on its one thread.

#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "the operating system's threads")]

use std::fmt::Debug;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// When a step is to be called again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// At once: it has begun something, or there is more to do.
    Again,
    /// When it is woken.
    Wait,
    /// When it is woken, or after so long.
    WaitFor(Duration),
    /// Never.
    End,
}

/// Work in the background. May block. Called once more than needed it does nothing.
pub trait Step: Send {
    /// Does what there is to do now, or a part of it.
    fn step(&mut self) -> Next;
}

impl<F: FnMut() -> Next + Send> Step for F {
    fn step(&mut self) -> Next {
        self()
    }
}

/// The handle of a [`Step`] that was started.
pub trait Worker: Debug + Send + Sync {
    /// Has the step called again, soon. A wake-up that comes while it is being called is not lost. Does not block.
    fn wake(&self);

    /// Returns when the step has said [`Next::End`], for which it must have been told to and woken. Called by the step
    /// itself it returns at once.
    fn join(&self);
}

/// Work that may block, and is done once.
pub type Job = Box<dyn FnOnce() + Send>;

/// Where work that may block is done.
pub trait Threads: Debug + Send + Sync {
    /// Has `step` called on a thread of its own, the first time at once.
    fn start(&self, name: &'static str, step: Box<dyn Step>) -> io::Result<Arc<dyn Worker>>;

    /// Has `job` done elsewhere, so that the calling task does not hold up others. It is dropped undone where the runtime
    /// is ending.
    fn block(&self, job: Job);
}

impl dyn Threads {
    /// Does `work` elsewhere and waits for its result; `None` where it panicked or could not be done any more.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (tell, told) = oneshot::channel();
        self.block(Box::new(move || {
            // Who asked may wait no longer.
            let _ = tell.send(work());
        }));
        told.await.ok()
    }
}

/// The operating system's threads, and the tokio runtime's for blocking work.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsThreads;

impl Threads for OsThreads {
    fn start(&self, name: &'static str, mut step: Box<dyn Step>) -> io::Result<Arc<dyn Worker>> {
        let run = move || {
            loop {
                match step.step() {
                    Next::Again => {}
                    Next::Wait => thread::park(),
                    Next::WaitFor(time) => thread::park_timeout(time),
                    Next::End => return,
                }
            }
        };
        let running = thread::Builder::new().name(name.to_owned()).spawn(run)?;
        Ok(Arc::new(OsWorker { name, thread: running.thread().clone(), running: Mutex::new(Some(running)) }))
    }

    fn block(&self, job: Job) {
        drop(tokio::task::spawn_blocking(job));
    }
}

#[derive(Debug)]
struct OsWorker {
    name: &'static str,
    thread: Thread,
    running: Mutex<Option<JoinHandle<()>>>,
}

impl Worker for OsWorker {
    fn wake(&self) {
        self.thread.unpark();
    }

    fn join(&self) {
        // What the step holds may have been the last to hold this.
        if self.thread.id() == thread::current().id() {
            return;
        }
        let running = self.running.lock().take();
        if running.is_some_and(|running| running.join().is_err()) {
            tracing::error!("the thread {} had panicked", self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_step_is_called_when_it_is_woken_and_until_it_ends() {
        let (called, stop) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let step = {
            let (called, stop) = (called.clone(), stop.clone());
            move || {
                called.fetch_add(1, Ordering::Relaxed);
                if stop.load(Ordering::Relaxed) { Next::End } else { Next::Wait }
            }
        };
        let worker = OsThreads.start("test", Box::new(step)).unwrap();
        for calls in 1..20 {
            while called.load(Ordering::Relaxed) < calls {
                worker.wake();
                thread::yield_now();
            }
        }
        stop.store(true, Ordering::Relaxed);
        worker.wake();
        worker.join();
        worker.join();
    }

    #[tokio::test]
    async fn work_that_blocks_brings_its_result() {
        let threads: Arc<dyn Threads> = Arc::new(OsThreads);
        assert_eq!(threads.run(|| 7).await, Some(7));
        assert_eq!(threads.run(|| -> u8 { panic!("as meant") }).await, None);
    }
}
