//! Faults, drawn from a seed: what is done to the members while programs use them, and its end.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use raftmq_world::Random;

use crate::cluster::{Cluster, LOG_DIR, MEMBERS};
use crate::disk::{DiskCopy, DiskFaults, DiskOp, Ending, Pace};
use crate::fault::Kind;
use crate::network::{HostId, Way};
use crate::promise::NOT_STOOD;

/// Nothing comes through.
const CUT: Way = Way { delay_min: Duration::ZERO, delay_max: Duration::ZERO, cut: true };

/// Most kinds of a run.
const KINDS_MAX: usize = 8;

/// What ends a fault.
enum End {
    Disk(HostId),
    Clock(HostId),
    /// Hosts hear each other again, as they were before the fault of this number. Members repair their logs then: one may
    /// lose its power behind what its disk does next.
    Ways(u64, Option<(HostId, DiskOp)>),
    /// A member that is down comes back.
    Start(HostId),
}

/// Does faults and ends them.
pub struct Nemesis {
    /// When there is which fault: so those that are left out change nothing in the others.
    plan: Random,
    /// What the present fault is like.
    random: Random,
    kinds: Vec<Kind>,
    /// Ends of faults, by when.
    ends: Vec<(Duration, End)>,
    /// How directions between hosts are, by the number of the fault that made them so. The latest counts.
    ways: Vec<(u64, (HostId, HostId), Way)>,
    copies: BTreeMap<HostId, DiskCopy>,
    /// Numbers of faults that are left out.
    skip: Vec<u64>,
    /// The one member whose disk may lose what was durable: with two there is no majority that has it.
    unlucky: HostId,
    /// What was drawn, that left out included.
    pub drawn: Vec<Kind>,
    /// How often each was done.
    pub done: BTreeMap<Kind, u64>,
    /// How many processes all of them were done to, of members and consumers. Those that a trap ended are not counted.
    pub hits: u64,
}

impl Nemesis {
    /// One that draws from these kinds, and leaves out the faults of these numbers, which count from 1.
    ///
    /// Of many kinds it takes a few: what takes several faults of the same few kinds to be seen is seen sooner so (swarm
    /// testing).
    pub fn new(seed: u64, kinds: &[Kind], skip: &[u64]) -> Self {
        let plan = Random::seeded(seed ^ 0x6e65_6d65_7369_7321);
        let mut kinds = kinds.to_vec();
        if kinds.len() > KINDS_MAX {
            plan.shuffle(&mut kinds);
            kinds.truncate(1 + plan.below(KINDS_MAX as u64) as usize);
            // In a run with one of these, what else it may show is hard to tell from what they do.
            if plan.below(4) > 0 && kinds.iter().any(|kind| !NOT_STOOD.contains(kind)) {
                kinds.retain(|kind| !NOT_STOOD.contains(kind));
            }
        }
        Self {
            unlucky: plan.below(MEMBERS as u64) as HostId,
            random: Random::seeded(plan.number()),
            plan,
            kinds,
            ends: Vec::new(),
            ways: Vec::new(),
            copies: BTreeMap::new(),
            skip: skip.to_vec(),
            drawn: Vec::new(),
            done: BTreeMap::new(),
            hits: 0,
        }
    }

    /// A time between two bounds, in ms.
    fn between(&self, least_ms: u64, most_ms: u64) -> Duration {
        between(&self.random, least_ms, most_ms)
    }

    fn member(&self) -> HostId {
        self.random.below(MEMBERS as u64) as HostId
    }

    /// One member mostly, and half of the time the one that leads; sometimes two or all.
    fn members(&self, cluster: &Cluster) -> Vec<HostId> {
        let mut members: Vec<_> = (0..MEMBERS).collect();
        self.random.shuffle(&mut members);
        let leader = cluster.leader().and_then(|leader| members.iter().position(|member| *member == leader));
        if self.random.below(2) == 0
            && let Some(leader) = leader
        {
            members.swap(0, leader);
        }
        members.truncate(match self.random.below(8) {
            0 => 2,
            1 => MEMBERS,
            _ => 1,
        });
        members
    }

    /// Directions are no more as a fault made them, but as those have it that have not ended.
    fn mend(&mut self, cluster: &Cluster, number: u64) {
        let (ended, on): (Vec<_>, _) =
            std::mem::take(&mut self.ways).into_iter().partition(|(fault, ..)| *fault == number);
        self.ways = on;
        for (_, pair, _) in ended {
            let way = self.ways.iter().rev().find(|(_, other, _)| *other == pair).map(|(.., way)| *way);
            cluster.fabric.set_way(pair.0, pair.1, way.unwrap_or_default());
        }
    }

    fn disk_op(&self) -> DiskOp {
        DiskOp::ALL[self.random.below(DiskOp::ALL.len() as u64) as usize]
    }

