//! The roles a process can have, from start to stop: what is started in which order, and what a signal does.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use raftmq_bench::BenchArgs;
use raftmq_broker::state::{State, Views};
use raftmq_client::parse_name_servers;
use raftmq_front::{BrokerConfig, Front, Limits, Process};
use raftmq_namesrv::{Namesrv, NamesrvConfig};
use raftmq_raft::{Ended, Group, GroupConfig, RoleState, Secret};
use raftmq_store::{Derived, OpenFiles};
use raftmq_world::{Disk, World};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::admin::client::AdminArgs;
use crate::admin::{self, Admin};
use crate::cli::{BrokerArgs, Cli, NamesrvArgs, RoleArgs};

/// A stop that takes longer is cut off.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// For blocking work that is still running when the process ends.
const RUNTIME_STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs the role that the command line names, until it is done or a signal ends it.
///
/// # Errors
/// Whatever keeps it from starting, or ended it.
pub fn run(cli: &Cli) -> anyhow::Result<()> {
    match &cli.role {
        RoleArgs::Broker(args) => broker(args),
        RoleArgs::Namesrv(args) => namesrv(args),
        RoleArgs::Admin(args) => admin(args),
        RoleArgs::Bench(args) => bench(args),
        RoleArgs::NullServer(args) => raftmq_bench::run_null_server(args.listen, &World::system()),
    }
}

/// Runs a member of a group until a signal or a failure ends it.
fn broker(args: &BrokerArgs) -> anyhow::Result<()> {
    raise_file_limit();
    let runtime = runtime(args.threads)?;
    let ended = runtime.block_on(Box::pin(run_broker(args)));
    runtime.shutdown_timeout(RUNTIME_STOP_TIMEOUT);
    ended
}

/// Runs a name server until a signal ends it.
fn namesrv(args: &NamesrvArgs) -> anyhow::Result<()> {
    raise_file_limit();
    let runtime = runtime(Some(1))?;
    runtime.block_on(async {
        let mut signals = Signals::new()?;
        let mut namesrv = raftmq_namesrv::start(&NamesrvConfig::new(args.listen), &World::system())?;
        let name = signals.next().await;
        tracing::info!(signal = name, "stopping");
        namesrv.shutdown().await;
        Ok(())
    })
}

/// Asks a member's admin API.
fn admin(args: &AdminArgs) -> anyhow::Result<()> {
    runtime(Some(1))?.block_on(admin::client::run(args, &*World::system().network))
}

/// Loads a broker and prints what was measured.
fn bench(args: &BenchArgs) -> anyhow::Result<()> {
    raise_file_limit();
    raftmq_bench::run(args, &World::system())
}

async fn run_broker(args: &BrokerArgs) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    loop {
        let mut running = tokio::select! {
            started = Box::pin(Member::start(args, World::system())) => started?,
            name = signals.next() => bail!("{name} while starting"),
        };
        let ended = tokio::select! {
            ended = running.ended() => Some(ended),
            name = signals.next() => {
                tracing::info!(signal = name, "stopping");
                None
            }
        };
        let stopping = tokio::time::timeout(STOP_TIMEOUT, Box::pin(running.stop(ended.is_none())));
        let stopped = tokio::select! {
            stopped = stopping => stopped,
            name = signals.next() => bail!("{name} while stopping"),
        };
        match (ended, stopped) {
            (_, Err(_)) => bail!("not stopped within {} s", STOP_TIMEOUT.as_secs()),
            (None, Ok(())) => return Ok(()),
            (Some(Ended { reason, starts_again: true }), Ok(())) => {
                tracing::warn!("starting again: {reason}")
            }
            (Some(Ended { reason, .. }), Ok(())) => return Err(anyhow!("stopped: {reason}")),
        }
    }
}

/// All that runs in a broker's process: a member of its group, the broker, the admin API, a name server if asked for.
pub struct Member {
    namesrv: Option<Namesrv>,
    group: Group,
    front: Front,
    admin: Option<Admin>,
}

