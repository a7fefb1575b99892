//! The queues a lite pull consumer has at the moment, and the messages pulled from them that nobody has polled yet.
//!
//! It knows neither tasks nor brokers: a queue is pulled by whoever holds its present generation. What somebody with an
//! older one brings, after a seek or a rebalance, is refused.

use raftmq_world::hash::HashMap;
use std::collections::VecDeque;

use raftmq_remoting::body::MessageQueue;
use tokio::task::AbortHandle;

use crate::message::MessageExt;

/// How much may be pulled ahead of the poll.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Messages of all queues.
    pub(super) messages_all: usize,
    /// Messages of one queue.
    pub(super) messages: usize,
    /// Bytes of bodies of one queue.
    pub(super) bytes: usize,
    /// Between the first and the last offset of one queue.
    pub(super) span: i64,
}

/// Whether a queue may be pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Yes.
    Pull,
    /// Not before something was polled, resumed or taken away.
    Wait,
    /// No more: the queue is gone, or was sought.
    Over,
}

/// Messages that were pulled together.
#[derive(Debug)]
struct Batch {
    messages: Vec<MessageExt>,
    bytes: usize,
    /// The offset behind everything that was looked at for them.
    next_offset: i64,
}

#[derive(Debug)]
struct Assigned {
    generation: u64,
    paused: bool,
    /// The offset behind everything that was polled, once something was.
    consumed: Option<i64>,
    batches: VecDeque<Batch>,
    _puller: Puller,
}

/// The task that pulls a queue. Kept only to be ended with its owner.
#[derive(Debug)]
struct Puller(AbortHandle);

impl Drop for Puller {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Assigned {
    fn messages(&self) -> usize {
        self.batches.iter().map(|batch| batch.messages.len()).sum()
    }

    fn bytes(&self) -> usize {
        self.batches.iter().map(|batch| batch.bytes).sum()
    }

    fn span(&self) -> i64 {
        let first = self.batches.front().and_then(|batch| batch.messages.first());
        let last = self.batches.back().and_then(|batch| batch.messages.last());
        first.zip(last).map_or(0, |(first, last)| last.queue_offset.saturating_sub(first.queue_offset))
    }

    fn is_full(&self, limits: &Limits) -> bool {
        self.messages() >= limits.messages || self.bytes() >= limits.bytes || self.span() >= limits.span
    }
}

/// Every queue of a consumer.
#[derive(Debug)]
pub(super) struct Queues {
    limits: Limits,
    assigned: HashMap<MessageQueue, Assigned>,
    /// The queue of each batch, in the order in which they came.
    order: VecDeque<MessageQueue>,
    /// Messages in all batches.
    cached: usize,
    last_generation: u64,
}

impl Queues {
    pub(super) fn new(limits: Limits) -> Self {
        let (assigned, order) = (HashMap::default(), VecDeque::new());
        Self { limits, assigned, order, cached: 0, last_generation: 0 }
    }

    /// Adds a queue, or begins a new generation of it without what was cached. `pull` starts the task for it.
    pub(super) fn start(&mut self, queue: &MessageQueue, pull: impl FnOnce(u64) -> AbortHandle) {
        let paused = self.assigned.get(queue).is_some_and(|assigned| assigned.paused);
        self.remove(queue);
        self.last_generation += 1;
        let generation = self.last_generation;
        let (batches, _puller) = (VecDeque::new(), Puller(pull(generation)));
        let assigned = Assigned { generation, paused, consumed: None, batches, _puller };
        self.assigned.insert(queue.clone(), assigned);
    }

    /// Takes a queue away with what was cached of it.
    pub(super) fn remove(&mut self, queue: &MessageQueue) {
        self.clear(queue);
        self.assigned.remove(queue);
    }

    fn clear(&mut self, queue: &MessageQueue) {
        let Some(assigned) = self.assigned.get_mut(queue) else { return };
        self.cached -= assigned.messages();
        if !assigned.batches.is_empty() {
            assigned.batches.clear();
            self.order.retain(|other| other != queue);
        }
    }

    pub(super) fn contains(&self, queue: &MessageQueue) -> bool {
        self.assigned.contains_key(queue)
    }

