//! Histories made by hand: a right one, and one for each way to break each rule.

use super::*;
use crate::history::{Lane, Sent};

const RUN: u64 = 77;
const BODY_BYTES: usize = 48;

/// What lies in the queues, to be bent by each test.
struct Stored {
    queue: u32,
    offset: u64,
    physical: u64,
    body: Vec<u8>,
}

fn sent(sequence: u64, queue_offset: u64) -> Sent {
    let ack = Ack { queue_offset, physical_offset: queue_offset * 100, at_us: sequence + 5 };
    Sent { sent_us: sequence, unknown_tries: 0, ack: Some(ack) }
}

fn body(lane: u32, sequence: u64) -> Vec<u8> {
    Stamp { run: RUN, lane, sequence, sent_us: sequence }.body(BODY_BYTES)
}

fn at(queue: u32, offset: u64, lane: u32, sequence: u64) -> Stored {
    Stored { queue, offset, physical: offset * 100, body: body(lane, sequence) }
}

/// Lanes 0 and 1 share queue 0, in turn; lane 2 has queue 1, and its second message was given up.
fn right() -> (History, Vec<Stored>) {
    let given_up = Sent { sent_us: 1, unknown_tries: 1, ack: None };
    let lanes = vec![
        Lane { queue: 0, messages: vec![sent(0, 0), sent(1, 2)] },
        Lane { queue: 0, messages: vec![sent(0, 1), sent(1, 3)] },
        Lane { queue: 1, messages: vec![sent(0, 0), given_up, sent(2, 1)] },
    ];
    let stored =
        vec![at(0, 0, 0, 0), at(0, 1, 1, 0), at(0, 2, 0, 1), at(0, 3, 1, 1), at(1, 0, 2, 0), at(1, 1, 2, 2)];
    (History { run: RUN, began_us: 0, body_bytes: BODY_BYTES, lanes }, stored)
}

fn check_ending(history: &History, stored: &[Stored], ends: [u64; 2]) -> Verdict {
    let mut checker = Checker::new(history);
    for (queue, end) in ends.into_iter().enumerate() {
        let queue = queue as u32;
        checker.queue(queue, 0);
        for one in stored.iter().filter(|one| one.queue == queue) {
            let Stored { queue, offset, physical, body } = one;
            checker.message(&Found {
                queue: *queue,
                queue_offset: *offset,
                physical_offset: *physical,
                body,
            });
        }
        checker.end_of_queue(queue, end);
    }
    checker.finish()
}

fn check(history: &History, stored: &[Stored]) -> Verdict {
    let end =
        |queue| stored.iter().filter(|one| one.queue == queue).map(|one| one.offset + 1).max().unwrap_or(0);
    check_ending(history, stored, [end(0), end(1)])
}

/// The one breach there must be.
fn only(verdict: Verdict) -> Violation {
    assert_eq!(verdict.breaches, 1, "{verdict}");
    assert!(!verdict.holds());
    verdict.told[0].clone()
}

#[test]
fn a_right_history_holds() {
    let (history, stored) = right();
    let verdict = check(&history, &stored);
    assert!(verdict.holds(), "{verdict}");
    assert_eq!((verdict.acknowledged, verdict.read, verdict.extra_copies), (6, 6, 0));
}

#[test]
fn an_acknowledged_message_that_is_missing_at_the_end_is_lost() {
    let (history, mut stored) = right();
    stored.pop();
    assert_eq!(
        only(check(&history, &stored)),
        Violation::Lost { lane: 2, sequence: 2, queue: 1, queue_offset: 1 }
    );
}

#[test]
fn an_acknowledged_message_in_whose_place_another_lies_is_lost() {
    let (mut history, mut stored) = right();
    // An unknown try of message 1 has taken the place of message 2.
    stored[5].body = body(2, 1);
    assert_eq!(
        only(check(&history, &stored)),
        Violation::Lost { lane: 2, sequence: 2, queue: 1, queue_offset: 1 }
    );
    // Being somewhere else does not help.
    history.lanes[2].messages[2].unknown_tries = 1;
    stored.push(at(1, 2, 2, 2));
    assert_eq!(
        only(check(&history, &stored)),
        Violation::Lost { lane: 2, sequence: 2, queue: 1, queue_offset: 1 }
    );
}

#[test]
fn a_message_at_another_physical_offset_has_moved() {
    let (history, mut stored) = right();
    stored[3].physical += 1;
    let moved = Violation::Moved { lane: 1, sequence: 1, queue: 0, acknowledged: 300, found: 301 };
    assert_eq!(only(check(&history, &stored)), moved);
}

#[test]
fn every_changed_byte_is_noticed() {
    let (history, _) = right();
    for byte in 0..BODY_BYTES {
        let (_, mut stored) = right();
        stored[2].body[byte] ^= 1;
        assert!(!check(&history, &stored).holds(), "byte {byte}");
    }
    let (_, mut stored) = right();
    stored[2].body.pop();
    let verdict = check(&history, &stored);
    assert_eq!(verdict.told[0], Violation::Changed { lane: 0, sequence: 1, queue: 0, queue_offset: 2 });
}

