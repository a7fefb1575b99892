//! The message record of RocketMQ, the unit every other crate stores, ships and serves.
//!
//! | module | what it holds |
//! |---|---|
//! | [`record`] | layout of a stored record, checked views over bytes, patching of positions |
//! | [`builder`] | one-pass encoding of a record |
//! | [`properties`] | the `key 0x01 value 0x02` list inside a record |
//! | [`batch`] | the body of a batch send |
//! | [`id`] | offset message ids and unique keys |
//! | [`hash`] | Java's string hash: tags code and index keys |
//! | [`timer`] | when a message with a time of its own is due |
//! | [`topic`] | names: validation, retry and dead-letter topics, system topics |
//!
//! This crate knows nothing of networks, files or Raft.

pub mod batch;
pub mod builder;
pub mod hash;
pub mod id;
pub mod properties;
pub mod record;
pub mod timer;
pub mod topic;

pub use builder::{BuildError, RecordParts};
pub use record::{RecordError, RecordIter, RecordView};

/// CRC-32 (IEEE, as `java.util.zip.CRC32`) of a message body with the sign bit cleared, as records carry it.
pub fn body_crc(body: &[u8]) -> u32 {
    crc32fast::hash(body) & 0x7FFF_FFFF
}
