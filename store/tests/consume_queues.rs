//! The table of ConsumeQueues: made, found, deleted and opened again by topic and queue id.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests reach for the system")]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use raftmq_store::{ConsumeQueues, Numbers, OpenFiles, Reads, StoreError, TagsCode, Unit, View, check_topic};
use raftmq_world::OsDisk;

fn open(dir: &Path, limit: u64) -> Result<ConsumeQueues, StoreError> {
    let tags_code: Reads<TagsCode> = Reads { properties: &[], read: |_| 0 };
    let queues = ConsumeQueues::new(OpenFiles::new(Arc::new(OsDisk), 0), dir, 8, tags_code);
    queues.recover(limit, &Numbers::default())?;
    Ok(queues)
}

fn recovered(dir: &Path, limit: u64) -> ConsumeQueues {
    open(dir, limit).unwrap()
}

/// Adds `count` units, the next of the queue, whose physical offsets are `from`, `from + 10`, ...
fn fill(queues: &ConsumeQueues, topic: &str, id: u32, from: u64, count: u64) {
    let queue = queues.get_or_create(topic, id).unwrap();
    let next = queue.max_offset();
    for i in 0..count {
        queue.append(next + i, Unit { physical_offset: from + i * 10, size: 9, tags_code: 1 }).unwrap();
    }
    queue.publish().unwrap();
}

fn offsets(queues: &ConsumeQueues) -> Vec<(String, u32, u64)> {
    queues.max_offsets().map(|(topic, id, max)| (topic.to_string(), id, max)).collect()
}

fn expected(queues: &[(&str, u32, u64)]) -> Vec<(String, u32, u64)> {
    queues.iter().map(|(topic, id, max)| ((*topic).to_owned(), *id, *max)).collect()
}

#[test]
fn keeps_every_queue_across_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let queues = recovered(dir.path(), u64::MAX);
    fill(&queues, "orders", 10, 64, 20);
    fill(&queues, "orders", 2, 300, 3);
    fill(&queues, "%RETRY%a|b-c_1", u32::MAX, 400, 1);
    assert!(Arc::ptr_eq(&queues.get("orders", 2).unwrap(), &queues.get_or_create("orders", 2).unwrap()));
    let all = expected(&[("%RETRY%a|b-c_1", u32::MAX, 1), ("orders", 2, 3), ("orders", 10, 20)]);
    assert_eq!(offsets(&queues), all);
    queues.flush().unwrap();
    drop(queues);
    let queues = recovered(dir.path(), u64::MAX);
    assert_eq!(offsets(&queues), all);
    assert_eq!(queues.topics(), [Arc::from("%RETRY%a|b-c_1"), Arc::from("orders")]);
    assert_eq!(queues.max_offset("orders", 10), 20);
    assert_eq!((queues.max_offset("orders", 3), queues.max_offset("none", 0)), (0, 0));
    assert!(queues.get("orders", 3).is_none());
    drop(queues);
    // The limit holds for all of them.
    let cut = expected(&[("%RETRY%a|b-c_1", u32::MAX, 0), ("orders", 2, 1), ("orders", 10, 20)]);
    assert_eq!(offsets(&recovered(dir.path(), 310)), cut);
}

#[test]
fn a_deleted_topic_is_gone_and_can_be_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let queues = recovered(dir.path(), u64::MAX);
    fill(&queues, "a", 0, 64, 20);
    fill(&queues, "a", 1, 300, 2);
    fill(&queues, "b", 0, 400, 1);
    queues.flush().unwrap();
    fill(&queues, "a", 2, 500, 1);
    let held = queues.get("a", 0).unwrap();
    queues.drop_topic("a", 450).unwrap();
    queues.drop_topic("never there", 460).unwrap();
    assert_eq!(queues.held(), Numbers::new([("units", 1)]));
    assert_eq!(offsets(&queues), expected(&[("b", 0, 1)]));
    // Whoever had found a queue of it goes on reading, until a checkpoint counts without it.
    assert_eq!((held.max_offset(), held.get(19).is_some()), (20, true));
    queues.flush().unwrap();
    queues.clean_up(450, &queues.held()).unwrap();
    let files = dir.path().join("consumequeue/a");
    assert!(held.get(19).is_some() && files.exists());
    queues.clean_up(451, &queues.held()).unwrap();
    assert!(!files.exists());
    assert_eq!(queues.held(), Numbers::new([("units", 1)]));
    // Then it can neither be read nor bring files back.
    assert_eq!((held.max_offset(), held.get(0)), (0, None));
    let unit = Unit { physical_offset: 500, size: 9, tags_code: 1 };
    assert!(matches!(held.append(0, unit), Err(StoreError::Divergence(_))));
    assert!(matches!(held.start_at(5), Err(StoreError::Divergence(_))));
    held.flush().unwrap();
    queues.flush().unwrap();
    drop(queues);
    let queues = recovered(dir.path(), u64::MAX);
    assert_eq!(offsets(&queues), expected(&[("b", 0, 1)]));
    fill(&queues, "a", 1, 600, 5);
    assert_eq!(offsets(&queues), expected(&[("a", 1, 5), ("b", 0, 1)]));
}

