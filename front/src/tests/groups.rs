//! Consumer groups: members, subscriptions, offsets, locks.

use std::task::{Context, Poll};

use raftmq_broker::state::{OffsetCommand, OffsetCommit, Offsets};
use raftmq_remoting::body::{CheckClientRequest, ConsumerConnection, MessageModel};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_find_each_other_and_their_offsets() {
    let f = Fixture::start().await;
    let (mut a, mut b) = (f.client().await, f.client().await);
    a.ok(send("T", "zero")).await;
    a.ok(pull("T", 0, 5000, "*")).await;
    let beat = |id: &str| heartbeat(id, consumer("G", &[("T", "*", 0)]));
    let members = || {
        let ext = [("consumerGroup", "G")].into_iter().collect();
        Command::request(request::GET_CONSUMER_LIST_BY_GROUP, ext)
    };
    let ids = |answer: &Command| fastjson::parse::<ConsumerIdList>(&answer.body).unwrap().consumer_id_list;

    // A member is told of itself too, as it is then sure to share out the queues anew.
    a.write([beat("a")]).await;
    let mut codes = [a.read().await.unwrap(), a.read().await.unwrap()].map(|c| (c.is_response(), c.code));
    codes.sort_unstable();
    assert_eq!(codes, [(false, request::NOTIFY_CONSUMER_IDS_CHANGED), (true, 0)]);
    assert!(f.registered_topics().contains(&"%RETRY%G".to_owned()));
    assert_eq!(ids(&a.ok(members()).await), ["a"]);
    b.write([beat("b")]).await;
    let told = a.read().await.unwrap();
    assert_eq!((told.code, told.ext.get("consumerGroup").as_deref()), (40, Some("G")));
    for _ in 0..2 {
        b.read().await.unwrap();
    }
    assert_eq!(ids(&b.ok(members()).await), ["a", "b"]);

    let offset_ext = |offset: Option<&str>| {
        let mut ext: Ext = [("consumerGroup", "G"), ("topic", "T"), ("queueId", "0")].into_iter().collect();
        if let Some(offset) = offset {
            ext.set("commitOffset", offset);
        }
        ext
    };
    let query = || Command::request(request::QUERY_CONSUMER_OFFSET, offset_ext(None));
    let answer = a.ok(query()).await;
    assert_eq!(
        answer.ext.get_i64("offset"),
        Ok(Some(0)),
        "a new group starts at the first message of a young queue"
    );
    let mut strict = query();
    strict.ext.set("setZeroIfNotFound", "false");
    assert_eq!(a.call(strict).await.code, response::QUERY_NOT_FOUND);
    for (queue, code) in [("3", response::SUCCESS), ("4", response::QUERY_NOT_FOUND)] {
        let mut empty = query();
        empty.ext.set("queueId", queue);
        let answer = a.call(empty).await;
        assert_eq!((answer.code, answer.ext.get_i64("offset")), (code, Ok((code == 0).then_some(0))));
    }
    let mut bad_name = Command::request(request::UPDATE_CONSUMER_OFFSET, offset_ext(Some("1")));
    bad_name.ext.set("consumerGroup", "CID_RMQ_SYS_a b");
    assert_eq!(a.call(bad_name).await.code, response::SUBSCRIPTION_GROUP_NOT_EXIST);
    a.ok(Command::request(request::UPDATE_CONSUMER_OFFSET, offset_ext(Some("1")))).await;
    assert_eq!(b.ok(query()).await.ext.get_i64("offset"), Ok(Some(1)), "seen before it is in the log");
    f.until(|f| f.state.offsets.get("G", "T", 0) == Some(1)).await;

    assert_eq!(held(&a.ok(lock(request::LOCK_BATCH_MQ, "a")).await), 1);
    assert_eq!(held(&b.ok(lock(request::LOCK_BATCH_MQ, "b")).await), 0);
    a.ok(lock(request::UNLOCK_BATCH_MQ, "a")).await;
    assert_eq!(held(&b.ok(lock(request::LOCK_BATCH_MQ, "b")).await), 1);
    let of_new_group = |code| {
        let body = String::from_utf8(lock(code, "a").body.to_vec()).unwrap().replace("\"G\"", "\"H\"");
        Command::request(code, Ext::new()).with_body(body)
    };
    assert_eq!(
        a.call(of_new_group(request::UNLOCK_BATCH_MQ)).await.code,
        response::SUBSCRIPTION_GROUP_NOT_EXIST
    );
    assert_eq!(held(&a.ok(of_new_group(request::LOCK_BATCH_MQ)).await), 1);
    assert!(f.state.groups.get("H").is_some(), "locks are of groups that can be deleted");

    drop(a);
    let told = b.read().await.unwrap();
    assert_eq!(told.code, request::NOTIFY_CONSUMER_IDS_CHANGED);
    assert_eq!(ids(&b.ok(members()).await), ["b"]);
    f.stop().await;
}

