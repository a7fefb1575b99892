//! Crashes around drops of topics: what a checkpoint has counted is there, of what was dropped before it nothing is, and what
//! was dropped since is what it was.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use raftmq_message::RecordView;
use raftmq_store::{
    ConsumeQueues, FrameKind, LogFrame, Numbers, OpenFiles, Reads, Store, TagsCode, Unit, View,
};
use raftmq_world::Disk;

use crate::crash_disk::{Chance, CrashDisk, Image};
use crate::manual::Manual;
use crate::support::{
    Message, Opened, append_command, append_pieces, frames, id, open_on, records, temp_dir, truncate_after,
    wait_dispatched,
};

/// What happens at a place of the log, `PLACE` bytes of it each.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// So many units come to each of the first queues of a topic.
    Put {
        topic: &'static str,
        queues: u32,
        units: u64,
    },
    Drop(&'static str),
    /// A checkpoint is to be made as of here.
    Record,
    /// What is needed for it is made durable.
    Flush,
    /// It is written, and what it does not count goes.
    CleanUp,
}

const PLACE: u64 = 1_000_000;
/// More than are synced one by one.
const QUEUES_MAX: u32 = 70;

/// Acts in some order, and how many units a file has.
#[derive(Debug)]
struct Script {
    acts: Vec<Act>,
    units_per_file: u64,
}

/// A few of the acts are checkpoints. The last one is that a checkpoint counts all.
fn script(chance: &mut Chance) -> Script {
    let mut next_of_checkpoint = [Act::Record, Act::Flush, Act::CleanUp].into_iter().cycle();
    let mut acts = Vec::new();
    for _ in 0..8 + chance.below(12) {
        let topic = ["a", "b"][chance.below(2)];
        acts.push(match chance.below(9) {
            0..4 => {
                let queues = [1, 2, 3, QUEUES_MAX][chance.below(4)];
                // Units are written before a checkpoint where there are many.
                Act::Put { topic, queues, units: [1, 2, 90][chance.below(3)] }
            }
            4..6 => Act::Drop(topic),
            _ => next_of_checkpoint.next().unwrap(),
        });
    }
    let is_at_rest = |act: Option<&Act>| !matches!(act, Some(Act::Record | Act::Flush));
    while !is_at_rest(acts.iter().rfind(|act| !matches!(act, Act::Put { .. } | Act::Drop(_)))) {
        acts.push(next_of_checkpoint.next().unwrap());
    }
    acts.extend([Act::Record, Act::Flush, Act::CleanUp]);
    Script { acts, units_per_file: [100, 10_000][chance.below(2)] }
}

/// Physical offsets of units, by topic and queue.
type Queues = BTreeMap<(String, u32), Vec<u64>>;

/// What there is at a place of the log.
fn expected(acts: &[Act], physical_offset: u64) -> Queues {
    let mut queues = Queues::new();
    for (at, act) in (PLACE..physical_offset).step_by(PLACE as usize).zip(acts) {
        match *act {
            Act::Put { topic, queues: count, units } => (0..count).for_each(|queue| {
                let of_queue = queues.entry((topic.to_owned(), queue)).or_default();
                of_queue.extend((0..units).map(|unit| physical_offset_of(at, queue, unit)));
            }),
            Act::Drop(dropped) => queues.retain(|(topic, _), _| topic != dropped),
            _ => {}
        }
    }
    queues
}

fn physical_offset_of(at: u64, queue: u32, unit: u64) -> u64 {
    at + u64::from(queue) * 1000 + unit * 10
}

fn found(queues: &ConsumeQueues) -> Queues {
    let units = |queue: &raftmq_store::ConsumeQueue| {
        queue.read(0, usize::MAX).iter().map(|unit| unit.physical_offset).collect::<Vec<_>>()
    };
    let all = queues.list_queues().into_iter();
    // A crash may leave a queue without units, or nothing of it.
    all.map(|(topic, id, queue)| ((topic.to_string(), id), units(&queue)))
        .filter(|(_, units)| !units.is_empty())
        .collect()
}

/// Queues on a disk that crashes. What the disk's images carry is as of where the last checkpoint is.
struct Member {
    disk: CrashDisk,
    dir: PathBuf,
    queues: ConsumeQueues,
    /// Where it goes on.
    next: u64,
    /// The checkpoint that is being made.
    making: (u64, Numbers),
    /// Whether it is to crash when the last one is written and nothing has gone.
    crashes_at_checkpoint: bool,
}

