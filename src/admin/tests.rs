use std::io::{Read, Write};
use std::time::Duration;

use parking_lot::Mutex;
use raftmq_broker::state::{OffsetCommit, SubscriptionGroup, TimerProgress, Topic};
use raftmq_raft::{MemberStatus, Role};
use serde_json::Value;

use super::*;
use raftmq_world::World;

/// A member made up by the test.
struct Fake {
    status: Arc<Mutex<GroupStatus>>,
    topics: usize,
}

impl Source for Fake {
    fn status(&self) -> GroupStatus {
        self.status.lock().clone()
    }

    fn topics(&self, after: &str, system: bool) -> Page<TopicView> {
        let topics: Vec<_> = (0..self.topics).map(|n| Topic::new(format!("T{n:04}"), 99, 6)).collect();
        let ends = |_: &str, queue_id| (u64::from(queue_id), 100);
        let listed = topics.iter().filter(|topic| topic.name.as_str() > after && !system);
        Page::of(listed, |topic| TopicView::new(topic, &ends))
    }

    fn groups(&self, _: &str) -> Page<GroupView> {
        let commit = |queue_id| OffsetCommit { group: "g".into(), topic: "T".into(), queue_id, offset: 7 };
        let group = SubscriptionGroup::new("g");
        Page::of([group].iter(), |group| GroupView::new(group, vec![commit(1), commit(0)]))
    }

    fn group(&self, name: &str) -> Option<Value> {
        (name == "a%b c").then(|| json!({ "name": name }))
    }

    fn delay(&self) -> DelayView {
        let timer = TimerProgress { scanned: 4, due_ms: 77, offset: 3 };
        DelayView::new(vec![LevelView::new(1, 2, 5)], timer, 6)
    }

    fn stats(&self) -> Value {
        json!({ "put": 1 })
    }
}

fn status() -> GroupStatus {
    let member = |id, role, matched_index: Option<u64>| MemberStatus {
        id,
        directory: format!("{id:016x}"),
        raft: format!("127.0.0.1:{}", 10_912 + 100 * (id - 1)),
        client: Some("127.0.0.1:10911".into()),
        admin: None,
        reads: Some(1),
        voter: true,
        role,
        online: matched_index.map(|_| true),
        clock_ahead_ms: matched_index.map(|_| 0),
        matched_index,
        lag: matched_index.map(|index| 9 - index),
    };
    GroupStatus {
        node_id: 1,
        group_id: Some("00ff".into()),
        role: Role::Leader,
        term: 3,
        leader_id: Some(1),
        last_index: Some(9),
        commit_index: Some(8),
        applied_index: Some(7),
        min_physical_offset: 0,
        max_physical_offset: 400,
        flushed_physical_offset: 300,
        dispatched_physical_offset: 200,
        feature_level: 1,
        ready: true,
        stopped: None,
        waits: None,
        damaged: Vec::new(),
        mended: 2,
        members: vec![member(1, Role::Leader, Some(9)), member(2, Role::Follower, None)],
    }
}

struct Running {
    addr: String,
    status: Arc<Mutex<GroupStatus>>,
    _admin: Admin,
}

impl Running {
    async fn start() -> Self {
        let status = Arc::new(Mutex::new(status()));
        let source = Box::new(Fake { status: status.clone(), topics: 250 });
        let bound = bind("127.0.0.1:0".parse().unwrap(), World::system()).unwrap();
        let addr = bound.local_addr().to_string();
        let shared = Shared {
            cluster: "C".into(),
            broker_name: "broker-a".into(),
            source,
            threads: World::system().threads,
        };
        Self { addr, status, _admin: bound.serve_source(shared) }
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.ask("GET", path).await
    }

