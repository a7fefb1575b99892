//! The replicated state: topics, subscription groups, consumer offsets, member addresses, queue locks, how far delayed
//! messages are delivered.
//!
//! It changes only by [`Metadata::apply`], in log order, so every member has the same state at the same index. Any
//! thread may read it at any time. A command's effect depends on the command and the state alone, never on a clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::RwLock;
use raftmq_store::StoreError;
use raftmq_world::hash::HashMap;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::command::{
    Command, CommandOutcome, DelayProgress, MemberAddress, OffsetCommit, PendingReset, SubscriptionGroup,
    TimerProgress, ToldReset, Topic,
};
use crate::queue_locks::{LockTable, LocksImage, QueueLock};

/// The replicated state of a group.
#[derive(Debug)]
pub struct Metadata {
    topics: RwLock<HashMap<String, Arc<Topic>>>,
    groups: RwLock<HashMap<String, Arc<SubscriptionGroup>>>,
    offsets: RwLock<Offsets>,
    members: RwLock<BTreeMap<u64, MemberAddress>>,
    locks: RwLock<LockTable>,
    delay: RwLock<Delay>,
    resets: RwLock<Resets>,
    /// How many resets wait for their pull.
    reset_count: AtomicUsize,
    /// Counts changes of topics and groups.
    version: AtomicU64,
    version_changed: watch::Sender<u64>,
}

/// Something by group, then topic, then queue. A clone shares every group's part until one of the two changes it.
type ByQueue<V> = HashMap<String, Arc<Topics<V>>>;
/// The same of one group.
type Topics<V> = HashMap<String, BTreeMap<u32, V>>;

type Offsets = ByQueue<u64>;

/// Resets that no pull has been told of yet.
#[derive(Clone, Debug, Default)]
struct Resets {
    pending: ByQueue<PendingReset>,
    /// How many commands have reset offsets.
    count: u64,
}

/// How far delayed messages are delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Delay {
    /// Next queue offset by level.
    levels: BTreeMap<u32, u64>,
    timer: TimerProgress,
}

/// All of the state, as it is written into a checkpoint.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MetadataImage {
    topics: Vec<Topic>,
    groups: Vec<SubscriptionGroup>,
    offsets: Vec<OffsetCommit>,
    members: Vec<MemberAddress>,
    locks: LocksImage,
    version: u64,
    delay: Delay,
    resets: Vec<(OffsetCommit, u64)>,
    reset_count: u64,
}

/// All of the state as of a moment, taken without copying much of it.
#[derive(Clone)]
pub(crate) struct MetadataSnapshot {
    topics: Vec<Arc<Topic>>,
    groups: Vec<Arc<SubscriptionGroup>>,
    offsets: Offsets,
    members: Vec<MemberAddress>,
    locks: LockTable,
    version: u64,
    delay: Delay,
    resets: Resets,
}

impl MetadataSnapshot {
    /// What is written of it. Takes a second where there are a million offsets.
    pub(crate) fn image(&self) -> MetadataImage {
        let mut topics: Vec<_> = self.topics.iter().map(|topic| (**topic).clone()).collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        let mut groups: Vec<_> = self.groups.iter().map(|group| (**group).clone()).collect();
        groups.sort_by(|a, b| a.name.cmp(&b.name));
        let resets = flatten(&self.resets.pending, |commit, reset| {
            (OffsetCommit { offset: reset.offset, ..commit }, reset.number)
        });
        MetadataImage {
            topics,
            groups,
            offsets: flatten(&self.offsets, |commit, offset| OffsetCommit { offset, ..commit }),
            members: self.members.clone(),
            locks: self.locks.image(),
            version: self.version,
            delay: self.delay.clone(),
            resets,
            reset_count: self.resets.count,
        }
    }
}

impl Default for Metadata {
    fn default() -> Self {
        Self {
            topics: RwLock::default(),
            groups: RwLock::default(),
            offsets: RwLock::default(),
            members: RwLock::default(),
            locks: RwLock::default(),
            delay: RwLock::default(),
            resets: RwLock::default(),
            reset_count: AtomicUsize::new(0),
            version: AtomicU64::new(0),
            version_changed: watch::Sender::new(0),
        }
    }
}

