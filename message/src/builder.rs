//! One-pass encoding of a record. Positions are left zero for the log's append to patch.

use std::net::{IpAddr, SocketAddr};

use bytes::BufMut;

use crate::properties::PAIR_END;
use crate::record::{
    BORN_HOST_AT, HOST_LEN_V4, HOST_LEN_V6, MAGIC_V1, MAGIC_V2, PROPERTIES_LEN_MAX, TOPIC_LEN_V1_MAX,
    sys_flag,
};

/// Why a record cannot be encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    #[error("topic of {len} bytes is longer than {}", i16::MAX)]
    TopicTooLong { len: usize },
    #[error("properties of {len} bytes are longer than {PROPERTIES_LEN_MAX}")]
    PropertiesTooLong { len: usize },
    #[error("record of {len} bytes is longer than {}", i32::MAX)]
    RecordTooLong { len: usize },
}

/// Everything a record is made of, borrowed.
#[derive(Debug, Clone, Copy)]
pub struct RecordParts<'a> {
    pub topic: &'a str,
    pub queue_id: i32,
    /// The user's own flag.
    pub flag: i32,
    /// Bits of [`sys_flag`]; the two host bits are set from the hosts, whatever is given here.
    pub sys_flag: i32,
    /// Producer's clock, milliseconds since 1970.
    pub born_timestamp_ms: i64,
    pub born_host: SocketAddr,
    pub store_host: SocketAddr,
    pub reconsume_times: i32,
    /// Physical offset of the half message, else 0.
    pub prepared_transaction_offset: i64,
    pub body: &'a [u8],
    /// Property lists written one after the other; where one lacks its closing 0x02 it is added in between.
    pub properties: &'a [&'a str],
}

/// Longest fixed part: two IPv6 hosts, and the body's length.
const HEAD_LEN_MAX: usize = BORN_HOST_AT + HOST_LEN_V6 + 8 + HOST_LEN_V6 + 4 + 8 + 4;

impl RecordParts<'_> {
    /// Bytes [`RecordParts::encode_into`] will write.
    pub fn encoded_len(&self) -> usize {
        let topic_len_bytes = if self.is_v2() { 2 } else { 1 };
        BORN_HOST_AT
            + host_len(self.born_host)
            + 8
            + host_len(self.store_host)
            + 4
            + 8
            + 4
            + self.body.len()
            + topic_len_bytes
            + self.topic.len()
            + 2
            + self.properties_len()
    }

    /// Appends the record to `out`; writes nothing when it fails. Returns the record's size in bytes.
    pub fn encode_into(&self, out: &mut impl BufMut) -> Result<usize, BuildError> {
        let len = self.encoded_len();
        let total_size = i32::try_from(len).map_err(|_| BuildError::RecordTooLong { len })?;
        let topic_len = i16::try_from(self.topic.len())
            .map_err(|_| BuildError::TopicTooLong { len: self.topic.len() })?;
        let properties_len = i16::try_from(self.properties_len())
            .map_err(|_| BuildError::PropertiesTooLong { len: self.properties_len() })?;

        let mut head = [0; HEAD_LEN_MAX];
        let mut rest = &mut head[..];
        self.put_head(total_size, &mut rest);
        let unused = rest.len();
        out.put_slice(&head[..HEAD_LEN_MAX - unused]);
        out.put_slice(self.body);
        if self.is_v2() {
            out.put_i16(topic_len)
        } else {
            out.put_u8(topic_len as u8)
        }
        out.put_slice(self.topic.as_bytes());
        out.put_i16(properties_len);
        for (list, closing) in joined(self.properties) {
            out.put_slice(list.as_bytes());
            if closing {
                out.put_u8(PAIR_END);
            }
        }
        Ok(len)
    }

    fn put_head(&self, total_size: i32, out: &mut &mut [u8]) {
        let (born, store) = (canonical(self.born_host), canonical(self.store_host));
        let mut flags = self.sys_flag & !(sys_flag::BORN_HOST_V6 | sys_flag::STORE_HOST_V6);
        if born.is_ipv6() {
            flags |= sys_flag::BORN_HOST_V6;
        }
        if store.is_ipv6() {
            flags |= sys_flag::STORE_HOST_V6;
        }
        out.put_i32(total_size);
        out.put_i32(if self.is_v2() { MAGIC_V2 } else { MAGIC_V1 });
        out.put_u32(crate::body_crc(self.body));
        out.put_i32(self.queue_id);
        out.put_i32(self.flag);
        out.put_i64(0); // queue offset
        out.put_i64(0); // physical offset
        out.put_i32(flags);
        out.put_i64(self.born_timestamp_ms);
        put_host(born, out);
        out.put_i64(0); // store timestamp
        put_host(store, out);
        out.put_i32(self.reconsume_times);
        out.put_i64(self.prepared_transaction_offset);
        // Fits: the whole record was checked to.
        out.put_i32(self.body.len() as i32);
    }

    fn is_v2(&self) -> bool {
        self.topic.len() > TOPIC_LEN_V1_MAX
    }

    fn properties_len(&self) -> usize {
        joined(self.properties).map(|(list, closing)| list.len() + usize::from(closing)).sum()
    }
}

/// Non-empty lists, each with whether a closing byte has to follow it before the next one.
fn joined<'a>(lists: &'a [&'a str]) -> impl Iterator<Item = (&'a str, bool)> {
    let last = lists.iter().rposition(|list| !list.is_empty());
    lists
        .iter()
        .enumerate()
        .filter(|(_, list)| !list.is_empty())
        .map(move |(at, list)| (*list, Some(at) != last && list.as_bytes().last() != Some(&PAIR_END)))
}

/// An IPv4 address that a dual-stack socket reports as IPv6 is stored as what it is, since old clients read only IPv4.
fn canonical(host: SocketAddr) -> SocketAddr {
    SocketAddr::new(host.ip().to_canonical(), host.port())
}

fn host_len(host: SocketAddr) -> usize {
    if canonical(host).is_ipv6() { HOST_LEN_V6 } else { HOST_LEN_V4 }
}

fn put_host(host: SocketAddr, out: &mut &mut [u8]) {
    match host.ip() {
        IpAddr::V4(ip) => out.put_slice(&ip.octets()),
        IpAddr::V6(ip) => out.put_slice(&ip.octets()),
    }
    out.put_u32(u32::from(host.port()));
}
