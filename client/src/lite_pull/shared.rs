//! What a lite pull consumer and its tasks share.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use raftmq_remoting::body::{MessageQueue, SubscriptionData};
use tokio::sync::Notify;

use super::config::LitePullConsumerConfig;
use super::listeners::Listeners;
use super::queues::Queues;
use crate::client::Client;
use crate::error::ClientError;
use crate::offset_store::OffsetStore;
use crate::subscription::MessageSelector;

/// Handles to everything that a poll and the tasks behind it need.
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) config: LitePullConsumerConfig,
    pub(super) offsets: Arc<dyn OffsetStore>,
    pub(super) state: Mutex<State>,
    /// There is something to poll, or it is over.
    pub(super) arrived: Notify,
    /// A queue may have got its turn to be pulled.
    pub(super) room: Notify,
    /// The queues have to be divided again.
    pub(super) rebalance: Notify,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("config", &self.config).finish_non_exhaustive()
    }
}

/// What changes: under one lock.
pub(super) struct State {
    pub(super) mode: Mode,
    pub(super) queues: Queues,
    pub(super) listeners: Listeners,
    pub(super) closed: bool,
}

/// Who chooses the queues.
pub(super) enum Mode {
    Undecided,
    /// The group's members do, of these topics.
    Subscribed(BTreeMap<String, SubscriptionData>),
    /// The program does. Topics that are not here are wanted as a whole.
    Assigned(BTreeMap<String, SubscriptionData>),
}

impl Shared {
    /// Notes offsets. To be called with the state locked: what is noted of a queue that was given up stays.
    pub(super) fn note(&self, consumed: impl IntoIterator<Item = (MessageQueue, i64)>) {
        for (queue, offset) in consumed {
            self.offsets.update_offset(&queue, offset, false);
        }
    }

    /// Persists the offsets of queues that are not this consumer's any more, and forgets them.
    pub(super) async fn give_up(&self, queues: &[MessageQueue]) -> Result<(), ClientError> {
        let persisted = self.offsets.persist_all(queues).await;
        queues.iter().for_each(|queue| self.offsets.remove_offset(queue));
        persisted
    }

    /// What is wanted of a topic. Nothing if it is not consumed any more.
    pub(super) fn subscription(&self, topic: &str) -> Option<SubscriptionData> {
        match &self.state.lock().mode {
            Mode::Subscribed(topics) => topics.get(topic).cloned(),
            Mode::Assigned(topics) => {
                topics.get(topic).cloned().or_else(|| MessageSelector::all().subscription(topic, 0).ok())
            }
            Mode::Undecided => None,
        }
    }
}
