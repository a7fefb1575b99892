//! What stands in logs and checkpoints: the bytes of every command and every image. They never change; what is new comes
//! behind them.

use raftmq_raft::{Change, Table, TableImage};

use super::*;

fn topic() -> Topic {
    let mut topic = Topic::new("t", 4, 6);
    topic.read_queues = 300;
    topic.order = true;
    topic.filter_type = FilterType::MultiTag;
    topic.attributes.insert("message.type".into(), "FIFO".into());
    topic
}

fn group() -> SubscriptionGroup {
    let mut group = SubscriptionGroup::new("g");
    group.retry_policy =
        RetryPolicy { is_exponential: true, exponential: Some((1, 2000, 3)), customized: Some(vec![-5]) };
    group.subscriptions = vec![GroupSubscription {
        topic: "t".into(),
        expression_type: "TAG".into(),
        expression: "*".into(),
        version: 7,
    }];
    group
}

fn commits() -> Vec<OffsetCommit> {
    vec![OffsetCommit { group: "g".into(), topic: "t".into(), queue_id: 3, offset: 70_000 }]
}

fn locks() -> QueueLocks {
    let (group, client_id) = ("g".to_owned(), "c".to_owned());
    QueueLocks { group, client_id, queues: vec![("t".into(), 3)], now_ms: 1000, lease_ms: 60_000 }
}

const TIMER: TimerProgress = TimerProgress { scanned: 5, due_ms: 1_800_000_000_000, offset: 4 };

fn change<T: Table>(command: T::Command) -> Change {
    Change::new::<T>(&command).unwrap()
}

/// Every command, in the order in which it does something.
fn changes() -> Vec<(&'static str, Change)> {
    let told = ToldReset { group: "g".into(), topic: "t".into(), queue_id: 3, number: 1 };
    vec![
        ("topic put", change::<Topics>(TopicCommand::Put(topic()))),
        ("topic added", change::<Topics>(TopicCommand::Add { value: Topic::new("u", 1, 6), max: 20_000 })),
        ("topic deleted", change::<Topics>(TopicCommand::Delete { name: "u".into() })),
        ("group put", change::<Groups>(GroupCommand::Put(group()))),
        ("group added", change::<Groups>(GroupCommand::Add { value: SubscriptionGroup::new("h"), max: 9 })),
        ("group deleted", change::<Groups>(GroupCommand::Delete { name: "h".into() })),
        ("offsets committed", change::<Offsets>(OffsetCommand::Commit(commits()))),
        ("offsets reset", change::<Offsets>(OffsetCommand::Reset(commits()))),
        ("reset cleared", change::<Offsets>(OffsetCommand::ClearResets(vec![told]))),
        ("topic forgotten", change::<Offsets>(OffsetCommand::ForgetTopic("u".into()))),
        ("group forgotten", change::<Offsets>(OffsetCommand::ForgetGroup("h".into()))),
        ("queues locked", change::<Locks>(locks())),
        ("level", change::<DelayTable>(DelayProgress::Level { level: 3, from: 0, to: 9 })),
        ("topic removed", change::<Removals>(Removal::Topic("v".into()))),
        ("timers", change::<DelayTable>(DelayProgress::Timer { from: TimerProgress::default(), to: TIMER })),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn image(image: &TableImage) -> String {
    format!("{}.{} {}", image.table, image.version, hex(&image.content))
}

#[test]
fn commands_and_images_are_written_as_ever() {
    let tables = State::default().tables();
    let mut written = Vec::new();
    for (name, change) in changes() {
        written.push(format!("{name} {}", hex(change.as_bytes())));
        tables.apply(change.as_bytes(), true).unwrap();
    }
    // A reset that nobody was told of.
    let reset = change::<Offsets>(OffsetCommand::Reset(commits()));
    tables.apply(reset.as_bytes(), false).unwrap();
    let images = tables.freeze()().unwrap();
    written.extend(images.iter().map(|of| format!("image {}", image(of))));
    let written = written.join("\n") + "\n";
    assert_eq!(written, include_str!("golden.txt"), "what is written now:\n{written}");

    let restored = State::default().tables();
    restored.restore(&images).unwrap();
    assert_eq!(restored.freeze()().unwrap(), images);
}

/// How many kinds of commands a table has, as its decoder says when it meets one that there is not; none where commands
/// are of one kind.
fn kinds(tables: &raftmq_raft::Tables, table: u8) -> Option<usize> {
    let no_such_kind = [1, table, 1, 0, 0, 0, 200];
    let words = tables.apply(&no_such_kind, true).unwrap_err().to_string();
    let (_, kinds) = words.split_once("0 <= i < ")?;
    kinds.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
}

#[test]
fn no_kind_of_command_is_missing() {
    let tables = State::default().tables();
    let mut seen: std::collections::BTreeMap<u8, std::collections::BTreeSet<u8>> = Default::default();
    for (_, change) in changes() {
        // The level, the table, the length of the command, its kind.
        let bytes = change.as_bytes();
        seen.entry(bytes[1]).or_default().insert(bytes[6]);
    }
    let of_tables: Vec<_> = seen.iter().map(|(table, kinds_seen)| (*table, kinds_seen.len())).collect();
    let expected: Vec<_> = seen.keys().map(|table| (*table, kinds(&tables, *table).unwrap_or(1))).collect();
    assert_eq!(of_tables, expected);
    assert_eq!(
        expected.iter().filter(|(_, kinds)| *kinds > 1).count(),
        4,
        "the decoder's words have changed"
    );
    let images = tables.freeze()().unwrap();
    let with_images: Vec<_> = seen.into_keys().filter(|table| *table != Removals::ID).collect();
    assert_eq!(images.iter().map(|image| image.table).collect::<Vec<_>>(), with_images);
}
