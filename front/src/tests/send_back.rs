//! Returned, delayed and given-up messages, as they are stored.

use raftmq_broker::state::{GroupCommand, Groups, SubscriptionGroup, Topic, TopicCommand, Topics};
use raftmq_remoting::header::SendBackHeader;

use super::*;

const GROUP: &str = "G";

fn send_back(offset: i64, delay_level: i32) -> Command {
    let header = SendBackHeader {
        offset,
        group: GROUP.into(),
        delay_level,
        origin_msg_id: None,
        origin_topic: Some("T".into()),
        unit_mode: false,
        max_reconsume_times: Some(2),
    };
    Command::request(request::CONSUMER_SEND_MSG_BACK, header.to_ext())
}

/// A stored record.
struct Stored(raftmq_store::LogSlice);

impl Stored {
    fn view(&self) -> raftmq_message::RecordView<'_> {
        raftmq_message::RecordView::parse(&self.0).unwrap()
    }

    fn property(&self, name: &str) -> Option<String> {
        self.view().property(name).map(str::to_owned)
    }
}

impl Fixture {
    async fn group(&self, group: SubscriptionGroup) {
        self.broker.node.replica.change::<Groups>(&GroupCommand::Put(group)).await.unwrap();
    }

    /// The newest record of a queue, once it has so many.
    async fn stored(&self, topic: &str, queue_id: u32, count: u64) -> Stored {
        let queue = || self.group.store().queue(topic, queue_id);
        self.until(|_| queue().is_some_and(|queue| queue.max_offset() == count)).await;
        let unit = queue().unwrap().get(count - 1).unwrap();
        Stored(self.group.store().record(unit.physical_offset, unit.size).unwrap().unwrap())
    }

