//! What producers, consumers and administrative calls share: connections, routes, and trying again.

use std::sync::{Arc, Weak};
use std::time::Duration;

use raftmq_remoting::body::MessageQueue;
use raftmq_remoting::codes::response;
use raftmq_remoting::{CallError, Command, Connection, ConnectionPool, PeerRequest, deadline_in};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::config::ClientConfig;
use crate::error::ClientError;
use crate::instance::Instance;
use crate::name_servers::NameServers;
use crate::peer;
use crate::route::{REFRESH_EVERY, RouteTable, Routed};

/// Tries of a request that is refused for a reason that waiting seldom removes: the Java producer's three.
const STUBBORN_TRIES_MAX: u32 = 3;
/// The first pause between tries; each further one is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// The longest pause between tries.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// Requests of brokers that wait to be handled. They are few; more are left out, and brokers ask again.
const PEER_REQUESTS_MAX: usize = 1024;
/// Pause between rounds of heartbeats, however many queues find at the same time that a broker does not know them.
const HEARTBEATS_PAUSE: Duration = Duration::from_millis(50);
/// How long a request may wait for its answer before the route is looked at again, and again.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(150);

/// Connections and routes. Clones share them.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: ClientConfig,
    pool: Arc<ConnectionPool>,
    routes: RouteTable,
    instance: Arc<Instance>,
}

/// A client that does not keep the connections and routes.
#[derive(Debug, Clone)]
pub(crate) struct WeakClient {
    shared: Weak<Shared>,
}

impl WeakClient {
    pub(crate) fn upgrade(&self) -> Option<Client> {
        self.shared.upgrade().map(|shared| Client { shared })
    }
}

impl Client {
    /// A client that connects when it is first used. Call it inside a tokio runtime: it refreshes routes in the
    /// background for as long as a clone of it lives.
    pub fn new(config: ClientConfig) -> Self {
        let (requests, requested) = mpsc::channel(PEER_REQUESTS_MAX);
        let network = config.world.network.clone();
        let pool = ConnectionPool::new(network, config.connect_timeout, config.in_flight_max);
        let pool = Arc::new(pool.with_requests(requests));
        let mut addrs = config.name_servers.clone();
        config.world.random.shuffle(&mut addrs);
        let name_servers = NameServers::new(addrs, pool.clone(), config.try_timeout);
        let routes = RouteTable::new(name_servers, config.default_topic_queues);
        let instance = Instance::new(&config);
        let changes = routes.changes();
        let shared = Arc::new(Shared { config, pool, routes, instance: Arc::new(instance) });
        let client = Self { shared };
        tokio::spawn(refresh_routes(client.downgrade()));
        tokio::spawn(follow_routes(Arc::downgrade(&client.shared.instance), changes));
        tokio::spawn(keep_heartbeats(client.downgrade()));
        tokio::spawn(answer_peers(Arc::downgrade(&client.shared.instance), requested));
        client
    }

    pub(crate) fn downgrade(&self) -> WeakClient {
        WeakClient { shared: Arc::downgrade(&self.shared) }
    }

    pub(crate) fn instance(&self) -> &Arc<Instance> {
        &self.shared.instance
    }

    /// The settings.
    pub fn config(&self) -> &ClientConfig {
        &self.shared.config
    }

    /// Now, in ms since 1970.
    pub(crate) fn now_ms(&self) -> i64 {
        self.config().world.clock.now_ms()
    }

    /// The routes.
    pub fn routes(&self) -> &RouteTable {
        &self.shared.routes
    }

    /// The connection to an address.
    pub async fn connection(&self, addr: &str) -> Result<Arc<Connection>, CallError> {
        self.shared.pool.get(addr).await
    }

    /// As [`Client::connection`], and no longer than `timeout`.
    pub async fn connection_within(
        &self,
        addr: &str,
        timeout: Duration,
    ) -> Result<Arc<Connection>, CallError> {
        self.shared.pool.get_within(addr, timeout).await
    }

    /// The queues of a topic that consumers see.
    pub async fn fetch_queues(&self, topic: &str) -> Result<Vec<MessageQueue>, ClientError> {
        let routed = self.routes().get(topic).await?;
        let queues = routed.route.readable().map(|(broker_name, queue_id)| MessageQueue {
            broker_name: broker_name.to_owned(),
            // A route holds at most 2^16 queues for each broker name.
            queue_id: queue_id as i32,
            topic: topic.to_owned(),
        });
        Ok(queues.collect())
    }

