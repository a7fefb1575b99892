//! Long polling: pulls that found nothing are held until their queue grows or their time is over.
//!
//! Nothing is taken from when a pull began to wait: at each look it is found out anew what it may see. One that has passed
//! over messages, as they were not wanted, begins again where its client asked once other messages are wanted; it does so
//! without waiting for another message.
//!
//! The store's dispatching thread only marks the queues that have grown; one task makes the answers, a few at a time, so
//! that tens of thousands that are due at once hold up nobody else.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use raftmq_store::Arrival;
use raftmq_world::hash::HashSet;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::holds::{Holds, Place};
use super::request::{Admission, Allowed, Pull, Pulled, Subscriptions};
use super::scan::{Found, Outcome, PullStatus, Search, find};
use crate::error::{Error, NotServing};
use crate::filter_cache::FilterCache;
use crate::limits::{HOLD_ANSWERS, HOLD_MAX, HOLD_TICK, Limits, PULL_TURN_WORK, SEND_AWAY_HOLD};
use crate::names::check_group_name;
use crate::offsets::PendingOffsets;
use crate::replica::{Reader, Replica};
use crate::state::SubscriptionGroup;

/// Whoever waits for the answer to a pull that is held.
pub trait Waiter: Send {
    /// The connection that the pull came over.
    fn connection(&self) -> u64;
    /// Whether nobody waits any more.
    fn is_gone(&self) -> bool;
    /// Takes the answer. It need not go out before [`Waiter::flush`].
    fn answer(&self, pulled: Pulled);
    /// Takes instead why there is none for its group from its topic, likewise.
    fn refuse(&self, group: &str, topic: &str, error: Error);
    /// Sends what was answered.
    fn flush(&self);
}

/// What became of a pull.
pub enum Served {
    /// Its answer is there.
    Answered(Pulled),
    /// Its waiter gets it, or has got it already.
    Waits,
}

/// A pull that waits.
struct HeldPull {
    waiter: Box<dyn Waiter>,
    /// Its offset is the one that is waited for: what lies before it is not wanted.
    allowed: Allowed,
    /// The offset that the client asks for.
    asked: i64,
    deadline_ms: u64,
}

/// Serves pulls of a group's queues.
pub struct Pulls {
    admission: Admission,
    offsets: Arc<PendingOffsets>,
    holds: Mutex<Holds<HeldPull>>,
    wake: Notify,
    /// Groups that want other messages of a topic than before.
    refiltered: Mutex<HashSet<String>>,
    started: Instant,
}

impl Pulls {
    /// For a member of a group. `makes_groups` says whether a consumer may make its group.
    pub fn new(
        replica: Arc<Replica>,
        offsets: Arc<PendingOffsets>,
        subscriptions: Arc<dyn Subscriptions>,
        makes_groups: bool,
        limits: &Limits,
    ) -> Self {
        Self {
            admission: Admission { replica, subscriptions, filters: FilterCache::default(), makes_groups },
            offsets,
            holds: Mutex::new(Holds::new(limits)),
            wake: Notify::new(),
            refiltered: Mutex::default(),
            started: Instant::now(),
        }
    }

    /// What expressions that pulls bring along mean.
    pub fn filters(&self) -> &FilterCache {
        &self.admission.filters
    }

    /// How many pulls are held.
    pub fn held(&self) -> usize {
        self.holds.lock().len()
    }

    /// The settings of a group, if pulls of it may be served; tools' groups need no creation.
    pub fn group(&self, name: &str) -> Option<Arc<SubscriptionGroup>> {
        self.admission.group(name)
    }

