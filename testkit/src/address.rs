//! Addresses on loopback.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// Ports that systems give to nobody by themselves. With one that they do give, a connection that a test makes may have it
/// before the server that it is meant for listens.
const FIRST: u32 = 12_000;
const COUNT: u32 = 20_000;

/// An address that nobody listens on, and that nobody else in this process is given for a long time. The two ports below
/// are free as well: a broker listens on the VIP port there.
///
/// # Panics
/// There is none.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Test programs that run at the same time begin far from each other.
    let begin = std::process::id().wrapping_mul(7_919);
    for _ in 0..COUNT / 3 {
        let next = begin.wrapping_add(NEXT.fetch_add(3, Ordering::Relaxed)) % (COUNT - 2);
        let port = u16::try_from(FIRST + 2 + next).expect("below 65,536");
        let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if is_free(port) && is_free(port - 2) {
            return SocketAddr::from(([127, 0, 0, 1], port));
        }
    }
    panic!("no port from {FIRST} on is free");
}
