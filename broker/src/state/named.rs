//! Settings by name, with a count of their changes: what topics and subscription groups have in common.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use raftmq_world::hash::HashMap;
use tokio::sync::watch;

/// Something that is known by its name.
pub(crate) trait Named {
    fn name(&self) -> &str;
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
pub(crate) struct NamedTable<T> {
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

impl<T: Named + Clone> NamedTable<T> {
    pub(crate) fn get(&self, name: &str) -> Option<Arc<T>> {
        self.by_name.read().get(name).cloned()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.by_name.read().contains_key(name)
    }

    /// Every one, sorted by name.
    pub(crate) fn all(&self) -> Vec<Arc<T>> {
        let mut all: Vec<_> = self.by_name.read().values().cloned().collect();
        all.sort_by(|a, b| a.name().cmp(b.name()));
        all
    }

    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.version_changed.subscribe()
    }

    /// Creates or replaces.
    pub(crate) fn put(&self, value: T) {
        self.by_name.write().insert(value.name().to_owned(), Arc::new(value));
        self.changed();
    }

    /// Creates where there is none of that name, and fewer than `max` in all.
    pub(crate) fn add(&self, value: T, max: u32) -> Added {
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

    pub(crate) fn delete(&self, name: &str) {
        self.by_name.write().remove(name);
        self.changed();
    }

    fn changed(&self) {
        let version = self.version.fetch_add(1, Ordering::AcqRel) + 1;
        self.version_changed.send_replace(version);
    }

    /// All as of now with the version, quickly; what is returned copies them.
    pub(crate) fn freeze(&self) -> impl FnOnce() -> (Vec<T>, u64) + use<T> {
        let (all, version) = (self.all(), self.version());
        move || (all.iter().map(|value| (**value).clone()).collect(), version)
    }

    pub(crate) fn restore(&self, (all, version): (Vec<T>, u64)) {
        *self.by_name.write() =
            all.into_iter().map(|value| (value.name().to_owned(), Arc::new(value))).collect();
        self.version.store(version, Ordering::Release);
        self.version_changed.send_replace(version);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Named for (&'static str, u32) {
        fn name(&self) -> &str {
            self.0
        }
    }

    #[test]
    fn what_is_added_replaces_nothing_and_stays_within_the_limit() {
        let table = NamedTable::<(&'static str, u32)>::default();
        let changed = table.subscribe();
        assert_eq!((table.add(("a", 1), 2), table.add(("b", 2), 2)), (Added::Done, Added::Done));
        assert_eq!((table.add(("c", 3), 2), table.add(("a", 9), 2)), (Added::Full, Added::Done));
        assert_eq!((*table.get("a").unwrap(), table.all().len(), table.version()), (("a", 1), 2, 2));
        assert_eq!(*changed.borrow(), 2);
        let restored = NamedTable::default();
        restored.restore(table.freeze()());
        table.delete("a");
        assert_eq!(
            (restored.has("a"), restored.version(), table.has("a"), table.version()),
            (true, 2, false, 3)
        );
    }
}
