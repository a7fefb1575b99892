//! What a pull finds in a queue: which messages go into its answer, and where the next pull goes on.

use std::ops::Deref;

use raftmq_remoting::codes::response;
use raftmq_store::{Store, Unit};

use super::filter::Glance;
use super::limits::PULL_WORK;
use super::pull::PullRequest;
use raftmq_broker::Reader;

/// Work of looking at a unit.
const UNIT_WORK: usize = 4;

/// What came of looking for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PullStatus {
    Found,
    NoMatchedMessage,
    MessageWasRemoving,
    OffsetOverflowOne,
    OffsetOverflowBadly,
    OffsetTooSmall,
    NoMessageInQueue,
    /// The queue has never had a message.
    NoMatchedLogicQueue,
    /// An operator has reset the group's offset.
    OffsetReset,
}

impl PullStatus {
    /// The name that answers carry as their remark.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Found => "FOUND",
            Self::NoMatchedMessage => "NO_MATCHED_MESSAGE",
            Self::MessageWasRemoving => "MESSAGE_WAS_REMOVING",
            Self::OffsetOverflowOne => "OFFSET_OVERFLOW_ONE",
            Self::OffsetOverflowBadly => "OFFSET_OVERFLOW_BADLY",
            Self::OffsetTooSmall => "OFFSET_TOO_SMALL",
            Self::NoMessageInQueue => "NO_MESSAGE_IN_QUEUE",
            Self::NoMatchedLogicQueue => "NO_MATCHED_LOGIC_QUEUE",
            Self::OffsetReset => "OFFSET_RESET",
        }
    }
}

/// Messages found in a queue, or the reason why there are none.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) status: PullStatus,
    /// Where the next pull goes on.
    pub(crate) next_offset: i64,
    pub(crate) min_offset: i64,
    pub(crate) max_offset: i64,
    /// Physical offset and length of records that lie back to back.
    pub(crate) runs: Vec<(u64, u32)>,
    pub(crate) messages: u64,
    /// What looking took, see [`Filter::wants`](super::filter::Filter::wants).
    pub(crate) work: usize,
}

impl Found {
    /// No messages.
    pub(crate) fn nothing(status: PullStatus, next_offset: i64, min_offset: i64, max_offset: i64) -> Self {
        Self { status, next_offset, min_offset, max_offset, runs: Vec::new(), messages: 0, work: 0 }
    }

    /// The leader's response code. An empty queue is "nothing new" to who is at its start and "moved" to who is
    /// elsewhere.
    pub(crate) fn code(&self, asked: i64) -> i32 {
        use PullStatus::*;
        match self.status {
            Found => response::SUCCESS,
            NoMatchedMessage | MessageWasRemoving => response::PULL_RETRY_IMMEDIATELY,
            OffsetOverflowOne => response::PULL_NOT_FOUND,
            NoMessageInQueue | NoMatchedLogicQueue if asked == 0 => response::PULL_NOT_FOUND,
            NoMessageInQueue | NoMatchedLogicQueue | OffsetOverflowBadly | OffsetTooSmall | OffsetReset => {
                response::PULL_OFFSET_MOVED
            }
        }
    }

    /// Whether the pull waits for messages, if it may be held at all. A follower may lag: who is past its end waits
    /// until it has caught up.
    pub(crate) fn may_wait(&self, asked: i64, reader: Reader) -> bool {
        self.code(asked) == response::PULL_NOT_FOUND || reader == Reader::Follower && asked > self.max_offset
    }
}

/// Looks for messages in a queue with messages from `min_offset` to before `max_offset`. `units` gives at most so many
/// units from an offset on, `record` the record of one.
pub(crate) fn scan<R: Deref<Target = [u8]>>(
    request: &PullRequest,
    min_offset: u64,
    max_offset: u64,
    units: impl Fn(u64, usize) -> Vec<Unit>,
    record: impl Fn(&Unit) -> Option<R>,
) -> Found {
    // Queue offsets stay within 63 bits.
    let (min, max, asked) = (min_offset as i64, max_offset as i64, request.offset);
    let nothing = |status, next| Found::nothing(status, next, min, max);
    if max == 0 {
        return nothing(PullStatus::NoMessageInQueue, 0);
    }
    if asked < min {
        return nothing(PullStatus::OffsetTooSmall, min);
    }
    if asked == max {
        return nothing(PullStatus::OffsetOverflowOne, asked);
    }
    if asked > max {
        return nothing(PullStatus::OffsetOverflowBadly, max);
    }
    let mut found = nothing(PullStatus::NoMatchedMessage, asked);
    collect(request, &mut found, units, record);
    if found.messages > 0 {
        found.status = PullStatus::Found;
    } else if found.next_offset == asked {
        // The queue's start has moved since its offsets were read.
        found.status = PullStatus::MessageWasRemoving;
        found.next_offset = asked + 1;
    }
    found
}

