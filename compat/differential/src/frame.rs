//! Frames of the remoting protocol, written and read from the protocol's description alone: 4 bytes length, 1 byte
//! header encoding (0 JSON, 1 binary), 3 bytes header length, header, body.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};
use serde_json::{Map, Value, json};

use crate::relaxed;

/// Longest frame taken from a broker.
const FRAME_BYTES_MAX: usize = 64 << 20;
/// Bit of `flag`: an answer.
const ANSWER: i64 = 1;
/// Bit of `flag`: no answer is wanted.
const ONEWAY: i64 = 2;
/// The number of JAVA and of a language without one, in the binary encoding.
const LANGUAGES: [&str; 14] = [
    "JAVA", "CPP", "DOTNET", "PYTHON", "DELPHI", "ERLANG", "RUBY", "OTHER", "HTTP", "GO", "PHP", "OMS",
    "RUST", "NODE_JS",
];

/// A request as it goes out.
#[derive(Debug, Clone)]
pub struct Request {
    /// Whether the header goes in the binary encoding.
    pub binary: bool,
    /// The header as JSON; `extFields` among it.
    pub head: Map<String, Value>,
    /// Nothing is the same on the wire as an empty body.
    pub body: Vec<u8>,
}

/// What came from a broker: an answer, or a request of its own.
#[derive(Debug, Clone)]
pub struct Received {
    /// Response code, or request code.
    pub code: i64,
    /// The number it has in common with its request.
    pub opaque: i64,
    /// Whether it is an answer.
    pub is_answer: bool,
    /// Whether an answer to it is wanted.
    pub is_oneway: bool,
    /// Why, in words.
    pub remark: String,
    /// Header fields.
    pub ext: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// The frame's bytes, with `opaque` in the header.
    pub fn encode(&self, opaque: i64) -> Vec<u8> {
        let head = if self.binary { self.binary_head(opaque) } else { self.json_head(opaque) };
        let mut frame = Vec::with_capacity(8 + head.len() + self.body.len());
        frame.extend(((4 + head.len() + self.body.len()) as u32).to_be_bytes());
        frame.extend((head.len() as u32 | u32::from(self.binary) << 24).to_be_bytes());
        frame.extend(head);
        frame.extend(&self.body);
        frame
    }

    /// Whether no answer is wanted.
    pub fn is_oneway(&self) -> bool {
        self.head.get("flag").and_then(Value::as_i64).is_some_and(|flag| flag & ONEWAY != 0)
    }

    fn json_head(&self, opaque: i64) -> Vec<u8> {
        let mut head = self.head.clone();
        head.insert("opaque".into(), opaque.into());
        Value::Object(head).to_string().into_bytes()
    }

    /// The binary encoding has texts only; what is none goes as its JSON text, and null not at all.
    fn binary_head(&self, opaque: i64) -> Vec<u8> {
        let number = |name: &str| self.head.get(name).and_then(Value::as_i64).unwrap_or(0);
        let language = self.head.get("language").and_then(Value::as_str).unwrap_or_default();
        let language = LANGUAGES.iter().position(|name| *name == language).unwrap_or(7);
        let mut out = Vec::new();
        out.extend((number("code") as i16).to_be_bytes());
        out.push(language as u8);
        out.extend((number("version") as i16).to_be_bytes());
        out.extend((opaque as i32).to_be_bytes());
        out.extend((number("flag") as i32).to_be_bytes());
        out.extend(0_i32.to_be_bytes());
        let mut ext = Vec::new();
        for (key, value) in self.head.get("extFields").and_then(Value::as_object).into_iter().flatten() {
            let text = match value {
                Value::Null => continue,
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            ext.extend((key.len() as i16).to_be_bytes());
            ext.extend(key.as_bytes());
            ext.extend((text.len() as i32).to_be_bytes());
            ext.extend(text.as_bytes());
        }
        out.extend((ext.len() as i32).to_be_bytes());
        out.extend(ext);
        out
    }
}

/// The answer of a client to a request of the broker.
pub fn encode_answer(opaque: i64, body: &Value) -> Vec<u8> {
    let head = json!({"code": 0, "language": "JAVA", "version": 493, "flag": ANSWER, "extFields": {}});
    let Value::Object(head) = head else { return Vec::new() };
    Request { binary: false, head, body: body.to_string().into_bytes() }.encode(opaque)
}

/// Cuts the first whole frame off `input`; nothing where there is none yet.
pub fn decode(input: &mut Vec<u8>) -> Result<Option<Received>> {
    let Some(length) = input.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes) as usize) else {
        return Ok(None);
    };
    ensure!((4..=FRAME_BYTES_MAX).contains(&length), "a frame of {length} bytes");
    if input.len() < 4 + length {
        return Ok(None);
    }
    let frame: Vec<u8> = input.drain(..4 + length).skip(4).collect();
    let head_bytes = u32::from_be_bytes([0, frame[1], frame[2], frame[3]]) as usize;
    ensure!(4 + head_bytes <= length, "a header of {head_bytes} bytes in a frame of {length}");
    let (head, body) = frame[4..].split_at(head_bytes);
    let mut received = match frame[0] {
        0 => read_json(head)?,
        1 => read_binary(head)?,
        other => bail!("header encoding {other}"),
    };
    received.body = body.to_vec();
    Ok(Some(received))
}

