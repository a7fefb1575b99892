//! Frames of the load generator: send requests as templates in which a few fixed-width fields are patched, and a scan
//! of responses for the two numbers that matter.
//!
//! The generator shares its machine with the servers it measures, so a message costs a copy and some digits here, not
//! an encoder. Requests are what a Java client writes: JSON header, request 310, fields of one letter.

/// Names of groups begin with this.
pub(super) const GROUP: &str = "raftmq-bench";

/// Opaques have ten digits, so that a template's length never changes.
pub(super) const OPAQUE_MIN: u32 = 1_000_000_000;
/// Where opaques start over.
pub(super) const OPAQUE_END: u32 = 2_000_000_000;
pub(super) const OPAQUE_DIGITS: usize = 10;
const TIMESTAMP_DIGITS: usize = 13;
/// A unique key with an IPv4 address; its last eight digits count.
const UNIQUE_KEY_DIGITS: usize = 32;
const COUNTER_DIGITS: usize = 8;
/// As RocketMQ's own limit, the length prefix included.
const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Stands in a header's text where digits go that are patched later.
pub(super) const MARK: char = '\u{0}';

/// What all requests of a run share.
#[derive(Clone, Debug)]
pub(super) struct RequestShape<'a> {
    pub(super) group: &'a str,
    pub(super) topic: &'a str,
    pub(super) queue_id: u32,
    /// Queues the topic gets if it has to be created.
    pub(super) default_queues: u32,
    /// First 24 digits of every unique key.
    pub(super) key_prefix: [u8; UNIQUE_KEY_DIGITS - COUNTER_DIGITS],
    pub(super) body: &'a [u8],
}

/// A complete send request to one queue.
#[derive(Clone, Debug)]
pub(super) struct Template {
    frame: Vec<u8>,
    opaque_at: usize,
    timestamp_at: usize,
    counter_at: usize,
}

impl Template {
    /// Encodes the request once. Fails if it would be over the protocol's largest frame.
    pub(super) fn new(shape: &RequestShape<'_>) -> Result<Self, String> {
        let RequestShape { group, topic, queue_id, default_queues, .. } = shape;
        let text = format!(
            "{{\"code\":310,\"extFields\":{{\"a\":\"{group}\",\"b\":\"{topic}\",\"c\":\"TBW102\",\
             \"d\":\"{default_queues}\",\"e\":\"{queue_id}\",\"f\":\"0\",\"g\":\"{MARK}\",\"h\":\"0\",\
             \"i\":\"UNIQ_KEY\\u0001{MARK}\\u0002WAIT\\u0001true\\u0002\",\"j\":\"0\",\"k\":\"false\",\"m\":\"false\"}},\
             \"flag\":0,\"language\":\"OTHER\",\"opaque\":{MARK},\"serializeTypeCurrentRPC\":\"JSON\",\"version\":407}}"
        );
        let widths = [TIMESTAMP_DIGITS, UNIQUE_KEY_DIGITS, OPAQUE_DIGITS];
        let (mut frame, [timestamp_at, key_at, opaque_at]) = marked_frame(&text, widths, shape.body)?;
        frame[key_at..key_at + shape.key_prefix.len()].copy_from_slice(&shape.key_prefix);
        let counter_at = key_at + shape.key_prefix.len();
        Ok(Self { frame, opaque_at, timestamp_at, counter_at })
    }

    /// Appends the request with these fields to `out`.
    #[inline]
    pub(super) fn write(
        &self,
        out: &mut Vec<u8>,
        opaque: u32,
        timestamp: &[u8; TIMESTAMP_DIGITS],
        counter: u32,
    ) {
        let start = out.len();
        out.extend_from_slice(&self.frame);
        let frame = &mut out[start..];
        frame[self.timestamp_at..self.timestamp_at + TIMESTAMP_DIGITS].copy_from_slice(timestamp);
        put_decimal(&mut frame[self.opaque_at..self.opaque_at + OPAQUE_DIGITS], u64::from(opaque));
        put_hex(&mut frame[self.counter_at..self.counter_at + COUNTER_DIGITS], counter);
    }
}

/// A frame with this header, in which digits of the given widths stand where the text has [`MARK`], and where they are.
/// Names with characters that JSON would escape must not be in the text. Fails over the protocol's largest frame.
pub(super) fn marked_frame<const N: usize>(
    text: &str,
    widths: [usize; N],
    body: &[u8],
) -> Result<(Vec<u8>, [usize; N]), String> {
    let mut frame = vec![0; 8];
    let mut positions = [0; N];
    for (part, piece) in text.split(MARK).enumerate() {
        if let Some(before) = part.checked_sub(1) {
            positions[before] = frame.len();
            frame.resize(frame.len() + widths[before], b'0');
        }
        frame.extend_from_slice(piece.as_bytes());
    }
    let header_len = frame.len() - 8;
    frame.extend_from_slice(body);
    if frame.len() > FRAME_BYTES_MAX {
        return Err(format!("a frame of {} bytes is over the limit of {FRAME_BYTES_MAX}", frame.len()));
    }
    // Both are below 2^24, as just checked; the top byte of the second is the header's encoding, 0 for JSON.
    let length = (frame.len() - 4) as u32;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    frame[4..8].copy_from_slice(&(header_len as u32).to_be_bytes());
    Ok((frame, positions))
}

