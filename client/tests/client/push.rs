//! The push consumer against a broker of the test's own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use raftmq_client::{
    AllocateMessageQueueStrategy, Client, ConsumeConcurrentlyStatus, ConsumeFromWhere, ConsumeMessageContext,
    ConsumeMessageHook, ConsumeOrderlyStatus, ConsumeReturnType, LocalFileOffsetStore, MessageListener,
    MessageModel, MessageQueue, MessageSelector, PushConsumer, PushConsumerConfig, World,
};
use raftmq_remoting::codes::{request, response};
use tokio::sync::{Semaphore, mpsc, watch};

use super::broker::{Broker, State, Stored};
use super::fake::{FakeServer, Routes, abandon, client};

/// A broker, a name server that knows it, and a client.
pub(crate) struct Group {
    pub(crate) broker: Broker,
    pub(crate) routes: Routes,
    pub(crate) client: Client,
    _names: FakeServer,
}

impl Group {
    pub(crate) async fn start() -> Self {
        let (broker, routes) = (Broker::start().await, Routes::default());
        for topic in ["T", "U", "%RETRY%g"] {
            routes.set(topic, broker.server.addr);
        }
        let names = routes.serve().await;
        Self { broker, routes, client: client(&[&names]), _names: names }
    }

    /// A running consumer of the topic T.
    pub(crate) async fn consume(
        &self,
        config: PushConsumerConfig,
        listener: MessageListener,
    ) -> PushConsumer {
        let consumer = PushConsumer::new(self.client.clone(), config).unwrap();
        consumer.subscribe("T", MessageSelector::all()).await.unwrap();
        consumer.register_message_listener(listener).unwrap();
        consumer.start().await.unwrap();
        consumer
    }

    fn committed(&self) -> BTreeMap<(String, i32), i64> {
        self.broker.with(|state| state.offsets.clone())
    }
}

pub(crate) fn config() -> PushConsumerConfig {
    PushConsumerConfig {
        consume_from_where: ConsumeFromWhere::FirstOffset,
        persist_consumer_offset_interval: Duration::from_millis(50),
        suspend_current_queue_time: Duration::from_millis(20),
        ..PushConsumerConfig::new("g")
    }
}

pub(crate) type Consumed = mpsc::UnboundedReceiver<(i32, String, i32)>;

/// A concurrent listener that tells the queue, the body and the deliveries in vain of what it gets, and answers what
/// `answer` says of the body.
pub(crate) fn telling(
    answer: impl Fn(&str) -> ConsumeConcurrentlyStatus + Send + Sync + 'static,
) -> (Consumed, MessageListener) {
    let (tell, told) = mpsc::unbounded_channel();
    let listener = MessageListener::concurrently_fn(move |messages, _| {
        let mut status = ConsumeConcurrentlyStatus::ConsumeSuccess;
        for message in messages.iter() {
            let body = String::from_utf8(message.body.to_vec()).unwrap();
            if answer(&body) == ConsumeConcurrentlyStatus::ReconsumeLater {
                status = ConsumeConcurrentlyStatus::ReconsumeLater;
            }
            // The test may have seen enough.
            drop(tell.send((message.queue_id, body, message.reconsume_times)));
        }
        async move { status }
    });
    (told, listener)
}

/// As [`telling`], in order.
fn telling_orderly(
    answer: impl Fn(&str, i32) -> ConsumeOrderlyStatus + Send + Sync + 'static,
) -> (Consumed, MessageListener) {
    let (tell, told) = mpsc::unbounded_channel();
    let listener = MessageListener::orderly_fn(move |messages, _| {
        let message = &messages[0];
        let body = String::from_utf8(message.body.to_vec()).unwrap();
        drop(tell.send((message.queue_id, body.clone(), message.reconsume_times)));
        let status = answer(&body, message.reconsume_times);
        async move { status }
    });
    (told, listener)
}

pub(crate) async fn next(told: &mut Consumed) -> (i32, String, i32) {
    let next = tokio::time::timeout(Duration::from_secs(20), told.recv()).await;
    next.expect("nothing is consumed").unwrap()
}

fn numbered(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}{n}")).collect()
}

