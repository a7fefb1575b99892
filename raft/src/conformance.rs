//! openraft's own storage suite, over the real CommitLog.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use raftmq_store::{FlushMode, Store, StoreError};
use raftmq_testkit::{queues_alone, store_options};
use raftmq_world::World;
use tempfile::TempDir;

use crate::group_id::GroupId;
use crate::lease::Leases;
use crate::log_storage::LogStorage;
use crate::standing::Standing;
use crate::state_machine::{Shared, StateMachine};
use crate::table::Tables;
use crate::types::TypeConfig;

/// Closes the store before its directory goes.
struct Guard {
    store: Arc<Store>,
    _dir: TempDir,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.store.close().expect("a clean close");
    }
}

struct Builder;

impl Builder {
    fn open() -> Result<(Guard, LogStorage, StateMachine), StoreError> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let world = World::system();
        let store =
            Store::open(store_options(dir.path(), FlushMode::Sync), queues_alone(dir.path()), &world)?;
        let standing = Arc::new(Standing::open(store.clone(), 1, &world.random)?);
        standing.enter(GroupId::draw(&world.random), None)?;
        let log = LogStorage::open(store.clone(), standing.clone(), Leases::of_a_test(&world), &world)?;
        let state = Shared::open(store.clone(), standing, Tables::new(1), &world).expect("a new state");
        Ok((Guard { store, _dir: dir }, log, StateMachine::new(Arc::new(state))))
    }
}

impl StoreBuilder<TypeConfig, LogStorage, StateMachine, Guard> for Builder {
    async fn build(&self) -> Result<(Guard, LogStorage, StateMachine), StorageError<TypeConfig>> {
        Self::open().map_err(|e| {
            StorageError::from_io_error(openraft::ErrorSubject::Store, openraft::ErrorVerb::Read, e.into())
        })
    }
}

#[test]
fn openraft_storage_suite() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(Suite::test_all(Builder)).unwrap();
}
