//! Which queues of a topic each consumer of a group gets.
//!
//! Every consumer computes its own share from the same two sorted lists, so the members of a group agree without talking
//! to each other, and only if all use the same strategy. The strategies here give the very results of the Java client's
//! ones of the same name: consumers of both kinds can share a group.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use raftmq_remoting::body::MessageQueue;

/// Divides the queues of a topic among the consumers of a group.
pub trait AllocateMessageQueueStrategy: fmt::Debug + Send + Sync {
    /// The name brokers and operators know it by.
    fn name(&self) -> &str;

    /// The share of `client_id`, which is one of `clients`. Both lists are sorted and without repetitions. Nothing if
    /// `client_id` is not among the clients.
    fn allocate(
        &self,
        group: &str,
        client_id: &str,
        queues: &[MessageQueue],
        clients: &[String],
    ) -> Vec<MessageQueue>;
}

/// Consecutive queues to each, the first ones getting one more where it does not come out even. The default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AllocateMessageQueueAveragely;

impl AllocateMessageQueueStrategy for AllocateMessageQueueAveragely {
    fn name(&self) -> &str {
        "AVG"
    }

    fn allocate(
        &self,
        _: &str,
        client_id: &str,
        queues: &[MessageQueue],
        clients: &[String],
    ) -> Vec<MessageQueue> {
        let Some(index) = index_of(client_id, clients) else { return Vec::new() };
        let (each, rest) = (queues.len() / clients.len(), queues.len() % clients.len());
        let start = index * each + index.min(rest);
        queues[start..start + each + usize::from(index < rest)].to_vec()
    }
}

/// Queues dealt like cards: to each consumer in turn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AllocateMessageQueueAveragelyByCircle;

impl AllocateMessageQueueStrategy for AllocateMessageQueueAveragelyByCircle {
    fn name(&self) -> &str {
        "AVG_BY_CIRCLE"
    }

    fn allocate(
        &self,
        _: &str,
        client_id: &str,
        queues: &[MessageQueue],
        clients: &[String],
    ) -> Vec<MessageQueue> {
        let Some(index) = index_of(client_id, clients) else { return Vec::new() };
        queues.iter().skip(index).step_by(clients.len()).cloned().collect()
    }
}

/// The queues given here, whoever else there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllocateMessageQueueByConfig {
    /// The share of this consumer, of whatever topic.
    pub queues: Vec<MessageQueue>,
}

impl AllocateMessageQueueStrategy for AllocateMessageQueueByConfig {
    fn name(&self) -> &str {
        "CONFIG"
    }

    fn allocate(&self, _: &str, _: &str, _: &[MessageQueue], _: &[String]) -> Vec<MessageQueue> {
        self.queues.clone()
    }
}

/// Only queues of brokers in certain rooms: a broker's name is `room@name` then.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllocateMessageQueueByMachineRoom {
    /// The rooms; Java's `consumeridcs`.
    pub rooms: BTreeSet<String>,
}

impl AllocateMessageQueueByMachineRoom {
    fn serves(&self, broker_name: &str) -> bool {
        // Java's `split` leaves out what is empty at the end.
        let mut parts = broker_name.trim_end_matches('@').split('@');
        let room = parts.next().unwrap_or_default();
        parts.count() == 1 && self.rooms.contains(room)
    }
}

impl AllocateMessageQueueStrategy for AllocateMessageQueueByMachineRoom {
    fn name(&self) -> &str {
        "MACHINE_ROOM"
    }

    fn allocate(
        &self,
        _: &str,
        client_id: &str,
        queues: &[MessageQueue],
        clients: &[String],
    ) -> Vec<MessageQueue> {
        let Some(index) = index_of(client_id, clients) else { return Vec::new() };
        let served: Vec<_> = queues.iter().filter(|queue| self.serves(&queue.broker_name)).collect();
        let each = served.len() / clients.len();
        let share = served.iter().skip(index * each).take(each);
        // What is left over goes to the first consumers, one each.
        let extra = served.get(each * clients.len() + index);
        share.chain(extra).map(|queue| (*queue).clone()).collect()
    }
}