#[tokio::test]
async fn everything_is_consumed_and_a_shutdown_commits_it_and_leaves() {
    let group = Group::start().await;
    group.broker.store("T", 0, numbered("a", 70));
    let (mut told, listener) = telling(|_| ConsumeConcurrentlyStatus::ConsumeSuccess);
    let consumer = group.consume(config(), listener).await;
    group.broker.store("T", 1, numbered("b", 5));
    let mut bodies = Vec::new();
    for _ in 0..75 {
        bodies.push(next(&mut told).await.1);
    }
    consumer.shutdown().await;
    bodies.sort();
    let mut expected = [numbered("a", 70), numbered("b", 5)].concat();
    expected.sort();
    assert_eq!(bodies, expected);
    assert!(told.try_recv().is_err(), "nothing twice");
    let committed = group.committed();
    assert_eq!((committed[&("T".into(), 0)], committed[&("T".into(), 1)]), (70, 5));
    group.broker.with(|state| {
        let heartbeat = state.heartbeats.first().unwrap();
        assert_eq!(heartbeat.client_id, group.client.client_id());
        let member = &heartbeat.consumer_data_set[0];
        let topics: Vec<_> = member.subscription_data_set.iter().map(|data| data.topic.as_str()).collect();
        assert_eq!((member.group_name.as_str(), topics), ("g", vec!["%RETRY%g", "T"]));
        let left = state.left.last().unwrap();
        assert_eq!(
            (left.client_id.as_str(), left.consumer_group.as_deref()),
            (group.client.client_id(), Some("g"))
        );
    });
    assert!(consumer.assigned_queues().is_empty());
}

#[tokio::test]
async fn the_offset_waits_for_the_slowest_and_the_queue_for_its_thresholds() {
    let group = Group::start().await;
    group.broker.store("T", 0, numbered("a", 100));
    let (first, others) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (begun, done) = (watch::Sender::new(0), watch::Sender::new(0));
    let (gates, begins, ends) = ((first.clone(), others.clone()), begun.clone(), done.clone());
    let listener = MessageListener::concurrently_fn(move |messages, _| {
        let gate = if messages[0].queue_offset == 0 { gates.0.clone() } else { gates.1.clone() };
        let ends = ends.clone();
        begins.send_modify(|count| *count += 1);
        async move {
            gate.acquire().await.unwrap().forget();
            ends.send_modify(|count| *count += 1);
            ConsumeConcurrentlyStatus::ConsumeSuccess
        }
    });
    let config = PushConsumerConfig {
        pull_batch_size: 10,
        pull_threshold_for_queue: 15,
        consume_thread_max: 100,
        ..config()
    };
    let consumer = group.consume(config, listener).await;
    let committed = |offset| move |state: &State| state.offsets.get(&("T".into(), 0)) == Some(&offset);
    begun.subscribe().wait_for(|count| *count == 20).await.unwrap();
    group.broker.until("the first offset", committed(0)).await;
    assert_eq!(*begun.borrow(), 20, "two pulls are past the threshold");
    others.add_permits(99);
    done.subscribe().wait_for(|count| *count == 99).await.unwrap();
    assert_eq!(group.committed()[&("T".into(), 0)], 0);
    first.add_permits(1);
    group.broker.until("the last offset", committed(100)).await;
    consumer.shutdown().await;
}

#[tokio::test]
async fn what_is_not_consumed_goes_back_and_comes_again_under_its_own_topic() {
    let group = Group::start().await;
    group.broker.store("T", 0, numbered("a", 3));
    let (mut told, listener) = telling(|body| match body {
        "a1" => ConsumeConcurrentlyStatus::ReconsumeLater,
        "a2" => panic!("on purpose"),
        _ => ConsumeConcurrentlyStatus::ConsumeSuccess,
    });
    let consumer = group.consume(config(), listener).await;
    group.broker.until("what failed", |state| state.sent_back.len() == 2).await;
    group.broker.until("the offset", |state| state.offsets.get(&("T".into(), 0)) == Some(&3)).await;
    let mut sent_back = group.broker.with(|state| state.sent_back.clone());
    sent_back.sort_by_key(|header| header.offset);
    let fields: Vec<_> = sent_back
        .iter()
        .map(|h| {
            (h.offset, h.group.as_str(), h.delay_level, h.origin_topic.as_deref(), h.max_reconsume_times)
        })
        .collect();
    assert_eq!(fields, [(100, "g", 0, Some("T"), Some(16)), (200, "g", 0, Some("T"), Some(16))]);
    while told.try_recv().is_ok() {}
    let again =
        Stored { body: "again".into(), properties: "RETRY_TOPIC\u{1}T\u{2}".into(), reconsume_times: 1 };
    group.broker.with(|state| state.queues.insert(("%RETRY%g".into(), 1), vec![again]));
    assert_eq!(next(&mut told).await, (1, "again".into(), 1));
    consumer.shutdown().await;
}

