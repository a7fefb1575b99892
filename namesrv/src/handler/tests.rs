use super::super::table::TableLimits;
use super::*;
use raftmq_remoting::Ext;
use raftmq_remoting::body::{ClusterInfo, TopicConfig, TopicConfigSerializeWrapper, TopicRouteData};

fn names() -> Names {
    Names::new(Table::new(TableLimits { groups: 9, members: 9, topics: 9 }), 30, "listenPort=1\n".into())
}

fn ask(names: &Names, code: i32, fields: &[(&str, &str)]) -> Command {
    names.answer(0, 1, &Command::request(code, fields.iter().copied().collect::<Ext>()))
}

fn registration(id: i64, addr: &str) -> (RegisterBrokerHeader, Vec<u8>) {
    let config = |name: &str, flag| TopicConfig {
        topic_name: name.into(),
        topic_sys_flag: flag,
        read_queue_nums: 4,
        write_queue_nums: 4,
        ..TopicConfig::default()
    };
    let topics = [("T".to_owned(), config("T", 0)), ("U".to_owned(), config("U", UNIT_SUB))];
    let body = RegisterBrokerBody {
        topic_config_serialize_wrapper: TopicConfigSerializeWrapper {
            data_version: DataVersion { counter: 3, state_version: 1, timestamp: 2 },
            topic_config_table: topics.into(),
        },
        ..RegisterBrokerBody::default()
    };
    let body = fastjson::to_vec(&body).unwrap();
    let header = RegisterBrokerHeader {
        broker_name: "b".into(),
        broker_addr: addr.into(),
        cluster_name: "c".into(),
        ha_server_addr: Some("ha".into()),
        broker_id: id,
        compressed: false,
        body_crc32: (crc32fast::hash(&body) & 0x7FFF_FFFF).cast_signed(),
        heartbeat_timeout_ms: None,
        enable_acting_master: None,
    };
    (header, body)
}

fn register(names: &Names, id: i64, addr: &str) -> Command {
    let (header, body) = registration(id, addr);
    names.answer(0, 1, &Command::request(request::REGISTER_BROKER, header.to_ext()).with_body(body))
}

fn registered() -> Names {
    let names = names();
    assert_eq!(register(&names, 0, "l:1").code, 0);
    names
}

fn topics(answer: &Command) -> Vec<String> {
    fastjson::parse::<TopicList>(&answer.body).unwrap().topic_list
}

