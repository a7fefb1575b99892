//! Sends messages that are delivered later, and shows how punctual they are.
//!
//! `cargo run -p raftmq-client --example delayed -- [NAME SERVERS] [TOPIC]`

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shows the time of day")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use raftmq_client::{
    Client, ClientConfig, LitePullConsumer, LitePullConsumerConfig, Message, MessageSelector,
};
use raftmq_client::{ConsumeFromWhere, Producer};

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let name_servers = args.next().unwrap_or_else(|| "127.0.0.1:9876".to_owned());
    let topic = args.next().unwrap_or_else(|| "ExampleDelayed".to_owned());
    let client = Client::new(ClientConfig::new(&name_servers));
    let producer = Producer::new(client.clone(), "example-delayed-producer")?;

    let due = |delay_ms: u64| (now_ms() + delay_ms).to_string();
    let messages = [
        // The second of the broker's levels: 5 s.
        Message::new(&*topic, "by level").with_delay_level(2).with_property("due", &due(5000)),
        Message::new(&*topic, "after a time").with_delay_time_ms(2500).with_property("due", &due(2500)),
        Message::new(&*topic, "at a time")
            .with_deliver_time_ms(now_ms() + 4000)
            .with_property("due", &due(4000)),
    ];
    for message in &messages {
        producer.send(message).await?;
    }

    let config = LitePullConsumerConfig {
        consume_from_where: ConsumeFromWhere::FirstOffset,
        ..LitePullConsumerConfig::new("example-delayed")
    };
    let consumer = LitePullConsumer::start(client, config).await?;
    consumer.subscribe(&topic, MessageSelector::all()).await?;
    let mut missing = messages.len();
    while missing > 0 {
        let polled = consumer.poll(Duration::from_secs(10)).await?;
        if polled.is_empty() {
            return Err(format!("{missing} messages have not come").into());
        }
        for message in polled {
            let due: u64 = message.property("due").unwrap_or_default().parse()?;
            let late = now_ms() as i64 - due as i64;
            println!("{}: {late} ms after it was due", String::from_utf8_lossy(&message.body));
            missing = missing.saturating_sub(1);
        }
    }
    consumer.shutdown().await?;
    Ok(())
}
