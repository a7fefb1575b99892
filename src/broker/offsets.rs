//! Consumer offsets: commits gather here and go through the log in batches; reads see what is gathered first.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use raftmq_raft::{Command, Metadata, OffsetCommit, Role};
use tokio::sync::Notify;

use super::limits::{Limits, OFFSETS_COMMAND_BYTES, OFFSETS_GATHER};
use super::node::Node;
use super::reply::Refusal;

/// Bytes an offset takes in a command besides its names: four numbers of a variable length.
const COMMIT_BYTES: usize = 32;
/// How old the count of committed offsets may be: counting looks at every topic of every group.
const COUNT_AGE: Duration = Duration::from_secs(1);

/// Offsets that are not applied yet.
pub(crate) struct PendingOffsets {
    table: Mutex<Table>,
    added: Notify,
    max: usize,
    committed_max: usize,
}

#[derive(Default)]
struct Table {
    /// By group, then topic, then queue.
    offsets: HashMap<String, HashMap<String, HashMap<u32, u64>>>,
    len: usize,
    /// When the committed offsets were counted, and how many there are at most.
    counted: Option<(Instant, usize)>,
}

impl PendingOffsets {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            table: Mutex::default(),
            added: Notify::new(),
            max: limits.pending_offsets,
            committed_max: limits.committed_offsets,
        }
    }

    /// Takes note of an offset that is to be committed. One that is committed already costs nothing.
    pub(crate) fn commit(
        &self,
        metadata: &Metadata,
        group: &str,
        topic: &str,
        queue_id: u32,
        offset: u64,
    ) -> Result<(), Refusal> {
        let mut table = self.table.lock();
        if let Some(pending) = table.get_mut(group, topic, queue_id) {
            *pending = offset;
            return Ok(());
        }
        let committed = metadata.offset(group, topic, queue_id);
        if committed == Some(offset) {
            return Ok(());
        }
        if table.len >= self.max {
            return Err(Refusal::busy(format!("{} consumer offsets wait to be committed", self.max)));
        }
        if committed.is_none() && !table.admit_new(metadata, self.committed_max) {
            return Err(Refusal::busy(format!("there are {} consumer offsets", self.committed_max)));
        }
        table.insert(group, topic, queue_id, offset);
        if table.len == 1 {
            self.added.notify_one();
        }
        Ok(())
    }

    /// What a group has committed for a queue, pending or not.
    pub(crate) fn get(&self, metadata: &Metadata, group: &str, topic: &str, queue_id: u32) -> Option<u64> {
        let pending = self.table.lock().get_mut(group, topic, queue_id).copied();
        pending.or_else(|| metadata.offset(group, topic, queue_id))
    }

    /// All pending offsets in pieces that fit a command. They stay pending until [`PendingOffsets::committed`].
    fn batches(&self) -> Vec<Vec<OffsetCommit>> {
        let (mut batches, mut batch, mut bytes) = (Vec::new(), Vec::new(), 0);
        let table = self.table.lock();
        for (group, topics) in &table.offsets {
            for (topic, queues) in topics {
                for (&queue_id, &offset) in queues {
                    let size = COMMIT_BYTES + group.len() + topic.len();
                    if bytes + size > OFFSETS_COMMAND_BYTES && !batch.is_empty() {
                        batches.push(std::mem::take(&mut batch));
                        bytes = 0;
                    }
                    bytes += size;
                    batch.push(OffsetCommit { group: group.clone(), topic: topic.clone(), queue_id, offset });
                }
            }
        }
        if !batch.is_empty() {
            batches.push(batch);
        }
        batches
    }

    /// Forgets offsets that are applied, unless they have changed since.
    fn committed(&self, commits: &[OffsetCommit]) {
        let mut table = self.table.lock();
        for commit in commits {
            table.remove_if(commit);
        }
    }

    /// Forgets everything: another member leads, and clients commit anew every few seconds.
    pub(crate) fn clear(&self) {
        *self.table.lock() = Table::default();
    }

    /// Proposes what gathers. Runs until the task is ended.
    pub(crate) async fn run(&self, node: &Node) {
        loop {
            if self.table.lock().len == 0 {
                self.added.notified().await;
            }
            tokio::time::sleep(OFFSETS_GATHER).await;
            self.flush(node).await;
        }
    }

    /// Proposes what is pending. What fails stays pending where this member still leads; what no command can carry is
    /// dropped.
    pub(crate) async fn flush(&self, node: &Node) {
        for batch in self.batches() {
            if node.leading().is_err() {
                // A leader that the others do not answer for a moment keeps them.
                if node.role.borrow().role != Role::Leader {
                    self.clear();
                }
                return;
            }
            let command = Command::CommitOffsets(batch.clone());
            if let Err(error) = command.encode() {
                tracing::warn!(%error, offsets = batch.len(), "dropping consumer offsets");
                self.committed(&batch);
                continue;
            }
            match node.propose(command).await {
                Ok(_) => self.committed(&batch),
                Err(refusal) => {
                    tracing::debug!(remark = %refusal.remark, "consumer offsets not committed yet")
                }
            }
        }
    }
}

