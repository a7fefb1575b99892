//! The table of held requests: found by queue when messages arrive, by time when they have waited long enough, and by
//! connection when that ends. It knows nothing of pulls; it holds any `T`.
//!
//! An arrival only marks its queue, in one look-up, as it is told of by the thread that dispatches messages. What became
//! due is taken out afterwards, a few at a time, in the order of the offsets that are waited for: nothing that waits for
//! a later offset or for another queue is touched.

use raftmq_world::hash::{HashMap, HashSet};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use crate::limits::Limits;

/// Where and how long something is held.
pub(super) struct Place<'a> {
    pub(super) topic: &'a str,
    pub(super) queue_id: u32,
    /// It is due once the queue's end is beyond this offset.
    pub(super) offset: u64,
    pub(super) connection: u64,
    /// When it is due anyway, in ms of the caller's clock.
    pub(super) deadline_ms: u64,
}

/// Why something is not held.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

pub(super) struct Holds<T> {
    entries: HashMap<u64, Entry<T>>,
    by_topic: HashMap<Arc<str>, HashMap<u32, Queue>>,
    /// Marked queues, the longest marked first. Some may have lost their entries since.
    marked: VecDeque<(Arc<str>, u32)>,
    by_connection: HashMap<u64, HashSet<u64>>,
    by_deadline: BTreeSet<(u64, u64)>,
    next_id: u64,
    max: usize,
    max_per_connection: usize,
}

struct Entry<T> {
    topic: Arc<str>,
    queue_id: u32,
    offset: u64,
    connection: u64,
    deadline_ms: u64,
    held: T,
}

/// What waits for one queue.
#[derive(Default)]
struct Queue {
    /// Offsets that are waited for, each with the number of its entry.
    waiting: BTreeSet<(u64, u64)>,
    /// The queue's end as of the last arrival.
    end: u64,
    is_marked: bool,
}

impl Queue {
    fn due(&self) -> Option<u64> {
        self.waiting.first().filter(|(offset, _)| *offset < self.end).map(|(_, id)| *id)
    }
}

impl<T> Holds<T> {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            entries: HashMap::default(),
            by_topic: HashMap::default(),
            marked: VecDeque::new(),
            by_connection: HashMap::default(),
            by_deadline: BTreeSet::new(),
            next_id: 0,
            max: limits.held_pulls,
            max_per_connection: limits.held_pulls_per_connection,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Holds `held`; returns its number, or gives it back where too many are held.
    pub(super) fn hold(&mut self, place: &Place<'_>, held: T) -> Result<u64, (Full, T)> {
        let of_connection = self.by_connection.get(&place.connection).map_or(0, HashSet::len);
        if self.entries.len() >= self.max || of_connection >= self.max_per_connection {
            return Err((Full, held));
        }
        let id = self.next_id;
        self.next_id += 1;
        let Place { queue_id, offset, connection, deadline_ms, .. } = *place;
        let topic = match self.by_topic.get_key_value(place.topic) {
            Some((topic, _)) => topic.clone(),
            None => Arc::from(place.topic),
        };
        let queue = self.by_topic.entry(topic.clone()).or_default().entry(queue_id).or_default();
        queue.waiting.insert((offset, id));
        self.by_connection.entry(connection).or_default().insert(id);
        self.by_deadline.insert((deadline_ms, id));
        self.entries.insert(id, Entry { topic, queue_id, offset, connection, deadline_ms, held });
        Ok(id)
    }

    /// One that is held still.
    pub(super) fn get(&self, id: u64) -> Option<&T> {
        self.entries.get(&id).map(|entry| &entry.held)
    }

