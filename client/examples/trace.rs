//! Sends and consumes a message with message trace on, then reads the trace back.
//!
//! `cargo run -p raftmq-client --example trace -- [NAME SERVERS] [TOPIC]`

use std::sync::Arc;
use std::time::Duration;

use raftmq_client::{
    AsyncTraceDispatcher, Client, ClientConfig, ConsumeConcurrentlyStatus, ConsumeFromWhere,
    LitePullConsumer, LitePullConsumerConfig, Message, MessageListener, MessageSelector, Producer,
    PushConsumer, PushConsumerConfig,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let name_servers = args.next().unwrap_or_else(|| "127.0.0.1:9876".to_owned());
    let topic = args.next().unwrap_or_else(|| "ExampleTraced".to_owned());
    let client = Client::new(ClientConfig::new(&name_servers));

    let trace = Arc::new(AsyncTraceDispatcher::new(client.clone(), "example-traced")?);
    let producer = Producer::new(client.clone(), "example-traced-producer")?;
    producer.register_send_message_hook(trace.clone());
    let sent = producer.send(&Message::new(&*topic, "traced").with_keys("key-1")).await?;

    let config = PushConsumerConfig {
        consume_from_where: ConsumeFromWhere::FirstOffset,
        ..PushConsumerConfig::new("example-traced-consumer")
    };
    let consumer = PushConsumer::new(client.clone(), config)?;
    consumer.register_consume_message_hook(trace.clone());
    consumer.subscribe(&topic, MessageSelector::all()).await?;
    let (consumed, mut ids) = tokio::sync::mpsc::unbounded_channel();
    consumer.register_message_listener(MessageListener::concurrently_fn(move |messages, _context| {
        let consumed = consumed.clone();
        async move {
            for message in messages.iter() {
                // Nobody may be listening any more.
                drop(consumed.send(message.message_id.clone()));
            }
            ConsumeConcurrentlyStatus::ConsumeSuccess
        }
    }))?;
    consumer.start().await?;
    while let Some(id) = ids.recv().await {
        if id.as_ref() == Some(&sent.message_id) {
            break;
        }
    }
    consumer.shutdown().await;
    trace.shutdown().await;

    let config = LitePullConsumerConfig {
        consume_from_where: ConsumeFromWhere::FirstOffset,
        ..LitePullConsumerConfig::new("example-trace-reader")
    };
    let reader = LitePullConsumer::start(client, config).await?;
    reader.subscribe("RMQ_SYS_TRACE_TOPIC", MessageSelector::all()).await?;
    loop {
        let messages = reader.poll(Duration::from_secs(3)).await?;
        if messages.is_empty() {
            break;
        }
        for message in messages {
            let text = String::from_utf8_lossy(&message.body);
            for record in text.split_terminator('\u{2}').filter(|record| record.contains(&sent.message_id)) {
                println!("{}", record.replace('\u{1}', " | "));
            }
        }
    }
    reader.shutdown().await?;
    Ok(())
}