#[tokio::test]
async fn what_the_broker_does_not_take_back_is_consumed_again_here() {
    let group = Group::start().await;
    group.broker.store("T", 0, numbered("a", 1));
    // Code 14 does not tell whether it was taken back.
    let unknown = response::SERVICE_NOT_AVAILABLE;
    group.broker.with(|state| state.refuse.insert(request::CONSUMER_SEND_MSG_BACK, unknown));
    let seen = Mutex::new(0);
    let (mut told, listener) = telling(move |_| {
        *seen.lock() += 1;
        if *seen.lock() == 1 {
            ConsumeConcurrentlyStatus::ReconsumeLater
        } else {
            ConsumeConcurrentlyStatus::ConsumeSuccess
        }
    });
    let consumer = group.consume(config(), listener).await;
    assert_eq!(next(&mut told).await, (0, "a0".into(), 0));
    assert_eq!(next(&mut told).await, (0, "a0".into(), 1));
    group.broker.until("the offset", |state| state.offsets.get(&("T".into(), 0)) == Some(&1)).await;
    consumer.shutdown().await;
}

/// A consumer that gives the one message there is back, once that is settled.
async fn give_back_one(group: &Group) {
    group.broker.store("T", 0, numbered("a", 1));
    let (mut told, listener) = telling(|_| ConsumeConcurrentlyStatus::ReconsumeLater);
    let config = PushConsumerConfig { max_reconsume_times: Some(-1), ..config() };
    let consumer = group.consume(config, listener).await;
    assert_eq!(next(&mut told).await, (0, "a0".into(), 0));
    group.broker.until("the offset", |state| state.offsets.get(&("T".into(), 0)) == Some(&1)).await;
    assert!(told.try_recv().is_err());
    consumer.shutdown().await;
}

#[tokio::test]
async fn a_message_goes_back_once_however_long_the_broker_takes() {
    let group = Group::start().await;
    // Several times the client's timeout of a try.
    let slow = Duration::from_millis(700);
    group.broker.with(|state| state.slow.insert(request::CONSUMER_SEND_MSG_BACK, slow));
    give_back_one(&group).await;
    group.broker.with(|state| {
        assert_eq!((state.sent_back.len(), state.sent.len()), (1, 0));
        assert_eq!(state.sent_back[0].max_reconsume_times, Some(16), "-1 is the default");
    });
}

#[tokio::test]
async fn a_busy_broker_is_asked_again_to_take_a_message_back() {
    let group = Group::start().await;
    group.broker.with(|state| state.busy.insert(request::CONSUMER_SEND_MSG_BACK, 3));
    give_back_one(&group).await;
    group.broker.with(|state| assert_eq!((state.sent_back.len(), state.sent.len()), (1, 0)));
}

#[tokio::test]
async fn what_the_broker_refuses_to_take_back_is_sent_to_the_retry_topic() {
    let group = Group::start().await;
    group.broker.with(|state| state.refuse.insert(request::CONSUMER_SEND_MSG_BACK, response::SYSTEM_ERROR));
    give_back_one(&group).await;
    let sent = group.broker.with(|state| state.sent.clone());
    let (topic, properties, times, most) = &sent[0];
    assert_eq!((sent.len(), topic.as_str(), *times, *most), (1, "%RETRY%g", 1, Some(16)));
    assert!(properties.contains("DELAY\u{1}3\u{2}"), "{properties}");
}

#[tokio::test]
async fn a_listener_that_takes_too_long_has_not_consumed() {
    let group = Group::start().await;
    group.broker.store("T", 0, numbered("a", 1));
    let listener = MessageListener::concurrently_fn(|_, _| std::future::pending());
    let config = PushConsumerConfig {
        consume_timeout: Duration::from_millis(50),
        await_termination_when_shutdown: Duration::from_millis(50),
        ..config()
    };
    let consumer = group.consume(config, listener).await;
    group.broker.until("what took too long", |state| state.sent_back.len() == 1).await;
    assert_eq!(group.broker.with(|state| state.sent_back[0].delay_level), 3);
    group.broker.until("the offset", |state| state.offsets.get(&("T".into(), 0)) == Some(&1)).await;
    consumer.shutdown().await;
}

#[tokio::test]
async fn in_order_a_failure_stops_the_queue_until_the_message_is_consumed() {
    let group = Group::start().await;
    group.broker.store("T", 0, numbered("a", 40));
    group.broker.store("T", 1, numbered("b", 40));
    let (mut told, listener) = telling_orderly(|body, times| match (body, times) {
        ("a5", 0..=2) => ConsumeOrderlyStatus::SuspendCurrentQueueAMoment,
        ("b7", 0) => panic!("on purpose"),
        _ => ConsumeOrderlyStatus::Success,
    });
    let consumer = group.consume(config(), listener).await;
    let mut seen = [Vec::new(), Vec::new()];
    for _ in 0..84 {
        let (queue, body, times) = next(&mut told).await;
        seen[queue as usize].push((body, times));
    }
    let expected = |prefix: &str, failing: usize, failures: i32| -> Vec<_> {
        let times = |n| if n == failing { failures } else { 0 };
        (0..40)
            .flat_map(|n| (0..=times(n)).map(move |times| (n, times)))
            .map(|(n, times)| (format!("{prefix}{n}"), times))
            .collect()
    };
    assert_eq!(seen, [expected("a", 5, 3), expected("b", 7, 1)]);
    consumer.shutdown().await;
    let committed = group.committed();
    assert_eq!((committed[&("T".into(), 0)], committed[&("T".into(), 1)]), (40, 40));
    let unlocked = group.broker.with(|state| state.unlocked.clone());
    assert_eq!(unlocked.iter().filter(|queue| queue.topic == "T").count(), 2);
}

