//! What has to hold while leadership moves among three members.

use super::trio::Trio;
use super::*;

fn locks(code: i32, client: &str, queues: std::ops::Range<i32>) -> Command {
    let queue = |queue_id| MessageQueue { broker_name: "broker-a".into(), queue_id, topic: "T".into() };
    let body = LockBatchRequest {
        client_id: client.into(),
        consumer_group: "G".into(),
        mq_set: queues.map(queue).collect(),
        only_this_broker: client == "a",
    };
    Command::request(code, Ext::new()).with_body(fastjson::to_vec(&body).unwrap())
}

async fn lock(client: &mut Client, id: &str, queues: std::ops::Range<i32>) -> Vec<i32> {
    let answer = client.ok(locks(request::LOCK_BATCH_MQ, id, queues)).await;
    let held: LockBatchResponse = fastjson::parse(&answer.body).unwrap();
    held.lock_ok_mq_set.iter().map(|queue| queue.queue_id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_queue_gets_two_owners_while_leadership_moves() {
    let trio = Trio::start().await;
    let mut client = trio.client(trio.leader().await).await;
    client.ok(send("T", "zero")).await;
    assert_eq!(lock(&mut client, "a", 0..2).await, [0, 1]);
    let until = |leader: usize| {
        let locks = trio.members[leader].0.state().locks.of_group("G");
        locks.iter().map(|lock| lock.until_ms).max()
    };
    for _ in 0..3 {
        let before = until(trio.leader().await);
        let mut client = trio.move_leadership().await;
        assert_eq!(lock(&mut client, "b", 0..3).await, [2], "b gets what nobody holds");
        assert_eq!(lock(&mut client, "a", 0..3).await, [0, 1], "a renews what it holds");
        assert!(until(trio.leader().await) >= before, "a renewal never shortens a lock");
        client.ok(locks(request::UNLOCK_BATCH_MQ, "a", 0..3)).await;
        assert_eq!(lock(&mut client, "c", 0..3).await, [0, 1], "what a has let go is free, not what b holds");
        client.ok(locks(request::UNLOCK_BATCH_MQ, "c", 0..3)).await;
        client.ok(locks(request::UNLOCK_BATCH_MQ, "b", 0..3)).await;
        assert_eq!(lock(&mut client, "a", 0..2).await, [0, 1]);
    }
    trio.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answered_offset_and_a_reset_survive_every_move() {
    let trio = Trio::start().await;
    let mut client = trio.client(trio.leader().await).await;
    for _ in 0..9 {
        client.ok(send("T", "x")).await;
    }
    // The pull makes the group.
    client.ok(pull("T", 0, 5000, "*")).await;
    let request = |code: i32, more: &[(&str, &str)]| {
        let fields = [("consumerGroup", "G"), ("group", "G"), ("topic", "T"), ("queueId", "0")];
        Command::request(code, fields.into_iter().chain(more.iter().copied()).collect())
    };
    for offset in 1..6 {
        let text = offset.to_string();
        client.ok(request(request::UPDATE_CONSUMER_OFFSET, &[("commitOffset", &text)])).await;
        client = trio.move_leadership().await;
        let answer = client.ok(request(request::QUERY_CONSUMER_OFFSET, &[])).await;
        assert_eq!(answer.ext.get_i64("offset"), Ok(Some(offset)));
    }
    let reset = [("timestamp", "0"), ("offset", "2"), ("isForce", "true")];
    client.ok(request(request::INVOKE_BROKER_TO_RESET_OFFSET, &reset)).await;
    client = trio.move_leadership().await;
    client.ok(request(request::UPDATE_CONSUMER_OFFSET, &[("commitOffset", "8")])).await;
    let answer = client.ok(request(request::QUERY_CONSUMER_OFFSET, &[])).await;
    assert_eq!(answer.ext.get_i64("offset"), Ok(Some(2)), "the reset stands until a pull takes it up");
    let told = client.call(pull("T", 8, 0, "*")).await;
    let next = PullResponse::decode(&told).unwrap().next_begin_offset;
    assert_eq!((told.code, next), (response::PULL_OFFSET_MOVED, 2));
    let found = client.ok(pull("T", 2, 0, "*")).await;
    assert_eq!(bodies(&found.body).len(), 7);
    client.ok(request(request::UPDATE_CONSUMER_OFFSET, &[("commitOffset", "3")])).await;
    client = trio.move_leadership().await;
    assert_eq!(client.ok(pull("T", 8, 0, "*")).await.code, 0, "it was told once");
    let answer = client.ok(request(request::QUERY_CONSUMER_OFFSET, &[])).await;
    assert_eq!(answer.ext.get_i64("offset"), Ok(Some(3)));
    trio.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_leaves_a_reset_to_the_leader() {
    let (trio, leader, follower, mut client) = Trio::start_with_reader("G").await;
    let fields = [("group", "G"), ("topic", "T"), ("timestamp", "-1"), ("isForce", "true")];
    let reset = Command::request(request::INVOKE_BROKER_TO_RESET_OFFSET, fields.into_iter().collect());
    client.ok(reset).await;
    trio.until(|trio| trio.members[follower].0.state().offsets.pending_reset("G", "T", 0).is_some()).await;
    trio.until(|trio| trio.members[leader].1.is_near(follower as u64 + 1)).await;
    let next = |answer: &Command| {
        let fields = PullResponse::decode(answer).unwrap();
        (answer.code, fields.next_begin_offset, fields.suggest_which_broker_id)
    };
    let mut reader = trio.client(follower).await;
    assert_eq!(next(&reader.call(pull("T", 0, 0, "*")).await), (20, 0, 0));
    // One that may wait does for a moment, so that nobody asks in circles: what comes behind it is answered before.
    let other = || Command::request(request::GET_ALL_TOPIC_CONFIG, Ext::new());
    reader.write([pull("T", 0, 20_000, "*"), other()]).await;
    let (first, second) = (reader.answer().await, reader.answer().await);
    assert!(first.opaque > second.opaque);
    assert_eq!(next(&second), (20, 0, 0));
    assert_eq!(next(&client.call(pull("T", 0, 0, "*")).await), (21, 1, follower as i64 + 1));
    assert_eq!(next(&reader.call(pull("T", 1, 0, "*")).await), (20, 1, 0));
    assert_eq!(next(&client.call(pull("T", 1, 0, "*")).await).0, 19, "taken up");
    trio.until(|trio| trio.members[follower].0.state().offsets.pending_reset("G", "T", 0).is_none()).await;
    assert_eq!(next(&reader.call(pull("T", 1, 0, "*")).await).0, 19);
    trio.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_is_deleted_by_asking_every_member() {
    let trio = Trio::start().await;
    let leader = trio.leader().await;
    trio.client(leader).await.ok(send("T", "zero")).await;
    let known =
        |trio: &Trio| trio.members.iter().filter(|(broker, _)| broker.state().topics.has("T")).count();
    trio.until(|trio| known(trio) == 3).await;
    let delete = || Command::request(request::DELETE_TOPIC_IN_BROKER, [("topic", "T")].into_iter().collect());
    // Both have heard by then where the leader is.
    let follower = |n: usize| (leader + n) % 3;
    trio.until(|trio| (1..3).all(|n| trio.members[follower(n)].0.node.replica.other_leader().is_some()))
        .await;
    let mut passed_on = delete();
    passed_on.ext.set("forwardedBy", "7");
    let refused = trio.client(follower(1)).await.call(passed_on).await;
    assert_eq!(refused.code, response::SERVICE_NOT_AVAILABLE, "not passed on again");
    assert_eq!(known(&trio), 3);
    trio.client(follower(1)).await.ok(delete()).await;
    assert!(trio.members[leader].0.state().topics.get("T").is_none(), "the leader has done it");
    trio.client(follower(2)).await.ok(delete()).await;
    trio.client(leader).await.ok(delete()).await;
    trio.until(|trio| known(trio) == 0).await;
    trio.stop().await;
}