/// Takes, renews or releases the lock of queue 0 for a client of `G`.
pub(super) fn lock(code: i32, id: &str) -> Command {
    let queue = MessageQueue { broker_name: "broker-a".into(), queue_id: 0, topic: "T".into() };
    let body = LockBatchRequest {
        client_id: id.into(),
        consumer_group: "G".into(),
        mq_set: vec![queue],
        only_this_broker: false,
    };
    Command::request(code, Ext::new()).with_body(fastjson::to_vec(&body).unwrap())
}

/// How many queues the answer to a lock request names.
pub(super) fn held(answer: &Command) -> usize {
    fastjson::parse::<LockBatchResponse>(&answer.body).unwrap().lock_ok_mq_set.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_over_a_client_id_stays_when_the_old_one_leaves() {
    let f = Fixture::start().await;
    let (mut old, mut new, mut other) = (f.client().await, f.client().await, f.client().await);
    other.ok(send("T", "zero")).await;
    other.ok(pull("T", 0, 5000, "*")).await;
    for (client, version) in [(&mut old, 1), (&mut new, 2)] {
        let code = client.code(heartbeat("a", consumer("G", &[("T", "*", version)]))).await;
        assert_eq!(code, response::SUCCESS);
    }
    let group = || [("consumerGroup", "G")].into_iter().collect::<Ext>();
    let shown = other.ok(Command::request(request::GET_CONSUMER_CONNECTION_LIST, group())).await;
    let shown: ConsumerConnection = fastjson::parse(&shown.body).unwrap();
    assert_eq!(shown.connection_set.len(), 2, "operators see the mistake");
    new.write([lock(request::LOCK_BATCH_MQ, "a")]).await;
    assert_eq!(held(&new.answer().await), 1);

    // The old one stops: it gives back its queues, leaves and is gone.
    let leave: Ext = [("clientID", "a"), ("consumerGroup", "G")].into_iter().collect();
    assert_eq!(old.code(lock(request::UNLOCK_BATCH_MQ, "a")).await, response::SUCCESS);
    assert_eq!(old.code(Command::request(request::UNREGISTER_CLIENT, leave)).await, response::SUCCESS);
    drop(old);
    f.until(|f| f.broker.stats().connections == 2).await;
    let ids = other.ok(Command::request(request::GET_CONSUMER_LIST_BY_GROUP, group())).await;
    assert_eq!(fastjson::parse::<ConsumerIdList>(&ids.body).unwrap().consumer_id_list, ["a"]);
    assert_eq!(
        held(&other.ok(lock(request::LOCK_BATCH_MQ, "b")).await),
        0,
        "what the new one holds stays held"
    );
    let mut pull = pull("T", 0, 0, "*");
    pull.ext.set("sysFlag", "0").set("subVersion", "2");
    new.write([pull]).await;
    assert_eq!(bodies(&new.answer().await.body), [b"zero"]);
    assert_eq!(new.code(lock(request::UNLOCK_BATCH_MQ, "a")).await, response::SUCCESS);
    assert_eq!(held(&other.ok(lock(request::LOCK_BATCH_MQ, "b")).await), 1);
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_wants_no_notifications_gets_none() {
    let f = Fixture::start().await;
    let mut client = f.client().await;
    let settings = SubscriptionGroupConfig {
        group_name: "quiet".into(),
        notify_consumer_ids_changed_enable: false,
        ..Default::default()
    };
    client.ok(put_group(&settings)).await;
    let broadcast = ConsumerData { message_model: MessageModel::Broadcasting, ..consumer("broadcast", &[]) };
    client.write([heartbeat("a", consumer("quiet", &[])), heartbeat("a", broadcast)]).await;
    // One that goes by another name each time, told of each when the one before was told of.
    for id in ["a", "b", "c"] {
        client.write([heartbeat(id, consumer("loud", &[]))]).await;
        let told = loop {
            let command = client.read().await.unwrap();
            if !command.is_response() {
                break command;
            }
            assert_eq!(command.code, response::SUCCESS);
        };
        assert_eq!(told.ext.get("consumerGroup").as_deref(), Some("loud"));
        assert_eq!(f.broker.node.broker.clients.consumer_ids("loud"), [id]);
    }
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_of_hundreds_that_join_at_once_are_told() {
    const COUNT: usize = 300;
    let f = Fixture::start().await;
    let mut clients = Vec::new();
    for n in 0..COUNT {
        let mut client = f.client().await;
        client.write([heartbeat(&format!("client-{n}"), consumer("G", &[("T", "*", 1)]))]).await;
        clients.push(client);
    }
    f.until(|f| f.broker.node.broker.clients.consumer_ids("G").len() == COUNT).await;
    for mut client in clients {
        let mut codes = [0; 2].map(|_| None);
        // Its answer, and at least one notification.
        while codes.contains(&None) {
            let command = client.read().await.unwrap();
            codes[usize::from(command.is_response())] = Some(command.code);
        }
        assert_eq!(codes, [Some(request::NOTIFY_CONSUMER_IDS_CHANGED), Some(response::SUCCESS)]);
    }
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_topic_has_the_queues_its_group_says() {
    let f = Fixture::start().await;
    let mut client = f.client().await;
    for (group, queues) in [("four", 4), ("none", 0)] {
        let settings = SubscriptionGroupConfig {
            group_name: group.into(),
            retry_queue_nums: queues,
            ..Default::default()
        };
        client.ok(put_group(&settings)).await;
        assert_eq!(client.code(heartbeat("a", consumer(group, &[]))).await, response::SUCCESS);
        let topic = f.state.topics.get(&format!("%RETRY%{group}"));
        assert_eq!(topic.map_or(0, |topic| topic.read_queues), queues as u32);
    }
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expression_is_checked_before_it_is_used() {
    let f = Fixture::start().await;
    let mut client = f.client().await;
    let check = |expression_type: &str, expression: &str| {
        let subscription_data = SubscriptionData {
            expression_type: expression_type.into(),
            sub_string: expression.into(),
            ..Default::default()
        };
        let body = CheckClientRequest { subscription_data, ..Default::default() };
        let check = Command::request(request::CHECK_CLIENT_CONFIG, Ext::new());
        check.with_body(fastjson::to_vec(&body).unwrap())
    };
    client.ok(check("TAG", "A || B")).await;
    client.ok(check("SQL92", "a BETWEEN 1 AND 3 OR b IS NULL")).await;
    let (long, deep) = ("a".repeat(1 << 20), "(".repeat(10_000));
    for (expression_type, expression, words) in [
        ("LUA", "x", "LUA"),
        ("SQL92", "a >", "expected"),
        ("SQL92", "", "expected"),
        ("SQL92", &long, "1048576 bytes"),
        ("SQL92", &deep, "inside each other"),
    ] {
        let answer = client.call(check(expression_type, expression)).await;
        let remark = answer.remark.unwrap();
        assert!(answer.code == response::SUBSCRIPTION_PARSE_FAILED && remark.contains(words), "{remark}");
    }
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_that_are_on_their_way_do_not_outlive_their_group() {
    let f = Fixture::start().await;
    let mut client = f.client().await;
    client.ok(send("T", "zero")).await;
    let joined = client.code(heartbeat("a", consumer("G", &[("T", "*", 0)]))).await;
    assert_eq!(joined, response::SUCCESS);
    let node = f.broker.node.clone();
    // A round has taken up what is pending and not proposed it yet.
    let round = node.broker.offsets.between_rounds().await;
    let fields = [("groupName", "G"), ("cleanOffset", "true")];
    let delete = Command::request(request::DELETE_SUBSCRIPTIONGROUP, fields.into_iter().collect());
    let mut deleting = std::pin::pin!(config_codes::delete_group(&node, &delete));
    let first_step = |context: &mut Context<'_>| Poll::Ready(deleting.as_mut().poll(context).is_pending());
    assert!(std::future::poll_fn(first_step).await);
    let offset = OffsetCommit { group: "G".into(), topic: "T".into(), queue_id: 0, offset: 1 };
    node.replica.change::<Offsets>(&OffsetCommand::Commit(vec![offset])).await.unwrap();
    drop(round);
    deleting.await.unwrap();
    let state = &f.state;
    assert_eq!((state.groups.get("G"), state.offsets.get("G", "T", 0)), (None, None));
    f.stop().await;
}
