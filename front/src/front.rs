//! Serving one group to clients, from start to stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use parking_lot::Mutex;
use raftmq_broker::report::{GroupReport, report};
use raftmq_broker::state::{State, Views};
use raftmq_raft::Group;
use raftmq_world::Acceptor;
use tokio::task::JoinHandle;

use crate::config::BrokerConfig;
use crate::node::Node;
use crate::process::Process;
use crate::stats::BrokerStats;
use crate::{connection, limits, registration, stats};

/// A group that is served to clients. Clones are handles to the same.
#[derive(Clone)]
pub struct Front {
    pub(crate) node: Arc<Node>,
    pub(crate) address: SocketAddr,
    tasks: Arc<Mutex<Tasks>>,
}

/// The tasks that run as long as it is served.
#[derive(Default)]
struct Tasks {
    accepting: Vec<JoinHandle<()>>,
    others: Vec<JoinHandle<()>>,
}

/// Starts to serve clients with a running member of a group, and the views of its log.
///
/// # Errors
/// The address cannot be listened on, or the node id is 0, which stands for the leader.
pub fn start(
    config: BrokerConfig,
    group: Group,
    state: State,
    views: Views,
    process: Arc<Process>,
) -> anyhow::Result<Front> {
    anyhow::ensure!(config.node_id > 0, "node id 0 is what clients know the leader by; members count from 1");
    let listen = |address| process.world.network.listen(address);
    let listener =
        listen(config.listen).with_context(|| format!("listen for clients on {}", config.listen))?;
    let address = listener.local_addr().context("the listening address")?;
    let acceptor = |listener| Acceptor::new(listener, process.places.clone());
    let mut acceptors = Vec::new();
    if config.vip {
        let vip = vip_address(address)?;
        let listener = listen(vip).with_context(|| format!("listen on the VIP port, {vip}"))?;
        acceptors.push(acceptor(listener));
    }
    acceptors.push(acceptor(listener));
    let name_servers = config.namesrv.len();
    let node = Arc::new(Node::new(config, group, state, views, process));
    node.replica.store().set_arrival_listener(Box::new({
        // The store outlives the broker, and must not keep it alive.
        let broker = Arc::downgrade(&node.broker);
        move |arrivals| {
            if let Some(broker) = broker.upgrade() {
                broker.arrived(arrivals);
            }
        }
    }));
    let mut tasks = Tasks::default();
    for index in 0..name_servers {
        tasks.others.push(spawn(&node, move |node| async move { registration::run(&node, index).await }));
    }
    tasks.others.extend(node.broker.tasks().into_iter().map(tokio::spawn));
    tasks.others.push(spawn(&node, |node| async move {
        node.notices.run(&node.state.groups, &node.broker.clients).await;
    }));
    tasks.others.push(spawn(&node, |node| every(limits::EXPIRY_SCAN, move || node.expire())));
    let sample = Duration::from_secs(stats::SAMPLE_SECONDS as u64);
    tasks.others.push(spawn(&node, move |node| every(sample, move || node.stats.sample())));
    for acceptor in acceptors {
        tasks.accepting.push(tokio::spawn(accept(node.clone(), acceptor)));
    }
    tracing::info!(%address, broker = node.config.broker_name, node_id = node.config.node_id, "serving clients");
    Ok(Front { node, address, tasks: Arc::new(Mutex::new(tasks)) })
}

/// Serves every client that connects. Runs until the task is ended.
async fn accept(node: Arc<Node>, acceptor: Acceptor) {
    loop {
        connection::begin(&node, acceptor.next().await);
    }
}

/// The VIP port of a client address: clients up to 4.4 send, commit offsets and ask for them there unless told otherwise,
/// and take it for two below the port in the routes.
pub(crate) fn vip_address(clients: SocketAddr) -> anyhow::Result<SocketAddr> {
    /// `MixAll.brokerVIPChannel` subtracts it.
    const BELOW: u16 = 2;
    match clients.port().checked_sub(BELOW) {
        Some(port @ 1..) => Ok(SocketAddr::new(clients.ip(), port)),
        _ => anyhow::bail!("{clients} has no VIP port, which is {BELOW} below: choose a greater port"),
    }
}

fn spawn<F: Future<Output = ()> + Send + 'static>(
    node: &Arc<Node>,
    run: impl FnOnce(Arc<Node>) -> F,
) -> JoinHandle<()> {
    tokio::spawn(run(node.clone()))
}

/// Ends a task, and returns when what it holds is let go.
async fn end(task: JoinHandle<()>) {
    task.abort();
    // It was cancelled, or had ended before.
    let _ = task.await;
}

async fn every(period: Duration, act: impl Fn()) {
    let mut tick = tokio::time::interval(period);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        act();
    }
}

impl Front {
    /// The group's replicated state.
    pub fn state(&self) -> &State {
        &self.node.state
    }

    /// Counters.
    pub fn stats(&self) -> BrokerStats {
        self.node.stats()
    }

    /// Whether a topic is the system's own.
    pub fn is_system_topic(&self, name: &str) -> bool {
        self.node.broker.settings.is_of_system(name)
    }

    /// A consumer group as this member knows it; `None` where there is no such group.
    pub fn group_report(&self, name: &str) -> Option<GroupReport> {
        report(&self.node.broker, name)
    }

    /// Has the consumer offsets that are committed by now written to the log. To be called before another member leads.
    pub async fn flush_offsets(&self) {
        if tokio::time::timeout(limits::DRAIN, self.node.broker.offsets.flush(&self.node.replica))
            .await
            .is_err()
        {
            tracing::warn!("consumer offsets are still on their way");
        }
    }

    /// Stops: refuses new work, waits a little for what is on its way, tells the name servers, and closes every
    /// connection. Stop it before the group.
    pub async fn shutdown(&self) {
        /// How often it is looked whether all is done.
        const LOOK: Duration = Duration::from_millis(5);
        let Tasks { accepting, others } = std::mem::take(&mut *self.tasks.lock());
        for task in accepting {
            end(task).await;
        }
        if self.node.replica.is_stopping() {
            return;
        }
        self.flush_offsets().await;
        self.node.replica.stop();
        for task in others {
            end(task).await;
        }
        self.node.broker.pulls.refuse_unserved();
        let drained = async {
            while self.node.connections.at_work() > 0 {
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(limits::DRAIN, drained).await.is_err() {
            let connections = self.node.connections.at_work();
            tracing::warn!(connections, "stopping with requests on their way");
        }
        registration::unregister(&self.node).await;
        self.node.connections.close_all();
        tracing::info!(address = %self.address, "no longer serving clients");
    }
}
