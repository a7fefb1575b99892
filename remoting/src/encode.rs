//! Writing frames. A general way for any command, and direct ways for the answers and requests there are millions of.
//!
//! A function that fails leaves the buffer as it was.

use bytes::{BufMut, BytesMut};

use crate::codes::{request, response};
use crate::command::{Command, FLAG_ONEWAY, FLAG_RESPONSE, VERSION, language};
use crate::ext::Ext;
use crate::frame::{FRAME_LEN_MAX, HEADER_LEN_MAX, PREFIX_LEN, Serialization};
use crate::header::{PullResponse, SendHeader, SendResponse};
use crate::json::{Decimal, put_string};

/// Why a command cannot be written as a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("header of {len} bytes is longer than {HEADER_LEN_MAX}")]
    HeaderTooLong { len: usize },
    #[error("frame of {len} bytes is longer than {FRAME_LEN_MAX}")]
    FrameTooLong { len: usize },
    #[error("ext field name of {len} bytes is too long for a binary header")]
    NameTooLong { len: usize },
}

/// Appends the whole frame of a command, body included.
pub fn encode_command(command: &Command, out: &mut BytesMut) -> Result<(), EncodeError> {
    encode_header(command, command.body.len(), out)?;
    out.put_slice(&command.body);
    Ok(())
}

/// Appends a frame up to where its body begins; the caller writes `body_len` bytes after it.
///
/// A code that has no place in a binary header makes this one frame JSON, which every peer can read.
pub fn encode_header(command: &Command, body_len: usize, out: &mut BytesMut) -> Result<(), EncodeError> {
    let head = Head {
        code: command.code,
        language: command.language,
        version: command.version,
        opaque: command.opaque,
        flag: command.flag,
        remark: command.remark.as_deref(),
    };
    write(out, command.serialization, &head, body_len, |header| header.all(&command.ext))
}

/// Appends an answer made of code, remark, fields and body.
pub fn write_response(
    out: &mut BytesMut,
    serialization: Serialization,
    opaque: i32,
    code: i32,
    remark: Option<&str>,
    fields: &[(&str, &str)],
    body: &[u8],
) -> Result<(), EncodeError> {
    write(out, serialization, &Head::response(opaque, code, remark), body.len(), |header| {
        fields.iter().for_each(|(key, value)| header.text(key, value));
    })?;
    out.put_slice(body);
    Ok(())
}

/// Appends the answer to a stored message: success, or a code that says it is stored but not as safely as asked.
pub fn write_send_response(
    out: &mut BytesMut,
    serialization: Serialization,
    opaque: i32,
    code: i32,
    remark: Option<&str>,
    fields: &SendResponse<'_>,
) -> Result<(), EncodeError> {
    write(out, serialization, &Head::response(opaque, code, remark), 0, |header| {
        header.text("msgId", &fields.msg_id);
        header.number("queueId", i64::from(fields.queue_id));
        header.number("queueOffset", fields.queue_offset);
        if let Some(id) = &fields.transaction_id {
            header.text("transactionId", id);
        }
        if let Some(region) = &fields.region {
            header.text("MSG_REGION", region);
        }
        header.text("TRACE_ON", if fields.trace_on { "true" } else { "false" });
    })
}

/// Appends the answer to a pull up to where its body begins; the caller writes `body_len` bytes of records after it.
pub fn write_pull_response_header(
    out: &mut BytesMut,
    serialization: Serialization,
    opaque: i32,
    code: i32,
    remark: Option<&str>,
    fields: &PullResponse,
    body_len: usize,
) -> Result<(), EncodeError> {
    write(out, serialization, &Head::response(opaque, code, remark), body_len, |header| {
        header.number("suggestWhichBrokerId", fields.suggest_which_broker_id);
        header.number("nextBeginOffset", fields.next_begin_offset);
        header.number("minOffset", fields.min_offset);
        header.number("maxOffset", fields.max_offset);
        let optional = [
            ("offsetDelta", fields.offset_delta),
            ("topicSysFlag", fields.topic_sys_flag.map(i64::from)),
            ("groupSysFlag", fields.group_sys_flag.map(i64::from)),
            ("forbiddenType", fields.forbidden_type.map(i64::from)),
        ];
        for (key, value) in optional {
            if let Some(value) = value {
                header.number(key, value);
            }
        }
    })
}

