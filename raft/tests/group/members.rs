//! Who is a member: founding, directories that are emptied, copied or go back, strangers, other addresses.

use raftmq_raft::{GroupStatus, Secret};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

/// The directory that has a node's seat, and whether it votes.
fn seat(status: &GroupStatus, node: u64) -> (String, bool) {
    let member = status.members.iter().find(|member| member.id == node).unwrap();
    (member.directory.clone(), member.voter)
}

/// The group as this node's directory is a voter of it, and not the one before.
async fn has_taken_its_place(leader: &Running, node: u64, before: &str) {
    eventually("a new directory that votes", || {
        let (directory, votes) = seat(&leader.status(), node);
        votes && directory != before
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_directory_returns_as_a_new_member_and_takes_its_place_once_it_is_whole() {
    let (dir, members) = (tempfile::tempdir().unwrap(), members());
    let mut groups = start_all(&members, dir.path()).await;
    let first = leader(&groups).await;
    let expected = bodies("a", 300);
    send(&first, 0, &expected).await;
    let node = others(&groups, &first)[0].status().node_id;
    let (before, _) = seat(&first.status(), node);

    let at = groups.iter().position(|group| group.status().node_id == node).unwrap();
    groups.remove(at).shutdown().await;
    empty(dir.path(), node);
    let back = start(node, &members, dir.path()).await;
    has_taken_its_place(&first, node, &before).await;
    eventually("every message", || read_all(&back, 0) == expected).await;
    assert_eq!(back.status().group_id, first.status().group_id);

    // It counts again: the one that was there all the time goes.
    groups.push(back);
    let third = others(&groups, &first).into_iter().find(|g| g.status().node_id != node).unwrap().clone();
    third.shutdown().await;
    send(&first, 0, &bodies("b", 10)).await;
    stop_all(&groups).await;
}

/// What an emptied directory has forgotten must not be outvoted by it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_directory_does_not_help_to_lose_what_was_acknowledged() {
    let (dir, members) = (tempfile::tempdir().unwrap(), members());
    let groups = start_all(&members, dir.path()).await;
    let first = leader(&groups).await;
    send(&first, 0, &bodies("before", 1)).await;
    let (absent, emptied) = (others(&groups, &first)[0].clone(), others(&groups, &first)[1].clone());
    let (absent_node, emptied_node) = (absent.status().node_id, emptied.status().node_id);
    absent.shutdown().await;
    let expected = bodies("acknowledged", 200);
    send(&first, 0, &expected).await;
    emptied.shutdown().await;
    empty(dir.path(), emptied_node);
    let emptied = start(emptied_node, &members, dir.path()).await;
    first.shutdown().await;
    let absent = start(absent_node, &members, dir.path()).await;

    // Neither of them can lead the other: they wait.
    tokio::time::sleep(Duration::from_secs(3)).await;
    for group in [&absent, &emptied] {
        assert!(!group.status().ready && group.status().role != Role::Leader);
    }
    let waits = emptied.status().waits.unwrap();
    assert!(waits.contains("majority"), "{waits}");
    let first = start(first.config().node_id, &members, dir.path()).await;
    let all = [first, absent, emptied];
    let next = leader(&all).await;
    send(&next, 0, &bodies("after", 1)).await;
    for group in &all {
        eventually("every message", || read_all(group, 0).len() == 202).await;
        assert_eq!(read_all(group, 0)[1..201], expected);
    }
    stop_all(&all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_has_gone_back_is_found_and_made_whole() {
    let (dir, members) = (tempfile::tempdir().unwrap(), members());
    let mut groups = start_all(&members, dir.path()).await;
    let first = leader(&groups).await;
    send(&first, 0, &bodies("a", 10)).await;
    let node = others(&groups, &first)[0].status().node_id;
    let at = groups.iter().position(|group| group.status().node_id == node).unwrap();
    let (before, _) = seat(&first.status(), node);

    // A copy is taken, the node goes on, and comes back with the copy.
    groups.remove(at).shutdown().await;
    let kept = dir.path().join("copy");
    copy(&node_dir(dir.path(), node), &kept);
    let again = start(node, &members, dir.path()).await;
    send(&first, 0, &bodies("b", 150)).await;
    eventually("every message", || read_all(&again, 0).len() == 160).await;
    eventually("a leader that knows it", || {
        let status = first.status();
        status.members.iter().any(|member| member.id == node && member.matched_index == status.last_index)
    })
    .await;
    again.shutdown().await;
    empty(dir.path(), node);
    copy(&kept, &node_dir(dir.path(), node));
    let old = start(node, &members, dir.path()).await;
    let ended = timeout(PATIENCE, old.stopped()).await.unwrap();
    assert!(ended.starts_again, "{ended:?}");
    old.shutdown().await;

    let back = start(node, &members, dir.path()).await;
    has_taken_its_place(&first, node, &before).await;
    eventually("every message", || read_all(&back, 0).len() == 160).await;
    groups.push(back);
    stop_all(&groups).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_told_of_other_founders_does_not_found_with_them() {
    let (dir, members) = (tempfile::tempdir().unwrap(), members());
    let mistyped =
        [members[0].clone(), members[1].clone(), Member { id: 3, raft: free_address().to_string() }];
    let groups = [
        start(1, &members, dir.path()).await,
        start(2, &members, dir.path()).await,
        try_start(
            GroupConfig {
                listen: members[2].raft.parse().unwrap(),
                ..group_config(3, &mistyped, dir.path())
            },
            1,
            World::system(),
        )
        .await
        .unwrap(),
    ];
    tokio::time::sleep(Duration::from_secs(2)).await;
    for group in &groups {
        assert_eq!(group.status().group_id, None);
    }
    stop_all(&groups).await;
}

/// What it has noted of its state then is of no group.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_stopped_before_it_was_in_a_group_may_be_killed_afterwards() {
    let (dir, members) = (tempfile::tempdir().unwrap(), members());
    let early = start(1, &members, dir.path()).await;
    assert_eq!(early.status().group_id, None);
    early.shutdown().await;
    let groups = start_all(&members, dir.path()).await;
    let first = leader(&groups).await;
    let expected = bodies("a", 3);
    send(&first, 0, &expected).await;
    eventually("every message", || read_all(&groups[0], 0) == expected).await;
    image(dir.path(), 1);
    stop_all(&groups).await;
    restore(dir.path(), 1);
    let groups = start_all(&members, dir.path()).await;
    leader(&groups).await;
    eventually("every message", || read_all(&groups[0], 0) == expected).await;
    stop_all(&groups).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_groups_of_one_name_do_not_mix() {
    let (dir, other_dir, members) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), members());
    let groups = start_all(&members, dir.path()).await;
    leader(&groups).await;
    stop_all(&groups).await;
    let others = start_all(&members, other_dir.path()).await;
    leader(&others).await;
    others[2].shutdown().await;

    let stray = start(3, &members, dir.path()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!stray.status().ready);
    assert_ne!(stray.status().group_id, others[0].status().group_id);
    stray.shutdown().await;
    stop_all(&others).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_change_without_a_new_group() {
    let (dir, before) = (tempfile::tempdir().unwrap(), members());
    let groups = start_all(&before, dir.path()).await;
    let first = leader(&groups).await;
    send(&first, 0, &bodies("a", 5)).await;
    let group_id = first.status().group_id;
    stop_all(&groups).await;

    // A host's name is an address as well.
    let after: Vec<_> = members()
        .into_iter()
        .map(|member| Member { raft: member.raft.replace("127.0.0.1", "localhost"), ..member })
        .collect();
    let mut again = Vec::new();
    for member in &after {
        let listen = member.raft.replace("localhost", "127.0.0.1").parse().unwrap();
        let config =
            GroupConfig { members: after.clone(), listen, ..group_config(member.id, &before, dir.path()) };
        again.push(try_start(config, 1, World::system()).await.unwrap());
    }
    let second = leader(&again).await;
    assert_eq!(send(&second, 0, &bodies("b", 1)).await[0].queue_offset, 5);
    assert_eq!(second.status().group_id, group_id);
    stop_all(&again).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_know_the_secret_has_no_part() {
    let (dir, members) = (tempfile::tempdir().unwrap(), members());
    let groups = start_all(&members, dir.path()).await;
    let first = leader(&groups).await;
    let node = others(&groups, &first)[0].status().node_id;
    let one = groups.iter().find(|group| group.status().node_id == node).unwrap();
    one.shutdown().await;
    empty(dir.path(), node);
    let guessed = Some(Secret::new(b"another secret than theirs").unwrap());
    for secret in [guessed, None] {
        let config = GroupConfig { secret, ..group_config(node, &members, dir.path()) };
        let stranger = try_start(config, 1, World::system()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(stranger.status().group_id, None);
        stranger.shutdown().await;
        drop(stranger);
    }
    stop_all(&groups).await;
}

/// Bytes that no member sends, and a connection that says nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_on_the_members_port_changes_nothing() {
    let (dir, members) = (tempfile::tempdir().unwrap(), members());
    let groups = start_all(&members, dir.path()).await;
    let first = leader(&groups).await;
    let term = first.status().term;
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 64], &[9, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0]] {
        for group in &groups {
            let mut stream = TcpStream::connect(group.config().listen).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            let mut answer = Vec::new();
            // It may be closed without reading all of it.
            let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
        }
    }
    send(&first, 0, &bodies("a", 1)).await;
    assert_eq!(first.status().term, term);

    // However many say nothing: a member that comes back finds a place.
    let mut idle = Vec::new();
    for group in &groups {
        for _ in 0..100 {
            idle.push(TcpStream::connect(group.config().listen).await.unwrap());
        }
    }
    let follower = others(&groups, &first)[0];
    let node = follower.status().node_id;
    follower.shutdown().await;
    send(&first, 0, &bodies("b", 1)).await;
    let back = start(node, &members, dir.path()).await;
    eventually("every message", || read_all(&back, 0).len() == 2).await;
    assert_eq!(first.status().term, term);
    back.shutdown().await;
    stop_all(&groups).await;
    drop(idle);
}
