//! The simulated machine: a disk that knows what of it is durable, and clocks. It outlives the processes on it.
//!
//! Of every sector that was written since the last sync the versions are kept. A power failure leaves any of them, or what
//! was durable, or a sector torn between the two, whatever becomes of the others. A killed process leaves all as it was.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use raftmq_world::{Disk, DiskFile, DiskUsage, Random, Space, memory_file};

use crate::beside::is_beside;
use crate::time::MachineClock;

const SECTOR: usize = 512;
/// Versions of a sector that are kept: a crash shows one of them.
const VERSIONS_MAX: usize = 4;

type Sector = [u8; SECTOR];

/// How long a disk takes.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The shortest sync.
    pub sync_min: Duration,
    /// The longest.
    pub sync_max: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { sync_min: Duration::from_micros(100), sync_max: Duration::from_millis(3) }
    }
}

/// What is wrong with a disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskFaults {
    /// The next sync fails, and what it was to make durable may be lost.
    pub sync: bool,
    /// So many bytes of it are free.
    pub free: Option<u64>,
    /// What takes more of it is refused. Otherwise that goes into what a member keeps free for that.
    pub refuses: bool,
}

/// What a disk does: at its end, but for a sync that the power loss comes in the middle of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskOp {
    /// It makes what was written durable.
    Sync,
    /// It is about to: any part of that is done.
    HalfSync,
    /// It puts zeros in a range.
    Zeros,
    /// It makes a file.
    Create,
    /// It removes one or more.
    Remove,
    /// It puts a small file in another's place.
    Replace,
}

impl DiskOp {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Sync, Self::HalfSync, Self::Zeros, Self::Create, Self::Remove, Self::Replace];
}

/// The machine loses its power right behind something that its disk does.
struct Trap {
    behind: DiskOp,
    /// After so many of those.
    left: u64,
}

/// What is to be done at once where a machine loses its power by itself.
type OnLoss = Box<dyn Fn() + Send + Sync>;

/// What becomes of what is on a disk when its process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The process alone has ended.
    Killed,
    /// The machine lost its power: what was not synced is lost, torn or kept.
    PowerLost,
}

/// A machine.
pub struct Machine {
    /// Its clock.
    pub clock: Arc<MachineClock>,
    random: Random,
    state: Mutex<State>,
    on_loss: Mutex<Option<OnLoss>>,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Machine")
    }
}

#[derive(Default)]
struct State {
    files: BTreeMap<PathBuf, Entry>,
    /// Counts the processes: an earlier one touches nothing any more.
    life: u64,
    locked: BTreeSet<PathBuf>,
    pace: Pace,
    faults: DiskFaults,
    syncs: u64,
    trap: Option<Trap>,
    /// It has lost its power by itself.
    is_dark: bool,
}

/// What is at a path.
#[derive(Clone)]
enum Entry {
    File(Arc<File>),
    /// Replaced as a whole, and durable at once.
    Small(Vec<u8>),
}

struct File {
    live: Arc<dyn DiskFile>,
    sectors: Mutex<Sectors>,
    /// It has all its space already.
    is_allocated: bool,
}

/// The durable sectors of a file, the others being zero, and what may have come over them.
#[derive(Clone, Debug, Default)]
struct Sectors {
    durable: BTreeMap<u64, Box<Sector>>,
    written: BTreeMap<u64, Vec<Sector>>,
    /// Directories that are to be synced before a crash cannot lose it any more.
    unsynced: BTreeSet<PathBuf>,
    /// Whether a crash may make it empty.
    may_be_empty: bool,
}

/// A copy of what was durable at some moment.
#[derive(Clone, Debug, Default)]
pub struct DiskCopy(BTreeMap<PathBuf, Vec<u8>>, BTreeSet<PathBuf>);

impl DiskCopy {
    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The files with what is in them.
    pub fn files(&self) -> impl Iterator<Item = (&Path, &[u8])> {
        self.0.iter().map(|(path, content)| (path.as_path(), content.as_slice()))
    }
}

impl Machine {
    /// A machine with an empty disk.
    pub fn new(random: Random) -> Arc<Self> {
        let (clock, state, on_loss) = (Arc::default(), Mutex::default(), Mutex::default());
        Arc::new(Self { clock, random, state, on_loss })
    }

