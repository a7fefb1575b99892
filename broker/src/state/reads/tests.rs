use proptest::prelude::*;
use raftmq_message::{RecordParts, RecordView};
use raftmq_store::PropertyNames;

use super::*;

fn record(topic: &str, queue_id: i32, sys_flag: i32, properties: &str) -> Vec<u8> {
    let host = ([127, 0, 0, 1], 10911).into();
    let parts = RecordParts {
        topic,
        queue_id,
        flag: 0,
        sys_flag,
        born_timestamp_ms: 1,
        born_host: host,
        store_host: host,
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body: b"body",
        properties: &[properties],
    };
    let mut bytes = Vec::new();
    parts.encode_into(&mut bytes).unwrap();
    bytes
}

/// Tags code, keys and due time.
type Read = (i64, Vec<String>, Option<i64>);

fn read(record: &[u8], names: &PropertyNames) -> Read {
    let message = Committed::new(RecordView::parse(record).unwrap(), names);
    let mut found = Vec::new();
    keys(&message, &mut |key| found.push(key.to_owned()));
    (tags_code(&message), found, due_ms(&message))
}

fn all_names() -> PropertyNames {
    let of_each = [TAGS_CODE.properties, KEYS.properties, DUE_MS.properties];
    PropertyNames::new(of_each.into_iter().flatten().copied())
}

const ALL: &str =
    "TAGS\u{1}TagA\u{2}KEYS\u{1}k1  k2\u{2}UNIQ_KEY\u{1}a b\u{2}WAIT\u{1}true\u{2}TIMER_OUT_MS\u{1}70";

#[test]
fn a_message_has_the_code_of_its_tags_and_its_keys() {
    let read = |properties| read(&record("t", 0, 0, properties), &all_names());
    let keys = ["a b", "k1", "k2"].map(str::to_owned).to_vec();
    assert_eq!(read(ALL), (hash::tags_code("TagA"), keys, None));
    assert_eq!(read(""), (0, Vec::new(), None));
}

#[test]
fn a_message_in_the_timers_queue_has_its_time_instead_of_tags() {
    let read = |queue, properties| read(&record(TIMER_TOPIC, queue, 0, properties), &all_names());
    assert_eq!((read(0, ALL).0, read(0, ALL).2), (70, Some(70)));
    assert_eq!((read(0, "TAGS\u{1}a").0, read(0, "TAGS\u{1}a").2), (0, Some(0)));
    assert_eq!((read(1, ALL).0, read(1, ALL).2), (hash::tags_code("TagA"), None));
}

#[test]
fn half_messages_and_rollbacks_have_no_keys() {
    for (flag, expected) in [
        (sys_flag::TRANSACTION_PREPARED, 0),
        (sys_flag::TRANSACTION_ROLLBACK, 0),
        (sys_flag::TRANSACTION_COMMIT, 3),
        (sys_flag::COMPRESSED, 3),
    ] {
        assert_eq!(read(&record("t", 0, flag, ALL), &all_names()).1.len(), expected, "{flag}");
    }
}

proptest! {
    #[test]
    fn one_pass_finds_what_a_look_up_of_each_name_finds(
        pieces in proptest::collection::vec(
            prop_oneof![
                Just("TAGS"), Just("UNIQ_KEY"), Just("KEYS"), Just("TIMER_OUT_MS"), Just("\u{1}"), Just("\u{2}"),
                Just("T"), Just("7"), Just("x é"),
            ],
            0..30,
        ),
        waits: bool,
    ) {
        let record = record(if waits { TIMER_TOPIC } else { "t" }, 0, 0, &pieces.concat());
        prop_assert_eq!(read(&record, &all_names()), read(&record, &PropertyNames::default()));
    }
}
