//! From a request to its answer: what each code means to a name server. No sockets.

use std::collections::BTreeMap;

use parking_lot::RwLock;
use raftmq_remoting::body::{BrokerData, DataVersion, KvTable, RegisterBrokerBody, TopicList};
use raftmq_remoting::codes::{request, response};
use raftmq_remoting::header::{
    ClusterHeader, DeleteTopicRouteHeader, HeaderError, RegisterBrokerHeader, RegisterBrokerResponse,
    RouteHeader, UnregisterBrokerHeader,
};
use raftmq_remoting::{Command, fastjson};
use serde::Serialize;

use super::kv::{KvConfig, ORDER_TOPIC_CONFIG};
use super::table::{LEADER_ID, Others, Registration, Table};

/// Bits of a topic's system flag.
const UNIT: i32 = 1;
const UNIT_SUB: i32 = 2;
/// The shortest and the longest time a broker may ask to be silent, in ms.
const TIMEOUT_MS_ALLOWED: std::ops::RangeInclusive<i64> = 1_000..=600_000;

/// What requests read and change.
pub(crate) struct Names {
    table: RwLock<Table>,
    kv: RwLock<KvConfig>,
    /// How long a broker may be silent that asks for nothing else, in ms.
    timeout_ms: u64,
    /// What the configuration is, as a text of properties.
    settings: String,
}

/// A refusal: response code and remark.
struct Refusal {
    code: i32,
    remark: String,
}

type Handled = Result<Command, Refusal>;

fn refuse<T>(code: i32, remark: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { code, remark: remark.into() })
}

impl From<HeaderError> for Refusal {
    fn from(error: HeaderError) -> Self {
        Self { code: response::SYSTEM_ERROR, remark: error.to_string() }
    }
}

impl Names {
    pub(crate) fn new(table: Table, timeout_ms: u64, settings: String) -> Self {
        Self { table: RwLock::new(table), kv: RwLock::default(), timeout_ms, settings }
    }

    pub(crate) fn connection_closed(&self, connection: u64) {
        self.table.write().connection_closed(connection);
    }

    pub(crate) fn expire(&self, now_ms: u64) {
        self.table.write().expire(now_ms);
    }

    /// Answers a request that came on `connection` at `now_ms`.
    pub(crate) fn answer(&self, now_ms: u64, connection: u64, request: &Command) -> Command {
        match self.handle(now_ms, connection, request) {
            Ok(answer) => answer,
            Err(Refusal { code, remark }) => {
                tracing::debug!(request = request.code, code, remark, "refused");
                Command::response_to(request, code).with_remark(remark)
            }
        }
    }

    fn handle(&self, now_ms: u64, connection: u64, request: &Command) -> Handled {
        match request.code {
            request::GET_ROUTEINFO_BY_TOPIC => self.route(request),
            request::REGISTER_BROKER => self.register(now_ms, connection, request),
            request::UNREGISTER_BROKER => self.unregister(request),
            request::BROKER_HEARTBEAT => self.heartbeat(now_ms, request),
            request::QUERY_DATA_VERSION => self.query_version(now_ms, request),
            request::GET_BROKER_CLUSTER_INFO => json(request, &self.table.read().cluster_info()),
            request::GET_BROKER_MEMBER_GROUP => self.members(request),
            request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER => self.topics(request, None, |_| true),
            request::GET_TOPICS_BY_CLUSTER => {
                self.topics(request, Some(&ClusterHeader::decode(request)?.cluster), |_| true)
            }
            request::GET_UNIT_TOPIC_LIST => self.topics(request, None, |flag| flag & UNIT != 0),
            request::GET_HAS_UNIT_SUB_TOPIC_LIST => self.topics(request, None, |flag| flag & UNIT_SUB != 0),
            request::GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST => {
                self.topics(request, None, |flag| flag & (UNIT | UNIT_SUB) == UNIT_SUB)
            }
            request::GET_SYSTEM_TOPIC_LIST_FROM_NS => self.system_topics(request),
            request::DELETE_TOPIC_IN_NAMESRV => self.delete_topic(request),
            request::WIPE_WRITE_PERM_OF_BROKER => self.wipe(request, true, "wipeTopicCount"),
            request::ADD_WRITE_PERM_OF_BROKER => self.wipe(request, false, "addTopicCount"),
            request::PUT_KV_CONFIG => self.put_kv(request),
            request::GET_KV_CONFIG => self.get_kv(request),
            request::DELETE_KV_CONFIG => self.delete_kv(request),
            request::GET_KVLIST_BY_NAMESPACE => self.list_kv(request),
            request::GET_NAMESRV_CONFIG => Ok(success(request).with_body(self.settings.clone())),
            request::UPDATE_NAMESRV_CONFIG => refuse(
                response::NO_PERMISSION,
                "the settings of this name server cannot be changed while it runs",
            ),
            code => {
                refuse(response::REQUEST_CODE_NOT_SUPPORTED, format!(" request type {code} not supported"))
            }
        }
    }

