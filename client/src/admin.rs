//! Administrative calls.

use raftmq_message::topic::{AUTO_CREATE_TOPIC, validate_topic};
use raftmq_remoting::body::{ClusterInfo, TopicConfig};
use raftmq_remoting::codes::{request, response};
use raftmq_remoting::header::CreateTopicHeader;
use raftmq_remoting::{Command, Ext, fastjson};

use crate::client::{Client, Tries};
use crate::error::ClientError;

impl Client {
    /// The brokers and clusters a name server knows.
    pub async fn cluster_info(&self) -> Result<ClusterInfo, ClientError> {
        let request = Command::request(request::GET_BROKER_CLUSTER_INFO, Ext::new());
        let (addr, answer) = self.routes().name_servers().ask(&request).await?;
        if answer.code != response::SUCCESS {
            return Err(ClientError::refused(&addr, answer));
        }
        fastjson::parse(&answer.body)
            .map_err(|error| ClientError::Malformed { addr, reason: error.to_string() })
    }

    /// Creates a topic at every leader, or changes its settings.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), raftmq_client::ClientError> {
    /// use raftmq_client::{Client, ClientConfig, TopicConfig};
    ///
    /// let client = Client::new(ClientConfig::new("127.0.0.1:9876"));
    /// let topic =
    ///     TopicConfig { topic_name: "Orders".into(), read_queue_nums: 8, write_queue_nums: 8, ..TopicConfig::default() };
    /// client.create_topic(&topic).await?;
    /// # Ok(()) }
    /// ```
    pub async fn create_topic(&self, topic: &TopicConfig) -> Result<(), ClientError> {
        validate_topic(&topic.topic_name).map_err(|error| ClientError::Invalid(error.to_string()))?;
        let attributes: Vec<_> =
            topic.attributes.iter().map(|(key, value)| format!("+{key}={value}")).collect();
        let header = CreateTopicHeader {
            topic: topic.topic_name.clone(),
            default_topic: Some(AUTO_CREATE_TOPIC.to_owned()),
            read_queue_nums: topic.read_queue_nums,
            write_queue_nums: topic.write_queue_nums,
            perm: topic.perm,
            topic_filter_type: topic.topic_filter_type,
            topic_sys_flag: Some(topic.topic_sys_flag),
            order: topic.order,
            attributes: (!attributes.is_empty()).then(|| attributes.join(",")),
        };
        let request = Command::request(request::UPDATE_AND_CREATE_TOPIC, header.to_ext());
        self.tell_leaders(&topic.topic_name, &request).await
    }

    /// Sends a request that may be carried out twice to every leader, until all have carried it out.
    async fn tell_leaders(&self, topic: &str, request: &Command) -> Result<(), ClientError> {
        let mut tries = Tries::new(self.config().request_timeout);
        loop {
            match self.try_leaders(topic, request, &tries).await {
                Ok(()) => return Ok(()),
                Err(error) => tries.failed(error).await?,
            }
        }
    }

    async fn try_leaders(&self, topic: &str, request: &Command, tries: &Tries) -> Result<(), ClientError> {
        let cluster = self.cluster_info().await?;
        let leaders: Vec<_> =
            cluster.broker_addr_table.values().filter_map(|broker| broker.broker_addrs.get(&0)).collect();
        if leaders.is_empty() {
            let what = "leader that could hold it".to_owned();
            return Err(ClientError::Unroutable { topic: topic.to_owned(), what });
        }
        for addr in leaders {
            let timeout = tries.bound(self.config().try_timeout);
            let answer = self.call(addr, request.clone(), timeout).await?;
            if answer.code != response::SUCCESS {
                return Err(ClientError::refused(addr, answer));
            }
        }
        Ok(())
    }
}
