//! The time of day, and time that only passes.

#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "the operating system's clocks")]

use std::fmt::Debug;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Tells the time.
pub trait Clock: Debug + Send + Sync + 'static {
    /// The time of day, in milliseconds since the epoch. It may jump.
    fn now_ms(&self) -> i64;

    /// Time passed since some moment before; never less than it was.
    fn passed(&self) -> Duration;
}

/// The operating system's clocks.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    began: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { began: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
    }

    fn passed(&self) -> Duration {
        self.began.elapsed()
    }
}
