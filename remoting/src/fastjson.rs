//! The JSON of bodies as Java peers write it, which is not always JSON: numbers and whole objects as unquoted keys.
//!
//! Reading tries plain JSON first. Where that fails the text is rewritten once, in bounded depth and size: keys become
//! strings (an object as its compact JSON), members that are null are left out, as null means absent to those peers.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::frame::FRAME_LEN_MAX;

/// Deepest nesting of a body that is rewritten.
const DEPTH_MAX: usize = 64;

/// Why a body cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("body of {len} bytes is longer than {FRAME_LEN_MAX}")]
    TooLong { len: usize },
    #[error("body is no JSON: {problem} at byte {at}")]
    Syntax { at: usize, problem: &'static str },
    #[error("body does not fit: {0}")]
    Shape(#[from] serde_json::Error),
}

/// Reads a body, standard or not.
pub fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, BodyError> {
    if text.len() > FRAME_LEN_MAX {
        return Err(BodyError::TooLong { len: text.len() });
    }
    match serde_json::from_slice(text) {
        Ok(body) => Ok(body),
        Err(_) => Ok(serde_json::from_slice(&normalize(text)?)?),
    }
}

/// Writes a body that has no maps keyed by message queue; those have a `to_json` of their own.
pub fn to_vec<T: Serialize>(body: &T) -> Result<Vec<u8>, BodyError> {
    Ok(serde_json::to_vec(body)?)
}

/// Rewrites what fastjson writes to JSON.
fn normalize(text: &[u8]) -> Result<Vec<u8>, BodyError> {
    let mut rewriter = Rewriter {
        text,
        at: 0,
        depth: 0,
        in_key: false,
        out: Vec::with_capacity(text.len() + text.len() / 4),
    };
    rewriter.value()?;
    rewriter.skip_space();
    if rewriter.at < text.len() {
        return rewriter.fail("something behind the value");
    }
    Ok(rewriter.out)
}

struct Rewriter<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
    /// Inside an object that is a key. A second such level would double the escapes of the first.
    in_key: bool,
    out: Vec<u8>,
}

