//! Recorded headers, and headers with missing or wrong fields.

use super::*;
use crate::encode::{encode_command, write_send_request};
use crate::ext::FieldError;
use crate::frame::{self, FRAME_LEN_MAX, RawFrame, Serialization};
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use crate::command::Command;

fn with_ext(code: i32, ext: &str) -> Command {
    let header = Bytes::from(format!("{{\"code\":{code},\"extFields\":{ext}}}"));
    Command::decode(RawFrame { serialization: Serialization::Json, header, body: Bytes::new() }).unwrap()
}

const SEND_V2: &str = r#"{"a":"PGx5","b":"Tpx5","c":"TBW102","d":"4","e":"2","f":"0","g":"1795248168603","h":"0",
"i":"KEYS\u0001k1 k2\u0002UNIQ_KEY\u0001FD0000\u0002WAIT\u0001true\u0002TAGS\u0001TagA\u0002","j":"0","k":"false","m":"false","n":"broker-b"}"#;

#[test]
fn a_recorded_send() {
    let command = with_ext(310, SEND_V2);
    let header = SendHeader::decode(&command).unwrap();
    assert_eq!((&*header.producer_group, &*header.topic, &*header.default_topic), ("PGx5", "Tpx5", "TBW102"));
    assert_eq!(
        (header.default_topic_queue_nums, header.queue_id, header.sys_flag, header.flag),
        (4, 2, 0, 0)
    );
    assert_eq!(header.born_timestamp_ms, 1_795_248_168_603);
    assert_eq!(raftmq_message::properties::get(&header.properties, "TAGS"), Some("TagA"));
    assert_eq!((header.reconsume_times, header.max_reconsume_times), (0, None));
    assert_eq!(
        (header.unit_mode, header.batch, header.broker_name.as_deref()),
        (false, false, Some("broker-b"))
    );
    assert!(matches!(header.topic, Cow::Borrowed(_)));

    let long = Command::request(10, header.to_ext_v1());
    assert_eq!(SendHeader::decode(&long), Ok(header.clone()));
    assert!(!SendHeader::decode(&with_ext(320, SEND_V2)).unwrap().batch, "the field says it, not the code");
    let short = Command::request(325, header.to_ext());
    assert_eq!(SendHeader::decode(&short), Ok(header));
}

#[test]
fn optional_fields_of_a_send_may_be_absent() {
    let ext = r#"{"a":"G","b":"T","c":"TBW102","d":4,"e":-1,"f":0,"g":1,"h":0}"#;
    let command = with_ext(310, ext);
    let header = SendHeader::decode(&command).unwrap();
    assert_eq!((&*header.properties, header.reconsume_times, header.unit_mode), ("", 0, false));
    assert_eq!((header.max_reconsume_times, header.batch, header.queue_id), (None, false, -1));
}

#[test]
fn what_a_send_lacks_or_has_wrong_is_named() {
    let refused = |code, from: &str, to: &str| {
        let error = SendHeader::decode(&with_ext(code, &SEND_V2.replace(from, to))).unwrap_err();
        assert_eq!(error.code, code);
        error.source
    };
    assert_eq!(refused(310, "\"b\":\"Tpx5\",", ""), FieldError::Missing { field: "topic" });
    assert_eq!(
        refused(310, "\"e\":\"2\"", "\"e\":\"two\""),
        FieldError::Invalid { field: "queueId", value: "two".to_owned(), expected: "a 32-bit number" }
    );
    assert!(matches!(refused(310, "\"2\"", "\"2147483648\""), FieldError::Invalid { field: "queueId", .. }));
    assert_eq!(refused(10, "", ""), FieldError::Missing { field: "producerGroup" });
    let long = format!("\"e\":\"{}\"", "9".repeat(1000));
    match refused(310, "\"e\":\"2\"", &long) {
        FieldError::Invalid { value, .. } => assert_eq!(value.len(), 64),
        other => panic!("{other}"),
    }
    let error = SendHeader::decode(&with_ext(310, "{}")).unwrap_err();
    assert_eq!(error.to_string(), "header of code 310: producerGroup is missing");
}

#[test]
fn booleans_of_a_send_are_true_where_they_say_so() {
    for (text, value) in [("true", true), ("TRUE", true), ("1", false), ("0", false), ("", false)] {
        let ext = SEND_V2.replace("\"false\"", &format!("\"{text}\""));
        let command = with_ext(310, &ext);
        let header = SendHeader::decode(&command).unwrap();
        assert_eq!((header.unit_mode, header.batch), (value, value), "{text:?}");
    }
}

#[test]
fn a_recorded_pull() {
    let ext = r#"{"queueId":"0","maxMsgBytes":"262144","maxMsgNums":"32","sysFlag":"3","suspendTimeoutMillis":"15000",
    "commitOffset":"5","bname":"broker-b","topic":"Tpx5","queueOffset":"6","expressionType":"TAG","subVersion":"1795248170040","consumerGroup":"CGx5"}"#;
    let command = with_ext(11, ext);
    let header = PullHeader::decode(&command).unwrap();
    let expected = PullHeader {
        consumer_group: "CGx5".into(),
        topic: "Tpx5".into(),
        queue_id: 0,
        queue_offset: 6,
        max_msg_nums: 32,
        sys_flag: pull_flag::COMMIT_OFFSET | pull_flag::SUSPEND,
        commit_offset: 5,
        suspend_timeout_ms: 15_000,
        subscription: None,
        sub_version: 1_795_248_170_040,
        expression_type: Some("TAG".into()),
        max_msg_bytes: Some(262_144),
    };
    assert_eq!(header, expected);
    assert_eq!(PullHeader::decode(&Command::request(11, expected.to_ext())), Ok(header));
    let error = PullHeader::decode(&with_ext(11, &ext.replace("queueOffset", "q"))).unwrap_err();
    assert_eq!(error.source, FieldError::Missing { field: "queueOffset" });
}

