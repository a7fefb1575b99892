//! Reput: follows the committed log and fills the views.
//!
//! *Invariant 4*: they hold committed messages only, and are derived: whatever is missing is made again from the log.
//! How far they are durable is recorded from time to time, see `checkpoint.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use raftmq_message::record::RecordView;
use raftmq_world::{Clock, Next, Step, Threads};

use crate::checkpoint::{Checkpoint, Checkpoints};
use crate::commit_log::CommitLog;
use crate::error::StoreError;
use crate::frame::FrameKind;
use crate::marks::LogEnd;
use crate::queue_offsets::NOWHERE;
use crate::segment::Segment;
use crate::topic_changes::{self, TopicChange};
use crate::view::{Committed, PropertyNames, View};
use crate::walk::LogFrame;
use crate::worker::{Callback, Handle, Report, Stop};

/// Log dispatched before consumers see it, in bytes: bounds the time a new message waits behind a backlog.
const BATCH_BYTES: u64 = 1 << 20;
/// How often the position is recorded while messages arrive. A start after a kill dispatches at most this much again.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(10);
/// Where so much was dispatched since the last one, a checkpoint is made sooner: a start reads what is behind it before the
/// member serves.
const CHECKPOINT_BYTES: u64 = 64 << 20;
/// How long dispatch waits each time for a broken frame to be mended.
const MENDING_WAIT: Duration = Duration::from_millis(50);
/// How many may wait for the same store's dispatch.
const WAITING_MAX: usize = 64;

pub(crate) struct Reput {
    log: Arc<CommitLog>,
    views: Vec<Arc<dyn View>>,
    /// What the views read of every record.
    properties: PropertyNames,
    /// Everything below is dispatched and readable.
    dispatched: AtomicU64,
    /// How the log ends there.
    end: Mutex<LogEnd>,
    target: Mutex<Target>,
    worker: Handle,
}

#[derive(Default)]
struct Target {
    /// Committed up to this physical offset.
    committed: u64,
    /// Who is told when so much is dispatched, the one that has waited longest first.
    waiting: Vec<(u64, Callback)>,
    /// The step looks at this again without being woken.
    awake: bool,
    /// The step is to end.
    stop: Option<Stop>,
    /// Why nothing is dispatched any more.
    ended: Option<String>,
}

impl Reput {
    pub(crate) fn new(log: Arc<CommitLog>, views: Vec<Arc<dyn View>>, end: LogEnd) -> Self {
        let dispatched = end.tail.end;
        let properties = PropertyNames::new(views.iter().flat_map(|view| view.properties()).copied());
        Self {
            log,
            views,
            properties,
            dispatched: AtomicU64::new(dispatched),
            end: Mutex::new(end),
            target: Mutex::new(Target { committed: dispatched, ..Target::default() }),
            worker: Handle::default(),
        }
    }

    pub(crate) fn start(&self, threads: &dyn Threads, step: ReputStep) -> std::io::Result<()> {
        self.worker.start(threads, "raftmq-reput", Box::new(step))
    }

    /// How far dispatch may go.
    pub(crate) fn committed(&self) -> u64 {
        self.target.lock().committed
    }

    pub(crate) fn dispatched(&self) -> u64 {
        self.dispatched.load(Ordering::Acquire)
    }

    /// The log is committed up to `physical_offset`.
    pub(crate) fn commit(&self, physical_offset: u64) {
        let mut target = self.target.lock();
        if physical_offset <= target.committed {
            return;
        }
        target.committed = physical_offset;
        let asleep = !std::mem::replace(&mut target.awake, true);
        drop(target);
        if asleep {
            self.worker.wake();
        }
    }

    /// `callback` is told when everything below `physical_offset` is dispatched. Where too many wait, the one that has
    /// waited longest is refused.
    pub(crate) fn when_dispatched(&self, physical_offset: u64, callback: Callback) {
        let mut target = self.target.lock();
        let told = match &target.ended {
            _ if self.dispatched() >= physical_offset => Ok(()),
            Some(reason) => Err(StoreError::Stopped(reason.clone())),
            None => {
                let refused = (target.waiting.len() == WAITING_MAX).then(|| target.waiting.remove(0).1);
                target.waiting.push((physical_offset, callback));
                drop(target);
                if let Some(refused) = refused {
                    refused(Err(StoreError::Illegal("too many wait for messages to be dispatched".into())));
                }
                return;
            }
        };
        drop(target);
        callback(told);
    }

