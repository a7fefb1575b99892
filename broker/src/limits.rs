//! Every bound that operations keep, with its reason.

use std::time::Duration;

/// Bounds that depend on the machine; the rest are constants of this module.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest message body and largest batch body, in bytes. RocketMQ's default, which clients check too.
    pub message_bytes: usize,
    /// Pulls that are held, over all connections. Past it a pull that finds nothing is answered at once.
    pub held_pulls: usize,
    /// Pulls that are held for one connection: one for each queue of a large consumer.
    pub held_pulls_per_connection: usize,
    /// Topics, the system's and the retry topics included. A leader names all of them to the name servers now and then.
    pub topics: usize,
    /// Queues of one topic.
    pub queues_per_topic: u32,
    /// Subscription groups, and groups of producers.
    pub groups: usize,
    /// Clients of one group.
    pub clients_per_group: usize,
    /// Consumers' and producers' memberships in groups, over all connections.
    pub memberships: usize,
    /// Memberships that one connection's clients have.
    pub memberships_per_connection: usize,
    /// Memory of all consumer groups' subscriptions, in bytes: texts, tags, compiled expressions. Some 300 for a plain
    /// one, so that every group may have ten and some of them large ones.
    pub subscription_bytes: usize,
    /// Consumer offsets that wait to be proposed. Past it committing an offset is answered "busy".
    pub pending_offsets: usize,
    /// Consumer offsets in all, one for each queue of each group. They stay in memory and are part of every checkpoint.
    /// Past it the first commit of a group for a queue is answered "busy".
    pub committed_offsets: usize,
    /// Queue locks in all, likewise. Past it only renewals are taken.
    pub queue_locks: usize,
}

impl Default for Limits {
    fn default() -> Self {
        const MIB: usize = 1024 * 1024;
        Self {
            message_bytes: 4 * MIB,
            held_pulls: 100_000,
            held_pulls_per_connection: 4096,
            topics: 20_000,
            queues_per_topic: 1024,
            groups: 20_000,
            clients_per_group: 10_000,
            memberships: 500_000,
            memberships_per_connection: 4096,
            subscription_bytes: 64 * MIB,
            pending_offsets: 100_000,
            committed_offsets: 1_000_000,
            queue_locks: 200_000,
        }
    }
}

/// Record bytes that are submitted together, unless one request has more. What the log makes one entry of.
pub const SUBMIT_BYTES: usize = 1024 * 1024;
/// Messages of one batch request.
pub const BATCH_MESSAGES_MAX: usize = 64 * 1024;
/// The longest time that a message can be delayed by; RocketMQ's default.
pub const TIMER_DELAY_MAX: Duration = Duration::from_secs(3 * 24 * 3600);
/// Messages that one pull brings; more are not asked for by default (32) and a client cannot ask for more than this.
pub const PULL_MESSAGES_MAX: usize = 1024;
/// Bytes of messages that one pull brings, unless its first message alone is larger. What RocketMQ brings.
pub const PULL_BYTES_MAX: usize = 256 * 1024;
/// What one pull does where its filter lets few messages through, in units of some 4 ns: about 1 ms, which is 65,000
/// ConsumeQueue units, 2,000 records under a short expression, or a few under a dear one.
pub const PULL_WORK: usize = 256 * 1024;
/// What pulls do before the other connections have their turn.
pub const PULL_TURN_WORK: usize = 32 * 1024;
/// How long a request waits at most to see what was acknowledged just before it.
pub const SETTLE_MAX: Duration = Duration::from_secs(1);
/// Longest time a pull is held. Clients give up after some 30 s.
pub const HOLD_MAX: Duration = Duration::from_secs(25);
/// How long a follower holds a pull that only the leader can answer, before it says so.
pub const SEND_AWAY_HOLD: Duration = Duration::from_millis(500);
/// Held pulls that are answered before the other connections have their turn.
pub const HOLD_ANSWERS: usize = 64;
/// How exactly the end of a hold is met.
pub const HOLD_TICK: Duration = Duration::from_millis(100);
/// Topics that one consumer group subscribes to.
pub const SUBSCRIPTIONS_PER_GROUP_MAX: usize = 1024;
/// Characters of a client id.
pub const CLIENT_ID_LEN_MAX: usize = 255;
/// Bytes of all subscriptions of one consumer group.
pub const SUBSCRIPTION_BYTES_PER_GROUP_MAX: usize = 64 * 1024;
/// Bytes of a subscription expression.
pub const EXPRESSION_BYTES_MAX: usize = 16 * 1024;
/// Operations of a compiled expression, five for each comparison. A comparison may have to read a property of up to 32 KiB
/// anew for every message, so that one message takes some 20 ms at worst.
pub const EXPRESSION_OPERATIONS_MAX: usize = 2048;
/// Operations of all expressions of one consumer group, as they are compiled while others wait.
pub const OPERATIONS_PER_GROUP_MAX: usize = 8 * EXPRESSION_OPERATIONS_MAX;
/// Filters that pulls bring with them and that are kept for their next pulls: in number, and in bytes of their
/// expressions. As many again are about to be forgotten.
pub const FILTERS_KEPT: usize = 1024;
pub const FILTER_BYTES_KEPT: usize = 256 * 1024;
/// A client that has not sent a heartbeat for this long is gone. Clients send one every 30 s.
pub const CLIENT_EXPIRY: Duration = Duration::from_secs(120);
/// How long a queue lock lasts without renewal. Clients renew every 20 s.
pub const LOCK_LEASE: Duration = Duration::from_secs(60);
/// Queues in one lock request; a command has to stay under its size limit.
pub const LOCK_QUEUES_MAX: usize = 1024;
/// How long offsets gather before they are proposed. Clients commit every 5 s.
pub const OFFSETS_GATHER: Duration = Duration::from_millis(100);
/// Encoded bytes of one command of offsets, with room below the largest command.
pub const OFFSETS_COMMAND_BYTES: usize = raftmq_raft::CHANGE_BYTES_MAX / 2;
/// Delayed messages that are delivered in one step, one entry of the log. Beside their bytes this bounds what a failed
/// step has cost.
pub const DELAY_STEP_MESSAGES: usize = 1024;
/// What the progress of a step takes of its entry, at most: two numbers for a level, six for timers, of ten bytes each.
pub const DELAY_PROGRESS_BYTES: usize = 128;
/// By so much a delayed message may become longer when it is delivered, the progress in its entry included: the longest
/// name of a topic (255 bytes, and one more for its length) instead of the system topic's, and a store host with an IPv6
/// address. Longer ones are refused on their way in: a message that was taken has to fit on its way out.
pub const DELAY_GROWTH_MAX: usize = DELAY_PROGRESS_BYTES + 256 + 12;
/// Queues in one answer about the progress of groups: some 200 bytes each, in a frame of 16 MiB.
pub const REPORTED_QUEUES_MAX: usize = 50_000;
