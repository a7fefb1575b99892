//! Faults in an order drawn from a seed, done to a group under load, and what each of them cost.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::harness::{Group, GroupStatus, NODE_IDS};
use crate::workload::Workload;
use raftmq_checks::rng::Rng;

/// Longest time until the group must be whole again.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(120);
/// Acknowledgements that show that the group serves again, besides those that may already be on their way.
const ACKS_AFTER: u64 = 200;
/// How long a node gets to stop when it is asked to.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// What is done to a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Fault {
    /// The leader is killed with signal 9 and started again.
    Kill,
    /// The leader is stopped with SIGSTOP and goes on later.
    Hang,
    /// All three are killed with signal 9 at once and started again.
    KillAll,
    /// A node is asked to stop and started again.
    Restart,
    /// A follower is killed with signal 9 and started again.
    KillFollower,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kill => "kill leader",
            Self::Hang => "hang leader",
            Self::KillAll => "kill all",
            Self::Restart => "restart",
            Self::KillFollower => "kill follower",
        })
    }
}

/// One fault and its times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// What is done.
    pub fault: Fault,
    /// Undisturbed load before.
    pub before: Duration,
    /// From the first acknowledgements after the fault until the node comes back.
    pub away: Duration,
    /// Chooses among the nodes that can be meant.
    pub choice: u64,
}

/// Steps drawn from a seed: the same seed gives the same steps.
#[derive(Debug, Clone)]
pub struct Schedule {
    rng: Rng,
    faults: Vec<Fault>,
    /// Whether `faults` is drawn from for ever, or is the list of what remains.
    endless: bool,
}

impl Schedule {
    /// Each fault as often as it is listed, in a random order.
    pub fn of(seed: u64, mut faults: Vec<Fault>) -> Self {
        let mut rng = Rng::new(seed);
        rng.shuffle(&mut faults);
        Self { rng, faults, endless: false }
    }

    /// Faults of these kinds without end.
    pub fn endless(seed: u64, faults: Vec<Fault>) -> Self {
        Self { rng: Rng::new(seed), faults, endless: true }
    }
}

impl Iterator for Schedule {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let fault = match (self.faults.len() as u64, self.endless) {
            (0, _) => return None,
            (kinds, true) => self.faults[self.rng.below(kinds) as usize],
            (_, false) => self.faults.pop()?,
        };
        let mut ms = |from: u64, to: u64| Duration::from_millis(from + self.rng.below(to - from));
        let (before, away) = (ms(500, 2000), ms(100, 3000));
        Some(Step { fault, before, away, choice: self.rng.next_u64() })
    }
}

/// What a fault cost.
#[derive(Debug, Clone)]
pub struct Report {
    /// What was done.
    pub fault: Fault,
    /// To which node; 0 if to all.
    pub node: u64,
    /// Longest time without an acknowledgement from the fault on until the group served again.
    pub gap: Duration,
    /// The same from the node's return on until it had caught up.
    pub gap_at_return: Duration,
    /// From the node's return until all three had caught up.
    pub whole_after: Duration,
    /// Terms that have passed.
    pub terms: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fault, node, gap, gap_at_return, whole_after, terms } = self;
        write!(
            f,
            "{fault:<14} node {node}  without an acknowledgement {:>5} ms, at its return {:>5} ms, \
             whole after {:>5} ms, terms +{terms}",
            gap.as_millis(),
            gap_at_return.as_millis(),
            whole_after.as_millis()
        )
    }
}

/// Does what a step says and waits until all three are back.
pub fn run(step: &Step, group: &mut Group, workload: &Workload) -> Result<Report> {
    group.wait_all_caught_up(RECOVERY_TIMEOUT).context("before the fault")?;
    // When the fault comes, one acknowledgement for each lane may be on its way.
    let acks = ACKS_AFTER + u64::from(workload.options().connections * workload.options().lanes);
    workload.wait_for_acks(acks, RECOVERY_TIMEOUT).context("before the fault")?;
    std::thread::sleep(step.before);
    let leader = group.wait_ready(RECOVERY_TIMEOUT)?;
    let node = victim(step, &leader);

    workload.pulse().start_over();
    inject(step, node, group)?;
    workload.wait_for_acks(acks, RECOVERY_TIMEOUT).with_context(|| format!("after: {}", step.fault))?;
    let gap = workload.pulse().longest_gap();
    std::thread::sleep(step.away);

    workload.pulse().start_over();
    let returned = Instant::now();
    match step.fault {
        Fault::Hang => group.resume(node)?,
        Fault::KillAll => {}
        Fault::Kill | Fault::Restart | Fault::KillFollower => group.start_node(node)?,
    }
    let after =
        group.wait_all_caught_up(RECOVERY_TIMEOUT).with_context(|| format!("after: {}", step.fault))?;
    let whole_after = returned.elapsed();
    workload.wait_for_acks(1, RECOVERY_TIMEOUT)?;
    let gap_at_return = workload.pulse().longest_gap();
    let terms = after.term - leader.term;
    Ok(Report { fault: step.fault, node, gap, gap_at_return, whole_after, terms })
}

fn victim(step: &Step, leader: &GroupStatus) -> u64 {
    let followers: Vec<_> = NODE_IDS.into_iter().filter(|id| *id != leader.node_id).collect();
    match step.fault {
        Fault::Kill | Fault::Hang => leader.node_id,
        Fault::KillAll => 0,
        Fault::Restart => NODE_IDS[(step.choice % 3) as usize],
        Fault::KillFollower => followers[(step.choice % 2) as usize],
    }
}

fn inject(step: &Step, node: u64, group: &mut Group) -> Result<()> {
    match step.fault {
        Fault::Kill | Fault::KillFollower => group.kill(node),
        Fault::Hang => group.pause(node),
        Fault::Restart => group.stop(node, STOP_TIMEOUT),
        Fault::KillAll => {
            group.kill_all()?;
            group.start_all()
        }
    }
}

/// Median and largest of some times; nothing if there are none.
pub fn median_and_max(mut times: Vec<Duration>) -> Option<(Duration, Duration)> {
    times.sort();
    Some((*times.get(times.len() / 2)?, *times.last()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_steps_and_another_does_not() {
        let kinds = vec![Fault::Kill, Fault::Hang, Fault::KillAll];
        let steps = |seed| Schedule::endless(seed, kinds.clone()).take(20).collect::<Vec<_>>();
        assert_eq!(steps(1), steps(1));
        assert_ne!(steps(1), steps(2));
    }

    #[test]
    fn a_counted_schedule_holds_each_fault_as_often_as_listed() {
        let listed = [vec![Fault::Kill; 20], vec![Fault::Hang; 10]].concat();
        let mut drawn: Vec<_> = Schedule::of(5, listed.clone()).map(|step| step.fault).collect();
        assert_ne!(drawn, listed);
        drawn.sort();
        assert_eq!(drawn, listed);
    }

    #[test]
    fn the_median_is_the_middle_one() {
        let ms = Duration::from_millis;
        assert_eq!(median_and_max(vec![ms(9), ms(1), ms(5)]), Some((ms(5), ms(9))));
        assert_eq!(median_and_max(Vec::new()), None);
    }
}
