//! Finds the place in a queue that belongs to a point in time.

use std::ops::Range;

use crate::error::StoreError;

/// Which of the messages around a point in time is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boundary {
    /// The first one stored at that time or later.
    Lower,
    /// The last one stored at that time or before.
    Upper,
}

/// Finds the offset among `offsets` by the rule of `ConsumeQueue::offset_by_time`. `time_at` says
/// when a message was stored, if it is there.
pub(super) fn find(
    offsets: Range<u64>,
    time_ms: i64,
    boundary: Boundary,
    time_at: impl Fn(u64) -> Result<Option<i64>, StoreError>,
) -> Result<u64, StoreError> {
    let Range { start: min, end: mut high } = offsets;
    let mut low = min;
    // The first message past the point: below `low` none is, from `high` on all are.
    while low < high {
        let middle = low + (high - low) / 2;
        let past = time_at(middle)?.is_some_and(|stored| match boundary {
            Boundary::Lower => stored >= time_ms,
            Boundary::Upper => stored > time_ms,
        });
        if past {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    // A message that is gone is not the last one before the point.
    if boundary == Boundary::Upper && low > min && time_at(low - 1)?.is_some() {
        return Ok(low - 1);
    }
    Ok(low)
}
