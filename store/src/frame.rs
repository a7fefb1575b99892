//! Frames: what a segment of the CommitLog holds, back to back.
//!
//! A frame is a header of 64 bytes and a payload. All integers are little-endian.
//!
//! | at | size | field |
//! |---|---|---|
//! | 0 | 4 | magic `RMQF` |
//! | 4 | 1 | format version, 1 |
//! | 5 | 1 | kind: 1 messages, 2 command, 3 membership, 4 blank, 5 filler |
//! | 6 | 2 | zero |
//! | 8 | 4 | payload length in bytes |
//! | 12 | 4 | records in the payload; zero unless the kind is messages |
//! | 16 | 8 | term |
//! | 24 | 8 | index |
//! | 32 | 8 | physical offset of the frame's first byte |
//! | 40 | 8 | leader: the node that laid the frame out; zero for a founding entry |
//! | 48 | 4 | chain: the header checksum of the frame before it; the group's seed for the first |
//! | 52 | 4 | payload checksum |
//! | 56 | 4 | bytes of command in front of the records; zero unless the kind is messages |
//! | 60 | 4 | header checksum, over bytes 0 to 59 |
//!
//! The payload of messages may begin with a command that belongs to them: what they mean for the replicated state is then
//! one entry with them.
//!
//! Checksums are CRC-32C. The header checksum covers the payload's, and the next frame's header covers it in turn, so
//! two logs with the same last header checksum hold the same bytes. A filler ends a segment in which the next frame
//! has no room; its payload is whatever lies there and has checksum zero, its term and index are those of the entry
//! before it. Fewer than 64 bytes at a segment's end stay zero without a filler.

use std::fmt;

/// Length of a header in bytes.
pub const FRAME_HEADER_BYTES: usize = 64;

/// The largest payload of a frame in bytes. Above a message at its limit of 4 MiB with all its properties, and small
/// enough that a follower can hold a few on their way.
pub const FRAME_PAYLOAD_BYTES_MAX: usize = 8 << 20;

/// What a frame begins with.
pub(crate) const MAGIC: [u8; 4] = *b"RMQF";
const VERSION: u8 = 1;

const PAYLOAD_LEN_AT: usize = 8;
const RECORDS_AT: usize = 12;
const TERM_AT: usize = 16;
const INDEX_AT: usize = 24;
const PHYSICAL_OFFSET_AT: usize = 32;
const LEADER_AT: usize = 40;
const CHAIN_AT: usize = 48;
const PAYLOAD_CHECKSUM_AT: usize = 52;
const COMMAND_LEN_AT: usize = 56;
const HEADER_CHECKSUM_AT: usize = 60;

/// What a frame's payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// Message records back to back, behind a command where one belongs to them.
    Messages = 1,
    /// A change of the replicated state.
    Command = 2,
    /// The group's members.
    Membership = 3,
    /// Nothing; a new leader's first entry.
    Blank = 4,
    /// Room left at a segment's end. Not an entry.
    Filler = 5,
}

impl FrameKind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Messages,
            2 => Self::Command,
            3 => Self::Membership,
            4 => Self::Blank,
            5 => Self::Filler,
            _ => return None,
        })
    }
}

/// A decoded frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the payload is.
    pub kind: FrameKind,
    /// Its length in bytes.
    pub payload_len: u32,
    /// Message records in it.
    pub records: u32,
    /// Bytes of a command in front of the records.
    pub command_len: u32,
    /// Term of the entry.
    pub term: u64,
    /// Index of the entry.
    pub index: u64,
    /// Where in the log the frame starts.
    pub physical_offset: u64,
    /// The node that laid it out.
    pub leader: u64,
    /// Header checksum of the frame before it.
    pub chain: u32,
    /// Checksum of the payload.
    pub payload_checksum: u32,
}

