//! What operators see of consumer groups and do to them.

use std::collections::BTreeMap;

use raftmq_remoting::body::{
    ClientStatus, Connection, ConsumeStats, GroupList, OffsetTable, ProducerConnection, ProducerData,
    ProducerTable, QuerySubscription, SubscriptionGroupList, TopicList,
};
use raftmq_remoting::header::{
    CloneOffsetsHeader, ConsumerStatusHeader, OffsetResponse, QuerySubscriptionHeader, ResetOffsetHeader,
};

use super::*;

/// A heartbeat of a consumer of `G`, which subscribes to `T` and to its retry topic, and of a producer.
fn beat(id: &str) -> Command {
    let subscription = |topic: &str| SubscriptionData {
        topic: topic.into(),
        sub_string: "TagA".into(),
        sub_version: 7,
        tags_set: vec!["TagA".into()],
        ..Default::default()
    };
    let consumer = ConsumerData {
        group_name: "G".into(),
        subscription_data_set: vec![subscription("T"), subscription("%RETRY%G")],
        ..Default::default()
    };
    let body = HeartbeatData {
        client_id: id.into(),
        consumer_data_set: vec![consumer],
        producer_data_set: vec![ProducerData { group_name: "P".into() }],
        ..Default::default()
    };
    Command::request(request::HEART_BEAT, Ext::new()).with_body(fastjson::to_vec(&body).unwrap())
}

impl Client {
    /// Makes this client a consumer of `G`.
    async fn join(&mut self, id: &str) {
        self.write([beat(id)]).await;
        while !self.read().await.unwrap().is_response() {}
    }
}

fn fields<'a>(code: i32, fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> Command {
    Command::request(code, fields.into_iter().collect())
}

fn running_info(jstack: &str) -> Command {
    let ext = [("consumerGroup", "G"), ("clientId", "c"), ("jstackEnable", jstack)];
    fields(request::GET_CONSUMER_RUNNING_INFO, ext)
}

async fn commit(client: &mut Client, queue: &str, offset: &str) -> Command {
    let ext = [("consumerGroup", "G"), ("topic", "T"), ("queueId", queue), ("commitOffset", offset)];
    client.ok(fields(request::UPDATE_CONSUMER_OFFSET, ext)).await
}

