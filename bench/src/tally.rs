//! What a load counts, and how sends are reported.

use std::fmt::{Display, Formatter};

use hdrhistogram::Histogram;
use serde::Serialize;

/// Latencies above this are counted as this: nobody waits longer for an answer.
const LATENCY_NS_MAX: u64 = 60_000_000_000;
/// Three digits: a value is off by 0.1 % at most.
const SIGNIFICANT_DIGITS: u8 = 3;

/// Counts of one generator thread.
pub(super) struct Tally {
    latencies_ns: Histogram<u64>,
    pub(super) errors: u64,
    /// The first error and how it was worded.
    first_error: Option<String>,
    /// CPU time of the generator while it counted.
    pub(super) cpu_ns: u64,
}

impl Tally {
    pub(super) fn new() -> Self {
        let latencies_ns = Histogram::new_with_bounds(1, LATENCY_NS_MAX, SIGNIFICANT_DIGITS)
            .expect("constant bounds that the histogram documents as valid");
        Self { latencies_ns, errors: 0, first_error: None, cpu_ns: 0 }
    }

    #[inline]
    pub(super) fn acknowledged(&mut self, latency_ns: u64) {
        self.latencies_ns.saturating_record(latency_ns);
    }

    #[cold]
    pub(super) fn refused(&mut self, code: i32, remark: impl FnOnce() -> String) {
        self.errors += 1;
        if self.first_error.is_none() {
            self.first_error = Some(format!("code {code}: {}", remark()));
        }
    }

    #[cold]
    pub(super) fn broken(&mut self, what: &str) {
        if self.first_error.is_none() {
            self.first_error = Some(what.to_owned());
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.latencies_ns.add(&other.latencies_ns).expect("both have the same bounds");
        self.errors += other.errors;
        self.cpu_ns += other.cpu_ns;
        if self.first_error.is_none() {
            self.first_error = other.first_error;
        }
    }

    /// How many latencies were recorded.
    pub(super) fn count(&self) -> u64 {
        self.latencies_ns.len()
    }

    pub(super) fn first_error(&self) -> Option<String> {
        self.first_error.clone()
    }

    pub(super) fn latencies(&self) -> Latencies {
        let at = |quantile| self.latencies_ns.value_at_quantile(quantile) as f64 / 1e3;
        Latencies {
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: self.latencies_ns.max() as f64 / 1e3,
        }
    }

    pub(super) fn report(&self, measured_s: f64) -> SendReport {
        let acked = self.count();
        SendReport {
            acked,
            acked_per_s: (acked as f64 / measured_s).round(),
            errors: self.errors,
            latencies: self.latencies(),
            generator_ns_per_message: (self.cpu_ns as f64 / acked.max(1) as f64).round(),
            first_error: self.first_error(),
        }
    }
}

/// Latencies in µs that half, nine in ten, 99 in 100 and 999 in 1000 stayed within, and the largest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Latencies {
    pub(super) p50_us: f64,
    pub(super) p90_us: f64,
    pub(super) p99_us: f64,
    pub(super) p999_us: f64,
    pub(super) max_us: f64,
}

impl Display for Latencies {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { p50_us, p90_us, p99_us, p999_us, max_us } = self;
        write!(
            f,
            "p50 {p50_us:.0} µs, p90 {p90_us:.0} µs, p99 {p99_us:.0} µs, p99.9 {p999_us:.0} µs, max {max_us:.0} µs"
        )
    }
}

/// The outcome of a load of sends. Latencies are from writing a request into the send buffer to reading its response.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct SendReport {
    /// Sends that were answered with code 0 while the run counted.
    pub(super) acked: u64,
    /// The same for each second.
    pub(super) acked_per_s: f64,
    /// Sends that were refused, those in flight on connections that broke, and vain attempts to connect, warm-up
    /// included.
    pub(super) errors: u64,
    #[serde(flatten)]
    pub(super) latencies: Latencies,
    /// CPU time that the generator itself took for an acknowledged message.
    pub(super) generator_ns_per_message: f64,
    /// The first error, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) first_error: Option<String>,
}

/// Says how many errors there were, and the first of them.
pub(super) fn write_errors(f: &mut Formatter<'_>, errors: u64, first: Option<&str>) -> std::fmt::Result {
    writeln!(f, "errors        {errors}")?;
    first.map_or(Ok(()), |error| writeln!(f, "first error   {error}"))
}

impl Display for SendReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "acknowledged  {} ({:.0} a second)", self.acked, self.acked_per_s)?;
        write_errors(f, self.errors, self.first_error.as_deref())?;
        writeln!(f, "latency       {}", self.latencies)?;
        write!(f, "generator     {:.0} ns of CPU a message", self.generator_ns_per_message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_adds_up_what_the_threads_counted() {
        let mut all = Tally::new();
        for thread in 0..2 {
            let mut tally = Tally::new();
            for latency_us in 1..=500 {
                tally.acknowledged((thread * 500 + latency_us) * 1000);
            }
            tally.refused(14, || format!("thread {thread}"));
            tally.cpu_ns = 50_000;
            all.merge(tally);
        }
        let report = all.report(0.5);
        assert_eq!((report.acked, report.errors, report.acked_per_s), (1000, 2, 2000.0));
        assert_eq!(report.first_error.as_deref(), Some("code 14: thread 0"));
        assert_eq!(report.generator_ns_per_message, 100.0);
        let latencies = report.latencies;
        for (value, expected) in
            [(latencies.p50_us, 500.0), (latencies.p99_us, 990.0), (latencies.max_us, 1000.0)]
        {
            assert!((value / expected - 1.0_f64).abs() < 0.002, "{value} is not {expected}");
        }
    }
}
