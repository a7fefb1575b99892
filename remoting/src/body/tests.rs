//! Bodies as peers write them, and as peers have to read them.

use super::*;
use crate::fastjson::{parse, to_vec};
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

fn text(body: &impl Serialize) -> String {
    String::from_utf8(to_vec(body).unwrap()).unwrap()
}

fn round_trip<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(body: &T) {
    assert_eq!(&parse::<T>(text(body).as_bytes()).unwrap(), body);
}

#[test]
fn a_heartbeat_of_a_java_client() {
    let body = br#"{"clientID":"127.0.0.1@1#2","consumerDataSet":[{"consumeFromWhere":"CONSUME_FROM_FIRST_OFFSET",
        "consumeType":"CONSUME_PASSIVELY","groupName":"G","messageModel":"BROADCASTING","subscriptionDataSet":[
        {"classFilterMode":false,"codeSet":[2598919],"expressionType":"TAG","subString":"TagA","subVersion":1795248170040,
        "tagsSet":["TagA"],"topic":"T"}],"unitMode":false}],"heartbeatFingerprint":7,
        "producerDataSet":[{"groupName":"CLIENT_INNER_PRODUCER"}],"withoutSub":false,"unheardOf":{"a":[1]}}"#;
    let heartbeat: HeartbeatData = parse(body).unwrap();
    assert_eq!(heartbeat.client_id, "127.0.0.1@1#2");
    assert_eq!(heartbeat.producer_data_set[0].group_name, "CLIENT_INNER_PRODUCER");
    let consumer = &heartbeat.consumer_data_set[0];
    assert_eq!(consumer.consume_from_where, ConsumeFromWhere::FirstOffset);
    assert_eq!(consumer.message_model, MessageModel::Broadcasting);
    assert_eq!(consumer.subscription_data_set[0].code_set, [2_598_919]);
    round_trip(&heartbeat);
}

