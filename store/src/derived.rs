//! What is derived from one log: the list of its views.
//!
//! The ConsumeQueues are the one view that the store knows by name, for these reasons alone: the next queue offsets at the
//! log's end are seeded from what they hold, a queue is what is asked for most, and arrivals are told by queue.

use std::sync::Arc;

use crate::consume_queues::ConsumeQueues;
use crate::view::View;

/// The views of one log. They are made by whoever opens the store, and hold nothing before that.
#[derive(Clone, Debug)]
pub struct Derived {
    pub(crate) queues: Arc<ConsumeQueues>,
    /// All of them, the queues first.
    pub(crate) views: Vec<Arc<dyn View>>,
}

impl Derived {
    /// The ConsumeQueues alone.
    pub fn new(queues: ConsumeQueues) -> Self {
        let queues = Arc::new(queues);
        Self { views: vec![queues.clone()], queues }
    }

    /// Adds a view. It is returned for those who read it.
    pub fn add<V: View + 'static>(&mut self, view: V) -> Arc<V> {
        let view = Arc::new(view);
        self.views.push(view.clone());
        view
    }
}
