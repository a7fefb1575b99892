//! The queues of topics that were dropped: where they lie, and how they go.
//!
//! A start may go back to before the drop, and then counts on every unit that a checkpoint has counted. So a dropped topic's
//! queues stay until a checkpoint behind the drop is durable, and until then checkpoints write them like the others. What is put of the topic meanwhile lies elsewhere:
//!
//! | directory | the queues of a topic |
//! |---|---|
//! | `<topic>/` | that was never dropped since it was first put |
//! | `@<20 digits>/<topic>/` | since it was dropped by the command at this physical offset |
//!
//! Of these the newest counts that begins below where a start goes on. A topic that nothing was put of since its drop has
//! no newer one: so drops are listed in a file before a checkpoint counts them, one `<topic> <physical offset>` a line. The
//! others are removed when a checkpoint is durable, or at the next start.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use raftmq_world::Disk;
use raftmq_world::hash::HashMap;

use crate::consume_queue::ConsumeQueue;
use crate::error::StoreError;

/// The list of drops. No topic has such a name.
const LIST: &str = ".dropped";
/// What directories are named for drops with.
const MARK: char = '@';

/// The directory of a topic's queues, it having been dropped last at `since`; 0 where it never was.
pub(crate) fn topic_dir(dir: &Path, topic: &str, since: u64) -> PathBuf {
    if since == 0 { dir.join(topic) } else { dir.join(format!("{MARK}{since:020}")).join(topic) }
}

/// What was dropped and is not removed yet.
#[derive(Debug, Default)]
pub(crate) struct Dropped(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Of each topic that was ever dropped while it had queues: where that was last.
    since: HashMap<Arc<str>, u64>,
    /// In log order.
    gone: Vec<Gone>,
}

/// The queues of a topic up to a drop.
#[derive(Clone, Debug)]
struct Gone {
    topic: Arc<str>,
    dir: PathBuf,
    /// Where it was dropped.
    at: u64,
    /// Held here so that the next checkpoint finds what of them is not durable.
    queues: Vec<Arc<ConsumeQueue>>,
}

impl Dropped {
    /// Since when there is what is put of a topic now.
    pub(crate) fn since(&self, topic: &str) -> u64 {
        self.0.lock().since.get(topic).copied().unwrap_or(0)
    }

    /// A topic that had these queues is dropped.
    pub(crate) fn add(&self, dir: &Path, topic: &str, at: u64, queues: Vec<Arc<ConsumeQueue>>) {
        queues.iter().for_each(|queue| queue.leave());
        let mut state = self.0.lock();
        let topic: Arc<str> = topic.into();
        let since = state.since.insert(topic.clone(), at).unwrap_or(0);
        let dir = topic_dir(dir, &topic, since);
        state.gone.push(Gone { topic, dir, at, queues });
    }

    /// Makes durable what a start needs that does not go back to before the drops. What one needs that does is in the queues.
    pub(crate) fn flush(&self, disk: &dyn Disk, dir: &Path) -> Result<(), StoreError> {
        let gone = self.0.lock().gone.clone();
        if gone.is_empty() { Ok(()) } else { write(disk, dir, &gone) }
    }

    /// Removes the queues of topics that were dropped below `limit`: a checkpoint counts without them. Returns which.
    pub(crate) fn clean_up(
        &self,
        disk: &dyn Disk,
        dir: &Path,
        limit: u64,
    ) -> Result<Vec<Arc<str>>, StoreError> {
        let done: Vec<_> = self.0.lock().gone.iter().filter(|gone| gone.at < limit).cloned().collect();
        if done.is_empty() {
            return Ok(Vec::new());
        }
        for gone in &done {
            gone.queues.iter().for_each(|queue| queue.retire());
            disk.remove_all(&gone.dir).map_err(StoreError::io("remove", &gone.dir))?;
        }
        let mut state = self.0.lock();
        state.gone.retain(|gone| gone.at >= limit);
        let left = state.gone.clone();
        drop(state);
        write(disk, dir, &left)?;
        Ok(done.into_iter().map(|gone| gone.topic).collect())
    }

