//! One queue a push consumer works on: what was pulled and is not consumed yet, and from that the offset to commit.
//!
//! It knows offsets and sizes alone; the messages are with those who consume them. Whoever takes a queue away says so
//! here, and everything else asks here whether its work still counts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use raftmq_remoting::body::MessageQueue;
use raftmq_world::Clock;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::message::MessageExt;
use crate::offset_store::OffsetStore;

/// How long a lock counts that was not renewed. Brokers hold it for 60 s.
const LOCK_LIVES: Duration = Duration::from_secs(30);

/// How far the work on a queue still counts. It only ever goes down this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// It is pulled and consumed.
    Live,
    /// Nothing new begins; what is being consumed still counts.
    Closing,
    /// Nothing counts any more: somebody else may be at it.
    Dropped,
}

/// What a queue may hold before it is not pulled for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Thresholds {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
    /// Between the first and the last offset.
    pub(crate) span: Option<i64>,
}

#[derive(Debug)]
pub(crate) struct ProcessQueue {
    pub(crate) queue: MessageQueue,
    state: Mutex<State>,
    phase: watch::Sender<Phase>,
    /// Something was taken out.
    room: Notify,
    store: Arc<dyn OffsetStore>,
    /// The broker id to pull from; 0 is the leader.
    pub(crate) pull_from: AtomicI64,
    /// How many batches are in the listener or on their way back to the broker.
    running: watch::Sender<usize>,
    clock: Arc<dyn Clock>,
    pub(crate) last_pull_ms: AtomicI64,
    pub(crate) last_consume_ms: AtomicI64,
}

#[derive(Debug, Default)]
struct State {
    /// Sizes of the bodies by offset.
    unconsumed: BTreeMap<i64, usize>,
    bytes: usize,
    /// Where the pull has come to: everything below was pulled. Nothing before the first pull.
    next_offset: Option<i64>,
    locked_at: Option<Instant>,
}

/// Numbers about a queue for operators.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cached {
    pub(crate) min_offset: i64,
    pub(crate) max_offset: i64,
    pub(crate) count: usize,
    pub(crate) bytes: usize,
}

impl ProcessQueue {
    pub(crate) fn new(queue: MessageQueue, store: Arc<dyn OffsetStore>, clock: Arc<dyn Clock>) -> Self {
        let now_ms = clock.now_ms();
        Self {
            queue,
            state: Mutex::default(),
            phase: watch::Sender::new(Phase::Live),
            room: Notify::new(),
            store,
            pull_from: AtomicI64::new(0),
            running: watch::Sender::new(0),
            clock,
            last_pull_ms: AtomicI64::new(now_ms),
            last_consume_ms: AtomicI64::new(now_ms),
        }
    }

    /// Notes what a pull has brought, which ends before `next_offset`. Where there is nothing to consume that is at once
    /// the offset to commit.
    pub(crate) fn pulled(&self, messages: &[MessageExt], next_offset: i64) {
        self.last_pull_ms.store(self.clock.now_ms(), Ordering::Relaxed);
        let mut state = self.state.lock();
        for message in messages {
            let size = message.body.len();
            if state.unconsumed.insert(message.queue_offset, size).is_none() {
                state.bytes += size;
            }
        }
        state.next_offset = Some(next_offset);
        self.note_offset(&state);
    }

    /// Notes that messages are consumed, or need not be. Says whether that still counts.
    pub(crate) fn done(&self, offsets: impl IntoIterator<Item = i64>) -> bool {
        self.last_consume_ms.store(self.clock.now_ms(), Ordering::Relaxed);
        let mut state = self.state.lock();
        for offset in offsets {
            if let Some(size) = state.unconsumed.remove(&offset) {
                state.bytes -= size;
            }
        }
        let counts = self.note_offset(&state);
        drop(state);
        self.room.notify_one();
        counts
    }

    /// Gives the store the smallest offset that is not consumed. Under the state's lock, so that nothing is noted for a
    /// queue that was dropped before.
    fn note_offset(&self, state: &State) -> bool {
        if self.phase() == Phase::Dropped {
            return false;
        }
        if let Some(offset) = state.commit_offset() {
            self.store.update_offset(&self.queue, offset, true);
        }
        true
    }

