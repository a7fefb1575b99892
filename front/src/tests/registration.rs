//! What a name server is sent when topics change: in proportion to what has changed.

use std::collections::BTreeSet;

use raftmq_remoting::body::DataVersion;
use tokio::sync::watch;

use super::trio::Trio;
use super::*;

const KEEPS: &str = "deleteTopicWithBrokerRegistration=false\n";
const DELETES: &str = "deleteTopicWithBrokerRegistration=true\n";

/// What becomes of the next registration that tells changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Take,
    Refuse,
    Close,
}

/// What a name server has been sent.
#[derive(Default)]
struct Seen {
    /// Registrations with the broker ids that they were made under.
    registrations: Vec<(i64, RegisterBrokerBody, usize)>,
    /// The leader's topics as it knows them, and the version of that.
    topics: BTreeSet<String>,
    version: DataVersion,
}

impl Seen {
    /// Takes up a registration as name servers of this project do.
    fn take(&mut self, id: i64, bytes: &[u8]) {
        let body: RegisterBrokerBody = fastjson::parse(bytes).unwrap();
        let wrapper = &body.topic_config_serialize_wrapper;
        if id == 0 {
            match body.changed_since {
                Some(before) => assert_eq!(before, self.version, "changes to what it was told last"),
                None => self.topics.clear(),
            }
            assert_eq!(body.all_topics, body.changed_since.is_none());
            self.topics.extend(wrapper.topic_config_table.keys().cloned());
            self.topics.retain(|topic| !body.deleted_topics.contains(topic));
            self.version = wrapper.data_version;
        }
        self.registrations.push((id, body, bytes.len()));
    }

    /// The leader's registrations from the nth on.
    fn of_leader(&self, from: usize) -> Vec<&RegisterBrokerBody> {
        let registrations = self.registrations[from..].iter();
        registrations.filter(|(id, ..)| *id == 0).map(|(_, body, _)| body).collect()
    }
}

/// How many topics registrations name.
fn named(registrations: &[&RegisterBrokerBody]) -> usize {
    registrations.iter().map(|body| body.topic_config_serialize_wrapper.topic_config_table.len()).sum()
}

/// A name server that does what it is told.
struct NameServer {
    server: FakeServer,
    seen: Arc<Mutex<Seen>>,
    next: Arc<Mutex<Next>>,
    /// While this is true, registrations are not answered.
    hold: watch::Sender<bool>,
}

impl NameServer {
    async fn start(settings: &'static str) -> Self {
        let (seen, next) = (Arc::<Mutex<Seen>>::default(), Arc::new(Mutex::new(Next::Take)));
        let (hold, held) = watch::channel(false);
        let (sees, decides) = (seen.clone(), next.clone());
        let server = FakeServer::start_raw(move |request| {
            let answer = Command::response_to(&request, 0);
            if request.code == request::GET_NAMESRV_CONFIG {
                return Reply::Answer(answer.with_body(settings));
            }
            if request.code != request::REGISTER_BROKER {
                return Reply::Answer(answer);
            }
            let id = RegisterBrokerHeader::decode(&request).unwrap().broker_id;
            let changes = request.body.windows(12).any(|bytes| bytes == b"changedSince");
            let next = if changes { std::mem::replace(&mut *decides.lock(), Next::Take) } else { Next::Take };
            match next {
                Next::Take => sees.lock().take(id, &request.body),
                Next::Refuse => return Reply::Answer(Command::response_to(&request, 1)),
                Next::Close => return Reply::Close,
            }
            let mut held = held.clone();
            Reply::Later(Box::pin(async move {
                // The sender lives as long as the server.
                let _ = held.wait_for(|hold| !*hold).await;
                answer
            }))
        });
        Self { server: server.await, seen, next, hold }
    }

    fn address(&self) -> String {
        self.server.addr.to_string()
    }

    fn count(&self) -> usize {
        self.seen.lock().registrations.len()
    }

    fn knows(&self, topic: &str) -> bool {
        self.seen.lock().topics.contains(topic)
    }
}

/// A broker that has told this name server all of the system's topics.
async fn start(settings: &'static str) -> (Fixture, NameServer, Client) {
    let name_server = NameServer::start(settings).await;
    let f = Fixture::start_configured(|config| config.namesrv.push(name_server.address())).await;
    f.until(|f| f.state.topics.all().iter().all(|topic| name_server.knows(&topic.name))).await;
    let client = f.client().await;
    (f, name_server, client)
}

fn create(topic: &str) -> Command {
    let queues = [("readQueueNums", "4"), ("writeQueueNums", "4"), ("perm", "6"), ("order", "false")];
    let more = [("topic", topic), ("defaultTopic", "TBW102"), ("topicFilterType", "SINGLE_TAG")];
    Command::request(request::UPDATE_AND_CREATE_TOPIC, queues.into_iter().chain(more).collect())
}

