//! The producer against brokers that hang, refuse, and die.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use raftmq_testkit::free_address;

use super::fake::{FakeServer, Reply, Routes, client, refused, stored};
use parking_lot::Mutex;
use raftmq_client::{ClientError, Message, MessageQueue, Producer, SendOutcome, SendStatus};
use raftmq_message::batch::BatchIter;
use raftmq_remoting::codes::{request, response};
use raftmq_remoting::header::SendHeader;

fn message() -> Message {
    Message::new("T", "hello").with_tags("TagA")
}

fn queue(queue_id: i32) -> MessageQueue {
    MessageQueue { broker_name: "broker-a".into(), queue_id, topic: "T".into() }
}

#[tokio::test]
async fn a_send_carries_everything_and_reports_where_it_was_stored() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let seen_by_broker = seen.clone();
    let broker = FakeServer::start(move |request| {
        assert_eq!(request.code, request::SEND_MESSAGE_V2);
        let header = SendHeader::decode(&request).unwrap();
        seen_by_broker.lock().push((header.queue_id, header.properties.to_string(), request.body.to_vec()));
        stored(&request)
    })
    .await;
    let routes = Routes::default();
    routes.set("T", broker.addr);
    let names = routes.serve().await;
    let producer = Producer::new(client(&[&names]), "g").unwrap();
    for _ in 0..4 {
        let sent = producer.send(&message()).await.unwrap();
        let (queue_id, properties, body) = seen.lock().last().unwrap().clone();
        assert_eq!(sent.queue, queue(queue_id));
        assert_eq!((sent.status, sent.queue_offset), (SendStatus::SendOk, 7));
        assert_eq!(sent.offset_message_id, "OFFSET-ID");
        assert_eq!(properties, format!("TAGS\u{1}TagA\u{2}UNIQ_KEY\u{1}{}\u{2}", sent.message_id));
        assert_eq!(body, b"hello");
    }
    let queues: Vec<_> = seen.lock().iter().map(|(queue_id, ..)| *queue_id).collect();
    assert!(queues == [0, 1, 0, 1] || queues == [1, 0, 1, 0], "not in turn: {queues:?}");
    let sent = producer.send_to(&message(), &queue(1)).await.unwrap();
    assert_eq!(sent.queue, queue(1));
    assert_eq!(names.requests(), 1, "the route is remembered");
}

#[tokio::test]
async fn a_dead_leader_costs_one_try() {
    let broker = FakeServer::start(|request| stored(&request)).await;
    let routes = Routes::default();
    routes.set("T", free_address());
    let names = routes.serve().await;
    let client = client(&[&names]);
    client.routes().get("T").await.unwrap();
    routes.set("T", broker.addr);
    let sent = Producer::new(client, "g").unwrap().send(&message()).await.unwrap();
    assert_eq!(sent.queue_offset, 7);
    assert_eq!((names.requests(), broker.requests()), (2, 1));
}

#[tokio::test]
async fn a_leader_that_hangs_is_left_after_one_try() {
    let hung = FakeServer::start(|_| Reply::Silence).await;
    let broker = FakeServer::start(|request| stored(&request)).await;
    let routes = Routes::default();
    routes.set("T", hung.addr);
    let names = routes.serve().await;
    let client = client(&[&names]);
    client.routes().get("T").await.unwrap();
    routes.set("T", broker.addr);
    let started = Instant::now();
    Producer::new(client, "g").unwrap().send(&message()).await.unwrap();
    assert!(started.elapsed() < Duration::from_millis(600), "took {:?}", started.elapsed());
    assert_eq!((hung.requests(), broker.requests()), (1, 1));
}

