//! Input that no peer should send: noise, torn frames, lengths that lie, headers with missing and wrong fields.
//!
//! Everything goes over plain sockets, so that it is not made right on its way.

mod consumers;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::BytesMut;
use raftmq_remoting::Command;
use raftmq_remoting::frame::{FRAME_LEN_MAX, decode};
use serde_json::{Value, json};

pub use consumers::{consumers, greedy_pulls, hostile_filters, pull_fields};

use raftmq_checks::rng::Rng;

/// How long a connection is listened to after bad input.
const LISTEN: Duration = Duration::from_millis(5);
/// Longest time for an answer that must come.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a peer gets to take bad input. One that takes no more of it is right.
const TAKE: Duration = Duration::from_millis(200);
/// Topic the attack writes to, where what it writes is valid enough to be stored.
pub const ATTACK_TOPIC: &str = "Attack";

/// Bytes for one connection.
#[derive(Debug, Clone)]
pub struct Salvo {
    /// What is wrong with them.
    pub what: String,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Salvo {
    fn new(what: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self { what: what.into(), bytes: bytes.into() }
    }

    /// Sends it over a connection of its own, and hears what comes back. That the peer ends the connection is fine.
    pub fn fire(&self, to: SocketAddr) -> Result<()> {
        let mut stream =
            connect(to).with_context(|| format!("{} does not accept; before it: {}", to, self.what))?;
        stream.set_read_timeout(Some(LISTEN))?;
        if stream.write_all(&self.bytes).is_ok() {
            let mut heard = [0; 4096];
            // Nothing that is heard matters, nor that nothing is.
            drop(stream.read(&mut heard));
        }
        Ok(())
    }
}

fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, ANSWER_TIMEOUT)?;
    stream.set_write_timeout(Some(TAKE))?;
    Ok(stream)
}

/// Opens connections that send these bytes and then nothing. They stay open until they are dropped.
pub fn hold(to: SocketAddr, connections: usize, bytes: &[u8]) -> Result<Vec<TcpStream>> {
    let open = |_| {
        let mut stream = connect(to)?;
        // A peer that sees at the first bytes that they are bad need not take the rest.
        drop(stream.write_all(bytes));
        Ok(stream)
    };
    (0..connections).map(open).collect()
}

/// Noise of many lengths, and lengths that lie in either byte order.
pub fn noise(seed: u64) -> Vec<Salvo> {
    let mut rng = Rng::new(seed);
    let mut salvos =
        vec![Salvo::new("nothing", []), Salvo::new("zeros", [0; 4096]), Salvo::new("ones", [0xFF; 4096])];
    for len in [1, 3, 4, 7, 8, 9, 13, 64, 1000, 10_000, 100_000] {
        let mut bytes = vec![0; len];
        rng.fill(&mut bytes);
        salvos.push(Salvo::new(format!("{len} random bytes"), bytes.clone()));
        // Noise behind a plausible length gets further.
        bytes.splice(0..0, (len as u32).to_be_bytes());
        salvos.push(Salvo::new(format!("{len} random bytes behind their length"), bytes.clone()));
        bytes[..4].copy_from_slice(&(len as u32).to_le_bytes());
        salvos.push(Salvo::new(format!("{len} random bytes behind their length, little-endian"), bytes));
    }
    for length in [0, 1, 3, 4, 5, 8, 0x00FF_FFFF, 0x0100_0000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF_u32] {
        for (order, length) in [("big", length.to_be_bytes()), ("little", length.to_le_bytes())] {
            let bytes = [&length[..], &[0; 32]].concat();
            salvos.push(Salvo::new(format!("length {length:02x?}, {order}-endian, and 32 bytes"), bytes));
        }
    }
    salvos
}

/// A frame of the remoting protocol: 0 for a JSON header, 1 for a binary one, all else is wrong.
pub fn frame(serialization: u8, header: &[u8], body: &[u8]) -> Vec<u8> {
    let word = u32::from(serialization) << 24 | header.len() as u32;
    let mut frame = Vec::with_capacity(8 + header.len() + body.len());
    frame.extend(((4 + header.len() + body.len()) as u32).to_be_bytes());
    frame.extend(word.to_be_bytes());
    frame.extend(header);
    frame.extend(body);
    frame
}

/// A request with a JSON header.
pub fn request(code: i32, fields: &Value, body: &[u8]) -> Vec<u8> {
    let header = json!({
        "code": code, "flag": 0, "language": "JAVA", "opaque": 1, "version": 401, "extFields": fields,
        "serializeTypeCurrentRPC": "JSON",
    });
    frame(0, header.to_string().as_bytes(), body)
}

/// The start of a frame of the largest size that is allowed, of which only `sent` bytes ever come.
pub fn unfinished_frame(sent: usize) -> Vec<u8> {
    let length = ((FRAME_LEN_MAX - 4) as u32).to_be_bytes();
    padded([length, 100_u32.to_be_bytes()].concat(), sent)
}

