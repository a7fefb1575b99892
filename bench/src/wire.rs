//! The buffers of a connection, and moving bytes between them and its socket.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use raftmq_world::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::{Response, Scanner};

/// A response may be as long as a frame.
const INPUT_BYTES_MAX: usize = 17 * 1024 * 1024;
/// How long a server may owe every response before the connection is given up.
pub(super) const STALLED: Duration = Duration::from_secs(10);

/// Both directions of a connection.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) input: Input,
    /// Requests that are not written yet, behind those that are.
    pub(super) output: Vec<u8>,
    written: usize,
}

/// What was read.
#[derive(Debug)]
pub(super) struct Input {
    scanner: Scanner,
    bytes: Vec<u8>,
    filled: usize,
    taken: usize,
}

impl Wire {
    /// Empty buffers; the one for input has `input_bytes` and grows with longer frames.
    pub(super) fn new(input_bytes: usize) -> Self {
        let input = Input { scanner: Scanner::default(), bytes: vec![0; input_bytes], filled: 0, taken: 0 };
        Self { input, output: Vec::new(), written: 0 }
    }

    /// Forgets everything, for a new connection.
    pub(super) fn clear(&mut self) {
        (self.input.filled, self.input.taken, self.written) = (0, 0, 0);
        self.output.clear();
    }

    /// Writes what is to be written and reads once. Nothing is lost when it is dropped halfway.
    pub(super) async fn exchange(&mut self, stream: &mut Stream) -> Result<(), String> {
        match poll_fn(|cx| self.poll(stream, cx)).await.map_err(|e| e.to_string())? {
            0 => Err("closed by the server".to_owned()),
            read => {
                self.input.filled += read;
                Ok(())
            }
        }
    }

    fn poll(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        while self.written < self.output.len() {
            match Pin::new(&mut *stream).poll_write(cx, &self.output[self.written..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => self.written += written,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => break,
            }
        }
        if self.written == self.output.len() {
            self.output.clear();
            self.written = 0;
        }
        let mut room = ReadBuf::new(self.input.room());
        ready!(Pin::new(stream).poll_read(cx, &mut room))?;
        Poll::Ready(Ok(room.filled().len()))
    }
}

impl Input {
    /// The next complete response.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Option<Response<'_>>, String> {
        let response = self.scanner.next(&self.bytes[self.taken..self.filled])?;
        self.taken += response.as_ref().map_or(0, |response| response.len);
        Ok(response)
    }

    /// Room for the next read.
    fn room(&mut self) -> &mut [u8] {
        self.bytes.copy_within(self.taken..self.filled, 0);
        self.filled -= self.taken;
        self.taken = 0;
        if self.filled == self.bytes.len() {
            // The scanner refuses frames longer than that, so this ends.
            self.bytes.resize((self.bytes.len() * 2).min(INPUT_BYTES_MAX), 0);
        }
        &mut self.bytes[self.filled..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_come_out_as_they_went_in_however_they_are_cut() {
        let header = |opaque: u32| format!("{{\"code\":0,\"flag\":1,\"opaque\":{opaque}}}");
        let mut stream = Vec::new();
        for opaque in 1..=40_u32 {
            let (header, body) = (header(opaque), vec![opaque as u8; opaque as usize * 3]);
            stream.extend_from_slice(&((header.len() + body.len() + 4) as u32).to_be_bytes());
            stream.extend_from_slice(&(header.len() as u32).to_be_bytes());
            stream.extend_from_slice(header.as_bytes());
            stream.extend_from_slice(&body);
        }
        for cut in [1, 7, 64, 1000] {
            let mut wire = Wire::new(16);
            let mut seen = 0;
            let mut rest = &stream[..];
            while !rest.is_empty() {
                let room = wire.input.room();
                let len = cut.min(room.len()).min(rest.len());
                room[..len].copy_from_slice(&rest[..len]);
                wire.input.filled += len;
                rest = &rest[len..];
                while let Some(response) = wire.input.next().unwrap() {
                    seen += 1;
                    assert_eq!(
                        (response.opaque, response.body),
                        (seen, &vec![seen as u8; seen as usize * 3][..])
                    );
                }
            }
            assert_eq!(seen, 40);
        }
    }
}
