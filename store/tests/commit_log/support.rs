//! Stores, messages and entries for the tests.

use std::fs;
use std::ops::Deref;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use bytes::BytesMut;
use raftmq_message::RecordParts;
use raftmq_message::topic::TIMER_TOPIC;
use raftmq_store::{
    Appended, Callback, Committed, ConsumeQueues, DEFAULT_UNITS_PER_FILE, Derived, DueMs, EntryId, FlushMode,
    FrameKind, Identity, IndexFiles, IndexShape, Keys, LogFrame, NewEntry, OpenFiles, Placed, Reads, Store,
    StoreError, StoreOptions, TagsCode, TimerIndex, TopicChange,
};
use raftmq_world::{Disk, OsDisk, World};
use tempfile::TempDir;

use crate::manual::{self, receive};

pub(crate) const SEGMENT: u64 = 64 * 1024;
pub(crate) const HEADER: u64 = 64;
/// For what a step of the store has to do.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A directory in memory where there is one: these tests are not about the speed of syncs.
pub(crate) fn temp_dir() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

pub(crate) fn identity() -> Identity {
    Identity { cluster: "test".into(), broker_name: "broker-a".into(), node_id: 1, segment_bytes: SEGMENT }
}

pub(crate) fn options(dir: &Path) -> StoreOptions {
    StoreOptions {
        dir: dir.to_owned(),
        identity: identity(),
        flush: FlushMode::Sync,
        reserve_bytes: 0,
        is_alone: false,
    }
}

/// Of this disk and the operating system's threads, or of the scheduler of this test.
pub(crate) fn world(disk: Arc<dyn Disk>) -> World {
    match manual::here() {
        Some(manual) => manual.world(disk),
        None => World { disk, ..World::system() },
    }
}

/// Asks the store for something and waits to be told how it went.
pub(crate) fn ask_within(patience: Duration, ask: impl FnOnce(Callback)) -> Option<Result<(), StoreError>> {
    let (tell, told) = channel();
    ask(Box::new(move |done| drop(tell.send(done))));
    receive(&told, patience)
}

pub(crate) fn flush(store: &Store) -> Result<(), StoreError> {
    ask_within(SOON, |callback| store.flush(callback)).unwrap()
}

pub(crate) fn truncate_after(store: &Store, last: Option<u64>) -> Result<(), StoreError> {
    ask_within(SOON, |callback| store.truncate_after(last, callback)).unwrap()
}

pub(crate) fn wait_dispatched(store: &Store, physical_offset: u64) -> bool {
    wait_dispatched_within(SOON, store, physical_offset)
}

pub(crate) fn wait_dispatched_within(patience: Duration, store: &Store, physical_offset: u64) -> bool {
    let told = ask_within(patience, |callback| store.when_dispatched(physical_offset, callback));
    told.is_some_and(|dispatched| dispatched.is_ok())
}

/// A store and the views of its log.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    pub(crate) store: Arc<Store>,
    pub(crate) index: Arc<IndexFiles>,
    pub(crate) timers: Arc<TimerIndex>,
}

