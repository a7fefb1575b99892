//! Reput: follows the committed log and fills ConsumeQueues and IndexFiles.
//!
//! *Invariant 4*: they hold committed messages only, and are derived: whatever is missing is made again from the log.
//! A position in the log up to which everything is durable in them is recorded from time to time; a start drops what
//! lies behind it and does that part again.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};
use raftmq_message::hash::tags_code;
use raftmq_message::properties;
use raftmq_message::record::RecordView;

use crate::commit_log::CommitLog;
use crate::consume_queue::{ConsumeQueue, Unit};
use crate::consume_queues::ConsumeQueues;
use crate::disk::Disk;
use crate::error::StoreError;
use crate::frame::{FRAME_HEADER_BYTES, FrameKind};
use crate::index_files::IndexFiles;

/// Log dispatched before consumers see it, in bytes: bounds the time a new message waits behind a backlog.
const BATCH_BYTES: u64 = 1 << 20;
/// How often the position is recorded while messages arrive. A start after a kill dispatches at most this much again.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(10);

/// Transaction bits of a record's sysFlag: half messages and rollbacks are not for consumers.
const TRANSACTION_BITS: i32 = 0xC;
const TRANSACTION_PREPARED: i32 = 0x4;
const TRANSACTION_ROLLBACK: i32 = 0xC;

/// What one batch of dispatched messages brought to one queue.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The topic.
    pub topic: Arc<str>,
    /// The queue.
    pub queue_id: u32,
    /// The queue's offset after it: the next to be written.
    pub max_offset: u64,
    /// Tags code of the last message.
    pub tags_code: i64,
    /// When the last message was stored, in ms since the epoch.
    pub store_timestamp_ms: i64,
}

/// Told of arrivals, on the reput thread, once a batch.
pub type ArrivalListener = Box<dyn Fn(&[Arrival]) + Send + Sync>;

pub(crate) struct Reput {
    log: Arc<CommitLog>,
    queues: Arc<ConsumeQueues>,
    index: Arc<IndexFiles>,
    disk: Arc<dyn Disk>,
    checkpoint_path: PathBuf,
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
    stop: bool,
    failed: bool,
}

/// Queues that got units since they were last made readable.
#[derive(Default)]
struct Touched {
    by_topic: HashMap<Arc<str>, BTreeMap<u32, TouchedQueue>>,
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
        queues: Arc<ConsumeQueues>,
        index: Arc<IndexFiles>,
        checkpoint_path: PathBuf,
        dispatched: u64,
        on_failure: Box<dyn Fn(String) + Send + Sync>,
    ) -> Self {
        Self {
            disk: log.disk.clone(),
            log,
            queues,
            index,
            checkpoint_path,
            dispatched: AtomicU64::new(dispatched),
            target: Mutex::new(Target { committed: dispatched, ..Target::default() }),
            work: Condvar::new(),
            progress: Condvar::new(),
            listener: RwLock::new(None),
            on_failure,
        }
    }

    pub(crate) fn spawn(self: &Arc<Self>) -> std::io::Result<JoinHandle<()>> {
        let reput = self.clone();
        std::thread::Builder::new().name("raftmq-reput".into()).spawn(move || reput.run())
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
            if target.failed || target.stop || self.progress.wait_until(&mut target, deadline).timed_out() {
                return self.dispatched() >= physical_offset;
            }
        }
        true
    }

    pub(crate) fn stop(&self) {
        self.target.lock().stop = true;
        self.work.notify_all();
        self.progress.notify_all();
    }

    fn run(&self) {
        if let Err(e) = self.follow() {
            tracing::error!("dispatch failed, the node stops: {e}");
            self.target.lock().failed = true;
            self.progress.notify_all();
            (self.on_failure)(format!("dispatch: {e}"));
        }
    }

    fn follow(&self) -> Result<(), StoreError> {
        let mut recorded = (self.dispatched(), Instant::now());
        loop {
            let committed = {
                let mut target = self.target.lock();
                if target.committed <= self.dispatched() && !target.stop {
                    self.work.wait_for(&mut target, CHECKPOINT_INTERVAL);
                }
                if target.stop {
                    return self.checkpoint();
                }
                target.committed
            };
            if committed > self.dispatched() {
                self.dispatch(committed)?;
            }
            if self.dispatched() != recorded.0 && recorded.1.elapsed() >= CHECKPOINT_INTERVAL {
                self.checkpoint()?;
                recorded = (self.dispatched(), Instant::now());
            }
        }
    }

    /// Dispatches up to `committed`, or one batch of it.
    fn dispatch(&self, committed: u64) -> Result<(), StoreError> {
        let mut touched = Touched::default();
        let start = self.dispatched();
        let mut walk = self.log.walk(start);
        let mut position = start;
        while position < committed && position - start < BATCH_BYTES {
            let Some(frame) = walk.next()? else { break };
            if frame.header.kind == FrameKind::Messages {
                self.dispatch_records(frame.payload(), &mut touched)?;
            }
            position = walk.position();
            debug_assert_eq!(position, frame.header.physical_offset + (FRAME_HEADER_BYTES + frame.payload().len()) as u64);
        }
        self.publish(touched, position.min(committed))
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
        let properties = record.properties();
        let tags_code = properties::get(properties, properties::names::TAGS).map_or(0, tags_code);
        let unit = Unit {
            physical_offset: record.physical_offset() as u64,
            size: record.total_size() as u32,
            tags_code,
        };
        let queue_id = record.queue_id() as u32;
        let queue = touched.queue(&self.queues, record.topic(), queue_id)?;
        queue.queue.append(record.queue_offset() as u64, unit)?;
        queue.tags_code = tags_code;
        queue.store_timestamp_ms = record.store_timestamp_ms();

        let transaction = record.sys_flag() & TRANSACTION_BITS;
        if transaction == TRANSACTION_ROLLBACK || transaction == TRANSACTION_PREPARED {
            return Ok(());
        }
        let (physical_offset, stored) = (unit.physical_offset, record.store_timestamp_ms());
        if let Some(key) = properties::get(properties, properties::names::UNIQ_KEY) {
            self.index.put(record.topic(), key, physical_offset, stored)?;
        }
        if let Some(keys) = properties::get(properties, properties::names::KEYS) {
            for key in properties::split_keys(keys) {
                self.index.put(record.topic(), key, physical_offset, stored)?;
            }
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

    /// Makes what is derived durable, then records up to where it goes.
    fn checkpoint(&self) -> Result<(), StoreError> {
        let position = self.dispatched();
        self.queues.flush_all()?;
        self.index.flush()?;
        let checkpoint = Checkpoint { position, units: total_units(&self.queues) };
        checkpoint.write(&*self.disk, &self.checkpoint_path)
    }
}

impl Touched {
    /// The queue, looked up without an allocation once it is known.
    fn queue(&mut self, queues: &ConsumeQueues, topic: &str, queue_id: u32) -> Result<&mut TouchedQueue, StoreError> {
        if !self.by_topic.contains_key(topic) {
            self.by_topic.insert(topic.into(), BTreeMap::new());
        }
        let of_topic = self.by_topic.get_mut(topic).expect("inserted above");
        match of_topic.entry(queue_id) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(new) => {
                let queue = queues.get_or_create(topic, queue_id)?;
                Ok(new.insert(TouchedQueue { queue, tags_code: 0, store_timestamp_ms: 0 }))
            }
        }
    }

    /// Makes the new units readable.
    fn publish(self) -> Result<Vec<Arrival>, StoreError> {
        let mut arrivals = Vec::new();
        for (topic, queues) in self.by_topic {
            for (queue_id, touched) in queues {
                let max_offset = touched.queue.publish()?;
                let TouchedQueue { tags_code, store_timestamp_ms, .. } = touched;
                arrivals.push(Arrival { topic: topic.clone(), queue_id, max_offset, tags_code, store_timestamp_ms });
            }
        }
        Ok(arrivals)
    }
}

