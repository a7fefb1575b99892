//! The stored record: its layout, a checked view over its bytes, and patching of its positions in place.
//!
//! All numbers are big-endian. Offsets below hold for IPv4 hosts up to the born host; from there on they move by
//! 12 bytes for every IPv6 host.
//!
//! ```text
//!  0 total size i32      4 magic i32           8 body CRC i32      12 queue id i32     16 flag i32
//! 20 queue offset i64   28 physical offset i64 36 sys flag i32     40 born time i64
//! 48 born host (4|16) + port i32               then store time i64, store host (4|16) + port i32,
//! reconsume times i32, prepared transaction offset i64, body i32 + n, topic u8|i16 + n, properties i16 + n
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Magic of a record whose topic length is one byte. The only form 4.x clients can read.
pub const MAGIC_V1: i32 = 0xDAA3_20A7_u32 as i32;
/// Magic of a record whose topic length is two bytes; used only for topics longer than [`TOPIC_LEN_V1_MAX`].
pub const MAGIC_V2: i32 = 0xDAA3_20AB_u32 as i32;
/// Longest topic a version 1 record can carry, in bytes (a signed byte in Java).
pub const TOPIC_LEN_V1_MAX: usize = 127;
/// Longest properties of a record, in bytes (a signed 16-bit length).
pub const PROPERTIES_LEN_MAX: usize = i16::MAX as usize;

pub const TOTAL_SIZE_AT: usize = 0;
pub const MAGIC_AT: usize = 4;
pub const BODY_CRC_AT: usize = 8;
pub const QUEUE_ID_AT: usize = 12;
pub const FLAG_AT: usize = 16;
pub const QUEUE_OFFSET_AT: usize = 20;
pub const PHYSICAL_OFFSET_AT: usize = 28;
pub const SYS_FLAG_AT: usize = 36;
pub const BORN_TIMESTAMP_AT: usize = 40;
pub const BORN_HOST_AT: usize = 48;
/// Bytes of an IPv4 host: address and a 32-bit port.
pub const HOST_LEN_V4: usize = 8;
/// Bytes of an IPv6 host.
pub const HOST_LEN_V6: usize = 20;
/// Smallest possible record: version 1, IPv4 hosts, empty body, topic and properties.
pub const RECORD_LEN_MIN: usize = BORN_HOST_AT + HOST_LEN_V4 + 8 + HOST_LEN_V4 + 4 + 8 + 4 + 1 + 2;

/// Bits of a record's sysFlag.
pub mod sys_flag {
    /// The body is compressed; bits 8 to 10 say how.
    pub const COMPRESSED: i32 = 0x1;
    pub const MULTI_TAGS: i32 = 0x2;
    /// Mask of the two transaction bits.
    pub const TRANSACTION_MASK: i32 = 0xC;
    pub const TRANSACTION_PREPARED: i32 = 0x4;
    pub const TRANSACTION_COMMIT: i32 = 0x8;
    pub const TRANSACTION_ROLLBACK: i32 = 0xC;
    pub const BORN_HOST_V6: i32 = 0x10;
    pub const STORE_HOST_V6: i32 = 0x20;
    /// How a compressed body was compressed; without any of these bits with zlib.
    pub const COMPRESSION_MASK: i32 = 0x700;
    pub const COMPRESSION_LZ4: i32 = 0x100;
    pub const COMPRESSION_ZSTD: i32 = 0x200;
    pub const COMPRESSION_ZLIB: i32 = 0x300;
}

