//! What a pull finds in a queue: which messages go into its answer, and where the next pull goes on.

use std::ops::Deref;

use raftmq_store::{Store, StoreError, Unit};

use crate::filter::{Filter, Glance};
use crate::limits::PULL_WORK;
use crate::replica::Reader;

/// Work of looking at a unit.
const UNIT_WORK: usize = 4;

/// What is looked for in a queue.
#[derive(Clone, Debug)]
pub(super) struct Search<'a> {
    pub(super) topic: &'a str,
    pub(super) queue_id: u32,
    /// Below 0 only if the client asks for it.
    pub(super) offset: i64,
    pub(super) max_messages: usize,
    pub(super) max_bytes: usize,
    pub(super) filter: &'a Filter,
}

/// What a client does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has messages.
    Found,
    /// There is nothing new: it asks again, or waits.
    NothingNew,
    /// It asks again at once, from the next offset on.
    AskAgain,
    /// Its offset is outside the queue, or an operator has set another: it goes on from the next offset.
    Moved,
}

/// What came of looking for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullStatus {
    /// There are some.
    Found,
    /// There are some, and none is wanted.
    NoMatchedMessage,
    /// They go as they are looked for.
    MessageWasRemoving,
    /// It asks for what comes next.
    OffsetOverflowOne,
    /// It asks for what comes later.
    OffsetOverflowBadly,
    /// It asks for what is gone.
    OffsetTooSmall,
    /// The queue is empty.
    NoMessageInQueue,
    /// The queue has never had a message.
    NoMatchedLogicQueue,
    /// An operator has reset the group's offset.
    OffsetReset,
}

impl PullStatus {
    /// The name that answers carry as their remark.
    pub fn name(self) -> &'static str {
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
pub(super) struct Found {
    pub(super) status: PullStatus,
    /// Where the next pull goes on.
    pub(super) next_offset: i64,
    pub(super) min_offset: i64,
    pub(super) max_offset: i64,
    /// Physical offset and length of records that lie back to back.
    pub(super) runs: Vec<(u64, u32)>,
    pub(super) messages: u64,
    /// What looking took, see [`Filter::wants`].
    pub(super) work: usize,
}

impl Found {
    /// No messages.
    pub(super) fn nothing(status: PullStatus, next_offset: i64, min_offset: i64, max_offset: i64) -> Self {
        Self { status, next_offset, min_offset, max_offset, runs: Vec::new(), messages: 0, work: 0 }
    }

    /// What the leader's client does next. An empty queue is "nothing new" to who is at its start and "moved" to who is
    /// elsewhere.
    pub(super) fn outcome(&self, asked: i64) -> Outcome {
        use PullStatus::*;
        match self.status {
            Found => Outcome::Found,
            NoMatchedMessage | MessageWasRemoving => Outcome::AskAgain,
            OffsetOverflowOne => Outcome::NothingNew,
            NoMessageInQueue | NoMatchedLogicQueue if asked == 0 => Outcome::NothingNew,
            NoMessageInQueue | NoMatchedLogicQueue | OffsetOverflowBadly | OffsetTooSmall | OffsetReset => {
                Outcome::Moved
            }
        }
    }