    /// Serves a pull, and says what looking took, see [`Filter::wants`](crate::filter::Filter::wants). `waiter` is asked for
    /// where it is held, and `before_waiting` called before anything is waited for.
    ///
    /// # Errors
    /// It is not allowed.
    pub async fn pull(
        &self,
        pull: &Pull<'_>,
        mut before_waiting: impl FnMut(),
        waiter: impl FnOnce() -> Box<dyn Waiter>,
    ) -> Result<(Served, usize), Error> {
        let replica = &self.admission.replica;
        let reader = replica.reader(&pull.group)?;
        let allowed = self.admission.admit(pull)?;
        if reader == Reader::Leader {
            // Before a reset is taken up: what consumers have committed until then does not count.
            self.commit_offset(pull, allowed.queue_id)?;
        }
        let hold = pull.hold.min(HOLD_MAX);
        let may_hold = !hold.is_zero();
        let answered = |found: &Found, work| {
            Ok((Served::Answered(self.admission.answer(&allowed, found, reader)), work))
        };
        if let Some(found) = self.reset(pull.connection, &allowed, reader) {
            if reader == Reader::Follower && may_hold {
                self.send_away(waiter(), allowed, hold);
                return Ok((Served::Waits, 0));
            }
            return answered(&found, 0);
        }
        let mut found = self.find(&allowed)?;
        if reader == Reader::Leader && found.outcome(allowed.offset) == Outcome::Moved {
            // Before it is sent elsewhere: it may know an offset from an acknowledgement.
            before_waiting();
            replica.settle().await;
            replica.leading()?;
            found = self.find(&allowed)?;
        }
        let work = found.work;
        if may_hold && found.may_wait(allowed.offset, reader) {
            let deadline_ms = self.now_ms() + hold.as_millis() as u64;
            self.wait(HeldPull { waiter: waiter(), asked: allowed.offset, allowed, deadline_ms });
        } else if may_hold && reader == Reader::Follower && found.outcome(allowed.offset) == Outcome::Moved {
            self.send_away(waiter(), allowed, hold);
        } else {
            return answered(&found, work);
        }
        Ok((Served::Waits, work))
    }

    /// Has a follower's client ask the leader, after a moment: a client asks again at once, and asks here again while it
    /// knows of no leader.
    fn send_away(&self, waiter: Box<dyn Waiter>, allowed: Allowed, hold: Duration) {
        let until_ms = self.now_ms() + hold.min(SEND_AWAY_HOLD).as_millis() as u64;
        let (topic, queue_id, connection) = (allowed.topic.clone(), allowed.queue_id, waiter.connection());
        // No queue's end is beyond that.
        let offset = u64::MAX;
        let place = Place { topic: &topic.name, queue_id, offset, connection, deadline_ms: until_ms };
        let held = HeldPull { waiter, asked: allowed.offset, allowed, deadline_ms: until_ms };
        let outcome = self.holds.lock().hold(&place, held);
        match outcome {
            // Whoever ends the connection takes out what was held before.
            Ok(id) => {
                let mut holds = self.holds.lock();
                if holds.get(id).is_some_and(|held| held.waiter.is_gone()) {
                    holds.take(id);
                }
            }
            Err((_, held)) => drop(self.finish(held)),
        }
    }

    /// Commits the offset that a pull brings along, if it does. It never falls that way: pulls may overtake each other.
    fn commit_offset(&self, pull: &Pull<'_>, queue_id: u32) -> Result<(), Error> {
        let Some(offset) = pull.commit_offset.and_then(|offset| u64::try_from(offset).ok()) else {
            return Ok(());
        };
        let (group, topic) = (&pull.group.name, pull.topic);
        if self.offsets.get(group, topic, queue_id).is_none_or(|committed| committed < offset) {
            check_group_name(group)?;
            // A commit that finds no room is made again with the next pull.
            let _ = self.offsets.commit(group, topic, queue_id, offset);
        }
        Ok(())
    }

    /// Where an operator wants the group to go on, if this client has not been told yet. A follower leaves that to the
    /// leader.
    fn reset(&self, connection: u64, allowed: &Allowed, reader: Reader) -> Option<Found> {
        let Allowed { group, topic, queue_id, offset, .. } = allowed;
        let replica = &self.admission.replica;
        let offset = match reader {
            Reader::Leader => {
                self.offsets.take_reset(connection, (&group.name, &topic.name, *queue_id), *offset)
            }
            Reader::Follower => {
                let pending = replica.state().offsets.pending_reset(&group.name, &topic.name, *queue_id);
                pending.map(|reset| reset.offset)
            }
        }?;
        let queue = replica.store().queue(&topic.name, *queue_id);
        let (min, max) = queue.map_or((0, 0), |queue| (queue.min_offset(), queue.max_offset()));
        Some(Found::nothing(PullStatus::OffsetReset, offset as i64, min as i64, max as i64))
    }