/// Why bytes are not a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// Fewer bytes than a header has.
    Short(usize),
    /// Another magic or version.
    Magic([u8; 5]),
    /// The header's checksum is another.
    HeaderChecksum { stored: u32, computed: u32 },
    /// A kind that this build does not know.
    Kind(u8),
    /// A byte that must be zero is not.
    Reserved,
    /// A command where none can be, or one longer than the payload.
    CommandLen(u32),
    /// Fewer bytes than the header announces.
    Truncated { announced: usize, found: usize },
    /// The payload's checksum is another.
    PayloadChecksum { stored: u32, computed: u32 },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short(found) => {
                write!(f, "{found} bytes where a frame header of {FRAME_HEADER_BYTES} was expected")
            }
            Self::Magic(found) => write!(f, "no frame header: magic and version are {found:02x?}"),
            Self::HeaderChecksum { stored, computed } => {
                write!(f, "frame header checksum is {stored:08x}, its bytes give {computed:08x}")
            }
            Self::Kind(kind) => write!(f, "unknown frame kind {kind}"),
            Self::Reserved => write!(f, "frame header with bytes that must be zero and are not"),
            Self::CommandLen(len) => write!(f, "frame header with an impossible command of {len} bytes"),
            Self::Truncated { announced, found } => {
                write!(f, "a frame of {announced} bytes was announced, {found} are there")
            }
            Self::PayloadChecksum { stored, computed } => {
                write!(f, "payload checksum is {stored:08x}, its bytes give {computed:08x}")
            }
        }
    }
}

impl std::error::Error for FrameError {}

impl FrameHeader {
    /// The header as bytes, checksum included, and that checksum.
    pub fn encode(&self) -> ([u8; FRAME_HEADER_BYTES], u32) {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = VERSION;
        bytes[5] = self.kind as u8;
        bytes[PAYLOAD_LEN_AT..PAYLOAD_LEN_AT + 4].copy_from_slice(&self.payload_len.to_le_bytes());
        bytes[RECORDS_AT..RECORDS_AT + 4].copy_from_slice(&self.records.to_le_bytes());
        bytes[TERM_AT..TERM_AT + 8].copy_from_slice(&self.term.to_le_bytes());
        bytes[INDEX_AT..INDEX_AT + 8].copy_from_slice(&self.index.to_le_bytes());
        bytes[PHYSICAL_OFFSET_AT..PHYSICAL_OFFSET_AT + 8]
            .copy_from_slice(&self.physical_offset.to_le_bytes());
        bytes[LEADER_AT..LEADER_AT + 8].copy_from_slice(&self.leader.to_le_bytes());
        bytes[CHAIN_AT..CHAIN_AT + 4].copy_from_slice(&self.chain.to_le_bytes());
        bytes[PAYLOAD_CHECKSUM_AT..PAYLOAD_CHECKSUM_AT + 4]
            .copy_from_slice(&self.payload_checksum.to_le_bytes());
        bytes[COMMAND_LEN_AT..COMMAND_LEN_AT + 4].copy_from_slice(&self.command_len.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..HEADER_CHECKSUM_AT]);
        bytes[HEADER_CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        (bytes, checksum)
    }

    /// Reads the header that `bytes` start with; the second value is its checksum, the next frame's chain.
    pub fn decode(bytes: &[u8]) -> Result<(Self, u32), FrameError> {
        let header = bytes.first_chunk::<FRAME_HEADER_BYTES>().ok_or(FrameError::Short(bytes.len()))?;
        if header[..4] != MAGIC || header[4] != VERSION {
            return Err(FrameError::Magic([header[0], header[1], header[2], header[3], header[4]]));
        }
        let stored = u32_at(header, HEADER_CHECKSUM_AT);
        let computed = crc32c::crc32c(&header[..HEADER_CHECKSUM_AT]);
        if stored != computed {
            return Err(FrameError::HeaderChecksum { stored, computed });
        }
        let kind = FrameKind::from_byte(header[5]).ok_or(FrameError::Kind(header[5]))?;
        // With these fixed, a decoded header encodes to the same bytes and the same checksum again.
        if header[6..PAYLOAD_LEN_AT] != [0; 2] {
            return Err(FrameError::Reserved);
        }
        let (payload_len, command_len) = (u32_at(header, PAYLOAD_LEN_AT), u32_at(header, COMMAND_LEN_AT));
        if command_len > 0 && (kind != FrameKind::Messages || command_len > payload_len) {
            return Err(FrameError::CommandLen(command_len));
        }
        let decoded = Self {
            kind,
            payload_len,
            records: u32_at(header, RECORDS_AT),
            command_len,
            term: u64_at(header, TERM_AT),
            index: u64_at(header, INDEX_AT),
            physical_offset: u64_at(header, PHYSICAL_OFFSET_AT),
            leader: u64_at(header, LEADER_AT),
            chain: u32_at(header, CHAIN_AT),
            payload_checksum: u32_at(header, PAYLOAD_CHECKSUM_AT),
        };
        Ok((decoded, stored))
    }

