//! What can go wrong, and whether a request may have been carried out all the same.

use raftmq_remoting::codes::response;
use raftmq_remoting::{CallError, Command, HeaderError};

/// An operation that failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// No answer.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The peer answered with a code other than success.
    #[error("{addr} answered code {code}: {remark}")]
    Refused {
        /// The peer.
        addr: String,
        /// See [`raftmq_remoting::codes::response`].
        code: i32,
        /// What it said.
        remark: String,
    },
    /// The name servers could not be asked.
    #[error("name server: {reason}")]
    NameServer {
        /// What the last one said or did.
        reason: String,
    },
    /// No name server knows the topic.
    #[error("no route to topic {topic}: {reason}")]
    NoRoute {
        /// The topic.
        topic: String,
        /// What the name server said.
        reason: String,
    },
    /// The route has no leader for the broker name, or no queue to send to.
    #[error("the route of topic {topic} has no {what}")]
    Unroutable {
        /// The topic.
        topic: String,
        /// What is missing.
        what: String,
    },
    /// The answer cannot be read.
    #[error("unreadable answer of {addr}: {reason}")]
    Malformed {
        /// The peer.
        addr: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The offsets of a broadcast group cannot be read from or written to this machine's disk.
    #[error("offset file {}: {reason}", path.display())]
    OffsetFile {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it, or what the system said.
        reason: String,
    },
    /// The caller asked for something impossible.
    #[error("{0}")]
    Invalid(String),
}

impl ClientError {
    /// The peer's answer says no.
    pub(crate) fn refused(addr: &str, answer: Command) -> Self {
        Self::Refused {
            addr: addr.to_owned(),
            code: answer.code,
            remark: answer.remark.unwrap_or_else(|| "no remark".to_owned()),
        }
    }

    pub(crate) fn header(addr: &str, error: &HeaderError) -> Self {
        Self::Malformed { addr: addr.to_owned(), reason: error.to_string() }
    }

    /// Whether the broker may have carried the request out. Codes 1 and 14 do not tell: brokers answer them too when
    /// they lose their leadership or their quorum after the message was appended. With 14 the remark may.
    pub fn may_have_been_executed(&self) -> bool {
        match self {
            Self::Call(error) => error.may_have_been_executed(),
            Self::Refused { code: response::SYSTEM_ERROR, .. } => true,
            Self::Refused { code: response::SERVICE_NOT_AVAILABLE, remark, .. } => {
                !REFUSED_AT_ONCE.iter().any(|reason| remark.starts_with(reason))
            }
            Self::Refused { .. } => false,
            Self::Malformed { .. } => true,
            Self::NameServer { .. }
            | Self::NoRoute { .. }
            | Self::Unroutable { .. }
            | Self::OffsetFile { .. }
            | Self::Invalid(_) => false,
        }
    }

    /// Whether it is worth trying again, perhaps at another broker.
    pub(crate) fn is_retryable(&self) -> bool {
        match self {
            Self::Call(CallError::Encode { .. })
            | Self::Invalid(_)
            | Self::Malformed { .. }
            | Self::OffsetFile { .. } => false,
            Self::Call(_) | Self::NameServer { .. } | Self::NoRoute { .. } | Self::Unroutable { .. } => true,
            Self::Refused { code, .. } => RETRIED_CODES.contains(code),
        }
    }

    /// Whether the peer gave a reason that time alone seldom removes; such are retried a few times only.
    pub(crate) fn is_stubborn(&self) -> bool {
        const PASSING: [i32; 3] = [response::SERVICE_NOT_AVAILABLE, response::SYSTEM_BUSY, response::GO_AWAY];
        matches!(self, Self::Refused { code, .. } if !PASSING.contains(code))
    }
}

/// The codes on which the Java client's synchronous producer (5.x) tries again.
const RETRIED_CODES: [i32; 8] = [
    response::SYSTEM_ERROR,
    response::SYSTEM_BUSY,
    response::SERVICE_NOT_AVAILABLE,
    response::NO_PERMISSION,
    response::TOPIC_NOT_EXIST,
    response::NO_BUYER_ID,
    response::NOT_IN_CURRENT_UNIT,
    response::GO_AWAY,
];

/// How the remarks begin with which a RaftMQ broker answers code 14 before it has written anything: a limit is reached,
/// or it does not lead.
const REFUSED_AT_ONCE: [&str; 3] = ["[BUSY]", "not the leader", "there is no leader"];

/// What is known of a message whose send failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendOutcome {
    /// No try can have stored it.
    NotStored,
    /// At least one try may have stored it.
    Unknown,
}

/// A send that failed for good.
#[derive(Debug, Clone, thiserror::Error)]
#[error("send failed after {tries} tries ({outcome:?}): {source}")]
pub struct SendError {
    /// Whether the message may have been stored.
    pub outcome: SendOutcome,
    /// How often it was tried.
    pub tries: u32,
    /// The last failure.
    #[source]
    pub source: ClientError,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remark_may_say_that_nothing_was_written() {
        let may = |code, remark: &str| {
            let remark = remark.to_owned();
            ClientError::Refused { addr: "a:1".into(), code, remark }.may_have_been_executed()
        };
        assert!(may(14, "the outcome is unknown: the leader changed"));
        assert!(may(14, "service not available now"));
        assert!(may(1, "[BUSY]"));
        assert!(!may(14, "[BUSY]other topics and groups are being changed"));
        assert!(!may(14, "not the leader, the leader is node 2 at 10.0.0.2:10911"));
        assert!(!may(14, "there is no leader at the moment"));
        assert!(!may(2, "system busy"));
    }
}