#[tokio::test]
async fn in_order_a_message_that_failed_too_often_makes_way() {
    let group = Group::start().await;
    group.broker.store("T", 0, numbered("a", 3));
    let (mut told, listener) = telling_orderly(|body, _| match body {
        "a1" => ConsumeOrderlyStatus::SuspendCurrentQueueAMoment,
        _ => ConsumeOrderlyStatus::Success,
    });
    let config = PushConsumerConfig { max_reconsume_times: Some(2), ..config() };
    let consumer = group.consume(config, listener).await;
    let mut seen = Vec::new();
    for _ in 0..5 {
        let (_, body, times) = next(&mut told).await;
        seen.push((body, times));
    }
    let expected = [("a0", 0), ("a1", 0), ("a1", 1), ("a1", 2), ("a2", 0)];
    assert_eq!(seen, expected.map(|(body, times)| (body.to_owned(), times)));
    consumer.shutdown().await;
    assert_eq!(group.committed()[&("T".into(), 0)], 3);
    let sent = group.broker.with(|state| state.sent.clone());
    let (topic, properties, times, most) = &sent[0];
    assert_eq!((sent.len(), topic.as_str(), *times, *most), (1, "%RETRY%g", 2, Some(2)));
    assert!(properties.contains("RETRY_TOPIC\u{1}T\u{2}"), "{properties}");
    assert!(!properties.contains("RECONSUME_TIME"), "{properties}");
}

#[tokio::test]
async fn a_queue_that_another_has_locked_is_left_alone() {
    let group = Group::start().await;
    group.broker.store("T", 0, numbered("a", 1));
    group.broker.store("T", 1, numbered("b", 1));
    group.broker.with(|state| state.locked_by_others.insert(0));
    let (mut told, listener) = telling_orderly(|_, _| ConsumeOrderlyStatus::Success);
    let consumer = group.consume(config(), listener).await;
    assert_eq!(next(&mut told).await.1, "b0");
    assert!(consumer.assigned_queues().iter().all(|queue| queue.queue_id == 1));
    group.broker.with(|state| state.locked_by_others.clear());
    assert_eq!(next(&mut told).await.1, "a0");
    consumer.shutdown().await;
}

#[tokio::test]
async fn an_offset_the_broker_moves_is_committed_and_gone_on_from() {
    let group = Group::start().await;
    group.broker.store("T", 0, numbered("a", 10));
    group.broker.with(|state| state.move_to = Some((("T".into(), 0), 7)));
    let (mut told, listener) = telling(|_| ConsumeConcurrentlyStatus::ConsumeSuccess);
    let consumer = group.consume(config(), listener).await;
    let mut seen = [next(&mut told).await.1, next(&mut told).await.1, next(&mut told).await.1];
    seen.sort();
    assert_eq!(seen, ["a7", "a8", "a9"]);
    // Again, backwards and while a pull is held.
    group.broker.with(|state| state.move_to = Some((("T".into(), 0), 9)));
    assert_eq!(next(&mut told).await.1, "a9");
    consumer.shutdown().await;
    assert_eq!(group.committed()[&("T".into(), 0)], 10);
}

#[tokio::test]
async fn messages_that_are_removed_at_the_broker_do_not_touch_those_that_were_pulled() {
    let group = Group::start().await;
    group.broker.store("T", 0, numbered("a", 12));
    let (gates, began) = (Arc::new([Semaphore::new(0), Semaphore::new(0)]), watch::Sender::new(Vec::new()));
    let (waiting, begins) = (gates.clone(), began.clone());
    let listener = MessageListener::concurrently_fn(move |messages, _| {
        let (offset, gates) = (messages[0].queue_offset, waiting.clone());
        begins.send_modify(|offsets| offsets.push(offset));
        async move {
            gates[usize::from(offset > 0)].acquire().await.unwrap().forget();
            ConsumeConcurrentlyStatus::ConsumeSuccess
        }
    });
    let config = PushConsumerConfig { pull_batch_size: 4, pull_threshold_for_queue: 4, ..config() };
    let consumer = group.consume(config, listener).await;
    let mut began = began.subscribe();
    began.wait_for(|offsets| offsets.len() == 4).await.unwrap();
    group.broker.with(|state| state.min_offset = 8);
    gates[1].add_permits(100);
    began.wait_for(|offsets| offsets.len() == 8).await.unwrap();
    let committed = group.committed().get(&("T".into(), 0)).copied();
    assert_eq!(committed.unwrap_or(0), 0, "the first is not consumed");
    gates[0].add_permits(1);
    group.broker.until("the offset", |state| state.offsets.get(&("T".into(), 0)) == Some(&12)).await;
    let mut offsets = began.borrow().clone();
    offsets.sort_unstable();
    assert_eq!(offsets, [0, 1, 2, 3, 8, 9, 10, 11]);
    consumer.shutdown().await;
}

