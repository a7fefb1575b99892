//! The table of all ConsumeQueues of a broker: `consumequeue/<topic>/<queue id>/` below the store's directory. Where those
//! of a topic lie that was dropped, says `dropped.rs`.
//!
//! A view that keeps a unit of every record. What stands in the unit for the tags code is for others to know.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;

use crate::arrivals::{ArrivalListener, Arrivals};
use crate::consume_queue::{Changes, ConsumeQueue, Made, Unsynced};
use crate::dropped::{Dropped, foreign, name_of, topic_dir};
use crate::error::StoreError;
use crate::open_files::OpenFiles;
use crate::view::{Committed, Numbers, Reads, View};
use raftmq_world::hash::HashMap;

/// The directory below that of the store.
const DIRECTORY: &str = "consumequeue";

/// Bytes a topic's name may have: it is the name of a directory, and Linux allows no more (`NAME_MAX`).
pub const TOPIC_BYTES_MAX: usize = 255;

/// What a unit has as its tags code.
pub type TagsCode = fn(&Committed<'_>) -> i64;

type Table = HashMap<Arc<str>, BTreeMap<u32, Arc<ConsumeQueue>>>;

/// Every queue by topic and queue id.
#[derive(Debug)]
pub struct ConsumeQueues {
    files: Arc<OpenFiles>,
    /// Of the store.
    store_dir: PathBuf,
    dir: PathBuf,
    units_per_file: u64,
    tags_code: Reads<TagsCode>,
    /// Invariant: no topic is without queues.
    table: RwLock<Table>,
    changes: Arc<Changes<ConsumeQueue>>,
    /// Topics that nobody finds queues of, and where they are dropped: dispatch has not come to it.
    hidden: RwLock<HashMap<Arc<str>, u64>>,
    /// How many these are.
    hidden_count: AtomicUsize,
    dropped: Dropped,
    arrivals: Arrivals,
}

/// Checks that `topic` can be a topic: 1 to 255 bytes, each a letter, a digit or one of `%`, `|`, `-` and `_`, as in
/// RocketMQ. No such name leads out of the store's directory.
///
/// # Errors
/// [`StoreError::Illegal`] for any other name.
pub fn check_topic(topic: &str) -> Result<(), StoreError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"%|-_".contains(&b);
    if topic.is_empty() || topic.len() > TOPIC_BYTES_MAX || !topic.bytes().all(allowed) {
        let shown: String = topic.chars().take(TOPIC_BYTES_MAX).collect();
        return Err(StoreError::Illegal(format!(
            "topic {shown:?}: a name has 1 to {TOPIC_BYTES_MAX} letters, digits and characters of \"%|-_\""
        )));
    }
    Ok(())
}

impl ConsumeQueues {
    /// The queues below `store_dir`: none until they are [recovered](View::recover).
    pub fn new(
        files: Arc<OpenFiles>,
        store_dir: &Path,
        units_per_file: u64,
        tags_code: Reads<TagsCode>,
    ) -> Self {
        let (dir, store_dir) = (store_dir.join(DIRECTORY), store_dir.to_owned());
        let (table, hidden, hidden_count) = Default::default();
        let (changes, dropped, arrivals) = Default::default();
        Self {
            files,
            store_dir,
            dir,
            units_per_file,
            tags_code,
            table,
            changes,
            hidden,
            hidden_count,
            dropped,
            arrivals,
        }
    }

    /// The queues that the disk has, each recovered to `physical_limit`, see [`ConsumeQueue::recover`].
    fn read(&self, physical_limit: u64) -> Result<Table, StoreError> {
        let mut table = Table::default();
        for (topic, topic_dir) in self.dropped.recover(&**self.files.disk(), &self.dir, physical_limit)? {
            check_topic(&topic).map_err(|e| foreign(&topic_dir, &e.to_string()))?;
            let of_topic = self.read_topic(&topic_dir, physical_limit)?;
            if !of_topic.is_empty() {
                table.insert(topic.into(), of_topic);
            }
        }
        Ok(table)
    }

