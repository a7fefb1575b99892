//! The JSON bodies of the admin API.

use raftmq_broker::state::{OffsetCommit, SubscriptionGroup, TimerProgress, Topic};
use raftmq_raft::{FeatureLevel, GroupStatus, MemberStatus, Role};
use serde::Serialize;

/// Queues or offsets that a page lists at most, but for its last item: some 64 bytes of JSON each.
const PAGE_PARTS_MAX: usize = 10_000;

/// The group as a member sees it.
#[derive(Debug, Serialize)]
pub(super) struct ClusterView {
    cluster: String,
    broker_name: String,
    /// Drawn when the group was founded; null until this member is in one.
    group_id: Option<String>,
    node_id: u64,
    role: Role,
    leader_id: Option<u64>,
    term: u64,
    last_index: Option<u64>,
    commit_index: Option<u64>,
    applied_index: Option<u64>,
    min_physical_offset: u64,
    max_physical_offset: u64,
    flushed_physical_offset: u64,
    dispatched_physical_offset: u64,
    feature_level: FeatureLevel,
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waits: Option<String>,
    /// Where the log is broken, until it is mended from another member.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    damaged: Vec<String>,
    /// How many broken places were mended since the start.
    mended: u64,
    members: Vec<MemberView>,
}

impl ClusterView {
    pub(super) fn new(cluster: &str, broker_name: &str, status: GroupStatus) -> Self {
        Self {
            cluster: cluster.to_owned(),
            broker_name: broker_name.to_owned(),
            group_id: status.group_id,
            node_id: status.node_id,
            role: status.role,
            leader_id: status.leader_id,
            term: status.term,
            last_index: status.last_index,
            commit_index: status.commit_index,
            applied_index: status.applied_index,
            min_physical_offset: status.min_physical_offset,
            max_physical_offset: status.max_physical_offset,
            flushed_physical_offset: status.flushed_physical_offset,
            dispatched_physical_offset: status.dispatched_physical_offset,
            feature_level: status.feature_level,
            ready: status.ready,
            stopped: status.stopped,
            waits: status.waits,
            damaged: status.damaged,
            mended: status.mended,
            members: status.members.into_iter().map(MemberView::from).collect(),
        }
    }
}

/// A member as another sees it.
#[derive(Debug, Serialize)]
pub(super) struct MemberView {
    id: u64,
    /// The Raft id of its directory.
    directory: String,
    raft: String,
    /// Where clients reach it.
    listen: Option<String>,
    admin: Option<String>,
    role: Role,
    voter: bool,
    /// The highest feature level that it reads; null until it has said so.
    highest_feature_level: Option<FeatureLevel>,
    /// Whether it runs; null where this node does not know.
    online: Option<bool>,
    clock_ahead_ms: Option<i64>,
    matched_index: Option<u64>,
    lag: Option<u64>,
}

impl From<MemberStatus> for MemberView {
    fn from(member: MemberStatus) -> Self {
        Self {
            id: member.id,
            directory: member.directory,
            raft: member.raft,
            listen: member.client,
            admin: member.admin,
            role: member.role,
            voter: member.voter,
            highest_feature_level: member.reads,
            online: member.online,
            clock_ahead_ms: member.clock_ahead_ms,
            matched_index: member.matched_index,
            lag: member.lag,
        }
    }
}

/// Why a member does not serve, if it does not.
pub(super) fn not_ready(status: &GroupStatus) -> Option<String> {
    if status.ready {
        return None;
    }
    Some(match (&status.stopped, &status.waits, status.role) {
        (Some(reason), ..) => format!("stopped: {reason}"),
        (None, Some(words), _) => format!("it waits: {words}"),
        (None, None, Role::Leader) => {
            "it leads, but has not applied yet what was committed before".to_owned()
        }
        (None, None, role) => format!("no leader is known to this {}", name(role)),
    })
}

fn name(role: Role) -> &'static str {
    match role {
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Learner => "learner",
        Role::Stopped => "stopped member",
    }
}

/// A list, or a part of a long one.
#[derive(Debug, Serialize)]
pub(super) struct Page<T> {
    items: Vec<T>,
    /// Ask for what is behind this, if there is more.
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<String>,
}

/// Something with a name that a page lists, and with parts that make it long.
pub(super) trait Item {
    fn name(&self) -> &str;
    fn parts(&self) -> usize;
}