/// Units in all queues: tells a checkpoint whose queues were deleted.
fn total_units(queues: &ConsumeQueues) -> u64 {
    queues.max_offsets().map(|(_, _, max)| max).sum()
}

/// Up to where the derived files were complete and durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Checkpoint {
    position: u64,
    units: u64,
}

impl Checkpoint {
    fn write(self, disk: &dyn Disk, path: &std::path::Path) -> Result<(), StoreError> {
        let text = format!("dispatched={}\nunits={}\n", self.position, self.units);
        disk.replace(path, text.as_bytes()).map_err(StoreError::io("write", path))
    }

    fn read(disk: &dyn Disk, path: &std::path::Path) -> Result<Option<Self>, StoreError> {
        let Some(bytes) = disk.read(path).map_err(StoreError::io("read", path))? else { return Ok(None) };
        let text = String::from_utf8_lossy(&bytes);
        let number = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')?.parse().ok());
        Ok(number("dispatched").zip(number("units")).map(|(position, units)| Self { position, units }))
    }
}

/// Brings the derived files back to a position in the log from which dispatch goes on, and returns it. Whatever does
/// not fit together is deleted, and the position is the log's start.
pub(crate) fn recover_derived(
    disk: &Arc<dyn Disk>,
    dir: &std::path::Path,
    checkpoint_path: &std::path::Path,
    log: &CommitLog,
    open: impl Fn(u64) -> Result<(ConsumeQueues, IndexFiles), StoreError>,
) -> Result<(ConsumeQueues, IndexFiles, u64), StoreError> {
    let checkpoint = Checkpoint::read(&**disk, checkpoint_path)?.filter(|c| c.position <= log.end());
    let position = checkpoint.map_or(log.start(), |c| c.position);
    let restored = open(position);
    match restored {
        Ok((queues, index)) if total_units(&queues) == checkpoint.map_or(0, |c| c.units) => Ok((queues, index, position)),
        outcome => {
            let why = outcome.err().map_or_else(|| "units are missing".to_owned(), |e| e.to_string());
            tracing::warn!("making ConsumeQueues and IndexFiles again from the log: {why}");
            remove_tree(&**disk, &dir.join("consumequeue"))?;
            remove_tree(&**disk, &dir.join("index"))?;
            let (queues, index) = open(log.start())?;
            Ok((queues, index, log.start()))
        }
    }
}

/// Removes the files below a folder. Empty folders may stay.
fn remove_tree(disk: &dyn Disk, dir: &std::path::Path) -> Result<(), StoreError> {
    for path in disk.list(dir).map_err(StoreError::io("list", dir))? {
        if path.is_dir() {
            remove_tree(disk, &path)?;
        } else {
            disk.remove(&path).map_err(StoreError::io("remove", &path))?;
        }
    }
    Ok(())
}
