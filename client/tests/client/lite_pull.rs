//! The lite pull consumer against a broker of the test's own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::broker::{Broker, Stored};
use super::fake::{FakeServer, Routes, abandon, client};
use raftmq_remoting::codes::{request, response};

use raftmq_client::{
    ClientError, ConsumeFromWhere, LitePullConsumer, LitePullConsumerConfig, LocalFileOffsetStore,
    MessageModel, MessageQueue, MessageQueueListener, MessageSelector, TopicMessageQueueChangeListener,
    World,
};

/// Longer than anything takes that is waited for.
const LONG: Duration = Duration::from_secs(20);

struct Servers {
    broker: Broker,
    routes: Routes,
    names: FakeServer,
}

async fn servers() -> Servers {
    let broker = Broker::start().await;
    let routes = Routes::default();
    routes.set("T", broker.server.addr);
    let names = routes.serve().await;
    Servers { broker, routes, names }
}

fn queue(queue_id: i32) -> MessageQueue {
    MessageQueue { broker_name: "broker-a".into(), queue_id, topic: "T".into() }
}

fn key(queue_id: i32) -> (String, i32) {
    ("T".to_owned(), queue_id)
}

fn config() -> LitePullConsumerConfig {
    LitePullConsumerConfig {
        consume_from_where: ConsumeFromWhere::FirstOffset,
        pull_batch_size: 4,
        ..LitePullConsumerConfig::new("g")
    }
}

impl Servers {
    /// Adds messages with a tag to a queue.
    fn store(&self, queue_id: i32, tag: &str, count: usize) {
        let stored =
            Stored { body: "x".to_owned(), properties: format!("TAGS\u{1}{tag}\u{2}"), reconsume_times: 0 };
        self.broker.with(|state| {
            state.queues.entry(key(queue_id)).or_default().extend(std::iter::repeat_n(stored, count));
        });
    }

    fn committed(&self, queue_id: i32) -> Option<i64> {
        self.broker.with(|state| state.offsets.get(&key(queue_id)).copied())
    }

    fn commit(&self, queue_id: i32, offset: i64) {
        self.broker.with(|state| state.offsets.insert(key(queue_id), offset));
    }

    fn join(&self, client_id: &str) {
        self.broker.with(|state| state.others.insert(client_id.to_owned()));
    }

    async fn consumer(&self, config: LitePullConsumerConfig) -> LitePullConsumer {
        LitePullConsumer::start(client(&[&self.names]), config).await.unwrap()
    }

    async fn assigned(&self, config: LitePullConsumerConfig) -> LitePullConsumer {
        let consumer = self.consumer(config).await;
        consumer.assign(&[queue(0)]).await.unwrap();
        consumer
    }
}

/// The offsets of the next `count` messages.
async fn poll(consumer: &LitePullConsumer, count: usize) -> Vec<i64> {
    let mut offsets = Vec::new();
    while offsets.len() < count {
        let polled = consumer.poll(LONG).await.unwrap();
        assert!(!polled.is_empty(), "{} of {count} messages came", offsets.len());
        offsets.extend(polled.iter().map(|message| message.queue_offset));
    }
    offsets
}

fn is_invalid<T>(result: Result<T, ClientError>, part: &str) {
    let Err(ClientError::Invalid(reason)) = result else { panic!("not refused here") };
    assert!(reason.contains(part), "{reason}");
}

#[tokio::test]
async fn assigned_queues_are_polled_in_order_and_committed_at_the_shutdown() {
    let servers = servers().await;
    servers.store(0, "a", 10);
    let consumer = servers.assigned(config()).await;
    assert_eq!(poll(&consumer, 10).await, (0..10).collect::<Vec<_>>());
    assert!(consumer.poll(Duration::ZERO).await.unwrap().is_empty());
    assert_eq!((consumer.assignment(), servers.committed(0)), (vec![queue(0)], None));
    consumer.shutdown().await.unwrap();
    assert_eq!((servers.committed(0), servers.broker.with(|state| state.left.len())), (Some(10), 1));
    is_invalid(consumer.poll(LONG).await, "shut down");
    is_invalid(consumer.assign(&[queue(1)]).await, "shut down");
    let next = servers.assigned(config()).await;
    servers.store(0, "a", 1);
    assert_eq!(poll(&next, 1).await, [10]);
}