impl Member {
    /// Where a queue has many files a crash may have left a later one and not the first one, which passes for more units than
    /// were counted: all is made again then, as by a store.
    fn start(disk: CrashDisk, dir: &Path, script: &Script, recorded: u64) -> Self {
        disk.raise_watermark(recorded);
        let files = OpenFiles::new(Arc::new(disk.clone()), 0);
        let tags_code: Reads<TagsCode> = Reads { properties: &[], read: |_| 0 };
        let queues = ConsumeQueues::new(files, dir, script.units_per_file, tags_code);
        queues.recover(recorded, &Numbers::default()).unwrap();
        let counted: usize = expected(&script.acts, recorded).values().map(Vec::len).sum();
        let mut next = recorded;
        if script.units_per_file == 100 && queues.held().get("units") > counted as u64 {
            disk.lower_watermark(0);
            disk.remove_all(queues.dir()).unwrap();
            queues.recover(0, &Numbers::default()).unwrap();
            next = 0;
        }
        Self {
            disk,
            dir: dir.to_owned(),
            queues,
            next,
            making: Default::default(),
            crashes_at_checkpoint: false,
        }
    }

    fn act(&mut self, at: u64, act: Act) {
        match act {
            Act::Put { topic, queues, units } => {
                (0..queues).for_each(|queue| self.put(topic, queue, at, units));
            }
            Act::Drop(topic) => self.queues.drop_topic(topic, at).unwrap(),
            Act::Record => self.making = (at, self.queues.held()),
            Act::Flush => self.queues.flush().unwrap(),
            Act::CleanUp => {
                let (recorded, held) = &self.making;
                self.disk.replace(&self.dir.join("dispatched"), b"checkpoint").unwrap();
                self.disk.raise_watermark(*recorded);
                if self.crashes_at_checkpoint {
                    self.disk.capture_after(0);
                }
                self.queues.clean_up(*recorded, held).unwrap();
            }
        }
    }

    fn put(&self, topic: &str, queue: u32, at: u64, units: u64) {
        let to = self.queues.get_or_create(topic, queue).unwrap();
        for (queue_offset, unit) in (to.max_offset()..).zip(0..units) {
            let physical_offset = physical_offset_of(at, queue, unit);
            to.append(queue_offset, Unit { physical_offset, size: 9, tags_code: 0 }).unwrap();
        }
        to.publish().unwrap();
    }

    /// Goes on to the end, without the rest of a checkpoint that was begun before.
    fn go_on(&mut self, acts: &[Act]) {
        let from = self.next;
        let mut is_making = false;
        for (at, act) in (PLACE..).step_by(PLACE as usize).zip(acts).filter(|(at, _)| *at >= from) {
            is_making |= matches!(act, Act::Record);
            if is_making || matches!(act, Act::Put { .. } | Act::Drop(_)) {
                self.act(at, *act);
            }
            assert_eq!(found(&self.queues), expected(acts, at + 1), "{acts:?}");
            self.assert_sum();
        }
    }

    fn assert_sum(&self) {
        let units: u64 = self.queues.max_offsets().map(|(_, _, max)| max).sum();
        assert_eq!(self.queues.held().get("units"), units);
    }
}

/// What was on the medium after so many changes, or when the last checkpoint was written, or at the end.
fn crashed(script: &Script, changes: Option<u64>) -> Image {
    let dir = temp_dir();
    let mut member = Member::start(CrashDisk::new(dir.path()), dir.path(), script, 0);
    member.crashes_at_checkpoint = changes.is_none();
    changes.into_iter().for_each(|changes| member.disk.capture_after(changes));
    member.go_on(&script.acts);
    member.disk.take_captured().unwrap_or_else(|| member.disk.capture())
}