impl Metadata {
    /// A topic's configuration.
    pub fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.topics.read().get(name).cloned()
    }

    /// Every topic, by name.
    pub fn topics(&self) -> Vec<Arc<Topic>> {
        let mut topics: Vec<_> = self.topics.read().values().cloned().collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        topics
    }

    /// A subscription group's configuration.
    pub fn group(&self, name: &str) -> Option<Arc<SubscriptionGroup>> {
        self.groups.read().get(name).cloned()
    }

    /// Every subscription group, by name.
    pub fn groups(&self) -> Vec<Arc<SubscriptionGroup>> {
        let mut groups: Vec<_> = self.groups.read().values().cloned().collect();
        groups.sort_by(|a, b| a.name.cmp(&b.name));
        groups
    }

    /// What `group` has committed for a queue.
    pub fn offset(&self, group: &str, topic: &str, queue_id: u32) -> Option<u64> {
        self.offsets.read().get(group)?.get(topic)?.get(&queue_id).copied()
    }

    /// All that `group` has committed, by topic and queue.
    pub fn offsets_of_group(&self, group: &str) -> Vec<OffsetCommit> {
        let offsets = self.offsets.read();
        let topics = offsets.get(group).into_iter();
        let with = |commit, offset| OffsetCommit { offset, ..commit };
        topics.flat_map(|topics| flatten_group(group, topics, with)).collect()
    }

    /// Where `group` has to go on in a queue: an operator has reset it, and no pull has been told yet.
    pub fn pending_reset(&self, group: &str, topic: &str, queue_id: u32) -> Option<PendingReset> {
        if self.reset_count.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.resets.read().pending.get(group)?.get(topic)?.get(&queue_id).copied()
    }

    /// The queue offset of a delay level's next message to be delivered.
    pub fn delay_level(&self, level: u32) -> u64 {
        self.delay.read().levels.get(&level).copied().unwrap_or(0)
    }

    /// Which of the messages with a time of their own are delivered.
    pub fn timer_progress(&self) -> TimerProgress {
        self.delay.read().timer
    }

    /// Groups that have committed an offset for `topic`.
    pub fn groups_with_offset(&self, topic: &str) -> Vec<String> {
        let offsets = self.offsets.read();
        let groups = offsets.iter().filter(|(_, topics)| topics.contains_key(topic));
        groups.map(|(group, _)| group.clone()).collect()
    }

    /// The latest time, in ms of the group's own clock, of a request for queue locks. A leader's requests go on from it.
    pub fn lock_clock_ms(&self) -> i64 {
        self.locks.read().clock_ms()
    }

    /// How many queue locks there are, expired ones included that are not forgotten yet.
    pub fn lock_count(&self) -> usize {
        self.locks.read().len()
    }

    /// The queue locks of a consumer group.
    pub fn locks_of_group(&self, group: &str) -> Vec<QueueLock> {
        self.locks.read().of_group(group)
    }

    /// How many offsets are committed in all.
    pub fn offset_count(&self) -> usize {
        count(&self.offsets.read())
    }

    /// Where clients reach the members, by id.
    pub fn members(&self) -> Vec<MemberAddress> {
        self.members.read().values().cloned().collect()
    }

    /// Whether a client of `group` holds a queue lock that is good at `now_ms` of the group's own clock.
    pub fn has_lock(&self, group: &str, now_ms: i64) -> bool {
        self.locks.read().has_lock(group, now_ms)
    }

    /// How often topics or groups have changed.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Tells of every change of topics or groups; the value is the version.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.version_changed.subscribe()
    }

    /// Carries out a committed command.
    ///
    /// # Errors
    /// [`StoreError::Divergence`]: it contradicts the state, which is as before.
    pub fn apply(&self, command: &Command) -> Result<CommandOutcome, StoreError> {
        match command {
            Command::PutTopic(topic) => {
                self.topics.write().insert(topic.name.clone(), Arc::new(topic.clone()));
                self.changed();
            }
            Command::AddTopic { topic, max } => {
                return Ok(self.add(&self.topics, &topic.name, *max, || topic.clone()));
            }
            Command::AddGroup { group, max } => {
                return Ok(self.add(&self.groups, &group.name, *max, || group.clone()));
            }
            Command::DeleteTopic { name } => {
                self.topics.write().remove(name);
                remove_topic(&mut self.offsets.write(), name);
                self.change_resets(|resets| remove_topic(&mut resets.pending, name));
                self.changed();
            }
            Command::PutGroup(group) => {
                self.groups.write().insert(group.name.clone(), Arc::new(group.clone()));
                self.changed();
            }
            Command::DeleteGroup { name, clean_offsets } => {
                self.groups.write().remove(name);
                if *clean_offsets {
                    self.offsets.write().remove(name);
                    self.change_resets(|resets| drop(resets.pending.remove(name)));
                }
                self.changed();
            }
            Command::CommitOffsets(commits) => self.commit_offsets(commits),
            Command::ResetOffsets(resets) => self.reset_offsets(resets),
            Command::ClearResets(resets) => self.clear_resets(resets),
            Command::DelayProgress(progress) => self.delay_progress(progress)?,
            Command::PutMember(member) => {
                self.members.write().insert(member.id, member.clone());
                self.changed();
            }
            Command::LockQueues(request) => {
                return Ok(CommandOutcome::Locked(self.locks.write().apply(request)));
            }
        }
        Ok(CommandOutcome::Done)
    }

    fn add<T>(
        &self,
        table: &RwLock<HashMap<String, Arc<T>>>,
        name: &str,
        max: u32,
        value: impl FnOnce() -> T,
    ) -> CommandOutcome {
        let mut table = table.write();
        if table.contains_key(name) {
            return CommandOutcome::Done;
        }
        if table.len() >= max as usize {
            return CommandOutcome::Full;
        }
        table.insert(name.to_owned(), Arc::new(value()));
        drop(table);
        self.changed();
        CommandOutcome::Done
    }

    fn changed(&self) {
        let version = self.version.fetch_add(1, Ordering::AcqRel) + 1;
        self.version_changed.send_replace(version);
    }

    fn commit_offsets(&self, commits: &[OffsetCommit]) {
        let topics = self.topics.read();
        let mut offsets = self.offsets.write();
        // An offset that was on its way while its topic was deleted would come back with the next topic of that name.
        for commit in commits.iter().filter(|c| topics.contains_key(&c.topic)) {
            if self.pending_reset(&commit.group, &commit.topic, commit.queue_id).is_some() {
                continue;
            }
            queues_of(&mut offsets, commit).insert(commit.queue_id, commit.offset);
        }
    }

    fn reset_offsets(&self, commits: &[OffsetCommit]) {
        let mut number = 0;
        self.change_resets(|resets| {
            resets.count += 1;
            number = resets.count;
            // What is set here is not held back by a reset before this one.
            for commit in commits {
                clear(&mut resets.pending, &commit.group, &commit.topic, commit.queue_id, |_| true);
            }
        });
        self.commit_offsets(commits);
        self.note_resets(commits.iter().map(|commit| (commit, number)));
    }

    fn note_resets<'a>(&self, resets: impl Iterator<Item = (&'a OffsetCommit, u64)>) {
        let topics = self.topics.read();
        self.change_resets(|known| {
            for (commit, number) in resets.filter(|(commit, _)| topics.contains_key(&commit.topic)) {
                let reset = PendingReset { offset: commit.offset, number };
                queues_of(&mut known.pending, commit).insert(commit.queue_id, reset);
            }
        });
    }

    fn clear_resets(&self, told: &[ToldReset]) {
        self.change_resets(|resets| {
            for ToldReset { group, topic, queue_id, number } in told {
                clear(&mut resets.pending, group, topic, *queue_id, |pending| pending.number == *number);
            }
        });
    }

    fn change_resets(&self, change: impl FnOnce(&mut Resets)) {
        let mut resets = self.resets.write();
        change(&mut resets);
        self.reset_count.store(count(&resets.pending), Ordering::Release);
    }

    /// *Invariant 7*: one leader at a time delivers, and each of its steps starts where the last one ended. A step that
    /// does not, or that leads back, has lost or repeated messages: this member must neither count nor show it. That holds at
    /// a restart too: the state is as of one entry, and each entry behind that is applied once.
    fn delay_progress(&self, progress: &DelayProgress) -> Result<(), StoreError> {
        let mut delay = self.delay.write();
        let continues = match *progress {
            DelayProgress::Level { level, from, to } => {
                let continues = delay.levels.get(&level).copied().unwrap_or(0) == from && from <= to;
                if continues {
                    delay.levels.insert(level, to);
                }
                continues
            }
            DelayProgress::Timer { from, to } => {
                let rises =
                    from.scanned <= to.scanned && (from.due_ms, from.offset) <= (to.due_ms, to.offset);
                let continues = delay.timer == from && rises;
                if continues {
                    delay.timer = to;
                }
                continues
            }
        };
        if continues {
            return Ok(());
        }
        Err(StoreError::Divergence(format!(
            "a step of delayed delivery, {progress:?}, does not continue {:?}",
            *delay
        )))
    }

    /// The state as of now. Quick: what takes long is left to [`MetadataSnapshot::image`].
    pub(crate) fn snapshot(&self) -> MetadataSnapshot {
        MetadataSnapshot {
            topics: self.topics.read().values().cloned().collect(),
            groups: self.groups.read().values().cloned().collect(),
            offsets: self.offsets.read().clone(),
            members: self.members(),
            locks: self.locks.read().clone(),
            version: self.version(),
            delay: self.delay.read().clone(),
            resets: self.resets.read().clone(),
        }
    }

    /// # Errors
    /// [`StoreError::Divergence`]: no state has such an image.
    pub(crate) fn restore(&self, image: MetadataImage) -> Result<(), StoreError> {
        let locks = LockTable::restore(image.locks)?;
        *self.topics.write() = image.topics.into_iter().map(|t| (t.name.clone(), Arc::new(t))).collect();
        *self.groups.write() = image.groups.into_iter().map(|g| (g.name.clone(), Arc::new(g))).collect();
        self.change_resets(|resets| *resets = Resets { count: image.reset_count, ..Resets::default() });
        self.offsets.write().clear();
        self.commit_offsets(&image.offsets);
        self.note_resets(image.resets.iter().map(|(commit, number)| (commit, *number)));
        *self.delay.write() = image.delay;
        *self.members.write() = image.members.into_iter().map(|m| (m.id, m)).collect();
        *self.locks.write() = locks;
        self.version.store(image.version, Ordering::Release);
        self.version_changed.send_replace(image.version);
        Ok(())
    }
}

