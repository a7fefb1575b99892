//! Members of a group and stores, with the settings of tests.

use std::path::Path;
use std::sync::Arc;

use raftmq_raft::{FlushMode, GroupConfig, Member, Secret};
use raftmq_store::{
    ConsumeQueues, DEFAULT_UNITS_PER_FILE, Derived, Identity, OpenFiles, Reads, StoreOptions, TagsCode,
};
use raftmq_world::OsDisk;

use crate::address::free_address;

/// A member of a group of a cluster `C1`, in a directory of its own below `dir`, that elects soon, syncs what it
/// acknowledges, and derives no more than ConsumeQueues. All of `members` found the group.
///
/// # Panics
/// The member's address is none to listen at.
pub fn group_config(node_id: u64, members: &[Member], dir: &Path) -> GroupConfig {
    let dir = dir.join(node_id.to_string());
    let own = members.iter().find(|member| member.id == node_id);
    GroupConfig {
        cluster: "C1".into(),
        broker_name: "broker-a".into(),
        node_id,
        derived: queues_alone(&dir),
        dir,
        members: members.to_vec(),
        founds: true,
        secret: Some(Secret::new(b"the secret of tests").unwrap()),
        listen: own.map_or_else(free_address, |own| own.raft.parse().unwrap()),
        client: free_address(),
        admin: free_address(),
        flush: FlushMode::Sync,
        disk_reserve_bytes: 0,
        segment_bytes: 1 << 20,
        heartbeat_ms: 50,
        election_timeout_ms: (150, 300),
    }
}

/// A store of small segments.
pub fn store_options(dir: &Path, flush: raftmq_store::FlushMode) -> StoreOptions {
    let identity =
        Identity { cluster: "c".into(), broker_name: "b".into(), node_id: 1, segment_bytes: 64 * 1024 };
    StoreOptions { dir: dir.to_owned(), identity, flush, reserve_bytes: 0, is_alone: false }
}

/// ConsumeQueues, whose units say nothing of tags.
pub fn queues_alone(dir: &Path) -> Derived {
    let tags_code: Reads<TagsCode> = Reads { properties: &[], read: |_| 0 };
    let files = OpenFiles::new(Arc::new(OsDisk), 64);
    Derived::new(ConsumeQueues::new(files, dir, DEFAULT_UNITS_PER_FILE, tags_code))
}
