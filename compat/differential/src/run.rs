//! Many cases at once, and what differs seen again by itself.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;

use crate::cases::Case;
use crate::catalog::Catalog;
use crate::compare::{Accepted, Verdict, judge};
use crate::report::{Findings, group};
use crate::script::Names;
use crate::session::{Asked, Session, Target};

/// How many times longer effects are waited for when a difference must be seen again.
const SLOWNESS: u32 = 4;
/// Cases between two times that a run shows what it has found.
const CASES_BETWEEN: usize = 1000;
/// Cases that see again at once: few, so that the brokers have time.
const WORKERS_AGAIN: usize = 40;
/// What cases are run on, and what is accepted of them.
pub struct Runner<'a> {
    /// What there is to ask.
    pub catalog: &'a Catalog,
    /// Ours first, then the Java brokers from the newest on.
    pub targets: &'a [Target],
    /// Differences that are right.
    pub accepted: &'a [Accepted],
    run: u32,
    next: AtomicU32,
}

/// What a run came to.
#[derive(Debug, Default)]
pub struct Totals {
    /// Cases that ran.
    pub cases: usize,
    /// Requests to each broker.
    pub requests: usize,
    /// How often each accepted difference was seen.
    pub accepted: Vec<usize>,
    /// Differences that nothing accepts.
    pub faults: Findings,
    /// Answers that are as those of an older Java broker.
    pub as_older: Findings,
    /// Why a case could not be carried out, the last time that happened.
    pub trouble: Option<String>,
}

impl Totals {
    fn add(&mut self, case: &Case, verdict: &Verdict, accepted: usize) {
        self.cases += 1;
        self.requests += verdict.requests;
        self.accepted.resize(accepted, 0);
        verdict.accepted.iter().for_each(|at| self.accepted[*at] += 1);
        verdict.faults.iter().for_each(|difference| self.faults.add(case, difference));
        verdict.as_older.iter().for_each(|difference| self.as_older.add(case, difference));
    }
}

impl<'a> Runner<'a> {
    /// Names of cases are told apart from those of other runs by the time.
    pub fn new(catalog: &'a Catalog, targets: &'a [Target], accepted: &'a [Accepted]) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { catalog, targets, accepted, run: (since.as_secs() % 10_000) as u32, next: AtomicU32::new(1) }
    }

    /// Runs one case.
    pub fn run(&self, case: &Case, slowness: u32) -> Result<(Names, Vec<Asked>)> {
        let names = Names::new(self.run, self.next.fetch_add(1, Ordering::Relaxed));
        let asked = Session::new(self.catalog, self.targets, names.clone()).run(case, slowness)?;
        Ok((names, asked))
    }

    fn verdict(&self, case: &Case, slowness: u32) -> Result<Verdict> {
        let (names, asked) = self.run(case, slowness)?;
        Ok(judge(case, &asked, &names, self.accepted))
    }

    /// Runs the cases with these numbers, `workers` at a time, adds what they show, and returns the numbers that are left:
    /// when a broker has fallen ill or cannot be reached, what was asked then says nothing, and the rest is not asked.
    /// `so_far` is called now and then with what there is: a run may be stopped.
    pub fn run_all(
        &self,
        numbers: &[usize],
        workers: usize,
        case: impl Fn(usize) -> Case + Sync,
        so_far: impl Fn(&Totals) + Sync,
        totals: &mut Totals,
    ) -> Vec<usize> {
        let (totals, left) = (Mutex::new(totals), Mutex::new(Vec::new()));
        each(workers, numbers.len(), |at| {
            let leave = || lock(&left).push(numbers[at]);
            if !lock(&left).is_empty() {
                return leave();
            }
            let case = case(numbers[at]);
            match self.verdict(&case, 1) {
                Ok(verdict) if !verdict.is_ill => {
                    let mut totals = lock(&totals);
                    totals.add(&case, &verdict, self.accepted.len());
                    if totals.cases.is_multiple_of(CASES_BETWEEN) {
                        so_far(&totals);
                    }
                }
                Ok(_) => leave(),
                Err(error) => {
                    lock(&totals).trouble = Some(format!("{}: {error:#}", case.id));
                    leave();
                }
            }
        });
        left.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Runs again in which something differed: what is seen only when much goes on at once is no difference between the
    /// brokers.
    pub fn see_again(&self, totals: &mut Totals) {
        let groups: Vec<_> =
            totals.faults.groups.iter().map(|(group, found)| (group.clone(), found.case.clone())).collect();
        let seen = Mutex::new(Vec::new());
        each(WORKERS_AGAIN, groups.len(), |number| {
            let (wanted, case) = &groups[number];
            let Ok(verdict) = self.verdict(case, SLOWNESS) else { return };
            if verdict.faults.iter().any(|difference| group(difference) == *wanted) {
                lock(&seen).push(wanted.clone());
            }
        });
        for group in lock(&seen).iter() {
            if let Some(found) = totals.faults.groups.get_mut(group) {
                found.confirmed = true;
            }
        }
    }
}

/// Does something with every number below `count`, `workers` at a time.
pub fn each(workers: usize, count: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    let all = || {
        loop {
            match next.fetch_add(1, Ordering::Relaxed) {
                number if number < count => work(number),
                _ => return,
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(all);
        }
    });
}

/// A worker that panics ends the run anyway: the scope passes its panic on.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
