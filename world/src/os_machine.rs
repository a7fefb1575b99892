//! What the operating system tells of this process and its machine.

#![expect(clippy::disallowed_methods, reason = "asks the operating system")]

/// The machine's memory where it is not known.
const MEMORY_BYTES_ASSUMED: u64 = 4 << 30;

/// The bounds that Linux sets by default, where they are not known.
const DESCRIPTORS_ASSUMED: u64 = 1024;
const MAPS_ASSUMED: u64 = 65_530;

/// More files open than these bring nothing: each that was read takes a page for the table of its pages.
const OPEN_FILES_MAX: u64 = 4096;

/// A quarter of what the process may have of descriptors and of maps: the rest is for connections and for the log.
pub(crate) fn open_files_max() -> usize {
    let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let maps = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap_or_default();
    let maps = maps.trim().parse::<u64>().unwrap_or(MAPS_ASSUMED);
    (descriptors.unwrap_or(DESCRIPTORS_ASSUMED).min(maps) / 4).min(OPEN_FILES_MAX) as usize
}

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
