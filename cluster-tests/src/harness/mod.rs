//! A group of three real processes in directories of their own, and the faults done to it.
//!
//! Nothing outlives a test: processes are killed when the [`Group`] is dropped, and if the test itself is killed, a
//! watcher that holds the other end of a pipe to it kills them. The directories are kept if the test panics.

mod admin;
mod binary;
mod lifeline;
mod node;
mod ports;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

pub use admin::{GroupStatus, MemberStatus};
pub use binary::raftmq_binary;
pub use node::{Exit, Node, NodeState};
pub use ports::{PortBlock, PortKind};

use lifeline::Lifeline;

/// The ids of the members.
pub const NODE_IDS: [u64; 3] = [1, 2, 3];
/// The broker name all members share.
pub use raftmq_checks::lane::BROKER_NAME;

/// How often a condition is looked at while waiting for it.
const POLL: Duration = Duration::from_millis(50);
/// A follower has caught up when it has applied all but this many of the entries the leader had committed just before.
const CAUGHT_UP_ENTRIES: u64 = 64;

/// How a group is made.
#[derive(Debug, Clone)]
pub struct GroupOptions {
    /// `sync` or `async`.
    pub flush: String,
    /// As on the command line, for example `16MiB`.
    pub segment_size: String,
    /// Where to put the nodes' directories; by default a new one under the system's place for temporary files.
    pub dir: Option<PathBuf>,
    /// Further flags for every broker.
    pub flags: Vec<String>,
}

impl Default for GroupOptions {
    fn default() -> Self {
        Self { flush: "sync".into(), segment_size: "16MiB".into(), dir: None, flags: Vec::new() }
    }
}

/// Three nodes.
#[derive(Debug)]
pub struct Group {
    nodes: BTreeMap<u64, Node>,
    // Declared behind the nodes, and so dropped after them.
    lifeline: Lifeline,
    _ports: Vec<PortBlock>,
    dir: TempDir,
    keep: Cell<bool>,
}

impl Group {
    /// Starts three nodes. They need not be ready yet: see [`Group::wait_ready`].
    pub fn start(options: &GroupOptions) -> Result<Self> {
        let binary = raftmq_binary()?;
        let mut builder = tempfile::Builder::new();
        builder.prefix("raftmq-");
        let dir = match &options.dir {
            Some(parent) => {
                std::fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
                builder.tempdir_in(parent)
            }
            None => builder.tempdir(),
        };
        let dir = dir.context("create a directory for the nodes")?;
        let ports = NODE_IDS.iter().map(|_| PortBlock::reserve()).collect::<Result<Vec<_>>>()?;
        let addrs =
            |kind: PortKind| ports.iter().map(|block| block.addr(kind).to_string()).collect::<Vec<_>>();
        let peers: Vec<_> =
            NODE_IDS.iter().zip(addrs(PortKind::Raft)).map(|(id, addr)| format!("{id}={addr}")).collect();
        let secret = dir.path().join("secret");
        std::fs::write(&secret, "the secret of cluster tests").context("write the members' secret")?;
        let shared = [
            ("--secret-file", secret.display().to_string()),
            ("--cluster", "DefaultCluster".to_owned()),
            ("--broker-name", BROKER_NAME.to_owned()),
            ("--namesrv", addrs(PortKind::NameServer).join(";")),
            ("--peers", peers.join(",")),
            ("--flush", options.flush.clone()),
            ("--segment-size", options.segment_size.clone()),
        ];
        let nodes = NODE_IDS.iter().zip(&ports).map(|(id, ports)| {
            let node = Node::new(*id, dir.path(), &binary, ports, &shared, &options.flags);
            (*id, node)
        });
        let mut group = Self {
            nodes: nodes.collect(),
            lifeline: Lifeline::new()?,
            _ports: ports,
            dir,
            keep: Cell::new(false),
        };
        group.start_all()?;
        Ok(group)
    }

