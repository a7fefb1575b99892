//! The property list of a message: `key 0x01 value 0x02` repeated, UTF-8, the last 0x02 optional.
//!
//! Reading borrows; editing returns a new list. Entries without a separator or with an empty key or value are skipped
//! when reading, as the original decoders do, and kept verbatim when editing other keys.

/// Stands between key and value.
pub const KEY_END: u8 = 1;
/// Stands after a value.
pub const PAIR_END: u8 = 2;

const KEY_END_CHAR: char = '\u{1}';
const PAIR_END_CHAR: char = '\u{2}';

/// Names with a meaning to brokers or clients.
pub mod names {
    /// Index keys, separated by spaces.
    pub const KEYS: &str = "KEYS";
    pub const TAGS: &str = "TAGS";
    /// Whether the producer waits for the flush.
    pub const WAIT: &str = "WAIT";
    /// Delay level, 1 to 18.
    pub const DELAY: &str = "DELAY";
    pub const RETRY_TOPIC: &str = "RETRY_TOPIC";
    pub const REAL_TOPIC: &str = "REAL_TOPIC";
    pub const REAL_QID: &str = "REAL_QID";
    pub const TRAN_MSG: &str = "TRAN_MSG";
    pub const PGROUP: &str = "PGROUP";
    pub const MIN_OFFSET: &str = "MIN_OFFSET";
    pub const MAX_OFFSET: &str = "MAX_OFFSET";
    pub const ORIGIN_MESSAGE_ID: &str = "ORIGIN_MESSAGE_ID";
    pub const RECONSUME_TIME: &str = "RECONSUME_TIME";
    pub const MAX_RECONSUME_TIMES: &str = "MAX_RECONSUME_TIMES";
    pub const MSG_REGION: &str = "MSG_REGION";
    pub const TRACE_ON: &str = "TRACE_ON";
    /// The message id that producers give, see [`crate::id::UniqueKeys`].
    pub const UNIQ_KEY: &str = "UNIQ_KEY";
    pub const CLUSTER: &str = "CLUSTER";
    pub const MSG_TYPE: &str = "MSG_TYPE";
    pub const CORRELATION_ID: &str = "CORRELATION_ID";
    pub const REPLY_TO_CLIENT: &str = "REPLY_TO_CLIENT";
    pub const TTL: &str = "TTL";
    pub const TRANSACTION_CHECK_TIMES: &str = "TRANSACTION_CHECK_TIMES";
    pub const CHECK_IMMUNITY_TIME_IN_SECONDS: &str = "CHECK_IMMUNITY_TIME_IN_SECONDS";
    pub const TRAN_PREPARED_QUEUE_OFFSET: &str = "TRAN_PREPARED_QUEUE_OFFSET";
    pub const DLQ_ORIGIN_TOPIC: &str = "DLQ_ORIGIN_TOPIC";
    pub const DLQ_ORIGIN_MESSAGE_ID: &str = "DLQ_ORIGIN_MESSAGE_ID";
    /// Deliver that many seconds after the broker got it.
    pub const TIMER_DELAY_SEC: &str = "TIMER_DELAY_SEC";
    /// Deliver that many ms after the broker got it.
    pub const TIMER_DELAY_MS: &str = "TIMER_DELAY_MS";
    /// Deliver at that time, in ms since 1970.
    pub const TIMER_DELIVER_MS: &str = "TIMER_DELIVER_MS";
    pub const SHARDING_KEY: &str = "__SHARDINGKEY";
    /// When a message is due, in milliseconds since 1970; set by the broker.
    pub const TIMER_OUT_MS: &str = "TIMER_OUT_MS";
    /// When the broker took a message to be delivered later, likewise.
    pub const TIMER_ENQUEUE_MS: &str = "TIMER_ENQUEUE_MS";
    /// The unique key of an earlier message that is not to be delivered.
    pub const TIMER_DEL_UNIQKEY: &str = "TIMER_DEL_UNIQKEY";
}

/// The well-formed entries of a list, in order.
pub fn iter(properties: &str) -> impl Iterator<Item = (&str, &str)> {
    entries(properties).filter_map(|(_, pair)| pair)
}

