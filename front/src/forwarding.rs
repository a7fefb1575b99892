//! Passing requests on to the leader.

use std::sync::Arc;

use raftmq_remoting::Command;

use crate::limits::FORWARD_TIMEOUT;
use crate::node::Node;
use crate::peer::{self, PeerError};
use crate::reply::{Handled, Refusal, Reply};

/// Says that a request comes from a follower.
const FORWARDED: &str = "forwardedBy";

/// Passes a request on to the leader and answers as that does; refuses where none is known, and what was passed on
/// already.
pub(crate) async fn pass_on(node: &Arc<Node>, command: &Command, refusal: Refusal) -> Handled {
    let leader = node.replica.other_leader().filter(|_| command.ext.get(FORWARDED).is_none());
    let Some(leader) = leader else { return Err(refusal) };
    let mut request = Command::request(command.code, command.ext.clone()).with_body(command.body.clone());
    request.ext.set(FORWARDED, &node.config.node_id.to_string());
    match peer::ask(&node.process.peers, &leader, request, FORWARD_TIMEOUT).await {
        Ok(Command { ext, body, .. }) => Ok(Reply { ext, body }),
        Err(PeerError::Refused { code, remark }) => Err(Refusal::new(code, remark)),
        Err(error) => Err(Refusal::unavailable(format!("the outcome is unknown: the leader: {error}"))),
    }
}