#[tokio::test]
async fn a_follower_that_is_behind_is_not_believed() {
    let group = Group::start().await;
    let follower = Broker::start().await;
    group.routes.set_follower(follower.server.addr);
    group.broker.store("T", 0, numbered("a", 40));
    group.broker.with(|state| state.suggest = 2);
    follower.with(|state| state.move_to = Some((("T".into(), 0), 0)));
    let (mut told, listener) = telling(|_| ConsumeConcurrentlyStatus::ConsumeSuccess);
    let consumer = group.consume(config(), listener).await;
    let mut bodies = Vec::new();
    for _ in 0..40 {
        bodies.push(next(&mut told).await.1);
    }
    group.broker.until("the offset", |state| state.offsets.get(&("T".into(), 0)) == Some(&40)).await;
    bodies.sort();
    bodies.dedup();
    assert_eq!((bodies.len(), told.try_recv().is_err()), (40, true), "nothing twice");
    follower.with(|state| assert!(state.move_to.is_none(), "the follower was asked"));
    consumer.shutdown().await;
}

#[tokio::test]
async fn queues_go_to_another_member_and_come_back() {
    let group = Group::start().await;
    group.broker.store("T", 0, numbered("a", 4));
    group.broker.store("T", 1, numbered("b", 4));
    let (mut told, listener) = telling_orderly(|_, _| ConsumeOrderlyStatus::Success);
    // The timer does not commit: giving the queue up does.
    let config =
        PushConsumerConfig { persist_consumer_offset_interval: Duration::from_secs(600), ..config() };
    let consumer = group.consume(config, listener).await;
    for _ in 0..8 {
        next(&mut told).await;
    }
    // Sorts behind the client's own id, so that it gets the second half.
    let other = format!("{}0", group.client.client_id());
    let notified = |members: &[&str]| {
        group.broker.with(|state| state.others = members.iter().map(|id| (*id).to_owned()).collect());
        let ext = raftmq_remoting::header::ConsumerGroupHeader { consumer_group: "g".into() }.to_ext();
        let notification =
            raftmq_remoting::Command::request(request::NOTIFY_CONSUMER_IDS_CHANGED, ext).oneway();
        group.broker.server.ask_clients(&notification);
    };
    notified(&[&other]);
    let given_up = |queue: &raftmq_client::MessageQueue| queue.topic == "T" && queue.queue_id == 1;
    group.broker.until("the unlocked queue", |state| state.unlocked.iter().any(given_up)).await;
    assert_eq!(group.committed()[&("T".into(), 1)], 4);
    group.broker.store("T", 1, ["b4".to_owned()]);
    group.broker.store("T", 0, ["a4".to_owned()]);
    assert_eq!(next(&mut told).await.1, "a4");
    assert!(told.try_recv().is_err());
    notified(&[]);
    assert_eq!(next(&mut told).await.1, "b4");
    consumer.shutdown().await;
}

#[tokio::test]
async fn another_leader_is_followed() {
    let group = Group::start().await;
    group.broker.store("T", 0, numbered("a", 2));
    let (mut told, listener) = telling(|_| ConsumeConcurrentlyStatus::ConsumeSuccess);
    let consumer = group.consume(config(), listener).await;
    for _ in 0..2 {
        next(&mut told).await;
    }
    group.broker.until("the offset", |state| state.offsets.get(&("T".into(), 0)) == Some(&2)).await;
    let Group { broker, routes, .. } = &group;
    let new = Broker::start().await;
    new.store("T", 0, numbered("a", 3));
    new.with(|state| state.offsets = broker.with(|old| old.offsets.clone()));
    for topic in ["T", "U", "%RETRY%g"] {
        routes.set(topic, new.server.addr);
    }
    // The old one keeps its connections and does not answer any more: its pulls are held.
    assert_eq!(next(&mut told).await.1, "a2");
    new.until("a heartbeat", |state| !state.heartbeats.is_empty()).await;
    new.until("the offset", |state| state.offsets.get(&("T".into(), 0)) == Some(&3)).await;
    consumer.shutdown().await;
}

