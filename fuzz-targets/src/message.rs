//! Records and their parts, and expressions that filter them.

use raftmq_filter::Expression;
use raftmq_message::batch::BatchIter;
use raftmq_message::id::OffsetMessageId;
use raftmq_message::record::patch_positions;
use raftmq_message::{RecordIter, RecordView, properties as list, timer, topic};

/// Reads bytes as records back to back.
pub(crate) fn record(data: &[u8]) {
    let mut end = 0;
    for record in RecordIter::new(data) {
        let Ok(record) = record else { break };
        end += record.total_size();
        look_at(&record);
        let mut moved = record.bytes().to_vec();
        patch_positions(&mut moved, 7, 8, 9).expect("it is a whole record");
        let moved = RecordView::parse(&moved).expect("only its positions are others");
        let positions = (moved.queue_offset(), moved.physical_offset(), moved.store_timestamp_ms());
        assert_eq!((positions, moved.body()), ((7, 8, 9), record.body()));
    }
    assert!(end <= data.len());
}

fn look_at(record: &RecordView<'_>) {
    let numbers = (record.magic(), record.body_crc(), record.queue_id(), record.flag(), record.sys_flag());
    let hosts = (record.born_host(), record.store_host());
    let _ = (numbers, hosts, record.reconsume_times(), record.prepared_transaction_offset());
    let _ = topic::validate_topic(record.topic());
    timer::due_ms(record.properties());
    all_properties(record.properties());
    // Before a leader has placed it, it may say anything.
    let Ok(physical_offset) = u64::try_from(record.physical_offset()) else { return };
    let id = OffsetMessageId { store_host: record.store_host(), physical_offset };
    assert_eq!(
        OffsetMessageId::parse(&id.format()).expect("it was formatted").format().as_str(),
        id.format().as_str()
    );
}

fn all_properties(text: &str) {
    let names: Vec<&str> = list::iter(text).map(|(name, _)| name).collect();
    for name in names.iter().take(20) {
        let value = list::get(text, name).expect("it was found");
        let mut values = [None];
        list::get_all(text, &[name], &mut values);
        assert_eq!(values, [Some(value)]);
        assert_eq!(list::get(&list::remove(text, name), name), None);
        assert_eq!(list::get(&list::set(text, name, "x"), name), Some("x"));
        list::split_keys(value).for_each(drop);
    }
    list::remove_all(text, &names);
}

/// Reads bytes as the body of a batch.
pub(crate) fn batch(data: &[u8]) {
    let mut again = Vec::new();
    let whole = BatchIter::new(data).all(|message| match message {
        Ok(message) => {
            message.encode_into(&mut again).expect("it was read");
            true
        }
        Err(_) => false,
    });
    assert!(!whole || again.len() == data.len());
}

/// Reads bytes as a list of properties.
pub(crate) fn properties(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        all_properties(text);
        timer::due_ms(text);
    }
}

/// Reads bytes as an offset message id.
pub(crate) fn message_id(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(id) = OffsetMessageId::parse(text) {
        let same = OffsetMessageId::parse(&id.format()).expect("it was formatted");
        assert_eq!((same.store_host, same.physical_offset), (id.store_host, id.physical_offset));
    }
}

/// Reads bytes up to the first zero as an expression, and what follows each zero as the value of a property.
pub(crate) fn expression(data: &[u8]) {
    /// Bytes that each byte of an expression may take when it is compiled: a small operand is a value and an operation.
    const BYTES_FOR_ONE: usize = 256;
    let mut parts = data.split(|byte| *byte == 0).map(std::str::from_utf8);
    let Some(Ok(source)) = parts.next() else { return };
    let Ok(expression) = Expression::compile(source) else { return };
    assert!(expression.memory_bytes() <= 1024 + source.len() * BYTES_FOR_ONE);
    assert!(expression.operations() <= 16 * source.len());
    let values: Vec<&str> = parts.map_while(Result::ok).collect();
    let names: Vec<String> = expression.properties().map(str::to_owned).collect();
    let property = |name: &str| {
        let at = names.iter().position(|known| known == name).expect("it names its properties");
        values.get(at).copied().filter(|value| !value.is_empty())
    };
    let outcome = expression.evaluate(property);
    assert_eq!(expression.matches(property), outcome == Ok(Some(true)));
}
