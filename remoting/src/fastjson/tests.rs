//! Texts that are almost JSON, values of other types than asked for, and texts to be refused.

use std::collections::BTreeMap;

use super::*;
use proptest::prelude::*;
use serde::Deserialize;

fn read_any(text: &str) -> Result<serde_json::Value, BodyError> {
    parse(format!("{{\"x\":{text}}}").as_bytes()).map(|mut body: serde_json::Value| body["x"].take())
}

#[test]
fn names_of_any_kind_become_strings_and_nulls_go() {
    let text = r#"{{"brokerName":"b\"c","queueId":0} : 1, 0:"x", -1 : [null , 2], n:null, 's':{"a":null,"b":true,},}"#;
    let expected = r#"{"{\"brokerName\":\"b\\\"c\",\"queueId\":0}":1,"0":"x","-1":[null,2],"s":{"b":true}}"#;
    let expected: serde_json::Value = serde_json::from_str(expected).unwrap();
    assert_eq!(parse::<serde_json::Value>(text.as_bytes()).unwrap(), expected);
}

#[test]
fn values_are_read_as_the_type_that_is_asked_for() {
    #[derive(Debug, PartialEq, Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Body {
        truth: bool,
        small: i32,
        long_one: i64,
        rate: f64,
        text: String,
        list: Vec<i32>,
        map: BTreeMap<i64, String>,
        option: Option<bool>,
    }
    let read = |text: &str| parse::<Body>(text.as_bytes());
    let body = read(
        r#"{"truth":"1","small":"-7","LONG_ONE":1.9e3,"rate":"2.5","text":5,"list":["1",2.5,null,true],"map":{1:2},"option":0}"#,
    );
    let expected = Body {
        truth: true,
        small: -7,
        long_one: 1900,
        rate: 2.5,
        text: "5".into(),
        list: vec![1, 2, 1],
        map: [(1, "2".into())].into(),
        option: Some(false),
    };
    assert_eq!(body.unwrap(), expected);
    let nothing = r#"{"truth":"","small":"null","longOne":"","list":"","map":"","text":null,"option":null}"#;
    assert_eq!(read(nothing).unwrap(), Body::default());
    assert_eq!(read(r#"{"small":1,"small":2,"small":null}"#).unwrap().small, 2);
    assert_eq!(read(r#"{"text":{"b":[1, "x", {}],"n":null}}"#).unwrap().text, r#"{"b":[1,"x",{}]}"#);
    for (wrong, expected) in [
        (r#"{"truth":"yes"}"#, "a boolean"),
        (r#"{"small":2147483648}"#, "i32"),
        (r#"{"longOne":9223372036854775808}"#, "a whole number in range"),
        (r#"{"longOne":1e30}"#, "a whole number in range"),
        (r#"{"rate":1e400}"#, "a number in range"),
        (r#"{"small":[1]}"#, "a whole number in range"),
        (r#"{"map":[]}"#, "an object"),
    ] {
        let error = read(wrong).unwrap_err();
        assert!(
            matches!(error, BodyError::Shape(_)) && error.to_string().contains(expected),
            "{wrong}: {error}"
        );
    }
}

#[test]
fn strings_have_more_escapes_than_json() {
    let text = r#"'a"\'\"\\\/\b\f\n\r\t\v\0\7\x41\u00fc\ud83d\ude00\ud83dx\ude00'"#;
    let expected = "a\"'\"\\/\u{8}\u{c}\n\r\t\u{b}\0\u{7}A\u{fc}\u{1F600}\u{FFFD}x\u{FFFD}";
    assert_eq!(read_any(text).unwrap(), expected);
    assert_eq!(read_any("\"a\n\u{1}b\"").unwrap(), "a\n\u{1}b");
    assert_eq!(parse::<serde_json::Value>(b"{\"x\":\"\xff\"}").unwrap()["x"], "\u{FFFD}");
}

#[test]
fn bad_texts_are_refused_with_their_place() {
    for (text, place) in [
        ("", 0),
        ("[]", 0),
        ("null", 0),
        ("{", 1),
        ("{1}", 2),
        ("{\"a\":1 \"b\":2}", 7),
        ("{\"a", 2),
        ("{{{}:1}:1}", 2),
        ("{}x", 2),
        ("{/*", 1),
        ("{a:Set[1]}", 3),
        ("{a:0x1}", 4),
        ("{a:-}", 3),
        ("{a:\"\\q\"}", 4),
        ("{a:\"\\u12\"}", 4),
    ] {
        match parse::<serde_json::Value>(text.as_bytes()) {
            Err(BodyError::Text(error)) => assert_eq!(error.at, place, "{text}: {error}"),
            other => panic!("{text}: {other:?}"),
        }
    }
    let deep = "{a:".repeat(100_000);
    let error = parse::<serde_json::Value>(deep.as_bytes()).unwrap_err();
    assert_eq!(error.to_string(), "body is no JSON: nested too deeply at byte 192");
    let many = format!("{{a:[{}]}}", "0,".repeat(3 << 20));
    let error = parse::<serde_json::Value>(many.as_bytes()).unwrap_err();
    assert!(error.to_string().contains("too many values"), "{error}");
    let long = vec![b' '; FRAME_LEN_MAX + 1];
    assert!(matches!(parse::<serde_json::Value>(&long), Err(BodyError::TooLong { .. })));
}

/// Pieces that texts for the reader are made of.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        proptest::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ":",
            ",",
            "\"",
            "'",
            "\\",
            "\\u",
            "d83d",
            "/*",
            "*/",
            "//",
            "\n",
            "-",
            "+",
            ".",
            "1",
            "e9",
            "L",
            "null",
            "true",
            "NaN",
            "a",
            "\"codeSet\":",
            "\"offsetTable\":",
            "{{\"queueId\":1}:",
            "\u{feff}",
            "\u{fc}",
        ])
        .prop_map(str::to_owned),
        ".{0,2}",
    ]
}

proptest! {
    #[test]
    fn standard_json_keeps_its_meaning(text in "[\\[\\]{}\",:a1n -]{0,20}") {
        let text = format!("{{\"x\":{text}}}");
        match serde_json::from_str::<serde_json::Value>(&text) {
            Ok(value) if !text.contains('n') => {
                prop_assert_eq!(parse::<serde_json::Value>(text.as_bytes()).unwrap(), value);
            }
            _ => {}
        }
    }

    #[test]
    fn any_text_is_read_or_refused(pieces in proptest::collection::vec(piece(), 0..40), bytes in any::<Vec<u8>>()) {
        for text in [pieces.concat().into_bytes(), format!("{{{}", pieces.concat()).into_bytes(), bytes] {
            let _ = parse::<serde_json::Value>(&text);
            let _ = parse::<crate::body::HeartbeatData>(&text);
            let _ = parse::<crate::body::OffsetTable>(&text);
        }
    }

    #[test]
    fn any_change_of_a_body_is_read_or_refused(at in 0_usize..300, piece in piece(), cut in 0_usize..4) {
        let body = br#"{"clientID":"c","consumerDataSet":[{"consumeFromWhere":4,"consumeType":"CONSUME_PASSIVELY","groupName":"G","messageModel":1,"subscriptionDataSet":[{"codeSet":["1"],"subVersion":"5","tagsSet":["a"],"topic":"T"}],"unitMode":0}],"producerDataSet":[{"groupName":"P"}]}"#;
        let at = at.min(body.len());
        let end = (at + cut).min(body.len());
        let changed = [&body[..at], piece.as_bytes(), &body[end..]].concat();
        let _ = parse::<crate::body::HeartbeatData>(&changed);
    }
}