    /// Sends a message whose body counts as compressed, and returns where it lies once consumers can see it.
    async fn compressed(&self, client: &mut Client) -> i64 {
        let header = SendHeader { sys_flag: 0x1 | 0x200, flag: 7, ..send_header("T") };
        let answer =
            client.ok(Command::request(request::SEND_MESSAGE_V2, header.to_ext()).with_body("packed")).await;
        let id = SendResponse::decode(&answer).unwrap().msg_id.into_owned();
        let offset = OffsetMessageId::parse(&id).unwrap().physical_offset;
        self.until(|f| f.group.store().record_at(offset).is_some()).await;
        offset as i64
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_returned_message_is_retried_and_then_given_up() {
    let f = Fixture::start().await;
    f.group(SubscriptionGroup::new(GROUP)).await;
    let mut client = f.client().await;
    let offset = f.compressed(&mut client).await;
    let first = f.stored("T", 0, 1).await;

    let answer = client.ok(send_back(offset, 0)).await;
    assert!(answer.ext.is_empty(), "a code alone: {:?}", answer.ext);
    assert!(f.registered_topics().contains(&"%RETRY%G".to_owned()));
    let retried = f.stored("SCHEDULE_TOPIC_XXXX", 2, 1).await;
    let (record, original) = (retried.view(), first.view());
    assert_eq!((record.body(), record.flag(), record.sys_flag()), (&b"packed"[..], 7, 0x201));
    assert_eq!(record.born_timestamp_ms(), original.born_timestamp_ms());
    assert_eq!((record.born_host(), record.reconsume_times()), (original.born_host(), 1));
    let id =
        OffsetMessageId { store_host: f.broker.address, physical_offset: offset as u64 }.format().to_string();
    for (name, value) in [
        ("RETRY_TOPIC", "T"),
        ("ORIGIN_MESSAGE_ID", &id),
        ("WAIT", "false"),
        ("DELAY", "3"),
        ("REAL_TOPIC", "%RETRY%G"),
        ("REAL_QID", "0"),
        ("UNIQ_KEY", "KEY"),
        ("TAGS", "TagA"),
        ("CLUSTER", "C1"),
    ] {
        assert_eq!(retried.property(name).as_deref(), Some(value), "{name}");
    }

    // The copy is returned in turn, by an explicit level; then there were enough tries.
    client.ok(send_back(record.physical_offset(), 99)).await;
    let again = f.stored("SCHEDULE_TOPIC_XXXX", 17, 1).await;
    assert_eq!((again.view().reconsume_times(), again.property("DELAY").as_deref()), (2, Some("18")));
    client.ok(send_back(again.view().physical_offset(), 0)).await;
    let dead = f.stored("%DLQ%G", 0, 1).await;
    assert_eq!((dead.view().reconsume_times(), dead.view().sys_flag()), (3, 0x201));
    for (name, value) in [
        ("RETRY_TOPIC", "T"),
        ("ORIGIN_MESSAGE_ID", &id),
        ("DELAY", "0"),
        ("DLQ_ORIGIN_TOPIC", "T"),
        ("DLQ_ORIGIN_MESSAGE_ID", "KEY"),
    ] {
        assert_eq!(dead.property(name).as_deref(), Some(value), "{name}");
    }
    let dlq = f.state.topics.get("%DLQ%G").unwrap();
    assert_eq!((dlq.write_queues, dlq.read_queues, dlq.perm), (1, 1, 6));

    // A level below 0 gives a message up at once.
    client.ok(send_back(offset, -1)).await;
    assert_eq!(f.stored("%DLQ%G", 0, 2).await.view().reconsume_times(), 1);
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_returned_is_refused_by_code() {
    let f = Fixture::start().await;
    let mut client = f.client().await;
    let offset = f.compressed(&mut client).await;
    f.group(SubscriptionGroup { retry_queues: 0, ..SubscriptionGroup::new(GROUP) }).await;
    client.ok(send_back(offset, 0)).await;
    assert!(f.state.topics.get("%RETRY%G").is_none(), "no retries, and nothing stored");

    f.group(SubscriptionGroup::new(GROUP)).await;
    for offset in [-1, i64::MIN, i64::MAX, offset + 1, 1 << 40] {
        let answer = client.call(send_back(offset, 0)).await;
        let remark = format!("look message by offset failed, {offset}");
        assert_eq!((answer.code, answer.remark), (response::SYSTEM_ERROR, Some(remark)));
    }
    let missing = client.call(Command::request(request::CONSUMER_SEND_MSG_BACK, Ext::new())).await;
    assert!(missing.remark.unwrap().contains("missing"));
    let closed = Topic::new("%RETRY%G", 1, 4);
    f.broker.node.replica.change::<Topics>(&TopicCommand::Put(closed)).await.unwrap();
    assert_eq!(client.call(send_back(offset, 0)).await.code, response::NO_PERMISSION);
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_client_does_not_say_how_often_and_the_group_does() {
    let f = Fixture::start().await;
    f.group(SubscriptionGroup { retry_max_times: 0, ..SubscriptionGroup::new(GROUP) }).await;
    let mut client = f.client().await;
    let offset = f.compressed(&mut client).await;
    client.write([Command { version: 120, ..send_back(offset, 0) }, send_back(offset, 0)]).await;
    for _ in 0..2 {
        let answer = client.read().await.unwrap();
        assert_eq!(answer.code, response::SUCCESS, "{:?}", answer.remark);
    }
    assert_eq!(f.stored("%DLQ%G", 0, 1).await.view().reconsume_times(), 1);
    assert_eq!(f.stored("SCHEDULE_TOPIC_XXXX", 2, 1).await.view().reconsume_times(), 1);
    f.stop().await;
}

/// A send to the group's retry topic.
fn returned(times: i32) -> Command {
    let header = SendHeader { reconsume_times: times, ..send_header("%RETRY%G") };
    Command::request(request::SEND_MESSAGE_V2, header.to_ext()).with_body("x")
}

fn delete_group() -> Command {
    Command::request(request::DELETE_SUBSCRIPTIONGROUP, [("groupName", GROUP)].into_iter().collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_was_deleted_is_made_again_by_what_it_gives_back() {
    let f = Fixture::start().await;
    let mut client = f.client().await;
    let offset = f.compressed(&mut client).await;
    let is_there = || f.state.groups.get(GROUP).is_some();
    // The first time its retry topic is missing too. One that was tried too often needs the topic of the dead letters.
    for (request, retried, dead) in [
        (send_back(offset, 0), 1, 0),
        (returned(1), 1, 0),
        (returned(17), 1, 1),
        (send_back(offset, -1), 1, 2),
    ] {
        assert!(!is_there());
        client.ok(request).await;
        assert!(is_there());
        f.stored("SCHEDULE_TOPIC_XXXX", 2, retried).await;
        if dead > 0 {
            f.stored("%DLQ%G", 0, dead).await;
        }
        client.ok(delete_group()).await;
    }
    // What only looks does not.
    let group = |code, field| Command::request(code, [(field, GROUP)].into_iter().collect());
    let missing = response::SUBSCRIPTION_GROUP_NOT_EXIST;
    assert_eq!(client.call(group(request::GET_SUBSCRIPTIONGROUP_CONFIG, "group")).await.code, missing);
    let leave: Ext = [("clientID", "a"), ("consumerGroup", GROUP)].into_iter().collect();
    client.ok(Command::request(request::UNREGISTER_CLIENT, leave)).await;
    assert!(!is_there());
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_back_makes_no_group_where_none_may_be_made() {
    let f = Fixture::start_configured(|config| config.auto_create_group = false).await;
    let mut client = f.client().await;
    let offset = f.compressed(&mut client).await;
    for request in [send_back(offset, 0), returned(1)] {
        assert_eq!(client.call(request).await.code, response::SUBSCRIPTION_GROUP_NOT_EXIST);
    }
    assert!(f.state.groups.get(GROUP).is_none() && f.state.topics.get("%RETRY%G").is_none());
    f.stop().await;
    // Nor is one made of a name that no group can have.
    let f = Fixture::start().await;
    let mut client = f.client().await;
    let offset = f.compressed(&mut client).await;
    let mut unnamed = send_back(offset, 0);
    unnamed.ext.set("group", "a b");
    let mut pull = pull("T", 0, 0, "*");
    pull.ext.set("consumerGroup", "a b");
    for request in [unnamed, pull] {
        assert_eq!(client.call(request).await.code, response::SUBSCRIPTION_GROUP_NOT_EXIST);
    }
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_send_to_a_retry_topic_makes_what_it_needs() {
    let f = Fixture::start().await;
    let mut client = f.client().await;
    f.group(SubscriptionGroup { retry_queues: 0, ..SubscriptionGroup::new(GROUP) }).await;
    client.ok(returned(1)).await;
    client.ok(returned(17)).await;
    assert_eq!(f.stored("%RETRY%G", 0, 1).await.view().reconsume_times(), 1);
    assert_eq!(f.stored("%DLQ%G", 0, 1).await.view().reconsume_times(), 17);
    assert!(f.registered_topics().contains(&"%DLQ%G".to_owned()));
    f.stop().await;
}
