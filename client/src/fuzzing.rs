//! Decoders of this crate, for fuzzers. They take any bytes; whatever comes of it, none of them may panic.

use raftmq_remoting::body::TopicRouteData;
use raftmq_remoting::{Command, fastjson};

use crate::TopicRoute;
use crate::compression::decompress;
use crate::pull_request::read_answer;

/// Reads a command as the answer to a pull.
pub fn pull_answer(answer: Command) {
    if let Ok(pulled) = read_answer("127.0.0.1:10911", 0, "broker-a", answer) {
        for message in &pulled.messages {
            let _ = (message.tags(), message.keys(), message.offset_message_id());
        }
    }
}

/// Reads bytes as a route.
pub fn route(data: &[u8]) {
    let Ok(body) = fastjson::parse::<TopicRouteData>(data) else { return };
    let route = TopicRoute::from_body(body);
    let writable = route.writable().count();
    for n in [0, 1, writable, usize::MAX] {
        assert_eq!(route.nth_writable(n).is_some(), writable > 0);
    }
    let readable = route.readable().count();
    let fewer = route.for_new_topic(4);
    assert!(fewer.readable().count() <= readable);
}

/// Reads bytes as the body of a message whose flags are `flags`.
pub fn body(flags: i32, data: &[u8]) {
    let _ = decompress(flags, data);
}
