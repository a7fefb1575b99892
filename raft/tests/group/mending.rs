//! Members whose disks have changed what was durable, long ago.

use super::*;

fn log_files(dir: &Path, node: u64) -> Vec<std::path::PathBuf> {
    let files = std::fs::read_dir(node_dir(dir, node).join("commitlog")).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

/// Changes a byte of a message in a stopped member's log.
fn change(dir: &Path, node: u64, body: &str) {
    for file in log_files(dir, node) {
        let mut content = std::fs::read(&file).unwrap();
        let found = content.windows(body.len()).position(|bytes| bytes == body.as_bytes());
        if let Some(at) = found {
            content[at] ^= 0x20;
            return std::fs::write(&file, content).unwrap();
        }
    }
    panic!("{body} is not in the log");
}

/// What each of two members has lost the others still have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_disk_has_changed_is_put_right_from_other_members_while_the_group_serves() {
    let (dir, members) = (tempfile::tempdir().unwrap(), members());
    let groups = start_all(&members, dir.path()).await;
    let first = leader(&groups).await;
    let expected: Vec<_> = (0..40).map(|n| format!("{n:03}-{}", "x".repeat(100_000))).collect();
    for body in &expected {
        send(&first, 0, std::slice::from_ref(body)).await;
    }
    for group in &groups {
        eventually("every message", || read_all(group, 0).len() == 40).await;
    }
    stop_all(&groups).await;
    let whole: Vec<_> = log_files(dir.path(), 3).iter().map(|file| std::fs::read(file).unwrap()).collect();
    assert!(whole.len() > 3);
    for (node, changed) in [(1, [2, 17, 35]), (2, [3, 12, 28])] {
        changed.iter().for_each(|at| change(dir.path(), node, &expected[*at]));
    }
    let again = start_all(&members, dir.path()).await;
    let next = leader(&again).await;
    send(&next, 0, &bodies("meanwhile", 1)).await;
    for group in &again {
        let mended = if group.status().node_id == 3 { 0 } else { 3 };
        eventually("all of it", || group.status().mended == mended && group.status().damaged.is_empty())
            .await;
        eventually("every message", || read_all(group, 0).len() == 41).await;
        assert_eq!(read_all(group, 0)[..40], expected);
        assert!(group.status().stopped.is_none());
    }
    stop_all(&again).await;
    for node in [1, 2] {
        let files = log_files(dir.path(), node);
        for (file, whole) in files.iter().zip(&whole).take(3) {
            assert!(std::fs::read(file).unwrap() == *whole, "{}", file.display());
        }
    }
}

/// What a start reads is cut off there, and comes again from the leader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_lost_the_end_of_what_was_durable_receives_it_again() {
    let (dir, members) = (tempfile::tempdir().unwrap(), members());
    let groups = start_all(&members, dir.path()).await;
    let first = leader(&groups).await;
    send(&first, 0, &bodies("before", 1)).await;
    // With a checkpoint.
    stop_all(&groups).await;
    let mut groups = start_all(&members, dir.path()).await;
    let first = leader(&groups).await;
    let expected = bodies("durable", 20);
    for body in &expected {
        send(&first, 0, std::slice::from_ref(body)).await;
    }
    let node = others(&groups, &first)[0].status().node_id;
    let at = node as usize - 1;
    eventually("every message", || read_all(&groups[at], 0).len() == 21).await;
    // A heartbeat later its marks say so.
    tokio::time::sleep(Duration::from_millis(300)).await;
    image(dir.path(), node);
    groups[at].shutdown().await;
    restore(dir.path(), node);
    change(dir.path(), node, &expected[5]);
    groups[at] = start(node, &members, dir.path()).await;
    send(&first, 0, &bodies("meanwhile", 1)).await;
    let again = |group: &Running| {
        let ended = group.status().stopped.is_some();
        (!ended && group.store().doubt().is_none() && read_all(group, 0).len() == 22, ended)
    };
    // It takes another Raft id, and starts again.
    loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        match again(&groups[at]) {
            (true, _) => break,
            (_, true) => {
                groups[at].shutdown().await;
                groups[at] = start(node, &members, dir.path()).await;
            }
            _ => {}
        }
    }
    assert_eq!(read_all(&groups[at], 0)[1..21], expected);
    stop_all(&groups).await;
}

/// Nobody else has it: the rest is served, and what is broken is named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_alone_serves_what_is_whole_and_names_what_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let members = vec![Member { id: 1, raft: free_address().to_string() }];
    let group = start(1, &members, dir.path()).await;
    leader(std::slice::from_ref(&group)).await;
    let expected: Vec<_> = (0..10).map(|n| format!("{n:03}-{}", "x".repeat(1000))).collect();
    for body in &expected {
        send(&group, 0, std::slice::from_ref(body)).await;
    }
    group.shutdown().await;
    change(dir.path(), 1, &expected[4]);
    let group = start(1, &members, dir.path()).await;
    leader(std::slice::from_ref(&group)).await;
    eventually("what is broken", || group.status().damaged.len() == 1).await;
    let damaged = &group.status().damaged[0];
    assert!(damaged.contains("commitlog") && damaged.contains("position"), "{damaged}");
    let units = group.store().queue("topic", 0).unwrap().read(0, 100);
    let is_whole = |at: usize| group.store().record(units[at].physical_offset, units[at].size).is_ok();
    assert!((0..10).all(|at| is_whole(at) == (at != 4)));
    send(&group, 0, &bodies("after", 1)).await;
    group.shutdown().await;
}
