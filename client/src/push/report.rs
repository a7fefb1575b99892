//! What operators ask of a consumer through brokers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use raftmq_remoting::Command;
use raftmq_remoting::body::{
    ClientStatus, ConsumeMessageDirectlyResult, ConsumerRunningInfo, MessageQueue, OffsetTable,
    ProcessQueueInfo,
};
use raftmq_remoting::codes::{request, response};
use raftmq_remoting::fastjson;
use tokio::time::Instant;

use super::inner::Inner;
use super::process_queue::{Phase, ProcessQueue};
use super::pull::restore_topic;
use crate::listener::{
    ConsumeConcurrentlyContext, ConsumeConcurrentlyStatus, ConsumeOrderlyContext, ConsumeOrderlyStatus, Kind,
};
use crate::message::MessageExt;
use raftmq_remoting::PeerRequest;

/// Bytes of a MiB.
const MIB: usize = 1024 * 1024;

/// Answers a broker's request.
pub(super) fn answer(consumer: Arc<Inner>, request: PeerRequest) {
    match request.command.code {
        request::RESET_CONSUMER_CLIENT_OFFSET => reset_offsets(consumer, &request),
        request::GET_CONSUMER_STATUS_FROM_CLIENT => {
            let topic = request.command.ext.get("topic");
            let message_queue_table = consumer.store.clone_offset_table(topic.as_deref());
            reply(&request, ClientStatus { message_queue_table }.to_json());
        }
        request::GET_CONSUMER_RUNNING_INFO => reply(&request, consumer.running_info().to_json()),
        request::CONSUME_MESSAGE_DIRECTLY => {
            tokio::spawn(consume_directly(consumer, request));
        }
        code => tracing::debug!(code, addr = request.addr(), "a broker asks for what a consumer does not do"),
    }
}

fn reply(request: &PeerRequest, body: Result<Vec<u8>, fastjson::BodyError>) {
    let answer = match body {
        Ok(body) => Command::response_to(&request.command, response::SUCCESS).with_body(body),
        Err(error) => {
            Command::response_to(&request.command, response::SYSTEM_ERROR).with_remark(error.to_string())
        }
    };
    request.reply(answer);
}

/// 220: an operator has moved the offsets of queues.
fn reset_offsets(consumer: Arc<Inner>, request: &PeerRequest) {
    let table: OffsetTable = match fastjson::parse(&request.command.body) {
        Ok(table) => table,
        Err(error) => {
            return tracing::warn!(group = consumer.group(), %error, "offsets to be reset cannot be read");
        }
    };
    tokio::spawn(async move {
        for (queue, offset) in table.offset_table {
            let present = consumer.queues.lock().get(&queue).cloned();
            if let Some(present) = present {
                tracing::info!(group = consumer.group(), ?queue, offset, "the offset is reset");
                consumer.reset(&present, offset).await;
            }
        }
    });
}

/// 309: an operator has a message consumed here and now.
async fn consume_directly(consumer: Arc<Inner>, request: PeerRequest) {
    let broker_name = request.command.ext.get("brokerName").unwrap_or_default();
    let read = MessageExt::read_all(&request.command.body, &broker_name);
    let mut message = match read.map(|messages| messages.into_iter().next()) {
        Ok(Some(message)) => message,
        unreadable => {
            let reason = unreadable.err().map_or("no message".to_owned(), |error| error.to_string());
            let answer = Command::response_to(&request.command, response::SYSTEM_ERROR);
            return request.reply(answer.with_remark(reason));
        }
    };
    restore_topic(&mut message);
    let queue = MessageQueue {
        broker_name: broker_name.into_owned(),
        queue_id: message.queue_id,
        topic: message.topic.clone(),
    };
    // The semaphore is never closed.
    let _permit = consumer.permits.acquire().await;
    let began = Instant::now();
    let (consume_result, remark) = match consumer.call_listener_alone(queue, message).await {
        Ok(true) => ("CR_SUCCESS", None),
        Ok(false) => ("CR_LATER", None),
        Err(panicked) => ("CR_THROW_EXCEPTION", Some(panicked)),
    };
    let result = ConsumeMessageDirectlyResult {
        order: consumer.is_orderly(),
        auto_commit: true,
        consume_result: consume_result.to_owned(),
        remark,
        spent_time_mills: i64::try_from(began.elapsed().as_millis()).unwrap_or(i64::MAX),
    };
    reply(&request, fastjson::to_vec(&result));
}