    /// The disk for a new process.
    pub fn disk(self: &Arc<Self>) -> HostDisk {
        let mut state = self.state.lock();
        state.is_dark = false;
        state.life += 1;
        state.locked.clear();
        HostDisk { machine: self.clone(), life: state.life }
    }

    /// How fast the disk is from now on.
    pub fn set_pace(&self, pace: Pace) {
        self.state.lock().pace = pace;
    }

    /// What is wrong with the disk from now on.
    pub fn set_faults(&self, faults: DiskFaults) {
        self.state.lock().faults = faults;
    }

    /// The machine is to lose its power right behind the `nth` of those from now on, also if it is started meanwhile.
    pub fn set_trap(&self, behind: DiskOp, nth: u64) {
        self.state.lock().trap = Some(Trap { behind, left: nth });
    }

    /// It is not to, any more.
    pub fn disarm(&self) {
        self.state.lock().trap = None;
    }

    /// What is to be done at once where it does.
    pub(crate) fn on_loss(&self, then: impl Fn() + Send + Sync + 'static) {
        *self.on_loss.lock() = Some(Box::new(then));
    }

    /// Whether it has lost its power by itself: its process is still to be ended.
    pub fn is_dark(&self) -> bool {
        self.state.lock().is_dark
    }

    /// The disk has done something. Says whether the process lives on.
    fn did(&self, what: DiskOp) -> io::Result<()> {
        {
            let mut state = self.state.lock();
            let Some(trap) = state.trap.as_mut().filter(|trap| trap.behind == what) else { return Ok(()) };
            trap.left = trap.left.saturating_sub(1);
            if trap.left > 0 {
                return Ok(());
            }
            (state.trap, state.is_dark) = (None, true);
        }
        self.end(Ending::PowerLost);
        if let Some(then) = &*self.on_loss.lock() {
            then();
        }
        Err(ended())
    }

    /// Syncs so far.
    pub fn syncs(&self) -> u64 {
        self.state.lock().syncs
    }

    /// The process has ended. Whatever it still does to the disk has no effect.
    pub fn end(&self, how: Ending) {
        let mut state = self.state.lock();
        state.life += 1;
        if how == Ending::PowerLost {
            let copy = self.after_power_loss(&state.files);
            state.files = restored(&copy);
        }
    }

    /// What a power failure leaves.
    fn after_power_loss(&self, files: &BTreeMap<PathBuf, Entry>) -> DiskCopy {
        // Of some failures nothing that was not synced survives, of others nearly everything.
        let survives = self.random.below(5);
        let chance = || self.random.below(4) < survives;
        let mut copy = DiskCopy::default();
        for (path, entry) in files {
            let file = match entry {
                Entry::Small(content) => {
                    copy.0.insert(path.clone(), content.clone());
                    copy.1.insert(path.clone());
                    continue;
                }
                Entry::File(file) => file,
            };
            let sectors = file.sectors.lock();
            if !sectors.unsynced.is_empty() && !chance() {
                continue;
            }
            let len = if sectors.may_be_empty && !chance() { 0 } else { file.live.len() as usize };
            let mut content = vec![0; len];
            let mut put = |number: u64, bytes: &Sector| {
                let at = number as usize * SECTOR;
                if at < len {
                    let end = (at + SECTOR).min(len);
                    content[at..end].copy_from_slice(&bytes[..end - at]);
                }
            };
            sectors.durable.iter().for_each(|(number, bytes)| put(*number, bytes));
            for (number, versions) in &sectors.written {
                if !chance() {
                    continue;
                }
                let mut bytes = versions[self.random.below(versions.len() as u64) as usize];
                if self.random.below(8) == 0 {
                    // Torn: its rest is as it was.
                    let keep = self.random.below(SECTOR as u64) as usize;
                    let before = sectors.durable.get(number).map_or([0; SECTOR], |before| **before);
                    bytes[keep..].copy_from_slice(&before[keep..]);
                }
                put(*number, &bytes);
            }
            copy.0.insert(path.clone(), content);
        }
        copy
    }

