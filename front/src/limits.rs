//! Every bound the broker keeps, with its reason. A client that goes past one is slowed down, told so by name, or closed.

use std::time::Duration;

pub(crate) use raftmq_broker::limits::*;

/// Bounds that depend on the machine; the rest are constants of this module.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Client connections at a time. Each costs some 2 KiB when idle.
    pub connections: usize,
    /// Largest frame, its length prefix included. What RocketMQ's own peers take.
    pub frame_bytes: usize,
    /// Requests of one connection whose outcome is open. At this many the connection is not read until some are done.
    pub requests_per_connection: usize,
    /// Record bytes of one connection whose outcome is open, likewise. One largest message and as much again.
    pub bytes_per_connection: usize,
    /// Record bytes of all connections whose outcome is open. Past it sends are answered "busy".
    pub bytes_in_flight: usize,
    /// Bytes that wait to be sent to one client. At this many its requests are not read any more.
    pub output_bytes_pause: usize,
    /// Bytes that wait to be sent to one client that does not read. Past it the connection is closed. Leaves room over
    /// `output_bytes_pause` for the answers of all open requests and for one largest pull.
    pub output_bytes_close: usize,
    /// Bytes that wait to be sent to all clients. Past it pulls are answered without messages.
    pub output_bytes: usize,
    /// Incomplete frames of all connections, in bytes. A connection whose frame would go past it is closed.
    pub input_bytes: usize,
    /// Bounds of what is done with the group.
    pub group: raftmq_broker::Limits,
}

impl Default for Limits {
    fn default() -> Self {
        const KIB: usize = 1024;
        const MIB: usize = 1024 * KIB;
        Self {
            connections: 20_000,
            frame_bytes: raftmq_remoting::frame::FRAME_LEN_MAX,
            requests_per_connection: 8192,
            bytes_per_connection: 8 * MIB,
            bytes_in_flight: 64 * MIB,
            output_bytes_pause: MIB,
            output_bytes_close: 16 * MIB,
            output_bytes: 64 * MIB,
            input_bytes: 128 * MIB,
            group: raftmq_broker::Limits::default(),
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
/// Message ids that the answer to a batch lists: 57 bytes each, and a header must stay below 256 KiB.
pub(crate) const JOINED_IDS_MAX: usize = 4096;

/// Bytes that wait to be sent to a client before the other connections have their turn.
pub(crate) const PULL_OUTPUT_BYTES: usize = PULL_BYTES_MAX;

/// Bytes of a heartbeat's body.
pub(crate) const HEARTBEAT_BYTES_MAX: usize = 1024 * 1024;
/// Groups of producers and consumers in one heartbeat.
pub(crate) const HEARTBEAT_GROUPS_MAX: usize = 1024;
/// Changes of groups are told at least this much apart, and for each member that was told so much more: telling takes
/// some 5 us each, so that it never takes more than a tenth of the time.
pub(crate) const NOTICE_GAP: Duration = Duration::from_millis(20);
pub(crate) const NOTICE_GAP_PER_MEMBER: Duration = Duration::from_micros(50);
/// Members that are told before the connections have their turn.
pub(crate) const NOTICES_AT_ONCE: u32 = 64;
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

/// Producers in one answer about all of them, which has to fit a frame.
pub(crate) const REPORTED_PRODUCERS_MAX: usize = 50_000;
/// Answers about groups that are made at a time, beside the network thread: each takes a processor and some 20 MiB.
pub(crate) const REPORTS_AT_ONCE: usize = 2;

/// Bytes of a request to change topics or groups. What they hold stays in memory; a command of the log has room for one's.
pub(crate) const SETTINGS_BYTES_MAX: usize = 128 * 1024;
/// How long the leader may take with a request that a follower passes on: less than operators' tools wait for theirs.
pub(crate) const FORWARD_TIMEOUT: Duration = Duration::from_secs(4);

/// How often a broker registers without a cause. Name servers of this project forget a silent broker within seconds.
pub(crate) const REGISTRATION_PERIOD: Duration = Duration::from_secs(10);
/// How often the leader names all topics without a cause, as RocketMQ's brokers do; what was lost on the way is mended by it.
pub(crate) const ALL_TOPICS_PERIOD: Duration = Duration::from_secs(30);
/// How soon a failed registration is tried again.
pub(crate) const REGISTRATION_RETRY: Duration = Duration::from_millis(500);
/// How long a name server has to connect and to answer.
pub(crate) const NAME_SERVER_TIMEOUT: Duration = Duration::from_secs(1);
/// Requests to one other server, a name server or the leader, that wait for answers; more wait their turn.
pub(crate) const PEER_REQUESTS_MAX: usize = 64;

/// How long a stop waits for open sends.
pub(crate) const DRAIN: Duration = Duration::from_secs(2);