#[tokio::test]
async fn a_follower_is_pulled_if_the_leader_suggests_it_and_left_if_it_fails() {
    let group = Group::start().await;
    let follower = Broker::start().await;
    group.routes.set_follower(follower.server.addr);
    group.broker.store("T", 0, numbered("a", 40));
    follower.store("T", 0, numbered("a", 50));
    for broker in [&group.broker, &follower] {
        broker.with(|state| state.suggest = 2);
    }
    let (mut told, listener) = telling(|_| ConsumeConcurrentlyStatus::ConsumeSuccess);
    let consumer = group.consume(config(), listener).await;
    for _ in 0..50 {
        next(&mut told).await;
    }
    group
        .broker
        .until("the offset, at the leader", |state| state.offsets.get(&("T".into(), 0)) == Some(&50))
        .await;
    follower.with(|state| {
        assert!(state.offsets.is_empty() && !state.heartbeats.is_empty());
        let begun = state.pulls.iter().filter(|(topic, _)| topic == "T").map(|(_, offset)| *offset);
        assert_eq!(begun.min(), Some(32), "the leader gave the first 32");
    });
    group.broker.store("T", 0, (40..51).map(|n| format!("a{n}")));
    drop(follower);
    assert_eq!(next(&mut told).await.1, "a50");
    consumer.shutdown().await;
}

#[tokio::test]
async fn a_refused_pull_is_repeated_and_an_unknown_subscription_made_known() {
    let group = Group::start().await;
    group.broker.store("T", 0, numbered("a", 1));
    group.broker.with(|state| state.refuse.insert(request::PULL_MESSAGE, response::SUBSCRIPTION_NOT_EXIST));
    let (mut told, listener) = telling(|_| ConsumeConcurrentlyStatus::ConsumeSuccess);
    let consumer = group.consume(config(), listener).await;
    group.broker.until("more heartbeats", |state| state.heartbeats.len() > 1).await;
    group.broker.with(|state| state.refuse.clear());
    assert_eq!(next(&mut told).await.1, "a0");
    consumer.shutdown().await;
}

#[tokio::test]
async fn subscriptions_change_and_pulling_is_suspended() {
    let group = Group::start().await;
    let (mut told, listener) = telling(|_| ConsumeConcurrentlyStatus::ConsumeSuccess);
    let consumer = group.consume(config(), listener).await;
    consumer.subscribe("U", MessageSelector::by_tag("x")).await.unwrap();
    let tagged = |tag: &str, body: &str| Stored {
        body: body.into(),
        properties: format!("TAGS\u{1}{tag}\u{2}"),
        ..Stored::default()
    };
    group.broker.with(|state| {
        state.queues.insert(("U".into(), 0), vec![tagged("y", "not wanted"), tagged("x", "wanted")])
    });
    assert_eq!(next(&mut told).await.1, "wanted");
    let mut versions = group.broker.with(|state| {
        let all = state
            .heartbeats
            .iter()
            .flat_map(|heartbeat| &heartbeat.consumer_data_set[0].subscription_data_set);
        all.filter(|data| data.topic == "U").map(|data| data.sub_version).collect::<Vec<_>>()
    });
    consumer.subscribe("U", MessageSelector::by_sql("a = 1")).await.unwrap();
    group.broker.with(|state| {
        let last = &state.heartbeats.last().unwrap().consumer_data_set[0].subscription_data_set;
        let changed = last.iter().find(|data| data.topic == "U").unwrap();
        assert_eq!((changed.expression_type.as_str(), changed.sub_string.as_str()), ("SQL92", "a = 1"));
        versions.push(changed.sub_version);
    });
    assert!(versions.is_sorted() && versions.first() < versions.last(), "{versions:?}");
    consumer.unsubscribe("U").await;
    consumer.suspend();
    assert!(consumer.is_suspended());
    // Held pulls still bring what arrives; after them none is sent.
    group.broker.store("T", 0, numbered("a", 1));
    group.broker.store("T", 1, numbered("b", 1));
    next(&mut told).await;
    next(&mut told).await;
    group.broker.store("T", 0, numbered("c", 1));
    assert!(told.try_recv().is_err());
    consumer.resume();
    assert_eq!(next(&mut told).await.1, "c0");
    assert!(consumer.assigned_queues().iter().all(|queue| queue.topic != "U"));
    group
        .broker
        .with(|state| state.refuse.insert(request::CHECK_CLIENT_CONFIG, response::SUBSCRIPTION_PARSE_FAILED));
    let error = consumer.subscribe("U", MessageSelector::by_sql("a =")).await.unwrap_err().to_string();
    assert!(error.contains("code 23"), "{error}");
    consumer.shutdown().await;
}

