//! Takes the steps of a lane, one entry at a time, as long as this member leads.
//!
//! *Invariant 7*: exactly once. It rests on this: a step is planned from progress that is certainly the last one. Either it was read when
//! this member had become leader and had applied everything before its term, or it is that of the step before, which is
//! applied. Where the outcome of a step is not known, no other is taken in that term; and the log takes a step in the term
//! that it was planned in only.

use std::sync::Arc;
use std::time::Duration;

use crate::state::DelayTable;
use raftmq_raft::{Change, Completion, MessageBatch, Placed, ProposeError, Role, RoleState};
use raftmq_store::{StoreError, TimerIndex};
use raftmq_world::{Clock, Mutation, Threads};
use tokio::sync::{Notify, oneshot, watch};

use super::lane::{Delivery, Lane, Limit, Step, Stored, Wait};
use super::redelivery::Redelivery;
use crate::limits::DELAY_STEP_MESSAGES;
use crate::replica::Replica;

/// How long what is due or arrives gathers before the next step. At 10,000 a second a step has 100 messages.
const GATHER: Duration = Duration::from_millis(10);
/// How long to wait where the log takes nothing at the moment, or the store cannot be read.
const RETRY: Duration = Duration::from_millis(100);
/// The longest sleep: the wall clock may be set.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// What lanes are driven with.
#[derive(Clone)]
pub(super) struct Driver {
    pub(super) replica: Arc<Replica>,
    pub(super) timers: Arc<TimerIndex>,
    pub(super) redelivery: Redelivery,
    /// Record bytes of a step.
    pub(super) bytes: usize,
    /// The clock that store timestamps are of.
    pub(super) clock: Arc<dyn Clock>,
    pub(super) threads: Arc<dyn Threads>,
}

/// What became of a step.
enum Outcome {
    Applied,
    /// Nothing was written, whatever the step holds: another one may be.
    NotTaken,
    /// Nothing was written, and never will be of what the step holds.
    Refused(String),
    /// It may be applied or not.
    Unknown,
}

