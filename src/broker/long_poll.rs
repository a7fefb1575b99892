//! Long polling: pulls that found nothing are held until their queue grows or their time is over.
//!
//! Nothing is taken from when a pull began to wait: at each look it is found out anew what it may see. One that has passed
//! over messages, as they were not wanted, begins again where its client asked once other messages are wanted; it does so
//! without waiting for another message.
//!
//! The store's dispatching thread only marks the queues that have grown; one task makes the answers, a few at a time, so
//! that tens of thousands that are due at once hold up nobody else.

use raftmq_world::hash::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;
use raftmq_store::Arrival;
use tokio::sync::Notify;

use super::channel::Channel;
use super::holds::{Holds, Place};
use super::limits::{HOLD_ANSWERS, HOLD_TICK, PULL_TURN_WORK};
use super::node::Node;
use super::pull::{PullRequest, answer, held_group, renew, reset, trace_refusal};
use super::reply::Refusal;
use super::scan::{PullStatus, find};
use raftmq_broker::{Limits, Reader};

/// A pull that waits.
struct HeldPull {
    channel: Arc<Channel>,
    /// Its offset is the one that is waited for: what lies before it is not wanted.
    request: PullRequest,
    /// The offset that the client asks for.
    asked: i64,
    deadline_ms: u64,
}

impl HeldPull {
    fn new(channel: &Arc<Channel>, request: PullRequest, deadline_ms: u64) -> Self {
        Self { channel: channel.clone(), asked: request.offset, request, deadline_ms }
    }

    /// Finds out anew what it may see, and as what it is served.
    fn renew(&mut self, node: &Node) -> Result<Reader, Refusal> {
        let before = self.request.filter.clone();
        let reader = renew(node, &mut self.request)?;
        if self.request.filter != before {
            self.request.offset = self.asked;
        }
        Ok(reader)
    }

    /// The caller flushes.
    fn refuse(&self, node: &Node, refusal: &Refusal) {
        let PullRequest { serialization, opaque, ref group, ref topic, sub_version, .. } = self.request;
        let names = (group.name.as_str(), topic.name.as_str());
        trace_refusal(node, &self.channel, names, sub_version.unwrap_or_default(), refusal);
        self.channel.put(|out| refusal.write(out, serialization, opaque));
    }
}

pub(crate) struct LongPoll {
    holds: Mutex<Holds<HeldPull>>,
    wake: Notify,
    /// Groups that want other messages of a topic than before.
    refiltered: Mutex<HashSet<String>>,
}

