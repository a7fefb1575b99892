//! A cluster: three members with name servers in them, and programs that use it, each on a machine of its own.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use parking_lot::Mutex;
use raftmq::{BrokerArgs, Cli, Ended, Member, Role, RoleState};
use raftmq_world::{Clock, Random, World};
use tokio::sync::Notify;

use crate::disk::{Ending, Machine};
use crate::host::Process;
use crate::network::{Fabric, HostId, host_ip};
use crate::time::EPOCH_MS;

/// Members of the group, hosts 0 to 2.
pub const MEMBERS: usize = 3;
/// Where each member's data is on its disk.
pub const DATA_DIR: &str = "/data";
/// Where its log is.
pub const LOG_DIR: &str = "/data/commitlog";
/// Why a member has ended that was asked to.
const STOPPED: &str = "stopped as asked";
/// How far the simulation goes between two looks at everything.
const TICK: Duration = Duration::from_micros(500);
/// How soon a member's supervisor starts it again.
const RESTART: Duration = Duration::from_millis(500);
/// After so many failures in a row its supervisor waits for so much longer.
const RESTART_MAX: Duration = Duration::from_secs(5);

/// Settings of a cluster.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Size of a segment of the log, in bytes.
    pub segment_bytes: u64,
    /// More of the command line of each member.
    pub flags: Vec<String>,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self { segment_bytes: 1 << 20, flags: Vec::new() }
    }
}

/// What happens in a simulation, in order: for people to read, and to compare two runs.
#[derive(Clone, Debug, Default)]
pub struct Trace(Arc<Mutex<Vec<String>>>);

impl Trace {
    /// Notes something that happened at `now`.
    pub fn note(&self, now: Duration, what: impl std::fmt::Display) {
        self.0.lock().push(format!("{:>12.6} {what}", now.as_secs_f64()));
    }

    /// All of it.
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().clone()
    }
}

/// A machine with the process on it, if one runs.
struct Seat {
    machine: Arc<Machine>,
    process: Option<Process>,
    /// When the process is started, where none runs; never while it is held down.
    start_at: Option<Duration>,
    /// It does nothing until then.
    hangs_until: Option<Duration>,
}

impl Seat {
    fn new(machine: Arc<Machine>) -> Self {
        Self { machine, process: None, start_at: None, hangs_until: None }
    }

    /// Lets the process run until `now`. Says whether there is anything to do here: there is nothing while it hangs.
    fn go_on(&mut self, now: Duration) -> bool {
        if self.hangs_until.is_some_and(|until| now < until) {
            return false;
        }
        let has_hung = self.hangs_until.take().is_some();
        if let Some(process) = &self.process {
            if has_hung {
                process.resume(now);
            }
            process.run_until(now);
        }
        true
    }

    /// Whether it is time to start a process.
    fn is_due(&self, now: Duration) -> bool {
        self.process.is_none() && self.start_at.is_some_and(|at| at <= now)
    }

    /// Ends the process, to be started again at `start_at`; false where none runs.
    fn end(&mut self, how: Ending, start_at: Option<Duration>) -> bool {
        let Some(process) = self.process.take() else { return false };
        process.end(how);
        self.hangs_until = None;
        self.start_at = start_at;
        true
    }
}

/// A member.
struct Node {
    seat: Seat,
    /// Asks it to stop in order.
    stop: Arc<Notify>,
    /// Why it ended, once it has.
    ended: Arc<Mutex<Option<String>>>,
    failures: u32,
    starts: u64,
    /// When it was last started.
    started_at: Duration,
    /// It is to stay down once it has ended.
    stays_down: bool,
}

/// What a program does; begun again where its process was killed.
type Main = Box<dyn Fn(World) -> Pin<Box<dyn Future<Output = ()> + Send>>>;

/// A program that uses the cluster.
struct Program {
    seat: Seat,
    /// Where it may be killed.
    main: Option<Main>,
}

/// The simulation's own time: for whoever looks at what happened in several processes, whose clocks are their own.
#[derive(Clone, Debug, Default)]
pub struct SimulationClock(Arc<AtomicU64>);

impl Clock for SimulationClock {
    fn now_ms(&self) -> i64 {
        EPOCH_MS + self.passed().as_millis() as i64
    }

