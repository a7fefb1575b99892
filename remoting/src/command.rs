//! A command: the header of a frame, decoded in place from either serialization, and its body.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;

use crate::ext::{EXT_FIELDS_MAX, Ext, checked, parse_i64};
use crate::fastjson::{ShapeError, TextError, Value};
use crate::frame::{RawFrame, Serialization};
use crate::json::{Kind, Scanner, Span, Unusual, unescape};

/// Bit of `flag`: this is an answer.
pub const FLAG_RESPONSE: i32 = 1;
/// Bit of `flag`: no answer must be sent.
pub const FLAG_ONEWAY: i32 = 2;
/// The version put into every header made here: ordinal of V5_4_0. Java clients need 232 or more for SQL filters.
pub const VERSION: i32 = 493;

/// Languages of peers, by number.
pub mod language {
    pub const JAVA: u8 = 0;
    pub const OTHER: u8 = 7;
    pub const GO: u8 = 9;
    pub const RUST: u8 = 12;

    const NAMES: [&str; 14] = [
        "JAVA", "CPP", "DOTNET", "PYTHON", "DELPHI", "ERLANG", "RUBY", "OTHER", "HTTP", "GO", "PHP", "OMS",
        "RUST", "NODE_JS",
    ];

    /// Name of a language; OTHER for a number nobody knows.
    pub fn name(number: u8) -> &'static str {
        NAMES.get(usize::from(number)).unwrap_or(&NAMES[usize::from(OTHER)])
    }

    /// Number of a language, from its name in any case or the number as text; [`OTHER`] for what nobody knows.
    pub fn number(text: &[u8]) -> u8 {
        let named = NAMES.iter().position(|known| known.as_bytes().eq_ignore_ascii_case(text));
        let number = || super::parse_i64(text).and_then(|number| usize::try_from(number).ok());
        named.or_else(number).filter(|at| *at < NAMES.len()).map_or(OTHER, |at| at as u8)
    }
}

/// A request or a response.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// Request or response code, see [`crate::codes`].
    pub code: i32,
    /// Number of the sender's language, see [`language`].
    pub language: u8,
    /// Ordinal of the sender's version.
    pub version: i32,
    /// Matches a response to its request; each sender numbers its own.
    pub opaque: i32,
    /// Bits [`FLAG_RESPONSE`] and [`FLAG_ONEWAY`].
    pub flag: i32,
    /// What went wrong, in words; absent where empty.
    pub remark: Option<String>,
    pub ext: Ext,
    pub body: Bytes,
    /// How the header was or will be written.
    pub serialization: Serialization,
}