    /// Flips one bit of what is durable, somewhere where something was written, and half of the time in the directory
    /// `mostly`; says where. For a machine without a process.
    pub fn flip_bit(&self, mostly: &Path) -> Option<(PathBuf, u64)> {
        let mut copy = self.copy();
        let within = if self.random.below(2) == 0 { mostly } else { Path::new("/") };
        let full: Vec<PathBuf> = copy
            .0
            .iter()
            .filter(|(path, content)| path.starts_with(within) && content.iter().any(|b| *b != 0))
            .map(|(p, _)| p.clone())
            .collect();
        let path = full.get(self.random.below(full.len() as u64) as usize)?.clone();
        let content = copy.0.get_mut(&path)?;
        let end = content.iter().rposition(|b| *b != 0)? as u64 + 1;
        // Half of them near the end, where what was written last is.
        let tail = end.min(4096);
        let at = if self.random.below(2) == 0 {
            end - 1 - self.random.below(tail)
        } else {
            self.random.below(end)
        };
        content[at as usize] ^= 1 << self.random.below(8);
        self.state.lock().files = restored(&copy);
        Some((path, at))
    }

    /// All that is on the disk, as a process sees it.
    pub fn copy(&self) -> DiskCopy {
        let state = self.state.lock();
        let mut copy = DiskCopy::default();
        for (path, entry) in &state.files {
            let content = match entry {
                Entry::File(file) => file.live.bytes().to_vec(),
                Entry::Small(content) => {
                    copy.1.insert(path.clone());
                    content.clone()
                }
            };
            copy.0.insert(path.clone(), content);
        }
        copy
    }

    /// Puts a copy in place of all that is on the disk. For a machine without a process.
    pub fn restore(&self, copy: &DiskCopy) {
        self.state.lock().files = restored(copy);
    }

    /// How long a sync takes, and work that a thread does.
    pub(crate) fn work_time(&self) -> Duration {
        let Pace { sync_min, sync_max } = self.state.lock().pace;
        let spread = sync_max.saturating_sub(sync_min).as_nanos() as u64;
        sync_min + Duration::from_nanos(self.random.below(spread + 1))
    }

    /// A sync takes its time from whoever waits for it. Fails where it is to fail.
    fn sync_takes(&self) -> io::Result<()> {
        if !is_beside() {
            hold_up(self.work_time());
        }
        let mut state = self.state.lock();
        state.syncs += 1;
        if std::mem::take(&mut state.faults.sync) {
            return Err(io::Error::other("the disk failed"));
        }
        Ok(())
    }
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the process has ended")
}

/// Lets time pass for this process alone, as if its thread were blocked.
fn hold_up(time: Duration) {
    let mut advancing = pin!(tokio::time::advance(time));
    // The first poll moves the clock; there is nothing to wait for.
    let _ = advancing.as_mut().poll(&mut Context::from_waker(Waker::noop()));
}

fn restored(copy: &DiskCopy) -> BTreeMap<PathBuf, Entry> {
    let mut files = BTreeMap::new();
    for (path, content) in &copy.0 {
        let entry = if copy.1.contains(path) {
            Entry::Small(content.clone())
        } else {
            Entry::File(durable(path, content).expect("memory for a simulated file"))
        };
        files.insert(path.clone(), entry);
    }
    files
}

/// A file whose content is durable.
fn durable(path: &Path, content: &[u8]) -> io::Result<Arc<File>> {
    let file = File::new(path, content.len() as u64)?;
    let mut sectors = Sectors::default();
    for (number, bytes) in content.chunks(SECTOR).enumerate().filter(|(_, c)| c.iter().any(|b| *b != 0)) {
        file.live.write_at((number * SECTOR) as u64, bytes)?;
        let mut sector = Box::new([0; SECTOR]);
        sector[..bytes.len()].copy_from_slice(bytes);
        sectors.durable.insert(number as u64, sector);
    }
    *file.sectors.lock() = sectors;
    Ok(Arc::new(file))
}

impl File {
    fn new(path: &Path, len: u64) -> io::Result<Self> {
        Ok(Self { live: memory_file(path, len)?, sectors: Mutex::default(), is_allocated: true })
    }

    /// Whether a range of it has its space: not so where it was never written.
    fn has_space(&self, position: u64, len: usize) -> bool {
        if self.is_allocated || len == 0 {
            return true;
        }
        let sectors = self.sectors.lock();
        let is_there =
            |number: u64| sectors.durable.contains_key(&number) || sectors.written.contains_key(&number);
        (position / SECTOR as u64..=(position + len as u64 - 1) / SECTOR as u64).all(is_there)
    }

