//! Leases: what a member has promised to its leader, and what a leader may count on.
//!
//! A leader asks the voters for a lease again and again ([`renewal`](crate::renewal)). Who gives one promises that it neither
//! votes for another nor stands itself until it is over, counted from when it was asked. The leader counts it from when it
//! asked, and shorter by what clocks may differ in speed. As long as it has those of a majority, itself included, nobody else
//! can have been elected and acknowledged anything: what it answers is not behind. A promise takes memory and no disk, so none
//! of this waits for one; who has restarted has forgotten its promises, and neither votes nor stands for as long as one lasts.
//!
//! openraft has leases of its own, which are given by the disk's pace and as long as it was told at its start. They are set
//! so long that they decide nothing (`settings`); `server` and [`election`](crate::election) ask here instead.
//!
//! *Invariant*: between a promise and its end no vote leaves this member. A vote that was handed to the core and is not
//! decided yet ([`Undecided`]) keeps it from promising anything, and the core's vote is known here before it is recorded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use raftmq_world::{Clock, Mutation, Random, World};
use tokio::sync::Notify;

use crate::electorate::Electorate;
use crate::pace::Pace;
use crate::types::{LogId, NodeId, Vote};

/// How long an election is waited for at most.
const PATIENCE_MAX: Duration = Duration::from_secs(10);

/// What a configuration says of leases.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// How long a lease is.
    pub(crate) lease: Duration,
    /// Who hears nothing any more stands by so much later at most, at random.
    pub(crate) spread: Duration,
}

/// The leases of one member.
pub(crate) struct Leases {
    own: NodeId,
    times: Times,
    clock: Arc<dyn Clock>,
    random: Random,
    /// How slow this member's disk is: elections take several writes.
    pub(crate) pace: Pace,
    state: Mutex<State>,
    renewed: Notify,
}

#[derive(Default)]
struct State {
    /// The vote by which this member is bound.
    vote: Option<Vote>,
    /// Votes that the core may be giving.
    undecided: u32,
    /// Until then this member has promised not to vote.
    given_until: Duration,
    /// This member asks others whether they would vote for it.
    asks: bool,
    /// Since when this member waits for whom to be elected.
    busy: Option<(Duration, NodeId)>,
    /// Not before then does it stand again.
    retry_at: Duration,
    /// By so much later than it could.
    spread: Duration,
    /// How often it has stood since it last knew a leader.
    stood: u32,
    leading: Option<Leading>,
    /// It votes no more, and whoever leads must not take it for one who follows.
    stopped: bool,
}

/// What a leader was promised.
struct Leading {
    term: u64,
    electorate: Electorate,
    promised: BTreeMap<NodeId, Duration>,
    /// What a majority has promised lasts until then.
    until: Duration,
    /// It is handing its leadership over.
    renounced: bool,
}

impl Leading {
    fn is_held(&self, now: Duration) -> bool {
        !self.renounced && now < self.until
    }

    /// Until when each of the sets has a majority whose leases last.
    fn count(&mut self, own: NodeId) {
        let until_of = |quorum: &BTreeSet<NodeId>| {
            let promised = |id: &NodeId| self.promised.get(id).copied().unwrap_or_default();
            let mut until: Vec<_> =
                quorum.iter().map(|id| if *id == own { Duration::MAX } else { promised(id) }).collect();
            until.sort_unstable_by(|a, b| b.cmp(a));
            until.get(quorum.len() / 2).copied().unwrap_or_default()
        };
        self.until = self.electorate.sets().iter().map(until_of).min().unwrap_or_default();
    }
}

impl State {
    /// The core's vote, or that of a leader who asked.
    fn know(&mut self, vote: &Vote, own: NodeId) {
        if self.vote.is_none_or(|known| known.leader_id.term <= vote.leader_id.term) {
            self.vote = Some(*vote);
        }
        let (term, voted_for) = (vote.leader_id.term, vote.leader_id.voted_for);
        let is_over = |leading: &Leading| leading.term < term || leading.term == term && voted_for != own;
        if self.leading.as_ref().is_some_and(is_over) {
            self.leading = None;
        }
    }

