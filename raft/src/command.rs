//! Commands: what goes through the log besides messages, and how it is written.
//!
//! A command frame's payload is one version byte followed by the bincode (standard configuration) of a [`Command`].
//! Variants are only ever added at the end; any other change is a new version.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The version this build writes, and the only one it reads. Version 1 had fewer settings of a group.
pub(crate) const COMMAND_VERSION: u8 = 2;

/// The largest encoded command, in bytes, where segments have room for it.
pub const COMMAND_BYTES_MAX: usize = 256 * 1024;

/// What a command may claim while it is decoded: bincode counts 8 bytes for a number or a length that takes one.
const CLAIMED_BYTES_MAX: usize = 8 * COMMAND_BYTES_MAX;

/// A change of the replicated state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Creates a topic or replaces its configuration.
    PutTopic(Topic),
    /// Removes a topic's configuration and every offset committed for it.
    DeleteTopic {
        /// The topic.
        name: String,
    },
    /// Creates a subscription group or replaces its configuration.
    PutGroup(SubscriptionGroup),
    /// Removes a subscription group's configuration.
    DeleteGroup {
        /// The group.
        name: String,
        /// Whether the offsets it committed go too.
        clean_offsets: bool,
    },
    /// Sets consumer offsets, later ones over earlier ones.
    CommitOffsets(Vec<OffsetCommit>),
    /// Records where clients reach a member, as that member says itself.
    PutMember(MemberAddress),
    /// Takes, renews or releases queue locks.
    LockQueues(QueueLocks),
    /// Records how far delayed messages are delivered. Goes with the messages that were.
    DelayProgress(DelayProgress),
    /// Sets consumer offsets, and has each queue's next pull of the group go on from there: what consumers that are
    /// still at work commit for it until then does not count.
    ResetOffsets(Vec<OffsetCommit>),
    /// Creates a topic where there is none of that name, and fewer than `max` in all.
    AddTopic {
        /// The topic.
        topic: Topic,
        /// How many topics there may be.
        max: u32,
    },
    /// Creates a subscription group where there is none of that name, and fewer than `max` in all.
    AddGroup {
        /// The group.
        group: SubscriptionGroup,
        /// How many groups there may be.
        max: u32,
    },
    /// Consumers have been told of resets. A queue that was reset anew in between stays so.
    ClearResets(Vec<ToldReset>),
}

/// How far delayed messages are delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DelayProgress {
    /// Of a delay level: its queue is delivered in order.
    Level {
        /// The level, from 1.
        level: u32,
        /// The queue offset that was the next before.
        from: u64,
        /// The queue offset to be delivered next.
        to: u64,
    },
    /// Of messages with a time of their own.
    Timer {
        /// The progress before.
        from: TimerProgress,
        /// The progress with it.
        to: TimerProgress,
    },
}

/// Which of the messages with a time of their own are delivered: of those whose place in their queue is below
/// `scanned`, the ones whose time and place are at or before (`due_ms`, `offset`); of the others, none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerProgress {
    /// Queue offset.
    pub scanned: u64,
    /// In ms since the epoch.
    pub due_ms: i64,
    /// Queue offset.
    pub offset: u64,
}

/// How a topic's messages may be tagged; carried for clients that ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FilterType {
    /// One tag a message.
    #[default]
    SingleTag,
    /// Several; obsolete.
    MultiTag,
}

/// A topic's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Queues that consumers see.
    pub read_queues: u32,
    /// Queues that producers see.
    pub write_queues: u32,
    /// Permission bits: 4 read, 2 write, 1 inherit.
    pub perm: u32,
    /// System bits: 1 unit, 2 unit subscription.
    pub sys_flag: u32,
    /// Whether it is an ordered topic.
    pub order: bool,
    /// How it is tagged.
    pub filter_type: FilterType,
    /// 5.x attributes, by name without sign.
    pub attributes: BTreeMap<String, String>,
}

impl Topic {
    /// A plain topic with `queues` queues to read and to write.
    pub fn new(name: impl Into<String>, queues: u32, perm: u32) -> Self {
        Self {
            name: name.into(),
            read_queues: queues,
            write_queues: queues,
            perm,
            sys_flag: 0,
            order: false,
            filter_type: FilterType::SingleTag,
            attributes: BTreeMap::new(),
        }
    }

