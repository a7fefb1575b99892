//! The connections over which one group is served.

use std::sync::Arc;

use parking_lot::Mutex;
use raftmq_world::hash::HashMap;

use crate::channel::Channel;

/// Open connections, by id.
#[derive(Default)]
pub(crate) struct Connections {
    channels: Mutex<HashMap<u64, Arc<Channel>>>,
}

impl Connections {
    pub(crate) fn add(&self, channel: Arc<Channel>) {
        self.channels.lock().insert(channel.id, channel);
    }

    /// Closes a connection and forgets it.
    pub(crate) fn close(&self, channel: &Channel) {
        channel.close();
        self.channels.lock().remove(&channel.id);
    }

    /// Closes those without a read or a write since then.
    pub(crate) fn close_idle(&self, since_ms: u64) {
        for channel in self.all().iter().filter(|channel| channel.active_ms() < since_ms) {
            tracing::debug!(peer = %channel.peer, "closing an idle connection");
            channel.close();
        }
    }

    pub(crate) fn close_all(&self) {
        for channel in self.all() {
            channel.close();
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.channels.lock().len()
    }

    /// How many have requests whose outcome is open, or answers that wait to be sent.
    pub(crate) fn at_work(&self) -> usize {
        self.all().iter().filter(|channel| channel.is_at_work()).count()
    }

    fn all(&self) -> Vec<Arc<Channel>> {
        self.channels.lock().values().cloned().collect()
    }
}
