//! A disk that knows which bytes are durable, and can fail.
//!
//! What is live lies in real files, so that it can be mapped. Of every sector that was written since the last sync the
//! versions are kept: a crash leaves any one of them, or what was durable, whatever the other sectors are left with. A file
//! that was made without syncing may be missing, or empty.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use raftmq_world::{Disk, DiskFile, DiskUsage, OsDisk, Space};

const SECTOR: usize = 512;
type Sector = [u8; SECTOR];

/// The durable sectors of a file, the others being zero, and what may have come over them.
#[derive(Clone, Debug, Default)]
struct Sectors {
    len: u64,
    /// Whether a crash may make it empty.
    may_be_empty: bool,
    /// Directories that are to be synced before a crash cannot lose it any more.
    unsynced: BTreeSet<PathBuf>,
    durable: BTreeMap<u64, Vec<u8>>,
    dirty: BTreeMap<u64, Vec<Sector>>,
}

impl Sectors {
    fn make_durable(&mut self) {
        self.may_be_empty = false;
        for (sector, versions) in std::mem::take(&mut self.dirty) {
            self.durable.insert(sector, versions[versions.len() - 1].to_vec());
        }
    }
}

/// All files, by path below the root.
type Files = HashMap<PathBuf, Sectors>;

/// What was on the medium at some moment, and a number that the test kept up to date.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    files: Files,
    pub(crate) watermark: u64,
}

/// What is to go wrong.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) sync: bool,
    pub(crate) create: bool,
    pub(crate) write: bool,
    /// Writes of the index.
    pub(crate) write_index: bool,
    /// Putting a small file in another's place.
    pub(crate) replace: bool,
    /// Reads of the log's segments.
    pub(crate) read: bool,
    /// What it says of its room, where that is not the real disk's.
    pub(crate) usage: Option<DiskUsage>,
}

#[derive(Debug, Default)]
struct State {
    files: Files,
    /// Changes so far: writes, syncs, files made and removed.
    changes: u64,
    capture_at: Option<u64>,
    captured: Option<Image>,
    faults: Faults,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    state: Mutex<State>,
    watermark: AtomicU64,
}

#[derive(Clone, Debug)]
pub(crate) struct CrashDisk {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct CrashFile {
    inner: Arc<dyn DiskFile>,
    name: PathBuf,
    shared: Arc<Shared>,
}

/// Numbers that are the same in every run of a seed.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        // xorshift64*, by Marsaglia and Vigna.
        let mut x = self.0 | 1;
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.0 = x;
        ((x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit as u64) as usize
    }
}

impl CrashDisk {
    pub(crate) fn new(root: &Path) -> Self {
        let shared = Shared { root: root.to_owned(), state: Mutex::default(), watermark: AtomicU64::new(0) };
        Self { shared: Arc::new(shared) }
    }

    /// A disk in `root` with what some crash left of `image`.
    pub(crate) fn after_crash(root: &Path, image: Image, chance: &mut Chance) -> Self {
        // Of some crashes nothing that was not synced survives, of others nearly everything.
        let survives = chance.below(5);
        Self::with_survivors(root, image, |_, _, versions| {
            let chosen = chance.below(versions);
            (chance.below(4) < survives).then_some(chosen)
        })
    }

