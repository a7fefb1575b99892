//! The table of queue locks: who alone may consume a queue for a consumer group, and until when.
//!
//! *Invariant 9*: a lock lasts at least its lease. They go by a clock of the group's own. Each request carries what the leader's clock showed, and a new leader's goes
//! on from the latest of them, so it never runs faster than time and stands still while nobody leads, whichever members
//! lead meanwhile and whatever their own clocks show.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;
use raftmq_raft::{FIRST_LEVEL, FeatureLevel, Table};
use raftmq_store::StoreError;
use raftmq_world::hash::HashMap;
use serde::{Deserialize, Serialize};

/// How often locks of all groups are looked through for expired ones, in ms of the group's clock.
const SWEEP_MS: i64 = 60_000;

/// What is to happen to the locks of some queues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueLocks {
    /// The consumer group.
    pub group: String,
    /// The client that asks.
    pub client_id: String,
    /// The queues, as topic and queue id.
    pub queues: Vec<(String, u32)>,
    /// The group's clock when the leader proposed this, in ms: [`Locks::clock_ms`] at the beginning of its
    /// term and what has passed since. Every member decides by it.
    pub now_ms: i64,
    /// How long a grant lasts, in ms; 0 releases.
    pub lease_ms: i64,
}

/// A lock of a queue.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct QueueLock {
    /// The topic.
    pub topic: String,
    /// The queue.
    pub queue_id: u32,
    /// The client that holds it.
    pub client_id: String,
    /// Until when, in ms of the group's clock.
    pub until_ms: i64,
}

/// The locks of all consumer groups.
#[derive(Debug, Default)]
pub struct Locks(RwLock<Held>);

impl Locks {
    /// The latest time, in ms of the group's own clock, of a request for queue locks. A leader's requests go on from it.
    pub fn clock_ms(&self) -> i64 {
        self.0.read().clock_ms
    }

    /// How many there are, expired ones included that are not forgotten yet.
    pub fn count(&self) -> usize {
        self.0.read().len()
    }

    /// The locks of a consumer group that have not expired.
    pub fn of_group(&self, group: &str) -> Vec<QueueLock> {
        self.0.read().of_group(group)
    }

    /// Whether a client of `group` holds a lock that is good at `now_ms` of the group's own clock.
    pub fn has(&self, group: &str, now_ms: i64) -> bool {
        self.0.read().has_lock(group, now_ms)
    }

    pub(super) fn forget_topic(&self, topic: &str) {
        self.0.write().forget_topic(topic);
    }
}

impl Table for Locks {
    const ID: u8 = 4;
    const NAME: &'static str = "locks";
    const IMAGE_VERSION: u8 = 1;
    type Command = QueueLocks;
    /// The queues that the client now holds, of those it asked for.
    type Outcome = Vec<(String, u32)>;
    type Image = LocksImage;

    fn level(_: &QueueLocks) -> FeatureLevel {
        FIRST_LEVEL
    }

    fn apply(&self, request: QueueLocks) -> Result<Self::Outcome, StoreError> {
        Ok(self.0.write().apply(&request))
    }

    fn freeze(&self) -> impl FnOnce() -> LocksImage + Send + Sync + 'static {
        let held = self.0.read().clone();
        move || held.image()
    }

    fn restore(&self, image: LocksImage) -> Result<(), StoreError> {
        *self.0.write() = Held::restore(image)?;
        Ok(())
    }
}

/// A clone shares every group's locks until one of the two changes them.
#[derive(Clone, Debug, Default)]
struct Held {
    /// The latest time of a request.
    clock_ms: i64,
    groups: HashMap<String, Arc<GroupLocks>>,
}

/// Locks of one consumer group by topic and queue.
type GroupLocks = BTreeMap<(String, u32), Lock>;

#[derive(Clone, Debug)]
struct Lock {
    client_id: String,
    until_ms: i64,
}

/// All locks as they are written into a checkpoint, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocksImage {
    clock_ms: i64,
    locks: Vec<(String, QueueLock)>,
}

impl Held {
    fn len(&self) -> usize {
        self.groups.values().map(|held| held.len()).sum()
    }

    /// The locks of a group that have not expired.
    fn of_group(&self, group: &str) -> Vec<QueueLock> {
        let held = self.groups.get(group).into_iter().flat_map(|held| held.iter()).map(to_lock);
        held.filter(|lock| lock.until_ms > self.clock_ms).collect()
    }

    /// Whether a group has a lock that does not expire before then, in ms of the group's clock.
    fn has_lock(&self, group: &str, now_ms: i64) -> bool {
        self.groups.get(group).is_some_and(|held| held.values().any(|lock| lock.until_ms > now_ms))
    }

    /// *Invariant 9*: grants each queue that is free, expired or already the client's; with a lease of 0 releases the client's own.
    /// Returns what it granted.
    fn apply(&mut self, request: &QueueLocks) -> Vec<(String, u32)> {
        let now_ms = self.advance(request.now_ms);
        let held = Arc::make_mut(self.groups.entry(request.group.clone()).or_default());
        held.retain(|_, lock| lock.until_ms > now_ms);
        let mut granted = Vec::new();
        for queue in &request.queues {
            if held.get(queue).is_some_and(|lock| lock.client_id != request.client_id) {
                continue;
            }
            if request.lease_ms <= 0 {
                held.remove(queue);
            } else {
                let until_ms = now_ms.saturating_add(request.lease_ms);
                held.insert(queue.clone(), Lock { client_id: request.client_id.clone(), until_ms });
                granted.push(queue.clone());
            }
        }
        if held.is_empty() {
            self.groups.remove(&request.group);
        }
        granted
    }