    async fn ask(&self, method: &'static str, path: &str) -> (u16, Value) {
        let network = World::system().network;
        let (status, body) = client::ask(&*network, method, &self.addr, path).await.unwrap();
        (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
    }
}

#[tokio::test]
async fn the_cluster_is_told_as_documented() {
    let admin = Running::start().await;
    let (status, cluster) = admin.get("/cluster").await;
    let expected = json!({
        "cluster": "C", "broker_name": "broker-a", "group_id": "00ff", "node_id": 1, "role": "leader", "leader_id": 1, "term": 3,
        "last_index": 9, "commit_index": 8, "applied_index": 7, "ready": true,
        "min_physical_offset": 0, "max_physical_offset": 400,
        "flushed_physical_offset": 300, "dispatched_physical_offset": 200, "feature_level": 1, "mended": 2,
        "members": [
            {"id": 1, "directory": "0000000000000001", "raft": "127.0.0.1:10912", "listen": "127.0.0.1:10911", "admin": null,
             "role": "leader", "voter": true, "highest_feature_level": 1, "online": true, "clock_ahead_ms": 0, "matched_index": 9, "lag": 0},
            {"id": 2, "directory": "0000000000000002", "raft": "127.0.0.1:11012", "listen": "127.0.0.1:10911", "admin": null,
             "role": "follower", "voter": true, "highest_feature_level": 1, "online": null, "clock_ahead_ms": null, "matched_index": null, "lag": null},
        ],
    });
    assert_eq!((status, &cluster), (200, &expected));
    assert_eq!(admin.get("/members").await, (200, json!({ "items": expected["members"] })));
    assert_eq!(admin.get("/stats").await, (200, json!({ "put": 1 })));
}

#[tokio::test]
async fn health_and_readiness_say_why_not() {
    let admin = Running::start().await;
    assert_eq!(admin.get("/health").await, (200, json!({ "status": "ok" })));
    assert_eq!(admin.get("/health/ready").await.0, 200);
    let change = |change: fn(&mut GroupStatus)| change(&mut admin.status.lock());
    change(|status| status.ready = false);
    let (code, body) = admin.get("/health/ready").await;
    assert!(code == 503 && body["reason"].as_str().unwrap().contains("has not applied"), "{body}");
    change(|status| (status.role, status.leader_id) = (Role::Candidate, None));
    let (code, body) = admin.get("/health/ready").await;
    assert!(code == 503 && body["reason"].as_str().unwrap().contains("no leader"), "{body}");
    assert_eq!(admin.get("/cluster").await.1["leader_id"], Value::Null);
    assert_eq!(admin.get("/health").await.0, 200, "an election is no illness");
    change(|status| status.stopped = Some("disk full".into()));
    for path in ["/health", "/health/ready"] {
        let (code, body) = admin.get(path).await;
        assert!(code == 503 && body["reason"].as_str().unwrap().contains("disk full"), "{body}");
    }
}

#[tokio::test]
async fn long_lists_come_in_pages() {
    let admin = Running::start().await;
    let (mut path, mut names) = ("/topics".to_owned(), Vec::new());
    let mut pages = 0;
    loop {
        let (_, page) = admin.get(&path).await;
        names.extend(page["items"].as_array().unwrap().iter().map(|topic| topic["name"].clone()));
        pages += 1;
        match page["after"].as_str() {
            Some(after) => path = format!("/topics?after={after}"),
            None => break,
        }
    }
    let expected: Vec<_> = (0..250).map(|n| json!(format!("T{n:04}"))).collect();
    assert_eq!((pages, names), (3, expected));
    let (_, first) = admin.get("/topics").await;
    let queue = json!({"queue_id": 98, "min_offset": 98, "max_offset": 100});
    assert_eq!(first["items"][0]["queues"][98], queue);
    let (_, groups) = admin.get("/groups").await;
    let offsets = json!([
        {"topic": "T", "queue_id": 0, "committed": 7}, {"topic": "T", "queue_id": 1, "committed": 7}
    ]);
    assert_eq!(groups["items"][0]["offsets"], offsets);
}

#[tokio::test]
async fn one_group_and_the_delays_are_told_of() {
    let admin = Running::start().await;
    assert_eq!(admin.get("/groups/a%25b%20c").await, (200, json!({ "name": "a%b c" })));
    let (status, body) = admin.get("/groups/nobody").await;
    assert!(status == 404 && body["reason"].as_str().unwrap().contains("nobody"), "{body}");
    let delay = json!({
        "levels": [{"level": 1, "stored": 5, "delivered": 2}],
        "timer": {"stored": 6, "scanned": 4, "due_ms": 77},
    });
    assert_eq!(admin.get("/delay").await, (200, delay));
}

#[tokio::test]
async fn the_root_lists_every_path() {
    let admin = Running::start().await;
    let (_, list) = admin.get("/").await;
    for item in list["items"].as_array().unwrap() {
        let path = item["path"].as_str().unwrap().replace("NAME", "a%25b%20c");
        assert_eq!(admin.get(&path).await.0, 200, "{path}");
    }
    assert_eq!(admin.get("/topics?system=true").await, (200, json!({ "items": [] })));
}

#[tokio::test]
async fn nonsense_is_answered_or_cut_off() {
    let admin = Running::start().await;
    for (path, code, why) in [
        ("/nothing", 404, "/nothing"),
        ("/groups/", 404, "/groups/"),
        ("/topics?sytem=true", 400, "sytem"),
        ("/topics?system=maybe", 400, "system"),
        ("/groups?system=true", 400, "system"),
        ("/groups/%FF", 400, "UTF-8"),
    ] {
        let (status, body) = admin.get(path).await;
        assert_eq!(status, code, "{path}: {body}");
        assert!(body["reason"].as_str().is_some_and(|reason| reason.contains(why)), "{path}: {body}");
    }
    let (status, body) = admin.ask("POST", "/cluster").await;
    assert!(status == 405 && body["reason"].as_str().unwrap().contains("POST"), "{body}");
    let addr = admin.addr.clone();
    let sent = tokio::task::spawn_blocking(move || {
        for bytes in [&[0xFF; 64][..], &vec![b'A'; 4 << 20]] {
            let mut stream = std::net::TcpStream::connect(&addr).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            // The server may close before all of it was taken.
            let _ = stream.write_all(bytes);
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{answer:?}");
        }
    });
    sent.await.unwrap();
    assert_eq!(admin.get("/health").await.0, 200);
}
