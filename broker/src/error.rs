//! Why an operation has not done what it was asked.

use raftmq_message::topic::NameError;
use raftmq_raft::{ChangeError, ProposeError};

use crate::filter::FilterError;
use crate::limits::{
    EXPRESSION_BYTES_MAX, OPERATIONS_PER_GROUP_MAX, SUBSCRIPTION_BYTES_PER_GROUP_MAX,
    SUBSCRIPTIONS_PER_GROUP_MAX, TIMER_DELAY_MAX,
};

/// Why this member does not serve what only a leader serves.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotServing {
    /// It is about to end.
    #[error("this broker is stopping")]
    Stopping,
    /// It leads, and has not applied and dispatched everything that was committed before.
    #[error("this broker has just become the leader and is not ready yet")]
    NotReady,
    /// Nobody is known to lead.
    #[error("there is no leader at the moment")]
    NoLeader,
    /// What is stored here is broken, and comes again from another member.
    #[error("this broker cannot read what was asked for: {0}")]
    Damaged(String),
    /// Another member leads.
    #[error("not the leader, the leader is node {id}{}", at(address.as_deref()))]
    Follows {
        /// Its node id.
        id: u64,
        /// Where clients reach it, where that is known.
        address: Option<String>,
    },
}

fn at(address: Option<&str>) -> String {
    address.map(|address| format!(" at {address}")).unwrap_or_default()
}

/// A bound that is reached; it may not be later.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// Topics in all.
    #[error("there are {0} topics")]
    Topics(usize),
    /// Subscription groups in all.
    #[error("there are {0} subscription groups")]
    Groups(usize),
    /// Offsets in all, one for each queue of each group.
    #[error("there are {0} consumer offsets")]
    Offsets(usize),
    /// Offsets that are not in the log yet.
    #[error("{0} consumer offsets wait to be committed")]
    PendingOffsets(usize),
    /// Who waits for them.
    #[error("{0} requests wait for consumer offsets")]
    OffsetRequests(usize),
    /// Queue locks in all.
    #[error("there are {0} queue locks")]
    Locks(usize),
    /// Groups of producers.
    #[error("there are {0} producer groups")]
    ProducerGroups(usize),
    /// Groups of consumers that have members.
    #[error("there are {0} consumer groups")]
    ConsumerGroups(usize),
    /// Clients of one group.
    #[error("the group has {0} clients")]
    ClientsOfGroup(usize),
    /// Memberships in groups, over all connections.
    #[error("there are {0} memberships in groups")]
    Memberships(usize),
    /// Those of one connection.
    #[error("this connection has {0} memberships in groups")]
    MembershipsOfConnection(usize),
    /// Memory of subscriptions.
    #[error("all groups' subscriptions have {0} bytes")]
    SubscriptionBytes(usize),
    /// What is on its way into the log.
    #[error("{0}")]
    Log(String),
    /// The disks. In RocketMQ's words, by which people know it.
    #[error(
        "service not available now. It may be caused by one of the following reasons: the broker's disk is full [{0}]"
    )]
    Disk(String),
}