#[tokio::test]
async fn a_leader_that_hangs_is_left_as_soon_as_another_leads() {
    let hung = FakeServer::start(|_| Reply::Silence).await;
    let broker = FakeServer::start(|request| stored(&request)).await;
    let routes = Routes::default();
    routes.set("T", hung.addr);
    let names = routes.serve().await;
    let producer = Producer::new(client(&[&names]), "g").unwrap();
    let producer = Arc::new(producer.with_timeouts(Duration::from_secs(60), Duration::from_secs(60)));
    let mut sends = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let producer = producer.clone();
        sends.spawn(async move { producer.send(&message()).await });
    }
    while hung.requests() < 50 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    routes.set("T", broker.addr);
    let started = Instant::now();
    while let Some(sent) = sends.join_next().await {
        sent.unwrap().unwrap();
    }
    assert!(started.elapsed() < Duration::from_secs(2), "took {:?}", started.elapsed());
    assert!(names.requests() < 10, "{} lookups for 50 sends that waited", names.requests());
}

#[tokio::test]
async fn refusals_are_retried_or_not_by_their_code() {
    for (code, expected_tries, outcome) in [
        (response::MESSAGE_ILLEGAL, 1, SendOutcome::NotStored),
        (response::NO_PERMISSION, 3, SendOutcome::NotStored),
        (response::SYSTEM_ERROR, 3, SendOutcome::Unknown),
    ] {
        let broker = FakeServer::start(move |request| refused(&request, code)).await;
        let routes = Routes::default();
        routes.set("T", broker.addr);
        let names = routes.serve().await;
        let error = Producer::new(client(&[&names]), "g").unwrap().send(&message()).await.unwrap_err();
        assert_eq!((error.tries, error.outcome), (expected_tries, outcome), "{error}");
        assert!(matches!(error.source, ClientError::Refused { code: found, .. } if found == code), "{error}");
    }
}

#[tokio::test]
async fn not_available_is_retried_until_it_is() {
    let refusals = AtomicUsize::new(0);
    let broker = FakeServer::start(move |request| {
        if refusals.fetch_add(1, Ordering::Relaxed) < 6 {
            return refused(&request, response::SERVICE_NOT_AVAILABLE);
        }
        stored(&request)
    })
    .await;
    let routes = Routes::default();
    routes.set("T", broker.addr);
    let names = routes.serve().await;
    Producer::new(client(&[&names]), "g").unwrap().send(&message()).await.unwrap();
    assert_eq!(broker.requests(), 7);
}

#[tokio::test]
async fn the_outcome_is_unknown_once_a_request_has_left_and_never_before() {
    let closing = FakeServer::start(|_| Reply::Close).await;
    let hanging = FakeServer::start(|_| Reply::Silence).await;
    for (leader, outcome) in [
        (closing.addr, SendOutcome::Unknown),
        (hanging.addr, SendOutcome::Unknown),
        (free_address(), SendOutcome::NotStored),
    ] {
        let routes = Routes::default();
        routes.set("T", leader);
        let names = routes.serve().await;
        let producer = Producer::new(client(&[&names]), "g").unwrap();
        let producer = producer.with_timeouts(Duration::from_millis(50), Duration::from_millis(200));
        let error = producer.send(&message()).await.unwrap_err();
        assert_eq!(error.outcome, outcome, "{error}");
        assert!(error.tries > 1, "{error}");
    }
}

#[tokio::test]
async fn many_failures_at_a_time_refresh_the_route_a_few_times_only() {
    let broker = FakeServer::start(|request| stored(&request)).await;
    let routes = Routes::default();
    routes.set("T", free_address());
    let names = routes.serve().await;
    let client = client(&[&names]);
    client.routes().get("T").await.unwrap();
    routes.set("T", broker.addr);
    let producer = Arc::new(Producer::new(client, "g").unwrap());
    let mut sends = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let producer = producer.clone();
        sends.spawn(async move { producer.send(&message()).await });
    }
    while let Some(sent) = sends.join_next().await {
        sent.unwrap().unwrap();
    }
    assert_eq!(broker.requests(), 100);
    assert!(names.requests() <= 5, "{} lookups for 100 failures", names.requests());
}

