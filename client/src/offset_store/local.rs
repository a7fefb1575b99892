//! Offsets of a broadcast group in a file of this machine: `<root>/<client id>/<group>/offsets.json`, as the Java client
//! lays it out, so that one can go on where the other stopped.
//!
//! Before the file is replaced, what it holds is put into `offsets.json.bak`, so that one of the two is complete whoever
//! else writes there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use raftmq_message::topic::validate_group;
use raftmq_remoting::body::{MessageQueue, OffsetTable};
use raftmq_remoting::fastjson;
use raftmq_world::{Disk, Threads, World};

use super::store::{OffsetFuture, OffsetStore, ReadOffsetType};
use super::table::Table;
use crate::error::ClientError;

/// Where the Java client keeps offsets of broadcast groups: `.rocketmq_offsets` in the home directory, or in the current
/// one if there is no home.
pub fn default_offset_dir() -> PathBuf {
    let home = std::env::home_dir().unwrap_or_default();
    home.join(".rocketmq_offsets")
}

/// The offsets of one consumer of a broadcast group.
#[derive(Debug)]
pub struct LocalFileOffsetStore {
    table: Table,
    file: Arc<OffsetFile>,
    threads: Arc<dyn Threads>,
    /// Held while persisting: an older offset is never written behind a newer one.
    persisting: Arc<tokio::sync::Mutex<()>>,
}

impl LocalFileOffsetStore {
    /// The offsets of a consumer below `root`. To find them again after a restart, the client id must be the same.
    pub fn new(world: &World, root: &Path, client_id: &str, group: &str) -> Result<Self, ClientError> {
        validate_group(group).map_err(|error| ClientError::Invalid(error.to_string()))?;
        if matches!(client_id, "" | "." | "..") || client_id.contains(['/', '\\', '\0']) {
            return Err(ClientError::Invalid(format!("client id {client_id:?} cannot name a directory")));
        }
        let path = root.join(client_id).join(group).join("offsets.json");
        let file = Arc::new(OffsetFile { disk: world.disk.clone(), path, known: Mutex::default() });
        let threads = world.threads.clone();
        Ok(Self { table: Table::default(), file, threads, persisting: Arc::default() })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Runs what waits for the disk where it holds up nobody else.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ClientError> + Send + 'static,
    ) -> Result<T, ClientError> {
        let done = self.threads.run(work).await;
        done.unwrap_or_else(|| Err(failed(&self.file.path, "it could not be used any more")))
    }
}

impl OffsetStore for LocalFileOffsetStore {
    fn load(&self) -> OffsetFuture<'_, ()> {
        let file = self.file.clone();
        Box::pin(async move {
            let loaded = self.blocking(move || file.load()).await?;
            for (queue, offset) in &loaded {
                self.table.found(queue, *offset);
            }
            Ok(())
        })
    }

    fn update_offset(&self, queue: &MessageQueue, offset: i64, increase_only: bool) {
        self.table.update(queue, offset, increase_only);
    }

    fn update_and_freeze_offset(&self, queue: &MessageQueue, offset: i64) {
        self.table.update_and_freeze(queue, offset);
    }

    fn read_offset<'a>(
        &'a self,
        queue: &'a MessageQueue,
        from: ReadOffsetType,
    ) -> OffsetFuture<'a, Option<i64>> {
        let stored = async { Ok(self.file.known.lock().get(queue).copied()) };
        Box::pin(self.table.read(queue, from, stored))
    }

    fn persist_all<'a>(&'a self, queues: &'a [MessageQueue]) -> OffsetFuture<'a, ()> {
        Box::pin(async move {
            let persisting = self.persisting.clone().lock_owned().await;
            let changed = self.table.unpersisted(queues);
            if changed.is_empty() {
                return Ok(());
            }
            let (file, offsets) = (self.file.clone(), changed.clone());
            let write = move || {
                let written = file.store(offsets);
                // It is held by who writes, as whoever has asked for it may not wait any more.
                written.map(|()| persisting)
            };
            let _persisting = self.blocking(write).await?;
            for (queue, offset) in changed {
                self.table.persisted(&queue, offset);
            }
            Ok(())
        })
    }

    fn remove_offset(&self, queue: &MessageQueue) {
        self.table.remove(queue);
    }

    fn clone_offset_table(&self, topic: Option<&str>) -> BTreeMap<MessageQueue, i64> {
        self.table.to_map(topic)
    }
}

