//! Members of an ordered group that vanish without giving up their locks:
//!
//! 13. Nobody else is given a message of a queue that such a member held until its lock can have run out.
//!
//! A member works on a queue for at most 30 s after it was last given the lock, and brokers hold a lock for 60 s. So at
//! least 30 s lie between the last message that it was given and the first of whoever takes over.

use super::{Verdict, Violation};
use crate::deliveries::Delivery;

/// Least time from a member's last message of a queue until its lock runs out, in µs.
const LOCKED_US_MIN: u64 = 30_000_000;

/// A member that vanished.
#[derive(Debug, Clone)]
pub struct Crash {
    /// Its number, which no other member has.
    pub member: u32,
    /// The queues that it had then.
    pub queues: Vec<u32>,
    /// When, in µs since the log of deliveries began.
    pub at_us: u64,
}

/// A queue that has gone on with another member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TakenOver {
    /// The queue.
    pub queue: u32,
    /// Who had it.
    pub member: u32,
    /// From the end of its last message there until the next one began, in µs.
    pub after_us: u64,
}

/// Looks at who took over what, given all deliveries to a group in the order in which they began.
pub fn check_crashes(deliveries: &[Delivery], crashes: &[Crash]) -> (Vec<TakenOver>, Verdict) {
    let mut verdict = Verdict { read: deliveries.len() as u64, ..Verdict::default() };
    let held = crashes.iter().flat_map(|crash| crash.queues.iter().map(move |queue| (crash, *queue)));
    let taken_over: Vec<_> = held.filter_map(|(crash, queue)| taken_over(deliveries, crash, queue)).collect();
    for TakenOver { queue, member, after_us } in &taken_over {
        if *after_us < LOCKED_US_MIN {
            let (queue, member, after_ms) = (*queue, *member, *after_us / 1000);
            verdict.note(Violation::TakenOverEarly { queue, member, after_ms });
        }
    }
    (taken_over, verdict)
}

/// Nothing if the member never had a message of the queue, gave it up before, or nobody has taken over.
fn taken_over(deliveries: &[Delivery], crash: &Crash, queue: u32) -> Option<TakenOver> {
    let of_queue = deliveries.iter().filter(|delivery| delivery.queue == queue && !delivery.is_retry);
    let of_queue: Vec<_> = of_queue.collect();
    let last = of_queue.iter().rposition(|delivery| delivery.member == crash.member)?;
    let next = of_queue.get(last + 1).filter(|next| next.began_us > crash.at_us)?;
    let after_us = next.began_us.saturating_sub(of_queue[last].ended_us);
    Some(TakenOver { queue, member: crash.member, after_us })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_US: u64 = 1_000_000;

    fn delivery(queue: u32, member: u32, began_us: u64) -> Delivery {
        let ended_us = began_us + 1;
        Delivery {
            member,
            queue,
            queue_offset: 0,
            stamp: None,
            reconsume_times: 0,
            is_retry: false,
            began_us,
            ended_us,
            consumed: true,
        }
    }

    #[test]
    fn a_queue_may_be_taken_over_when_the_lock_has_run_out_but_not_before() {
        let crash = Crash { member: 1, queues: vec![3, 4, 5, 6], at_us: 10 * SECOND_US };
        let check = |seconds: u64| {
            let deliveries = [
                // Queue 4 was given up before, of queue 5 it had nothing, and nobody has gone on with queue 6.
                delivery(4, 1, SECOND_US),
                delivery(4, 2, 2 * SECOND_US),
                delivery(5, 2, 3 * SECOND_US),
                delivery(6, 1, 4 * SECOND_US),
                delivery(3, 1, 9 * SECOND_US - 1),
                delivery(3, 2, (9 + seconds) * SECOND_US),
            ];
            check_crashes(&deliveries, std::slice::from_ref(&crash))
        };
        let (taken_over, verdict) = check(30);
        assert_eq!(taken_over, [TakenOver { queue: 3, member: 1, after_us: 30 * SECOND_US }]);
        assert!(verdict.holds());
        let early = Violation::TakenOverEarly { queue: 3, member: 1, after_ms: 29_000 };
        assert_eq!(check(29).1.told, [early]);
    }
}
