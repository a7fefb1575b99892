//! What tests share: a group of one member.

use std::path::Path;
use std::sync::Arc;

use raftmq_raft::{FlushMode, Group, GroupConfig, Member};
use raftmq_testkit::{free_address, group_config};
use raftmq_world::World;

use crate::replica::Replica;
use crate::state::State;

/// The only member of a group, which leads, and whose acknowledgements do not wait for its disk.
pub(crate) async fn member(dir: &Path) -> Arc<Replica> {
    let members = [Member { id: 1, raft: free_address() }];
    let config = GroupConfig { flush: FlushMode::Async, ..group_config(1, &members, dir) };
    let state = State::default();
    let group = Group::start(config, state.tables(), World::system()).await.unwrap();
    group.watch_role().wait_for(|role| role.ready).await.unwrap();
    Arc::new(Replica::new(group, state))
}
