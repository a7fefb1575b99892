//! A group as its clients are served with it: its broker, and what this protocol needs beside that.

use std::sync::Arc;

use raftmq_broker::state::{State, SubscriptionGroup, Views};
use raftmq_broker::surroundings::Surroundings;
use raftmq_broker::{Broker, BrokerSettings, Error, Replica};
use raftmq_raft::Group;
use raftmq_remoting::body::{DataVersion, MessageQueue};

use crate::channel::Channel;
use crate::config::BrokerConfig;
use crate::connections::Connections;
use crate::inquiries::Inquiries;
use crate::limits::CONNECTION_IDLE;
use crate::notices::Notices;
use crate::process::Process;
use crate::refusal_log::RefusalLog;
use crate::registered::{Registered, broker_id};
use crate::reply::{Handled, Refusal};
use crate::stats::{BrokerStats, Stats};

/// A group that is served.
pub(crate) struct Node {
    pub(crate) config: BrokerConfig,
    pub(crate) process: Arc<Process>,
    pub(crate) connections: Connections,
    pub(crate) broker: Arc<Broker<Channel>>,
    pub(crate) replica: Arc<Replica>,
    pub(crate) state: State,
    pub(crate) notices: Notices,
    pub(crate) inquiries: Inquiries,
    pub(crate) refusal_log: RefusalLog,
    pub(crate) registered: Registered,
    pub(crate) stats: Stats,
    /// When the broker started, in ms since the epoch.
    pub(crate) boot_timestamp_ms: i64,
}

impl Node {
    pub(crate) fn new(
        config: BrokerConfig,
        group: Group,
        state: State,
        views: Views,
        process: Arc<Process>,
    ) -> Self {
        let settings = BrokerSettings {
            store_host: config.advertise,
            auto_create_topic: config.auto_create_topic,
            auto_create_group: config.auto_create_group,
            delay_levels: config.delay_levels.clone(),
            limits: process.limits.group.clone(),
        };
        let world = &process.world;
        let surroundings = Surroundings {
            clock: world.clock.clone(),
            threads: world.threads.clone(),
            process_id: world.process_id,
            salt: world.random.number() as u32,
        };
        let broker = Arc::new(Broker::new(settings, group, state.clone(), views, &surroundings));
        Self {
            replica: broker.replica.clone(),
            broker,
            state,
            connections: Connections::default(),
            notices: Notices::new(process.limits.group.groups),
            inquiries: Inquiries::default(),
            refusal_log: RefusalLog::default(),
            registered: Registered::new(config.namesrv.len()),
            stats: Stats::default(),
            boot_timestamp_ms: process.wall_ms(),
            config,
            process,
        }
    }

    /// Whether this member serves what only a leader serves, and in which term; otherwise the answer to whoever asks.
    pub(crate) fn leading(&self) -> Result<u64, Refusal> {
        Ok(self.replica.leading()?)
    }

    /// Which version of the topics this member tells of, as what it is now.
    pub(crate) fn data_version(&self) -> DataVersion {
        let role = self.replica.role();
        let id = broker_id(&role, self.config.node_id);
        self.registered.stamp(role.term, self.state.topics.version(), id, self.process.wall_ms())
    }

    /// A group's settings, the group and its retry topic made if they are missing and may be.
    pub(crate) async fn create_group(&self, name: &str) -> Result<Arc<SubscriptionGroup>, Refusal> {
        self.announced(self.broker.settings.create_group(name)).await
    }

    /// Does what may change topics. The name servers know of that before anybody is told, so that a route that a client asks
    /// for next is there.
    pub(crate) async fn announced<T>(
        &self,
        change: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Refusal> {
        let before = self.state.topics.version();
        let done = change.await?;
        let version = self.state.topics.version();
        if version != before {
            self.registered.wait_for(version).await;
        }
        Ok(done)
    }

    /// Makes an answer that takes long beside the network thread; others wait for their turn.
    pub(crate) async fn report(
        self: &Arc<Self>,
        make: impl FnOnce(&Self) -> Handled + Send + 'static,
    ) -> Handled {
        // It is never closed.
        let _right = self.process.reports.acquire().await;
        let node = self.clone();
        let made = self.process.world.threads.run(move || make(&node)).await;
        made.unwrap_or_else(|| Err(Refusal::error("the report failed")))
    }

    /// A queue of this group, as bodies name it.
    pub(crate) fn message_queue(&self, topic: &str, queue_id: u32) -> MessageQueue {
        MessageQueue {
            broker_name: self.config.broker_name.clone(),
            // Topics have far fewer queues.
            queue_id: queue_id as i32,
            topic: topic.to_owned(),
        }
    }

    /// Forgets a connection and everything that hangs on it.
    pub(crate) fn close_channel(&self, channel: &Channel) {
        self.connections.close(channel);
        self.notices.add(self.broker.connection_closed(channel.id));
    }

    /// Removes clients that are silent and closes connections that are idle.
    pub(crate) fn expire(&self) {
        self.notices.add(self.broker.clients.expire(self.process.now_ms()));
        let idle = CONNECTION_IDLE.as_millis() as u64;
        self.connections.close_idle(self.process.now_ms().saturating_sub(idle));
    }

    pub(crate) fn stats(&self) -> BrokerStats {
        let (producer_groups, consumer_groups) = self.broker.clients.group_counts();
        BrokerStats {
            totals: self.stats.totals(),
            put_tps: self.stats.rates(|totals| totals.put_messages),
            get_tps: self.stats.rates(|totals| totals.get_messages),
            connections: self.connections.count(),
            held_pulls: self.broker.pulls.held(),
            bytes_in_flight: self.process.bytes_in_flight.get(),
            consumer_groups,
            producer_groups,
        }
    }
}
