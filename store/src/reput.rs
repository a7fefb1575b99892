//! Reput: follows the committed log and fills ConsumeQueues, IndexFiles and the timer index.
//!
//! *Invariant 4*: they hold committed messages only, and are derived: whatever is missing is made again from the log.
//! How far they are durable is recorded from time to time, see `checkpoint.rs`.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};
use raftmq_message::hash::tags_code;
use raftmq_message::properties;
use raftmq_message::record::{RecordView, sys_flag};
use raftmq_message::timer;
use raftmq_message::topic::TIMER_TOPIC;

use crate::checkpoint::{Checkpoints, Derived};
use crate::commit_log::CommitLog;
use crate::consume_queue::{ConsumeQueue, Unit};
use crate::consume_queues::ConsumeQueues;
use crate::error::StoreError;
use crate::frame::FrameKind;
use crate::timer_index::TimerEntry;

/// Log dispatched before consumers see it, in bytes: bounds the time a new message waits behind a backlog.
const BATCH_BYTES: u64 = 1 << 20;
/// How often the position is recorded while messages arrive. A start after a kill dispatches at most this much again.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(10);

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

/// Told of arrivals, on the reput thread, once a batch.
pub type ArrivalListener = Box<dyn Fn(&[Arrival]) + Send + Sync>;

pub(crate) struct Reput {
    log: Arc<CommitLog>,
    derived: Derived,
    /// Everything below is dispatched and readable.
    dispatched: AtomicU64,
    target: Mutex<Target>,
    work: Condvar,
    progress: Condvar,
    listener: RwLock<Option<ArrivalListener>>,
    on_failure: Box<dyn Fn(String) + Send + Sync>,
}

#[derive(Default)]
struct Target {
    /// Committed up to this physical offset.
    committed: u64,
    stop: Option<Stop>,
    failed: bool,
}

/// How the thread ends.
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
    pub(crate) fn new(
        log: Arc<CommitLog>,
        derived: Derived,
        dispatched: u64,
        on_failure: Box<dyn Fn(String) + Send + Sync>,
    ) -> Self {
        Self {
            log,
            derived,
            dispatched: AtomicU64::new(dispatched),
            target: Mutex::new(Target { committed: dispatched, ..Target::default() }),
            work: Condvar::new(),
            progress: Condvar::new(),
            listener: RwLock::new(None),
            on_failure,
        }
    }

    pub(crate) fn spawn(self: &Arc<Self>, checkpoints: Checkpoints) -> std::io::Result<JoinHandle<()>> {
        let reput = self.clone();
        std::thread::Builder::new().name("raftmq-reput".into()).spawn(move || reput.run(checkpoints))
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
        if physical_offset > target.committed {
            target.committed = physical_offset;
            self.work.notify_one();
        }
    }

    /// Waits until everything below `physical_offset` is dispatched; `false` if that did not come within `timeout`.
    pub(crate) fn wait_dispatched(&self, physical_offset: u64, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut target = self.target.lock();
        while self.dispatched() < physical_offset {
            if target.failed
                || target.stop.is_some()
                || self.progress.wait_until(&mut target, deadline).timed_out()
            {
                return self.dispatched() >= physical_offset;
            }
        }
        true
    }

    pub(crate) fn stop(&self, how: Stop) {
        self.target.lock().stop.get_or_insert(how);
        self.work.notify_all();
        self.progress.notify_all();
    }

    fn run(&self, mut checkpoints: Checkpoints) {
        let followed = self.follow(&mut checkpoints);
        if let Err(e) = followed.and(checkpoints.wait()) {
            tracing::error!("dispatch failed, the node stops: {e}");
            self.target.lock().failed = true;
            self.progress.notify_all();
            (self.on_failure)(format!("dispatch: {e}"));
        }
    }

    fn follow(&self, checkpoints: &mut Checkpoints) -> Result<(), StoreError> {
        let mut recorded = (self.dispatched(), Instant::now());
        loop {
            let committed = {
                let mut target = self.target.lock();
                if target.committed <= self.dispatched() && target.stop.is_none() {
                    self.work.wait_for(&mut target, CHECKPOINT_INTERVAL);
                }
                match target.stop {
                    Some(Stop::AtOnce) => return Ok(()),
                    Some(Stop::Checkpoint) => break,
                    None => target.committed,
                }
            };
            if committed > self.dispatched() {
                self.dispatch(committed)?;
            }
            let due = recorded.1.elapsed() >= CHECKPOINT_INTERVAL && !checkpoints.is_busy();
            if due && self.dispatched() != recorded.0 {
                checkpoints.begin(self.dispatched())?;
                recorded = (self.dispatched(), Instant::now());
            }
        }
        checkpoints.begin(self.dispatched())
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
                self.dispatch_records(frame.records(), &mut touched)?;
            }
        }
        self.publish(touched, position)
    }

    fn dispatch_records(&self, records: &[u8], touched: &mut Touched) -> Result<(), StoreError> {
        let mut at = 0;
        while at < records.len() {
            let record = RecordView::parse(&records[at..])
                .map_err(|e| StoreError::Illegal(format!("a committed record cannot be read: {e}")))?;
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
        {
            let _target = self.target.lock();
            self.dispatched.store(position, Ordering::Release);
            self.progress.notify_all();
        }
        if !arrivals.is_empty()
            && let Some(listener) = &*self.listener.read()
        {
            listener(&arrivals);
        }
        Ok(())
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
