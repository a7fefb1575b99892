//! A unit of a ConsumeQueue: where one message is in the log.

/// Bytes of a unit, all big-endian: physical offset (8), size (4), tags code (8).
pub const UNIT_SIZE: usize = 20;
pub(super) const UNIT: u64 = UNIT_SIZE as u64;

/// Where a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Physical offset of its record in the log; below 2^63.
    pub physical_offset: u64,
    /// Bytes of its record; from 1 to 2^31 - 1. A size of 0 marks a place where no unit is.
    pub size: u32,
    /// Hash of its tags, or another number that tells what it is: whoever makes the queues decides.
    pub tags_code: i64,
}

impl Unit {
    pub(super) fn encode(self) -> [u8; UNIT_SIZE] {
        let mut bytes = [0; UNIT_SIZE];
        bytes[..8].copy_from_slice(&self.physical_offset.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.size.to_be_bytes());
        bytes[12..].copy_from_slice(&self.tags_code.to_be_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; UNIT_SIZE]) -> Self {
        let [p0, p1, p2, p3, p4, p5, p6, p7, s0, s1, s2, s3, tags_code @ ..] = *bytes;
        Self {
            physical_offset: u64::from_be_bytes([p0, p1, p2, p3, p4, p5, p6, p7]),
            size: u32::from_be_bytes([s0, s1, s2, s3]),
            tags_code: i64::from_be_bytes(tags_code),
        }
    }

    /// Whether this can be a unit at all: both numbers are signed in RocketMQ's layout.
    fn is_possible(self) -> bool {
        self.size != 0 && self.size <= i32::MAX as u32 && self.physical_offset <= i64::MAX as u64
    }

    /// Whether this can follow a unit of physical offset `previous` in a queue that ends below `limit`.
    pub(super) fn continues(self, previous: Option<u64>, limit: u64) -> bool {
        self.is_possible()
            && self.physical_offset < limit
            && previous.is_none_or(|previous| self.physical_offset > previous)
    }
}
