//! Ports for nodes, as no two groups on this machine share them.
//!
//! They lie below the range from which the system takes ports for outgoing connections: else, while a node is down, a
//! client that tries to reach it could be given that very port, and the node could not start again.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Result, bail};

/// The first port of the first block.
const FIRST: u16 = 20_000;
/// How many blocks; they end below 32768, where the range for outgoing connections begins.
const BLOCKS: u16 = 1500;
/// Ports in a block: one that holds the block, and one of each kind.
const BLOCK_PORTS: u16 = 5;

/// What a port is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum PortKind {
    /// Producers and consumers.
    Client = 1,
    /// The other members.
    Raft = 2,
    /// The admin API.
    Admin = 3,
    /// The name server.
    NameServer = 4,
}

impl PortKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Client, Self::Raft, Self::Admin, Self::NameServer];
}

/// The ports of one node. They are its own for as long as this lives.
#[derive(Debug)]
pub struct PortBlock {
    base: u16,
    /// Whoever listens on a block's first port owns the block.
    _owned: TcpListener,
}

impl PortBlock {
    /// Finds a block that nobody owns and of which every port is free.
    pub fn reserve() -> Result<Self> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        // Processes start at different blocks.
        let start = std::process::id() as u16;
        for _ in 0..BLOCKS {
            let block = start.wrapping_mul(37).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % BLOCKS;
            let base = FIRST + block * BLOCK_PORTS;
            let Ok(owned) = TcpListener::bind((Ipv4Addr::LOCALHOST, base)) else { continue };
            let free = |kind: PortKind| TcpListener::bind((Ipv4Addr::LOCALHOST, base + kind as u16)).is_ok();
            if PortKind::ALL.into_iter().all(free) {
                return Ok(Self { base, _owned: owned });
            }
        }
        bail!("no {BLOCK_PORTS} free ports in a row from {FIRST} on")
    }

    /// Where a node listens.
    pub fn addr(&self, kind: PortKind) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.base + kind as u16).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_do_not_overlap_and_can_be_listened_on() {
        let (one, other) = (PortBlock::reserve().unwrap(), PortBlock::reserve().unwrap());
        let mut addrs: Vec<_> =
            PortKind::ALL.into_iter().flat_map(|kind| [one.addr(kind), other.addr(kind)]).collect();
        let listeners: Vec<_> = addrs.iter().map(|addr| TcpListener::bind(addr).unwrap()).collect();
        addrs.sort();
        addrs.dedup();
        assert_eq!((addrs.len(), listeners.len()), (8, 8));
    }
}
