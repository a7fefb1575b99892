//! RocketMQ's remoting protocol: what two peers say to each other, as bytes and as types.
//!
//! | module | what it holds |
//! |---|---|
//! | [`frame`] | cutting a stream of bytes into frames |
//! | [`command`] | a frame's header, decoded in place from either serialization |
//! | [`ext`] | the header's named fields |
//! | [`encode`] | writing frames, with a direct way for the hot answers |
//! | [`codes`] | numbers of requests and responses |
//! | [`header`] | the named fields of each request and response as types |
//! | [`body`] | the JSON bodies |
//! | [`fastjson`] | JSON as Java peers read and write it: all bodies, and unusual headers |
//! | `connection`, `pool` | connections to servers, with many requests in flight, and what the server asks |
//!
//! There is no policy here: what a request means is the broker's business.

pub mod body;
pub mod codes;
pub mod command;
mod connection;
pub mod encode;
pub mod ext;
pub mod fastjson;
pub mod frame;
pub mod header;
mod json;
mod pool;

pub use command::{Command, CommandError};
pub use connection::{CallError, Connection, PeerRequest, deadline_in};
pub use encode::EncodeError;
pub use ext::{Ext, FieldError};
pub use frame::{FrameError, RawFrame, Serialization};
pub use header::HeaderError;
pub use pool::ConnectionPool;