#[derive(Debug)]
struct OffsetFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// What the file holds: also of queues this consumer does not have at the moment. Held while writing.
    known: Mutex<BTreeMap<MessageQueue, i64>>,
}

impl OffsetFile {
    fn load(&self) -> Result<BTreeMap<MessageQueue, i64>, ClientError> {
        let mut known = self.known.lock();
        *known = match self.read(&self.path) {
            Ok(Some(offsets)) => offsets,
            // Without a file, a crash may have come between the two renames.
            Ok(None) => self.read(&self.backup())?.unwrap_or_default(),
            Err(error) => match self.read(&self.backup()) {
                Ok(Some(offsets)) => {
                    tracing::warn!(%error, "going on with the offsets of the backup");
                    offsets
                }
                Ok(None) => return Err(error),
                Err(backup) => return Err(failed(&self.path, format!("{error}; {backup}"))),
            },
        };
        Ok(known.clone())
    }

    fn store(&self, offsets: Vec<(MessageQueue, i64)>) -> Result<(), ClientError> {
        let mut known = self.known.lock();
        let before = OffsetTable { offset_table: known.clone() };
        if !before.offset_table.is_empty() {
            self.replace(&self.backup(), &before)?;
        }
        let mut next = before;
        next.offset_table.extend(offsets);
        self.replace(&self.path, &next)?;
        *known = next.offset_table;
        Ok(())
    }

    fn replace(&self, path: &Path, content: &OffsetTable) -> Result<(), ClientError> {
        let json = content.to_json().map_err(|error| failed(path, error))?;
        self.disk.replace(path, &json).map_err(|error| failed(path, error))
    }

    fn backup(&self) -> PathBuf {
        self.path.with_extension("json.bak")
    }

    /// The offsets in a file, or nothing if it does not exist or is empty.
    fn read(&self, path: &Path) -> Result<Option<BTreeMap<MessageQueue, i64>>, ClientError> {
        let text = self.disk.read(path).map_err(|error| failed(path, error))?;
        let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
        let table: OffsetTable = fastjson::parse(&text).map_err(|error| failed(path, error))?;
        Ok(Some(table.offset_table))
    }
}

