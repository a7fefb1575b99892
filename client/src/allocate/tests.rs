//! The strategies against what the Java clients 4.9.7 and 5.4.0 answered, which was the same.

use super::*;

/// Each line: strategy, brokers with their numbers of queues, clients, and the share of each client as indexes into the
/// sorted list of all queues.
const JAVA_VECTORS: &str = include_str!("java_vectors.txt");

/// Rooms are what stands before `@` in a broker's name and before `-` in a client's id.
#[derive(Debug)]
struct Prefixes;

impl MachineRoomResolver for Prefixes {
    fn broker_room(&self, queue: &MessageQueue) -> String {
        queue.broker_name.split('@').next().unwrap().to_owned()
    }

    fn consumer_room(&self, client_id: &str) -> String {
        client_id.split('-').next().unwrap().to_owned()
    }
}

fn strategy(name: &str) -> Box<dyn AllocateMessageQueueStrategy> {
    let nearby = |inner| Box::new(AllocateMachineRoomNearby::new(inner, Arc::new(Prefixes)));
    match name {
        "AVG" => Box::new(AllocateMessageQueueAveragely),
        "AVG_BY_CIRCLE" => Box::new(AllocateMessageQueueAveragelyByCircle),
        "CONSISTENT_HASH(1)" => Box::new(AllocateMessageQueueConsistentHash { virtual_nodes: 1 }),
        "CONSISTENT_HASH(10)" => Box::new(AllocateMessageQueueConsistentHash::default()),
        "CONSISTENT_HASH(37)" => Box::new(AllocateMessageQueueConsistentHash { virtual_nodes: 37 }),
        "MACHINE_ROOM" => {
            let rooms = ["room1".to_owned(), "room2".to_owned()].into();
            Box::new(AllocateMessageQueueByMachineRoom { rooms })
        }
        "MACHINE_ROOM_NEARBY-AVG" => nearby(Arc::new(AllocateMessageQueueAveragely)),
        "MACHINE_ROOM_NEARBY-AVG_BY_CIRCLE" => nearby(Arc::new(AllocateMessageQueueAveragelyByCircle)),
        name => panic!("no strategy {name}"),
    }
}

/// Sorted queues of brokers given as `name:queues`.
fn queues(brokers: &str) -> Vec<MessageQueue> {
    let mut all = Vec::new();
    for broker in brokers.split_whitespace() {
        let (name, count) = broker.rsplit_once(':').unwrap();
        all.extend((0..count.parse().unwrap()).map(|queue_id| MessageQueue {
            broker_name: name.to_owned(),
            queue_id,
            topic: "T".to_owned(),
        }));
    }
    all.sort();
    all
}

#[test]
fn every_share_is_the_one_java_gives() {
    for line in JAVA_VECTORS.lines() {
        let fields: Vec<_> = line.split('|').map(str::trim).collect();
        let [name, brokers, clients, shares] = fields[..] else { panic!("bad line: {line}") };
        let (strategy, queues) = (strategy(name), queues(brokers));
        assert_eq!(strategy.name(), name.split('(').next().unwrap());
        let clients: Vec<_> = clients.split(' ').map(str::to_owned).collect();
        for (client, share) in clients.iter().zip(shares.split('/')) {
            let expected: Vec<_> =
                share.split_whitespace().map(|n| queues[n.parse::<usize>().unwrap()].clone()).collect();
            assert_eq!(strategy.allocate("G", client, &queues, &clients), expected, "{client} in {line}");
        }
        assert_eq!(shares.split('/').count(), clients.len(), "{line}");
    }
}

#[test]
fn who_is_not_a_member_gets_nothing() {
    for name in ["AVG", "AVG_BY_CIRCLE", "CONSISTENT_HASH(10)", "MACHINE_ROOM", "MACHINE_ROOM_NEARBY-AVG"] {
        let strategy = strategy(name);
        for clients in [vec![], vec!["room1-1".to_owned()]] {
            assert!(strategy.allocate("G", "room1-2", &queues("room1@a:4"), &clients).is_empty(), "{name}");
        }
        let clients = ["room1-1".to_owned()];
        assert!(strategy.allocate("G", "room1-1", &[], &clients).is_empty(), "{name}");
    }
}

#[test]
fn a_configured_share_is_the_same_for_everybody() {
    let config = AllocateMessageQueueByConfig { queues: queues("broker-b:2") };
    assert_eq!(config.name(), "CONFIG");
    assert_eq!(config.allocate("G", "nobody", &queues("broker-a:2"), &[]), config.queues);
}