/// The queues of a commit's group and topic, made if they are missing; allocates names only then.
fn queues_of<'a, V: Clone>(all: &'a mut ByQueue<V>, commit: &OffsetCommit) -> &'a mut BTreeMap<u32, V> {
    if !all.contains_key(&commit.group) {
        all.insert(commit.group.clone(), Arc::default());
    }
    let topics = Arc::make_mut(all.get_mut(&commit.group).expect("inserted above"));
    if !topics.contains_key(&commit.topic) {
        topics.insert(commit.topic.clone(), BTreeMap::new());
    }
    topics.get_mut(&commit.topic).expect("inserted above")
}

/// Removes a queue's value if it is meant, and with it what holds nothing more.
fn clear<V: Clone>(
    all: &mut ByQueue<V>,
    group: &str,
    topic: &str,
    queue_id: u32,
    is_meant: impl Fn(&V) -> bool,
) {
    let Some(shared) = all.get_mut(group) else { return };
    let found = shared.get(topic).and_then(|queues| queues.get(&queue_id));
    if !found.is_some_and(is_meant) {
        return;
    }
    let topics = Arc::make_mut(shared);
    if let Some(queues) = topics.get_mut(topic) {
        queues.remove(&queue_id);
        if queues.is_empty() {
            topics.remove(topic);
        }
    }
    if topics.is_empty() {
        all.remove(group);
    }
}