    /// Ends the step, and returns when it has ended.
    pub(crate) fn stop(&self, how: Stop) {
        self.target.lock().stop.get_or_insert(how);
        self.worker.wake();
        self.worker.join();
    }

    /// Nothing is dispatched any more: who waits for it is told.
    fn end(&self, reason: String) {
        let mut target = self.target.lock();
        let waiting = std::mem::take(&mut target.waiting);
        target.ended = Some(reason.clone());
        drop(target);
        for (_, callback) in waiting {
            callback(Err(StoreError::Stopped(reason.clone())));
        }
    }

    /// Whether an error is of damage to what is committed, for which the scrub looks then.
    pub(crate) fn is_looked_after(&self, error: &StoreError) -> bool {
        let StoreError::Corrupt { path, physical_offset, .. } = error else { return false };
        let segment = self.log.segments.of(*physical_offset).ok();
        if !self.log.damage.is_mended() {
            return false;
        }
        let is_of_log = |segment: &Arc<Segment>| segment.file.path() == path;
        let found = segment.filter(is_of_log).filter(|_| *physical_offset < self.committed());
        found.is_some_and(|segment| {
            self.log.damage.suspect(segment.base);
            true
        })
    }

    /// Dispatches up to `committed`, or one batch of it.
    fn dispatch(&self, committed: u64) -> Result<(), StoreError> {
        let start = self.dispatched();
        let mut walk = self.log.walk(start);
        let (mut position, mut end) = (start, *self.end.lock());
        while position < committed && position - start < BATCH_BYTES {
            let before = position;
            let frame = match walk.next() {
                // What was put before it is not put again.
                Err(e) if position > start && self.is_looked_after(&e) => break,
                other => other?,
            };
            position = walk.position();
            let Some(frame) = frame.filter(|_| position <= committed) else {
                return Err(StoreError::Illegal(format!(
                    "told that the log is committed up to physical offset {committed}, where no entry ends"
                )));
            };
            self.change_topics(&frame, before, end)?;
            if frame.header.kind == FrameKind::Messages {
                let records_at = frame.header.physical_offset + frame.header.records_at() as u64;
                end.last_ms = self.dispatch_records(frame.records(), records_at)?.unwrap_or(end.last_ms);
            }
            end.tail = walk.tail(&frame);
        }
        self.publish(end)
    }

    /// Has views drop what a command drops, all before it, up to `before`, being published.
    fn change_topics(&self, frame: &LogFrame, before: u64, end: LogEnd) -> Result<(), StoreError> {
        let mut changes = false;
        let note = &mut |_: TopicChange<'_>| changes = true;
        (self.log.topic_changes)(frame.command(), note);
        if !changes {
            return Ok(());
        }
        let dropped = topic_changes::dropped(self.log.topic_changes, frame.command());
        if !dropped.is_empty() && before > self.dispatched() {
            self.publish(end)?;
        }
        for topic in &dropped {
            let at = frame.header.physical_offset;
            self.views.iter().try_for_each(|view| view.drop_topic(topic, at))?;
        }
        self.log.with_offsets(|offsets| offsets.settle_changes(frame.header.end()));
        Ok(())
    }

    /// *Invariant 2*, read back: what views will point at is the record that was placed there. (Its queue offset is
    /// checked when a ConsumeQueue adds its unit.) Returns the store timestamp of the last one.
    fn dispatch_records(&self, records: &[u8], physical_offset: u64) -> Result<Option<i64>, StoreError> {
        let (mut at, mut last_ms) = (0, None);
        while at < records.len() {
            let record = RecordView::parse(&records[at..])
                .map_err(|e| StoreError::Illegal(format!("a committed record cannot be read: {e}")))?;
            let here = physical_offset + at as u64;
            if record.physical_offset() as u64 != here {
                return Err(StoreError::Divergence(format!(
                    "the committed record at physical offset {here} says it stands at {}",
                    record.physical_offset()
                )));
            }
            at += record.total_size();
            last_ms = Some(record.store_timestamp_ms());
            if record.queue_offset() as u64 == NOWHERE {
                continue;
            }
            let committed = Committed::new(record, &self.properties);
            self.views.iter().try_for_each(|view| view.put(&committed))?;
        }
        Ok(last_ms)
    }