#[test]
fn a_route_is_told_with_quoted_keys_and_an_unknown_topic_with_a_remark() {
    let names = registered();
    let answer = ask(&names, request::GET_ROUTEINFO_BY_TOPIC, &[("topic", "T")]);
    assert_eq!(answer.code, 0);
    let text = std::str::from_utf8(&answer.body).unwrap();
    assert!(text.contains(r#""brokerAddrs":{"0":"l:1"}"#), "{text}");
    let route: TopicRouteData = fastjson::parse(&answer.body).unwrap();
    assert_eq!((route.queue_datas[0].perm, route.queue_datas[0].write_queue_nums), (6, 4));
    let answer = ask(&names, request::GET_ROUTEINFO_BY_TOPIC, &[("topic", "X")]);
    assert_eq!(answer.code, response::TOPIC_NOT_EXIST);
    assert!(answer.remark.unwrap().starts_with("No topic route info in name server for the topic: X"));
    let answer = ask(&names, request::GET_ROUTEINFO_BY_TOPIC, &[]);
    assert!(answer.code == 1 && answer.remark.unwrap().contains("topic is missing"));
}

#[test]
fn a_member_is_told_who_leads() {
    let names = registered();
    let answer = register(&names, 2, "f:1");
    assert_eq!(answer.ext.get("masterAddr").as_deref(), Some("l:1"));
    assert_eq!(answer.ext.get("haServerAddr").as_deref(), Some("ha"));
    assert_eq!(register(&names, 0, "l:1").ext.get("masterAddr"), None);
    let answer = ask(&names, request::GET_BROKER_CLUSTER_INFO, &[]);
    let info: ClusterInfo = fastjson::parse(&answer.body).unwrap();
    assert_eq!(info.broker_addr_table["b"].broker_addrs.len(), 2);
    let fields = [("clusterName", "c"), ("brokerName", "b")];
    let text = ask(&names, request::GET_BROKER_MEMBER_GROUP, &fields).body;
    assert!(std::str::from_utf8(&text).unwrap().starts_with(r#"{"brokerMemberGroup":{"brokerAddrs":{"0":"#));
}

/// Tells changes since a registration.
fn tell(names: &Names, body: &str) -> Command {
    let (header, _) = registration(0, "l:1");
    let header = RegisterBrokerHeader { body_crc32: 0, ..header };
    let body = body.to_owned();
    names.answer(0, 1, &Command::request(request::REGISTER_BROKER, header.to_ext()).with_body(body))
}

#[test]
fn what_has_changed_is_told_by_itself() {
    let names = registered();
    let known = |names: &Names| topics(&ask(names, request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER, &[]));
    let body = r#"{"changedSince":{"counter":3,"stateVersion":1,"timestamp":2},"deletedTopics":["T"],
        "topicConfigSerializeWrapper":{"dataVersion":{"counter":5,"stateVersion":1,"timestamp":4},
        "topicConfigTable":{"V":{"topicName":"V"}}}}"#;
    assert_eq!(tell(&names, body).code, 0);
    assert_eq!(known(&names), ["U", "V"]);
    let again = tell(&names, body);
    assert!(again.code == 1 && again.remark.unwrap().contains("register everything"), "it was told already");
    let java = r#"{"topicConfigSerializeWrapper":{"dataVersion":{"counter":6,"stateVersion":1,"timestamp":5},
        "topicConfigTable":{"W":{"topicName":"W"}}}}"#;
    assert_eq!(tell(&names, java).code, 0);
    assert_eq!(known(&names), ["U", "V", "W"]);
    assert_eq!(tell(&names, &java.replacen('{', r#"{"allTopics":true,"#, 1)).code, 0);
    assert_eq!(known(&names), ["W"]);
}

#[test]
fn registrations_that_did_not_arrive_whole_are_refused() {
    let names = names();
    let (header, body) = registration(0, "l:1");
    let mut broken = [header.clone(), header.clone(), header.clone()];
    broken[0].compressed = true;
    broken[1].body_crc32 ^= 1;
    broken[2].body_crc32 = 0;
    for (header, body) in broken.into_iter().zip([&body[..], &body[..], b"{\"x"]) {
        let request = Command::request(request::REGISTER_BROKER, header.to_ext()).with_body(body.to_vec());
        let answer = names.answer(0, 1, &request);
        assert!(answer.code == 1 && answer.remark.is_some(), "{answer:?}");
    }
    assert_eq!(ask(&names, request::GET_BROKER_CLUSTER_INFO, &[]).code, 0);
    assert!(names.table.read().cluster_info().broker_addr_table.is_empty());
}

#[test]
fn topics_are_listed_by_cluster_and_flag_and_deleted() {
    let names = registered();
    assert_eq!(topics(&ask(&names, request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER, &[])), ["T", "U"]);
    assert_eq!(topics(&ask(&names, request::GET_TOPICS_BY_CLUSTER, &[("cluster", "c")])), ["T", "U"]);
    assert!(topics(&ask(&names, request::GET_TOPICS_BY_CLUSTER, &[("cluster", "x")])).is_empty());
    assert_eq!(topics(&ask(&names, request::GET_HAS_UNIT_SUB_TOPIC_LIST, &[])), ["U"]);
    assert_eq!(topics(&ask(&names, request::GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST, &[])), ["U"]);
    assert!(topics(&ask(&names, request::GET_UNIT_TOPIC_LIST, &[])).is_empty());
    let system = ask(&names, request::GET_SYSTEM_TOPIC_LIST_FROM_NS, &[]);
    assert_eq!(topics(&system), ["c", "b"]);
    assert_eq!(ask(&names, request::DELETE_TOPIC_IN_NAMESRV, &[("topic", "T")]).code, 0);
    assert_eq!(topics(&ask(&names, request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER, &[])), ["U"]);
}

#[test]
fn settings_of_namespaces_are_kept_and_order_routes() {
    let names = registered();
    let entry = [("namespace", ORDER_TOPIC_CONFIG), ("key", "T"), ("value", "b:2")];
    assert_eq!(ask(&names, request::GET_KV_CONFIG, &entry).code, response::QUERY_NOT_FOUND);
    assert_eq!(ask(&names, request::GET_KVLIST_BY_NAMESPACE, &entry).code, response::QUERY_NOT_FOUND);
    assert_eq!(ask(&names, request::PUT_KV_CONFIG, &entry).code, 0);
    assert_eq!(ask(&names, request::GET_KV_CONFIG, &entry).ext.get("value").as_deref(), Some("b:2"));
    let listed = ask(&names, request::GET_KVLIST_BY_NAMESPACE, &entry);
    assert_eq!(fastjson::parse::<KvTable>(&listed.body).unwrap().table["T"], "b:2");
    assert_eq!(fastjson::parse::<KvTable>(&register(&names, 0, "l:1").body).unwrap().table["T"], "b:2");
    let route = ask(&names, request::GET_ROUTEINFO_BY_TOPIC, &[("topic", "T")]);
    let route: TopicRouteData = fastjson::parse(&route.body).unwrap();
    assert_eq!(route.order_topic_conf.as_deref(), Some("b:2"));
    assert_eq!(ask(&names, request::DELETE_KV_CONFIG, &entry).code, 0);
    assert_eq!(ask(&names, request::GET_KV_CONFIG, &entry).code, response::QUERY_NOT_FOUND);
}

#[test]
fn a_version_is_compared_and_a_heartbeat_needs_a_registration() {
    let names = registered();
    let fields = [("brokerName", "b"), ("brokerAddr", "l:1")];
    let query = |counter| {
        let version = DataVersion { counter, state_version: 1, timestamp: 2 };
        let request = Command::request(request::QUERY_DATA_VERSION, fields.into_iter().collect())
            .with_body(fastjson::to_vec(&version).unwrap());
        names.answer(0, 1, &request).ext.get("changed").map(|text| text.into_owned())
    };
    assert_eq!((query(3).as_deref(), query(4).as_deref()), (Some("false"), Some("true")));
    assert_eq!(ask(&names, request::QUERY_DATA_VERSION, &fields).code, 1, "no body");
    assert_eq!(ask(&names, request::BROKER_HEARTBEAT, &fields).code, 0);
    assert_eq!(ask(&names, request::BROKER_HEARTBEAT, &[("brokerName", "b"), ("brokerAddr", "x")]).code, 1);
}

#[test]
fn writing_is_wiped_counted_and_restored() {
    let names = registered();
    let perm = || {
        let answer = ask(&names, request::GET_ROUTEINFO_BY_TOPIC, &[("topic", "T")]);
        fastjson::parse::<TopicRouteData>(&answer.body).unwrap().queue_datas[0].perm
    };
    let answer = ask(&names, request::WIPE_WRITE_PERM_OF_BROKER, &[("brokerName", "b")]);
    assert_eq!((answer.ext.get("wipeTopicCount").as_deref(), perm()), (Some("2"), 4));
    let answer = ask(&names, request::ADD_WRITE_PERM_OF_BROKER, &[("brokerName", "b")]);
    assert_eq!((answer.ext.get("addTopicCount").as_deref(), perm()), (Some("2"), 6));
}

#[test]
fn leaving_expiring_and_losing_the_connection_end_a_registration() {
    let route = |names: &Names| ask(names, request::GET_ROUTEINFO_BY_TOPIC, &[("topic", "T")]).code;
    let names = registered();
    let fields = [("brokerName", "b"), ("brokerAddr", "l:1"), ("clusterName", "c"), ("brokerId", "0")];
    assert_eq!(ask(&names, request::UNREGISTER_BROKER, &fields).code, 0);
    assert_eq!(route(&names), response::TOPIC_NOT_EXIST);
    let names = registered();
    names.expire(31);
    assert_eq!(route(&names), response::TOPIC_NOT_EXIST);
    let names = registered();
    names.connection_closed(1);
    assert_eq!(route(&names), response::TOPIC_NOT_EXIST);
}

#[test]
fn other_codes_are_answered_too() {
    let names = names();
    let answer = ask(&names, 9999, &[]);
    assert_eq!((answer.code, answer.remark.as_deref()), (3, Some(" request type 9999 not supported")));
    assert_eq!(ask(&names, request::GET_NAMESRV_CONFIG, &[]).body, "listenPort=1\n");
    assert_eq!(ask(&names, request::UPDATE_NAMESRV_CONFIG, &[]).code, response::NO_PERMISSION);
    for code in [100, 101, 102, 103, 104, 105, 205, 216, 219, 224, 322, 327, 901, 904] {
        assert_eq!(ask(&names, code, &[]).code, 1, "request {code} without fields");
    }
}
