//! Message ids: the offset id a broker answers with, and the unique key a producer gives.
//!
//! Both are upper-case hexadecimal, 32 digits with an IPv4 address and 56 with an IPv6 one.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::sync::atomic::{AtomicU16, Ordering};

/// Digits of an id with an IPv4 address.
pub const ID_LEN_V4: usize = 32;
/// Digits of an id with an IPv6 address.
pub const ID_LEN_V6: usize = 56;

/// An id as text, without an allocation.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct HexId {
    digits: [u8; ID_LEN_V6],
    len: u8,
}

impl HexId {
    fn new() -> Self {
        Self { digits: [0; ID_LEN_V6], len: 0 }
    }

    fn push(&mut self, bytes: &[u8]) {
        const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
        for byte in bytes {
            let at = usize::from(self.len);
            self.digits[at] = DIGITS[usize::from(byte >> 4)];
            self.digits[at + 1] = DIGITS[usize::from(byte & 15)];
            self.len += 2;
        }
    }

    fn push_ip(&mut self, ip: IpAddr) {
        match ip.to_canonical() {
            IpAddr::V4(ip) => self.push(&ip.octets()),
            IpAddr::V6(ip) => self.push(&ip.octets()),
        }
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.digits[..usize::from(self.len)]).expect("hexadecimal digits are ASCII")
    }
}

impl Deref for HexId {
    type Target = str;
    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for HexId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl fmt::Debug for HexId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HexId({self})")
    }
}

/// Why a text is not an offset message id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("message id of {len} characters, must have {ID_LEN_V4} or {ID_LEN_V6}")]
    Length { len: usize },
    #[error("message id has a character that is no hexadecimal digit at {at}")]
    Digit { at: usize },
    #[error("message id names port {port}")]
    Port { port: u32 },
    #[error("message id names the negative offset {offset}")]
    Offset { offset: i64 },
}

/// Where a message lies: the broker that stored it and its physical offset there, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OffsetMessageId {
    pub store_host: SocketAddr,
    pub physical_offset: u64,
}

impl OffsetMessageId {
    /// The id as text: address, port as 32 bits, offset as 64.
    pub fn format(&self) -> HexId {
        let mut id = HexId::new();
        id.push_ip(self.store_host.ip());
        id.push(&u32::from(self.store_host.port()).to_be_bytes());
        id.push(&self.physical_offset.to_be_bytes());
        id
    }

    /// Reads an id back; digits of either case.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let digits = text.as_bytes();
        let ip_len = match digits.len() {
            ID_LEN_V4 => 4,
            ID_LEN_V6 => 16,
            len => return Err(IdError::Length { len }),
        };
        let mut bytes = [0; ID_LEN_V6 / 2];
        for (at, digit) in digits.iter().enumerate() {
            let value = (*digit as char).to_digit(16).ok_or(IdError::Digit { at })? as u8;
            bytes[at / 2] = bytes[at / 2] << 4 | value;
        }
        let mut fixed = [0; 12];
        fixed.copy_from_slice(&bytes[ip_len..ip_len + 12]);
        let port = u32::from_be_bytes([fixed[0], fixed[1], fixed[2], fixed[3]]);
        let offset = u64::from_be_bytes([
            fixed[4], fixed[5], fixed[6], fixed[7], fixed[8], fixed[9], fixed[10], fixed[11],
        ]);
        if offset > i64::MAX as u64 {
            return Err(IdError::Offset { offset: offset as i64 });
        }
        let mut v6 = [0; 16];
        v6.copy_from_slice(&bytes[..16]);
        let ip = if ip_len == 4 { IpAddr::from([v6[0], v6[1], v6[2], v6[3]]) } else { IpAddr::from(v6) };
        let port = u16::try_from(port).map_err(|_| IdError::Port { port })?;
        Ok(Self { store_host: SocketAddr::new(ip, port), physical_offset: offset })
    }
}

/// Makes unique keys (`UNIQ_KEY`) for one process: address, process id, a salt, the time within the month, a counter.
#[derive(Debug)]
pub struct UniqueKeys {
    ip: IpAddr,
    pid: u16,
    salt: u32,
    counter: AtomicU16,
}

impl UniqueKeys {
    /// `salt` tells apart several producers of one process; take it at random. Only the low half of `pid` is kept.
    pub fn new(ip: IpAddr, pid: u32, salt: u32) -> Self {
        Self { ip, pid: pid as u16, salt, counter: AtomicU16::new(0) }
    }