fn read_json(head: &[u8]) -> Result<Received> {
    let head = relaxed::parse(&String::from_utf8_lossy(head))?;
    let number = |name: &str| head.get(name).and_then(Value::as_i64).unwrap_or(0);
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let ext = head.get("extFields").and_then(Value::as_object);
    Ok(Received {
        code: number("code"),
        opaque: number("opaque"),
        is_answer: number("flag") & ANSWER != 0,
        is_oneway: number("flag") & ONEWAY != 0,
        remark: head.get("remark").map(text).unwrap_or_default(),
        ext: ext.into_iter().flatten().map(|(key, value)| (key.clone(), text(value))).collect(),
        body: Vec::new(),
    })
}

fn read_binary(head: &[u8]) -> Result<Received> {
    let mut at = Cursor(head);
    let code = i64::from(at.i16()?);
    at.take(3)?;
    let opaque = i64::from(at.i32()?);
    let flag = i64::from(at.i32()?);
    let remark = at.text()?;
    let ext_bytes = at.i32()? as usize;
    let mut fields = Cursor(at.take(ext_bytes)?);
    let mut ext = BTreeMap::new();
    while !fields.0.is_empty() {
        let key_bytes = fields.i16()? as usize;
        let key = String::from_utf8_lossy(fields.take(key_bytes)?).into_owned();
        ext.insert(key, fields.text()?);
    }
    let (is_answer, is_oneway) = (flag & ANSWER != 0, flag & ONEWAY != 0);
    Ok(Received { code, opaque, is_answer, is_oneway, remark, ext, body: Vec::new() })
}

/// Reads big-endian numbers and texts one after the other.
pub struct Cursor<'a>(pub &'a [u8]);

impl<'a> Cursor<'a> {
    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        ensure!(count <= self.0.len(), "{count} bytes wanted of the {} left", self.0.len());
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        Ok(taken)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.number::<1>()?[0])
    }

    /// Two bytes.
    pub fn i16(&mut self) -> Result<i16> {
        Ok(i16::from_be_bytes(self.number()?))
    }

    /// Four bytes.
    pub fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_be_bytes(self.number()?))
    }

    /// Eight bytes.
    pub fn i64(&mut self) -> Result<i64> {
        Ok(i64::from_be_bytes(self.number()?))
    }

    fn text(&mut self) -> Result<String> {
        let bytes = self.i32()? as usize;
        Ok(String::from_utf8_lossy(self.take(bytes)?).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(binary: bool) -> Request {
        let head = json!({"code": 17, "language": "CPP", "version": 63, "flag": 0, "extFields": {"topic": "T", "n": 5}});
        Request { binary, head: head.as_object().unwrap().clone(), body: b"body".to_vec() }
    }

    #[test]
    fn both_encodings_say_the_same() {
        for binary in [false, true] {
            let mut bytes = request(binary).encode(77);
            let last = bytes.pop().unwrap();
            assert!(decode(&mut bytes).unwrap().is_none());
            bytes.push(last);
            let read = decode(&mut bytes).unwrap().unwrap();
            assert_eq!((read.code, read.opaque, read.is_answer), (17, 77, false));
            assert_eq!(
                (read.ext["topic"].as_str(), read.ext["n"].as_str(), read.body.as_slice()),
                ("T", "5", &b"body"[..])
            );
            assert!(bytes.is_empty());
        }
    }
}