fn delete(topic: &str) -> Command {
    Command::request(request::DELETE_TOPIC_IN_BROKER, [("topic", topic)].into_iter().collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_sends_what_has_changed() {
    const TOPICS: usize = 60;
    let (f, name_server, mut client) = start(KEEPS).await;
    let before = name_server.count();
    for n in 0..TOPICS {
        client.ok(create(&format!("T{n}"))).await;
        assert!(name_server.knows(&format!("T{n}")), "the route is there before the answer");
    }
    client.ok(delete("T7")).await;
    assert!(!name_server.knows("T7") && name_server.knows("T8"));
    {
        let seen = name_server.seen.lock();
        let told = seen.of_leader(before);
        assert!(told.iter().all(|body| !body.all_topics), "all topics were told once");
        assert_eq!(named(&told), TOPICS);
        let longest = seen.registrations[before..].iter().map(|(.., bytes)| *bytes).max();
        assert!(longest < Some(1024), "{longest:?} bytes in one of them");
    }
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_server_that_knows_less_is_told_everything_at_once() {
    let (f, name_server, mut client) = start(KEEPS).await;
    client.ok(create("T0")).await;
    for (n, next) in [(1, Next::Refuse), (2, Next::Close)] {
        let before = name_server.count();
        *name_server.next.lock() = next;
        client.ok(create(&format!("T{n}"))).await;
        f.until(|_| name_server.knows(&format!("T{n}"))).await;
        let told = name_server.seen.lock().of_leader(before)[0].clone();
        assert!(told.all_topics, "{next:?}");
        assert_eq!(named(&[&told]), f.state.topics.all().len());
        // From there on by changes again.
        let before = name_server.count();
        client.ok(create(&format!("U{n}"))).await;
        f.until(|_| name_server.knows(&format!("U{n}"))).await;
        assert_eq!(named(&name_server.seen.lock().of_leader(before)), 1);
    }
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_server_that_deletes_what_is_not_named_is_always_told_everything() {
    for settings in [DELETES, ""] {
        let (f, name_server, mut client) = start(settings).await;
        for n in 0..3 {
            client.ok(create(&format!("T{n}"))).await;
            assert!(name_server.knows(&format!("T{n}")));
        }
        client.ok(delete("T1")).await;
        assert!(!name_server.knows("T1"));
        assert!(name_server.seen.lock().of_leader(0).iter().all(|body| body.all_topics));
        f.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_while_a_registration_is_on_its_way_is_told_together() {
    const TOPICS: usize = 30;
    let (f, name_server, mut client) = start(KEEPS).await;
    client.ok(create("T")).await;
    let before = name_server.count();
    name_server.hold.send_replace(true);
    // One connection's requests of this kind wait for each other.
    let mut clients = Vec::new();
    for n in 0..TOPICS {
        let mut client = f.client().await;
        client.write([create(&format!("T{n}"))]).await;
        clients.push(client);
    }
    f.until(|f| (0..TOPICS).all(|n| f.state.topics.has(&format!("T{n}")))).await;
    name_server.hold.send_replace(false);
    for mut client in clients {
        assert_eq!(client.answer().await.code, 0);
    }
    f.until(|_| (0..TOPICS).all(|n| name_server.knows(&format!("T{n}")))).await;
    let registrations = name_server.count() - before;
    assert!(registrations < TOPICS / 2, "{registrations} for {TOPICS} topics");
    f.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_name_no_topics_and_a_new_leader_names_all() {
    const TOPICS: usize = 20;
    let name_server = NameServer::start(KEEPS).await;
    let trio = Trio::start_with(&[name_server.address()]).await;
    let mut client = trio.client(trio.leader().await).await;
    for n in 0..TOPICS {
        client.ok(create(&format!("T{n}"))).await;
    }
    let before = name_server.count();
    trio.move_leadership().await.ok(create("T")).await;
    {
        let seen = name_server.seen.lock();
        assert!((0..TOPICS).all(|n| seen.topics.contains(&format!("T{n}"))) && seen.topics.contains("T"));
        let is_new = seen.of_leader(before).iter().any(|body| body.all_topics);
        assert!(is_new, "what the other has told is not gone on from");
        let followers: Vec<_> = seen.registrations.iter().filter(|(id, ..)| *id != 0).collect();
        assert!(followers.len() < TOPICS, "{} registrations of followers", followers.len());
        let bodies: Vec<_> = followers.iter().map(|(_, body, _)| body).collect();
        assert_eq!(named(&bodies), 0);
    }
    trio.stop().await;
}
