//! Sends messages: one by one, many at a time, as a batch, and to a queue chosen by a key.
//!
//! `cargo run -p raftmq-client --example producer -- [NAME SERVERS] [TOPIC]`

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use raftmq_client::{Client, ClientConfig, Message, Producer};
use tokio::task::JoinSet;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let name_servers = args.next().unwrap_or_else(|| "127.0.0.1:9876".to_owned());
    let topic = args.next().unwrap_or_else(|| "Example".to_owned());
    let client = Client::new(ClientConfig::new(&name_servers));
    let producer = Arc::new(Producer::new(client.clone(), "example-producer")?);

    let sent = producer.send(&Message::new(&*topic, "one").with_tags("TagA").with_keys("key-1")).await?;
    println!("{} is at {} of queue {}", sent.message_id, sent.queue_offset, sent.queue.queue_id);

    // Whoever awaits many sends at a time gets them stored together.
    let mut sends = JoinSet::new();
    for n in 0..100 {
        let (producer, message) = (producer.clone(), Message::new(&*topic, format!("message {n}")));
        sends.spawn(async move { producer.send(&message).await });
    }
    while let Some(sent) = sends.join_next().await {
        if let Err(error) = sent? {
            // `error.outcome` says whether the message may have been stored all the same.
            eprintln!("{error}");
        }
    }

    let batch: Vec<_> = (0..10).map(|n| Message::new(&*topic, format!("in a batch {n}"))).collect();
    let stored = producer.send_batch(&batch).await?;
    println!("a batch of {} from {} on", batch.len(), stored.queue_offset);

    // Messages of one order stay in order, as they go to one queue.
    let queues = client.fetch_queues(&topic).await?;
    for order in 0..10 {
        let mut hasher = DefaultHasher::new();
        order.hash(&mut hasher);
        let queue = &queues[(hasher.finish() % queues.len() as u64) as usize];
        for step in ["created", "paid", "shipped"] {
            producer.send_to(&Message::new(&*topic, format!("order {order} {step}")), queue).await?;
        }
    }
    Ok(())
}
