//! Gets every message of a topic, whoever else does, until Ctrl-C: offsets are kept in a file of this machine.
//!
//! `cargo run -p raftmq-client --example broadcast -- [NAME SERVERS] [TOPIC] [NAME]`
//!
//! Consumers on one machine need different names, or they would share the file.

use raftmq_client::{
    Client, ClientConfig, ConsumeConcurrentlyStatus, MessageListener, MessageModel, MessageSelector,
    PushConsumer, PushConsumerConfig, default_offset_dir,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let name_servers = args.next().unwrap_or_else(|| "127.0.0.1:9876".to_owned());
    let topic = args.next().unwrap_or_else(|| "Example".to_owned());
    let instance_name = args.next();

    let client = Client::new(ClientConfig { instance_name, ..ClientConfig::new(&name_servers) });
    let config = PushConsumerConfig {
        message_model: MessageModel::Broadcasting,
        ..PushConsumerConfig::new("example-broadcast")
    };
    let consumer = PushConsumer::new(client, config)?;
    consumer.subscribe(&topic, MessageSelector::all()).await?;
    consumer.register_message_listener(MessageListener::concurrently_fn(
        |messages, _context| async move {
            for message in messages.iter() {
                let body = String::from_utf8_lossy(&message.body);
                println!("queue {} offset {}: {body}", message.queue_id, message.queue_offset);
            }
            // With broadcasting nothing is delivered again, whatever is answered.
            ConsumeConcurrentlyStatus::ConsumeSuccess
        },
    ))?;
    consumer.start().await?;
    println!("offsets are kept below {}", default_offset_dir().display());
    tokio::signal::ctrl_c().await?;
    consumer.shutdown().await;
    Ok(())
}
