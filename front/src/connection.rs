//! One client connection: a task reads, cuts the bytes into requests and handles all of one read together.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use raftmq_broker::send::{Missing, TopicCache};
use raftmq_remoting::header::{SendBackHeader, SendHeader};
use raftmq_remoting::{Command, CommandError, FrameError, frame};
use raftmq_world::{Accepted, ReadHalf};
use tokio::io::AsyncReadExt;

use crate::channel::Channel;
use crate::limits::{READ_BYTES, SMALL_REST_BYTES};
use crate::node::Node;
use crate::reply::{Handled, Refusal, Reply, write_handled};
use crate::requests::{self, Handler, Otherwise, Row, ServedBy};
use crate::send_batch::SendBatch;
use crate::sending::{Unsent, create_for_send, given_back, send_of};
use crate::{buffers, forwarding, inquiry};

/// Why a connection is closed from this side.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error("{bytes} bytes of unfinished requests are buffered, the limit is {limit}")]
    Input { bytes: usize, limit: usize },
}

/// Has a connection served until it ends. It is known at once, so that of two the one that was accepted later is the newer.
pub(crate) fn begin(node: &Arc<Node>, accepted: Accepted) {
    let Accepted { stream, peer, place } = accepted;
    let (reader, writer) = stream.into_split();
    let channel = node.process.open_channel(peer, writer);
    node.connections.add(channel.clone());
    let node = node.clone();
    tokio::spawn(async move {
        serve(node, channel, reader).await;
        drop(place);
    });
}

async fn serve(node: Arc<Node>, channel: Arc<Channel>, reader: ReadHalf) {
    let writing = tokio::spawn({
        let channel = channel.clone();
        async move { channel.write_loop().await }
    });
    let mut connection = Connection {
        node: node.clone(),
        channel: channel.clone(),
        topic: TopicCache::default(),
        buffered: 0,
        has_settled: false,
    };
    if let Err(error) = connection.read_loop(reader).await {
        tracing::debug!(peer = %channel.peer, %error, "closing a connection");
    }
    connection.count_buffered(0);
    node.close_channel(&channel);
    if let Err(error) = writing.await {
        tracing::debug!(peer = %channel.peer, %error, "the writing task failed");
    }
}

struct Connection {
    node: Arc<Node>,
    channel: Arc<Channel>,
    topic: TopicCache,
    /// Bytes of an incomplete frame that the process has counted.
    buffered: usize,
    /// Whether a request of this read has waited for who serves already.
    has_settled: bool,
}

impl Connection {
    async fn read_loop(&mut self, mut reader: ReadHalf) -> Result<(), ConnectionError> {
        let mut input = BytesMut::new();
        loop {
            self.channel.may_read().await;
            if self.channel.is_closed() {
                return Ok(());
            }
            // Idle connections hold no buffer, or a small one with the beginning of a request.
            reader.readable().await?;
            if input.len() < SMALL_REST_BYTES {
                let rest = std::mem::replace(&mut input, buffers::take());
                input.extend_from_slice(&rest);
            }
            input.reserve(READ_BYTES);
            if reader.read_buf(&mut input).await? == 0 {
                return Ok(());
            }
            self.channel.touch(self.node.process.now_ms());
            self.handle_all(&mut input).await?;
            if input.len() < SMALL_REST_BYTES {
                let rest = BytesMut::from(&input[..]);
                buffers::give(std::mem::replace(&mut input, rest));
            }
            self.count_buffered(input.len());
            let (bytes, limit) =
                (self.node.process.buffered_input.get(), self.node.process.limits.input_bytes);
            if bytes > limit && !input.is_empty() {
                return Err(ConnectionError::Input { bytes, limit });
            }
        }
    }

    fn count_buffered(&mut self, bytes: usize) {
        if bytes != self.buffered {
            self.node.process.buffered_input.add(bytes);
            self.node.process.buffered_input.sub(self.buffered);
            self.buffered = bytes;
        }
    }

    /// Handles every complete request in `input`.
    async fn handle_all(&mut self, input: &mut BytesMut) -> Result<(), ConnectionError> {
        // Records take about as much as the requests they come in.
        let mut sends = SendBatch::with_room(input.len());
        self.has_settled = false;
        let handled = self.handle_frames(input, &mut sends).await;
        // What came before a broken frame is carried out and answered.
        self.finish(&mut sends);
        handled
    }

