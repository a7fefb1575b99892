//! Settings by name, with a count of their changes: what topics and subscription groups have in common.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use raftmq_raft::{FIRST_LEVEL, FeatureLevel, Table};
use raftmq_store::StoreError;
use raftmq_world::hash::HashMap;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Something that is known by its name.
pub trait Named: Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The number of their table.
    const TABLE: u8;
    /// What they are called together.
    const KIND: &'static str;

    /// Its name.
    fn name(&self) -> &str;
}

/// A change of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamedCommand<T> {
    /// Creates one or replaces it.
    Put(T),
    /// Creates one where there is none of that name, and fewer than `max` in all.
    Add {
        /// It.
        value: T,
        /// How many there may be.
        max: u32,
    },
    /// Removes one.
    Delete {
        /// Its name.
        name: String,
    },
}

/// What adding has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It is there, now or since before.
    Done,
    /// There are as many as there may be.
    Full,
}

/// All of a kind by their names.
#[derive(Debug)]
pub struct NamedTable<T> {
    by_name: RwLock<HashMap<String, Arc<T>>>,
    /// Counts changes.
    version: AtomicU64,
    version_changed: watch::Sender<u64>,
}

impl<T> Default for NamedTable<T> {
    fn default() -> Self {
        Self {
            by_name: RwLock::default(),
            version: AtomicU64::new(0),
            version_changed: watch::Sender::new(0),
        }
    }
}

impl<T: Named> NamedTable<T> {
    /// One.
    pub fn get(&self, name: &str) -> Option<Arc<T>> {
        self.by_name.read().get(name).cloned()
    }

    /// Whether there is one of that name.
    pub fn has(&self, name: &str) -> bool {
        self.by_name.read().contains_key(name)
    }

    /// Every one, sorted by name.
    pub fn all(&self) -> Vec<Arc<T>> {
        let mut all: Vec<_> = self.by_name.read().values().cloned().collect();
        all.sort_by(|a, b| a.name().cmp(b.name()));
        all
    }

    /// How often they have changed.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Tells of every change; the value is the version.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.version_changed.subscribe()
    }

    fn put(&self, value: T) {
        self.by_name.write().insert(value.name().to_owned(), Arc::new(value));
        self.changed();
    }

    fn add(&self, value: T, max: u32) -> Added {
        let mut by_name = self.by_name.write();
        if by_name.contains_key(value.name()) {
            return Added::Done;
        }
        if by_name.len() >= max as usize {
            return Added::Full;
        }
        by_name.insert(value.name().to_owned(), Arc::new(value));
        drop(by_name);
        self.changed();
        Added::Done
    }

    pub(super) fn remove(&self, name: &str) {
        self.by_name.write().remove(name);
        self.changed();
    }

    fn changed(&self) {
        let version = self.version.fetch_add(1, Ordering::AcqRel) + 1;
        self.version_changed.send_replace(version);
    }
}

impl<T: Named> Table for NamedTable<T> {
    const ID: u8 = T::TABLE;
    const NAME: &'static str = T::KIND;
    const IMAGE_VERSION: u8 = 1;
    type Command = NamedCommand<T>;
    type Outcome = Added;
    /// Sorted by name, and the version.
    type Image = (Vec<T>, u64);

    fn level(_: &NamedCommand<T>) -> FeatureLevel {
        FIRST_LEVEL
    }

    fn apply(&self, command: NamedCommand<T>) -> Result<Added, StoreError> {
        match command {
            NamedCommand::Put(value) => self.put(value),
            NamedCommand::Add { value, max } => return Ok(self.add(value, max)),
            NamedCommand::Delete { name } => self.remove(&name),
        }
        Ok(Added::Done)
    }

    fn freeze(&self) -> impl FnOnce() -> Self::Image + Send + Sync + 'static {
        let (all, version) = (self.all(), self.version());
        move || (all.iter().map(|value| (**value).clone()).collect(), version)
    }

    fn restore(&self, (all, version): Self::Image) -> Result<(), StoreError> {
        *self.by_name.write() =
            all.into_iter().map(|value| (value.name().to_owned(), Arc::new(value))).collect();
        self.version.store(version, Ordering::Release);
        self.version_changed.send_replace(version);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Numbered = (String, u32);

    impl Named for Numbered {
        const TABLE: u8 = 9;
        const KIND: &'static str = "numbered";

        fn name(&self) -> &str {
            &self.0
        }
    }

    fn numbered(name: &str, number: u32) -> Numbered {
        (name.to_owned(), number)
    }

    #[test]
    fn what_is_added_replaces_nothing_and_stays_within_the_limit() {
        let table = NamedTable::<Numbered>::default();
        let changed = table.subscribe();
        assert_eq!(
            (table.add(numbered("a", 1), 2), table.add(numbered("b", 2), 2)),
            (Added::Done, Added::Done)
        );
        assert_eq!(
            (table.add(numbered("c", 3), 2), table.add(numbered("a", 9), 2)),
            (Added::Full, Added::Done)
        );
        assert_eq!(
            (&*table.get("a").unwrap(), table.all().len(), table.version()),
            (&numbered("a", 1), 2, 2)
        );
        assert_eq!(*changed.borrow(), 2);
        let restored = NamedTable::default();
        restored.restore(table.freeze()()).unwrap();
        table.remove("a");
        assert_eq!(
            (restored.has("a"), restored.version(), table.has("a"), table.version()),
            (true, 2, false, 3)
        );
    }
}
