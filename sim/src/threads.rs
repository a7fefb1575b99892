//! Threads of a simulated process: steps and jobs that the process's one real thread does between other things.
//!
//! A step that goes on at once, and a job, wait for a little first: that is the time its work takes, for what a disk does
//! there costs nothing by itself. So others run in between, as they do beside a real thread.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use raftmq_world::{Job, Next, Step, Threads, Worker};
use tokio::sync::Notify;

use crate::beside::beside;
use crate::disk::Machine;

/// All threads of one process.
pub(crate) struct HostThreads {
    machine: Arc<Machine>,
    workers: Arc<Mutex<Vec<Arc<HostWorker>>>>,
}

impl fmt::Debug for HostThreads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HostThreads")
    }
}

impl HostThreads {
    pub(crate) fn new(machine: Arc<Machine>) -> Self {
        Self { machine, workers: Arc::default() }
    }
}

struct HostWorker {
    name: &'static str,
    /// Nothing while it is being called.
    step: Mutex<Option<Box<dyn Step>>>,
    ended: AtomicBool,
    wake: Notify,
    workers: Arc<Mutex<Vec<Arc<HostWorker>>>>,
}

impl fmt::Debug for HostWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostWorker({})", self.name)
    }
}

impl HostWorker {
    /// Calls the step once; `None` where it is being called already.
    fn call(&self) -> Option<Next> {
        if self.ended.load(Ordering::Relaxed) {
            return Some(Next::End);
        }
        let mut step = self.step.lock().take()?;
        let next = beside(|| step.step());
        if next == Next::End {
            self.ended.store(true, Ordering::Relaxed);
            // What it holds is let go of here.
            drop(step);
        } else {
            *self.step.lock() = Some(step);
        }
        Some(next)
    }
}

impl Worker for HostWorker {
    fn wake(&self) {
        self.wake.notify_one();
    }

    /// Calls all steps of the process in turn until this one has ended.
    fn join(&self) {
        /// More rounds than any stop takes: they wait for each other.
        const ROUNDS_MAX: usize = 1_000_000;
        for _ in 0..ROUNDS_MAX {
            match self.call() {
                Some(Next::End) => {
                    let workers = self.workers.lock().clone();
                    let ended = |worker: &Arc<Self>| worker.ended.load(Ordering::Relaxed);
                    if workers.iter().any(ended) {
                        self.workers.lock().retain(|worker| !ended(worker));
                    }
                    return;
                }
                // By the step itself.
                None => return,
                Some(_) => {}
            }
            let others = self.workers.lock().clone();
            for other in others.iter().filter(|other| !std::ptr::eq(&***other, self)) {
                other.call();
            }
        }
        panic!("{} is waited for and does not end", self.name);
    }
}

impl Threads for HostThreads {
    fn start(&self, name: &'static str, step: Box<dyn Step>) -> io::Result<Arc<dyn Worker>> {
        let worker = Arc::new(HostWorker {
            name,
            step: Mutex::new(Some(step)),
            ended: AtomicBool::new(false),
            wake: Notify::new(),
            workers: self.workers.clone(),
        });
        self.workers.lock().push(worker.clone());
        tokio::spawn(run(worker.clone(), self.machine.clone()));
        Ok(worker)
    }

    fn block(&self, job: Job) {
        let machine = self.machine.clone();
        tokio::spawn(async move {
            tokio::time::sleep(machine.work_time()).await;
            beside(job);
        });
    }
}

async fn run(worker: Arc<HostWorker>, machine: Arc<Machine>) {
    /// Where a step is being called by a join.
    const LATER: Duration = Duration::from_millis(1);
    tokio::time::sleep(machine.work_time()).await;
    loop {
        match worker.call() {
            Some(Next::End) => return,
            Some(Next::Again) => tokio::time::sleep(machine.work_time()).await,
            Some(Next::Wait) => worker.wake.notified().await,
            Some(Next::WaitFor(time)) => {
                // Woken or not.
                let _ = tokio::time::timeout(time, worker.wake.notified()).await;
            }
            None => tokio::time::sleep(LATER).await,
        }
    }
}
