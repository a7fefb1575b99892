//! The JSON of headers: scanning strings and skipping values in place, unescaping, and writing strings and numbers.
//!
//! The scanner knows what peers usually write and is quick with it; whatever else Java reads is left to
//! [`crate::fastjson`].

use bytes::{BufMut, BytesMut};

/// Deepest nesting of a value that is skipped.
const DEPTH_MAX: usize = 32;

/// A piece of the scanned text, the quotes of a string left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) len: u32,
    /// Whether a backslash is in it.
    pub(crate) escaped: bool,
}

/// The text is not what peers usually write; [`crate::fastjson`] may make something of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unusual;

/// What kind of value begins here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    String,
    Number,
    Bool,
    Null,
    Other,
}

/// Reads JSON front to back. The text is known to be UTF-8 and shorter than 4 GiB.
pub(crate) struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    #[inline]
    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Takes `byte` if it comes next, after white space.
    #[inline]
    pub(crate) fn accept(&mut self, byte: u8) -> bool {
        // Most peers write none, and most questions are answered by the next byte.
        match self.peek() {
            Some(next) if next == byte => {
                self.at += 1;
                true
            }
            Some(next) if next > b' ' => false,
            _ => self.accept_behind_space(byte),
        }
    }

    #[cold]
    fn accept_behind_space(&mut self, byte: u8) -> bool {
        self.skip_space();
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    #[inline]
    fn expect(&mut self, byte: u8) -> Result<(), Unusual> {
        if self.accept(byte) { Ok(()) } else { Err(Unusual) }
    }

    /// Whether the text is used up but for white space.
    pub(crate) fn at_end(&mut self) -> bool {
        self.skip_space();
        self.at == self.text.len()
    }

    /// Bytes of a span, escapes and all.
    pub(crate) fn bytes(&self, span: Span) -> &'a [u8] {
        &self.text[span.start as usize..(span.start + span.len) as usize]
    }

    /// Goes through an object whose opening brace comes next, calling `member` once behind each colon.
    #[inline]
    pub(crate) fn object(
        &mut self,
        mut member: impl FnMut(&mut Self, Span) -> Result<(), Unusual>,
    ) -> Result<(), Unusual> {
        self.expect(b'{')?;
        if self.accept(b'}') {
            return Ok(());
        }
        loop {
            let key = self.string()?;
            self.expect(b':')?;
            member(self, key)?;
            if self.accept(b'}') {
                return Ok(());
            }
            self.expect(b',')?;
        }
    }

    #[inline(always)]
    pub(crate) fn string(&mut self) -> Result<Span, Unusual> {
        self.expect(b'"')?;
        let start = self.at;
        let mut escaped = false;
        loop {
            self.at += quote_or_backslash(&self.text[self.at..]);
            match self.peek() {
                Some(b'"') => break,
                Some(_) => {
                    escaped = true;
                    self.escape()?;
                }
                None => return Err(Unusual),
            }
        }
        let span = Span { start: start as u32, len: (self.at - start) as u32, escaped };
        self.at += 1;
        Ok(span)
    }

    /// Moves past one escape sequence.
    fn escape(&mut self) -> Result<(), Unusual> {
        match self.text.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') if hex4(&self.text[self.at + 2..]).is_some() => self.at += 6,
            _ => return Err(Unusual),
        }
        Ok(())
    }

    #[inline]
    pub(crate) fn kind(&mut self) -> Kind {
        self.skip_space();
        match self.peek() {
            Some(b'"') => Kind::String,
            Some(b'-' | b'0'..=b'9') => Kind::Number,
            Some(b't' | b'f') => Kind::Bool,
            Some(b'n') => Kind::Null,
            _ => Kind::Other,
        }
    }

    /// Moves past any value and returns where it was, the quotes of a string left out.
    #[inline(always)]
    pub(crate) fn value(&mut self) -> Result<Span, Unusual> {
        if self.peek() == Some(b'"') { self.string() } else { self.nested_value(0) }
    }

    fn nested_value(&mut self, depth: usize) -> Result<Span, Unusual> {
        if depth > DEPTH_MAX {
            return Err(Unusual);
        }
        self.skip_space();
        let start = self.at;
        match self.peek() {
            Some(b'"') => return self.string(),
            Some(b'{') => self.object(|scanner, _| scanner.nested_value(depth + 1).map(drop))?,
            Some(b'[') => self.array(depth)?,
            Some(b't') => self.literal(b"true")?,
            Some(b'f') => self.literal(b"false")?,
            Some(b'n') => self.literal(b"null")?,
            Some(b'-' | b'0'..=b'9') => self.number()?,
            _ => return Err(Unusual),
        }
        Ok(Span { start: start as u32, len: (self.at - start) as u32, escaped: false })
    }

    fn array(&mut self, depth: usize) -> Result<(), Unusual> {
        self.expect(b'[')?;
        if self.accept(b']') {
            return Ok(());
        }
        loop {
            self.nested_value(depth + 1)?;
            if self.accept(b']') {
                return Ok(());
            }
            self.expect(b',')?;
        }
    }

    fn literal(&mut self, word: &[u8]) -> Result<(), Unusual> {
        if !self.text[self.at..].starts_with(word) {
            return Err(Unusual);
        }
        self.at += word.len();
        Ok(())
    }

    /// Digits; a fraction, an exponent or a letter behind them is unusual.
    fn number(&mut self) -> Result<(), Unusual> {
        self.at += usize::from(self.peek() == Some(b'-'));
        let digits = self.text[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += digits;
        match self.peek() {
            Some(b'.' | b'+' | b'-' | b'a'..=b'z' | b'A'..=b'Z') => Err(Unusual),
            _ if digits == 0 => Err(Unusual),
            _ => Ok(()),
        }
    }
}

