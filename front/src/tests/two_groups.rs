//! Two groups that one process serves.

use super::*;

/// One of them: a member that leads, served with what the process has.
async fn serve(name: &str, process: &Arc<Process>, dir: &Path) -> (Front, Group) {
    let member = Member { id: 1, raft: free_address().to_string() };
    let (group, state, views) = start_member(1, &[member], &dir.join(name)).await;
    let config = BrokerConfig { broker_name: name.into(), ..broker_config(&group) };
    let front = crate::start(config, group.clone(), state, views, process.clone()).unwrap();
    let start = Instant::now();
    while front.node.leading().is_err() || !front.state().topics.has("C1_REPLY_TOPIC") {
        assert!(start.elapsed() < PATIENCE, "it does not lead");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (front, group)
}

/// A consumer has a connection to each; it is one member of each group of consumers, and no stranger with its id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_share_the_process_and_nothing_else() {
    let (dir, process) =
        (tempfile::tempdir().unwrap(), process(Limits { connections: 2, ..Limits::default() }));
    let (a, group_a) = serve("a", &process, dir.path()).await;
    let (b, group_b) = serve("b", &process, dir.path()).await;
    let (mut at_a, mut at_b) = (Client::connect(a.address).await, Client::connect(b.address).await);
    for client in [&mut at_a, &mut at_b] {
        assert_eq!(client.code(heartbeat("c", consumer("G", &[("T", "*", 1)]))).await, response::SUCCESS);
    }
    for body in ["in b", "in b as well"] {
        assert_eq!(at_b.code(send("T", body)).await, response::SUCCESS);
    }
    assert_eq!(at_a.code(send("T", "in a")).await, response::SUCCESS);
    for (client, messages) in [(&mut at_a, 1), (&mut at_b, 2)] {
        assert_eq!(client.queue_number(request::GET_MAX_OFFSET, "T", "offset").await, messages);
        assert_eq!(groups::held(&client.ok(groups::lock(request::LOCK_BATCH_MQ, "c")).await), 1);
    }
    for front in [&a, &b] {
        let stats = front.stats();
        assert_eq!((stats.connections, stats.consumer_groups), (1, 1));
    }
    let third = Client::connect(b.address).await.read().await;
    assert!(third.is_none(), "there are two places, and each of the groups has taken one");
    // One that stops leaves the other as it is, with its connections.
    a.shutdown().await;
    group_a.shutdown().await;
    assert_eq!(at_b.queue_number(request::GET_MAX_OFFSET, "T", "offset").await, 2);
    Client::connect(b.address).await.ok(send("T", "in the place that is free again")).await;
    b.shutdown().await;
    group_b.shutdown().await;
}