    fn other(&self, member: HostId) -> HostId {
        (member + 1 + self.random.below(MEMBERS as u64 - 1) as HostId) % MEMBERS
    }

    /// Does faults for so long.
    pub fn rage(&mut self, cluster: &mut Cluster, time: Duration) {
        let end = cluster.now() + time;
        let mut next = cluster.now() + between(&self.plan, 100, 1500);
        while cluster.now() < end {
            cluster.run_for(Duration::from_millis(2));
            self.end_due(cluster, cluster.now());
            if cluster.now() >= next && !self.kinds.is_empty() {
                let kind = self.kinds[self.plan.below(self.kinds.len() as u64) as usize];
                self.random = Random::seeded(self.plan.number());
                self.act(cluster, kind);
                next = cluster.now() + between(&self.plan, 100, 2000);
            }
        }
    }

    /// Ends every fault, and has everything started.
    pub fn rest(&mut self, cluster: &mut Cluster) {
        self.ends.clear();
        self.ways.clear();
        for member in 0..MEMBERS {
            cluster.machine(member).set_pace(Pace::default());
            cluster.machine(member).set_faults(DiskFaults::default());
            cluster.machine(member).disarm();
            cluster.machine(member).clock.mend(cluster.now());
            cluster.start(member);
            for other in 0..MEMBERS + cluster.programs() {
                cluster.fabric.set_way(member, other, Way::default());
                cluster.fabric.set_way(other, member, Way::default());
            }
        }
        // Not all that were waited for came to it.
        self.done.insert(Kind::PowerLossBehind, cluster.traps_sprung());
        cluster.trace.note(cluster.now(), "all faults have ended");
    }

    fn end_due(&mut self, cluster: &mut Cluster, now: Duration) {
        let (due, later) = std::mem::take(&mut self.ends).into_iter().partition(|(at, _)| *at <= now);
        self.ends = later;
        for (_, end) in due {
            match end {
                End::Disk(member) => {
                    cluster.machine(member).set_pace(Pace::default());
                    cluster.machine(member).set_faults(DiskFaults::default());
                }
                End::Clock(member) => cluster.machine(member).clock.mend(cluster.now()),
                End::Ways(ways, shaken) => {
                    self.mend(cluster, ways);
                    if let Some((member, op)) = shaken {
                        cluster
                            .trace
                            .note(now, format_args!("a power loss of {member} behind its next {op:?}"));
                        cluster.machine(member).set_trap(op, 1);
                    }
                }
                End::Start(member) => cluster.start(member),
            }
        }
    }

    fn until(&mut self, at: Duration, end: End) {
        self.ends.push((at, end));
    }

    fn cut(&mut self, cluster: &Cluster, ways: Vec<(HostId, HostId)>, way: Way, end: Duration) {
        let number = self.drawn.len() as u64;
        for pair in &ways {
            cluster.fabric.set_way(pair.0, pair.1, way);
            self.ways.push((number, *pair, way));
        }
        let shaken = ways.first().and_then(|(from, _)| self.shaken(*from));
        self.until(end, End::Ways(number, shaken));
    }

    /// Whether a host loses its power when it hears the others again, and behind what.
    fn shaken(&self, host: HostId) -> Option<(HostId, DiskOp)> {
        let may_lose_power = |kind: &Kind| matches!(kind, Kind::PowerLoss | Kind::PowerLossBehind);
        let shakes = host < MEMBERS && self.kinds.iter().any(may_lose_power) && self.random.below(4) > 0;
        // What a truncation does.
        let op = if self.random.below(2) == 0 { DiskOp::Sync } else { DiskOp::Zeros };
        shakes.then_some((host, op))
    }

    fn act(&mut self, cluster: &mut Cluster, kind: Kind) {
        let now = cluster.now();
        let members = if kind.takes_what_was_durable() { vec![self.unlucky] } else { self.members(cluster) };
        let clients: Vec<_> = match kind {
            Kind::ClientKill => cluster.may_be_killed(),
            _ => (MEMBERS..MEMBERS + cluster.programs()).collect(),
        };
        let client = clients.get(self.random.below(clients.len().max(1) as u64) as usize).copied();
        // Some last longer than a leader without followers should serve.
        let soon =
            now + if self.random.below(3) == 0 { self.between(4000, 9000) } else { self.between(100, 4000) };
        self.drawn.push(kind);
        let number = self.drawn.len() as u64;
        if self.skip.contains(&number) {
            return;
        }
        *self.done.entry(kind).or_default() += 1;
        let until = soon.as_secs_f64();
        if let Some(client) = client
            && kind.is_a_clients()
        {
            cluster.trace.note(now, format_args!("fault {number}: {kind}: {client}, until {until:.3}"));
            self.hits += u64::from(cluster.may_be_killed().contains(&client));
            self.act_on_client(cluster, kind, client, soon);
            return;
        }
        cluster.trace.note(now, format_args!("fault {number}: {kind}: {members:?}, until {until:.3}"));
        self.hits += if kind == Kind::PowerLossBehind { 0 } else { members.len() as u64 };
        for member in members {
            self.act_on_member(cluster, kind, member, soon);
        }
    }

