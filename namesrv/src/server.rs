//! Sockets of a name server: one task for each connection, with bounds on all they may hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use raftmq_remoting::Command;
use raftmq_remoting::encode::encode_command;
use raftmq_remoting::frame;
use raftmq_world::{Accepted, Acceptor, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::handler::Names;

/// Connections at a time; each idle one costs some 10 KiB.
pub(super) const CONNECTIONS_MAX: usize = 4096;
/// A frame, as for every peer. A registration of 32,768 topics takes some 6 MiB.
const FRAME_BYTES_MAX: usize = frame::FRAME_LEN_MAX;
/// A frame up to this length is read without asking whether there is memory for it.
const SMALL_FRAME_BYTES: usize = 16 * 1024;
/// Memory for all longer frames that are being read, in KiB.
const LARGE_FRAMES_KIB_MAX: u32 = 64 * 1024;
/// Answers that gather before they are written.
const OUTPUT_BYTES: usize = 256 * 1024;
/// As RocketMQ: a connection on which nothing is said for so long is closed.
const IDLE: Duration = Duration::from_secs(120);
/// For a peer to take its answers.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often silent brokers are looked for.
const EXPIRY_SCAN: Duration = Duration::from_secs(1);

struct Server {
    names: Names,
    started: Instant,
    next_connection: AtomicU64,
    large_frames_kib: Arc<Semaphore>,
}

/// Serves until the task is aborted; that closes every connection.
pub(super) async fn run(acceptor: Acceptor, names: Names) {
    let server = Arc::new(Server {
        names,
        started: Instant::now(),
        next_connection: AtomicU64::new(0),
        large_frames_kib: Arc::new(Semaphore::new(LARGE_FRAMES_KIB_MAX as usize)),
    });
    let mut connections = JoinSet::new();
    let mut scan = tokio::time::interval(EXPIRY_SCAN);
    loop {
        tokio::select! {
            Accepted { stream, peer, place } = acceptor.next() => {
                let server = server.clone();
                connections.spawn(async move {
                    if let Err(error) = server.serve(stream).await {
                        tracing::debug!(%peer, error, "connection closed");
                    }
                    drop(place);
                });
            }
            Some(_) = connections.join_next() => {}
            _ = scan.tick() => server.names.expire(server.now_ms()),
        }
    }
}

/// Forgets what was registered on a connection, however its task ends.
struct Registered<'a> {
    server: &'a Server,
    connection: u64,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.server.names.connection_closed(self.connection);
    }
}

impl Server {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    async fn serve(&self, mut stream: Stream) -> Result<(), String> {
        let connection = self.next_connection.fetch_add(1, Ordering::Relaxed);
        let _registered = Registered { server: self, connection };
        let mut input = BytesMut::new();
        let mut output = BytesMut::new();
        let mut memory = None;
        loop {
            let missing = frame::missing(&input).unwrap_or(0);
            input.reserve(missing.clamp(1, SMALL_FRAME_BYTES));
            let read = timeout(IDLE, stream.read_buf(&mut input)).await.map_err(|_| "idle")?;
            if read.map_err(|error| error.to_string())? == 0 {
                return Ok(());
            }
            while let Some(frame) =
                frame::decode(&mut input, FRAME_BYTES_MAX).map_err(|error| error.to_string())?
            {
                let request = Command::decode(frame).map_err(|error| error.to_string())?;
                self.answer(connection, &request, &mut output)?;
                if output.len() >= OUTPUT_BYTES {
                    write(&mut stream, &mut output).await?;
                }
            }
            write(&mut stream, &mut output).await?;
            memory = self.memory_for(&input, memory)?;
            if memory.is_none() && input.capacity() > 2 * SMALL_FRAME_BYTES {
                // What is left over is short: give back the room a long frame took.
                input = BytesMut::from(&input[..]);
            }
        }
    }

    fn answer(&self, connection: u64, request: &Command, output: &mut BytesMut) -> Result<(), String> {
        if request.is_response() {
            return Ok(());
        }
        let answer = self.names.answer(self.now_ms(), connection, request);
        if request.is_oneway() {
            return Ok(());
        }
        encode_command(&answer, output).map_err(|error| error.to_string())
    }

    /// Sees to it that a long frame that has begun has its memory reserved.
    fn memory_for(
        &self,
        input: &BytesMut,
        held: Option<OwnedSemaphorePermit>,
    ) -> Result<Option<OwnedSemaphorePermit>, String> {
        let whole = input.len() + frame::missing(input).unwrap_or(0);
        if whole <= SMALL_FRAME_BYTES {
            return Ok(None);
        }
        // At most the largest frame, which was checked when its length was first seen.
        let kib = whole.div_ceil(1024) as u32;
        if held.as_ref().is_some_and(|permit| permit.num_permits() >= kib as usize) {
            return Ok(held);
        }
        drop(held);
        match self.large_frames_kib.clone().try_acquire_many_owned(kib) {
            Ok(permit) => Ok(Some(permit)),
            Err(_) => Err(format!("no memory for a frame of {whole} bytes while others are being read")),
        }
    }
}

async fn write(stream: &mut Stream, output: &mut BytesMut) -> Result<(), String> {
    if output.is_empty() {
        return Ok(());
    }
    let written = timeout(WRITE_TIMEOUT, stream.write_all(output)).await;
    written.map_err(|_| "the peer takes no answers")?.map_err(|error| error.to_string())?;
    *output = BytesMut::new();
    Ok(())
}
