//! A server that acknowledges sends without storing anything and answers pulls with messages that nobody sent: the
//! ceiling of what the generator and the machine's sockets can do.

use std::net::SocketAddr;

use anyhow::Context;
use bytes::BytesMut;
use raftmq_message::RecordParts;
use raftmq_message::record::QUEUE_OFFSET_AT;
use raftmq_remoting::codes::{request, response};
use raftmq_remoting::encode::{encode_command, write_pull_response_header, write_send_response};
use raftmq_remoting::frame::{self, FRAME_LEN_MAX};
use raftmq_remoting::header::{OffsetResponse, PullHeader, PullResponse, SendHeader, SendResponse};
use raftmq_remoting::{Command, RawFrame};
use raftmq_world::{Listener, Stream, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::thread::current_thread;

/// Room made for each read.
const READ_BYTES: usize = 256 * 1024;
/// Messages of each queue.
const BACKLOG: i64 = 100_000;
/// Messages of an answer at most.
const BATCH_MAX: i64 = 4096;

/// Acknowledges sends without storing them, until the process ends.
pub fn run_null_server(listen: SocketAddr, world: &World) -> anyhow::Result<()> {
    current_thread()?.block_on(async {
        let listener = world.network.listen(listen).with_context(|| format!("listen on {listen}"))?;
        tracing::info!(%listen, "acknowledging without storing");
        serve(listener).await
    })
}

async fn serve(listener: Listener) -> anyhow::Result<()> {
    loop {
        let (stream, peer) = listener.accept().await.context("accept")?;
        tokio::spawn(async move {
            if let Err(error) = answer_all(stream).await {
                tracing::debug!(%peer, %error, "connection closed");
            }
        });
    }
}

async fn answer_all(mut stream: Stream) -> anyhow::Result<()> {
    let mut input = BytesMut::new();
    let mut output = BytesMut::new();
    let mut queue_offset = 0_i64;
    loop {
        input.reserve(frame::missing(&input).unwrap_or(0).max(READ_BYTES));
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
        while let Some(frame) = frame::decode(&mut input, FRAME_LEN_MAX)? {
            answer(frame, queue_offset, &mut output)?;
            queue_offset += 1;
        }
        stream.write_all(&output).await?;
        output.clear();
    }
}

fn answer(frame: RawFrame, queue_offset: i64, output: &mut BytesMut) -> anyhow::Result<()> {
    let request = Command::decode(frame)?;
    match request.code {
        request::PULL_MESSAGE => answer_pull(&request, output),
        request::GET_MIN_OFFSET => answer_offset(&request, 0, output),
        request::GET_MAX_OFFSET => answer_offset(&request, BACKLOG, output),
        _ => answer_send(&request, queue_offset, output),
    }
}

fn answer_send(request: &Command, queue_offset: i64, output: &mut BytesMut) -> anyhow::Result<()> {
    let header = SendHeader::decode(request)?;
    let fields = SendResponse {
        msg_id: "00000000000000000000000000000000".into(),
        queue_id: header.queue_id,
        queue_offset,
        transaction_id: None,
        region: Some("DefaultRegion".into()),
        trace_on: true,
    };
    write_send_response(output, request.serialization, request.opaque, 0, None, &fields)?;
    Ok(())
}

fn answer_offset(request: &Command, offset: i64, output: &mut BytesMut) -> anyhow::Result<()> {
    let fields = OffsetResponse { offset };
    encode_command(&Command::response_to(request, 0).with_ext(fields.to_ext()), output)?;
    Ok(())
}

/// As many messages as are asked for, up to the backlog's end.
fn answer_pull(request: &Command, output: &mut BytesMut) -> anyhow::Result<()> {
    let header = PullHeader::decode(request)?;
    let wanted = i64::from(header.max_msg_nums).clamp(0, BATCH_MAX);
    let next_begin_offset = header.queue_offset.saturating_add(wanted).min(BACKLOG);
    let fields = PullResponse { next_begin_offset, max_offset: BACKLOG, ..PullResponse::default() };
    let offsets = header.queue_offset..next_begin_offset;
    let code = if offsets.is_empty() { response::PULL_NOT_FOUND } else { response::SUCCESS };
    let record = record()?;
    let len = record.len() * offsets.clone().count();
    write_pull_response_header(output, request.serialization, request.opaque, code, None, &fields, len)?;
    for offset in offsets {
        append_record(&record, offset, output);
    }
    Ok(())
}

/// Appends a record with this queue offset.
pub(super) fn append_record(record: &[u8], offset: i64, output: &mut BytesMut) {
    let start = output.len();
    output.extend_from_slice(record);
    output[start + QUEUE_OFFSET_AT..][..size_of::<i64>()].copy_from_slice(&offset.to_be_bytes());
}

/// The message that every pull finds.
pub(super) fn record() -> anyhow::Result<BytesMut> {
    let host = SocketAddr::from(([127, 0, 0, 1], 0));
    let parts = RecordParts {
        topic: "Bench",
        queue_id: 0,
        flag: 0,
        sys_flag: 0,
        born_timestamp_ms: 0,
        born_host: host,
        store_host: host,
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body: &[0; 128],
        properties: &[],
    };
    let mut record = BytesMut::new();
    parts.encode_into(&mut record)?;
    Ok(record)
}

#[cfg(test)]
pub(super) mod tests {
    use raftmq_world::{Network, OsNetwork};

    use super::*;

    /// Runs a test against a server of its own.
    pub(in super::super) fn with_server<T>(test: impl FnOnce(SocketAddr) -> T) -> T {
        let (tell, told) = std::sync::mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = std::thread::spawn(move || {
            current_thread().unwrap().block_on(async {
                let listener = OsNetwork.listen(([127, 0, 0, 1], 0).into()).unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                tokio::select! {
                    served = serve(listener) => served.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        let outcome = test(told.recv().unwrap());
        drop(stop);
        server.join().unwrap();
        outcome
    }
}
