//! What is checked of settings, and what requests about things that do not exist get; codes are RocketMQ 5.4.0's.

use raftmq_remoting::body::{TopicConfig, TopicConfigList, TopicList};

use super::*;

fn fields<'a>(code: i32, fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> Command {
    Command::request(code, fields.into_iter().collect())
}

fn put_topic<'a>(name: &'a str, more: impl IntoIterator<Item = (&'a str, &'a str)>) -> Command {
    let plain = [
        ("topic", name),
        ("defaultTopic", "TBW102"),
        ("readQueueNums", "1"),
        ("writeQueueNums", "1"),
        ("perm", "6"),
        ("topicFilterType", "SINGLE_TAG"),
        ("order", "false"),
    ];
    let mut command = fields(request::UPDATE_AND_CREATE_TOPIC, plain);
    for (name, value) in more {
        command.ext.set(name, value);
    }
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_without_an_effect_are_refused() {
    let f = Fixture::start().await;
    let mut client = f.client().await;
    for (text, code) in [
        ("+message.type=FOO", response::SYSTEM_ERROR),
        ("+foo=bar", response::SYSTEM_ERROR),
        ("+message.type=", response::SYSTEM_ERROR),
        ("+message.type=DELAY,+message.type=FIFO", response::SYSTEM_ERROR),
        ("+queue.type=BatchCQ", response::INVALID_PARAMETER),
        ("+cleanup.policy=COMPACTION", response::INVALID_PARAMETER),
    ] {
        assert_eq!(client.call(put_topic("A", [("attributes", text)])).await.code, code, "{text}");
    }
    let bad = put_topic("A", [("topicFilterType", "FOO")]);
    assert_eq!(client.call(bad).await.code, response::SYSTEM_ERROR);
    assert!(f.state.topics.get("A").is_none());
    client.ok(put_topic("A", [("attributes", "+message.type=FIFO")])).await;
    client.ok(put_topic("A", [])).await;
    assert_eq!(f.state.topics.get("A").unwrap().attributes["message.type"], "FIFO");

    let group = |attributes: &str| {
        let body = format!(r#"{{"groupName":"G","attributes":{attributes}}}"#);
        Command::request(request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, Ext::new()).with_body(body)
    };
    for bad in [r#"{"+foo":"1"}"#, r#"{"priority.factor":"100"}"#, r#"{"+priority.factor":"50"}"#] {
        assert_ne!(client.call(group(bad)).await.code, response::SUCCESS, "{bad}");
    }
    client.ok(group(r#"{"+priority.factor":"100"}"#)).await;
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_topics_is_taken_whole_or_not_at_all() {
    let f = Fixture::start().await;
    let mut client = f.client().await;
    let list = |second: &str, attribute: &str| {
        let first = TopicConfig { topic_name: "L1".into(), ..TopicConfig::default() };
        let attributes = [(attribute.to_owned(), "FIFO".to_owned())].into();
        let second = TopicConfig { topic_name: second.into(), attributes, ..TopicConfig::default() };
        let body = TopicConfigList { topic_config_list: vec![first, second] };
        Command::request(request::UPDATE_AND_CREATE_TOPIC_LIST, Ext::new())
            .with_body(fastjson::to_vec(&body).unwrap())
    };
    assert_eq!(client.call(list("a b", "+message.type")).await.code, response::INVALID_PARAMETER);
    assert_eq!(client.call(list("L2", "message.type")).await.code, response::SYSTEM_ERROR);
    assert!(f.state.topics.get("L1").is_none());
    client.ok(list("L2", "+message.type")).await;
    assert!(f.state.topics.get("L1").is_some());
    assert_eq!(f.state.topics.get("L2").unwrap().attributes["message.type"], "FIFO");
    let answer = client.ok(fields(request::GET_SYSTEM_TOPIC_LIST_FROM_BROKER, [])).await;
    let system = fastjson::parse::<TopicList>(&answer.body).unwrap().topic_list;
    assert!(
        system.contains(&"C1_REPLY_TOPIC".to_owned()) && !system.contains(&"L1".to_owned()),
        "{system:?}"
    );
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_exist_is_answered_as_rocketmq_does() {
    let f = Fixture::start().await;
    let mut client = f.client().await;
    client.ok(put_topic("T", [])).await;
    client.ok(send("T", "x")).await;
    for (topic, queue) in [("T", "1"), ("T", "-1"), ("nothing", "0"), ("a b", "0"), ("", "0")] {
        for (code, field, value) in [
            (request::GET_MAX_OFFSET, "offset", 0),
            (request::GET_MIN_OFFSET, "offset", 0),
            (request::SEARCH_OFFSET_BY_TIMESTAMP, "offset", 0),
            (request::GET_EARLIEST_MSG_STORETIME, "timestamp", -1),
        ] {
            let request = fields(code, [("topic", topic), ("queueId", queue), ("timestamp", "1")]);
            let answer = client.ok(request).await;
            assert_eq!(answer.ext.get_i64(field).unwrap(), Some(value), "{code} {topic:?} {queue}");
        }
    }
    let group = [("consumerGroup", "a b"), ("topic", "T"), ("queueId", "0"), ("commitOffset", "1")];
    let asked = [("consumerGroup", "G"), ("topic", "T"), ("queueId", "-1")];
    let mut far = send_header("T");
    far.queue_id = 7;
    for (request, code) in [
        (fields(request::UPDATE_CONSUMER_OFFSET, group), response::SUBSCRIPTION_GROUP_NOT_EXIST),
        (fields(request::QUERY_CONSUMER_OFFSET, asked), response::QUERY_NOT_FOUND),
        (
            Command::request(request::SEND_MESSAGE_V2, far.to_ext()).with_body("x"),
            response::INVALID_PARAMETER,
        ),
        (fields(request::DELETE_TOPIC_IN_BROKER, [("topic", "a b")]), response::SUCCESS),
        (fields(request::DELETE_TOPIC_IN_BROKER, [("topic", " ")]), response::INVALID_PARAMETER),
    ] {
        let asked = request.code;
        assert_eq!(client.call(request).await.code, code, "{asked}");
    }
    f.stop().await;
}
