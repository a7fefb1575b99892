//! Which messages count as given up and belong to their group's dead letters.

use std::sync::Arc;

use raftmq_message::topic::dlq_topic;

use super::records::{Missing, SendProblem};
use crate::state::{State, SubscriptionGroup};

/// How often a message was tried, and how often it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tries {
    pub(super) times: i32,
    /// By the client; else the group's settings say.
    pub(super) max: Option<i32>,
}

/// The settings of the group that returns a message. One that was deleted while its consumers work, or was never made, is
/// made as for a pull.
pub(super) fn existing_group(state: &State, group: &str) -> Result<Arc<SubscriptionGroup>, SendProblem> {
    state.groups.get(group).ok_or_else(|| SendProblem::Missing(Missing::Retry(group.to_owned())))
}

/// The group whose dead letters a send belongs to, if it does: one to a retry topic, which is how clients return a message
/// where the request for it fails or the message is consumed in order.
///
/// Clients differ in whether the tries they send count the last one, so more than the most is too many; and whoever holds
/// queues locked sends only what it has given up.
pub(super) fn dead_group<'a>(
    state: &State,
    group: &'a str,
    tries: Tries,
    holds_locks: impl FnOnce(&str) -> bool,
) -> Result<Option<&'a str>, SendProblem> {
    let settings = existing_group(state, group)?;
    let max = tries.max.unwrap_or(settings.retry_max_times);
    if tries.times <= max && !holds_locks(group) {
        return Ok(None);
    }
    match state.topics.get(&dlq_topic(group)) {
        Some(_) => Ok(Some(group)),
        None => Err(SendProblem::Missing(Missing::DeadLetters(group.to_owned()))),
    }
}
