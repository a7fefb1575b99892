//! Messages that are delivered later: each once, and none too early, although leaders die.

use raftmq_cluster_tests::readback::{Delayed, read_arrivals};

use super::*;

#[test]
fn delayed_messages_come_once_each_although_leaders_die() {
    let _alone = alone();
    let mut group = group(&["--message-delay-level", "1s 2s"]);
    let kinds = [
        ("ByLevel", "DELAY\u{1}1\u{2}", 51, 1000),
        ("BySecondLevel", "DELAY\u{1}2\u{2}", 52, 2000),
        ("ByTime", "TIMER_DELAY_MS\u{1}700\u{2}", 53, 700),
    ];
    let start = |(topic, properties, run, delay_ms): &(&str, &str, u64, u64)| {
        let options = WorkloadOptions {
            topic: (*topic).to_owned(),
            properties: (*properties).to_owned(),
            connections: 2,
            ..load_options(&group, *run)
        };
        (load(&options), Duration::from_millis(*delay_ms))
    };
    let workloads: Vec<_> = kinds.iter().map(start).collect();
    kill_leader(&mut group, &workloads[0].0);
    let ended = workloads.into_iter().map(|(workload, delay)| {
        let options = workload.options().clone();
        Delayed { options, delay, history: end(workload) }
    });
    let ended: Vec<_> = ended.collect();
    for (delayed, (verdict, lateness)) in ended.iter().zip(read_arrivals(&ended, LONG).unwrap()) {
        let topic = &delayed.options.topic;
        assert!(verdict.holds(), "{topic}: {verdict}");
        assert!(verdict.read > 0);
        println!("{topic}: {verdict}, {lateness:?}");
    }
}

#[test]
fn a_message_that_is_due_already_comes_at_once_and_one_too_far_off_is_refused() {
    let _alone = alone();
    let group = group(&[]);
    make_topic(&group, "Due");
    let hands = Hands::new(&group);
    let past = Message::new("Due", "past").with_deliver_time_ms(1);
    let queue = MessageQueue { topic: "Due".to_owned(), broker_name: BROKER_NAME.to_owned(), queue_id: 0 };
    hands.runtime.block_on(hands.producer.send_to(&past, &queue)).unwrap();
    wait_until("the message", || hands.read("Due", 0).len() == 1);
    let far = Message::new("Due", "far").with_delay_time_ms(4 * 24 * 3600 * 1000);
    let error = hands.runtime.block_on(hands.producer.send_to(&far, &queue)).unwrap_err();
    assert!(error.to_string().contains("259200000"), "{error}");
    settle();
    assert_eq!(hands.read("Due", 0).len(), 1, "the message that was due came again");
}
