//! The offsets of the queues a consumer has: persisting them, and resetting one.

use std::sync::Arc;

use raftmq_remoting::body::MessageQueue;

use super::inner::Inner;
use super::process_queue::ProcessQueue;

/// Persists the offsets regularly.
pub(super) async fn keep_persisted(consumer: Arc<Inner>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(consumer.config.persist_consumer_offset_interval) => {}
            () = consumer.stopping() => return,
        }
        let queues: Vec<_> = consumer.queues.lock().keys().cloned().collect();
        consumer.persist(&queues).await;
    }
}

impl Inner {
    /// Persists what is noted for queues. What could not be is tried again the next time.
    pub(super) async fn persist(&self, queues: &[MessageQueue]) {
        if let Err(error) = self.store.persist_all(queues).await {
            tracing::warn!(group = self.group(), %error, "offsets were not persisted");
        }
    }

    /// Sets the offset of a queue the consumer has, drops what was pulled of it, and has the queue taken anew.
    pub(super) async fn reset(&self, queue: &ProcessQueue, offset: i64) {
        // Frozen first, so that nothing that is being consumed moves it, and persisted before the queue is let go.
        if !self.freeze(queue, offset) {
            return;
        }
        self.persist(std::slice::from_ref(&queue.queue)).await;
        queue.drop_now();
    }

    /// Freezes the offset of a queue, unless it was let go: it may be somebody else's, or taken anew.
    fn freeze(&self, queue: &ProcessQueue, offset: i64) -> bool {
        // Under the lock under which the store forgets a queue.
        let queues = self.queues.lock();
        let is_ours = queues.get(&queue.queue).is_some_and(|present| std::ptr::eq(&**present, queue));
        if is_ours {
            self.store.update_and_freeze_offset(&queue.queue, offset);
        }
        is_ours
    }
}
