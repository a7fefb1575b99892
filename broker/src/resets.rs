//! What operators do to the offsets of a group: setting them back or forward, copying another group's.
//!
//! A reset works while consumers run and while none do. It becomes the committed offset at once and stays noted until
//! a pull of the group has been sent there (`PendingOffsets::take_reset`); what consumers that are still at work commit
//! in the meantime does not count.

use std::sync::Arc;

use raftmq_store::Boundary;

use crate::error::Error;
use crate::offsets::{PendingOffsets, batches};
use crate::pull::Pulls;
use crate::queues::Queues;
use crate::replica::Replica;
use crate::state::{OffsetCommand, OffsetCommit, Offsets, Topic};

/// Where a group is to go on.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// At an offset.
    Offset(i64),
    /// At the first message that was stored at a time in ms since the epoch, or later.
    Time(i64),
    /// At the end.
    End,
}

/// Resets offsets of groups.
pub struct Resets {
    replica: Arc<Replica>,
    queues: Arc<Queues>,
    offsets: Arc<PendingOffsets>,
    pulls: Arc<Pulls>,
}

impl Resets {
    /// For a member of a group.
    pub fn new(
        replica: Arc<Replica>,
        queues: Arc<Queues>,
        offsets: Arc<PendingOffsets>,
        pulls: Arc<Pulls>,
    ) -> Self {
        Self { replica, queues, offsets, pulls }
    }

    /// Has a group go on elsewhere in a topic, in one queue or in all. Without force no queue is set forward. Returns where
    /// the group is then, by queue.
    pub async fn reset(
        &self,
        group: &str,
        topic: &Topic,
        queue_id: Option<i32>,
        target: Target,
        is_force: bool,
    ) -> Result<Vec<(u32, u64)>, Error> {
        // What was acknowledged by now counts, and is what a reset to the end passes over.
        self.replica.settle().await;
        let term = self.replica.leading()?;
        let queues = match queue_id {
            None => 0..topic.read_queues,
            Some(id) => {
                let id = topic.existing_queue(id)?;
                id..id + 1
            }
        };
        let (mut resets, mut reached) = (Vec::new(), Vec::new());
        for queue_id in queues {
            let mut offset = self.find(&topic.name, queue_id, target)?;
            let committed = self.offsets.get(group, &topic.name, queue_id);
            match committed.filter(|committed| !is_force && *committed <= offset) {
                Some(committed) => offset = committed,
                None => {
                    let (group, topic) = (group.to_owned(), topic.name.clone());
                    resets.push(OffsetCommit { group, topic, queue_id, offset });
                }
            }
            reached.push((queue_id, offset));
        }
        tracing::info!(group, topic = topic.name, ?target, queues = resets.len(), "consumer offsets reset");
        self.set(term, resets).await?;
        Ok(reached)
    }

    /// The offset that a target is in a queue.
    fn find(&self, topic: &str, queue_id: u32, target: Target) -> Result<u64, Error> {
        let (min, max) = self.queues.ends(topic, queue_id);
        match target {
            Target::End => Ok(max),
            Target::Time(timestamp_ms) => {
                self.queues.offset_at(topic, queue_id, timestamp_ms, Boundary::Lower)
            }
            Target::Offset(asked) => {
                let within = u64::try_from(asked).ok().filter(|offset| (min..=max).contains(offset));
                within.ok_or(Error::OffsetOutside { asked, min, max })
            }
        }
    }

    /// Has a group go on where another is, in the topics that are wanted. In this term alone.
    pub async fn copy(
        &self,
        term: u64,
        source: &str,
        destination: &str,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<(), Error> {
        // What the source has been told is committed is in the log then.
        self.offsets.flush(&self.replica).await;
        let commits = self.replica.state().offsets.of_group(source).into_iter();
        let wanted = commits.filter(|commit| is_wanted(&commit.topic));
        let resets: Vec<_> =
            wanted.map(|commit| OffsetCommit { group: destination.to_owned(), ..commit }).collect();
        tracing::info!(source, destination, offsets = resets.len(), "consumer offsets cloned");
        self.set(term, resets).await
    }

    /// Sets offsets, whatever consumers say until they have taken them up. They were found in this term: in another newer
    /// ones may have been committed.
    async fn set(&self, term: u64, resets: Vec<OffsetCommit>) -> Result<(), Error> {
        self.offsets.admit(&resets)?;
        for batch in batches(resets.into_iter()) {
            self.replica.change_in::<Offsets>(term, &OffsetCommand::Reset(batch.clone())).await?;
            self.offsets.discard(&batch);
            let reset = batch.iter().map(|reset| (reset.group.as_str(), reset.topic.as_str()));
            self.pulls.was_reset(&reset.collect());
        }
        Ok(())
    }
}
