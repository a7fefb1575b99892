//! Simulated time: the simulation's own, and what the clocks of a machine make of it.
//!
//! Simulated time is a [`Duration`] since the simulation began. Each process has a tokio runtime of its own whose clock
//! stands still unless the simulation moves it; how fast depends on the machine's drift.

use std::sync::OnceLock;
use std::time::Duration;

use parking_lot::Mutex;
use raftmq_world::Clock;
use tokio::runtime::Handle;
use tokio::time::Instant;

/// The time of day at which every simulation begins, in ms since the epoch.
pub const EPOCH_MS: i64 = 1_800_000_000_000;
/// Parts per million.
const MILLION: i128 = 1_000_000;

/// The clock of a machine: it outlives the processes on it.
#[derive(Debug, Default)]
pub struct MachineClock(Mutex<Rate>);

/// How a machine's time follows the simulation's.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    /// At this moment of the simulation...
    simulated: Duration,
    /// ...the machine's time was this.
    machine: Duration,
    /// How much too fast it goes since then, in parts per million.
    drift_ppm: i64,
    /// The time of day is ahead of it by so much.
    ahead_ms: i64,
}

impl Rate {
    fn machine_time(&self, simulated: Duration) -> Duration {
        let since = simulated.saturating_sub(self.simulated).as_nanos() as i128;
        self.machine + nanos(since * (MILLION + i128::from(self.drift_ppm)) / MILLION)
    }

    fn simulated_time(&self, machine: Duration) -> Duration {
        let since = machine.saturating_sub(self.machine).as_nanos() as i128;
        self.simulated + nanos(since * MILLION / (MILLION + i128::from(self.drift_ppm)))
    }
}

fn nanos(nanos: i128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or_default())
}

impl MachineClock {
    /// From `now` on it goes too fast by so many parts per million; below 0 too slowly.
    pub fn drift(&self, now: Duration, drift_ppm: i64) {
        let mut rate = self.0.lock();
        *rate = Rate { simulated: now, machine: rate.machine_time(now), drift_ppm, ..*rate };
    }

    /// The time of day jumps.
    pub fn jump(&self, ms: i64) {
        self.0.lock().ahead_ms += ms;
    }

    /// Goes right from `now` on, and shows the right time of day.
    pub fn mend(&self, now: Duration) {
        let mut rate = self.0.lock();
        let machine = rate.machine_time(now);
        let ahead_ms = now.as_millis() as i64 - machine.as_millis() as i64;
        *rate = Rate { simulated: now, machine, drift_ppm: 0, ahead_ms };
    }

    /// The machine's time.
    pub fn machine_time(&self, simulated: Duration) -> Duration {
        self.0.lock().machine_time(simulated)
    }
}

/// The clock of a process.
#[derive(Debug)]
pub struct HostClock {
    machine: std::sync::Arc<MachineClock>,
    /// The machine's time when the process began.
    began_machine: Duration,
    /// What its runtime's clock said then.
    began: OnceLock<Instant>,
}

impl HostClock {
    /// Of a process that begins at `simulated`. [`begin`](Self::begin) is still to be called, inside its runtime.
    pub fn new(machine: std::sync::Arc<MachineClock>, simulated: Duration) -> Self {
        let began_machine = machine.machine_time(simulated);
        Self { machine, began_machine, began: OnceLock::new() }
    }

    /// Takes the runtime's clock as it is now for the process's beginning.
    pub fn begin(&self) {
        self.began.get_or_init(Instant::now);
    }

    /// The moment of the runtime's clock at which the simulation will have come to `simulated`.
    pub fn runtime_time(&self, simulated: Duration) -> Instant {
        let since = self.machine.machine_time(simulated).saturating_sub(self.began_machine);
        *self.began.get_or_init(Instant::now) + since
    }

    /// Where the process is in the simulation's time: ahead of the others after it was held up.
    pub fn simulated(&self) -> Duration {
        let machine = self.began_machine + self.passed();
        self.machine.0.lock().simulated_time(machine)
    }
}

impl Clock for HostClock {
    fn now_ms(&self) -> i64 {
        let machine = self.began_machine + self.passed();
        EPOCH_MS + machine.as_millis() as i64 + self.machine.0.lock().ahead_ms
    }

    fn passed(&self) -> Duration {
        // Where a process is being ended its clock has no meaning any more.
        if Handle::try_current().is_err() {
            return Duration::ZERO;
        }
        Instant::now().saturating_duration_since(*self.began.get_or_init(Instant::now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_drifts_can_be_told_from_one_that_does_not() {
        let clock = MachineClock::default();
        let second = Duration::from_secs(1);
        assert_eq!(clock.machine_time(second), second);
        clock.drift(second, 100_000);
        assert_eq!(clock.machine_time(2 * second), Duration::from_millis(2100));
        let rate = *clock.0.lock();
        assert_eq!(rate.simulated_time(Duration::from_millis(2100)), 2 * second);
        clock.mend(2 * second);
        assert_eq!(clock.machine_time(3 * second), Duration::from_millis(3100));
        assert_eq!(clock.0.lock().ahead_ms, -100);
    }
}