    /// Notes what a range of the live file holds now.
    fn written(&self, position: u64, len: usize) {
        if len == 0 {
            return;
        }
        let live = self.live.bytes();
        let mut sectors = self.sectors.lock();
        let (first, last) = (position / SECTOR as u64, (position + len as u64 - 1) / SECTOR as u64);
        for number in first..=last {
            let at = number as usize * SECTOR;
            let end = (at + SECTOR).min(live.len());
            let mut sector = [0; SECTOR];
            sector[..end - at].copy_from_slice(&live[at..end]);
            let versions = sectors.written.entry(number).or_default();
            if versions.len() == VERSIONS_MAX {
                versions.remove(1);
            }
            versions.push(sector);
        }
    }

    fn make_durable(&self) {
        let mut sectors = self.sectors.lock();
        let written = std::mem::take(&mut sectors.written);
        for (number, mut versions) in written {
            if let Some(last) = versions.pop() {
                sectors.durable.insert(number, Box::new(last));
            }
        }
        sectors.may_be_empty = false;
    }
}

/// The disk as one process sees it.
#[derive(Clone, Debug)]
pub struct HostDisk {
    machine: Arc<Machine>,
    life: u64,
}

impl HostDisk {
    /// The state, while the process lives.
    fn state(&self) -> io::Result<parking_lot::MutexGuard<'_, State>> {
        let state = self.machine.state.lock();
        if state.life != self.life { Err(ended()) } else { Ok(state) }
    }

    fn opened(&self, file: Arc<File>) -> Arc<dyn DiskFile> {
        Arc::new(HostFile { file, disk: self.clone() })
    }

    /// Whether there is space for more.
    fn has_space(&self) -> io::Result<()> {
        if self.state()?.faults.refuses { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn make(&self, path: &Path, len: u64, may_be_lost: bool, space: Space) -> io::Result<Arc<dyn DiskFile>> {
        self.has_space()?;
        let file = File { is_allocated: matches!(space, Space::Allocated), ..File::new(path, len)? };
        if may_be_lost {
            let mut sectors = file.sectors.lock();
            sectors.may_be_empty = true;
            let state = self.state()?;
            // Directories that hold something already are there for good, all others may be lost.
            let is_there = |dir: &Path| state.files.keys().any(|other| other.starts_with(dir));
            sectors.unsynced.extend(path.parent().map(Path::to_owned));
            for dir in path.ancestors().skip(1).take_while(|dir| !is_there(dir)) {
                sectors.unsynced.extend(dir.parent().map(Path::to_owned));
            }
        }
        let file = Arc::new(file);
        self.state()?.files.insert(path.to_owned(), Entry::File(file.clone()));
        self.machine.did(DiskOp::Create)?;
        Ok(self.opened(file))
    }
}

impl Disk for HostDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state()?;
        let file = match state.files.get(path) {
            Some(Entry::File(file)) => file.clone(),
            Some(Entry::Small(content)) => {
                let file = durable(path, content)?;
                state.files.insert(path.to_owned(), Entry::File(file.clone()));
                file
            }
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        drop(state);
        Ok(self.opened(file))
    }

    fn create(&self, path: &Path, len: u64, space: Space) -> io::Result<Arc<dyn DiskFile>> {
        drop(self.state()?);
        self.machine.sync_takes()?;
        self.make(path, len, false, space)
    }

    fn create_unsynced(&self, path: &Path, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        self.make(path, len, true, Space::Sparse)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        drop(self.state()?);
        self.machine.sync_takes()?;
        let state = self.state()?;
        for entry in state.files.values() {
            if let Entry::File(file) = entry {
                file.sectors.lock().unsynced.remove(dir);
            }
        }
        drop(state);
        self.machine.did(DiskOp::Sync)
    }

    fn sync_all(&self, dir: &Path) -> io::Result<()> {
        drop(self.state()?);
        self.machine.sync_takes()?;
        self.machine.did(DiskOp::HalfSync)?;
        let state = self.state()?;
        for (_, entry) in state.files.iter().filter(|(path, _)| path.starts_with(dir)) {
            if let Entry::File(file) = entry {
                file.make_durable();
                file.sectors.lock().unsynced.clear();
            }
        }
        drop(state);
        self.machine.did(DiskOp::Sync)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let state = self.state()?;
        let below = state.files.keys().filter_map(|path| path.strip_prefix(dir).ok()?.components().next());
        let names: BTreeSet<PathBuf> = below.map(|name| dir.join(name)).collect();
        Ok(names.into_iter().collect())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        drop(self.state()?);
        self.machine.sync_takes()?;
        if self.state()?.files.remove(path).is_none() {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.machine.did(DiskOp::Remove)
    }

    fn remove_all(&self, dir: &Path) -> io::Result<()> {
        drop(self.state()?);
        self.machine.sync_takes()?;
        self.state()?.files.retain(|path, _| !path.starts_with(dir));
        self.machine.did(DiskOp::Remove)
    }

    fn usage(&self, _dir: &Path) -> io::Result<DiskUsage> {
        let free = self.state()?.faults.free;
        Ok(DiskUsage { free: free.unwrap_or(DiskUsage::EMPTY.free), ..DiskUsage::EMPTY })
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Any + Send>>> {
        let mut state = self.state()?;
        if !state.locked.insert(path.to_owned()) {
            return Ok(None);
        }
        Ok(Some(Box::new(Lock { disk: self.clone(), path: path.to_owned() })))
    }

    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        let state = self.state()?;
        Ok(state.files.get(path).map(|entry| match entry {
            Entry::File(file) => file.live.bytes().to_vec(),
            Entry::Small(content) => content.clone(),
        }))
    }

    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.has_space()?;
        // Two: of the content, and of the directory.
        self.machine.sync_takes()?;
        self.machine.sync_takes()?;
        self.state()?.files.insert(path.to_owned(), Entry::Small(content.to_vec()));
        self.machine.did(DiskOp::Replace)
    }
}