/// Appends a send request with the short field names, as code 310, or as 320 for a batch.
pub fn write_send_request(
    out: &mut BytesMut,
    serialization: Serialization,
    opaque: i32,
    oneway: bool,
    fields: &SendHeader<'_>,
    body: &[u8],
) -> Result<(), EncodeError> {
    let head = Head {
        code: if fields.batch { request::SEND_BATCH_MESSAGE } else { request::SEND_MESSAGE_V2 },
        language: language::RUST,
        version: VERSION,
        opaque,
        flag: if oneway { FLAG_ONEWAY } else { 0 },
        remark: None,
    };
    write(out, serialization, &head, body.len(), |header| {
        header.text("a", &fields.producer_group);
        header.text("b", &fields.topic);
        header.text("c", &fields.default_topic);
        header.number("d", i64::from(fields.default_topic_queue_nums));
        header.number("e", i64::from(fields.queue_id));
        header.number("f", i64::from(fields.sys_flag));
        header.number("g", fields.born_timestamp_ms);
        header.number("h", i64::from(fields.flag));
        header.text("i", &fields.properties);
        header.number("j", i64::from(fields.reconsume_times));
        header.text("k", if fields.unit_mode { "true" } else { "false" });
        if let Some(times) = fields.max_reconsume_times {
            header.number("l", i64::from(times));
        }
        header.text("m", if fields.batch { "true" } else { "false" });
        if let Some(name) = &fields.broker_name {
            header.text("n", name);
        }
    })?;
    out.put_slice(body);
    Ok(())
}

/// Appends an answer that says no more than that a request is not supported.
pub fn write_not_supported(
    out: &mut BytesMut,
    serialization: Serialization,
    opaque: i32,
    code: i32,
) -> Result<(), EncodeError> {
    let remark = format!(" request type {code} not supported");
    let answer = response::REQUEST_CODE_NOT_SUPPORTED;
    write_response(out, serialization, opaque, answer, Some(&remark), &[], &[])
}

/// A header but for its ext fields.
struct Head<'a> {
    code: i32,
    language: u8,
    version: i32,
    opaque: i32,
    flag: i32,
    remark: Option<&'a str>,
}

impl<'a> Head<'a> {
    fn response(opaque: i32, code: i32, remark: Option<&'a str>) -> Self {
        Self { code, language: language::JAVA, version: VERSION, opaque, flag: FLAG_RESPONSE, remark }
    }
}

