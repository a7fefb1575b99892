//! Reading every queue back from its first offset to its last, for the checker.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use raftmq_checks::checker::{Arrivals, Checker, Lateness, Verdict};
use raftmq_checks::history::History;
use raftmq_checks::readback::{Part, arrive, feed};
use raftmq_client::{ClientConfig, World};

use crate::workload::{WorkloadOptions, runtime};

/// How often it is looked whether what is missing has come.
const LATER: Duration = Duration::from_millis(200);
/// How long it is waited, when all is there, for copies that must not come.
const SETTLE: Duration = Duration::from_secs(1);

/// Reads all queues of a workload's topic from the leader and compares them with its history.
pub fn read_back(options: &WorkloadOptions, history: &History) -> Result<Verdict> {
    let mut checker = Checker::new(history);
    read_topic(options, |part| feed(&mut checker, part))?;
    Ok(checker.finish())
}

/// What a workload has sent to be delivered later.
#[derive(Debug)]
pub struct Delayed {
    /// Its options, whose properties ask for the delay.
    pub options: WorkloadOptions,
    /// The delay that they ask for.
    pub delay: Duration,
    /// What it has sent.
    pub history: History,
}

/// Waits until everything acknowledged has come that is to be delivered later, and for copies that come late; checks what
/// has come of each. What is still missing after `timeout` counts as lost.
pub fn read_arrivals(all: &[Delayed], timeout: Duration) -> Result<Vec<(Verdict, Lateness)>> {
    let deadline = Instant::now() + timeout;
    for delayed in all {
        while delayed.read()?.missing() > 0 && Instant::now() < deadline {
            std::thread::sleep(LATER);
        }
    }
    std::thread::sleep(SETTLE);
    let judge = |delayed: &Delayed| {
        let arrivals = delayed.read().with_context(|| format!("read {} back", delayed.options.topic))?;
        let lateness = arrivals.lateness();
        Ok((arrivals.finish(), lateness))
    };
    all.iter().map(judge).collect()
}

impl Delayed {
    /// What has come so far.
    fn read(&self) -> Result<Arrivals<'_>> {
        let mut arrivals = Arrivals::new(&self.history, self.delay);
        read_topic(&self.options, |part| arrive(&mut arrivals, part, &*World::system().clock))?;
        Ok(arrivals)
    }
}

/// Reads all queues of a workload's topic from the leader.
fn read_topic(options: &WorkloadOptions, visit: impl FnMut(Part) -> Result<()>) -> Result<()> {
    runtime()?.block_on(async {
        let config = ClientConfig::new(&options.name_servers);
        raftmq_checks::readback::read_topic(config, &options.topic, options.queues, visit).await
    })
}