    fn route(&self, request: &Command) -> Handled {
        let topic = RouteHeader::decode(request)?.topic;
        let Some(mut route) = self.table.read().route(&topic) else {
            let remark = format!("No topic route info in name server for the topic: {topic}");
            return refuse(response::TOPIC_NOT_EXIST, remark);
        };
        route.order_topic_conf = self.kv.read().get(ORDER_TOPIC_CONFIG, &topic).map(str::to_owned);
        json(request, &route)
    }

    fn register(&self, now_ms: u64, connection: u64, request: &Command) -> Handled {
        let header = RegisterBrokerHeader::decode(request)?;
        let body = register_body(&header, request)?;
        let timeout_ms = header.heartbeat_timeout_ms.filter(|ms| TIMEOUT_MS_ALLOWED.contains(ms));
        let (broker, id) = (header.broker_name.clone(), header.broker_id);
        let is_change = body.changed_since.is_some();
        let wrapper = body.topic_config_serialize_wrapper;
        let registration = Registration {
            cluster: header.cluster_name,
            broker: header.broker_name,
            id,
            addr: header.broker_addr,
            ha_addr: header.ha_server_addr.unwrap_or_default(),
            version: wrapper.data_version,
            topics: wrapper.topic_config_table,
            others: match body.changed_since {
                Some(before) => Others::Since(before, body.deleted_topics),
                None if body.all_topics => Others::Gone,
                None => Others::Unknown,
            },
            may_stand_in: header.enable_acting_master.unwrap_or(false),
            timeout_ms: timeout_ms.map_or(self.timeout_ms, i64::unsigned_abs),
        };
        let mut table = self.table.write();
        if let Err(error) = table.register(now_ms, connection, registration) {
            return refuse(response::SYSTEM_ERROR, error.to_string());
        }
        let leader = table.leader(&broker).filter(|_| id != LEADER_ID);
        drop(table);
        let (master_addr, ha_server_addr) = leader.map_or((None, None), |l| (Some(l.addr), Some(l.ha_addr)));
        let fields = RegisterBrokerResponse { ha_server_addr, master_addr };
        // Who tells changes is told no more than that they arrived.
        let orders = if is_change { None } else { self.kv.read().namespace(ORDER_TOPIC_CONFIG).cloned() };
        let orders = orders.unwrap_or_default();
        Ok(json(request, &KvTable { table: orders })?.with_ext(fields.to_ext()))
    }

    fn unregister(&self, request: &Command) -> Handled {
        let header = UnregisterBrokerHeader::decode(request)?;
        self.table.write().unregister(&header.broker_name, header.broker_id, &header.broker_addr);
        Ok(success(request))
    }

    fn heartbeat(&self, now_ms: u64, request: &Command) -> Handled {
        let (broker, addr) = (field(request, "brokerName")?, field(request, "brokerAddr")?);
        if self.table.write().touch(now_ms, &broker, &addr) {
            return Ok(success(request));
        }
        refuse(response::SYSTEM_ERROR, format!("{addr} is not registered for {broker}"))
    }

    fn query_version(&self, now_ms: u64, request: &Command) -> Handled {
        let (broker, addr) = (field(request, "brokerName")?, field(request, "brokerAddr")?);
        let Ok(theirs) = fastjson::parse::<DataVersion>(&request.body) else {
            return refuse(response::SYSTEM_ERROR, "the body is no data version");
        };
        let mut table = self.table.write();
        let ours = table.version(&broker, &addr);
        let changed = ours != Some(theirs);
        if !changed {
            table.touch(now_ms, &broker, &addr);
        }
        drop(table);
        let answer = match ours {
            Some(version) => json(request, &version)?,
            None => success(request),
        };
        Ok(with_field(answer, "changed", if changed { "true" } else { "false" }))
    }