    /// Whether it must not vote for another.
    fn is_bound(&self, now: Duration) -> bool {
        now < self.given_until || self.leading.as_ref().is_some_and(|leading| leading.is_held(now))
    }
}

impl Leases {
    pub(crate) fn new(own: NodeId, times: Times, world: &World) -> Self {
        let leases = Self {
            own,
            times,
            clock: world.clock.clone(),
            random: world.random.clone(),
            pace: Pace::new(world.clock.clone()),
            state: Mutex::default(),
            renewed: Notify::new(),
        };
        leases.state.lock().spread = leases.at_random(times.spread);
        leases
    }

    /// With the times of tests.
    #[cfg(test)]
    pub(crate) fn of_a_test(world: &World) -> Arc<Self> {
        let times = Times { lease: Duration::from_millis(300), spread: Duration::from_millis(100) };
        Arc::new(Self::new(1, times, world))
    }

    fn at_random(&self, most: Duration) -> Duration {
        Duration::from_micros(self.random.below(most.as_micros() as u64 + 1))
    }

    /// The time that leases go by.
    pub(crate) fn now(&self) -> Duration {
        self.clock.passed()
    }

    /// The vote that was recorded before this start. Unless this is the first, something may have been promised right before
    /// the last one's end.
    pub(crate) fn recall(&self, vote: Option<&Vote>, is_first: bool) {
        let mut state = self.state.lock();
        if let Some(vote) = vote {
            state.know(vote, self.own);
        }
        if !is_first {
            state.given_until = self.now() + self.times.lease;
        }
    }

    /// The core has taken on a vote. To be called before that is recorded, and so before anybody hears of it.
    pub(crate) fn know(&self, vote: &Vote) {
        self.state.lock().know(vote, self.own);
    }

    /// The vote by which this member is bound.
    pub(crate) fn vote(&self) -> Vote {
        let none = || Vote { leader_id: openraft::vote::RaftLeaderId::new(0, self.own), committed: false };
        self.state.lock().vote.unwrap_or_else(none)
    }

    /// A leader asks for a lease; how long it is given one.
    pub(crate) fn give(&self, vote: &Vote, asked: Duration) -> Option<Duration> {
        let (mut state, now) = (self.state.lock(), self.now());
        let is_deposed = state.vote.is_some_and(|known| {
            let (known_id, id) = (known.leader_id, vote.leader_id);
            known_id.term > id.term
                || known_id.term == id.term && known.committed && known_id.voted_for != id.voted_for
        });
        if is_deposed || state.undecided > 0 || state.stopped {
            return None;
        }
        let given = asked.min(self.times.lease);
        state.know(vote, self.own);
        state.given_until = state.given_until.max(now + given);
        (state.busy, state.stood) = (None, 0);
        Some(given)
    }

    /// Whether a candidate may have this member's vote, as far as leases are concerned: the core decides then. A leader that
    /// hands over has given up those that it had.
    pub(crate) fn may_vote(self: &Arc<Self>, is_handed_over: bool) -> Option<Undecided> {
        let mut state = self.state.lock();
        if state.is_bound(self.now()) && !is_handed_over {
            return None;
        }
        Some(self.undecided(&mut state))
    }

    fn undecided(self: &Arc<Self>, state: &mut MutexGuard<'_, State>) -> Undecided {
        state.undecided += 1;
        Undecided(self.clone())
    }

    /// Whether a member whose log ends at `last` would have this one's vote, whose own ends at `own_last`. Who is told so is
    /// waited for. Of two that ask each other the one of the lower id goes first.
    pub(crate) fn would_vote(&self, candidate: NodeId, last: Option<LogId>, own_last: Option<LogId>) -> bool {
        let (mut state, now) = (self.state.lock(), self.now());
        let is_another =
            |(since, whom): (Duration, NodeId)| whom != candidate && now < since + self.patience(&state);
        let is_busy =
            state.undecided > 0 || state.asks && self.own < candidate || state.busy.is_some_and(is_another);
        if state.is_bound(now) || is_busy || last < own_last || state.stopped {
            return false;
        }
        state.busy = Some((now, candidate));
        true
    }

    /// How long an election may take: a few writes, each of which may have to wait for another; longer each time.
    fn patience(&self, state: &State) -> Duration {
        let once = self.times.lease + 3 * self.pace.slow();
        (once * (1 << state.stood.saturating_sub(1).min(4))).min(PATIENCE_MAX)
    }