#[tokio::test]
async fn without_auto_commit_only_the_program_commits() {
    let servers = servers().await;
    servers.store(0, "a", 10);
    let consumer = servers.assigned(LitePullConsumerConfig { auto_commit: false, ..config() }).await;
    poll(&consumer, 4).await;
    assert_eq!(consumer.committed(&queue(0)).await.unwrap(), None);
    consumer.commit().await.unwrap();
    assert_eq!(servers.committed(0), Some(4));
    poll(&consumer, 4).await;
    consumer.commit_queues(&[queue(0)], false).await.unwrap();
    assert_eq!(servers.committed(0), Some(4));
    assert_eq!(consumer.committed(&queue(0)).await.unwrap(), Some(8));
    consumer.commit_queues(&[queue(0)], true).await.unwrap();
    assert_eq!(servers.committed(0), Some(8));
    consumer.commit_offsets(&BTreeMap::from([(queue(0), 2)]), true).await.unwrap();
    assert_eq!(servers.committed(0), Some(2));
    is_invalid(consumer.commit_offsets(&BTreeMap::from([(queue(1), 2)]), true).await, "does not have");
    servers.commit(1, 7);
    assert_eq!(consumer.committed(&queue(1)).await.unwrap(), Some(7));
    servers.commit(1, 9);
    assert_eq!(consumer.committed(&queue(1)).await.unwrap(), Some(9));
    poll(&consumer, 2).await;
    consumer.shutdown().await.unwrap();
    assert_eq!(servers.committed(0), Some(2));
}

#[tokio::test]
async fn what_was_polled_is_committed_in_the_background_after_the_next_poll() {
    let servers = servers().await;
    servers.store(0, "a", 6);
    let interval = Duration::from_secs(1);
    let consumer =
        servers.assigned(LitePullConsumerConfig { auto_commit_interval: interval, ..config() }).await;
    poll(&consumer, 6).await;
    consumer.poll(Duration::ZERO).await.unwrap();
    servers.broker.until("the commit", |state| state.offsets.get(&key(0)) == Some(&6)).await;
}

#[tokio::test]
async fn a_seek_leaves_out_what_was_cached() {
    let servers = servers().await;
    servers.store(0, "a", 20);
    let consumer = servers.assigned(config()).await;
    assert_eq!(poll(&consumer, 4).await, [0, 1, 2, 3]);
    consumer.seek(&queue(0), 15).await.unwrap();
    assert_eq!(poll(&consumer, 5).await, [15, 16, 17, 18, 19]);
    consumer.seek_to_begin(&queue(0)).await.unwrap();
    assert_eq!(poll(&consumer, 4).await, [0, 1, 2, 3]);
    consumer.seek_to_end(&queue(0)).await.unwrap();
    servers.store(0, "a", 1);
    consumer.seek(&queue(0), consumer.offset_for_timestamp(&queue(0), 20).await.unwrap()).await.unwrap();
    assert_eq!(poll(&consumer, 1).await, [20]);
    is_invalid(consumer.seek(&queue(0), 22).await, "from 0 to 21");
    is_invalid(consumer.seek(&queue(0), -1).await, "from 0 to 21");
    is_invalid(consumer.seek(&queue(1), 0).await, "does not have");
}

#[tokio::test]
async fn no_more_is_pulled_than_the_thresholds_allow() {
    let servers = servers().await;
    servers.store(0, "a", 100);
    let consumer = servers.assigned(LitePullConsumerConfig { pull_threshold_for_queue: 8, ..config() }).await;
    for pulls in 2..10 {
        servers.broker.until("a pull", |state| state.found == pulls).await;
        assert_eq!(poll(&consumer, 4).await.len(), 4);
    }
    consumer.pause(&[queue(0)]);
    // What was pulled before can still be polled, and a pull may have been on its way.
    while !consumer.poll(Duration::from_millis(50)).await.unwrap().is_empty() {}
    let before = servers.broker.with(|state| state.pulls.len());
    assert!(consumer.poll(Duration::from_millis(50)).await.unwrap().is_empty());
    assert_eq!(servers.broker.with(|state| state.pulls.len()), before);
    consumer.resume(&[queue(0)]);
    poll(&consumer, 4).await;
}

#[tokio::test]
async fn a_queue_that_was_reset_goes_on_where_the_broker_says() {
    let servers = servers().await;
    servers.store(0, "a", 12);
    let consumer = servers.assigned(config()).await;
    poll(&consumer, 12).await;
    consumer.commit().await.unwrap();
    servers.broker.with(|state| state.move_to = Some((key(0), 3)));
    assert_eq!(poll(&consumer, 4).await[0], 3);
    consumer.shutdown().await.unwrap();
    assert_eq!(servers.committed(0), Some(7));
}