/// How many bytes come before the first quote or backslash, eight at a time.
#[inline]
fn quote_or_backslash(text: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    // The high bit of the first zero byte is set; later ones may be set wrongly, by the borrow.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    let mut at = 0;
    while let Some(chunk) = text[at..].first_chunk::<8>() {
        let word = u64::from_le_bytes(*chunk);
        let hits = zeros(word ^ (ONES * b'"' as u64)) | zeros(word ^ (ONES * b'\\' as u64));
        if hits != 0 {
            return at + (hits.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    let rest = &text[at..];
    at + rest.iter().position(|byte| matches!(byte, b'"' | b'\\')).unwrap_or(rest.len())
}

fn hex4(text: &[u8]) -> Option<u32> {
    let digits = text.first_chunk::<4>()?;
    digits.iter().try_fold(0, |value, digit| Some(value << 4 | (*digit as char).to_digit(16)?))
}

/// Text of a string whose escapes the scanner has checked. Half a surrogate pair becomes U+FFFD.
pub(crate) fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    loop {
        // A bare quote cannot be there, as it would have ended the string.
        let (plain, escape) = rest.split_at(quote_or_backslash(rest.as_bytes()));
        out.push_str(plain);
        let Some(escape) = escape.get(1..) else { return out };
        let bytes = escape.as_bytes();
        let (found, used) = match bytes.first() {
            Some(b'u') => unescape_unicode(bytes),
            Some(b'b') => ('\u{8}', 1),
            Some(b'f') => ('\u{c}', 1),
            Some(b'n') => ('\n', 1),
            Some(b'r') => ('\r', 1),
            Some(b't') => ('\t', 1),
            Some(other) => (*other as char, 1),
            None => return out,
        };
        out.push(found);
        rest = &escape[used..];
    }
}

/// The character of `uXXXX`, or of two such with a backslash between, and the bytes it takes.
fn unescape_unicode(escape: &[u8]) -> (char, usize) {
    let Some(unit) = hex4(&escape[1..]) else { return (char::REPLACEMENT_CHARACTER, 1) };
    if let Some(found) = char::from_u32(unit) {
        return (found, 5);
    }
    let low = escape.get(5..).and_then(|next| next.strip_prefix(b"\\u")).and_then(hex4);
    match low {
        Some(low @ 0xDC00..=0xDFFF) if unit < 0xDC00 => {
            let code = 0x1_0000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
            (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), 11)
        }
        _ => (char::REPLACEMENT_CHARACTER, 5),
    }
}

/// Writes a quoted string, escaping quotes, backslashes and control characters.
pub(crate) fn put_string(out: &mut BytesMut, text: &str) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.put_u8(b'"');
    let bytes = text.as_bytes();
    let mut done = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if *byte >= 0x20 && *byte != b'"' && *byte != b'\\' {
            continue;
        }
        out.put_slice(&bytes[done..at]);
        done = at + 1;
        match byte {
            b'"' => out.put_slice(b"\\\""),
            b'\\' => out.put_slice(b"\\\\"),
            control => {
                let [high, low] = [control >> 4, control & 15].map(|half| DIGITS[usize::from(half)]);
                out.put_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            }
        }
    }
    out.put_slice(&bytes[done..]);
    out.put_u8(b'"');
}