    pub(crate) fn cached(&self) -> Cached {
        let state = self.state.lock();
        Cached {
            min_offset: state.unconsumed.first_key_value().map_or(0, |(offset, _)| *offset),
            max_offset: state.unconsumed.last_key_value().map_or(0, |(offset, _)| *offset),
            count: state.unconsumed.len(),
            bytes: state.bytes,
        }
    }

    /// Waits until the queue may be pulled. The thresholds are asked for each time, as they may change.
    pub(crate) async fn wait_for_room(&self, thresholds: impl Fn() -> Thresholds) {
        while !self.state.lock().has_room(thresholds()) {
            // One who waits at a time, so that a notification in between is kept for it.
            self.room.notified().await;
        }
    }

    /// A batch goes to the listener; it has come back when the guard is dropped. Nothing if no batch may begin.
    pub(crate) fn begin(&self) -> Option<Running<'_>> {
        self.running.send_modify(|running| *running += 1);
        let guard = Running { queue: self };
        // Looked at after counting: whoever closes the queue and then sees no batch may rely on it.
        self.is_live().then_some(guard)
    }

    pub(crate) fn is_idle(&self) -> bool {
        *self.running.borrow() == 0
    }

    /// Resolves when no batch is at the listener.
    pub(crate) async fn idle(&self) {
        // The sender lives as long as `self`, so there is no error.
        drop(self.running.subscribe().wait_for(|running| *running == 0).await);
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Nothing new is to begin.
    pub(crate) fn close(&self) {
        self.advance(Phase::Closing);
    }

    /// Nothing that is under way counts any more.
    pub(crate) fn drop_now(&self) {
        // With the state's lock: see `note_offset`.
        let _state = self.state.lock();
        self.advance(Phase::Dropped);
    }

    fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let further = to > *phase;
            *phase = (*phase).max(to);
            further
        });
        self.room.notify_one();
    }

    pub(crate) fn is_live(&self) -> bool {
        self.phase() == Phase::Live
    }

    /// Resolves when the queue is not live any more.
    pub(crate) async fn closing(&self) {
        self.reached(Phase::Closing).await;
    }

    /// Resolves when nothing counts any more.
    pub(crate) async fn dropped(&self) {
        self.reached(Phase::Dropped).await;
    }

    async fn reached(&self, wanted: Phase) {
        // The sender lives as long as `self`, so there is no error.
        drop(self.phase.subscribe().wait_for(|phase| *phase >= wanted).await);
    }

    /// A broker has granted or renewed the lock, which was asked for at `asked_at`. False if the lock had run out in the
    /// meantime, so that another may have had it.
    pub(crate) fn locked(&self, asked_at: Instant) -> bool {
        let mut state = self.state.lock();
        let unbroken = state.locked_at.is_none_or(|at| at + LOCK_LIVES > Instant::now());
        state.locked_at = Some(asked_at);
        unbroken
    }

    /// When the lock was last asked for with success.
    pub(crate) fn locked_at(&self) -> Option<Instant> {
        self.state.lock().locked_at
    }

    pub(crate) fn is_locked(&self) -> bool {
        self.locked_at().is_some_and(|at| at + LOCK_LIVES > Instant::now())
    }
}

/// See [`ProcessQueue::begin`].
pub(crate) struct Running<'a> {
    queue: &'a ProcessQueue,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.queue.running.send_modify(|running| *running -= 1);
    }
}

impl State {
    fn commit_offset(&self) -> Option<i64> {
        self.unconsumed.first_key_value().map(|(offset, _)| *offset).or(self.next_offset)
    }

    fn has_room(&self, thresholds: Thresholds) -> bool {
        let span = match (self.unconsumed.first_key_value(), self.unconsumed.last_key_value()) {
            (Some((first, _)), Some((last, _))) => last.saturating_sub(*first),
            _ => 0,
        };
        self.unconsumed.len() < thresholds.messages
            && self.bytes < thresholds.bytes
            && thresholds.span.is_none_or(|most| span <= most)
    }
}

#[cfg(test)]
mod tests;
