//! What all sends have in common: settings, the records that they become, why one is not stored.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use bytes::BytesMut;
use raftmq_message::id::UniqueKeys;
use raftmq_message::properties::{self, names};
use raftmq_message::{BuildError, RecordParts};
use raftmq_world::Clock;

use crate::error::Error;
use crate::surroundings::Surroundings;

/// The region that answers and records name; RocketMQ's default.
pub const REGION: &str = "DefaultRegion";
/// What all sends of a broker have in common.
pub struct SendSettings {
    pub(super) store_host: SocketAddr,
    /// Largest body, in bytes.
    pub(super) message_bytes: usize,
    /// Most record bytes of one request: they go into one entry.
    pub(super) entry_bytes: usize,
    /// Properties that every single message gets, as a 5.x broker adds them.
    pub(super) added: String,
    /// How many delay levels there are.
    pub(super) delay_levels: u32,
    /// The clock that delays are counted by.
    pub(super) clock: Arc<dyn Clock>,
    pub(super) unique_keys: UniqueKeys,
    /// Counts the messages that leave the choice of their queue to the broker.
    pub(super) next_queue: AtomicU32,
}

impl SendSettings {
    /// `entry_bytes` is what an entry of the log can hold at most.
    pub fn new(
        cluster: &str,
        store_host: SocketAddr,
        message_bytes: usize,
        entry_bytes: usize,
        delay_levels: u32,
        surroundings: &Surroundings,
    ) -> Self {
        let &Surroundings { process_id, salt, .. } = surroundings;
        Self {
            store_host,
            message_bytes,
            entry_bytes,
            added: properties::from_pairs([
                (names::MSG_REGION, REGION),
                (names::TRACE_ON, "true"),
                (names::CLUSTER, cluster),
            ]),
            delay_levels,
            clock: surroundings.clock.clone(),
            unique_keys: UniqueKeys::new(store_host.ip(), process_id, salt),
            next_queue: AtomicU32::new(salt),
        }
    }
}

/// Why a send is not stored.
#[derive(Debug, PartialEq, Eq)]
pub enum SendProblem {
    /// It is answered so.
    Refused(Error),
    /// The topic that it goes to does not exist, or the group that returns it; both may be made and the send tried again.
    Missing(Missing),
}

/// What a send needs.
#[derive(Debug, PartialEq, Eq)]
pub enum Missing {
    /// The topic it names.
    Named,
    /// A group, its retry topic, or both.
    Retry(String),
    /// The topic of a group's dead letters.
    DeadLetters(String),
}

impl From<Error> for SendProblem {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

/// Where sends are encoded to.
#[derive(Debug, Default)]
pub struct Records {
    /// Records back to back.
    pub bytes: BytesMut,
    /// The unique keys of single messages, one after the other.
    pub keys: String,
}

/// A place in [`Records`].
#[derive(Clone, Copy, Debug)]
pub struct RecordsEnd {
    /// In the records.
    pub bytes: usize,
    /// In the keys.
    pub keys: usize,
}

impl Records {
    /// Where they end.
    pub fn end(&self) -> RecordsEnd {
        RecordsEnd { bytes: self.bytes.len(), keys: self.keys.len() }
    }

    pub(super) fn truncate(&mut self, to: RecordsEnd) {
        self.bytes.truncate(to.bytes);
        self.keys.truncate(to.keys);
    }

    /// Takes off what lies behind a place.
    pub fn split_off(&mut self, at: RecordsEnd) -> Self {
        Self { bytes: self.bytes.split_off(at.bytes), keys: self.keys.split_off(at.keys) }
    }
}

/// What a send became.
#[derive(Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The queue that the answer names.
    pub queue_id: i32,
    /// How many.
    pub records: u32,
}

/// Checks that records fit into one entry of the log, `bytes` being what they need of it now or later.
pub(super) fn check_entry(settings: &SendSettings, bytes: usize) -> Result<(), Error> {
    if bytes > settings.entry_bytes {
        let detail = format!("its records need {bytes} bytes, the log takes {}", settings.entry_bytes);
        return Err(illegal_message(settings, detail));
    }
    Ok(())
}

/// The error that a message cannot be stored as it is.
pub(super) fn illegal_message(settings: &SendSettings, detail: impl Into<String>) -> Error {
    Error::MessageIllegal { body_max: settings.message_bytes, detail: detail.into() }
}

/// Appends a record; writes nothing where its parts fit none.
pub(super) fn append_record(
    settings: &SendSettings,
    parts: &RecordParts<'_>,
    out: &mut BytesMut,
) -> Result<(), Error> {
    match parts.encode_into(out) {
        Ok(_) => Ok(()),
        Err(error @ (BuildError::PropertiesTooLong { .. } | BuildError::RecordTooLong { .. })) => {
            Err(illegal_message(settings, error.to_string()))
        }
        Err(error @ BuildError::TopicTooLong { .. }) => Err(Error::TopicTooLong(error.to_string())),
    }
}
