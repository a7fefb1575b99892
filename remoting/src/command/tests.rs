//! Headers as peers write them, and headers that must be refused.

use super::*;
use bytes::BytesMut;
use proptest::prelude::*;

fn json(header: &str) -> Result<Command, CommandError> {
    Command::decode(raw(Serialization::Json, header.as_bytes()))
}

fn raw(serialization: Serialization, header: &[u8]) -> RawFrame {
    RawFrame { serialization, header: Bytes::copy_from_slice(header), body: Bytes::from_static(b"body") }
}

#[test]
fn a_json_header_in_any_order_with_anything_else_in_it() {
    let command = json(
        " { \"extFields\" : { \"a\" : 12 , \"b\":true,\"c\":null,\"d\":\"x\\u0001y\",\"k\\u0065y\":\"\u{fc}\", \"o\":{\"z\":[1]} } ,
        \"unknown\":{\"code\":[1,2,{\"x\":null}]},\"opaque\":-3,\"flag\":1,\"language\":\"GO\",\"remark\":\"a\\nb\",\"version\":317,
        \"serializeTypeCurrentRPC\":\"JSON\",\"code\":105 } ",
    )
    .unwrap();
    assert_eq!((command.code, command.opaque, command.flag, command.version), (105, -3, 1, 317));
    assert_eq!((command.language, command.remark.as_deref()), (language::GO, Some("a\nb")));
    assert_eq!(&command.body[..], b"body");
    let fields: Vec<_> =
        command.ext.iter().map(|(key, value)| (key.to_owned(), value.into_owned())).collect();
    let expected = [("a", "12"), ("b", "true"), ("d", "x\u{1}y"), ("key", "\u{fc}"), ("o", "{\"z\":[1]}")];
    assert_eq!(fields, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    assert!(matches!(command.ext.get("a"), Some(std::borrow::Cow::Borrowed("12"))));
}

#[test]
fn absent_and_null_parts_take_defaults() {
    let command = json(r#"{"code":34,"extFields":null,"remark":null}"#).unwrap();
    assert!(command.ext.is_empty() && command.remark.is_none());
    assert_eq!((command.language, command.version, command.flag), (language::JAVA, 0, 0));
    assert_eq!(json(r#"{"code":1,"remark":"","language":"COBOL"}"#).unwrap().remark, None);
    assert_eq!(json(r#"{"code":1,"language":"COBOL"}"#).unwrap().language, language::OTHER);
}

#[test]
fn what_java_reads_besides_is_read() {
    let usual =
        json(r#"{"code":310,"language":"CPP","opaque":3,"extFields":{"a":"1","b":"{\"x\":[1]}"}}"#).unwrap();
    for header in [
        r#"{"code":"310","language":1,"opaque":"3","extFields":{"a":1,"b":{"x" : [1]}}}"#,
        r#"{'Code':310.0,language:"cpp",opaque:+3,extFields:{'a':01,b:'{"x":[1]}'},}"#,
        "\u{feff}{/*c*/\"code\":310,\"language\":\"1\",\"opaque\":3,\"extFields\":{\"a\":\"\\x31\",\"b\":{x:[1,]}}}//",
    ] {
        let command = json(header).unwrap();
        assert_eq!((command.code, command.language, command.opaque), (310, usual.language, 3), "{header}");
        let number = command.ext.get_i32("a");
        assert_eq!((number, command.ext.get("b")), (Ok(Some(1)), usual.ext.get("b")), "{header}");
    }
    assert_eq!(json("{}").unwrap(), Command { body: usual.body, ..unsaid(Ext::new()) });
    assert_eq!(json(r#"{"code":1,"remark":5}"#).unwrap().remark.as_deref(), Some("5"));
    let bad_utf8 = b"{\"code\":1,\"remark\":\"\xFF\",\"extFields\":{\"k\":\"v\xC3x\"}}";
    let command = Command::decode(raw(Serialization::Json, bad_utf8)).unwrap();
    assert_eq!(
        (command.remark.as_deref(), command.ext.get("k").as_deref()),
        (Some("\u{FFFD}"), Some("v\u{FFFD}x"))
    );
}

#[test]
fn bad_json_headers_are_named() {
    for (header, error) in [
        ("", "header is no JSON: no object at byte 0"),
        ("[]", "header is no JSON: no object at byte 0"),
        ("{\"code\":1", "header is no JSON: no comma between members at byte 9"),
        ("{\"code\":1}x", "header is no JSON: something behind the value at byte 10"),
        (
            "{\"code\":\"x\"}",
            "header does not fit: invalid type: string \"x\", expected a whole number in range",
        ),
        ("{\"code\":2147483648}", "header does not fit: invalid value: integer `2147483648`, expected i32"),
        ("{\"code\":1,\"extFields\":[]}", "header does not fit: invalid type: sequence, expected an object"),
        ("{\"code\":1,\"extFields\":{\"a\":\"\\q\"}}", "header is no JSON: an unknown escape at byte 28"),
    ] {
        assert_eq!(json(header).unwrap_err().to_string(), error, "{header}");
    }
    let fields: Vec<_> = (0..=EXT_FIELDS_MAX).map(|n| format!("\"{n}\":\"\"")).collect();
    let header = |fields: &[String]| format!("{{\"code\":1,\"extFields\":{{{}}}}}", fields.join(","));
    assert_eq!(json(&header(&fields)), Err(CommandError::TooManyFields));
    assert_eq!(json(&header(&fields[1..])).unwrap().ext.len(), EXT_FIELDS_MAX);
}

/// A binary header: code 14, GO, version 317, opaque 9, oneway, remark "r", fields k=v and an empty one.
fn binary() -> Vec<u8> {
    let mut header = vec![0, 14, 9, 1, 61, 0, 0, 0, 9, 0, 0, 0, 2, 0, 0, 0, 1, b'r', 0, 0, 0, 15];
    header.extend([0, 1, b'k', 0, 0, 0, 1, b'v', 0, 1, b'e', 0, 0, 0, 0]);
    header
}

#[test]
fn a_binary_header() {
    let command = Command::decode(raw(Serialization::RocketMq, &binary())).unwrap();
    assert_eq!((command.code, command.language, command.version, command.opaque), (14, language::GO, 317, 9));
    assert!(command.is_oneway() && !command.is_response());
    assert_eq!(command.remark.as_deref(), Some("r"));
    assert_eq!(command.ext, [("k", "v")].into_iter().collect(), "to Java an empty value is none");
    let mut bad_utf8 = binary();
    (bad_utf8[17], bad_utf8[29]) = (0xFF, 0xFF);
    let command = Command::decode(raw(Serialization::RocketMq, &bad_utf8)).unwrap();
    assert_eq!(
        (command.remark.as_deref(), command.ext.get("k").as_deref()),
        (Some("\u{FFFD}"), Some("\u{FFFD}"))
    );
}

#[test]
fn a_binary_field_that_is_no_utf8_may_follow_others() {
    let mut header = binary();
    header.extend([0, 1, b'k', 0, 0, 0, 2, b'w', 0xFF, 0, 1, 0xFE, 0, 0, 0, 1, b'x']);
    header[21] += 17;
    let command = Command::decode(raw(Serialization::RocketMq, &header)).unwrap();
    let fields: Vec<_> =
        command.ext.iter().map(|(key, value)| (key.to_owned(), value.into_owned())).collect();
    let expected = [("k", "v"), ("k", "w\u{FFFD}"), ("\u{FFFD}", "x")];
    assert_eq!(fields, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    assert_eq!(command.ext.get("k").as_deref(), Some("w\u{FFFD}"));
}

#[test]
fn bad_binary_headers_are_named() {
    let decode = |bytes: &[u8]| Command::decode(raw(Serialization::RocketMq, bytes));
    let good = binary();
    for cut in 0..good.len() {
        assert!(decode(&good[..cut]).is_err(), "cut at {cut}");
    }
    let with = |at: usize, value: u8| {
        let mut changed = good.clone();
        changed[at] = value;
        decode(&changed).unwrap_err()
    };
    assert!(matches!(with(13, 0xFF), CommandError::Length { what: "remark", .. }));
    assert_eq!(with(21, 7), CommandError::Length { what: "ext", len: 7 });
    assert_eq!(with(21, 8), CommandError::Trailing { extra: 7 });
    assert!(matches!(with(22, 0x80), CommandError::Length { what: "ext name", .. }));
    assert!(matches!(with(25, 0x7F), CommandError::Truncated { what: "ext value", .. }));
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60), kind in any::<bool>()) {
        let serialization = if kind { Serialization::Json } else { Serialization::RocketMq };
        let _ = Command::decode(raw(serialization, &bytes));
    }

    #[test]
    fn damaged_headers_never_panic(at in 0_usize..37, value in any::<u8>()) {
        let mut bytes = binary();
        bytes[at] = value;
        if let Ok(command) = Command::decode(raw(Serialization::RocketMq, &bytes)) {
            let _ = command.ext.iter().count();
        }
        let mut text = BytesMut::from(&br#"{"code":1,"extFields":{"a":"\u0001\\"},"remark":"x"}"#[..]);
        text[at] = value;
        if let Ok(command) = Command::decode(raw(Serialization::Json, &text)) {
            let _ = command.ext.iter().count();
        }
    }
}
