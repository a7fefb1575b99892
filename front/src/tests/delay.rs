//! Delayed messages through a real group: delivered once, when they are due, and across a stop in between.

use raftmq_broker::state::TimerProgress;
use raftmq_message::topic::{SCHEDULE_TOPIC, TIMER_TOPIC};
use raftmq_message::{RecordParts, RecordView};
use raftmq_raft::{Completion, MessageBatch, Placed, ProposeError};
use raftmq_store::FRAME_HEADER_BYTES;
use tokio::sync::oneshot;

use super::*;

struct Told(oneshot::Sender<u64>);

impl Completion for Told {
    fn complete(self: Box<Self>, outcome: Result<&[Placed], &ProposeError>) {
        let _ = self.0.send(outcome.unwrap()[0].physical_offset);
    }
}

fn now_ms() -> i64 {
    raftmq_world::World::system().clock.now_ms()
}

/// Stores a delayed message of topic D as a send does, and returns when it was stored.
async fn store(group: &Group, topic: &str, queue_id: i32, body: &str, properties: &str) -> i64 {
    let keys = &body[..body.len().min(10)];
    let properties = format!("KEYS\u{1}{keys}\u{2}REAL_TOPIC\u{1}D\u{2}REAL_QID\u{1}0\u{2}{properties}");
    let host = "127.0.0.1:1".parse().unwrap();
    let parts = RecordParts {
        topic,
        queue_id,
        flag: 0,
        sys_flag: 0,
        born_timestamp_ms: 5,
        born_host: host,
        store_host: host,
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body: body.as_bytes(),
        properties: &[&properties],
    };
    let mut records = BytesMut::new();
    parts.encode_into(&mut records).unwrap();
    let (told, physical_offset) = oneshot::channel();
    let batch =
        MessageBatch { records, count: 1, change: None, term: None, completion: Box::new(Told(told)) };
    group.submit(batch);
    let physical_offset = physical_offset.await.unwrap();
    let (tell, dispatched) = oneshot::channel();
    let callback = Box::new(move |done| drop(tell.send(done)));
    group.store().when_dispatched(physical_offset + 1, callback);
    timeout(PATIENCE, dispatched).await.unwrap().unwrap().unwrap();
    RecordView::parse(&group.store().record_at(physical_offset).unwrap()).unwrap().store_timestamp_ms()
}

/// Pulls from topic D until there are so many messages: their bodies with when they were stored.
async fn delivered(f: &Fixture, count: usize) -> Vec<(String, i64)> {
    let mut client = f.client().await;
    f.until(|f| f.group.store().queue("D", 0).is_some_and(|queue| queue.max_offset() >= count as u64)).await;
    let mut found = Vec::new();
    while found.len() < count {
        let answer = client.ok(pull("D", found.len() as i64, 5000, "*")).await;
        for record in RecordIter::new(&answer.body) {
            let record = record.unwrap();
            let body = String::from_utf8(record.body().to_vec()).unwrap();
            found.push((body.clone(), record.store_timestamp_ms()));
            if body == "first" {
                continue;
            }
            assert_eq!((record.property("REAL_TOPIC"), record.born_timestamp_ms()), (Some("D"), 5));
            assert_eq!(record.property("KEYS"), Some(&body[..]));
        }
    }
    found
}

fn timer(due_ms: i64) -> String {
    format!("TIMER_OUT_MS\u{1}{due_ms}\u{2}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delayed_messages_come_when_they_are_due_and_once() {
    let f = Fixture::start().await;
    f.client().await.ok(send("D", "first")).await;
    let now_ms = now_ms();
    let due = [now_ms + 900, now_ms + 300, now_ms - 5, now_ms + 600];
    for (name, due_ms) in ["900", "300", "past", "600"].iter().zip(due) {
        store(&f.group, TIMER_TOPIC, 0, name, &timer(due_ms)).await;
    }
    // One that nobody can deliver does not hold the others up.
    store(&f.group, TIMER_TOPIC, 0, "nowhere", &format!("{}REAL_QID\u{1}x\u{2}", timer(now_ms))).await;
    let stored_ms = store(&f.group, SCHEDULE_TOPIC, 0, "level", "DELAY\u{1}1\u{2}").await;
    let found = delivered(&f, 6).await;
    let bodies: Vec<_> = found.iter().map(|(body, _)| body.as_str()).collect();
    let mut sorted = bodies.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, ["300", "600", "900", "first", "level", "past"]);
    let of = |name: &str| found.iter().find(|(body, _)| body == name).unwrap().1;
    assert!(of("300") >= due[1] && of("600") >= due[3] && of("900") >= due[0], "{found:?}");
    assert!(of("level") >= stored_ms + 1000);
    assert!(bodies.iter().position(|b| *b == "300") < bodies.iter().position(|b| *b == "600"));

    let answer = f.client().await.ok(Command::request(request::GET_BROKER_RUNTIME_INFO, Ext::new())).await;
    let table: KvTable = fastjson::parse(&answer.body).unwrap();
    assert_eq!(table.table["scheduleMessageOffset_1"], "1,1");
    assert_eq!(table.table["scheduleMessageOffset_18"], "0,0");
    assert!(table.table["timerCongestNum"].parse::<u32>().unwrap() <= 5);
    f.stop().await;
}

