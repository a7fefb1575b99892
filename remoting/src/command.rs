//! A command: the header of a frame, decoded in place from either serialization, and its body.

use bytes::Bytes;

use crate::ext::{EXT_FIELDS_MAX, Ext, parse_i64};
use crate::frame::{RawFrame, Serialization};
use crate::json::{JsonError, JsonProblem, Kind, Scanner, Span, unescape};

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

    /// Number of a language; [`OTHER`] for a name nobody knows.
    pub fn number(name: &[u8]) -> u8 {
        NAMES.iter().position(|known| known.as_bytes() == name).map_or(OTHER, |at| at as u8)
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
    #[error(transparent)]
    Json(#[from] JsonError),
    #[error("header is not UTF-8 at byte {at}")]
    NotUtf8 { at: usize },
    #[error("header has no {field}")]
    Missing { field: &'static str },
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

fn decode_json(header: Bytes) -> Result<Command, CommandError> {
    let text = std::str::from_utf8(&header).map_err(|e| CommandError::NotUtf8 { at: e.valid_up_to() })?;
    let mut command = unsaid(Ext::with_room());
    let mut has_code = false;
    let mut too_many = false;
    let mut scanner = Scanner::new(text.as_bytes());
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
                let value = scanner.value()?;
                command.language = language::number(scanner.bytes(value));
            }
            b"remark" => command.remark = remark(scanner, text)?,
            b"extFields" if scanner.kind() != Kind::Null => scanner.object(|scanner, key| {
                let kind = scanner.kind();
                let value = scanner.value()?;
                too_many |= command.ext.len() >= EXT_FIELDS_MAX;
                if kind != Kind::Null && !too_many {
                    command.ext.push_found(text.as_bytes(), key, value);
                }
                Ok(())
            })?,
            _ => drop(scanner.value()?),
        }
        Ok(())
    })?;
    if !scanner.at_end() {
        return Ok(scanner.fail(JsonProblem::Trailing)?);
    }
    if too_many {
        return Err(CommandError::TooManyFields);
    }
    if !has_code {
        return Err(CommandError::Missing { field: "code" });
    }
    command.ext.set_header(header);
    Ok(command)
}

fn integer(scanner: &mut Scanner<'_>) -> Result<i32, JsonError> {
    if scanner.kind() != Kind::Number {
        return scanner.fail(JsonProblem::NoNumber);
    }
    let value = scanner.value()?;
    match parse_i64(scanner.bytes(value)).and_then(|n| i32::try_from(n).ok()) {
        Some(n) => Ok(n),
        None => scanner.fail(JsonProblem::NoI32),
    }
}

fn remark(scanner: &mut Scanner<'_>, text: &str) -> Result<Option<String>, JsonError> {
    let is_string = scanner.kind() == Kind::String;
    let Span { start, len, .. } = scanner.value()?;
    Ok((is_string && len > 0).then(|| unescape(&text[start as usize..(start + len) as usize])))
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
    let remark = reader.text("remark", len)?;
    let remark = &header[remark.start as usize..(remark.start + remark.len) as usize];
    command.remark = (!remark.is_empty()).then(|| String::from_utf8_lossy(remark).into_owned());
    let ext_len = i32::from_be_bytes(reader.array("ext length")?);
    let end = reader.at + reader.extent("ext", ext_len)?;
    while reader.at < end {
        let len = i32::from(i16::from_be_bytes(reader.array("ext name length")?));
        let key = reader.text("ext name", len)?;
        let len = i32::from_be_bytes(reader.array("ext value length")?);
        let value = reader.text("ext value", len)?;
        if command.ext.len() >= EXT_FIELDS_MAX {
            return Err(CommandError::TooManyFields);
        }
        command.ext.push_found(&header, key, value);
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

    fn text(&mut self, what: &'static str, len: i32) -> Result<Span, CommandError> {
        let len = self.extent(what, len)?;
        let start = self.at;
        self.at += len;
        std::str::from_utf8(&self.bytes[start..self.at])
            .map_err(|e| CommandError::NotUtf8 { at: start + e.valid_up_to() })?;
        Ok(Span { start: start as u32, len: len as u32, escaped: false })
    }
}

#[cfg(test)]
mod tests;