impl LongPoll {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self { holds: Mutex::new(Holds::new(limits)), wake: Notify::new(), refiltered: Mutex::default() }
    }

    /// How many pulls are held.
    pub(crate) fn len(&self) -> usize {
        self.holds.lock().len()
    }

    /// Holds a pull, or answers it where there is no room or messages have come in the meantime.
    pub(crate) fn hold(&self, node: &Node, channel: &Arc<Channel>, request: PullRequest, deadline_ms: u64) {
        self.wait(node, HeldPull::new(channel, request, deadline_ms));
    }

    /// Holds a pull until then, whatever arrives, and answers it.
    pub(crate) fn delay(&self, node: &Node, channel: &Arc<Channel>, request: PullRequest, until_ms: u64) {
        let topic = request.topic.clone();
        let (queue_id, connection) = (request.queue_id, channel.id);
        // No queue's end is beyond that.
        let offset = u64::MAX;
        let place = Place { topic: &topic.name, queue_id, offset, connection, deadline_ms: until_ms };
        let held = HeldPull::new(channel, request, until_ms);
        let outcome = self.holds.lock().hold(&place, held);
        match outcome {
            // Whoever closes the channel takes out what was held before.
            Ok(id) if channel.is_closed() => drop(self.holds.lock().take(id)),
            Ok(_) => {}
            Err((_, held)) => drop(finish(node, held)),
        }
    }

    /// Holds a pull until nobody has to look for its messages at once. Returns what looking took.
    fn wait(&self, node: &Node, mut held: HeldPull) -> usize {
        let mut work = 0;
        loop {
            let HeldPull { channel, request, deadline_ms, .. } = &held;
            let (channel, deadline_ms) = (channel.clone(), *deadline_ms);
            let (topic, group, queue_id) = (request.topic.clone(), request.group.clone(), request.queue_id);
            let offset = u64::try_from(request.offset).unwrap_or(0);
            let place = Place { topic: &topic.name, queue_id, offset, connection: channel.id, deadline_ms };
            let id = match self.holds.lock().hold(&place, held) {
                Ok(id) => id,
                Err((_, held)) => return work + finish(node, held),
            };
            // The listener takes the same lock after the queue has grown: either it has found the pull, or this sees
            // the queue's new end.
            let queue = node.group.store().queue(&topic.name, queue_id);
            let max_offset = queue.map_or(0, |queue| queue.max_offset());
            let is_reset = node.offsets.is_reset(&group.name, &topic.name, queue_id);
            // The same goes for who resets the queue, and who refuses what this member serves no more.
            if max_offset <= offset
                && !is_reset
                && !channel.is_closed()
                && node.replica.reader(&group).is_ok()
            {
                return work;
            }
            let taken = self.holds.lock().take(id);
            match taken.and_then(|taken| look(node, taken, &mut work)) {
                Some(waiting) => held = waiting,
                None => return work,
            }
        }
    }

    /// Takes note of new messages. Called by the store's dispatching thread.
    pub(crate) fn arrived(&self, arrivals: &[Arrival]) {
        let mut is_due = false;
        let mut holds = self.holds.lock();
        if holds.len() == 0 {
            return;
        }
        for arrival in arrivals {
            is_due |= holds.arrived(&arrival.topic, arrival.queue_id, arrival.max_offset);
        }
        drop(holds);
        if is_due {
            self.wake.notify_one();
        }
    }

    /// Forgets the pulls of a connection that has ended.
    pub(crate) fn connection_closed(&self, connection: u64) {
        self.holds.lock().take_connection(connection);
    }

    /// Answers what is held and what this member does not serve any more.
    pub(crate) fn refuse_unserved(&self, node: &Node) {
        let reader =
            |group: &str| held_group(node, group).and_then(|group| Ok(node.replica.reader(&group)?));
        let unserved = |held: &HeldPull| reader(&held.request.group.name).is_err();
        let held = self.holds.lock().take_where(unserved);
        for held in held {
            let channel = held.channel.clone();
            finish(node, held);
            channel.flush();
        }
    }

    /// A group wants other messages of a topic than before: what it has waiting is looked at again soon.
    pub(crate) fn refiltered(&self, group: &str) {
        self.refiltered.lock().insert(group.to_owned());
    }

    /// Answers pulls of groups from topics that were reset for them, given as pairs of both.
    pub(crate) fn reset(&self, node: &Node, resets: &HashSet<(&str, &str)>) {
        let is_meant = |held: &HeldPull| {
            let PullRequest { group, topic, .. } = &held.request;
            resets.contains(&(group.name.as_str(), topic.name.as_str()))
        };
        let held = self.holds.lock().take_where(is_meant);
        for held in held {
            let channel = held.channel.clone();
            if let Some(waiting) = look(node, held, &mut 0) {
                self.wait(node, waiting);
            }
            channel.flush();
        }
    }

    /// Answers what has become due. Runs until the task is ended.
    pub(crate) async fn run(&self, node: &Node) {
        let mut tick = tokio::time::interval(HOLD_TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.wake.notified() => {}
                _ = tick.tick() => self.look_again(node).await,
            }
            while self.answer_some(node).await {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Looks again at what is held for groups that want other messages now.
    async fn look_again(&self, node: &Node) {
        let groups = std::mem::take(&mut *self.refiltered.lock());
        if groups.is_empty() {
            return;
        }
        let held = self.holds.lock().take_where(|held| groups.contains(&held.request.group.name));
        self.serve(node, held, Vec::new()).await;
    }

    /// Answers some of what is due. Returns whether there was any.
    async fn answer_some(&self, node: &Node) -> bool {
        let (mut arrived, mut expired) = (Vec::new(), Vec::new());
        {
            let mut holds = self.holds.lock();
            holds.take_arrived(HOLD_ANSWERS, &mut arrived);
            holds.take_expired(node.now_ms(), HOLD_ANSWERS, &mut expired);
        }
        let any = !(arrived.is_empty() && expired.is_empty());
        self.serve(node, arrived, expired).await;
        any
    }

    /// Looks for messages for some pulls, which wait on where there are none, and answers others.
    async fn serve(&self, node: &Node, waiting: Vec<HeldPull>, expired: Vec<HeldPull>) {
        // A consumer's queues often grow together: its answers go out in one piece.
        let mut answered = Vec::with_capacity((waiting.len() + expired.len()).min(HOLD_ANSWERS));
        let mut work = 0;
        let waiting = waiting.into_iter().map(|held| (held, false));
        for (held, is_over) in waiting.chain(expired.into_iter().map(|held| (held, true))) {
            answered.push(held.channel.clone());
            if is_over {
                work += finish(node, held);
            } else if let Some(waiting) = look(node, held, &mut work) {
                work += self.wait(node, waiting);
            }
            if work > PULL_TURN_WORK || answered.len() >= HOLD_ANSWERS {
                work = 0;
                answered.drain(..).for_each(|channel| channel.flush());
                tokio::task::yield_now().await;
            }
        }
        answered.iter().for_each(|channel| channel.flush());
    }
}

/// Looks for messages and answers with them. Gives the pull back, further on, where there are none for it.
fn look(node: &Node, mut held: HeldPull, work: &mut usize) -> Option<HeldPull> {
    if held.channel.is_closed() {
        return None;
    }
    let reader = match held.renew(node) {
        Ok(reader) => reader,
        Err(refusal) => {
            held.refuse(node, &refusal);
            return None;
        }
    };
    if let Some(found) = reset(node, &held.channel, &held.request, reader) {
        answer(node, &held.channel, &held.request, &found, reader);
        return None;
    }
    let found = find(node.group.store(), &held.request);
    *work += found.work;
    // What its filter did not let through is not looked at again. Who cannot keep up with what arrives is answered, and
    // goes on with its next pull.
    let reached_end = found.next_offset >= found.max_offset;
    if found.status == PullStatus::NoMatchedMessage && reached_end {
        held.request.offset = found.next_offset;
        return Some(held);
    }
    if found.may_wait(held.request.offset, reader) {
        return Some(held);
    }
    answer(node, &held.channel, &held.request, &found, reader);
    None
}

/// Answers with what there is, were it nothing. Returns what looking took. The caller flushes.
fn finish(node: &Node, mut held: HeldPull) -> usize {
    let reader = match held.renew(node) {
        Ok(reader) => reader,
        Err(refusal) => {
            held.refuse(node, &refusal);
            return 0;
        }
    };
    let HeldPull { channel, request, .. } = &held;
    let found = reset(node, channel, request, reader);
    let found = found.unwrap_or_else(|| find(node.group.store(), request));
    answer(node, channel, request, &found, reader);
    found.work
}
