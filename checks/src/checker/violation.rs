//! Breaches of the rules, and the verdict over a run.

use std::fmt;

/// Breaches told in full; the rest are counted.
const TOLD_MAX: usize = 20;

/// A breach of a rule. Lanes and sequence numbers say which message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Rule 1.
    #[error("lost: message {sequence} of lane {lane} is not at offset {queue_offset} of queue {queue}")]
    Lost { lane: usize, sequence: usize, queue: u32, queue_offset: u64 },
    /// Rule 1.
    #[error(
        "moved: message {sequence} of lane {lane} in queue {queue} was acknowledged at physical offset \
         {acknowledged} and is at {found}"
    )]
    Moved { lane: usize, sequence: usize, queue: u32, acknowledged: u64, found: u64 },
    /// Rule 2.
    #[error(
        "changed: message {sequence} of lane {lane}, at offset {queue_offset} of queue {queue}, was sent otherwise"
    )]
    Changed { lane: usize, sequence: usize, queue: u32, queue_offset: u64 },
    /// Rule 2.
    #[error(
        "wrong queue: message {sequence} of lane {lane} was sent to queue {wanted} and is at offset {queue_offset} \
         of queue {queue}"
    )]
    WrongQueue { lane: usize, sequence: usize, wanted: u32, queue: u32, queue_offset: u64 },
    /// Rule 3.
    #[error("hole: queue {queue} has offset {found} where {expected} was expected")]
    Hole { queue: u32, expected: u64, found: u64 },
    /// Rule 3.
    #[error("queue {queue} begins at offset {min_offset}, though nothing was removed")]
    BeginsLate { queue: u32, min_offset: u64 },
    /// Rule 3.
    #[error("queue {queue} was read up to offset {read_to}, and says it ends at {max_offset}")]
    EndsElsewhere { queue: u32, read_to: u64, max_offset: u64 },
    /// Rule 4.
    #[error(
        "out of order: lane {lane} was answered offset {earlier_offset} for message {earlier} and then \
         {later_offset} for message {later}"
    )]
    OutOfOrder { lane: usize, earlier: usize, earlier_offset: u64, later: usize, later_offset: u64 },
    /// Rule 5.
    #[error("never sent: a body of {body_bytes} bytes at offset {queue_offset} of queue {queue}")]
    NeverSent { queue: u32, queue_offset: u64, body_bytes: usize },
    /// Rule 6.
    #[error(
        "repeated: message {sequence} of lane {lane} is {copies} times where it was not acknowledged, with {unknown} \
         tries of unknown outcome"
    )]
    Repeated { lane: usize, sequence: usize, copies: u32, unknown: u32 },
    /// Rule 7.
    #[error("not consumed: message {sequence} of lane {lane}, at offset {queue_offset} of queue {queue}")]
    NotConsumed { lane: usize, sequence: usize, queue: u32, queue_offset: u64 },
    /// Rule 8.
    #[error(
        "consumed again {copies} times with {disturbances} faults and changes of members: offset {queue_offset} of \
         queue {queue}"
    )]
    ConsumedAgain { queue: u32, queue_offset: u64, copies: u32, disturbances: u32 },
    /// Rule 8.
    #[error(
        "{copies} messages consumed again, {disturbances} faults and changes of members explain {allowed}"
    )]
    TooManyCopies { copies: u64, allowed: u64, disturbances: u32 },
    /// Rule 9.
    #[error(
        "at once: member {member} began with offset {queue_offset} of queue {queue} while member {other} was not done \
         with offset {other_offset}"
    )]
    AtOnce { queue: u32, queue_offset: u64, member: u32, other_offset: u64, other: u32 },
    /// Rule 10.
    #[error("skipped: member {member} went to offset {found} of queue {queue} before anybody had {expected}")]
    Skipped { queue: u32, member: u32, expected: u64, found: u64 },
    /// Rule 11.
    #[error(
        "undelivered: message {sequence} of lane {lane} was acknowledged and is in no queue of its topic"
    )]
    Undelivered { lane: usize, sequence: usize },
    /// Rule 12.
    #[error("early: message {sequence} of lane {lane} was there {early_ms} ms before it can have been due")]
    Early { lane: usize, sequence: usize, early_ms: u64 },
    /// Rule 13.
    #[error(
        "queue {queue} was taken over {after_ms} ms after the last message of member {member}, which held its lock"
    )]
    TakenOverEarly { queue: u32, member: u32, after_ms: u64 },
}

/// What the checker found.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// Messages acknowledged.
    pub acknowledged: u64,
    /// Messages read back.
    pub read: u64,
    /// Copies that tries of unknown outcome left behind, or that were delivered again.
    pub extra_copies: u64,
    /// How many breaches.
    pub breaches: u64,
    /// The first of them.
    pub told: Vec<Violation>,
}

impl Verdict {
    pub(super) fn note(&mut self, violation: Violation) {
        self.breaches += 1;
        if self.told.len() < TOLD_MAX {
            self.told.push(violation);
        }
    }

    /// Whether no rule was broken.
    pub fn holds(&self) -> bool {
        self.breaches == 0
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acknowledged, read, extra_copies, breaches, told } = self;
        write!(
            f,
            "{acknowledged} acknowledged, {read} read back, {extra_copies} copies besides, {breaches} breaches"
        )?;
        told.iter().try_for_each(|violation| write!(f, "\n  {violation}"))?;
        let untold = breaches - told.len() as u64;
        if untold > 0 { write!(f, "\n  and {untold} more") } else { Ok(()) }
    }
}
