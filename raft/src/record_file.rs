//! Small files beside the log: a record in bincode behind its CRC-32C.

use raftmq_store::{Store, StoreError};
use serde::{Deserialize, Serialize};

/// Reads a record back; `None` where there is no such file.
pub(crate) fn read<T: for<'de> Deserialize<'de>>(store: &Store, name: &str) -> Result<Option<T>, StoreError> {
    let Some(bytes) = store.read_file(name)? else { return Ok(None) };
    let damaged = |what: &str| StoreError::Illegal(format!("the file {name} is damaged: {what}"));
    let (checksum, content) = bytes.split_first_chunk::<4>().ok_or_else(|| damaged("too short"))?;
    if crc32c::crc32c(content) != u32::from_le_bytes(*checksum) {
        return Err(damaged("its checksum is another"));
    }
    decode(content).map(Some).map_err(|e| damaged(&e.to_string()))
}

/// Reads a record without its checksum. What it claims to hold is bounded by its length: bincode makes room for a text
/// before it looks for it.
pub(crate) fn decode<T: for<'de> Deserialize<'de>>(content: &[u8]) -> Result<T, bincode::error::DecodeError> {
    fn within<T: for<'de> Deserialize<'de>, const LIMIT: usize>(
        content: &[u8],
    ) -> Result<T, bincode::error::DecodeError> {
        let config = bincode::config::standard().with_limit::<LIMIT>();
        bincode::serde::decode_from_slice(content, config).map(|(record, _)| record)
    }
    const SMALL: usize = 1 << 20;
    const LARGE: usize = 1 << 26;
    // bincode counts 8 bytes for a number or a length that takes one.
    if content.len() <= SMALL {
        within::<T, { 8 * SMALL }>(content)
    } else if content.len() <= LARGE {
        within::<T, { 8 * LARGE }>(content)
    } else {
        within::<T, { 8 << 32 }>(content)
    }
}

/// Replaces a record, durably.
pub(crate) fn write<T: Serialize>(store: &Store, name: &str, record: &T) -> Result<(), StoreError> {
    let content = bincode::serde::encode_to_vec(record, bincode::config::standard())
        .map_err(|e| StoreError::Illegal(format!("{name}: {e}")))?;
    let checksum = crc32c::crc32c(&content).to_le_bytes();
    store.write_file(name, &[&checksum[..], &content].concat())
}
