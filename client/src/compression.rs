//! Bodies that producers have compressed.
//!
//! Java's producers compress bodies of 4 KiB and more; brokers keep them as they are and say so in the message's flags.

use std::io::{self, Read};

use bytes::Bytes;
use raftmq_message::record::sys_flag;

/// What a body may grow to. A broker takes 4 MiB by default, and text shrinks to a tenth.
const DECOMPRESSED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Why a body stays compressed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompressionError {
    #[error("compressed in the unknown way {0:#x}")]
    Unknown(i32),
    #[error("longer than {DECOMPRESSED_BYTES_MAX} bytes when it is decompressed")]
    TooLong,
    #[error("broken: {0}")]
    Broken(#[from] io::Error),
}

/// The body as its producer was given it. `flags` are the message's, see [`sys_flag`].
pub(crate) fn decompress(flags: i32, body: &[u8]) -> Result<Bytes, CompressionError> {
    let mut out = Vec::new();
    match flags & sys_flag::COMPRESSION_MASK {
        0 | sys_flag::COMPRESSION_ZLIB => read_bounded(flate2::read::ZlibDecoder::new(body), &mut out)?,
        sys_flag::COMPRESSION_LZ4 => read_bounded(lz4_flex::frame::FrameDecoder::new(body), &mut out)?,
        sys_flag::COMPRESSION_ZSTD => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(body).map_err(io::Error::other)?;
            read_bounded(decoder, &mut out)?;
        }
        unknown => return Err(CompressionError::Unknown(unknown)),
    }
    Ok(out.into())
}

fn read_bounded(decoder: impl Read, out: &mut Vec<u8>) -> Result<(), CompressionError> {
    let read = decoder.take(DECOMPRESSED_BYTES_MAX as u64 + 1).read_to_end(out)?;
    if read > DECOMPRESSED_BYTES_MAX { Err(CompressionError::TooLong) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn zlib(body: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn each_way_gives_back_what_was_compressed() {
        let body = b"to be or not to be ".repeat(300);
        let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
        lz4.write_all(&body).unwrap();
        let lz4 = lz4.finish().unwrap();
        let zstd =
            ruzstd::encoding::compress_to_vec(body.as_slice(), ruzstd::encoding::CompressionLevel::Fastest);
        for (flag, compressed) in [(0x000, zlib(&body)), (0x300, zlib(&body)), (0x100, lz4), (0x200, zstd)] {
            assert!(compressed.len() < body.len());
            assert_eq!(decompress(flag | sys_flag::COMPRESSED, &compressed).unwrap(), body, "{flag:#x}");
            assert!(decompress(flag, &compressed[..compressed.len() / 2]).is_err(), "{flag:#x}");
            assert!(decompress(flag, b"what is this").is_err(), "{flag:#x}");
        }
        assert!(matches!(decompress(0x400, b""), Err(CompressionError::Unknown(0x400))));
    }

    #[test]
    fn a_body_that_grows_without_end_is_refused() {
        let bomb = zlib(&vec![0; DECOMPRESSED_BYTES_MAX + 1]);
        assert!(bomb.len() < 1024 * 1024);
        assert!(matches!(decompress(sys_flag::COMPRESSED, &bomb), Err(CompressionError::TooLong)));
    }
}
