//! How the members' clocks compare.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use raftmq_world::Clock;

/// Clocks that differ by more than this are warned of: delays, offsets by time and consumers' lag go by them.
const DIFFERENCE_MS_MAX: u64 = 1000;
/// How often the same member's clock is warned of.
const WARNING_INTERVAL: Duration = Duration::from_secs(600);

/// This member's clock and, on a leader, how the others' compare with it.
pub(crate) struct Clocks {
    own: Arc<dyn Clock>,
    others: Mutex<BTreeMap<u64, Compared>>,
}

#[derive(Clone, Copy, Default)]
struct Compared {
    ahead_ms: i64,
    /// When it was warned of, by the time that passes here.
    warned: Option<Duration>,
}

impl Clocks {
    pub(crate) fn new(own: Arc<dyn Clock>) -> Self {
        Self { own, others: Mutex::default() }
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.own.now_ms()
    }

    /// How far a member's clock was ahead the last time that it was compared, at least.
    pub(crate) fn ahead_ms(&self, member: u64) -> Option<i64> {
        self.others.lock().get(&member).map(|compared| compared.ahead_ms)
    }

    /// Compares a member's clock, which it has read while `round_trip` passed here until now. Says whether that was
    /// worth a warning.
    pub(crate) fn compare(&self, member: u64, theirs_ms: i64, round_trip: Duration) -> bool {
        let ahead_ms = least_ahead(theirs_ms, self.now_ms(), round_trip);
        let mut others = self.others.lock();
        let compared = others.entry(member).or_default();
        compared.ahead_ms = ahead_ms;
        let passed = self.own.passed();
        let lately = compared.warned.is_some_and(|warned| passed < warned + WARNING_INTERVAL);
        let differs = ahead_ms.unsigned_abs() > DIFFERENCE_MS_MAX && !lately;
        if differs {
            compared.warned = Some(passed);
            let way = if ahead_ms > 0 { "ahead of" } else { "behind" };
            let ms = ahead_ms.unsigned_abs();
            tracing::warn!(node = member, ms, "the clock of node {member} is {way} this node's by {ms} ms");
        }
        differs
    }
}

/// How far a clock is ahead of this one's at least, below 0 behind: it was read between `round_trip` ago and now.
fn least_ahead(theirs_ms: i64, now_ms: i64, round_trip: Duration) -> i64 {
    let round_trip_ms = i64::try_from(round_trip.as_millis()).unwrap_or(i64::MAX).saturating_add(1);
    let least = theirs_ms.saturating_sub(now_ms);
    let most = least.saturating_add(round_trip_ms);
    if least > 0 { least } else { most.min(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Stopped(i64);

    impl Clock for Stopped {
        fn now_ms(&self) -> i64 {
            self.0
        }

        fn passed(&self) -> Duration {
            Duration::ZERO
        }
    }

    #[test]
    fn a_difference_is_certain_only_beyond_the_round_trip() {
        let ahead = |theirs, round_trip| least_ahead(theirs, 10_000, Duration::from_millis(round_trip));
        assert_eq!((ahead(10_000, 0), ahead(9_000, 5_000), ahead(9_999, 0)), (0, 0, 0));
        assert_eq!((ahead(12_000, 0), ahead(12_000, 5_000)), (2_000, 2_000), "it was read before now");
        assert_eq!((ahead(7_000, 0), ahead(7_000, 1_000)), (-2_999, -1_999));
        assert_eq!((ahead(i64::MAX, 0), ahead(i64::MIN, 0)), (i64::MAX - 10_000, i64::MIN + 1));
    }

    #[test]
    fn a_member_whose_clock_differs_is_warned_of_once_in_a_while() {
        let clocks = Clocks::new(Arc::new(Stopped(10_000)));
        let compare = |member, theirs| clocks.compare(member, theirs, Duration::ZERO);
        assert!(!compare(2, 10_900) && !compare(2, 9_100), "less than a second");
        assert!(compare(2, 11_500) && !compare(2, 11_500), "not again");
        assert!(compare(3, 8_000), "each by itself");
        assert_eq!(
            (clocks.ahead_ms(2), clocks.ahead_ms(3), clocks.ahead_ms(4)),
            (Some(1_500), Some(-1_999), None)
        );
    }
}
