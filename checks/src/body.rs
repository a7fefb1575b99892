//! What a message holds: a stamp that says which one it is, and padding that follows from the stamp, so that every
//! byte read back can be checked without keeping the bodies.
//!
//! | at | size | field (little-endian) |
//! |---|---|---|
//! | 0 | 8 | run, a number that tells runs apart |
//! | 8 | 4 | lane |
//! | 12 | 4 | length of the body |
//! | 16 | 8 | sequence number within the lane, from 0 |
//! | 24 | 8 | time of the first try, in µs since the run began |
//! | 32 | | padding |

use crate::rng::Rng;

/// Length of a stamp, and the least a body can have.
pub const STAMP_BYTES: usize = 32;

/// Which message a body belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Tells runs apart.
    pub run: u64,
    /// The lane that sent it.
    pub lane: u32,
    /// Its number within the lane.
    pub sequence: u64,
    /// When it was first tried, in µs since the run began.
    pub sent_us: u64,
}

impl Stamp {
    /// The body of `len` bytes, at least [`STAMP_BYTES`].
    pub fn body(&self, len: usize) -> Vec<u8> {
        let mut body = vec![0; len.max(STAMP_BYTES)];
        body[..8].copy_from_slice(&self.run.to_le_bytes());
        body[8..12].copy_from_slice(&self.lane.to_le_bytes());
        body[12..16].copy_from_slice(&(len as u32).to_le_bytes());
        body[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        body[24..32].copy_from_slice(&self.sent_us.to_le_bytes());
        let mut padding = Rng::new(self.run ^ u64::from(self.lane) << 40 ^ self.sequence);
        padding.fill(&mut body[STAMP_BYTES..]);
        body
    }

    /// The stamp a body begins with, if it is long enough for one. Whether the rest is right is for the caller to see.
    pub fn read(body: &[u8]) -> Option<Self> {
        let stamp = body.first_chunk::<STAMP_BYTES>()?;
        let u64_at = |at: usize| stamp[at..at + 8].iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte));
        let lane = u64_at(8) as u32;
        Some(Self { run: u64_at(0), lane, sequence: u64_at(16), sent_us: u64_at(24) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_reads_back_and_every_byte_depends_on_it() {
        let stamp = Stamp { run: 7, lane: 3, sequence: 1 << 33, sent_us: 99 };
        let body = stamp.body(61);
        assert_eq!(body.len(), 61);
        assert_eq!(Stamp::read(&body), Some(stamp));
        assert_eq!(Stamp::read(&body[..31]), None);
        let other = Stamp { sequence: (1 << 33) + 1, ..stamp }.body(61);
        assert_ne!(body[STAMP_BYTES..], other[STAMP_BYTES..]);
    }
}
