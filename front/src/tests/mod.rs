//! The broker over a real group of one member, spoken to over real sockets, with a name server that only listens.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use parking_lot::Mutex;
use raftmq_message::RecordIter;
use raftmq_message::batch::BatchMessage;
use raftmq_message::id::OffsetMessageId;
use raftmq_raft::{FlushMode, Group, GroupConfig, Member};
use raftmq_remoting::body::{
    ConsumerData, ConsumerIdList, HeartbeatData, KvTable, LockBatchRequest, LockBatchResponse, MessageQueue,
    RegisterBrokerBody, SubscriptionData, SubscriptionGroupConfig, TopicStatsTable,
};
use raftmq_remoting::codes::{request, response};
use raftmq_remoting::encode::encode_command;
use raftmq_remoting::frame::{self, FRAME_LEN_MAX};
use raftmq_remoting::header::{PullHeader, PullResponse, RegisterBrokerHeader, SendHeader, SendResponse};
use raftmq_remoting::{Command, Ext, Serialization, fastjson};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use raftmq_broker::delay::DelayLevels;
use raftmq_broker::state::{State, Views};
use raftmq_store::OpenFiles;
use raftmq_testkit::{FakeServer, Reply, free_address, group_config};
use raftmq_world::World;

use super::*;
use crate::front::vip_address;

mod cpp;
mod delay;
mod deletion;
mod failover;
mod followers;
mod full_disk;
mod groups;
mod inquiry;
mod operators;
mod pull;
mod registration;
mod send_back;
mod settings;
mod trio;
mod two_groups;
mod vip;

/// What a test waits for at most.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client connection.
struct Client {
    stream: TcpStream,
    input: BytesMut,
    opaque: i32,
}

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), input: BytesMut::new(), opaque: 0 }
    }

    async fn write(&mut self, requests: impl IntoIterator<Item = Command>) {
        let mut out = BytesMut::new();
        for mut request in requests {
            self.opaque += 1;
            request.opaque = self.opaque;
            encode_command(&request, &mut out).unwrap();
        }
        self.stream.write_all(&out).await.unwrap();
    }

    /// The next command from the broker, `None` where it has closed the connection.
    async fn read(&mut self) -> Option<Command> {
        let reading = async {
            loop {
                if let Some(frame) = frame::decode(&mut self.input, FRAME_LEN_MAX).unwrap() {
                    return Some(Command::decode(frame).unwrap());
                }
                if self.stream.read_buf(&mut self.input).await.unwrap_or(0) == 0 {
                    return None;
                }
            }
        };
        timeout(PATIENCE, reading).await.expect("no answer in time")
    }

    async fn call(&mut self, request: Command) -> Command {
        self.write([request]).await;
        let answer = self.read().await.expect("the broker has closed the connection");
        assert_eq!((answer.opaque, answer.is_response(), answer.version), (self.opaque, true, 493));
        answer
    }

    async fn ok(&mut self, request: Command) -> Command {
        let code = request.code;
        let answer = self.call(request).await;
        assert_eq!(answer.code, response::SUCCESS, "code {code}: {:?}", answer.remark);
        answer
    }

    /// The next answer; what the broker says by itself is passed over.
    async fn answer(&mut self) -> Command {
        loop {
            let command = self.read().await.expect("the broker has closed the connection");
            if command.is_response() {
                return command;
            }
        }
    }

    /// The code of the answer to a request, past what the broker says by itself.
    async fn code(&mut self, request: Command) -> i32 {
        self.write([request]).await;
        self.answer().await.code
    }

    /// The next request of the broker, notifications left out.
    async fn asked(&mut self) -> Command {
        loop {
            let command = self.read().await.expect("the broker asks");
            if !command.is_response() && command.code != request::NOTIFY_CONSUMER_IDS_CHANGED {
                return command;
            }
        }
    }

    async fn reply(&mut self, answer: &Command) {
        let mut out = BytesMut::new();
        encode_command(answer, &mut out).unwrap();
        self.stream.write_all(&out).await.unwrap();
    }

    /// A field of the answer to a request about a queue.
    async fn queue_number(&mut self, code: i32, topic: &str, field: &'static str) -> i64 {
        let ext = [("topic", topic), ("queueId", "0")].into_iter().collect();
        self.ok(Command::request(code, ext)).await.ext.get_i64(field).unwrap().unwrap()
    }
}

/// Registrations as they came in.
type Registrations = Arc<Mutex<Vec<(i32, Command)>>>;

