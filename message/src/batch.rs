//! The body of a batch send (request 320): messages back to back, each
//! `total size i32, magic i32, CRC i32, flag i32, body i32 + n, properties i16 + n`, magic and CRC zero.

use bytes::BufMut;

use crate::record::PROPERTIES_LEN_MAX;

/// Bytes of a message in a batch besides its body and properties.
pub const BATCH_MESSAGE_OVERHEAD: usize = 4 + 4 + 4 + 4 + 4 + 2;
const FLAG_AT: usize = 12;
const BODY_LEN_AT: usize = 16;

/// One message of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchMessage<'a> {
    /// The user's own flag.
    pub flag: i32,
    pub body: &'a [u8],
    /// Raw properties, see [`crate::properties`].
    pub properties: &'a str,
}

/// What is wrong with a batch, and in which message of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("batch message {index} at byte {at}: {problem}")]
pub struct BatchError {
    /// Counted from 0.
    pub index: usize,
    /// Where in the batch that message begins.
    pub at: usize,
    pub problem: BatchProblem,
}

/// The kinds of [`BatchError`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchProblem {
    #[error("{what} needs {need} bytes, {have} are left")]
    Truncated { what: &'static str, need: usize, have: usize },
    #[error("{what} has length {len}")]
    Length { what: &'static str, len: i64 },
    #[error("size {size} differs from its fields' {fields}")]
    Size { size: usize, fields: usize },
    #[error("properties are not UTF-8")]
    NotUtf8,
}

impl<'a> BatchMessage<'a> {
    /// Bytes of this message in a batch.
    pub fn encoded_len(&self) -> usize {
        BATCH_MESSAGE_OVERHEAD + self.body.len() + self.properties.len()
    }

    /// Appends this message to a batch; writes nothing when it fails.
    pub fn encode_into(&self, out: &mut impl BufMut) -> Result<(), BatchProblem> {
        let too_long = |what, len: usize| BatchProblem::Length { what, len: len as i64 };
        let total = i32::try_from(self.encoded_len()).map_err(|_| too_long("message", self.encoded_len()))?;
        if self.properties.len() > PROPERTIES_LEN_MAX {
            return Err(too_long("properties", self.properties.len()));
        }
        out.put_i32(total);
        out.put_i32(0);
        out.put_i32(0);
        out.put_i32(self.flag);
        // Both fit: the total and the properties were checked.
        out.put_i32(self.body.len() as i32);
        out.put_slice(self.body);
        out.put_i16(self.properties.len() as i16);
        out.put_slice(self.properties.as_bytes());
        Ok(())
    }

    /// The message `buf` starts with and its size there.
    fn decode(buf: &'a [u8]) -> Result<(Self, usize), BatchProblem> {
        let size = length("message", i64::from(i32::from_be_bytes(chunk(buf, 0, "size")?)))?;
        let buf = buf.get(..size).ok_or(BatchProblem::Truncated {
            what: "message",
            need: size,
            have: buf.len(),
        })?;
        let flag = i32::from_be_bytes(chunk(buf, FLAG_AT, "flag")?);
        let body_len =
            length("body", i64::from(i32::from_be_bytes(chunk(buf, BODY_LEN_AT, "body length")?)))?;
        let body_at = BODY_LEN_AT + 4;
        let body = slice(buf, body_at, body_len, "body")?;
        let properties_at = body_at + body_len + 2;
        let properties_len = i16::from_be_bytes(chunk(buf, properties_at - 2, "properties length")?);
        let properties_len = length("properties", i64::from(properties_len))?;
        let properties = slice(buf, properties_at, properties_len, "properties")?;
        let fields = properties_at + properties_len;
        if fields != size {
            return Err(BatchProblem::Size { size, fields });
        }
        let properties = std::str::from_utf8(properties).map_err(|_| BatchProblem::NotUtf8)?;
        Ok((Self { flag, body, properties }, size))
    }
}

fn length(what: &'static str, len: i64) -> Result<usize, BatchProblem> {
    usize::try_from(len).map_err(|_| BatchProblem::Length { what, len })
}

/// Lengths are below 2^31 and offsets below that plus a few, so the sums cannot overflow.
fn slice<'a>(buf: &'a [u8], at: usize, len: usize, what: &'static str) -> Result<&'a [u8], BatchProblem> {
    buf.get(at..at + len).ok_or(BatchProblem::Truncated { what, need: at + len, have: buf.len() })
}

fn chunk<const N: usize>(buf: &[u8], at: usize, what: &'static str) -> Result<[u8; N], BatchProblem> {
    let mut bytes = [0; N];
    bytes.copy_from_slice(slice(buf, at, N, what)?);
    Ok(bytes)
}

/// The messages of a batch. Ends at the end of the buffer or after the first error.
#[derive(Debug, Clone)]
pub struct BatchIter<'a> {
    buf: &'a [u8],
    at: usize,
    index: usize,
}