    /// Where the nodes' directories and logs are.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Keeps the directories when the group is dropped, as a panic does.
    pub fn keep(&self) {
        self.keep.set(true);
    }

    /// One of the nodes; panics if there is none of that id.
    pub fn node(&self, id: u64) -> &Node {
        &self.nodes[&id]
    }

    /// All nodes by id.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// All name servers, as clients take them.
    pub fn name_servers(&self) -> String {
        let addrs: Vec<_> = self.nodes().map(|node| node.addr(PortKind::NameServer).to_string()).collect();
        addrs.join(";")
    }

    fn node_mut(&mut self, id: u64) -> Result<&mut Node> {
        self.nodes.get_mut(&id).with_context(|| format!("there is no node {id}"))
    }

    /// Starts a node that is down.
    pub fn start_node(&mut self, id: u64) -> Result<()> {
        let process_group = self.lifeline.process_group();
        self.node_mut(id)?.start(process_group)
    }

    /// Kills a node with signal 9.
    pub fn kill(&mut self, id: u64) -> Result<()> {
        self.node_mut(id)?.kill()
    }

    /// Takes all that a node has stored, as if its disk had been replaced. It has to be down.
    pub fn empty(&mut self, id: u64) -> Result<()> {
        let node = self.node(id);
        ensure!(node.state() == NodeState::Down, "node {id} is not down");
        std::fs::remove_dir_all(node.dir()).with_context(|| format!("empty {}", node.dir().display()))
    }

    /// Makes a node hang: SIGSTOP.
    pub fn pause(&mut self, id: u64) -> Result<()> {
        self.node_mut(id)?.pause()
    }

    /// Lets a node that hangs go on: SIGCONT.
    pub fn resume(&mut self, id: u64) -> Result<()> {
        self.node_mut(id)?.resume()
    }

    /// Asks a node to stop and waits until it has. An error if it takes longer than `timeout` (it is then killed) or
    /// does not exit with success.
    pub fn stop(&mut self, id: u64, timeout: Duration) -> Result<()> {
        self.node_mut(id)?.stop(timeout)
    }

    /// Kills all nodes with signal 9, one right after the other.
    pub fn kill_all(&mut self) -> Result<()> {
        // The signals first, so that no node sees the others gone for long.
        self.nodes.values_mut().try_for_each(Node::send_kill)?;
        self.nodes.values_mut().try_for_each(Node::kill)
    }

    /// Starts every node that is down.
    pub fn start_all(&mut self) -> Result<()> {
        let process_group = self.lifeline.process_group();
        let down = self.nodes.values_mut().filter(|node| node.state() == NodeState::Down);
        down.into_iter().try_for_each(|node| node.start(process_group))
    }

    /// Runs a broker with other values for some of a node's flags and waits until it ends by itself. For starts that
    /// must be refused.
    pub fn run_refused(&self, id: u64, changed: &[(&str, String)], timeout: Duration) -> Result<Exit> {
        self.node(id).run_refused(changed, self.lifeline.process_group(), timeout)
    }

    /// What a node says of the group; nothing while it is down or hangs.
    pub fn status(&self, id: u64) -> Option<GroupStatus> {
        let node = self.node(id);
        if node.state() != NodeState::Running {
            return None;
        }
        admin::status(node.addr(PortKind::Admin)).ok()
    }

    /// The leader that serves, as said by itself. Of two that say so, the one of the higher term.
    pub fn leader(&self) -> Option<GroupStatus> {
        let leaders = NODE_IDS.iter().filter_map(|id| self.status(*id)).filter(GroupStatus::leads);
        leaders.max_by_key(|status| status.term)
    }

    /// The highest term any node knows.
    pub fn term(&self) -> Option<u64> {
        NODE_IDS.iter().filter_map(|id| self.status(*id)).map(|status| status.term).max()
    }

    /// Waits until a leader serves.
    pub fn wait_ready(&mut self, timeout: Duration) -> Result<GroupStatus> {
        self.wait(timeout, "a leader that serves", Self::leader)
    }

