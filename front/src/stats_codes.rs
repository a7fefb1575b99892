//! Requests that tools make to look into a broker: runtime information, statistics of topics, the configuration.

use std::collections::BTreeMap;
use std::fmt::Write;

use raftmq_broker::settings::AUTO_CREATE_QUEUES;
use raftmq_message::RecordView;
use raftmq_raft::{FlushMode, Role};
use raftmq_remoting::Command;
use raftmq_remoting::body::{KvTable, QueueMap, TopicList, TopicOffset, TopicStatsTable};
use raftmq_remoting::codes::response;
use raftmq_remoting::header::TopicHeader;
use raftmq_store::FrameKind;

use crate::limits::TIMER_DELAY_MAX;
use crate::node::Node;
use crate::registered::broker_id;
use crate::reply::{Handled, Refusal, Reply, body, json};

/// The version that tools print: that of the protocol spoken.
const VERSION_NAME: &str = "V5_4_0";

/// 202: the queues of a topic.
pub(crate) async fn topic_stats(node: &Node, command: &Command) -> Handled {
    node.replica.settle().await;
    let name = TopicHeader::decode(command)?.topic;
    let missing = || Refusal::new(response::TOPIC_NOT_EXIST, format!("topic[{name}] not exist"));
    let topic = node.state.topics.get(&name).ok_or_else(missing)?;
    let mut offset_table = QueueMap::new();
    for queue_id in 0..topic.queues() {
        offset_table.insert(node.message_queue(&name, queue_id), topic_offset(node, &name, queue_id));
    }
    // Rates are measured for the broker as a whole.
    body(TopicStatsTable { offset_table, topic_put_tps: 0.0 }.to_json())
}

fn topic_offset(node: &Node, topic: &str, queue_id: u32) -> TopicOffset {
    let queues = &node.broker.queues;
    let (min, max) = queues.ends(topic, queue_id);
    let last = max.checked_sub(1).and_then(|last| queues.stored_at(topic, queue_id, last));
    TopicOffset { last_update_timestamp: last.unwrap_or(0), max_offset: max as i64, min_offset: min as i64 }
}

/// 28: names and values that tools print.
pub(crate) fn runtime_info(node: &Node) -> Handled {
    json(&KvTable { table: runtime_table(node) })
}

