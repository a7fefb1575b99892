//! What fuzzers call: a function for every decoder that reads a network or a disk.
//!
//! | module | what it feeds |
//! |---|---|
//! | `remoting` | frames, headers of both serializations and the types that they are read as, JSON bodies, what the name server and the client make of them |
//! | `message` | records, batches, properties, message ids, filter expressions |
//! | `raft` | what members say to each other, commands, the state's checkpoint |
//! | `store` | frames of the log, and a whole data directory, on a disk in memory |
//!
//! A target takes any bytes and returns. A panic, a hang, or memory beyond all proportion to the bytes is a fault of what
//! it calls. `fuzz/` runs them with libFuzzer; `cargo test -p raftmq-fuzz-targets` calls each with the inputs that are kept
//! in `fuzz/corpus/`, among them everything that was found once.

mod disk;
mod input;
mod message;
mod raft;
mod remoting;
mod store;

/// A target: takes any bytes, and returns.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also that of its folder in `fuzz/corpus/`.
pub const TARGETS: &[(&str, Target)] = &[
    ("frames", remoting::frames),
    ("json_header", remoting::json_header),
    ("binary_header", remoting::binary_header),
    ("bodies", remoting::bodies),
    ("name_server", remoting::name_server),
    ("pull_answer", remoting::pull_answer),
    ("route", raftmq_client::fuzzing::route),
    ("compressed_body", remoting::compressed_body),
    ("record", message::record),
    ("batch", message::batch),
    ("properties", message::properties),
    ("message_id", message::message_id),
    ("expression", message::expression),
    ("raft_wire", raftmq_raft::fuzzing::wire),
    ("raft_command", raft::change),
    ("raft_state", raft::state_image),
    ("raft_membership", raftmq_raft::fuzzing::membership),
    ("log_frame", store::log_frame),
    ("directory", store::directory),
];

/// Calls the target of this name.
///
/// # Panics
/// There is none; or the target does.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    let (_, target) = target.unwrap_or_else(|| panic!("there is no target {name}"));
    target(data);
}
