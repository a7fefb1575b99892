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
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use raftmq_message::topic::{SCHEDULE_TOPIC, TIMER_TOPIC};
use raftmq_raft::Role;
use raftmq_store::{Arrival, TimerIndex};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::limits::{DELAY_PROGRESS_BYTES, SUBMIT_BYTES};
use crate::replica::Replica;
use crate::surroundings::Surroundings;
use driver::Driver;
use level::LevelLane;
use levels::LEVELS_MAX;
pub use levels::{DEFAULT_LEVELS, DelayLevels};
use redelivery::Redelivery;
use timers::TimerLane;

/// How often members let go of what the timer index holds of messages that are delivered.
pub const DROP_INTERVAL: Duration = Duration::from_secs(10);

/// Delivers delayed messages of a group.
pub struct DelayDelivery {
    driver: Driver,
    levels: DelayLevels,
    /// What tells lanes of new messages.
    level_wakes: Vec<Arc<Notify>>,
    timer_wake: Arc<Notify>,
}

impl DelayDelivery {
    /// `store_host` is where clients reach this member, `entry_bytes` what one entry of the log can hold.
    pub fn new(
        replica: Arc<Replica>,
        timers: Arc<TimerIndex>,
        levels: DelayLevels,
        store_host: SocketAddr,
        entry_bytes: usize,
        surroundings: &Surroundings,
    ) -> Self {
        let driver = Driver {
            replica,
            timers,
            redelivery: Redelivery { store_host },
            bytes: SUBMIT_BYTES.min(entry_bytes).saturating_sub(DELAY_PROGRESS_BYTES),
            clock: surroundings.clock.clone(),
            threads: surroundings.threads.clone(),
        };
        let level_wakes = (0..LEVELS_MAX).map(|_| Arc::default()).collect();
        Self { driver, levels, level_wakes, timer_wake: Arc::default() }
    }

    /// How long each level is.
    pub fn levels(&self) -> &DelayLevels {
        &self.levels
    }

    /// Takes note of new messages. Called by the store's dispatching thread.
    pub fn arrived(&self, arrivals: &[Arrival]) {
        for Arrival { topic, queue_id, .. } in arrivals {
            if **topic == *SCHEDULE_TOPIC {
                if let Some(level) = self.level_wakes.get(*queue_id as usize) {
                    level.notify_one();
                }
            } else if **topic == *TIMER_TOPIC {
                self.timer_wake.notify_one();
            }
        }
    }

    /// Delivers whenever this member leads. Runs until the task is ended.
    pub async fn run(&self) {
        let mut role = self.driver.replica.watch_role();
        loop {
            let term = match role.wait_for(|role| role.role == Role::Leader && role.ready).await {
                Ok(role) => role.term,
                Err(_) => return,
            };
            // They end when this member does not lead in that term any more, and with this set.
            let mut lanes = JoinSet::new();
            for (level, wake) in (1..=LEVELS_MAX).zip(&self.level_wakes) {
                let delay_ms = self.levels.delay_ms(level);
                let make = move |replica: &Replica| {
                    LevelLane::new(level, delay_ms, replica.state().delay.level(level))
                };
                lanes.spawn(driver::drive(self.driver.clone(), term, make, wake.clone()));
            }
            let make = |replica: &Replica| TimerLane::new(replica.state().delay.timers());
            lanes.spawn(driver::drive(self.driver.clone(), term, make, self.timer_wake.clone()));
            while let Some(ended) = lanes.join_next().await {
                if let Err(error) = ended {
                    tracing::error!(%error, "the delivery of delayed messages has ended");
                }
            }
        }
    }

    /// Lets go of what the timer index holds of messages that are delivered. For every member.
    pub fn drop_delivered(&self) {
        let replica = &self.driver.replica;
        self.driver.timers.drop_before(replica.state().delay.timers().due_ms);
    }

    /// For tools: how far each level is, and where its queue ends, as `scheduleMessageOffset_<level>`; and how many messages
    /// with a time of their own wait, the current minute's counted whole, as `timerCongestNum`.
    pub fn runtime_info(&self) -> BTreeMap<String, String> {
        let (store, delay) = (self.driver.replica.store(), &self.driver.replica.state().delay);
        let progress = |level: u32| {
            let end = store.queue(SCHEDULE_TOPIC, level - 1).map_or(0, |queue| queue.max_offset());
            (format!("scheduleMessageOffset_{level}"), format!("{},{end}", delay.level(level)))
        };
        let mut info: BTreeMap<_, _> = (1..=self.levels.count()).map(progress).collect();
        let timers = self.driver.timers.count_from(delay.timers().due_ms);
        info.insert("timerCongestNum".to_owned(), timers.to_string());
        info
    }
}