    /// How many queues it has, to read or to write.
    pub fn queues(&self) -> u32 {
        self.read_queues.max(self.write_queues)
    }
}

/// A subscription group's configuration, with the defaults that RocketMQ gives a group it creates by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriptionGroup {
    /// Its name.
    pub name: String,
    /// Whether it may consume at all.
    pub consume_enable: bool,
    /// Whether it may start at the smallest offset.
    pub consume_from_min_enable: bool,
    /// Whether broadcasting is allowed.
    pub consume_broadcast_enable: bool,
    /// Queues of its retry topic.
    pub retry_queues: u32,
    /// Redeliveries before a message goes to the dead letter queue.
    pub retry_max_times: i32,
    /// The broker it prefers.
    pub broker_id: u64,
    /// The broker it is sent to when it lags.
    pub which_broker_when_consume_slowly: u64,
    /// Whether members are told when the membership changes.
    pub notify_consumer_ids_changed: bool,
    /// 5.x: whether it consumes in order.
    pub consume_message_orderly: bool,
    /// 5.x: system bits.
    pub group_sys_flag: i32,
    /// 5.x: minutes a message may take.
    pub consume_timeout_minutes: i32,
    /// 5.x attributes, by name without sign.
    pub attributes: BTreeMap<String, String>,
    /// 5.x: when failed messages are retried; carried for those who ask.
    pub retry_policy: RetryPolicy,
    /// 5.x: subscriptions kept with the settings; carried for those who ask.
    pub subscriptions: Vec<GroupSubscription>,
}

/// When a group's failed messages are retried, as 5.x clients set it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Whether the exponential one applies, not the customized one.
    pub is_exponential: bool,
    /// First delay, longest delay, both in ms, and the factor from each to the next.
    pub exponential: Option<(i64, i64, i64)>,
    /// Delays one by one, in ms.
    pub customized: Option<Vec<i64>>,
}

/// A subscription kept with a group's settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupSubscription {
    /// The topic.
    pub topic: String,
    /// `TAG` or `SQL92`.
    pub expression_type: String,
    /// The expression.
    pub expression: String,
    /// Its version.
    pub version: i64,
}

impl SubscriptionGroup {
    /// A group with RocketMQ's defaults.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            consume_enable: true,
            consume_from_min_enable: true,
            consume_broadcast_enable: true,
            retry_queues: 1,
            retry_max_times: 16,
            broker_id: 0,
            which_broker_when_consume_slowly: 1,
            notify_consumer_ids_changed: true,
            consume_message_orderly: false,
            group_sys_flag: 0,
            consume_timeout_minutes: 15,
            attributes: BTreeMap::new(),
            retry_policy: RetryPolicy::default(),
            subscriptions: Vec::new(),
        }
    }
}

/// One consumer offset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffsetCommit {
    /// The consumer group.
    pub group: String,
    /// The topic.
    pub topic: String,
    /// The queue.
    pub queue_id: u32,
    /// The next queue offset the group will consume.
    pub offset: u64,
}

/// A reset that consumers have been told of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToldReset {
    /// The consumer group.
    pub group: String,
    /// The topic.
    pub topic: String,
    /// The queue.
    pub queue_id: u32,
    /// The reset's number, as [`PendingReset::number`].
    pub number: u64,
}

/// Where a group has to go on in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingReset {
    /// The queue offset.
    pub offset: u64,
    /// Which reset it is: commands that reset are counted, from 1.
    pub number: u64,
}

/// Where a member is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberAddress {
    /// Its node id.
    pub id: u64,
    /// Its address for clients, as `ip:port`.
    pub client: String,
    /// Its admin API, as `ip:port`.
    pub admin: String,
}

/// What is to happen to the locks of some queues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueLocks {
    /// The consumer group.
    pub group: String,
    /// The client that asks.
    pub client_id: String,
    /// The queues, as topic and queue id.
    pub queues: Vec<(String, u32)>,
    /// The group's clock when the leader proposed this, in ms: [`crate::Metadata::lock_clock_ms`] at the beginning of its
    /// term and what has passed since. Every member decides by it.
    pub now_ms: i64,
    /// How long a grant lasts, in ms; 0 releases.
    pub lease_ms: i64,
}

