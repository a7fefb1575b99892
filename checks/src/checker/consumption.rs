//! What the members of a group were given against what was sent:
//!
//! 7. Every acknowledged message was consumed, from the place where it was acknowledged.
//! 8. A message is delivered once from its place, and again where it was not consumed. Each fault, and each member that
//!    comes or goes, may have what was not committed then delivered once more: not more of them than were begun with
//!    within [`UNCOMMITTED_US`], and none more often than queues change hands for it.
//! 9. In order: while a queue's message is in a listener, no other message of that queue is, with any member.
//! 10. In order: the messages of a queue come in the order of their offsets, the first ones first and without a hole; only
//!     from a message that was delivered before on may they be repeated.
//!
//! And rules 2 and 5: what is delivered is what was sent.

use std::collections::BTreeMap;

use super::{Verdict, Violation};
use crate::deliveries::Delivery;
use crate::history::History;

/// Longest time that consumers count on what they have not committed, in µs. They commit every 5 s; a fault may make them
/// miss two of those.
const UNCOMMITTED_US: u64 = 15_000_000;
/// How often queues may change hands for one fault: while a new leader does not know all members, when it does, and when
/// the node is back.
const CHANGES_PER_DISTURBANCE: u32 = 3;

/// Which of the rules hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Consumption {
    /// Rule 8: faults, and members that came or went after the first message.
    pub disturbances: u32,
    /// Rules 9 and 10.
    pub in_order: bool,
}

/// Compares a history with the deliveries to one group that began with each queue's first message, given in the order in
/// which they began.
pub fn check_consumption(history: &History, deliveries: &[Delivery], rules: Consumption) -> Verdict {
    let read = deliveries.len() as u64;
    let mut verdict = Verdict { acknowledged: history.acknowledged(), read, ..Verdict::default() };
    check_sent(history, deliveries, &mut verdict);
    let places = places(deliveries);
    check_consumed(history, &places, &mut verdict);
    check_copies(&places, deliveries, rules.disturbances, &mut verdict);
    if rules.in_order {
        check_order(deliveries, &mut verdict);
    }
    verdict
}

/// Acknowledged messages that were not consumed.
pub fn missing(history: &History, deliveries: &[Delivery]) -> u64 {
    let mut verdict = Verdict::default();
    check_consumed(history, &places(deliveries), &mut verdict);
    verdict.breaches
}

/// What happened to a place of a queue.
#[derive(Default)]
struct Place {
    /// Deliveries beyond the first, but for those that followed when the message was not consumed.
    copies: u32,
    consumed: bool,
    /// When the last delivery ended.
    ended_us: u64,
}

fn places(deliveries: &[Delivery]) -> BTreeMap<(u32, u64), Place> {
    let mut places: BTreeMap<_, Place> = BTreeMap::new();
    for delivery in deliveries.iter().filter(|delivery| !delivery.is_retry) {
        let place = places.entry((delivery.queue, delivery.queue_offset)).or_default();
        place.copies += u32::from(place.consumed || place.ended_us > delivery.began_us);
        place.consumed |= delivery.consumed;
        place.ended_us = place.ended_us.max(delivery.ended_us);
    }
    places
}

fn check_copies(
    places: &BTreeMap<(u32, u64), Place>,
    deliveries: &[Delivery],
    disturbances: u32,
    verdict: &mut Verdict,
) {
    for ((queue, queue_offset), place) in places {
        verdict.extra_copies += u64::from(place.copies);
        if place.copies > disturbances.saturating_mul(CHANGES_PER_DISTURBANCE) {
            let (queue, queue_offset, copies) = (*queue, *queue_offset, place.copies);
            verdict.note(Violation::ConsumedAgain { queue, queue_offset, copies, disturbances });
        }
    }
    let (copies, allowed) = (verdict.extra_copies, u64::from(disturbances) * most_uncommitted(deliveries));
    if disturbances > 0 && copies > allowed {
        verdict.note(Violation::TooManyCopies { copies, allowed, disturbances });
    }
}

/// Most deliveries that began within [`UNCOMMITTED_US`].
fn most_uncommitted(deliveries: &[Delivery]) -> u64 {
    let began: Vec<_> = deliveries.iter().map(|delivery| delivery.began_us).collect();
    let window =
        |(last, at): (usize, &u64)| last + 1 - began.partition_point(|before| *before + UNCOMMITTED_US < *at);
    began.iter().enumerate().map(window).max().unwrap_or(0) as u64
}