    /// Moves the clock on, never back. Now and then forgets what has expired meanwhile in any group.
    fn advance(&mut self, now_ms: i64) -> i64 {
        let before_ms = self.clock_ms;
        self.clock_ms = now_ms.max(before_ms);
        if self.clock_ms.div_euclid(SWEEP_MS) != before_ms.div_euclid(SWEEP_MS) {
            for held in self.groups.values_mut() {
                if held.values().any(|lock| lock.until_ms <= self.clock_ms) {
                    Arc::make_mut(held).retain(|_, lock| lock.until_ms > self.clock_ms);
                }
            }
            self.groups.retain(|_, held| !held.is_empty());
        }
        self.clock_ms
    }

    /// There are no queues of this topic any more.
    fn forget_topic(&mut self, topic: &str) {
        for held in self.groups.values_mut() {
            if held.keys().any(|(of, _)| of == topic) {
                Arc::make_mut(held).retain(|(of, _), _| of != topic);
            }
        }
        self.groups.retain(|_, held| !held.is_empty());
    }

    fn image(&self) -> LocksImage {
        let of_group = |(group, held): (&String, &Arc<GroupLocks>)| {
            held.iter().map(|held| (group.clone(), to_lock(held))).collect::<Vec<_>>()
        };
        let mut locks: Vec<_> = self.groups.iter().flat_map(of_group).collect();
        locks.sort();
        LocksImage { clock_ms: self.clock_ms, locks }
    }

    /// *Invariant 9*, read back: no queue has two owners.
    fn restore(image: LocksImage) -> Result<Self, StoreError> {
        let mut groups = HashMap::<String, GroupLocks>::default();
        for (group, lock) in image.locks {
            let QueueLock { topic, queue_id, client_id, until_ms } = lock;
            let held = groups.entry(group).or_default();
            if let Some(other) = held.insert((topic, queue_id), Lock { client_id, until_ms }) {
                return Err(StoreError::Divergence(format!(
                    "a queue that is locked twice, once by {other:?}"
                )));
            }
        }
        let groups = groups.into_iter().map(|(group, held)| (group, Arc::new(held))).collect();
        Ok(Self { clock_ms: image.clock_ms, groups })
    }
}

fn to_lock(((topic, queue_id), lock): (&(String, u32), &Lock)) -> QueueLock {
    QueueLock {
        topic: topic.clone(),
        queue_id: *queue_id,
        client_id: lock.client_id.clone(),
        until_ms: lock.until_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(group: &str, client: &str, now_ms: i64, lease_ms: i64) -> QueueLocks {
        let queues = vec![("t".into(), 0)];
        QueueLocks { group: group.into(), client_id: client.into(), queues, now_ms, lease_ms }
    }

    #[test]
    fn a_group_has_a_lock_until_its_last_one_expires() {
        let mut table = Held::default();
        table.apply(&request("g", "a", 0, 60));
        assert!(table.has_lock("g", 59) && !table.has_lock("g", 60) && !table.has_lock("h", 0));
        table.apply(&request("g", "a", 1, 0));
        assert!(!table.has_lock("g", 1));
    }

    #[test]
    fn a_lock_is_granted_once_until_it_expires_or_is_released() {
        let mut table = Held::default();
        let mut ask = |client, now_ms, lease_ms| table.apply(&request("g", client, now_ms, lease_ms)).len();
        assert_eq!(ask("a", 0, 60), 1);
        assert_eq!(ask("b", 59, 60), 0);
        assert_eq!(ask("a", 59, 60), 1);
        assert_eq!(ask("b", 118, 60), 0);
        assert_eq!(ask("b", 119, 60), 1);
        assert_eq!(ask("a", 119, 0), 0, "only the holder releases");
        assert_eq!(ask("a", 120, 60), 0);
        ask("b", 121, 0);
        assert_eq!(ask("a", 122, 60), 1);
    }

    #[test]
    fn the_clock_never_goes_back() {
        let mut table = Held::default();
        table.apply(&request("g", "a", 1000, 60));
        assert_eq!(table.apply(&request("h", "a", 10, 60)).len(), 1);
        assert_eq!((table.clock_ms, table.of_group("h")[0].until_ms), (1000, 1060));
    }

    #[test]
    fn groups_that_ask_no_more_are_forgotten() {
        let mut table = Held::default();
        for n in 0..5 {
            table.apply(&request(&format!("g{n}"), "a", n, 60));
        }
        table.apply(&request("last", "a", 50, 60));
        assert_eq!(table.len(), 6);
        table.apply(&request("last", "a", SWEEP_MS, 60));
        assert_eq!((table.len(), table.groups.len()), (1, 1));
        let image = table.image();
        assert_eq!(Held::restore(image.clone()).unwrap().image(), image);
    }

    #[test]
    fn an_image_with_two_owners_of_a_queue_is_refused() {
        let mut table = Held::default();
        table.apply(&request("g", "a", 0, 60));
        let mut image = table.image();
        let (group, mut lock) = image.locks[0].clone();
        lock.client_id = "b".into();
        image.locks.push((group, lock));
        assert!(matches!(Held::restore(image), Err(StoreError::Divergence(_))));
    }
}