    /// When this member is to stand, if nothing comes of it until then. The only voter need not wait.
    pub(crate) fn stand_at(&self, is_alone: bool) -> Duration {
        self.may_stand_at(&self.state.lock(), is_alone)
    }

    /// With a slow disk a member waits a little longer for its leader: what else waits for such a disk is not known.
    fn may_stand_at(&self, state: &State, is_alone: bool) -> Duration {
        if is_alone && state.busy.is_none() {
            return Duration::ZERO;
        }
        let silent = state.given_until + (self.pace.slow() / 2).min(self.times.lease);
        let waited = state.busy.map_or(Duration::ZERO, |(since, _)| since + self.patience(state));
        (silent.max(waited) + state.spread).max(state.retry_at)
    }

    /// This member is about to ask others whether they would vote for it.
    pub(crate) fn begin_to_ask(&self) {
        self.state.lock().asks = true;
    }

    /// It has heard whether enough would. Otherwise it asks again soon.
    pub(crate) fn has_asked(&self, would_win: bool) {
        let eighth = self.times.lease / 8;
        let mut state = self.state.lock();
        state.asks = false;
        if !would_win {
            state.retry_at = self.now() + eighth + self.at_random(eighth);
        }
    }

    /// Whether this member stands now: nothing has come of its leader meanwhile.
    pub(crate) fn stand(self: &Arc<Self>, is_alone: bool) -> Option<Undecided> {
        let (mut state, now) = (self.state.lock(), self.now());
        if now < self.may_stand_at(&state, is_alone) || state.undecided > 0 {
            return None;
        }
        state.stood += 1;
        state.busy = Some((now, self.own));
        state.spread = self.at_random(self.times.spread);
        Some(self.undecided(&mut state))
    }

    /// This member leads in a term, with these voters.
    pub(crate) fn lead(&self, term: u64, electorate: Electorate) {
        let mut state = self.state.lock();
        let is_vote = |vote: Vote| (vote.leader_id.term, vote.leader_id.voted_for) == (term, self.own);
        if state.stopped || !state.vote.is_some_and(is_vote) {
            return;
        }
        state.stood = 0;
        if state.leading.as_ref().is_none_or(|leading| leading.term != term) {
            state.leading = Some(Leading {
                term,
                electorate: Electorate::default(),
                promised: BTreeMap::new(),
                until: Duration::ZERO,
                renounced: false,
            });
        }
        if let Some(leading) = &mut state.leading {
            leading.electorate = electorate;
            leading.count(self.own);
        }
        self.renewed.notify_one();
    }

    /// How long a lease the leader of a term should ask for now; none where it should not.
    pub(crate) fn to_ask(&self, term: u64) -> Option<Duration> {
        let state = self.state.lock();
        let leads = state.leading.as_ref().is_some_and(|leading| leading.term == term && !leading.renounced);
        leads.then_some(self.times.lease)
    }

    /// A member has given a lease that it was asked for at `asked_at`.
    pub(crate) fn given(&self, term: u64, member: NodeId, asked_at: Duration, given: Duration) {
        let (mut state, now) = (self.state.lock(), self.now());
        let Some(leading) = state.leading.as_mut().filter(|leading| leading.term == term) else { return };
        let was_held = leading.is_held(now);
        // Of two clocks one may go by a third faster than the other.
        let counted = asked_at + given * 3 / 4;
        let until = if Mutation::LeaseFromReply.is_on() { now + given } else { counted };
        let promised = leading.promised.entry(member).or_default();
        *promised = until.max(*promised);
        leading.count(self.own);
        if !was_held && leading.is_held(now) {
            self.renewed.notify_one();
        }
    }

    /// This member hands its leadership over: from now on it counts on nothing.
    pub(crate) fn renounce(&self) {
        if let Some(leading) = &mut self.state.lock().leading {
            leading.renounced = true;
        }
    }

    /// This member has stopped: it promises nothing any more, and counts on nothing.
    pub(crate) fn stop(&self) {
        let mut state = self.state.lock();
        (state.stopped, state.leading) = (true, None);
    }

