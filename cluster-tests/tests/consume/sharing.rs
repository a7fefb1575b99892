//! Members of a group that share a topic.

use super::*;

#[test]
fn nothing_is_lost_or_twice_while_nothing_happens_nor_when_all_stop_and_start_again() {
    let _alone = alone();
    let group = group(&[]);
    let options = load_options(&group, 21);
    workload::prepare(&options).unwrap();
    let of_group = MemberOptions::new(group.name_servers(), &options.topic, "steady");
    // The second time over nothing of the first may come: it would count as never sent.
    for run in [21, 24] {
        let log = Deliveries::default();
        let members = members(2, &of_group, &log);
        let history = end(load(&WorkloadOptions { run, ..options.clone() }));
        check(&history, &log, members, Consumption { disturbances: 0, in_order: false });
        let shares = count(log.all().iter().map(|delivery| delivery.member));
        assert_eq!(shares.len(), 2, "{shares:?}");
    }
}

#[test]
fn nothing_is_lost_when_the_leader_and_a_member_die_and_offsets_outlive_them() {
    let _alone = alone();
    let mut group = group(&[]);
    let options = load_options(&group, 22);
    workload::prepare(&options).unwrap();
    let log = Deliveries::default();
    let of_group = MemberOptions::new(group.name_servers(), &options.topic, "deaths");
    let mut members = members(2, &of_group, &log);
    let workload = load(&options);
    kill_leader(&mut group, &workload);
    members.remove(0).crash();
    let history = end(workload);
    check(&history, &log, members, Consumption { disturbances: 2, in_order: false });

    // What was committed by those who left is there under the next leader.
    let next = WorkloadOptions { run: 23, ..options };
    let workload = Workload::start(next).unwrap();
    kill_leader(&mut group, &workload);
    let log = Deliveries::default();
    let member = Member::start(3, &of_group, &log).unwrap();
    let history = end(workload);
    check(&history, &log, vec![member], Consumption { disturbances: 1, in_order: false });
}
