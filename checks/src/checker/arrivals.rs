//! Messages that were to come later against what has come of them:
//!
//! 11. Every acknowledged message is in its topic once it is due.
//! 12. None is there before it is due: before the delay that was asked for has passed since it was first sent.
//!
//! And rule 6, for which a message's place counts nothing: its acknowledgement named where it waited.

use std::time::Duration;

use super::{Verdict, Violation};
use crate::body::Stamp;
use crate::history::{History, Lane};

/// Fed with every message of the topic that delayed messages were sent to.
#[derive(Debug)]
pub struct Arrivals<'h> {
    history: &'h History,
    delay_ms: u64,
    /// By how much each acknowledged message came late, in ms.
    late_ms: Vec<u64>,
    /// How often each is there, by lane and sequence number.
    copies: Vec<Vec<u32>>,
    verdict: Verdict,
}

/// How late messages came, in ms after the delay that was asked for had passed since they were acknowledged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lateness {
    /// Half of them were no later.
    pub median_ms: u64,
    /// None was later.
    pub max_ms: u64,
}

impl<'h> Arrivals<'h> {
    /// Nothing has come yet of what was sent with this delay.
    pub fn new(history: &'h History, delay: Duration) -> Self {
        let copies = history.lanes.iter().map(|lane| vec![0; lane.messages.len()]).collect();
        let verdict = Verdict { acknowledged: history.acknowledged(), ..Verdict::default() };
        let delay_ms = delay.as_millis() as u64;
        Self { history, delay_ms, late_ms: Vec::new(), copies, verdict }
    }

    /// A message of a queue, and when it was there, in ms since the epoch.
    pub fn message(&mut self, queue: u32, queue_offset: u64, body: &[u8], at_ms: u64) {
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
        let Lane { queue: wanted, messages } = &self.history.lanes[lane];
        if *wanted != queue {
            self.verdict.note(Violation::WrongQueue { lane, sequence, wanted: *wanted, queue, queue_offset });
        }
        let sent = messages[sequence];
        // Brokers count in whole ms, from the one in which a message reaches them.
        let due_ms = |since_us: u64| (self.history.began_us + since_us) / 1000 + self.delay_ms;
        let early_ms = due_ms(sent.sent_us).saturating_sub(at_ms);
        if early_ms > 0 {
            self.verdict.note(Violation::Early { lane, sequence, early_ms });
        }
        self.late_ms.extend(sent.ack.map(|ack| at_ms.saturating_sub(due_ms(ack.at_us))));
    }

    /// How late those came that have come.
    pub fn lateness(&self) -> Lateness {
        let mut late_ms = self.late_ms.clone();
        late_ms.sort_unstable();
        let max_ms = late_ms.last().copied().unwrap_or(0);
        Lateness { median_ms: late_ms.get(late_ms.len() / 2).copied().unwrap_or(0), max_ms }
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
    use crate::history::{Ack, Sent};

    /// A lane of queue 2 with an acknowledged message, and one that was given up after a try of unknown outcome.
    fn history() -> History {
        let ack = Ack { queue_offset: 5, physical_offset: 9, at_us: 3000 };
        let sent = |unknown_tries, ack| Sent { sent_us: 1, unknown_tries, ack };
        let messages = vec![sent(0, Some(ack)), sent(1, None)];
        History { run: 7, began_us: 1_000_999, body_bytes: 40, lanes: vec![Lane { queue: 2, messages }] }
    }

    fn body(sequence: u64) -> Vec<u8> {
        Stamp { run: 7, lane: 0, sequence, sent_us: 1 }.body(40)
    }

    const DELAY: Duration = Duration::from_millis(100);
    /// When the messages are due: they were sent in the ms after the first second's end.
    const DUE: u64 = 1101;

    fn told(arrived: &[(u32, Vec<u8>, u64)]) -> Vec<Violation> {
        let history = history();
        let mut arrivals = Arrivals::new(&history, DELAY);
        for (offset, (queue, body, at_ms)) in arrived.iter().enumerate() {
            arrivals.message(*queue, offset as u64, body, *at_ms);
        }
        arrivals.finish().told
    }

    #[test]
    fn each_comes_once_and_one_of_unknown_outcome_may() {
        assert_eq!(told(&[(2, body(0), DUE)]), []);
        assert_eq!(told(&[(2, body(1), DUE), (2, body(0), DUE + 5)]), []);
        let twice =
            |sequence, unknown| Violation::Repeated { lane: 0, sequence, copies: 1 + unknown, unknown };
        assert_eq!(told(&[(2, body(0), DUE), (2, body(0), DUE)]), [twice(0, 0)]);
        assert_eq!(told(&[(2, body(0), DUE), (2, body(1), DUE), (2, body(1), DUE)]), [twice(1, 1)]);
    }

    #[test]
    fn what_is_missing_early_misplaced_or_strange_is_named() {
        assert_eq!(told(&[]), [Violation::Undelivered { lane: 0, sequence: 0 }]);
        let early = Violation::Early { lane: 0, sequence: 0, early_ms: 1 };
        assert_eq!(told(&[(2, body(0), DUE - 1)]), [early]);
        let wrong = Violation::WrongQueue { lane: 0, sequence: 0, wanted: 2, queue: 1, queue_offset: 0 };
        assert_eq!(told(&[(1, body(0), DUE)]), [wrong]);
        for strange in [body(2), vec![0; 40], body(0)[..39].to_vec()] {
            let body_bytes = strange.len();
            let never = Violation::NeverSent { queue: 2, queue_offset: 1, body_bytes };
            assert_eq!(told(&[(2, body(0), DUE), (2, strange, DUE)]), [never]);
        }
    }

    #[test]
    fn those_that_may_still_come_are_counted() {
        let history = history();
        let mut arrivals = Arrivals::new(&history, DELAY);
        assert_eq!(arrivals.missing(), 1);
        arrivals.message(2, 0, &body(0), DUE);
        assert_eq!(arrivals.missing(), 0);
    }

    #[test]
    fn lateness_counts_from_the_acknowledgement() {
        let history = history();
        let mut arrivals = Arrivals::new(&history, DELAY);
        // Acknowledged 3 ms after the beginning.
        for at_ms in [DUE, DUE + 2 + 7, DUE + 2 + 40] {
            arrivals.message(2, 0, &body(0), at_ms);
        }
        assert_eq!(arrivals.lateness(), Lateness { median_ms: 7, max_ms: 40 });
    }
}
