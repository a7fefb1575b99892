//! 10, 310, 320 and 36: headers of sends and of what consumers give back, and what such a request may need first.

use std::net::SocketAddr;

use raftmq_broker::send::{GivenBack, Missing, Send, SendProblem};
use raftmq_broker::settings::NamedTopic;
use raftmq_remoting::Command;
use raftmq_remoting::header::{SendBackHeader, SendHeader};

use crate::node::Node;
use crate::reply::Refusal;

/// From this version on (3.4.9) a client says itself how often a message is tried.
const SAYS_MAX_RECONSUME_TIMES: i32 = 121;

/// Why a request is not stored.
pub(crate) enum Unsent {
    /// It is answered so.
    Refused(Refusal),
    /// Something does not exist that may be made.
    Missing(Missing),
}

impl From<Refusal> for Unsent {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<SendProblem> for Unsent {
    fn from(problem: SendProblem) -> Self {
        match problem {
            SendProblem::Refused(error) => Self::Refused(error.into()),
            SendProblem::Missing(missing) => Self::Missing(missing),
        }
    }
}

/// A send as its header describes it.
pub(crate) fn send_of<'a>(header: &'a SendHeader<'_>, body: &'a [u8], born_host: SocketAddr) -> Send<'a> {
    Send {
        topic: &header.topic,
        queue_id: header.queue_id,
        sys_flag: header.sys_flag,
        born_timestamp_ms: header.born_timestamp_ms,
        flag: header.flag,
        properties: &header.properties,
        reconsume_times: header.reconsume_times,
        max_reconsume_times: header.max_reconsume_times,
        is_batch: header.batch,
        body,
        born_host,
    }
}

/// What a consumer gives back.
pub(crate) fn given_back<'a>(command: &Command, header: &'a SendBackHeader) -> GivenBack<'a> {
    let says_max = command.version >= SAYS_MAX_RECONSUME_TIMES;
    GivenBack {
        group: &header.group,
        offset: header.offset,
        delay_level: header.delay_level,
        max_reconsume_times: header.max_reconsume_times.filter(|_| says_max),
    }
}

/// Makes the topic or the group that a send needs, if it may.
pub(crate) async fn create_for_send(
    node: &Node,
    command: &Command,
    missing: &Missing,
) -> Result<(), Refusal> {
    match missing {
        Missing::Named => {
            let header = SendHeader::decode(command)?;
            let named = NamedTopic {
                name: &header.topic,
                default_topic: &header.default_topic,
                queues: header.default_topic_queue_nums,
                producer_group: &header.producer_group,
            };
            node.announced(node.broker.settings.create_named(named)).await
        }
        Missing::Retry(group) => node.announced(node.broker.settings.create_retries(group)).await,
        Missing::DeadLetters(group) => node.announced(node.broker.settings.create_dead_letters(group)).await,
    }
}