/// What is wrong with bytes that should be a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("record truncated: {what} needs {need} bytes, {have} are there")]
    Truncated { what: &'static str, need: usize, have: usize },
    #[error("record magic {found:#010x} is neither version 1 nor version 2")]
    Magic { found: i32 },
    #[error("record size {size} is below the smallest possible, {RECORD_LEN_MIN}")]
    Size { size: i32 },
    #[error("record {what} has negative length {len}")]
    NegativeLength { what: &'static str, len: i32 },
    #[error("record says {total} bytes but its fields end at {end}")]
    Trailing { total: usize, end: usize },
    #[error("record {what} is not UTF-8 at byte {at} of it")]
    NotUtf8 { what: &'static str, at: usize },
    #[error("record {what} has port {port}")]
    Port { what: &'static str, port: i32 },
    #[error("position {what} {value} does not fit 63 bits")]
    Position { what: &'static str, value: u64 },
    #[error("at byte {at} of the buffer: {source}")]
    At { at: usize, source: Box<RecordError> },
}

/// Bytes of a host field for the given sysFlag bit.
const fn host_len(sys_flag: i32, v6_bit: i32) -> usize {
    if sys_flag & v6_bit == 0 { HOST_LEN_V4 } else { HOST_LEN_V6 }
}

/// Where the store timestamp of a record with this sysFlag stands.
pub const fn store_timestamp_at(sys_flag: i32) -> usize {
    BORN_HOST_AT + host_len(sys_flag, sys_flag::BORN_HOST_V6)
}

fn array_at<const N: usize>(buf: &[u8], at: usize, what: &'static str) -> Result<[u8; N], RecordError> {
    buf.get(at..).and_then(|rest| rest.first_chunk::<N>()).copied().ok_or(RecordError::Truncated {
        what,
        need: at + N,
        have: buf.len(),
    })
}

fn i32_at(buf: &[u8], at: usize, what: &'static str) -> Result<i32, RecordError> {
    array_at(buf, at, what).map(i32::from_be_bytes)
}

/// Size in bytes of the record `buf` starts with, checking only size and magic. `buf` may hold less than the record.
pub fn record_total_size(buf: &[u8]) -> Result<usize, RecordError> {
    let size = i32_at(buf, TOTAL_SIZE_AT, "size")?;
    let magic = i32_at(buf, MAGIC_AT, "magic")?;
    if magic != MAGIC_V1 && magic != MAGIC_V2 {
        return Err(RecordError::Magic { found: magic });
    }
    match usize::try_from(size) {
        Ok(total) if total >= RECORD_LEN_MIN => Ok(total),
        _ => Err(RecordError::Size { size }),
    }
}

/// Writes the three positions a leader gives to a record, in place, checking no more than that they lie within it.
///
/// `record` starts with the record. Offsets are in messages and bytes, the time in milliseconds since 1970.
pub fn patch_positions(
    record: &mut [u8],
    queue_offset: u64,
    physical_offset: u64,
    store_timestamp_ms: i64,
) -> Result<(), RecordError> {
    let total = record_total_size(record)?;
    if record.len() < total {
        return Err(RecordError::Truncated { what: "record", need: total, have: record.len() });
    }
    for (what, value) in [("queue offset", queue_offset), ("physical offset", physical_offset)] {
        if i64::try_from(value).is_err() {
            return Err(RecordError::Position { what, value });
        }
    }
    let time_at = store_timestamp_at(i32_at(record, SYS_FLAG_AT, "sys flag")?);
    // In bounds: the smallest record is longer than the latest of these fields, with either kind of host.
    const { assert!(RECORD_LEN_MIN >= BORN_HOST_AT + HOST_LEN_V6 + 8) };
    record[QUEUE_OFFSET_AT..QUEUE_OFFSET_AT + 8].copy_from_slice(&queue_offset.to_be_bytes());
    record[PHYSICAL_OFFSET_AT..PHYSICAL_OFFSET_AT + 8].copy_from_slice(&physical_offset.to_be_bytes());
    record[time_at..time_at + 8].copy_from_slice(&store_timestamp_ms.to_be_bytes());
    Ok(())
}

/// A validated record, borrowed from the bytes that hold it. Getters do not fail and do not copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// Exactly the record.
    bytes: &'a [u8],
    body: &'a [u8],
    topic: &'a str,
    properties: &'a str,
    /// Where the store timestamp stands.
    store_timestamp_at: usize,
    /// Where the reconsume times stand.
    reconsume_at: usize,
}

impl<'a> RecordView<'a> {
    /// Parses and checks the record that `buf` starts with; `buf` may be longer than the record.
    pub fn parse(buf: &'a [u8]) -> Result<Self, RecordError> {
        let total = record_total_size(buf)?;
        let bytes = buf.get(..total).ok_or(RecordError::Truncated {
            what: "record",
            need: total,
            have: buf.len(),
        })?;
        let sys_flag = i32_at(bytes, SYS_FLAG_AT, "sys flag")?;
        let store_timestamp_at = store_timestamp_at(sys_flag);
        let store_host_at = store_timestamp_at + 8;
        let reconsume_at = store_host_at + host_len(sys_flag, sys_flag::STORE_HOST_V6);
        check_port(bytes, store_timestamp_at - 4, "born host")?;
        check_port(bytes, reconsume_at - 4, "store host")?;

        let mut fields = Fields { bytes, at: reconsume_at + 4 + 8 };
        let body_len = fields.i32_len("body")?;
        let body = fields.take("body", body_len)?;
        let topic_len = if i32_at(bytes, MAGIC_AT, "magic")? == MAGIC_V1 {
            fields.i8_len("topic")?
        } else {
            fields.i16_len("topic")?
        };
        let topic = utf8("topic", fields.take("topic", topic_len)?)?;
        let properties_len = fields.i16_len("properties")?;
        let properties = utf8("properties", fields.take("properties", properties_len)?)?;
        if fields.at != total {
            return Err(RecordError::Trailing { total, end: fields.at });
        }
        Ok(Self { bytes, body, topic, properties, store_timestamp_at, reconsume_at })
    }

    /// The record's own bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
    /// Size of the record in bytes.
    pub fn total_size(&self) -> usize {
        self.bytes.len()
    }
    /// [`MAGIC_V1`] or [`MAGIC_V2`].
    pub fn magic(&self) -> i32 {
        self.i32(MAGIC_AT)
    }
    /// Checksum of the body as stored, see [`crate::body_crc`]. Not checked by [`RecordView::parse`].
    pub fn body_crc(&self) -> u32 {
        self.i32(BODY_CRC_AT) as u32
    }
    pub fn queue_id(&self) -> i32 {
        self.i32(QUEUE_ID_AT)
    }
    /// The user's own flag.
    pub fn flag(&self) -> i32 {
        self.i32(FLAG_AT)
    }
    /// Position in the queue, counted in messages.
    pub fn queue_offset(&self) -> i64 {
        self.i64(QUEUE_OFFSET_AT)
    }
    /// Position of the record in the commit log, in bytes.
    pub fn physical_offset(&self) -> i64 {
        self.i64(PHYSICAL_OFFSET_AT)
    }
    /// Bits of [`sys_flag`].
    pub fn sys_flag(&self) -> i32 {
        self.i32(SYS_FLAG_AT)
    }
    /// Producer's clock, milliseconds since 1970.
    pub fn born_timestamp_ms(&self) -> i64 {
        self.i64(BORN_TIMESTAMP_AT)
    }
    /// Leader's clock at append, milliseconds since 1970.
    pub fn store_timestamp_ms(&self) -> i64 {
        self.i64(self.store_timestamp_at)
    }
    pub fn born_host(&self) -> SocketAddr {
        host(&self.bytes[BORN_HOST_AT..self.store_timestamp_at])
    }
    /// Address of the broker that stored the record.
    pub fn store_host(&self) -> SocketAddr {
        host(&self.bytes[self.store_timestamp_at + 8..self.reconsume_at])
    }
    pub fn reconsume_times(&self) -> i32 {
        self.i32(self.reconsume_at)
    }
    /// Physical offset of the half message a committed message came from, else 0.
    pub fn prepared_transaction_offset(&self) -> i64 {
        self.i64(self.reconsume_at + 4)
    }
    /// Body as sent, possibly compressed.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }
    pub fn topic(&self) -> &'a str {
        self.topic
    }
    /// Raw properties; see [`crate::properties`].
    pub fn properties(&self) -> &'a str {
        self.properties
    }
    /// Value of one property.
    pub fn property(&self, name: &str) -> Option<&'a str> {
        crate::properties::get(self.properties, name)
    }

    fn i32(&self, at: usize) -> i32 {
        i32::from_be_bytes(self.fixed(at))
    }
    fn i64(&self, at: usize) -> i64 {
        i64::from_be_bytes(self.fixed(at))
    }
    /// Bytes of a field of the fixed part, whose bounds `parse` has checked.
    fn fixed<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut field = [0; N];
        field.copy_from_slice(&self.bytes[at..at + N]);
        field
    }
}