#[tokio::test]
async fn a_shutdown_waits_for_the_listener_and_for_no_longer_than_it_may() {
    let group = Group::start().await;
    group.broker.store("T", 0, numbered("a", 2));
    let (gate, started) = (Arc::new(Semaphore::new(0)), watch::Sender::new(0));
    let (waiting, starting) = (gate.clone(), started.clone());
    let listener = MessageListener::concurrently_fn(move |messages, _| {
        let (offset, gate) = (messages[0].queue_offset, waiting.clone());
        starting.send_modify(|count| *count += 1);
        async move {
            let wanted = if offset == 0 { 1 } else { 1000 };
            gate.acquire_many(wanted).await.unwrap().forget();
            ConsumeConcurrentlyStatus::ConsumeSuccess
        }
    });
    let config = PushConsumerConfig {
        persist_consumer_offset_interval: Duration::from_secs(600),
        await_termination_when_shutdown: Duration::from_millis(300),
        ..config()
    };
    let consumer = group.consume(config, listener).await;
    started.subscribe().wait_for(|count| *count == 2).await.unwrap();
    let shutdown = async {
        consumer.shutdown().await;
    };
    let finish = async { gate.add_permits(1) };
    tokio::join!(shutdown, finish);
    assert_eq!(group.committed()[&("T".into(), 0)], 1, "the first was consumed, the second was not");
}

#[tokio::test]
async fn a_start_and_a_shutdown_go_on_although_nobody_waits_for_them() {
    let group = Group::start().await;
    group.broker.store("T", 0, numbered("a", 1));
    let (mut told, listener) = telling(|_| ConsumeConcurrentlyStatus::ConsumeSuccess);
    let never = Duration::from_secs(600);
    let config = PushConsumerConfig {
        persist_consumer_offset_interval: never,
        await_termination_when_shutdown: Duration::MAX,
        broker_suspend_max_time: Duration::MAX,
        ..config()
    };
    let consumer = PushConsumer::new(group.client.clone(), config).unwrap();
    consumer.subscribe("T", MessageSelector::all()).await.unwrap();
    consumer.register_message_listener(listener).unwrap();
    abandon(consumer.start()).await;
    assert_eq!(next(&mut told).await.1, "a0");
    abandon(consumer.shutdown()).await;
    drop(consumer);
    group.broker.until("to be left", |state| !state.left.is_empty()).await;
    assert_eq!(group.committed()[&("T".into(), 0)], 1);
}

#[tokio::test]
async fn a_dropped_consumer_leaves_its_group() {
    let group = Group::start().await;
    let (_told, listener) = telling(|_| ConsumeConcurrentlyStatus::ConsumeSuccess);
    let consumer = group.consume(config(), listener.clone()).await;
    drop(consumer);
    group.broker.until("to be left", |state| !state.left.is_empty()).await;
    // Another that is there by then stays in the group.
    let consumer = group.consume(config(), listener.clone()).await;
    drop(consumer);
    let (mut told, listener) = telling(|_| ConsumeConcurrentlyStatus::ConsumeSuccess);
    let consumer = group.consume(config(), listener).await;
    group.broker.store("T", 0, numbered("a", 1));
    next(&mut told).await;
    assert_eq!(group.broker.with(|state| state.left.len()), 1);
    consumer.shutdown().await;
    assert_eq!(group.broker.with(|state| state.left.len()), 2);
}

/// Panics the first time.
#[derive(Debug, Default)]
struct Clumsy(std::sync::atomic::AtomicBool);

impl AllocateMessageQueueStrategy for Clumsy {
    fn name(&self) -> &str {
        "CLUMSY"
    }
    fn allocate(&self, _: &str, _: &str, queues: &[MessageQueue], _: &[String]) -> Vec<MessageQueue> {
        assert!(self.0.swap(true, std::sync::atomic::Ordering::Relaxed), "on purpose");
        queues.to_vec()
    }
}

#[tokio::test]
async fn a_strategy_that_panics_is_asked_again() {
    let group = Group::start().await;
    group.broker.store("T", 0, numbered("a", 1));
    let (mut told, listener) = telling(|_| ConsumeConcurrentlyStatus::ConsumeSuccess);
    let strategy = Arc::new(Clumsy::default());
    let config = PushConsumerConfig { allocate_message_queue_strategy: strategy, ..config() };
    let consumer = group.consume(config, listener).await;
    assert_eq!(next(&mut told).await.1, "a0");
    consumer.shutdown().await;
}

