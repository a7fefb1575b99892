//! Messages with a time of their own, which wait in [`TIMER_TOPIC`](crate::topic::TIMER_TOPIC) until they are due.

use crate::properties::{self, names};

/// When a message of the timers' topic is due, in ms since 1970: its TIMER_OUT_MS. One that does not say so in a way
/// that can be read is due at 0, so at once. A function of the record alone: every member comes to the same.
pub fn due_ms(properties: &str) -> i64 {
    read_due_ms(properties::get(properties, names::TIMER_OUT_MS))
}

/// The same from the value of TIMER_OUT_MS.
pub fn read_due_ms(value: Option<&str>) -> i64 {
    value.and_then(|due| due.parse::<i64>().ok()).map_or(0, |due| due.max(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_due_at_once() {
        let due = |value: &str| due_ms(&format!("TAGS\u{1}a\u{2}TIMER_OUT_MS\u{1}{value}\u{2}"));
        assert_eq!(due("1700000000123"), 1_700_000_000_123);
        assert_eq!(due("9223372036854775807"), i64::MAX);
        for value in ["", "x", "-5", "1.5", "9223372036854775808", " 7"] {
            assert_eq!(due(value), 0, "{value:?}");
        }
        assert_eq!(due_ms("TAGS\u{1}a"), 0);
    }
}
