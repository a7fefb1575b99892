//! Takes the steps of a lane, one entry at a time, as long as this member leads.
//!
//! *Exactly once* rests on this: a step is planned from progress that is certainly the last one. Either it was read when
//! this member had become leader and had applied everything before its term, or it is that of the step before, which is
//! applied. Where the outcome of a step is not known, no other is taken in that term; and the log takes a step in the term
//! that it was planned in only.

use std::sync::Arc;
use std::time::Duration;

use raftmq_raft::{Command, Completion, MessageBatch, Position, ProposeError, Role, RoleState, SubmitError};
use tokio::sync::{Notify, oneshot, watch};

use super::lane::{Delivery, Lane, Limit, Step, Wait};
use super::redelivery::Redelivery;
use crate::broker::limits::DELAY_STEP_MESSAGES;
use crate::broker::node::Node;

/// How long what is due or arrives gathers before the next step. At 10,000 a second a step has 100 messages.
const GATHER: Duration = Duration::from_millis(10);
/// How long to wait where the log takes nothing at the moment, or the store cannot be read.
const RETRY: Duration = Duration::from_millis(100);
/// The longest sleep: the wall clock may be set.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// What the progress of a step takes of an entry, at most.
const PROGRESS_BYTES: usize = 256;

/// What became of a step.
enum Outcome {
    Applied,
    /// Nothing was written, and may be next time.
    NotTaken,
    /// Nothing was written, nor will be.
    Refused(String),
    /// It may be applied or not.
    Unknown,
}

/// Delivers what a lane has as long as this member leads in `term`; at least until then where an outcome is unknown.
pub(super) async fn drive<L: Lane + Send + 'static>(
    node: Arc<Node>,
    term: u64,
    make: impl FnOnce(&Node) -> L,
    wake: Arc<Notify>,
) {
    let mut role = node.role.clone();
    if !leads(&mut role, term).await {
        return;
    }
    let mut lane = make(&node);
    let all = Limit {
        messages: DELAY_STEP_MESSAGES,
        bytes: node.submit_bytes.saturating_sub(PROGRESS_BYTES),
        omit: false,
    };
    let mut limit = all;
    while leads(&mut role, term).await {
        let planned = plan(&node, lane, limit).await;
        let Some((returned, step)) = planned else { return };
        lane = returned;
        let delivery = match step {
            Ok(Step::Deliver(delivery)) => delivery,
            Ok(Step::Wait(wait)) => {
                sleep(&node, wait, &wake, &mut role).await;
                continue;
            }
            Err(error) => {
                tracing::error!(%error, "delayed messages cannot be read");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        let (full, progress) = (delivery.full && limit == all, delivery.progress);
        match submit(&node, term, delivery).await {
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

/// Plans on a thread that may wait for the disk. `None` where the process is ending.
async fn plan<L: Lane + Send + 'static>(
    node: &Arc<Node>,
    mut lane: L,
    limit: Limit,
) -> Option<(L, Result<Step, raftmq_store::StoreError>)> {
    let node = node.clone();
    let planning = tokio::task::spawn_blocking(move || {
        let redelivery = Redelivery { store_host: node.config.advertise };
        let step = lane.plan(&**node.group.store(), &redelivery, node.delay.now_ms(), limit);
        (lane, step)
    });
    planning.await.ok()
}

async fn sleep(node: &Node, wait: Wait, wake: &Notify, role: &mut watch::Receiver<RoleState>) {
    let left_ms = wait.until_ms.map(|until_ms| until_ms.saturating_sub(node.delay.now_ms()).max(0) as u64);
    let left = left_ms.map(|left_ms| Duration::from_millis(left_ms).min(SLEEP_MAX));
    tokio::select! {
        () = tokio::time::sleep(left.unwrap_or_default()), if left.is_some() => {}
        () = wake.notified(), if wait.for_arrivals => tokio::time::sleep(GATHER).await,
        // The caller looks at it.
        _ = role.changed() => {}
    }
}

async fn submit(node: &Node, term: u64, delivery: Delivery) -> Outcome {
    let Delivery { records, count, progress, .. } = delivery;
    let command = Command::DelayProgress(progress);
    if count == 0 {
        // In a later term it goes on from progress that is not the last one, and means nothing.
        return outcome(node.group.propose(command).await.map(drop));
    }
    let (told, outcome_told) = oneshot::channel();
    let completion = Box::new(Told(told));
    let batch = MessageBatch { records, count, command: Some(command), term: Some(term), completion };
    match node.group.submit(batch) {
        Ok(()) => outcome_told.await.unwrap_or(Outcome::Unknown),
        Err(SubmitError::Busy { .. } | SubmitError::NotLeader { .. }) => Outcome::NotTaken,
        Err(SubmitError::Illegal(reason)) => Outcome::Refused(reason),
        Err(SubmitError::Stopped) => Outcome::Unknown,
    }
}

fn outcome(proposed: Result<(), ProposeError>) -> Outcome {
    match proposed {
        Ok(()) => Outcome::Applied,
        Err(ProposeError::NotLeader { .. }) => Outcome::NotTaken,
        Err(ProposeError::Refused(reason)) => Outcome::Refused(reason),
        Err(ProposeError::Unknown | ProposeError::Stopped(_)) => Outcome::Unknown,
    }
}

/// The log's way to who waits.
struct Told(oneshot::Sender<Outcome>);

impl Completion for Told {
    fn complete(self: Box<Self>, decided: Result<&[Position], &ProposeError>) {
        // Who waits may have ended with the broker.
        let _ = self.0.send(outcome(decided.map(drop).map_err(Clone::clone)));
    }
}