/// Every piece between 0x02 bytes with the key and value it holds, if it is well formed.
fn entries(properties: &str) -> impl Iterator<Item = (&str, Option<(&str, &str)>)> {
    properties.split(PAIR_END_CHAR).map(|piece| {
        let pair = piece.split_once(KEY_END_CHAR).filter(|(key, value)| !key.is_empty() && !value.is_empty());
        (piece, pair)
    })
}

/// The pieces between 0x02 bytes, in one pass.
fn pieces(properties: &str) -> impl Iterator<Item = &str> {
    let mut start = 0;
    let ends = memchr::memchr_iter(PAIR_END, properties.as_bytes()).chain([properties.len()]);
    ends.map(move |end| {
        let piece = &properties[start..end];
        start = end + 1;
        piece
    })
}

/// How many bytes come before the first 0x02, or all. Eight at a time: most entries are too short for what
/// [`memchr`] costs to begin.
#[inline]
pub fn pair_end(list: &[u8]) -> usize {
    const LOW: u64 = 0x0101_0101_0101_0101;
    let (words, rest) = list.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        // Zero where the byte stands; the first of the high bits is that of the first zero.
        let differs = u64::from_le_bytes(*word) ^ (LOW * PAIR_END as u64);
        let found = differs.wrapping_sub(LOW) & !differs & (LOW << 7);
        if found != 0 {
            return at * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    let in_rest = rest.iter().position(|b| *b == PAIR_END).unwrap_or(rest.len());
    words.len() * 8 + in_rest
}

/// Value of `name`; the last one where a name occurs twice, as in a map that is filled front to back. One pass over the
/// list, whatever it holds.
pub fn get<'a>(properties: &'a str, name: &str) -> Option<&'a str> {
    let value = |piece: &'a str| piece.strip_prefix(name)?.strip_prefix(KEY_END_CHAR);
    let values = pieces(properties).filter_map(value).filter(|value| !value.is_empty() && !name.is_empty());
    values.last()
}

/// Values of several names, which are sorted, in one pass: `values` has a place for each name, and is filled as by
/// [`get`]. Returns how many pieces the list has.
pub fn get_all<'a>(properties: &'a str, names: &[impl AsRef<str>], values: &mut [Option<&'a str>]) -> usize {
    /// A key, 0x01, a value.
    const ENTRY_LEN_MIN: usize = 3;
    let mut count = 0;
    for piece in pieces(properties) {
        count += 1;
        if piece.len() < ENTRY_LEN_MIN {
            continue;
        }
        let Some(key_end) = memchr::memchr(KEY_END, piece.as_bytes()) else { continue };
        let (key, value) = (&piece[..key_end], &piece[key_end + 1..]);
        if key.is_empty() || value.is_empty() {
            continue;
        }
        if let Ok(at) = names.binary_search_by(|name| name.as_ref().cmp(key)) {
            values[at] = Some(value);
        }
    }
    count
}

/// Adds an entry at the end without looking for an older one of that name.
pub fn append(properties: &mut String, name: &str, value: &str) {
    if !properties.is_empty() && !properties.ends_with(PAIR_END_CHAR) {
        properties.push(PAIR_END_CHAR);
    }
    properties.push_str(name);
    properties.push(KEY_END_CHAR);
    properties.push_str(value);
    properties.push(PAIR_END_CHAR);
}

/// The list with `name` set to `value`, older entries of that name gone.
pub fn set(properties: &str, name: &str, value: &str) -> String {
    let mut changed = remove(properties, name);
    append(&mut changed, name, value);
    changed
}

/// The list without `name`.
pub fn remove(properties: &str, name: &str) -> String {
    remove_all(properties, &[name])
}

/// The list without any of these names.
pub fn remove_all(properties: &str, names: &[&str]) -> String {
    let mut kept = String::with_capacity(properties.len() + 1);
    for (piece, _) in entries(properties) {
        let is_named = piece.split_once(KEY_END_CHAR).is_some_and(|(key, _)| names.contains(&key));
        if !is_named && !piece.is_empty() {
            kept.push_str(piece);
            kept.push(PAIR_END_CHAR);
        }
    }
    kept
}

