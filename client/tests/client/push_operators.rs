//! What operators ask of a push consumer through a broker.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use raftmq_client::{ConsumeConcurrentlyStatus, MessageQueue};
use raftmq_remoting::body::{ClientStatus, ConsumeMessageDirectlyResult, OffsetTable};
use raftmq_remoting::codes::{request, response};
use raftmq_remoting::{Command, Ext, fastjson};
use tokio::sync::mpsc;

use super::broker::{Stored, record};
use super::fake::{FakeServer, Reply};
use super::push::{Group, config, next, telling};

fn queue(queue_id: i32) -> MessageQueue {
    MessageQueue { broker_name: "broker-a".into(), queue_id, topic: "T".into() }
}

fn ext(fields: &[(&str, &str)]) -> Ext {
    let mut ext = Ext::new();
    for (name, value) in fields {
        ext.set(name, value);
    }
    ext
}

#[tokio::test]
async fn offsets_are_reset_while_the_consumer_runs() {
    let group = Group::start().await;
    group.broker.store("T", 0, (0..5).map(|n| format!("a{n}")));
    let (mut told, listener) = telling(|_| ConsumeConcurrentlyStatus::ConsumeSuccess);
    let consumer = group.consume(config(), listener).await;
    for _ in 0..5 {
        next(&mut told).await;
    }
    let table = OffsetTable { offset_table: [(queue(0), 3)].into() };
    let fields = ext(&[("topic", "T"), ("group", "g"), ("timestamp", "1"), ("isForce", "true")]);
    let reset =
        Command::request(request::RESET_CONSUMER_CLIENT_OFFSET, fields).with_body(table.to_json().unwrap());
    group.broker.server.ask_clients(&reset.oneway());
    let mut again = [next(&mut told).await.1, next(&mut told).await.1];
    again.sort();
    assert_eq!(again, ["a3", "a4"]);
    group.broker.until("the offset", |state| state.offsets.get(&("T".into(), 0)) == Some(&5)).await;
    consumer.shutdown().await;
}

/// A broker that passes on what clients answer it.
async fn asking(group: &Group) -> (FakeServer, mpsc::UnboundedReceiver<Command>) {
    let (tell, answers) = mpsc::unbounded_channel();
    let server = FakeServer::start_raw(move |command| {
        if !command.is_response() {
            return Reply::Answer(Command::response_to(&command, response::SUCCESS));
        }
        tell.send(command).unwrap();
        Reply::Silence
    })
    .await;
    // Any connection will do for a broker to ask over, once it has been accepted.
    let connection = group.client.connection(&server.addr.to_string()).await.unwrap();
    connection
        .call(Command::request(request::HEART_BEAT, Ext::new()), Duration::from_secs(10))
        .await
        .unwrap();
    (server, answers)
}

#[tokio::test]
async fn a_consumer_tells_how_far_it_is_and_consumes_what_it_is_given() {
    let group = Group::start().await;
    group.broker.store("T", 0, (0..5).map(|n| format!("a{n}")));
    let given = Arc::new(Mutex::new(Vec::new()));
    let gives = given.clone();
    let (mut told, listener) = telling(move |body| {
        gives.lock().push(body.to_owned());
        match body {
            "later" => ConsumeConcurrentlyStatus::ReconsumeLater,
            "panic" => panic!("on purpose"),
            _ => ConsumeConcurrentlyStatus::ConsumeSuccess,
        }
    });
    let consumer = group.consume(config(), listener).await;
    for _ in 0..5 {
        next(&mut told).await;
    }
    group.broker.until("the offset", |state| state.offsets.get(&("T".into(), 0)) == Some(&5)).await;
    let (asker, mut answers) = asking(&group).await;

    let fields = ext(&[("topic", "T"), ("group", "g")]);
    let status = Command { opaque: 71, ..Command::request(request::GET_CONSUMER_STATUS_FROM_CLIENT, fields) };
    asker.ask_clients(&status);
    let answer = answers.recv().await.unwrap();
    assert_eq!((answer.opaque, answer.code), (71, response::SUCCESS));
    let status: ClientStatus = fastjson::parse(&answer.body).unwrap();
    assert_eq!(status.message_queue_table.get(&queue(0)), Some(&5));

    let fields = || {
        ext(&[
            ("consumerGroup", "g"),
            ("clientId", "c"),
            ("brokerName", "broker-a"),
            ("jstackEnable", "false"),
        ])
    };
    asker.ask_clients(&Command::request(request::GET_CONSUMER_RUNNING_INFO, fields()));
    let answer = answers.recv().await.unwrap();
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    let commit = r#"{"brokerName":"broker-a","queueId":0,"topic":"T"}:{"commitOffset":5,"#;
    for part in
        [commit, r#""PROP_CONSUMEORDERLY":"false""#, r#""statusTable":{"T":{"#, r#""topic":"%RETRY%g""#]
    {
        assert!(text.contains(part), "{part} in {text}");
    }

    for (body, expected) in [("now", "CR_SUCCESS"), ("later", "CR_LATER"), ("panic", "CR_THROW_EXCEPTION")] {
        let record = record(&("T".into(), 0), 9, &Stored { body: body.into(), ..Stored::default() });
        asker.ask_clients(&Command::request(request::CONSUME_MESSAGE_DIRECTLY, fields()).with_body(record));
        let answer = answers.recv().await.unwrap();
        let result: ConsumeMessageDirectlyResult = fastjson::parse(&answer.body).unwrap();
        assert_eq!((result.consume_result.as_str(), result.order), (expected, false));
        assert_eq!(given.lock().last().map(String::as_str), Some(body));
    }
    asker.ask_clients(&Command::request(request::CONSUME_MESSAGE_DIRECTLY, fields()).with_body("broken"));
    assert_eq!(answers.recv().await.unwrap().code, response::SYSTEM_ERROR);
    consumer.shutdown().await;
}

#[tokio::test]
async fn what_a_client_cannot_answer_is_refused_by_name() {
    let group = Group::start().await;
    let (asker, mut answers) = asking(&group).await;
    for (code, field, expected) in [
        (request::GET_CONSUMER_RUNNING_INFO, "consumerGroup", response::SYSTEM_ERROR),
        (request::PUSH_REPLY_MESSAGE_TO_CLIENT, "producerGroup", response::REQUEST_CODE_NOT_SUPPORTED),
    ] {
        asker.ask_clients(&Command::request(code, ext(&[(field, "nobody")])));
        let answer = answers.recv().await.unwrap();
        assert_eq!(answer.code, expected);
    }
}
