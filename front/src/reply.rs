//! What handlers answer: a reply, or a refusal with the code and the words the client gets.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use raftmq_broker::{Error, Full, NotServing};
use raftmq_remoting::codes::response;
use raftmq_remoting::encode::{encode_command, write_response};
use raftmq_remoting::fastjson::{self, BodyError};
use raftmq_remoting::{Command, Ext, FieldError, HeaderError, Serialization};
use serde::Serialize;

/// A request's success.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    pub(crate) ext: Ext,
    pub(crate) body: Bytes,
}

/// A request's failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: i32,
    pub(crate) remark: Cow<'static, str>,
}

pub(crate) type Handled = Result<Reply, Refusal>;

impl Reply {
    pub(crate) fn done() -> Handled {
        Ok(Self::default())
    }

    pub(crate) fn fields(ext: Ext) -> Handled {
        Ok(Self { ext, body: Bytes::new() })
    }

    pub(crate) fn body(body: impl Into<Bytes>) -> Handled {
        Ok(Self { ext: Ext::new(), body: body.into() })
    }
}

impl Refusal {
    pub(crate) fn new(code: i32, remark: impl Into<Cow<'static, str>>) -> Self {
        Self { code, remark: remark.into() }
    }

    /// The code that every client takes for "try again": nothing is wrong with the request.
    pub(crate) fn unavailable(remark: impl Into<Cow<'static, str>>) -> Self {
        Self::new(response::SERVICE_NOT_AVAILABLE, remark)
    }

    /// A limit is reached, and may not be later.
    pub(crate) fn busy(what: impl std::fmt::Display) -> Self {
        Self::unavailable(format!("[BUSY]{what}"))
    }

    pub(crate) fn illegal(remark: impl Into<Cow<'static, str>>) -> Self {
        Self::new(response::INVALID_PARAMETER, remark)
    }

    pub(crate) fn error(remark: impl Into<Cow<'static, str>>) -> Self {
        Self::new(response::SYSTEM_ERROR, remark)
    }

    pub(crate) fn unsupported(remark: impl Into<Cow<'static, str>>) -> Self {
        Self::new(response::REQUEST_CODE_NOT_SUPPORTED, remark)
    }

    /// Appends it as the answer to a request.
    pub(crate) fn write(&self, out: &mut BytesMut, serialization: Serialization, opaque: i32) {
        if let Err(error) =
            write_response(out, serialization, opaque, self.code, Some(&self.remark), &[], &[])
        {
            tracing::warn!(%error, code = self.code, "an answer cannot be written");
        }
    }
}

impl From<HeaderError> for Refusal {
    fn from(error: HeaderError) -> Self {
        Self::error(error.to_string())
    }
}

impl From<FieldError> for Refusal {
    fn from(error: FieldError) -> Self {
        Self::error(error.to_string())
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let remark = error.to_string();
        match error {
            Error::Full(Full::Disk(_)) => Self::unavailable(remark),
            Error::Full(_) => Self::busy(remark),
            Error::NotServing(_) | Error::Unknown(_) | Error::OtherTerm { .. } => Self::unavailable(remark),
            Error::NoTopic(_) | Error::TopicDeleted => Self::new(response::TOPIC_NOT_EXIST, remark),
            Error::GroupMayNotConsume(_)
            | Error::TopicNotReadable(_)
            | Error::TopicNotWritable(_)
            | Error::SendForbidden(_)
            | Error::BroadcastForbidden(_) => Self::new(response::NO_PERMISSION, remark),
            Error::MessageIllegal { .. } | Error::DelayLevel(_) | Error::Untimely => {
                Self::new(response::MESSAGE_ILLEGAL, remark)
            }
            Error::Unsupported(_) => Self::unsupported(remark),
            Error::NoMembers | Error::NoSubscription => Self::new(response::SUBSCRIPTION_NOT_EXIST, remark),
            Error::SubscriptionNotLatest => Self::new(response::SUBSCRIPTION_NOT_LATEST, remark),
            Error::Filter(_) => Self::new(response::SUBSCRIPTION_PARSE_FAILED, remark),
            Error::NoGroup(_) | Error::NoSuchGroupCanBe(_) => {
                Self::new(response::SUBSCRIPTION_GROUP_NOT_EXIST, remark)
            }
            Error::NoQueue { .. }
            | Error::NoSendQueue { .. }
            | Error::TopicTooLong(_)
            | Error::NoReadQueue { .. }
            | Error::TooManyOperations(_)
            | Error::TooManySubscriptions(_)
            | Error::ExpressionTooLong(_)
            | Error::SubscriptionsTooLong(_)
            | Error::Name(_)
            | Error::GroupNameTooLong(_)
            | Error::TooManyQueues { .. }
            | Error::ClientId(_)
            | Error::TooManyAtOnce { .. } => Self::illegal(remark),
            Error::Change(_) | Error::OffsetOutside { .. } | Error::Store(_) | Error::Lost(_) => {
                Self::error(remark)
            }
        }
    }
}