/// Why an operation has not done what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// This member does not serve it.
    #[error(transparent)]
    NotServing(#[from] NotServing),
    /// It may have been done or not.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
    /// Nothing was done: it was right in one term, and this is another.
    #[error("what was asked for in term {of} is not for term {now}")]
    OtherTerm {
        /// The term in which it was right.
        of: u64,
        /// The present term.
        now: u64,
    },
    /// A bound is reached.
    #[error(transparent)]
    Full(#[from] Full),
    /// The topic does not exist.
    #[error("topic[{0}] not exist, apply first please!")]
    NoTopic(String),
    /// The topic is deleted: nothing was stored.
    #[error("the topic was deleted while the message was on its way")]
    TopicDeleted,
    /// The subscription group does not exist.
    #[error("subscription group [{0}] does not exist")]
    NoGroup(String),
    /// Nor can it be made: its name is none.
    #[error(transparent)]
    NoSuchGroupCanBe(Box<Error>),
    /// The topic has no such queue.
    #[error("queueId[{queue_id}] is illegal, topic[{topic}] has {queues} queues")]
    NoQueue {
        /// The topic.
        topic: String,
        /// The queue that was asked for.
        queue_id: i32,
        /// How many it has.
        queues: u32,
    },
    /// The topic has no such queue to read from.
    #[error("queueId[{queue_id}] is illegal, topic:[{topic}] topicConfig.readQueueNums:[{queues}]")]
    NoReadQueue {
        /// The topic.
        topic: String,
        /// The queue that was asked for.
        queue_id: i32,
        /// How many it has.
        queues: u32,
    },
    /// The group's settings forbid it to consume.
    #[error("subscription group no permission, {0}")]
    GroupMayNotConsume(String),
    /// The topic's permission forbids it.
    #[error("the topic[{0}] pulling message is forbidden")]
    TopicNotReadable(String),
    /// The group's settings forbid broadcasting.
    #[error("the consumer group[{0}] can not consume by broadcast way")]
    BroadcastForbidden(String),
    /// No member of the group is known.
    #[error("the consumer's group info not exist")]
    NoMembers,
    /// Nor that the group subscribes to the topic.
    #[error("the consumer's subscription not exist")]
    NoSubscription,
    /// The client knows of a newer one.
    #[error("the consumer's subscription not latest")]
    SubscriptionNotLatest,
    /// An expression cannot be used.
    #[error("parse the consumer's subscription failed: {0}")]
    Filter(#[from] FilterError),
    /// The topic has no such queue to send to.
    #[error("request queueId[{queue_id}] is illegal, topic[{topic}] has {queues} queues")]
    NoSendQueue {
        /// The topic.
        topic: String,
        /// The queue that was asked for.
        queue_id: i32,
        /// How many it has.
        queues: u32,
    },
    /// Nobody may send to the topic.
    #[error("Sending message to topic[{0}] is forbidden.")]
    SendForbidden(String),
    /// The topic's permission forbids it.
    #[error("the topic[{0}] sending message is forbidden")]
    TopicNotWritable(String),
    /// A message cannot be stored as it is.
    #[error(
        "the message is illegal, maybe msg body or properties length not matched. msg body length limit {body_max}B, \
         msg properties length limit 32KB. {detail}"
    )]
    MessageIllegal {
        /// Bytes that a body may have.
        body_max: usize,
        /// What is wrong with it.
        detail: String,
    },
    /// A delay level that is none.
    #[error("the delay level {0:?} is no number")]
    DelayLevel(String),
    /// A message asks to be delivered too late, or at a time that is none.
    #[error(
        "timer message illegal, the delay time should not be bigger than the max delay {}ms; or if set del msg, the \
         delay time should be bigger than the current time",
        TIMER_DELAY_MAX.as_millis()
    )]
    Untimely,
    /// A record cannot hold the topic's name.
    #[error("{0}")]
    TopicTooLong(String),
    /// A queue has no such offset.
    #[error("Target offset {asked} not in consume queue range [{min}-{max}]")]
    OffsetOutside {
        /// What was asked for.
        asked: i64,
        /// The queue's first offset.
        min: u64,
        /// Its end.
        max: u64,
    },
    /// There is no message at a physical offset.
    #[error("look message by offset failed, {0}")]
    Lost(i64),
    /// What this broker does not do.
    #[error("{0}")]
    Unsupported(&'static str),
    /// A topic or a group cannot have such a name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No group can have such a name, as none can be made.
    #[error("the group name of {0} bytes is too long for its retry topic")]
    GroupNameTooLong(usize),
    /// A topic has too many queues.
    #[error("a topic has at most {max} queues, not {queues}")]
    TooManyQueues {
        /// How many it is to have.
        queues: u32,
        /// How many it may have.
        max: u32,
    },
    /// A client's id is too long, or is none.
    #[error("a client id of {0} bytes")]
    ClientId(usize),
    /// A request names too many queues.
    #[error("{queues} queues at once, at most {max}")]
    TooManyAtOnce {
        /// How many it names.
        queues: usize,
        /// How many it may name.
        max: usize,
    },
    /// A group's expressions are too costly.
    #[error("the group's expressions have {0} operations, at most {OPERATIONS_PER_GROUP_MAX}")]
    TooManyOperations(usize),
    /// A group subscribes to too many topics.
    #[error("{0} subscriptions, at most {SUBSCRIPTIONS_PER_GROUP_MAX}")]
    TooManySubscriptions(usize),
    /// An expression is too long.
    #[error("the expression for {0} is longer than {EXPRESSION_BYTES_MAX} bytes")]
    ExpressionTooLong(String),
    /// All of a group's subscriptions together are.
    #[error("subscriptions of {0} bytes, at most {SUBSCRIPTION_BYTES_PER_GROUP_MAX}")]
    SubscriptionsTooLong(usize),
    /// A change that the log does not take.
    #[error("{0}")]
    Change(String),
    /// The store could not be read.
    #[error("{0}")]
    Store(String),
}

impl From<ChangeError> for Error {
    fn from(error: ChangeError) -> Self {
        Self::Change(error.to_string())
    }
}

impl From<&ProposeError> for Error {
    /// Of whoever is not the leader it is not told who is, see [`Replica`](crate::replica::Replica).
    fn from(error: &ProposeError) -> Self {
        match error {
            ProposeError::Refused(reason) => Full::Log(reason.clone()).into(),
            ProposeError::TooEarly(reason) => Self::Change(reason.clone()),
            ProposeError::Busy { .. } => Full::Log(error.to_string()).into(),
            ProposeError::NoRoom(what) => Full::Disk(what.clone()).into(),
            ProposeError::Unknown | ProposeError::Stopped(_) => Self::Unknown(error.to_string()),
            ProposeError::NotLeader { .. } => NotServing::NoLeader.into(),
        }
    }
}
