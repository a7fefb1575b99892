//! The offsets of a clustering group, as its broker gets them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::broker::Broker;
use super::fake::{FakeServer, Reply, Routes, client, refused};
use parking_lot::Mutex;
use raftmq_client::{MessageQueue, OffsetStore, ReadOffsetType, RemoteBrokerOffsetStore};
use raftmq_remoting::Command;
use raftmq_remoting::codes::{request, response};
use raftmq_remoting::header::UpdateConsumerOffsetHeader;

fn queue(queue_id: i32) -> MessageQueue {
    MessageQueue { broker_name: "broker-a".into(), queue_id, topic: "T".into() }
}

#[tokio::test]
async fn what_is_noted_comes_before_what_is_stored() {
    let broker = Broker::start().await;
    let key = |queue_id| ("T".to_owned(), queue_id);
    broker.with(|state| state.offsets.insert(key(0), 7));
    let routes = Routes::default();
    routes.set("T", broker.server.addr);
    let names = routes.serve().await;
    let store = RemoteBrokerOffsetStore::new(client(&[&names]), "g");
    store.load().await.unwrap();
    assert_eq!(store.read_offset(&queue(0), ReadOffsetType::ReadFromMemory).await.unwrap(), None);
    assert_eq!(store.read_offset(&queue(1), ReadOffsetType::MemoryFirstThenStore).await.unwrap(), None);
    assert_eq!(store.read_offset(&queue(0), ReadOffsetType::MemoryFirstThenStore).await.unwrap(), Some(7));
    store.update_offset(&queue(0), 9, true);
    store.update_offset(&queue(0), 8, true);
    assert_eq!(store.read_offset(&queue(0), ReadOffsetType::ReadFromMemory).await.unwrap(), Some(9));
    assert_eq!(store.read_offset(&queue(0), ReadOffsetType::ReadFromStore).await.unwrap(), Some(7));
    assert_eq!(store.clone_offset_table(Some("T")), BTreeMap::from([(queue(0), 9)]));
    store.update_and_freeze_offset(&queue(0), 2);
    store.update_offset(&queue(0), 10, false);
    store.persist_all(&[queue(0), queue(1)]).await.unwrap();
    assert_eq!(broker.with(|state| state.offsets.clone()), BTreeMap::from([(key(0), 2)]));
    store.remove_offset(&queue(0));
    store.persist_all(&[queue(0)]).await.unwrap();
    assert_eq!(store.read_offset(&queue(0), ReadOffsetType::MemoryFirstThenStore).await.unwrap(), Some(2));
}

#[tokio::test]
async fn only_changes_are_sent_and_failures_again() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let refuses = Arc::new(AtomicBool::new(true));
    let (log, refusing) = (seen.clone(), refuses.clone());
    let broker = FakeServer::start(move |request| {
        assert_eq!(request.code, request::UPDATE_CONSUMER_OFFSET);
        let header = UpdateConsumerOffsetHeader::decode(&request).unwrap();
        log.lock().push((header.queue_id, header.commit_offset));
        if header.queue_id == 1 && refusing.load(Ordering::Relaxed) {
            return refused(&request, response::SUBSCRIPTION_GROUP_NOT_EXIST);
        }
        Reply::Answer(Command::response_to(&request, response::SUCCESS))
    })
    .await;
    let routes = Routes::default();
    routes.set("T", broker.addr);
    let names = routes.serve().await;
    let store = RemoteBrokerOffsetStore::new(client(&[&names]), "g");
    let both = [queue(0), queue(1)];
    store.update_offset(&queue(0), 5, true);
    store.update_offset(&queue(1), 6, true);
    let error = store.persist_all(&both).await.unwrap_err();
    assert!(error.to_string().contains("refused by the test"), "{error}");
    refuses.store(false, Ordering::Relaxed);
    store.persist_all(&both).await.unwrap();
    store.persist_all(&both).await.unwrap();
    let mut sent = std::mem::take(&mut *seen.lock());
    sent[..2].sort_unstable();
    assert_eq!(sent, [(0, 5), (1, 6), (1, 6)]);
    store.update_offset(&queue(0), 4, false);
    store.persist_all(&both).await.unwrap();
    assert_eq!(*seen.lock(), [(0, 4)]);
}
