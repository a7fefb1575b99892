//! Where the server is, and what its queues hold.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use raftmq_client::{Client, ClientConfig, Connection, Routed};
use raftmq_message::topic::validate_topic;
use raftmq_remoting::Command;
use raftmq_remoting::codes::{request, response};
use raftmq_remoting::header::{OffsetResponse, QueueHeader};
use raftmq_world::{Network, Stream, World};

/// For connecting, and for each question.
const PATIENCE: Duration = Duration::from_secs(5);

/// The server and the topic.
#[derive(Args, Clone, Debug)]
pub(super) struct TargetArgs {
    /// Name servers as host:port;host:port
    #[arg(long, default_value = "127.0.0.1:9876")]
    namesrv: String,
    /// Use this address and ask no name server
    #[arg(long, value_name = "HOST:PORT")]
    addr: Option<String>,
    /// The topic; made by the broker if it allows that
    #[arg(long, default_value = "Bench")]
    topic: String,
    /// Queues to use, from 0 on; otherwise those of the route
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    queues: Option<u32>,
}

/// Where to send and pull.
#[derive(Debug)]
pub(super) struct Target {
    network: Arc<dyn Network>,
    pub(super) addr: String,
    pub(super) topic: String,
    pub(super) queues: u32,
}

/// Queue offsets of what a queue holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) queue_id: u32,
    pub(super) min: u64,
    /// Behind the last one.
    pub(super) max: u64,
}

impl Target {
    pub(super) async fn find(args: &TargetArgs, world: &World) -> anyhow::Result<Self> {
        /// What clients ask a new topic to have.
        const DEFAULT_QUEUES: u32 = 4;
        let topic = args.topic.clone();
        validate_topic(&topic)?;
        let network = world.network.clone();
        if let Some(addr) = &args.addr {
            let queues = args.queues.unwrap_or(DEFAULT_QUEUES);
            return Ok(Self { network, addr: addr.clone(), topic, queues });
        }
        let client = Client::new(ClientConfig { world: world.clone(), ..ClientConfig::new(&args.namesrv) });
        let routed: Routed = client.routes().get_for_sending(&topic).await?;
        let (broker, _) =
            routed.route.nth_writable(0).context("the topic's route has no leader to send to")?;
        let queues = routed.route.writable().filter(|(name, _)| *name == broker).count();
        let addr = routed.route.leader(broker).context("the topic's route has no leader")?.to_owned();
        // A route has at most 2^16 queues for each broker name.
        Ok(Self { network, addr, topic, queues: args.queues.unwrap_or(queues as u32) })
    }

    pub(super) async fn connect(&self) -> Result<Stream, String> {
        self.network.connect(&self.addr).await.map_err(|e| format!("connect to {}: {e}", self.addr))
    }

    /// What each queue holds now.
    pub(super) async fn held(&self) -> anyhow::Result<Vec<Held>> {
        let connection = Connection::connect(&*self.network, &self.addr, PATIENCE, 1).await?;
        let mut held = Vec::new();
        for queue_id in 0..self.queues {
            let min = self.offset(&connection, request::GET_MIN_OFFSET, queue_id).await?;
            let max = self.offset(&connection, request::GET_MAX_OFFSET, queue_id).await?;
            held.push(Held { queue_id, min: min.min(max), max });
        }
        Ok(held)
    }

    async fn offset(&self, connection: &Connection, code: i32, queue_id: u32) -> anyhow::Result<u64> {
        // There are at most 2^16 queues.
        let header = QueueHeader { topic: self.topic.clone(), queue_id: queue_id as i32, committed: None };
        let answer = connection.call(Command::request(code, header.to_ext()), PATIENCE).await?;
        if answer.code != response::SUCCESS {
            let remark = answer.remark.as_deref().unwrap_or("no remark");
            bail!("{} answers code {} to request {code}: {remark}", self.addr, answer.code);
        }
        let fields = OffsetResponse::decode(&answer)?;
        u64::try_from(fields.offset)
            .with_context(|| format!("{} gives the offset {}", self.addr, fields.offset))
    }
}
