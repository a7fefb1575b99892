//! Which queues of a topic fall to a consumer, and where it begins in them.

use raftmq_message::topic::RETRY_PREFIX;
use raftmq_remoting::Command;
use raftmq_remoting::body::{ConsumeFromWhere, ConsumerIdList, MessageModel, MessageQueue};
use raftmq_remoting::codes::{request, response};
use raftmq_remoting::fastjson;
use raftmq_remoting::header::ConsumerGroupHeader;

use crate::allocate::AllocateMessageQueueStrategy;
use crate::client::Client;
use crate::error::ClientError;
use crate::offset_store::{OffsetStore, ReadOffsetType};

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
        let wanted = sharing.strategy.allocate(sharing.group, self.client_id(), &queues, &clients);
        // A strategy may be the program's own.
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
        timestamp_ms: i64,
    ) -> Result<i64, ClientError> {
        if let Some(offset) = store.read_offset(queue, ReadOffsetType::ReadFromStore).await? {
            return Ok(offset);
        }
        let is_retry = queue.topic.starts_with(RETRY_PREFIX);
        match from {
            ConsumeFromWhere::FirstOffset => Ok(0),
            ConsumeFromWhere::Timestamp if is_retry => self.max_offset(queue).await,
            ConsumeFromWhere::Timestamp => self.search_offset(queue, timestamp_ms).await,
            // Java takes the deprecated names for this too. Nothing that waits to be retried is passed over.
            _ if is_retry => Ok(0),
            _ => self.max_offset(queue).await,
        }
    }
}
