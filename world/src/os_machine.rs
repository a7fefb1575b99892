//! What the operating system tells of this process and its machine.

#![expect(clippy::disallowed_methods, reason = "asks the operating system")]

/// The machine's memory where it is not known.
const MEMORY_BYTES_ASSUMED: u64 = 4 << 30;

pub(crate) fn process_id() -> u32 {
    std::process::id()
}

/// The machine's memory, as Linux tells it.
pub(crate) fn memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|total| total.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.map_or(MEMORY_BYTES_ASSUMED, |kib| kib * 1024)
}