/// The start of a large message of the members' own protocol, of which only `sent` bytes ever come.
pub fn unfinished_raft_message(sent: usize) -> Vec<u8> {
    const APPEND: u8 = 3;
    padded([&(12_u32 << 20).to_le_bytes()[..], &[APPEND]].concat(), sent)
}

/// The start of an HTTP request that does not end.
pub fn unfinished_http(sent: usize) -> Vec<u8> {
    padded(b"POST /cluster HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n".to_vec(), sent)
}

fn padded(mut bytes: Vec<u8>, to: usize) -> Vec<u8> {
    bytes.resize(to.max(bytes.len()), b' ');
    bytes
}

/// Sends a request and gives its answer.
pub fn ask(to: SocketAddr, request: &[u8]) -> Result<Command> {
    let mut stream = connect(to)?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.write_all(request)?;
    let mut input = BytesMut::new();
    loop {
        if let Some(frame) = decode(&mut input, FRAME_LEN_MAX)? {
            return Ok(Command::decode(frame)?);
        }
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).context("no answer")? {
            0 => bail!("{to} closed the connection without an answer"),
            read => input.extend_from_slice(&chunk[..read]),
        }
    }
}

/// The fields of a send request that is right; `changed` replaces some of them.
pub fn send_fields(changed: &[(&str, Value)]) -> Value {
    let mut fields = json!({
        "a": "attackers", "b": ATTACK_TOPIC, "c": "TBW102", "d": "4", "e": "0", "f": "0", "g": "1700000000000",
        "h": "0", "i": "", "j": "0", "k": "false", "m": "false",
    });
    for (name, value) in changed {
        fields[*name] = value.clone();
    }
    fields
}

/// Bad frames of the remoting protocol, for brokers and name servers.
pub fn remoting() -> Vec<Salvo> {
    let mut salvos = Vec::new();
    let good = request(310, &send_fields(&[]), b"body");
    for cut in [1, 4, 5, 8, 9, 20, good.len() / 2, good.len() - 1] {
        salvos.push(Salvo::new(format!("a frame that ends after {cut} bytes"), &good[..cut]));
    }
    for serialization in [2, 3, 127, 255] {
        salvos.push(Salvo::new(format!("serialization {serialization}"), frame(serialization, b"{}", b"")));
    }
    let mut header_beyond = good.clone();
    header_beyond[5..8].fill(0xFF);
    salvos.push(Salvo::new("a header longer than its frame", header_beyond));
    salvos.extend(bad_headers());
    salvos.extend(missing_fields());
    salvos.extend(hostile_fields());
    salvos
}

fn bad_headers() -> Vec<Salvo> {
    let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
    let nested = format!("{{\"code\":10,\"extFields\":{}}}", "{\"a\":".repeat(50_000));
    let many: Vec<_> = (0..100_000).map(|n| format!("\"k{n}\":\"v\"")).collect();
    let many = format!("{{\"code\":10,\"extFields\":{{{}}}}}", many.join(","));
    let json: [(&str, &[u8]); 12] = [
        ("no header", b""),
        ("a header that is no object", b"7"),
        ("an open object", b"{\"code\":10"),
        ("no UTF-8", b"{\"code\":10,\"remark\":\"\xFF\xFE\"}"),
        ("no code", b"{\"flag\":0}"),
        ("a code that is text", b"{\"code\":\"ten\"}"),
        ("a code over 32 bits", b"{\"code\":99999999999999999999999999}"),
        ("fields that are text", b"{\"code\":10,\"extFields\":\"no\"}"),
        ("a lone surrogate", b"{\"code\":10,\"extFields\":{\"topic\":\"\\ud800\"}}"),
        ("deep arrays", &deep),
        ("deep objects", nested.as_bytes()),
        ("100,000 fields", many.as_bytes()),
    ];
    let mut salvos: Vec<_> = json
        .into_iter()
        .map(|(what, header)| Salvo::new(format!("JSON: {what}"), frame(0, header, b"")))
        .collect();
    // code 310, language, version, opaque, flag; then the lengths of remark and fields.
    let head = [1, 54, 0, 1, 1, 0, 0, 1, 0, 0, 0, 0];
    for (remark, fields) in
        [(-1_i32, 0_i32), (i32::MAX, 0), (0, -1), (0, i32::MAX), (0, 1000), (i32::MIN, i32::MIN)]
    {
        let header = [&head[..], &[0], &remark.to_be_bytes(), &fields.to_be_bytes()].concat();
        let what = format!("binary: remark of {remark} and fields of {fields} bytes");
        salvos.push(Salvo::new(what, frame(1, &header, b"")));
    }
    for len in 0..head.len() {
        salvos.push(Salvo::new(format!("binary: {len} bytes"), frame(1, &head[..len], b"")));
    }
    salvos
}

