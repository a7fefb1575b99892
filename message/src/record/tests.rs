//! The recorded record, round trips, and what must be refused.

use super::*;
use crate::builder::RecordParts;
use crate::properties::names;
use proptest::prelude::*;

/// A record as a real broker wrote it.
const RECORDED: &str = "000000f7daa320a73610a68600000000000000000000000000000000000000000000000000000000000001a1fd1dd962\
7f00000100008e60000001a1fd1dd9967f0000010000f5bf0000000000000000000000000000000568656c6c6f045470783500934d53475f5245\
47494f4e0144656661756c74526567696f6e02554e49515f4b4559014644303030303030303030303030303030303030303030303030303030\
30303236394146333039343645303936384235463135463030303002434c555354455201433102544147530154616741024b455953016b31206b\
32025741495401747275650254524143455f4f4e017472756502";

fn recorded() -> Vec<u8> {
    (0..RECORDED.len()).step_by(2).map(|at| u8::from_str_radix(&RECORDED[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn reads_what_a_real_broker_wrote() {
    let bytes = recorded();
    let record = RecordView::parse(&bytes).unwrap();
    assert_eq!(record.total_size(), 247);
    assert_eq!(record.body_crc(), 0x3610_A686);
    assert_eq!(crate::body_crc(record.body()), 0x3610_A686);
    assert_eq!((record.body(), record.topic()), (&b"hello"[..], "Tpx5"));
    assert_eq!(record.born_host(), "127.0.0.1:36448".parse().unwrap());
    assert_eq!(record.store_host(), "127.0.0.1:62911".parse().unwrap());
    assert_eq!(record.born_timestamp_ms(), 0x01a1_fd1d_d962);
    assert_eq!(record.store_timestamp_ms(), 0x01a1_fd1d_d996);
    assert_eq!(record.property(names::TAGS), Some("TagA"));
    assert_eq!(record.property(names::KEYS), Some("k1 k2"));
    assert_eq!((record.queue_id(), record.queue_offset(), record.physical_offset()), (0, 0, 0));
}

#[test]
fn writes_what_a_real_broker_wrote() {
    let bytes = recorded();
    let record = RecordView::parse(&bytes).unwrap();
    let mut written = Vec::new();
    let len = RecordParts {
        topic: "Tpx5",
        queue_id: 0,
        flag: 0,
        sys_flag: 0,
        born_timestamp_ms: 0x01a1_fd1d_d962,
        born_host: "[::ffff:127.0.0.1]:36448".parse().unwrap(),
        store_host: "127.0.0.1:62911".parse().unwrap(),
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body: b"hello",
        properties: &[record.properties()],
    }
    .encode_into(&mut written)
    .unwrap();
    patch_positions(&mut written, 0, 0, 0x01a1_fd1d_d996).unwrap();
    assert_eq!(len, 247);
    assert_eq!(written, bytes);
}

#[test]
fn every_prefix_is_refused() {
    let bytes = recorded();
    for cut in 0..bytes.len() {
        assert!(
            matches!(RecordView::parse(&bytes[..cut]), Err(RecordError::Truncated { .. })),
            "cut at {cut}"
        );
        assert!(patch_positions(&mut bytes[..cut].to_vec(), 1, 2, 3).is_err(), "cut at {cut}");
    }
}

#[test]
fn lies_are_named() {
    let bytes = recorded();
    let with = |at: usize, value: &[u8]| {
        let mut changed = bytes.clone();
        changed[at..at + value.len()].copy_from_slice(value);
        RecordView::parse(&changed).map(|_| ()).unwrap_err()
    };
    assert_eq!(with(0, &(-1_i32).to_be_bytes()), RecordError::Size { size: -1 });
    assert_eq!(with(4, &[0; 4]), RecordError::Magic { found: 0 });
    assert_eq!(with(84, &[0xFF; 4]), RecordError::NegativeLength { what: "body", len: -1 });
    assert!(matches!(with(84, &i32::MAX.to_be_bytes()), RecordError::Truncated { what: "body", .. }));
    assert_eq!(with(52, &70_000_i32.to_be_bytes()), RecordError::Port { what: "born host", port: 70_000 });
    assert_eq!(with(93, &[0x80]), RecordError::NegativeLength { what: "topic", len: -128 });
    assert_eq!(with(94, &[0xFF]), RecordError::NotUtf8 { what: "topic", at: 0 });
    assert_eq!(
        with(0, &246_i32.to_be_bytes()),
        RecordError::Truncated { what: "properties", need: 247, have: 246 }
    );
    let mut longer = bytes.clone();
    longer[3] += 1;
    longer.push(0);
    assert_eq!(RecordView::parse(&longer), Err(RecordError::Trailing { total: 248, end: 247 }));
    let error = patch_positions(&mut bytes.clone(), u64::MAX, 0, 0).unwrap_err();
    assert_eq!(error, RecordError::Position { what: "queue offset", value: u64::MAX });
}

#[test]
fn a_damaged_tail_ends_the_walk_and_says_where() {
    let mut bytes = [recorded(), recorded()].concat();
    bytes.extend([1, 2, 3]);
    let read: Vec<_> = RecordIter::new(&bytes).collect();
    assert_eq!(read.len(), 3);
    assert!(read[1].is_ok());
    assert!(matches!(read[2], Err(RecordError::At { at: 494, .. })));
}

#[test]
fn long_topics_take_the_second_version_and_too_long_ones_are_refused() {
    let topics = ["t".repeat(127), "t".repeat(128), "t".repeat(40_000)];
    let encode = |topic: &str| {
        let mut out = Vec::new();
        parts(topic, &[]).encode_into(&mut out).map(|_| out)
    };
    assert_eq!(RecordView::parse(&encode(&topics[0]).unwrap()).unwrap().magic(), MAGIC_V1);
    assert_eq!(RecordView::parse(&encode(&topics[1]).unwrap()).unwrap().magic(), MAGIC_V2);
    assert_eq!(encode(&topics[2]), Err(crate::BuildError::TopicTooLong { len: 40_000 }));
    let properties = "p".repeat(PROPERTIES_LEN_MAX);
    let mut out = Vec::new();
    let error = parts("t", &[&properties, "k"]).encode_into(&mut out).unwrap_err();
    assert_eq!(error, crate::BuildError::PropertiesTooLong { len: PROPERTIES_LEN_MAX + 2 });
    assert!(out.is_empty());
}

#[test]
fn property_lists_are_joined_with_one_terminator() {
    let mut out = Vec::new();
    parts("t", &["a\u{1}1", "", "b\u{1}2\u{2}", "c\u{1}3", ""]).encode_into(&mut out).unwrap();
    assert_eq!(RecordView::parse(&out).unwrap().properties(), "a\u{1}1\u{2}b\u{1}2\u{2}c\u{1}3");
}

fn parts<'a>(topic: &'a str, properties: &'a [&'a str]) -> RecordParts<'a> {
    RecordParts {
        topic,
        queue_id: 3,
        flag: 7,
        sys_flag: sys_flag::COMPRESSED,
        born_timestamp_ms: 11,
        born_host: "10.0.0.1:1".parse().unwrap(),
        store_host: "10.0.0.2:2".parse().unwrap(),
        reconsume_times: 1,
        prepared_transaction_offset: 13,
        body: b"body",
        properties,
    }
}

fn any_host() -> impl Strategy<Value = SocketAddr> {
    (any::<bool>(), any::<u128>(), any::<u16>()).prop_map(|(v6, ip, port)| {
        let ip = if v6 { IpAddr::from(ip.to_be_bytes()) } else { IpAddr::from((ip as u32).to_be_bytes()) };
        SocketAddr::new(ip.to_canonical(), port)
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        topic in "[a-z%]{0,200}", properties in ".{0,60}", body in proptest::collection::vec(any::<u8>(), 0..80),
        numbers in any::<(i32, i32, i32, i64, i32, i64)>(), hosts in (any_host(), any_host()),
        positions in (0..=i64::MAX as u64, 0..=i64::MAX as u64, any::<i64>()),
    ) {
        let lists = [properties.as_str()];
        let parts = RecordParts {
            topic: &topic, queue_id: numbers.0, flag: numbers.1, sys_flag: numbers.2, born_timestamp_ms: numbers.3,
            born_host: hosts.0, store_host: hosts.1, reconsume_times: numbers.4,
            prepared_transaction_offset: numbers.5, body: &body, properties: &lists,
        };
        let mut out = bytes::BytesMut::new();
        let len = parts.encode_into(&mut out).unwrap();
        prop_assert_eq!((len, len), (out.len(), parts.encoded_len()));
        patch_positions(&mut out, positions.0, positions.1, positions.2).unwrap();
        out.extend_from_slice(b"what follows");
        let record = RecordView::parse(&out).unwrap();
        prop_assert_eq!(record.total_size(), len);
        prop_assert_eq!(record_total_size(&out), Ok(len));
        prop_assert_eq!((record.topic(), record.properties(), record.body()), (topic.as_str(), properties.as_str(), &body[..]));
        prop_assert_eq!((record.queue_id(), record.flag()), (numbers.0, numbers.1));
        let host_bits = sys_flag::BORN_HOST_V6 | sys_flag::STORE_HOST_V6;
        prop_assert_eq!(record.sys_flag() & !host_bits, numbers.2 & !host_bits);
        prop_assert_eq!((record.born_timestamp_ms(), record.store_timestamp_ms()), (numbers.3, positions.2));
        prop_assert_eq!((record.born_host(), record.store_host()), hosts);
        prop_assert_eq!((record.queue_offset() as u64, record.physical_offset() as u64), (positions.0, positions.1));
        prop_assert_eq!((record.reconsume_times(), record.prepared_transaction_offset()), (numbers.4, numbers.5));
        for cut in 0..len {
            prop_assert!(RecordView::parse(&out[..cut]).is_err());
        }
    }

    #[test]
    fn damaged_bytes_never_panic(at in 0_usize..247, value in any::<u8>(), more in proptest::collection::vec(any::<u8>(), 0..120)) {
        let mut bytes = recorded();
        bytes[at] = value;
        let _ = RecordView::parse(&bytes);
        let _ = patch_positions(&mut bytes, 1, 2, 3);
        let _ = RecordIter::new(&more).count();
    }
}
