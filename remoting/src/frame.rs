//! Frames: cutting a stream of bytes into header and body without copying either.
//!
//! `length u32` (of what follows), then one byte of serialization and 24 bits of header length, header, body.

use bytes::{Bytes, BytesMut};

/// Largest frame RocketMQ's own peers accept, its length prefix included.
pub const FRAME_LEN_MAX: usize = 16 * 1024 * 1024;
/// Bytes before the header: both length words.
pub const PREFIX_LEN: usize = 8;
/// Largest header accepted. The largest real one answers a batch of the smallest messages: 4 MiB of 22 bytes each,
/// with an id of 33 characters for every one.
pub const HEADER_LEN_MAX: usize = 8 * 1024 * 1024;

/// How a header is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Serialization {
    #[default]
    Json = 0,
    /// The binary form named ROCKETMQ.
    RocketMq = 1,
}

/// A frame cut from a stream, its header not looked into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawFrame {
    pub serialization: Serialization,
    pub header: Bytes,
    pub body: Bytes,
}

/// Why bytes are no frame. The connection they came from cannot be read any further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("frame of {len} bytes is longer than {max}")]
    TooLong { len: usize, max: usize },
    #[error("frame length {len} leaves no room for the header length")]
    TooShort { len: usize },
    #[error("header of {header} bytes is longer than the frame, which has {room} left")]
    HeaderBeyondFrame { header: usize, room: usize },
    #[error("header of {header} bytes is longer than {HEADER_LEN_MAX}")]
    HeaderTooLong { header: usize },
    #[error("unknown header serialization {found}")]
    Serialization { found: u8 },
}

/// Takes the first frame off `buf`, or `None` while it is incomplete; whatever follows stays in `buf`.
///
/// Lengths are checked as soon as their bytes are there, so a hostile length never makes the caller buffer for it.
/// `max_frame` counts the length prefix, as [`FRAME_LEN_MAX`] does.
pub fn decode(buf: &mut BytesMut, max_frame: usize) -> Result<Option<RawFrame>, FrameError> {
    let Some((len, rest)) = buf.split_first_chunk::<4>() else { return Ok(None) };
    // Saturating, as a 32-bit usize could overflow on the sum below; it is then too long anyway.
    let len = usize::try_from(u32::from_be_bytes(*len)).unwrap_or(usize::MAX);
    if len.saturating_add(4) > max_frame {
        return Err(FrameError::TooLong { len: len.saturating_add(4), max: max_frame });
    }
    if len < 4 {
        return Err(FrameError::TooShort { len });
    }
    let Some(word) = rest.first_chunk::<4>() else { return Ok(None) };
    let serialization = match word[0] {
        0 => Serialization::Json,
        1 => Serialization::RocketMq,
        found => return Err(FrameError::Serialization { found }),
    };
    let header = (u32::from_be_bytes(*word) & 0x00FF_FFFF) as usize;
    if header > len - 4 {
        return Err(FrameError::HeaderBeyondFrame { header, room: len - 4 });
    }
    if header > HEADER_LEN_MAX {
        return Err(FrameError::HeaderTooLong { header });
    }
    if buf.len() < 4 + len {
        return Ok(None);
    }
    let mut frame = buf.split_to(4 + len).freeze();
    let body = frame.split_off(PREFIX_LEN + header);
    let header = frame.split_off(PREFIX_LEN);
    Ok(Some(RawFrame { serialization, header, body }))
}

/// Bytes still missing for the frame `buf` starts with, where its length is known; a hint for reserving.
pub fn missing(buf: &[u8]) -> Option<usize> {
    let len = u32::from_be_bytes(*buf.first_chunk::<4>()?) as usize;
    Some(len.saturating_add(4).saturating_sub(buf.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u8, header: &[u8], body: &[u8]) -> Vec<u8> {
        let mut out = ((4 + header.len() + body.len()) as u32).to_be_bytes().to_vec();
        out.extend((header.len() as u32 | u32::from(kind) << 24).to_be_bytes());
        out.extend(header);
        out.extend(body);
        out
    }

    fn refused(bytes: &[u8], max: usize) -> FrameError {
        decode(&mut BytesMut::from(bytes), max).unwrap_err()
    }

    #[test]
    fn lies_are_named() {
        assert_eq!(
            refused(&[0xFF; 4], FRAME_LEN_MAX),
            FrameError::TooLong { len: 0x1_0000_0003, max: FRAME_LEN_MAX }
        );
        assert_eq!(refused(&[0, 0, 0, 3], FRAME_LEN_MAX), FrameError::TooShort { len: 3 });
        assert_eq!(refused(&[0, 0, 0, 8, 2, 0, 0, 0], FRAME_LEN_MAX), FrameError::Serialization { found: 2 });
        assert_eq!(
            refused(&[0, 0, 0, 8, 0, 0, 0, 5], FRAME_LEN_MAX),
            FrameError::HeaderBeyondFrame { header: 5, room: 4 }
        );
        let header = HEADER_LEN_MAX + 1;
        let mut long = ((header + 4) as u32).to_be_bytes().to_vec();
        long.extend((header as u32).to_be_bytes());
        assert_eq!(refused(&long, FRAME_LEN_MAX), FrameError::HeaderTooLong { header });
    }

    #[test]
    fn the_limit_counts_the_prefix() {
        let bytes = frame(0, b"ab", b"cd");
        assert!(decode(&mut BytesMut::from(&bytes[..]), bytes.len()).unwrap().is_some());
        let error = FrameError::TooLong { len: bytes.len(), max: bytes.len() - 1 };
        assert_eq!(refused(&bytes, bytes.len() - 1), error);
        assert_eq!(missing(&bytes[..5]), Some(bytes.len() - 5));
    }

    proptest! {
        #[test]
        fn many_frames_in_one_buffer(parts in proptest::collection::vec((0_u8..2, proptest::collection::vec(any::<u8>(), 0..9), proptest::collection::vec(any::<u8>(), 0..9)), 1..5)) {
            let bytes: Vec<u8> = parts.iter().flat_map(|(kind, header, body)| frame(*kind, header, body)).collect();
            // Byte by byte, as a slow sender would.
            let (mut buf, mut read) = (BytesMut::new(), Vec::new());
            for byte in bytes {
                buf.extend_from_slice(&[byte]);
                while let Some(frame) = decode(&mut buf, FRAME_LEN_MAX).unwrap() {
                    read.push((frame.serialization as u8, frame.header.to_vec(), frame.body.to_vec()));
                }
            }
            prop_assert_eq!(read, parts);
            prop_assert!(buf.is_empty());
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut buf = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = decode(&mut buf, 64) {}
        }
    }
}