/// What no send would have let in: it fits an entry on its way in and does not on its way out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_the_log_refuses_is_passed_over() {
    let f = Fixture::start().await;
    f.client().await.ok(send("D", "first")).await;
    let now_ms = now_ms();
    let properties = format!("{}REAL_TOPIC\u{1}{}\u{2}", timer(now_ms + 400), "D".repeat(120));
    let entry_bytes = (1 << 20) - FRAME_HEADER_BYTES;
    let body = "x".repeat(entry_bytes - 320);
    store(&f.group, TIMER_TOPIC, 0, "before", &timer(now_ms + 400)).await;
    store(&f.group, TIMER_TOPIC, 0, &body, &properties).await;
    store(&f.group, TIMER_TOPIC, 0, "behind", &timer(now_ms + 400)).await;
    let bodies: Vec<_> = delivered(&f, 3).await.into_iter().map(|(body, _)| body).collect();
    assert_eq!(bodies, ["first", "before", "behind"]);
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delayed_message_that_is_taken_can_be_delivered() {
    let f = Fixture::start().await;
    let mut client = f.client().await;
    let topic = "D".repeat(120);
    client.ok(send(&topic, "first")).await;
    let mut body = vec![b'x'; (1 << 20) - FRAME_HEADER_BYTES];
    loop {
        let properties = "TIMER_DELAY_MS\u{1}50\u{2}".into();
        let ext = SendHeader { properties, ..send_header(&topic) }.to_ext();
        let request = Command::request(request::SEND_MESSAGE_V2, ext).with_body(body.clone());
        match client.code(request).await {
            response::SUCCESS => break,
            code => assert_eq!(code, response::MESSAGE_ILLEGAL),
        }
        body.truncate(body.len() - 16);
    }
    f.until(|f| f.group.store().queue(&topic, 0).is_some_and(|queue| queue.max_offset() == 2)).await;
    f.stop().await;
}

/// A step that delivers nothing is for its term as well: it is an entry of messages without any.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_without_messages_is_applied() {
    let f = Fixture::start().await;
    store(&f.group, TIMER_TOPIC, 0, "nowhere", &format!("{}REAL_QID\u{1}x\u{2}", timer(now_ms()))).await;
    f.until(|f| f.state.delay.timers().scanned == 1).await;
    let log = f.group.store().log();
    let last = log.frame(log.last().unwrap().index).unwrap().unwrap();
    assert_eq!((last.header.kind, last.records().len()), (raftmq_store::FrameKind::Messages, 0));
    let f = f.restart().await;
    assert_eq!(f.state.delay.timers().scanned, 1);
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_leader_goes_on_where_the_last_one_was() {
    let f = Fixture::start().await;
    f.client().await.ok(send("D", "first")).await;
    let now_ms = now_ms();
    store(&f.group, TIMER_TOPIC, 0, "soon", &timer(now_ms + 1)).await;
    store(&f.group, TIMER_TOPIC, 0, "later", &timer(now_ms + 600_000)).await;
    let level_ms = store(&f.group, SCHEDULE_TOPIC, 1, "level", "DELAY\u{1}2\u{2}").await;
    assert_eq!(delivered(&f, 2).await[1].0, "soon");
    let progress = f.state.delay.timers();
    assert_eq!((progress.due_ms, progress.offset), (now_ms + 1, 0));
    let f = f.restart().await;
    assert_eq!(f.state.delay.timers(), progress);
    store(&f.group, TIMER_TOPIC, 0, "past", &timer(now_ms)).await;
    let found = delivered(&f, 4).await;
    let bodies: Vec<_> = found.iter().map(|(body, _)| body.as_str()).collect();
    assert_eq!(bodies, ["first", "soon", "past", "level"]);
    assert!(found[3].1 >= level_ms + 5000);
    let expected = TimerProgress { scanned: 3, ..progress };
    assert_eq!(f.state.delay.timers(), expected);
    f.stop().await;
}
