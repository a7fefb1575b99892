//! A disk without room: what would be stored is refused by name, the rest goes on.

use raftmq_testkit::ToldDisk;

use super::*;

async fn until(is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "it does not come to be");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sends_are_refused_reads_go_on_and_all_is_well_when_there_is_room() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), ToldDisk::default());
    let members = [Member { id: 1, raft: free_address().to_string() }];
    let (group, state, views) = start_member_in(disk.world(), 1, &members, dir.path()).await;
    let config = broker_config(&group);
    let broker = start(config, group.clone(), state.clone(), views, process(Limits::default())).unwrap();
    until(|| broker.node.leading().is_ok() && state.topics.has("C1_REPLY_TOPIC")).await;
    let mut client = Client::connect(broker.address).await;
    client.ok(send("T", "before")).await;
    client.ok(pull("T", 0, 5000, "*")).await;

    disk.set_free(0);
    until(|| group.room().is_err()).await;
    let new_topic = send("another", "x");
    let group_settings = put_group(&SubscriptionGroupConfig { group_name: "H".into(), ..Default::default() });
    for request in [send("T", "refused"), new_topic, group_settings] {
        let code = request.code;
        let answer = client.call(request).await;
        assert_eq!(answer.code, response::SERVICE_NOT_AVAILABLE, "{code}");
        let remark = answer.remark.unwrap();
        assert!(
            remark.contains("the broker's disk is full") && remark.contains("0 bytes are free"),
            "{remark}"
        );
    }
    let answer = client.ok(pull("T", 0, 5000, "*")).await;
    assert_eq!(bodies(&answer.body), [b"before"]);
    assert!(broker.node.leading().is_ok());

    disk.set_free(1 << 40);
    until(|| group.room().is_ok()).await;
    client.ok(send("T", "after")).await;
    let answer = client.ok(pull("T", 1, 5000, "*")).await;
    assert_eq!(bodies(&answer.body), [b"after"]);
    broker.shutdown().await;
    group.shutdown().await;
}
