//! The broker role: what RocketMQ's producers, consumers and tools ask of a broker, over the group's log.
//!
//! | module | what it is |
//! |---|---|
//! | `connection` | reading, one task per connection |
//! | `channel` | the way back to a client: one bounded buffer, one system call |
//! | `calls`, `relay` | asking a client over its own connection; what operators have asked of clients |
//! | `inquiry`, `refusal_log` | asking a client what it subscribes to; a trace of pulls for which that is not known |
//! | `requests` | the table of requests: who serves each, what it needs, its handler |
//! | `forwarding` | passing requests on to the leader |
//! | `sending`, `send_batch` | sends and what consumers give back; submitting and answering a read's sends together |
//! | `pull` | pulls and their answers |
//! | `heartbeat`, `described`, `notices` | what clients say of themselves, and telling the members of groups |
//! | `queue_codes` | consumer offsets, the ends of queues, offsets by time |
//! | `offset_admin` | resetting a group's offsets, copying another group's |
//! | `group_codes`, `group_report` | how far groups are, and who consumes what: for tools, for the admin API |
//! | `locks` | queue locks |
//! | `config_codes`, `attributes` | settings of topics and groups; what is checked of their attributes |
//! | `stats`, `stats_codes` | counters and what tools print |
//! | `registration`, `name_server` | telling the name servers |
//! | `node` | what all of it shares |
//! | `reply`, `buffers`, `gauge`, `limits` | answers, shared buffers, counts, bounds |
//!
//! A message's way: a read of the socket is cut into frames in place, each send is checked and encoded straight into one
//! buffer, the buffer is submitted at the end of the read, and when its entry is committed all answers are written into
//! the connection's output at once. There is no task, no channel and no lock per message.

mod attributes;
mod buffers;
mod calls;
mod channel;
mod config;
mod config_codes;
mod connection;
mod described;
mod forwarding;
mod gauge;
mod group_codes;
mod heartbeat;
mod inquiries;
mod inquiry;
pub(crate) mod limits;
mod locks;
mod node;
mod notices;
mod offset_admin;
mod peer;
mod process;
mod pull;
mod queue_codes;
mod refusal_log;
mod registered;
mod registration;
mod relay;
mod reply;
mod requests;
mod send_batch;
mod sending;
mod stats;
mod stats_codes;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use parking_lot::Mutex;
use raftmq_broker::state::State;
use raftmq_broker::views::Views;
use raftmq_raft::Group;
use raftmq_world::{Acceptor, WhenFull};
use tokio::task::JoinHandle;

pub(crate) use config::BrokerConfig;
pub(crate) use limits::Limits;
use node::Node;
pub(crate) use process::Process;
pub(crate) use raftmq_broker::delay::{DEFAULT_LEVELS, DelayLevels};
use raftmq_broker::report::{GroupReport, report};
pub(crate) use stats::BrokerStats;

/// A running broker. Clones are handles to the same.
#[derive(Clone)]
pub(crate) struct Broker {
    node: Arc<Node>,
    address: SocketAddr,
    tasks: Arc<Mutex<Tasks>>,
}

/// The tasks that run as long as the broker.
#[derive(Default)]
struct Tasks {
    accepting: Vec<JoinHandle<()>>,
    others: Vec<JoinHandle<()>>,
}

/// Starts to serve clients with a running member of a group, and the views of its log.
///
/// # Errors
/// The address cannot be listened on, or the node id is 0, which stands for the leader.
pub(crate) fn start(
    config: BrokerConfig,
    group: Group,
    state: State,
    views: Views,
    process: Arc<Process>,
) -> anyhow::Result<Broker> {
    anyhow::ensure!(config.node_id > 0, "node id 0 is what clients know the leader by; members count from 1");
    let listen = |address| process.world.network.listen(address);
    let listener =
        listen(config.listen).with_context(|| format!("listen for clients on {}", config.listen))?;
    let address = listener.local_addr().context("the listening address")?;
    let clients = Acceptor::new(listener, "a client's", process.limits.connections, WhenFull::Refuse);
    let mut acceptors = Vec::new();
    if config.vip {
        let vip = vip_address(address)?;
        let listener = listen(vip).with_context(|| format!("listen on the VIP port, {vip}"))?;
        acceptors.push(clients.also(listener));
    }
    acceptors.push(clients);
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
        node.notices.run(&node.state.groups, &node.process.clients).await;
    }));
    tasks.others.push(spawn(&node, |node| every(limits::EXPIRY_SCAN, move || node.expire())));
    let sample = Duration::from_secs(stats::SAMPLE_SECONDS as u64);
    tasks.others.push(spawn(&node, move |node| every(sample, move || node.stats.sample())));
    for acceptor in acceptors {
        tasks.accepting.push(tokio::spawn(accept(node.clone(), acceptor)));
    }
    tracing::info!(%address, broker = node.config.broker_name, node_id = node.config.node_id, "serving clients");
    Ok(Broker { node, address, tasks: Arc::new(Mutex::new(tasks)) })
}

/// Serves every client that connects. Runs until the task is ended.
async fn accept(node: Arc<Node>, acceptor: Acceptor) {
    loop {
        connection::begin(&node, acceptor.next().await);
    }
}

/// The VIP port of a client address: clients up to 4.4 send, commit offsets and ask for them there unless told otherwise,
/// and take it for two below the port in the routes.
fn vip_address(clients: SocketAddr) -> anyhow::Result<SocketAddr> {
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

impl Broker {
    /// The group's replicated state.
    pub(crate) fn state(&self) -> &State {
        &self.node.state
    }

    /// Counters.
    pub(crate) fn stats(&self) -> BrokerStats {
        self.node.stats()
    }

    /// Whether a topic is the system's own.
    pub(crate) fn is_system_topic(&self, name: &str) -> bool {
        self.node.broker.settings.is_of_system(name)
    }

    /// A consumer group as this member knows it; `None` where there is no such group.
    pub(crate) fn group_report(&self, name: &str) -> Option<GroupReport> {
        report(&self.node.broker, name)
    }

    /// Has the consumer offsets that are committed by now written to the log. To be called before another member leads.
    pub(crate) async fn flush_offsets(&self) {
        if tokio::time::timeout(limits::DRAIN, self.node.broker.offsets.flush(&self.node.replica))
            .await
            .is_err()
        {
            tracing::warn!("consumer offsets are still on their way");
        }
    }

    /// Stops: refuses new work, waits a little for what is on its way, tells the name servers, and closes every
    /// connection. Stop it before the group.
    pub(crate) async fn shutdown(&self) {
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
            while self.node.process.bytes_in_flight.get() > 0
                || self.node.process.channels().iter().any(|c| c.waiting() > 0)
            {
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(limits::DRAIN, drained).await.is_err() {
            tracing::warn!(
                bytes = self.node.process.bytes_in_flight.get(),
                "stopping with sends on their way"
            );
        }
        registration::unregister(&self.node).await;
        for channel in self.node.process.channels() {
            channel.close();
        }
        tracing::info!(address = %self.address, "no longer serving clients");
    }
}
