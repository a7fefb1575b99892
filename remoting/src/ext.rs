//! The ext fields of a header: names and values as ranges of the header's own bytes, values unescaped when asked for.

use std::borrow::Cow;

use bytes::Bytes;

use crate::json;

/// Most ext fields a header may have; the largest real one has about 25.
pub const EXT_FIELDS_MAX: usize = 128;

/// Which text a range belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Text {
    /// The header as received.
    Header,
    /// The header as received, with JSON escapes in it.
    HeaderEscaped,
    /// What was set here.
    Own,
}

#[derive(Debug, Clone, Copy)]
struct Range {
    text: Text,
    start: u32,
    len: u32,
}

/// A value that is not what its field has to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    #[error("{field} is missing")]
    Missing { field: &'static str },
    #[error("{field} is {value:?}, not {expected}")]
    Invalid { field: &'static str, value: String, expected: &'static str },
}

impl FieldError {
    /// `value` is cut to a length that is safe to log.
    pub fn invalid(field: &'static str, value: &str, expected: &'static str) -> Self {
        const SHOWN_MAX: usize = 64;
        Self::Invalid { field, value: value.chars().take(SHOWN_MAX).collect(), expected }
    }
}

/// Named string values. Decoded ones point into the received header; set ones are copied.
#[derive(Debug, Clone, Default)]
pub struct Ext {
    header: Bytes,
    own: String,
    entries: Vec<(Range, Range)>,
}

impl Ext {
    pub fn new() -> Self {
        Self::default()
    }

    /// Room for the fields of a usual request in one allocation.
    pub(crate) fn with_room() -> Self {
        Self { entries: Vec::with_capacity(16), ..Self::default() }
    }

    /// Adds a field found in `header`, whose ranges lie within it and hold whole characters. Once all are added, the
    /// header itself follows through [`Ext::set_header`].
    ///
    /// Inlined, as handing spans over in memory costs more than all else here.
    #[inline(always)]
    pub(crate) fn push_found(&mut self, header: &[u8], key: json::Span, value: json::Span) {
        let key = if key.escaped { self.unescaped_key(header, key) } else { found(key) };
        self.entries.push((key, found(value)));
    }

    /// Adds a field whose name and value are no bytes of the header, which may follow later.
    #[cold]
    pub(crate) fn push_own(&mut self, key: &str, value: &str) {
        let key = self.own_range(key);
        let value = self.own_range(value);
        self.entries.push((key, value));
    }

    #[cold]
    fn unescaped_key(&mut self, header: &[u8], key: json::Span) -> Range {
        let key = &header[key.start as usize..(key.start + key.len) as usize];
        let key = json::unescape(checked(key));
        self.own_range(&key)
    }

    /// The header that the ranges of [`Ext::push_found`] point into.
    pub(crate) fn set_header(&mut self, header: Bytes) {
        self.header = header;
    }

