//! Threads without threads: steps are called by the test, one at a time, in an order that it or a seed chooses.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use parking_lot::Mutex;
use raftmq_world::{Clock, Disk, Job, Next, Step, Threads, Worker, World};

use crate::crash_disk::Chance;

/// More steps than anything here needs: whoever waits for longer waits for ever.
const STEPS_MAX: u32 = 200_000;

thread_local! {
    static HERE: RefCell<Option<Manual>> = const { RefCell::new(None) };
}

/// Steps, and a clock that goes on where it is told to.
#[derive(Clone, Debug)]
pub(crate) struct Manual(Arc<Mutex<State>>);

struct State {
    entries: Vec<Entry>,
    /// Those that are being called: one, and whoever was joined by it meanwhile.
    called: Vec<usize>,
    now: Duration,
    chance: Chance,
}

struct Entry {
    name: &'static str,
    /// `None` while it is called, and when it has ended.
    step: Option<Box<dyn Step>>,
    woken: bool,
    due: Option<Duration>,
    ended: bool,
}

#[derive(Debug)]
struct ManualWorker {
    manual: Manual,
    at: usize,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let states = self.entries.iter().map(|entry| (entry.name, entry.woken, entry.due, entry.ended));
        f.debug_list().entries(states).finish()
    }
}

/// Stores that this thread opens belong to the scheduler as long as this is there, and what waits lets it go on.
pub(crate) struct Here;

impl Drop for Here {
    fn drop(&mut self) {
        HERE.set(None);
    }
}

/// The scheduler of this thread, if there is one.
pub(crate) fn here() -> Option<Manual> {
    HERE.with_borrow(Clone::clone)
}

/// Waits for a word: of other threads, or of steps that are called meanwhile.
pub(crate) fn receive<T>(told: &Receiver<T>, patience: Duration) -> Option<T> {
    let Some(manual) = here() else { return told.recv_timeout(patience).ok() };
    for _ in 0..STEPS_MAX {
        if let Ok(word) = told.try_recv() {
            return Some(word);
        }
        assert!(manual.go_on(), "nobody can go on: {manual:?}");
    }
    panic!("nobody comes to an end: {manual:?}");
}

/// Some turns of the scheduler, if there is one, as many as its seed says. Now and then time passes, or a step is called
/// that was not woken.
pub(crate) fn turns() {
    let Some(manual) = here() else { return };
    let below = |limit| manual.0.lock().chance.below(limit);
    for _ in 0..below(8) {
        match below(20) {
            0 => manual.pass(Duration::from_secs(2)),
            1 => drop(manual.turn_of_any(|entry, _| entry.step.is_some())),
            _ => drop(manual.turn()),
        }
    }
}

impl Manual {
    /// The scheduler of this thread, its order chosen by a seed.
    pub(crate) fn install(seed: u64) -> (Self, Here) {
        let state =
            State { entries: Vec::new(), called: Vec::new(), now: Duration::ZERO, chance: Chance(seed) };
        let manual = Self(Arc::new(Mutex::new(state)));
        HERE.set(Some(manual.clone()));
        (manual, Here)
    }

    pub(crate) fn world(&self, disk: Arc<dyn Disk>) -> World {
        let (clock, threads) = (Arc::new(self.clone()), Arc::new(self.clone()));
        World { disk, clock, threads, ..World::system() }
    }

    /// Calls the step of this name once, be it woken or not.
    pub(crate) fn step(&self, name: &str) -> Next {
        let at = self.0.lock().entries.iter().rposition(|entry| entry.name == name && !entry.ended);
        self.call(at.unwrap_or_else(|| panic!("{name} has ended")))
    }

    /// Whether the step of this name is to be called now.
    pub(crate) fn is_ready(&self, name: &str) -> bool {
        let state = self.0.lock();
        state.entries.iter().any(|entry| entry.name == name && entry.is_ready(state.now))
    }

