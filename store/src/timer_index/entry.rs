//! An entry of the timer index, and the slot that it belongs to.
//!
//! An entry is 32 bytes, all big-endian, and lies within one sector, so a crash leaves it as a whole or not at all:
//!
//! | at | size | field |
//! |---|---|---|
//! | 0 | 8 | physical offset of the record |
//! | 8 | 8 | when it is due, in ms since 1970 |
//! | 16 | 8 | its queue offset |
//! | 24 | 4 | bytes of the record |
//! | 28 | 4 | CRC-32C of the bytes before |

/// Bytes of an entry.
pub(super) const ENTRY_SIZE: usize = 32;
/// What a slot covers. Some 4,300 of them hold the three days that clients can ask for.
pub(super) const SLOT_MS: i64 = 60_000;
/// The last slot, which holds whatever is due later: names stay sensible, whatever a record says. The year 10136.
pub(super) const LAST_SLOT: u64 = u32::MAX as u64;

/// A message with a time of its own. The order is that of delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimerEntry {
    /// When it is due, in ms since 1970.
    pub due_ms: i64,
    /// Its place in the timers' queue; tells apart what is due at the same time.
    pub queue_offset: u64,
    /// Where its record is.
    pub physical_offset: u64,
    /// Bytes of its record.
    pub size: u32,
}

impl TimerEntry {
    pub(super) fn encode(&self) -> [u8; ENTRY_SIZE] {
        let mut bytes = [0; ENTRY_SIZE];
        bytes[..8].copy_from_slice(&self.physical_offset.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.due_ms.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.queue_offset.to_be_bytes());
        bytes[24..28].copy_from_slice(&self.size.to_be_bytes());
        let checksum = crc32c::crc32c(&bytes[..28]);
        bytes[28..].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    /// `None` where no entry, or not a whole one, stands.
    pub(super) fn decode(bytes: &[u8; ENTRY_SIZE]) -> Option<Self> {
        let [content @ .., c0, c1, c2, c3] = bytes;
        if crc32c::crc32c(content) != u32::from_be_bytes([*c0, *c1, *c2, *c3]) {
            return None;
        }
        let [physical_offset, due_ms, queue_offset, [s0, s1, s2, s3, ..]] = bytes.as_chunks::<8>().0 else {
            return None;
        };
        Some(Self {
            physical_offset: u64::from_be_bytes(*physical_offset),
            due_ms: i64::from_be_bytes(*due_ms),
            queue_offset: u64::from_be_bytes(*queue_offset),
            size: u32::from_be_bytes([*s0, *s1, *s2, *s3]),
        })
    }

    pub(super) fn slot(&self) -> u64 {
        slot_of(self.due_ms)
    }
}

/// The slot of what is due then. It grows with the time, so whatever is due in an earlier slot is due earlier.
pub(super) fn slot_of(due_ms: i64) -> u64 {
    // Not negative.
    ((due_ms.max(0) / SLOT_MS) as u64).min(LAST_SLOT)
}

/// When the first message of a slot may be due.
pub(super) fn slot_start_ms(slot: u64) -> i64 {
    // Slots have 32 bits.
    if slot == 0 { i64::MIN } else { slot as i64 * SLOT_MS }
}