#[test]
fn a_subscription_of_a_go_client_has_its_codes_in_strings() {
    let read = |codes: &str| parse::<SubscriptionData>(format!(r#"{{"codeSet":{codes}}}"#).as_bytes());
    assert_eq!(read(r#"["2598919","-7",5]"#).unwrap().code_set, [2_598_919, -7, 5]);
    for codes in [r#"["TagA"]"#, r#"["2147483648"]"#, "[{}]"] {
        assert!(read(codes).is_err(), "{codes}");
    }
}

#[test]
fn a_heartbeat_of_a_cpp_client_has_numbers_for_names() {
    let body = br#"{"clientID":"1-127.0.0.1@DEFAULT","consumerDataSet":[{"consumeFromWhere":4,"consumeType":1,"groupName":"G",
        "messageModel":0,"subscriptionDataSet":[{"classFilterMode":0,"codeSet":[],"subString":"*",
        "subVersion":"1796006915697","tagsSet":[],"topic":"T"}],"unitMode":0}],"producerDataSet":[]}"#;
    let heartbeat: HeartbeatData = parse(body).unwrap();
    let consumer = &heartbeat.consumer_data_set[0];
    assert_eq!(consumer.consume_from_where, ConsumeFromWhere::FirstOffset);
    assert_eq!(
        (consumer.consume_type, consumer.message_model),
        (ConsumeType::Passively, MessageModel::Broadcasting)
    );
    assert_eq!(consumer.subscription_data_set[0].sub_version, 1_796_006_915_697);
    assert!(parse::<ConsumerData>(br#"{"consumeType":9}"#).is_err(), "an enumeration has no such number");
}

#[test]
fn nulls_missing_members_and_unknown_names_take_defaults() {
    let body = br#"{"clientID":"c","consumerDataSet":[{"consumeType":"CONSUME_BY_TELEPATHY","groupName":"G",
        "subscriptionDataSet":[{"tagsSet":null,"codeSet":null,"topic":"T","expressionType":null}]}],"producerDataSet":null}"#;
    let heartbeat: HeartbeatData = parse(body).unwrap();
    let consumer = &heartbeat.consumer_data_set[0];
    assert_eq!(consumer.consume_type, ConsumeType::Passively);
    assert_eq!(consumer.message_model, MessageModel::Clustering);
    let expected = SubscriptionData { topic: "T".to_owned(), ..SubscriptionData::default() };
    assert_eq!(consumer.subscription_data_set, [expected]);
    let group: SubscriptionGroupConfig =
        parse(br#"{"groupName":"G","consumeBroadcastEnable":false}"#).unwrap();
    assert_eq!(
        (group.retry_max_times, group.consume_enable, group.consume_broadcast_enable),
        (16, true, false)
    );
}

#[test]
fn routes_are_read_with_bare_and_quoted_ids_and_written_with_quoted_ones() {
    for id in ["0", "\"0\""] {
        let body = format!(
            r#"{{"brokerDatas":[{{"brokerAddrs":{{{id}:"127.0.0.1:10911"}},"brokerName":"broker-a","cluster":"C"}}],"filterServerTable":{{}},"queueDatas":[{{"brokerName":"broker-a","perm":6,"readQueueNums":4,"topicSysFlag":0,"writeQueueNums":4}}]}}"#
        );
        let route: TopicRouteData = parse(body.as_bytes()).unwrap();
        assert_eq!(route.broker_datas[0].broker_addrs[&0], "127.0.0.1:10911");
        assert_eq!(
            text(&route),
            r#"{"brokerDatas":[{"brokerAddrs":{"0":"127.0.0.1:10911"},"brokerName":"broker-a","cluster":"C","enableActingMaster":false}],"filterServerTable":{},"queueDatas":[{"brokerName":"broker-a","perm":6,"readQueueNums":4,"topicSysFlag":0,"writeQueueNums":4}]}"#
        );
    }
}

#[test]
fn maps_by_queue_have_objects_as_keys() {
    let queue = |id| MessageQueue { broker_name: "b\"".to_owned(), queue_id: id, topic: "T".to_owned() };
    let mut stats = TopicStatsTable::default();
    stats
        .offset_table
        .insert(queue(0), TopicOffset { last_update_timestamp: 5, max_offset: 2, min_offset: 1 });
    stats.offset_table.insert(queue(1), TopicOffset::default());
    let json = stats.to_json().unwrap();
    assert_eq!(
        std::str::from_utf8(&json).unwrap(),
        concat!(
            r#"{"offsetTable":{{"brokerName":"b\"","queueId":0,"topic":"T"}:{"lastUpdateTimestamp":5,"maxOffset":2,"minOffset":1},"#,
            r#"{"brokerName":"b\"","queueId":1,"topic":"T"}:{"lastUpdateTimestamp":0,"maxOffset":0,"minOffset":0}},"topicPutTps":0.0}"#
        )
    );
    assert_eq!(parse::<TopicStatsTable>(&json).unwrap(), stats);

    let mut stats = ConsumeStats { consume_tps: 1.5, ..ConsumeStats::default() };
    stats.offset_table.insert(queue(3), OffsetWrapper { broker_offset: 9, ..OffsetWrapper::default() });
    let json = stats.to_json().unwrap();
    assert!(json.starts_with(br#"{"consumeTps":1.5,"offsetTable":{{"brokerName":"#));
    assert_eq!(parse::<ConsumeStats>(&json).unwrap(), stats);
    assert!(parse::<ConsumeStats>(br#"{"offsetTable":{"not a queue":{}}}"#).is_err());
}

#[test]
fn locks_and_lists_use_the_names_peers_know() {
    let queue = MessageQueue { broker_name: "b".to_owned(), queue_id: 1, topic: "T".to_owned() };
    let locked = LockBatchResponse { lock_ok_mq_set: vec![queue] };
    assert_eq!(text(&locked), r#"{"lockOKMQSet":[{"brokerName":"b","queueId":1,"topic":"T"}]}"#);
    let ids = ConsumerIdList { consumer_id_list: vec!["c".to_owned()] };
    assert_eq!(text(&ids), r#"{"consumerIdList":["c"]}"#);
    assert_eq!(text(&TopicList::default()), r#"{"topicList":[]}"#);
    let request: LockBatchRequest = parse(
        br#"{"clientId":"c","consumerGroup":"G","mqSet":[{"brokerName":"b","queueId":1,"topic":"T"}]}"#,
    )
    .unwrap();
    assert_eq!((request.mq_set.len(), request.only_this_broker), (1, false));
    let group = SubscriptionGroupWrapper::default();
    assert!(text(&group).contains(r#""forbiddenTable":{}"#));
}

#[test]
fn every_cut_of_a_body_is_refused() {
    let mut body = RegisterBrokerBody::default();
    body.topic_config_serialize_wrapper.topic_config_table.insert("T".to_owned(), TopicConfig::default());
    round_trip(&body);
    let json = text(&body);
    for cut in 0..json.len() {
        assert!(parse::<RegisterBrokerBody>(&json.as_bytes()[..cut]).is_err(), "cut at {cut}");
    }
}

proptest! {
    #[test]
    fn settings_round_trip(
        name in ".{0,10}", numbers in any::<(i32, i32, i32, i64, i64)>(), flags in any::<(bool, bool)>(),
        attributes in proptest::collection::btree_map(".{0,5}", ".{0,5}", 0..3),
    ) {
        let topic = TopicConfig {
            attributes: attributes.clone(), order: flags.0, perm: numbers.0, read_queue_nums: numbers.1,
            topic_filter_type: TopicFilterType::MultiTag, topic_name: name.clone(), topic_sys_flag: 1, write_queue_nums: numbers.2,
        };
        let group = SubscriptionGroupConfig {
            group_name: name.clone(), consume_enable: flags.0, consume_message_orderly: flags.1,
            retry_max_times: numbers.0, broker_id: numbers.3, attributes, ..SubscriptionGroupConfig::default()
        };
        let data_version = DataVersion { counter: numbers.3, state_version: 1, timestamp: numbers.4 };
        round_trip(&TopicConfigSerializeWrapper { data_version, topic_config_table: [(name.clone(), topic)].into() });
        round_trip(&SubscriptionGroupWrapper { data_version, forbidden_table: [(name.clone(), Default::default())].into(), subscription_group_table: [(name, group)].into() });
    }

    #[test]
    fn maps_by_queue_round_trip(entries in proptest::collection::btree_map((".{0,8}", any::<i32>(), ".{0,8}"), any::<i64>(), 0..4)) {
        let offset_table = entries.into_iter().map(|((broker_name, queue_id, topic), n)| {
            (MessageQueue { broker_name, queue_id, topic }, OffsetWrapper { consumer_offset: n, ..OffsetWrapper::default() })
        }).collect();
        let stats = ConsumeStats { consume_tps: 0.0, offset_table };
        prop_assert_eq!(parse::<ConsumeStats>(&stats.to_json().unwrap()).unwrap(), stats);
    }
}

#[test]
fn bodies_keyed_by_queue_are_written_with_objects_as_keys() {
    let queue = MessageQueue { broker_name: "b".into(), queue_id: 1, topic: "T".into() };
    let text =
        |written: Result<Vec<u8>, crate::fastjson::BodyError>| String::from_utf8(written.unwrap()).unwrap();
    let key = r#"{"brokerName":"b","queueId":1,"topic":"T"}"#;
    let table = OffsetTable { offset_table: [(queue.clone(), 7)].into() };
    assert_eq!(text(table.to_json()), format!(r#"{{"offsetTable":{{{key}:7}}}}"#));
    assert_eq!(parse::<OffsetTable>(text(table.to_json()).as_bytes()).unwrap(), table);
    let status: ClientStatus = parse(format!(r#"{{"messageQueueTable":{{{key}:9}}}}"#).as_bytes()).unwrap();
    assert_eq!(status.message_queue_table, [(queue.clone(), 9)].into());
    let table = [("c\"1".to_owned(), status.message_queue_table), ("d".to_owned(), QueueMap::new())].into();
    let status = ConsumerStatus { consumer_table: table };
    assert_eq!(
        text(status.to_json()),
        format!(r#"{{"consumerTable":{{"c\"1":{{{key}:9}},"d":{{}}}},"messageQueueTable":{{}}}}"#)
    );
    let progress = OffsetWrapper { broker_offset: 5, consumer_offset: 2, pull_offset: 2, last_timestamp: 3 };
    let stats = ConsumeStats { consume_tps: 0.0, offset_table: [(queue, progress)].into() };
    let list = ConsumeStatsList {
        broker_addr: "a:1".into(),
        groups: vec![("g".into(), vec![stats.clone(), stats.clone()]), ("h".into(), Vec::new())],
        total_diff: 6,
    };
    let one = text(stats.to_json());
    let expected = format!(
        r#"{{"brokerAddr":"a:1","consumeStatsList":[{{"g":[{one},{one}]}},{{"h":[]}}],"totalDiff":6,"totalInflightDiff":0}}"#
    );
    assert_eq!(text(list.to_json()), expected);
}