/// Says in which room brokers and consumers are.
pub trait MachineRoomResolver: fmt::Debug + Send + Sync {
    /// The room of the broker that has a queue; Java's `brokerDeployIn`.
    fn broker_room(&self, queue: &MessageQueue) -> String;
    /// The room of a consumer; Java's `consumerDeployIn`.
    fn consumer_room(&self, client_id: &str) -> String;
}

/// The queues of a room among the consumers in it; queues of rooms without consumers among all.
#[derive(Debug, Clone)]
pub struct AllocateMachineRoomNearby {
    strategy: Arc<dyn AllocateMessageQueueStrategy>,
    resolver: Arc<dyn MachineRoomResolver>,
    name: String,
}

impl AllocateMachineRoomNearby {
    /// Divides by `strategy` within a room.
    pub fn new(
        strategy: Arc<dyn AllocateMessageQueueStrategy>,
        resolver: Arc<dyn MachineRoomResolver>,
    ) -> Self {
        let name = format!("MACHINE_ROOM_NEARBY-{}", strategy.name());
        Self { strategy, resolver, name }
    }
}

impl AllocateMessageQueueStrategy for AllocateMachineRoomNearby {
    fn name(&self) -> &str {
        &self.name
    }

    fn allocate(
        &self,
        group: &str,
        client_id: &str,
        queues: &[MessageQueue],
        clients: &[String],
    ) -> Vec<MessageQueue> {
        if index_of(client_id, clients).is_none() {
            return Vec::new();
        }
        let mut queues_by_room = BTreeMap::<_, Vec<_>>::new();
        for queue in queues {
            queues_by_room.entry(self.resolver.broker_room(queue)).or_default().push(queue.clone());
        }
        let mut clients_by_room = BTreeMap::<_, Vec<_>>::new();
        for client in clients {
            clients_by_room.entry(self.resolver.consumer_room(client)).or_default().push(client.clone());
        }
        let room = self.resolver.consumer_room(client_id);
        let mut share = match (queues_by_room.remove(&room), clients_by_room.get(&room)) {
            (Some(queues), Some(clients)) => self.strategy.allocate(group, client_id, &queues, clients),
            _ => Vec::new(),
        };
        for (room, queues) in queues_by_room {
            if !clients_by_room.contains_key(&room) {
                share.extend(self.strategy.allocate(group, client_id, &queues, clients));
            }
        }
        share
    }
}

/// Each queue to the consumer that follows it on a circle of hashes, so that few queues move when consumers come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllocateMessageQueueConsistentHash {
    /// Points of each consumer on the circle. All consumers of a group must have the same number.
    pub virtual_nodes: u32,
}

impl Default for AllocateMessageQueueConsistentHash {
    /// 10 points, as in Java.
    fn default() -> Self {
        Self { virtual_nodes: 10 }
    }
}

impl AllocateMessageQueueStrategy for AllocateMessageQueueConsistentHash {
    fn name(&self) -> &str {
        "CONSISTENT_HASH"
    }

    fn allocate(
        &self,
        _: &str,
        client_id: &str,
        queues: &[MessageQueue],
        clients: &[String],
    ) -> Vec<MessageQueue> {
        if index_of(client_id, clients).is_none() {
            return Vec::new();
        }
        let mut circle = BTreeMap::new();
        for client in clients {
            for node in 0..self.virtual_nodes {
                circle.insert(point(&format!("{client}-{node}")), client.as_str());
            }
        }
        let owner = |queue: &MessageQueue| {
            let MessageQueue { topic, broker_name, queue_id } = queue;
            // Java's `MessageQueue.toString()`.
            let at =
                point(&format!("MessageQueue [topic={topic}, brokerName={broker_name}, queueId={queue_id}]"));
            circle.range(at..).chain(&circle).next().map(|(_, client)| *client)
        };
        queues.iter().filter(|queue| owner(queue) == Some(client_id)).cloned().collect()
    }
}

/// A place on the circle of hashes: the first four bytes of an MD5 digest.
fn point(key: &str) -> u32 {
    let [a, b, c, d, ..] = md5::compute(key).0;
    u32::from_be_bytes([a, b, c, d])
}

fn index_of(client_id: &str, clients: &[String]) -> Option<usize> {
    clients.iter().position(|client| client == client_id)
}

#[cfg(test)]
mod tests;