#[tokio::test]
async fn with_broadcasting_every_member_has_every_queue_and_keeps_its_offsets() {
    let group = Group::start().await;
    group.broker.store("T", 0, numbered("a", 2));
    group.broker.store("T", 1, numbered("b", 2));
    group.broker.with(|state| state.others.insert("another".into()));
    let dir = tempfile::tempdir().unwrap();
    let store = || Arc::new(LocalFileOffsetStore::new(&World::system(), dir.path(), "c", "g").unwrap());
    let config = || PushConsumerConfig {
        message_model: MessageModel::Broadcasting,
        offset_store: Some(store()),
        ..config()
    };
    let (mut told, listener) = telling(|_| ConsumeConcurrentlyStatus::ReconsumeLater);
    let consumer = group.consume(config(), listener).await;
    for _ in 0..4 {
        next(&mut told).await;
    }
    consumer.shutdown().await;
    group.broker.store("T", 1, ["b2".to_owned()]);
    let (mut told, listener) = telling(|_| ConsumeConcurrentlyStatus::ConsumeSuccess);
    let consumer = group.consume(config(), listener).await;
    assert_eq!(next(&mut told).await.1, "b2");
    consumer.shutdown().await;
    group.broker.with(|state| {
        assert!(state.sent_back.is_empty() && state.offsets.is_empty());
        let topics =
            state.heartbeats.iter().flat_map(|h| &h.consumer_data_set).flat_map(|c| &c.subscription_data_set);
        assert!(topics.into_iter().all(|data| data.topic == "T"));
    });
}

#[derive(Default)]
struct Seen(Mutex<Vec<(String, usize, Option<ConsumeReturnType>)>>);

impl ConsumeMessageHook for Seen {
    fn name(&self) -> &str {
        "seen"
    }
    fn consume_message_before(&self, context: &ConsumeMessageContext<'_>) {
        self.0.lock().push((context.request_id.to_owned(), context.messages.len(), None));
    }
    fn consume_message_after(
        &self,
        context: &ConsumeMessageContext<'_>,
        outcome: ConsumeReturnType,
        _: Duration,
    ) {
        self.0.lock().push((context.request_id.to_owned(), context.messages.len(), Some(outcome)));
    }
}

#[tokio::test]
async fn batches_have_the_size_that_is_set_and_hooks_see_them() {
    let group = Group::start().await;
    group.broker.store("T", 0, numbered("a", 5));
    let (mut told, listener) = telling(|_| ConsumeConcurrentlyStatus::ConsumeSuccess);
    let config = PushConsumerConfig { consume_message_batch_max_size: 4, consume_thread_max: 1, ..config() };
    let consumer = PushConsumer::new(group.client.clone(), config).unwrap();
    let seen = Arc::new(Seen::default());
    consumer.register_consume_message_hook(seen.clone());
    consumer.register_message_listener(listener).unwrap();
    consumer.subscribe("T", MessageSelector::all()).await.unwrap();
    consumer.start().await.unwrap();
    for _ in 0..5 {
        next(&mut told).await;
    }
    consumer.shutdown().await;
    let mut seen = std::mem::take(&mut *seen.0.lock());
    // Stable: what was seen before stays in front of what was seen after.
    seen.sort_by_key(|(id, size, _)| (*size, id.clone()));
    let sizes: Vec<_> = seen.iter().map(|(_, size, outcome)| (*size, *outcome)).collect();
    let success = Some(ConsumeReturnType::Success);
    assert_eq!(sizes, [(1, None), (1, success), (4, None), (4, success)]);
    assert_eq!((&seen[0].0, &seen[2].0), (&seen[1].0, &seen[3].0));
    assert_ne!(seen[1].0, seen[2].0);
}

#[tokio::test]
async fn a_client_is_in_a_group_once_and_a_consumer_starts_once() {
    let group = Group::start().await;
    let (_told, listener) = telling(|_| ConsumeConcurrentlyStatus::ConsumeSuccess);
    let consumer = PushConsumer::new(group.client.clone(), config()).unwrap();
    assert!(consumer.start().await.unwrap_err().to_string().contains("no listener"));
    consumer.register_message_listener(listener.clone()).unwrap();
    assert!(consumer.register_message_listener(listener.clone()).is_err());
    consumer.start().await.unwrap();
    assert!(consumer.start().await.unwrap_err().to_string().contains("started before"));
    let second = PushConsumer::new(group.client.clone(), config()).unwrap();
    second.register_message_listener(listener.clone()).unwrap();
    assert!(second.start().await.unwrap_err().to_string().contains("has a consumer of group g already"));
    drop(consumer);
    let third = group.consume(config(), listener).await;
    drop(second);
    assert!(!third.is_suspended());
    third.shutdown().await;
    third.shutdown().await;
}