    async fn handle_frames(
        &mut self,
        input: &mut BytesMut,
        sends: &mut SendBatch,
    ) -> Result<(), ConnectionError> {
        while let Some(frame) = frame::decode(input, self.node.process.limits.frame_bytes)? {
            if self.channel.is_closed() {
                return Ok(());
            }
            let command = Command::decode(frame)?;
            if command.is_response() {
                self.channel.calls.answered(command);
                continue;
            }
            self.handle(&command, sends).await;
        }
        Ok(())
    }

    /// Submits what has gathered and sends what was answered.
    fn finish(&self, sends: &mut SendBatch) {
        sends.submit(&self.node, &self.channel);
        self.channel.flush();
    }

    /// Does what the table of requests says.
    async fn handle(&mut self, command: &Command, sends: &mut SendBatch) {
        let row = match requests::row(command.code).and_then(|row| self.admit(row, command).map(|()| row)) {
            Ok(row) => row,
            Err(refusal) => return self.refuse(command, &refusal),
        };
        self.settle_role(row, sends).await;
        match row.handler {
            Handler::Send => self.send(row, command, sends).await,
            Handler::GiveBack => {
                self.before_giving_back(command, sends).await;
                self.send(row, command, sends).await;
            }
            Handler::Pull => {
                let before_waiting = || self.finish(sends);
                let handled = inquiry::pull(&self.node, &self.channel, command, before_waiting);
                if let Err(refusal) = handled.await {
                    self.refuse(command, &refusal);
                }
            }
            Handler::Later(handle) => {
                self.finish(sends);
                match self.may_serve(row).and_then(|()| handle(&self.node, command)) {
                    // Others of the connection do not wait for it.
                    Ok(handled) => self.answer_later(command, handled),
                    Err(refusal) => self.refuse(command, &refusal),
                }
            }
            Handler::AtOnce(handle) => {
                self.finish(sends);
                let handle = |node, channel, command| std::future::ready(handle(node, channel, command));
                self.handle_in_turn(row, command, handle).await;
            }
            Handler::InTurn(handle) => {
                // It may take a while: what came before it does not wait for it.
                self.finish(sends);
                self.handle_in_turn(row, command, handle).await;
            }
            Handler::Not(why) => self.refuse(command, &Refusal::unsupported(why)),
        }
    }

    /// The first request of a read that a leader is needed for waits a moment where this member leads and may not answer, or
    /// not yet.
    async fn settle_role(&mut self, row: &Row, sends: &mut SendBatch) {
        let waits = row.served_by != ServedBy::Any && !std::mem::replace(&mut self.has_settled, true);
        if waits && self.node.replica.is_between() {
            self.finish(sends);
            self.node.replica.settle_role().await;
        }
    }

    /// Whether a request is within its bounds.
    fn admit(&self, row: &Row, command: &Command) -> Result<(), Refusal> {
        match row.body_max {
            Some(max) if command.body.len() > max => {
                let (name, len) = (row.name(), command.body.len());
                Err(Refusal::illegal(format!("{name} with a body of {len} bytes, at most {max}")))
            }
            _ => Ok(()),
        }
    }

    /// Whether this member serves a request, unless that depends on what it asks for.
    fn may_serve(&self, row: &Row) -> Result<(), Refusal> {
        match row.served_by {
            ServedBy::Leader => self.node.leading().map(drop),
            ServedBy::Reader | ServedBy::Any => Ok(()),
        }
    }

    /// A few bytes ask for a large record: the bounds hold between two of them, not only between two reads.
    async fn before_giving_back(&self, command: &Command, sends: &mut SendBatch) {
        if self.channel.must_pause() {
            self.finish(sends);
            self.channel.may_read().await;
        }
        let header = SendBackHeader::decode(command).ok();
        if header.is_some_and(|header| self.node.broker.sends.is_ahead(header.offset)) {
            self.finish(sends);
            self.node.replica.settle().await;
        }
    }