    /// Sends a request to the leader behind a queue's broker name and returns the answer, whatever its code, unless
    /// the code says to try elsewhere or later. Only for requests that may be carried out twice.
    pub(crate) async fn call_queue(
        &self,
        queue: &MessageQueue,
        request: &Command,
        try_timeout: Duration,
        timeout: Duration,
    ) -> Result<(String, Command), ClientError> {
        self.call_queue_with(queue, request, try_timeout, Tries::new(timeout)).await
    }

    /// As [`Client::call_queue`], for requests that must not be carried out twice: the time is that of one try, and
    /// another follows only where the last one was certainly not carried out.
    pub(crate) async fn call_queue_once(
        &self,
        queue: &MessageQueue,
        request: &Command,
        timeout: Duration,
    ) -> Result<(String, Command), ClientError> {
        self.call_queue_with(queue, request, timeout, Tries { once: true, ..Tries::new(timeout) }).await
    }

    async fn call_queue_with(
        &self,
        queue: &MessageQueue,
        request: &Command,
        try_timeout: Duration,
        mut tries: Tries,
    ) -> Result<(String, Command), ClientError> {
        let mut routed = None;
        loop {
            let attempt = self.try_queue(queue, request, try_timeout, &tries, &mut routed).await;
            match attempt {
                Ok(answer) => return Ok(answer),
                Err(error) => tries.failed(error).await?,
            }
            let after = routed.as_ref().map_or(0, |routed: &Routed| routed.lookup);
            routed = self.refreshed(&queue.topic, after, false, &tries).await?;
        }
    }

    async fn try_queue(
        &self,
        queue: &MessageQueue,
        request: &Command,
        try_timeout: Duration,
        tries: &Tries,
        routed: &mut Option<Routed>,
    ) -> Result<(String, Command), ClientError> {
        let Routed { route, lookup } = match routed {
            Some(routed) => routed.clone(),
            None => routed.insert(self.routes().get(&queue.topic).await?).clone(),
        };
        let addr = route.leader(&queue.broker_name).ok_or_else(|| ClientError::Unroutable {
            topic: queue.topic.clone(),
            what: format!("leader for broker {}", queue.broker_name),
        })?;
        let answer = tokio::select! {
            answer = self.call(addr, request.clone(), tries.bound(try_timeout)) => answer?,
            moved = self.leader_moved(&queue.topic, &queue.broker_name, addr, lookup, false, LOOK_EVERY) => {
                return Err(moved);
            }
        };
        match answer.code {
            response::SERVICE_NOT_AVAILABLE | response::SYSTEM_BUSY | response::GO_AWAY => {
                Err(ClientError::refused(addr, answer))
            }
            _ => Ok((addr.to_owned(), answer)),
        }
    }

    /// One request to one address; connecting counts towards the timeout.
    pub(crate) async fn call(
        &self,
        addr: &str,
        request: Command,
        timeout: Duration,
    ) -> Result<Command, ClientError> {
        Ok(self.shared.pool.call(addr, request, timeout).await?)
    }

    /// What brokers know this client by, as `ip@process#number`.
    pub fn client_id(&self) -> &str {
        self.instance().client_id()
    }

    /// Sends a heartbeat to every broker that is due one, and waits for the answers.
    pub(crate) async fn send_heartbeats(&self) {
        self.instance().send_heartbeats(self.routes(), &self.shared.pool).await;
    }

    /// Tells every broker that the client has left a consumer group, unless it has joined it again.
    pub(crate) async fn unregister(&self, group: &str) {
        let timeout = self.config().try_timeout;
        self.instance().unregister(group, self.routes(), &self.shared.pool, timeout).await;
    }

