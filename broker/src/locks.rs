//! Queue locks of consumers that consume in order (*invariant 9*). They go through the log, so that no failover gives a queue
//! two owners.
//!
//! A lock is only ever given up by its holder or by time: not when its holder leaves the group or is lost, as it may
//! still be at work on what it has. Clients count on a lock for half its lease after each renewal.
//!
//! Holders are known by client id, as connections do not outlive a failover. A process that has taken over the id of
//! another holds what that held.

use std::sync::Arc;

use parking_lot::Mutex;
use raftmq_world::hash::HashSet;
use tokio::time::Instant;

use crate::error::{Error, Full};
use crate::limits::{CLIENT_ID_LEN_MAX, LOCK_LEASE, LOCK_QUEUES_MAX, Limits};
use crate::names::check_group_name;
use crate::replica::Replica;
use crate::state::{Locks, QueueLocks};

/// Who asks for queue locks.
#[derive(Clone, Copy, Debug)]
pub struct Holder<'a> {
    /// The consumer group.
    pub group: &'a str,
    /// The client.
    pub client_id: &'a str,
}

/// A queue, as topic and queue id.
pub type Queue = (String, u32);

/// Takes, renews and releases queue locks.
pub struct QueueLocking {
    replica: Arc<Replica>,
    clock: LockClock,
    max: usize,
}

impl QueueLocking {
    /// For a member of a group.
    pub fn new(replica: Arc<Replica>, limits: &Limits) -> Self {
        Self { replica, clock: LockClock::default(), max: limits.queue_locks }
    }

    /// Takes or renews locks. Returns the queues that the client holds then, of those it asked for.
    pub async fn lock(&self, holder: Holder<'_>, queues: Vec<Queue>) -> Result<Vec<Queue>, Error> {
        self.apply(holder, queues, LOCK_LEASE.as_millis() as i64).await
    }

    /// Releases the client's own.
    pub async fn unlock(&self, holder: Holder<'_>, queues: Vec<Queue>) -> Result<(), Error> {
        self.apply(holder, queues, 0).await.map(drop)
    }

    /// Whether a client of the group holds a queue locked.
    pub fn are_held(&self, group: &str) -> bool {
        let locks = &self.replica.state().locks;
        locks.has(group, self.clock.now_ms(self.replica.role().term, locks))
    }

    async fn apply(
        &self,
        Holder { group, client_id }: Holder<'_>,
        mut queues: Vec<Queue>,
        lease_ms: i64,
    ) -> Result<Vec<Queue>, Error> {
        // Nobody can hold a queue that does not exist.
        let topics = &self.replica.state().topics;
        queues.retain(|(topic, queue)| topics.get(topic).is_some_and(|topic| *queue < topic.queues()));
        if queues.is_empty() {
            return Ok(Vec::new());
        }
        if lease_ms > 0 {
            self.check_room(group, &queues)?;
        }
        // Invariant 9: the clock that this request carries is this term's.
        let term = self.replica.leading()?;
        let now_ms = self.clock.now_ms(term, &self.replica.state().locks);
        let (group, client_id) = (group.to_owned(), client_id.to_owned());
        let request = QueueLocks { group, client_id, queues, now_ms, lease_ms };
        self.replica.change_in::<Locks>(term, &request).await
    }

    /// Locks are part of every checkpoint. Who holds one may always renew it.
    fn check_room(&self, group: &str, queues: &[Queue]) -> Result<(), Error> {
        let locks = &self.replica.state().locks;
        if locks.count() + queues.len() <= self.max {
            return Ok(());
        }
        let held = locks.of_group(group);
        let held: HashSet<_> = held.iter().map(|lock| (lock.topic.as_str(), lock.queue_id)).collect();
        let is_held = |(topic, queue_id): &Queue| held.contains(&(topic.as_str(), *queue_id));
        if queues.iter().all(is_held) { Ok(()) } else { Err(Full::Locks(self.max).into()) }
    }
}

/// Checks what a request names, `queues` of them.
pub fn check(Holder { group, client_id }: Holder<'_>, queues: usize) -> Result<(), Error> {
    check_group_name(group)?;
    if client_id.is_empty() || client_id.len() > CLIENT_ID_LEN_MAX {
        return Err(Error::ClientId(client_id.len()));
    }
    if queues > LOCK_QUEUES_MAX {
        return Err(Error::TooManyAtOnce { queues, max: LOCK_QUEUES_MAX });
    }
    Ok(())
}

/// This leader's part of the group's clock for locks: from where the group's state had it when this leader's term
/// first asked, as fast as time passes here.
#[derive(Default)]
struct LockClock(Mutex<Option<Since>>);

#[derive(Clone, Copy)]
struct Since {
    term: u64,
    base_ms: i64,
    at: Instant,
}

impl LockClock {
    fn now_ms(&self, term: u64, locks: &Locks) -> i64 {
        let mut since = self.0.lock();
        let now = Instant::now();
        let Since { base_ms, at, .. } = match *since {
            Some(since) if since.term == term => since,
            _ => *since.insert(Since { term, base_ms: locks.clock_ms(), at: now }),
        };
        base_ms.saturating_add(i64::try_from(now.duration_since(at).as_millis()).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use raftmq_raft::Table as _;

    use super::*;

    #[test]
    fn a_new_leaders_clock_goes_on_from_the_groups_and_not_from_its_own() {
        let (clock, table) = (LockClock::default(), Locks::default());
        let first = clock.now_ms(1, &table);
        assert!((0..60_000).contains(&first), "{first}");
        let queues = vec![("t".to_owned(), 0)];
        let locks = QueueLocks {
            group: "g".into(),
            client_id: "c".into(),
            queues,
            now_ms: 5_000_000,
            lease_ms: 60_000,
        };
        table.apply(locks).unwrap();
        assert!(clock.now_ms(1, &table) < 60_000, "within a term it only follows time");
        let later = clock.now_ms(2, &table);
        assert!((5_000_000..5_060_000).contains(&later), "{later}");
    }

    #[test]
    fn hostile_requests_are_refused() {
        let good = Holder { group: "g", client_id: "c" };
        assert_eq!(check(good, LOCK_QUEUES_MAX), Ok(()));
        let long = "c".repeat(CLIENT_ID_LEN_MAX + 1);
        assert_eq!(check(Holder { client_id: "", ..good }, 1), Err(Error::ClientId(0)));
        assert_eq!(check(Holder { client_id: &long, ..good }, 1), Err(Error::ClientId(256)));
        assert!(matches!(check(Holder { group: "a b", ..good }, 1), Err(Error::Name(_))));
        assert!(matches!(check(good, LOCK_QUEUES_MAX + 1), Err(Error::TooManyAtOnce { .. })));
    }
}
