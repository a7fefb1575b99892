//! One kept connection to another server, a name server or the leader: a request, its answer, and never longer than the
//! time limit.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use raftmq_remoting::encode::encode_command;
use raftmq_remoting::{Command, CommandError, EncodeError, FrameError, frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::limits::NAME_SERVER_ANSWER_BYTES_MAX;

/// Why a server has not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error("code {code}: {remark}")]
    Refused { code: i32, remark: String },
}

pub(crate) struct Peer {
    /// `host:port`; looked up anew for every connection.
    pub(crate) address: String,
    /// How long a request may take, connecting included.
    patience: Duration,
    stream: Option<TcpStream>,
    input: BytesMut,
    next_opaque: i32,
}

impl Peer {
    pub(crate) fn new(address: String, patience: Duration) -> Self {
        Self { address, patience, stream: None, input: BytesMut::new(), next_opaque: 0 }
    }

    /// Sends a request and waits for its success. A connection that failed is not used again.
    pub(crate) async fn call(&mut self, request: Command) -> Result<(), PeerError> {
        let answered = timeout(self.patience, self.exchange(request)).await;
        let outcome = answered.unwrap_or(Err(PeerError::Timeout(self.patience)));
        if !matches!(outcome, Ok(()) | Err(PeerError::Refused { .. })) {
            self.stream = None;
            self.input.clear();
        }
        outcome
    }

    async fn exchange(&mut self, mut request: Command) -> Result<(), PeerError> {
        self.next_opaque = self.next_opaque.wrapping_add(1);
        request.opaque = self.next_opaque;
        let mut out = BytesMut::new();
        encode_command(&request, &mut out)?;
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(&self.address).await?;
                stream.set_nodelay(true)?;
                self.stream.insert(stream)
            }
        };
        stream.write_all(&out).await?;
        loop {
            while let Some(frame) = frame::decode(&mut self.input, NAME_SERVER_ANSWER_BYTES_MAX)? {
                let answer = Command::decode(frame)?;
                if answer.is_response() && answer.opaque == request.opaque {
                    return match answer.code {
                        0 => Ok(()),
                        code => Err(PeerError::Refused { code, remark: answer.remark.unwrap_or_default() }),
                    };
                }
            }
            if stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use raftmq_remoting::Ext;
    use tokio::net::TcpListener;

    use super::*;
    use crate::broker::limits::NAME_SERVER_TIMEOUT;

    /// Answers each request with the next of `codes`, then closes.
    async fn server(codes: &'static [i32]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut input = BytesMut::new();
                for code in codes {
                    let request = loop {
                        if let Some(frame) = frame::decode(&mut input, 1 << 20).unwrap() {
                            break Command::decode(frame).unwrap();
                        }
                        if stream.read_buf(&mut input).await.unwrap() == 0 {
                            return;
                        }
                    };
                    let mut out = BytesMut::new();
                    encode_command(&Command::response_to(&request, *code), &mut out).unwrap();
                    stream.write_all(&out).await.unwrap();
                }
            }
        });
        address
    }

    #[tokio::test]
    async fn a_connection_is_kept_and_a_broken_one_replaced() {
        let mut name_server = Peer::new(server(&[0, 1]).await, NAME_SERVER_TIMEOUT);
        let request = || Command::request(103, Ext::new());
        name_server.call(request()).await.unwrap();
        assert!(matches!(name_server.call(request()).await, Err(PeerError::Refused { code: 1, .. })));
        assert!(matches!(name_server.call(request()).await, Err(PeerError::Io(_))));
        name_server.call(request()).await.unwrap();
    }

    #[tokio::test]
    async fn a_name_server_that_says_nothing_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut name_server = Peer::new(listener.local_addr().unwrap().to_string(), NAME_SERVER_TIMEOUT);
        let outcome = name_server.call(Command::request(103, Ext::new())).await;
        assert!(matches!(outcome, Err(PeerError::Timeout(_))));
        assert!(name_server.stream.is_none());
    }
}
