//! Consumers that ask for messages themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use raftmq_checks::body::Stamp;
use raftmq_client::{ConsumeFromWhere, LitePullConsumer, LitePullConsumerConfig, MessageSelector};
use tokio::task::JoinHandle;

use super::*;

const POLL: Duration = Duration::from_millis(500);

/// Polls the topic as a member of a group until it is told to stop, and gives what it got.
struct Poller {
    hands: Hands,
    stop: Arc<AtomicBool>,
    polling: JoinHandle<Vec<MessageExt>>,
}

impl Poller {
    fn start(group: &Group, topic: &str) -> Self {
        let hands = Hands::new(group);
        let stop = Arc::new(AtomicBool::new(false));
        let (client, topic, stopped) = (hands.client.clone(), topic.to_owned(), stop.clone());
        let polling = hands.runtime.spawn(async move {
            let config = LitePullConsumerConfig {
                consume_from_where: ConsumeFromWhere::FirstOffset,
                ..LitePullConsumerConfig::new("pollers")
            };
            let consumer = LitePullConsumer::start(client, config).await.unwrap();
            consumer.subscribe(&topic, MessageSelector::all()).await.unwrap();
            let mut got = Vec::new();
            // What was polled last counts as consumed with the next poll: so one that finds nothing is the last.
            loop {
                let messages = consumer.poll(POLL).await.unwrap();
                if messages.is_empty() && stopped.load(Ordering::Acquire) {
                    break;
                }
                got.extend(messages);
            }
            consumer.shutdown().await.unwrap();
            got
        });
        Self { hands, stop, polling }
    }

    fn stop(self) -> Vec<MessageExt> {
        self.stop.store(true, Ordering::Release);
        self.hands.runtime.block_on(self.polling).unwrap()
    }
}

fn stamps(messages: &[MessageExt]) -> BTreeMap<(u64, u32, u64), usize> {
    let stamp = |message: &MessageExt| {
        let stamp = Stamp::read(&message.body).unwrap();
        (stamp.run, stamp.lane, stamp.sequence)
    };
    count(messages.iter().map(stamp))
}

/// Acknowledged messages that are not among those.
fn missing(history: &History, got: &BTreeMap<(u64, u32, u64), usize>) -> usize {
    let lanes = history.lanes.iter().enumerate();
    let sent = lanes.flat_map(|(lane, sent)| {
        let messages = sent.messages.iter().enumerate();
        messages.map(move |(sequence, sent)| ((history.run, lane as u32, sequence as u64), sent.ack))
    });
    sent.filter(|(stamp, ack)| ack.is_some() && !got.contains_key(stamp)).count()
}

#[test]
fn those_who_poll_get_everything_although_the_leader_dies_and_go_on_where_they_were() {
    let _alone = alone();
    let mut group = group(&[]);
    let options = load_options(&group, 81);
    workload::prepare(&options).unwrap();
    let poller = Poller::start(&group, &options.topic);
    let workload = load(&options);
    kill_leader(&mut group, &workload);
    let history = end(workload);
    let got = poller.stop();
    assert_eq!(missing(&history, &stamps(&got)), 0);

    let poller = Poller::start(&group, &options.topic);
    let history = end(load(&WorkloadOptions { run: 82, ..options.clone() }));
    let later = poller.stop();
    assert_eq!(missing(&history, &stamps(&later)), 0);
    let places = count(later.iter().map(|message| (message.queue_id, message.queue_offset)));
    let again: Vec<_> = places.into_iter().filter(|(_, times)| *times > 1).collect();
    assert!(again.is_empty(), "delivered again: {again:?}");
    assert!(
        stamps(&later).keys().all(|(run, ..)| *run == 82),
        "what the group had consumed before came again"
    );

    // Whoever has chosen a queue reads it from wherever it likes.
    let hands = Hands::new(&group);
    let of_queue = hands.read(&options.topic, 0);
    let again = hands.runtime.block_on(async {
        let config = LitePullConsumerConfig::new("seekers");
        let consumer = LitePullConsumer::start(hands.client.clone(), config).await.unwrap();
        let queues = consumer.fetch_message_queues(&options.topic).await.unwrap();
        let queue = queues.iter().find(|queue| queue.queue_id == 0).unwrap();
        consumer.assign(std::slice::from_ref(queue)).await.unwrap();
        let middle = of_queue.len() / 2;
        consumer.seek(queue, of_queue[middle].queue_offset).await.unwrap();
        let mut again = Vec::new();
        while again.len() < of_queue.len() - middle {
            again.extend(consumer.poll(LONG).await.unwrap());
        }
        let since = of_queue[middle].store_timestamp_ms;
        let offset = consumer.offset_for_timestamp(queue, since).await.unwrap();
        let first = of_queue.iter().find(|message| message.store_timestamp_ms >= since).unwrap();
        assert_eq!(offset, first.queue_offset);
        consumer.shutdown().await.unwrap();
        again
    });
    assert_eq!(stamps(&again), stamps(&of_queue[of_queue.len() / 2..]));
}
