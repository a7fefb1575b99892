//! One group's broker: its parts, made and run together. Whoever needs a part takes that.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use raftmq_raft::{Group, Role};
use raftmq_store::{Arrival, FRAME_HEADER_BYTES, FRAME_PAYLOAD_BYTES_MAX};

use crate::clients::{Clients, Connection};
use crate::delay::{DROP_INTERVAL, DelayDelivery, DelayLevels};
use crate::limits::{Limits, SUBMIT_BYTES};
use crate::locks::QueueLocking;
use crate::offsets::PendingOffsets;
use crate::progress::Progress;
use crate::pull::Pulls;
use crate::queues::Queues;
use crate::replica::Replica;
use crate::resets::Resets;
use crate::send::{SendSettings, Sends};
use crate::settings::Settings;
use crate::state::{State, Views};
use crate::surroundings::Surroundings;

/// How soon a leader tries again to make what is missing.
const RETRY: Duration = Duration::from_millis(200);

/// Something that runs until it is ended.
pub type Running<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// What a broker needs to know of its group.
#[derive(Clone, Debug)]
pub struct BrokerSettings {
    /// Where clients reach this member; in message ids and records.
    pub store_host: SocketAddr,
    /// Whether a send may make its topic.
    pub auto_create_topic: bool,
    /// Whether a consumer may make its group.
    pub auto_create_group: bool,
    /// How long each delay level is.
    pub delay_levels: DelayLevels,
    /// Bounds.
    pub limits: Limits,
}

/// What a broker does with one group. A process can have several.
pub struct Broker<C: Connection> {
    /// This member's part in the group.
    pub replica: Arc<Replica>,
    /// Making topics and groups.
    pub settings: Settings,
    /// Messages as they are stored.
    pub sends: Sends,
    /// Record bytes that are submitted together, unless one request has more.
    pub submit_bytes: usize,
    /// Pulls.
    pub pulls: Arc<Pulls>,
    /// Consumer offsets.
    pub offsets: Arc<PendingOffsets>,
    /// What operators do to them.
    pub resets: Resets,
    /// Queue locks.
    pub locks: Arc<QueueLocking>,
    /// Delayed messages.
    pub delay: DelayDelivery,
    /// What is derived from the log.
    pub views: Views,
    /// Queues.
    pub queues: Arc<Queues>,
    /// How far groups are.
    pub progress: Progress<C>,
    /// Who is in which group of producers or consumers. A client is in each broker's by a connection of its own, which is
    /// why this is not the process's.
    pub clients: Arc<Clients<C>>,
}

impl<C: Connection> Broker<C> {
    /// Over a running member of a group, whose tables are those of `state` and whose views are `views`.
    pub fn new(
        settings: BrokerSettings,
        group: Group,
        state: State,
        views: Views,
        surroundings: &Surroundings,
    ) -> Self {
        let BrokerSettings { store_host, auto_create_topic, auto_create_group, delay_levels, limits } =
            settings;
        // What a frame of the log can hold at most.
        let entry_bytes =
            FRAME_PAYLOAD_BYTES_MAX.min(group.config().segment_bytes as usize - FRAME_HEADER_BYTES);
        let offsets = Arc::new(PendingOffsets::new(&limits, group.watch_role(), state.offsets.clone()));
        let cluster = group.config().cluster.clone();
        let replica = Arc::new(Replica::new(group, state));
        let locks = Arc::new(QueueLocking::new(replica.clone(), &limits));
        let queues = Arc::new(Queues::new(replica.clone()));
        let levels = delay_levels.count();
        let clients = Arc::new(Clients::new(&limits));
        let pulls = Arc::new(Pulls::new(
            replica.clone(),
            offsets.clone(),
            clients.clone(),
            auto_create_group,
            &limits,
        ));
        let sending =
            SendSettings::new(&cluster, store_host, limits.message_bytes, entry_bytes, levels, surroundings);
        let progress = Progress::new(replica.clone(), queues.clone(), offsets.clone(), clients.clone());
        Self {
            settings: Settings::new(replica.clone(), levels, (auto_create_topic, auto_create_group), &limits),
            sends: Sends::new(replica.clone(), locks.clone(), sending),
            submit_bytes: SUBMIT_BYTES.min(entry_bytes),
            resets: Resets::new(replica.clone(), queues.clone(), offsets.clone(), pulls.clone()),
            delay: DelayDelivery::new(
                replica.clone(),
                views.timers.clone(),
                delay_levels,
                store_host,
                entry_bytes,
                surroundings,
            ),
            views,
            replica,
            pulls,
            offsets,
            locks,
            queues,
            progress,
            clients,
        }
    }

    /// Takes note of new messages. Called by the store's dispatching thread.
    pub fn arrived(&self, arrivals: &[Arrival]) {
        self.pulls.arrived(arrivals);
        self.delay.arrived(arrivals);
    }

    /// Forgets what waits for a connection that has ended. Returns the consumer groups that have to be told.
    pub fn connection_closed(&self, connection: u64) -> Vec<String> {
        self.pulls.connection_closed(connection);
        self.clients.connection_closed(connection)
    }

    /// What runs as long as the broker: answering pulls that wait, proposing offsets, delivering what is due, doing what a
    /// change of the role asks for. Each to be run in a task of its own until that is ended.
    pub fn tasks(self: &Arc<Self>) -> Vec<Running<'static>> {
        let own = || self.clone();
        vec![
            running(own(), |broker| Box::pin(broker.pulls.run())),
            running(own(), |broker| Box::pin(broker.offsets.run(&broker.replica))),
            running(own(), |broker| Box::pin(broker.delay.run())),
            running(own(), |broker| Box::pin(broker.follow_role())),
            running(own(), |broker| Box::pin(broker.drop_delivered())),
        ]
    }

    /// Lets go, now and then, of what is kept of messages that are delivered.
    async fn drop_delivered(&self) {
        let mut tick = tokio::time::interval(DROP_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.delay.drop_delivered();
        }
    }

    /// A leader makes what is missing, and who leads no more lets go of what only a leader holds.
    async fn follow_role(&self) {
        let mut role = self.replica.watch_role();
        let mut term = role.borrow().term;
        loop {
            let now = role.borrow_and_update().clone();
            let leads = now.role == Role::Leader;
            if !leads || now.term != term {
                // In a new term others may have led and committed in the meantime.
                self.offsets.clear();
            }
            term = now.term;
            if !leads {
                self.pulls.refuse_unserved();
            }
            let mut complete = !(leads && now.ready);
            while !complete {
                complete = tokio::select! {
                    // Taken up by the next turn.
                    changed = role.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        role.mark_changed();
                        true
                    }
                    completed = self.settings.complete(self.clients.consumer_groups()) => match completed {
                        Ok(()) => true,
                        Err(error) => {
                            tracing::warn!(%error, "the system topics are not complete yet");
                            tokio::time::sleep(RETRY).await;
                            false
                        }
                    },
                };
            }
            if role.changed().await.is_err() {
                return;
            }
        }
    }
}

fn running<C: Connection>(
    broker: Arc<Broker<C>>,
    run: for<'a> fn(&'a Broker<C>) -> Running<'a>,
) -> Running<'static> {
    Box::pin(async move { run(&broker).await })
}
