//! A server that speaks frames and does what a test tells it to, as a name server or a broker.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use bytes::BytesMut;
use parking_lot::Mutex;
use raftmq_client::{Client, ClientConfig};
use raftmq_remoting::body::{BrokerData, QueueData, TopicRouteData};
use raftmq_remoting::codes::{request, response};
use raftmq_remoting::encode::{encode_command, write_send_response};
use raftmq_remoting::frame::{self, FRAME_LEN_MAX};
use raftmq_remoting::header::{SendHeader, SendResponse};
use raftmq_remoting::{Command, Serialization, fastjson};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// What becomes of a request.
pub(crate) enum Reply {
    Answer(Command),
    /// An answer that takes its time; others overtake it.
    Later(Pin<Box<dyn Future<Output = Command> + Send>>),
    /// Bytes as they are.
    Raw(Vec<u8>),
    Silence,
    Close,
}

type Handler = dyn Fn(Command) -> Reply + Send + Sync;

/// What goes to the other end of a connection.
type Outbox = mpsc::UnboundedSender<Vec<u8>>;

/// Listens on loopback until it is dropped.
pub(crate) struct FakeServer {
    pub(crate) addr: SocketAddr,
    pub(crate) requests: Arc<AtomicUsize>,
    outboxes: Arc<Mutex<Vec<Outbox>>>,
    task: tokio::task::JoinHandle<()>,
}

impl FakeServer {
    /// A server that answers heartbeats by itself and leaves the rest to `handler`.
    pub(crate) async fn start(handler: impl Fn(Command) -> Reply + Send + Sync + 'static) -> Self {
        let requests = Arc::new(AtomicUsize::new(0));
        let counter = requests.clone();
        let mut server = Self::start_raw(move |request| {
            if request.code == request::HEART_BEAT {
                return Reply::Answer(Command::response_to(&request, response::SUCCESS));
            }
            counter.fetch_add(1, Ordering::Relaxed);
            handler(request)
        })
        .await;
        server.requests = requests;
        server
    }

    /// A server that leaves everything to `handler`, and counts nothing.
    pub(crate) async fn start_raw(handler: impl Fn(Command) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let handler: Arc<Handler> = Arc::new(handler);
        let outboxes = Arc::<Mutex<Vec<Outbox>>>::default();
        let kept = outboxes.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (outbox, outgoing) = mpsc::unbounded_channel();
                kept.lock().push(outbox.clone());
                connections.spawn(serve(stream, handler.clone(), outbox, outgoing));
            }
        });
        Self { addr, requests: Arc::default(), outboxes, task }
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Sends a request of the server's own to every client.
    pub(crate) fn ask_clients(&self, request: &Command) {
        let bytes = encoded(request);
        self.outboxes.lock().retain(|outbox| outbox.send(bytes.clone()).is_ok());
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn encoded(command: &Command) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode_command(command, &mut out).unwrap();
    out.to_vec()
}

async fn serve(
    mut stream: TcpStream,
    handler: Arc<Handler>,
    outbox: Outbox,
    mut outgoing: mpsc::UnboundedReceiver<Vec<u8>>,
) {
    let mut input = BytesMut::new();
    let (mut reader, mut writer) = stream.split();
    loop {
        tokio::select! {
            Some(bytes) = outgoing.recv() => if writer.write_all(&bytes).await.is_err() {
                return;
            },
            read = reader.read_buf(&mut input) => if !read.is_ok_and(|read| read > 0) {
                return;
            },
        }
        while let Some(frame) = frame::decode(&mut input, FRAME_LEN_MAX).unwrap() {
            match handler(Command::decode(frame).unwrap()) {
                Reply::Answer(command) => outbox.send(encoded(&command)).unwrap(),
                Reply::Raw(bytes) => outbox.send(bytes).unwrap(),
                Reply::Later(answer) => {
                    let outbox = outbox.clone();
                    // The connection may be gone by then.
                    tokio::spawn(async move { drop(outbox.send(encoded(&answer.await))) });
                }
                Reply::Silence => {}
                Reply::Close => return,
            }
        }
    }
}

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

/// An address nobody listens on.
pub(crate) async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// Begins something and does not wait for its end.
pub(crate) async fn abandon<T>(begun: impl Future<Output = T>) {
    let mut begun = std::pin::pin!(begun);
    let is_pending = std::future::poll_fn(|context| Poll::Ready(begun.as_mut().poll(context).is_pending()));
    assert!(is_pending.await, "it has ended already");
}
