//! Long polling: pulls that found nothing are held until their queue grows or their time is over.
//!
//! The store's dispatching thread only moves what became due from one list to another; the answers are made by one task.

use std::sync::Arc;

use parking_lot::Mutex;
use raftmq_remoting::codes::response;
use raftmq_store::Arrival;
use tokio::sync::Notify;

use super::channel::Channel;
use super::holds::{Holds, Place};
use super::limits::{HOLD_TICK, Limits};
use super::node::Node;
use super::pull::{PullRequest, PullStatus, answer, find};
use super::reply::Refusal;

/// A pull that waits.
struct HeldPull {
    channel: Arc<Channel>,
    request: PullRequest,
    deadline_ms: u64,
}

pub(crate) struct LongPoll {
    holds: Mutex<Holds<HeldPull>>,
    /// Taken out of `holds` because their queues have grown.
    arrived: Mutex<Vec<HeldPull>>,
    wake: Notify,
}

impl LongPoll {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self { holds: Mutex::new(Holds::new(limits)), arrived: Mutex::default(), wake: Notify::new() }
    }

    /// How many pulls are held.
    pub(crate) fn len(&self) -> usize {
        self.holds.lock().len()
    }

    /// Holds a pull, or answers it where there is no room or messages have come in the meantime.
    pub(crate) fn hold(&self, node: &Node, channel: &Arc<Channel>, request: PullRequest, deadline_ms: u64) {
        self.wait(node, HeldPull { channel: channel.clone(), request, deadline_ms });
    }

    /// Holds a pull until nobody has to look for its messages at once.
    fn wait(&self, node: &Node, mut held: HeldPull) {
        loop {
            let offset = u64::try_from(held.request.offset).unwrap_or(0);
            let (topic, queue_id) = (held.request.topic.clone(), held.request.queue_id);
            let (connection, deadline_ms) = (held.channel.id, held.deadline_ms);
            let channel = held.channel.clone();
            let place = Place { topic: &topic, queue_id, offset, connection, deadline_ms };
            let id = match self.holds.lock().hold(&place, held) {
                Ok(id) => id,
                Err((_, held)) => return finish(node, &held),
            };
            // The listener takes the same lock after the queue has grown: either it has found the pull, or this sees
            // the queue's new end.
            let max_offset = node.group.store().queue(&topic, queue_id).map_or(0, |queue| queue.max_offset());
            // The same goes for who refuses all that is held when this member leads no more.
            if max_offset <= offset && !channel.is_closed() && node.leading().is_ok() {
                return;
            }
            let taken = self.holds.lock().take(id);
            match taken.and_then(|taken| look(node, taken)) {
                Some(waiting) => held = waiting,
                None => return,
            }
        }
    }

    /// Takes note of new messages. Called by the store's dispatching thread.
    pub(crate) fn arrived(&self, arrivals: &[Arrival]) {
        let mut due = Vec::new();
        {
            let mut holds = self.holds.lock();
            if holds.len() == 0 {
                return;
            }
            for arrival in arrivals {
                holds.arrived(&arrival.topic, arrival.queue_id, arrival.max_offset, &mut due);
            }
        }
        if !due.is_empty() {
            self.arrived.lock().append(&mut due);
            self.wake.notify_one();
        }
    }

    /// Forgets the pulls of a connection that has ended.
    pub(crate) fn connection_closed(&self, connection: u64) {
        self.holds.lock().take_connection(connection);
    }

    /// Answers everything that is held: this member serves no pulls any more.
    pub(crate) fn refuse_all(&self, refusal: &Refusal) {
        let held = self.holds.lock().take_all();
        for HeldPull { channel, request, .. } in held {
            channel.write(|out| refusal.write(out, request.serialization, request.opaque));
        }
    }

    /// Answers what has become due. Runs until the task is ended.
    pub(crate) async fn run(&self, node: &Node) {
        let mut tick = tokio::time::interval(HOLD_TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let mut expired = Vec::new();
            tokio::select! {
                () = self.wake.notified() => {}
                _ = tick.tick() => self.holds.lock().expired(node.now_ms(), &mut expired),
            }
            let arrived = std::mem::take(&mut *self.arrived.lock());
            for held in arrived {
                if let Some(waiting) = look(node, held) {
                    self.wait(node, waiting);
                }
            }
            for held in expired {
                finish(node, &held);
            }
        }
    }
}

/// Looks for messages and answers with them. Gives the pull back, further on, where the filter lets none through.
fn look(node: &Node, mut held: HeldPull) -> Option<HeldPull> {
    if held.channel.is_closed() {
        return None;
    }
    if node.leading().is_err() {
        finish(node, &held);
        return None;
    }
    let found = find(node.group.store(), &held.request);
    let nothing_new = found.code(held.request.offset) == response::PULL_NOT_FOUND;
    if nothing_new || found.status == PullStatus::NoMatchedMessage {
        held.request.offset = found.next_offset;
        return Some(held);
    }
    answer(node, &held.channel, &held.request, &found);
    held.channel.flush();
    None
}

/// Answers with what there is, were it nothing.
fn finish(node: &Node, held: &HeldPull) {
    if held.channel.is_closed() {
        return;
    }
    match node.leading() {
        Ok(()) => answer(node, &held.channel, &held.request, &find(node.group.store(), &held.request)),
        Err(refusal) => {
            held.channel.put(|out| refusal.write(out, held.request.serialization, held.request.opaque));
        }
    }
    held.channel.flush();
}
