//! A server that speaks frames and does what a test tells it to, as a name server or a broker.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::BytesMut;
use parking_lot::Mutex;
use raftmq_remoting::Command;
use raftmq_remoting::codes::{request, response};
use raftmq_remoting::encode::encode_command;
use raftmq_remoting::frame::{self, FRAME_LEN_MAX};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// What becomes of a request.
pub enum Reply {
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
pub struct FakeServer {
    pub addr: SocketAddr,
    pub requests: Arc<AtomicUsize>,
    outboxes: Arc<Mutex<Vec<Outbox>>>,
    task: tokio::task::JoinHandle<()>,
}

impl FakeServer {
    /// A server that answers heartbeats by itself and leaves the rest to `handler`.
    pub async fn start(handler: impl Fn(Command) -> Reply + Send + Sync + 'static) -> Self {
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
    pub async fn start_raw(handler: impl Fn(Command) -> Reply + Send + Sync + 'static) -> Self {
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

    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Sends a request of the server's own to every client.
    pub fn ask_clients(&self, request: &Command) {
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