    /// Whether the pull waits for messages, if it may be held at all. A follower may lag: who is past its end waits
    /// until it has caught up.
    pub(super) fn may_wait(&self, asked: i64, reader: Reader) -> bool {
        self.outcome(asked) == Outcome::NothingNew || reader == Reader::Follower && asked > self.max_offset
    }
}

/// Looks for messages in a queue with messages from `min_offset` to before `max_offset`. `units` gives at most so many
/// units from an offset on, `record` the record of one; `check` says whether that could be read.
///
/// # Errors
/// The first message that would be looked at or given cannot be read now.
pub(super) fn scan<R: Deref<Target = [u8]>>(
    search: &Search<'_>,
    min_offset: u64,
    max_offset: u64,
    units: impl Fn(u64, usize) -> Vec<Unit>,
    (record, check): (
        impl Fn(&Unit) -> Result<Option<R>, StoreError>,
        impl Fn(&Unit) -> Result<(), StoreError>,
    ),
) -> Result<Found, StoreError> {
    // Queue offsets stay within 63 bits.
    let (min, max, asked) = (min_offset as i64, max_offset as i64, search.offset);
    let nothing = |status, next| Found::nothing(status, next, min, max);
    if max == 0 {
        return Ok(nothing(PullStatus::NoMessageInQueue, 0));
    }
    if asked < min {
        return Ok(nothing(PullStatus::OffsetTooSmall, min));
    }
    if asked == max {
        return Ok(nothing(PullStatus::OffsetOverflowOne, asked));
    }
    if asked > max {
        return Ok(nothing(PullStatus::OffsetOverflowBadly, max));
    }
    let mut found = nothing(PullStatus::NoMatchedMessage, asked);
    if let Err(e) = collect(search, &mut found, units, (record, check))
        && found.next_offset == asked
    {
        return Err(e);
    }
    if found.messages > 0 {
        found.status = PullStatus::Found;
    } else if found.next_offset == asked {
        // The queue's start has moved since its offsets were read.
        found.status = PullStatus::MessageWasRemoving;
        found.next_offset = asked + 1;
    }
    Ok(found)
}

/// Goes through the units from the asked offset on until the answer is full, enough was looked at, or a message cannot be read
/// now.
fn collect<R: Deref<Target = [u8]>>(
    search: &Search<'_>,
    found: &mut Found,
    units: impl Fn(u64, usize) -> Vec<Unit>,
    (record, check): (
        impl Fn(&Unit) -> Result<Option<R>, StoreError>,
        impl Fn(&Unit) -> Result<(), StoreError>,
    ),
) -> Result<(), StoreError> {
    /// Units read at a time: most pulls need no more.
    const CHUNK: usize = 64;
    let mut bytes = 0;
    found.runs.reserve(search.max_messages.min(CHUNK));
    while (found.messages as usize) < search.max_messages {
        let chunk = units(found.next_offset as u64, CHUNK);
        if chunk.is_empty() {
            return Ok(());
        }
        for unit in &chunk {
            let size = unit.size as usize;
            let is_full = found.messages as usize >= search.max_messages
                || found.messages > 0 && bytes + size > search.max_bytes;
            if is_full || found.work >= PULL_WORK {
                return Ok(());
            }
            let wanted = match search.filter.glance(unit.tags_code) {
                // It has to be there as it was stored.
                Glance::Wanted => check(unit).map(|()| true)?,
                Glance::Unwanted => false,
                Glance::Unsure => {
                    record(unit)?.is_some_and(|record| search.filter.wants(&record, &mut found.work))
                }
            };
            found.next_offset += 1;
            found.work += UNIT_WORK;
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
    Ok(())
}

/// Looks for messages in the store.
pub(super) fn find(store: &Store, search: &Search<'_>) -> Result<Found, StoreError> {
    match store.queue(search.topic, search.queue_id) {
        Some(queue) => scan(
            search,
            queue.min_offset(),
            queue.max_offset(),
            |from, max| queue.read(from, max),
            (
                |unit: &Unit| store.record(unit.physical_offset, unit.size),
                |unit: &Unit| store.check_record(unit.physical_offset, unit.size),
            ),
        ),
        None => Ok(Found::nothing(PullStatus::NoMatchedLogicQueue, 0, 0, 0)),
    }
}

#[cfg(test)]
mod tests {
    use raftmq_message::hash::tags_code;

    use super::*;
    use crate::tests::record_with;

    fn search(offset: i64) -> Search<'static> {
        let (topic, queue_id, max_messages, max_bytes) = ("t", 0, 32, 1000);
        Search { topic, queue_id, offset, max_messages, max_bytes, filter: &Filter::All }
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

    fn record(unit: &Unit) -> Result<Option<Vec<u8>>, StoreError> {
        let at = unit.physical_offset / 1000 * 2 + unit.physical_offset % 1000 / 100;
        Ok(Some(record_with(&format!("TAGS\u{1}{}\u{2}", tag(at)))))
    }

    fn check(_: &Unit) -> Result<(), StoreError> {
        Ok(())
    }

    fn run(search: &Search<'_>) -> Found {
        scan(search, 2, 10, units, (record, check)).unwrap()
    }

    fn tags(expression: &str) -> Filter {
        Filter::parse(expression, None).unwrap()
    }

    #[test]
    fn offsets_outside_the_queue_are_answered_as_rocketmq_does() {
        use Outcome::{Moved, NothingNew};
        use PullStatus::{NoMessageInQueue, OffsetOverflowBadly, OffsetOverflowOne, OffsetTooSmall};
        for (asked, status, outcome, next) in [
            (1, OffsetTooSmall, Moved, 2),
            (-1, OffsetTooSmall, Moved, 2),
            (10, OffsetOverflowOne, NothingNew, 10),
            (11, OffsetOverflowBadly, Moved, 10),
            (i64::MAX, OffsetOverflowBadly, Moved, 10),
            (i64::MIN, OffsetTooSmall, Moved, 2),
        ] {
            let found = run(&search(asked));
            assert_eq!(
                (found.status, found.outcome(asked), found.next_offset),
                (status, outcome, next),
                "{asked}"
            );
        }
        for (asked, outcome) in [(0, NothingNew), (5, Moved)] {
            let found = scan(&search(asked), 0, 0, units, (record, check)).unwrap();
            assert_eq!(
                (found.status, found.outcome(asked), found.next_offset),
                (NoMessageInQueue, outcome, 0)
            );
        }
    }

    #[test]
    fn who_is_past_the_end_of_a_follower_waits() {
        let waits = |asked, reader| run(&search(asked)).may_wait(asked, reader);
        for reader in [Reader::Leader, Reader::Follower] {
            assert!(waits(10, reader) && !waits(2, reader) && !waits(1, reader));
        }
        assert!(waits(11, Reader::Follower) && !waits(11, Reader::Leader));
    }

    #[test]
    fn records_that_lie_together_are_one_run() {
        let found = run(&Search { max_messages: 3, ..search(2) });
        assert_eq!((found.status, found.next_offset, found.messages), (PullStatus::Found, 5, 3));
        assert_eq!(found.runs, [(1000, 200), (2000, 100)]);
    }

    #[test]
    fn bytes_are_bounded_but_for_the_first_message() {
        let found = run(&Search { max_bytes: 250, ..search(2) });
        assert_eq!((found.messages, found.next_offset), (2, 4));
        let found = run(&Search { max_bytes: 1, ..search(2) });
        assert_eq!((found.messages, found.next_offset), (1, 3));
    }

    #[test]
    fn a_filter_skips_and_always_goes_forward() {
        let found = run(&Search { filter: &tags("C || D"), max_messages: 2, ..search(2) });
        assert_eq!((found.messages, found.next_offset), (2, 6));
        assert_eq!(found.runs, [(1100, 100), (2100, 100)]);
        let found = run(&Search { filter: &tags("E"), ..search(2) });
        assert_eq!(
            (found.status, found.outcome(2), found.next_offset),
            (PullStatus::NoMatchedMessage, Outcome::AskAgain, 10)
        );
    }

    #[test]
    fn tags_of_one_code_are_told_apart_by_their_records() {
        let found = run(&Search { filter: &tags("BB"), ..search(2) });
        assert_eq!((found.runs, found.next_offset), (vec![(1000, 100), (3000, 100)], 10));
        let gone = scan(
            &Search { filter: &tags("BB"), ..search(2) },
            2,
            10,
            units,
            (|_: &Unit| Ok(None::<Vec<u8>>), check),
        );
        let gone = gone.unwrap();
        assert_eq!((gone.status, gone.next_offset), (PullStatus::NoMatchedMessage, 10));
    }

    #[test]
    fn what_cannot_be_read_now_is_neither_given_nor_stepped_over() {
        let broken = |unit: &Unit| match unit.physical_offset {
            3000.. => Err(StoreError::Illegal("broken".to_owned())),
            _ => record(unit),
        };
        let pull = |offset, filter: &Filter| {
            scan(
                &Search { filter, ..search(offset) },
                2,
                10,
                units,
                (broken, |unit: &Unit| broken(unit).map(drop)),
            )
            .map(|found| (found.messages, found.next_offset))
            .map_err(|e| e.to_string())
        };
        for filter in [Filter::All, tags("BB")] {
            let messages = if filter == Filter::All { 4 } else { 1 };
            assert_eq!(pull(2, &filter), Ok((messages, 6)));
            assert_eq!(pull(6, &filter), Err("broken".to_owned()));
        }
        // What is not wanted by its code is not read.
        assert_eq!(pull(2, &tags("none")), Ok((0, 10)));
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
                let search = Search { filter: &filter, ..search(offset) };
                let found = scan(&search, 0, u64::MAX / 2, endless, (record, check)).unwrap();
                let looked = found.next_offset - offset;
                assert!(found.work >= PULL_WORK && (least..most).contains(&looked), "{looked}");
                offset = found.next_offset;
            }
        }
    }

    #[test]
    fn units_that_have_gone_meanwhile_are_stepped_over() {
        let found = scan(&search(3), 2, 10, |_, _| Vec::new(), (record, check)).unwrap();
        assert_eq!(
            (found.status, found.outcome(3), found.next_offset),
            (PullStatus::MessageWasRemoving, Outcome::AskAgain, 4)
        );
    }
}