struct Lock {
    disk: HostDisk,
    path: PathBuf,
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Ok(mut state) = self.disk.state() {
            state.locked.remove(&self.path);
        }
    }
}

struct HostFile {
    file: Arc<File>,
    disk: HostDisk,
}

impl HostFile {
    /// Whether a range may be written: the process lives, and there is space.
    fn may_write(&self, position: u64, len: usize) -> io::Result<()> {
        if self.file.has_space(position, len) { self.disk.state().map(drop) } else { self.disk.has_space() }
    }
}

impl fmt::Debug for HostFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostFile({})", self.path().display())
    }
}

impl DiskFile for HostFile {
    fn path(&self) -> &Path {
        self.file.live.path()
    }

    fn len(&self) -> u64 {
        self.file.live.len()
    }

    fn write_at(&self, position: u64, bytes: &[u8]) -> io::Result<()> {
        self.may_write(position, bytes.len())?;
        self.file.live.write_at(position, bytes)?;
        self.file.written(position, bytes.len());
        Ok(())
    }

    fn write_vectored_at(&self, position: u64, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        let len = pieces.iter().map(|piece| piece.len()).sum();
        self.may_write(position, len)?;
        self.file.live.write_vectored_at(position, pieces)?;
        self.file.written(position, len);
        Ok(())
    }

    fn bytes(&self) -> &[u8] {
        self.file.live.bytes()
    }

