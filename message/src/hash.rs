//! Java's `String.hashCode` and what RocketMQ derives from it: tags codes and index key hashes.

/// Continues Java's string hash from `hash` over `text`, in UTF-16 units.
fn extend(mut hash: i32, text: &str) -> i32 {
    for unit in text.encode_utf16() {
        hash = hash.wrapping_mul(31).wrapping_add(i32::from(unit));
    }
    hash
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
