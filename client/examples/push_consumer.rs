//! Consumes a topic as messages arrive, several at a time, until Ctrl-C.
//!
//! `cargo run -p raftmq-client --example push_consumer -- [NAME SERVERS] [TOPIC] [TAGS]`
//!
//! Start it twice to see the queues divided, and `producer` for something to consume.

use raftmq_client::{
    Client, ClientConfig, ConsumeConcurrentlyStatus, ConsumeFromWhere, MessageListener, MessageSelector,
    PushConsumer, PushConsumerConfig,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let name_servers = args.next().unwrap_or_else(|| "127.0.0.1:9876".to_owned());
    let topic = args.next().unwrap_or_else(|| "Example".to_owned());
    let tags = args.next().unwrap_or_else(|| "*".to_owned());

    let client = Client::new(ClientConfig::new(&name_servers));
    let config = PushConsumerConfig {
        consume_from_where: ConsumeFromWhere::FirstOffset,
        consume_message_batch_max_size: 8,
        ..PushConsumerConfig::new("example-push-consumer")
    };
    let consumer = PushConsumer::new(client, config)?;
    consumer.subscribe(&topic, MessageSelector::by_tag(tags)).await?;
    consumer.register_message_listener(MessageListener::concurrently_fn(|messages, context| async move {
        for message in messages.iter() {
            let body = String::from_utf8_lossy(&message.body);
            let (queue, offset, times) = (message.queue_id, message.queue_offset, message.reconsume_times);
            println!("queue {queue} offset {offset} delivered {} times: {body}", times + 1);
            // Whatever cannot be consumed comes again later, after a longer time with each attempt.
            if body.contains("fail") {
                context.set_delay_level_when_next_consume(1);
                return ConsumeConcurrentlyStatus::ReconsumeLater;
            }
        }
        ConsumeConcurrentlyStatus::ConsumeSuccess
    }))?;
    consumer.start().await?;
    tokio::signal::ctrl_c().await?;
    consumer.shutdown().await;
    Ok(())
}
