//! Topics that are deleted, and made again.

use raftmq_remoting::header::CreateTopicHeader;

use super::trio::Trio;
use super::*;

fn fields<'a>(code: i32, ext: impl IntoIterator<Item = (&'a str, &'a str)>) -> Command {
    Command::request(code, ext.into_iter().collect())
}

fn make() -> Command {
    let header = CreateTopicHeader {
        topic: "T".into(),
        default_topic: Some("TBW102".into()),
        read_queue_nums: 4,
        write_queue_nums: 4,
        perm: 6,
        topic_filter_type: raftmq_remoting::body::TopicFilterType::SingleTag,
        topic_sys_flag: Some(0),
        order: false,
        attributes: None,
    };
    Command::request(request::UPDATE_AND_CREATE_TOPIC, header.to_ext())
}

fn delete() -> Command {
    fields(request::DELETE_TOPIC_IN_BROKER, [("topic", "T")])
}

fn offset(code: i32, commit: Option<&str>) -> Command {
    let of = [("consumerGroup", "G"), ("topic", "T"), ("queueId", "0"), ("setZeroIfNotFound", "false")];
    fields(code, of.into_iter().chain(commit.map(|offset| ("commitOffset", offset))))
}

fn lock(client: &str) -> Command {
    let queue = MessageQueue { topic: "T".into(), broker_name: "broker-a".into(), queue_id: 0 };
    let body = LockBatchRequest {
        consumer_group: "G".into(),
        client_id: client.into(),
        mq_set: vec![queue],
        ..Default::default()
    };
    Command::request(request::LOCK_BATCH_MQ, Ext::new()).with_body(fastjson::to_vec(&body).unwrap())
}

async fn locks(client: &mut Client, name: &str) -> usize {
    let answer = client.ok(lock(name)).await;
    fastjson::parse::<LockBatchResponse>(&answer.body).unwrap().lock_ok_mq_set.len()
}

async fn sent_to(client: &mut Client, body: &'static str) -> i64 {
    SendResponse::decode(&client.ok(send("T", body)).await).unwrap().queue_offset
}

async fn max_offset(client: &mut Client) -> i64 {
    client.queue_number(request::GET_MAX_OFFSET, "T", "offset").await
}

/// What a consumer finds at the beginning.
async fn found(client: &mut Client) -> Vec<Vec<u8>> {
    let answer = client.call(pull("T", 0, 0, "*")).await;
    match answer.code {
        response::SUCCESS => bodies(&answer.body).into_iter().map(|body| body.to_vec()).collect(),
        code => {
            assert_eq!(code, response::PULL_NOT_FOUND);
            Vec::new()
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_made_again_is_empty() {
    let mut f = Fixture::start().await;
    let mut client = f.client().await;
    for round in 0..3 {
        client.ok(make()).await;
        // At once: not only when all is settled.
        assert_eq!((max_offset(&mut client).await, found(&mut client).await.len()), (0, 0), "{round}");
        let code = client.call(offset(request::QUERY_CONSUMER_OFFSET, None)).await.code;
        assert_eq!(code, response::QUERY_NOT_FOUND);
        assert_eq!(locks(&mut client, &format!("c{round}")).await, 1, "{round}");
        for n in 0..3 {
            assert_eq!(sent_to(&mut client, "old").await, n, "{round}");
        }
        f.until(|f| f.group.store().queue("T", 0).is_some_and(|queue| queue.max_offset() == 3)).await;
        assert_eq!(found(&mut client).await.len(), 3);
        client.ok(offset(request::UPDATE_CONSUMER_OFFSET, Some("2"))).await;
        // One that nobody waits for is on its way when the topic goes.
        client.write([offset(request::UPDATE_CONSUMER_OFFSET, Some("3")).oneway()]).await;
        client.ok(delete()).await;
        assert_eq!(client.call(pull("T", 0, 0, "*")).await.code, response::TOPIC_NOT_EXIST);
        if round == 1 {
            f = f.restart().await;
            client = f.client().await;
        }
    }
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_member_has_forgotten_a_deleted_topic() {
    let trio = Trio::start().await;
    let leader = trio.leader().await;
    let mut client = trio.client(leader).await;
    client.ok(make()).await;
    for n in 0..5 {
        assert_eq!(sent_to(&mut client, "old").await, n);
    }
    client.ok(delete()).await;
    client = trio.move_leadership().await;
    client.ok(make()).await;
    assert_eq!((max_offset(&mut client).await, found(&mut client).await.len()), (0, 0));
    assert_eq!(sent_to(&mut client, "new").await, 0);
    client = trio.move_leadership().await;
    assert_eq!(found(&mut client).await, [b"new"]);
    assert_eq!(sent_to(&mut client, "newer").await, 1);
    trio.until(|trio| {
        let has = |group: &Group| group.store().queue("T", 0).is_some_and(|queue| queue.max_offset() == 2);
        trio.members.iter().all(|(_, group)| has(group))
    })
    .await;
    trio.stop().await;
}

/// Sends that come while a topic is deleted are stored before that or refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_meanwhile_is_gone_or_refused() {
    let f = Fixture::start_configured(|config| config.auto_create_topic = false).await;
    f.until(|f| f.group.feature_level() == 2).await;
    let (mut operator, mut producer) = (f.client().await, f.client().await);
    for round in 0..20 {
        operator.ok(make()).await;
        producer.write((0..50).map(|_| send("T", "old"))).await;
        operator.write([delete()]).await;
        producer.write((0..50).map(|_| send("T", "old"))).await;
        assert_eq!(operator.read().await.unwrap().code, response::SUCCESS);
        for _ in 0..100 {
            let code = producer.read().await.unwrap().code;
            assert!([response::SUCCESS, response::TOPIC_NOT_EXIST].contains(&code), "{code}");
        }
        operator.ok(make()).await;
        assert_eq!((max_offset(&mut operator).await, found(&mut operator).await.len()), (0, 0), "{round}");
        assert_eq!(sent_to(&mut producer, "new").await, 0, "{round}");
        operator.ok(delete()).await;
    }
    f.stop().await;
}
