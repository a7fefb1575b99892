//! A thread that generates load: its runtime, and the CPU time that it takes.

use anyhow::Context;

/// A runtime on this thread alone.
pub(super) fn current_thread() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")
}

/// CPU time of this thread in ns, or 0 where the system does not tell.
pub(super) fn thread_cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0)
}