    /// The next key. `now_ms` is milliseconds since 1970.
    ///
    /// The original counts from the start of the month in local time; this counts in UTC, so that a reader in another
    /// time zone is off by the zone, as it is between two Java clients in different zones.
    pub fn next(&self, now_ms: i64) -> HexId {
        let mut id = HexId::new();
        id.push_ip(self.ip);
        id.push(&self.pid.to_be_bytes());
        id.push(&self.salt.to_be_bytes());
        id.push(&millis_in_month(now_ms).to_be_bytes());
        id.push(&self.counter.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        id
    }
}

const DAY_MS: i64 = 86_400_000;

/// Milliseconds since the current month began in UTC; below 2^32 as no month has 50 days.
fn millis_in_month(now_ms: i64) -> u32 {
    let days = now_ms.div_euclid(DAY_MS);
    (i64::from(day_of_month(days) - 1) * DAY_MS + now_ms.rem_euclid(DAY_MS)) as u32
}

/// Day of the month, 1 to 31, of a day counted from 1970-01-01, in the Gregorian calendar.
///
/// Counts within 400-year eras that begin on 1 March, so that the leap day is the last of its year.
fn day_of_month(days_since_1970: i64) -> u32 {
    const ERA_DAYS: i64 = 146_097;
    const DAYS_FROM_0000_03_01: i64 = 719_468;
    let day_of_era = (days_since_1970 + DAYS_FROM_0000_03_01).rem_euclid(ERA_DAYS);
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn offset_id_is_the_recorded_one() {
        let id = OffsetMessageId { store_host: "127.0.0.1:62911".parse().unwrap(), physical_offset: 0x43E8 };
        assert_eq!(id.format().as_str(), "7F0000010000F5BF00000000000043E8");
        assert_eq!(OffsetMessageId::parse("7f0000010000f5bf00000000000043e8"), Ok(id));
    }

    #[test]
    fn bad_ids_are_named() {
        assert_eq!(OffsetMessageId::parse("7F"), Err(IdError::Length { len: 2 }));
        assert_eq!(OffsetMessageId::parse(&"G".repeat(32)), Err(IdError::Digit { at: 0 }));
        let port = "7F000001FFFFF5BF00000000000043E8";
        assert_eq!(OffsetMessageId::parse(port), Err(IdError::Port { port: 0xFFFF_F5BF }));
        let offset = "7F0000010000F5BFFFFFFFFFFFFFFFFF";
        assert_eq!(OffsetMessageId::parse(offset), Err(IdError::Offset { offset: -1 }));
    }

    #[test]
    fn months_begin_where_they_should() {
        // 2024-02-29T00:00:00Z, 2024-03-01T00:00:00Z, 1970-01-01, 2000-12-31.
        for (days, day) in [(19_782, 29), (19_783, 1), (0, 1), (11_322, 31)] {
            assert_eq!(day_of_month(days), day, "day {days}");
        }
        assert_eq!(millis_in_month(19_783 * DAY_MS + 5), 5);
        assert_eq!(i64::from(millis_in_month(19_782 * DAY_MS + 5)), 28 * DAY_MS + 5);
    }

    #[test]
    fn unique_keys_differ_and_hold_their_parts() {
        let keys = UniqueKeys::new("127.0.0.1".parse().unwrap(), 0x1_0002, 0xAABBCCDD);
        let first = keys.next(19_783 * DAY_MS + 1);
        assert_eq!(first.as_str(), "7F0000010002AABBCCDD000000010000");
        assert_ne!(first, keys.next(19_783 * DAY_MS + 1));
        let v6 = UniqueKeys::new("fd00::1".parse().unwrap(), 1, 2);
        assert_eq!(v6.next(0).len(), ID_LEN_V6);
    }

    proptest! {
        #[test]
        fn offset_ids_round_trip(v6 in any::<bool>(), ip in any::<u128>(), port in any::<u16>(), offset in 0..=i64::MAX as u64) {
            let ip = if v6 { IpAddr::from(ip.to_be_bytes()) } else { IpAddr::from((ip as u32).to_be_bytes()) };
            let id = OffsetMessageId { store_host: SocketAddr::new(ip.to_canonical(), port), physical_offset: offset };
            prop_assert_eq!(OffsetMessageId::parse(&id.format()), Ok(id));
        }

        #[test]
        fn any_text_is_read_without_panic(text in ".{0,60}") {
            let _ = OffsetMessageId::parse(&text);
        }
    }
}