    /// Takes one out, unless somebody else has.
    pub(super) fn take(&mut self, id: u64) -> Option<T> {
        let entry = self.entries.remove(&id)?;
        if let Some(queues) = self.by_topic.get_mut(&entry.topic) {
            if let Some(queue) = queues.get_mut(&entry.queue_id) {
                queue.waiting.remove(&(entry.offset, id));
                if queue.waiting.is_empty() {
                    queues.remove(&entry.queue_id);
                }
            }
            if queues.is_empty() {
                self.by_topic.remove(&entry.topic);
            }
        }
        if let Some(ids) = self.by_connection.get_mut(&entry.connection) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_connection.remove(&entry.connection);
            }
        }
        self.by_deadline.remove(&(entry.deadline_ms, id));
        Some(entry.held)
    }

    /// Notes that a queue's end is now `max_offset`. Returns whether that makes something due.
    pub(super) fn arrived(&mut self, topic: &Arc<str>, queue_id: u32, max_offset: u64) -> bool {
        let queue = self.by_topic.get_mut(topic).and_then(|queues| queues.get_mut(&queue_id));
        let Some(queue) = queue else { return false };
        queue.end = queue.end.max(max_offset);
        let is_due = queue.due().is_some();
        if is_due && !queue.is_marked {
            queue.is_marked = true;
            self.marked.push_back((topic.clone(), queue_id));
        }
        is_due
    }

    /// Takes out at most `max` of what arrivals have made due.
    pub(super) fn take_arrived(&mut self, max: usize, due: &mut Vec<T>) {
        let room = due.len() + max;
        while due.len() < room
            && let Some((topic, queue_id)) = self.marked.front()
        {
            let queue = self.by_topic.get_mut(topic).and_then(|queues| queues.get_mut(queue_id));
            let next = queue.as_ref().and_then(|queue| queue.due());
            let Some(id) = next else {
                queue.into_iter().for_each(|queue| queue.is_marked = false);
                self.marked.pop_front();
                continue;
            };
            due.extend(self.take(id));
        }
    }

    /// Takes out at most `max` of what has waited long enough.
    pub(super) fn take_expired(&mut self, now_ms: u64, max: usize, due: &mut Vec<T>) {
        let room = due.len() + max;
        while due.len() < room
            && let Some(&(deadline_ms, id)) = self.by_deadline.first()
            && deadline_ms <= now_ms
        {
            due.extend(self.take(id));
        }
    }

    /// Takes out all that a connection has waiting.
    pub(super) fn take_connection(&mut self, connection: u64) -> Vec<T> {
        let ids = self.by_connection.get(&connection).cloned().unwrap_or_default();
        ids.into_iter().filter_map(|id| self.take(id)).collect()
    }

    /// Takes out what `is_meant` says.
    pub(super) fn take_where(&mut self, is_meant: impl Fn(&T) -> bool) -> Vec<T> {
        let meant = self.entries.iter().filter(|(_, entry)| is_meant(&entry.held));
        let ids: Vec<_> = meant.map(|(id, _)| *id).collect();
        ids.into_iter().filter_map(|id| self.take(id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(topic: &str, queue_id: u32, offset: u64, connection: u64, deadline_ms: u64) -> Place<'_> {
        Place { topic, queue_id, offset, connection, deadline_ms }
    }

    fn table() -> Holds<&'static str> {
        Holds::new(&Limits { held_pulls: 4, held_pulls_per_connection: 3, ..Limits::default() })
    }

    fn arrived(table: &mut Holds<&'static str>, topic: &str, queue_id: u32, end: u64) -> Vec<&'static str> {
        let is_due = table.arrived(&topic.into(), queue_id, end);
        let mut due = Vec::new();
        table.take_arrived(usize::MAX / 2, &mut due);
        assert_eq!(is_due, !due.is_empty());
        due
    }

    fn assert_empty<T>(table: &Holds<T>) {
        assert_eq!(table.len(), 0);
        assert!(table.by_topic.is_empty() && table.by_connection.is_empty() && table.by_deadline.is_empty());
    }

    #[test]
    fn an_arrival_wakes_its_queue_only_and_only_below_its_end() {
        let mut table = table();
        table.hold(&place("t", 0, 5, 1, 100), "a").unwrap();
        table.hold(&place("t", 0, 6, 2, 100), "b").unwrap();
        table.hold(&place("t", 1, 0, 1, 100), "c").unwrap();
        assert!(arrived(&mut table, "u", 0, 9).is_empty());
        assert!(arrived(&mut table, "t", 0, 5).is_empty());
        assert_eq!(arrived(&mut table, "t", 0, 6), ["a"]);
        assert_eq!(arrived(&mut table, "t", 0, 7), ["b"]);
        assert_eq!(arrived(&mut table, "t", 1, 1), ["c"]);
        assert_empty(&table);
        assert!(table.marked.is_empty());
    }

    #[test]
    fn what_is_due_comes_out_in_pieces_and_survives_what_happens_in_between() {
        let mut table = table();
        let first = table.hold(&place("t", 0, 0, 1, 100), "first").unwrap();
        table.hold(&place("t", 0, 0, 1, 100), "second").unwrap();
        table.hold(&place("u", 0, 0, 2, 100), "third").unwrap();
        for topic in ["t", "u", "t"] {
            assert!(table.arrived(&topic.into(), 0, 1));
        }
        assert_eq!(table.marked.len(), 2, "a queue is marked once");
        assert_eq!(table.take(first), Some("first"));
        let mut due = Vec::new();
        table.take_arrived(1, &mut due);
        assert_eq!(due, ["second"]);
        table.hold(&place("t", 0, 1, 1, 100), "later").unwrap();
        table.take_arrived(9, &mut due);
        assert_eq!(due, ["second", "third"]);
        assert_eq!((table.len(), table.marked.len()), (1, 0));
        assert_eq!(arrived(&mut table, "t", 0, 2), ["later"]);
        assert_empty(&table);
    }

    #[test]
    fn time_and_the_end_of_a_connection_take_out_their_own() {
        let mut table = table();
        table.hold(&place("t", 0, 0, 1, 200), "late").unwrap();
        table.hold(&place("t", 0, 0, 1, 100), "early").unwrap();
        let other = table.hold(&place("t", 0, 0, 2, 100), "other").unwrap();
        let mut due = Vec::new();
        table.take_expired(99, 9, &mut due);
        assert!(due.is_empty());
        assert_eq!(table.take(other), Some("other"));
        assert_eq!(table.take(other), None);
        table.take_expired(200, 1, &mut due);
        assert_eq!(due, ["early"]);
        assert_eq!(table.take_connection(1), ["late"]);
        assert!(table.take_connection(1).is_empty());
        assert_empty(&table);
    }

    #[test]
    fn both_limits_hold() {
        let mut table = table();
        for queue in 0..3 {
            table.hold(&place("t", queue, 0, 1, 100), "x").unwrap();
        }
        assert_eq!(table.hold(&place("t", 3, 0, 1, 100), "own"), Err((Full, "own")));
        table.hold(&place("t", 3, 0, 2, 100), "y").unwrap();
        assert_eq!(table.hold(&place("t", 4, 0, 3, 100), "all"), Err((Full, "all")));
        assert_eq!(table.take_where(|held| *held == "y"), ["y"]);
        assert_eq!(table.take_where(|_| true).len(), 3);
        assert_empty(&table);
        table.hold(&place("t", 4, 0, 1, 100), "again").unwrap();
    }

    /// Tens of thousands of entries, all of one queue or each of its own, in what used to take minutes.
    #[test]
    fn tens_of_thousands_are_held_woken_and_dropped() {
        const COUNT: u64 = 50_000;
        let spread = |queues: u64| {
            let mut table = Holds::new(&Limits::default());
            for n in 0..COUNT {
                let place = place("t", (n % queues) as u32, n / queues, n / 100, n);
                table.hold(&place, n).unwrap();
            }
            table
        };
        for queues in [1, COUNT] {
            let topic: Arc<str> = "t".into();
            let mut table = spread(queues);
            // One message after the other: each wakes exactly who waits for it.
            let mut due = Vec::new();
            for n in 0..COUNT {
                assert!(table.arrived(&topic, (n % queues) as u32, n / queues + 1));
                table.take_arrived(64, &mut due);
                assert_eq!(due.pop(), Some(n));
                assert!(due.is_empty());
            }
            assert_empty(&table);

            let mut table = spread(queues);
            assert!(!table.arrived(&topic, COUNT as u32, 1));
            for connection in 0..COUNT / 200 {
                assert_eq!(table.take_connection(connection).len(), 100);
            }
            table.take_expired(COUNT, usize::MAX / 2, &mut due);
            assert_eq!(due.len() as u64, COUNT / 2);
            assert_empty(&table);
        }
    }
}
