//! Which messages a group gets.

use std::sync::Arc;

use raftmq_client::{MessageModel, MessageSelector};
use raftmq_cluster_tests::members::Judge;
use raftmq_remoting::body::KvTable;
use raftmq_remoting::fastjson;
use serde_json::json;

use super::*;

const UPDATE_SUBSCRIPTION_GROUP: i32 = 200;
const RESET_OFFSETS: i32 = 222;
const RUNTIME_INFO: i32 = 28;

/// Keeps the bodies that it is given.
fn keeper() -> (Arc<Mutex<Vec<String>>>, Judge) {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let judge = {
        let kept = kept.clone();
        move |message: &MessageExt| {
            kept.lock().unwrap().push(String::from_utf8_lossy(&message.body).into_owned());
            true
        }
    };
    (kept, Arc::new(judge))
}

/// Members of a group of their own, and what they are given.
fn chosen(group: &Group, name: &str, selector: MessageSelector) -> (Vec<Member>, Arc<Mutex<Vec<String>>>) {
    let (kept, judge) = keeper();
    let options =
        MemberOptions { selector, judge, ..MemberOptions::new(group.name_servers(), "Choice", name) };
    (members(2, &options, &Deliveries::default()), kept)
}

#[test]
fn filters_let_through_what_they_say() {
    const MESSAGES: usize = 120;
    let _alone = alone();
    let group = group(&[]);
    make_topic(&group, "Choice");
    // "AaAa" and "BBBB" have the same hash.
    let tags = ["AaAa", "BBBB", "other"];
    let message = |n: usize| {
        let message = Message::new("Choice", n.to_string()).with_tags(tags[n % 3]);
        message.with_property("n", &n.to_string()).with_property("side", ["left", "right"][n % 2])
    };
    let wanted =
        |want: &dyn Fn(usize) -> bool| count((0..MESSAGES).filter(|n| want(*n)).map(|n| n.to_string()));
    let groups = [
        ("by-tag", MessageSelector::by_tag("AaAa"), wanted(&|n| n % 3 == 0)),
        ("by-tags", MessageSelector::by_tag("BBBB || other"), wanted(&|n| n % 3 != 0)),
        (
            "by-sql",
            MessageSelector::by_sql("n BETWEEN 10 AND 99 AND side = 'left' OR TAGS IN ('other') AND n < 10"),
            wanted(&|n| (10..100).contains(&n) && n % 2 == 0 || n % 3 == 2 && n < 10),
        ),
        ("by-sql-2", MessageSelector::by_sql("side IS NULL OR n > 110"), wanted(&|n| n > 110)),
        ("all", MessageSelector::all(), wanted(&|_| true)),
    ];
    let groups = groups.map(|(name, selector, wanted)| (name, chosen(&group, name, selector), wanted));
    let hands = Hands::new(&group);
    (0..MESSAGES).for_each(|n| drop(hands.send(&message(n))));
    let messages = |wanted: &BTreeMap<_, usize>| wanted.values().sum::<usize>();
    for (name, (_, kept), wanted) in &groups {
        wait_until(name, || kept.lock().unwrap().len() >= messages(wanted));
    }
    settle();
    for (name, (members, kept), wanted) in groups {
        members.into_iter().for_each(Member::leave);
        assert_eq!(count(kept.lock().unwrap().iter().cloned()), wanted, "{name}");
    }
}

#[test]
fn every_member_gets_all_when_a_group_broadcasts() {
    const MESSAGES: usize = 100;
    let _alone = alone();
    let group = group(&[]);
    make_topic(&group, "Choice");
    let offsets = tempfile::tempdir().unwrap();
    let start = |number: u32| {
        let (kept, judge) = keeper();
        let mut options =
            MemberOptions { judge, ..MemberOptions::new(group.name_servers(), "Choice", "broadcast") };
        options.config.message_model = MessageModel::Broadcasting;
        let id = format!("member-{number}");
        let store = raftmq_client::LocalFileOffsetStore::new(
            &raftmq_client::World::system(),
            offsets.path(),
            &id,
            "broadcast",
        )
        .unwrap();
        options.config.offset_store = Some(Arc::new(store));
        (Member::start(number, &options, &Deliveries::default()).unwrap(), kept)
    };
    let hands = Hands::new(&group);
    let send = |numbers: std::ops::Range<usize>| {
        numbers.for_each(|n| drop(hands.send(&Message::new("Choice", n.to_string()))));
    };
    let all = |numbers: std::ops::Range<usize>| count(numbers.map(|n| n.to_string()));
    let both = [start(1), start(2)];
    for (member, _) in &both {
        wait_until("all queues", || member.queues("Choice").len() == QUEUES as usize);
    }
    send(0..MESSAGES);
    for (_, kept) in &both {
        wait_until("all messages", || kept.lock().unwrap().len() >= MESSAGES);
    }
    settle();
    for (member, kept) in both {
        member.leave();
        assert_eq!(count(kept.lock().unwrap().iter().cloned()), all(0..MESSAGES));
    }
    // A member that comes back goes on where it was.
    send(MESSAGES..2 * MESSAGES);
    let (member, kept) = start(1);
    wait_until("the rest", || kept.lock().unwrap().len() >= MESSAGES);
    settle();
    member.leave();
    assert_eq!(count(kept.lock().unwrap().iter().cloned()), all(MESSAGES..2 * MESSAGES));
}

