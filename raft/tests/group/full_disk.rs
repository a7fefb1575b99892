//! Disks that fill: who refuses, who goes on, and that all is well when there is room.

use super::*;

/// What is kept free of each disk.
const RESERVE: u64 = 1 << 20;
/// Enough for what others have stored, not for what comes.
const LITTLE: u64 = RESERVE - 1;

/// Three members, each with a disk of its own.
async fn start_on_disks(dir: &Path) -> (Vec<Running>, Vec<ToldDisk>) {
    let members = members();
    let disks: Vec<_> = members.iter().map(|_| ToldDisk::default()).collect();
    let mut groups = Vec::new();
    for (member, disk) in members.iter().zip(&disks) {
        let config = GroupConfig { disk_reserve_bytes: RESERVE, ..group_config(member.id, &members, dir) };
        groups.push(try_start(config, 1, disk.world()).await.unwrap());
    }
    (groups, disks)
}

fn at(node: u64) -> usize {
    node as usize - 1
}

/// What a batch is told that a leader may not take.
async fn refusal(leader: &Group) -> String {
    let (batch, told) = batch(0, &bodies("refused", 1));
    leader.submit(batch);
    match timeout(PATIENCE, told).await.unwrap().unwrap() {
        Err(ProposeError::NoRoom(words)) => words,
        other => panic!("{other:?}"),
    }
}

/// Waits until a member has noticed that its disk is full.
async fn is_full(member: &Running) {
    eventually("a full disk", || member.store().room().is_err()).await;
}

/// Waits until members have every message.
async fn have(groups: &[Running], expected: &[String]) {
    for group in groups {
        eventually("a member with every message", || read_all(group, 0).len() == expected.len()).await;
        assert_eq!(read_all(group, 0), expected);
        assert_eq!(group.status().stopped, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_full_follower_stalls_nobody_and_two_have_the_leader_refuse() {
    let dir = tempfile::tempdir().unwrap();
    let (groups, disks) = start_on_disks(dir.path()).await;
    let leader = leader(&groups).await;
    let term = leader.status().term;
    let mut expected = bodies("all", 10);
    send(&leader, 0, &expected).await;
    have(&groups, &expected).await;
    let own = leader.status().node_id;
    let others: Vec<u64> = (1..=3).filter(|id| *id != own).collect();
    let (first, second) = (&groups[at(others[0])], &groups[at(others[1])]);

    // One of three: the others are a majority, and it stays a member.
    disks[at(others[0])].set_free(0);
    is_full(first).await;
    let before = first.status().last_index;
    for n in 0..3 {
        let more = bodies(&format!("two-{n}"), 100);
        send(&leader, 0, &more).await;
        expected.extend(more);
        // Longer than entries wait for room: they are refused, and sent again.
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    assert!(leader.status().last_index > before);
    assert_eq!((first.status().last_index, first.status().leader_id), (before, Some(own)));

    // Two of three.
    disks[at(others[1])].set_free(0);
    is_full(second).await;
    eventually("a refusal", || leader.room().is_err()).await;
    let words = refusal(&leader).await;
    assert!(words.contains(&format!("nodes {}, {}", others[0], others[1])), "{words}");
    let change = leader.propose(Plain::change(&SumCommand::Add(1))).await;
    assert!(matches!(change, Err(ProposeError::NoRoom(_))), "{change:?}");
    assert_eq!(read_all(&leader, 0), expected, "reads go on");
    disks[at(others[1])].set_free(1 << 40);
    eventually("room", || leader.room().is_ok()).await;
    let more = bodies("again", 10);
    send(&leader, 0, &more).await;
    expected.extend(more);

    disks[at(others[0])].set_free(1 << 40);
    have(&groups, &expected).await;
    assert!(groups.iter().all(|group| group.status().term == term), "nobody stood");
    stop_all(&groups).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_is_full_refuses_by_name_and_answers() {
    let dir = tempfile::tempdir().unwrap();
    let (groups, disks) = start_on_disks(dir.path()).await;
    let leader = leader(&groups).await;
    let mut expected = bodies("all", 10);
    send(&leader, 0, &expected).await;
    let own = leader.status().node_id;
    disks[at(own)].set_free(0);
    is_full(&leader).await;
    let words = refusal(&leader).await;
    assert!(words.contains("0 bytes are free"), "{words}");
    assert!(leader.propose(Plain::change(&SumCommand::Add(1))).await.is_err());
    have(&groups, &expected).await;
    assert!(leader.role().ready, "reads go on");
    disks[at(own)].set_free(1 << 40);
    eventually("room", || leader.room().is_ok()).await;
    send(&leader, 0, &bodies("last", 1)).await;
    expected.extend(bodies("last", 1));
    have(&groups, &expected).await;
    stop_all(&groups).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_majority_has_stored_is_taken_with_little_room() {
    let dir = tempfile::tempdir().unwrap();
    let (groups, disks) = start_on_disks(dir.path()).await;
    let leader = leader(&groups).await;
    let own = leader.status().node_id;
    let follower = groups.iter().find(|group| group.status().node_id != own).unwrap();
    disks[at(follower.status().node_id)].set_free(LITTLE);
    is_full(follower).await;
    let expected = bodies("stored", 100);
    send(&leader, 0, &expected).await;
    have(&groups, &expected).await;
    assert!(follower.store().room().is_err());
    // All of what it has: an entry needs a place in the log.
    let mut all = expected;
    while follower.store().has_room_for(64 << 10) {
        let more = bodies("more", 50);
        send(&leader, 0, &more).await;
        all.extend(more);
        eventually("a step", || {
            follower.status().last_index == leader.status().last_index
                || !follower.store().has_room_for(64 << 10)
        })
        .await;
    }
    disks[at(follower.status().node_id)].set_free(1 << 40);
    have(&groups, &all).await;
    stop_all(&groups).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_whose_disks_are_all_full_elects() {
    let dir = tempfile::tempdir().unwrap();
    let (mut groups, disks) = start_on_disks(dir.path()).await;
    let first = leader(&groups).await;
    let mut expected = bodies("first", 10);
    send(&first, 0, &expected).await;
    have(&groups, &expected).await;
    disks.iter().for_each(|disk| disk.set_free(0));
    for group in &groups {
        is_full(group).await;
    }
    first.shutdown().await;
    let gone = first.status().node_id;
    groups.retain(|group| group.status().node_id != gone);
    let second = leader(&groups).await;
    assert!(refusal(&second).await.contains("0 bytes are free"));
    assert_eq!(read_all(&second, 0), expected);
    disks.iter().for_each(|disk| disk.set_free(1 << 40));
    eventually("room", || second.room().is_ok()).await;
    send(&second, 0, &bodies("second", 1)).await;
    expected.extend(bodies("second", 1));
    have(&groups, &expected).await;
    stop_all(&groups).await;
}