#[tokio::test]
async fn an_unknown_topic_is_sent_by_the_route_new_topics_copy() {
    let broker = FakeServer::start(|request| stored(&request)).await;
    let routes = Routes::default();
    routes.set("TBW102", broker.addr);
    let names = routes.serve().await;
    let client = client(&[&names]);
    let sent = Producer::new(client.clone(), "g").unwrap().send(&message()).await.unwrap();
    assert_eq!(sent.queue.topic, "T");
    let error = client.fetch_queues("T").await.unwrap_err();
    assert!(matches!(error, ClientError::NoRoute { ref topic, .. } if topic == "T"), "{error}");
}

#[tokio::test]
async fn a_batch_is_one_request_with_an_id_for_each_message() {
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let seen = bodies.clone();
    let broker = FakeServer::start(move |request| {
        assert_eq!(request.code, request::SEND_BATCH_MESSAGE);
        assert!(SendHeader::decode(&request).unwrap().batch);
        seen.lock().extend(BatchIter::new(&request.body).map(|m| m.unwrap().body.to_vec()));
        stored(&request)
    })
    .await;
    let routes = Routes::default();
    routes.set("T", broker.addr);
    let names = routes.serve().await;
    let producer = Producer::new(client(&[&names]), "g").unwrap();
    let messages = [message(), Message::new("T", "two")];
    let sent = producer.send_batch(&messages).await.unwrap();
    assert_eq!(sent.message_id.split(',').count(), 2);
    assert_eq!(*bodies.lock(), [b"hello".to_vec(), b"two".to_vec()]);
    for bad in [vec![], vec![message(), Message::new("U", "x")]] {
        assert_eq!(producer.send_batch(&bad).await.unwrap_err().outcome, SendOutcome::NotStored);
    }
}

#[tokio::test]
async fn a_oneway_send_is_marked_as_one() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let broker = FakeServer::start(move |request| {
        tell.send(request.is_oneway()).unwrap();
        Reply::Silence
    })
    .await;
    let routes = Routes::default();
    routes.set("T", broker.addr);
    let names = routes.serve().await;
    let producer = Producer::new(client(&[&names]), "g").unwrap();
    producer.send_oneway(&message()).await.unwrap();
    assert_eq!(told.recv().await, Some(true));
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_here() {
    let names = Routes::default().serve().await;
    let producer = Producer::new(client(&[&names]), "g").unwrap();
    for bad in [Message::new("a b", "x"), Message::new("T", ""), Message::new("T", vec![0; 5 << 20])] {
        let error = producer.send(&bad).await.unwrap_err();
        assert!(matches!(error.source, ClientError::Invalid(_)) && error.tries == 0, "{error}");
    }
    let other = MessageQueue { topic: "U".into(), ..queue(0) };
    assert_eq!(producer.send_to(&message(), &other).await.unwrap_err().tries, 0);
    assert_eq!(names.requests(), 0);
}

#[tokio::test]
async fn a_name_server_that_hangs_is_passed_over() {
    let hung = FakeServer::start(|_| Reply::Silence).await;
    let broker = FakeServer::start(|request| stored(&request)).await;
    let routes = Routes::default();
    routes.set("T", broker.addr);
    let names = routes.serve().await;
    // Whichever comes first in the shuffled list.
    for _ in 0..4 {
        let started = Instant::now();
        Producer::new(client(&[&hung, &names]), "g").unwrap().send(&message()).await.unwrap();
        assert!(started.elapsed() < Duration::from_millis(500), "took {:?}", started.elapsed());
    }
    let error = Producer::new(client(&[&hung]), "g").unwrap().send(&message()).await.unwrap_err();
    assert!(matches!(error.source, ClientError::NameServer { .. }), "{error}");
    assert_eq!(error.outcome, SendOutcome::NotStored, "a lookup that timed out stores nothing");
}