/// Delivers what a lane has as long as this member leads in `term`; at least until then where an outcome is unknown.
pub(super) async fn drive<L: Lane + Send + 'static>(
    driver: Driver,
    term: u64,
    make: impl Fn(&Replica) -> L,
    wake: Arc<Notify>,
) {
    let mut role = driver.replica.watch_role();
    if !leads(&mut role, term).await {
        return;
    }
    let mut lane = make(&driver.replica);
    let all = Limit { messages: DELAY_STEP_MESSAGES, bytes: driver.bytes, omit: false };
    let mut limit = all;
    while leads(&mut role, term).await {
        let step = match plan(&driver, lane, limit).await {
            Some((returned, step)) => {
                lane = returned;
                step
            }
            None => {
                tracing::error!("planning the delivery of delayed messages has panicked");
                tokio::time::sleep(RETRY).await;
                // No step is open, so the replicated progress is the last one.
                lane = make(&driver.replica);
                continue;
            }
        };
        let delivery = match step {
            Ok(Step::Deliver(delivery)) => delivery,
            Ok(Step::Wait(wait)) => {
                sleep(&*driver.clock, wait, &wake, &mut role).await;
                continue;
            }
            Err(error) => {
                tracing::error!(%error, "delayed messages cannot be read");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        let (full, progress) = (delivery.full && limit == all, delivery.progress);
        match submit(&driver.replica, term, delivery).await {
            Outcome::Applied => {
                lane.applied();
                limit = all;
                if !full {
                    tokio::time::sleep(GATHER).await;
                }
            }
            Outcome::NotTaken => tokio::time::sleep(RETRY).await,
            // One of them is to blame.
            Outcome::Refused(_) if limit.messages > 1 => limit.messages = 1,
            Outcome::Refused(reason) => {
                tracing::error!(?progress, reason, "a delayed message is refused by the log and passed over");
                limit.omit = true;
                tokio::time::sleep(RETRY).await;
            }
            Outcome::Unknown => {
                tracing::info!(?progress, term, "whether delayed messages were delivered is not known yet");
                // Who leads next knows.
                let _ = role.wait_for(|role| role.term != term).await;
                return;
            }
        }
    }
}

/// Waits until this member serves; `false` where it does not lead in that term any more.
async fn leads(role: &mut watch::Receiver<RoleState>, term: u64) -> bool {
    let decided = |role: &RoleState| role.role != Role::Leader || role.term != term || role.ready;
    match role.wait_for(decided).await {
        Ok(role) => role.role == Role::Leader && role.term == term,
        Err(_) => false,
    }
}

/// Plans on a thread that may wait for the disk.
async fn plan<L: Lane + Send + 'static>(
    driver: &Driver,
    mut lane: L,
    limit: Limit,
) -> Option<(L, Result<Step, StoreError>)> {
    let Driver { replica, timers, redelivery, clock, .. } = driver.clone();
    let planning = driver.threads.run(move || {
        let step = lane.plan(
            &Stored { store: replica.store(), timers: &timers },
            &redelivery,
            clock.now_ms(),
            limit,
        );
        (lane, step)
    });
    planning.await
}

async fn sleep(clock: &dyn Clock, wait: Wait, wake: &Notify, role: &mut watch::Receiver<RoleState>) {
    let left_ms = wait.until_ms.map(|until_ms| until_ms.saturating_sub(clock.now_ms()).max(0) as u64);
    let left = left_ms.map(|left_ms| Duration::from_millis(left_ms).min(SLEEP_MAX));
    tokio::select! {
        () = tokio::time::sleep(left.unwrap_or_default()), if left.is_some() => {}
        () = wake.notified(), if wait.for_arrivals => tokio::time::sleep(GATHER).await,
        // The caller looks at it.
        _ = role.changed() => {}
    }
}

async fn submit(replica: &Replica, term: u64, delivery: Delivery) -> Outcome {
    let Delivery { records, count, progress, .. } = delivery;
    let change = match Change::new::<DelayTable>(&progress) {
        Ok(change) => Some(change).filter(|_| !Mutation::DeliverWithoutProgress.is_on()),
        Err(error) => return Outcome::Refused(error.to_string()),
    };
    let (told, outcome_told) = oneshot::channel();
    let completion = Box::new(Told(told));
    let batch = MessageBatch { records, count, change, term: Some(term), completion };
    replica.submit(batch);
    outcome_told.await.unwrap_or(Outcome::Unknown)
}

fn outcome(decided: Result<&[Placed], &ProposeError>) -> Outcome {
    match decided {
        Ok(_) => Outcome::Applied,
        Err(
            ProposeError::Busy { .. }
            | ProposeError::NoRoom(_)
            | ProposeError::NotLeader { .. }
            | ProposeError::TooEarly(_),
        ) => Outcome::NotTaken,
        Err(ProposeError::Refused(reason)) => Outcome::Refused(reason.clone()),
        Err(ProposeError::Unknown | ProposeError::Stopped(_)) => Outcome::Unknown,
    }
}

/// The log's way to who waits.
struct Told(oneshot::Sender<Outcome>);

impl Completion for Told {
    fn complete(self: Box<Self>, decided: Result<&[Placed], &ProposeError>) {
        // Who waits may have ended with the broker.
        let _ = self.0.send(outcome(decided));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use bytes::BytesMut;
    use raftmq_store::OpenFiles;
    use raftmq_world::World;

    use super::*;
    use crate::delay::lane::Source;
    use crate::state::{DelayProgress, Views};
    use crate::tests::member;

    /// Passes messages of level 7 over one by one, and panics before each step the first time.
    struct Panicking {
        next: u64,
        plans: Arc<AtomicU32>,
    }

    impl Lane for Panicking {
        fn plan(&mut self, _: &impl Source, _: &Redelivery, _: i64, _: Limit) -> Result<Step, StoreError> {
            assert!(!self.plans.fetch_add(1, Ordering::Relaxed).is_multiple_of(2), "as a defect would");
            let progress = DelayProgress::Level { level: 7, from: self.next, to: self.next + 1 };
            let records = BytesMut::new();
            Ok(Step::Deliver(Delivery { records, count: 0, progress, full: true }))
        }

        fn applied(&mut self) {
            self.next += 1;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_lane_survives_a_panic_and_steps_without_messages_are_for_their_term() {
        let dir = tempfile::tempdir().unwrap();
        let replica = member(dir.path()).await;
        let world = World::system();
        let driver = Driver {
            replica: replica.clone(),
            timers: Views::new(&OpenFiles::of(&world), dir.path()).timers,
            redelivery: Redelivery { store_host: ([127, 0, 0, 1], 1).into() },
            bytes: 1 << 16,
            clock: world.clock,
            threads: world.threads,
        };
        let term = replica.leading().unwrap();
        let plans = Arc::<AtomicU32>::default();
        let delivery = || Delivery {
            records: BytesMut::new(),
            count: 0,
            progress: DelayProgress::Level { level: 7, from: 0, to: 5 },
            full: false,
        };
        assert!(matches!(submit(&replica, term - 1, delivery()).await, Outcome::NotTaken));
        assert_eq!(replica.state().delay.level(7), 0);

        let made = Arc::clone(&plans);
        let make =
            move |replica: &Replica| Panicking { next: replica.state().delay.level(7), plans: made.clone() };
        let driving = tokio::spawn(drive(driver, term, make, Arc::default()));
        while replica.state().delay.level(7) < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(plans.load(Ordering::Relaxed) >= 5);
        driving.abort();
        replica.group().shutdown().await;
    }
}