    fn members(&self, request: &Command) -> Handled {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct MemberGroup {
            broker_member_group: BrokerData,
        }
        let (cluster, broker) = (field(request, "clusterName")?, field(request, "brokerName")?);
        let members = self.table.read().members(&broker);
        let broker_member_group = BrokerData { broker_name: broker, cluster, ..members.unwrap_or_default() };
        json(request, &MemberGroup { broker_member_group })
    }

    fn topics(&self, request: &Command, cluster: Option<&str>, likes: impl Fn(i32) -> bool) -> Handled {
        let topics = self.table.read().topics(cluster, likes);
        json(request, &TopicList { broker_addr: None, topic_list: topics.into_iter().collect() })
    }

    /// Names of clusters and brokers, which are topics too, and a broker that knows more.
    fn system_topics(&self, request: &Command) -> Handled {
        let table = self.table.read();
        let info = table.cluster_info();
        let names = info.cluster_addr_table.into_keys().chain(info.broker_addr_table.into_keys());
        json(request, &TopicList { broker_addr: table.any_addr(), topic_list: names.collect() })
    }

    fn delete_topic(&self, request: &Command) -> Handled {
        let header = DeleteTopicRouteHeader::decode(request)?;
        let cluster = header.cluster_name.as_deref().filter(|name| !name.is_empty());
        self.table.write().delete_topic(&header.topic, cluster);
        Ok(success(request))
    }

    fn wipe(&self, request: &Command, wiped: bool, count: &str) -> Handled {
        let topics = self.table.write().wipe_write(&field(request, "brokerName")?, wiped);
        Ok(with_field(success(request), count, &topics.to_string()))
    }

    fn put_kv(&self, request: &Command) -> Handled {
        let (namespace, key) = (field(request, "namespace")?, field(request, "key")?);
        match self.kv.write().put(&namespace, &key, &field(request, "value")?) {
            Ok(()) => Ok(success(request)),
            Err(reason) => refuse(response::SYSTEM_ERROR, reason),
        }
    }

    fn get_kv(&self, request: &Command) -> Handled {
        let (namespace, key) = (field(request, "namespace")?, field(request, "key")?);
        match self.kv.read().get(&namespace, &key) {
            Some(value) => Ok(with_field(success(request), "value", value)),
            None => {
                let remark = format!("No config item, Namespace: {namespace} Key: {key}");
                refuse(response::QUERY_NOT_FOUND, remark)
            }
        }
    }

    fn delete_kv(&self, request: &Command) -> Handled {
        self.kv.write().delete(&field(request, "namespace")?, &field(request, "key")?);
        Ok(success(request))
    }

    fn list_kv(&self, request: &Command) -> Handled {
        let namespace = field(request, "namespace")?;
        let found: Option<BTreeMap<_, _>> = self.kv.read().namespace(&namespace).cloned();
        match found {
            Some(table) => json(request, &KvTable { table }),
            None => refuse(response::QUERY_NOT_FOUND, format!("No config item, Namespace: {namespace}")),
        }
    }
}

/// What a broker registers, if it arrived whole.
fn register_body(header: &RegisterBrokerHeader, request: &Command) -> Result<RegisterBrokerBody, Refusal> {
    if header.compressed {
        return refuse(response::SYSTEM_ERROR, "compressed registrations are not supported");
    }
    let crc = crc32fast::hash(&request.body) & 0x7FFF_FFFF;
    if header.body_crc32 != 0 && header.body_crc32.cast_unsigned() != crc {
        let remark = format!("the body has CRC-32 {crc}, the header says {}", header.body_crc32);
        return refuse(response::SYSTEM_ERROR, remark);
    }
    if request.body.is_empty() {
        return Ok(Default::default());
    }
    fastjson::parse(&request.body)
        .or_else(|error| refuse(response::SYSTEM_ERROR, format!("unreadable registration: {error}")))
}

fn success(request: &Command) -> Command {
    Command::response_to(request, response::SUCCESS)
}

fn json(request: &Command, body: &impl Serialize) -> Handled {
    match fastjson::to_vec(body) {
        Ok(body) => Ok(success(request).with_body(body)),
        Err(error) => refuse(response::SYSTEM_ERROR, error.to_string()),
    }
}

fn with_field(mut answer: Command, key: &str, value: &str) -> Command {
    answer.ext.set(key, value);
    answer
}

/// A field that must be there.
fn field(request: &Command, name: &str) -> Result<String, Refusal> {
    match request.ext.get(name) {
        Some(value) => Ok(value.into_owned()),
        None => refuse(response::SYSTEM_ERROR, format!("request {} has no {name}", request.code)),
    }
}

#[cfg(test)]
mod tests;