    /// Number of fields.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Value of a field, borrowed unless it has escapes; the last one where a name occurs twice.
    pub fn get(&self, key: &str) -> Option<Cow<'_, str>> {
        let found = self.entries.iter().rev().find(|(name, _)| self.bytes(*name) == key.as_bytes());
        found.map(|(_, value)| self.value(*value))
    }

    /// Fields in the order they came in, a repeated name included.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
        self.entries.iter().map(|(key, value)| (self.text(*key), self.value(*value)))
    }

    /// Fields with names as bytes and values as handles for [`Ext::resolve`], for a decoder that goes through all once.
    pub(crate) fn raw(&self) -> impl Iterator<Item = (&[u8], RawValue)> {
        self.entries.iter().map(|(key, value)| (self.bytes(*key), RawValue(*value)))
    }

    pub(crate) fn resolve(&self, value: RawValue) -> Cow<'_, str> {
        self.value(value.0)
    }

    /// The number a value holds, without unescaping it; `None` if it is none.
    pub(crate) fn resolve_i64(&self, value: RawValue) -> Option<i64> {
        parse_i64(self.bytes(value.0))
    }

    pub fn get_i32(&self, field: &'static str) -> Result<Option<i32>, FieldError> {
        self.parsed(field, "a 32-bit number", |text| {
            parse_i64(text.as_bytes()).and_then(|n| i32::try_from(n).ok())
        })
    }

    pub fn get_i64(&self, field: &'static str) -> Result<Option<i64>, FieldError> {
        self.parsed(field, "a 64-bit number", |text| parse_i64(text.as_bytes()))
    }

    /// True where the value is "true", see [`parse_bool`].
    pub fn get_bool(&self, field: &str) -> Option<bool> {
        self.get(field).map(|text| parse_bool(&text))
    }

    fn parsed<T>(
        &self,
        field: &'static str,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, FieldError> {
        let Some(text) = self.get(field) else { return Ok(None) };
        parse(&text).map(Some).ok_or_else(|| FieldError::invalid(field, &text, expected))
    }

    /// Sets a field, replacing older values of that name.
    pub fn set(&mut self, key: &str, value: &str) -> &mut Self {
        self.remove(key).push_own(key, value);
        self
    }

    /// Removes every value of a name.
    pub fn remove(&mut self, key: &str) -> &mut Self {
        if let Some(at) = self.entries.iter().position(|(name, _)| self.bytes(*name) == key.as_bytes()) {
            self.entries.remove(at);
            self.remove(key);
        }
        self
    }

    fn own_range(&mut self, text: &str) -> Range {
        let start = self.own.len() as u32;
        self.own.push_str(text);
        Range { text: Text::Own, start, len: text.len() as u32 }
    }

    fn bytes(&self, range: Range) -> &[u8] {
        let (start, end) = (range.start as usize, (range.start + range.len) as usize);
        match range.text {
            Text::Header | Text::HeaderEscaped => &self.header[start..end],
            Text::Own => &self.own.as_bytes()[start..end],
        }
    }

    fn text(&self, range: Range) -> &str {
        checked(self.bytes(range))
    }

    fn value(&self, range: Range) -> Cow<'_, str> {
        let text = self.text(range);
        if range.text == Text::HeaderEscaped { Cow::Owned(json::unescape(text)) } else { Cow::Borrowed(text) }
    }
}

/// Text that was found to be UTF-8 when its header was decoded, or was set from a string.
pub(crate) fn checked(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("checked when it was decoded")
}

/// Handle of a value, see [`Ext::raw`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawValue(Range);

#[inline(always)]
fn found(span: json::Span) -> Range {
    let text = if span.escaped { Text::HeaderEscaped } else { Text::Header };
    Range { text, start: span.start, len: span.len }
}

/// Equal when they hold the same fields in the same order.
impl PartialEq for Ext {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Ext {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(fields: I) -> Self {
        let mut ext = Self::new();
        for (key, value) in fields {
            ext.set(key, value);
        }
        ext
    }
}

/// A decimal number with an optional sign, as Java reads it: nothing around it, no overflow.
#[inline]
pub(crate) fn parse_i64(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return None;
    }
    // More than this many digits may overflow, counted downwards, where the smallest number fits too.
    const SAFE_DIGITS: usize = 18;
    let mut value = 0_i64;
    for (at, digit) in digits.iter().enumerate() {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        let digit = i64::from(digit);
        value =
            if at < SAFE_DIGITS { value * 10 - digit } else { value.checked_mul(10)?.checked_sub(digit)? };
    }
    if negative { Some(value) } else { value.checked_neg() }
}

/// `true` in any case is true and all else false, as Java reads it; some clients write 0 and 1.
pub(crate) fn parse_bool(text: &str) -> bool {
    text.eq_ignore_ascii_case("true")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_set_replaced_and_removed() {
        let mut ext: Ext = [("a", "1"), ("b", "true"), ("a", "2")].into_iter().collect();
        assert_eq!((ext.len(), ext.get("a").as_deref()), (2, Some("2")));
        assert_eq!(
            (ext.get_i32("a"), ext.get_bool("b"), ext.get_i64("c")),
            (Ok(Some(2)), Some(true), Ok(None))
        );
        let error = FieldError::Invalid { field: "b", value: "true".into(), expected: "a 32-bit number" };
        assert_eq!(ext.get_i32("b"), Err(error));
        assert_eq!(ext.remove("a").get("a"), None);
    }

    #[test]
    fn numbers_are_read_as_java_does() {
        for (text, value) in [
            ("0", Some(0)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775807", Some(i64::MAX)),
            ("9223372036854775808", None),
            ("+5", Some(5)),
            ("", None),
            ("-", None),
            (" 1", None),
            ("1.0", None),
        ] {
            assert_eq!(parse_i64(text.as_bytes()), value, "{text:?}");
        }
    }
}