#[test]
fn a_group_that_is_set_back_consumes_again_what_came_since() {
    const MESSAGES: usize = 60;
    let _alone = alone();
    let mut group = group(&[]);
    make_topic(&group, "Choice");
    let (members, kept) = chosen(&group, "set-back", MessageSelector::all());
    let hands = Hands::new(&group);
    let send = |numbers: std::ops::Range<usize>| {
        numbers.for_each(|n| drop(hands.send(&Message::new("Choice", n.to_string()))));
    };
    let wait_for = |count: usize| wait_until("messages", || kept.lock().unwrap().len() >= count);
    send(0..MESSAGES);
    wait_for(MESSAGES);
    // Store times have ms; the first message after the turn must have a later one than the last before it.
    std::thread::sleep(Duration::from_millis(5));
    let turn_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    std::thread::sleep(Duration::from_millis(5));
    send(MESSAGES..2 * MESSAGES);
    wait_for(2 * MESSAGES);

    let leader = group.wait_ready(LONG).unwrap().node_id;
    let fields = json!({
        "topic": "Choice", "group": "set-back", "timestamp": turn_ms.to_string(), "isForce": "true",
        "isC": "false", "queueId": "-1", "offset": "-1",
    });
    ask(&group, leader, RESET_OFFSETS, &fields, b"");
    wait_for(3 * MESSAGES);
    // And it goes on from there.
    send(2 * MESSAGES..2 * MESSAGES + 10);
    wait_for(3 * MESSAGES + 10);
    settle();
    members.into_iter().for_each(Member::leave);
    let times = count(kept.lock().unwrap().iter().map(|body| body.parse::<usize>().unwrap()));
    for (n, times) in times {
        let wanted = if (MESSAGES..2 * MESSAGES).contains(&n) { 2 } else { 1 };
        assert_eq!(times, wanted, "message {n}");
    }
}

/// How many messages a node has given to consumers.
fn given(group: &Group, node: u64) -> u64 {
    let answer = ask(group, node, RUNTIME_INFO, &json!({}), b"");
    let info: KvTable = fastjson::parse(&answer.body).unwrap();
    info.table["msgGetTotalTodayNow"].parse().unwrap()
}

/// How many messages the leader gives while a follower gives [`SOME`].
fn given_by_leader(group: &Group, leader: u64, follower: u64) -> u64 {
    let before = (given(group, leader), given(group, follower));
    wait_until("the follower to give messages", || given(group, follower) >= before.1 + SOME);
    given(group, leader) - before.0
}

#[test]
fn a_group_may_read_from_a_follower_and_loses_nothing_when_it_dies() {
    let _alone = alone();
    let mut group = group(&[]);
    let leader = group.wait_all_caught_up(LONG).unwrap().node_id;
    let follower = raftmq_cluster_tests::harness::NODE_IDS.into_iter().find(|id| *id != leader).unwrap();
    let settings = json!({
        "groupName": "followers", "consumeEnable": true, "consumeFromMinEnable": true, "consumeBroadcastEnable": true,
        "retryQueueNums": 1, "retryMaxTimes": 16, "brokerId": follower, "whichBrokerWhenConsumeSlowly": 1,
    });
    ask(&group, leader, UPDATE_SUBSCRIPTION_GROUP, &json!({}), settings.to_string().as_bytes());
    let options = load_options(&group, 61);
    workload::prepare(&options).unwrap();
    let log = Deliveries::default();
    let members = members(2, &MemberOptions::new(group.name_servers(), &options.topic, "followers"), &log);
    let workload = load(&options);
    // The leader gives each queue's first messages, and those that the follower did not have yet when it was asked first.
    wait_until("the follower alone to be read from", || given_by_leader(&group, leader, follower) == 0);
    assert_eq!(given_by_leader(&group, leader, follower), 0, "the leader goes on giving messages");
    group.kill(follower).unwrap();
    workload.wait_for_acks(SOME, LONG).unwrap();
    group.start_node(follower).unwrap();
    let history = end(workload);
    check(&history, &log, members, Consumption { disturbances: 1, in_order: false });
}
