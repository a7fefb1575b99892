//! Each queue's messages one after the other, by one member at a time.

use super::*;

fn orderly(group: &Group, topic: &str, name: &str) -> MemberOptions {
    // Long enough for two at once to be seen.
    let work = Duration::from_micros(500);
    MemberOptions { in_order: true, work, ..MemberOptions::new(group.name_servers(), topic, name) }
}

#[test]
fn the_order_is_kept_when_the_leader_dies_and_members_come_and_go() {
    let _alone = alone();
    let mut group = group(&[]);
    let options = load_options(&group, 31);
    workload::prepare(&options).unwrap();
    let log = Deliveries::default();
    let in_order = orderly(&group, &options.topic, "in-order");
    let mut members = members(2, &in_order, &log);
    let workload = load(&options);
    kill_leader(&mut group, &workload);
    members.remove(0).leave();
    workload.wait_for_acks(SOME, LONG).unwrap();
    members.push(Member::start(3, &in_order, &log).unwrap());
    let third = members.last().unwrap();
    wait_until("the third member to get queues", || !third.queues(&options.topic).is_empty());
    let history = end(workload);
    // The leader's death, a member that left and one that came.
    check(&history, &log, members, Consumption { disturbances: 3, in_order: true });
    let at_work = count(log.all().iter().map(|delivery| delivery.member));
    assert_eq!(at_work.len(), 3, "{at_work:?}");
}

#[test]
fn a_queue_waits_for_a_message_that_is_not_consumed() {
    let _alone = alone();
    let group = group(&[]);
    let options = load_options(&group, 32);
    workload::prepare(&options).unwrap();
    let log = Deliveries::default();
    let mut in_order = orderly(&group, &options.topic, "suspended");
    in_order.config.suspend_current_queue_time = Duration::from_millis(10);
    // Every 50th message of a queue is consumed at its third try.
    in_order.judge =
        std::sync::Arc::new(|message| message.queue_offset % 50 != 7 || message.reconsume_times >= 2);
    let members = members(2, &in_order, &log);
    let history = end(load(&options));
    check(&history, &log, members, Consumption { disturbances: 0, in_order: true });
    let tries = count(log.all().iter().map(|delivery| (delivery.queue, delivery.queue_offset)));
    for ((queue, offset), times) in tries {
        let wanted = if offset % 50 == 7 { 3 } else { 1 };
        assert_eq!(times, wanted, "offset {offset} of queue {queue}");
    }
}
