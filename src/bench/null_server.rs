//! A server that reads frames and acknowledges sends without storing anything: the ceiling of what the generator and
//! the machine's sockets can do.

use std::net::SocketAddr;

use anyhow::Context;
use bytes::BytesMut;
use raftmq_remoting::encode::write_send_response;
use raftmq_remoting::frame::{self, FRAME_LEN_MAX};
use raftmq_remoting::header::{SendHeader, SendResponse};
use raftmq_remoting::{Command, RawFrame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Room made for each read.
const READ_BYTES: usize = 256 * 1024;

/// Accepts connections until the process ends.
pub(crate) fn run(listen: SocketAddr) -> anyhow::Result<()> {
    super::current_thread()?.block_on(async {
        let listener = TcpListener::bind(listen).await.with_context(|| format!("listen on {listen}"))?;
        tracing::info!(%listen, "acknowledging without storing");
        serve(listener).await
    })
}

pub(super) async fn serve(listener: TcpListener) -> anyhow::Result<()> {
    loop {
        let (stream, peer) = listener.accept().await.context("accept")?;
        tokio::spawn(async move {
            if let Err(error) = answer_all(stream).await {
                tracing::debug!(%peer, %error, "connection closed");
            }
        });
    }
}

async fn answer_all(mut stream: TcpStream) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = BytesMut::new();
    let mut output = BytesMut::new();
    let mut queue_offset = 0;
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
    let header = SendHeader::decode(&request)?;
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
