//! What was promised against what is there.
//!
//! Fed with a [`History`] and with every message of every queue in the order of their offsets, it looks for breaches of
//! these rules:
//!
//! 1. Every acknowledged message is at the queue offset and at the physical offset that were acknowledged.
//! 2. Its body is the one that was sent, to the last byte, and it is in the queue it was sent to.
//! 3. A queue's offsets run from zero to its end without a hole, and nothing acknowledged lies outside of them.
//! 4. Within a lane, messages acknowledged one after the other have rising queue offsets.
//! 5. Nothing is there that was never sent.
//! 6. A message is there at most once for its acknowledgement and once for each try whose outcome is unknown.
//!
//! What consumers were given is looked at by [`check_consumption`], messages that were to come later by [`Arrivals`], members that
//! vanish by [`check_crashes`].
//!
//! Nothing here does input or output, and nothing here knows how the messages were sent or read.

mod arrivals;
mod consumption;
mod crashes;
mod violation;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use arrivals::{Arrivals, Lateness};
pub use consumption::{Consumption, check_consumption, missing};
pub use crashes::{Crash, TakenOver, check_crashes};
pub use violation::{Verdict, Violation};

use crate::body::Stamp;
use crate::history::{Ack, History};

/// A message as it was read back.
#[derive(Debug, Clone, Copy)]
pub struct Found<'a> {
    /// The queue it was read from.
    pub queue: u32,
    /// Its place there.
    pub queue_offset: u64,
    /// Its place in the log.
    pub physical_offset: u64,
    /// What it holds.
    pub body: &'a [u8],
}

/// Compares a history with what is read back, message by message.
#[derive(Debug)]
pub struct Checker<'h> {
    history: &'h History,
    /// What was found of each message, by lane and sequence number.
    copies: Vec<Vec<Copies>>,
    /// The offset that must come next, by queue.
    next: BTreeMap<u32, u64>,
    verdict: Verdict,
}

/// What was found of a message.
#[derive(Debug, Clone, Copy, Default)]
struct Copies {
    /// One lies where it was acknowledged.
    in_place: bool,
    /// How many lie elsewhere.
    elsewhere: u32,
}

impl<'h> Checker<'h> {
    /// A checker that has seen nothing yet but the history, which it checks for rule 4.
    pub fn new(history: &'h History) -> Self {
        let copies = history.lanes.iter().map(|lane| vec![Copies::default(); lane.messages.len()]).collect();
        let verdict = Verdict { acknowledged: history.acknowledged(), ..Verdict::default() };
        let mut checker = Self { history, copies, next: BTreeMap::new(), verdict };
        checker.check_order();
        checker
    }

    /// A queue begins, and says that its first offset is `min_offset`.
    pub fn queue(&mut self, queue: u32, min_offset: u64) {
        if min_offset != 0 {
            self.verdict.note(Violation::BeginsLate { queue, min_offset });
        }
        self.next.insert(queue, min_offset);
    }

    /// The next message of a queue.
    pub fn message(&mut self, found: &Found<'_>) {
        self.verdict.read += 1;
        let next = self.next.entry(found.queue).or_insert(0);
        if found.queue_offset != *next {
            let Found { queue, queue_offset, .. } = *found;
            self.verdict.note(Violation::Hole { queue, expected: *next, found: queue_offset });
        }
        *next = found.queue_offset + 1;
        self.identify(found);
    }

    /// A queue ends, and says that its next message will get `max_offset`.
    pub fn end_of_queue(&mut self, queue: u32, max_offset: u64) {
        let next = self.next.get(&queue).copied().unwrap_or(0);
        if next != max_offset {
            self.verdict.note(Violation::EndsElsewhere { queue, read_to: next, max_offset });
        }
    }

    /// Everything was read.
    pub fn finish(mut self) -> Verdict {
        for (lane, (sent, found)) in self.history.lanes.iter().zip(&self.copies).enumerate() {
            for (sequence, (sent, found)) in sent.messages.iter().zip(found).enumerate() {
                if let Some(ack) = sent.ack.filter(|_| !found.in_place) {
                    let queue = self.history.lanes[lane].queue;
                    self.verdict.note(Violation::Lost {
                        lane,
                        sequence,
                        queue,
                        queue_offset: ack.queue_offset,
                    });
                }
                self.verdict.extra_copies += u64::from(found.elsewhere);
                if found.elsewhere > sent.unknown_tries {
                    let (copies, unknown) = (found.elsewhere, sent.unknown_tries);
                    self.verdict.note(Violation::Repeated { lane, sequence, copies, unknown });
                }
            }
        }
        self.verdict
    }

    fn check_order(&mut self) {
        for (lane, sent) in self.history.lanes.iter().enumerate() {
            let mut before: Option<(usize, Ack)> = None;
            let acks = sent.messages.iter().enumerate().filter_map(|(n, sent)| Some((n, sent.ack?)));
            for (sequence, ack) in acks {
                if let Some((earlier, earlier_ack)) = before
                    && earlier_ack.queue_offset >= ack.queue_offset
                {
                    self.verdict.note(Violation::OutOfOrder {
                        lane,
                        earlier,
                        earlier_offset: earlier_ack.queue_offset,
                        later: sequence,
                        later_offset: ack.queue_offset,
                    });
                }
                before = Some((sequence, ack));
            }
        }
    }

    /// Finds out which message this is, and whether it belongs here.
    fn identify(&mut self, found: &Found<'_>) {
        let Found { queue, queue_offset, .. } = *found;
        let unknown = Violation::NeverSent { queue, queue_offset, body_bytes: found.body.len() };
        let Some(stamp) = Stamp::read(found.body).filter(|stamp| stamp.run == self.history.run) else {
            return self.verdict.note(unknown);
        };
        let (lane, sequence) = (stamp.lane as usize, stamp.sequence as usize);
        let Some(sent) = self.history.lanes.get(lane).and_then(|lane| lane.messages.get(sequence)) else {
            return self.verdict.note(unknown);
        };
        let sent_stamp = Stamp { sent_us: sent.sent_us, ..stamp };
        if sent_stamp.body(self.history.body_bytes) != found.body {
            return self.verdict.note(Violation::Changed { lane, sequence, queue, queue_offset });
        }
        let wanted = self.history.lanes[lane].queue;
        if wanted != queue {
            return self.verdict.note(Violation::WrongQueue { lane, sequence, wanted, queue, queue_offset });
        }
        let copies = &mut self.copies[lane][sequence];
        match sent.ack {
            Some(ack) if ack.queue_offset == queue_offset && !copies.in_place => {
                copies.in_place = true;
                if ack.physical_offset != found.physical_offset {
                    let (acknowledged, found) = (ack.physical_offset, found.physical_offset);
                    self.verdict.note(Violation::Moved { lane, sequence, queue, acknowledged, found });
                }
            }
            _ => copies.elsewhere += 1,
        }
    }
}
