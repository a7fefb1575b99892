//! The replicated state: changes in the log, checkpoints.

use raftmq_broker::state::State;

/// Reads bytes as the payload of a command frame, and carries it out.
pub(crate) fn change(data: &[u8]) {
    let tables = State::default().tables();
    // A change that contradicts the state is an error.
    let _ = (tables.apply(data, true), tables.apply(data, true));
    let images = tables.freeze()().expect("every state has images");
    let again = State::default().tables();
    again.restore(&images).expect("they are of a state");
    assert_eq!(again.freeze()().expect("every state has images"), images);
}

/// Reads bytes as the content of the checkpoint file, and looks at the state in it.
pub(crate) fn state_image(data: &[u8]) {
    let state = State::default();
    if !raftmq_raft::fuzzing::state_image(data, &state.tables()) {
        return;
    }
    for topic in state.topics.all() {
        assert!(state.topics.has(&topic.name));
        state.offsets.groups_of(&topic.name);
    }
    for group in state.groups.all() {
        state.offsets.of_group(&group.name);
        state.locks.has(&group.name, state.locks.clock_ms());
    }
}
