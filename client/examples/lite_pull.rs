//! Polls: at first the whole topic together with other members of the group, then one queue of its own choice from the
//! beginning.
//!
//! `cargo run -p raftmq-client --example lite_pull -- [NAME SERVERS] [TOPIC]`

use std::time::Duration;

use raftmq_client::{
    Client, ClientConfig, ConsumeFromWhere, LitePullConsumer, LitePullConsumerConfig, MessageSelector,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let name_servers = args.next().unwrap_or_else(|| "127.0.0.1:9876".to_owned());
    let topic = args.next().unwrap_or_else(|| "Example".to_owned());
    let client = Client::new(ClientConfig::new(&name_servers));

    let config = LitePullConsumerConfig {
        consume_from_where: ConsumeFromWhere::FirstOffset,
        pull_batch_size: 32,
        ..LitePullConsumerConfig::new("example-lite-pull")
    };
    let consumer = LitePullConsumer::start(client.clone(), config).await?;
    consumer.subscribe(&topic, MessageSelector::all()).await?;
    let mut count = 0;
    loop {
        // What was polled before counts as consumed from here on.
        let messages = consumer.poll(Duration::from_secs(3)).await?;
        let (Some(first), Some(last)) = (messages.first(), messages.last()) else { break };
        count += messages.len();
        println!("queue {}: {} to {}", first.queue_id, first.queue_offset, last.queue_offset);
    }
    println!("{count} messages of {} queues", consumer.assignment().len());
    consumer.shutdown().await?;

    // The same without a group's help: the program chooses the queues and commits by itself.
    let config = LitePullConsumerConfig {
        auto_commit: false,
        ..LitePullConsumerConfig::new("example-lite-pull-assigned")
    };
    let consumer = LitePullConsumer::start(client, config).await?;
    let queues = consumer.fetch_message_queues(&topic).await?;
    let queue = queues.first().ok_or("the topic has no queue")?;
    consumer.assign(std::slice::from_ref(queue)).await?;
    consumer.seek_to_begin(queue).await?;
    for message in consumer.poll(Duration::from_secs(3)).await? {
        println!("{}: {}", message.queue_offset, String::from_utf8_lossy(&message.body));
    }
    consumer.commit().await?;
    println!("committed: {:?}", consumer.committed(queue).await?);
    consumer.shutdown().await?;
    Ok(())
}