    /// A disk in `root` with what a crash left of `image`: of each sector that was not synced (of which file, at which
    /// position, in how many versions) what `survivor` says, or else what was durable.
    pub(crate) fn with_survivors(
        root: &Path,
        image: Image,
        mut survivor: impl FnMut(&Path, u64, usize) -> Option<usize>,
    ) -> Self {
        let disk = Self::new(root);
        let mut files = image.files.into_iter().collect::<Vec<_>>();
        files.sort_by(|a, b| a.0.cmp(&b.0));
        for (name, mut sectors) in files {
            if !std::mem::take(&mut sectors.unsynced).is_empty() && survivor(&name, 0, 1).is_none() {
                continue;
            }
            if sectors.may_be_empty && survivor(&name, 0, 1).is_none() {
                sectors = Sectors::default();
            }
            sectors.may_be_empty = false;
            for (sector, versions) in std::mem::take(&mut sectors.dirty) {
                if let Some(version) = survivor(&name, sector * SECTOR as u64, versions.len()) {
                    sectors.durable.insert(sector, versions[version].to_vec());
                }
            }
            let path = root.join(&name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let file = File::create(&path).unwrap();
            for (sector, bytes) in &sectors.durable {
                file.write_all_at(bytes, sector * SECTOR as u64).unwrap();
            }
            file.set_len(sectors.len).unwrap();
            disk.shared.state.lock().files.insert(name, sectors);
        }
        disk
    }

    /// Keeps an image of the moment before the change after the next `changes`.
    pub(crate) fn capture_after(&self, changes: u64) {
        let mut state = self.shared.state.lock();
        state.capture_at = Some(state.changes + changes);
    }

    pub(crate) fn take_captured(&self) -> Option<Image> {
        self.shared.state.lock().captured.take()
    }

    /// The image of now.
    pub(crate) fn capture(&self) -> Image {
        let state = self.shared.state.lock();
        Image { files: state.files.clone(), watermark: self.watermark() }
    }

    pub(crate) fn watermark(&self) -> u64 {
        self.shared.watermark.load(Ordering::SeqCst)
    }

    /// Raises the number that images carry.
    pub(crate) fn raise_watermark(&self, to: u64) {
        self.shared.watermark.fetch_max(to, Ordering::SeqCst);
    }

    pub(crate) fn lower_watermark(&self, to: u64) {
        self.shared.watermark.fetch_min(to, Ordering::SeqCst);
    }

    pub(crate) fn fail(&self, faults: Faults) {
        self.shared.state.lock().faults = faults;
    }
}

impl Shared {
    fn name(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.root).unwrap().to_owned()
    }

    /// Makes a change, as one step, if it is not to fail.
    fn change<T>(
        &self,
        fails: impl Fn(&Faults) -> bool,
        change: impl FnOnce(&mut Files) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.state.lock();
        if fails(&state.faults) {
            return Err(io::Error::from_raw_os_error(if state.faults.sync { 5 } else { 28 }));
        }
        if state.capture_at == Some(state.changes) {
            let watermark = self.watermark.load(Ordering::SeqCst);
            state.captured = Some(Image { files: state.files.clone(), watermark });
            state.capture_at = None;
        }
        state.changes += 1;
        change(&mut state.files)
    }
}

impl CrashFile {
    fn write(&self, position: u64, len: u64, write: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let is_index = self.name.starts_with("index");
        self.shared.change(
            |faults| faults.write || faults.write_index && is_index,
            |files| {
                write()?;
                // A file that was removed lives on for those who have it open, and leaves nothing after a crash.
                let Some(sectors) = files.get_mut(&self.name) else { return Ok(()) };
                for sector in position / SECTOR as u64..(position + len).div_ceil(SECTOR as u64) {
                    let mut version = [0; SECTOR];
                    let at = sector as usize * SECTOR;
                    let bytes = &self.inner.bytes()[at..self.inner.bytes().len().min(at + SECTOR)];
                    version[..bytes.len()].copy_from_slice(bytes);
                    sectors.dirty.entry(sector).or_default().push(version);
                }
                Ok(())
            },
        )
    }
}

impl DiskFile for CrashFile {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn write_at(&self, position: u64, bytes: &[u8]) -> io::Result<()> {
        self.write(position, bytes.len() as u64, || self.inner.write_at(position, bytes))
    }

    fn write_vectored_at(&self, position: u64, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        let len: usize = pieces.iter().map(|p| p.len()).sum();
        self.write(position, len as u64, || self.inner.write_vectored_at(position, pieces))
    }

    fn bytes(&self) -> &[u8] {
        self.inner.bytes()
    }