/// Reads the variable part of a record front to back.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    /// Moves past `n` bytes and returns where they began.
    fn advance(&mut self, n: usize) -> usize {
        let at = self.at;
        self.at += n;
        at
    }
    fn i32_len(&mut self, what: &'static str) -> Result<usize, RecordError> {
        let len = i32_at(self.bytes, self.advance(4), what)?;
        usize::try_from(len).map_err(|_| RecordError::NegativeLength { what, len })
    }
    fn i8_len(&mut self, what: &'static str) -> Result<usize, RecordError> {
        let len = i8::from_be_bytes(array_at(self.bytes, self.advance(1), what)?);
        usize::try_from(len).map_err(|_| RecordError::NegativeLength { what, len: i32::from(len) })
    }
    fn i16_len(&mut self, what: &'static str) -> Result<usize, RecordError> {
        let len = i16::from_be_bytes(array_at(self.bytes, self.advance(2), what)?);
        usize::try_from(len).map_err(|_| RecordError::NegativeLength { what, len: i32::from(len) })
    }
    /// `len` came from at most 31 bits, so the sum cannot overflow.
    fn take(&mut self, what: &'static str, len: usize) -> Result<&'a [u8], RecordError> {
        let at = self.advance(len);
        self.bytes.get(at..at + len).ok_or(RecordError::Truncated {
            what,
            need: at + len,
            have: self.bytes.len(),
        })
    }
}

