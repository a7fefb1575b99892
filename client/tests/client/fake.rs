//! A name server and answers of brokers, as a test wants them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use bytes::BytesMut;
use parking_lot::Mutex;
use raftmq_client::{Client, ClientConfig};
use raftmq_remoting::body::{BrokerData, QueueData, TopicRouteData};
use raftmq_remoting::codes::{request, response};
use raftmq_remoting::encode::write_send_response;
use raftmq_remoting::header::{SendHeader, SendResponse};
use raftmq_remoting::{Command, Serialization, fastjson};
pub(crate) use raftmq_testkit::{FakeServer, Reply};

/// A name server whose routes a test changes: leaders by topic, each with queues of `broker-a`.
#[derive(Clone)]
pub(crate) struct Routes {
    leaders: Arc<Mutex<HashMap<String, SocketAddr>>>,
    queues: Arc<AtomicUsize>,
    /// Has the broker id 2.
    follower: Arc<Mutex<Option<SocketAddr>>>,
}

impl Default for Routes {
    fn default() -> Self {
        Self { leaders: Arc::default(), follower: Arc::default(), queues: Arc::new(AtomicUsize::new(2)) }
    }
}

impl Routes {
    pub(crate) fn set(&self, topic: &str, leader: SocketAddr) {
        self.leaders.lock().insert(topic.to_owned(), leader);
    }

    /// Sets how many queues every topic has; two unless told otherwise.
    pub(crate) fn set_queues(&self, queues: usize) {
        self.queues.store(queues, Ordering::Relaxed);
    }

    pub(crate) fn set_follower(&self, follower: SocketAddr) {
        *self.follower.lock() = Some(follower);
    }

    pub(crate) async fn serve(&self) -> FakeServer {
        let routes = self.clone();
        FakeServer::start(move |request| routes.answer(&request)).await
    }

    fn answer(&self, request: &Command) -> Reply {
        assert_eq!(request.code, request::GET_ROUTEINFO_BY_TOPIC);
        let topic = request.ext.get("topic").unwrap();
        let Some(leader) = self.leaders.lock().get(&*topic).copied() else {
            let unknown = Command::response_to(request, response::TOPIC_NOT_EXIST);
            return Reply::Answer(unknown.with_remark(format!("no route to {topic}")));
        };
        let queues = self.queues.load(Ordering::Relaxed) as i32;
        let route = TopicRouteData {
            broker_datas: vec![BrokerData {
                broker_addrs: [(0, Some(leader)), (2, *self.follower.lock())]
                    .into_iter()
                    .filter_map(|(id, addr)| Some((id, addr?.to_string())))
                    .collect(),
                broker_name: "broker-a".into(),
                ..BrokerData::default()
            }],
            queue_datas: vec![QueueData {
                broker_name: "broker-a".into(),
                perm: 6,
                read_queue_nums: queues,
                write_queue_nums: queues,
                topic_sys_flag: 0,
            }],
            ..TopicRouteData::default()
        };
        let body = fastjson::to_vec(&route).unwrap();
        Reply::Answer(Command::response_to(request, response::SUCCESS).with_body(body))
    }
}

/// Stores a message at offset 7 of the queue it was sent to.
pub(crate) fn stored(request: &Command) -> Reply {
    let header = SendHeader::decode(request).unwrap();
    let fields = SendResponse {
        msg_id: "OFFSET-ID".into(),
        queue_id: header.queue_id,
        queue_offset: 7,
        transaction_id: None,
        region: None,
        trace_on: true,
    };
    let mut out = BytesMut::new();
    let json = Serialization::Json;
    write_send_response(&mut out, json, request.opaque, response::SUCCESS, None, &fields).unwrap();
    Reply::Raw(out.to_vec())
}

pub(crate) fn refused(request: &Command, code: i32) -> Reply {
    Reply::Answer(Command::response_to(request, code).with_remark("refused by the test"))
}

/// A client with short timeouts.
pub(crate) fn client(name_servers: &[&FakeServer]) -> Client {
    let list: Vec<_> = name_servers.iter().map(|server| server.addr.to_string()).collect();
    Client::new(ClientConfig {
        try_timeout: std::time::Duration::from_millis(150),
        request_timeout: std::time::Duration::from_millis(1500),
        ..ClientConfig::new(&list.join(";"))
    })
}

/// Begins something and does not wait for its end.
pub(crate) async fn abandon<T>(begun: impl Future<Output = T>) {
    let mut begun = std::pin::pin!(begun);
    let is_pending = std::future::poll_fn(|context| Poll::Ready(begun.as_mut().poll(context).is_pending()));
    assert!(is_pending.await, "it has ended already");
}
