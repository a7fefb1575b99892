//! What an offset store does, wherever it keeps the offsets.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;

use raftmq_remoting::body::MessageQueue;

use crate::error::ClientError;

/// What an offset store's slow operations return.
pub type OffsetFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, ClientError>> + Send + 'a>>;

/// Where an offset is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOffsetType {
    /// Only what this process has noted.
    ReadFromMemory,
    /// Only what has been persisted.
    ReadFromStore,
    /// What this process has noted, and if that is nothing, what has been persisted.
    MemoryFirstThenStore,
}

/// Keeps the next offset to consume for each queue of a consumer.
pub trait OffsetStore: fmt::Debug + Send + Sync {
    /// Makes what was persisted by an earlier process known. To be called before the first read.
    fn load(&self) -> OffsetFuture<'_, ()>;

    /// Notes an offset. With `increase_only` a smaller one than is known is ignored.
    fn update_offset(&self, queue: &MessageQueue, offset: i64, increase_only: bool);

    /// Notes an offset that stays, whatever [`OffsetStore::update_offset`] is told, until
    /// [`OffsetStore::remove_offset`]: for queues whose offset was reset while messages of theirs are being consumed.
    fn update_and_freeze_offset(&self, queue: &MessageQueue, offset: i64);

    /// The offset, or nothing if there is none. What is read from the store is noted.
    fn read_offset<'a>(
        &'a self,
        queue: &'a MessageQueue,
        from: ReadOffsetType,
    ) -> OffsetFuture<'a, Option<i64>>;

    /// Persists what is noted for these queues and waits until it is. Tries all, then tells the first failure.
    fn persist_all<'a>(&'a self, queues: &'a [MessageQueue]) -> OffsetFuture<'a, ()>;

    /// Forgets what is noted for a queue. What is persisted stays.
    fn remove_offset(&self, queue: &MessageQueue);

    /// What is noted for the queues of a topic, or of all topics.
    fn clone_offset_table(&self, topic: Option<&str>) -> BTreeMap<MessageQueue, i64>;
}
