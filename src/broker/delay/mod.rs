//! Delayed messages: those of the delay levels, and those with a time of their own.
//!
//! A send puts them into a system topic with the way back in their properties. The leader delivers them when they are
//! due: a new record in the queue that they were sent to and the progress that it means are one entry of the log, so
//! every message is delivered once, however often leaders change. Nothing but what is due soon is in memory.
//!
//! | module | what it is |
//! |---|---|
//! | `levels` | how long each level is |
//! | `lane` | what is delivered step by step, and what it reads |
//! | `level`, `timers` | the lane of a level; that of all messages with a time of their own |
//! | `redelivery` | the record of a delivered message |
//! | `driver` | takes the steps while this member leads |

mod driver;
#[cfg(test)]
mod fixture;
mod lane;
mod level;
mod levels;
mod redelivery;
mod timers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use raftmq_message::topic::{SCHEDULE_TOPIC, TIMER_TOPIC};
use raftmq_raft::Role;
use raftmq_store::{Arrival, TimerIndex};
use raftmq_world::Clock;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::node::Node;
use level::LevelLane;
use levels::LEVELS_MAX;
pub(crate) use levels::{DEFAULT_LEVELS, DelayLevels};
use timers::TimerLane;

/// How often members let go of what the timer index holds of messages that are delivered.
pub(crate) const DROP_INTERVAL: Duration = Duration::from_secs(10);

/// What tells lanes of new messages.
pub(crate) struct Delay {
    clock: Arc<dyn Clock>,
    /// What is due when.
    index: Arc<TimerIndex>,
    levels: Vec<Arc<Notify>>,
    timers: Arc<Notify>,
}

impl Delay {
    pub(crate) fn new(clock: Arc<dyn Clock>, index: Arc<TimerIndex>) -> Self {
        let levels = (0..LEVELS_MAX).map(|_| Arc::default()).collect();
        Self { clock, index, levels, timers: Arc::default() }
    }

    /// The clock that store timestamps are of, in ms since the epoch.
    fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// Takes note of new messages. Called by the store's dispatching thread.
    pub(crate) fn arrived(&self, arrivals: &[Arrival]) {
        for Arrival { topic, queue_id, .. } in arrivals {
            if **topic == *SCHEDULE_TOPIC {
                if let Some(level) = self.levels.get(*queue_id as usize) {
                    level.notify_one();
                }
            } else if **topic == *TIMER_TOPIC {
                self.timers.notify_one();
            }
        }
    }
}

/// Delivers delayed messages whenever this member leads. Runs until the task is ended.
pub(crate) async fn run(node: Arc<Node>) {
    let mut role = node.role.clone();
    loop {
        let term = match role.wait_for(|role| role.role == Role::Leader && role.ready).await {
            Ok(role) => role.term,
            Err(_) => return,
        };
        // They end when this member does not lead in that term any more, and with this set.
        let mut lanes = JoinSet::new();
        for (level, wake) in (1..=LEVELS_MAX).zip(&node.delay.levels) {
            let make = move |node: &Node| {
                let delay_ms = node.config.delay_levels.delay_ms(level);
                LevelLane::new(level, delay_ms, node.group.metadata().delay_level(level))
            };
            lanes.spawn(driver::drive(node.clone(), term, make, wake.clone()));
        }
        let make = |node: &Node| TimerLane::new(node.group.metadata().timer_progress());
        lanes.spawn(driver::drive(node.clone(), term, make, node.delay.timers.clone()));
        while let Some(ended) = lanes.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "the delivery of delayed messages has ended");
            }
        }
    }
}

/// Lets go of what the timer index holds of messages that are delivered. For every member.
pub(crate) fn drop_delivered(node: &Node) {
    node.delay.index.drop_before(node.group.metadata().timer_progress().due_ms);
}

/// For tools: how far each level is, and where its queue ends, as `scheduleMessageOffset_<level>`; and how many messages
/// with a time of their own wait, the current minute's counted whole, as `timerCongestNum`.
pub(crate) fn runtime_info(node: &Node) -> BTreeMap<String, String> {
    let (store, metadata) = (node.group.store(), node.group.metadata());
    let progress = |level: u32| {
        let end = store.queue(SCHEDULE_TOPIC, level - 1).map_or(0, |queue| queue.max_offset());
        (format!("scheduleMessageOffset_{level}"), format!("{},{end}", metadata.delay_level(level)))
    };
    let mut info: BTreeMap<_, _> = (1..=node.config.delay_levels.len()).map(progress).collect();
    let timers = node.delay.index.count_from(metadata.timer_progress().due_ms);
    info.insert("timerCongestNum".to_owned(), timers.to_string());
    info
}