    fn find(&self, allowed: &Allowed) -> Result<Found, Error> {
        let Allowed { topic, queue_id, offset, max_messages, max_bytes, filter, .. } = allowed;
        let search = Search {
            topic: &topic.name,
            queue_id: *queue_id,
            offset: *offset,
            max_messages: *max_messages,
            max_bytes: *max_bytes,
            filter,
        };
        find(self.admission.replica.store(), &search).map_err(|e| NotServing::Damaged(e.to_string()).into())
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Finds out anew what a held pull may see, and as what it is served.
    fn renew(&self, held: &mut HeldPull) -> Result<Reader, Error> {
        let before = held.allowed.filter.clone();
        let reader = self.admission.renew(&mut held.allowed)?;
        if held.allowed.filter != before {
            held.allowed.offset = held.asked;
        }
        Ok(reader)
    }

    /// Holds a pull until nobody has to look for its messages at once, or answers it where there is no room. Returns what
    /// looking took.
    fn wait(&self, mut held: HeldPull) -> usize {
        let mut work = 0;
        loop {
            let HeldPull { waiter, allowed, deadline_ms, .. } = &held;
            let (connection, deadline_ms) = (waiter.connection(), *deadline_ms);
            let (topic, group, queue_id) = (allowed.topic.clone(), allowed.group.clone(), allowed.queue_id);
            let offset = u64::try_from(allowed.offset).unwrap_or(0);
            let place = Place { topic: &topic.name, queue_id, offset, connection, deadline_ms };
            // The lock is not held while anybody is answered.
            let outcome = self.holds.lock().hold(&place, held);
            let id = match outcome {
                Ok(id) => id,
                Err((_, held)) => return work + self.finish(held),
            };
            // The listener takes the same lock after the queue has grown: either it has found the pull, or this sees
            // the queue's new end. The same goes for who resets the queue, who refuses what this member serves no more, and
            // who ends the connection.
            let replica = &self.admission.replica;
            let queue = replica.store().queue(&topic.name, queue_id);
            let max_offset = queue.map_or(0, |queue| queue.max_offset());
            let is_reset = self.offsets.is_reset(&group.name, &topic.name, queue_id);
            let is_gone = || self.holds.lock().get(id).is_some_and(|held| held.waiter.is_gone());
            if max_offset <= offset && !is_reset && replica.reader(&group).is_ok() && !is_gone() {
                return work;
            }
            let taken = self.holds.lock().take(id);
            match taken.and_then(|taken| self.look(taken, &mut work)) {
                Some(waiting) => held = waiting,
                None => return work,
            }
        }
    }

    /// Takes note of new messages. Called by the store's dispatching thread.
    pub fn arrived(&self, arrivals: &[Arrival]) {
        let mut is_due = false;
        let mut holds = self.holds.lock();
        if holds.len() == 0 {
            return;
        }
        for arrival in arrivals {
            is_due |= holds.arrived(&arrival.topic, arrival.queue_id, arrival.max_offset);
        }
        drop(holds);
        if is_due {
            self.wake.notify_one();
        }
    }

    /// Forgets the pulls of a connection that has ended.
    pub fn connection_closed(&self, connection: u64) {
        self.holds.lock().take_connection(connection);
    }

    /// Answers what is held and what this member does not serve any more.
    pub fn refuse_unserved(&self) {
        let reader = |group: &str| {
            let group = self.admission.held_group(group)?;
            Ok::<_, Error>(self.admission.replica.reader(&group)?)
        };
        let unserved = |held: &HeldPull| reader(&held.allowed.group.name).is_err();
        let held = self.holds.lock().take_where(unserved);
        for held in held {
            self.finish(held);
        }
    }

    /// A group wants other messages of a topic than before: what it has waiting is looked at again soon.
    pub fn refiltered(&self, group: &str) {
        self.refiltered.lock().insert(group.to_owned());
    }

    /// Answers pulls of groups from topics that were reset for them, given as pairs of both.
    pub fn was_reset(&self, resets: &HashSet<(&str, &str)>) {
        let is_meant = |held: &HeldPull| {
            let Allowed { group, topic, .. } = &held.allowed;
            resets.contains(&(group.name.as_str(), topic.name.as_str()))
        };
        let held = self.holds.lock().take_where(is_meant);
        for held in held {
            if let Some(waiting) = self.look(held, &mut 0) {
                self.wait(waiting);
            }
        }
    }

    /// Answers what has become due. Runs until the task is ended.
    pub async fn run(&self) {
        let mut tick = tokio::time::interval(HOLD_TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.wake.notified() => {}
                _ = tick.tick() => self.look_again().await,
            }
            while self.answer_some().await {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Looks again at what is held for groups that want other messages now.
    async fn look_again(&self) {
        let groups = std::mem::take(&mut *self.refiltered.lock());
        if groups.is_empty() {
            return;
        }
        let held = self.holds.lock().take_where(|held| groups.contains(&held.allowed.group.name));
        self.serve(held, Vec::new()).await;
    }

    /// Answers some of what is due. Returns whether there was any.
    async fn answer_some(&self) -> bool {
        let (mut arrived, mut expired) = (Vec::new(), Vec::new());
        {
            let mut holds = self.holds.lock();
            holds.take_arrived(HOLD_ANSWERS, &mut arrived);
            holds.take_expired(self.now_ms(), HOLD_ANSWERS, &mut expired);
        }
        let any = !(arrived.is_empty() && expired.is_empty());
        self.serve(arrived, expired).await;
        any
    }

    /// Looks for messages for some pulls, which wait on where there are none, and answers others.
    async fn serve(&self, waiting: Vec<HeldPull>, expired: Vec<HeldPull>) {
        // A consumer's queues often grow together: its answers go out in one piece.
        let mut answered = Answered(Vec::with_capacity((waiting.len() + expired.len()).min(HOLD_ANSWERS)));
        let mut work = 0;
        let waiting = waiting.into_iter().map(|held| (held, false));
        for (held, is_over) in waiting.chain(expired.into_iter().map(|held| (held, true))) {
            if is_over {
                let (waiter, looked) = self.conclude(held);
                work += looked;
                answered.0.push(waiter);
            } else {
                match self.look_into(held, &mut work) {
                    Look::Waits(waiting) => work += self.wait(waiting),
                    Look::Answered(waiter) => answered.0.push(waiter),
                    Look::Gone => {}
                }
            }
            if work > PULL_TURN_WORK || answered.0.len() >= HOLD_ANSWERS {
                work = 0;
                answered.flush();
                tokio::task::yield_now().await;
            }
        }
    }

    /// Looks for messages and answers with them, at once. Gives the pull back, further on, where there are none for it.
    fn look(&self, held: HeldPull, work: &mut usize) -> Option<HeldPull> {
        match self.look_into(held, work) {
            Look::Waits(held) => Some(held),
            Look::Answered(waiter) => {
                waiter.flush();
                None
            }
            Look::Gone => None,
        }
    }

    fn look_into(&self, mut held: HeldPull, work: &mut usize) -> Look {
        if held.waiter.is_gone() {
            return Look::Gone;
        }
        let reader = match self.renew(&mut held) {
            Ok(reader) => reader,
            Err(error) => return Look::Answered(held.refused(error)),
        };
        if let Some(found) = self.reset(held.waiter.connection(), &held.allowed, reader) {
            let pulled = self.admission.answer(&held.allowed, &found, reader);
            return Look::Answered(held.answered(pulled));
        }
        let found = match self.find(&held.allowed) {
            Ok(found) => found,
            Err(error) => return Look::Answered(held.refused(error)),
        };
        *work += found.work;
        // What its filter did not let through is not looked at again. Who cannot keep up with what arrives is answered, and
        // goes on with its next pull.
        let reached_end = found.next_offset >= found.max_offset;
        if found.status == PullStatus::NoMatchedMessage && reached_end {
            held.allowed.offset = found.next_offset;
            return Look::Waits(held);
        }
        if found.may_wait(held.allowed.offset, reader) {
            return Look::Waits(held);
        }
        let pulled = self.admission.answer(&held.allowed, &found, reader);
        Look::Answered(held.answered(pulled))
    }

    /// Answers with what there is, were it nothing, at once. Returns what looking took.
    fn finish(&self, held: HeldPull) -> usize {
        let (waiter, work) = self.conclude(held);
        waiter.flush();
        work
    }

    /// The same, and whose answer is to be sent.
    fn conclude(&self, mut held: HeldPull) -> (Box<dyn Waiter>, usize) {
        let reader = match self.renew(&mut held) {
            Ok(reader) => reader,
            Err(error) => return (held.refused(error), 0),
        };
        let found = self.reset(held.waiter.connection(), &held.allowed, reader);
        let found = match found.map_or_else(|| self.find(&held.allowed), Ok) {
            Ok(found) => found,
            Err(error) => return (held.refused(error), 0),
        };
        let pulled = self.admission.answer(&held.allowed, &found, reader);
        (held.answered(pulled), found.work)
    }
}

/// What came of a look at a held pull.
enum Look {
    /// There is nothing for it.
    Waits(HeldPull),
    /// Its answer is to be sent.
    Answered(Box<dyn Waiter>),
    /// Nobody waits for it.
    Gone,
}

impl HeldPull {
    fn answered(self, pulled: Pulled) -> Box<dyn Waiter> {
        self.waiter.answer(pulled);
        self.waiter
    }

    fn refused(self, error: Error) -> Box<dyn Waiter> {
        self.waiter.refuse(&self.allowed.group.name, &self.allowed.topic.name, error);
        self.waiter
    }
}

/// Whose answers are sent together, at the latest when this goes.
struct Answered(Vec<Box<dyn Waiter>>);

impl Answered {
    fn flush(&mut self) {
        self.0.drain(..).for_each(|waiter| waiter.flush());
    }
}

impl Drop for Answered {
    fn drop(&mut self) {
        self.flush();
    }
}