    fn passed(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// A cluster in simulated time.
pub struct Cluster {
    options: ClusterOptions,
    /// What decides over faults and delays.
    pub random: Random,
    now: Duration,
    clock: SimulationClock,
    /// The network.
    pub fabric: Fabric,
    nodes: Vec<Node>,
    /// Programs that use the cluster.
    programs: Vec<Program>,
    /// What happened.
    pub trace: Trace,
    /// Members that ended without having been asked to, and why.
    ended: Vec<String>,
    /// Machines that lost their power by a trap.
    traps_sprung: u64,
    /// Terms in which somebody led.
    terms: Arc<Mutex<BTreeMap<u64, HostId>>>,
}

impl Cluster {
    /// A cluster whose members are about to start.
    pub fn new(seed: u64, options: ClusterOptions) -> Self {
        raftmq_world::hash::fix_order(seed);
        let random = Random::seeded(seed);
        let fabric = Fabric::new(random.clone());
        let node = |_| Node {
            seat: Seat { start_at: Some(Duration::ZERO), ..Seat::new(Machine::new(random.clone())) },
            stop: Arc::default(),
            ended: Arc::default(),
            failures: 0,
            starts: 0,
            started_at: Duration::ZERO,
            stays_down: false,
        };
        let nodes = (0..MEMBERS).map(node).collect();
        Self {
            options,
            random,
            now: Duration::ZERO,
            clock: SimulationClock::default(),
            fabric,
            nodes,
            programs: Vec::new(),
            trace: Trace::default(),
            ended: Vec::new(),
            traps_sprung: 0,
            terms: Arc::default(),
        }
    }

    /// How far the simulation has come.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// The simulation's time, for who looks at it from inside of processes.
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.clock.clone())
    }

    /// How many programs use the cluster, or have used it: hosts behind the members.
    pub fn programs(&self) -> usize {
        self.programs.len()
    }

    /// A member's machine.
    pub fn machine(&self, member: HostId) -> &Arc<Machine> {
        &self.nodes[member].seat.machine
    }

    /// Whether a member's process runs.
    pub fn is_up(&self, member: HostId) -> bool {
        self.nodes[member].seat.process.is_some()
    }

    /// Whether it has run for a while: one that cannot start is up for a moment again and again.
    pub fn is_steady(&self, member: HostId) -> bool {
        const STEADY: Duration = Duration::from_secs(1);
        self.is_up(member) && self.nodes[member].started_at + STEADY <= self.now
    }

    /// How often members were started.
    pub fn starts(&self) -> u64 {
        self.nodes.iter().map(|node| node.starts).sum()
    }

    /// Members that ended without having been asked to, and why.
    pub fn ended(&self) -> &[String] {
        &self.ended
    }

    /// How many machines lost their power behind something that their disks did.
    pub fn traps_sprung(&self) -> u64 {
        self.traps_sprung
    }

    /// In how many terms somebody led.
    pub fn elections(&self) -> u64 {
        self.terms.lock().len() as u64
    }

    /// The name servers, as clients take them.
    pub fn name_servers() -> String {
        let servers: Vec<_> = (0..MEMBERS).map(|member| format!("{}:9876", host_ip(member))).collect();
        servers.join(";")
    }

    /// Who led in the last of them.
    pub fn leader(&self) -> Option<HostId> {
        self.terms.lock().last_key_value().map(|(_, leader)| *leader)
    }

