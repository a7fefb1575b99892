//! The table of all ConsumeQueues of a broker: `consumequeue/<topic>/<queue id>/` below the store's directory.
//!
//! A view that keeps a unit of every record. What stands in the unit for the tags code is for others to know.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;

use crate::arrivals::{ArrivalListener, Arrivals};
use crate::consume_queue::ConsumeQueue;
use crate::error::StoreError;
use crate::view::{Committed, Numbers, Reads, View};
use raftmq_world::Disk;
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
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    units_per_file: u64,
    tags_code: Reads<TagsCode>,
    /// Invariant: no topic is without queues.
    table: RwLock<Table>,
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
        disk: Arc<dyn Disk>,
        store_dir: &Path,
        units_per_file: u64,
        tags_code: Reads<TagsCode>,
    ) -> Self {
        let (dir, table, arrivals) = (store_dir.join(DIRECTORY), RwLock::default(), Arrivals::default());
        Self { disk, dir, units_per_file, tags_code, table, arrivals }
    }

    /// The queues that the disk has, each recovered to `physical_limit`, see [`ConsumeQueue::recover`].
    fn read(&self, physical_limit: u64) -> Result<Table, StoreError> {
        let mut table = Table::default();
        for topic_dir in self.list(&self.dir)? {
            let topic = name_of(&topic_dir);
            check_topic(topic).map_err(|e| foreign(&topic_dir, &e.to_string()))?;
            let of_topic = self.read_topic(&topic_dir, physical_limit)?;
            if !of_topic.is_empty() {
                table.insert(Arc::from(topic), of_topic);
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
            let queue = ConsumeQueue::open(Arc::clone(&self.disk), &queue_dir, self.units_per_file)?;
            // The directory of a deleted topic stays, without files.
            if !queue.is_without_files() {
                queue.recover(limit)?;
                of_topic.insert(id, Arc::new(queue));
            }
        }
        Ok(of_topic)
    }

    fn list(&self, dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
        self.disk.list(dir).map_err(StoreError::io("list", dir))
    }

    /// The queue, if there is one.
    pub fn get(&self, topic: &str, queue_id: u32) -> Option<Arc<ConsumeQueue>> {
        self.table.read().get(topic)?.get(&queue_id).cloned()
    }

    /// The queue's maximum offset; 0 where there is no such queue.
    pub fn max_offset(&self, topic: &str, queue_id: u32) -> u64 {
        self.get(topic, queue_id).map_or(0, |queue| queue.max_offset())
    }

    /// The queue, made if need be: an empty one, without a file until something is published.
    ///
    /// # Errors
    /// [`StoreError::Illegal`] for a name that no topic has.
    pub fn get_or_create(&self, topic: &str, queue_id: u32) -> Result<Arc<ConsumeQueue>, StoreError> {
        if let Some(queue) = self.get(topic, queue_id) {
            return Ok(queue);
        }
        check_topic(topic)?;
        let mut table = self.table.write();
        if let Some(queue) = table.get(topic).and_then(|queues| queues.get(&queue_id)) {
            return Ok(Arc::clone(queue));
        }
        let dir = self.dir.join(topic).join(queue_id.to_string());
        let queue = Arc::new(ConsumeQueue::open(Arc::clone(&self.disk), &dir, self.units_per_file)?);
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

    /// Removes a topic's queues and their files. Durable on return; after a crash in between some queues, or the last
    /// files of one, may be gone: whatever is rebuilt from the log has to start at the deletion, so a checkpoint that
    /// covers everything before it comes first.
    ///
    /// # Errors
    /// The disk refused.
    pub fn delete_topic(&self, topic: &str) -> Result<(), StoreError> {
        let removed = self.table.write().remove(topic);
        removed.unwrap_or_default().values().try_for_each(|queue| queue.remove())
    }

    /// Told of what each batch brings. Replaces an earlier listener.
    pub fn set_arrival_listener(&self, listener: ArrivalListener) {
        self.arrivals.set_listener(listener);
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
        Numbers::new([("units", self.max_offsets().map(|(_, _, max)| max).sum())])
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.each(ConsumeQueue::flush)
    }

    fn recover(&self, physical_limit: u64, _recorded: &Numbers) -> Result<(), StoreError> {
        self.arrivals.clear();
        self.table.write().clear();
        *self.table.write() = self.read(physical_limit)?;
        Ok(())
    }

    /// Files go at once: units are counted from the first one that ever was.
    fn drop_below(&self, physical_offset: u64) -> Result<(), StoreError> {
        self.each(|queue| queue.drop_below(physical_offset))
    }
}

/// The last part of `path`; empty, which no topic and no queue is named, where it is not text.
fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn foreign(path: &Path, what: &str) -> StoreError {
    StoreError::Corrupt { path: path.to_owned(), position: 0, physical_offset: 0, what: what.to_owned() }
}
