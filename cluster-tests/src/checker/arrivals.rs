//! Messages that were to come later against what has come of them:
//!
//! 11. Every acknowledged message is in its topic once it is due.
//! 12. None is there before it is due.
//!
//! And rule 6, for which a message's place counts nothing: its acknowledgement named where it waited.

use super::{Verdict, Violation};
use crate::body::Stamp;
use crate::history::History;

/// Fed with every message of the topic that delayed messages were sent to.
#[derive(Debug)]
pub struct Arrivals<'h> {
    history: &'h History,
    /// How often each is there, by lane and sequence number.
    copies: Vec<Vec<u32>>,
    verdict: Verdict,
}

impl<'h> Arrivals<'h> {
    /// Nothing has come yet.
    pub fn new(history: &'h History) -> Self {
        let copies = history.lanes.iter().map(|lane| vec![0; lane.messages.len()]).collect();
        let verdict = Verdict { acknowledged: history.acknowledged(), ..Verdict::default() };
        Self { history, copies, verdict }
    }

    /// A message of a queue. `early_ms` is by how much it was stored before it was due, 0 or less for one that was not.
    pub fn message(&mut self, queue: u32, queue_offset: u64, body: &[u8], early_ms: i64) {
        self.verdict.read += 1;
        let stamp = Stamp::read(body)
            .filter(|stamp| stamp.run == self.history.run && stamp.body(self.history.body_bytes) == body);
        let copies = stamp.and_then(|stamp| {
            let lane = self.copies.get_mut(stamp.lane as usize)?;
            Some((stamp, lane.get_mut(stamp.sequence as usize)?))
        });
        let Some((stamp, copies)) = copies else {
            return self.verdict.note(Violation::NeverSent { queue, queue_offset, body_bytes: body.len() });
        };
        *copies += 1;
        let (lane, sequence) = (stamp.lane as usize, stamp.sequence as usize);
        let wanted = self.history.lanes[lane].queue;
        if wanted != queue {
            self.verdict.note(Violation::WrongQueue { lane, sequence, wanted, queue, queue_offset });
        }
        if early_ms > 0 {
            self.verdict.note(Violation::Early { lane, sequence, early_ms });
        }
    }

    /// Acknowledged messages that have not come yet.
    pub fn missing(&self) -> usize {
        let lanes = self.history.lanes.iter().zip(&self.copies);
        let messages = lanes.flat_map(|(sent, copies)| sent.messages.iter().zip(copies));
        messages.filter(|(sent, copies)| sent.ack.is_some() && **copies == 0).count()
    }

    /// Everything that can come has come.
    pub fn finish(mut self) -> Verdict {
        for (lane, (sent, copies)) in self.history.lanes.iter().zip(&self.copies).enumerate() {
            for (sequence, (sent, copies)) in sent.messages.iter().zip(copies).enumerate() {
                let acknowledged = u32::from(sent.ack.is_some());
                if *copies < acknowledged {
                    self.verdict.note(Violation::Undelivered { lane, sequence });
                }
                let extra = copies.saturating_sub(acknowledged);
                self.verdict.extra_copies += u64::from(extra);
                if extra > sent.unknown_tries {
                    let unknown = sent.unknown_tries;
                    self.verdict.note(Violation::Repeated { lane, sequence, copies: extra, unknown });
                }
            }
        }
        self.verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Ack, Lane, Sent};

    /// A lane of queue 2 with an acknowledged message, and one that was given up after a try of unknown outcome.
    fn history() -> History {
        let ack = Ack { queue_offset: 5, physical_offset: 9, at_us: 3 };
        let sent = |unknown_tries, ack| Sent { sent_us: 1, unknown_tries, ack };
        let messages = vec![sent(0, Some(ack)), sent(1, None)];
        History { run: 7, body_bytes: 40, lanes: vec![Lane { queue: 2, messages }] }
    }

    fn body(sequence: u64) -> Vec<u8> {
        Stamp { run: 7, lane: 0, sequence, sent_us: 1 }.body(40)
    }

    fn told(arrived: &[(u32, Vec<u8>, i64)]) -> Vec<Violation> {
        let history = history();
        let mut arrivals = Arrivals::new(&history);
        for (offset, (queue, body, early_ms)) in arrived.iter().enumerate() {
            arrivals.message(*queue, offset as u64, body, *early_ms);
        }
        arrivals.finish().told
    }

    #[test]
    fn each_comes_once_and_one_of_unknown_outcome_may() {
        assert_eq!(told(&[(2, body(0), 0)]), []);
        assert_eq!(told(&[(2, body(1), 0), (2, body(0), -5)]), []);
        let twice =
            |sequence, unknown| Violation::Repeated { lane: 0, sequence, copies: 1 + unknown, unknown };
        assert_eq!(told(&[(2, body(0), 0), (2, body(0), 0)]), [twice(0, 0)]);
        assert_eq!(told(&[(2, body(0), 0), (2, body(1), 0), (2, body(1), 0)]), [twice(1, 1)]);
    }

    #[test]
    fn what_is_missing_early_misplaced_or_strange_is_named() {
        assert_eq!(told(&[]), [Violation::Undelivered { lane: 0, sequence: 0 }]);
        assert_eq!(told(&[(2, body(0), 1)]), [Violation::Early { lane: 0, sequence: 0, early_ms: 1 }]);
        let wrong = Violation::WrongQueue { lane: 0, sequence: 0, wanted: 2, queue: 1, queue_offset: 0 };
        assert_eq!(told(&[(1, body(0), 0)]), [wrong]);
        for strange in [body(2), vec![0; 40], body(0)[..39].to_vec()] {
            let body_bytes = strange.len();
            let never = Violation::NeverSent { queue: 2, queue_offset: 1, body_bytes };
            assert_eq!(told(&[(2, body(0), 0), (2, strange, 0)]), [never]);
        }
    }

    #[test]
    fn those_that_may_still_come_are_counted() {
        let history = history();
        let mut arrivals = Arrivals::new(&history);
        assert_eq!(arrivals.missing(), 1);
        arrivals.message(2, 0, &body(0), 0);
        assert_eq!(arrivals.missing(), 0);
    }
}