/// A name server that takes everything.
async fn name_server() -> (FakeServer, Registrations) {
    let seen = Registrations::default();
    let registrations = seen.clone();
    let server = FakeServer::start_raw(move |request| {
        let answer = Command::response_to(&request, 0);
        registrations.lock().push((request.code, request));
        Reply::Answer(answer)
    });
    (server.await, seen)
}

pub(super) struct Fixture {
    pub(super) broker: Front,
    pub(super) group: Group,
    pub(super) state: State,
    registrations: Registrations,
    _name_server: FakeServer,
    dir: tempfile::TempDir,
}

/// A member whose acknowledgements do not wait for its disk, its state, and the views of its log.
async fn start_member(node_id: u64, members: &[Member], dir: &Path) -> (Group, State, Views) {
    start_member_in(World::system(), node_id, members, dir).await
}

/// The same on another disk.
async fn start_member_in(
    world: World,
    node_id: u64,
    members: &[Member],
    dir: &Path,
) -> (Group, State, Views) {
    let (config, state) = (group_config(node_id, members, dir), State::default());
    let views = Views::new(&OpenFiles::of(&world), &config.dir);
    let config = GroupConfig { flush: FlushMode::Async, derived: views.derived.clone(), ..config };
    (Group::start(config, state.tables(), world).await.unwrap(), state, views)
}

fn process(limits: Limits) -> Arc<Process> {
    Arc::new(Process::new(limits, World::system()))
}

/// A broker of a member, without name servers.
fn broker_config(group: &Group) -> BrokerConfig {
    let GroupConfig { node_id, client, .. } = *group.config();
    BrokerConfig {
        cluster: "C1".into(),
        broker_name: "broker-a".into(),
        node_id,
        listen: client,
        vip: false,
        advertise: client,
        namesrv: Vec::new(),
        auto_create_topic: true,
        auto_create_group: true,
        delay_levels: DelayLevels::default(),
    }
}

impl Fixture {
    pub(super) async fn start() -> Self {
        Self::start_with(Limits::default()).await
    }

    async fn start_with(limits: Limits) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), free_address(), limits, |_| ()).await
    }

    /// A group of one member that leads, and a broker that has told its name servers so. One name server is down.
    async fn start_configured(configure: impl FnOnce(&mut BrokerConfig)) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), free_address(), Limits::default(), configure).await
    }

    /// Stops, and starts again with what is stored.
    async fn restart(self) -> Self {
        let Self { broker, group, dir, .. } = self;
        broker.shutdown().await;
        group.shutdown().await;
        let raft = group.config().listen;
        drop((broker, group));
        Self::start_in(dir, raft, Limits::default(), |_| ()).await
    }

    async fn start_in(
        dir: tempfile::TempDir,
        raft: SocketAddr,
        limits: Limits,
        configure: impl FnOnce(&mut BrokerConfig),
    ) -> Self {
        let (group, state, views) =
            start_member(1, &[Member { id: 1, raft: raft.to_string() }], dir.path()).await;
        let (name_server, registrations) = name_server().await;
        let namesrv = vec![free_address().to_string(), name_server.addr.to_string()];
        let mut config = BrokerConfig { namesrv, ..broker_config(&group) };
        configure(&mut config);
        let broker = start(config, group.clone(), state.clone(), views, process(limits)).unwrap();
        let fixture = Self { broker, group, state, registrations, _name_server: name_server, dir };
        fixture.until(|f| f.registered_topics().contains(&"C1_REPLY_TOPIC".to_owned())).await;
        fixture
    }

    pub(super) async fn until(&self, is_so: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !is_so(self) {
            assert!(start.elapsed() < PATIENCE, "it does not come to be");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn client(&self) -> Client {
        Client::connect(self.broker.address).await
    }

    /// The topics of the newest registration as leader.
    fn registered_topics(&self) -> Vec<String> {
        let registrations = self.registrations.lock();
        let leader = registrations.iter().rev().filter(|(code, _)| *code == request::REGISTER_BROKER).find(
            |(_, r)| {
                let header = RegisterBrokerHeader::decode(r).unwrap();
                assert_eq!((header.broker_name.as_str(), header.cluster_name.as_str()), ("broker-a", "C1"));
                assert_eq!(header.broker_addr, self.broker.address.to_string());
                header.broker_id == 0
            },
        );
        let Some((_, leader)) = leader else { return Vec::new() };
        let body: RegisterBrokerBody = fastjson::parse(&leader.body).unwrap();
        assert!(body.topic_config_serialize_wrapper.data_version.state_version > 0);
        body.topic_config_serialize_wrapper.topic_config_table.into_keys().collect()
    }

    pub(super) async fn stop(self) {
        self.broker.shutdown().await;
        self.group.shutdown().await;
    }
}

fn send_header(topic: &str) -> SendHeader<'_> {
    SendHeader {
        producer_group: "P".into(),
        topic: topic.into(),
        default_topic: "TBW102".into(),
        default_topic_queue_nums: 4,
        queue_id: 0,
        sys_flag: 0,
        born_timestamp_ms: 1,
        flag: 0,
        properties: "TAGS\u{1}TagA\u{2}UNIQ_KEY\u{1}KEY\u{2}".into(),
        reconsume_times: 0,
        unit_mode: false,
        max_reconsume_times: None,
        batch: false,
        broker_name: None,
    }
}