/// The list made of these pairs.
pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut list = String::new();
    for (name, value) in pairs {
        append(&mut list, name, value);
    }
    list
}

/// The single keys inside a KEYS value.
pub fn split_keys(keys: &str) -> impl Iterator<Item = &str> {
    keys.split(' ').filter(|key| !key.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIST: &str = "KEYS\u{1}k1 k2\u{2}UNIQ_KEY\u{1}FD00\u{2}TAGS\u{1}TagA";

    #[test]
    fn reads_with_and_without_the_last_terminator() {
        for list in [LIST.to_owned(), format!("{LIST}\u{2}")] {
            assert_eq!(get(&list, names::TAGS), Some("TagA"));
            assert_eq!(get(&list, names::KEYS), Some("k1 k2"));
            assert_eq!(get(&list, "KEY"), None);
            assert_eq!(get(&list, ""), None);
            assert_eq!(iter(&list).count(), 3);
        }
        assert_eq!(split_keys(" k1  k2 ").collect::<Vec<_>>(), ["k1", "k2"]);
    }

    #[test]
    fn a_name_inside_a_value_or_another_name_is_not_an_entry() {
        let list = "A\u{1}TAGS\u{2}XTAGS\u{1}x\u{2}TAGSX\u{1}y\u{2}";
        assert_eq!(get(list, "TAGS"), None);
        assert_eq!(get("TAGSTAGS\u{1}v\u{2}", "TAGS"), None);
    }

    #[test]
    fn malformed_and_empty_entries_are_skipped() {
        let list = "noseparator\u{2}\u{1}v\u{2}k\u{1}\u{2}ok\u{1}1\u{2}";
        assert_eq!(iter(list).collect::<Vec<_>>(), [("ok", "1")]);
        assert_eq!(get(list, "k"), None);
    }

    #[test]
    fn editing_keeps_other_entries_verbatim() {
        let changed = set(LIST, names::KEYS, "z");
        assert_eq!(changed, "UNIQ_KEY\u{1}FD00\u{2}TAGS\u{1}TagA\u{2}KEYS\u{1}z\u{2}");
        assert_eq!(remove(&changed, names::UNIQ_KEY), "TAGS\u{1}TagA\u{2}KEYS\u{1}z\u{2}");
        assert_eq!(remove_all(&changed, &[names::UNIQ_KEY, "absent", names::KEYS]), "TAGS\u{1}TagA\u{2}");
    }

    proptest! {
        #[test]
        fn get_agrees_with_the_plain_walk(list in "[ab\u{1}\u{2}]{0,40}", name in "[ab]{1,2}") {
            let walked = iter(&list).filter(|(key, _)| *key == name).last().map(|(_, value)| value);
            prop_assert_eq!(get(&list, &name), walked);
        }

        #[test]
        fn the_end_of_a_pair_is_the_first_one(list in "[a\u{0}-\u{3}\u{80}-\u{83}]{0,40}") {
            let list = list.as_bytes();
            prop_assert_eq!(pair_end(list), list.iter().position(|b| *b == PAIR_END).unwrap_or(list.len()));
        }

        #[test]
        fn all_at_once_agree_with_one_by_one(list in "[abc\u{1}\u{2}]{0,40}") {
            let names = ["a", "ab", "b", "c"];
            let mut values = [None; 4];
            let pieces = get_all(&list, &names, &mut values);
            prop_assert_eq!(values, names.map(|name| get(&list, name)));
            prop_assert_eq!(pieces, list.split(PAIR_END_CHAR).count());
        }

        #[test]
        fn what_was_set_is_read_back(list in "[ab\u{1}\u{2}]{0,40}", name in "[ab]{1,2}", value in "[a-z]{1,5}") {
            let changed = set(&list, &name, &value);
            prop_assert_eq!(get(&changed, &name), Some(value.as_str()));
            let removed = remove(&changed, &name);
            prop_assert_eq!(get(&removed, &name), None);
        }
    }
}