async fn committed(client: &mut Client, group: &str, queue: &str) -> i64 {
    let ext = [("consumerGroup", group), ("topic", "T"), ("queueId", queue)];
    let answer = client.ok(fields(request::QUERY_CONSUMER_OFFSET, ext)).await;
    OffsetResponse::decode(&answer).unwrap().offset
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumers_answer_is_handed_on_as_it_is() {
    let f = Fixture::start().await;
    let (mut operator, mut consumer) = (f.client().await, f.client().await);
    let offline = operator.call(running_info("true")).await;
    let remark = offline.remark.as_deref();
    assert_eq!((offline.code, remark), (1, Some("The Consumer <G> <c> not online")));
    consumer.join("c").await;

    // Two questions at once are told apart, whichever is answered first.
    operator.write([running_info("true"), running_info("false")]).await;
    let numbers = [("true", operator.opaque - 1), ("false", operator.opaque)];
    let asked = [consumer.asked().await, consumer.asked().await];
    assert!(asked[0].opaque != asked[1].opaque);
    for asked in asked.iter().rev() {
        assert!(asked.code == 307 && !asked.is_oneway());
        let jstack = asked.ext.get("jstackEnable").unwrap().into_owned();
        consumer.reply(&Command::response_to(asked, 0).with_body(jstack)).await;
    }
    for _ in 0..2 {
        let answer = operator.read().await.unwrap();
        let body = std::str::from_utf8(&answer.body).unwrap();
        assert!(answer.code == 0 && numbers.contains(&(body, answer.opaque)), "{body} {}", answer.opaque);
    }
    operator.write([running_info("true")]).await;
    let asked = consumer.asked().await;
    consumer.reply(&Command::response_to(&asked, 1).with_remark("no such group here")).await;
    let answer = operator.read().await.unwrap();
    assert_eq!((answer.code, answer.remark.as_deref()), (1, Some("no such group here")));
    // An answer that nobody waits for changes nothing.
    consumer.reply(&Command::response_to(&asked, 0)).await;

    // A message to be consumed goes along.
    let sent = operator.ok(send("T", "again")).await;
    let id = SendResponse::decode(&sent).unwrap().msg_id.into_owned();
    operator.ok(pull("T", 0, 5000, "*")).await;
    let direct = |id: &str| {
        fields(request::CONSUME_MESSAGE_DIRECTLY, [("consumerGroup", "G"), ("clientId", "c"), ("msgId", id)])
    };
    operator.write([direct(&id)]).await;
    let asked = consumer.asked().await;
    assert_eq!((asked.code, asked.ext.get("brokerName").as_deref()), (309, Some("broker-a")));
    assert_eq!(bodies(&asked.body), [b"again".to_vec()]);
    consumer.reply(&Command::response_to(&asked, 0).with_body("{\"consumeResult\":\"CR_SUCCESS\"}")).await;
    assert_eq!(&operator.read().await.unwrap().body[..], b"{\"consumeResult\":\"CR_SUCCESS\"}");
    let nowhere = format!("{}{:016X}", &id[..16], 1u64 << 40);
    assert!(operator.call(direct(&nowhere)).await.remark.unwrap().contains("can not find message"));
    assert_eq!(operator.call(direct("x")).await.code, response::SYSTEM_ERROR);

    // Who asks about itself over its own connection is not in its own way.
    consumer.write([running_info("true")]).await;
    let asked = consumer.asked().await;
    consumer.reply(&Command::response_to(&asked, 0).with_body("me")).await;
    assert_eq!(&consumer.read().await.unwrap().body[..], b"me");

    // The connection's end ends the wait, long before its time is over.
    operator.write([running_info("true")]).await;
    consumer.asked().await;
    drop(consumer);
    let answer = operator.read().await.unwrap();
    assert_eq!((answer.code, answer.remark.unwrap().contains("has ended")), (1, true));
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_does_not_answer_is_asked_only_so_often() {
    let f = Fixture::start().await;
    let (mut operator, mut consumer) = (f.client().await, f.client().await);
    consumer.join("c").await;
    let max = limits::CALLS_PER_CONNECTION_MAX;
    operator.write((0..=max).map(|_| running_info("true"))).await;
    let refused = operator.read().await.unwrap();
    assert_eq!((refused.code, refused.remark.unwrap().contains("[BUSY]")), (1, true));
    for _ in 0..max {
        let asked = consumer.asked().await;
        consumer.reply(&Command::response_to(&asked, 0)).await;
        assert_eq!(operator.read().await.unwrap().code, 0);
    }
    operator.write([running_info("true")]).await;
    let asked = consumer.asked().await;
    consumer.reply(&Command::response_to(&asked, 0)).await;
    assert_eq!(operator.read().await.unwrap().code, 0, "there is room again");
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_tell_how_far_they_are() {
    let f = Fixture::start().await;
    let mut operator = f.client().await;
    let ask = |client_id: Option<&str>| {
        let header = ConsumerStatusHeader {
            topic: "T".into(),
            group: "G".into(),
            client_id: client_id.map(Into::into),
        };
        Command::request(request::INVOKE_BROKER_TO_GET_CONSUMER_STATUS, header.to_ext())
    };
    assert!(operator.call(ask(None)).await.remark.unwrap().contains("No Any Consumer online"));
    let (mut a, mut b) = (f.client().await, f.client().await);
    a.join("a").await;
    b.join("b").await;
    let status = |offset: i64| {
        let key = r#"{"brokerName":"broker-a","queueId":0,"topic":"T"}"#;
        format!("{{\"messageQueueTable\":{{{key}:{offset}}}}}")
    };
    for (wanted, clients) in [(None, vec!["a", "b"]), (Some("b"), vec!["b"])] {
        operator.write([ask(wanted)]).await;
        for (client, offset) in [(&mut a, 5), (&mut b, 9)] {
            if wanted.is_none() || offset == 9 {
                let asked = client.asked().await;
                assert_eq!((asked.code, asked.ext.get("topic").as_deref()), (221, Some("T")));
                client.reply(&Command::response_to(&asked, 0).with_body(status(offset))).await;
            }
        }
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Answer {
            consumer_table: BTreeMap<String, serde_json::Value>,
        }
        let answer = operator.read().await.unwrap();
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        let read: Answer = fastjson::parse(&answer.body).unwrap();
        assert_eq!(read.consumer_table.keys().collect::<Vec<_>>(), clients, "{text}");
        let (_, of_b) = text.split_once("\"b\":").unwrap();
        let of_b =
            format!("{{\"messageQueueTable\":{}", of_b.strip_suffix(r#","messageQueueTable":{}}"#).unwrap());
        let of_b: ClientStatus = fastjson::parse(of_b.as_bytes()).unwrap();
        assert_eq!(of_b.message_queue_table.values().collect::<Vec<_>>(), [&9]);
    }
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_committed_offset_is_in_the_log_when_it_is_answered() {
    let f = Fixture::start().await;
    let mut client = f.client().await;
    client.ok(send("T", "zero")).await;
    client.join("c").await;
    for n in 1..50 {
        let (queue, offset) = ((n % 4).to_string(), n.to_string());
        commit(&mut client, &queue, &offset).await;
        assert_eq!(f.state.offsets.get("G", "T", n % 4), Some(u64::from(n)));
    }
    // Many at once, of which some wait for an answer.
    let ext = [("consumerGroup", "G"), ("topic", "T"), ("queueId", "0"), ("commitOffset", "60")];
    let commit = fields(request::UPDATE_CONSUMER_OFFSET, ext);
    client.write((0..100).map(|n| if n % 2 == 0 { commit.clone() } else { commit.clone().oneway() })).await;
    for _ in 0..50 {
        assert_eq!(client.read().await.unwrap().code, 0);
        assert_eq!(f.state.offsets.get("G", "T", 0), Some(60));
    }
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_are_told_of_in_every_way() {
    let f = Fixture::start().await;
    let mut client = f.client().await;
    for n in 0..5 {
        client.ok(send("T", format!("{n}"))).await;
    }
    client.join("c").await;
    commit(&mut client, "0", "2").await;

    let answer = client.ok(fields(request::GET_CONSUME_STATS, [("consumerGroup", "G")])).await;
    let stats: ConsumeStats = fastjson::parse(&answer.body).unwrap();
    let of = |queue_id, topic: &str| MessageQueue {
        broker_name: "broker-a".into(),
        queue_id,
        topic: topic.into(),
    };
    let queue = stats.offset_table[&of(0, "T")];
    assert_eq!((queue.broker_offset, queue.consumer_offset), (5, 2));
    assert!(queue.last_timestamp > 0);
    assert_eq!(stats.offset_table.len(), 5, "four queues and the one of the retry topic");
    assert_eq!(stats.offset_table[&of(0, "%RETRY%G")].broker_offset, 0);

    let answer = client.ok(fields(request::GET_BROKER_CONSUME_STATS, [("isOrder", "false")])).await;
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    assert!(text.contains("{\"G\":[{") && text.contains("\"totalDiff\":3"), "{text}");

    let answer = client.ok(fields(request::QUERY_TOPIC_CONSUME_BY_WHO, [("topic", "T")])).await;
    assert_eq!(fastjson::parse::<GroupList>(&answer.body).unwrap().group_list, ["G"]);
    let answer = client.ok(fields(request::QUERY_TOPICS_BY_CONSUMER, [("group", "G")])).await;
    assert_eq!(fastjson::parse::<TopicList>(&answer.body).unwrap().topic_list, ["T"]);
    let header = QuerySubscriptionHeader { group: "G".into(), topic: Some("T".into()) };
    let ask = Command::request(request::QUERY_SUBSCRIPTION_BY_CONSUMER, header.to_ext());
    let answer: QuerySubscription = fastjson::parse(&client.ok(ask).await.body).unwrap();
    assert_eq!(answer.subscription_data.unwrap().sub_string, "TagA");
    let ask = Command::request(request::QUERY_CONSUME_TIME_SPAN, header.to_ext());
    let text = String::from_utf8(client.ok(ask).await.body.to_vec()).unwrap();
    assert_eq!(text.matches("minTimeStamp").count(), 4, "{text}");

    let report = serde_json::to_value(f.broker.group_report("G").unwrap()).unwrap();
    assert_eq!((&report["lag"], report["queues"].as_array().unwrap().len()), (&3.into(), 5));
    let queue = &report["queues"].as_array().unwrap().iter().find(|queue| queue["committed"] == 2).unwrap();
    assert_eq!((&queue["topic"], &queue["max_offset"], &queue["lag"]), (&"T".into(), &5.into(), &3.into()));
    let consumers = &report["consumers"];
    assert_eq!(
        (&consumers["members"][0]["client_id"], &consumers["conflicts"]),
        (&"c".into(), &serde_json::json!([]))
    );
    assert_eq!(consumers["subscriptions"][1]["expression"], "TagA");
    assert!(f.broker.group_report("nobody").is_none());

    let answer = client.ok(Command::request(request::GET_ALL_PRODUCER_INFO, Ext::new())).await;
    let table: ProducerTable = fastjson::parse(&answer.body).unwrap();
    let producer = &table.data["P"][0];
    let address = client.stream.local_addr().unwrap();
    assert_eq!((producer.client_id.as_str(), &producer.remote_ip), ("c", &format!("/{address}")));
    let ask = fields(request::GET_PRODUCER_CONNECTION_LIST, [("producerGroup", "P")]);
    let answer: ProducerConnection = fastjson::parse(&client.ok(ask).await.body).unwrap();
    let Connection { client_addr, client_id, .. } = &answer.connection_set[0];
    assert_eq!((client_addr, client_id.as_str()), (&address.to_string(), "c"));
    f.stop().await;
}

fn reset(timestamp: i64, is_force: bool) -> ResetOffsetHeader {
    ResetOffsetHeader { topic: "T".into(), group: "G".into(), timestamp, is_force, queue_id: -1, offset: -1 }
}

fn reset_request(header: &ResetOffsetHeader) -> Command {
    Command::request(request::INVOKE_BROKER_TO_RESET_OFFSET, header.to_ext())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_are_reset_by_time_by_number_and_to_the_end_and_cloned() {
    let f = Fixture::start().await;
    let mut client = f.client().await;
    for n in 0..5 {
        client.ok(send("T", format!("{n}"))).await;
    }
    let unknown = client.call(reset_request(&reset(0, true))).await;
    assert_eq!(unknown.code, response::SUBSCRIPTION_GROUP_NOT_EXIST);
    client.join("c").await;
    let elsewhere = ResetOffsetHeader { topic: "U".into(), ..reset(0, true) };
    assert_eq!(client.call(reset_request(&elsewhere)).await.code, response::TOPIC_NOT_EXIST);
    commit(&mut client, "0", "3").await;

    let answer = client.ok(reset_request(&reset(-1, true))).await;
    let table: OffsetTable = fastjson::parse(&answer.body).unwrap();
    assert_eq!(table.offset_table.values().copied().collect::<Vec<_>>(), [5, 0, 0, 0]);
    assert_eq!(committed(&mut client, "G", "0").await, 5);
    let ignored = commit(&mut client, "0", "4").await;
    assert_eq!(ignored.remark.as_deref(), Some("Offset has been previously reset"));
    assert_eq!(committed(&mut client, "G", "0").await, 5);

    client.ok(reset_request(&reset(0, true))).await;
    assert_eq!(committed(&mut client, "G", "0").await, 0);
    let answer = client.ok(reset_request(&reset(-1, false))).await;
    let table: OffsetTable = fastjson::parse(&answer.body).unwrap();
    assert_eq!(table.offset_table.values().max(), Some(&0), "not forwards unless it is forced");

    let one = |queue_id, offset| ResetOffsetHeader { queue_id, offset, ..reset(0, true) };
    client.ok(reset_request(&one(0, 2))).await;
    assert_eq!(committed(&mut client, "G", "0").await, 2);
    for (bad, code) in [
        (one(0, 6), response::SYSTEM_ERROR),
        (one(0, -2), response::SYSTEM_ERROR),
        (one(4, 0), response::INVALID_PARAMETER),
    ] {
        assert_eq!(client.call(reset_request(&bad)).await.code, code, "{bad:?}");
    }

    let clone =
        CloneOffsetsHeader { source: "G".into(), destination: "H".into(), topic: None, offline: false };
    client.ok(Command::request(request::CLONE_GROUP_OFFSET, clone.to_ext())).await;
    assert_eq!(committed(&mut client, "H", "0").await, 2);
    assert!(f.state.groups.get("H").is_some());
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_reaches_pulls_that_are_held() {
    let f = Fixture::start().await;
    let (mut operator, mut consumer) = (f.client().await, f.client().await);
    for n in 0..5 {
        operator.ok(send("T", format!("{n}"))).await;
    }
    consumer.join("c").await;
    consumer.ok(pull("T", 4, 5000, "*")).await;
    consumer.write([pull("T", 5, 20_000, "*")]).await;
    f.until(|f| f.broker.stats().held_pulls == 1).await;
    let one = |offset| ResetOffsetHeader { queue_id: 0, offset, ..reset(0, true) };
    operator.ok(reset_request(&one(1))).await;
    let told = consumer.read().await.unwrap();
    let next = PullResponse::decode(&told).unwrap().next_begin_offset;
    assert_eq!((told.code, told.remark.as_deref(), next), (21, Some("OFFSET_RESET"), 1));
    let ignored = commit(&mut consumer, "0", "5").await;
    assert!(ignored.remark.is_some());
    assert_eq!(bodies(&consumer.ok(pull("T", 1, 5000, "*")).await.body).len(), 4);
    commit(&mut consumer, "0", "5").await;
    f.until(|f| f.state.offsets.pending_reset("G", "T", 0).is_none()).await;
    assert_eq!(f.state.offsets.get("G", "T", 0), Some(5));

    // Who is where the group is sent to goes on without being told.
    consumer.write([pull("T", 5, 20_000, "*")]).await;
    f.until(|f| f.broker.stats().held_pulls == 1).await;
    operator.ok(reset_request(&reset(-1, true))).await;
    operator.ok(send("T", "5")).await;
    let found = consumer.read().await.unwrap();
    assert_eq!((found.code, bodies(&found.body)), (0, vec![b"5".to_vec()]));
    commit(&mut consumer, "0", "6").await;
    assert_eq!(f.state.offsets.get("G", "T", 0), Some(6));
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_are_made_from_a_list_or_not_at_all() {
    let f = Fixture::start().await;
    let mut client = f.client().await;
    let group = |name: &str, retry_queue_nums| SubscriptionGroupConfig {
        group_name: name.into(),
        retry_queue_nums,
        ..Default::default()
    };
    let put = |groups: Vec<SubscriptionGroupConfig>| {
        let body = SubscriptionGroupList { group_config_list: groups };
        Command::request(request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST, Ext::new())
            .with_body(fastjson::to_vec(&body).unwrap())
    };
    client.ok(put(vec![group("A", 1), group("B", 2)])).await;
    assert_eq!(f.state.groups.get("B").unwrap().retry_queues, 2);
    let refused = client.call(put(vec![group("C", 1), group("D", 1 << 20)])).await;
    assert_eq!(refused.code, response::INVALID_PARAMETER);
    assert!(f.state.groups.get("C").is_none());
    let huge = client.call(put(vec![group(&"x".repeat(100), 1); 2000])).await;
    assert!(huge.remark.unwrap().contains("at most"));
    client.ok(fields(request::DELETE_SUBSCRIPTIONGROUP, [("groupName", "B"), ("cleanOffset", "true")])).await;
    assert!(f.state.groups.get("B").is_none());
    f.stop().await;
}
