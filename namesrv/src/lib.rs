//! The name server role: tells clients where topics live.
//!
//! | module | what it is |
//! |---|---|
//! | `table` | brokers and topics, and the rules they are kept by |
//! | `kv` | settings by namespace |
//! | `handler` | request codes and their answers |
//! | `server` | sockets |
//!
//! It is small and keeps nothing: brokers tell it everything again every few seconds. It runs inside a broker's process
//! or alone, and does not know which.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests reach for the system")
)]

#[doc(hidden)]
pub mod fuzzing;
mod handler;
mod kv;
mod server;
mod table;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use raftmq_world::{Acceptor, Places, WhenFull, World};
use tokio::task::JoinHandle;

use handler::Names;
use table::{Table, TableLimits};

/// Broker names, members of each and topics of each that are taken.
const LIMITS: TableLimits = TableLimits { groups: 1024, members: 64, topics: 32_768 };

/// What a name server needs to know to start.
#[derive(Clone, Debug)]
pub struct NamesrvConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// How long a broker may be silent. RocketMQ's limit is 120 s for brokers that register every 30 s; these do
    /// every 10 s.
    pub broker_timeout: Duration,
}

impl NamesrvConfig {
    /// The defaults.
    pub fn new(listen: SocketAddr) -> Self {
        Self { listen, broker_timeout: Duration::from_secs(30) }
    }
}

/// A running name server. Dropping it stops it.
#[derive(Debug)]
pub struct Namesrv {
    addr: SocketAddr,
    task: JoinHandle<()>,
}

/// Starts a name server.
///
/// # Errors
/// The address cannot be listened on.
pub fn start(config: &NamesrvConfig, world: &World) -> anyhow::Result<Namesrv> {
    let listener = world
        .network
        .listen(config.listen)
        .with_context(|| format!("listen on {} as a name server", config.listen))?;
    let addr = listener.local_addr().context("the name server's address")?;
    let places = Places::new("a name server's", server::CONNECTIONS_MAX, WhenFull::Refuse);
    let acceptor = Acceptor::new(listener, places);
    let timeout_ms = u64::try_from(config.broker_timeout.as_millis()).unwrap_or(u64::MAX);
    // The second tells brokers that they may register what has changed alone.
    let settings = format!(
        "brokerTimeoutMillis={timeout_ms}\ndeleteTopicWithBrokerRegistration=false\nlistenPort={}\n",
        addr.port()
    );
    let names = Names::new(Table::new(LIMITS), timeout_ms, settings);
    let task = tokio::spawn(server::run(acceptor, names));
    tracing::info!(%addr, "name server");
    Ok(Namesrv { addr, task })
}

impl Namesrv {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Closes every connection and stops listening.
    pub async fn shutdown(&mut self) {
        self.task.abort();
        // Aborted, as asked for.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Namesrv {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raftmq_remoting::body::{RegisterBrokerBody, TopicConfig};
    use raftmq_remoting::codes::{request, response};
    use raftmq_remoting::header::{RegisterBrokerHeader, RouteHeader};
    use raftmq_remoting::{Command, Connection, fastjson};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const TIMEOUT: Duration = Duration::from_secs(5);

    async fn namesrv() -> (Namesrv, Connection) {
        let namesrv = start(&NamesrvConfig::new("127.0.0.1:0".parse().unwrap()), &World::system()).unwrap();
        let connection = connect(&namesrv).await;
        (namesrv, connection)
    }

    async fn connect(namesrv: &Namesrv) -> Connection {
        Connection::connect(&*World::system().network, &namesrv.local_addr().to_string(), TIMEOUT, 8)
            .await
            .unwrap()
    }

    fn registration(topics: usize) -> Command {
        let header = RegisterBrokerHeader {
            broker_name: "b".into(),
            broker_addr: "127.0.0.1:1".into(),
            cluster_name: "c".into(),
            ha_server_addr: None,
            broker_id: 0,
            compressed: false,
            body_crc32: 0,
            heartbeat_timeout_ms: None,
            enable_acting_master: None,
        };
        let mut body = RegisterBrokerBody::default();
        let table = &mut body.topic_config_serialize_wrapper.topic_config_table;
        table.extend((0..topics).map(|n| (format!("T{n}"), TopicConfig::default())));
        let body = fastjson::to_vec(&body).unwrap();
        Command::request(request::REGISTER_BROKER, header.to_ext()).with_body(body)
    }

    async fn route(connection: &Connection, topic: &str) -> i32 {
        let header = RouteHeader { topic: topic.into(), accept_standard_json_only: true };
        let request = Command::request(request::GET_ROUTEINFO_BY_TOPIC, header.to_ext());
        connection.call(request, TIMEOUT).await.unwrap().code
    }

    #[tokio::test]
    async fn a_registration_lives_as_long_as_its_connection() {
        let (mut namesrv, client) = namesrv().await;
        assert_eq!(route(&client, "T0").await, response::TOPIC_NOT_EXIST);
        let broker = connect(&namesrv).await;
        // Some 6 MB: many reads.
        let answer = broker.call(registration(LIMITS.topics), TIMEOUT).await.unwrap();
        assert_eq!(answer.code, 0, "{:?}", answer.remark);
        assert_eq!(route(&client, "T0").await, 0);
        drop(broker);
        let gone = async {
            while route(&client, "T0").await == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(TIMEOUT, gone).await.unwrap();
        namesrv.shutdown().await;
        assert!(client.call(registration(1), TIMEOUT).await.is_err());
        assert!(tokio::net::TcpStream::connect(namesrv.local_addr()).await.is_err());
    }

    #[tokio::test]
    async fn a_oneway_request_is_carried_out_and_not_answered() {
        let (_namesrv, connection) = namesrv().await;
        connection.call_oneway(registration(1), TIMEOUT).await.unwrap();
        assert_eq!(route(&connection, "T0").await, 0);
    }

    #[tokio::test]
    async fn bytes_that_are_no_frame_cost_their_sender_the_connection() {
        let (namesrv, connection) = namesrv().await;
        let header_beyond_frame = [0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0, 0];
        for bytes in
            [&[0xFF; 16][..], b"GET / HTTP/1.1\r\n\r\n", &header_beyond_frame, b"\0\0\0\x08\0\0\0\x04junk"]
        {
            let mut stream = tokio::net::TcpStream::connect(namesrv.local_addr()).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            let mut answer = Vec::new();
            let read = tokio::time::timeout(TIMEOUT, stream.read_to_end(&mut answer)).await.unwrap();
            assert!(read.is_err() || answer.is_empty());
        }
        assert_eq!(route(&connection, "T0").await, response::TOPIC_NOT_EXIST);
    }

    #[tokio::test]
    async fn an_address_in_use_is_an_error_that_names_it() {
        let (namesrv, _connection) = namesrv().await;
        let error = start(&NamesrvConfig::new(namesrv.local_addr()), &World::system()).unwrap_err();
        assert!(error.to_string().contains(&namesrv.local_addr().to_string()));
    }
}
