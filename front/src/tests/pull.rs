//! Pulls: what they may see and find, how they are held, and clients that ask for too much.

use raftmq_remoting::body::MessageModel;

use super::*;
use raftmq_broker::state::{GroupCommand, Groups, SubscriptionGroup, Topic, TopicCommand, Topics};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_is_held_until_something_it_wants_arrives_or_its_time_is_over() {
    let f = Fixture::start().await;
    let (mut producer, mut consumer) = (f.client().await, f.client().await);
    producer.ok(send("T", "zero")).await;
    consumer.ok(pull("T", 0, 5000, "*")).await;

    let start = Instant::now();
    let nothing = consumer.call(pull("T", 1, 300, "*")).await;
    assert_eq!((nothing.code, nothing.remark.as_deref()), (19, Some("OFFSET_OVERFLOW_ONE")));
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert_eq!(PullResponse::decode(&nothing).unwrap().next_begin_offset, 1);

    let start = Instant::now();
    consumer.write([pull("T", 1, 20_000, "TagB"), pull("T", 1, 20_000, "TagA")]).await;
    f.until(|f| f.broker.stats().held_pulls == 2).await;
    producer.ok(send("T", "one")).await;
    let found = consumer.read().await.unwrap();
    assert_eq!((found.code, bodies(&found.body)), (0, vec![b"one".to_vec()]));
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(f.broker.stats().held_pulls, 1, "who wants another tag goes on waiting");
    drop(consumer);
    f.until(|f| f.broker.stats().held_pulls == 0).await;

    // An empty queue that was never written is held as well, and so is one of a tag that does not come.
    let mut consumer = f.client().await;
    let mut other = pull("T", 0, 200, "*");
    other.ext.set("queueId", "3");
    assert_eq!(consumer.call(other).await.code, 19);
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_costs_no_more_than_its_limit() {
    let limits = Limits { output_bytes_pause: 64 * 1024, output_bytes_close: 1 << 20, ..Limits::default() };
    let f = Fixture::start_with(limits).await;
    let mut client = f.client().await;
    for _ in 0..8 {
        client.ok(send("T", vec![b'x'; 30_000])).await;
    }
    client.ok(pull("T", 7, 5000, "*")).await;
    assert_eq!(client.call(pull("T", 9, 5000, "*")).await.code, response::PULL_OFFSET_MOVED);
    // 1,000 answers of 240,000 bytes, none of which is read.
    let mut greedy = f.client().await;
    greedy.write((0..1000).map(|_| pull("T", 0, 0, "*"))).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let waiting = f.broker.node.process.buffered_output.get();
    assert!(waiting <= 1 << 20, "{waiting} bytes wait");
    client.ok(send("T", "others go on")).await;
    let mut answers = 0;
    while answers < 1000 {
        let answer = greedy.read().await.expect("a client that reads again is served on");
        assert!(matches!(answer.code, response::SUCCESS | response::PULL_RETRY_IMMEDIATELY));
        answers += 1;
    }
    f.stop().await;
}

/// A pull of queue 0 without a subscription of its own.
fn by_heartbeat(group: &str, topic: &str, version: i64) -> Command {
    let mut pull = pull(topic, 0, 0, "*");
    pull.ext.set("consumerGroup", group).set("subVersion", &version.to_string()).set("sysFlag", "0");
    pull
}

fn tagged(topic: &str, tag: &str, body: &str) -> Command {
    let properties = format!("TAGS\u{1}{tag}\u{2}");
    let header = SendHeader { properties: properties.as_str().into(), ..send_header(topic) };
    Command::request(request::SEND_MESSAGE_V2, header.to_ext()).with_body(body.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_is_refused_with_the_code_that_rocketmq_gives() {
    let f = Fixture::start().await;
    let mut client = f.client().await;
    client.ok(send("T", "zero")).await;
    client.ok(pull("T", 0, 5000, "*")).await;
    let unreadable = "topic=W&defaultTopic=TBW102&readQueueNums=4&writeQueueNums=4&perm=2&topicFilterType=\
                      SINGLE_TAG&topicSysFlag=0&order=false";
    let ext = unreadable.split('&').map(|pair| pair.split_once('=').unwrap()).collect();
    client.ok(Command::request(request::UPDATE_AND_CREATE_TOPIC, ext)).await;
    let disabled =
        SubscriptionGroupConfig { group_name: "off".into(), consume_enable: false, ..Default::default() };
    client.ok(put_group(&disabled)).await;
    let no_broadcast = SubscriptionGroupConfig {
        group_name: "shared".into(),
        consume_broadcast_enable: false,
        ..Default::default()
    };
    client.ok(put_group(&no_broadcast)).await;

    let of_queue = |queue: &str| {
        let mut pull = pull("T", 0, 0, "*");
        pull.ext.set("queueId", queue);
        pull
    };
    let of_group = |group: &str, topic: &str| {
        let mut pull = pull(topic, 0, 0, "*");
        pull.ext.set("consumerGroup", group);
        pull
    };
    for (pull, code, words) in [
        (of_group("off", "absent"), response::NO_PERMISSION, "subscription group no permission, off"),
        (of_group("G", "absent"), response::TOPIC_NOT_EXIST, "topic[absent] not exist"),
        (of_group("G", "W"), response::NO_PERMISSION, "the topic[W] pulling message is forbidden"),
        (of_queue("4"), response::INVALID_PARAMETER, "queueId[4] is illegal"),
        (of_queue("-1"), response::INVALID_PARAMETER, "queueId[-1] is illegal"),
        (pull("T", 0, 0, " || "), response::SUBSCRIPTION_PARSE_FAILED, "names no tag"),
        (by_heartbeat("G", "T", 0), response::SUBSCRIPTION_NOT_EXIST, "the consumer's group info not exist"),
        (of_group("TOOLS_CONSUMER", "T"), response::SUCCESS, "FOUND"),
        (of_group("CID_RMQ_SYS_X", "T"), response::SUCCESS, "FOUND"),
    ] {
        let answer = client.call(pull).await;
        let remark = answer.remark.unwrap_or_default();
        assert!(
            answer.code == code && remark.contains(words),
            "{} {remark}, not {code} {words}",
            answer.code
        );
    }
    for tools in ["TOOLS_CONSUMER", "CID_RMQ_SYS_X"] {
        assert!(f.state.groups.get(tools).is_none(), "tools leave nothing behind");
    }

    client.write([heartbeat("a", consumer("G", &[("T", "TagA", 5), ("U", " || ", 5)]))]).await;
    assert_eq!(client.answer().await.code, response::SUCCESS);
    for (topic, version, code) in [
        ("%RETRY%G", 0, response::SUBSCRIPTION_NOT_EXIST),
        ("T", 6, response::SUBSCRIPTION_NOT_LATEST),
        ("T", 5, response::SUCCESS),
        ("T", 0, response::SUCCESS),
    ] {
        assert_eq!(client.code(by_heartbeat("G", topic, version)).await, code, "{topic} {version}");
    }
    client.write([send("U", "x")]).await;
    assert_eq!(client.answer().await.code, response::SUCCESS);
    let unusable = client.code(by_heartbeat("G", "U", 5)).await;
    assert_eq!(unusable, response::SUBSCRIPTION_PARSE_FAILED, "the heartbeat passes, the pull is told");

    let broadcasting =
        ConsumerData { message_model: MessageModel::Broadcasting, ..consumer("shared", &[("T", "*", 1)]) };
    client.ok(heartbeat("a", broadcasting)).await;
    let answer = client.call(by_heartbeat("shared", "T", 1)).await;
    assert_eq!(answer.code, response::NO_PERMISSION);
    assert!(answer.remark.unwrap().contains("can not consume by broadcast way"));
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_not_made_where_it_must_not_be() {
    let f = Fixture::start_configured(|config| config.auto_create_group = false).await;
    let mut client = f.client().await;
    client.ok(send("T", "zero")).await;
    client.ok(heartbeat("a", consumer("G", &[("T", "*", 1)]))).await;
    for pull in [pull("T", 0, 0, "*"), by_heartbeat("G", "T", 1)] {
        assert_eq!(client.call(pull).await.code, response::SUBSCRIPTION_GROUP_NOT_EXIST);
    }
    assert!(f.broker.node.broker.clients.consumer_ids("G").is_empty());
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_outside_a_queue_are_corrected() {
    let f = Fixture::start().await;
    let mut client = f.client().await;
    client.ok(send("T", "zero")).await;
    client.ok(pull("T", 0, 5000, "*")).await;
    let moved = response::PULL_OFFSET_MOVED;
    for (queue, offset, code, next) in [
        ("0", -1, moved, 0),
        ("0", i64::MIN, moved, 0),
        ("0", 2, moved, 1),
        ("0", i64::MAX, moved, 1),
        ("0", 1, response::PULL_NOT_FOUND, 1),
        ("1", 0, response::PULL_NOT_FOUND, 0),
        ("1", 7, moved, 0),
        ("1", -7, moved, 0),
    ] {
        let mut pull = pull("T", offset, 0, "*");
        pull.ext.set("queueId", queue);
        let answer = client.call(pull).await;
        let fields = PullResponse::decode(&answer).unwrap();
        assert_eq!((answer.code, fields.next_begin_offset), (code, next), "{queue} {offset}");
        assert_eq!((fields.min_offset, fields.max_offset), (0, i64::from(queue == "0")));
        assert_eq!((fields.topic_sys_flag, fields.group_sys_flag), (Some(0), Some(0)));
    }
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_limited_in_messages_and_bytes() {
    let f = Fixture::start().await;
    let mut client = f.client().await;
    for _ in 0..4 {
        client.ok(send("T", vec![b'x'; 100_000])).await;
    }
    client.ok(pull("T", 3, 5000, "*")).await;
    for (code, field, limit, count) in [
        (request::PULL_MESSAGE, "maxMsgNums", "1", 1),
        (request::LITE_PULL_MESSAGE, "maxMsgNums", "0", 1),
        (request::LITE_PULL_MESSAGE, "maxMsgBytes", "250000", 2),
        (request::PULL_MESSAGE, "maxMsgBytes", "1", 1),
        (request::PULL_MESSAGE, "maxMsgBytes", "-1", 2),
        (request::PULL_MESSAGE, "maxMsgNums", "2147483647", 2),
    ] {
        let mut pull = Command { code, ..pull("T", 0, 0, "*") };
        pull.ext.set(field, limit);
        let answer = client.ok(pull).await;
        let fields = PullResponse::decode(&answer).unwrap();
        assert_eq!(
            (bodies(&answer.body).len(), fields.next_begin_offset),
            (count, count as i64),
            "{field} {limit}"
        );
    }
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tags_of_the_same_code_are_told_apart() {
    let f = Fixture::start().await;
    let (mut producer, mut consumer) = (f.client().await, f.client().await);
    for (tag, body) in [("BB", "zero"), ("Aa", "one"), ("BB", "two")] {
        producer.ok(tagged("T", tag, body)).await;
    }
    consumer.ok(pull("T", 2, 5000, "*")).await;
    let answer = consumer.ok(pull("T", 0, 0, "Aa")).await;
    assert_eq!(bodies(&answer.body), [b"one"]);
    let answer = consumer.call(pull("T", 2, 0, "Aa")).await;
    assert_eq!((answer.code, answer.remark.as_deref()), (20, Some("NO_MATCHED_MESSAGE")));
    assert_eq!(PullResponse::decode(&answer).unwrap().next_begin_offset, 3);

    consumer.write([pull("T", 3, 20_000, "Aa")]).await;
    f.until(|f| f.broker.stats().held_pulls == 1).await;
    producer.ok(tagged("T", "BB", "three")).await;
    producer.ok(tagged("T", "Aa", "four")).await;
    assert_eq!(bodies(&consumer.answer().await.body), [b"four"]);
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn properties_are_filtered_by_expressions() {
    let f = Fixture::start().await;
    let (mut producer, mut consumer) = (f.client().await, f.client().await);
    let coloured = |colour: &str, size: &str| {
        let properties = format!("colour\u{1}{colour}\u{2}size\u{1}{size}\u{2}");
        let header = SendHeader { properties: properties.as_str().into(), ..send_header("T") };
        Command::request(request::SEND_MESSAGE_V2, header.to_ext()).with_body(format!("{colour} {size}"))
    };
    let sql = |offset: i64, hold_ms: i64, expression: &str| {
        let mut pull = pull("T", offset, hold_ms, expression);
        pull.ext.set("expressionType", "SQL92");
        pull
    };
    for (colour, size) in [("red", "1"), ("blue", "2"), ("red", "3"), ("red", "none")] {
        producer.ok(coloured(colour, size)).await;
    }
    consumer.ok(pull("T", 3, 5000, "*")).await;
    let answer = consumer.ok(sql(0, 0, "colour = 'red' AND size > 1")).await;
    assert_eq!(bodies(&answer.body), [b"red 3"]);
    assert_eq!(PullResponse::decode(&answer).unwrap().next_begin_offset, 4);
    assert_eq!(consumer.call(sql(0, 0, "colour = 'green'")).await.code, response::PULL_RETRY_IMMEDIATELY);
    let answer = consumer.call(sql(0, 0, "colour = ")).await;
    assert_eq!(answer.code, response::SUBSCRIPTION_PARSE_FAILED);
    assert!(answer.remark.unwrap().contains("at byte 9"));

    // A group's expressions are known from its heartbeats; a held pull waits for what its expression wants.
    let of = |version: i64, expression: &str| {
        let mut consumer = super::consumer("S", &[("T", expression, version)]);
        consumer.subscription_data_set[0].expression_type = "SQL92".into();
        heartbeat("s", consumer)
    };
    consumer.write([of(1, "colour ==")]).await;
    assert_eq!(consumer.answer().await.code, response::SUCCESS);
    assert_eq!(consumer.code(by_heartbeat("S", "T", 1)).await, response::SUBSCRIPTION_PARSE_FAILED);
    consumer.ok(of(2, "colour <> 'red'")).await;
    assert_eq!(bodies(&consumer.ok(by_heartbeat("S", "T", 2)).await.body), [b"blue 2"]);
    let mut waits = by_heartbeat("S", "T", 2);
    waits.ext.set("queueOffset", "4").set("sysFlag", "2").set("suspendTimeoutMillis", "20000");
    consumer.write([waits]).await;
    f.until(|f| f.broker.stats().held_pulls == 1).await;
    producer.ok(coloured("red", "4")).await;
    producer.ok(coloured("blue", "5")).await;
    assert_eq!(bodies(&consumer.answer().await.body), [b"blue 5"]);
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_keep_up_with_a_dear_expression_is_answered_and_goes_on() {
    const COUNT: i64 = 40;
    let f = Fixture::start().await;
    let (mut producer, mut consumer) = (f.client().await, f.client().await);
    let long = vec!["k = 'x'"; 100].join(" OR ");
    let sql = |offset: i64, hold_ms: i64| {
        let mut pull = pull("T", offset, hold_ms, &long);
        pull.ext.set("expressionType", "SQL92");
        pull
    };
    producer.ok(send("T", "zero")).await;
    consumer.ok(pull("T", 0, 5000, "*")).await;
    consumer.write([sql(1, 20_000)]).await;
    f.until(|f| f.broker.stats().held_pulls == 1).await;
    let properties = format!("k\u{1}{}\u{2}", "y".repeat(3000));
    let mut body = BytesMut::new();
    for _ in 0..COUNT {
        BatchMessage { flag: 0, body: b"x", properties: &properties }.encode_into(&mut body).unwrap();
    }
    let batch = SendHeader { batch: true, ..send_header("T") }.to_ext();
    producer.ok(Command::request(request::SEND_BATCH_MESSAGE, batch).with_body(body.freeze())).await;
    let mut answer = consumer.answer().await;
    let mut next = 1;
    while next < COUNT + 1 {
        assert_eq!((answer.code, answer.remark.as_deref()), (20, Some("NO_MATCHED_MESSAGE")));
        let further = PullResponse::decode(&answer).unwrap().next_begin_offset;
        assert!(further > next && further < next + COUNT / 2, "{further}");
        next = further;
        answer = consumer.call(sql(next, 0)).await;
    }
    assert_eq!(answer.code, response::PULL_NOT_FOUND);
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offset_that_a_pull_brings_is_committed_and_never_falls() {
    let f = Fixture::start().await;
    let mut client = f.client().await;
    client.ok(send("T", "zero")).await;
    client.ok(pull("T", 0, 5000, "*")).await;
    for (offset, committed) in [("7", Some(7)), ("3", Some(7)), ("-1", Some(7)), ("9", Some(9))] {
        let mut pull = pull("T", 0, 0, "*");
        pull.ext.set("commitOffset", offset).set("sysFlag", "5");
        client.ok(pull).await;
        f.until(|f| f.state.offsets.get("G", "T", 0) == committed).await;
        assert_eq!(f.broker.node.broker.offsets.get("G", "T", 0), committed);
    }
    let mut unflagged = pull("T", 0, 0, "*");
    unflagged.ext.set("commitOffset", "11");
    client.ok(unflagged).await;
    assert_eq!(f.broker.node.broker.offsets.get("G", "T", 0), Some(9));
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_pull_is_told_of_a_reset_at_once() {
    let f = Fixture::start().await;
    let (mut operator, mut consumer) = (f.client().await, f.client().await);
    operator.ok(send("T", "zero")).await;
    consumer.ok(pull("T", 0, 5000, "*")).await;
    consumer.write([pull("T", 1, 20_000, "*")]).await;
    f.until(|f| f.broker.stats().held_pulls == 1).await;
    let ext = [("group", "G"), ("topic", "T"), ("timestamp", "0"), ("isForce", "true")].into_iter().collect();
    operator.ok(Command::request(request::INVOKE_BROKER_TO_RESET_OFFSET, ext)).await;
    let told = consumer.answer().await;
    assert_eq!((told.code, told.remark.as_deref()), (21, Some("OFFSET_RESET")));
    assert_eq!(PullResponse::decode(&told).unwrap().next_begin_offset, 0);
    assert_eq!(bodies(&consumer.ok(pull("T", 0, 0, "*")).await.body), [b"zero"]);
    f.stop().await;
}

/// A pull that goes by its group's subscription and may wait.
fn waiting(topic: &str, offset: i64, hold_ms: i64) -> Command {
    let mut pull = by_heartbeat("G", topic, 0);
    pull.ext.set("queueOffset", &offset.to_string()).set("sysFlag", "2");
    pull.ext.set("suspendTimeoutMillis", &hold_ms.to_string());
    pull
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_pull_goes_by_what_its_group_wants_when_messages_come() {
    let f = Fixture::start().await;
    let (mut producer, mut a, mut b) = (f.client().await, f.client().await, f.client().await);
    producer.ok(send("T", "zero")).await;
    producer.ok(pull("T", 0, 5000, "*")).await;
    // Two members quarrel: the newer subscription counts, and one of them waits under it.
    for (client, tag, version) in [(&mut a, "TagA", 1), (&mut b, "TagB", 2)] {
        let beat = heartbeat("c", consumer("G", &[("T", tag, version)]));
        assert_eq!(client.code(beat).await, response::SUCCESS);
    }
    b.write([waiting("T", 1, 20_000)]).await;
    f.until(|f| f.broker.stats().held_pulls == 1).await;
    // Passed over, as it is not wanted: the pull has gone on behind it.
    producer.ok(tagged("T", "TagA", "one")).await;
    f.until(|f| f.group.store().queue("T", 0).is_some_and(|queue| queue.max_offset() == 2)).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(f.broker.stats().held_pulls, 1);
    // Then the other has its way: what was passed over comes without waiting for another message.
    assert_eq!(a.code(heartbeat("c", consumer("G", &[("T", "TagA", 3)]))).await, response::SUCCESS);
    let answer = b.answer().await;
    assert_eq!((answer.code, bodies(&answer.body)), (response::SUCCESS, vec![b"one".to_vec()]));
    assert_eq!(PullResponse::decode(&answer).unwrap().next_begin_offset, 2);

    // What comes afterwards goes by the same, and not by what was wanted when the pull began to wait.
    b.write([waiting("T", 2, 20_000)]).await;
    f.until(|f| f.broker.stats().held_pulls == 1).await;
    assert_eq!(a.code(heartbeat("c", consumer("G", &[("T", "TagC", 4)]))).await, response::SUCCESS);
    producer.ok(tagged("T", "TagA", "two")).await;
    producer.ok(tagged("T", "TagC", "three")).await;
    assert_eq!(bodies(&b.answer().await.body), [b"three"]);
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_pull_learns_of_what_has_become_of_its_topic_and_its_group() {
    let f = Fixture::start().await;
    let (mut other, mut consumer) = (f.client().await, f.client().await);
    let node = f.broker.node.clone();
    let topic = async |queues: u32, perm: u32| {
        node.replica.change::<Topics>(&TopicCommand::Put(Topic::new("T", queues, perm))).await
    };
    let delete_topic =
        async || node.replica.change::<Topics>(&TopicCommand::Delete { name: "T".into() }).await;
    let group = async |change: fn(&mut SubscriptionGroup)| {
        let mut group = SubscriptionGroup::new("G");
        change(&mut group);
        node.replica.change::<Groups>(&GroupCommand::Put(group)).await
    };
    let delete_group =
        async || node.replica.change::<Groups>(&GroupCommand::Delete { name: "G".into() }).await;
    topic(2, 6).await.unwrap();
    other.ok(send("T", "zero")).await;
    other.ok(pull("T", 0, 5000, "*")).await;
    let join = |version| heartbeat("c", super::consumer("G", &[("T", "*", version)]));
    let of_second_queue = || {
        let mut pull = waiting("T", 0, 400);
        pull.ext.set("queueId", "1");
        pull
    };
    for (case, held, code, words) in [
        (0, waiting("T", 1, 400), response::NO_PERMISSION, "pulling message is forbidden"),
        (1, of_second_queue(), response::INVALID_PARAMETER, "queueId[1] is illegal"),
        (2, waiting("T", 1, 400), response::TOPIC_NOT_EXIST, "not exist"),
        (3, waiting("T", 1, 400), response::NO_PERMISSION, "subscription group no permission"),
        (4, waiting("T", 1, 400), response::PULL_NOT_FOUND, "OFFSET_OVERFLOW_ONE"),
        (5, waiting("T", 1, 400), response::SUBSCRIPTION_NOT_EXIST, "subscription not exist"),
    ] {
        topic(2, 6).await.unwrap();
        group(|_| ()).await.unwrap();
        assert_eq!(consumer.code(join(2 * case)).await, response::SUCCESS);
        consumer.write([held]).await;
        f.until(|f| f.broker.stats().held_pulls == 1).await;
        match case {
            0 => drop(topic(2, 2).await.unwrap()),
            1 => drop(topic(1, 6).await.unwrap()),
            2 => drop(delete_topic().await.unwrap()),
            3 => drop(group(|group| group.consume_enable = false).await.unwrap()),
            // It is made again with the next pull, as it was by default.
            4 => drop(delete_group().await.unwrap()),
            _ => {
                consumer.write([heartbeat("c", super::consumer("G", &[("U", "*", 99)]))]).await;
                assert_eq!(consumer.answer().await.code, response::SUCCESS);
            }
        }
        let answer = consumer.answer().await;
        let remark = answer.remark.unwrap_or_default();
        assert!(answer.code == code && remark.contains(words), "{case}: {} {remark}", answer.code);
    }
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_pull_of_a_group_that_may_not_be_made_again_ends_with_it() {
    let f = Fixture::start_configured(|config| config.auto_create_group = false).await;
    let (mut other, mut consumer) = (f.client().await, f.client().await);
    other.ok(put_group(&SubscriptionGroupConfig { group_name: "G".into(), ..Default::default() })).await;
    other.ok(send("T", "zero")).await;
    other.ok(pull("T", 0, 5000, "*")).await;
    consumer.write([pull("T", 1, 20_000, "*")]).await;
    f.until(|f| f.broker.stats().held_pulls == 1).await;
    let delete = [("groupName", "G")].into_iter().collect();
    other.ok(Command::request(request::DELETE_SUBSCRIPTIONGROUP, delete)).await;
    other.ok(send("T", "one")).await;
    assert_eq!(consumer.answer().await.code, response::SUBSCRIPTION_GROUP_NOT_EXIST);
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_held_pulls_are_answered_by_one_message() {
    const COUNT: usize = 4000;
    let f = Fixture::start().await;
    let (mut producer, mut consumer) = (f.client().await, f.client().await);
    producer.ok(send("T", "zero")).await;
    producer.ok(pull("T", 0, 5000, "*")).await;
    consumer.write((0..COUNT).map(|_| pull("T", 1, 20_000, "*"))).await;
    f.until(|f| f.broker.stats().held_pulls == COUNT).await;
    producer.ok(send("T", "one")).await;
    for _ in 0..COUNT {
        let answer = consumer.answer().await;
        // They are all of one connection, which may have to read first.
        assert!(matches!(answer.code, response::SUCCESS | response::PULL_RETRY_IMMEDIATELY));
    }
    assert_eq!(f.broker.stats().held_pulls, 0);
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_consumers_are_told_and_the_others_go_on() {
    let f = Fixture::start().await;
    let (mut hostile, mut other) = (f.client().await, f.client().await);
    other.ok(send("T", "zero")).await;
    other.ok(pull("T", 0, 5000, "*")).await;
    // As long as a header can be.
    let answer = hostile.call(pull("T", 0, 0, &"x".repeat(200_000))).await;
    assert_eq!(answer.code, response::SUBSCRIPTION_PARSE_FAILED);
    let long = "x".repeat(1 << 20);
    let many: Vec<_> = (0..2000).map(|n| format!("topic{n}")).collect();
    let many: Vec<_> = many.iter().map(|topic| (topic.as_str(), "*", 1)).collect();
    for absurd in [
        consumer("H", &[("T", &long[..500_000], 1)]),
        consumer("H", &many),
        consumer(&"g".repeat(1000), &[("T", "*", 1)]),
        consumer("H", &[("not a topic", "*", 1)]),
    ] {
        let answer = hostile.call(heartbeat("h", absurd)).await;
        assert_eq!(answer.code, response::INVALID_PARAMETER, "{:?}", answer.remark);
    }
    assert_ne!(hostile.call(heartbeat(&long, consumer("H", &[]))).await.code, response::SUCCESS);
    assert!(f.broker.node.broker.clients.consumer_ids("H").is_empty());
    // More held pulls than one connection may have: the rest is answered at once.
    hostile.write((0..5000).map(|_| pull("T", 1, 20_000, "*"))).await;
    for _ in 0..5000 - Limits::default().group.held_pulls_per_connection {
        assert_eq!(hostile.answer().await.code, response::PULL_NOT_FOUND);
    }
    other.ok(pull("T", 0, 0, "*")).await;
    drop(hostile);
    f.until(|f| f.broker.stats().held_pulls == 0).await;
    f.stop().await;
}