impl Rewriter<'_> {
    fn fail<T>(&self, problem: &'static str) -> Result<T, BodyError> {
        Err(BodyError::Syntax { at: self.at, problem })
    }

    fn skip_space(&mut self) {
        while matches!(self.text.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn peek(&mut self) -> Option<u8> {
        self.skip_space();
        self.text.get(self.at).copied()
    }

    fn accept(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn value(&mut self) -> Result<(), BodyError> {
        match self.peek() {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'"') => self.string(),
            _ => self.word(),
        }
    }

    fn nested(&mut self, read: impl FnOnce(&mut Self) -> Result<(), BodyError>) -> Result<(), BodyError> {
        if self.depth == DEPTH_MAX {
            return self.fail("nested too deeply");
        }
        self.depth += 1;
        self.at += 1;
        read(self)?;
        self.depth -= 1;
        Ok(())
    }

    /// Behind the opening brace.
    fn object(&mut self) -> Result<(), BodyError> {
        self.out.push(b'{');
        let first = self.out.len();
        if !self.accept(b'}') {
            loop {
                self.member(first)?;
                if self.accept(b'}') {
                    break;
                }
                if !self.accept(b',') {
                    return self.fail("no comma between members");
                }
            }
        }
        self.out.push(b'}');
        Ok(())
    }

    /// A member, left out again if it is null. `first` is where the object's first member begins in the output.
    fn member(&mut self, first: usize) -> Result<(), BodyError> {
        let start = self.out.len();
        if start > first {
            self.out.push(b',');
        }
        self.key()?;
        if !self.accept(b':') {
            return self.fail("no colon behind a key");
        }
        self.out.push(b':');
        let value_at = self.out.len();
        self.value()?;
        if &self.out[value_at..] == b"null" {
            self.out.truncate(start);
        }
        Ok(())
    }

    fn key(&mut self) -> Result<(), BodyError> {
        match self.peek() {
            Some(b'"') => self.string(),
            Some(b'{') if self.in_key => self.fail("an object as key within a key"),
            Some(b'{') => {
                let start = self.out.len();
                self.in_key = true;
                self.nested(Self::object)?;
                self.in_key = false;
                let object = self.out.split_off(start);
                self.quote(&object);
                Ok(())
            }
            _ => {
                self.out.push(b'"');
                self.word()?;
                self.out.push(b'"');
                Ok(())
            }
        }
    }

    /// Writes compact JSON as a string.
    fn quote(&mut self, json: &[u8]) {
        self.out.push(b'"');
        for byte in json {
            if matches!(byte, b'"' | b'\\') {
                self.out.push(b'\\');
            }
            self.out.push(*byte);
        }
        self.out.push(b'"');
    }

    /// Behind the opening bracket.
    fn array(&mut self) -> Result<(), BodyError> {
        self.out.push(b'[');
        if !self.accept(b']') {
            loop {
                self.value()?;
                if self.accept(b']') {
                    break;
                }
                if !self.accept(b',') {
                    return self.fail("no comma between elements");
                }
                self.out.push(b',');
            }
        }
        self.out.push(b']');
        Ok(())
    }

    /// Copies a string as it is.
    fn string(&mut self) -> Result<(), BodyError> {
        let start = self.at;
        self.at += 1;
        loop {
            match self.text.get(self.at) {
                Some(b'"') => break,
                Some(b'\\') => self.at += 2,
                Some(_) => self.at += 1,
                None => return self.fail("a string without end"),
            }
        }
        self.at += 1;
        self.out.extend_from_slice(&self.text[start..self.at]);
        Ok(())
    }

    /// Copies a number, a literal or a bare key.
    fn word(&mut self) -> Result<(), BodyError> {
        let rest = &self.text[self.at..];
        let is_part =
            |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'.' | b'-' | b'+');
        let len = rest.iter().position(|byte| !is_part(byte)).unwrap_or(rest.len());
        if len == 0 {
            return self.fail("no value");
        }
        self.out.extend_from_slice(&rest[..len]);
        self.at += len;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn normal(text: &str) -> Result<String, BodyError> {
        normalize(text.as_bytes()).map(|out| String::from_utf8(out).unwrap())
    }

    #[test]
    fn keys_become_strings_and_nulls_go() {
        let text = r#"{{"brokerName":"b\"c","queueId":0} : 1, 0:"x", -1 : [null , 2], n:null, "s":{"a":null,"b":true}}"#;
        let expected =
            r#"{"{\"brokerName\":\"b\\\"c\",\"queueId\":0}":1,"0":"x","-1":[null,2],"s":{"b":true}}"#;
        assert_eq!(normal(text).unwrap(), expected);
        let value: serde_json::Value = parse(text.as_bytes()).unwrap();
        assert!(value["{\"brokerName\":\"b\\\"c\",\"queueId\":0}"] == 1);
    }

    #[test]
    fn bad_texts_are_refused_with_their_place() {
        for (text, place) in
            [("{", 1), ("{1}", 2), ("[1 2]", 3), ("\"a", 2), ("{{{}:1}:1}", 2), ("{}x", 2), ("", 0)]
        {
            match normal(text) {
                Err(BodyError::Syntax { at, .. }) => assert_eq!(at, place, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
        let deep = "[".repeat(100_000);
        assert!(matches!(normal(&deep), Err(BodyError::Syntax { at: DEPTH_MAX, .. })));
        let long = vec![b' '; FRAME_LEN_MAX + 1];
        assert!(matches!(parse::<serde_json::Value>(&long), Err(BodyError::TooLong { .. })));
    }

    proptest! {
        #[test]
        fn standard_json_keeps_its_meaning(text in "[\\[\\]{}\",:a1n -]{0,20}") {
            if let Ok(value) = serde_json::from_str::<serde_json::Value>(&text) {
                let again: serde_json::Value = serde_json::from_slice(&normalize(text.as_bytes()).unwrap()).unwrap();
                prop_assert_eq!(again, value);
            }
        }

        #[test]
        fn any_bytes_are_read_in_bounds(text in proptest::collection::vec(prop_oneof![Just(b'{'), Just(b'"'), Just(b'\\'), Just(b':'), Just(b'}'), any::<u8>()], 0..60)) {
            if let Ok(out) = normalize(&text) {
                prop_assert!(out.len() <= 4 * text.len() + 2);
            }
            let _ = parse::<serde_json::Value>(&text);
        }
    }
}
