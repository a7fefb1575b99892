//! Reading a text: standard JSON, and what fastjson takes besides.
//!
//! That is: names without quotes, with single ones, or numbers and whole objects as names; strings in single quotes and
//! more escapes; comments, a byte order mark, commas too many, arrays without commas; numbers with a plus, leading zeros
//! or a type's letter behind; `undefined` and `NaN`, which are null.

use std::borrow::Cow;

use super::Value;

/// Deepest nesting of a text.
const DEPTH_MAX: usize = 64;
/// Most values in a text, as each takes several times the memory of its shortest form.
const VALUES_MAX: usize = 2 << 20;

/// Why a text is no JSON, not even fastjson's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{problem} at byte {at}")]
pub struct TextError {
    pub at: usize,
    pub problem: &'static str,
}

impl<'a> Value<'a> {
    /// Reads a whole text, which has to be an object.
    pub(crate) fn read(text: &'a str) -> Result<Self, TextError> {
        let start = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        let mut reader = Reader { text, at: start, depth: 0, values: 0, in_key: false };
        if reader.peek()? != Some(b'{') {
            return reader.fail("no object");
        }
        let value = reader.value()?;
        match reader.peek()? {
            None => Ok(value),
            Some(_) => reader.fail("something behind the value"),
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    values: usize,
    /// Inside an object that is a name. A second such level would double the escapes of the first.
    in_key: bool,
}

impl<'a> Reader<'a> {
    fn fail<T>(&self, problem: &'static str) -> Result<T, TextError> {
        Err(TextError { at: self.at, problem })
    }

    fn rest(&self) -> &'a [u8] {
        &self.text.as_bytes()[self.at..]
    }

    /// The next byte behind white space, which is any control character, and comments.
    fn peek(&mut self) -> Result<Option<u8>, TextError> {
        loop {
            match self.rest() {
                [b'/', b'/', rest @ ..] => {
                    self.at += 2 + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
                }
                [b'/', b'*', rest @ ..] => match rest.windows(2).position(|end| end == b"*/") {
                    Some(len) => self.at += len + 4,
                    None => return self.fail("a comment without end"),
                },
                [byte, ..] if *byte <= b' ' => self.at += 1,
                rest => return Ok(rest.first().copied()),
            }
        }
    }

    fn accept(&mut self, byte: u8) -> Result<bool, TextError> {
        let found = self.peek()? == Some(byte);
        self.at += usize::from(found);
        Ok(found)
    }

    fn value(&mut self) -> Result<Value<'a>, TextError> {
        self.values += 1;
        if self.values > VALUES_MAX {
            return self.fail("too many values");
        }
        match self.peek()? {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'"' | b'\'') => Ok(Value::String(self.string()?)),
            Some(b'+' | b'-' | b'.' | b'0'..=b'9') => self.number(),
            _ => self.word(),
        }
    }

    fn nested(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<Value<'a>, TextError>,
    ) -> Result<Value<'a>, TextError> {
        if self.depth == DEPTH_MAX {
            return self.fail("nested too deeply");
        }
        self.depth += 1;
        self.at += 1;
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    /// Behind the opening brace.
    fn object(&mut self) -> Result<Value<'a>, TextError> {
        let mut members = Vec::new();
        loop {
            while self.accept(b',')? {}
            if self.accept(b'}')? {
                return Ok(Value::Object(members));
            }
            let key = self.key()?;
            if !self.accept(b':')? {
                return self.fail("no colon behind a name");
            }
            members.push((key, self.value()?));
            if !matches!(self.peek()?, Some(b',' | b'}')) {
                return self.fail("no comma between members");
            }
        }
    }

    /// A member's name; of an object its compact text.
    fn key(&mut self) -> Result<Cow<'a, str>, TextError> {
        match self.peek()? {
            Some(b'"' | b'\'') => self.string(),
            Some(b'{') if self.in_key => self.fail("an object as name within a name"),
            Some(b'{') => {
                self.in_key = true;
                let object = self.value()?;
                self.in_key = false;
                Ok(Cow::Owned(object.into_text()))
            }
            _ => {
                let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"_$.-+".contains(byte);
                Ok(Cow::Borrowed(self.take_while(is_part, "no name")?))
            }
        }
    }

    /// Behind the opening bracket.
    fn array(&mut self) -> Result<Value<'a>, TextError> {
        let mut elements = Vec::new();
        loop {
            while self.accept(b',')? {}
            if self.accept(b']')? {
                return Ok(Value::Array(elements));
            }
            elements.push(self.value()?);
        }
    }

    /// The longest run of bytes that are all ASCII and fit; at least one.
    fn take_while(
        &mut self,
        fits: impl Fn(&u8) -> bool,
        otherwise: &'static str,
    ) -> Result<&'a str, TextError> {
        let len = self.rest().iter().take_while(|byte| byte.is_ascii() && fits(byte)).count();
        if len == 0 {
            return self.fail(otherwise);
        }
        let start = self.at;
        self.at += len;
        Ok(&self.text[start..self.at])
    }

    fn word(&mut self) -> Result<Value<'a>, TextError> {
        let start = self.at;
        match self.take_while(u8::is_ascii_alphanumeric, "no value")? {
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            "null" | "undefined" | "NaN" => Ok(Value::Null),
            _ => {
                self.at = start;
                self.fail("an unknown word")
            }
        }
    }

    /// A number, whose plus and type's letter are left out.
    fn number(&mut self) -> Result<Value<'a>, TextError> {
        self.at += usize::from(self.rest()[0] == b'+');
        let rest = self.rest();
        let start = self.at;
        let digits = |from: usize| rest[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let sign = usize::from(rest.first() == Some(&b'-'));
        let whole = digits(sign);
        let mut len = sign + whole;
        let mut fraction = 0;
        if rest.get(len) == Some(&b'.') {
            fraction = digits(len + 1);
            len += 1 + fraction;
        }
        if whole + fraction == 0 {
            return self.fail("a number without digits");
        }
        if matches!(rest.get(len), Some(b'e' | b'E')) {
            len += 1 + usize::from(matches!(rest.get(len + 1), Some(b'+' | b'-')));
            len += digits(len);
        }
        self.at += len;
        let number = &self.text[start..self.at];
        self.at += usize::from(matches!(self.rest().first(), Some(b'L' | b'S' | b'B' | b'F' | b'D')));
        if self.rest().first().is_some_and(|byte| byte.is_ascii_alphanumeric() || b"+-._".contains(byte)) {
            return self.fail("a number that goes on");
        }
        Ok(Value::Number(number))
    }

    /// A string in quotes of either kind, borrowed where it has no escapes.
    fn string(&mut self) -> Result<Cow<'a, str>, TextError> {
        let quote = self.rest()[0];
        self.at += 1;
        let mut unescaped = String::new();
        let mut start = self.at;
        loop {
            let rest = self.rest();
            match rest.iter().position(|byte| *byte == quote || *byte == b'\\') {
                Some(len) => self.at += len,
                None => return self.fail("a string without end"),
            }
            let plain = &self.text[start..self.at];
            if self.rest()[0] == quote {
                self.at += 1;
                return Ok(if unescaped.is_empty() {
                    Cow::Borrowed(plain)
                } else {
                    Cow::Owned(unescaped + plain)
                });
            }
            unescaped.push_str(plain);
            self.escape(&mut unescaped)?;
            start = self.at;
        }
    }

    /// Takes an escape, whose backslash comes next.
    fn escape(&mut self, out: &mut String) -> Result<(), TextError> {
        let (found, len) = match self.rest().get(1) {
            Some(b'u') => return self.unicode(out),
            Some(b'x') => (self.hex(2, 2)?, 4),
            Some(digit @ b'0'..=b'7') => (u32::from(digit - b'0'), 2),
            Some(b'b') => (0x8, 2),
            Some(b't') => (0x9, 2),
            Some(b'n') => (0xA, 2),
            Some(b'v') => (0xB, 2),
            Some(b'f' | b'F') => (0xC, 2),
            Some(b'r') => (0xD, 2),
            Some(same @ (b'"' | b'\'' | b'/' | b'\\')) => (u32::from(*same), 2),
            _ => return self.fail("an unknown escape"),
        };
        out.push(char::from_u32(found).unwrap_or(char::REPLACEMENT_CHARACTER));
        self.at += len;
        Ok(())
    }

    /// A `\uXXXX`, or two that are one character; half of such a pair becomes U+FFFD.
    fn unicode(&mut self, out: &mut String) -> Result<(), TextError> {
        let unit = self.hex(2, 4)?;
        self.at += 6;
        let pairs = (0xD800..0xDC00).contains(&unit) && self.rest().starts_with(b"\\u");
        let low = if pairs { self.hex(2, 4).ok() } else { None };
        let found = match low {
            Some(low @ 0xDC00..=0xDFFF) => {
                self.at += 6;
                0x1_0000 + ((unit - 0xD800) << 10) + (low - 0xDC00)
            }
            _ => unit,
        };
        out.push(char::from_u32(found).unwrap_or(char::REPLACEMENT_CHARACTER));
        Ok(())
    }

    /// The number in `len` hexadecimal digits, `skip` bytes from here.
    fn hex(&self, skip: usize, len: usize) -> Result<u32, TextError> {
        let Some(digits) = self.rest().get(skip..skip + len) else {
            return self.fail("a cut escape");
        };
        let read =
            digits.iter().try_fold(0, |value, digit| Some(value << 4 | (*digit as char).to_digit(16)?));
        read.map_or_else(|| self.fail("an escape that is no number"), Ok)
    }
}
