//! What may go on beside the load of a long run: consumers that share it, and messages that are to be delivered later.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::checker::{Consumption, Verdict, check_consumption};
use crate::deliveries::Deliveries;
use crate::history::History;
use crate::members::{Member, MemberOptions};
use crate::readback::read_arrivals;
use crate::workload::{Workload, WorkloadOptions, prepare};

/// Longest time for consumers to share the queues, and to catch up at the end.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(300);
/// How often it is looked whether consumers have caught up. All they were given is gone through.
const CATCH_UP_LOOK: Duration = Duration::from_secs(1);
/// Longest time for the last of the delayed messages to come.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(120);
/// How often something is looked at that cannot be awaited.
const LOOK: Duration = Duration::from_millis(50);
/// Delayed messages: the topic, and what they ask for.
const DELAYED: [(&str, &str); 3] = [
    ("DelayedByLevel", "DELAY\u{1}1\u{2}"),
    ("DelayedByTime", "TIMER_DELAY_MS\u{1}400\u{2}"),
    ("DelayedForLonger", "TIMER_DELAY_MS\u{1}3000\u{2}"),
];
/// Between two delayed messages of the same lane. Reading them back must not take longer than the run.
const DELAYED_PAUSE: Duration = Duration::from_millis(10);

/// What is to go on.
#[derive(Debug, Clone, Copy)]
pub struct CompanionOptions {
    /// Consumers that share the load.
    pub members: u32,
    /// Whether they consume in order.
    pub in_order: bool,
    /// Whether nothing may be delivered twice, as nothing happens.
    pub once: bool,
    /// Whether delayed messages are sent.
    pub delayed: bool,
}

/// All that goes on.
#[derive(Debug)]
pub struct Companions {
    options: CompanionOptions,
    members: Vec<Member>,
    log: Deliveries,
    delayed: Vec<Workload>,
}

impl Companions {
    /// Starts them, before the load itself, and waits until the consumers have shared its queues.
    pub fn start(options: &CompanionOptions, load: &WorkloadOptions) -> Result<Self> {
        let log = Deliveries::default();
        let of_group = MemberOptions {
            in_order: options.in_order,
            ..MemberOptions::new(load.name_servers.clone(), &load.topic, "companions")
        };
        if options.members > 0 {
            prepare(load)?;
        }
        let members = (1..=options.members).map(|number| Member::start(number, &of_group, &log));
        let members = members.collect::<Result<Vec<_>>>()?;
        wait_shared(&members, load)?;
        let delayed = DELAYED.iter().filter(|_| options.delayed).map(|(topic, properties)| {
            Workload::start(WorkloadOptions {
                topic: (*topic).to_owned(),
                properties: (*properties).to_owned(),
                connections: 1,
                pause: DELAYED_PAUSE,
                ..load.clone()
            })
        });
        Ok(Self { options: *options, members, log, delayed: delayed.collect::<Result<_>>()? })
    }

    /// Ends them after the load, whose history is given. An error if a rule was broken.
    pub fn finish(mut self, history: &History) -> Result<()> {
        let consumed = self.finish_members(history);
        let delayed = self.delayed.into_iter().map(finish_delayed).collect::<Vec<_>>();
        delayed.into_iter().fold(consumed, Result::and)
    }

    fn finish_members(&mut self, history: &History) -> Result<()> {
        if self.members.is_empty() {
            return Ok(());
        }
        let lax = Consumption { once: false, in_order: false };
        let deadline = Instant::now() + CATCH_UP_TIMEOUT;
        while Instant::now() < deadline && !check_consumption(history, &self.log.all(), lax).holds() {
            std::thread::sleep(CATCH_UP_LOOK);
        }
        std::mem::take(&mut self.members).into_iter().for_each(Member::leave);
        let rules = Consumption { once: self.options.once, in_order: self.options.in_order };
        judge("consumed", &check_consumption(history, &self.log.all(), rules))
    }
}

fn finish_delayed(workload: Workload) -> Result<()> {
    let options = workload.options().clone();
    let history = workload.stop()?;
    let verdict = read_arrivals(&options, &history, ARRIVAL_TIMEOUT);
    judge(&options.topic, &verdict.with_context(|| format!("read {} back", options.topic))?)
}

fn judge(what: &str, verdict: &Verdict) -> Result<()> {
    println!("{what}: {verdict}");
    ensure!(verdict.holds(), "{what}: {} breaches", verdict.breaches);
    Ok(())
}

fn wait_shared(members: &[Member], load: &WorkloadOptions) -> Result<()> {
    let start = Instant::now();
    let share = |member: &Member| member.queues(&load.topic).len();
    while !members.is_empty() && members.iter().map(share).sum::<usize>() != load.queues as usize {
        ensure!(start.elapsed() < CATCH_UP_TIMEOUT, "the consumers have not shared the queues");
        std::thread::sleep(LOOK);
    }
    Ok(())
}