impl Member {
    /// Starts all of it. Addresses first, so that a port in use is found out before the log is opened.
    ///
    /// # Errors
    /// The configuration contradicts itself, an address is taken, or the log cannot be opened.
    pub async fn start(args: &BrokerArgs, world: World) -> anyhow::Result<Self> {
        let views = Views::new(&OpenFiles::of(&world), &args.dir);
        let group_config = group_config(args, views.derived.clone(), secret(args, &*world.disk)?)?;
        let mut broker_config = broker_config(args)?;
        let namesrv = match args.namesrv_listen {
            Some(listen) => Some(raftmq_namesrv::start(&NamesrvConfig::new(listen), &world)?),
            None => None,
        };
        if let (None, Some(own)) = (&args.namesrv, &namesrv) {
            broker_config.namesrv = vec![own.local_addr().to_string()];
        }
        if broker_config.namesrv.is_empty() {
            bail!("no name server: give --namesrv, or --namesrv-listen to run one inside");
        }
        let state = State::default();
        let process = Arc::new(Process::new(Limits::default(), world.clone()));
        let bound = admin::bind(args.admin, world.clone())?;
        let group = Group::start(group_config, state.tables(), world).await?;
        let front = match raftmq_front::start(broker_config, group.clone(), state, views, process) {
            Ok(front) => front,
            Err(error) => {
                group.shutdown().await;
                return Err(error);
            }
        };
        let admin_addr = bound.local_addr();
        let admin = bound.serve(args.cluster.clone(), args.broker_name.clone(), group.clone(), front.clone());
        tracing::info!(
            node_id = args.id,
            clients = %args.listen,
            members = %args.raft,
            admin = %admin_addr,
            "started"
        );
        Ok(Self { namesrv, group, front, admin: Some(admin) })
    }

    /// This member's role in its group, as it changes.
    pub fn watch_role(&self) -> watch::Receiver<RoleState> {
        self.group.watch_role()
    }

    /// Resolves when the member has ended by itself, with the reason.
    pub async fn ended(&self) -> Ended {
        self.group.stopped().await
    }

    /// Hands leadership over where that is possible, with what clients have committed, then stops from the outside in; the name server last, so that
    /// clients can ask it where to go.
    pub async fn stop(&mut self, in_order: bool) {
        if in_order {
            self.front.flush_offsets().await;
            self.group.transfer_leadership().await;
        }
        self.front.shutdown().await;
        self.group.shutdown().await;
        self.admin = None;
        if let Some(namesrv) = &mut self.namesrv {
            namesrv.shutdown().await;
        }
    }
}

fn group_config(args: &BrokerArgs, derived: Derived, secret: Option<Secret>) -> anyhow::Result<GroupConfig> {
    if args.peers.0.iter().all(|member| member.id != args.id) {
        bail!("--peers has no member {}, which --id says this is", args.id);
    }
    Ok(GroupConfig {
        cluster: args.cluster.clone(),
        broker_name: args.broker_name.clone(),
        node_id: args.id,
        dir: args.dir.clone(),
        derived,
        members: args.peers.0.clone(),
        founds: args.found,
        secret,
        listen: args.raft,
        client: advertised(args)?,
        admin: args.admin,
        flush: args.flush.into(),
        disk_reserve_bytes: args.disk_reserve,
        segment_bytes: args.segment_size,
        heartbeat_ms: args.heartbeat_ms,
        election_timeout_ms: (args.election_ms.0, args.election_ms.1),
    })
}

