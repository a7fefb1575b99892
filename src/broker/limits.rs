//! Every bound the broker keeps, with its reason. A client that goes past one is slowed down, told so by name, or closed.

use std::time::Duration;

/// Bounds that depend on the machine; the rest are constants of this module.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Client connections at a time. Each costs some 2 KiB when idle.
    pub(crate) connections: usize,
    /// Largest frame, its length prefix included. What RocketMQ's own peers take.
    pub(crate) frame_bytes: usize,
    /// Largest message body and largest batch body, in bytes. RocketMQ's default, which clients check too.
    pub(crate) message_bytes: usize,
    /// Requests of one connection whose outcome is open. At this many the connection is not read until some are done.
    pub(crate) requests_per_connection: usize,
    /// Record bytes of one connection whose outcome is open, likewise. One largest message and as much again.
    pub(crate) bytes_per_connection: usize,
    /// Record bytes of all connections whose outcome is open. Past it sends are answered "busy".
    pub(crate) bytes_in_flight: usize,
    /// Bytes that wait to be sent to one client. At this many its requests are not read any more.
    pub(crate) output_bytes_pause: usize,
    /// Bytes that wait to be sent to one client that does not read. Past it the connection is closed. Leaves room over
    /// `output_bytes_pause` for the answers of all open requests and for one largest pull.
    pub(crate) output_bytes_close: usize,
    /// Bytes that wait to be sent to all clients. Past it pulls are answered without messages.
    pub(crate) output_bytes: usize,
    /// Incomplete frames of all connections, in bytes. A connection whose frame would go past it is closed.
    pub(crate) input_bytes: usize,
    /// Pulls that are held, over all connections. Past it a pull that finds nothing is answered at once.
    pub(crate) held_pulls: usize,
    /// Pulls that are held for one connection: one for each queue of a large consumer.
    pub(crate) held_pulls_per_connection: usize,
    /// Topics, the system's and the retry topics included. Each is part of every registration.
    pub(crate) topics: usize,
    /// Queues of one topic.
    pub(crate) queues_per_topic: u32,
    /// Subscription groups, and groups of producers.
    pub(crate) groups: usize,
    /// Clients of one group.
    pub(crate) clients_per_group: usize,
    /// Consumers' and producers' memberships in groups, over all connections.
    pub(crate) memberships: usize,
    /// Memberships that one connection's clients have.
    pub(crate) memberships_per_connection: usize,
    /// Memory of all consumer groups' subscriptions, in bytes: texts, tags, compiled expressions. Some 300 for a plain
    /// one, so that every group may have ten and some of them large ones.
    pub(crate) subscription_bytes: usize,
    /// Consumer offsets that wait to be proposed. Past it committing an offset is answered "busy".
    pub(crate) pending_offsets: usize,
    /// Consumer offsets in all, one for each queue of each group. They stay in memory and are part of every checkpoint.
    /// Past it the first commit of a group for a queue is answered "busy".
    pub(crate) committed_offsets: usize,
    /// Queue locks in all, likewise. Past it only renewals are taken.
    pub(crate) queue_locks: usize,
}