    /// Takes a consumer out of its group and tells the brokers in the background, where there is a runtime for that.
    pub(crate) fn leave_soon(&self, group: &str) {
        self.instance().leave(group);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (client, group) = (self.clone(), group.to_owned());
            runtime.spawn(async move { client.unregister(&group).await });
        }
    }

    /// Resolves when a name server says that another than `addr` leads now. A leader that hangs keeps its connections,
    /// so that nothing else tells before the try's time is over. However many requests wait, one at a time asks.
    pub(crate) async fn leader_moved(
        &self,
        topic: &str,
        broker_name: &str,
        addr: &str,
        mut lookup: u64,
        for_sending: bool,
        every: Duration,
    ) -> ClientError {
        loop {
            tokio::time::sleep(every).await;
            let Ok(routed) = self.routes().refresh(topic, lookup, for_sending).await else { continue };
            if routed.route.leader(broker_name).is_some_and(|leader| leader != addr) {
                let reason = "another member leads now".to_owned();
                return CallError::Lost { addr: addr.to_owned(), reason }.into();
            }
            lookup = routed.lookup;
        }
    }

    /// The route after a failure: asked for anew, or nothing where that fails too, but then without an end to the
    /// tries that are left.
    pub(crate) async fn refreshed(
        &self,
        topic: &str,
        after: u64,
        for_sending: bool,
        tries: &Tries,
    ) -> Result<Option<Routed>, ClientError> {
        let refresh = self.routes().refresh(topic, after, for_sending);
        match tokio::time::timeout(tries.left(), refresh).await {
            Ok(Ok(routed)) => Ok(Some(routed)),
            Ok(Err(error)) if !error.is_retryable() => Err(error),
            Ok(Err(_)) | Err(_) => Ok(None),
        }
    }
}

/// Counts the tries of a request and says when to give up.
#[derive(Debug)]
pub(crate) struct Tries {
    deadline: Instant,
    pause: Duration,
    stubborn: u32,
    /// Tries that failed.
    pub(crate) failed: u32,
    /// Whether one of them may have been carried out.
    pub(crate) may_have_been_executed: bool,
    /// Whether the first of them that may have been is the last.
    once: bool,
}

impl Tries {
    pub(crate) fn new(timeout: Duration) -> Self {
        let deadline = deadline_in(timeout);
        let (pause, once) = (PAUSE_MIN, false);
        Self { deadline, pause, stubborn: 0, failed: 0, may_have_been_executed: false, once }
    }

    pub(crate) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// How long a try may take that would take `wanted` at most.
    pub(crate) fn bound(&self, wanted: Duration) -> Duration {
        wanted.min(self.left())
    }

    /// Notes a failure and pauses before the next try. Gives the error back if there should be none.
    pub(crate) async fn failed(&mut self, error: ClientError) -> Result<(), ClientError> {
        self.failed += 1;
        self.may_have_been_executed |= error.may_have_been_executed();
        self.stubborn += u32::from(error.is_stubborn());
        let over = self.once && self.may_have_been_executed;
        if over || !error.is_retryable() || self.stubborn >= STUBBORN_TRIES_MAX || self.left() <= self.pause {
            return Err(error);
        }
        tracing::debug!(%error, tries = self.failed, "trying again");
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        Ok(())
    }
}

async fn refresh_routes(client: WeakClient) {
    loop {
        tokio::time::sleep(REFRESH_EVERY).await;
        let Some(client) = client.upgrade() else { return };
        client.routes().refresh_all().await;
    }
}

/// Tells consumers of changed routes.
async fn follow_routes(instance: Weak<Instance>, mut changes: watch::Receiver<u64>) {
    while changes.changed().await.is_ok() {
        let Some(instance) = instance.upgrade() else { return };
        instance.route_changed();
    }
}

/// Sends heartbeats when they are due, for as long as somebody else holds the client.
async fn keep_heartbeats(client: WeakClient) {
    let Some(instance) = client.upgrade().map(|client| client.instance().clone()) else { return };
    loop {
        instance.heartbeat_may_be_due().await;
        let Some(client) = client.upgrade() else { return };
        client.send_heartbeats().await;
        drop(client);
        tokio::time::sleep(HEARTBEATS_PAUSE).await;
    }
}

/// Hands what brokers ask to the consumer it is meant for.
async fn answer_peers(instance: Weak<Instance>, mut requested: mpsc::Receiver<PeerRequest>) {
    while let Some(request) = requested.recv().await {
        let Some(instance) = instance.upgrade() else { return };
        peer::handle(&instance, request);
    }
}