fn failed(path: &Path, reason: impl ToString) -> ClientError {
    ClientError::OffsetFile { path: path.to_owned(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::time::Duration;

    use super::*;

    /// As the Java client 5.4.0 writes it; 4.9.7 differs in white space.
    const OF_JAVA: &str = "{\n\t\"offsetTable\":{\n\t\t{\n\t\t\t\"brokerName\":\"broker-a\",\n\t\t\t\"queueId\":1,\n\t\t\t\"topic\":\"T\"\n\t\t}:7,\n\t\t{\n\t\t\t\"brokerName\":\"broker-a\",\n\t\t\t\"queueId\":0,\n\t\t\t\"topic\":\"T\"\n\t\t}:5\n\t}\n}";

    fn queue(id: i32) -> MessageQueue {
        MessageQueue { broker_name: "broker-a".into(), queue_id: id, topic: "T".into() }
    }

    fn store(root: &Path) -> LocalFileOffsetStore {
        LocalFileOffsetStore::new(&World::system(), root, "10.0.0.1@DEFAULT", "G").unwrap()
    }

    async fn loaded(root: &Path) -> Result<Vec<i64>, ClientError> {
        let store = store(root);
        store.load().await?;
        Ok(store.clone_offset_table(None).into_values().collect())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn two_who_write_one_file_do_not_break_each_others_writes() {
        let root = tempfile::tempdir().unwrap();
        let writers = [0, 1].map(|id| {
            let store = store(root.path());
            tokio::spawn(async move {
                for offset in 1..=100 {
                    store.update_offset(&queue(id), offset, true);
                    store.persist_all(&[queue(id)]).await.unwrap();
                }
            })
        });
        for writer in writers {
            writer.await.unwrap();
        }
        assert_eq!(loaded(root.path()).await.unwrap(), [100]);
        let dir = root.path().join("10.0.0.1@DEFAULT").join("G");
        let left: BTreeSet<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["offsets.json", "offsets.json.bak"].map(Into::into).into());
    }

    #[tokio::test]
    #[expect(clippy::await_holding_lock, reason = "the await ends at once")]
    async fn whoever_stops_waiting_for_the_disk_does_not_let_others_overtake() {
        let root = tempfile::tempdir().unwrap();
        let store = store(root.path());
        store.update_offset(&queue(0), 1, true);
        let queues = [queue(0)];
        // The disk is busy.
        let known = store.file.known.lock();
        assert!(tokio::time::timeout(Duration::ZERO, store.persist_all(&queues)).await.is_err());
        assert!(store.persisting.try_lock().is_err());
        drop(known);
        store.update_offset(&queue(0), 2, true);
        store.persist_all(&queues).await.unwrap();
        assert_eq!(loaded(root.path()).await.unwrap(), [2]);
    }

    #[tokio::test]
    async fn offsets_survive_in_the_layout_of_the_java_client() {
        let root = tempfile::tempdir().unwrap();
        let first = store(root.path());
        assert_eq!(first.path(), root.path().join("10.0.0.1@DEFAULT/G/offsets.json"));
        first.load().await.unwrap();
        assert_eq!(first.read_offset(&queue(0), ReadOffsetType::MemoryFirstThenStore).await.unwrap(), None);
        first.update_offset(&queue(0), 5, true);
        first.update_offset(&queue(1), 6, true);
        first.persist_all(&[queue(0)]).await.unwrap();
        assert_eq!(
            fs::read_to_string(first.path()).unwrap(),
            r#"{"offsetTable":{{"brokerName":"broker-a","queueId":0,"topic":"T"}:5}}"#
        );
        first.remove_offset(&queue(0));
        first.persist_all(&[queue(0), queue(1)]).await.unwrap();
        let second = store(root.path());
        second.load().await.unwrap();
        assert_eq!(second.read_offset(&queue(0), ReadOffsetType::ReadFromStore).await.unwrap(), Some(5));
        assert_eq!(second.read_offset(&queue(1), ReadOffsetType::ReadFromMemory).await.unwrap(), Some(6));
        assert_eq!(first.read_offset(&queue(0), ReadOffsetType::ReadFromMemory).await.unwrap(), None);
        assert_eq!(first.read_offset(&queue(0), ReadOffsetType::ReadFromStore).await.unwrap(), Some(5));
    }

    #[tokio::test]
    async fn a_file_of_the_java_client_is_read() {
        let root = tempfile::tempdir().unwrap();
        let path = store(root.path()).path().to_owned();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, OF_JAVA).unwrap();
        assert_eq!(loaded(root.path()).await.unwrap(), [5, 7]);
    }

    #[tokio::test]
    async fn wherever_a_file_is_torn_the_backup_stands_in_for_it() {
        let root = tempfile::tempdir().unwrap();
        let writer = store(root.path());
        for offset in [5, 6] {
            writer.update_offset(&queue(0), offset, true);
            writer.persist_all(&[queue(0)]).await.unwrap();
        }
        assert_eq!(loaded(root.path()).await.unwrap(), [6]);
        let whole = fs::read(writer.path()).unwrap();
        for len in 0..whole.len() {
            fs::write(writer.path(), &whole[..len]).unwrap();
            assert_eq!(loaded(root.path()).await.unwrap(), [5], "torn after {len} bytes");
        }
        fs::remove_file(writer.path()).unwrap();
        assert_eq!(loaded(root.path()).await.unwrap(), [5]);
    }

    #[tokio::test]
    async fn without_a_readable_file_the_error_names_it() {
        let root = tempfile::tempdir().unwrap();
        let path = store(root.path()).path().to_owned();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "{\"offsetTable\":{{\"que").unwrap();
        let error = loaded(root.path()).await.unwrap_err();
        assert!(error.to_string().contains("offsets.json"), "{error}");
        fs::write(path.with_extension("json.bak"), "{\"offsetTable\":").unwrap();
        let error = loaded(root.path()).await.unwrap_err();
        assert!(error.to_string().contains("offsets.json.bak"), "{error}");
        assert!(matches!(error, ClientError::OffsetFile { .. }));
    }

    #[tokio::test]
    async fn a_disk_that_takes_nothing_is_told_of() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("10.0.0.1@DEFAULT"), "in the way").unwrap();
        let store = store(root.path());
        store.update_offset(&queue(0), 5, true);
        assert!(matches!(store.persist_all(&[queue(0)]).await, Err(ClientError::OffsetFile { .. })));
    }

    #[test]
    fn ids_that_would_lead_elsewhere_are_refused() {
        for id in ["", "..", "a/b"] {
            assert!(matches!(
                LocalFileOffsetStore::new(&World::system(), Path::new("x"), id, "G"),
                Err(ClientError::Invalid(_))
            ));
        }
        assert!(LocalFileOffsetStore::new(&World::system(), Path::new("x"), "id", "../G").is_err());
    }
}