impl From<NotServing> for Refusal {
    fn from(error: NotServing) -> Self {
        Error::from(error).into()
    }
}

/// A success with a body in JSON.
pub(crate) fn json(body: &impl Serialize) -> Handled {
    Reply::body(fastjson::to_vec(body).map_err(|error| Refusal::error(error.to_string()))?)
}

/// The same with one that is written already.
pub(crate) fn body(written: Result<Vec<u8>, BodyError>) -> Handled {
    Reply::body(written.map_err(|error| Refusal::error(error.to_string()))?)
}

/// Appends the answer to `request`.
pub(crate) fn write_handled(out: &mut BytesMut, request: &Command, handled: Handled) {
    let answer = match handled {
        Ok(reply) => {
            Command::response_to(request, response::SUCCESS).with_ext(reply.ext).with_body(reply.body)
        }
        Err(refusal) => return refusal.write(out, request.serialization, request.opaque),
    };
    if let Err(error) = encode_command(&answer, out) {
        Refusal::error(format!("the answer cannot be sent: {error}")).write(
            out,
            request.serialization,
            request.opaque,
        );
    }
}

#[cfg(test)]
mod tests {
    use raftmq_raft::ProposeError;
    use raftmq_remoting::frame::{FRAME_LEN_MAX, decode};

    use super::*;

    fn read(mut out: BytesMut) -> Command {
        Command::decode(decode(&mut out, FRAME_LEN_MAX).unwrap().unwrap()).unwrap()
    }

    #[test]
    fn a_body_that_fits_no_frame_becomes_an_error() {
        let request = Command { opaque: 7, ..Command::request(21, Ext::new()) };
        let mut out = BytesMut::new();
        write_handled(&mut out, &request, Reply::body(vec![0; FRAME_LEN_MAX]));
        let answer = read(out);
        assert_eq!((answer.code, answer.opaque), (response::SYSTEM_ERROR, 7));
        assert!(answer.remark.unwrap().contains("longer than"));
    }

    #[test]
    fn an_unknown_outcome_is_called_that_and_can_be_retried() {
        let refusal = Refusal::from(Error::from(&ProposeError::Unknown));
        assert_eq!(refusal.code, response::SERVICE_NOT_AVAILABLE);
        assert!(refusal.remark.contains("unknown"));
        let refusal = Refusal::from(Error::from(&ProposeError::Busy { bytes: 2, limit: 1 }));
        assert!(refusal.remark.starts_with("[BUSY]"));
    }

    #[test]
    fn a_full_disk_is_told_in_rocketmqs_words_and_can_be_retried() {
        let refusal = Refusal::from(Error::from(&ProposeError::NoRoom("7 bytes are free".into())));
        assert_eq!(refusal.code, response::SERVICE_NOT_AVAILABLE);
        assert!(refusal.remark.starts_with("service not available now."), "{}", refusal.remark);
        assert!(
            refusal.remark.contains("the broker's disk is full [7 bytes are free]"),
            "{}",
            refusal.remark
        );
    }
}