    /// Waits until another than `old` leads, or the same in a later term.
    pub fn wait_new_leader(&mut self, old: &GroupStatus, timeout: Duration) -> Result<GroupStatus> {
        self.wait(timeout, "a new leader", |group| group.leader().filter(|leader| leader.term > old.term))
    }

    /// Waits until all three members are ready and the followers have applied nearly all that the leader had committed.
    /// Gives what the leader said.
    pub fn wait_all_caught_up(&mut self, timeout: Duration) -> Result<GroupStatus> {
        self.wait(timeout, "all members to have caught up", |group| group.caught_up(CAUGHT_UP_ENTRIES))
    }

    /// Waits until nothing in a node's log is broken any more, so many places having been mended since its start.
    pub fn wait_mended(&mut self, node: u64, places: u64, timeout: Duration) -> Result<()> {
        self.wait(timeout, "a log to be mended", |group| {
            let status = group.status(node)?;
            (status.damaged.is_empty() && status.mended == places).then_some(())
        })
    }

    /// Waits until a node votes with another directory than it had when `before` was said.
    pub fn wait_new_seat(
        &mut self,
        node: u64,
        before: &GroupStatus,
        timeout: Duration,
    ) -> Result<GroupStatus> {
        let was = before.member(node).map(|member| member.directory.clone());
        self.wait(timeout, "a node to vote with another directory", |group| {
            let status = group.leader()?;
            let is = status.member(node)?;
            (is.voter && Some(&is.directory) != was.as_ref()).then_some(status.clone())
        })
    }

    /// Waits until all three members have applied the same last entry, which they only do without load. Gives its
    /// index.
    pub fn wait_level(&mut self, timeout: Duration) -> Result<u64> {
        let level = |group: &Self| {
            group.caught_up(0)?;
            let applied: Vec<_> = NODE_IDS.iter().filter_map(|id| group.status(*id)?.applied_index).collect();
            applied.iter().all(|index| *index == applied[0]).then_some(applied[0])
        };
        self.wait(timeout, "all members to have applied the same entries", level)
    }

    fn caught_up(&self, behind_max: u64) -> Option<GroupStatus> {
        let leader = self.leader()?;
        let committed = leader.commit_index?;
        let caught_up = |id: &u64| {
            let status = self.status(*id)?;
            let applied = status.applied_index? + behind_max >= committed;
            let agrees = status.term == leader.term && status.leader_id == Some(leader.node_id);
            let healthy = admin::is_ready(self.node(*id).addr(PortKind::Admin));
            (applied && agrees && healthy).then_some(())
        };
        NODE_IDS.iter().all(|id| caught_up(id).is_some()).then_some(leader)
    }

    /// Looks at a condition until it holds. Fails as soon as a node has ended that should run.
    fn wait<T>(
        &mut self,
        timeout: Duration,
        what: &str,
        condition: impl Fn(&Self) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + timeout;
        loop {
            self.check_alive()?;
            if let Some(value) = condition(self) {
                return Ok(value);
            }
            if Instant::now() >= deadline {
                let said: Vec<_> = NODE_IDS.iter().map(|id| (*id, self.status(*id))).collect();
                bail!("waited {timeout:?} in vain for {what}; the nodes say {said:#?}");
            }
            std::thread::sleep(POLL);
        }
    }

    /// Fails if a node has ended that should run.
    pub fn check_alive(&mut self) -> Result<()> {
        for node in self.nodes.values_mut() {
            let ended = node.ended()?;
            ensure!(
                ended.is_none(),
                "node {} has ended ({:?}); its log ends with\n{}",
                node.id(),
                ended,
                node.log_tail()
            );
        }
        Ok(())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Nothing better can be done than to go on; the lifeline kills what is left.
        drop(self.kill_all());
        if self.keep.get() || std::thread::panicking() {
            self.dir.disable_cleanup(true);
            eprintln!("the nodes' directories and logs are kept in {}", self.dir.path().display());
        }
    }
}
