//! Reput: follows the committed log and fills ConsumeQueues, IndexFiles and the timer index.
//!
//! *Invariant 4*: they hold committed messages only, and are derived: whatever is missing is made again from the log.
//! How far they are durable is recorded from time to time, see `checkpoint.rs`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use raftmq_message::hash::tags_code;
use raftmq_message::properties;
use raftmq_message::record::{RecordView, sys_flag};
use raftmq_message::timer;
use raftmq_message::topic::TIMER_TOPIC;
use raftmq_world::hash::HashMap;
use raftmq_world::{Clock, Next, Step, Threads};

use crate::checkpoint::{Checkpoints, Derived};
use crate::commit_log::CommitLog;
use crate::consume_queue::{ConsumeQueue, Unit};
use crate::consume_queues::ConsumeQueues;
use crate::error::StoreError;
use crate::flush::Callback;
use crate::frame::FrameKind;
use crate::timer_index::TimerEntry;
use crate::worker::{Handle, Report};

/// Log dispatched before consumers see it, in bytes: bounds the time a new message waits behind a backlog.
const BATCH_BYTES: u64 = 1 << 20;
/// How often the position is recorded while messages arrive. A start after a kill dispatches at most this much again.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(10);
/// How many may wait for the same store's dispatch.
const WAITING_MAX: usize = 64;

/// What one batch of dispatched messages brought to one queue.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The topic.
    pub topic: Arc<str>,
    /// The queue.
    pub queue_id: u32,
    /// The queue's offset after it: the next to be written.
    pub max_offset: u64,
    /// Tags code of the last message; when it is due, in the timers' queue.
    pub tags_code: i64,
    /// When the last message was stored, in ms since the epoch.
    pub store_timestamp_ms: i64,
}

/// Told of arrivals by the reput step, once a batch. Must not block.
pub type ArrivalListener = Box<dyn Fn(&[Arrival]) + Send + Sync>;

pub(crate) struct Reput {
    log: Arc<CommitLog>,
    derived: Derived,
    /// Everything below is dispatched and readable.
    dispatched: AtomicU64,
    target: Mutex<Target>,
    listener: RwLock<Option<ArrivalListener>>,
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

/// How the steps that make what is derived end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// With a last checkpoint.
    Checkpoint,
    /// Just so, as if the process had been killed.
    AtOnce,
}

/// Queues that got units since they were last made readable.
#[derive(Default)]
struct Touched {
    topics: Vec<(Arc<str>, BTreeMap<u32, TouchedQueue>)>,
    by_name: HashMap<Arc<str>, usize>,
    /// The topic looked up last: mostly the next one too.
    recent: usize,
}

/// One such queue.
struct TouchedQueue {
    queue: Arc<ConsumeQueue>,
    tags_code: i64,
    store_timestamp_ms: i64,
}

