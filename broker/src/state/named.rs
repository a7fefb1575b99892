//! Settings by name, with a count of their changes: what topics and subscription groups have in common.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{RwLock, RwLockWriteGuard};
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

/// What has changed between two versions.
#[derive(Debug)]
pub struct Changes<T> {
    /// The later version.
    pub version: u64,
    /// What is new or has changed, as it is by now.
    pub put: Vec<Arc<T>>,
    /// The names of what is gone.
    pub deleted: Vec<String>,
}

/// Changes of which it is known what they were about. Whoever follows the changes reads them a few at a time.
const CHANGES_KNOWN: usize = 1024;

/// All of a kind by their names.
#[derive(Debug)]
pub struct NamedTable<T> {
    kept: RwLock<Kept<T>>,
    /// Counts changes.
    version: AtomicU64,
    version_changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct Kept<T> {
    by_name: HashMap<String, Arc<T>>,
    /// Names that the last changes were about, the newest last, one for each step of the version.
    changed: VecDeque<String>,
}

impl<T> Default for NamedTable<T> {
    fn default() -> Self {
        Self {
            kept: RwLock::new(Kept { by_name: HashMap::default(), changed: VecDeque::new() }),
            version: AtomicU64::new(0),
            version_changed: watch::Sender::new(0),
        }
    }
}

impl<T: Named> NamedTable<T> {
    /// One.
    pub fn get(&self, name: &str) -> Option<Arc<T>> {
        self.kept.read().by_name.get(name).cloned()
    }

    /// Whether there is one of that name.
    pub fn has(&self, name: &str) -> bool {
        self.kept.read().by_name.contains_key(name)
    }

    /// Every one, sorted by name.
    pub fn all(&self) -> Vec<Arc<T>> {
        let mut all: Vec<_> = self.kept.read().by_name.values().cloned().collect();
        all.sort_by(|a, b| a.name().cmp(b.name()));
        all
    }

    /// How often they have changed.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// What has changed since a version. `None` where that is too long ago, or unknown.
    pub fn changed_since(&self, version: u64) -> Option<Changes<T>> {
        let kept = self.kept.read();
        // It moves with what is kept only.
        let now = self.version();
        let count = usize::try_from(now.checked_sub(version)?).ok()?;
        let first = kept.changed.len().checked_sub(count)?;
        let names: BTreeSet<_> = kept.changed.range(first..).collect();
        let mut changes = Changes { version: now, put: Vec::new(), deleted: Vec::new() };
        for name in names {
            match kept.by_name.get(name) {
                Some(value) => changes.put.push(value.clone()),
                None => changes.deleted.push(name.clone()),
            }
        }
        Some(changes)
    }

    /// Tells of every change; the value is the version.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.version_changed.subscribe()
    }

    fn put(&self, value: T) {
        let mut kept = self.kept.write();
        let name = value.name().to_owned();
        kept.by_name.insert(name.clone(), Arc::new(value));
        self.changed(kept, name);
    }

    fn add(&self, value: T, max: u32) -> Added {
        let mut kept = self.kept.write();
        if kept.by_name.contains_key(value.name()) {
            return Added::Done;
        }
        if kept.by_name.len() >= max as usize {
            return Added::Full;
        }
        let name = value.name().to_owned();
        kept.by_name.insert(name.clone(), Arc::new(value));
        self.changed(kept, name);
        Added::Done
    }

    pub(super) fn remove(&self, name: &str) {
        let mut kept = self.kept.write();
        kept.by_name.remove(name);
        self.changed(kept, name.to_owned());
    }

    /// Counts a change and tells of it.
    fn changed(&self, mut kept: RwLockWriteGuard<'_, Kept<T>>, name: String) {
        if kept.changed.len() == CHANGES_KNOWN {
            kept.changed.pop_front();
        }
        kept.changed.push_back(name);
        let version = self.version.fetch_add(1, Ordering::AcqRel) + 1;
        drop(kept);
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
        let mut kept = self.kept.write();
        kept.by_name = all.into_iter().map(|value| (value.name().to_owned(), Arc::new(value))).collect();
        kept.changed.clear();
        self.version.store(version, Ordering::Release);
        drop(kept);
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

    #[test]
    fn what_has_changed_since_a_version_is_told_once_each_as_it_is_now() {
        let table = NamedTable::<Numbered>::default();
        let changes = |since: u64| {
            table.changed_since(since).map(|changes| {
                let put: Vec<_> = changes.put.iter().map(|value| (**value).clone()).collect();
                (changes.version, put, changes.deleted)
            })
        };
        assert_eq!(changes(0), Some((0, vec![], vec![])));
        assert_eq!(changes(1), None, "not yet");
        table.put(numbered("b", 1));
        table.put(numbered("a", 1));
        table.put(numbered("b", 2));
        table.put(numbered("c", 1));
        table.remove("a");
        let gone = vec!["a".to_owned()];
        assert_eq!(changes(0), Some((5, vec![numbered("b", 2), numbered("c", 1)], gone.clone())));
        assert_eq!(changes(3), Some((5, vec![numbered("c", 1)], gone)));
        assert_eq!(changes(5), Some((5, vec![], vec![])));
        let restored = NamedTable::<Numbered>::default();
        restored.restore(table.freeze()()).unwrap();
        assert!(restored.changed_since(4).is_none(), "what was before a restart is not known");
        restored.put(numbered("d", 1));
        assert_eq!(restored.changed_since(5).unwrap().put.len(), 1);
        for n in 0..CHANGES_KNOWN as u32 {
            table.put(numbered("many", n));
        }
        assert_eq!(changes(4), None, "too long ago");
        assert_eq!(changes(5).unwrap().1, [numbered("many", CHANGES_KNOWN as u32 - 1)]);
    }
}