impl Deref for Opened {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

/// Opens a store whose views read what a [`Message`] has, and others that `add` adds.
pub(crate) fn open_adding(
    options: StoreOptions,
    world: &World,
    add: impl FnOnce(&mut Derived),
) -> Result<Opened, StoreError> {
    let (dir, disk) = (options.dir.clone(), || world.disk.clone());
    let tags_code: Reads<TagsCode> = Reads { properties: &["TAGS", "TIMER_OUT_MS"], read: tags_code };
    let keys: Reads<Keys> = Reads { properties: &["UNIQ_KEY"], read: keys };
    let due_ms: Reads<DueMs> = Reads { properties: &["TIMER_OUT_MS"], read: due_ms };
    let files = OpenFiles::of(world);
    let queues = ConsumeQueues::new(files.clone(), &dir, DEFAULT_UNITS_PER_FILE, tags_code);
    let mut derived = Derived::new(queues).with_topic_changes(topic_changes);
    let index = derived.add(IndexFiles::new(disk(), &dir, IndexShape::default(), keys));
    let timers = derived.add(TimerIndex::new(files, &dir, due_ms));
    add(&mut derived);
    Ok(Opened { store: Store::open(options, derived, world)?, index, timers })
}

/// Of commands like `drop topic` and `make topic`. `renew topic` is both.
fn topic_changes(command: &[u8], tell: &mut dyn FnMut(TopicChange<'_>)) {
    let Some((what, topic)) = std::str::from_utf8(command).ok().and_then(|text| text.split_once(' ')) else {
        return;
    };
    if ["drop", "renew"].contains(&what) {
        tell(TopicChange::Dropped(topic));
    }
    if ["make", "renew"].contains(&what) {
        tell(TopicChange::Made(topic));
    }
}

fn tags_code(message: &Committed<'_>) -> i64 {
    let tags_code = || message.property("TAGS").map_or(0, raftmq_message::hash::tags_code);
    due_ms(message).unwrap_or_else(tags_code)
}

fn keys(message: &Committed<'_>, add: &mut dyn FnMut(&str)) {
    message.property("UNIQ_KEY").into_iter().for_each(add);
}

fn due_ms(message: &Committed<'_>) -> Option<i64> {
    message.property("TIMER_OUT_MS").map(|due| due.parse().unwrap())
}

pub(crate) fn open_with(options: StoreOptions, world: &World) -> Result<Opened, StoreError> {
    open_adding(options, world, |_| ())
}

pub(crate) fn try_open(dir: &Path) -> Result<Opened, StoreError> {
    open_with(options(dir), &world(Arc::new(OsDisk)))
}

pub(crate) fn open(dir: &Path) -> Opened {
    try_open(dir).unwrap()
}

pub(crate) fn open_on(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Opened, StoreError> {
    open_with(options(dir), &world(disk.clone()))
}

pub(crate) fn id(term: u64, index: u64) -> EntryId {
    EntryId { term, index }
}

/// What a record says, before it has its positions.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) queue_id: i32,
    pub(crate) key: String,
    pub(crate) body: Vec<u8>,
}

impl Message {
    pub(crate) fn new(topic: &str, queue_id: i32, key: &str, body_len: usize) -> Self {
        Self { topic: topic.into(), queue_id, key: key.into(), body: vec![b'b'; body_len] }
    }

    /// When it is due, if it is one of those with a time of their own: in one of five minutes.
    pub(crate) fn due_ms(&self) -> Option<i64> {
        let serial: i64 = self.key.rsplit('-').next()?.parse().ok()?;
        (self.topic == TIMER_TOPIC && self.queue_id == 0).then_some(serial * 7_001 % 300_000)
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) {
        let mut properties = format!("UNIQ_KEY\u{1}{}\u{2}TAGS\u{1}TagA\u{2}", self.key);
        if let Some(due_ms) = self.due_ms() {
            raftmq_message::properties::append(&mut properties, "TIMER_OUT_MS", &due_ms.to_string());
        }
        let host = "127.0.0.1:10911".parse().unwrap();
        let parts = RecordParts {
            topic: &self.topic,
            queue_id: self.queue_id,
            flag: 0,
            sys_flag: 0,
            born_timestamp_ms: 5,
            born_host: host,
            store_host: host,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: &self.body,
            properties: &[&properties],
        };
        parts.encode_into(out).unwrap();
    }
}

pub(crate) fn records(messages: &[Message]) -> BytesMut {
    let mut bytes = BytesMut::new();
    messages.iter().for_each(|m| m.encode(&mut bytes));
    bytes
}

/// The leader's append of some pieces.
pub(crate) fn append_pieces(
    store: &Store,
    id: EntryId,
    kind: FrameKind,
    pieces: &mut [BytesMut],
) -> Result<(Appended, Vec<Placed>), StoreError> {
    append_beside(store, id, kind, &[], pieces)
}

/// The same, with a command in front of them.
pub(crate) fn append_beside(
    store: &Store,
    id: EntryId,
    kind: FrameKind,
    command: &[u8],
    pieces: &mut [BytesMut],
) -> Result<(Appended, Vec<Placed>), StoreError> {
    let mut placed = Vec::new();
    let entry = NewEntry { id, kind, leader: 1, command, pieces, now_ms: 1_000_000 + id.index as i64 };
    let appended = store.append(entry, &mut placed);
    assert!(appended.is_ok() || placed.is_empty());
    Ok((appended?, placed))
}

pub(crate) fn append_command(store: &Store, id: EntryId, content: &[u8]) -> Appended {
    append_pieces(store, id, FrameKind::Command, &mut [BytesMut::from(content)]).unwrap().0
}

/// One entry with one message, its body naming the entry.
pub(crate) fn append_message(store: &Store, id: EntryId) -> Appended {
    let mut message = Message::new("topic", 0, &format!("key-{}", id.index), 300);
    message.body[..2].copy_from_slice(&[id.term as u8, id.index as u8]);
    append_pieces(store, id, FrameKind::Messages, &mut [records(&[message])]).unwrap().0
}

/// Everything in the log, by walking it.
pub(crate) fn frames(store: &Store) -> Vec<LogFrame> {
    let mut walk = store.log().walk(store.log().start());
    let mut frames = Vec::new();
    while let Some(frame) = walk.next().unwrap() {
        frames.push(frame);
    }
    frames
}

pub(crate) fn frame_bytes(store: &Store) -> Vec<Vec<u8>> {
    frames(store).iter().map(|f| f.bytes.to_vec()).collect()
}

pub(crate) fn indexes(store: &Store) -> Vec<u64> {
    frames(store).iter().map(|f| f.header.index).collect()
}

/// Files and their content below a directory, the lock left out.
pub(crate) fn content(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.append(&mut content(&path));
        } else if !path.ends_with("lock") {
            let bytes = fs::read(&path).unwrap();
            found.push((path, bytes));
        }
    }
    found.sort();
    found
}

/// The whole log as one run of bytes. Segments made ahead add nothing but zeros, which are cut off.
pub(crate) fn log_bytes(dir: &Path) -> Vec<u8> {
    let files = content(&dir.join("commitlog"));
    let mut bytes: Vec<u8> = files.into_iter().flat_map(|(_, bytes)| bytes).collect();
    bytes.truncate(bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1));
    bytes
}

pub(crate) fn segment_path(dir: &Path, base: u64) -> PathBuf {
    dir.join("commitlog").join(format!("{base:020}"))
}

/// Writes into a segment behind the store's back.
pub(crate) fn damage(dir: &Path, physical_offset: u64, bytes: &[u8]) {
    let base = physical_offset / SEGMENT * SEGMENT;
    let file = fs::OpenOptions::new().write(true).open(segment_path(dir, base)).unwrap();
    file.write_all_at(bytes, physical_offset - base).unwrap();
}