fn runtime_table(node: &Node) -> BTreeMap<String, String> {
    let stats = node.stats();
    let status = node.replica.group().status();
    let tps = |rates: [f64; 3]| format!("{:.2} {:.2} {:.2}", rates[0], rates[1], rates[2]);
    let (put, get) = (tps(stats.put_tps), tps(stats.get_tps));
    let totals = stats.totals;
    let behind = status.max_physical_offset.saturating_sub(status.dispatched_physical_offset);
    let flush_behind = status.max_physical_offset.saturating_sub(status.flushed_physical_offset);
    let average = totals.put_bytes.checked_div(totals.put_messages).unwrap_or(0);
    let mut table: BTreeMap<String, String> = [
        ("brokerVersionDesc", VERSION_NAME.to_owned()),
        ("brokerVersion", raftmq_remoting::command::VERSION.to_string()),
        ("brokerActive", status.ready.to_string()),
        ("bootTimestamp", node.boot_timestamp_ms.to_string()),
        ("runtime", runtime(node.process.now_ms() / 1000)),
        ("putTps", put),
        ("getTransferedTps", get.clone()),
        ("getTransferredTps", get.clone()),
        ("getTotalTps", get.clone()),
        ("getFoundTps", get),
        ("putMessageTimesTotal", totals.put_messages.to_string()),
        ("putMessageSizeTotal", totals.put_bytes.to_string()),
        ("putMessageFailedTimes", totals.put_failed.to_string()),
        ("putMessageAverageSize", average.to_string()),
        ("commitLogMinOffset", status.min_physical_offset.to_string()),
        ("commitLogMaxOffset", status.max_physical_offset.to_string()),
        ("commitLogDiskRatio", format!("{:.4}", disk_ratio(node))),
        ("dispatchBehindBytes", behind.to_string()),
        ("remainHowManyDataToFlush", format!("{flush_behind} B")),
        ("raftRole", format!("{:?}", status.role)),
        ("raftTerm", status.term.to_string()),
        ("connections", stats.connections.to_string()),
        ("heldPulls", stats.held_pulls.to_string()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect();
    // Totals count from the start of the process, as nothing older is kept.
    for (name, total) in [("msgPutTotal", totals.put_messages), ("msgGetTotal", totals.get_messages)] {
        table.insert(format!("{name}TodayNow"), total.to_string());
        table.insert(format!("{name}TodayMorning"), "0".to_owned());
        table.insert(format!("{name}YesterdayMorning"), "0".to_owned());
    }
    // Tools read these without asking whether they are there. Nothing here has such queues.
    for name in ["send", "pull", "query", "ack", "litePull"] {
        table.insert(format!("{name}ThreadPoolQueueSize"), "0".to_owned());
        table.insert(format!("{name}ThreadPoolQueueHeadWaitTimeMills"), "0".to_owned());
    }
    for name in ["pageCacheLockTimeMills", "timerReadBehind", "timerOffsetBehind"] {
        table.insert(name.to_owned(), "0".to_owned());
    }
    for name in ["timerEnqueueTps", "timerDequeueTps"] {
        table.insert(name.to_owned(), "0.0".to_owned());
    }
    table.extend(node.broker.delay.runtime_info());
    table.insert("earliestMessageTimeStamp".to_owned(), earliest_store_time(node).to_string());
    table
}

/// Store time of the log's first message; -1 where there is none.
fn earliest_store_time(node: &Node) -> i64 {
    /// Entries that are looked at. A young log begins with changes of the group's state.
    const ENTRIES_MAX: usize = 4096;
    let store = node.replica.store();
    let dispatched = store.dispatched_physical_offset();
    let mut walk = store.log().walk(store.min_physical_offset());
    for _ in 0..ENTRIES_MAX {
        // An error here is no damage: the log's start may be deleted at any time.
        let Ok(Some(frame)) = walk.next() else { break };
        if frame.header.end() > dispatched {
            break;
        }
        if frame.header.kind == FrameKind::Messages {
            return RecordView::parse(frame.records()).map_or(-1, |record| record.store_timestamp_ms());
        }
    }
    -1
}

/// The part of the log's disk that is in use, from 0 to 1, of what is not reserved for the system; -1 where it is not
/// known.
fn disk_ratio(node: &Node) -> f64 {
    let usage = node.process.world.disk.usage(&node.replica.group().config().dir);
    usage.map_or(-1.0, |usage| usage.used())
}

/// The time since the start as RocketMQ prints it.
fn runtime(seconds: u64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    format!(
        "[ {} days, {} hours, {} minutes, {} seconds ]",
        hours / 24,
        hours % 24,
        minutes % 60,
        seconds % 60
    )
}

/// 26: the configuration as Java properties, sorted. Names are RocketMQ's where it has such a setting.
pub(crate) fn broker_config(node: &Node) -> Handled {
    let mut text = String::new();
    for (key, value) in settings(node) {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{key}={value}");
    }
    let version = serde_json::to_string(&node.data_version()).unwrap_or_default();
    let mut ext = raftmq_remoting::Ext::new();
    ext.set("version", &version);
    Ok(Reply { ext, body: text.into() })
}

fn settings(node: &Node) -> BTreeMap<&'static str, String> {
    let (config, group) = (&node.config, node.replica.group().config());
    let limits = &node.process.limits;
    let leads = node.replica.group().status().role == Role::Leader;
    let (election_min, election_max) = group.election_timeout_ms;
    let members = group.members.iter().map(|member| format!("{}={}", member.id, member.raft));
    BTreeMap::from([
        ("adminListen", group.admin.to_string()),
        ("autoCreateSubscriptionGroup", config.auto_create_group.to_string()),
        ("autoCreateTopicEnable", config.auto_create_topic.to_string()),
        ("brokerClusterName", config.cluster.clone()),
        ("brokerIP1", config.advertise.ip().to_string()),
        (
            "brokerId",
            broker_id(&node.replica.role(), config.node_id).map_or_else(String::new, |id| id.to_string()),
        ),
        ("brokerName", config.broker_name.clone()),
        // What RocketMQ calls a master that has its messages on others before it acknowledges them.
        ("brokerRole", if leads { "SYNC_MASTER" } else { "SLAVE" }.to_owned()),
        ("defaultTopicQueueNums", AUTO_CREATE_QUEUES.to_string()),
        (
            "flushDiskType",
            match group.flush {
                FlushMode::Sync => "SYNC_FLUSH",
                FlushMode::Async => "ASYNC_FLUSH",
            }
            .to_owned(),
        ),
        ("listenPort", config.listen.port().to_string()),
        ("longPollingEnable", "true".to_owned()),
        ("mappedFileSizeCommitLog", group.segment_bytes.to_string()),
        ("maxMessageSize", limits.group.message_bytes.to_string()),
        ("messageDelayLevel", config.delay_levels.to_string()),
        ("namesrvAddr", config.namesrv.join(";")),
        ("raftElectionTimeoutMs", format!("{election_min}-{election_max}")),
        ("raftHeartbeatMs", group.heartbeat_ms.to_string()),
        ("raftNodeId", config.node_id.to_string()),
        ("raftPeers", members.collect::<Vec<_>>().join(",")),
        ("storePathRootDir", group.dir.display().to_string()),
        ("timerMaxDelaySec", TIMER_DELAY_MAX.as_secs().to_string()),
    ])
}

/// RocketMQ's settings that a flag of this broker sets.
const FLAGS: [(&str, &str); 11] = [
    ("brokerClusterName", "--cluster"),
    ("brokerIP1", "--advertise"),
    ("brokerName", "--broker-name"),
    ("flushDiskType", "--flush"),
    ("listenPort", "--listen"),
    ("mappedFileSizeCommitLog", "--segment-size, when the group is made,"),
    ("messageDelayLevel", "--message-delay-level"),
    ("namesrvAddr", "--namesrv"),
    ("raftElectionTimeoutMs", "--election-ms"),
    ("raftHeartbeatMs", "--heartbeat-ms"),
    ("storePathRootDir", "--dir"),
];

/// 25: nothing can be changed while the broker runs; the answer says what to do instead.
pub(crate) fn update_broker_config(command: &Command) -> Handled {
    /// Settings that the answer speaks of.
    const NAMED_MAX: usize = 8;
    let text = String::from_utf8_lossy(&command.body);
    let names = text.lines().map(|line| line.split('=').next().unwrap_or_default().trim());
    let named = names.filter(|name| !name.is_empty()).take(NAMED_MAX);
    let advice = named.map(|name| match FLAGS.iter().find(|(setting, _)| *setting == name) {
        Some((_, flag)) => format!("; for {name} start it with {flag}"),
        None => format!("; {name} is nothing that can be set"),
    });
    let advice: String = advice.collect();
    Err(Refusal::unsupported(format!("the configuration cannot be changed while the broker runs{advice}")))
}

/// 305: the system's topics.
pub(crate) fn system_topics(node: &Node) -> Handled {
    let topics = node.state.topics.all();
    let of_system =
        topics.iter().map(|topic| &topic.name).filter(|name| node.broker.settings.is_of_system(name));
    json(&TopicList { topic_list: of_system.cloned().collect(), ..TopicList::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_since_the_start_is_split_into_units() {
        assert_eq!(runtime(0), "[ 0 days, 0 hours, 0 minutes, 0 seconds ]");
        assert_eq!(runtime(2 * 86_400 + 3 * 3600 + 4 * 60 + 5), "[ 2 days, 3 hours, 4 minutes, 5 seconds ]");
    }

    #[test]
    fn who_would_change_a_setting_is_told_of_the_flag() {
        let of = |body: &'static str| {
            let command = Command::request(25, raftmq_remoting::Ext::new()).with_body(body);
            update_broker_config(&command).unwrap_err().remark.into_owned()
        };
        assert!(of("flushDiskType=ASYNC_FLUSH\n").ends_with("for flushDiskType start it with --flush"));
        let both = of("listenPort=1\nfoo=2");
        assert!(both.contains("--listen") && both.contains("foo is nothing that can be set"), "{both}");
        assert!(of("").ends_with("while the broker runs"));
    }
}