    pub(super) fn names(&self) -> Vec<MessageQueue> {
        self.assigned.keys().cloned().collect()
    }

    /// Pauses or resumes those of the queues that are here.
    pub(super) fn pause(&mut self, queues: &[MessageQueue], paused: bool) {
        for queue in queues {
            if let Some(assigned) = self.assigned.get_mut(queue) {
                assigned.paused = paused;
            }
        }
    }

    /// Whether the holder of a generation may pull.
    pub(super) fn turn(&self, queue: &MessageQueue, generation: u64) -> Turn {
        match self.assigned.get(queue) {
            Some(assigned) if assigned.generation == generation => {
                let full = self.cached >= self.limits.messages_all || assigned.is_full(&self.limits);
                if assigned.paused || full { Turn::Wait } else { Turn::Pull }
            }
            _ => Turn::Over,
        }
    }

    /// Takes what was pulled, up to `next_offset`. Says whether there is something new to poll.
    pub(super) fn pulled(
        &mut self,
        queue: &MessageQueue,
        generation: u64,
        messages: Vec<MessageExt>,
        next_offset: i64,
    ) -> bool {
        let Some(assigned) = self.assigned.get_mut(queue) else { return false };
        if assigned.generation != generation {
            return false;
        }
        if messages.is_empty() {
            // What did not match is done as soon as what was before it is.
            match assigned.batches.back_mut() {
                Some(batch) => batch.next_offset = next_offset,
                None => assigned.consumed = Some(next_offset),
            }
            return false;
        }
        self.cached += messages.len();
        let bytes = messages.iter().map(|message| message.body.len()).sum();
        assigned.batches.push_back(Batch { messages, bytes, next_offset });
        self.order.push_back(queue.clone());
        true
    }

    /// The messages that were pulled first, which count as consumed from then on.
    pub(super) fn poll(&mut self) -> Option<Vec<MessageExt>> {
        let queue = self.order.pop_front()?;
        let assigned = self.assigned.get_mut(&queue)?;
        let batch = assigned.batches.pop_front()?;
        assigned.consumed = Some(batch.next_offset);
        self.cached -= batch.messages.len();
        Some(batch.messages)
    }