fn check_sent(history: &History, deliveries: &[Delivery], verdict: &mut Verdict) {
    for Delivery { queue, queue_offset, stamp, .. } in deliveries {
        let sent = stamp.filter(|stamp| stamp.run == history.run).and_then(|stamp| {
            let lane = history.lanes.get(stamp.lane as usize)?;
            lane.messages.get(stamp.sequence as usize).filter(|sent| sent.sent_us == stamp.sent_us)
        });
        if sent.is_none() {
            let (queue, queue_offset) = (*queue, *queue_offset);
            verdict.note(Violation::NeverSent { queue, queue_offset, body_bytes: history.body_bytes });
        }
    }
}

fn check_consumed(history: &History, places: &BTreeMap<(u32, u64), Place>, verdict: &mut Verdict) {
    for (lane, sent) in history.lanes.iter().enumerate() {
        let acks = sent.messages.iter().enumerate().filter_map(|(n, sent)| Some((n, sent.ack?)));
        for (sequence, ack) in acks {
            let (queue, queue_offset) = (sent.queue, ack.queue_offset);
            if !places.get(&(queue, queue_offset)).is_some_and(|place| place.consumed) {
                verdict.note(Violation::NotConsumed { lane, sequence, queue, queue_offset });
            }
        }
    }
}

/// The course of a queue.
#[derive(Default)]
struct Course {
    /// The first offset that nobody has had.
    next: u64,
    /// The delivery that ended last.
    last: Option<Delivery>,
}

