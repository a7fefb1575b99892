//! Who is to be told when queues change.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use raftmq_remoting::body::MessageQueue;

/// Told when the queues of a topic change. Java's interface of the same name.
pub trait TopicMessageQueueChangeListener: Send + Sync + 'static {
    /// `queues` are all there are now, sorted. Must not block.
    fn on_changed(&self, topic: &str, queues: &[MessageQueue]);
}

/// Told when the queues of a subscribed topic were divided otherwise than before. Java's interface of the same name.
pub trait MessageQueueListener: fmt::Debug + Send + Sync {
    /// `all` are the topic's queues, `divided` those among them that this consumer has now, both sorted. Must not block.
    fn message_queue_changed(&self, topic: &str, all: &[MessageQueue], divided: &[MessageQueue]);
}

/// The listeners by topic, and the queues each was told last.
#[derive(Default)]
pub(super) struct Listeners {
    topics: BTreeMap<String, (Vec<MessageQueue>, Arc<dyn TopicMessageQueueChangeListener>)>,
}

impl Listeners {
    /// Sets the listener of a topic, which has these queues at present.
    pub(super) fn add(
        &mut self,
        topic: &str,
        mut queues: Vec<MessageQueue>,
        listener: Arc<dyn TopicMessageQueueChangeListener>,
    ) {
        queues.sort();
        self.topics.insert(topic.to_owned(), (queues, listener));
    }

    /// The topics that somebody listens to.
    pub(super) fn topics(&self) -> Vec<String> {
        self.topics.keys().cloned().collect()
    }

    /// Notes the queues of a topic. Gives back whom to tell, if they have changed.
    pub(super) fn changed(
        &mut self,
        topic: &str,
        queues: &[MessageQueue],
    ) -> Option<Arc<dyn TopicMessageQueueChangeListener>> {
        let (known, listener) = self.topics.get_mut(topic)?;
        if known == queues {
            return None;
        }
        *known = queues.to_vec();
        Some(listener.clone())
    }
}
