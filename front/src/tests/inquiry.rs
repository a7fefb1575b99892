//! Pulls that know of a newer subscription than the heartbeats have brought: their client is asked.

use raftmq_remoting::body::ConsumerRunningInfo;

use super::trio::Trio;
use super::*;

/// A pull of a queue of `T` that goes by the group's subscription of at least this version.
fn pull_of(version: i64, queue: &str) -> Command {
    let mut pull = pull("T", 0, 0, "*");
    pull.ext.set("subVersion", &version.to_string()).set("sysFlag", "0").set("queueId", queue);
    pull
}

/// What a client answers that subscribes to `T`.
fn running(version: i64, tag: &str) -> Vec<u8> {
    let subscription_set = consumer("G", &[("T", tag, version)]).subscription_data_set;
    ConsumerRunningInfo { subscription_set, ..Default::default() }.to_json().unwrap()
}

impl Client {
    async fn subscribe(&mut self, version: i64, tag: &str) {
        let beat = heartbeat("c", consumer("G", &[("T", tag, version)]));
        assert_eq!(self.code(beat).await, response::SUCCESS);
    }

    /// Waits for the question what it subscribes to, and answers it.
    async fn tell(&mut self, code: i32, body: Vec<u8>) {
        let asked = self.asked().await;
        assert_eq!((asked.code, asked.is_oneway()), (request::GET_CONSUMER_RUNNING_INFO, false));
        for (field, value) in [("consumerGroup", "G"), ("clientId", "c"), ("jstackEnable", "false")] {
            assert_eq!(asked.ext.get(field).as_deref(), Some(value));
        }
        self.reply(&Command::response_to(&asked, code).with_body(body)).await;
    }

    /// The next command that is no notification.
    async fn next(&mut self) -> Command {
        loop {
            let command = self.read().await.expect("the broker has closed the connection");
            if command.code != request::NOTIFY_CONSUMER_IDS_CHANGED || command.is_response() {
                return command;
            }
        }
    }
}

/// A broker with messages of two tags in `T`, and a client.
async fn start() -> (Fixture, Client) {
    let f = Fixture::start().await;
    let mut client = f.client().await;
    for tag in ["A", "B"] {
        let properties = format!("TAGS\u{1}{tag}\u{2}");
        let header = SendHeader { properties: properties.as_str().into(), ..send_header("T") };
        client.ok(Command::request(request::SEND_MESSAGE_V2, header.to_ext()).with_body(tag)).await;
    }
    client.ok(pull("T", 1, 5000, "*")).await;
    (f, client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_has_missed_its_heartbeat_is_asked_and_served() {
    let (f, mut client) = start().await;
    client.subscribe(5, "A").await;
    // One question for all; what is asked in between is answered at once.
    client.write((0..4).map(|queue| pull_of(6, &queue.to_string()))).await;
    client.write([Command::request(request::GET_ALL_TOPIC_CONFIG, Ext::new())]).await;
    let (pulls, other) = (client.opaque - 4..client.opaque, client.opaque);
    let asked = client.next().await;
    let in_between = client.next().await;
    let (asked, in_between) = if asked.is_response() { (in_between, asked) } else { (asked, in_between) };
    assert_eq!((asked.code, in_between.opaque), (request::GET_CONSUMER_RUNNING_INFO, other));
    client.reply(&Command::response_to(&asked, 0).with_body(running(6, "B"))).await;
    for opaque in pulls {
        let answer = client.next().await;
        assert_eq!(answer.opaque, opaque);
        let is_first = opaque == other - 4;
        let code = if is_first { response::SUCCESS } else { response::PULL_NOT_FOUND };
        assert_eq!(answer.code, code, "{:?}", answer.remark);
        let expected: &[&[u8]] = if is_first { &[b"B"] } else { &[] };
        assert_eq!(bodies(&answer.body), expected, "by the subscription that it has now");
    }
    assert_eq!(client.code(pull_of(6, "0")).await, response::SUCCESS, "it is known from then on");
    let known = f.broker.node.broker.clients.subscription("G", "T").unwrap();
    assert_eq!((known.version, known.expression.as_str()), (6, "B"));
    // The next time as well.
    client.write([pull_of(7, "0")]).await;
    client.tell(0, running(7, "A")).await;
    assert_eq!(bodies(&client.next().await.body), [b"A"]);
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_does_not_tell_is_not_served() {
    let (f, mut client) = start().await;
    client.subscribe(5, "A").await;
    for (code, body) in [
        (1, Vec::new()),
        (0, b"nothing of use".to_vec()),
        (0, b"{\"subscriptionSet\":[]}".to_vec()),
        (0, running(6, "A")),
        (0, running(7, &"x".repeat(limits::EXPRESSION_BYTES_MAX + 1))),
    ] {
        client.write([pull_of(7, "0")]).await;
        client.tell(code, body).await;
        let answer = client.next().await;
        assert_eq!(answer.code, response::SUBSCRIPTION_NOT_LATEST, "{:?}", answer.remark);
    }
    // An expression that cannot be used is told to who pulls, as after a heartbeat.
    client.write([pull_of(8, "0")]).await;
    client.tell(0, running(8, "||")).await;
    assert_eq!(client.next().await.code, response::SUBSCRIPTION_PARSE_FAILED);
    // A client that goes leaves nothing behind.
    client.write([pull_of(9, "0")]).await;
    client.asked().await;
    drop(client);
    f.until(|f| f.broker.stats().connections == 0).await;
    assert!(f.broker.node.broker.clients.consumer_ids("G").is_empty());
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_tell_is_not_asked() {
    let (f, mut client) = start().await;
    let mut stranger = f.client().await;
    client.subscribe(5, "A").await;
    // No member, a client of an age that does not answer, and a topic that the group does not want.
    assert_eq!(stranger.call(pull_of(6, "0")).await.code, response::SUBSCRIPTION_NOT_LATEST);
    let mut old = heartbeat("old", consumer("G", &[("T", "A", 5)]));
    old.version = 61;
    assert_eq!(stranger.code(old).await, response::SUCCESS);
    assert_eq!(stranger.code(pull_of(6, "0")).await, response::SUBSCRIPTION_NOT_LATEST);
    assert_eq!(client.code(send("U", "x")).await, response::SUCCESS);
    let mut absent = pull_of(6, "0");
    absent.ext.set("topic", "U");
    client.write([absent]).await;
    let answer = client.next().await;
    assert_eq!((answer.is_response(), answer.code), (true, response::SUBSCRIPTION_NOT_EXIST));
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_serves_reads_asks_too() {
    let (trio, _, follower, _client) = Trio::start_with_reader("G").await;
    let has_all = |(broker, group): &(Front, Group)| {
        broker.state().groups.get("G").is_some_and(|group| group.broker_id != 0)
            && group.store().queue("T", 0).is_some_and(|queue| queue.max_offset() == 1)
    };
    trio.until(|trio| has_all(&trio.members[follower])).await;
    let mut reader = trio.client(follower).await;
    reader.subscribe(5, "TagB").await;
    reader.write([pull_of(6, "0")]).await;
    reader.tell(0, running(6, "TagA")).await;
    assert_eq!(bodies(&reader.next().await.body), [b"zero"]);
    trio.stop().await;
}