fn check_order(deliveries: &[Delivery], verdict: &mut Verdict) {
    let mut courses: BTreeMap<u32, Course> = BTreeMap::new();
    for delivery in deliveries.iter().filter(|delivery| !delivery.is_retry) {
        let Delivery { queue, queue_offset, member, .. } = *delivery;
        let course = courses.entry(queue).or_default();
        if let Some(last) = course.last.filter(|last| last.ended_us > delivery.began_us) {
            let (other, other_offset) = (last.member, last.queue_offset);
            verdict.note(Violation::AtOnce { queue, queue_offset, member, other_offset, other });
        }
        if course.last.is_none_or(|last| last.ended_us < delivery.ended_us) {
            course.last = Some(*delivery);
        }
        if queue_offset > course.next {
            verdict.note(Violation::Skipped { queue, member, expected: course.next, found: queue_offset });
        }
        course.next = course.next.max(queue_offset + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::Stamp;
    use crate::history::{Ack, Lane, Sent};

    const ALL: Consumption = Consumption { disturbances: 0, in_order: true };
    const IN_ANY_ORDER: Consumption = Consumption { disturbances: 0, in_order: false };

    /// One queue with so many acknowledged messages.
    fn history(messages: u64) -> History {
        let sent = |n| {
            let ack = Ack { queue_offset: n, physical_offset: 100 * n, at_us: n };
            Sent { sent_us: n, unknown_tries: 0, ack: Some(ack) }
        };
        History {
            run: 7,
            began_us: 0,
            body_bytes: 32,
            lanes: vec![Lane { queue: 3, messages: (0..messages).map(sent).collect() }],
        }
    }

    /// A message in a listener from its offset in ms on, for half a ms.
    fn delivery(offset: u64) -> Delivery {
        Delivery {
            member: 1,
            queue: 3,
            queue_offset: offset,
            stamp: Some(Stamp { run: 7, lane: 0, sequence: offset, sent_us: offset }),
            reconsume_times: 0,
            is_retry: false,
            began_us: 1000 * offset,
            ended_us: 1000 * offset + 500,
            consumed: true,
        }
    }

    fn told(history: &History, deliveries: &[Delivery], rules: Consumption) -> Vec<Violation> {
        check_consumption(history, deliveries, rules).told
    }

    #[test]
    fn what_went_well_is_called_so() {
        let deliveries: Vec<_> = (0..3).map(delivery).collect();
        let verdict = check_consumption(&history(3), &deliveries, ALL);
        assert!(verdict.holds(), "{verdict}");
        assert_eq!((verdict.acknowledged, verdict.read, verdict.extra_copies), (3, 3, 0));
    }

    #[test]
    fn what_is_not_consumed_is_named_even_if_it_was_delivered() {
        let lost = Violation::NotConsumed { lane: 0, sequence: 1, queue: 3, queue_offset: 1 };
        let refused = Delivery { consumed: false, ..delivery(1) };
        let retried = Delivery { is_retry: true, ..delivery(1) };
        for middle in [vec![], vec![refused], vec![retried]] {
            let deliveries = [vec![delivery(0)], middle, vec![delivery(2)]].concat();
            assert_eq!(told(&history(3), &deliveries, IN_ANY_ORDER), std::slice::from_ref(&lost));
        }
    }

    #[test]
    fn what_comes_again_is_counted_and_named_where_it_must_not() {
        let deliveries = [delivery(0), delivery(1), delivery(1)];
        let again = |copies, disturbances| Violation::ConsumedAgain {
            queue: 3,
            queue_offset: 1,
            copies,
            disturbances,
        };
        assert_eq!(told(&history(2), &deliveries, IN_ANY_ORDER), [again(1, 0)]);
        let one = Consumption { disturbances: 1, in_order: false };
        let verdict = check_consumption(&history(2), &deliveries, one);
        assert_eq!((verdict.breaches, verdict.extra_copies), (0, 1));
        let often = [vec![delivery(0)], vec![delivery(1); 5]].concat();
        assert_eq!(told(&history(2), &often, one), [again(4, 1)]);
        assert_eq!(told(&history(2), &often, Consumption { disturbances: 2, ..one }), []);
    }

    #[test]
    fn what_was_not_consumed_may_come_again_but_only_when_it_is_done_with() {
        let refused = Delivery { consumed: false, ..delivery(0) };
        let later = Delivery { began_us: 500, ended_us: 900, ..delivery(0) };
        assert_eq!(told(&history(1), &[refused, later], ALL), []);
        let at_once = Delivery { began_us: 499, ..later };
        assert_eq!(check_consumption(&history(1), &[refused, at_once], IN_ANY_ORDER).breaches, 1);
    }

    #[test]
    fn a_disturbance_explains_no_more_copies_than_may_have_been_uncommitted() {
        // Three messages far apart from each other, each twice.
        let apart = UNCOMMITTED_US;
        let at = |offset, began_us| Delivery { began_us, ended_us: began_us + 1, ..delivery(offset) };
        let times =
            [0, 1, 2].map(|offset| [at(offset, 2 * offset * apart), at(offset, 2 * offset * apart + 2)]);
        let copies =
            |disturbances| told(&history(3), &times.concat(), Consumption { disturbances, in_order: false });
        let too_many = Violation::TooManyCopies { copies: 3, allowed: 2, disturbances: 1 };
        assert_eq!(copies(1), [too_many]);
        assert_eq!(copies(2), []);
    }

    #[test]
    fn an_order_may_go_back_but_not_ahead() {
        let rules = Consumption { disturbances: 1, in_order: true };
        let at = |offset, began_us| Delivery { began_us, ended_us: began_us + 1, ..delivery(offset) };
        let back = [at(0, 0), at(1, 2), at(2, 4), at(1, 6), at(2, 8), at(3, 10)];
        assert_eq!(told(&history(4), &back, rules), []);
        let ahead = [at(0, 0), at(2, 2), at(1, 4), at(3, 6)];
        let skipped = Violation::Skipped { queue: 3, member: 1, expected: 1, found: 2 };
        assert_eq!(told(&history(4), &ahead, rules), [skipped]);
    }

    #[test]
    fn two_at_once_are_found_across_those_between_them() {
        let long = Delivery { member: 2, ended_us: 1800, ..delivery(0) };
        let at_once = Violation::AtOnce { queue: 3, queue_offset: 1, member: 1, other_offset: 0, other: 2 };
        assert_eq!(told(&history(3), &[long, delivery(1), delivery(2)], ALL), [at_once]);
        let longer = Delivery { ended_us: 2001, ..long };
        assert_eq!(told(&history(3), &[longer, delivery(1), delivery(2)], ALL).len(), 2);
        assert_eq!(told(&history(3), &[long, delivery(1), delivery(2)], IN_ANY_ORDER), []);
    }

    #[test]
    fn what_was_never_sent_is_noticed() {
        let other_run = Stamp { run: 8, ..delivery(0).stamp.unwrap() };
        let later = Stamp { sequence: 9, ..delivery(0).stamp.unwrap() };
        for stamp in [None, Some(other_run), Some(later)] {
            let stranger = Delivery { stamp, ..delivery(0) };
            let never = Violation::NeverSent { queue: 3, queue_offset: 0, body_bytes: 32 };
            assert_eq!(told(&history(1), &[stranger], ALL), [never]);
        }
    }
}