/// Goes through the units from the asked offset on until the answer is full or enough was looked at.
fn collect<R: Deref<Target = [u8]>>(
    request: &PullRequest,
    found: &mut Found,
    units: impl Fn(u64, usize) -> Vec<Unit>,
    record: impl Fn(&Unit) -> Option<R>,
) {
    /// Units read at a time: most pulls need no more.
    const CHUNK: usize = 64;
    let mut bytes = 0;
    found.runs.reserve(request.max_messages.min(CHUNK));
    while (found.messages as usize) < request.max_messages {
        let chunk = units(found.next_offset as u64, CHUNK);
        if chunk.is_empty() {
            return;
        }
        for unit in &chunk {
            let size = unit.size as usize;
            let is_full = found.messages as usize >= request.max_messages
                || found.messages > 0 && bytes + size > request.max_bytes;
            if is_full || found.work >= PULL_WORK {
                return;
            }
            found.next_offset += 1;
            found.work += UNIT_WORK;
            let wanted = match request.filter.glance(unit.tags_code) {
                Glance::Wanted => true,
                Glance::Unwanted => false,
                Glance::Unsure => {
                    record(unit).is_some_and(|record| request.filter.wants(&record, &mut found.work))
                }
            };
            if !wanted {
                continue;
            }
            bytes += size;
            found.messages += 1;
            match found.runs.last_mut() {
                Some((start, len)) if *start + u64::from(*len) == unit.physical_offset => *len += unit.size,
                _ => found.runs.push((unit.physical_offset, unit.size)),
            }
        }
    }
}