    /// A topic has no queues. One that has no files either begins in the first directory again.
    pub(crate) fn forget(&self, topic: &str) {
        let mut state = self.0.lock();
        if state.gone.iter().all(|gone| &*gone.topic != topic) {
            state.since.remove(topic);
        }
    }

    /// Finds the directory of each topic as of `limit` and removes all others, durably.
    pub(crate) fn recover(
        &self,
        disk: &dyn Disk,
        dir: &Path,
        limit: u64,
    ) -> Result<BTreeMap<String, PathBuf>, StoreError> {
        let mut since: BTreeMap<String, u64> = BTreeMap::new();
        let mut note = |topic: &str, at: u64| {
            let newest = since.entry(topic.to_owned()).or_default();
            *newest = at.max(*newest);
        };
        let listed = read(disk, dir)?;
        for (topic, at) in listed.iter().flatten().filter(|(_, at)| *at < limit) {
            note(topic, *at);
        }
        let found = find(disk, dir)?;
        for (topic, at, _) in found.iter().filter(|(_, at, _)| *at == 0 || *at < limit) {
            note(topic, *at);
        }
        let (mut present, mut state) = (BTreeMap::new(), State::default());
        for (topic, at, path) in found {
            if since.get(&topic) != Some(&at) {
                disk.remove_all(&path).map_err(StoreError::io("remove", &path))?;
                continue;
            }
            if at > 0 {
                state.since.insert(topic.as_str().into(), at);
            }
            present.insert(topic, path);
        }
        if listed.is_some() {
            let list = dir.join(LIST);
            disk.remove(&list).map_err(StoreError::io("remove", &list))?;
        }
        *self.0.lock() = state;
        Ok(present)
    }
}

/// Every directory of a topic, and where that was dropped before.
fn find(disk: &dyn Disk, dir: &Path) -> Result<Vec<(String, u64, PathBuf)>, StoreError> {
    let list = |dir: &Path| disk.list(dir).map_err(StoreError::io("list", dir));
    let mut found = Vec::new();
    for path in list(dir)? {
        let name = name_of(&path);
        if name.starts_with(LIST) {
            continue;
        }
        let Some(digits) = name.strip_prefix(MARK) else {
            found.push((name.to_owned(), 0, path));
            continue;
        };
        let at = digits.parse::<u64>().ok().filter(|at| *at > 0 && format!("{at:020}") == digits);
        let at = at.ok_or_else(|| foreign(&path, "its name is not that of a drop"))?;
        let topics = list(&path)?;
        if topics.is_empty() {
            disk.remove_all(&path).map_err(StoreError::io("remove", &path))?;
        }
        found.extend(topics.into_iter().map(|path| (name_of(&path).to_owned(), at, path)));
    }
    Ok(found)
}

/// The list of drops, if there is one.
fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<Vec<(String, u64)>>, StoreError> {
    let path = dir.join(LIST);
    let Some(bytes) = disk.read(&path).map_err(StoreError::io("read", &path))? else { return Ok(None) };
    let text = String::from_utf8_lossy(&bytes);
    let drop = |line: &str| {
        let (topic, at) = line.split_once(' ')?;
        Some((topic.to_owned(), at.parse().ok()?))
    };
    let drops: Option<_> = text.lines().map(drop).collect();
    drops.map(Some).ok_or_else(|| foreign(&path, "it is no list of drops"))
}

/// Replaces it, durably.
fn write(disk: &dyn Disk, dir: &Path, gone: &[Gone]) -> Result<(), StoreError> {
    let path = dir.join(LIST);
    let text: String = gone.iter().map(|gone| format!("{} {}\n", gone.topic, gone.at)).collect();
    disk.replace(&path, text.as_bytes()).map_err(StoreError::io("write", &path))
}

/// The last part of `path`; empty, which no topic and no queue is named, where it is not text.
pub(crate) fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

pub(crate) fn foreign(path: &Path, what: &str) -> StoreError {
    StoreError::Corrupt { path: path.to_owned(), position: 0, physical_offset: 0, what: what.to_owned() }
}
