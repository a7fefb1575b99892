//! How a connection between members begins: both say who they are, then both prove the secret that members share.
//!
//! | caller | acceptor |
//! |---|---|
//! | hello | |
//! | | hello, proof; or a refusal |
//! | proof | |
//!
//! Nothing else is taken from who has not proved it. A hello says its version first, so that another kind of security can
//! take the place of the proofs.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use raftmq_world::{Random, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::hello::{Acquaintances, Hello};
use crate::secret::{Exchange, Nonce, Secret, Side};
use crate::wire::{self, Greeting, Kind, Message};

/// How this member begins its connections.
#[derive(Clone)]
pub(crate) struct Greeter {
    pub(crate) acquaintances: Arc<Acquaintances>,
    pub(crate) secret: Option<Secret>,
    pub(crate) random: Random,
}

/// What one side has said, and the bytes that it said it with.
struct Said {
    greeting: Greeting,
    content: Bytes,
}

impl Greeter {
    /// Begins a connection that this member has opened; says who answers.
    ///
    /// # Errors
    /// The other side refuses or has no part in this group, with the reason; the connection failed.
    pub(crate) async fn call(&self, stream: &mut Stream, received: &mut BytesMut) -> io::Result<Hello> {
        let own = self.hello(stream).await?;
        let theirs = heard(next_message(stream, received).await?)?;
        if let Some(reason) = own.greeting.hello.contradiction(&theirs.greeting.hello) {
            return Err(io::Error::other(reason));
        }
        let said = Exchange { caller: &own.content, acceptor: &theirs.content };
        let node = theirs.greeting.hello.node();
        self.check_proof(next_message(stream, received).await?, Side::Acceptor, said, node)?;
        self.prove(stream, Side::Caller, said).await?;
        Ok(theirs.greeting.hello)
    }

    /// Begins a connection that this member has accepted. `admit` says whether who calls may, once it has proved the secret.
    ///
    /// # Errors
    /// Whoever calls is refused, and has been told why; the connection failed.
    pub(crate) async fn accept<T>(
        &self,
        stream: &mut Stream,
        received: &mut BytesMut,
        admit: impl FnOnce(&Hello) -> Result<T, String>,
    ) -> io::Result<(Hello, T)> {
        match self.try_accept(stream, received, admit).await {
            Err(error) if error.kind() == io::ErrorKind::Other => {
                let mut out = BytesMut::new();
                wire::put_refusal(&mut out, 0, &error.to_string());
                stream.write_all(&out).await?;
                Err(error)
            }
            done => done,
        }
    }

    async fn try_accept<T>(
        &self,
        stream: &mut Stream,
        received: &mut BytesMut,
        admit: impl FnOnce(&Hello) -> Result<T, String>,
    ) -> io::Result<(Hello, T)> {
        let theirs = heard(next_message(stream, received).await?)?;
        if let Some(reason) = self.acquaintances.own().contradiction(&theirs.greeting.hello) {
            return Err(io::Error::other(reason));
        }
        let own = self.hello(stream).await?;
        let said = Exchange { caller: &theirs.content, acceptor: &own.content };
        self.prove(stream, Side::Acceptor, said).await?;
        let node = theirs.greeting.hello.node();
        self.check_proof(next_message(stream, received).await?, Side::Caller, said, node)?;
        let admitted = admit(&theirs.greeting.hello).map_err(io::Error::other)?;
        Ok((theirs.greeting.hello, admitted))
    }

    /// Says who this is.
    async fn hello(&self, stream: &mut Stream) -> io::Result<Said> {
        let mut nonce = Nonce::default();
        for half in nonce.chunks_mut(8) {
            half.copy_from_slice(&self.random.number().to_le_bytes());
        }
        let greeting = Greeting { hello: self.acquaintances.own(), nonce };
        let mut out = BytesMut::new();
        wire::put_hello(&mut out, &greeting);
        stream.write_all(&out).await?;
        Ok(Said { greeting, content: out.freeze().slice(wire::HEAD_BYTES..) })
    }

    async fn prove(&self, stream: &mut Stream, side: Side, said: Exchange<'_>) -> io::Result<()> {
        let proof = self.secret.as_ref().map(|secret| secret.prove(side, said));
        let mut out = BytesMut::new();
        wire::put_proof(&mut out, proof.as_ref());
        stream.write_all(&out).await
    }

    fn check_proof(&self, message: Message, side: Side, said: Exchange<'_>, node: u64) -> io::Result<()> {
        let proof = wire::read_proof(expect(message, Kind::Proof)?).map_err(io::Error::other)?;
        let own = self.acquaintances.node_id();
        let reason = match (&self.secret, proof) {
            (None, None) => return Ok(()),
            (Some(secret), Some(proof)) if secret.is_proved(side, said, &proof) => return Ok(()),
            (Some(_), Some(_)) => format!("node {node} and node {own} have different secrets"),
            (Some(_), None) => format!("node {node} has no secret of the members, node {own} has one"),
            (None, Some(_)) => format!("node {node} has a secret of the members, node {own} has none"),
        };
        Err(io::Error::other(reason))
    }
}

fn heard(message: Message) -> io::Result<Said> {
    let message = expect(message, Kind::Hello)?;
    let content = message.content().clone();
    Ok(Said { greeting: wire::read_hello(message).map_err(io::Error::other)?, content })
}

/// The message, if it is what is due; a refusal instead of it is an error with its reason.
fn expect(message: Message, kind: Kind) -> io::Result<Message> {
    match message.kind {
        due if due == kind => Ok(message),
        Kind::Refusal => Err(io::Error::new(io::ErrorKind::PermissionDenied, message.refusal())),
        other => Err(io::Error::other(format!("a {other:?} message where a {kind:?} was due"))),
    }
}

/// The next message, while nothing longer than a hello is taken.
async fn next_message(stream: &mut Stream, received: &mut BytesMut) -> io::Result<Message> {
    loop {
        let taken = wire::take_message_within(received, wire::HELLO_BYTES_MAX).map_err(io::Error::other)?;
        if let Some(message) = taken {
            return Ok(message);
        }
        if stream.read_buf(received).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