#[tokio::test]
async fn messages_that_are_removed_at_the_broker_can_be_polled_if_they_were_pulled() {
    let servers = servers().await;
    servers.store(0, "a", 12);
    let config = LitePullConsumerConfig { pull_threshold_for_queue: 4, auto_commit: false, ..config() };
    let consumer = servers.assigned(config).await;
    servers.broker.until("a pull", |state| state.found == 1).await;
    servers.broker.with(|state| state.min_offset = 8);
    assert_eq!(poll(&consumer, 8).await, [0, 1, 2, 3, 8, 9, 10, 11]);
    consumer.shutdown().await.unwrap();
    assert_eq!(servers.committed(0), None, "only the program commits");
}

#[tokio::test]
async fn a_topic_that_is_subscribed_to_again_at_once_goes_on() {
    let servers = servers().await;
    servers.routes.set("U", servers.broker.server.addr);
    let consumer = servers.consumer(config()).await;
    consumer.subscribe("T", MessageSelector::all()).await.unwrap();
    servers.store(0, "a", 1);
    assert_eq!(poll(&consumer, 1).await, [0]);
    // Dividing the queues takes a while, so that nobody takes the queue away before the topic is back.
    servers
        .broker
        .with(|state| state.refuse.insert(request::GET_CONSUMER_LIST_BY_GROUP, response::SYSTEM_BUSY));
    consumer.subscribe("U", MessageSelector::all()).await.unwrap();
    tokio::task::yield_now().await;
    consumer.unsubscribe("T").unwrap();
    servers.store(0, "a", 1);
    assert_eq!(poll(&consumer, 1).await, [1]);
    tokio::task::yield_now().await;
    consumer.subscribe("T", MessageSelector::all()).await.unwrap();
    servers.broker.with(|state| state.refuse.clear());
    servers.store(0, "a", 1);
    assert_eq!(poll(&consumer, 1).await, [2]);
}

#[tokio::test]
async fn tags_are_compared_here_too_and_what_does_not_match_is_committed_with_the_rest() {
    let servers = servers().await;
    servers.store(0, "a", 3);
    servers.store(0, "b", 2);
    servers.store(0, "a", 1);
    servers.store(0, "b", 6);
    let consumer = servers.consumer(config()).await;
    consumer.set_sub_expression_for_assign("T", MessageSelector::by_tag("a")).await.unwrap();
    consumer.assign(&[queue(0)]).await.unwrap();
    assert_eq!(poll(&consumer, 4).await, [0, 1, 2, 5]);
    let committed = async {
        loop {
            consumer.commit().await.unwrap();
            if servers.committed(0) == Some(12) {
                return;
            }
        }
    };
    tokio::time::timeout(LONG, committed).await.unwrap();
    is_invalid(consumer.set_sub_expression_for_assign("T", MessageSelector::by_tag("||")).await, "no tag");
}

#[tokio::test]
async fn a_group_without_offsets_begins_where_it_is_told_to() {
    for (consume_from_where, first) in [
        (ConsumeFromWhere::FirstOffset, 0),
        (ConsumeFromWhere::Timestamp, 6),
        (ConsumeFromWhere::LastOffset, 10),
    ] {
        let servers = servers().await;
        servers.store(0, "a", 10);
        let config = LitePullConsumerConfig {
            consume_from_where,
            consume_timestamp_ms: Some(6),
            pull_threshold_for_queue: 1,
            ..config()
        };
        let _consumer = servers.assigned(config).await;
        servers
            .broker
            .until("a pull", |state| state.pulls.last().is_some_and(|(_, offset)| *offset == first))
            .await;
        assert_eq!(servers.broker.with(|state| state.pulls.len()), 1, "{consume_from_where:?}");
    }
}

#[derive(Debug)]
struct Divided(tokio::sync::mpsc::UnboundedSender<(Vec<MessageQueue>, Vec<MessageQueue>)>);

impl MessageQueueListener for Divided {
    fn message_queue_changed(&self, topic: &str, all: &[MessageQueue], divided: &[MessageQueue]) {
        assert_eq!(topic, "T");
        self.0.send((all.to_vec(), divided.to_vec())).unwrap();
        panic!("on purpose: whoever divides the queues goes on");
    }
}