    pub(crate) fn is_running(&self, name: &str) -> bool {
        self.0.lock().entries.iter().any(|entry| entry.name == name && !entry.ended)
    }

    /// Calls one of those that are ready; `false` where none is.
    pub(crate) fn turn(&self) -> bool {
        self.turn_of_any(Entry::is_ready)
    }

    fn turn_of_any(&self, may: impl Fn(&Entry, Duration) -> bool) -> bool {
        let mut state = self.0.lock();
        let those = state.those(may);
        if those.is_empty() {
            return false;
        }
        let chosen = state.chance.below(those.len());
        drop(state);
        self.call(those[chosen]);
        true
    }

    /// Calls whoever is ready until nobody is.
    pub(crate) fn settle(&self) {
        let mut left = STEPS_MAX;
        while self.turn() {
            left -= 1;
            assert!(left > 0, "nobody comes to an end: {self:?}");
        }
    }

    pub(crate) fn pass(&self, time: Duration) {
        self.0.lock().now += time;
    }

    /// One more turn, as late as it may be.
    fn go_on(&self) -> bool {
        if self.turn() {
            return true;
        }
        let mut state = self.0.lock();
        let next = state.entries.iter().filter_map(|entry| entry.due).min();
        state.now = next.unwrap_or(state.now).max(state.now);
        next.is_some()
    }

    fn call(&self, at: usize) -> Next {
        let mut state = self.0.lock();
        let entry = &mut state.entries[at];
        let mut step = entry.step.take().expect("nobody calls itself");
        (entry.woken, entry.due) = (false, None);
        state.called.push(at);
        drop(state);
        let next = step.step();
        let mut state = self.0.lock();
        state.called.pop();
        let now = state.now;
        let entry = &mut state.entries[at];
        match next {
            Next::Again => entry.woken = true,
            Next::Wait => {}
            Next::WaitFor(time) => entry.due = Some(now + time),
            Next::End => {
                entry.ended = true;
                drop(state);
                drop(step);
                return next;
            }
        }
        entry.step = Some(step);
        next
    }
}

impl Entry {
    fn is_ready(&self, now: Duration) -> bool {
        self.step.is_some() && (self.woken || self.due.is_some_and(|due| due <= now))
    }
}

impl State {
    fn those(&self, may: impl Fn(&Entry, Duration) -> bool) -> Vec<usize> {
        (0..self.entries.len()).filter(|at| may(&self.entries[*at], self.now)).collect()
    }
}

impl Threads for Manual {
    fn start(&self, name: &'static str, step: Box<dyn Step>) -> io::Result<Arc<dyn Worker>> {
        let mut state = self.0.lock();
        state.entries.push(Entry { name, step: Some(step), woken: true, due: None, ended: false });
        Ok(Arc::new(ManualWorker { manual: self.clone(), at: state.entries.len() - 1 }))
    }

    fn block(&self, job: Job) {
        job();
    }
}

impl Clock for Manual {
    fn now_ms(&self) -> i64 {
        self.passed().as_millis() as i64
    }

    fn passed(&self) -> Duration {
        self.0.lock().now
    }
}

impl Worker for ManualWorker {
    fn wake(&self) {
        self.manual.0.lock().entries[self.at].woken = true;
    }

    fn join(&self) {
        for _ in 0..STEPS_MAX {
            {
                let state = self.manual.0.lock();
                if state.entries[self.at].ended || state.called.last() == Some(&self.at) {
                    return;
                }
                assert!(!state.called.contains(&self.at), "two wait for each other: {state:?}");
            }
            // The one that is joined gets more turns than the others, so that some of these are overtaken.
            let preferred = {
                let mut state = self.manual.0.lock();
                state.entries[self.at].is_ready(state.now) && state.chance.below(2) == 0
            };
            if preferred {
                self.manual.call(self.at);
            } else {
                assert!(self.manual.go_on(), "nobody can go on: {:?}", self.manual);
            }
        }
        panic!("nobody comes to an end: {:?}", self.manual);
    }
}
