//! What is not consumed and is to come again: it goes back to the broker, or into the retry topic by a send.

use std::time::Duration;

use raftmq_message::properties::{self, names};
use raftmq_message::topic::retry_topic;
use raftmq_remoting::Command;
use raftmq_remoting::codes::{request, response};
use raftmq_remoting::header::SendBackHeader;

use super::inner::Inner;
use super::process_queue::ProcessQueue;
use crate::client::Client;
use crate::error::ClientError;
use crate::message::{Message, MessageExt};

/// How often a message is delivered again unless the settings say otherwise.
const MAX_RECONSUME_TIMES: i32 = 16;
/// The delay level of a message's first way through the retry topic; it grows by one each time.
const RETRY_DELAY_LEVEL: i32 = 3;
/// The least time for returning a message, as in the Java client. The group's topics may have to be made first, and
/// whoever does not wait for the answer has the message twice.
const SEND_BACK_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait for the answer to a message that is returned, with all tries.
pub(super) fn patience(client: &Client) -> Duration {
    client.config().request_timeout.max(SEND_BACK_TIMEOUT)
}

impl Inner {
    /// Returns a message to the broker. Where the broker refuses that for good, the message is sent to the retry topic
    /// instead, as the Java client does it. False if the message has to be tried again here.
    pub(super) async fn send_back(
        &self,
        queue: &ProcessQueue,
        message: &MessageExt,
        delay_level: i32,
    ) -> bool {
        let most = self.config.max_reconsume_times().unwrap_or(MAX_RECONSUME_TIMES);
        let Err(error) = self.ask_to_take_back(queue, message, delay_level, most).await else { return true };
        let offset = message.queue_offset;
        tracing::warn!(group = self.group(), queue = ?queue.queue, offset, %error, "not taken back");
        let times = message.reconsume_times.saturating_add(1);
        error.is_stubborn() && self.send_to_retry_topic(message, times, most).await
    }

    /// 36. Every time that it is carried out there is one more copy of the message.
    async fn ask_to_take_back(
        &self,
        queue: &ProcessQueue,
        message: &MessageExt,
        delay_level: i32,
        most: i32,
    ) -> Result<(), ClientError> {
        let header = SendBackHeader {
            offset: message.physical_offset,
            group: self.group().to_owned(),
            delay_level,
            origin_msg_id: Some(message.offset_message_id()),
            origin_topic: Some(message.topic.clone()),
            unit_mode: false,
            max_reconsume_times: Some(most),
        };
        let request = Command::request(request::CONSUMER_SEND_MSG_BACK, header.to_ext());
        let asking = self.client.call_queue_once(&queue.queue, &request, patience(&self.client));
        let (addr, answer) = asking.await?;
        if answer.code == response::SUCCESS { Ok(()) } else { Err(ClientError::refused(&addr, answer)) }
    }

    /// Sends what stands for a message to the group's retry topic, where it counts as delivered in vain so many times.
    /// The broker makes a dead letter of it if that is more than `most`.
    pub(super) async fn send_to_retry_topic(&self, message: &MessageExt, times: i32, most: i32) -> bool {
        let sent = self.producer.send(&returned(self.group(), message, times, most)).await;
        if let Err(error) = &sent {
            let offset = message.queue_offset;
            tracing::warn!(group = self.group(), topic = message.topic, offset, %error, "not sent to be retried");
        }
        sent.is_ok()
    }
}

/// The message that stands for one that is not consumed in its queue any more.
fn returned(group: &str, message: &MessageExt, times: i32, most: i32) -> Message {
    let origin =
        message.property(names::ORIGIN_MESSAGE_ID).map_or_else(|| message.offset_message_id(), str::to_owned);
    let level = message.reconsume_times.saturating_add(RETRY_DELAY_LEVEL);
    let mut returned = Message::new(retry_topic(group), message.body.clone())
        .with_raw_properties(properties::remove(&message.properties, names::TRAN_MSG))
        .with_property(names::ORIGIN_MESSAGE_ID, &origin)
        .with_property(names::RETRY_TOPIC, &message.topic)
        .with_property(names::RECONSUME_TIME, &times.to_string())
        .with_property(names::MAX_RECONSUME_TIMES, &most.to_string())
        .with_delay_level(u32::try_from(level).unwrap_or_default());
    returned.flag = message.flag;
    returned
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::tests::message;

    #[test]
    fn a_returned_message_tells_where_it_came_from() {
        let mut original = message(5, "body");
        original.properties = "KEYS\u{1}k\u{2}TRAN_MSG\u{1}true\u{2}".to_owned();
        original.reconsume_times = 2;
        let returned = returned("g", &original, 3, 7);
        let properties = [
            names::KEYS,
            names::TRAN_MSG,
            names::RETRY_TOPIC,
            names::ORIGIN_MESSAGE_ID,
            names::RECONSUME_TIME,
            names::MAX_RECONSUME_TIMES,
            names::DELAY,
        ];
        let id = original.offset_message_id();
        assert_eq!(
            properties.map(|name| returned.property(name)),
            [Some("k"), None, Some("T"), Some(id.as_str()), Some("3"), Some("7"), Some("5")]
        );
        assert_eq!((returned.topic.as_str(), &returned.body[..]), ("%RETRY%g", &b"body"[..]));
    }
}