/// Why a header cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    #[error("header is no JSON: {0}")]
    Text(#[from] TextError),
    #[error("header does not fit: {0}")]
    Shape(#[from] ShapeError),
    #[error("header has more than {EXT_FIELDS_MAX} ext fields")]
    TooManyFields,
    #[error("binary header: {what} needs {need} bytes at {at}, {have} are there")]
    Truncated { what: &'static str, at: usize, need: usize, have: usize },
    #[error("binary header: {what} has length {len}")]
    Length { what: &'static str, len: i32 },
    #[error("binary header: {extra} bytes behind its end")]
    Trailing { extra: usize },
}

impl Command {
    /// A request; whoever sends it gives it its opaque.
    pub fn request(code: i32, ext: Ext) -> Self {
        Self {
            code,
            language: language::RUST,
            version: VERSION,
            opaque: 0,
            flag: 0,
            remark: None,
            ext,
            body: Bytes::new(),
            serialization: Serialization::Json,
        }
    }

    /// An answer to `request`, in its serialization. It says it is JAVA, as the oldest clients know few languages.
    pub fn response_to(request: &Self, code: i32) -> Self {
        Self {
            language: language::JAVA,
            opaque: request.opaque,
            flag: FLAG_RESPONSE,
            serialization: request.serialization,
            ..Self::request(code, Ext::new())
        }
    }

    #[must_use]
    pub fn with_ext(self, ext: Ext) -> Self {
        Self { ext, ..self }
    }

    #[must_use]
    pub fn with_body(self, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..self }
    }

    #[must_use]
    pub fn with_remark(self, remark: impl Into<String>) -> Self {
        Self { remark: Some(remark.into()), ..self }
    }

    /// Marks a request as one that wants no answer.
    #[must_use]
    pub fn oneway(self) -> Self {
        Self { flag: self.flag | FLAG_ONEWAY, ..self }
    }

    pub fn is_response(&self) -> bool {
        self.flag & FLAG_RESPONSE != 0
    }

    pub fn is_oneway(&self) -> bool {
        self.flag & FLAG_ONEWAY != 0
    }

    /// Decodes the header of a frame.
    pub fn decode(frame: RawFrame) -> Result<Self, CommandError> {
        let mut command = match frame.serialization {
            Serialization::Json => decode_json(frame.header)?,
            Serialization::RocketMq => decode_binary(frame.header)?,
        };
        command.serialization = frame.serialization;
        command.body = frame.body;
        Ok(command)
    }
}

/// What a header says that says nothing; JAVA is what Java peers assume too.
fn unsaid(ext: Ext) -> Command {
    Command { language: language::JAVA, version: 0, ..Command::request(0, ext) }
}

/// Decodes in place what peers usually write; whatever else Java reads takes the slow way.
fn decode_json(header: Bytes) -> Result<Command, CommandError> {
    let header = utf8(header);
    match scan_json(&header) {
        Ok(mut command) if command.ext.len() <= EXT_FIELDS_MAX => {
            command.ext.set_header(header);
            Ok(command)
        }
        Ok(_) => Err(CommandError::TooManyFields),
        Err(Unusual) => decode_unusual(checked(&header)),
    }
}

/// The header itself if it is UTF-8; else bytes that are not become U+FFFD, as in Java.
fn utf8(header: Bytes) -> Bytes {
    match std::str::from_utf8(&header) {
        Ok(_) => header,
        Err(_) => Bytes::from(String::from_utf8_lossy(&header).into_owned()),
    }
}

/// Only the ext fields still lack the header that they are in. Fields that are too many are left out, but for one.
fn scan_json(header: &Bytes) -> Result<Command, Unusual> {
    let mut command = unsaid(Ext::with_room());
    let mut has_code = false;
    let mut scanner = Scanner::new(header);
    scanner.object(|scanner, key| {
        match scanner.bytes(key) {
            b"code" => {
                has_code = true;
                command.code = integer(scanner)?;
            }
            b"version" => command.version = integer(scanner)?,
            b"opaque" => command.opaque = integer(scanner)?,
            b"flag" => command.flag = integer(scanner)?,
            b"language" => {
                let value = string(scanner)?;
                command.language = language::number(scanner.bytes(value));
            }
            b"remark" if scanner.kind() != Kind::Null => {
                let remark = string(scanner)?;
                command.remark = (remark.len > 0).then(|| unescape(checked(scanner.bytes(remark))));
            }
            b"extFields" if scanner.kind() != Kind::Null => scanner.object(|scanner, key| {
                let kind = scanner.kind();
                let value = scanner.value()?;
                match kind {
                    Kind::Null => {}
                    Kind::Other => return Err(Unusual),
                    _ if command.ext.len() <= EXT_FIELDS_MAX => command.ext.push_found(header, key, value),
                    _ => {}
                }
                Ok(())
            })?,
            _ => drop(scanner.value()?),
        }
        Ok(())
    })?;
    if has_code && scanner.at_end() { Ok(command) } else { Err(Unusual) }
}

fn integer(scanner: &mut Scanner<'_>) -> Result<i32, Unusual> {
    if scanner.kind() != Kind::Number {
        return Err(Unusual);
    }
    let value = scanner.value()?;
    parse_i64(scanner.bytes(value)).and_then(|n| i32::try_from(n).ok()).ok_or(Unusual)
}

fn string(scanner: &mut Scanner<'_>) -> Result<Span, Unusual> {
    if scanner.kind() == Kind::String { scanner.value() } else { Err(Unusual) }
}

#[cold]
fn decode_unusual(text: &str) -> Result<Command, CommandError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Header {
        code: i32,
        language: String,
        version: i32,
        opaque: i32,
        flag: i32,
        remark: String,
        ext_fields: BTreeMap<String, String>,
    }
    impl Default for Header {
        fn default() -> Self {
            let Command { code, version, opaque, flag, .. } = unsaid(Ext::new());
            let (remark, ext_fields) = Default::default();
            Self { code, language: "JAVA".to_owned(), version, opaque, flag, remark, ext_fields }
        }
    }
    let header = Header::deserialize(Value::read(text)?)?;
    if header.ext_fields.len() > EXT_FIELDS_MAX {
        return Err(CommandError::TooManyFields);
    }
    let ext = header.ext_fields.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    Ok(Command {
        language: language::number(header.language.as_bytes()),
        version: header.version,
        opaque: header.opaque,
        flag: header.flag,
        remark: Some(header.remark).filter(|remark| !remark.is_empty()),
        ..Command::request(header.code, ext)
    })
}

fn decode_binary(header: Bytes) -> Result<Command, CommandError> {
    let mut reader = BinaryReader { bytes: &header, at: 0 };
    let mut command = unsaid(Ext::with_room());
    command.code = i32::from(i16::from_be_bytes(reader.array("code")?));
    command.language = reader.array::<1>("language")?[0];
    command.version = i32::from(i16::from_be_bytes(reader.array("version")?));
    command.opaque = i32::from_be_bytes(reader.array("opaque")?);
    command.flag = i32::from_be_bytes(reader.array("flag")?);
    let len = i32::from_be_bytes(reader.array("remark length")?);
    let remark = reader.bytes("remark", len)?;
    command.remark = (remark.len > 0).then(|| String::from_utf8_lossy(of(&header, remark)).into_owned());
    let ext_len = i32::from_be_bytes(reader.array("ext length")?);
    let end = reader.at + reader.extent("ext", ext_len)?;
    while reader.at < end {
        let len = i32::from(i16::from_be_bytes(reader.array("ext name length")?));
        let key = reader.bytes("ext name", len)?;
        let len = i32::from_be_bytes(reader.array("ext value length")?);
        let value = reader.bytes("ext value", len)?;
        if command.ext.len() >= EXT_FIELDS_MAX {
            return Err(CommandError::TooManyFields);
        }
        push_binary(&mut command.ext, &header, key, value);
    }
    // A last value may not reach beyond the ext it is said to be in.
    if reader.at > end {
        return Err(CommandError::Length { what: "ext", len: ext_len });
    }
    match header.len() - reader.at {
        0 => {
            command.ext.set_header(header);
            Ok(command)
        }
        extra => Err(CommandError::Trailing { extra }),
    }
}

fn of(header: &[u8], span: Span) -> &[u8] {
    &header[span.start as usize..(span.start + span.len) as usize]
}

/// Adds a field unless it has no name or no value, which to Java are null. What is no UTF-8 becomes U+FFFD.
#[inline(always)]
fn push_binary(ext: &mut Ext, header: &[u8], key: Span, value: Span) {
    let is_utf8 = |span| std::str::from_utf8(of(header, span)).is_ok();
    if key.len == 0 || value.len == 0 {
    } else if is_utf8(key) && is_utf8(value) {
        ext.push_found(header, key, value);
    } else {
        let mended = |span| String::from_utf8_lossy(of(header, span));
        ext.push_own(&mended(key), &mended(value));
    }
}

struct BinaryReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl BinaryReader<'_> {
    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], CommandError> {
        let rest = &self.bytes[self.at..];
        let found = rest.first_chunk::<N>().ok_or(CommandError::Truncated {
            what,
            at: self.at,
            need: N,
            have: rest.len(),
        })?;
        self.at += N;
        Ok(*found)
    }

    /// Checks that `len` bytes are left, without taking them.
    fn extent(&self, what: &'static str, len: i32) -> Result<usize, CommandError> {
        let need = usize::try_from(len).map_err(|_| CommandError::Length { what, len })?;
        let have = self.bytes.len() - self.at;
        if need > have {
            return Err(CommandError::Truncated { what, at: self.at, need, have });
        }
        Ok(need)
    }

    fn bytes(&mut self, what: &'static str, len: i32) -> Result<Span, CommandError> {
        let len = self.extent(what, len)?;
        let start = self.at;
        self.at += len;
        Ok(Span { start: start as u32, len: len as u32, escaped: false })
    }
}

#[cfg(test)]
mod tests;