/// A start may go back to any checkpoint that is durable, however far what was dropped since has gone by then.
#[test]
fn a_start_finds_the_topic_that_there_was_then() {
    // How much of it was done when the member ended; as of where the last checkpoint is; what the topic's queue has there.
    let ends = [(1, 200, 10), (2, 200, 10), (3, 200, 10), (3, 450, 4), (4, 450, 4), (5, 450, 4)];
    for (steps, recorded, units) in
        ends.into_iter().chain([(6, 450, 4), (6, 650, 0), (7, 650, 0), (8, 650, 0)])
    {
        let dir = tempfile::tempdir().unwrap();
        let queues = recovered(dir.path(), u64::MAX);
        fill(&queues, "b", 0, 50, 1);
        fill(&queues, "a", 0, 64, 10);
        queues.flush().unwrap();
        let act: [&dyn Fn(); 8] = [
            &|| queues.drop_topic("a", 200).unwrap(),
            &|| fill(&queues, "a", 0, 300, 4),
            &|| queues.flush().unwrap(),
            &|| queues.clean_up(450, &queues.held()).unwrap(),
            &|| queues.drop_topic("a", 500).unwrap(),
            &|| queues.flush().unwrap(),
            &|| queues.clean_up(650, &queues.held()).unwrap(),
            &|| fill(&queues, "a", 1, 700, 3),
        ];
        act[..steps].iter().for_each(|act| act());
        // The same again, should that start be interrupted.
        for _ in 0..2 {
            let there = recovered(dir.path(), recorded);
            assert_eq!(there.max_offset("a", 0), units, "{steps} steps");
            assert_eq!(there.held().get("units"), units + 1, "{steps} steps");
        }
        let is_there = |queue: &str| fs::read_dir(dir.path().join("consumequeue").join(queue)).is_ok();
        let since_200 = format!("@{:020}/a/0", 200);
        assert_eq!((is_there("a/0"), is_there(&since_200)), (units == 10, units == 4), "{steps} steps");
        // It goes on from there.
        let queues = recovered(dir.path(), recorded);
        fill(&queues, "a", 0, 800, 2);
        assert_eq!(queues.max_offset("a", 0), units + 2);
        queues.drop_topic("a", 900).unwrap();
        fill(&queues, "a", 0, 950, 1);
        queues.flush().unwrap();
        drop(queues);
        assert_eq!(recovered(dir.path(), 1000).max_offset("a", 0), 1);
    }
}

#[test]
fn files_go_when_their_messages_have_left_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let queues = recovered(dir.path(), u64::MAX);
    // In files of eight.
    fill(&queues, "a", 0, 100, 20);
    fill(&queues, "b", 0, 105, 3);
    queues.flush().unwrap();
    let held = queues.held();
    let offsets = |queues: &ConsumeQueues, topic| {
        let queue = queues.get(topic, 0).unwrap();
        let first = queue.get(queue.min_offset()).unwrap();
        (queue.min_offset(), first.physical_offset, queue.max_offset())
    };
    for (below, first) in
        [(170, (0, 100, 20)), (171, (8, 180, 20)), (250, (8, 180, 20)), (900, (16, 260, 20))]
    {
        queues.drop_below(below).unwrap();
        assert_eq!(offsets(&queues, "a"), first, "{below}");
        // The last file says where the queue has got to.
        assert_eq!(offsets(&queues, "b"), (0, 105, 3));
    }
    queues.flush().unwrap();
    drop(queues);
    // Whenever the last checkpoint was made, it counts the same.
    let queues = recovered(dir.path(), u64::MAX);
    assert_eq!((offsets(&queues, "a"), queues.held()), ((16, 260, 20), held));
    fill(&queues, "a", 0, 900, 10);
    assert_eq!(offsets(&queues, "a"), (16, 260, 30));
}

#[test]
fn no_name_leads_out_of_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let queues = recovered(&dir.path().join("store"), u64::MAX);
    let long = "x".repeat(256);
    for name in ["", ".", "..", "../x", "a/b", "/", "a\\b", "a\0", "a b", "ä", "a.b", &long] {
        assert!(matches!(check_topic(name), Err(StoreError::Illegal(_))), "{name:?}");
        assert!(matches!(queues.get_or_create(name, 0), Err(StoreError::Illegal(_))), "{name:?}");
        queues.drop_topic(name, 1).unwrap();
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    check_topic(&long[..255]).unwrap();
}

#[test]
fn names_what_does_not_belong_there() {
    for foreign in [
        "a.b/0",
        "@1/a",
        "@00000000000000000001/a.b",
        "topic/x",
        "topic/01",
        "topic/-1",
        "topic/4294967296",
        "topic/0/short",
    ] {
        let dir = tempfile::tempdir().unwrap();
        fill(&recovered(dir.path(), u64::MAX), "good", 0, 64, 1);
        fs::create_dir_all(dir.path().join("consumequeue").join(foreign)).unwrap();
        let error = open(dir.path(), u64::MAX).unwrap_err();
        let part = foreign.split('/').find(|part| error.to_string().contains(part));
        assert!(matches!(error, StoreError::Corrupt { .. }) && part.is_some(), "{error}");
    }
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("consumequeue")).unwrap();
    fs::write(dir.path().join("consumequeue/topic"), b"a file").unwrap();
    assert!(matches!(open(dir.path(), u64::MAX), Err(StoreError::Io { .. })));
}