/// Every request code without any field, but for those that mean something without one: they remove what is old.
fn missing_fields() -> Vec<Salvo> {
    const REMOVE: [i32; 3] = [306, 316, 329];
    let codes =
        (-2..1100).chain(200_040..200_100).chain([i32::MAX, i32::MIN]).filter(|code| !REMOVE.contains(code));
    let codes: Vec<_> = codes.collect();
    let several = |codes: &[i32]| {
        let bytes: Vec<_> = codes.iter().flat_map(|code| request(*code, &json!({}), b"")).collect();
        Salvo::new(format!("codes {:?} to {:?} without fields", codes.first(), codes.last()), bytes)
    };
    codes.chunks(8).map(several).collect()
}

/// Fields with values nobody should believe.
fn hostile_fields() -> Vec<Salvo> {
    let numbers = ["-1", "-5", "65536", "2147483647", "-2147483648", "9223372036854775807", "1e3", "", "x"];
    let mut salvos = Vec::new();
    let mut send = |name: &str, value: Value, body: &[u8]| {
        let what = format!("a send with {name} = {:.40}", value.to_string());
        salvos.push(Salvo::new(what, request(310, &send_fields(&[(name, value)]), body)));
    };
    for name in ["d", "e", "f", "g", "h", "j", "l"] {
        numbers.iter().for_each(|number| send(name, json!(number), b"body"));
    }
    // Each bit of sysFlag means something about how a record is laid out or read.
    (0..31).for_each(|bit| send("f", json!((1_i64 << bit).to_string()), b"body"));
    let long = "x".repeat(40_000);
    for text in
        ["", "\u{1}", "\u{2}", "a\u{1}b", "a\u{1}\u{2}\u{1}\u{2}", "UNIQ_KEY\u{1}\u{2}TAGS\u{1}\u{2}", &long]
    {
        send("i", json!(text), b"body");
    }
    for topic in ["", "../../../etc/passwd", "a/b", "a b", "\u{0}", "%RETRY%", "TBW102", &long] {
        send("b", json!(topic), b"body");
        send("a", json!(topic), b"body");
    }
    for lie in [0, 1, 3, 4, 17, 1000, 0x7FFF_FFFF, 0xFFFF_FFFF_u32] {
        let batch = [&lie.to_be_bytes()[..], &[0; 30]].concat();
        send("m", json!("true"), &batch);
    }
    send("m", json!("false"), b"");
    salvos
}

/// Bad messages of the members' own protocol: a length of what follows (little-endian), a kind, an id, the content.
pub fn raft(seed: u64) -> Vec<Salvo> {
    let mut rng = Rng::new(seed);
    let mut salvos = Vec::new();
    for kind in 0..=12 {
        for len in [0, 1, 8, 17, 100, 5000] {
            let mut content = vec![0; len];
            rng.fill(&mut content);
            let mut bytes = (9 + len as u32).to_le_bytes().to_vec();
            bytes.push(kind);
            bytes.extend(rng.next_u64().to_le_bytes());
            bytes.extend(content);
            salvos.push(Salvo::new(format!("kind {kind} with {len} random bytes"), bytes));
        }
    }
    salvos
}

/// Bad HTTP.
pub fn http() -> Vec<Salvo> {
    let endless = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'a'; 1 << 20]].concat();
    let headers = format!("GET /cluster HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(20_000));
    let path = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(200_000));
    let texts: [(&str, &[u8]); 9] = [
        ("no method", b" / HTTP/1.1\r\n\r\n"),
        ("an unknown version", b"GET /cluster HTTP/9.9\r\n\r\n"),
        ("a body that does not come", b"POST /cluster HTTP/1.1\r\nContent-Length: 100000000\r\n\r\n"),
        ("a negative length", b"POST /cluster HTTP/1.1\r\nContent-Length: -1\r\n\r\n"),
        (
            "a chunk that lies",
            b"POST /cluster HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx",
        ),
        ("a path out of the root", b"GET /../../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a header of 1 MiB", &endless),
        ("20,000 headers", headers.as_bytes()),
        ("a path of 200,000 characters", path.as_bytes()),
    ];
    texts.into_iter().map(|(what, bytes)| Salvo::new(what, bytes)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_that_is_bent_is_a_right_one() {
        let mut bytes = BytesMut::from(&request(310, &send_fields(&[]), b"body")[..]);
        let command = Command::decode(decode(&mut bytes, FRAME_LEN_MAX).unwrap().unwrap()).unwrap();
        let header = raftmq_remoting::header::SendHeader::decode(&command).unwrap();
        assert_eq!(
            (header.topic.as_ref(), header.queue_id, &command.body[..]),
            (ATTACK_TOPIC, 0, &b"body"[..])
        );
        assert!(bytes.is_empty());
    }

    #[test]
    fn an_unfinished_frame_is_allowed_as_far_as_it_goes() {
        let mut bytes = BytesMut::from(&unfinished_frame(1000)[..]);
        assert_eq!(bytes.len(), 1000);
        assert!(decode(&mut bytes, FRAME_LEN_MAX).unwrap().is_none());
    }
}