/// Milliseconds since 1970 as the thirteen digits they have until the year 2286.
pub(super) fn timestamp_digits(now_ms: u64) -> [u8; TIMESTAMP_DIGITS] {
    let mut digits = [0; TIMESTAMP_DIGITS];
    put_decimal(&mut digits, now_ms);
    digits
}

#[inline]
pub(super) fn put_decimal(digits: &mut [u8], mut value: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

#[inline]
fn put_hex(digits: &mut [u8], mut value: u32) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789ABCDEF"[(value & 15) as usize];
        value >>= 4;
    }
}

/// A response, as far as the generator reads it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Response<'a> {
    pub(super) code: i32,
    pub(super) opaque: u32,
    /// The whole header.
    pub(super) header: &'a [u8],
    pub(super) body: &'a [u8],
    /// Bytes of the frame.
    pub(super) len: usize,
}

/// Reads responses; remembers where the last one had its opaque, since the next one most often has it there too.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    opaque_from_end: usize,
    opaque_from_start: usize,
}

const CODE_KEY: &[u8] = b"\"code\":";
const OPAQUE_KEY: &[u8] = b"\"opaque\":";

impl Scanner {
    /// The response that `buf` starts with, or nothing if it is not complete yet.
    #[inline]
    pub(super) fn next<'a>(&mut self, buf: &'a [u8]) -> Result<Option<Response<'a>>, String> {
        let Some((lengths, rest)) = buf.split_first_chunk::<8>() else { return Ok(None) };
        let [l0, l1, l2, l3, encoding, h1, h2, h3] = *lengths;
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        let header_len = u32::from_be_bytes([0, h1, h2, h3]) as usize;
        if length > FRAME_BYTES_MAX - 4 || header_len + 4 > length {
            return Err(format!("a response frame of {length} bytes with a header of {header_len}"));
        }
        if rest.len() + 4 < length {
            return Ok(None);
        }
        if encoding != 0 {
            return Err(format!("a response header in encoding {encoding}, not JSON"));
        }
        let (header, body) = rest[..length - 4].split_at(header_len);
        let code = self.code(header).ok_or_else(|| bad_header("code", header))?;
        let opaque = self.opaque(header).ok_or_else(|| bad_header("opaque", header))?;
        Ok(Some(Response { code, opaque, header, body, len: length + 4 }))
    }

    /// A key followed by a bare number occurs at the top level alone: fields below are strings, and a quote inside a
    /// string is escaped, so the key's own quotes cannot occur there.
    #[inline]
    fn code(&self, header: &[u8]) -> Option<i32> {
        if let Some(rest) = header.strip_prefix(b"{\"code\":") {
            return number(rest).and_then(|n| i32::try_from(n).ok());
        }
        let at = find_number(header, CODE_KEY)?;
        number(&header[at..]).and_then(|n| i32::try_from(n).ok())
    }

    #[inline]
    fn opaque(&mut self, header: &[u8]) -> Option<u32> {
        for at in [header.len().wrapping_sub(self.opaque_from_end), self.opaque_from_start] {
            let key = at.checked_sub(OPAQUE_KEY.len()).and_then(|start| header.get(start..at));
            if key == Some(OPAQUE_KEY) && header[at..].first().is_some_and(u8::is_ascii_digit) {
                return number(&header[at..]).and_then(|n| u32::try_from(n).ok());
            }
        }
        let at = find_number(header, OPAQUE_KEY)?;
        self.opaque_from_start = at;
        self.opaque_from_end = header.len() - at;
        number(&header[at..]).and_then(|n| u32::try_from(n).ok())
    }
}

/// Position behind `key` where a bare number follows it.
#[cold]
fn find_number(header: &[u8], key: &[u8]) -> Option<usize> {
    let starts = |at: &usize| header.get(*at).is_some_and(|b| b.is_ascii_digit() || *b == b'-');
    header
        .windows(key.len())
        .enumerate()
        .filter(|(_, w)| *w == key)
        .map(|(at, _)| at + key.len())
        .find(starts)
}

/// A field of a header that is a number in quotes.
pub(super) fn field(header: &[u8], name: &str) -> Option<i64> {
    let key = format!("\"{name}\":\"");
    let at = header.windows(key.len()).position(|window| window == key.as_bytes())? + key.len();
    let end = header[at..].iter().position(|byte| *byte == b'"')?;
    std::str::from_utf8(&header[at..at + end]).ok()?.parse().ok()
}

#[inline]
fn number(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let len = digits.iter().take_while(|b| b.is_ascii_digit()).count();
    // Ten digits hold every i32 and u32.
    if len == 0 || len > 10 {
        return None;
    }
    let value = digits[..len].iter().fold(0, |value, digit| value * 10 + i64::from(digit - b'0'));
    Some(if negative { -value } else { value })
}