    fn publish(&self, end: LogEnd) -> Result<(), StoreError> {
        let position = end.tail.end;
        self.views.iter().try_for_each(|view| view.publish())?;
        let mut target = self.target.lock();
        *self.end.lock() = end;
        self.dispatched.store(position, Ordering::Release);
        let reached: Vec<_> = target.waiting.extract_if(.., |(until, _)| *until <= position).collect();
        drop(target);
        reached.into_iter().for_each(|(_, callback)| callback(Ok(())));
        self.views.iter().for_each(|view| view.announce());
        Ok(())
    }
}

/// Dispatches a batch each time, and has checkpoints made.
pub(crate) struct ReputStep {
    reput: Arc<Reput>,
    checkpoints: Arc<Checkpoints>,
    clock: Arc<dyn Clock>,
    /// The position that was recorded last, and when.
    recorded: (u64, Duration),
    on_failure: Report,
}

impl ReputStep {
    pub(crate) fn new(
        reput: Arc<Reput>,
        checkpoints: Arc<Checkpoints>,
        clock: Arc<dyn Clock>,
        on_failure: Report,
    ) -> Self {
        let recorded = (reput.dispatched(), clock.passed());
        Self { reput, checkpoints, clock, recorded, on_failure }
    }

    fn go_on(&mut self) -> Result<Next, StoreError> {
        let mut target = self.reput.target.lock();
        if let Some(how) = target.stop {
            drop(target);
            if how == Stop::Checkpoint {
                self.record();
            }
            self.reput.end("it was closed".into());
            return Ok(Next::End);
        }
        let committed = target.committed;
        target.awake = committed > self.reput.dispatched();
        if !target.awake {
            drop(target);
            return Ok(self.record_if_due());
        }
        drop(target);
        self.reput.dispatch(committed)?;
        self.record_if_due();
        Ok(Next::Again)
    }

    /// Has a checkpoint made, if it is time to. Says when it will be, while nothing is committed.
    fn record_if_due(&mut self) -> Next {
        let (position, at) = self.recorded;
        let dispatched = self.reput.dispatched() - position;
        if dispatched == 0 {
            return Next::Wait;
        }
        let left = (at + CHECKPOINT_INTERVAL).saturating_sub(self.clock.passed());
        if !left.is_zero() && dispatched < CHECKPOINT_BYTES {
            return Next::WaitFor(left);
        }
        if self.checkpoints.is_busy() {
            return Next::WaitFor(CHECKPOINT_INTERVAL);
        }
        self.record();
        Next::Wait
    }

    /// Everything below the position, and nothing behind it, is published now: what is counted belongs to it.
    fn record(&mut self) {
        let end = *self.reput.end.lock();
        self.checkpoints.record(Checkpoint::as_of(end, &self.reput.views));
        self.recorded = (end.tail.end, self.clock.passed());
    }
}

impl Step for ReputStep {
    fn step(&mut self) -> Next {
        self.go_on().unwrap_or_else(|e| {
            if self.reput.is_looked_after(&e) {
                return Next::WaitFor(MENDING_WAIT);
            }
            tracing::error!("dispatch failed, the node stops: {e}");
            self.reput.end(format!("dispatch failed: {e}"));
            (self.on_failure)(format!("dispatch: {e}"));
            Next::End
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::marks::{EntryId, Marks};
    use crate::queue_offsets::tests::record;
    use crate::recovery::tests::open;
    use crate::{FRAME_HEADER_BYTES, NewEntry};

    #[test]
    fn a_record_that_stands_elsewhere_than_it_says_is_not_dispatched() {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path(), Marks::default()).unwrap();
        let log = Arc::new(log);
        let reput = Reput::new(log.clone(), Vec::new(), LogEnd::of_nothing(0, log.seed));
        let append = |index| {
            let (id, kind) = (EntryId { term: 1, index }, FrameKind::Messages);
            let pieces = &mut [record()[..].into()];
            let entry = NewEntry { id, kind, leader: 1, command: &[], pieces, now_ms: 0 };
            log.append(entry, &mut Vec::new()).unwrap()
        };
        reput.dispatch(append(0).end).unwrap();
        let second = append(1);
        let segment = log.segments.of(0).unwrap();
        let mut moved = record();
        raftmq_message::record::patch_positions(&mut moved, 1, second.start, 0).unwrap();
        segment.file.write_at(second.start + FRAME_HEADER_BYTES as u64, &moved).unwrap();
        assert!(matches!(reput.dispatch(second.end), Err(StoreError::Divergence(_))));
        assert_eq!(reput.dispatched(), second.start);
    }
}