/// What applying a command came to.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum CommandOutcome {
    /// Done.
    #[default]
    Done,
    /// Nothing was added: there are as many as there may be.
    Full,
    /// The queues that the client now holds, of those it asked for.
    Locked(Vec<(String, u32)>),
}

/// Why bytes are not a command.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The payload is empty.
    #[error("a command frame without a payload")]
    Empty,
    /// Written by a build with another format.
    #[error("command version {0}; this build reads version {COMMAND_VERSION}")]
    Version(u8),
    /// Not what the version says.
    #[error("undecodable command: {0}")]
    Decode(#[from] bincode::error::DecodeError),
    /// Bytes behind the command.
    #[error("{0} bytes behind the end of a command")]
    Trailing(usize),
    /// Cannot be written.
    #[error("unencodable command: {0}")]
    Encode(#[from] bincode::error::EncodeError),
    /// Larger than [`COMMAND_BYTES_MAX`].
    #[error("a command of {0} bytes is over the limit of {COMMAND_BYTES_MAX}")]
    TooLarge(usize),
}

impl Command {
    /// The payload of a command frame. It can be decoded again: a command in the log that cannot would stop every member.
    pub fn encode(&self) -> Result<Vec<u8>, CommandError> {
        let mut out = vec![COMMAND_VERSION];
        bincode::serde::encode_into_std_write(self, &mut out, bincode::config::standard())?;
        if out.len() > COMMAND_BYTES_MAX {
            return Err(CommandError::TooLarge(out.len()));
        }
        Self::decode(&out)?;
        Ok(out)
    }

    /// Reads a command frame's payload.
    pub fn decode(payload: &[u8]) -> Result<Self, CommandError> {
        let (&version, rest) = payload.split_first().ok_or(CommandError::Empty)?;
        if version != COMMAND_VERSION {
            return Err(CommandError::Version(version));
        }
        let config = bincode::config::standard().with_limit::<CLAIMED_BYTES_MAX>();
        let (command, read) = bincode::serde::decode_from_slice(rest, config)?;
        match rest.len() - read {
            0 => Ok(command),
            left => Err(CommandError::Trailing(left)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_survives_its_encoding() {
        let command = Command::CommitOffsets(vec![OffsetCommit {
            group: "g".into(),
            topic: "t".into(),
            queue_id: 3,
            offset: u64::MAX,
        }]);
        assert_eq!(Command::decode(&command.encode().unwrap()).unwrap(), command);
        let command = Command::PutTopic(Topic::new("t", 8, 6));
        assert_eq!(Command::decode(&command.encode().unwrap()).unwrap(), command);
    }

    #[test]
    fn what_was_encoded_can_be_decoded_up_to_the_limit() {
        let mut topic = Topic::new("t", 4, 6);
        let with = |n: usize| (0..n).map(|i| (format!("{i:04x}"), String::new())).collect();
        topic.attributes = with(40_000);
        let bytes = Command::PutTopic(topic.clone()).encode().unwrap();
        assert!(bytes.len() > COMMAND_BYTES_MAX * 3 / 4);
        assert_eq!(Command::decode(&bytes).unwrap(), Command::PutTopic(topic.clone()));
        topic.attributes = with(50_000);
        assert!(matches!(Command::PutTopic(topic).encode(), Err(CommandError::TooLarge(_))));
    }

    #[test]
    fn every_prefix_and_every_other_version_is_refused() {
        let bytes = Command::PutGroup(SubscriptionGroup::new("group")).encode().unwrap();
        for end in 0..bytes.len() {
            assert!(Command::decode(&bytes[..end]).is_err(), "a prefix of {end} bytes");
        }
        let mut later = bytes.clone();
        later[0] = COMMAND_VERSION + 1;
        assert!(matches!(Command::decode(&later), Err(CommandError::Version(3))));
        let mut longer = bytes;
        longer.push(0);
        assert!(matches!(Command::decode(&longer), Err(CommandError::Trailing(1))));
    }
}
