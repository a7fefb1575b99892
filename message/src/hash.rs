//! Java's `String.hashCode` and what RocketMQ derives from it: tags codes and index key hashes.

/// Continues Java's string hash from `hash` over `text`, in UTF-16 units.
fn extend(mut hash: i32, text: &str) -> i32 {
    if text.is_ascii() {
        return extend_ascii(hash, text.as_bytes());
    }
    for unit in text.encode_utf16() {
        hash = hash.wrapping_mul(31).wrapping_add(i32::from(unit));
    }
    hash
}

/// The same where each byte is a unit, four of them a step: one step waits for the one before.
fn extend_ascii(mut hash: i32, text: &[u8]) -> i32 {
    let (fours, rest) = text.as_chunks::<4>();
    for four in fours {
        let [a, b, c, d] = four.map(i32::from);
        let added = a * (31 * 31 * 31) + b * (31 * 31) + c * 31 + d;
        hash = hash.wrapping_mul(31 * 31 * 31 * 31).wrapping_add(added);
    }
    rest.iter().fold(hash, |hash, byte| hash.wrapping_mul(31).wrapping_add(i32::from(*byte)))
}

/// `String.hashCode`.
pub fn java_hash(text: &str) -> i32 {
    extend(0, text)
}

/// What a ConsumeQueue unit keeps of a message's TAGS; 0 when there are none.
pub fn tags_code(tags: &str) -> i64 {
    i64::from(java_hash(tags))
}

/// Hash of an IndexFile entry: the absolute value of the hash of `topic#key`, 0 where that has no absolute value.
pub fn index_key_hash(topic: &str, key: &str) -> i32 {
    extend(extend(java_hash(topic), "#"), key).checked_abs().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_java() {
        assert_eq!(java_hash(""), 0);
        assert_eq!(tags_code("TagA"), 2_598_919);
        assert_eq!(java_hash("polygenelubricants"), i32::MIN);
        // The same unit by unit.
        for text in ["a", "ab", "abc", "abcd", "7F0000010D2A18B4AAC2000000000001", "%RETRY%\u{7f}\u{1}"] {
            let units = text.encode_utf16().map(i32::from);
            let expected = units.fold(0, |hash: i32, unit| hash.wrapping_mul(31).wrapping_add(unit));
            assert_eq!(java_hash(text), expected, "{text}");
        }
        // A character outside the basic plane counts as its two surrogates: 0xD83D * 31 + 0xDE00.
        assert_eq!(java_hash("\u{1F600}"), 0xD83D * 31 + 0xDE00);
    }

    #[test]
    fn index_keys_hash_as_one_string_and_never_negative() {
        assert_eq!(index_key_hash("Tpx5", "k1"), java_hash("Tpx5#k1").abs());
        assert_eq!(java_hash("$D#z34624"), i32::MIN, "the one hash without an absolute value");
        assert_eq!(index_key_hash("$D", "z34624"), 0);
    }
}
