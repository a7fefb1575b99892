//! One process.

use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::ports::{PortBlock, PortKind};

/// How often a process is asked whether it has ended.
const POLL: Duration = Duration::from_millis(10);
/// How much of a node's log goes into an error, in lines.
const TAIL_LINES: usize = 25;

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    /// There is no process.
    Down,
    /// It runs, or ought to.
    Running,
    /// It was stopped by a signal and has yet to go on.
    Paused,
}

/// How a process ended that was expected to end.
#[derive(Debug, Clone)]
pub struct Exit {
    /// Its exit code; nothing if a signal ended it.
    pub code: Option<i32>,
    /// All it wrote to its standard output and standard error.
    pub output: String,
}

/// A node: its flags, its directory, and its process while there is one.
#[derive(Debug)]
pub struct Node {
    id: u64,
    binary: PathBuf,
    dir: PathBuf,
    log: PathBuf,
    addrs: [(PortKind, SocketAddr); 4],
    flags: Vec<(String, String)>,
    more_flags: Vec<String>,
    child: Option<Child>,
    paused: bool,
}

impl Node {
    pub(super) fn new(
        id: u64,
        group_dir: &Path,
        binary: &Path,
        ports: &PortBlock,
        shared: &[(&str, String)],
        more_flags: &[String],
    ) -> Self {
        let dir = group_dir.join(format!("n{id}"));
        let addr = |kind| ports.addr(kind).to_string();
        let own = [
            ("--id", id.to_string()),
            ("--dir", dir.display().to_string()),
            ("--listen", addr(PortKind::Client)),
            ("--raft", addr(PortKind::Raft)),
            ("--admin", addr(PortKind::Admin)),
            ("--namesrv-listen", addr(PortKind::NameServer)),
        ];
        Self {
            id,
            binary: binary.to_owned(),
            log: group_dir.join(format!("n{id}.log")),
            dir,
            addrs: PortKind::ALL.map(|kind| (kind, ports.addr(kind))),
            flags: own
                .iter()
                .chain(shared)
                .map(|(flag, value)| ((*flag).to_owned(), value.clone()))
                .collect(),
            more_flags: more_flags.to_vec(),
            child: None,
            paused: false,
        }
    }

    /// Its id.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where it listens.
    pub fn addr(&self, kind: PortKind) -> SocketAddr {
        self.addrs[kind as usize - 1].1
    }

    /// What it does.
    pub fn state(&self) -> NodeState {
        match (&self.child, self.paused) {
            (None, _) => NodeState::Down,
            (Some(_), false) => NodeState::Running,
            (Some(_), true) => NodeState::Paused,
        }
    }

    /// The last lines it wrote.
    pub fn log_tail(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    /// How much it wrote to its standard output and standard error, in bytes.
    pub fn log_bytes(&self) -> Result<u64> {
        Ok(std::fs::metadata(&self.log).with_context(|| format!("length of {}", self.log.display()))?.len())
    }

    /// Memory it holds besides mapped files, in bytes.
    pub fn anonymous_bytes(&self) -> Result<u64> {
        let child = self.child.as_ref().with_context(|| format!("node {} is down", self.id))?;
        let path = format!("/proc/{}/status", child.id());
        let status = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line
            .and_then(|line| line.trim().strip_suffix("kB"))
            .and_then(|kib| kib.trim().parse::<u64>().ok());
        Ok(kib.with_context(|| format!("{path} has no RssAnon"))? * 1024)
    }

    pub(super) fn start(&mut self, process_group: i32) -> Result<()> {
        ensure!(self.child.is_none(), "node {} runs already", self.id);
        let mut log = OpenOptions::new();
        let log = log.create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("open {}", self.log.display()))?;
        self.child = Some(self.spawn(&[], process_group, &log)?);
        self.paused = false;
        Ok(())
    }

    pub(super) fn run_refused(
        &self,
        changed: &[(&str, String)],
        process_group: i32,
        timeout: Duration,
    ) -> Result<Exit> {
        let output = tempfile::NamedTempFile::new()?;
        let mut child = self.spawn(changed, process_group, output.as_file())?;
        let status = wait_within(&mut child, timeout)?;
        let output = String::from_utf8_lossy(&std::fs::read(output.path())?).into_owned();
        let Some(status) = status else {
            child.kill()?;
            child.wait()?;
            bail!("a broker with {changed:?} still runs after {timeout:?}; it wrote\n{output}");
        };
        Ok(Exit { code: status.code(), output })
    }

    fn spawn(&self, changed: &[(&str, String)], process_group: i32, output: &File) -> Result<Child> {
        let mut command = Command::new(&self.binary);
        command.arg("broker");
        for (flag, value) in &self.flags {
            let changed = changed.iter().find(|(name, _)| name == flag);
            command.arg(flag).arg(changed.map_or(value, |(_, value)| value));
        }
        command.arg("--found").args(&self.more_flags).process_group(process_group);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output.try_clone()?);
        command.spawn().with_context(|| format!("start {}", self.binary.display()))
    }

    /// How it ended, if it has ended without being asked to.
    pub(super) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.as_mut().map(Child::try_wait).transpose()?.flatten())
    }

    pub(super) fn send_kill(&mut self) -> Result<()> {
        if let Some(child) = &mut self.child {
            child.kill()?;
        }
        Ok(())
    }

    pub(super) fn kill(&mut self) -> Result<()> {
        self.send_kill()?;
        if let Some(mut child) = self.child.take() {
            child.wait()?;
        }
        Ok(())
    }

    pub(super) fn pause(&mut self) -> Result<()> {
        self.signal(Signal::STOP)?;
        self.paused = true;
        Ok(())
    }

    pub(super) fn resume(&mut self) -> Result<()> {
        self.signal(Signal::CONT)?;
        self.paused = false;
        Ok(())
    }

    pub(super) fn stop(&mut self, timeout: Duration) -> Result<()> {
        self.signal(Signal::TERM)?;
        let Some(child) = self.child.as_mut() else { return Ok(()) };
        let Some(status) = wait_within(child, timeout)? else {
            self.kill()?;
            bail!(
                "node {} had not stopped {timeout:?} after SIGTERM; its log ends with\n{}",
                self.id,
                self.log_tail()
            );
        };
        self.child = None;
        ensure!(
            status.success(),
            "node {} stopped with {status}; its log ends with\n{}",
            self.id,
            self.log_tail()
        );
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().with_context(|| format!("node {} is down", self.id))?;
        let pid = Pid::from_child(child);
        kill_process(pid, signal).with_context(|| format!("signal node {}", self.id))
    }
}

fn wait_within(child: &mut Child, timeout: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + timeout;
    loop {
        match child.try_wait()? {
            Some(status) => return Ok(Some(status)),
            None if Instant::now() >= deadline => return Ok(None),
            None => std::thread::sleep(POLL),
        }
    }
}