    fn read_at(&self, position: u64, bytes: &mut [u8]) -> io::Result<()> {
        drop(self.disk.state()?);
        self.file.live.read_at(position, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        drop(self.disk.state()?);
        let synced = self.disk.machine.sync_takes();
        if synced.is_err() {
            // What could not be written is forgotten, as a kernel does: no later sync will write it.
            let mut sectors = self.file.sectors.lock();
            sectors.written.clear();
            return synced;
        }
        self.disk.machine.did(DiskOp::HalfSync)?;
        self.file.make_durable();
        self.disk.machine.did(DiskOp::Sync)
    }

    fn write_zeros(&self, position: u64, len: u64) -> io::Result<()> {
        self.may_write(position, len as usize)?;
        self.file.live.write_zeros(position, len)?;
        self.file.written(position, len as usize);
        self.disk.machine.did(DiskOp::Zeros)
    }

    fn next_data(&self, position: u64) -> io::Result<Option<std::ops::Range<u64>>> {
        const PIECE: u64 = 64 * 1024;
        let bytes = self.bytes().get(position as usize..).unwrap_or_default();
        let start = bytes.iter().position(|b| *b != 0).map(|at| position + at as u64);
        Ok(start.map(|start| start..(start + PIECE).min(self.len())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_failure_leaves_what_was_synced() {
        for seed in 0..50 {
            let machine = Machine::new(Random::seeded(seed));
            let disk = machine.disk();
            // Nobody is held up without a runtime.
            crate::beside::beside(|| {
                let file = disk.create(Path::new("/d/f"), 4096, Space::Sparse).unwrap();
                file.write_at(0, &[1; 1024]).unwrap();
                file.sync().unwrap();
                file.write_at(512, &[2; 1024]).unwrap();
                machine.end(Ending::PowerLost);
                assert!(file.write_at(0, &[9]).is_err() && file.sync().is_err());
                let disk = machine.disk();
                let file = disk.open(Path::new("/d/f")).unwrap();
                assert_eq!(file.bytes()[..512], [1; 512]);
                assert!(file.bytes()[512..1024].iter().all(|b| *b == 1 || *b == 2));
                assert!(file.bytes()[1024..1536].iter().all(|b| *b == 0 || *b == 2));
            });
        }
    }

    #[test]
    fn a_trap_ends_the_process_behind_what_it_waits_for() {
        let machine = Machine::new(Random::seeded(1));
        let told = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let telling = told.clone();
        machine.on_loss(move || telling.store(true, std::sync::atomic::Ordering::Relaxed));
        let disk = machine.disk();
        crate::beside::beside(|| {
            let file = disk.create(Path::new("/d/f"), 4096, Space::Sparse).unwrap();
            machine.set_trap(DiskOp::Sync, 2);
            for round in 1..=2 {
                file.write_at(0, &[round; 512]).unwrap();
                assert_eq!(file.sync().is_ok(), round == 1);
            }
            assert!(machine.is_dark() && told.load(std::sync::atomic::Ordering::Relaxed));
            assert!(file.write_at(0, &[9]).is_err());
        });
        let file = machine.disk().open(Path::new("/d/f")).unwrap();
        assert_eq!(file.bytes()[..512], [2; 512], "the sync was done");
        assert!(!machine.is_dark());
    }

    #[test]
    fn a_disk_without_space_writes_where_it_has_written() {
        let machine = Machine::new(Random::seeded(1));
        let disk = machine.disk();
        crate::beside::beside(|| {
            let log = disk.create(Path::new("/d/log"), 4096, Space::Allocated).unwrap();
            let queue = disk.create(Path::new("/d/queue"), 4096, Space::Sparse).unwrap();
            queue.write_at(0, &[1; 600]).unwrap();
            machine.set_faults(DiskFaults { free: Some(0), refuses: true, ..DiskFaults::default() });
            assert_eq!(disk.usage(Path::new("/d")).unwrap().free, 0);
            log.write_at(1024, &[2; 1024]).unwrap();
            queue.write_at(500, &[2; 524]).unwrap();
            let is_refused = |done: io::Result<()>| done.unwrap_err().kind() == io::ErrorKind::StorageFull;
            assert!(is_refused(queue.write_at(1000, &[3; 25])));
            assert_eq!(queue.bytes()[1023..1025], [2, 0], "nothing of it was written");
            assert!(is_refused(disk.replace(Path::new("/d/small"), &[1])));
            assert!(is_refused(disk.create(Path::new("/d/more"), 1, Space::Sparse).map(drop)));
            assert!(is_refused(disk.create_unsynced(Path::new("/d/more"), 1).map(drop)));
            machine.set_faults(DiskFaults::default());
            disk.replace(Path::new("/d/small"), &[1]).unwrap();
        });
    }

    #[test]
    fn a_killed_process_leaves_everything() {
        let machine = Machine::new(Random::seeded(1));
        let disk = machine.disk();
        let file = disk.create_unsynced(Path::new("/d/e/f"), 1024).unwrap();
        file.write_at(1000, &[7; 24]).unwrap();
        machine.end(Ending::Killed);
        let disk = machine.disk();
        assert_eq!(disk.list(Path::new("/d")).unwrap(), [PathBuf::from("/d/e")]);
        assert_eq!(disk.open(Path::new("/d/e/f")).unwrap().bytes()[1000..], [7; 24]);
    }
}