    /// Starts a program on a machine of its own, and says which host that is.
    pub fn run<F>(&mut self, main: impl FnOnce(World) -> F) -> HostId
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let host = MEMBERS + self.programs.len();
        let mut seat = Seat::new(Machine::new(self.random.clone()));
        let random = Random::seeded(self.random.number());
        seat.process = Some(Process::start(host, &seat.machine, &self.fabric, self.now, random, main));
        self.programs.push(Program { seat, main: None });
        host
    }

    /// Starts a program that may be killed: it begins anew then.
    pub fn run_again<F>(&mut self, main: impl Fn(World) -> F + 'static) -> HostId
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let host = self.run(&main);
        self.programs[host - MEMBERS].main = Some(Box::new(move |world| Box::pin(main(world))));
        host
    }

    /// The programs that run and may be killed.
    pub fn may_be_killed(&self) -> Vec<HostId> {
        let programs = self.programs.iter().enumerate();
        let running =
            programs.filter(|(_, program)| program.main.is_some() && program.seat.process.is_some());
        running.map(|(number, _)| MEMBERS + number).collect()
    }

    /// Ends a program's process, if that may be done to it; it is started again a little later.
    pub fn kill_program(&mut self, host: HostId) {
        let program = &mut self.programs[host - MEMBERS];
        if program.main.is_some() {
            program.seat.end(Ending::Killed, Some(self.now + RESTART));
        }
    }

    /// Starts a program and waits for what it comes to, at most so long.
    pub fn ask<F>(&mut self, most: Duration, main: impl FnOnce(World) -> F) -> Option<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let outcome = Arc::new(Mutex::new(None));
        let told = outcome.clone();
        let program = self.run(move |world| {
            let work = main(world);
            async move { *told.lock() = Some(work.await) }
        });
        self.run_until(most, |cluster| cluster.is_done(program));
        outcome.lock().take()
    }

    /// Whether a program has ended.
    pub fn is_done(&self, host: HostId) -> bool {
        self.programs[host - MEMBERS].seat.process.as_ref().is_some_and(Process::has_ended)
    }

    /// Ends a member's process; its supervisor starts it again, unless it is to stay down.
    pub fn kill(&mut self, member: HostId, how: Ending, restart: bool) {
        if self.nodes[member].seat.end(how, restart.then_some(self.now + RESTART)) {
            self.trace.note(self.now, format_args!("member {member}: {how:?}"));
        }
    }

    /// Has a member that was held down started.
    pub fn start(&mut self, member: HostId) {
        let node = &mut self.nodes[member];
        node.stays_down = false;
        if node.seat.process.is_none() {
            node.seat.start_at = Some(self.now);
        }
    }

    /// Asks a member to stop in order; its supervisor starts it again, unless it is to stay down.
    pub fn stop(&mut self, member: HostId, restart: bool) {
        let node = &mut self.nodes[member];
        node.stays_down = !restart;
        if !restart && node.seat.process.is_none() {
            node.seat.start_at = None;
        }
        self.trace.note(self.now, format_args!("member {member}: asked to stop"));
        self.nodes[member].stop.notify_one();
    }

    /// A member's or program's process does nothing for so long.
    pub fn hang(&mut self, host: HostId, time: Duration) {
        self.trace.note(self.now, format_args!("host {host}: hangs for {time:?}"));
        let seat = match self.nodes.get_mut(host) {
            Some(node) => &mut node.seat,
            None => &mut self.programs[host - MEMBERS].seat,
        };
        seat.hangs_until = Some(self.now + time);
    }

    /// Lets so much time pass.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.tick();
        }
    }

    /// Lets time pass until `done`, at most so long. Says whether it came to that.
    pub fn run_until(&mut self, most: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + most;
        while self.now < end {
            if done(self) {
                return true;
            }
            self.tick();
        }
        done(self)
    }

    fn tick(&mut self) {
        self.now += TICK;
        self.clock.0.store(self.now.as_nanos() as u64, Ordering::Relaxed);
        self.fabric.advance(self.now);
        for member in 0..self.nodes.len() {
            self.supervise(member);
        }
        for program in 0..self.programs.len() {
            self.go_on(program);
        }
    }

    /// Has a program go on.
    fn go_on(&mut self, number: usize) {
        let (now, program) = (self.now, &mut self.programs[number]);
        if program.seat.go_on(now)
            && program.seat.is_due(now)
            && let Some(main) = &program.main
        {
            let (host, random) = (MEMBERS + number, Random::seeded(self.random.number()));
            let process = Process::start(host, &program.seat.machine, &self.fabric, now, random, main);
            program.seat.process = Some(process);
        }
    }

    fn supervise(&mut self, member: HostId) {
        let (now, node) = (self.now, &mut self.nodes[member]);
        if !node.seat.go_on(now) {
            return;
        }
        match &node.seat.process {
            Some(process) => {
                if node.seat.machine.is_dark() {
                    self.traps_sprung += 1;
                    self.kill(member, Ending::PowerLost, true);
                } else if process.has_ended() {
                    let reason = node.ended.lock().take().unwrap_or_else(|| "it panicked".to_owned());
                    self.trace.note(now, format_args!("member {member}: ended: {reason}"));
                    if reason != STOPPED {
                        self.ended.push(format!("member {member} ended by itself: {reason}"));
                    }
                    node.failures += 1;
                    let pause = RESTART * node.failures.min(16);
                    let start_at = (!node.stays_down).then(|| now + pause.min(RESTART_MAX));
                    node.seat.end(Ending::Killed, start_at);
                }
            }
            None if node.seat.is_due(now) => self.launch(member),
            None => {}
        }
    }

    fn launch(&mut self, member: HostId) {
        let args = match self.args(member) {
            Ok(args) => args,
            Err(error) => panic!("the command line of member {member}: {error:#}"),
        };
        let random = Random::seeded(self.random.number());
        let node = &mut self.nodes[member];
        node.starts += 1;
        node.started_at = self.now;
        node.stop = Arc::default();
        let (stop, ended) = (node.stop.clone(), node.ended.clone());
        let (terms, trace, began) = (self.terms.clone(), self.trace.clone(), self.now);
        let main = move |world: World| async move {
            let led = move |passed, term| {
                let now = began + passed;
                terms.lock().insert(term, member);
                trace.note(now, format_args!("member {member}: leads in term {term}"));
            };
            let outcome = serve(&args, world, &stop, led).await;
            *ended.lock() = Some(outcome);
        };
        let process = Process::start(member, &node.seat.machine, &self.fabric, self.now, random, main);
        node.seat.process = Some(process);
        self.trace.note(self.now, format_args!("member {member}: starts"));
    }

    fn args(&self, member: HostId) -> anyhow::Result<BrokerArgs> {
        let own = host_ip(member);
        let peers: Vec<_> =
            (0..MEMBERS).map(|peer| format!("{}={}:10912", peer + 1, host_ip(peer))).collect();
        let mut line = vec!["raftmq".to_owned(), "broker".to_owned()];
        for (name, value) in [
            ("--id", (member + 1).to_string()),
            ("--dir", DATA_DIR.to_owned()),
            ("--listen", format!("{own}:10911")),
            ("--raft", format!("{own}:10912")),
            ("--admin", format!("{own}:8081")),
            ("--namesrv-listen", format!("{own}:9876")),
            ("--namesrv", Self::name_servers()),
            ("--peers", peers.join(",")),
            ("--segment-size", self.options.segment_bytes.to_string()),
        ] {
            line.extend([name.to_owned(), value]);
        }
        line.extend(["--found", "--no-secret"].map(str::to_owned));
        line.extend(self.options.flags.iter().cloned());
        Cli::try_parse_from(line)?.into_broker().context("it is no broker's")
    }

    /// Ends everything.
    pub fn end(self) -> Trace {
        let members = self.nodes.into_iter().filter_map(|node| node.seat.process);
        let programs = self.programs.into_iter().filter_map(|program| program.seat.process);
        programs.chain(members).for_each(|process| process.end(Ending::Killed));
        self.trace
    }
}

/// Runs a member until it fails or is asked to stop; says which. `led` is told when it begins to lead.
async fn serve(
    args: &BrokerArgs,
    world: World,
    stop: &Notify,
    led: impl Fn(Duration, u64) + Send + Sync + 'static,
) -> String {
    let led = Arc::new(led);
    loop {
        let clock = world.clock.clone();
        let mut member = match Box::pin(Member::start(args, world.clone())).await {
            Ok(member) => member,
            Err(error) => return format!("it did not start: {error:#}"),
        };
        let (mut role, led) = (member.watch_role(), led.clone());
        tokio::spawn(async move {
            loop {
                let RoleState { role: now, term, .. } = *role.borrow_and_update();
                if now == Role::Leader {
                    led(clock.passed(), term);
                }
                if role.changed().await.is_err() {
                    return;
                }
            }
        });
        let ended = tokio::select! {
            ended = member.ended() => Some(ended),
            () = stop.notified() => None,
        };
        Box::pin(member.stop(ended.is_none())).await;
        match ended {
            None => return STOPPED.to_owned(),
            Some(Ended { reason, starts_again: false }) => return reason,
            // Its directory returns as another member.
            Some(Ended { .. }) => {}
        }
    }
}
