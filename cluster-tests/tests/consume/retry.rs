//! Messages that are not consumed, and what becomes of them in the end.

use std::sync::Arc;

use super::*;

/// The first retry comes after the third of them.
const SHORT_LEVELS: [&str; 2] = ["--message-delay-level", "1s 1s 1s 1s 1s 1s 1s 1s"];

/// What a listener saw of a message.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    message_id: Option<String>,
    reconsume_times: i32,
    origin: Option<String>,
    topic: String,
}

fn property(message: &MessageExt, name: &str) -> Option<String> {
    message.property(name).map(str::to_owned)
}

#[test]
fn a_message_is_tried_as_often_as_said_and_then_kept_with_where_it_came_from() {
    const MESSAGES: usize = 20;
    let _alone = alone();
    let group = group(&SHORT_LEVELS);
    make_topic(&group, "Hopeless");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut options = MemberOptions::new(group.name_servers(), "Hopeless", "hopeless");
    options.config.max_reconsume_times = Some(2);
    options.judge = Arc::new({
        let seen = seen.clone();
        move |message| {
            seen.lock().unwrap().push(Seen {
                message_id: message.message_id.clone(),
                reconsume_times: message.reconsume_times,
                origin: property(message, "ORIGIN_MESSAGE_ID"),
                topic: message.topic.clone(),
            });
            false
        }
    });
    let members = members(2, &options, &Deliveries::default());
    let hands = Hands::new(&group);
    let sent: Vec<_> = (0..MESSAGES)
        .map(|n| hands.send(&Message::new("Hopeless", format!("{n}")).with_keys(&n.to_string())))
        .collect();
    wait_until("all messages to be given up", || hands.read("%DLQ%hopeless", 0).len() >= MESSAGES);
    settle();
    members.into_iter().for_each(Member::leave);

    let dead = hands.read("%DLQ%hopeless", 0);
    let origins = count(dead.iter().filter_map(|message| property(message, "ORIGIN_MESSAGE_ID")));
    assert_eq!(origins, count(sent.iter().cloned()), "each once, by the id it got first");
    for message in &dead {
        assert_eq!(property(message, "RETRY_TOPIC").as_deref(), Some("Hopeless"));
        assert_eq!(message.reconsume_times, 3);
        assert_eq!(property(message, "KEYS").unwrap().as_bytes(), &message.body[..]);
    }
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 3 * MESSAGES, "{seen:?}");
    let tries = count(seen.iter().map(|seen| (seen.message_id.clone(), seen.reconsume_times)));
    assert!(tries.len() == seen.len() && tries.keys().all(|(_, times)| (0..3).contains(times)), "{tries:?}");
    for seen in seen.iter() {
        assert_eq!(seen.topic, "Hopeless", "listeners see the topic it was sent to");
        assert_eq!(seen.origin.is_some(), seen.reconsume_times > 0);
        assert!(seen.origin.iter().all(|origin| sent.contains(origin)));
    }
}

#[test]
fn what_is_returned_comes_again_although_the_leader_dies() {
    let _alone = alone();
    let mut group = group(&SHORT_LEVELS);
    let options = load_options(&group, 41);
    workload::prepare(&options).unwrap();
    let log = Deliveries::default();
    let mut of_group = MemberOptions::new(group.name_servers(), &options.topic, "second-try");
    of_group.judge = Arc::new(|message| message.reconsume_times > 0 || message.queue_offset % 10 != 0);
    let members = members(2, &of_group, &log);
    let workload = load(&options);
    kill_leader(&mut group, &workload);
    let history = end(workload);

    let acknowledged = |stamp: &raftmq_checks::body::Stamp| {
        let sent = &history.lanes[stamp.lane as usize].messages[stamp.sequence as usize];
        sent.ack.is_some()
    };
    let missing = |deliveries: &[raftmq_checks::deliveries::Delivery]| {
        let consumed =
            deliveries.iter().filter(|delivery| delivery.consumed).filter_map(|delivery| delivery.stamp);
        let consumed = count(consumed.filter(acknowledged).map(|stamp| (stamp.lane, stamp.sequence)));
        history.acknowledged() as usize - consumed.len()
    };
    wait_until("everything to be consumed", || missing(&log.all()) == 0);
    members.into_iter().for_each(Member::leave);
    assert!(
        log.all().iter().any(|delivery| delivery.is_retry && delivery.consumed),
        "nothing was tried again"
    );
    assert!(log.all().iter().all(|delivery| delivery.stamp.is_some_and(|stamp| stamp.run == 41)));
}