    /// Handles what is answered before the next request is looked at.
    async fn handle_in_turn<'a, F: Future<Output = Handled>>(
        &'a self,
        row: &Row,
        command: &'a Command,
        handle: impl FnOnce(&'a Arc<Node>, &'a Arc<Channel>, &'a Command) -> F,
    ) {
        if self.channel.is_congested() {
            self.refuse(command, &Refusal::busy("too many bytes wait to be sent"));
        } else {
            let handled = match (self.may_serve(row), row.otherwise) {
                (Ok(()), _) => handle(&self.node, &self.channel, command).await,
                (Err(refusal), Otherwise::PassOn) => {
                    Box::pin(forwarding::pass_on(&self.node, command, refusal)).await
                }
                (Err(refusal), Otherwise::Refuse) => Err(refusal),
            };
            if !command.is_oneway() {
                self.channel.write(|out| write_handled(out, command, handled));
            }
        }
        // Few of these wait for anything: other connections have their turn between two of them.
        tokio::task::yield_now().await;
    }

    /// Answers when others have done their part. Until then the connection goes on, within its bounds.
    fn answer_later(&self, command: &Command, handled: impl Future<Output = Handled> + Send + 'static) {
        if command.is_oneway() {
            return;
        }
        if self.channel.is_congested() {
            return self.refuse(command, &Refusal::busy("too many bytes wait to be sent"));
        }
        let bytes = command.body.len();
        self.channel.begin(1, bytes);
        let request = Command { body: Bytes::new(), ..command.clone() };
        let channel = self.channel.clone();
        tokio::spawn(async move {
            let handled = handled.await;
            channel.write(|out| write_handled(out, &request, handled));
            channel.end(1, bytes);
        });
    }

    async fn send(&mut self, row: &Row, command: &Command, sends: &mut SendBatch) {
        let outcome = match self.encode(row, command, sends) {
            Err(Unsent::Missing(missing)) => {
                self.finish(sends);
                Box::pin(self.send_to_new_topic(row, command, missing, sends)).await
            }
            Err(Unsent::Refused(refusal)) => Err(refusal),
            Ok(()) => Ok(()),
        };
        if let Err(refusal) = outcome {
            self.node.stats.put_failed(1);
            self.refuse(command, &refusal);
        }
    }

    async fn send_to_new_topic(
        &mut self,
        row: &Row,
        command: &Command,
        mut missing: Missing,
        sends: &mut SendBatch,
    ) -> Result<(), Refusal> {
        // A returned message may need its group's retry topic and then the one of the dead letters.
        for _ in 0..2 {
            create_for_send(&self.node, command, &missing).await?;
            missing = match self.encode(row, command, sends) {
                Ok(()) => return Ok(()),
                Err(Unsent::Refused(refusal)) => return Err(refusal),
                Err(Unsent::Missing(next)) => next,
            };
        }
        Err(Refusal::unavailable("the topic has been deleted again"))
    }

    /// Checks a send and adds its records to the batch.
    fn encode(&mut self, row: &Row, command: &Command, sends: &mut SendBatch) -> Result<(), Unsent> {
        self.may_serve(row)?;
        let records = sends.records();
        let start = records.end();
        let gives_back = matches!(row.handler, Handler::GiveBack);
        let encoded = if gives_back {
            let header = SendBackHeader::decode(command).map_err(Refusal::from)?;
            match self.node.broker.sends.give_back(&given_back(command, &header), records)? {
                Some(encoded) => encoded,
                None => {
                    self.succeed(command);
                    return Ok(());
                }
            }
        } else {
            let header = SendHeader::decode(command).map_err(Refusal::from)?;
            let send = send_of(&header, &command.body, self.channel.peer);
            self.node.broker.sends.encode(&mut self.topic, &send, records)?
        };
        sends.add(&self.node, &self.channel, (command, gives_back), &encoded, start);
        Ok(())
    }

    fn succeed(&self, command: &Command) {
        if !command.is_oneway() {
            self.channel.put(|out| write_handled(out, command, Reply::done()));
        }
    }

    fn refuse(&self, command: &Command, refusal: &Refusal) {
        if !command.is_oneway() {
            self.channel.put(|out| refusal.write(out, command.serialization, command.opaque));
        }
    }
}
