//! Names of topics and groups: what is allowed, what is derived, what the system keeps for itself.

/// Prefix of the topic a group's failed messages are retried from.
pub const RETRY_PREFIX: &str = "%RETRY%";
/// Prefix of the topic a group's given-up messages end in.
pub const DLQ_PREFIX: &str = "%DLQ%";
/// Longest name of an ordinary topic, in bytes (a signed byte in stored records).
pub const TOPIC_NAME_LEN_MAX: usize = 127;
/// Longest name of a group, and of a retry or dead-letter topic, in bytes.
pub const GROUP_NAME_LEN_MAX: usize = 255;

/// The topic whose settings automatically created topics copy.
pub const AUTO_CREATE_TOPIC: &str = "TBW102";
pub const SCHEDULE_TOPIC: &str = "SCHEDULE_TOPIC_XXXX";
/// Where messages wait that are due at a time of their own.
pub const TIMER_TOPIC: &str = "rmq_sys_wheel_timer";
pub const BENCHMARK_TOPIC: &str = "BenchmarkTest";
pub const TRANS_HALF_TOPIC: &str = "RMQ_SYS_TRANS_HALF_TOPIC";
pub const TRANS_OP_HALF_TOPIC: &str = "RMQ_SYS_TRANS_OP_HALF_TOPIC";
pub const TRANS_CHECK_MAX_TIME_TOPIC: &str = "TRANS_CHECK_MAX_TIME_TOPIC";
pub const TRACE_TOPIC: &str = "RMQ_SYS_TRACE_TOPIC";
pub const SELF_TEST_TOPIC: &str = "SELF_TEST_TOPIC";
pub const OFFSET_MOVED_TOPIC: &str = "OFFSET_MOVED_EVENT";
/// Every topic with this prefix is the system's.
pub const SYSTEM_TOPIC_PREFIX: &str = "rmq_sys_";

const SYSTEM_TOPICS: [&str; 9] = [
    AUTO_CREATE_TOPIC,
    SCHEDULE_TOPIC,
    BENCHMARK_TOPIC,
    TRANS_HALF_TOPIC,
    TRANS_OP_HALF_TOPIC,
    TRANS_CHECK_MAX_TIME_TOPIC,
    TRACE_TOPIC,
    SELF_TEST_TOPIC,
    OFFSET_MOVED_TOPIC,
];

const NOT_FOR_CLIENTS: [&str; 7] = [
    SCHEDULE_TOPIC,
    TIMER_TOPIC,
    TRANS_HALF_TOPIC,
    TRANS_OP_HALF_TOPIC,
    TRANS_CHECK_MAX_TIME_TOPIC,
    SELF_TEST_TOPIC,
    OFFSET_MOVED_TOPIC,
];

const SYSTEM_GROUPS: [&str; 7] = [
    "TOOLS_CONSUMER",
    "FILTERSRV_CONSUMER",
    "SELF_TEST_C_GROUP",
    "CID_ONS-HTTP-PROXY",
    "CID_ONSAPI_PULL",
    "CID_ONSAPI_PERMISSION",
    "CID_ONSAPI_OWNER",
];
const SYSTEM_GROUP_PREFIXES: [&str; 2] = ["CID_RMQ_SYS_", "%SYS%"];

/// Why a name cannot be a topic or a group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("the {what} name is empty")]
    Empty { what: &'static str },
    #[error("the {what} name of {len} bytes is longer than {max}")]
    TooLong { what: &'static str, len: usize, max: usize },
    #[error("the {what} name {name:?} has {found:?}; allowed are letters, digits, %, |, - and _")]
    Character { what: &'static str, name: String, found: char },
}

/// Checks the name of a topic, retry and dead-letter topics included.
pub fn validate_topic(name: &str) -> Result<(), NameError> {
    let derived = name.starts_with(RETRY_PREFIX) || name.starts_with(DLQ_PREFIX);
    validate("topic", name, if derived { GROUP_NAME_LEN_MAX } else { TOPIC_NAME_LEN_MAX })
}

/// Checks the name of a producer or consumer group.
pub fn validate_group(name: &str) -> Result<(), NameError> {
    validate("group", name, GROUP_NAME_LEN_MAX)
}

fn validate(what: &'static str, name: &str, max: usize) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty { what });
    }
    if name.len() > max {
        return Err(NameError::TooLong { what, len: name.len(), max });
    }
    match name.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '%' | '|' | '-' | '_'))) {
        None => Ok(()),
        Some(found) => Err(NameError::Character { what, name: name.to_owned(), found }),
    }
}

/// The topic a group's failed messages are retried from.
pub fn retry_topic(group: &str) -> String {
    format!("{RETRY_PREFIX}{group}")
}

/// The topic a group's given-up messages end in.
pub fn dlq_topic(group: &str) -> String {
    format!("{DLQ_PREFIX}{group}")
}

/// The group a retry topic belongs to.
pub fn group_of_retry_topic(topic: &str) -> Option<&str> {
    topic.strip_prefix(RETRY_PREFIX)
}

/// Whether a topic belongs to the system and can be neither made nor deleted by users.
pub fn is_system_topic(topic: &str) -> bool {
    SYSTEM_TOPICS.contains(&topic) || topic.starts_with(SYSTEM_TOPIC_PREFIX)
}

/// Whether clients must not send to a topic.
pub fn is_forbidden_to_send(topic: &str) -> bool {
    NOT_FOR_CLIENTS.contains(&topic)
}

/// Whether a group is used by tools and needs no creation.
pub fn is_system_group(group: &str) -> bool {
    SYSTEM_GROUPS.contains(&group) || SYSTEM_GROUP_PREFIXES.iter().any(|prefix| group.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert_eq!(validate_topic("Tpx5-%|_a"), Ok(()));
        assert_eq!(validate_topic(""), Err(NameError::Empty { what: "topic" }));
        assert!(matches!(validate_topic("a b"), Err(NameError::Character { found: ' ', .. })));
        assert!(matches!(validate_group("gr\u{fc}n"), Err(NameError::Character { found: '\u{fc}', .. })));
        assert_eq!(validate_topic(&"t".repeat(TOPIC_NAME_LEN_MAX)), Ok(()));
        let error = NameError::TooLong { what: "topic", len: 128, max: TOPIC_NAME_LEN_MAX };
        assert_eq!(validate_topic(&"t".repeat(128)), Err(error));
        assert_eq!(validate_topic(&retry_topic(&"g".repeat(200))), Ok(()));
    }

    #[test]
    fn derived_and_system_names() {
        assert_eq!(retry_topic("G"), "%RETRY%G");
        assert_eq!(dlq_topic("G"), "%DLQ%G");
        assert_eq!(group_of_retry_topic("%RETRY%G"), Some("G"));
        assert_eq!(group_of_retry_topic("%DLQ%G"), None);
        assert!(is_system_topic("TBW102") && !is_forbidden_to_send("TBW102"));
        for topic in [TIMER_TOPIC, SCHEDULE_TOPIC] {
            assert!(is_system_topic(topic) && is_forbidden_to_send(topic));
        }
        assert!(
            is_system_group("CID_RMQ_SYS_X") && is_system_group("TOOLS_CONSUMER") && !is_system_group("G")
        );
    }
}
