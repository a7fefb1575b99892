//! What may go on beside the load of a long run: consumers that share it, and messages that are to be delivered later.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use crate::members::{Member, MemberOptions};
use crate::readback::{Delayed, read_arrivals};
use crate::workload::{Workload, WorkloadOptions, prepare};
use raftmq_checks::checker::{
    Consumption, Crash, Lateness, TakenOver, Verdict, check_consumption, check_crashes, missing,
};
use raftmq_checks::deliveries::Deliveries;
use raftmq_checks::history::History;

/// Longest time for consumers to share the queues, and to catch up at the end.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(300);
/// How often it is looked whether consumers have caught up. All they were given is gone through.
const CATCH_UP_LOOK: Duration = Duration::from_secs(1);
/// Longest time for the last of the delayed messages to come.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(120);
/// How often something is looked at that cannot be awaited.
const LOOK: Duration = Duration::from_millis(50);
/// How long it is waited, when all is consumed, for copies that come late.
const SETTLE: Duration = Duration::from_secs(1);
/// Delayed messages: the topic, what they ask for, and how many ms that means. The first of the levels is 1 s, unless
/// brokers are given others.
const DELAYED: [(&str, &str, u64); 3] = [
    ("DelayedByLevel", "DELAY\u{1}1\u{2}", 1000),
    ("DelayedByTime", "TIMER_DELAY_MS\u{1}400\u{2}", 400),
    ("DelayedForLonger", "TIMER_DELAY_MS\u{1}3000\u{2}", 3000),
];
/// Later than this nothing comes without a fault, however busy the machine is.
const LATE_MAX: Duration = Duration::from_secs(10);
/// Between two delayed messages of the same lane. Reading them back must not take longer than the run.
const DELAYED_PAUSE: Duration = Duration::from_millis(10);

/// What is to go on.
#[derive(Debug, Clone, Copy)]
pub struct CompanionOptions {
    /// Consumers that share the load.
    pub members: u32,
    /// Whether they consume in order.
    pub in_order: bool,
    /// Whether delayed messages are sent.
    pub delayed: bool,
}

/// All that goes on.
#[derive(Debug)]
pub struct Companions {
    of_group: MemberOptions,
    /// Those at work, by their numbers, the one that has been there for longest first.
    members: VecDeque<(u32, Member)>,
    crashes: Vec<Crash>,
    /// Faults so far, and members that came or went.
    disturbances: u32,
    log: Deliveries,
    delayed: Vec<(Workload, Duration)>,
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
        let start = |number| Ok((number, Member::start(number, &of_group, &log)?));
        let members = (1..=options.members).map(start).collect::<Result<VecDeque<_>>>()?;
        wait_shared(&members, load)?;
        let delayed = DELAYED.iter().filter(|_| options.delayed).map(|(topic, properties, delay_ms)| {
            let workload = Workload::start(WorkloadOptions {
                topic: (*topic).to_owned(),
                properties: (*properties).to_owned(),
                connections: 1,
                pause: DELAYED_PAUSE,
                ..load.clone()
            });
            anyhow::Ok((workload?, Duration::from_millis(*delay_ms)))
        });
        let delayed = delayed.collect::<Result<_>>()?;
        Ok(Self { of_group, members, crashes: Vec::new(), disturbances: 0, log, delayed })
    }

    /// A fault is done to the brokers, which may have something delivered again.
    pub fn disturbed(&mut self) {
        self.disturbances += 1;
    }

    /// The member that has been there for longest vanishes, with its locks, and a new one comes.
    pub fn crash_member(&mut self) -> Result<()> {
        let Some((number, member)) = self.members.pop_front() else { return Ok(()) };
        let queues =
            member.queues(&self.of_group.topic).iter().map(|queue| queue.queue_id.unsigned_abs()).collect();
        member.crash();
        self.crashes.push(Crash { member: number, queues, at_us: self.log.now_us() });
        let next = self.members.back().map_or(number, |(last, _)| *last) + 1;
        self.members.push_back((next, Member::start(next, &self.of_group, &self.log)?));
        // One went, one came.
        self.disturbances += 2;
        Ok(())
    }

    /// Ends them after the load, whose history is given. An error if a rule was broken.
    pub fn finish(mut self, history: &History) -> Result<()> {
        let consumed = self.finish_members(history);
        let delayed = self.finish_delayed();
        consumed.and(delayed)
    }

    fn finish_members(&mut self, history: &History) -> Result<()> {
        if self.members.is_empty() {
            return Ok(());
        }
        let deadline = Instant::now() + CATCH_UP_TIMEOUT;
        while Instant::now() < deadline && missing(history, &self.log.all()) > 0 {
            std::thread::sleep(CATCH_UP_LOOK);
        }
        std::thread::sleep(SETTLE);
        std::mem::take(&mut self.members).into_iter().for_each(|(_, member)| member.leave());
        let in_order = self.of_group.in_order;
        let rules = Consumption { disturbances: self.disturbances, in_order };
        let deliveries = self.log.all();
        let consumed = judge("consumed", &check_consumption(history, &deliveries, rules));
        if !in_order {
            return consumed;
        }
        let (taken_over, verdict) = check_crashes(&deliveries, &self.crashes);
        for TakenOver { queue, member, after_us } in taken_over {
            println!(
                "queue {queue} was taken over from member {member} after {:.1} s",
                after_us as f64 / 1e6
            );
        }
        consumed.and(judge("crashes of members", &verdict))
    }

    fn finish_delayed(self) -> Result<()> {
        let stop = |(workload, delay): (Workload, Duration)| {
            let options = workload.options().clone();
            Ok(Delayed { options, delay, history: workload.stop()? })
        };
        let delayed = self.delayed.into_iter().map(stop).collect::<Result<Vec<_>>>()?;
        let mut outcome = Ok(());
        for (delayed, (verdict, lateness)) in delayed.iter().zip(read_arrivals(&delayed, ARRIVAL_TIMEOUT)?) {
            let topic = &delayed.options.topic;
            outcome = outcome.and(judge(topic, &verdict));
            let Lateness { median_ms, max_ms } = lateness;
            println!("{topic}: {median_ms} ms late at the median, {max_ms} ms at the most");
            if self.disturbances == 0 && Duration::from_millis(max_ms) > LATE_MAX {
                outcome = outcome.and(Err(anyhow!("{topic}: {max_ms} ms late without a fault")));
            }
        }
        outcome
    }
}

fn judge(what: &str, verdict: &Verdict) -> Result<()> {
    println!("{what}: {verdict}");
    ensure!(verdict.holds(), "{what}: {} breaches", verdict.breaches);
    Ok(())
}

fn wait_shared(members: &VecDeque<(u32, Member)>, load: &WorkloadOptions) -> Result<()> {
    let start = Instant::now();
    let share = |(_, member): &(u32, Member)| member.queues(&load.topic).len();
    while !members.is_empty() && members.iter().map(share).sum::<usize>() != load.queues as usize {
        ensure!(start.elapsed() < CATCH_UP_TIMEOUT, "the consumers have not shared the queues");
        std::thread::sleep(LOOK);
    }
    Ok(())
}
