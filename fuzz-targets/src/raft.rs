//! Commands of the replicated state.

use raftmq_raft::{Command, Metadata};

/// Reads bytes as the payload of a command frame, and applies it.
pub(crate) fn command(data: &[u8]) {
    let Ok(command) = Command::decode(data) else { return };
    // What was written at greater length than need be may be written shorter.
    let again = command.encode().expect("it was read within the limits");
    assert_eq!(Command::decode(&again).expect("it was written"), command);
    let metadata = Metadata::default();
    // A command that contradicts the state is an error.
    let _ = (metadata.apply(&command), metadata.apply(&command));
}