impl<'a> BatchIter<'a> {
    pub fn new(buf: &'a [u8]) -> Self {
        Self { buf, at: 0, index: 0 }
    }
}

impl<'a> Iterator for BatchIter<'a> {
    type Item = Result<BatchMessage<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = &self.buf[self.at..];
        if rest.is_empty() {
            return None;
        }
        let (at, index) = (self.at, self.index);
        self.index += 1;
        match BatchMessage::decode(rest) {
            Ok((message, size)) => {
                self.at += size;
                Some(Ok(message))
            }
            Err(problem) => {
                self.at = self.buf.len();
                Some(Err(BatchError { index, at, problem }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Owned = (i32, Vec<u8>, String);

    fn encode(messages: &[Owned]) -> Vec<u8> {
        let mut out = Vec::new();
        for (flag, body, properties) in messages {
            BatchMessage { flag: *flag, body, properties }.encode_into(&mut out).unwrap();
        }
        out
    }

    #[test]
    fn lying_sizes_are_named() {
        let good = encode(&[(0, b"hello".to_vec(), "K\u{1}v\u{2}".to_owned())]);
        let mut longer = good.clone();
        longer[3] += 1;
        longer.push(0);
        let error = BatchIter::new(&longer).next().unwrap().unwrap_err();
        assert_eq!(error.problem, BatchProblem::Size { size: good.len() + 1, fields: good.len() });
        let mut negative = good.clone();
        negative[BODY_LEN_AT] = 0x80;
        assert!(matches!(
            BatchIter::new(&negative).next().unwrap().unwrap_err().problem,
            BatchProblem::Length { what: "body", .. }
        ));
        let zero = [good.as_slice(), &[0; 8]].concat();
        let error = BatchIter::new(&zero).nth(1).unwrap().unwrap_err();
        assert_eq!((error.index, error.at), (1, good.len()));
    }

    #[test]
    fn properties_that_do_not_fit_are_refused() {
        let properties = "x".repeat(PROPERTIES_LEN_MAX + 1);
        let mut out = Vec::new();
        assert!(BatchMessage { flag: 0, body: b"", properties: &properties }.encode_into(&mut out).is_err());
        assert!(out.is_empty());
    }

    proptest! {
        #[test]
        fn round_trips_and_refuses_every_prefix(
            messages in proptest::collection::vec((any::<i32>(), proptest::collection::vec(any::<u8>(), 0..20), ".{0,8}"), 1..4)
        ) {
            let bytes = encode(&messages);
            let read: Result<Vec<_>, _> = BatchIter::new(&bytes).collect();
            let read: Vec<Owned> = read.unwrap().iter().map(|m| (m.flag, m.body.to_vec(), m.properties.to_owned())).collect();
            prop_assert_eq!(&read, &messages);
            for cut in 1..bytes.len() {
                let read: Result<Vec<_>, _> = BatchIter::new(&bytes[..cut]).collect();
                if let Ok(read) = read {
                    prop_assert_eq!(read.iter().map(BatchMessage::encoded_len).sum::<usize>(), cut);
                }
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = BatchIter::new(&bytes).count();
        }
    }
}
