//! JSON as RocketMQ's Java peers read and write it, which is not always JSON.
//!
//! What fastjson 1 (RocketMQ 4.x) or fastjson 2 (5.x) accepts is accepted here and read as the same value: by
//! [`text`](self::text) as a text, by [`value`](self::value) as the type that a member has. Both are bounded in depth
//! and size. `remoting/tests/decoding.rs` holds them to what the two libraries were seen to do, and has the list of what
//! is refused here all the same.

mod text;
mod value;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::frame::FRAME_LEN_MAX;
pub use text::TextError;
pub use value::ShapeError;
pub(crate) use value::Value;

/// Why a body cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("body of {len} bytes is longer than {FRAME_LEN_MAX}")]
    TooLong { len: usize },
    #[error("body is no JSON: {0}")]
    Text(#[from] TextError),
    #[error("body does not fit: {0}")]
    Shape(#[from] ShapeError),
    #[error("body cannot be written: {0}")]
    Write(#[from] serde_json::Error),
}

/// Reads a body, standard JSON or not. Bytes that are no UTF-8 become U+FFFD, as in Java.
pub fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, BodyError> {
    if text.len() > FRAME_LEN_MAX {
        return Err(BodyError::TooLong { len: text.len() });
    }
    let text = String::from_utf8_lossy(text);
    Ok(T::deserialize(Value::read(&text)?)?)
}

/// Writes a body that has no maps keyed by message queue; those have a `to_json` of their own.
pub fn to_vec<T: Serialize>(body: &T) -> Result<Vec<u8>, BodyError> {
    Ok(serde_json::to_vec(body)?)
}

#[cfg(test)]
mod tests;
