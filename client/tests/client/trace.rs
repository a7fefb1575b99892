//! The trace of a producer, as its broker gets it.

use std::sync::Arc;
use std::time::Duration;

use super::fake::{FakeServer, Routes, client, refused, stored};
use raftmq_client::{
    AsyncTraceDispatcher, ClientError, Message, Producer, SendError, SendMessageContext, SendMessageHook,
    SendOutcome,
};
use raftmq_message::properties;
use raftmq_remoting::codes::response;
use raftmq_remoting::header::SendHeader;
use tokio::sync::mpsc;

const TRACE_TOPIC: &str = "RMQ_SYS_TRACE_TOPIC";

#[tokio::test]
async fn sends_are_traced_together_and_the_trace_is_not() {
    let (tell, mut traces) = mpsc::unbounded_channel();
    let broker = FakeServer::start(move |request| {
        let header = SendHeader::decode(&request).unwrap();
        match &*header.topic {
            TRACE_TOPIC => {
                let keys = properties::get(&header.properties, "KEYS").unwrap().to_owned();
                tell.send((
                    header.producer_group.to_string(),
                    keys,
                    String::from_utf8(request.body.to_vec()).unwrap(),
                ))
                .unwrap();
                stored(&request)
            }
            "T" => stored(&request),
            _ => refused(&request, response::MESSAGE_ILLEGAL),
        }
    })
    .await;
    let routes = Routes::default();
    for topic in ["T", "Refused", TRACE_TOPIC] {
        routes.set(topic, broker.addr);
    }
    let names = routes.serve().await;
    let client = client(&[&names]);
    let trace = Arc::new(AsyncTraceDispatcher::new(client.clone(), "g").unwrap());
    let producer = Producer::new(client, "g").unwrap();
    producer.register_send_message_hook(trace.clone());
    let one = producer.send(&Message::new("T", "one").with_keys("k1")).await.unwrap();
    let batch = producer.send_batch(&[Message::new("T", "two"), Message::new("T", "three")]).await.unwrap();
    producer.send(&Message::new("Refused", "four")).await.unwrap_err();
    producer.send(&Message::new(TRACE_TOPIC, "five").with_keys("own")).await.unwrap();
    assert_eq!(traces.recv().await.unwrap().1, "own");
    trace.shutdown().await;
    let (group, keys, body) = traces.recv().await.unwrap();
    assert!(group.starts_with("_INNER_TRACE_PRODUCER-g-"), "{group}");
    let ids: Vec<_> = [one.message_id.as_str()].into_iter().chain(batch.message_id.split(',')).collect();
    assert!(keys.starts_with(&format!("{} k1 {} {} ", ids[0], ids[1], ids[2])), "{keys}");
    let records: Vec<Vec<_>> =
        body.split_terminator('\u{2}').map(|record| record.split('\u{1}').collect()).collect();
    let seen: Vec<_> = records.iter().map(|r| (r[0], r[4], r[9], r[13])).collect();
    assert_eq!(
        seen,
        [
            ("Pub", "T", "3", "true"),
            ("Pub", "T", "3", "true"),
            ("Pub", "T", "5", "true"),
            ("Pub", "Refused", "4", "false")
        ]
    );
    assert_eq!(records.iter().map(|r| r[5]).take(3).collect::<Vec<_>>(), ids);
    producer.send(&Message::new("T", "six")).await.unwrap();
    assert!(traces.try_recv().is_err(), "nothing is traced after the shutdown");
    assert_eq!(trace.discarded(), 0);
}

#[tokio::test]
async fn what_cannot_wait_is_counted_and_holds_up_nothing() {
    let names = Routes::default().serve().await;
    let trace = AsyncTraceDispatcher::new(client(&[&names]), "g").unwrap();
    let message = Message::new("T", "x");
    let context = SendMessageContext {
        producer_group: "g",
        messages: std::slice::from_ref(&message),
        message_id: "ID",
        queue: None,
        begin_timestamp_ms: 0,
    };
    let source = ClientError::Invalid("failed by the test".into());
    let error = SendError { outcome: SendOutcome::NotStored, tries: 0, source };
    // Nothing is sent away in the meantime, as this never waits.
    for _ in 0..2048 {
        trace.send_message_after(&context, Err(&error), Duration::ZERO);
    }
    assert_eq!(trace.discarded(), 0);
    trace.send_message_after(&context, Err(&error), Duration::ZERO);
    assert_eq!(trace.discarded(), 1);
}
