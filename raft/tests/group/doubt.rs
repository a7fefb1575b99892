//! Members that have lost the end of what they had: marks that lag behind, and one byte that has changed.

use super::*;

fn marks(dir: &Path, node: u64) -> Vec<u8> {
    std::fs::read(node_dir(dir, node).join("marks")).unwrap()
}

/// Has a stopped member find what it had on its disk then, with the marks of an earlier time and a changed byte in a message.
fn damage(dir: &Path, node: u64, marks_before: &[u8], body: &str) {
    restore(dir, node);
    std::fs::write(node_dir(dir, node).join("marks"), marks_before).unwrap();
    let log = node_dir(dir, node).join("commitlog").join("0".repeat(20));
    let mut content = std::fs::read(&log).unwrap();
    let at = content.windows(body.len()).position(|bytes| bytes == body.as_bytes()).unwrap();
    content[at] ^= 0x20;
    std::fs::write(&log, content).unwrap();
}

/// What it has acknowledged and lost is not outvoted with its help.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_lost_what_it_may_have_acknowledged_does_not_help_to_lose_it() {
    let (dir, members) = (tempfile::tempdir().unwrap(), members());
    let groups = start_all(&members, dir.path()).await;
    let first = leader(&groups).await;
    send(&first, 0, &bodies("before", 1)).await;
    let own = first.status().node_id;
    let [absent, damaged] = [0, 1].map(|at| others(&groups, &first)[at].clone());
    let nodes = [&absent, &damaged].map(|member| member.status().node_id);
    eventually("every message", || read_all(&damaged, 0).len() == 1).await;
    absent.shutdown().await;
    let before = marks(dir.path(), nodes[1]);
    let expected = bodies("acknowledged", 20);
    for body in &expected {
        send(&first, 0, std::slice::from_ref(body)).await;
    }
    image(dir.path(), nodes[1]);
    damaged.shutdown().await;
    damage(dir.path(), nodes[1], &before, &expected[5]);
    first.shutdown().await;
    let absent = start(nodes[0], &members, dir.path()).await;
    let damaged = start(nodes[1], &members, dir.path()).await;
    assert!(damaged.store().doubt().is_some());

    // They are a majority, and neither has everything.
    tokio::time::sleep(Duration::from_secs(3)).await;
    for group in [&absent, &damaged] {
        assert!(!group.status().ready && group.status().role != Role::Leader);
    }
    let first = start(own, &members, dir.path()).await;
    let all = [first, absent, damaged];
    let next = leader(&all).await;
    send(&next, 0, &bodies("after", 1)).await;
    for group in &all {
        eventually("every message", || read_all(group, 0).len() == 22).await;
        assert_eq!(read_all(group, 0)[1..21], expected);
        assert_eq!(group.store().doubt(), None);
    }
    stop_all(&all).await;
}

/// As after a power cut of all of them: once everybody was heard, the one that has most leads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_all_have_lost_something_the_one_with_most_leads() {
    let (dir, members) = (tempfile::tempdir().unwrap(), members());
    let groups = start_all(&members, dir.path()).await;
    let first = leader(&groups).await;
    send(&first, 0, &bodies("before", 1)).await;
    for group in &groups {
        eventually("every message", || read_all(group, 0).len() == 1).await;
    }
    let before: Vec<_> = (1..=3).map(|node| marks(dir.path(), node)).collect();
    let expected = bodies("torn", 20);
    for body in &expected {
        send(&first, 0, std::slice::from_ref(body)).await;
    }
    for group in &groups {
        eventually("every message", || read_all(group, 0).len() == 21).await;
    }
    (1..=3).for_each(|node| image(dir.path(), node));
    stop_all(&groups).await;
    for (node, at) in [(1, 12), (2, 7), (3, 4)] {
        damage(dir.path(), node, &before[node as usize - 1], &expected[at]);
    }
    // Without the one that has most nothing is decided.
    let mut again = vec![start(2, &members, dir.path()).await, start(3, &members, dir.path()).await];
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(again.iter().all(|group| !group.status().ready));
    again.push(start(1, &members, dir.path()).await);
    let next = leader(&again).await;
    send(&next, 0, &bodies("after", 1)).await;
    for group in &again {
        eventually("every message that is left", || read_all(group, 0).len() == 14).await;
        assert_eq!(read_all(group, 0)[1..13], expected[..12]);
    }
    stop_all(&again).await;
}
