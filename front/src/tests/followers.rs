//! Reads from followers, over a real group of three members with a broker each.

use super::trio::Trio;
use super::*;
use crate::requests::{Handler, Otherwise, REQUESTS, ServedBy};

/// What the group that reads from a follower is called.
const GROUP: &str = "readers";

fn read(topic: &str, offset: i64, hold_ms: i64) -> Command {
    let mut pull = pull(topic, offset, hold_ms, "*");
    pull.ext.set("consumerGroup", GROUP);
    pull
}

fn suggested(answer: &Command) -> i64 {
    PullResponse::decode(answer).unwrap().suggest_which_broker_id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_may_read_from_the_follower_it_prefers() {
    let trio = Trio::start().await;
    let leader = trio.leader().await;
    let follower = (leader + 1) % 3;
    let id = |at: usize| at as i64 + 1;
    let mut client = trio.client(leader).await;
    client.ok(send("T", "zero")).await;
    trio.until(|trio| trio.members[leader].1.is_near(id(follower) as u64)).await;
    for (preferred, suggestion) in [(0, 0), (id(leader), 0), (77, 0), (id(follower), id(follower))] {
        client.ok(put_reading_group(GROUP, preferred)).await;
        let answer = client.ok(read("T", 0, 5000)).await;
        assert_eq!(suggested(&answer), suggestion, "{preferred}");
    }
    trio.until(|trio| {
        let store = trio.members[follower].1.store();
        store.queue("T", 0).is_some_and(|queue| queue.max_offset() == 1)
    })
    .await;
    let known = |broker: &Front| broker.state().groups.get(GROUP).is_some_and(|g| g.broker_id != 0);
    trio.until(|trio| trio.members.iter().all(|(broker, _)| known(broker))).await;

    // The follower has the message, holds what there is nothing for, and takes no offset.
    let mut reader = trio.client(follower).await;
    let mut committing = read("T", 0, 0);
    committing.ext.set("sysFlag", "5").set("commitOffset", "1");
    let answer = reader.ok(committing).await;
    assert_eq!((bodies(&answer.body), suggested(&answer)), (vec![b"zero".to_vec()], id(follower)));
    let held = |at: usize| move |trio: &Trio| trio.members[at].0.stats().held_pulls == 2;
    // One of them is ahead of the follower, as if that lagged.
    reader.write([read("T", 1, 20_000), read("T", 2, 20_000)]).await;
    trio.until(held(follower)).await;
    client.ok(send("T", "one")).await;
    assert_eq!(bodies(&reader.answer().await.body), [b"one"]);
    client.ok(send("T", "two")).await;
    assert_eq!(bodies(&reader.answer().await.body), [b"two"]);
    assert_eq!(trio.members[leader].0.state().offsets.get(GROUP, "T", 0), None);

    // Offsets outside of what it has are left as they are, for the leader to correct.
    let other = Command::request(request::GET_ALL_TOPIC_CONFIG, Ext::new());
    reader.write([read("T", -1, 20_000), other]).await;
    let (first, second) = (reader.answer().await, reader.answer().await);
    assert!(first.opaque > second.opaque, "nobody asks in circles while there is no leader");
    assert_eq!(second.code, 20);
    for offset in [-1, 1000] {
        let answer = reader.call(read("T", offset, 0)).await;
        let next = PullResponse::decode(&answer).unwrap().next_begin_offset;
        assert_eq!((answer.code, next, suggested(&answer)), (20, offset, 0));
        let answer = client.call(read("T", offset, 0)).await;
        assert_eq!(answer.code, response::PULL_OFFSET_MOVED);
    }
    let answer = reader.call(pull("T", 0, 0, "*")).await;
    assert_eq!(answer.code, response::SERVICE_NOT_AVAILABLE, "other groups read from the leader");
    trio.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pulls_that_followers_hold_outlive_the_leader() {
    let trio = Trio::start().await;
    let leader = trio.leader().await;
    let mut client = trio.client(leader).await;
    client.ok(send("T", "zero")).await;
    client.ok(put_reading_group(GROUP, 1)).await;
    // Two pulls are held by each member; who leads holds one of another group as well.
    let known = |(broker, group): &(Front, Group)| {
        broker.state().groups.has(GROUP)
            && group.store().queue("T", 0).is_some_and(|queue| queue.max_offset() == 1)
    };
    trio.until(|trio| trio.members.iter().all(known)).await;
    let mut readers = Vec::new();
    for at in 0..3 {
        let mut reader = trio.client(at).await;
        reader.write([read("T", 1, 20_000), read("T", 1, 20_000)]).await;
        readers.push(reader);
    }
    client.write([pull("T", 1, 20_000, "*")]).await;
    let held = |trio: &Trio, at: usize| trio.members[at].0.stats().held_pulls;
    trio.until(|trio| (0..3).all(|at| held(trio, at) == 2 + usize::from(at == leader))).await;

    let (broker, group) = &trio.members[leader];
    broker.shutdown().await;
    group.shutdown().await;
    assert_eq!(client.answer().await.code, response::SERVICE_NOT_AVAILABLE);
    for _ in 0..2 {
        assert_eq!(readers[leader].answer().await.code, response::SERVICE_NOT_AVAILABLE);
    }
    let next = |trio: &Trio| {
        let mut others = (0..3).filter(|at| *at != leader);
        others.find(|at| trio.members[*at].0.node.leading().is_ok())
    };
    trio.until(|trio| next(trio).is_some()).await;
    let mut client = trio.client(next(&trio).unwrap()).await;
    client.ok(send("T", "one")).await;
    for at in (0..3).filter(|at| *at != leader) {
        for _ in 0..2 {
            assert_eq!(bodies(&readers[at].answer().await.body), [b"one"]);
        }
    }
    trio.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preferred_follower_that_is_gone_is_not_suggested() {
    let trio = Trio::start().await;
    let leader = trio.leader().await;
    let follower = (leader + 1) % 3;
    let preferred = follower as i64 + 1;
    let mut client = trio.client(leader).await;
    client.ok(send("T", "zero")).await;
    client.ok(put_reading_group(GROUP, preferred)).await;
    trio.until(|trio| trio.members[leader].1.is_near(preferred as u64)).await;
    assert_eq!(suggested(&client.ok(read("T", 0, 5000)).await), preferred);
    let (broker, group) = &trio.members[follower];
    broker.shutdown().await;
    group.shutdown().await;
    trio.until(|trio| !trio.members[leader].1.is_near(preferred as u64)).await;
    assert_eq!(suggested(&client.ok(read("T", 0, 0)).await), 0);
    trio.stop().await;
}

/// For every row of the table of requests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_refuses_what_only_a_leader_serves_and_names_it() {
    let trio = Trio::start().await;
    let follower = (trio.leader().await + 1) % 3;
    let mut client = trio.client(follower).await;
    for row in REQUESTS {
        if matches!(row.handler, Handler::Not(_)) || row.served_by == ServedBy::Reader {
            continue;
        }
        client.write([Command::request(row.code, Ext::new())]).await;
        let answer = client.answer().await;
        let remark = answer.remark.unwrap_or_default();
        let is_refused =
            answer.code == response::SERVICE_NOT_AVAILABLE && remark.contains("the leader is node");
        let only_leader = row.served_by == ServedBy::Leader && row.otherwise == Otherwise::Refuse;
        assert_eq!(is_refused, only_leader, "{}: {} {remark}", row.name(), answer.code);
    }
    trio.stop().await;
}
