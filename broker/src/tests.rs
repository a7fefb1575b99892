//! What tests share: a group of one member, records.

use std::path::Path;
use std::sync::Arc;

use raftmq_message::RecordParts;
use raftmq_raft::{FlushMode, Group, GroupConfig, Member};
use raftmq_testkit::{free_address, group_config};
use raftmq_world::World;

use crate::replica::Replica;
use crate::state::State;

/// The only member of a group, which leads, and whose acknowledgements do not wait for its disk.
pub(crate) async fn member(dir: &Path) -> Arc<Replica> {
    let members = [Member { id: 1, raft: free_address().to_string() }];
    let config = GroupConfig { flush: FlushMode::Async, ..group_config(1, &members, dir) };
    let state = State::default();
    let group = Group::start(config, state.tables(), World::system()).await.unwrap();
    group.watch_role().wait_for(|role| role.ready).await.unwrap();
    Arc::new(Replica::new(group, state))
}

/// An encoded record of which only the properties matter.
pub(crate) fn record_with(properties: &str) -> Vec<u8> {
    let parts = RecordParts {
        topic: "t",
        queue_id: 0,
        flag: 0,
        sys_flag: 0,
        born_timestamp_ms: 1,
        born_host: ([127, 0, 0, 1], 1).into(),
        store_host: ([127, 0, 0, 1], 2).into(),
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body: b"",
        properties: &[properties],
    };
    let mut record = Vec::new();
    parts.encode_into(&mut record).unwrap();
    record
}
