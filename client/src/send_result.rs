//! What a send comes to: where the message was stored, and how safely.

use raftmq_remoting::body::MessageQueue;
use raftmq_remoting::codes::response;

/// How safely a message is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendStatus {
    /// As safely as the broker is set to.
    SendOk,
    /// Stored, but not flushed in time.
    FlushDiskTimeout,
    /// Stored, but not on another replica in time.
    FlushSlaveTimeout,
    /// Stored, but there is no other replica.
    SlaveNotAvailable,
}

impl SendStatus {
    /// What a code says; nothing if the message was refused.
    pub(crate) fn from_code(code: i32) -> Option<Self> {
        match code {
            response::SUCCESS => Some(Self::SendOk),
            response::FLUSH_DISK_TIMEOUT => Some(Self::FlushDiskTimeout),
            response::FLUSH_SLAVE_TIMEOUT => Some(Self::FlushSlaveTimeout),
            response::SLAVE_NOT_AVAILABLE => Some(Self::SlaveNotAvailable),
            _ => None,
        }
    }
}

/// Where a message was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendResult {
    /// How safely.
    pub status: SendStatus,
    /// The unique key this producer gave the message; for a batch one for each message, joined by commas.
    pub message_id: String,
    /// The broker's id of the message; for a batch one for each, joined by commas.
    pub offset_message_id: String,
    /// The queue.
    pub queue: MessageQueue,
    /// The message's place in the queue, counted in messages; for a batch the first one's.
    pub queue_offset: i64,
}
