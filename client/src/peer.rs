//! What brokers ask of a client over its own connection: finding out whom it is meant for.

use std::sync::Arc;

use raftmq_remoting::Command;
use raftmq_remoting::codes::{request, response};

use crate::instance::Instance;
use raftmq_remoting::PeerRequest;

/// Hands a request to the consumer of the group that it names.
pub(crate) fn handle(instance: &Arc<Instance>, request: PeerRequest) {
    let code = request.command.code;
    let field = match code {
        request::NOTIFY_CONSUMER_IDS_CHANGED
        | request::GET_CONSUMER_RUNNING_INFO
        | request::CONSUME_MESSAGE_DIRECTLY => "consumerGroup",
        request::RESET_CONSUMER_CLIENT_OFFSET | request::GET_CONSUMER_STATUS_FROM_CLIENT => "group",
        _ => {
            tracing::debug!(addr = request.addr(), code, "a broker asks for what this client does not do");
            let answer = Command::response_to(&request.command, response::REQUEST_CODE_NOT_SUPPORTED);
            return request.reply(answer.with_remark(format!("request code {code} is not supported")));
        }
    };
    let group = request.command.ext.get(field).unwrap_or_default().into_owned();
    let Some(member) = instance.member(&group) else {
        let answer = Command::response_to(&request.command, response::SYSTEM_ERROR);
        return request.reply(answer.with_remark(format!("this client has no consumer of group {group}")));
    };
    match code {
        request::NOTIFY_CONSUMER_IDS_CHANGED => member.rebalance_now(),
        _ => member.asked(request),
    }
}
