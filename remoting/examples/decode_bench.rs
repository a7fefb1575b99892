//! Prints what a message costs this crate: nanoseconds for a send request, from bytes in a buffer to typed fields, and
//! for its answer, in both serializations. Run with `--release`. Of many rounds the quickest counts, as whatever else the
//! machine does can only make one slower.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "measures in real time")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use raftmq_remoting::encode::{write_send_request, write_send_response};
use raftmq_remoting::frame::{self, FRAME_LEN_MAX, Serialization};
use raftmq_remoting::header::{SendHeader, SendResponse};
use raftmq_remoting::{Command, CommandError, EncodeError, FrameError, HeaderError};

/// Frames in the buffer that is decoded, as one read of a busy connection brings them.
const FRAMES: u32 = 256;
const ROUNDS: u32 = 4_000;

#[derive(Debug, thiserror::Error)]
enum BenchError {
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error(transparent)]
    Header(#[from] HeaderError),
}

fn request() -> SendHeader<'static> {
    SendHeader {
        producer_group: "PGx5".into(),
        topic: "Tpx5".into(),
        default_topic: "TBW102".into(),
        default_topic_queue_nums: 4,
        queue_id: 2,
        sys_flag: 0,
        born_timestamp_ms: 1_795_248_168_603,
        flag: 0,
        properties: "UNIQ_KEY\u{1}7F0000010000F5BF00000000000043E8\u{2}WAIT\u{1}true\u{2}TAGS\u{1}TagA\u{2}"
            .into(),
        reconsume_times: 0,
        unit_mode: false,
        max_reconsume_times: None,
        batch: false,
        broker_name: Some("broker-a".into()),
    }
}

fn decode_ns(serialization: Serialization) -> Result<f64, BenchError> {
    let mut frames = BytesMut::new();
    for opaque in 0..FRAMES {
        write_send_request(&mut frames, serialization, opaque as i32, false, &request(), &[7; 128])?;
    }
    let mut quickest = Duration::MAX;
    for _ in 0..ROUNDS {
        let mut buf = frames.clone();
        let begin = Instant::now();
        while let Some(frame) = frame::decode(&mut buf, FRAME_LEN_MAX)? {
            let command = Command::decode(frame)?;
            black_box(SendHeader::decode(&command)?);
        }
        quickest = quickest.min(begin.elapsed());
    }
    Ok(per_frame_ns(quickest))
}

fn answer_ns(serialization: Serialization) -> Result<f64, BenchError> {
    let fields = SendResponse {
        msg_id: "7F0000010000F5BF00000000000043E8".into(),
        queue_id: 2,
        queue_offset: 1_000_000,
        transaction_id: Some("7F0000010000F5BF00000000000043E8".into()),
        region: Some("DefaultRegion".into()),
        trace_on: true,
    };
    let mut out = BytesMut::new();
    let mut quickest = Duration::MAX;
    for _ in 0..ROUNDS {
        out.clear();
        let begin = Instant::now();
        for opaque in 0..FRAMES {
            write_send_response(&mut out, serialization, opaque as i32, 0, None, black_box(&fields))?;
        }
        quickest = quickest.min(begin.elapsed());
    }
    Ok(per_frame_ns(quickest))
}

fn per_frame_ns(round: Duration) -> f64 {
    round.as_nanos() as f64 / f64::from(FRAMES)
}

fn main() -> Result<(), BenchError> {
    for serialization in [Serialization::Json, Serialization::RocketMq] {
        let (decode, answer) = (decode_ns(serialization)?, answer_ns(serialization)?);
        println!(
            "{serialization:?}: send request decoded in {decode:.0} ns, answer written in {answer:.0} ns"
        );
    }
    Ok(())
}