fn utf8<'a>(what: &'static str, bytes: &'a [u8]) -> Result<&'a str, RecordError> {
    std::str::from_utf8(bytes).map_err(|error| RecordError::NotUtf8 { what, at: error.valid_up_to() })
}

fn check_port(bytes: &[u8], at: usize, what: &'static str) -> Result<(), RecordError> {
    let port = i32_at(bytes, at, what)?;
    if u16::try_from(port).is_ok() { Ok(()) } else { Err(RecordError::Port { what, port }) }
}

/// Address from a host field of either length; its port is known to fit.
fn host(field: &[u8]) -> SocketAddr {
    let (address, port) = field.split_at(field.len() - 4);
    let port = u16::from_be_bytes([port[2], port[3]]);
    let ip = match address.first_chunk::<16>() {
        Some(v6) => IpAddr::V6(Ipv6Addr::from(*v6)),
        None => IpAddr::V4(Ipv4Addr::new(address[0], address[1], address[2], address[3])),
    };
    SocketAddr::new(ip, port)
}

/// Records lying back to back. Ends at the end of the buffer or after the first error, which says where it is.
#[derive(Debug, Clone)]
pub struct RecordIter<'a> {
    buf: &'a [u8],
    at: usize,
}

impl<'a> RecordIter<'a> {
    pub fn new(buf: &'a [u8]) -> Self {
        Self { buf, at: 0 }
    }
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = Result<RecordView<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = &self.buf[self.at..];
        if rest.is_empty() {
            return None;
        }
        match RecordView::parse(rest) {
            Ok(record) => {
                self.at += record.total_size();
                Some(Ok(record))
            }
            Err(source) => {
                let at = self.at;
                self.at = self.buf.len();
                Some(Err(RecordError::At { at, source: Box::new(source) }))
            }
        }
    }
}

#[cfg(test)]
mod tests;