/// Writes prefix and header, with `fields` adding the ext fields, and puts the lengths in afterwards.
fn write(
    out: &mut BytesMut,
    serialization: Serialization,
    head: &Head<'_>,
    body_len: usize,
    fields: impl FnOnce(&mut HeaderWriter<'_>),
) -> Result<(), EncodeError> {
    let start = out.len();
    let written = write_unchecked(out, serialization, head, body_len, fields);
    if written.is_err() {
        out.truncate(start);
    }
    written
}

fn write_unchecked(
    out: &mut BytesMut,
    serialization: Serialization,
    head: &Head<'_>,
    body_len: usize,
    fields: impl FnOnce(&mut HeaderWriter<'_>),
) -> Result<(), EncodeError> {
    // Enough for the usual answer, so that the many small writes find room.
    const USUAL_LEN: usize = 512;
    let start = out.len();
    out.reserve(USUAL_LEN + body_len.min(FRAME_LEN_MAX));
    out.put_u64(0);
    let fits_binary = i16::try_from(head.code).is_ok() && i16::try_from(head.version).is_ok();
    let serialization = if fits_binary { serialization } else { Serialization::Json };
    let mut header = HeaderWriter { out, serialization, is_first: true, too_long: None };
    let ext_at = header.begin(head);
    fields(&mut header);
    header.end(ext_at)?;

    let header_len = out.len() - start - PREFIX_LEN;
    if header_len > HEADER_LEN_MAX {
        return Err(EncodeError::HeaderTooLong { len: header_len });
    }
    let len = (PREFIX_LEN + header_len).saturating_add(body_len);
    if len > FRAME_LEN_MAX {
        return Err(EncodeError::FrameTooLong { len });
    }
    let word = header_len as u32 | (serialization as u32) << 24;
    out[start..start + 4].copy_from_slice(&((len - 4) as u32).to_be_bytes());
    out[start + 4..start + 8].copy_from_slice(&word.to_be_bytes());
    Ok(())
}

/// Writes a header in either serialization, ext fields last.
struct HeaderWriter<'a> {
    out: &'a mut BytesMut,
    serialization: Serialization,
    is_first: bool,
    /// Length of a name that had no place.
    too_long: Option<usize>,
}

impl HeaderWriter<'_> {
    /// Writes all but the ext fields; returns where a binary header's ext length stands.
    fn begin(&mut self, head: &Head<'_>) -> usize {
        let out = &mut *self.out;
        match self.serialization {
            Serialization::Json => {
                out.put_slice(b"{\"code\":");
                out.put_slice(Decimal::new(i64::from(head.code)).as_bytes());
                out.put_slice(b",\"flag\":");
                out.put_slice(Decimal::new(i64::from(head.flag)).as_bytes());
                out.put_slice(b",\"language\":\"");
                out.put_slice(language::name(head.language).as_bytes());
                out.put_slice(b"\",\"opaque\":");
                out.put_slice(Decimal::new(i64::from(head.opaque)).as_bytes());
                out.put_slice(b",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":");
                out.put_slice(Decimal::new(i64::from(head.version)).as_bytes());
                if let Some(remark) = head.remark {
                    out.put_slice(b",\"remark\":");
                    put_string(out, remark);
                }
                out.put_slice(b",\"extFields\":{");
            }
            Serialization::RocketMq => {
                // Both fit, or this would be JSON.
                out.put_i16(head.code as i16);
                out.put_u8(head.language);
                out.put_i16(head.version as i16);
                out.put_i32(head.opaque);
                out.put_i32(head.flag);
                let remark = head.remark.unwrap_or_default();
                // A text that does not fit makes the header too long, which is found at the end.
                out.put_u32(remark.len() as u32);
                out.put_slice(remark.as_bytes());
                out.put_u32(0);
            }
        }
        out.len()
    }

    fn end(self, ext_at: usize) -> Result<(), EncodeError> {
        if let Some(len) = self.too_long {
            return Err(EncodeError::NameTooLong { len });
        }
        match self.serialization {
            Serialization::Json => self.out.put_slice(b"}}"),
            Serialization::RocketMq => {
                let len = (self.out.len() - ext_at) as u32;
                self.out[ext_at - 4..ext_at].copy_from_slice(&len.to_be_bytes());
            }
        }
        Ok(())
    }

    fn text(&mut self, key: &str, value: &str) {
        match self.serialization {
            Serialization::Json => {
                self.json_name(key);
                put_string(self.out, value);
            }
            Serialization::RocketMq => self.binary_field(key, value.as_bytes()),
        }
    }

    fn number(&mut self, key: &str, value: i64) {
        let digits = Decimal::new(value);
        match self.serialization {
            Serialization::Json => {
                self.json_name(key);
                self.out.put_u8(b'"');
                self.out.put_slice(digits.as_bytes());
                self.out.put_u8(b'"');
            }
            Serialization::RocketMq => self.binary_field(key, digits.as_bytes()),
        }
    }

    fn all(&mut self, ext: &Ext) {
        for (key, value) in ext.iter() {
            self.text(key, &value);
        }
    }

    fn json_name(&mut self, key: &str) {
        if !std::mem::take(&mut self.is_first) {
            self.out.put_u8(b',');
        }
        put_string(self.out, key);
        self.out.put_u8(b':');
    }

    fn binary_field(&mut self, key: &str, value: &[u8]) {
        let Ok(len) = i16::try_from(key.len()) else {
            self.too_long = Some(key.len());
            return;
        };
        self.out.put_i16(len);
        self.out.put_slice(key.as_bytes());
        self.out.put_u32(value.len() as u32);
        self.out.put_slice(value);
    }
}

#[cfg(test)]
mod tests;