impl<T> Page<T> {
    /// A list that is never long.
    pub(super) fn all(items: Vec<T>) -> Self {
        Self { items, after: None }
    }
}

impl<T: Item> Page<T> {
    /// Takes items until their parts fill a page.
    pub(super) fn of<S>(sources: impl Iterator<Item = S>, view: impl Fn(S) -> T) -> Self {
        let mut page = Self { items: Vec::new(), after: None };
        let mut parts = 0;
        for source in sources {
            if parts >= PAGE_PARTS_MAX {
                page.after = page.items.last().map(|item| item.name().to_owned());
                break;
            }
            let item = view(source);
            parts += item.parts();
            page.items.push(item);
        }
        page
    }
}

/// A topic and its queues.
#[derive(Debug, Serialize)]
pub(super) struct TopicView {
    name: String,
    read_queues: u32,
    write_queues: u32,
    perm: u32,
    order: bool,
    queues: Vec<QueueView>,
}

#[derive(Debug, Serialize)]
struct QueueView {
    queue_id: u32,
    min_offset: u64,
    max_offset: u64,
}

impl TopicView {
    /// `ends` tells the smallest and the next offset of a queue.
    pub(super) fn new(topic: &Topic, ends: &impl Fn(&str, u32) -> (u64, u64)) -> Self {
        let queues = (0..topic.queues()).map(|queue_id| {
            let (min_offset, max_offset) = ends(&topic.name, queue_id);
            QueueView { queue_id, min_offset, max_offset }
        });
        Self {
            name: topic.name.clone(),
            read_queues: topic.read_queues,
            write_queues: topic.write_queues,
            perm: topic.perm,
            order: topic.order,
            queues: queues.collect(),
        }
    }
}

impl Item for TopicView {
    fn name(&self) -> &str {
        &self.name
    }
    fn parts(&self) -> usize {
        1 + self.queues.len()
    }
}

/// A subscription group and how far it is.
#[derive(Debug, Serialize)]
pub(super) struct GroupView {
    name: String,
    consume_enable: bool,
    retry_max_times: i32,
    offsets: Vec<OffsetView>,
}

#[derive(Debug, Serialize)]
struct OffsetView {
    topic: String,
    queue_id: u32,
    committed: u64,
}

impl GroupView {
    pub(super) fn new(group: &SubscriptionGroup, offsets: Vec<OffsetCommit>) -> Self {
        let mut offsets: Vec<_> = offsets
            .into_iter()
            .map(|commit| OffsetView {
                topic: commit.topic,
                queue_id: commit.queue_id,
                committed: commit.offset,
            })
            .collect();
        offsets.sort_by(|a, b| (&a.topic, a.queue_id).cmp(&(&b.topic, b.queue_id)));
        Self {
            name: group.name.clone(),
            consume_enable: group.consume_enable,
            retry_max_times: group.retry_max_times,
            offsets,
        }
    }
}

impl Item for GroupView {
    fn name(&self) -> &str {
        &self.name
    }
    fn parts(&self) -> usize {
        1 + self.offsets.len()
    }
}

/// How far delayed messages are delivered.
#[derive(Debug, Serialize)]
pub(super) struct DelayView {
    /// The delay levels, from 1.
    levels: Vec<LevelView>,
    timer: TimerView,
}

/// A delay level: a queue that is delivered in order.
#[derive(Debug, Serialize)]
pub(super) struct LevelView {
    level: u32,
    /// Messages of the level so far.
    stored: u64,
    delivered: u64,
}

/// Messages with a time of their own.
#[derive(Debug, Serialize)]
struct TimerView {
    /// Such messages so far.
    stored: u64,
    /// How many of them have been looked at.
    scanned: u64,
    /// Of those, all that are due up to then are delivered; in ms since the epoch.
    due_ms: i64,
}

impl DelayView {
    pub(super) fn new(levels: Vec<LevelView>, timer: TimerProgress, stored: u64) -> Self {
        Self { levels, timer: TimerView { stored, scanned: timer.scanned, due_ms: timer.due_ms } }
    }
}

impl LevelView {
    pub(super) fn new(level: u32, delivered: u64, stored: u64) -> Self {
        Self { level, stored, delivered }
    }
}