    /// Whether this member leads in a term, and nobody can have been elected since.
    pub(crate) fn is_held(&self, term: u64) -> bool {
        let state = self.state.lock();
        let leading = state.leading.as_ref().filter(|leading| leading.term == term);
        // Only now: what came before this may have taken long.
        let now = self.now();
        Mutation::ServeWithoutLease.is_on() || leading.is_some_and(|leading| leading.is_held(now))
    }

    /// Returns when what was not held is held, perhaps.
    pub(crate) async fn renewed(&self) {
        self.renewed.notified().await;
    }
}

/// A vote that the core may be giving: meanwhile nothing is promised.
pub(crate) struct Undecided(Arc<Leases>);

impl Undecided {
    /// This came of it: the core's vote, and whether that is what it was asked for.
    pub(crate) fn decided(self, vote: &Vote, granted: bool) {
        let mut state = self.0.state.lock();
        state.know(vote, self.0.own);
        if granted {
            state.busy = Some((self.0.now(), vote.leader_id.voted_for));
        }
    }
}

impl Drop for Undecided {
    fn drop(&mut self) {
        self.0.state.lock().undecided -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pace::tests::Hand;
    use crate::types::log_id;
    use raftmq_store::EntryId;

    const LEASE: Duration = Duration::from_millis(300);
    const SPREAD: Duration = Duration::from_millis(100);
    const MS: Duration = Duration::from_millis(1);

    fn vote(term: u64, node_id: NodeId, committed: bool) -> Vote {
        Vote { leader_id: openraft::vote::RaftLeaderId::new(term, node_id), committed }
    }

    fn member(own: NodeId) -> (Arc<Hand>, Arc<Leases>) {
        let clock = Arc::new(Hand::default());
        let world = World { clock: clock.clone(), random: Random::seeded(own), ..World::system() };
        (clock, Arc::new(Leases::new(own, Times { lease: LEASE, spread: SPREAD }, &world)))
    }

    /// Leads the members 1 to 3 in this term.
    fn leader(term: u64) -> (Arc<Hand>, Arc<Leases>) {
        let (clock, leases) = member(1);
        leases.know(&vote(term, 1, true));
        leases.lead(term, Electorate::from(&[&[1, 2, 3][..]][..]));
        (clock, leases)
    }

    #[test]
    fn who_has_given_a_lease_neither_votes_nor_stands_until_it_is_over() {
        let (clock, follower) = member(2);
        assert!(follower.may_vote(false).is_some());
        assert_eq!(follower.give(&vote(3, 1, true), LEASE), Some(LEASE));
        clock.go(LEASE - MS);
        assert!(follower.may_vote(false).is_none() && follower.stand(false).is_none());
        assert!(!follower.would_vote(3, None, None));
        assert!(follower.may_vote(true).is_some(), "its leader hands over");
        clock.go(MS);
        assert!(follower.would_vote(3, None, None) && follower.may_vote(false).is_some());
        let (clock, follower) = member(2);
        follower.give(&vote(3, 1, true), 10 * LEASE).unwrap();
        clock.go(LEASE + SPREAD);
        assert!(
            follower.stand_at(false) <= follower.now() && follower.stand(false).is_some(),
            "it gave one as ever"
        );
    }

    #[test]
    fn nothing_is_promised_while_a_vote_is_undecided_nor_to_a_leader_of_before() {
        let (_, follower) = member(2);
        let undecided = follower.may_vote(false).unwrap();
        assert_eq!(follower.give(&vote(3, 1, true), LEASE), None);
        undecided.decided(&vote(4, 3, false), true);
        assert_eq!(follower.give(&vote(3, 1, true), LEASE), None);
        // In this term it voted for a third, and this one was elected all the same.
        assert_eq!(follower.give(&vote(4, 1, true), LEASE), Some(LEASE));
        assert_eq!(follower.give(&vote(4, 3, true), LEASE), None);
        assert_eq!(follower.vote(), vote(4, 1, true));
    }

    #[test]
    fn a_leader_counts_from_when_it_asked_and_for_less() {
        let (clock, leases) = leader(5);
        assert!(!leases.is_held(5));
        let asked_at = leases.now();
        clock.go(100 * MS);
        leases.given(5, 3, asked_at, LEASE);
        assert!(leases.is_held(5) && !leases.is_held(4) && !leases.is_held(6));
        assert!(leases.may_vote(false).is_none(), "nobody else is elected by its vote");
        clock.go(124 * MS);
        assert!(leases.is_held(5));
        clock.go(MS);
        assert!(!leases.is_held(5), "clocks may differ by a third");
        leases.given(4, 2, leases.now(), LEASE);
        assert!(!leases.is_held(5), "that was another term's");
        leases.given(5, 2, leases.now(), LEASE);
        assert!(leases.is_held(5));
        leases.know(&vote(6, 3, false));
        assert!(!leases.is_held(5));
    }

    #[test]
    fn a_majority_of_every_set_of_voters_counts() {
        let (_, leases) = leader(5);
        leases.lead(5, Electorate::from(&[&[1, 2, 3][..], &[3, 4, 5][..]][..]));
        leases.given(5, 3, leases.now(), LEASE);
        assert!(!leases.is_held(5));
        leases.given(5, 4, leases.now(), LEASE);
        assert!(leases.is_held(5));
        leases.lead(5, Electorate::from(&[&[1, 2, 3, 4, 5][..]][..]));
        assert!(leases.is_held(5));
        leases.lead(5, Electorate::from(&[&[1, 2, 5][..]][..]));
        assert!(!leases.is_held(5));
        leases.lead(5, Electorate::from(&[&[1][..]][..]));
        assert!(leases.is_held(5), "it is its own majority");
        leases.renounce();
        assert!(!leases.is_held(5) && leases.to_ask(5).is_none());
    }

    #[test]
    fn who_has_stopped_promises_nothing() {
        let (_, leases) = leader(5);
        leases.given(5, 2, leases.now(), LEASE);
        leases.stop();
        assert!(!leases.is_held(5) && !leases.would_vote(2, None, None));
        assert_eq!(leases.give(&vote(6, 2, true), LEASE), None);
    }

    #[test]
    fn who_has_restarted_waits_for_what_it_may_have_promised() {
        let (clock, leases) = member(2);
        leases.recall(None, true);
        assert!(leases.may_vote(false).is_some());
        leases.recall(Some(&vote(7, 3, false)), false);
        assert!(leases.may_vote(false).is_none() && leases.stand(false).is_none());
        assert_eq!(leases.give(&vote(6, 1, true), LEASE), None);
        clock.go(LEASE);
        assert!(leases.may_vote(false).is_some());
    }

    #[test]
    fn who_would_vote_for_one_waits_for_that_one_and_longer_with_a_slow_disk() {
        let (clock, leases) = member(2);
        let log = |index| Some(log_id(EntryId { term: 1, index }));
        assert!(!leases.would_vote(1, log(4), log(5)) && !leases.would_vote(1, None, log(5)));
        assert!(leases.would_vote(1, log(5), log(5)));
        assert!(!leases.would_vote(3, log(6), log(5)) && leases.would_vote(1, log(5), log(5)));
        assert!(leases.stand(false).is_none(), "it gives way");
        let began = leases.pace.begin();
        clock.go(200 * MS);
        leases.pace.ended(began);
        clock.go(LEASE);
        assert!(!leases.would_vote(3, log(6), log(5)), "an election takes some writes");
        clock.go(400 * MS);
        leases.begin_to_ask();
        assert!(!leases.would_vote(3, log(6), log(5)));
        leases.has_asked(false);
        assert!(leases.would_vote(3, log(6), log(5)));
    }

    #[test]
    fn one_that_is_not_elected_waits_longer_each_time() {
        let (clock, leases) = member(2);
        let mut waits = Vec::new();
        for _ in 0..8 {
            clock.go(leases.stand_at(false) - leases.now());
            leases.stand(false).unwrap().decided(&vote(9, 2, false), true);
            waits.push(leases.stand_at(false) - leases.now());
        }
        assert!(
            waits[0] <= LEASE + SPREAD && waits[7] > 2 * waits[0] && waits[7] <= PATIENCE_MAX,
            "{waits:?}"
        );
        leases.give(&vote(9, 1, true), LEASE);
        assert!(leases.stand_at(false) - leases.now() <= LEASE + SPREAD);
    }
}