fn remove_topic<V: Clone>(all: &mut ByQueue<V>, topic: &str) {
    all.retain(|_, topics| {
        if topics.contains_key(topic) {
            Arc::make_mut(topics).remove(topic);
        }
        !topics.is_empty()
    });
}

fn count<V>(all: &ByQueue<V>) -> usize {
    all.values().flat_map(|topics| topics.values()).map(BTreeMap::len).sum()
}

/// All of them, sorted.
fn flatten<V: Copy, T>(all: &ByQueue<V>, with: impl Fn(OffsetCommit, V) -> T) -> Vec<T> {
    let mut groups: Vec<_> = all.iter().collect();
    groups.sort_by_key(|(group, _)| *group);
    groups.into_iter().flat_map(|(group, topics)| flatten_group(group, topics, &with)).collect()
}

/// All of a group, sorted. What `with` gets has no offset yet.
fn flatten_group<V: Copy, T>(group: &str, topics: &Topics<V>, with: impl Fn(OffsetCommit, V) -> T) -> Vec<T> {
    let mut sorted: Vec<_> = topics.iter().collect();
    sorted.sort_by_key(|(topic, _)| *topic);
    let mut flat = Vec::new();
    for (topic, queues) in sorted {
        for (&queue_id, &value) in queues {
            let (group, topic) = (group.to_owned(), topic.clone());
            flat.push(with(OffsetCommit { group, topic, queue_id, offset: 0 }, value));
        }
    }
    flat
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::QueueLocks;

    fn lock(client: &str, now_ms: i64, lease_ms: i64) -> Command {
        Command::LockQueues(QueueLocks {
            group: "g".into(),
            client_id: client.into(),
            queues: vec![("t".into(), 0)],
            now_ms,
            lease_ms,
        })
    }

    #[test]
    fn what_is_added_replaces_nothing_and_stays_within_the_limit() {
        let metadata = Metadata::default();
        let add = |name, queues| Command::AddTopic { topic: Topic::new(name, queues, 6), max: 2 };
        assert_eq!(metadata.apply(&add("a", 1)).unwrap(), CommandOutcome::Done);
        assert_eq!(metadata.apply(&add("b", 2)).unwrap(), CommandOutcome::Done);
        assert_eq!(metadata.apply(&add("c", 3)).unwrap(), CommandOutcome::Full);
        assert_eq!(metadata.apply(&add("a", 9)).unwrap(), CommandOutcome::Done);
        assert_eq!(metadata.topic("a").unwrap().read_queues, 1);
        assert_eq!((metadata.topics().len(), metadata.version()), (2, 2));
        let group = |max| Command::AddGroup { group: SubscriptionGroup::new("g"), max };
        assert_eq!(metadata.apply(&group(0)).unwrap(), CommandOutcome::Full);
        assert_eq!(metadata.apply(&group(1)).unwrap(), CommandOutcome::Done);
        assert!(metadata.group("g").is_some());
    }

    #[test]
    fn a_reset_holds_commits_off_until_it_is_told() {
        let metadata = Metadata::default();
        metadata.apply(&Command::PutTopic(Topic::new("t", 4, 6))).unwrap();
        let at = |offset| vec![OffsetCommit { group: "g".into(), topic: "t".into(), queue_id: 1, offset }];
        let state = |metadata: &Metadata| {
            (metadata.offset("g", "t", 1), metadata.pending_reset("g", "t", 1).map(|reset| reset.offset))
        };
        let told = |number| {
            Command::ClearResets(vec![ToldReset {
                group: "g".into(),
                topic: "t".into(),
                queue_id: 1,
                number,
            }])
        };
        metadata.apply(&Command::CommitOffsets(at(50))).unwrap();
        assert_eq!(state(&metadata), (Some(50), None));
        metadata.apply(&Command::ResetOffsets(at(10))).unwrap();
        metadata.apply(&Command::CommitOffsets(at(60))).unwrap();
        assert_eq!(state(&metadata), (Some(10), Some(10)));
        metadata.apply(&Command::ResetOffsets(at(10))).unwrap();
        metadata.apply(&told(1)).unwrap();
        assert_eq!(state(&metadata), (Some(10), Some(10)), "told of the first only, if to the same offset");
        metadata.apply(&told(2)).unwrap();
        metadata.apply(&Command::CommitOffsets(at(21))).unwrap();
        assert_eq!(state(&metadata), (Some(21), None));
        metadata.apply(&Command::ResetOffsets(at(5))).unwrap();
        metadata.apply(&Command::DeleteTopic { name: "t".into() }).unwrap();
        assert_eq!(state(&metadata), (None, None));
        let restored = Metadata::default();
        restored.restore(metadata.snapshot().image()).unwrap();
        restored.apply(&Command::PutTopic(Topic::new("t", 4, 6))).unwrap();
        restored.apply(&Command::ResetOffsets(at(5))).unwrap();
        let next = restored.pending_reset("g", "t", 1);
        assert_eq!(next, Some(PendingReset { offset: 5, number: 4 }), "numbers are never used again");
    }

    #[test]
    fn delayed_delivery_goes_on_from_where_it_was_and_from_nowhere_else() {
        let metadata = Metadata::default();
        let level = |from, to| Command::DelayProgress(DelayProgress::Level { level: 3, from, to });
        let at = |scanned, due_ms, offset| TimerProgress { scanned, due_ms, offset };
        let timer = |from, to| Command::DelayProgress(DelayProgress::Timer { from, to });
        let (start, next) = (TimerProgress::default(), at(5, 70, 3));
        let diverges = |metadata: &Metadata, step: &Command| {
            let image = metadata.snapshot().image();
            assert!(matches!(metadata.apply(step), Err(StoreError::Divergence(_))), "{step:?}");
            assert_eq!(metadata.snapshot().image(), image);
        };
        diverges(&metadata, &level(1, 5));
        metadata.apply(&level(0, 5)).unwrap();
        for step in [level(0, 9), level(0, 5), level(6, 9), level(5, 4)] {
            diverges(&metadata, &step);
        }
        metadata.apply(&timer(start, next)).unwrap();
        for step in [
            timer(start, at(9, 90, 0)),
            timer(start, next),
            timer(next, at(4, 90, 0)),
            timer(next, at(9, 69, 9)),
            timer(next, at(9, 70, 2)),
        ] {
            diverges(&metadata, &step);
        }
        assert_eq!((metadata.delay_level(3), metadata.delay_level(2)), (5, 0));

        // At a restart the steps behind a checkpoint are applied again, and those before it are not.
        let restored = Metadata::default();
        restored.restore(metadata.snapshot().image()).unwrap();
        for state in [&metadata, &restored] {
            state.apply(&level(5, 9)).unwrap();
            state.apply(&timer(next, at(9, 70, 3))).unwrap();
        }
        assert_eq!(restored.snapshot().image(), metadata.snapshot().image());
        for step in [level(5, 9), timer(next, at(9, 70, 3))] {
            diverges(&restored, &step);
        }
    }

    #[test]
    fn an_image_restores_everything() {
        let metadata = Metadata::default();
        metadata.apply(&Command::PutTopic(Topic::new("t", 4, 6))).unwrap();
        metadata.apply(&Command::PutGroup(SubscriptionGroup::new("g"))).unwrap();
        let commit = OffsetCommit { group: "g".into(), topic: "t".into(), queue_id: 1, offset: 9 };
        metadata.apply(&Command::CommitOffsets(vec![commit.clone()])).unwrap();
        metadata.apply(&lock("a", 0, 60)).unwrap();
        metadata
            .apply(&Command::ResetOffsets(vec![OffsetCommit { queue_id: 2, offset: 3, ..commit.clone() }]))
            .unwrap();
        metadata.apply(&Command::DelayProgress(DelayProgress::Level { level: 4, from: 0, to: 7 })).unwrap();
        let timer = TimerProgress { scanned: 5, due_ms: 6, offset: 7 };
        metadata
            .apply(&Command::DelayProgress(DelayProgress::Timer {
                from: TimerProgress::default(),
                to: timer,
            }))
            .unwrap();
        let restored = Metadata::default();
        restored.restore(metadata.snapshot().image()).unwrap();
        assert_eq!(restored.snapshot().image(), metadata.snapshot().image());
        assert_eq!(restored.offset("g", "t", 1), Some(9));
        assert_eq!(restored.offset("g", "t", 2), Some(3));
        assert_eq!(restored.pending_reset("g", "t", 2), Some(PendingReset { offset: 3, number: 1 }));
        assert_eq!((restored.delay_level(4), restored.timer_progress()), (7, timer));
        assert_eq!(restored.apply(&lock("b", 1, 60)).unwrap(), CommandOutcome::Locked(vec![]));
        metadata.apply(&Command::DeleteTopic { name: "t".into() }).unwrap();
        assert_eq!(metadata.offset("g", "t", 1), None);
    }

    #[test]
    fn a_snapshot_is_of_its_moment() {
        let metadata = Metadata::default();
        metadata.apply(&Command::PutTopic(Topic::new("t", 4, 6))).unwrap();
        let at = |offset| vec![OffsetCommit { group: "g".into(), topic: "t".into(), queue_id: 1, offset }];
        metadata.apply(&Command::CommitOffsets(at(1))).unwrap();
        metadata.apply(&Command::ResetOffsets(at(2))).unwrap();
        metadata.apply(&lock("a", 0, 60)).unwrap();
        let (snapshot, image) = (metadata.snapshot(), metadata.snapshot().image());
        metadata.apply(&Command::ResetOffsets(at(3))).unwrap();
        metadata.apply(&lock("a", 1, 0)).unwrap();
        metadata.apply(&Command::DeleteTopic { name: "t".into() }).unwrap();
        assert_eq!(snapshot.image(), image);
        assert_eq!((image.offsets, image.resets), (at(2), vec![(at(2).remove(0), 1)]));
        assert_eq!(metadata.offset_count(), 0);
    }
}