    /// The offsets behind what was polled.
    pub(super) fn consumed(&self) -> Vec<(MessageQueue, i64)> {
        let consumed = self.assigned.iter().filter_map(|(queue, assigned)| Some((queue, assigned.consumed?)));
        consumed.map(|(queue, offset)| (queue.clone(), offset)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::tests::message;

    const LIMITS: Limits = Limits { messages_all: 10, messages: 4, bytes: 100, span: 50 };

    fn queue(id: i32) -> MessageQueue {
        MessageQueue { broker_name: "broker-a".into(), queue_id: id, topic: "T".into() }
    }

    fn messages(offsets: &[i64], body_bytes: usize) -> Vec<MessageExt> {
        let body = vec![0; body_bytes];
        offsets
            .iter()
            .map(|offset| MessageExt { body: body.clone().into(), ..message(*offset, "") })
            .collect()
    }

    /// Starts queues and gives back their generations.
    fn started(queues: &mut Queues, ids: &[i32]) -> Vec<u64> {
        let mut generations = Vec::new();
        for id in ids {
            queues.start(&queue(*id), |generation| {
                generations.push(generation);
                tokio::spawn(std::future::pending::<()>()).abort_handle()
            });
        }
        generations
    }

    fn offsets(polled: Option<Vec<MessageExt>>) -> Vec<i64> {
        polled.unwrap_or_default().iter().map(|message| message.queue_offset).collect()
    }

    #[tokio::test]
    async fn a_queue_is_full_by_count_or_bytes_or_span_or_with_all_others() {
        for (offsets, body_bytes, turn) in [
            (&[0, 1, 2][..], 1, Turn::Pull),
            (&[0, 1, 2, 3], 1, Turn::Wait),
            (&[0, 1], 49, Turn::Pull),
            (&[0, 1], 50, Turn::Wait),
            (&[0, 49], 1, Turn::Pull),
            (&[0, 50], 1, Turn::Wait),
        ] {
            let mut queues = Queues::new(LIMITS);
            let generation = started(&mut queues, &[0])[0];
            assert!(queues.pulled(&queue(0), generation, messages(offsets, body_bytes), 60));
            assert_eq!(queues.turn(&queue(0), generation), turn, "{offsets:?} of {body_bytes} bytes");
            queues.poll();
            assert_eq!(queues.turn(&queue(0), generation), Turn::Pull);
        }
        let mut queues = Queues::new(LIMITS);
        let generations = started(&mut queues, &[0, 1, 2, 3]);
        for (id, count) in [(0, 4), (1, 3), (2, 3)] {
            let messages = messages(&[0, 1, 2, 3][..count], 1);
            queues.pulled(&queue(id as i32), generations[id], messages, 4);
        }
        assert_eq!(queues.turn(&queue(3), generations[3]), Turn::Wait);
        queues.remove(&queue(0));
        assert_eq!(queues.turn(&queue(3), generations[3]), Turn::Pull);
        assert_eq!(queues.turn(&queue(0), generations[0]), Turn::Over);
    }

    #[tokio::test]
    async fn what_was_polled_is_consumed_with_what_did_not_match_behind_it() {
        let mut queues = Queues::new(LIMITS);
        let generation = started(&mut queues, &[0])[0];
        assert_eq!(queues.consumed(), []);
        assert!(!queues.pulled(&queue(0), generation, Vec::new(), 3));
        assert_eq!(queues.consumed(), [(queue(0), 3)]);
        assert!(queues.pulled(&queue(0), generation, messages(&[4], 1), 6));
        assert!(!queues.pulled(&queue(0), generation, Vec::new(), 9));
        assert_eq!(queues.consumed(), [(queue(0), 3)]);
        assert_eq!(offsets(queues.poll()), [4]);
        assert_eq!(queues.consumed(), [(queue(0), 9)]);
        assert!(queues.poll().is_none());
    }

    #[tokio::test]
    async fn a_new_generation_refuses_what_the_old_one_brings() {
        let mut queues = Queues::new(LIMITS);
        let old = started(&mut queues, &[0, 1]);
        queues.pause(&[queue(0)], true);
        queues.pulled(&queue(0), old[0], messages(&[0, 1], 1), 2);
        queues.pulled(&queue(1), old[1], messages(&[7], 1), 8);
        let new = started(&mut queues, &[0])[0];
        assert_eq!(queues.turn(&queue(0), old[0]), Turn::Over);
        assert_eq!(queues.turn(&queue(0), new), Turn::Wait, "still paused");
        queues.pause(&[queue(0), queue(9)], false);
        assert_eq!(queues.turn(&queue(0), new), Turn::Pull);
        assert!(!queues.pulled(&queue(0), old[0], messages(&[2], 1), 3));
        assert_eq!(offsets(queues.poll()), [7]);
        assert!(queues.poll().is_none());
        assert_eq!(queues.consumed(), [(queue(1), 8)]);
    }

    #[tokio::test]
    async fn a_queue_that_goes_on_elsewhere_keeps_what_is_cached() {
        let mut queues = Queues::new(LIMITS);
        let generation = started(&mut queues, &[0])[0];
        queues.pulled(&queue(0), generation, messages(&[10, 11], 1), 12);
        queues.pulled(&queue(0), generation, Vec::new(), 3);
        queues.pulled(&queue(0), generation, messages(&[3], 1), 4);
        assert_eq!(queues.turn(&queue(0), generation), Turn::Pull);
        assert_eq!((offsets(queues.poll()), queues.consumed()), (vec![10, 11], vec![(queue(0), 3)]));
        assert_eq!((offsets(queues.poll()), queues.consumed()), (vec![3], vec![(queue(0), 4)]));
    }

    #[tokio::test]
    async fn the_task_of_a_queue_ends_with_it() {
        let mut queues = Queues::new(LIMITS);
        let (alive, ended) = tokio::sync::oneshot::channel::<()>();
        let task = async move {
            std::future::pending::<()>().await;
            drop(alive);
        };
        queues.start(&queue(0), |_| tokio::spawn(task).abort_handle());
        assert_eq!((queues.contains(&queue(0)), queues.names()), (true, vec![queue(0)]));
        queues.remove(&queue(0));
        assert!(ended.await.is_err());
    }
}