#[test]
fn cold_headers_round_trip_and_name_what_is_missing() {
    macro_rules! check {
        ($header:expr, $ty:ident, $without:literal) => {{
            let header: $ty = $header;
            assert_eq!($ty::decode(&Command::request(1, header.to_ext())).as_ref(), Ok(&header));
            let mut ext = header.to_ext();
            ext.remove($without);
            let error = $ty::decode(&Command::request(1, ext)).unwrap_err();
            assert_eq!(error, HeaderError { code: 1, source: FieldError::Missing { field: $without } });
        }};
    }
    let text = || "x\u{1}\"".to_owned();
    let commit = UpdateConsumerOffsetHeader {
        consumer_group: text(),
        topic: text(),
        queue_id: -1,
        commit_offset: i64::MIN,
    };
    check!(commit, UpdateConsumerOffsetHeader, "commitOffset");
    let query = QueryConsumerOffsetHeader {
        consumer_group: text(),
        topic: text(),
        queue_id: 1,
        set_zero_if_not_found: Some(false),
    };
    check!(query, QueryConsumerOffsetHeader, "consumerGroup");
    let create = CreateTopicHeader {
        topic: text(),
        default_topic: None,
        read_queue_nums: 4,
        write_queue_nums: 8,
        perm: 6,
        topic_filter_type: crate::body::TopicFilterType::MultiTag,
        topic_sys_flag: Some(0),
        order: true,
        attributes: Some(text()),
    };
    check!(create, CreateTopicHeader, "perm");
    let register = RegisterBrokerHeader {
        broker_name: text(),
        broker_addr: text(),
        cluster_name: text(),
        ha_server_addr: Some(text()),
        broker_id: 0,
        compressed: true,
        body_crc32: 5,
        heartbeat_timeout_ms: None,
        enable_acting_master: Some(true),
    };
    check!(register, RegisterBrokerHeader, "brokerId");
    let back = SendBackHeader {
        offset: 1,
        group: text(),
        delay_level: -1,
        origin_msg_id: None,
        origin_topic: Some(text()),
        unit_mode: false,
        max_reconsume_times: Some(3),
    };
    check!(back, SendBackHeader, "delayLevel");
    let ext = ConsumerGroupHeader { consumer_group: "G".to_owned() }.to_ext();
    assert_eq!(ext.get("consumerGroup").as_deref(), Some("G"));
    let route = RouteHeader::decode(&with_ext(105, r#"{"topic":"T"}"#)).unwrap();
    assert_eq!(route, RouteHeader { topic: "T".to_owned(), accept_standard_json_only: false });
}

proptest! {
    #[test]
    fn sends_round_trip_in_both_serializations(
        texts in proptest::array::uniform4("\\PC{1,10}[\u{0}-\u{7f}]{0,6}"), numbers in any::<(i32, i32, i32, i64, i32, i32)>(),
        max in any::<Option<i32>>(), flags in any::<(bool, bool, bool)>(), name in proptest::option::of(".{1,5}"),
        body in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        let header = SendHeader {
            producer_group: texts[0].as_str().into(), topic: texts[1].as_str().into(), default_topic: texts[2].as_str().into(),
            default_topic_queue_nums: numbers.0, queue_id: numbers.1, sys_flag: numbers.2, born_timestamp_ms: numbers.3,
            flag: numbers.4, properties: texts[3].as_str().into(), reconsume_times: numbers.5, unit_mode: flags.0,
            max_reconsume_times: max, batch: flags.1, broker_name: name.map(Cow::Owned),
        };
        for serialization in [Serialization::Json, Serialization::RocketMq] {
            let mut out = BytesMut::new();
            write_send_request(&mut out, serialization, 8, flags.2, &header, &body).unwrap();
            let general = Command {
                serialization, opaque: 8, ..Command::request(if flags.1 { 320 } else { 310 }, header.to_ext())
            }.with_body(body.clone());
            let general = if flags.2 { general.oneway() } else { general };
            let command = Command::decode(frame::decode(&mut out, FRAME_LEN_MAX).unwrap().unwrap()).unwrap();
            prop_assert!(out.is_empty());
            prop_assert_eq!(SendHeader::decode(&command), Ok(header.clone()));
            prop_assert_eq!((command.code, command.flag, &command.body), (general.code, general.flag, &general.body));
            encode_command(&general, &mut out).unwrap();
            let general = Command::decode(frame::decode(&mut out, FRAME_LEN_MAX).unwrap().unwrap()).unwrap();
            prop_assert_eq!(SendHeader::decode(&general), Ok(header.clone()));
        }
    }
}