    fn act_on_client(&mut self, cluster: &mut Cluster, kind: Kind, client: HostId, soon: Duration) {
        let member = self.member();
        match kind {
            Kind::ClientKill => cluster.kill_program(client),
            Kind::ClientHang => cluster.hang(client, self.between(50, 3000)),
            Kind::ClientCut => self.cut(cluster, vec![(client, member), (member, client)], CUT, soon),
            _ => cluster.fabric.reset(client, member),
        }
    }

    fn act_on_member(&mut self, cluster: &mut Cluster, kind: Kind, member: HostId, soon: Duration) {
        let (now, other) = (cluster.now(), self.other(member));
        match kind {
            Kind::Kill => cluster.kill(member, Ending::Killed, true),
            Kind::PowerLoss => cluster.kill(member, Ending::PowerLost, true),
            Kind::PowerLossBehind => {
                let (op, nth) = (self.disk_op(), 1 + self.random.below(20));
                cluster
                    .trace
                    .note(now, format_args!("a power loss of {member} behind its {op:?} number {nth}"));
                cluster.machine(member).set_trap(op, nth);
            }
            Kind::Stop => cluster.stop(member, true),
            Kind::Hang => {
                let time = self.between(50, 3000);
                cluster.hang(member, time);
                self.until(now + time, End::Ways(self.drawn.len() as u64, self.shaken(member)));
            }
            Kind::Cut => self.cut(cluster, vec![(member, other), (other, member)], CUT, soon),
            Kind::CutOneWay => self.cut(cluster, vec![(member, other)], CUT, soon),
            Kind::Isolation => {
                let others = (0..MEMBERS).filter(|other| *other != member);
                let ways = others.flat_map(|other| [(member, other), (other, member)]).collect();
                self.cut(cluster, ways, CUT, soon);
            }
            Kind::Delay => {
                let delay_max = self.between(20, 300);
                let way = Way { delay_min: delay_max / 10, delay_max, cut: false };
                self.cut(cluster, vec![(member, other), (other, member)], way, soon);
            }
            Kind::Reset => cluster.fabric.reset(member, other),
            Kind::SlowDisk => {
                let sync_max = self.between(20, 400);
                cluster.machine(member).set_pace(Pace { sync_min: sync_max / 2, sync_max });
                self.until(soon, End::Disk(member));
            }
            Kind::FailedSync => {
                cluster.machine(member).set_faults(DiskFaults { sync: true, ..DiskFaults::default() });
                self.until(soon, End::Disk(member));
            }
            Kind::FullDisk => {
                // Of 256 MiB that are kept: more or less than what members take all the same.
                let free = Some(self.random.below(256 << 20));
                cluster.machine(member).set_faults(DiskFaults { free, ..DiskFaults::default() });
                self.until(soon, End::Disk(member));
            }
            Kind::SpentDisk => {
                let full = DiskFaults { free: Some(0), refuses: true, ..DiskFaults::default() };
                cluster.machine(member).set_faults(full);
                self.until(soon, End::Disk(member));
            }
            Kind::ClockJump => {
                let ms = self.random.below(20_000) as i64 - 10_000;
                cluster.machine(member).clock.jump(ms);
                self.until(soon, End::Clock(member));
            }
            Kind::ClockDrift => {
                let ppm = self.random.below(200_000) as i64 - 100_000;
                cluster.machine(member).clock.drift(now, ppm);
                self.until(soon, End::Clock(member));
            }
            Kind::FlippedBit => {
                cluster.kill(member, Ending::PowerLost, false);
                if let Some((path, at)) = cluster.machine(member).flip_bit(Path::new(LOG_DIR)) {
                    cluster.trace.note(now, format_args!("flipped a bit of {} at {at}", path.display()));
                }
                self.until(soon, End::Start(member));
            }
            Kind::EmptiedDisk => {
                cluster.kill(member, Ending::PowerLost, false);
                cluster.machine(member).restore(&DiskCopy::default());
                self.until(soon, End::Start(member));
            }
            Kind::OldDisk => {
                cluster.kill(member, Ending::PowerLost, false);
                let present = cluster.machine(member).copy();
                if let Some(old) = self.copies.insert(member, present) {
                    cluster.machine(member).restore(&old);
                }
                self.until(soon, End::Start(member));
            }
            Kind::ClientKill | Kind::ClientHang | Kind::ClientCut | Kind::ClientReset => {}
        }
    }
}

/// A time between two bounds, in ms.
fn between(random: &Random, least_ms: u64, most_ms: u64) -> Duration {
    Duration::from_millis(least_ms + random.below(most_ms - least_ms + 1))
}