/// Looks for messages in the store.
pub(crate) fn find(store: &Store, request: &PullRequest) -> Found {
    match store.queue(&request.topic.name, request.queue_id) {
        Some(queue) => scan(
            request,
            queue.min_offset(),
            queue.max_offset(),
            |from, max| queue.read(from, max),
            |unit| store.record(unit.physical_offset, unit.size),
        ),
        None => Found::nothing(PullStatus::NoMatchedLogicQueue, 0, 0, 0),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use raftmq_broker::state::{SubscriptionGroup, Topic};
    use raftmq_message::hash::tags_code;
    use raftmq_remoting::Serialization;

    use super::*;
    use crate::broker::filter::Filter;
    use crate::broker::tests::record_with;

    fn request(offset: i64) -> PullRequest {
        PullRequest {
            opaque: 1,
            serialization: Serialization::Json,
            group: Arc::new(SubscriptionGroup::new("g")),
            topic: Arc::new(Topic::new("t", 1, 6)),
            queue_id: 0,
            offset,
            max_messages: 32,
            max_bytes: 1000,
            filter: Filter::All,
            sub_version: None,
        }
    }

    /// "Aa" and "BB" have the same code.
    fn tag(at: u64) -> &'static str {
        ["Aa", "C", "BB", "D"][at as usize % 4]
    }

    /// Units of 100 bytes in pairs that lie back to back.
    fn units(from: u64, max: usize) -> Vec<Unit> {
        let unit = |at| Unit {
            physical_offset: at / 2 * 1000 + at % 2 * 100,
            size: 100,
            tags_code: tags_code(tag(at)),
        };
        (from..10).take(max).map(unit).collect()
    }

    fn record(unit: &Unit) -> Option<Vec<u8>> {
        let at = unit.physical_offset / 1000 * 2 + unit.physical_offset % 1000 / 100;
        Some(record_with(&format!("TAGS\u{1}{}\u{2}", tag(at))))
    }

    fn run(request: &PullRequest) -> Found {
        scan(request, 2, 10, units, record)
    }

    fn tags(expression: &str) -> Filter {
        Filter::parse(expression, None).unwrap()
    }

    #[test]
    fn offsets_outside_the_queue_are_answered_as_rocketmq_does() {
        use PullStatus::{NoMessageInQueue, OffsetOverflowBadly, OffsetOverflowOne, OffsetTooSmall};
        for (asked, status, code, next) in [
            (1, OffsetTooSmall, 21, 2),
            (-1, OffsetTooSmall, 21, 2),
            (10, OffsetOverflowOne, 19, 10),
            (11, OffsetOverflowBadly, 21, 10),
            (i64::MAX, OffsetOverflowBadly, 21, 10),
            (i64::MIN, OffsetTooSmall, 21, 2),
        ] {
            let found = run(&request(asked));
            assert_eq!((found.status, found.code(asked), found.next_offset), (status, code, next), "{asked}");
        }
        for (asked, code) in [(0, 19), (5, 21)] {
            let found = scan(&request(asked), 0, 0, units, record);
            assert_eq!((found.status, found.code(asked), found.next_offset), (NoMessageInQueue, code, 0));
        }
    }

    #[test]
    fn who_is_past_the_end_of_a_follower_waits() {
        let waits = |asked, reader| run(&request(asked)).may_wait(asked, reader);
        for reader in [Reader::Leader, Reader::Follower] {
            assert!(waits(10, reader) && !waits(2, reader) && !waits(1, reader));
        }
        assert!(waits(11, Reader::Follower) && !waits(11, Reader::Leader));
    }

    #[test]
    fn records_that_lie_together_are_one_run() {
        let found = run(&PullRequest { max_messages: 3, ..request(2) });
        assert_eq!((found.status, found.next_offset, found.messages), (PullStatus::Found, 5, 3));
        assert_eq!(found.runs, [(1000, 200), (2000, 100)]);
    }

    #[test]
    fn bytes_are_bounded_but_for_the_first_message() {
        let found = run(&PullRequest { max_bytes: 250, ..request(2) });
        assert_eq!((found.messages, found.next_offset), (2, 4));
        let found = run(&PullRequest { max_bytes: 1, ..request(2) });
        assert_eq!((found.messages, found.next_offset), (1, 3));
    }

    #[test]
    fn a_filter_skips_and_always_goes_forward() {
        let found = run(&PullRequest { filter: tags("C || D"), max_messages: 2, ..request(2) });
        assert_eq!((found.messages, found.next_offset), (2, 6));
        assert_eq!(found.runs, [(1100, 100), (2100, 100)]);
        let found = run(&PullRequest { filter: tags("E"), ..request(2) });
        assert_eq!((found.status, found.code(2), found.next_offset), (PullStatus::NoMatchedMessage, 20, 10));
    }

    #[test]
    fn tags_of_one_code_are_told_apart_by_their_records() {
        let found = run(&PullRequest { filter: tags("BB"), ..request(2) });
        assert_eq!((found.runs, found.next_offset), (vec![(1000, 100), (3000, 100)], 10));
        let gone = scan(&PullRequest { filter: tags("BB"), ..request(2) }, 2, 10, units, |_| None::<Vec<u8>>);
        assert_eq!((gone.status, gone.next_offset), (PullStatus::NoMatchedMessage, 10));
    }

    #[test]
    fn a_pull_does_so_much_work_and_the_next_goes_on() {
        let endless = |from: u64, max: usize| {
            (from..from + max as u64).map(|at| Unit { tags_code: 7, ..units(at % 8, 1)[0] }).collect()
        };
        let long = vec!["TAGS = 'x'"; 120].join(" OR ");
        let sql = |expression: &str| Filter::parse(expression, Some("SQL92")).unwrap();
        for (filter, least, most) in
            [(tags("none"), 10_000, 100_000), (sql("absent > 1"), 1000, 10_000), (sql(&long), 100, 1000)]
        {
            let mut offset = 0;
            for _ in 0..3 {
                let request = PullRequest { filter: filter.clone(), ..request(offset) };
                let found = scan(&request, 0, u64::MAX / 2, endless, record);
                let looked = found.next_offset - offset;
                assert!(found.work >= PULL_WORK && (least..most).contains(&looked), "{looked}");
                offset = found.next_offset;
            }
        }
    }

    #[test]
    fn units_that_have_gone_meanwhile_are_stepped_over() {
        let found = scan(&request(3), 2, 10, |_, _| Vec::new(), record);
        assert_eq!((found.status, found.code(3), found.next_offset), (PullStatus::MessageWasRemoving, 20, 4));
    }
}
