//! The checkpoint: up to where in the log the views are complete and durable.
//!
//! A start drops what they hold behind it and dispatches from there on. How much they held is recorded with it, so that
//! files which were deleted are noticed and made again. It is a text of lines `name=number`: first `dispatched`, the
//! position, then how the log ends there ([`LogEnd`]), then each view's [numbers](crate::view::Numbers), and last `checksum`, the
//! CRC-32C of the lines before.
//!
//! A start checks the log from the position on, so what was durable is marked so before a checkpoint counts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use raftmq_world::{Disk, Next, Step, Threads};

use crate::commit_log::CommitLog;
use crate::error::StoreError;
use crate::flush::Flusher;
use crate::marks::{EntryId, LogEnd, Tail};
use crate::view::{Numbers, View};
use crate::worker::{Callback, Handle, Report, Stop};

/// The checkpoint's file in the data directory.
const FILE: &str = "dispatched";
/// The name of the position in it.
const POSITION: &str = "dispatched";

/// Names of what is said of the log's end there. The index is that of the next entry, as there may be none.
const END: [&str; 5] = ["next_index", "last_term", "last_start", "last_checksum", "last_ms"];
const CHECKSUM: &str = "checksum";

/// Up to where the views were complete, and what they held then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// How the log ends there: the position is behind the last frame.
    end: LogEnd,
    /// Of each view, in the order of their list.
    held: Vec<Numbers>,
}

impl Checkpoint {
    /// What the views hold, everything up to `end` having been published.
    pub(crate) fn as_of(end: LogEnd, views: &[Arc<dyn View>]) -> Self {
        Self { end, held: views.iter().map(|view| view.held()).collect() }
    }

    /// Physical offset.
    fn position(&self) -> u64 {
        self.end.tail.end
    }

    /// The same with other numbers. `None` where there is none for a name.
    fn with(&self, number: impl Fn(&str) -> Option<u64>) -> Option<Self> {
        let of_view = |names: &Numbers| {
            let numbers = names.iter().map(|(name, _)| Some((name, number(name)?)));
            numbers.collect::<Option<Vec<_>>>().map(Numbers::new)
        };
        let held = self.held.iter().map(of_view).collect::<Option<_>>()?;
        Some(Self { end: end_of(number)?, held })
    }

    fn lines(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let LogEnd { tail, last_ms } = self.end;
        let (next, term) = tail.last.map_or((0, 0), |last| (last.index + 1, last.term));
        let end = [next, term, tail.at, tail.chain.into(), last_ms.cast_unsigned()];
        let of_log = std::iter::once((POSITION, tail.end)).chain(END.into_iter().zip(end));
        of_log.chain(self.held.iter().flat_map(Numbers::iter))
    }

    fn write(&self, disk: &dyn Disk, path: &Path) -> Result<(), StoreError> {
        let mut text: String = self.lines().map(|(name, number)| format!("{name}={number}\n")).collect();
        let checksum = crc32c::crc32c(text.as_bytes());
        text += &format!("{CHECKSUM}={checksum}\n");
        disk.replace(path, text.as_bytes()).map_err(StoreError::io("write", path))
    }

    /// What was recorded of the views that `of` is of. Without numbers of one of them it counts for nothing: such a view has
    /// been added since.
    fn read(disk: &dyn Disk, path: &Path, of: &Self) -> Result<Option<Self>, StoreError> {
        let Some(text) = read_lines(disk, path)? else { return Ok(None) };
        Ok(of.with(|name| number_in(&text, name)))
    }

    /// Has the views take in what they held then. Returns why they do not hold it, if so.
    fn recover(&self, views: &[Arc<dyn View>]) -> Result<Option<String>, StoreError> {
        for (view, held) in views.iter().zip(&self.held) {
            match view.recover(self.position(), held) {
                // A disk that fails is no reason to delete anything.
                Err(e @ StoreError::Io { .. }) => return Err(e),
                Err(e) => return Ok(Some(e.to_string())),
                Ok(()) => {}
            }
        }
        let found = Self::as_of(self.end, views);
        Ok((found != *self).then(|| format!("{self:?} was recorded, {found:?} is there")))
    }
}

/// The lines of a checkpoint's file, if it is there and whole.
fn read_lines(disk: &dyn Disk, path: &Path) -> Result<Option<String>, StoreError> {
    let bytes = disk.read(path).map_err(StoreError::io("read", path))?;
    let Some(text) = bytes.and_then(|bytes| String::from_utf8(bytes).ok()) else { return Ok(None) };
    let lines = text.trim_end().rfind('\n').map_or(0, |at| at + 1);
    let checksum = number_in(&text[lines..], CHECKSUM);
    let is_whole = checksum == Some(crc32c::crc32c(&text.as_bytes()[..lines]).into());
    Ok(is_whole.then(|| text[..lines].to_owned()))
}