    fn read_topic(&self, dir: &Path, limit: u64) -> Result<BTreeMap<u32, Arc<ConsumeQueue>>, StoreError> {
        let mut of_topic = BTreeMap::new();
        for queue_dir in self.list(dir)? {
            let name = name_of(&queue_dir);
            let id = name.parse::<u32>().ok().filter(|id| id.to_string() == name);
            let id = id.ok_or_else(|| foreign(&queue_dir, "its name is not a queue id"))?;
            let (files, changes) = (self.files.clone(), self.changes.clone());
            let queue = ConsumeQueue::open_among(files, &queue_dir, self.units_per_file, changes)?;
            // A crash may have left the directory alone.
            if !queue.is_without_files() {
                queue.recover(limit)?;
                of_topic.insert(id, queue);
            }
        }
        Ok(of_topic)
    }

    fn list(&self, dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
        self.files.disk().list(dir).map_err(StoreError::io("list", dir))
    }

    /// The queue, if there is one that is not to be dropped.
    pub fn get(&self, topic: &str, queue_id: u32) -> Option<Arc<ConsumeQueue>> {
        // Acquire: who knows that a topic is gone, as this was hidden before, finds it hidden.
        let is_hidden =
            self.hidden_count.load(Ordering::Acquire) > 0 && self.hidden.read().contains_key(topic);
        if is_hidden { None } else { self.find(topic, queue_id) }
    }

    fn find(&self, topic: &str, queue_id: u32) -> Option<Arc<ConsumeQueue>> {
        self.table.read().get(topic)?.get(&queue_id).cloned()
    }

    /// The queue's maximum offset; 0 where there is no such queue.
    pub fn max_offset(&self, topic: &str, queue_id: u32) -> u64 {
        self.get(topic, queue_id).map_or(0, |queue| queue.max_offset())
    }

    /// The queue, made if need be: an empty one, without a file until a checkpoint or many units.
    ///
    /// # Errors
    /// [`StoreError::Illegal`] for a name that no topic has.
    pub fn get_or_create(&self, topic: &str, queue_id: u32) -> Result<Arc<ConsumeQueue>, StoreError> {
        if let Some(queue) = self.find(topic, queue_id) {
            return Ok(queue);
        }
        check_topic(topic)?;
        let mut table = self.table.write();
        if let Some(queue) = table.get(topic).and_then(|queues| queues.get(&queue_id)) {
            return Ok(Arc::clone(queue));
        }
        let dir = topic_dir(&self.dir, topic, self.dropped.since(topic)).join(queue_id.to_string());
        let (files, changes) = (self.files.clone(), self.changes.clone());
        // Not looked for on the disk: no file that counts is there.
        let queue = ConsumeQueue::new_among(files, &dir, self.units_per_file, changes)?;
        table.entry(Arc::from(topic)).or_default().insert(queue_id, Arc::clone(&queue));
        Ok(queue)
    }

    /// The topics that have queues, sorted.
    pub fn topics(&self) -> Vec<Arc<str>> {
        let mut topics: Vec<_> = self.table.read().keys().cloned().collect();
        topics.sort();
        topics
    }

    /// Every queue, sorted by topic and queue id.
    pub fn list_queues(&self) -> Vec<(Arc<str>, u32, Arc<ConsumeQueue>)> {
        let table = self.table.read();
        let mut queues: Vec<_> = table
            .iter()
            .flat_map(|(topic, queues)| {
                queues.iter().map(|(id, queue)| (Arc::clone(topic), *id, Arc::clone(queue)))
            })
            .collect();
        drop(table);
        queues.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
        queues
    }

    /// The maximum offset of every queue, sorted by topic and queue id.
    pub fn max_offsets(&self) -> impl Iterator<Item = (Arc<str>, u32, u64)> {
        self.list_queues().into_iter().map(|(topic, id, queue)| (topic, id, queue.max_offset()))
    }

    /// Has nobody find queues of a topic until it is [dropped](View::drop_topic) by the command at `physical_offset`.
    pub(crate) fn hide(&self, topic: &str, physical_offset: u64) {
        let mut hidden = self.hidden.write();
        hidden.insert(topic.into(), physical_offset);
        self.hidden_count.store(hidden.len(), Ordering::Release);
    }

