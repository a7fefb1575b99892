//! Offsets, thresholds, phases and locks of a queue, against an offset store of the test's own.

use std::collections::BTreeMap;
use std::task::Poll;

use super::*;
use crate::message::tests::message;
use crate::offset_store::{OffsetFuture, ReadOffsetType};

/// Notes the last offset.
#[derive(Debug, Default)]
struct Noted(Mutex<Option<i64>>);

impl OffsetStore for Noted {
    fn load(&self) -> OffsetFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }
    fn update_offset(&self, _: &MessageQueue, offset: i64, increase_only: bool) {
        assert!(increase_only);
        *self.0.lock() = Some(offset);
    }
    fn update_and_freeze_offset(&self, _: &MessageQueue, _: i64) {}
    fn read_offset<'a>(&'a self, _: &'a MessageQueue, _: ReadOffsetType) -> OffsetFuture<'a, Option<i64>> {
        Box::pin(async { Ok(*self.0.lock()) })
    }
    fn persist_all<'a>(&'a self, _: &'a [MessageQueue]) -> OffsetFuture<'a, ()> {
        Box::pin(async { Ok(()) })
    }
    fn remove_offset(&self, _: &MessageQueue) {}
    fn clone_offset_table(&self, _: Option<&str>) -> BTreeMap<MessageQueue, i64> {
        BTreeMap::new()
    }
}

fn process_queue() -> (Arc<Noted>, ProcessQueue) {
    let noted = Arc::new(Noted::default());
    (noted.clone(), ProcessQueue::new(MessageQueue::default(), noted, raftmq_world::World::system().clock))
}

fn messages(offsets: impl IntoIterator<Item = i64>) -> Vec<MessageExt> {
    offsets.into_iter().map(|offset| message(offset, "10 bytes..")).collect()
}

const ANY: Thresholds = Thresholds { messages: usize::MAX, bytes: usize::MAX, span: None };

#[test]
fn the_offset_to_commit_is_the_smallest_that_is_not_done() {
    let (noted, queue) = process_queue();
    let committed = || *noted.0.lock();
    queue.pulled(&messages([3, 4, 7]), 9);
    assert_eq!(committed(), Some(3));
    for (done, expected) in [(4, 3), (3, 7), (7, 9)] {
        assert!(queue.done([done]));
        assert_eq!(committed(), Some(expected), "after {done}");
    }
    queue.pulled(&[], 20);
    assert_eq!(committed(), Some(20), "nothing that matches up to there");
    queue.pulled(&messages([25]), 30);
    assert_eq!(committed(), Some(25));
}

#[test]
fn what_is_done_counts_while_closing_and_not_after_a_drop() {
    let (noted, queue) = process_queue();
    queue.pulled(&messages([0, 1, 2]), 3);
    queue.close();
    assert!(queue.done([0]));
    assert_eq!(*noted.0.lock(), Some(1));
    queue.drop_now();
    assert!(!queue.done([1, 2]));
    assert_eq!(*noted.0.lock(), Some(1));
    queue.close();
    assert_eq!(queue.phase(), Phase::Dropped, "there is no way back");
}

#[tokio::test]
async fn a_full_queue_waits_until_something_is_done() {
    let (_, queue) = process_queue();
    queue.pulled(&messages([0, 5, 10]), 11);
    let limits = [
        Thresholds { messages: 3, ..ANY },
        Thresholds { bytes: 30, ..ANY },
        Thresholds { span: Some(9), ..ANY },
    ];
    queue.wait_for_room(|| Thresholds { messages: 4, bytes: 31, span: Some(10) }).await;
    for (done, limit) in [0, 5, 10].into_iter().zip(limits) {
        let mut waiting = Box::pin(queue.wait_for_room(|| limit));
        let polled = std::future::poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context))).await;
        assert_eq!(polled, Poll::Pending, "{limit:?}");
        queue.done([done]);
        waiting.await;
        queue.pulled(&messages([done]), 11);
    }
    let cached = queue.cached();
    assert_eq!((cached.min_offset, cached.max_offset, cached.count, cached.bytes), (0, 10, 3, 30));
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_ran_out_is_not_renewed_silently() {
    let (_, queue) = process_queue();
    assert!(!queue.is_locked());
    assert!(queue.locked(Instant::now()));
    tokio::time::advance(LOCK_LIVES - Duration::from_millis(1)).await;
    assert!(queue.is_locked());
    assert!(queue.locked(Instant::now()));
    tokio::time::advance(LOCK_LIVES).await;
    assert!(!queue.is_locked());
    assert!(!queue.locked(Instant::now()));
}

#[tokio::test]
async fn a_queue_is_idle_when_its_last_batch_has_come_back() {
    let (_, queue) = process_queue();
    queue.idle().await;
    let batch = queue.begin().unwrap();
    queue.close();
    assert!(queue.begin().is_none());
    let mut idle = Box::pin(queue.idle());
    let polled = std::future::poll_fn(|context| Poll::Ready(idle.as_mut().poll(context))).await;
    assert_eq!(polled, Poll::Pending);
    drop(batch);
    idle.await;
}
