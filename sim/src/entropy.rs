//! The operating system's random numbers, from a seed.
//!
//! What reaches for them behind the world's back (the standard library's hash maps, tokio's choice among branches) would
//! make every run another one. A program that links this module gets its `getrandom`, which the C library would have
//! answered otherwise, from here.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "stands in for the operating system")]

use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

static SEEDED: AtomicBool = AtomicBool::new(false);
static STATE: AtomicU64 = AtomicU64::new(0);

/// From now on all random numbers of the process follow from `seed`. To be called first of all: what has been drawn
/// before stays.
pub fn seed(seed: u64) {
    STATE.store(seed, Ordering::Relaxed);
    SEEDED.store(true, Ordering::Relaxed);
}

/// SplitMix64.
fn next() -> u64 {
    let mut z = STATE.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn fill(bytes: &mut [u8]) -> bool {
    if !SEEDED.load(Ordering::Relaxed) {
        return File::open("/dev/urandom").and_then(|mut file| file.read_exact(bytes)).is_ok();
    }
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&next().to_le_bytes()[..chunk.len()]);
    }
    true
}

/// In place of the C library's function of this name.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn getrandom(buffer: *mut u8, len: usize, _flags: u32) -> isize {
    if buffer.is_null() {
        return if len == 0 { 0 } else { -1 };
    }
    // SAFETY: whoever calls it says, as with the C library's, that so many bytes may be written there.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer, len) };
    if fill(bytes) { len as isize } else { -1 }
}