impl Table {
    fn get_mut(&mut self, group: &str, topic: &str, queue_id: u32) -> Option<&mut u64> {
        self.offsets.get_mut(group)?.get_mut(topic)?.get_mut(&queue_id)
    }

    /// Counts an offset that nothing is committed for yet. False where there are too many.
    fn admit_new(&mut self, metadata: &Metadata, max: usize) -> bool {
        let now = Instant::now();
        let fresh = self.counted.filter(|(at, _)| now.duration_since(*at) < COUNT_AGE);
        // Pending ones that replace a committed one are counted twice.
        let (at, count) = fresh.unwrap_or_else(|| (now, metadata.offset_count() + self.len));
        let admitted = count < max;
        self.counted = Some((at, count + usize::from(admitted)));
        admitted
    }

    fn insert(&mut self, group: &str, topic: &str, queue_id: u32, offset: u64) {
        let topics = self.offsets.entry(group.to_owned()).or_default();
        let replaced = topics.entry(topic.to_owned()).or_default().insert(queue_id, offset);
        self.len += usize::from(replaced.is_none());
    }

    fn remove_if(&mut self, commit: &OffsetCommit) {
        let Some(topics) = self.offsets.get_mut(&commit.group) else { return };
        let Some(queues) = topics.get_mut(&commit.topic) else { return };
        if queues.get(&commit.queue_id) != Some(&commit.offset) {
            return;
        }
        queues.remove(&commit.queue_id);
        self.len -= 1;
        if queues.is_empty() {
            topics.remove(&commit.topic);
        }
        if topics.is_empty() {
            self.offsets.remove(&commit.group);
        }
    }
}

/// What is known of a queue when a group without an offset asks for one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct YoungQueue {
    pub(crate) min_offset: u64,
    pub(crate) max_offset: u64,
    /// Bytes of log from the queue's first message to the log's end.
    pub(crate) bytes_behind: u64,
}

/// Where a group starts that has no offset, by the rule of RocketMQ 4.9: at 0 where the queue has had no message, or
/// still has its first one and that is likely to be in memory. `None` leaves it to the client, which would
/// ask for an empty queue's end, and pass over what is sent before it has done so.
pub(crate) fn first_offset(queue: Option<YoungQueue>, memory_bytes: u64) -> Option<u64> {
    /// The part of memory that RocketMQ takes to hold the log, in percent.
    const LOG_PERCENT: u64 = 40;
    let queue = queue?;
    let is_recent = queue.bytes_behind <= memory_bytes / 100 * LOG_PERCENT;
    (queue.max_offset == 0 || queue.min_offset == 0 && is_recent).then_some(0)
}

#[cfg(test)]
mod tests {
    use raftmq_raft::Topic;

    use super::*;

    fn pending(max: usize) -> PendingOffsets {
        PendingOffsets::new(&Limits { pending_offsets: max, ..Limits::default() })
    }

