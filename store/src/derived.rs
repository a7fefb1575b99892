//! What is derived from one log: the list of its views.
//!
//! The ConsumeQueues are the one view that the store knows by name, for these reasons alone: the next queue offsets at the
//! log's end are seeded from what they hold, a queue is what is asked for most, and arrivals are told by queue.

use std::sync::Arc;

use crate::consume_queues::ConsumeQueues;
use crate::topic_changes::{self, TopicChanges};
use crate::view::View;

/// The views of one log. They are made by whoever opens the store, and hold nothing before that.
#[derive(Clone, Debug)]
pub struct Derived {
    pub(crate) queues: Arc<ConsumeQueues>,
    /// All of them, the queues first.
    pub(crate) views: Vec<Arc<dyn View>>,
    /// What commands mean for topics.
    pub(crate) topic_changes: TopicChanges,
}

impl Derived {
    /// The ConsumeQueues alone, of a log whose commands do nothing to topics.
    pub fn new(queues: ConsumeQueues) -> Self {
        let queues = Arc::new(queues);
        Self { views: vec![queues.clone()], queues, topic_changes: topic_changes::none }
    }

    /// The same of a log whose commands change topics so. It is the log's own layout that follows from it, not only what is
    /// derived.
    #[must_use]
    pub fn with_topic_changes(self, topic_changes: TopicChanges) -> Self {
        Self { topic_changes, ..self }
    }

    /// Adds a view. It is returned for those who read it.
    pub fn add<V: View + 'static>(&mut self, view: V) -> Arc<V> {
        let view = Arc::new(view);
        self.views.push(view.clone());
        view
    }
}
