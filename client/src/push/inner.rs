//! What a push consumer and its tasks share, and where the consumer is in its life.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};
use raftmq_remoting::body::{MessageModel, MessageQueue, SubscriptionData};
use tokio::sync::{Notify, Semaphore, watch};

use super::config::PushConsumerConfig;
use super::process_queue::ProcessQueue;
use super::statistics::Statistics;
use crate::client::Client;
use crate::hooks::{ConsumeMessageHook, Hooks};
use crate::listener::MessageListener;
use crate::offset_store::OffsetStore;
use crate::producer::Producer;

/// Where a consumer is in its life. It only ever goes down this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Created,
    Running,
    /// Queues are let go one by one.
    Stopping,
    Stopped,
}

/// Handles to everything that consuming needs.
pub(super) struct Inner {
    pub(super) client: Client,
    pub(super) config: PushConsumerConfig,
    pub(super) store: Arc<dyn OffsetStore>,
    pub(super) listener: OnceLock<MessageListener>,
    /// By topic.
    pub(super) subscriptions: RwLock<BTreeMap<String, SubscriptionData>>,
    pub(super) queues: Mutex<BTreeMap<MessageQueue, Arc<ProcessQueue>>>,
    /// The queues are to be divided anew.
    pub(super) rebalance: Notify,
    /// A queue was let go.
    pub(super) let_go: Notify,
    pub(super) stage: watch::Sender<Stage>,
    pub(super) paused: watch::Sender<bool>,
    /// Held while queues are being locked, and shared while they are being unlocked.
    pub(super) locking: tokio::sync::RwLock<()>,
    /// One for each batch in the listener.
    pub(super) permits: Arc<Semaphore>,
    /// Sends messages back that an orderly listener could not consume.
    pub(super) producer: Producer,
    pub(super) hooks: Hooks<dyn ConsumeMessageHook>,
    pub(super) statistics: Statistics,
    /// In ms since 1970.
    pub(super) started_ms: AtomicI64,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consumer").field("group", &self.config.consumer_group).finish_non_exhaustive()
    }
}

impl Inner {
    pub(super) fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    /// Goes on to a stage and returns the one before. There is no way back.
    pub(super) fn advance(&self, to: Stage) -> Stage {
        let mut before = to;
        self.stage.send_if_modified(|stage| {
            before = *stage;
            *stage = before.max(to);
            to > before
        });
        before
    }

    /// Resolves when the consumer is not running any more.
    pub(super) async fn stopping(&self) {
        self.reached(Stage::Stopping).await;
    }

    /// Resolves when the consumer has come so far.
    pub(super) async fn reached(&self, wanted: Stage) {
        // The sender lives as long as `self`, so there is no error.
        drop(self.stage.subscribe().wait_for(|stage| *stage >= wanted).await);
    }

    pub(super) fn group(&self) -> &str {
        &self.config.consumer_group
    }

    pub(super) fn is_clustering(&self) -> bool {
        self.config.message_model == MessageModel::Clustering
    }

    pub(super) fn is_orderly(&self) -> bool {
        self.listener.get().is_some_and(MessageListener::is_orderly)
    }

    pub(super) fn subscription(&self, topic: &str) -> Option<SubscriptionData> {
        self.subscriptions.read().get(topic).cloned()
    }
}
