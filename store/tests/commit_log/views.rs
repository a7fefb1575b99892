//! A view that is made up: it is treated as the real ones are.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use raftmq_store::{Committed, Numbers, Store, StoreError, View};
use raftmq_world::{Disk, OsDisk};

use crate::manual::Manual;
use crate::support::{
    Opened, append_message, content, id, open, open_adding, options, temp_dir, wait_dispatched, world,
};

/// The keys of all messages, in one small file.
#[derive(Debug)]
struct KeyList {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// What its disk says when it is read.
    refusal: Option<&'static str>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    keys: Vec<(u64, String)>,
    /// How many of them can be read, and have been told of.
    published: usize,
    told: usize,
}

impl KeyList {
    fn new(dir: &Path) -> Self {
        Self { disk: Arc::new(OsDisk), dir: dir.join("keys"), refusal: None, state: Mutex::default() }
    }

    fn file(&self) -> PathBuf {
        self.dir.join("list")
    }

    /// What can be read.
    fn keys(&self) -> Vec<String> {
        let state = self.state.lock();
        assert_eq!(state.told, state.published);
        state.keys[..state.published].iter().map(|(_, key)| key.clone()).collect()
    }
}

impl View for KeyList {
    fn dir(&self) -> &Path {
        &self.dir
    }

    fn properties(&self) -> &'static [&'static str] {
        &["UNIQ_KEY"]
    }

    fn put(&self, committed: &Committed<'_>) -> Result<(), StoreError> {
        let key = committed.property("UNIQ_KEY").unwrap().to_owned();
        self.state.lock().keys.push((committed.physical_offset(), key));
        Ok(())
    }

    fn publish(&self) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        state.published = state.keys.len();
        Ok(())
    }

    fn announce(&self) {
        let mut state = self.state.lock();
        state.told = state.published;
    }

    fn held(&self) -> Numbers {
        Numbers::new([("keys", self.state.lock().published as u64)])
    }

    fn flush(&self) -> Result<(), StoreError> {
        let lines: String =
            self.state.lock().keys.iter().map(|(offset, key)| format!("{offset} {key}\n")).collect();
        self.disk.replace(&self.file(), lines.as_bytes()).unwrap();
        Ok(())
    }

    fn recover(&self, physical_limit: u64, _recorded: &Numbers) -> Result<(), StoreError> {
        if let Some(refusal) = self.refusal {
            return Err(StoreError::io("read", &self.file())(io::Error::other(refusal)));
        }
        let text = String::from_utf8(self.disk.read(&self.file()).unwrap().unwrap_or_default()).unwrap();
        let pairs = text.lines().map(|line| line.split_once(' ').unwrap());
        let keys = pairs.map(|(offset, key)| (offset.parse::<u64>().unwrap(), key.to_owned()));
        let keys: Vec<_> = keys.filter(|(offset, _)| *offset < physical_limit).collect();
        let count = keys.len();
        *self.state.lock() = State { keys, published: count, told: count };
        Ok(())
    }

    fn drop_below(&self, _physical_offset: u64) -> Result<(), StoreError> {
        Ok(())
    }
}

fn open_with_keys(dir: &Path) -> (Opened, Arc<KeyList>) {
    let mut keys = None;
    let add = |derived: &mut raftmq_store::Derived| keys = Some(derived.add(KeyList::new(dir)));
    let store = open_adding(options(dir), &world(Arc::new(OsDisk)), add).unwrap();
    (store, keys.unwrap())
}

fn fill(store: &Store, indexes: std::ops::Range<u64>) {
    for index in indexes {
        append_message(store, id(1, index));
    }
    commit_all(store);
}

fn commit_all(store: &Store) {
    store.commit(store.log().end());
    assert!(wait_dispatched(store, store.log().end()));
}

fn first(count: u64) -> Vec<String> {
    (0..count).map(|index| format!("key-{index}")).collect()
}

