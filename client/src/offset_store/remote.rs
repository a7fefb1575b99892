//! Offsets of a group kept by the brokers, with codes 14 and 15.

use std::collections::BTreeMap;

use raftmq_remoting::body::MessageQueue;
use tokio::task::JoinSet;

use super::store::{OffsetFuture, OffsetStore, ReadOffsetType};
use super::table::Table;
use crate::client::Client;
use crate::error::ClientError;

/// The offsets of a clustering group. Whoever of its consumers gets a queue goes on where the last one stopped.
#[derive(Debug)]
pub struct RemoteBrokerOffsetStore {
    client: Client,
    group: String,
    table: Table,
    /// Held while persisting: an older offset is never sent behind a newer one.
    persisting: tokio::sync::Mutex<()>,
}

impl RemoteBrokerOffsetStore {
    /// The offsets of a group.
    pub fn new(client: Client, group: impl Into<String>) -> Self {
        Self {
            client,
            group: group.into(),
            table: Table::default(),
            persisting: tokio::sync::Mutex::default(),
        }
    }

    async fn fetch(&self, queue: &MessageQueue) -> Result<Option<i64>, ClientError> {
        // As with the Java client: a new group misses nothing of a topic that was created after its consumer had started.
        self.client.committed_offset(&self.group, queue, None).await
    }

    async fn persist(&self, queues: &[MessageQueue]) -> Result<(), ClientError> {
        let _persisting = self.persisting.lock().await;
        let mut sends = JoinSet::new();
        for (queue, offset) in self.table.unpersisted(queues) {
            let (client, group) = (self.client.clone(), self.group.clone());
            sends.spawn(async move {
                let sent = client.commit_offset(&group, &queue, offset).await;
                (queue, offset, sent)
            });
        }
        let mut outcome = Ok(());
        while let Some(sent) = sends.join_next().await {
            // A send neither panics nor is it aborted while this waits for it.
            let Ok((queue, offset, sent)) = sent else { continue };
            match sent {
                Ok(()) => self.table.persisted(&queue, offset),
                Err(error) => {
                    tracing::warn!(group = self.group, ?queue, offset, %error, "the offset was not persisted");
                    outcome = outcome.and(Err(error));
                }
            }
        }
        outcome
    }
}

impl OffsetStore for RemoteBrokerOffsetStore {
    /// Does nothing: offsets are asked for when they are needed.
    fn load(&self) -> OffsetFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn update_offset(&self, queue: &MessageQueue, offset: i64, increase_only: bool) {
        self.table.update(queue, offset, increase_only);
    }

    fn update_and_freeze_offset(&self, queue: &MessageQueue, offset: i64) {
        self.table.update_and_freeze(queue, offset);
    }

    fn read_offset<'a>(
        &'a self,
        queue: &'a MessageQueue,
        from: ReadOffsetType,
    ) -> OffsetFuture<'a, Option<i64>> {
        Box::pin(self.table.read(queue, from, self.fetch(queue)))
    }

    fn persist_all<'a>(&'a self, queues: &'a [MessageQueue]) -> OffsetFuture<'a, ()> {
        Box::pin(self.persist(queues))
    }

    fn remove_offset(&self, queue: &MessageQueue) {
        self.table.remove(queue);
    }

    fn clone_offset_table(&self, topic: Option<&str>) -> BTreeMap<MessageQueue, i64> {
        self.table.to_map(topic)
    }
}