fn send(topic: &str, body: impl Into<bytes::Bytes>) -> Command {
    Command::request(request::SEND_MESSAGE_V2, send_header(topic).to_ext()).with_body(body)
}

/// A pull of queue 0 that may be held for so many ms.
fn pull(topic: &str, offset: i64, hold_ms: i64, subscription: &str) -> Command {
    let header = PullHeader {
        consumer_group: "G".into(),
        topic: topic.into(),
        queue_id: 0,
        queue_offset: offset,
        max_msg_nums: 32,
        sys_flag: if hold_ms > 0 { 6 } else { 4 },
        commit_offset: 0,
        suspend_timeout_ms: hold_ms,
        subscription: Some(subscription.into()),
        sub_version: 0,
        expression_type: Some("TAG".into()),
        max_msg_bytes: None,
    };
    Command::request(request::PULL_MESSAGE, header.to_ext())
}

/// A heartbeat of a client that is in one consumer group.
fn heartbeat(client: &str, consumer: ConsumerData) -> Command {
    let body =
        HeartbeatData { client_id: client.into(), consumer_data_set: vec![consumer], ..Default::default() };
    Command::request(request::HEART_BEAT, Ext::new()).with_body(fastjson::to_vec(&body).unwrap())
}

/// A member of a consumer group, with its subscriptions as topic, expression and version.
fn consumer(group: &str, subscriptions: &[(&str, &str, i64)]) -> ConsumerData {
    let subscription = |(topic, expression, version): &(&str, &str, i64)| SubscriptionData {
        topic: (*topic).into(),
        sub_string: (*expression).into(),
        sub_version: *version,
        ..Default::default()
    };
    ConsumerData {
        group_name: group.into(),
        subscription_data_set: subscriptions.iter().map(subscription).collect(),
        ..Default::default()
    }
}

/// Makes or changes a consumer group.
fn put_group(settings: &SubscriptionGroupConfig) -> Command {
    let put = Command::request(request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, Ext::new());
    put.with_body(fastjson::to_vec(settings).unwrap())
}

/// Makes or changes a consumer group that reads from the member with this broker id.
fn put_reading_group(name: &str, broker_id: i64) -> Command {
    put_group(&SubscriptionGroupConfig { group_name: name.into(), broker_id, ..Default::default() })
}