    fn read_at(&self, position: u64, bytes: &mut [u8]) -> io::Result<()> {
        if self.shared.state.lock().faults.read && self.name.starts_with("commitlog") {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.inner.read_at(position, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.shared.change(
            |faults| faults.sync,
            |files| {
                files.get_mut(&self.name).into_iter().for_each(Sectors::make_durable);
                Ok(())
            },
        )
    }

    fn write_zeros(&self, position: u64, len: u64) -> io::Result<()> {
        self.write(position, len, || self.inner.write_zeros(position, len))
    }

    fn next_data(&self, position: u64) -> io::Result<Option<std::ops::Range<u64>>> {
        self.inner.next_data(position)
    }
}

impl Disk for CrashDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let inner = OsDisk.open(path)?;
        Ok(Arc::new(CrashFile { inner, name: self.shared.name(path), shared: self.shared.clone() }))
    }

    fn create(&self, path: &Path, len: u64, _space: Space) -> io::Result<Arc<dyn DiskFile>> {
        self.shared.change(
            |faults| faults.create,
            |files| {
                fs::create_dir_all(path.parent().unwrap())?;
                File::create(path)?.set_len(len)?;
                files.insert(self.shared.name(path), Sectors { len, ..Sectors::default() });
                Ok(())
            },
        )?;
        self.open(path)
    }

    fn create_unsynced(&self, path: &Path, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        let create = |files: &mut Files| {
            let dirs = || path.ancestors().skip(1).take_while(|dir| dir.starts_with(&self.shared.root));
            let missing = dirs().filter(|dir| !dir.exists()).filter_map(Path::parent);
            let above = dirs().take(1).chain(missing).map(|dir| self.shared.name(dir));
            let inherited = files.values().flat_map(|file| &file.unsynced).cloned();
            let name = self.shared.name(path);
            let unsynced = above.chain(inherited.filter(|dir| name.starts_with(dir))).collect();
            fs::create_dir_all(path.parent().unwrap())?;
            File::create(path)?.set_len(len)?;
            files.insert(name, Sectors { len, may_be_empty: true, unsynced, ..Sectors::default() });
            Ok(())
        };
        self.shared.change(|faults| faults.create, create)?;
        self.open(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let sync = |files: &mut Files| {
            let dir = self.shared.name(dir);
            files.values_mut().for_each(|file| file.unsynced.retain(|unsynced| *unsynced != dir));
            Ok(())
        };
        self.shared.change(|faults| faults.sync, sync)
    }

    fn sync_all(&self, dir: &Path) -> io::Result<()> {
        let dir = self.shared.name(dir);
        let sync = |files: &mut Files| {
            for (_, sectors) in files.iter_mut().filter(|(name, _)| name.starts_with(&dir)) {
                sectors.make_durable();
                sectors.unsynced.clear();
            }
            Ok(())
        };
        self.shared.change(|faults| faults.sync, sync)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        OsDisk.list(dir)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let remove = |files: &mut Files| {
            files.remove(&self.shared.name(path));
            fs::remove_file(path)
        };
        self.shared.change(|_| false, remove)
    }

    fn remove_all(&self, dir: &Path) -> io::Result<()> {
        let remove = |files: &mut Files| {
            files.retain(|name, _| !name.starts_with(self.shared.name(dir)));
            if dir.exists() { fs::remove_dir_all(dir) } else { Ok(()) }
        };
        self.shared.change(|_| false, remove)
    }

    fn usage(&self, dir: &Path) -> io::Result<DiskUsage> {
        let said = self.shared.state.lock().faults.usage;
        said.map_or_else(|| OsDisk.usage(dir), Ok)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Any + Send>>> {
        OsDisk.lock(path)
    }

    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        OsDisk.read(path)
    }

    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let replace = |files: &mut Files| {
            fs::create_dir_all(path.parent().unwrap())?;
            fs::write(path, content)?;
            let durable = (0..).zip(content.chunks(SECTOR).map(<[u8]>::to_vec)).collect();
            let sectors = Sectors { len: content.len() as u64, durable, ..Sectors::default() };
            files.insert(self.shared.name(path), sectors);
            Ok(())
        };
        self.shared.change(|faults| faults.write || faults.replace, replace)
    }
}
