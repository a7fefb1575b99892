//! Elections, sends, failover, restarts.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_survive_a_change_of_leader_and_a_restart_of_all() {
    let dir = tempfile::tempdir().unwrap();
    let members = members();
    let mut groups = start_all(&members, dir.path()).await;
    let first = leader(&groups).await;
    let outcomes = first.propose(Plain::change(&SumCommand::Add(4))).await.unwrap();
    assert_eq!(outcomes.first::<Plain>(), Some(4));
    let mut expected = Vec::new();
    for round in 0..20 {
        let bodies = bodies(&format!("first{round}"), 100);
        let positions = send(&first, 0, &bodies).await;
        assert_eq!(positions.len(), 100);
        assert_eq!(positions[0].queue_offset, expected.len() as u64);
        expected.extend(bodies);
    }

    // The leader goes; the others elect one of them and go on.
    let gone = first.status().node_id;
    first.shutdown().await;
    assert!(is_not_taken(&first, batch(0, &bodies("late", 1))).await);
    groups.retain(|g| g.status().node_id != gone);
    let second = leader(&groups).await;
    assert_ne!(second.status().node_id, gone);
    let more = bodies("second", 50);
    send(&second, 0, &more).await;
    expected.extend(more);

    // It comes back and catches up.
    groups.push(start(gone, &members, dir.path()).await);
    for group in &groups {
        eventually("a member with every message", || read_all(group, 0).len() == expected.len()).await;
        assert_eq!(read_all(group, 0), expected);
        assert_eq!(group.plain.get(), 4);
    }

    // All stop and start again.
    stop_all(&groups).await;
    let again = start_all(&members, dir.path()).await;
    let third = leader(&again).await;
    let positions = send(&third, 0, &bodies("third", 1)).await;
    assert_eq!(positions[0].queue_offset, expected.len() as u64);
    expected.extend(bodies("third", 1));
    eventually("the last message", || read_all(&third, 0).len() == expected.len()).await;
    assert_eq!(read_all(&third, 0), expected);
    assert_eq!(third.plain.get(), 4);
    for group in &again {
        group.shutdown().await;
        assert_eq!(group.status().role, Role::Stopped);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over() {
    let dir = tempfile::tempdir().unwrap();
    let members = members();
    let groups = start_all(&members, dir.path()).await;
    let first = leader(&groups).await;
    send(&first, 0, &bodies("a", 10)).await;
    let own = first.status().node_id;
    first.transfer_leadership().await;
    let others: Vec<Running> = groups.iter().filter(|g| g.status().node_id != own).cloned().collect();
    let second = leader(&others).await;
    let positions = send(&second, 0, &bodies("b", 1)).await;
    assert_eq!(positions[0].queue_offset, 10);
    stop_all(&groups).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_and_the_change_with_them_are_one_entry() {
    let dir = tempfile::tempdir().unwrap();
    let members = members();
    let mut groups = start_all(&members, dir.path()).await;
    let mut expected = Vec::new();
    let mut next = 0;
    for round in 0..3 {
        let leader = leader(&groups).await;
        assert_eq!(leader.steps.get(), next);
        // Messages without a change around it, so that they could be joined.
        let plain = [bodies("before", 3), bodies("after", 3)];
        let due = bodies(&format!("due{round}"), 100);
        let (mut with_change, outcome) = batch(0, &due);
        with_change.change = Some(Steps::change(&SumCommand::Add(100)));
        let term = leader.watch_role().borrow().term;
        let mut stale = batch(0, &due);
        stale.0.term = Some(term - 1);
        assert!(is_not_taken(&leader, stale).await);
        with_change.term = Some(term);
        let (before, told_before) = batch(1, &plain[0]);
        let (after, told_after) = batch(1, &plain[1]);
        for batch in [before, with_change, after] {
            leader.submit(batch);
        }
        let positions = timeout(PATIENCE, outcome).await.unwrap().unwrap().unwrap();
        // Told when it is applied, not only committed.
        next += 100;
        assert_eq!(leader.steps.get(), next);
        assert_eq!((positions.len(), positions[0].queue_offset), (100, expected.len() as u64));
        for told in [told_before, told_after] {
            assert_eq!(timeout(PATIENCE, told).await.unwrap().unwrap().unwrap().len(), 3);
        }
        expected.extend(due);

        let gone = leader.status().node_id;
        leader.shutdown().await;
        groups.retain(|g| g.status().node_id != gone);
        groups.push(start(gone, &members, dir.path()).await);
    }
    for group in &groups {
        eventually("a member with every message", || read_all(group, 0).len() == expected.len()).await;
        assert_eq!(read_all(group, 0), expected);
        eventually("the progress", || group.steps.get() == next).await;
    }
    stop_all(&groups).await;

    // Refused messages take their change with them.
    let again = start_all(&members, dir.path()).await;
    let leader = leader(&again).await;
    let (mut refused, outcome) = batch(raftmq_store::QUEUE_ID_MAX as i32 + 1, &bodies("a", 1));
    refused.change = Some(Steps::change(&SumCommand::Add(1)));
    let alone = refused.change.clone().unwrap();
    assert!(matches!(leader.propose(alone).await, Err(ProposeError::Refused(_))), "messages go with it");
    refused.term = Some(leader.watch_role().borrow().term);
    leader.submit(refused);
    assert!(matches!(timeout(PATIENCE, outcome).await.unwrap().unwrap(), Err(ProposeError::Refused(_))));
    assert_eq!(leader.steps.get(), next);
    stop_all(&again).await;
}

#[tokio::test]
async fn a_configuration_that_contradicts_the_group_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let members = vec![Member { id: 1, raft: free_address().to_string() }];
    let group = start(1, &members, dir.path()).await;
    leader(std::slice::from_ref(&group)).await;
    assert!(
        matches!(
            try_start(group_config(1, &members, dir.path()), 1, World::system()).await,
            Err(StartError::Store(_))
        ),
        "the directory is in use"
    );
    group.shutdown().await;
    drop(group);

    let mut other = group_config(1, &members, dir.path());
    other.segment_bytes *= 2;
    assert!(matches!(try_start(other, 1, World::system()).await, Err(StartError::Store(_))));
    let mut other = group_config(1, &members, dir.path());
    other.cluster = "another".into();
    assert!(matches!(try_start(other, 1, World::system()).await, Err(StartError::Store(_))));
    let absent = try_start(group_config(2, &members, dir.path()), 1, World::system()).await;
    assert!(matches!(absent, Err(StartError::Config(_))), "not a member");
}

#[tokio::test]
async fn messages_that_the_log_refuses_are_answered_and_the_member_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let members = vec![Member { id: 1, raft: free_address().to_string() }];
    let group = start(1, &members, dir.path()).await;
    leader(std::slice::from_ref(&group)).await;
    let no_such_queue = raftmq_store::QUEUE_ID_MAX as i32 + 1;
    let (refused, outcome) = batch(no_such_queue, &bodies("a", 1));
    group.submit(refused);
    let outcome = timeout(PATIENCE, outcome).await.unwrap().unwrap();
    assert!(matches!(outcome, Err(ProposeError::Refused(_))), "{outcome:?}");
    let positions = send(&group, 0, &bodies("b", 2)).await;
    assert_eq!(positions[0].queue_offset, 0);
    group.shutdown().await;
    let again = start(1, &members, dir.path()).await;
    leader(std::slice::from_ref(&again)).await;
    assert_eq!(send(&again, 0, &bodies("c", 1)).await[0].queue_offset, 2);
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_a_majority_does_not_serve_until_it_has_one() {
    let dir = tempfile::tempdir().unwrap();
    let members = members();
    let groups = start_all(&members, dir.path()).await;
    let first = leader(&groups).await;
    send(&first, 0, &bodies("a", 1)).await;
    let own = first.status().node_id;
    for group in groups.iter().filter(|g| g.status().node_id != own) {
        group.shutdown().await;
    }
    let (open, outcome) = batch(0, &bodies("open", 1));
    first.submit(open);
    eventually("a leader that no longer serves", || !first.status().ready).await;
    assert!(is_not_taken(&first, batch(0, &bodies("late", 1))).await);

    let other = members.iter().map(|m| m.id).find(|id| *id != own).unwrap();
    let back = start(other, &members, dir.path()).await;
    let pair = [first.clone(), back];
    let next = leader(&pair).await;
    let positions = send(&next, 0, &bodies("b", 1)).await;
    // What was on its way when the majority went is answered, one way or the other.
    let outcome = timeout(PATIENCE, outcome).await.unwrap().unwrap();
    match outcome {
        Ok(placed) => assert_eq!((placed[0].queue_offset, positions[0].queue_offset), (1, 2)),
        Err(e) => assert!(matches!(e, ProposeError::Unknown | ProposeError::NotLeader { .. }), "{e}"),
    }
    stop_all(&pair).await;
}

/// The time of day, so many ms ahead.
#[derive(Debug)]
struct Ahead(SystemClock, i64);

impl Clock for Ahead {
    fn now_ms(&self) -> i64 {
        self.0.now_ms() + self.1
    }

    fn passed(&self) -> Duration {
        self.0.passed()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_knows_whose_clock_differs_and_who_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let members = members();
    let mut groups = Vec::new();
    for member in &members {
        let ahead_ms = if member.id == 2 { 3_600_000 } else { 0 };
        let clock = Arc::new(Ahead(SystemClock::default(), ahead_ms));
        let world = World { clock, ..World::system() };
        let config = group_config(member.id, &members, dir.path());
        groups.push(try_start(config, 1, world).await.unwrap());
    }
    let leader = leader(&groups).await;
    let own = leader.config().node_id;
    let off_ms = |id: u64| if id == 2 { 3_600_000 } else { 0 };
    eventually("every clock to be compared", || {
        leader.status().members.iter().filter(|member| member.id != own).all(|member| {
            // A slow answer hides a part of the difference.
            let expected = off_ms(member.id) - off_ms(own);
            member.clock_ahead_ms.is_some_and(|ahead| (ahead - expected).abs() < 60_000)
        })
    })
    .await;
    let online =
        |id: u64| leader.status().members.iter().find(|member| member.id == id).and_then(|m| m.online);
    eventually("all members to be online", || members.iter().all(|member| online(member.id) == Some(true)))
        .await;
    let gone = groups.iter().find(|group| group.config().node_id != own).unwrap();
    gone.shutdown().await;
    let gone = gone.config().node_id;
    eventually("the member to be gone", || online(gone) == Some(false)).await;
    stop_all(&groups).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_two_releases_run_side_by_side_until_all_read_the_next_level() {
    let dir = tempfile::tempdir().unwrap();
    let members = members();
    let release = |id, reads| try_start(group_config(id, &members, dir.path()), reads, World::system());
    let mut groups = vec![release(1, 1).await.unwrap()];
    for id in [2, 3] {
        groups.push(release(id, 2).await.unwrap());
    }
    let first = leader(&groups).await;
    first.propose(Plain::change(&SumCommand::Add(3))).await.unwrap();
    let words = match first.propose(Plain::change(&SumCommand::Double)).await {
        Err(ProposeError::TooEarly(words)) => words,
        other => panic!("{other:?}"),
    };
    assert!(words.contains("needs feature level 2") && words.contains("node 1 reads 1"), "{words}");
    let (mut with_change, told) = batch(0, &bodies("a", 1));
    with_change.change = Some(Steps::change(&SumCommand::Double));
    with_change.term = Some(first.watch_role().borrow().term);
    first.submit(with_change);
    assert!(matches!(told.await.unwrap(), Err(ProposeError::TooEarly(_))));

    // The old one is replaced.
    groups.remove(0).shutdown().await;
    groups.push(release(1, 2).await.unwrap());
    eventually("the next level", || groups.iter().all(|group| group.feature_level() == 2)).await;
    let second = leader(&groups).await;
    second.propose(Plain::change(&SumCommand::Double)).await.unwrap();
    for group in &groups {
        eventually("the change", || group.plain.get() == 6).await;
    }

    // Whoever goes back to it is told why it cannot be.
    groups.pop().unwrap().shutdown().await;
    match release(1, 1).await.map(drop) {
        Err(StartError::TooOld(words)) => {
            assert!(words.contains("node 1") && words.contains("the group is at level 2"), "{words}");
        }
        other => panic!("{other:?}"),
    }
    stop_all(&groups).await;
}