fn bodies(records: &[u8]) -> Vec<Vec<u8>> {
    RecordIter::new(records).map(|record| record.unwrap().body().to_vec()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_goes_in_and_comes_out() {
    let f = Fixture::start().await;
    let mut client = f.client().await;
    let answer = client.ok(send("T", "hello")).await;
    assert!(f.registered_topics().contains(&"T".to_owned()), "the route is there before the answer");
    let fields = SendResponse::decode(&answer).unwrap();
    assert_eq!((fields.queue_id, fields.queue_offset, fields.transaction_id.as_deref()), (0, 0, Some("KEY")));
    assert_eq!((fields.region.as_deref(), fields.trace_on), (Some("DefaultRegion"), true));
    let id = OffsetMessageId::parse(&fields.msg_id).unwrap();
    assert_eq!(id.store_host, f.broker.address);

    // The binary header, the long names, and a batch.
    let mut binary = send("T", "two");
    binary.serialization = Serialization::RocketMq;
    assert_eq!(client.ok(binary).await.serialization, Serialization::RocketMq);
    let long = Command::request(request::SEND_MESSAGE, send_header("T").to_ext_v1()).with_body("three");
    assert_eq!(client.ok(long).await.ext.get_i64("queueOffset"), Ok(Some(2)));
    let batch = SendHeader { batch: true, ..send_header("T") }.to_ext();
    let mut body = BytesMut::new();
    for text in [b"four", b"five"] {
        BatchMessage { flag: 0, body: text, properties: "" }.encode_into(&mut body).unwrap();
    }
    let answer =
        client.ok(Command::request(request::SEND_BATCH_MESSAGE, batch).with_body(body.freeze())).await;
    let fields = SendResponse::decode(&answer).unwrap();
    assert_eq!((fields.queue_offset, fields.msg_id.split(',').count()), (3, 2));

    assert_eq!(
        client.queue_number(request::GET_MAX_OFFSET, "T", "offset").await,
        5,
        "what was acknowledged counts"
    );
    let mut found = Vec::new();
    while found.len() < 5 {
        let answer = client.ok(pull("T", found.len() as i64, 5000, "*")).await;
        found.extend(bodies(&answer.body));
        let fields = PullResponse::decode(&answer).unwrap();
        assert_eq!((fields.next_begin_offset, fields.min_offset), (found.len() as i64, 0));
    }
    assert_eq!(
        found,
        [b"hello".to_vec(), b"two".to_vec(), b"three".to_vec(), b"four".to_vec(), b"five".to_vec()]
    );

    let ext: Ext = [("offset", id.physical_offset.to_string().as_str())].into_iter().collect();
    let record = client.ok(Command::request(request::VIEW_MESSAGE_BY_ID, ext)).await;
    let record = raftmq_message::RecordView::parse(&record.body).unwrap();
    assert_eq!(
        (record.body(), record.queue_offset(), record.property("CLUSTER")),
        (&b"hello"[..], 0, Some("C1"))
    );
    assert_eq!(record.store_host(), f.broker.address);

    assert_eq!(client.queue_number(request::GET_MAX_OFFSET, "T", "offset").await, 5);
    assert_eq!(client.queue_number(request::GET_MIN_OFFSET, "T", "offset").await, 0);
    let stored = client.queue_number(request::GET_EARLIEST_MSG_STORETIME, "T", "timestamp").await;
    assert_eq!(stored, record.store_timestamp_ms());
    let ext = [("topic", "T"), ("queueId", "0"), ("timestamp", "0")].into_iter().collect();
    let answer = client.ok(Command::request(request::SEARCH_OFFSET_BY_TIMESTAMP, ext)).await;
    assert_eq!(answer.ext.get_i64("offset"), Ok(Some(0)));

    let ext = [("topic", "T")].into_iter().collect();
    let answer = client.ok(Command::request(request::GET_TOPIC_STATS_INFO, ext)).await;
    let stats: TopicStatsTable = fastjson::parse(&answer.body).unwrap();
    assert_eq!(stats.offset_table.len(), 4);
    assert_eq!(stats.offset_table.values().map(|queue| queue.max_offset).sum::<i64>(), 5);
    let answer = client.ok(Command::request(request::GET_BROKER_RUNTIME_INFO, Ext::new())).await;
    let info: KvTable = fastjson::parse(&answer.body).unwrap();
    assert_eq!(info.table["earliestMessageTimeStamp"], stored.to_string());
    let ratio: f64 = info.table["commitLogDiskRatio"].parse().unwrap();
    assert!((0.0..=1.0).contains(&ratio), "{ratio}");
    let totals = f.broker.stats().totals;
    assert_eq!((totals.put_messages, totals.get_messages, totals.put_failed), (5, 5, 0));
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sends_in_one_write_are_answered_in_order_and_one_way_ones_not() {
    const COUNT: usize = 2000;
    let f = Fixture::start().await;
    let mut client = f.client().await;
    client.ok(send("T", "first")).await;
    let sends = (0..COUNT).map(|n| {
        // One that nearly fills an entry of the log, so that those behind it have to go into another.
        let len = if n == 5 { 1_040_000 } else { 1000 };
        let send = send("T", format!("body {n} {}", "x".repeat(len)));
        if n % 10 == 0 { send.oneway() } else { send }
    });
    let first = client.opaque + 1;
    client.write(sends).await;
    let mut offsets = vec![None; COUNT];
    for _ in 0..COUNT - COUNT / 10 {
        let answer = client.read().await.unwrap();
        assert_eq!(answer.code, 0, "{:?}", answer.remark);
        let at = (answer.opaque - first) as usize;
        offsets[at] = answer.ext.get_i64("queueOffset").unwrap();
    }
    for (n, offset) in offsets.iter().enumerate() {
        assert_eq!(*offset, (n % 10 != 0).then_some(n as i64 + 1));
    }
    let mut found = Vec::new();
    while found.len() < COUNT + 1 {
        let answer = client.ok(pull("T", found.len() as i64, 5000, "*")).await;
        found.extend(bodies(&answer.body));
    }
    assert!(found[1..].iter().enumerate().all(|(n, body)| body.starts_with(format!("body {n} ").as_bytes())));
    assert_eq!(f.broker.stats().bytes_in_flight, 0);
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_answered_or_closes_its_own_connection_only() {
    let f = Fixture::start().await;
    let mut client = f.client().await;
    let answer = client.call(Command::request(9999, Ext::new())).await;
    assert_eq!((answer.code, answer.remark.as_deref()), (3, Some(" request type 9999 not supported")));
    for code in
        [10, 310, 320, 11, 14, 15, 29, 30, 31, 32, 33, 35, 38, 17, 215, 351, 352, 207, 202, 203, 204, 208]
    {
        let answer = client.call(Command::request(code, Ext::new())).await;
        assert_eq!(answer.code, response::SYSTEM_ERROR, "{code}");
        assert!(answer.remark.unwrap().contains("missing"), "{code}");
    }
    for code in [34, 41, 42, 46, 200] {
        let answer = client.call(Command::request(code, Ext::new()).with_body("{\"x\":")).await;
        assert_ne!(answer.code, response::SUCCESS, "{code}");
    }
    for code in [21, 201, 26, 28] {
        client.ok(Command::request(code, Ext::new())).await;
    }
    let large = client.call(send("T", vec![0; (1 << 20) + 1])).await;
    assert_eq!(large.code, response::MESSAGE_ILLEGAL, "larger than a segment of the log");
    for garbage in
        [&[0xFF; 64][..], &[0, 0, 0, 1, 0, 0, 0, 0], &[0, 0, 0, 8, 0, 0, 0, 4, b'{', b'}', b'x', b'y']]
    {
        let mut hostile = f.client().await;
        hostile.stream.write_all(garbage).await.unwrap();
        assert!(hostile.read().await.is_none(), "{garbage:?}");
    }
    // What came before the garbage is answered.
    let mut out = BytesMut::new();
    encode_command(&Command::request(request::SEND_MESSAGE_V2, Ext::new()), &mut out).unwrap();
    out.extend_from_slice(&[0xFF; 64]);
    let mut hostile = f.client().await;
    hostile.stream.write_all(&out).await.unwrap();
    assert_eq!(hostile.read().await.unwrap().code, response::SYSTEM_ERROR);
    assert!(hostile.read().await.is_none());
    client.ok(send("T", "still here")).await;
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_may_come_in_pieces() {
    let f = Fixture::start().await;
    let mut client = f.client().await;
    client.ok(send("T", "first")).await;
    let mut out = BytesMut::new();
    for len in [100, 50_000] {
        encode_command(&send("T", vec![b'x'; len]), &mut out).unwrap();
    }
    // Ends in the first request, at the second's beginning, and far into it.
    for piece in [10, 300, 30_000] {
        client.stream.write_all(&out.split_to(piece)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    client.stream.write_all(&out).await.unwrap();
    for offset in 1..3 {
        let answer = client.read().await.unwrap();
        assert_eq!((answer.code, answer.ext.get_i64("queueOffset")), (0, Ok(Some(offset))));
    }
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_tells_everybody() {
    let f = Fixture::start().await;
    let (mut producer, mut consumer) = (f.client().await, f.client().await);
    producer.ok(send("T", "x")).await;
    producer.ok(pull("T", 0, 5000, "*")).await;
    consumer.write([pull("T", 1, 20_000, "*")]).await;
    f.until(|f| f.broker.stats().held_pulls == 1).await;
    f.broker.shutdown().await;
    assert_eq!(consumer.read().await.unwrap().code, response::SERVICE_NOT_AVAILABLE);
    assert!(consumer.read().await.is_none() && producer.read().await.is_none());
    assert!(f.registrations.lock().iter().any(|(code, _)| *code == request::UNREGISTER_BROKER));
    assert!(TcpStream::connect(f.broker.address).await.is_err());
    f.stop().await;
}
