//! Pull requests as patched templates, and a walk over the records that answer them.

use raftmq_message::record::{QUEUE_OFFSET_AT, RECORD_LEN_MIN};
use raftmq_remoting::header::pull_flag;

use super::frames::{MARK, OPAQUE_DIGITS, marked_frame, put_decimal};

/// Digits of the largest queue offset.
const OFFSET_DIGITS: usize = 19;

/// What all pulls of a queue by a group share.
#[derive(Clone, Copy, Debug)]
pub(super) struct PullShape<'a> {
    pub(super) group: &'a str,
    pub(super) topic: &'a str,
    pub(super) queue_id: u32,
    /// Messages wanted at most.
    pub(super) batch: u32,
    /// How long the broker may hold a pull that finds nothing, in ms; 0 is not at all.
    pub(super) hold_ms: u64,
}

/// A complete pull request that brings its own subscription, to everything.
#[derive(Clone, Debug)]
pub(super) struct PullTemplate {
    frame: Vec<u8>,
    opaque_at: usize,
    offset_at: usize,
}

impl PullTemplate {
    /// Encodes the request once.
    pub(super) fn new(shape: &PullShape<'_>) -> Result<Self, String> {
        let PullShape { group, topic, queue_id, batch, hold_ms } = shape;
        let flag = pull_flag::SUBSCRIPTION | if *hold_ms > 0 { pull_flag::SUSPEND } else { 0 };
        let text = format!(
            "{{\"code\":11,\"extFields\":{{\"consumerGroup\":\"{group}\",\"topic\":\"{topic}\",\
             \"queueId\":\"{queue_id}\",\"queueOffset\":\"{MARK}\",\"maxMsgNums\":\"{batch}\",\"sysFlag\":\"{flag}\",\
             \"commitOffset\":\"0\",\"suspendTimeoutMillis\":\"{hold_ms}\",\"subscription\":\"*\",\"subVersion\":\"0\",\
             \"expressionType\":\"TAG\"}},\"flag\":0,\"language\":\"OTHER\",\"opaque\":{MARK},\
             \"serializeTypeCurrentRPC\":\"JSON\",\"version\":407}}"
        );
        let (frame, [offset_at, opaque_at]) = marked_frame(&text, [OFFSET_DIGITS, OPAQUE_DIGITS], &[])?;
        Ok(Self { frame, opaque_at, offset_at })
    }

    /// Appends the request for messages from `offset` on to `out`.
    #[inline]
    pub(super) fn write(&self, out: &mut Vec<u8>, opaque: u32, offset: u64) {
        let start = out.len();
        out.extend_from_slice(&self.frame);
        let frame = &mut out[start..];
        put_decimal(&mut frame[self.offset_at..self.offset_at + OFFSET_DIGITS], offset);
        put_decimal(&mut frame[self.opaque_at..self.opaque_at + OPAQUE_DIGITS], u64::from(opaque));
    }
}

/// Counts the records of an answer, whose queue offsets must follow each other from `first` on.
#[inline]
pub(super) fn count_records(body: &[u8], first: u64) -> Result<u64, String> {
    let mut rest = body;
    let mut offset = first;
    while !rest.is_empty() {
        let size = rest.first_chunk().map_or(0, |size| u32::from_be_bytes(*size) as usize);
        if size < RECORD_LEN_MIN || size > rest.len() {
            return Err(format!("a record of {size} bytes in an answer with {} left", rest.len()));
        }
        let found = rest[QUEUE_OFFSET_AT..].first_chunk().map_or(0, |offset| u64::from_be_bytes(*offset));
        if found != offset {
            return Err(format!("a record with queue offset {found} where {offset} is expected"));
        }
        offset += 1;
        rest = &rest[size..];
    }
    Ok(offset - first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use raftmq_remoting::header::PullHeader;
    use raftmq_remoting::{Command, frame};

    use crate::null_server::{append_record, record};

    fn records(offsets: &[i64]) -> BytesMut {
        let (record, mut records) = (record().unwrap(), BytesMut::new());
        offsets.iter().for_each(|offset| append_record(&record, *offset, &mut records));
        records
    }

    #[test]
    fn a_patched_template_is_the_pull_it_says() {
        let shape = PullShape { group: "g", topic: "t", queue_id: 3, batch: 32, hold_ms: 15_000 };
        let template = PullTemplate::new(&shape).unwrap();
        let mut out = Vec::new();
        template.write(&mut out, 1_234_567_890, 77);
        let mut bytes = BytesMut::from(&out[..]);
        let request = Command::decode(frame::decode(&mut bytes, usize::MAX).unwrap().unwrap()).unwrap();
        assert_eq!((request.code, request.opaque), (11, 1_234_567_890));
        let header = PullHeader::decode(&request).unwrap();
        assert_eq!((&*header.consumer_group, &*header.topic, header.queue_id), ("g", "t", 3));
        assert_eq!((header.queue_offset, header.max_msg_nums, header.suspend_timeout_ms), (77, 32, 15_000));
        assert_eq!((header.sys_flag, header.subscription.as_deref()), (6, Some("*")));
        let unheld = PullTemplate::new(&PullShape { hold_ms: 0, ..shape }).unwrap();
        assert!(String::from_utf8_lossy(&unheld.frame).contains("\"sysFlag\":\"4\""));
    }

    #[test]
    fn records_are_counted_and_must_be_consecutive() {
        assert_eq!(count_records(&records(&[]), 5), Ok(0));
        assert_eq!(count_records(&records(&[5, 6, 7]), 5), Ok(3));
        assert!(count_records(&records(&[5, 7]), 5).unwrap_err().contains("offset 7 where 6"));
        assert!(count_records(&records(&[4]), 5).is_err());
        let whole = records(&[5, 6]);
        for len in (1..whole.len()).filter(|len| *len != whole.len() / 2) {
            assert!(count_records(&whole[..len], 5).is_err(), "{len}");
        }
        assert!(count_records(&[0; 200], 0).is_err());
    }
}