    #[test]
    fn a_read_sees_what_is_pending_first() {
        let (offsets, metadata) = (pending(10), Metadata::default());
        metadata.apply(&Command::PutTopic(Topic::new("t", 1, 6)));
        offsets.commit(&metadata, "g", "t", 0, 5).unwrap();
        assert_eq!(offsets.get(&metadata, "g", "t", 0), Some(5));
        let batch = offsets.batches().remove(0);
        metadata.apply(&Command::CommitOffsets(batch.clone()));
        offsets.commit(&metadata, "g", "t", 0, 7).unwrap();
        offsets.committed(&batch);
        assert_eq!(
            offsets.get(&metadata, "g", "t", 0),
            Some(7),
            "a later commit outlives an earlier proposal"
        );
        let batch = offsets.batches().remove(0);
        metadata.apply(&Command::CommitOffsets(batch.clone()));
        offsets.committed(&batch);
        assert!(offsets.batches().is_empty() && offsets.table.lock().offsets.is_empty());
        assert_eq!(offsets.get(&metadata, "g", "t", 0), Some(7));
        offsets.commit(&metadata, "g", "t", 0, 7).unwrap();
        assert_eq!(offsets.table.lock().len, 0, "an offset that is committed already is not proposed again");
        offsets.commit(&metadata, "g", "t", 0, 3).unwrap();
        assert_eq!(offsets.get(&metadata, "g", "t", 0), Some(3), "offsets may go back");
    }

    #[test]
    fn pending_offsets_are_bounded_and_cleared() {
        let (offsets, metadata) = (pending(2), Metadata::default());
        for queue in 0..2 {
            offsets.commit(&metadata, "g", "t", queue, 1).unwrap();
        }
        assert!(offsets.commit(&metadata, "g", "t", 2, 1).unwrap_err().remark.contains("[BUSY]"));
        offsets.commit(&metadata, "g", "t", 1, 2).unwrap();
        offsets.clear();
        offsets.commit(&metadata, "g", "t", 2, 1).unwrap();
    }

    #[test]
    fn new_offsets_end_where_there_are_too_many_and_known_ones_go_on() {
        let offsets = PendingOffsets::new(&Limits { committed_offsets: 3, ..Limits::default() });
        let metadata = Metadata::default();
        metadata.apply(&Command::PutTopic(Topic::new("t", 8, 6)));
        let commit = |queue_id| OffsetCommit { group: "g".into(), topic: "t".into(), queue_id, offset: 1 };
        metadata.apply(&Command::CommitOffsets(vec![commit(0)]));
        for queue in 1..3 {
            offsets.commit(&metadata, "g", "t", queue, 5).unwrap();
        }
        let refusal = offsets.commit(&metadata, "g", "t", 3, 5).unwrap_err();
        assert!(refusal.remark.contains("[BUSY]"), "{refusal:?}");
        for queue in 0..3 {
            offsets.commit(&metadata, "g", "t", queue, 6).unwrap();
        }
    }

    #[test]
    fn an_offset_that_fits_no_command_makes_no_empty_batch() {
        let (offsets, metadata) = (pending(10), Metadata::default());
        let group = "g".repeat(raftmq_raft::COMMAND_BYTES_MAX);
        offsets.commit(&metadata, &group, "t", 0, 1).unwrap();
        let batches = offsets.batches();
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [1]);
        assert!(Command::CommitOffsets(batches[0].clone()).encode().is_err());
    }

    #[test]
    fn a_batch_fits_a_command() {
        let (offsets, metadata) = (pending(10_000), Metadata::default());
        let group = "g".repeat(200);
        for queue in 0..2000 {
            offsets.commit(&metadata, &group, "topic", queue, u64::MAX / 2).unwrap();
        }
        let batches = offsets.batches();
        assert_eq!(batches.iter().map(Vec::len).sum::<usize>(), 2000);
        assert!(batches.len() > 1);
        for batch in batches {
            Command::CommitOffsets(batch).encode().unwrap();
        }
    }

    #[test]
    fn a_new_group_starts_at_the_first_message_of_a_young_queue_only() {
        let queue =
            |min_offset, max_offset, bytes_behind| YoungQueue { min_offset, max_offset, bytes_behind };
        assert_eq!(first_offset(Some(queue(0, 5, 400)), 1000), Some(0));
        assert_eq!(first_offset(Some(queue(0, 5, 401)), 1000), None);
        assert_eq!(
            first_offset(Some(queue(0, 0, u64::MAX)), 1000),
            Some(0),
            "it starts with the first message"
        );
        assert_eq!(first_offset(Some(queue(1, 5, 0)), 1000), None);
        assert_eq!(first_offset(None, 1000), None);
    }
}