    /// Ends that, unless it is to be dropped once more.
    fn show(&self, topic: &str, physical_offset: u64) {
        let mut hidden = self.hidden.write();
        if hidden.get(topic).is_some_and(|until| *until <= physical_offset) {
            hidden.remove(topic);
            self.hidden_count.store(hidden.len(), Ordering::Release);
        }
    }

    /// Told of what each batch brings. Replaces an earlier listener.
    pub fn set_arrival_listener(&self, listener: ArrivalListener) {
        self.arrivals.set_listener(listener);
    }

    /// Syncs the files of a queue, and names the directories that are to be synced with them.
    fn sync_files(
        &self,
        queue: &ConsumeQueue,
        unsynced: &Unsynced,
        dirs: &mut BTreeSet<PathBuf>,
    ) -> Result<(), StoreError> {
        queue.sync_files(unsynced)?;
        let above = match unsynced.made {
            Made::Nothing => 0,
            Made::Files => 1,
            Made::Directory => usize::MAX,
        };
        let up_to_store = queue.dir().ancestors().take_while(|dir| dir.starts_with(&self.store_dir));
        dirs.extend(up_to_store.take(above).map(Path::to_owned));
        Ok(())
    }

    fn each(&self, act: impl Fn(&ConsumeQueue) -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.list_queues().iter().try_for_each(|(_, _, queue)| act(queue))
    }
}

impl View for ConsumeQueues {
    fn dir(&self) -> &Path {
        &self.dir
    }

    fn properties(&self) -> &'static [&'static str] {
        self.tags_code.properties
    }

    fn put(&self, committed: &Committed<'_>) -> Result<(), StoreError> {
        let record = &committed.record;
        let find = || self.get_or_create(record.topic(), record.queue_id() as u32);
        self.arrivals.append(committed, (self.tags_code.read)(committed), find)
    }

    fn publish(&self) -> Result<(), StoreError> {
        self.arrivals.publish()
    }

    fn announce(&self) {
        self.arrivals.announce();
    }

    fn held(&self) -> Numbers {
        Numbers::new([("units", self.changes.units())])
    }

    /// Looks at nothing but what has changed, also in queues that were dropped since: what was put of them before counts for
    /// a checkpoint as of before.
    fn flush(&self) -> Result<(), StoreError> {
        let changed = self.changes.take();
        // All before the first sync: a file system makes what was written by then durable together.
        changed.iter().try_for_each(|queue| queue.write_out())?;
        let unsynced: Vec<_> = changed.iter().map(|queue| (queue, queue.unsynced())).collect();
        self.files.sync(&self.store_dir, &unsynced, |(queue, unsynced), dirs| {
            self.sync_files(queue, unsynced, dirs)
        })?;
        unsynced.iter().for_each(|(queue, unsynced)| queue.synced(unsynced));
        self.dropped.flush(&**self.files.disk(), &self.dir)
    }

    fn clean_up(&self, physical_offset: u64, _recorded: &Numbers) -> Result<(), StoreError> {
        let removed = self.dropped.clean_up(&**self.files.disk(), &self.dir, physical_offset)?;
        if !removed.is_empty() {
            // Queues are made and dropped under this lock.
            let table = self.table.write();
            removed
                .iter()
                .filter(|topic| !table.contains_key(*topic))
                .for_each(|topic| self.dropped.forget(topic));
        }
        Ok(())
    }

    /// Who reads a queue of it at this moment had found the topic before, and goes on.
    fn drop_topic(&self, topic: &str, physical_offset: u64) -> Result<(), StoreError> {
        let mut table = self.table.write();
        if let Some(queues) = table.remove(topic) {
            self.dropped.add(&self.dir, topic, physical_offset, queues.into_values().collect());
        }
        drop(table);
        self.show(topic, physical_offset);
        Ok(())
    }

    fn recover(&self, physical_limit: u64, _recorded: &Numbers) -> Result<(), StoreError> {
        self.arrivals.clear();
        self.hidden.write().clear();
        self.hidden_count.store(0, Ordering::Release);
        self.table.write().clear();
        self.changes.clear();
        *self.table.write() = self.read(physical_limit)?;
        Ok(())
    }

    /// Files go at once: units are counted from the first one that ever was.
    fn drop_below(&self, physical_offset: u64) -> Result<(), StoreError> {
        self.each(|queue| queue.drop_below(physical_offset))
    }
}
