//! The files of a broker.
//!
//! | module | what it is |
//! |---|---|
//! | [`CommitLog`] | every entry of the group as a frame, in segments of fixed length; `frame.rs` has the layout |
//! | `recovery` | opens a log that may have been left at any moment |
//! | `scrub` | checks in the background what a start does not read again |
//! | `damage` | what of the log is known to be as it was written, and what is not |
//! | `whole` | checks what is read before that is known |
//! | `frame_reader` | reads segments through, for these two |
//! | `flush` | one sync for many appends |
//! | `zero_ahead`, `ahead` | prepares the blocks ahead of the log's end |
//! | `room` | whether the disk has room for more |
//! | `truncation` | removes entries from the log's end |
//! | [`View`] | what is derived from the log, seen alike |
//! | [`Derived`] | the list of the views of one log |
//! | `reput` | follows the committed log and fills the views |
//! | `checkpoint` | up to where the views are complete; recovers them |
//! | [`ConsumeQueues`] | where the messages of each [queue](ConsumeQueue) are in the log; a view |
//! | [`IndexFiles`] | messages by key and time; a view |
//! | [`TimerIndex`] | messages with a time of their own, by that time; a view |
//! | [`OpenFiles`] | which files of the views are open, within a bound |
//! | `arrivals` | what a batch brought to which queues |
//! | `worker` | the handle of a step |
//! | [`TopicChanges`] | which commands drop topics, and what of them is kept |
//! | `dropped` | the queues of dropped topics, until a checkpoint counts them out |
//! | [`Store`] | all of it together |
//!
//! Work in the background is done in steps that the world's threads call (`raftmq_world::Step`): flush, reput,
//! checkpoints, zeros ahead, scrub. *Invariant*: nobody waits for a step to do something, but for its end, at a close.
//! What one wants of another it leaves there, and is called back or woken.
//!
//! *Invariant*: the store knows nothing of Raft's rules, of the network, of tokio, or of the time of day. It names no topic,
//! no property and no flag of a message: what views read from a record is given from above.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests reach for the system")
)]

mod ahead;
mod arrivals;
mod checkpoint;
mod commit_log;
mod consume_queue;
mod consume_queues;
mod damage;
mod derived;
mod directory;
mod dropped;
mod error;
mod flush;
mod frame;
mod frame_index;
mod frame_reader;
mod index_file;
mod index_files;
mod mapped_file_queue;
mod marks;
mod open_files;
mod queue_offsets;
mod recovery;
mod reput;
mod room;
mod scrub;
mod segment;
mod slots;
mod store;
mod timer_index;
mod topic_changes;
mod truncation;
mod view;
mod walk;
mod whole;
mod worker;
mod zero_ahead;

pub use arrivals::{Arrival, ArrivalListener};
pub use commit_log::{Appended, CommitLog, NewEntry};
pub use consume_queue::{Boundary, ConsumeQueue, DEFAULT_UNITS_PER_FILE, UNIT_SIZE, Unit};
pub use consume_queues::{ConsumeQueues, TOPIC_BYTES_MAX, TagsCode, check_topic};
pub use damage::Spot;
pub use derived::Derived;
pub use directory::Identity;
pub use error::StoreError;
pub use flush::{ASYNC_INTERVAL, FlushMode};
pub use frame::{
    FRAME_HEADER_BYTES, FRAME_PAYLOAD_BYTES_MAX, FrameError, FrameHeader, FrameKind, decode_frame,
};
pub use index_file::IndexShape;
pub use index_files::{IndexFiles, Keys};
pub use mapped_file_queue::{FileAt, MappedFileQueue};
pub use marks::EntryId;
pub use open_files::OpenFiles;
pub use queue_offsets::{Placed, QUEUE_ID_MAX};
pub use room::NoRoom;
pub use segment::LogSlice;
pub use slots::Slots;
pub use store::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, Store, StoreOptions};
pub use timer_index::{DueMs, TimerEntry, TimerIndex};
pub use topic_changes::{TopicChange, TopicChanges};
pub use view::{Committed, Numbers, PropertyNames, Reads, View};
pub use walk::{LogFrame, Walk};
pub use worker::Callback;