impl Inner {
    /// Calls the listener without anything around it. Says whether the message is consumed, or how the listener failed.
    async fn call_listener_alone(&self, queue: MessageQueue, message: MessageExt) -> Result<bool, String> {
        let messages: Arc<[_]> = Arc::from([message]);
        // Tasks of their own, so that a panic ends there.
        let consumed = match self.listener.get().map(|listener| listener.kind.clone()) {
            Some(Kind::Concurrently(listener)) => {
                let context = ConsumeConcurrentlyContext::new(queue);
                let called = tokio::spawn(async move { listener(messages, context).await });
                called.await.map(|status| status == ConsumeConcurrentlyStatus::ConsumeSuccess)
            }
            Some(Kind::Orderly(listener)) => {
                let context = ConsumeOrderlyContext::new(queue);
                let called = tokio::spawn(async move { listener(messages, context).await });
                called.await.map(|status| status == ConsumeOrderlyStatus::Success)
            }
            None => Ok(false),
        };
        consumed.map_err(|error| error.to_string())
    }

    fn running_info(&self) -> ConsumerRunningInfo {
        let offsets = self.store.clone_offset_table(None);
        let queues = self.queues.lock();
        let mq_table = queues.values().map(|queue| {
            let committed = offsets.get(&queue.queue).copied();
            (queue.queue.clone(), queue_info(queue, committed.unwrap_or(0), self.client.now_ms()))
        });
        ConsumerRunningInfo {
            mq_table: mq_table.collect(),
            properties: self.properties(),
            subscription_set: self.subscriptions.read().values().cloned().collect(),
            status_table: self.statistics.table(),
        }
    }

    fn properties(&self) -> BTreeMap<String, String> {
        let config = &self.config;
        let pairs = [
            ("PROP_NAMESERVER_ADDR", self.client.config().name_servers.join(";")),
            ("PROP_CONSUME_TYPE", "CONSUME_PASSIVELY".to_owned()),
            ("PROP_CONSUMEORDERLY", self.is_orderly().to_string()),
            ("PROP_THREADPOOL_CORE_SIZE", config.consume_thread_max.to_string()),
            ("PROP_CONSUMER_START_TIMESTAMP", self.started_ms.load(Ordering::Relaxed).to_string()),
            ("PROP_CLIENT_VERSION", concat!("raftmq-client ", env!("CARGO_PKG_VERSION")).to_owned()),
            ("consumerGroup", config.consumer_group.clone()),
            ("messageModel", config.message_model.name().to_owned()),
            ("consumeFromWhere", config.consume_from_where.name().to_owned()),
            ("consumeMessageBatchMaxSize", config.consume_message_batch_max_size.to_string()),
            ("pullBatchSize", config.pull_batch_size.to_string()),
            ("pullThresholdForQueue", config.pull_threshold_for_queue.to_string()),
            ("pullThresholdSizeForQueue", config.pull_threshold_size_for_queue.to_string()),
            ("consumeConcurrentlyMaxSpan", config.consume_concurrently_max_span.to_string()),
        ];
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

fn queue_info(queue: &ProcessQueue, commit_offset: i64, now_ms: i64) -> ProcessQueueInfo {
    let cached = queue.cached();
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let ago = |at: Instant| i64::try_from(at.elapsed().as_millis()).unwrap_or(i64::MAX);
    ProcessQueueInfo {
        commit_offset,
        cached_msg_min_offset: cached.min_offset,
        cached_msg_max_offset: cached.max_offset,
        cached_msg_count: count(cached.count),
        cached_msg_size_in_mi_b: count(cached.bytes / MIB),
        locked: queue.is_locked(),
        last_lock_timestamp: queue.locked_at().map_or(0, |at| now_ms - ago(at)),
        droped: queue.phase() == Phase::Dropped,
        last_pull_timestamp: queue.last_pull_ms.load(Ordering::Relaxed),
        last_consume_timestamp: queue.last_consume_ms.load(Ordering::Relaxed),
    }
}
