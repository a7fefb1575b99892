//! Registration of brokers at name servers.

use super::header;

header! {
    /// 103, a broker registers itself and its topics.
    RegisterBrokerHeader {
        broker_name: String = "brokerName",
        broker_addr: String = "brokerAddr",
        cluster_name: String = "clusterName",
        ha_server_addr: Option<String> = "haServerAddr",
        /// 0 is the leader.
        broker_id: i64 = "brokerId",
        /// The body is deflated.
        compressed: bool = "compressed" or false,
        /// CRC-32 of the body with the sign bit cleared; 0 where not given.
        body_crc32: i32 = "bodyCrc32" or 0,
        /// How long the name server waits for the next registration, from 5.x brokers.
        heartbeat_timeout_ms: Option<i64> = "heartbeatTimeoutMillis",
        enable_acting_master: Option<bool> = "enableActingMaster",
    }
}

header! {
    /// The answer to 103.
    RegisterBrokerResponse {
        ha_server_addr: Option<String> = "haServerAddr",
        /// Where the leader is, for brokers that are not.
        master_addr: Option<String> = "masterAddr",
    }
}

header! {
    /// 104, a broker leaves.
    UnregisterBrokerHeader {
        broker_name: String = "brokerName",
        broker_addr: String = "brokerAddr",
        cluster_name: String = "clusterName",
        broker_id: i64 = "brokerId",
    }
}