/// The secret of the group's members. None is needed where nobody else reaches them.
fn secret(args: &BrokerArgs, disk: &dyn Disk) -> anyhow::Result<Option<Secret>> {
    let Some(path) = &args.secret_file else {
        if args.no_secret || args.raft.ip().is_loopback() {
            return Ok(None);
        }
        bail!(
            "--raft {} may be in reach of strangers: give --secret-file a file that all members have, or --no-secret",
            args.raft
        );
    };
    let content = disk.read(path).with_context(|| format!("read {}", path.display()))?;
    let content = content.with_context(|| format!("--secret-file: there is no file {}", path.display()))?;
    Secret::new(&content).map(Some).map_err(|e| anyhow!("--secret-file {}: {e}", path.display()))
}

fn broker_config(args: &BrokerArgs) -> anyhow::Result<BrokerConfig> {
    Ok(BrokerConfig {
        cluster: args.cluster.clone(),
        broker_name: args.broker_name.clone(),
        node_id: args.id,
        listen: args.listen,
        vip: args.vip,
        advertise: advertised(args)?,
        namesrv: args.namesrv.as_deref().map(parse_name_servers).unwrap_or_default(),
        auto_create_topic: true,
        auto_create_group: true,
        delay_levels: args.message_delay_level.clone(),
    })
}

/// The address in routes, which clients must be able to connect to.
fn advertised(args: &BrokerArgs) -> anyhow::Result<std::net::SocketAddr> {
    let addr = args.advertise.unwrap_or(args.listen);
    if addr.ip().is_unspecified() || addr.port() == 0 {
        bail!("clients cannot connect to {addr}: give --advertise an address they can");
    }
    Ok(addr)
}

/// On one or two cores a single thread serves the network best: nothing is handed from thread to thread.
fn runtime(threads: Option<u16>) -> anyhow::Result<Runtime> {
    #[expect(clippy::disallowed_methods, reason = "decides about the runtime, which the world comes after")]
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = threads.map_or(if cores <= 2 { 1 } else { cores }, usize::from);
    let mut builder = if threads == 1 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    builder.enable_all().build().context("start the runtime")
}

/// Segments, open files of queues and connections each take a file descriptor; the usual soft limit of 1024 is soon reached.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it was");
    }
}

/// The signals that end a process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("listen for signals");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn args(line: &str) -> BrokerArgs {
        let line = format!("raftmq broker --dir nowhere {line}");
        match Cli::try_parse_from(line.split_whitespace()).unwrap().role {
            RoleArgs::Broker(args) => *args,
            role => panic!("{role:?} is no broker"),
        }
    }

    #[test]
    fn a_configuration_that_contradicts_itself_is_refused() {
        let peers = "--peers 1=127.0.0.1:10912,2=127.0.0.1:2";
        let derived =
            || Views::new(&OpenFiles::of(&World::system()), std::path::Path::new("nowhere")).derived;
        let config = group_config(&args(&format!("--id 1 {peers}")), derived(), None).unwrap();
        assert_eq!((config.members.len(), config.client), (2, "127.0.0.1:10911".parse().unwrap()));
        for (line, why) in [
            ("--id 3", "no member 3"),
            ("--id 1 --listen 0.0.0.0:10911", "--advertise"),
            ("--id 1 --advertise 0.0.0.0:10911", "--advertise"),
        ] {
            let error =
                group_config(&args(&format!("{line} {peers}")), derived(), None).unwrap_err().to_string();
            assert!(error.contains(why), "{line}: {error}");
        }
        let reached = |line: &str| secret(&args(&format!("--id 1 {peers} {line}")), &*World::system().disk);
        assert_eq!(reached("").unwrap(), None);
        assert_eq!(reached("--raft 0.0.0.0:1 --no-secret").unwrap(), None);
        for (line, why) in [("--raft 0.0.0.0:1", "strangers"), ("--secret-file /no/such", "no file")] {
            let error = reached(line).unwrap_err().to_string();
            assert!(error.contains(why), "{line}: {error}");
        }
        let args = args(&format!("--id 1 {peers} --namesrv a:1;b:2"));
        assert_eq!(broker_config(&args).unwrap().namesrv, ["a:1", "b:2"]);
    }
}