#[tokio::test]
async fn a_subscription_shares_the_queues_with_the_group() {
    let servers = servers().await;
    // Sorts behind this client, whose id begins with its address.
    servers.join("somebody else");
    servers.store(0, "a", 5);
    servers.store(1, "a", 5);
    let (told, mut changes) = tokio::sync::mpsc::unbounded_channel();
    let listener: Arc<dyn MessageQueueListener> = Arc::new(Divided(told));
    let config = LitePullConsumerConfig { message_queue_listener: Some(listener), ..config() };
    let consumer = servers.consumer(config).await;
    consumer.subscribe("T", MessageSelector::all()).await.unwrap();
    assert_eq!(poll(&consumer, 5).await, [0, 1, 2, 3, 4]);
    assert_eq!(consumer.assignment(), [queue(0)]);
    let change = tokio::time::timeout(LONG, changes.recv()).await.unwrap().unwrap();
    assert_eq!(change, (vec![queue(0), queue(1)], vec![queue(0)]));
    is_invalid(consumer.assign(&[queue(1)]).await, "not both");
    is_invalid(consumer.set_sub_expression_for_assign("T", MessageSelector::all()).await, "not both");
    assert!(consumer.poll(Duration::ZERO).await.unwrap().is_empty());
    consumer.unsubscribe("T").unwrap();
    servers.broker.until("the commit", |state| state.offsets.get(&key(0)) == Some(&5)).await;
    assert!(consumer.assignment().is_empty());
    assert_eq!(servers.committed(1), None);
}

#[tokio::test]
async fn a_broadcast_consumer_has_all_queues_and_finds_its_offsets_again() {
    let servers = servers().await;
    servers.join("somebody else");
    let dir = tempfile::tempdir().unwrap();
    let config = LitePullConsumerConfig { message_model: MessageModel::Broadcasting, ..config() };
    for round in 0..3 {
        servers.store(0, "a", 3);
        servers.store(1, "a", 3);
        let offsets =
            LocalFileOffsetStore::new(&World::system(), dir.path(), "10.0.0.1@DEFAULT", "g").unwrap();
        let config = LitePullConsumerConfig { offset_store: Some(Arc::new(offsets)), ..config.clone() };
        let consumer = servers.consumer(config).await;
        consumer.subscribe("T", MessageSelector::all()).await.unwrap();
        let mut offsets = poll(&consumer, 6).await;
        offsets.sort_unstable();
        let first = round * 3;
        assert_eq!(offsets, [first, first, first + 1, first + 1, first + 2, first + 2]);
        consumer.shutdown().await.unwrap();
    }
    assert_eq!(servers.committed(0), None);
}

#[tokio::test]
async fn a_shutdown_goes_on_although_nobody_waits_and_a_dropped_consumer_leaves() {
    let servers = servers().await;
    servers.store(0, "a", 4);
    let consumer = servers.assigned(config()).await;
    assert_eq!(consumer.poll(Duration::MAX).await.unwrap().len(), 4);
    abandon(consumer.shutdown()).await;
    drop(consumer);
    servers.broker.until("to be left", |state| state.left.len() == 1).await;
    assert_eq!(servers.committed(0), Some(4));
    let consumer = servers.consumer(config()).await;
    // So that a broker is known that can be told.
    consumer.fetch_message_queues("T").await.unwrap();
    drop(consumer);
    servers.broker.until("to be left again", |state| state.left.len() == 2).await;
}

#[tokio::test]
async fn a_group_has_one_consumer_of_a_client() {
    let servers = servers().await;
    let client = client(&[&servers.names]);
    let first = LitePullConsumer::start(client.clone(), config()).await.unwrap();
    is_invalid(LitePullConsumer::start(client.clone(), config()).await, "already");
    drop(first);
    LitePullConsumer::start(client.clone(), config()).await.unwrap().shutdown().await.unwrap();
    LitePullConsumer::start(client, config()).await.unwrap();
}

#[tokio::test]
async fn changes_of_a_topic_are_told() {
    struct Told(tokio::sync::mpsc::UnboundedSender<(String, Vec<MessageQueue>)>);
    impl TopicMessageQueueChangeListener for Told {
        fn on_changed(&self, topic: &str, queues: &[MessageQueue]) {
            self.0.send((topic.to_owned(), queues.to_vec())).unwrap();
        }
    }
    let servers = servers().await;
    let client = client(&[&servers.names]);
    let consumer = LitePullConsumer::start(client.clone(), config()).await.unwrap();
    let (told, mut changes) = tokio::sync::mpsc::unbounded_channel();
    consumer.register_topic_message_queue_change_listener("T", Arc::new(Told(told))).await.unwrap();
    servers.routes.set_queues(3);
    client.routes().refresh_all().await;
    let (topic, queues) = tokio::time::timeout(LONG, changes.recv()).await.unwrap().unwrap();
    assert_eq!((topic.as_str(), queues), ("T", vec![queue(0), queue(1), queue(2)]));
}