#[test]
fn a_message_in_a_queue_it_was_not_sent_to_is_misplaced() {
    let (mut history, mut stored) = right();
    history.lanes[2].messages[1].unknown_tries = 1;
    stored.push(at(0, 4, 2, 1));
    let wrong = Violation::WrongQueue { lane: 2, sequence: 1, wanted: 1, queue: 0, queue_offset: 4 };
    assert_eq!(only(check(&history, &stored)), wrong);
}

#[test]
fn a_jump_in_the_offsets_is_a_hole() {
    let (history, mut stored) = right();
    let mut later = at(1, 3, 2, 1);
    later.physical = 500;
    stored.push(later);
    assert_eq!(only(check(&history, &stored)), Violation::Hole { queue: 1, expected: 2, found: 3 });
}

#[test]
fn an_offset_that_comes_twice_is_a_hole() {
    let (history, mut stored) = right();
    stored.insert(5, at(1, 0, 2, 1));
    let told = check(&history, &stored).told;
    assert_eq!(told, [Violation::Hole { queue: 1, expected: 1, found: 0 }]);
}

#[test]
fn a_queue_that_ends_before_its_end_is_noticed() {
    let (history, stored) = right();
    let ends = Violation::EndsElsewhere { queue: 1, read_to: 2, max_offset: 3 };
    assert_eq!(only(check_ending(&history, &stored, [4, 3])), ends);
}

#[test]
fn a_queue_that_begins_late_is_noticed() {
    let (history, _) = right();
    let mut checker = Checker::new(&history);
    checker.queue(0, 2);
    assert_eq!(checker.verdict.told, [Violation::BeginsLate { queue: 0, min_offset: 2 }]);
}

#[test]
fn acknowledged_offsets_must_rise_within_a_lane() {
    let (mut history, mut stored) = right();
    let messages = &mut history.lanes[0].messages;
    (messages[0].ack, messages[1].ack) = (messages[1].ack, messages[0].ack);
    stored[0].body = body(0, 1);
    stored[2].body = body(0, 0);
    let disorder =
        Violation::OutOfOrder { lane: 0, earlier: 0, earlier_offset: 2, later: 1, later_offset: 0 };
    assert_eq!(only(check(&history, &stored)), disorder);
}

#[test]
fn two_messages_acknowledged_at_one_offset_are_noticed() {
    let (mut history, stored) = right();
    let same = history.lanes[0].messages[0].ack;
    history.lanes[0].messages[1].ack = same;
    let told = check(&history, &stored).told;
    let order = Violation::OutOfOrder { lane: 0, earlier: 0, earlier_offset: 0, later: 1, later_offset: 0 };
    let lost = Violation::Lost { lane: 0, sequence: 1, queue: 0, queue_offset: 0 };
    assert!(told.contains(&order) && told.contains(&lost), "{told:?}");
}

#[test]
fn what_was_never_sent_is_noticed() {
    let (history, _) = right();
    let foreign_run = Stamp { run: RUN + 1, lane: 0, sequence: 0, sent_us: 0 }.body(BODY_BYTES);
    for strange in [b"hello".to_vec(), Vec::new(), body(0, 2), body(9, 0), foreign_run] {
        let (_, mut stored) = right();
        let body_bytes = strange.len();
        stored.push(Stored { queue: 1, offset: 2, physical: 900, body: strange });
        assert_eq!(
            only(check(&history, &stored)),
            Violation::NeverSent { queue: 1, queue_offset: 2, body_bytes }
        );
    }
}

#[test]
fn a_copy_needs_a_try_of_unknown_outcome() {
    let (mut history, mut stored) = right();
    stored.push(at(1, 2, 2, 0));
    let repeated = |copies, unknown| Violation::Repeated { lane: 2, sequence: 0, copies, unknown };
    assert_eq!(only(check(&history, &stored)), repeated(1, 0));

    history.lanes[2].messages[0].unknown_tries = 1;
    let verdict = check(&history, &stored);
    assert!(verdict.holds(), "{verdict}");
    assert_eq!(verdict.extra_copies, 1);

    stored.push(at(1, 3, 2, 0));
    assert_eq!(only(check(&history, &stored)), repeated(2, 1));
}

#[test]
fn a_message_that_was_given_up_may_be_there_or_not_but_only_if_a_try_may_have_stored_it() {
    let (mut history, mut stored) = right();
    stored.push(at(1, 2, 2, 1));
    assert!(check(&history, &stored).holds());
    history.lanes[2].messages[1].unknown_tries = 0;
    let repeated = Violation::Repeated { lane: 2, sequence: 1, copies: 1, unknown: 0 };
    assert_eq!(only(check(&history, &stored)), repeated);
}

#[test]
fn breaches_beyond_the_first_are_counted() {
    let messages = (0..50).map(|n| sent(n, n)).collect();
    let lanes = vec![Lane { queue: 0, messages }];
    let history = History { run: RUN, began_us: 0, body_bytes: BODY_BYTES, lanes };
    let verdict = check(&history, &[]);
    assert_eq!((verdict.breaches, verdict.told.len()), (50, 20));
    assert!(verdict.to_string().ends_with("and 30 more"), "{verdict}");
}