fn assert_complete(store: &Opened, keys: &KeyList, count: u64) {
    assert_eq!(keys.keys(), first(count));
    assert_eq!(store.queue("topic", 0).unwrap().max_offset(), count);
    for key in first(count) {
        assert_eq!(store.index.query("topic", &key, 0, i64::MAX, 9).unwrap().len(), 1, "{key}");
    }
}

#[test]
fn it_is_filled_recovered_and_made_again() {
    let dir = temp_dir();
    let (_manual, _here) = Manual::install(1);
    let (store, keys) = open_with_keys(dir.path());
    fill(&store, 0..10);
    assert_complete(&store, &keys, 10);
    store.close().unwrap();
    let recorded = fs::read_to_string(dir.path().join("dispatched")).unwrap();
    assert!(recorded.lines().any(|line| line == "keys=10"), "{recorded}");
    drop(store);

    // A kill, with more on the disk than the last checkpoint counts.
    let (store, keys) = open_with_keys(dir.path());
    assert_complete(&store, &keys, 10);
    fill(&store, 10..15);
    assert_complete(&store, &keys, 15);
    keys.flush().unwrap();
    drop(store);
    let (store, keys) = open_with_keys(dir.path());
    assert_complete(&store, &keys, 10);
    commit_all(&store);
    assert_complete(&store, &keys, 15);
    store.close().unwrap();
    drop(store);

    fs::remove_dir_all(dir.path().join("keys")).unwrap();
    let (store, keys) = open_with_keys(dir.path());
    assert!(keys.keys().is_empty() && store.dispatched_physical_offset() == 0);
    commit_all(&store);
    assert_complete(&store, &keys, 15);
}

/// Ten messages, before anybody had a view of keys.
fn fill_without_views(dir: &Path) {
    let store = open(dir);
    fill(&store, 0..10);
    store.close().unwrap();
}

#[test]
fn one_that_is_new_is_filled_from_the_logs_start() {
    let dir = temp_dir();
    let (_manual, _here) = Manual::install(1);
    fill_without_views(dir.path());
    let (store, keys) = open_with_keys(dir.path());
    commit_all(&store);
    assert_complete(&store, &keys, 10);
    store.close().unwrap();
    drop(store);
    // One that is gone again is not missed.
    let store = open(dir.path());
    assert_eq!(store.queue("topic", 0).unwrap().max_offset(), 10);
}

#[test]
fn two_with_a_number_of_the_same_name_are_refused() {
    let dir = temp_dir();
    let (_manual, _here) = Manual::install(1);
    fill_without_views(dir.path());
    let add = |derived: &mut raftmq_store::Derived| {
        derived.add(KeyList::new(dir.path()));
        derived.add(KeyList::new(&dir.path().join("other")));
    };
    let refused = open_adding(options(dir.path()), &world(Arc::new(OsDisk)), add).unwrap_err();
    assert!(refused.to_string().contains("keys"), "{refused}");
    assert_eq!(open(dir.path()).queue("topic", 0).unwrap().max_offset(), 10);
}

#[test]
fn a_disk_that_refuses_to_read_one_deletes_nothing() {
    let dir = temp_dir();
    let (_manual, _here) = Manual::install(1);
    let (store, _) = open_with_keys(dir.path());
    fill(&store, 0..10);
    store.close().unwrap();
    drop(store);
    let before = content(dir.path());
    let refusing = KeyList { refusal: Some("not now"), ..KeyList::new(dir.path()) };
    let add = |derived: &mut raftmq_store::Derived| drop(derived.add(refusing));
    let refused = open_adding(options(dir.path()), &world(Arc::new(OsDisk)), add).unwrap_err();
    assert!(matches!(refused, StoreError::Io { .. }) && refused.to_string().contains("not now"), "{refused}");
    let derived = |files: &[(PathBuf, Vec<u8>)]| -> Vec<_> {
        files.iter().filter(|(path, _)| !path.ends_with("marks")).cloned().collect()
    };
    assert!(derived(&before) == derived(&content(dir.path())));
    let (store, keys) = open_with_keys(dir.path());
    assert_complete(&store, &keys, 10);
}
