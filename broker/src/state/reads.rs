//! What views read from a message's record, and so what of it goes where.

use raftmq_message::properties::{names, split_keys};
use raftmq_message::record::sys_flag;
use raftmq_message::topic::TIMER_TOPIC;
use raftmq_message::{hash, timer};
use raftmq_store::{Committed, DueMs, Keys, Reads, TagsCode};

pub(super) const TAGS_CODE: Reads<TagsCode> =
    Reads { properties: &[names::TAGS, names::TIMER_OUT_MS], read: tags_code };
pub(super) const KEYS: Reads<Keys> = Reads { properties: &[names::UNIQ_KEY, names::KEYS], read: keys };
pub(super) const DUE_MS: Reads<DueMs> = Reads { properties: &[names::TIMER_OUT_MS], read: due_ms };

/// The hash of a message's tags. In the timers' queue, when it is due.
fn tags_code(message: &Committed<'_>) -> i64 {
    let tags_code = || message.property(names::TAGS).map_or(0, hash::tags_code);
    due_ms(message).unwrap_or_else(tags_code)
}

/// When a message that waits in the timers' queue is due.
fn due_ms(message: &Committed<'_>) -> Option<i64> {
    let waits = message.record.topic() == TIMER_TOPIC && message.record.queue_id() == 0;
    waits.then(|| timer::read_due_ms(message.property(names::TIMER_OUT_MS)))
}

/// The key that the producer gave a message, and those that it was sent with. Half messages and rollbacks have none: they
/// are not for consumers to find.
fn keys(message: &Committed<'_>, add: &mut dyn FnMut(&str)) {
    let transaction = message.record.sys_flag() & sys_flag::TRANSACTION_MASK;
    if [sys_flag::TRANSACTION_PREPARED, sys_flag::TRANSACTION_ROLLBACK].contains(&transaction) {
        return;
    }
    let sent_with = message.property(names::KEYS).into_iter().flat_map(split_keys);
    message.property(names::UNIQ_KEY).into_iter().chain(sent_with).for_each(add);
}

#[cfg(test)]
mod tests;