fn number_in(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

fn end_of(number: impl Fn(&str) -> Option<u64>) -> Option<LogEnd> {
    let [next, term, at, chain, last_ms] = END.map(&number);
    let (next, term) = (next?, term?);
    let last = next.checked_sub(1).map(|index| EntryId { term, index });
    let tail = Tail { last, at: at?, chain: u32::try_from(chain?).ok()?, end: number(POSITION)? };
    Some(LogEnd { tail, last_ms: last_ms?.cast_signed() })
}

/// How the log ended at the last checkpoint in a directory, if there is one.
pub(crate) fn recorded_end(disk: &dyn Disk, dir: &Path) -> Result<Option<LogEnd>, StoreError> {
    let text = read_lines(disk, &dir.join(FILE))?;
    Ok(text.and_then(|text| end_of(|name| number_in(&text, name))))
}

/// Takes requests for the [`CheckpointStep`].
#[derive(Default)]
pub(crate) struct Checkpoints {
    state: Mutex<State>,
    worker: Handle,
}

#[derive(Default)]
struct State {
    /// To be made next.
    next: Option<Checkpoint>,
    /// One is being made, or is to be made.
    busy: bool,
    /// How the flush of the log went that the one being made waits for.
    log_flushed: Option<Result<(), StoreError>>,
    /// The position of the last one.
    made: u64,
    /// Who is told when one is made that goes so far.
    waiting: Vec<(u64, Callback)>,
    /// The step is to end.
    stop: Option<Stop>,
}

impl Checkpoints {
    /// With one that a start has found.
    pub(crate) fn new(found: u64) -> Self {
        let own = Self::default();
        own.state.lock().made = found;
        own
    }

    pub(crate) fn start(&self, threads: &dyn Threads, step: CheckpointStep) -> std::io::Result<()> {
        self.worker.start(threads, "raftmq-checkpoint", Box::new(step))
    }

    /// Whether one is being made, or is to be made.
    pub(crate) fn is_busy(&self) -> bool {
        self.state.lock().busy
    }

    /// Has a checkpoint made, after the one that is being made. What is added to the views meanwhile is not
    /// counted.
    pub(crate) fn record(&self, checkpoint: Checkpoint) {
        let mut state = self.state.lock();
        state.next = Some(checkpoint);
        state.busy = true;
        drop(state);
        self.worker.wake();
    }

    /// Ends the step, with the checkpoints that are to be made or at once, and returns when it has ended.
    pub(crate) fn stop(&self, how: Stop) {
        self.state.lock().stop.get_or_insert(how);
        self.worker.wake();
        self.worker.join();
        self.state.lock().waiting.clear();
    }

    /// `callback` is told when there is a checkpoint that goes as far as `position`. Dropped where none is made any more.
    pub(crate) fn when_made(&self, position: u64, callback: Callback) {
        let mut state = self.state.lock();
        if state.made < position && state.stop.is_none() {
            state.waiting.push((position, callback));
            return;
        }
        let told =
            if state.made < position { Err(StoreError::Stopped("it was closed".into())) } else { Ok(()) };
        drop(state);
        callback(told);
    }

    fn made(&self, position: u64) {
        let mut state = self.state.lock();
        state.made = position;
        let reached: Vec<_> = state.waiting.extract_if(.., |(until, _)| *until <= position).collect();
        drop(state);
        reached.into_iter().for_each(|(_, callback)| callback(Ok(())));
    }

    fn log_flushed(&self, flushed: Result<(), StoreError>) {
        self.state.lock().log_flushed = Some(flushed);
        self.worker.wake();
    }
}

/// Makes checkpoints, one at a time, apart from dispatch: syncing thousands of queues takes long.
pub(crate) struct CheckpointStep {
    checkpoints: Arc<Checkpoints>,
    views: Vec<Arc<dyn View>>,
    flusher: Arc<Flusher>,
    disk: Arc<dyn Disk>,
    path: PathBuf,
    on_failure: Report,
    /// Waits for the log to be flushed; all else is durable.
    making: Option<Checkpoint>,
}

impl CheckpointStep {
    pub(crate) fn new(
        checkpoints: Arc<Checkpoints>,
        views: Vec<Arc<dyn View>>,
        flusher: Arc<Flusher>,
        disk: Arc<dyn Disk>,
        dir: &Path,
        on_failure: Report,
    ) -> Self {
        Self { checkpoints, views, flusher, disk, path: dir.join(FILE), on_failure, making: None }
    }

    fn go_on(&mut self) -> Result<Next, StoreError> {
        let mut state = self.checkpoints.state.lock();
        if state.stop == Some(Stop::AtOnce) {
            return Ok(Next::End);
        }
        if let Some(checkpoint) = &self.making {
            let Some(flushed) = state.log_flushed.take() else { return Ok(Next::Wait) };
            drop(state);
            flushed?;
            checkpoint.write(&*self.disk, &self.path)?;
            let mut recorded = self.views.iter().zip(&checkpoint.held);
            recorded.try_for_each(|(view, held)| view.clean_up(checkpoint.position(), held))?;
            let position = checkpoint.position();
            self.making = None;
            self.checkpoints.made(position);
            return Ok(Next::Again);
        }
        let Some(checkpoint) = state.next.take() else {
            state.busy = false;
            return Ok(if state.stop.is_some() { Next::End } else { Next::Wait });
        };
        drop(state);
        self.views.iter().try_for_each(|view| view.flush())?;
        self.making = Some(checkpoint);
        // Committed entries may be dispatched before they are durable here. A checkpoint must not be ahead of the log
        // that a start finds, nor of its marks.
        let checkpoints = self.checkpoints.clone();
        self.flusher.flush_with_marks(Box::new(move |flushed| checkpoints.log_flushed(flushed)));
        Ok(Next::Wait)
    }
}

impl Step for CheckpointStep {
    fn step(&mut self) -> Next {
        let failed = match self.go_on() {
            Ok(next) => return next,
            Err(failed) => failed,
        };
        if failed.is_for_lack_of_room() {
            // The one before stands, or this one, and what is in memory is written the next time. A start has more to do.
            tracing::warn!("no checkpoint is made: {failed}");
            self.making = None;
            return Next::Again;
        }
        tracing::error!("a checkpoint failed, the node stops: {failed}");
        (self.on_failure)(format!("checkpoint: {failed}"));
        Next::End
    }
}

/// Brings the views back to a position in the log from which dispatch goes on, and returns it. *Invariant 4*, read back:
/// whatever does not fit together is deleted, and the position is the log's start.
///
/// # Errors
/// [`StoreError::Illegal`] where two views have numbers of the same name; a disk that fails, and then nothing is deleted.
pub(crate) fn recover_views(
    disk: &dyn Disk,
    dir: &Path,
    log: &CommitLog,
    views: &[Arc<dyn View>],
) -> Result<LogEnd, StoreError> {
    let path = dir.join(FILE);
    let start = LogEnd::of_nothing(log.start(), log.seed);
    let present = Checkpoint::as_of(start, views);
    check_names(&present)?;
    let nothing = Checkpoint { held: present.held.iter().map(Numbers::zeros).collect(), ..present };
    let recorded = Checkpoint::read(disk, &path, &nothing)?;
    let recorded = recorded.filter(|c| (log.start()..=log.end()).contains(&c.position()));
    let checkpoint = recorded.as_ref().unwrap_or(&nothing);
    let Some(why) = checkpoint.recover(views)? else { return Ok(checkpoint.end) };
    tracing::warn!("making what is derived from the log again: {why}");
    // First of all: should this be interrupted, what it leaves must not pass for what was recorded.
    nothing.write(disk, &path)?;
    for folder in views.iter().map(|view| view.dir()) {
        disk.remove_all(folder).map_err(StoreError::io("remove", folder))?;
    }
    match nothing.recover(views)? {
        Some(why) => Err(StoreError::Illegal(format!("what is derived cannot be made: {why}"))),
        None => Ok(nothing.end),
    }
}

/// Numbers are told apart by their names alone.
fn check_names(checkpoint: &Checkpoint) -> Result<(), StoreError> {
    let mut names: Vec<_> = checkpoint.lines().map(|(name, _)| name).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(StoreError::Illegal(format!("two views have a number of the name {}", pair[0]))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consume_queues::{ConsumeQueues, TagsCode};
    use crate::derived::Derived;
    use crate::flush::{FlushMode, FlushStep};
    use crate::index_file::IndexShape;
    use crate::index_files::{IndexFiles, Keys};
    use crate::marks::MarksFile;
    use crate::open_files::OpenFiles;
    use crate::queue_offsets::tests::record;
    use crate::recovery::tests::log_of_blanks;
    use crate::timer_index::{DueMs, TimerIndex};
    use crate::view::{Committed, PropertyNames, Reads};
    use raftmq_message::RecordView;
    use raftmq_message::record::patch_positions;
    use raftmq_world::{OsDisk, SystemClock};

    /// Of each message a unit, a key, and a time that follows from where it stands.
    struct Opened {
        derived: Derived,
        timers: Arc<TimerIndex>,
        position: u64,
    }

    impl Opened {
        fn new(dir: &Path, log: &CommitLog) -> Self {
            let disk: Arc<dyn Disk> = Arc::new(OsDisk);
            let tags_code: Reads<TagsCode> = Reads { properties: &[], read: |_| 0 };
            let keys: Reads<Keys> = Reads { properties: &[], read: |_, add| add("key") };
            let due_ms: Reads<DueMs> =
                Reads { properties: &[], read: |message| Some(message.physical_offset() as i64 * 2_000) };
            let files = OpenFiles::new(disk.clone(), 0);
            let mut derived = Derived::new(ConsumeQueues::new(files.clone(), dir, 100, tags_code));
            let shape = IndexShape { slots: 8, entries: 100 };
            derived.add(IndexFiles::new(disk.clone(), dir, shape, keys));
            let timers = derived.add(TimerIndex::new(files, dir, due_ms));
            let position = recover_views(&*disk, dir, log, &derived.views).unwrap().tail.end;
            Self { derived, timers, position }
        }

        fn max_offset(&self) -> u64 {
            self.derived.queues.max_offset("t", 0)
        }

        /// Publishes messages that would stand at these physical offsets.
        fn publish(&self, offsets: std::ops::Range<u64>) {
            for physical_offset in offsets {
                let mut bytes = record();
                patch_positions(&mut bytes, self.max_offset(), physical_offset, 0).unwrap();
                let names = PropertyNames::default();
                let committed = Committed::new(RecordView::parse(&bytes).unwrap(), &names);
                for view in &self.derived.views {
                    view.put(&committed).unwrap();
                    view.publish().unwrap();
                }
            }
        }
    }

    #[test]
    fn what_is_published_while_a_checkpoint_is_made_is_not_counted() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let disk: Arc<dyn Disk> = Arc::new(OsDisk);
        let log_dir = dir.join("commitlog");
        let (marks_file, marks) = MarksFile::open(&*disk, &dir.join("marks"), &log_dir).unwrap();
        let log = log_of_blanks(&log_dir, marks, 1, 3);
        let flusher = Arc::new(Flusher::new(log.clone(), marks, FlushMode::Async));
        let clock = Arc::new(SystemClock::default());
        let mut flush = FlushStep::new(flusher.clone(), marks_file, clock, Box::new(|_| ()));
        let opened = Opened::new(dir, &log);
        assert_eq!(opened.position, 0);
        let end = |end| LogEnd { tail: Tail { end, ..Tail::default() }, last_ms: 0 };
        let as_of = |position| Checkpoint::as_of(end(position), &opened.derived.views);
        let read = || Checkpoint::read(&*disk, &dir.join(FILE), &as_of(0)).unwrap();

        let checkpoints = Arc::new(Checkpoints::default());
        let no_failure = Box::new(|reason| panic!("{reason}"));
        let mut make = CheckpointStep::new(
            checkpoints.clone(),
            opened.derived.views.clone(),
            flusher.clone(),
            disk.clone(),
            dir,
            no_failure,
        );
        opened.publish(1..50);
        // What is due in the first minute, 29 messages, is not needed any more.
        opened.timers.drop_before(60_000);
        checkpoints.record(as_of(50));
        opened.publish(50..90);
        assert_eq!((make.step(), make.step()), (Next::Wait, Next::Wait), "the log is not flushed");
        assert_eq!(read(), None);
        assert_eq!((flush.step(), flush.step()), (Next::Again, Next::Again));
        assert_eq!((checkpoints.is_busy(), make.step(), make.step()), (true, Next::Again, Next::Wait));
        assert!(!checkpoints.is_busy());
        // The log is durable as far as the checkpoint goes, whatever the mode.
        assert_eq!(flusher.flushed(), log.end());
        let recorded = read().unwrap();
        assert_eq!(
            recorded.lines().collect::<Vec<_>>(),
            [
                ("dispatched", 50),
                ("next_index", 0),
                ("last_term", 0),
                ("last_start", 0),
                ("last_checksum", 0),
                ("last_ms", 0),
                ("units", 49),
                ("index_start", 0),
                ("index_entries", 49),
                ("timer_slot", 1),
                ("timer_start", 0),
                ("timers", 20),
            ]
        );
        assert!(!dir.join("timer").join(format!("{:020}", 0)).exists());

        drop((opened, make));
        let opened = Opened::new(dir, &log);
        assert_eq!((opened.position, opened.max_offset()), (50, 49));
        // The same views again, in place of what they hold.
        opened.publish(50..60);
        assert_eq!(recover_views(&*disk, dir, &log, &opened.derived.views).unwrap(), end(50));
        assert_eq!(opened.max_offset(), 49);
        // A checkpoint behind the log's end counts for nothing.
        Checkpoint { end: end(log.end() + 1), ..recorded }.write(&*disk, &dir.join(FILE)).unwrap();
        let opened = Opened::new(dir, &log);
        assert_eq!((opened.position, opened.max_offset()), (0, 0));
    }
}
