//! What a broker derives from its log, and what of a message's record goes where.
//!
//! To add a view: a file that implements [`View`](raftmq_store::View), and a line in [`Views::new`]. It may read any
//! property of a record; those that it [names](raftmq_store::View::properties) are found in the one pass that all views
//! share. At the first start with it everything derived is made again from the log.

use std::path::Path;
use std::sync::Arc;

use raftmq_message::properties::{names, split_keys};
use raftmq_message::record::sys_flag;
use raftmq_message::topic::TIMER_TOPIC;
use raftmq_message::{hash, timer};
use raftmq_store::{
    Committed, ConsumeQueues, DEFAULT_UNITS_PER_FILE, Derived, DueMs, IndexFiles, IndexShape, Keys, Reads,
    TagsCode, TimerIndex,
};
use raftmq_world::Disk;

/// The views of a member's log.
#[derive(Clone, Debug)]
pub struct Views {
    /// All of them, for the store. The ConsumeQueues are read [there](raftmq_store::Store::queue).
    pub derived: Derived,
    /// Messages by key and time.
    pub index: Arc<IndexFiles>,
    /// Messages with a time of their own, by that time.
    pub timers: Arc<TimerIndex>,
}

impl Views {
    /// Those in a data directory. Nothing is read yet.
    pub fn new(disk: &Arc<dyn Disk>, dir: &Path) -> Self {
        let disk = || disk.clone();
        let mut derived = Derived::new(ConsumeQueues::new(disk(), dir, DEFAULT_UNITS_PER_FILE, TAGS_CODE));
        let index = derived.add(IndexFiles::new(disk(), dir, IndexShape::default(), KEYS));
        let timers = derived.add(TimerIndex::new(disk(), dir, DUE_MS));
        Self { derived, index, timers }
    }
}

const TAGS_CODE: Reads<TagsCode> = Reads { properties: &[names::TAGS, names::TIMER_OUT_MS], read: tags_code };
const KEYS: Reads<Keys> = Reads { properties: &[names::UNIQ_KEY, names::KEYS], read: keys };
const DUE_MS: Reads<DueMs> = Reads { properties: &[names::TIMER_OUT_MS], read: due_ms };

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