/// Decimal digits of a number, without an allocation.
pub(crate) struct Decimal {
    digits: [u8; 20],
    start: usize,
}

impl Decimal {
    pub(crate) fn new(value: i64) -> Self {
        let mut digits = [0; 20];
        let mut start = digits.len();
        let mut rest = value.unsigned_abs();
        loop {
            start -= 1;
            digits[start] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if value < 0 {
            start -= 1;
            digits[start] = b'-';
        }
        Self { digits, start }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.digits[self.start..]
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).expect("digits are ASCII")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escapes_of_every_kind_are_read() {
        let text = r#""a\"\\\/\b\f\n\r\t\u0001\u00fc\ud83d\ude00\ud83dx\ude00""#;
        let mut scanner = Scanner::new(text.as_bytes());
        let span = scanner.string().unwrap();
        assert!(span.escaped && scanner.at_end());
        let plain = std::str::from_utf8(scanner.bytes(span)).unwrap();
        assert_eq!(unescape(plain), "a\"\\/\u{8}\u{c}\n\r\t\u{1}\u{fc}\u{1F600}\u{FFFD}x\u{FFFD}");
    }

    #[test]
    fn bad_strings_and_values_are_refused() {
        for text in
            ["\"a", "\"\\", "\"\\x\"", "\"\\u12\"", "\"\\u12g4\"", "tru", "[1", "{\"a\"}", "{\"a\":}", ""]
        {
            assert!(Scanner::new(text.as_bytes()).value().is_err(), "{text}");
        }
        let deep = "[".repeat(1000);
        assert!(Scanner::new(deep.as_bytes()).value().is_err());
    }

    proptest! {
        #[test]
        fn strings_round_trip(text in "\\PC{0,12}[\u{0}-\u{20}\"\\\\]{0,6}\\PC{0,30}") {
            let mut out = BytesMut::new();
            put_string(&mut out, &text);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text.clone());
            let mut scanner = Scanner::new(&out);
            let span = scanner.string().unwrap();
            let inner = std::str::from_utf8(scanner.bytes(span)).unwrap();
            prop_assert_eq!(unescape(inner), text);
            prop_assert!(scanner.at_end());
        }

        #[test]
        fn what_serde_accepts_the_scanner_skips(text in "[\\[\\]{}\",:a1\\\\ntrue -]{0,30}") {
            let mut scanner = Scanner::new(text.as_bytes());
            let skipped = scanner.value().is_ok() && scanner.at_end();
            if serde_json::from_str::<serde_json::Value>(&text).is_ok() {
                prop_assert!(skipped);
            }
        }

        #[test]
        fn numbers_print_as_usual(value in any::<i64>()) {
            let (decimal, text) = (Decimal::new(value), value.to_string());
            prop_assert_eq!(decimal.as_str(), text.as_str());
        }
    }
}
