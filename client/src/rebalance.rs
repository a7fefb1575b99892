//! Which queues of a topic fall to a consumer, and where it begins in them.

use std::time::Duration;

use raftmq_message::topic::RETRY_PREFIX;
use raftmq_remoting::Command;
use raftmq_remoting::body::{ConsumeFromWhere, ConsumerIdList, MessageModel, MessageQueue};
use raftmq_remoting::codes::{request, response};
use raftmq_remoting::fastjson;
use raftmq_remoting::header::ConsumerGroupHeader;

use crate::allocate::AllocateMessageQueueStrategy;
use crate::client::Client;
use crate::error::ClientError;
use crate::hooks::guarded;
use crate::offset_store::{OffsetStore, ReadOffsetType};

/// How long before it is made a consumer begins that begins by time, unless told otherwise: Java's half an hour.
pub(crate) const CONSUME_TIMESTAMP_BACK_MS: i64 = 30 * 60 * 1000;
/// How often the queues are divided although nothing seems to have changed, as in the Java client.
const REBALANCE_EVERY: Duration = Duration::from_secs(20);
/// The first pause after a division that could not be completed; each further one is twice as long.
const REBALANCE_AGAIN: Duration = Duration::from_millis(100);

/// How long to wait after dividing the queues.
#[derive(Debug)]
pub(crate) struct RebalancePauses {
    again: Duration,
}

impl Default for RebalancePauses {
    fn default() -> Self {
        Self { again: REBALANCE_AGAIN }
    }
}

impl RebalancePauses {
    /// Something has changed.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }

    /// The pause after a division.
    pub(crate) fn after(&mut self, complete: bool) -> Duration {
        if complete {
            self.reset();
            return REBALANCE_EVERY;
        }
        let pause = self.again;
        self.again = (pause * 2).min(REBALANCE_EVERY);
        pause
    }
}

/// How a group shares its topics.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sharing<'a> {
    pub(crate) group: &'a str,
    pub(crate) model: MessageModel,
    pub(crate) strategy: &'a dyn AllocateMessageQueueStrategy,
}

impl Client {
    /// The queues of a topic that fall to this client. Nothing if the broker does not know yet that the client is a member
    /// of the group; to divide the queues without it would leave it none.
    pub(crate) async fn allocate(
        &self,
        sharing: Sharing<'_>,
        topic: &str,
    ) -> Result<Option<Vec<MessageQueue>>, ClientError> {
        let mut queues = self.fetch_queues(topic).await?;
        queues.sort();
        let Some(first) = queues.first().filter(|_| sharing.model == MessageModel::Clustering) else {
            return Ok(Some(queues));
        };
        let clients = self.consumer_ids(sharing.group, first).await?;
        if !clients.iter().any(|id| id == self.client_id()) {
            return Ok(None);
        }
        // A strategy may be the program's own.
        let allocate = || sharing.strategy.allocate(sharing.group, self.client_id(), &queues, &clients);
        let Some(wanted) = guarded("the strategy that divides the queues", allocate) else {
            let reason = format!("the strategy {} panicked", sharing.strategy.name());
            return Err(ClientError::Invalid(reason));
        };
        Ok(Some(wanted.into_iter().filter(|queue| queues.binary_search(queue).is_ok()).collect()))
    }

    /// The members of a group, sorted, as the leader behind a queue knows them.
    async fn consumer_ids(&self, group: &str, queue: &MessageQueue) -> Result<Vec<String>, ClientError> {
        let header = ConsumerGroupHeader { consumer_group: group.to_owned() };
        let request = Command::request(request::GET_CONSUMER_LIST_BY_GROUP, header.to_ext());
        let config = self.config();
        let (addr, answer) =
            self.call_queue(queue, &request, config.try_timeout, config.request_timeout).await?;
        if answer.code != response::SUCCESS {
            tracing::debug!(group, addr, code = answer.code, remark = answer.remark, "no members");
            return Ok(Vec::new());
        }
        let body: ConsumerIdList = fastjson::parse(&answer.body)
            .map_err(|error| ClientError::Malformed { addr, reason: error.to_string() })?;
        let mut ids = body.consumer_id_list;
        ids.sort();
        ids.dedup();
        Ok(ids)
    }

    /// Where to begin in a queue: where the group stopped or, if it never was there, where the consumer wants to.
    pub(crate) async fn first_offset(
        &self,
        store: &dyn OffsetStore,
        queue: &MessageQueue,
        from: ConsumeFromWhere,
        timestamp_ms: Option<i64>,
    ) -> Result<i64, ClientError> {
        if let Some(offset) = store.read_offset(queue, ReadOffsetType::ReadFromStore).await? {
            return Ok(offset);
        }
        let is_retry = queue.topic.starts_with(RETRY_PREFIX);
        match from {
            ConsumeFromWhere::FirstOffset => Ok(0),
            ConsumeFromWhere::Timestamp if is_retry => self.max_offset(queue).await,
            ConsumeFromWhere::Timestamp => {
                self.search_offset(queue, timestamp_ms.unwrap_or(self.now_ms() - CONSUME_TIMESTAMP_BACK_MS))
                    .await
            }
            // Java takes the deprecated names for this too. Nothing that waits to be retried is passed over.
            _ if is_retry => Ok(0),
            _ => self.max_offset(queue).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_divided_is_tried_ever_more_seldom() {
        let mut pauses = RebalancePauses::default();
        let mut ms = |complete| pauses.after(complete).as_millis();
        assert_eq!([ms(false), ms(false), ms(false)], [100, 200, 400]);
        assert_eq!((0..20).map(|_| ms(false)).last(), Some(20_000));
        assert_eq!([ms(true), ms(false), ms(false)], [20_000, 100, 200]);
        pauses.reset();
        assert_eq!(pauses.after(false).as_millis(), 100);
    }
}
