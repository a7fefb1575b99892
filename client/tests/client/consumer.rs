//! Pulling, offsets and topic creation against a broker of the test's own.

use super::fake::{FakeServer, Reply, Routes, client, refused};
use bytes::BytesMut;
use raftmq_client::{ClientError, MessageQueue, PullConsumer, PullOptions, PullStatus, TopicConfig};
use raftmq_message::RecordParts;
use raftmq_remoting::body::{BrokerData, ClusterInfo};
use raftmq_remoting::codes::{request, response};
use raftmq_remoting::header::{CreateTopicHeader, OffsetResponse, PullHeader, PullResponse};
use raftmq_remoting::{Command, fastjson};

fn queue() -> MessageQueue {
    MessageQueue { broker_name: "broker-a".into(), queue_id: 1, topic: "T".into() }
}

fn answer(request: &Command, code: i32, fields: PullResponse, body: &[u8]) -> Reply {
    Reply::Answer(Command::response_to(request, code).with_ext(fields.to_ext()).with_body(body.to_vec()))
}

fn records() -> Vec<u8> {
    let mut out = BytesMut::new();
    for body in ["one", "two"] {
        let host = "127.0.0.1:1".parse().unwrap();
        let parts = RecordParts {
            topic: "T",
            queue_id: 1,
            flag: 5,
            sys_flag: 0,
            born_timestamp_ms: 11,
            born_host: host,
            store_host: host,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: body.as_bytes(),
            properties: &["TAGS\u{1}TagA\u{2}UNIQ_KEY\u{1}KEY\u{2}"],
        };
        parts.encode_into(&mut out).unwrap();
    }
    out.to_vec()
}

#[tokio::test]
async fn a_pull_brings_messages_or_says_why_not() {
    let broker = FakeServer::start(|request| {
        let header = PullHeader::decode(&request).unwrap();
        assert_eq!((&*header.topic, header.queue_id, header.sys_flag), ("T", 1, 4));
        let fields = PullResponse {
            next_begin_offset: header.queue_offset + 2,
            min_offset: 1,
            max_offset: 9,
            ..Default::default()
        };
        match header.queue_offset {
            3 => answer(&request, response::SUCCESS, fields, &records()),
            4 => answer(&request, response::SUCCESS, fields, b"no records"),
            offset => answer(&request, 19 + (offset - 5) as i32, fields, b""),
        }
    })
    .await;
    let routes = Routes::default();
    routes.set("T", broker.addr);
    let names = routes.serve().await;
    let consumer = PullConsumer::new(client(&[&names]), "g").unwrap();
    let pulled = consumer.pull(&queue(), 3, PullOptions::default()).await.unwrap();
    assert_eq!((pulled.status, pulled.next_begin_offset, pulled.max_offset), (PullStatus::Found, 5, 9));
    let bodies: Vec<_> = pulled.messages.iter().map(|m| &m.body[..]).collect();
    assert_eq!(bodies, [b"one", b"two"]);
    let first = &pulled.messages[0];
    assert_eq!((first.flag, first.born_timestamp_ms, first.message_id.as_deref()), (5, 11, Some("KEY")));
    assert_eq!(first.property("TAGS"), Some("TagA"));
    let error = consumer.pull(&queue(), 4, PullOptions::default()).await.unwrap_err();
    assert!(matches!(error, ClientError::Malformed { .. }), "{error}");
    for (offset, status) in
        [(5, PullStatus::NoNewMsg), (6, PullStatus::NoMatchedMsg), (7, PullStatus::OffsetIllegal)]
    {
        let pulled = consumer.pull(&queue(), offset, PullOptions::default()).await.unwrap();
        assert_eq!((pulled.status, pulled.messages.len()), (status, 0));
    }
}

#[tokio::test]
async fn offsets_are_asked_for_and_stored() {
    let broker = FakeServer::start(|request| {
        let offset = match request.code {
            request::GET_MAX_OFFSET => 90,
            request::GET_MIN_OFFSET => 10,
            request::SEARCH_OFFSET_BY_TIMESTAMP => 50,
            request::QUERY_CONSUMER_OFFSET if request.ext.get("consumerGroup").unwrap() == "new" => {
                return refused(&request, response::QUERY_NOT_FOUND);
            }
            request::QUERY_CONSUMER_OFFSET => 33,
            request::UPDATE_CONSUMER_OFFSET => request.ext.get_i64("commitOffset").unwrap().unwrap(),
            code => panic!("unexpected request {code}"),
        };
        let fields = OffsetResponse { offset }.to_ext();
        Reply::Answer(Command::response_to(&request, response::SUCCESS).with_ext(fields))
    })
    .await;
    let routes = Routes::default();
    routes.set("T", broker.addr);
    let names = routes.serve().await;
    let client = client(&[&names]);
    assert_eq!(client.max_offset(&queue()).await.unwrap(), 90);
    assert_eq!(client.min_offset(&queue()).await.unwrap(), 10);
    assert_eq!(client.search_offset(&queue(), 5).await.unwrap(), 50);
    let known = PullConsumer::new(client.clone(), "known").unwrap();
    assert_eq!(known.query_offset(&queue()).await.unwrap(), Some(33));
    known.update_offset(&queue(), 34).await.unwrap();
    let new = PullConsumer::new(client.clone(), "new").unwrap();
    assert_eq!(new.query_offset(&queue()).await.unwrap(), None);
    assert_eq!(client.fetch_queues("T").await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_topic_is_created_at_every_leader() {
    let broker = FakeServer::start(|request| {
        let header = CreateTopicHeader::decode(&request).unwrap();
        assert_eq!((header.topic.as_str(), header.read_queue_nums, header.perm), ("New", 3, 6));
        assert_eq!(header.attributes.as_deref(), Some("+message.type=NORMAL"));
        Reply::Answer(Command::response_to(&request, response::SUCCESS))
    })
    .await;
    let leader = broker.addr.to_string();
    let names = FakeServer::start(move |request| {
        assert_eq!(request.code, request::GET_BROKER_CLUSTER_INFO);
        let broker = |addrs: &[(i64, &str)]| BrokerData {
            broker_addrs: addrs.iter().map(|(id, addr)| (*id, (*addr).to_owned())).collect(),
            ..BrokerData::default()
        };
        let table = [
            ("a".to_owned(), broker(&[(0, &leader), (2, "127.0.0.1:1")])),
            ("b".to_owned(), broker(&[(0, &leader)])),
            ("c".to_owned(), broker(&[(3, "127.0.0.1:1")])),
        ];
        let info = ClusterInfo { broker_addr_table: table.into(), ..ClusterInfo::default() };
        let body = fastjson::to_vec(&info).unwrap();
        Reply::Answer(Command::response_to(&request, response::SUCCESS).with_body(body))
    })
    .await;
    let topic = TopicConfig {
        topic_name: "New".into(),
        read_queue_nums: 3,
        write_queue_nums: 3,
        attributes: [("message.type".to_owned(), "NORMAL".to_owned())].into(),
        ..TopicConfig::default()
    };
    client(&[&names]).create_topic(&topic).await.unwrap();
    assert_eq!(broker.requests(), 2);
}