#[cold]
fn bad_header(what: &str, header: &[u8]) -> String {
    let shown = String::from_utf8_lossy(&header[..header.len().min(200)]);
    format!("a response header without a usable {what}: {shown}")
}

/// The remark of a response, for showing to a person.
#[cold]
pub(super) fn remark(header: &[u8]) -> String {
    let parsed: Option<serde_json::Value> = serde_json::from_slice(header).ok();
    let remark = parsed.as_ref().and_then(|header| header.get("remark")).and_then(|remark| remark.as_str());
    remark.unwrap_or("no remark").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(body: &[u8]) -> RequestShape<'_> {
        RequestShape { group: "g", topic: "t", queue_id: 3, default_queues: 4, key_prefix: [b'A'; 24], body }
    }

    fn frame(header: &str) -> Vec<u8> {
        let mut frame = (header.len() as u32 + 4).to_be_bytes().to_vec();
        frame.extend_from_slice(&(header.len() as u32).to_be_bytes());
        frame.extend_from_slice(header.as_bytes());
        frame
    }

    #[test]
    fn a_patched_template_is_the_request_it_says() {
        let template = Template::new(&shape(b"body")).unwrap();
        let mut out = b"before".to_vec();
        template.write(&mut out, 1_234_567_890, &timestamp_digits(1_795_248_168_603), 0xBEEF);
        let frame = &out[6..];
        assert_eq!(u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize, frame.len() - 4);
        let header_len = u32::from_be_bytes(frame[4..8].try_into().unwrap()) as usize;
        assert_eq!(&frame[8 + header_len..], b"body");
        let header: serde_json::Value = serde_json::from_slice(&frame[8..8 + header_len]).unwrap();
        assert_eq!(header["code"], 310);
        assert_eq!(header["opaque"], 1_234_567_890);
        let fields = &header["extFields"];
        assert_eq!(fields["b"], "t");
        assert_eq!(fields["e"], "3");
        assert_eq!(fields["g"], "1795248168603");
        let key = format!("{}0000BEEF", "A".repeat(24));
        assert_eq!(fields["i"], format!("UNIQ_KEY\u{1}{key}\u{2}WAIT\u{1}true\u{2}"));
    }

    #[test]
    fn a_body_over_the_largest_frame_is_refused() {
        assert!(Template::new(&shape(&vec![0; FRAME_BYTES_MAX])).unwrap_err().contains("over the limit"));
    }

    #[test]
    fn responses_are_read_wherever_their_keys_stand() {
        let headers = [
            (
                r#"{"code":0,"extFields":{"queueId":"2"},"flag":1,"opaque":1000000007,"version":407}"#,
                0,
                1_000_000_007,
            ),
            (
                r#"{"code":0,"extFields":{"queueId":"12"},"flag":1,"opaque":1000000008,"version":407}"#,
                0,
                1_000_000_008,
            ),
            (r#"{"opaque":1000000009,"flag":1,"code":14}"#, 14, 1_000_000_009),
            (r#"{"remark":"\"code\":9,\"opaque\":9","opaque":1000000001,"code":-3}"#, -3, 1_000_000_001),
            (r#"{"extFields":{"opaque":"5","code":"7"},"code":2,"opaque":1000000002}"#, 2, 1_000_000_002),
        ];
        let mut scanner = Scanner::default();
        for (header, code, opaque) in headers {
            let mut bytes = frame(header);
            let len = bytes.len();
            bytes.extend_from_slice(b"next");
            let response = scanner.next(&bytes).unwrap().unwrap();
            assert_eq!((response.code, response.opaque, response.len), (code, opaque, len), "{header}");
            for end in 0..len {
                assert_eq!(scanner.next(&bytes[..end]), Ok(None), "{end} bytes of {header}");
            }
        }
    }

    #[test]
    fn lying_frames_are_errors() {
        let mut scanner = Scanner::default();
        assert!(scanner.next(&[0xFF; 16]).is_err());
        assert!(scanner.next(&[0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0, 0]).is_err());
        assert!(scanner.next(&frame(r#"{"code":0}"#)).is_err());
        assert!(scanner.next(&frame(r#"{"code":99999999999,"opaque":1}"#)).is_err());
    }

    #[test]
    fn fields_are_numbers_in_quotes() {
        let header =
            br#"{"code":0,"extFields":{"nextBeginOffset":"9223372036854775807","minOffset":"-1","x":"a"}}"#;
        assert_eq!(field(header, "nextBeginOffset"), Some(i64::MAX));
        assert_eq!(field(header, "minOffset"), Some(-1));
        assert_eq!([field(header, "x"), field(header, "Offset"), field(header, "code")], [None; 3]);
    }

    #[test]
    fn the_remark_is_shown() {
        assert_eq!(remark(br#"{"code":14,"remark":"no leader"}"#), "no leader");
        assert_eq!(remark(b"{"), "no remark");
    }
}
