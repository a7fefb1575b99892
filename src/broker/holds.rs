//! The table of held requests: found by queue when messages arrive, by time when they have waited long enough, and by
//! connection when that ends. It knows nothing of pulls; it holds any `T`.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::limits::Limits;

/// Where and how long something is held.
pub(crate) struct Place<'a> {
    pub(crate) topic: &'a str,
    pub(crate) queue_id: u32,
    /// It is due once the queue's end is beyond this offset.
    pub(crate) offset: u64,
    pub(crate) connection: u64,
    /// When it is due anyway, in ms of the caller's clock.
    pub(crate) deadline_ms: u64,
}

/// Why something is not held.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

pub(crate) struct Holds<T> {
    entries: HashMap<u64, Entry<T>>,
    by_topic: HashMap<Arc<str>, HashMap<u32, Vec<u64>>>,
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

impl<T> Holds<T> {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            entries: HashMap::new(),
            by_topic: HashMap::new(),
            by_connection: HashMap::new(),
            by_deadline: BTreeSet::new(),
            next_id: 0,
            max: limits.held_pulls,
            max_per_connection: limits.held_pulls_per_connection,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Holds `held`; returns its number, or gives it back where too many are held.
    pub(crate) fn hold(&mut self, place: &Place<'_>, held: T) -> Result<u64, (Full, T)> {
        let of_connection = self.by_connection.get(&place.connection).map_or(0, HashSet::len);
        if self.entries.len() >= self.max || of_connection >= self.max_per_connection {
            return Err((Full, held));
        }
        let id = self.next_id;
        self.next_id += 1;
        let topic = match self.by_topic.get_key_value(place.topic) {
            Some((topic, _)) => topic.clone(),
            None => Arc::from(place.topic),
        };
        self.by_topic.entry(topic.clone()).or_default().entry(place.queue_id).or_default().push(id);
        self.by_connection.entry(place.connection).or_default().insert(id);
        self.by_deadline.insert((place.deadline_ms, id));
        let Place { queue_id, offset, connection, deadline_ms, .. } = *place;
        self.entries.insert(id, Entry { topic, queue_id, offset, connection, deadline_ms, held });
        Ok(id)
    }

    /// Takes one out, unless somebody else has.
    pub(crate) fn take(&mut self, id: u64) -> Option<T> {
        let entry = self.entries.remove(&id)?;
        if let Some(queues) = self.by_topic.get_mut(&entry.topic) {
            if let Some(ids) = queues.get_mut(&entry.queue_id) {
                ids.retain(|other| *other != id);
                if ids.is_empty() {
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

    /// Takes out what waits for a queue whose end is now `max_offset`.
    pub(crate) fn arrived(&mut self, topic: &str, queue_id: u32, max_offset: u64, due: &mut Vec<T>) {
        let Some(ids) = self.by_topic.get(topic).and_then(|queues| queues.get(&queue_id)) else { return };
        let is_due = |id: &&u64| self.entries.get(id).is_some_and(|entry| entry.offset < max_offset);
        let ids: Vec<_> = ids.iter().filter(is_due).copied().collect();
        due.extend(ids.into_iter().filter_map(|id| self.take(id)));
    }

    /// Takes out what has waited long enough.
    pub(crate) fn expired(&mut self, now_ms: u64, due: &mut Vec<T>) {
        while let Some(&(deadline_ms, id)) = self.by_deadline.first() {
            if deadline_ms > now_ms {
                break;
            }
            due.extend(self.take(id));
        }
    }

    /// Takes out all that a connection has waiting.
    pub(crate) fn take_connection(&mut self, connection: u64) -> Vec<T> {
        let ids = self.by_connection.get(&connection).cloned().unwrap_or_default();
        ids.into_iter().filter_map(|id| self.take(id)).collect()
    }

    /// Takes out everything.
    pub(crate) fn take_all(&mut self) -> Vec<T> {
        self.by_topic.clear();
        self.by_connection.clear();
        self.by_deadline.clear();
        self.entries.drain().map(|(_, entry)| entry.held).collect()
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
        let mut due = Vec::new();
        table.arrived("u", 0, 9, &mut due);
        table.arrived("t", 0, 5, &mut due);
        assert!(due.is_empty());
        table.arrived("t", 0, 6, &mut due);
        assert_eq!(due, ["a"]);
        table.arrived("t", 0, 7, &mut due);
        table.arrived("t", 1, 1, &mut due);
        assert_eq!(due, ["a", "b", "c"]);
        assert_empty(&table);
    }

    #[test]
    fn time_and_the_end_of_a_connection_take_out_their_own() {
        let mut table = table();
        table.hold(&place("t", 0, 0, 1, 200), "late").unwrap();
        table.hold(&place("t", 0, 0, 1, 100), "early").unwrap();
        let other = table.hold(&place("t", 0, 0, 2, 100), "other").unwrap();
        let mut due = Vec::new();
        table.expired(99, &mut due);
        assert!(due.is_empty());
        assert_eq!(table.take(other), Some("other"));
        assert_eq!(table.take(other), None);
        table.expired(100, &mut due);
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
        table.hold(&place("t", 3, 0, 2, 100), "x").unwrap();
        assert_eq!(table.hold(&place("t", 4, 0, 3, 100), "all"), Err((Full, "all")));
        assert_eq!(table.take_all().len(), 4);
        assert_empty(&table);
        table.hold(&place("t", 4, 0, 1, 100), "again").unwrap();
    }
}