    /// How far into the frame the records of messages begin.
    pub fn records_at(&self) -> usize {
        FRAME_HEADER_BYTES + self.command_len as usize
    }

    /// The command and the records in its payload, each empty where there is none.
    pub(crate) fn parts<'a>(&self, payload: &'a [u8]) -> (&'a [u8], &'a [u8]) {
        match self.kind {
            FrameKind::Messages => payload.split_at(self.command_len as usize),
            FrameKind::Command => (payload, &[]),
            _ => (&[], &[]),
        }
    }

    /// Length of header and payload in bytes.
    pub fn frame_len(&self) -> usize {
        FRAME_HEADER_BYTES + self.payload_len as usize
    }

    /// Physical offset of the byte behind the frame.
    pub fn end(&self) -> u64 {
        self.physical_offset + self.frame_len() as u64
    }
}

/// Reads the frame that `bytes` start with, and checks both checksums: header, its checksum, payload.
pub fn decode_frame(bytes: &[u8]) -> Result<(FrameHeader, u32, &[u8]), FrameError> {
    let (header, checksum) = FrameHeader::decode(bytes)?;
    let payload = bytes
        .get(FRAME_HEADER_BYTES..header.frame_len())
        .ok_or(FrameError::Truncated { announced: header.frame_len(), found: bytes.len() })?;
    if header.kind != FrameKind::Filler {
        let computed = crc32c::crc32c(payload);
        if computed != header.payload_checksum {
            return Err(FrameError::PayloadChecksum { stored: header.payload_checksum, computed });
        }
    }
    Ok((header, checksum, payload))
}

fn u32_at(header: &[u8; FRAME_HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

fn u64_at(header: &[u8; FRAME_HEADER_BYTES], at: usize) -> u64 {
    u64::from(u32_at(header, at)) | u64::from(u32_at(header, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(payload: &[u8]) -> Vec<u8> {
        let header = FrameHeader {
            kind: FrameKind::Command,
            payload_len: payload.len() as u32,
            records: 0,
            command_len: 0,
            term: 7,
            index: 42,
            physical_offset: 4096,
            leader: 2,
            chain: 0xdead_beef,
            payload_checksum: crc32c::crc32c(payload),
        };
        let (bytes, _) = header.encode();
        [&bytes[..], payload].concat()
    }

    #[test]
    fn a_frame_reads_back_as_written() {
        let bytes = frame(b"payload");
        let (header, checksum, payload) = decode_frame(&bytes).unwrap();
        assert_eq!(payload, b"payload");
        assert_eq!(header.encode().1, checksum);
        assert_eq!((header.term, header.index, header.physical_offset, header.leader), (7, 42, 4096, 2));
        assert_eq!(header.end(), 4096 + 64 + 7);
    }

    #[test]
    fn every_changed_byte_and_every_prefix_is_noticed() {
        let bytes = frame(b"payload");
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            assert!(decode_frame(&changed).is_err(), "byte {at} was changed");
            assert!(decode_frame(&bytes[..at]).is_err(), "prefix of {at} bytes");
        }
    }

    #[test]
    fn bytes_that_must_be_zero_are_checked() {
        for at in [6, 7] {
            let mut bytes = frame(b"");
            bytes[at] = 1;
            let checksum = crc32c::crc32c(&bytes[..HEADER_CHECKSUM_AT]);
            bytes[HEADER_CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
            assert_eq!(decode_frame(&bytes), Err(FrameError::Reserved));
        }
    }

    #[test]
    fn a_command_has_to_fit_and_to_belong_to_messages() {
        let with = |kind, command_len| {
            let (header, _) = FrameHeader::decode(&frame(b"payload")).unwrap();
            let (bytes, _) = FrameHeader { kind, command_len, ..header }.encode();
            FrameHeader::decode(&bytes).map(|(header, _)| header.records_at())
        };
        assert_eq!(with(FrameKind::Messages, 7), Ok(64 + 7));
        assert_eq!(with(FrameKind::Messages, 8), Err(FrameError::CommandLen(8)));
        assert_eq!(with(FrameKind::Command, 1), Err(FrameError::CommandLen(1)));
    }

    proptest! {
        #[test]
        fn random_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decode_frame(&bytes).is_err());
        }
    }
}
