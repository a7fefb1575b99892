//! What a run counts, and how it is printed.

use hdrhistogram::Histogram;
use serde::Serialize;

/// Latencies above this are counted as this: nobody waits longer for an acknowledgement.
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

    pub(super) fn report(&self, measured_s: f64) -> Report {
        let acked = self.latencies_ns.len();
        let at = |quantile| self.latencies_ns.value_at_quantile(quantile) as f64 / 1e3;
        Report {
            acked,
            acked_per_s: (acked as f64 / measured_s).round(),
            errors: self.errors,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: self.latencies_ns.max() as f64 / 1e3,
            generator_ns_per_message: (self.cpu_ns as f64 / acked.max(1) as f64).round(),
            first_error: self.first_error.clone(),
        }
    }
}

/// The outcome of a run. Latencies are in µs from writing a request into the send buffer to reading its response.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Report {
    /// Sends that were answered with code 0 while the run counted.
    pub(super) acked: u64,
    /// The same for each second.
    pub(super) acked_per_s: f64,
    /// Sends that were refused, those in flight on connections that broke, and vain attempts to connect, warm-up
    /// included.
    pub(super) errors: u64,
    /// Half of the acknowledged sends took this long at most.
    pub(super) p50_us: f64,
    /// Nine in ten.
    pub(super) p90_us: f64,
    /// 99 in 100.
    pub(super) p99_us: f64,
    /// 999 in 1000.
    pub(super) p999_us: f64,
    /// The slowest.
    pub(super) max_us: f64,
    /// CPU time that the generator itself took for an acknowledged message.
    pub(super) generator_ns_per_message: f64,
    /// The first error, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) first_error: Option<String>,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "acknowledged  {} ({:.0} a second)", self.acked, self.acked_per_s)?;
        writeln!(f, "errors        {}", self.errors)?;
        if let Some(error) = &self.first_error {
            writeln!(f, "first error   {error}")?;
        }
        writeln!(
            f,
            "latency       p50 {:.0} µs, p90 {:.0} µs, p99 {:.0} µs, p99.9 {:.0} µs, max {:.0} µs",
            self.p50_us, self.p90_us, self.p99_us, self.p999_us, self.max_us
        )?;
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
        for (value, expected) in [(report.p50_us, 500.0), (report.p99_us, 990.0), (report.max_us, 1000.0)] {
            assert!((value / expected - 1.0_f64).abs() < 0.002, "{value} is not {expected}");
        }
    }
}
