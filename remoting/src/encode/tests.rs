//! What is written is read back, by these decoders and by a JSON library.

use super::*;
use crate::frame;
use bytes::Bytes;
use proptest::prelude::*;

fn read(out: &mut BytesMut) -> Command {
    let frame = frame::decode(out, FRAME_LEN_MAX).unwrap().unwrap();
    Command::decode(frame).unwrap()
}

fn header_json(out: &[u8]) -> serde_json::Value {
    let len = usize::from(out[6]) << 8 | usize::from(out[7]);
    serde_json::from_slice(&out[8..8 + len]).unwrap()
}

const BOTH: [Serialization; 2] = [Serialization::Json, Serialization::RocketMq];

#[test]
fn the_answer_to_a_send_is_the_recorded_one() {
    let fields = SendResponse {
        msg_id: "7F0000010000F5BF00000000000043E8".into(),
        queue_id: 2,
        queue_offset: 2,
        transaction_id: Some("FD00".into()),
        region: Some("DefaultRegion".into()),
        trace_on: true,
    };
    for serialization in BOTH {
        let mut out = BytesMut::new();
        write_send_response(&mut out, serialization, 77, 10, Some("late\n"), &fields).unwrap();
        if serialization == Serialization::Json {
            let expected = serde_json::json!({
                "code": 10, "flag": 1, "language": "JAVA", "opaque": 77, "version": 493, "remark": "late\n",
                "serializeTypeCurrentRPC": "JSON",
                "extFields": {
                    "queueId": "2", "transactionId": "FD00", "msgId": "7F0000010000F5BF00000000000043E8",
                    "TRACE_ON": "true", "MSG_REGION": "DefaultRegion", "queueOffset": "2"
                }
            });
            assert_eq!(header_json(&out), expected);
        }
        let command = read(&mut out);
        assert!(out.is_empty() && command.is_response());
        assert_eq!((command.code, command.opaque, command.serialization), (10, 77, serialization));
        assert_eq!(command.remark.as_deref(), Some("late\n"));
        assert_eq!(SendResponse::decode(&command).unwrap(), fields);
    }
}

#[test]
fn the_answer_to_a_pull_leaves_room_for_its_body() {
    let fields = PullResponse {
        next_begin_offset: 6,
        max_offset: 6,
        topic_sys_flag: Some(0),
        group_sys_flag: Some(0),
        ..PullResponse::default()
    };
    for serialization in BOTH {
        let mut out = BytesMut::from(&b"before"[..]);
        write_pull_response_header(&mut out, serialization, 5, 19, Some("OFFSET_OVERFLOW_ONE"), &fields, 3)
            .unwrap();
        assert_eq!(frame::decode(&mut out.split_off(6), FRAME_LEN_MAX), Ok(None));
        write_pull_response_header(&mut out, serialization, 5, 19, Some("OFFSET_OVERFLOW_ONE"), &fields, 3)
            .unwrap();
        out.put_slice(b"abc");
        assert_eq!(&out.split_to(6)[..], b"before");
        if serialization == Serialization::Json {
            let expected = serde_json::json!({
                "suggestWhichBrokerId": "0", "groupSysFlag": "0", "nextBeginOffset": "6", "maxOffset": "6",
                "minOffset": "0", "topicSysFlag": "0"
            });
            assert_eq!(header_json(&out)["extFields"], expected);
        }
        let command = read(&mut out);
        assert_eq!((command.code, &command.body[..]), (19, &b"abc"[..]));
        assert_eq!(PullResponse::decode(&command), Ok(fields));
    }
}

#[test]
fn an_unknown_request_is_answered_in_the_words_clients_know() {
    let mut out = BytesMut::new();
    write_not_supported(&mut out, Serialization::Json, 4, 9999).unwrap();
    let command = read(&mut out);
    assert_eq!((command.code, command.opaque), (3, 4));
    assert_eq!(command.remark.as_deref(), Some(" request type 9999 not supported"));
}

#[test]
fn codes_beyond_16_bits_make_a_binary_header_json() {
    let command = Command {
        serialization: Serialization::RocketMq,
        ..Command::request(request::POP_MESSAGE, Ext::new())
    };
    let mut out = BytesMut::new();
    encode_command(&command, &mut out).unwrap();
    let read = read(&mut out);
    assert_eq!((read.code, read.serialization), (request::POP_MESSAGE, Serialization::Json));
}

#[test]
fn what_does_not_fit_leaves_the_buffer_as_it_was() {
    let mut out = BytesMut::from(&b"before"[..]);
    let command = Command::request(1, Ext::new());
    let error = encode_header(&command, FRAME_LEN_MAX, &mut out).unwrap_err();
    assert!(matches!(error, EncodeError::FrameTooLong { .. }));
    let command = Command::request(1, Ext::new()).with_remark("x".repeat(HEADER_LEN_MAX));
    assert!(matches!(encode_command(&command, &mut out), Err(EncodeError::HeaderTooLong { .. })));
    let name = "n".repeat(40_000);
    let ext = [(name.as_str(), "")].into_iter().collect();
    let command = Command { serialization: Serialization::RocketMq, ..Command::request(1, ext) };
    assert_eq!(encode_command(&command, &mut out), Err(EncodeError::NameTooLong { len: 40_000 }));
    assert_eq!(&out[..], b"before");
}

fn any_command() -> impl Strategy<Value = Command> {
    let numbers = (any::<i16>(), 0_u8..14, any::<i16>(), any::<i32>(), any::<i32>());
    let remark = proptest::option::of("\\PC{1,8}[\u{0}-\u{7f}]{0,4}");
    // A binary header has no empty names and values: to Java they are null.
    let ext = proptest::collection::btree_map("\\PC{1,6}", "\\PC{1,8}[\u{0}-\u{7f}]{0,8}", 0..6);
    let body = proptest::collection::vec(any::<u8>(), 0..20);
    (numbers, remark, ext, body, any::<bool>()).prop_map(|(numbers, remark, ext, body, binary)| Command {
        code: i32::from(numbers.0),
        language: numbers.1,
        version: i32::from(numbers.2),
        opaque: numbers.3,
        flag: numbers.4,
        remark,
        ext: ext.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect(),
        body: Bytes::from(body),
        serialization: BOTH[usize::from(binary)],
    })
}

proptest! {
    #[test]
    fn commands_round_trip(command in any_command()) {
        let mut out = BytesMut::new();
        encode_command(&command, &mut out).unwrap();
        for cut in 0..out.len() {
            let cut = frame::decode(&mut BytesMut::from(&out[..cut]), FRAME_LEN_MAX);
            prop_assert_eq!(cut, Ok(None));
        }
        let again = read(&mut out.clone());
        prop_assert_eq!(&again, &command);
        for (key, value) in command.ext.iter() {
            let found = again.ext.get(key);
            prop_assert_eq!(found.as_deref(), Some(&*value));
        }
        // Fields still in the header they came in are written as well as set ones.
        let mut twice = BytesMut::new();
        encode_command(&again, &mut twice).unwrap();
        prop_assert_eq!(twice, out);
    }

    #[test]
    fn every_cut_of_a_header_is_refused(command in any_command()) {
        let mut out = BytesMut::new();
        encode_command(&command, &mut out).unwrap();
        let whole = frame::decode(&mut out, FRAME_LEN_MAX).unwrap().unwrap();
        for cut in 0..whole.header.len() {
            let frame = frame::RawFrame { header: whole.header.slice(..cut), ..whole.clone() };
            prop_assert!(Command::decode(frame).is_err());
        }
    }
}