/// It starts with what the last checkpoint has counted, goes on, and comes to the same; also after one more crash that
/// leaves nothing but what is durable. Returns whether it made all again.
fn assert_goes_on(script: &Script, image: Image, chance: &mut Chance, case: &str) -> bool {
    let dir = temp_dir();
    let recorded = image.watermark;
    let disk = CrashDisk::after_crash(dir.path(), image, chance);
    let mut member = Member::start(disk, dir.path(), script, recorded);
    assert_eq!(found(&member.queues), expected(&script.acts, member.next), "{case}");
    member.assert_sum();
    let made_again = member.next < recorded;
    member.go_on(&script.acts);
    let at_end = expected(&script.acts, u64::MAX);
    let image = member.disk.capture();
    let (dir, recorded) = (temp_dir(), image.watermark);
    let disk = CrashDisk::with_survivors(dir.path(), image, |_, _, _| None);
    let member = Member::start(disk, dir.path(), script, recorded);
    assert_eq!((member.next, found(&member.queues)), (recorded, at_end.clone()), "{case}");
    // Nothing is left of what was dropped.
    let queues = member.queues.list_queues().len();
    let dirs = walk(&member.disk, &dir.path().join("consumequeue"));
    assert_eq!((queues, dirs.len()), (at_end.len(), at_end.len()), "{dirs:?}, {case}");
    made_again
}

/// The directories of queues.
fn walk(disk: &CrashDisk, dir: &Path) -> Vec<PathBuf> {
    let below = disk.list(dir).unwrap();
    let is_queue = below.iter().any(|path| path.is_file()) && !dir.ends_with("consumequeue");
    let mut found = if is_queue { vec![dir.to_owned()] } else { Vec::new() };
    below.iter().filter(|path| path.is_dir()).for_each(|path| found.append(&mut walk(disk, path)));
    found
}

#[test]
fn a_start_finds_what_was_counted_whatever_was_dropped_around_it() {
    let mut made_again = 0;
    for seed in 1..120 {
        let mut chance = Chance(seed * 7_919);
        let script = script(&mut chance);
        let of_many = script.acts.iter().any(|act| matches!(act, Act::Put { queues: QUEUES_MAX, .. }));
        let changes = chance.below(if of_many { 600 } else { 80 }) as u64;
        let changes = (chance.below(4) > 0).then_some(changes);
        let image = crashed(&script, changes);
        let case = format!("seed {seed}, {changes:?} changes, as of {}: {script:?}", image.watermark);
        made_again += u32::from(assert_goes_on(&script, image, &mut chance, &case));
    }
    assert!(made_again < 10, "{made_again}");
}

/// A member on a disk that crashes, its steps called by hand.
fn open(disk: &CrashDisk, dir: &Path) -> Opened {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    open_on(&disk, dir).unwrap()
}

/// Sends messages, so many to the first queue of `a` and so many to the second one.
fn send(store: &Store, index: u64, counts: [u64; 2]) {
    let to = |queue: usize| {
        (0..counts[queue]).map(move |n| Message::new("a", queue as i32, &format!("{index}-{n}"), 50))
    };
    let messages: Vec<_> = to(0).chain(to(1)).collect();
    append_pieces(store, id(1, index), FrameKind::Messages, &mut [records(&messages)]).unwrap();
}

fn dispatch(store: &Store) {
    store.commit(store.log().end());
    assert!(wait_dispatched(store, store.log().end()));
}

/// The keys of the messages in both queues.
fn keys(store: &Store) -> [Vec<String>; 2] {
    [0, 1].map(|queue| {
        let units = store.queue("a", queue).map_or(Vec::new(), |queue| queue.read(0, usize::MAX));
        let key = |unit: &Unit| {
            let record = store.record(unit.physical_offset, unit.size).unwrap().unwrap();
            RecordView::parse(&record).unwrap().property("UNIQ_KEY").unwrap().to_owned()
        };
        units.iter().map(key).collect()
    })
}

fn of(entries: &[(u64, [u64; 2])]) -> [Vec<String>; 2] {
    [0, 1].map(|queue| {
        let keys =
            entries.iter().map(|(index, counts)| (0..counts[queue]).map(move |n| format!("{index}-{n}")));
        keys.flatten().collect()
    })
}

/// Where the drop is among the entries of a log.
const DROP: u64 = 2;

/// The entries from one on.
fn append_from(store: &Store, from: u64) {
    let entries: [&dyn Fn(); 5] = [
        &|| send(store, 0, [3, 0]),
        &|| send(store, 1, [2, 2]),
        &|| {
            append_command(store, id(1, DROP), b"renew a");
        },
        &|| send(store, 3, [2, 1]),
        &|| send(store, 4, [0, 80]),
    ];
    entries[from as usize..].iter().for_each(|append| append());
}