impl Reput {
    pub(crate) fn new(log: Arc<CommitLog>, derived: Derived, dispatched: u64) -> Self {
        Self {
            log,
            derived,
            dispatched: AtomicU64::new(dispatched),
            target: Mutex::new(Target { committed: dispatched, ..Target::default() }),
            listener: RwLock::new(None),
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

    pub(crate) fn set_listener(&self, listener: ArrivalListener) {
        *self.listener.write() = Some(listener);
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

    /// Dispatches up to `committed`, or one batch of it.
    fn dispatch(&self, committed: u64) -> Result<(), StoreError> {
        let mut touched = Touched::default();
        let start = self.dispatched();
        let mut walk = self.log.walk(start);
        let mut position = start;
        while position < committed && position - start < BATCH_BYTES {
            let frame = walk.next()?;
            position = walk.position();
            let Some(frame) = frame.filter(|_| position <= committed) else {
                return Err(StoreError::Illegal(format!(
                    "told that the log is committed up to physical offset {committed}, where no entry ends"
                )));
            };
            if frame.header.kind == FrameKind::Messages {
                let records_at = frame.header.physical_offset + frame.header.records_at() as u64;
                self.dispatch_records(frame.records(), records_at, &mut touched)?;
            }
        }
        self.publish(touched, position)
    }

    /// *Invariant 2*, read back: what a unit will point at is the record that was placed there. (Its queue offset is
    /// checked when the unit is added.)
    fn dispatch_records(
        &self,
        records: &[u8],
        physical_offset: u64,
        touched: &mut Touched,
    ) -> Result<(), StoreError> {
        let mut at = 0;
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
            self.dispatch_record(&record, touched)?;
        }
        Ok(())
    }

    fn dispatch_record(&self, record: &RecordView<'_>, touched: &mut Touched) -> Result<(), StoreError> {
        let properties = Indexed::of(record.properties());
        let queue_id = record.queue_id() as u32;
        let due_ms =
            (record.topic() == TIMER_TOPIC && queue_id == 0).then(|| timer::due_ms(record.properties()));
        let tags_code = due_ms.unwrap_or_else(|| properties.tags.map_or(0, tags_code));
        let unit = Unit {
            physical_offset: record.physical_offset() as u64,
            size: record.total_size() as u32,
            tags_code,
        };
        if let Some(due_ms) = due_ms {
            let (queue_offset, Unit { physical_offset, size, .. }) = (record.queue_offset() as u64, unit);
            self.derived.timers.put(TimerEntry { due_ms, queue_offset, physical_offset, size })?;
        }
        let queue = touched.queue(&self.derived.queues, record.topic(), queue_id)?;
        queue.queue.append(record.queue_offset() as u64, unit)?;
        queue.tags_code = tags_code;
        queue.store_timestamp_ms = record.store_timestamp_ms();

        // Half messages and rollbacks are not for consumers to find.
        let transaction = record.sys_flag() & sys_flag::TRANSACTION_MASK;
        if transaction == sys_flag::TRANSACTION_ROLLBACK || transaction == sys_flag::TRANSACTION_PREPARED {
            return Ok(());
        }
        let (physical_offset, stored) = (unit.physical_offset, record.store_timestamp_ms());
        let index = &self.derived.index;
        let keys = properties.keys.into_iter().flat_map(properties::split_keys);
        for key in properties.unique_key.into_iter().chain(keys) {
            index.put(record.topic(), key, physical_offset, stored)?;
        }
        Ok(())
    }

    fn publish(&self, touched: Touched, position: u64) -> Result<(), StoreError> {
        let arrivals = touched.publish()?;
        let mut target = self.target.lock();
        self.dispatched.store(position, Ordering::Release);
        let reached: Vec<_> = target.waiting.extract_if(.., |(until, _)| *until <= position).collect();
        drop(target);
        reached.into_iter().for_each(|(_, callback)| callback(Ok(())));
        if !arrivals.is_empty()
            && let Some(listener) = &*self.listener.read()
        {
            listener(&arrivals);
        }
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
        if self.reput.dispatched() == position {
            return Next::Wait;
        }
        let left = (at + CHECKPOINT_INTERVAL).saturating_sub(self.clock.passed());
        if !left.is_zero() {
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
        let position = self.reput.dispatched();
        self.checkpoints.record(self.reput.derived.as_of(position));
        self.recorded = (position, self.clock.passed());
    }
}

impl Step for ReputStep {
    fn step(&mut self) -> Next {
        self.go_on().unwrap_or_else(|e| {
            tracing::error!("dispatch failed, the node stops: {e}");
            self.reput.end(format!("dispatch failed: {e}"));
            (self.on_failure)(format!("dispatch: {e}"));
            Next::End
        })
    }
}

/// The properties that dispatch needs, found in one pass.
#[derive(Debug, Default, PartialEq, Eq)]
struct Indexed<'a> {
    tags: Option<&'a str>,
    unique_key: Option<&'a str>,
    keys: Option<&'a str>,
}

impl<'a> Indexed<'a> {
    /// Of a name that occurs twice the last value counts, as in [`properties::get`].
    fn of(list: &'a str) -> Self {
        let mut found = Self::default();
        let mut start = 0;
        while start < list.len() {
            let rest = &list.as_bytes()[start..];
            let end = start + rest.iter().position(|b| *b == properties::PAIR_END).unwrap_or(rest.len());
            // Most entries have another name: tell by the first letter.
            if matches!(rest[0], b'T' | b'U' | b'K') {
                found.take(&list[start..end]);
            }
            start = end + 1;
        }
        found
    }

    fn take(&mut self, entry: &'a str) {
        let Some((name, value)) = entry.split_once(char::from(properties::KEY_END)) else { return };
        let place = match name {
            properties::names::TAGS => &mut self.tags,
            properties::names::UNIQ_KEY => &mut self.unique_key,
            properties::names::KEYS => &mut self.keys,
            _ => return,
        };
        if !value.is_empty() {
            *place = Some(value);
        }
    }
}

impl Touched {
    /// The queue, looked up without an allocation once it is known.
    fn queue(
        &mut self,
        queues: &ConsumeQueues,
        topic: &str,
        queue_id: u32,
    ) -> Result<&mut TouchedQueue, StoreError> {
        if self.topics.get(self.recent).is_none_or(|(recent, _)| &**recent != topic) {
            self.recent = self.topic(topic);
        }
        match self.topics[self.recent].1.entry(queue_id) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(new) => {
                let queue = queues.get_or_create(topic, queue_id)?;
                Ok(new.insert(TouchedQueue { queue, tags_code: 0, store_timestamp_ms: 0 }))
            }
        }
    }

    fn topic(&mut self, name: &str) -> usize {
        if let Some(&at) = self.by_name.get(name) {
            return at;
        }
        let name: Arc<str> = name.into();
        self.topics.push((name.clone(), BTreeMap::new()));
        self.by_name.insert(name, self.topics.len() - 1);
        self.topics.len() - 1
    }

    /// Makes the new units readable.
    fn publish(self) -> Result<Vec<Arrival>, StoreError> {
        let mut arrivals = Vec::new();
        for (topic, queues) in self.topics {
            for (queue_id, touched) in queues {
                let max_offset = touched.queue.publish()?;
                let TouchedQueue { tags_code, store_timestamp_ms, .. } = touched;
                arrivals.push(Arrival {
                    topic: topic.clone(),
                    queue_id,
                    max_offset,
                    tags_code,
                    store_timestamp_ms,
                });
            }
        }
        Ok(arrivals)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use raftmq_message::properties::names::{KEYS, TAGS, UNIQ_KEY};

    use super::*;
    use crate::index_file::IndexShape;
    use crate::index_files::IndexFiles;
    use crate::marks::{EntryId, Marks};
    use crate::queue_offsets::tests::record;
    use crate::recovery::open_log;
    use crate::timer_index::TimerIndex;
    use crate::{FRAME_HEADER_BYTES, NewEntry};
    use raftmq_world::{Disk, OsDisk};

    #[test]
    fn a_record_that_stands_elsewhere_than_it_says_is_not_dispatched() {
        let dir = tempfile::tempdir().unwrap();
        let (dir, disk) = (dir.path(), Arc::new(OsDisk) as Arc<dyn Disk>);
        let (log, _) =
            open_log(disk.clone(), &dir.join("commitlog"), 64 * 1024, 7, Marks::default()).unwrap();
        let log = Arc::new(log);
        let derived = Derived {
            queues: Arc::new(ConsumeQueues::open(disk.clone(), dir, 100).unwrap()),
            index: Arc::new(
                IndexFiles::open(disk.clone(), dir, IndexShape { slots: 8, entries: 100 }, 0).unwrap(),
            ),
            timers: Arc::new(TimerIndex::open(disk, dir, 0, 0).unwrap()),
        };
        let reput = Reput::new(log.clone(), derived, 0);
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

    proptest! {
        #[test]
        fn one_pass_finds_what_a_look_up_of_each_name_finds(
            pieces in proptest::collection::vec(
                prop_oneof![
                    Just("TAGS"), Just("UNIQ_KEY"), Just("KEYS"), Just("\u{1}"), Just("\u{2}"), Just("T"), Just("x é"),
                ],
                0..30,
            )
        ) {
            let list = pieces.concat();
            let get = |name| properties::get(&list, name);
            let expected = Indexed { tags: get(TAGS), unique_key: get(UNIQ_KEY), keys: get(KEYS) };
            prop_assert_eq!(Indexed::of(&list), expected);
        }
    }
}
