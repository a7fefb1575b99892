//! One connection: pipelining, its bounds, and how it ends.

use std::sync::Arc;
use std::time::Duration;

use raftmq_testkit::free_address;

use super::fake::{FakeServer, Reply};
use bytes::BytesMut;
use parking_lot::Mutex;
use raftmq_client::{CallError, Connection, World};
use raftmq_remoting::encode::encode_command;
use raftmq_remoting::{Command, Ext};

const SHORT: Duration = Duration::from_millis(150);
const LONG: Duration = Duration::from_secs(5);

fn request(code: i32) -> Command {
    Command::request(code, Ext::new())
}

async fn connect(server: &FakeServer, in_flight_max: usize) -> Arc<Connection> {
    Arc::new(
        Connection::connect(&*World::system().network, &server.addr.to_string(), LONG, in_flight_max)
            .await
            .unwrap(),
    )
}

#[tokio::test]
async fn answers_find_their_requests_in_any_order() {
    let held: Mutex<Vec<Command>> = Mutex::default();
    let server = FakeServer::start(move |request| {
        let mut held = held.lock();
        held.push(request);
        if held.len() < 10 {
            return Reply::Silence;
        }
        let mut out = BytesMut::new();
        for request in held.drain(..).rev() {
            encode_command(&Command::response_to(&request, request.code), &mut out).unwrap();
        }
        Reply::Raw(out.to_vec())
    })
    .await;
    let connection = connect(&server, 100).await;
    let mut calls = tokio::task::JoinSet::new();
    for code in 0..10 {
        let connection = connection.clone();
        calls.spawn(async move { (code, connection.call(request(code), LONG).await) });
    }
    while let Some(done) = calls.join_next().await {
        let (code, answer) = done.unwrap();
        assert_eq!(answer.unwrap().code, code);
    }
}

#[tokio::test]
async fn more_callers_than_allowed_wait_their_turn() {
    let server = FakeServer::start(|_| Reply::Silence).await;
    let connection = connect(&server, 1).await;
    let waiting = tokio::spawn({
        let connection = connection.clone();
        async move { connection.call(request(1), LONG).await }
    });
    while server.requests() == 0 {
        tokio::task::yield_now().await;
    }
    let error = connection.call(request(2), SHORT).await.unwrap_err();
    assert!(matches!(error, CallError::Timeout { sent: false, .. }) && !error.may_have_been_executed());
    assert_eq!(server.requests(), 1);
    drop(server);
    assert!(waiting.await.unwrap().unwrap_err().may_have_been_executed());
    assert!(connection.is_closed());
    let error = connection.call(request(3), SHORT).await.unwrap_err();
    assert!(matches!(error, CallError::NotSent { .. }), "{error}");
}

#[tokio::test]
async fn a_late_answer_is_dropped_and_the_connection_lives_on() {
    let late: Mutex<Option<Command>> = Mutex::default();
    let server = FakeServer::start(move |request| {
        let mut late = late.lock();
        let Some(first) = late.take() else {
            *late = Some(request);
            return Reply::Silence;
        };
        let mut out = BytesMut::new();
        for request in [first, request] {
            encode_command(&Command::response_to(&request, request.code), &mut out).unwrap();
        }
        Reply::Raw(out.to_vec())
    })
    .await;
    let connection = connect(&server, 10).await;
    let error = connection.call(request(1), SHORT).await.unwrap_err();
    assert!(matches!(error, CallError::Timeout { sent: true, .. }));
    assert_eq!(connection.call(request(2), LONG).await.unwrap().code, 2);
}

#[tokio::test]
async fn bytes_that_are_no_frame_end_the_connection_by_name() {
    for bytes in [vec![0xFF; 64], b"\0\0\0\x08\0\0\0\x04junk".to_vec()] {
        let server = FakeServer::start(move |_| Reply::Raw(bytes.clone())).await;
        let connection = connect(&server, 10).await;
        let error = connection.call(request(1), LONG).await.unwrap_err();
        assert!(matches!(&error, CallError::Lost { reason, .. } if reason.contains("bad ")), "{error}");
        assert!(connection.is_closed());
    }
}

#[tokio::test]
async fn nobody_there_is_an_error_at_once() {
    let addr = free_address().to_string();
    let error = Connection::connect(&*World::system().network, &addr, LONG, 1).await.unwrap_err();
    assert!(matches!(error, CallError::Connect { .. }) && !error.may_have_been_executed(), "{error}");
}