impl Default for Limits {
    fn default() -> Self {
        const KIB: usize = 1024;
        const MIB: usize = 1024 * KIB;
        Self {
            connections: 20_000,
            frame_bytes: raftmq_remoting::frame::FRAME_LEN_MAX,
            message_bytes: 4 * MIB,
            requests_per_connection: 8192,
            bytes_per_connection: 8 * MIB,
            bytes_in_flight: 64 * MIB,
            output_bytes_pause: MIB,
            output_bytes_close: 16 * MIB,
            output_bytes: 64 * MIB,
            input_bytes: 128 * MIB,
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

/// Bytes asked for in one read of a socket: hundreds of small requests in one system call.
pub(crate) const READ_BYTES: usize = 256 * 1024;
/// The beginning of a request that is shorter than this is kept in a buffer of its own until the rest arrives.
pub(crate) const SMALL_REST_BYTES: usize = 16 * 1024;
/// Buffers that a thread keeps for its next reads and writes.
pub(crate) const BUFFERS_KEPT: usize = 4;
/// Buffers larger than this are given back to the allocator.
pub(crate) const BUFFER_BYTES_KEPT: usize = 1024 * 1024;
/// Record bytes that are submitted together, unless one request has more. What the log makes one entry of.
pub(crate) const SUBMIT_BYTES: usize = 1024 * 1024;
/// Messages of one batch request.
pub(crate) const BATCH_MESSAGES_MAX: usize = 64 * 1024;
/// Message ids that the answer to a batch lists: 57 bytes each, and a header must stay below 256 KiB.
pub(crate) const JOINED_IDS_MAX: usize = 4096;

/// The longest time that a message can be delayed by; RocketMQ's default.
pub(crate) const TIMER_DELAY_MAX: Duration = Duration::from_secs(3 * 24 * 3600);

/// Messages that one pull brings; more are not asked for by default (32) and a client cannot ask for more than this.
pub(crate) const PULL_MESSAGES_MAX: usize = 1024;
/// Bytes of messages that one pull brings, unless its first message alone is larger. What RocketMQ brings.
pub(crate) const PULL_BYTES_MAX: usize = 256 * 1024;
/// What one pull does where its filter lets few messages through, in units of some 4 ns: about 1 ms, which is 65,000
/// ConsumeQueue units, 2,000 records under a short expression, or a few under a dear one.
pub(crate) const PULL_WORK: usize = 256 * 1024;
/// What pulls do before the other connections have their turn, and likewise bytes of answers.
pub(crate) const PULL_TURN_WORK: usize = 32 * 1024;
pub(crate) const PULL_OUTPUT_BYTES: usize = PULL_BYTES_MAX;
/// How long a request waits at most to see what was acknowledged just before it.
pub(crate) const SETTLE_MAX: Duration = Duration::from_secs(1);
/// Longest time a pull is held. Clients give up after some 30 s.
pub(crate) const HOLD_MAX: Duration = Duration::from_secs(25);
/// How long a follower holds a pull that only the leader can answer, before it says so.
pub(crate) const SEND_AWAY_HOLD: Duration = Duration::from_millis(500);
/// Held pulls that are answered before the other connections have their turn.
pub(crate) const HOLD_ANSWERS: usize = 64;
/// How exactly the end of a hold is met.
pub(crate) const HOLD_TICK: Duration = Duration::from_millis(100);

/// Bytes of a heartbeat's body.
pub(crate) const HEARTBEAT_BYTES_MAX: usize = 1024 * 1024;
/// Groups of producers and consumers in one heartbeat.
pub(crate) const HEARTBEAT_GROUPS_MAX: usize = 1024;
/// Topics that one consumer group subscribes to.
pub(crate) const SUBSCRIPTIONS_PER_GROUP_MAX: usize = 1024;
/// Characters of a client id.
pub(crate) const CLIENT_ID_LEN_MAX: usize = 255;
/// Bytes of all subscriptions of one consumer group.
pub(crate) const SUBSCRIPTION_BYTES_PER_GROUP_MAX: usize = 64 * 1024;
/// Bytes of a subscription expression.
pub(crate) const EXPRESSION_BYTES_MAX: usize = 16 * 1024;
/// Operations of a compiled expression, five for each comparison. A comparison may have to read a property of up to 32 KiB
/// anew for every message, so that one message takes some 20 ms at worst.
pub(crate) const EXPRESSION_OPERATIONS_MAX: usize = 2048;
/// Operations of all expressions of one consumer group, as they are compiled while others wait.
pub(crate) const OPERATIONS_PER_GROUP_MAX: usize = 8 * EXPRESSION_OPERATIONS_MAX;
/// Filters that pulls bring with them and that are kept for their next pulls: in number, and in bytes of their
/// expressions. As many again are about to be forgotten.
pub(crate) const FILTERS_KEPT: usize = 1024;
pub(crate) const FILTER_BYTES_KEPT: usize = 256 * 1024;
/// Changes of groups are told at least this much apart, and for each member that was told so much more: telling takes
/// some 5 us each, so that it never takes more than a tenth of the time.
pub(crate) const NOTICE_GAP: Duration = Duration::from_millis(20);
pub(crate) const NOTICE_GAP_PER_MEMBER: Duration = Duration::from_micros(50);
/// Members that are told before the connections have their turn.
pub(crate) const NOTICES_AT_ONCE: u32 = 64;
/// A client that has not sent a heartbeat for this long is gone. Clients send one every 30 s.
pub(crate) const CLIENT_EXPIRY: Duration = Duration::from_secs(120);
/// A connection without a read or a write for this long is closed, as RocketMQ's peers do.
pub(crate) const CONNECTION_IDLE: Duration = Duration::from_secs(120);
/// How often expiry is looked at.
pub(crate) const EXPIRY_SCAN: Duration = Duration::from_secs(10);

/// Requests of the broker that one client has not answered. Operators cause them, and a subscription that is not known.
pub(crate) const CALLS_PER_CONNECTION_MAX: usize = 32;
/// How long a client has to tell its state, or to consume a message. Operators' tools wait a little longer.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client has to say what it subscribes to while its pulls wait for that. It may have to ask for the offset of
/// each of its queues first.
pub(crate) const INQUIRY_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a client is left in peace after that, for each of its groups.
pub(crate) const INQUIRY_GAP: Duration = Duration::from_secs(1);
/// Clients that are asked what they subscribe to at a time, for one group each, those included that were asked just now.
pub(crate) const INQUIRIES_MAX: usize = 1024;
/// Pulls that wait for their answers; some 500 bytes each.
pub(crate) const INQUIRY_PULLS_MAX: usize = 16 * 1024;
/// How often a group's refused pulls are traced, for each code.
pub(crate) const REFUSAL_LOG_GAP: Duration = Duration::from_secs(1);
/// Groups and codes that this is known of.
pub(crate) const REFUSALS_KEPT: usize = 1024;
/// How long each member of a group has to tell how far it is.
pub(crate) const STATUS_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests about all members of a group that are worked on at a time: each holds a list of the members.
pub(crate) const STATUS_REQUESTS_MAX: usize = 8;
/// Members of a group that are asked at a time.
pub(crate) const STATUS_CALLS_MAX: usize = 64;
/// Bytes of all members' answers, as they go into one frame together.
pub(crate) const STATUS_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Queues in one answer about the progress of groups: some 200 bytes each, in a frame of 16 MiB.
pub(crate) const REPORTED_QUEUES_MAX: usize = 50_000;

/// Producers in one answer about all of them, likewise.
pub(crate) const REPORTED_PRODUCERS_MAX: usize = 50_000;
/// Answers about groups that are made at a time, beside the network thread: each takes a processor and some 20 MiB.
pub(crate) const REPORTS_AT_ONCE: usize = 2;

/// How long the leader may take with a request that a follower passes on: less than operators' tools wait for theirs.
pub(crate) const FORWARD_TIMEOUT: Duration = Duration::from_secs(4);

/// How long a queue lock lasts without renewal. Clients renew every 20 s.
pub(crate) const LOCK_LEASE: Duration = Duration::from_secs(60);
/// Queues in one lock request; a command has to stay under its size limit.
pub(crate) const LOCK_QUEUES_MAX: usize = 1024;

/// How long offsets gather before they are proposed. Clients commit every 5 s.
pub(crate) const OFFSETS_GATHER: Duration = Duration::from_millis(100);
/// Encoded bytes of one command of offsets, with room below the largest command.
pub(crate) const OFFSETS_COMMAND_BYTES: usize = raftmq_raft::CHANGE_BYTES_MAX / 2;

/// How often a broker registers without a cause. Name servers of this project forget a silent broker within seconds.
pub(crate) const REGISTRATION_PERIOD: Duration = Duration::from_secs(10);
/// How long a name server has to connect and to answer.
pub(crate) const NAME_SERVER_TIMEOUT: Duration = Duration::from_secs(1);
/// Requests to one other server, a name server or the leader, that wait for answers; more wait their turn.
pub(crate) const PEER_REQUESTS_MAX: usize = 64;

/// Delayed messages that are delivered in one step, one entry of the log. Beside their bytes this bounds what a failed
/// step has cost.
pub(crate) const DELAY_STEP_MESSAGES: usize = 1024;

/// What the progress of a step takes of its entry, at most: two numbers for a level, six for timers, of ten bytes each.
pub(crate) const DELAY_PROGRESS_BYTES: usize = 128;

/// By so much a delayed message may become longer when it is delivered, the progress in its entry included: the longest
/// name of a topic (255 bytes, and one more for its length) instead of the system topic's, and a store host with an IPv6
/// address. Longer ones are refused on their way in: a message that was taken has to fit on its way out.
pub(crate) const DELAY_GROWTH_MAX: usize = DELAY_PROGRESS_BYTES + 256 + 12;

/// How long a stop waits for open sends.
pub(crate) const DRAIN: Duration = Duration::from_secs(2);
