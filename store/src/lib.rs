//! The files of a broker.
//!
//! | module | what it is |
//! |---|---|
//! | [`CommitLog`] | every entry of the group as a frame, in segments of fixed length; `frame.rs` has the layout |
//! | `recovery` | opens a log that may have been left at any moment |
//! | `scrub` | checks in the background what a start does not read again |
//! | `flush` | one sync for many appends |
//! | `zero_ahead` | prepares the blocks ahead of the log's end |
//! | `checkpoint` | up to where what is derived is complete; recovers it |
//! | `reput` | follows the committed log and fills what is derived from it |
//! | [`ConsumeQueue`] | a queue of a topic: where its messages are in the log |
//! | [`IndexFiles`] | messages by key and time |
//! | `timer_index` | messages with a time of their own, by that time |
//! | `worker` | the handle of a step |
//! | [`Store`] | all of it together |
//!
//! Work in the background is done in steps that the world's threads call (`raftmq_world::Step`): flush, reput,
//! checkpoints, zeros ahead, scrub. *Invariant*: nobody waits for a step to do something, but for its end, at a close.
//! What one wants of another it leaves there, and is called back or woken.
//!
//! *Invariant*: the store knows nothing of Raft's rules, of the network, of tokio, or of the time of day.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests reach for the system")
)]

mod checkpoint;
mod commit_log;
mod consume_queue;
mod consume_queues;
mod directory;
mod error;
mod flush;
mod frame;
mod frame_index;
mod index_file;
mod index_files;
mod mapped_file_queue;
mod marks;
mod queue_offsets;
mod recovery;
mod reput;
mod scrub;
mod segment;
mod store;
mod timer_index;
mod walk;
mod worker;
mod zero_ahead;

pub use commit_log::{Appended, CommitLog, FRAME_PAYLOAD_BYTES_MAX, NewEntry};
pub use consume_queue::{Boundary, ConsumeQueue, DEFAULT_UNITS_PER_FILE, UNIT_SIZE, Unit};
pub use consume_queues::{ConsumeQueues, TOPIC_BYTES_MAX, check_topic};
pub use directory::Identity;
pub use error::StoreError;
pub use flush::{ASYNC_INTERVAL, Callback, FlushMode};
pub use frame::{FRAME_HEADER_BYTES, FrameError, FrameHeader, FrameKind, decode_frame};
pub use index_file::IndexShape;
pub use index_files::IndexFiles;
pub use mapped_file_queue::{FileAt, MappedFileQueue};
pub use marks::EntryId;
pub use queue_offsets::{Placed, QUEUE_ID_MAX};
pub use reput::{Arrival, ArrivalListener};
pub use segment::LogSlice;
pub use store::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, Store, StoreOptions};
pub use timer_index::TimerEntry;
pub use walk::{LogFrame, Walk};