/// What was on the medium after so many changes by a checkpoint as of before a drop that is dispatched when it is made, and
/// by the one after; `None` where both were complete before.
fn crashed_checkpoint(changes: u64) -> Option<Image> {
    let (manual, _here) = Manual::install(1);
    let dir = temp_dir();
    let disk = CrashDisk::new(dir.path());
    let store = open(&disk, dir.path());
    send(&store, 0, [3, 0]);
    send(&store, 1, [2, 2]);
    store.commit(store.log().end());
    manual.pass(Duration::from_secs(10));
    while store.dispatched_physical_offset() < store.log().end() {
        manual.step("raftmq-reput");
    }
    append_from(&store, DROP);
    store.commit(store.log().end());
    while store.dispatched_physical_offset() < store.log().end() {
        manual.step("raftmq-reput");
    }
    assert_eq!(keys(&store), of(&[(3, [2, 1]), (4, [0, 80])]));
    disk.capture_after(changes);
    manual.settle();
    assert!(dir.path().join("consumequeue/a").exists(), "the checkpoint is as of before the drop");
    manual.pass(Duration::from_secs(10));
    manual.settle();
    assert!(!dir.path().join("consumequeue/a").exists());
    disk.take_captured()
}

/// What a crash has left goes on, and what the queues hold then is durable.
fn assert_comes_to(image: &Image, seed: u64, takes_back: bool) {
    let dir = temp_dir();
    let disk = CrashDisk::after_crash(dir.path(), image.clone(), &mut Chance(seed));
    let counted = counted(&disk, dir.path());
    let store = open(&disk, dir.path());
    assert_eq!(store.dispatched_physical_offset(), counted, "seed {seed}");
    let next = |store: &Store| store.log().last().map_or(0, |last| last.index + 1);
    let mut expected = vec![(3, [2, 1]), (4, [0, 80])];
    if takes_back {
        if next(&store) > DROP {
            truncate_after(&store, Some(DROP - 1)).unwrap();
        }
        for index in next(&store)..DROP {
            send(&store, index, [[3, 0], [2, 2]][index as usize]);
        }
        send(&store, DROP, [1, 1]);
        expected = vec![(0, [3, 0]), (1, [2, 2]), (DROP, [1, 1])];
    } else {
        append_from(&store, next(&store));
    }
    dispatch(&store);
    assert_eq!(keys(&store), of(&expected), "seed {seed}, takes back: {takes_back}");
    store.close().unwrap();
    drop(store);
    let (image, dir) = (disk.capture(), temp_dir());
    let disk = CrashDisk::with_survivors(dir.path(), image, |_, _, _| None);
    let store = open(&disk, dir.path());
    assert_eq!(store.dispatched_physical_offset(), store.log().end());
    assert_eq!(keys(&store), of(&expected), "seed {seed}, takes back: {takes_back}");
}

/// As of where the last checkpoint is.
fn counted(disk: &CrashDisk, dir: &Path) -> u64 {
    let recorded = disk.read(&dir.join("dispatched")).unwrap().unwrap_or_default();
    let recorded = String::from_utf8(recorded).unwrap();
    recorded.lines().next().map_or(0, |line| line.strip_prefix("dispatched=").unwrap().parse().unwrap())
}

/// Whether the last checkpoint counts the drop; nobody takes it back then.
fn counts_the_drop(image: &Image, seed: u64) -> bool {
    let dir = temp_dir();
    let disk = CrashDisk::after_crash(dir.path(), image.clone(), &mut Chance(seed));
    let counted = counted(&disk, dir.path());
    let store = open(&disk, dir.path());
    let drop_at = |frame: &LogFrame| (frame.header.index == DROP).then_some(frame.header.physical_offset);
    frames(&store).iter().find_map(drop_at).is_some_and(|at| at < counted)
}

/// The drop may be in the log that a crash has left, or a leader that does not have it takes it back.
#[test]
fn a_drop_that_was_dispatched_comes_again_or_is_taken_back() {
    let (mut again, mut taken_back) = (0, 0);
    for changes in 0.. {
        let Some(image) = crashed_checkpoint(changes) else { break };
        for seed in (1..5).map(|seed| seed + 7 * changes) {
            let (_manual, _here) = Manual::install(seed);
            assert_comes_to(&image, seed, false);
            again += 1;
            if !counts_the_drop(&image, seed) {
                assert_comes_to(&image, seed, true);
                taken_back += 1;
            }
        }
    }
    assert!(again > taken_back && taken_back > 50, "{again} {taken_back}");
}
