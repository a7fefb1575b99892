//! How slow this member's disk is: the longest that something took lately until it was durable.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use raftmq_world::Clock;

/// What took long counts half as much after this time.
const HALVED_AFTER: Duration = Duration::from_secs(60);
/// One that took longer counts as this: a disk that stands still for a moment is no slow disk.
const SLOW_MAX: Duration = Duration::from_secs(2);

/// Takes note of how long writes take.
#[derive(Debug)]
pub(crate) struct Pace {
    clock: Arc<dyn Clock>,
    longest: Mutex<Longest>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Longest {
    took: Duration,
    at: Duration,
}

impl Longest {
    fn by(self, now: Duration) -> Duration {
        let age = now.saturating_sub(self.at);
        let halvings = (age.as_nanos() / HALVED_AFTER.as_nanos()).min(31) as u32;
        self.took / (1 << halvings)
    }
}

impl Pace {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, longest: Mutex::default() }
    }

    /// When a write begins, for [`ended`](Self::ended).
    pub(crate) fn begin(&self) -> Duration {
        self.clock.passed()
    }

    /// What began then is durable.
    pub(crate) fn ended(&self, began: Duration) {
        let now = self.clock.passed();
        let took = now.saturating_sub(began).min(SLOW_MAX);
        let mut longest = self.longest.lock();
        if took >= longest.by(now) {
            *longest = Longest { took, at: now };
        }
    }

    /// How long a write takes at most, by what was seen lately.
    pub(crate) fn slow(&self) -> Duration {
        self.longest.lock().by(self.clock.passed())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A clock that is moved by hand.
    #[derive(Debug, Default)]
    pub(crate) struct Hand(Mutex<Duration>);

    impl Hand {
        pub(crate) fn go(&self, time: Duration) {
            *self.0.lock() += time;
        }
    }

    impl Clock for Hand {
        fn now_ms(&self) -> i64 {
            0
        }

        fn passed(&self) -> Duration {
            *self.0.lock()
        }
    }

    #[test]
    fn what_took_long_is_remembered_for_a_while() {
        let clock = Arc::new(Hand::default());
        let pace = Pace::new(clock.clone());
        let ms = Duration::from_millis;
        let take = |time| {
            let began = pace.begin();
            clock.go(time);
            pace.ended(began);
        };
        take(ms(250));
        take(ms(20));
        assert_eq!(pace.slow(), ms(250));
        clock.go(HALVED_AFTER);
        assert_eq!(pace.slow(), ms(125));
        take(ms(200));
        assert_eq!(pace.slow(), ms(200));
        take(ms(60_000));
        assert_eq!(pace.slow(), SLOW_MAX);
    }
}
