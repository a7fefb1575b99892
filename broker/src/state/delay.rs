//! The table of how far delayed messages are delivered.

use std::collections::BTreeMap;

use parking_lot::RwLock;
use raftmq_raft::{FIRST_LEVEL, FeatureLevel, Table};
use raftmq_store::StoreError;
use serde::{Deserialize, Serialize};

/// A step of delivery. Goes with the messages that were delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DelayProgress {
    /// Of a delay level: its queue is delivered in order.
    Level {
        /// The level, from 1.
        level: u32,
        /// The queue offset that was the next before.
        from: u64,
        /// The queue offset to be delivered next.
        to: u64,
    },
    /// Of messages with a time of their own.
    Timer {
        /// The progress before.
        from: TimerProgress,
        /// The progress with it.
        to: TimerProgress,
    },
}

/// Which of the messages with a time of their own are delivered: of those whose place in their queue is below
/// `scanned`, the ones whose time and place are at or before (`due_ms`, `offset`); of the others, none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerProgress {
    /// Queue offset.
    pub scanned: u64,
    /// In ms since the epoch.
    pub due_ms: i64,
    /// Queue offset.
    pub offset: u64,
}

/// How far delayed messages are delivered.
#[derive(Debug, Default)]
pub struct DelayTable(RwLock<Delivered>);

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivered {
    /// Next queue offset by level.
    levels: BTreeMap<u32, u64>,
    timer: TimerProgress,
}

impl DelayTable {
    /// The queue offset of a delay level's next message to be delivered.
    pub fn level(&self, level: u32) -> u64 {
        self.0.read().levels.get(&level).copied().unwrap_or(0)
    }

    /// Which of the messages with a time of their own are delivered.
    pub fn timers(&self) -> TimerProgress {
        self.0.read().timer
    }
}

impl Table for DelayTable {
    const ID: u8 = 5;
    const NAME: &'static str = "delay";
    const IMAGE_VERSION: u8 = 1;
    /// *Invariant 7*.
    const WITH_MESSAGES: bool = true;
    type Command = DelayProgress;
    type Outcome = ();
    type Image = Delivered;

    fn level(_: &DelayProgress) -> FeatureLevel {
        FIRST_LEVEL
    }

    /// *Invariant 7*: one leader at a time delivers, and each of its steps starts where the last one ended. A step that
    /// does not, or that leads back, has lost or repeated messages: this member must neither count nor show it. That holds at
    /// a restart too: the state is as of one entry, and each entry behind that is applied once.
    fn apply(&self, progress: DelayProgress) -> Result<(), StoreError> {
        let mut delay = self.0.write();
        let continues = match progress {
            DelayProgress::Level { level, from, to } => {
                let continues = delay.levels.get(&level).copied().unwrap_or(0) == from && from <= to;
                if continues {
                    delay.levels.insert(level, to);
                }
                continues
            }
            DelayProgress::Timer { from, to } => {
                let rises =
                    from.scanned <= to.scanned && (from.due_ms, from.offset) <= (to.due_ms, to.offset);
                let continues = delay.timer == from && rises;
                if continues {
                    delay.timer = to;
                }
                continues
            }
        };
        if continues {
            return Ok(());
        }
        Err(StoreError::Divergence(format!(
            "a step of delayed delivery, {progress:?}, does not continue {:?}",
            *delay
        )))
    }

    fn freeze(&self) -> impl FnOnce() -> Delivered + Send + Sync + 'static {
        let image = self.0.read().clone();
        move || image
    }

    fn restore(&self, image: Delivered) -> Result<(), StoreError> {
        *self.0.write() = image;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delivery_goes_on_from_where_it_was_and_from_nowhere_else() {
        let table = DelayTable::default();
        let level = |from, to| DelayProgress::Level { level: 3, from, to };
        let at = |scanned, due_ms, offset| TimerProgress { scanned, due_ms, offset };
        let timer = |from, to| DelayProgress::Timer { from, to };
        let (start, next) = (TimerProgress::default(), at(5, 70, 3));
        let diverges = |table: &DelayTable, step: DelayProgress| {
            let image = table.freeze()();
            assert!(matches!(table.apply(step), Err(StoreError::Divergence(_))), "{step:?}");
            assert_eq!(table.freeze()(), image);
        };
        diverges(&table, level(1, 5));
        table.apply(level(0, 5)).unwrap();
        for step in [level(0, 9), level(0, 5), level(6, 9), level(5, 4)] {
            diverges(&table, step);
        }
        table.apply(timer(start, next)).unwrap();
        for step in [
            timer(start, at(9, 90, 0)),
            timer(start, next),
            timer(next, at(4, 90, 0)),
            timer(next, at(9, 69, 9)),
            timer(next, at(9, 70, 2)),
        ] {
            diverges(&table, step);
        }
        assert_eq!((table.level(3), table.level(2)), (5, 0));

        // At a restart the steps behind a checkpoint are applied again, and those before it are not.
        let restored = DelayTable::default();
        restored.restore(table.freeze()()).unwrap();
        for table in [&table, &restored] {
            table.apply(level(5, 9)).unwrap();
            table.apply(timer(next, at(9, 70, 3))).unwrap();
        }
        assert_eq!(restored.freeze()(), table.freeze()());
        for step in [level(5, 9), timer(next, at(9, 70, 3))] {
            diverges(&restored, step);
        }
    }
}
