//! Consumes the messages of each queue one after the other, until Ctrl-C.
//!
//! `cargo run -p raftmq-client --example orderly_consumer -- [NAME SERVERS] [TOPIC]`

use std::time::Duration;

use raftmq_client::{
    Client, ClientConfig, ConsumeFromWhere, ConsumeOrderlyContext, ConsumeOrderlyStatus, MessageExt,
    MessageListener, MessageListenerOrderly, MessageSelector, PushConsumer, PushConsumerConfig,
};

/// A listener with a state of its own is a type; a function will do for others.
struct Orders {
    shop: &'static str,
}

impl MessageListenerOrderly for Orders {
    async fn consume_message(
        &self,
        messages: std::sync::Arc<[MessageExt]>,
        context: ConsumeOrderlyContext,
    ) -> ConsumeOrderlyStatus {
        for message in messages.iter() {
            let body = String::from_utf8_lossy(&message.body);
            println!("{}: queue {} offset {}: {body}", self.shop, message.queue_id, message.queue_offset);
            // Nothing behind it comes before it: the queue waits, and the same messages come again.
            if body.contains("fail") && message.reconsume_times < 3 {
                context.set_suspend_current_queue_time(Duration::from_millis(500));
                return ConsumeOrderlyStatus::SuspendCurrentQueueAMoment;
            }
        }
        ConsumeOrderlyStatus::Success
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let name_servers = args.next().unwrap_or_else(|| "127.0.0.1:9876".to_owned());
    let topic = args.next().unwrap_or_else(|| "Example".to_owned());

    let client = Client::new(ClientConfig::new(&name_servers));
    let config = PushConsumerConfig {
        consume_from_where: ConsumeFromWhere::FirstOffset,
        ..PushConsumerConfig::new("example-orderly-consumer")
    };
    let consumer = PushConsumer::new(client, config)?;
    consumer.subscribe(&topic, MessageSelector::all()).await?;
    consumer.register_message_listener(MessageListener::orderly(Orders { shop: "corner shop" }))?;
    consumer.start().await?;
    tokio::signal::ctrl_c().await?;
    consumer.shutdown().await;
    Ok(())
}
