//! A disk in memory, and steps without threads.

use std::any::Any;
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use raftmq_world::{
    Clock, Disk, DiskFile, DiskUsage, Job, Next, Space, Step, Threads, Worker, World, memory_file,
};

/// Steps that whoever waits for an end makes at most.
const STEPS_MAX: usize = 10_000;

/// Files by path. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryDisk(Arc<Mutex<BTreeMap<PathBuf, Content>>>);

/// A file that knows how far it was written: asking the system for that is most of the work otherwise.
#[derive(Debug)]
struct MemoryFile {
    file: Arc<dyn DiskFile>,
    end: AtomicU64,
}

impl MemoryFile {
    fn make(path: &Path, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(Self { file: memory_file(path, len)?, end: AtomicU64::new(0) }))
    }

    fn written(&self, position: u64, len: usize) {
        self.end.fetch_max(position + len as u64, Ordering::Relaxed);
    }
}

impl DiskFile for MemoryFile {
    fn path(&self) -> &Path {
        self.file.path()
    }

    fn len(&self) -> u64 {
        self.file.len()
    }

    fn write_at(&self, position: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(position, bytes)?;
        self.written(position, bytes.len());
        Ok(())
    }

    fn write_vectored_at(&self, position: u64, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        self.file.write_vectored_at(position, pieces)?;
        self.written(position, pieces.iter().map(|piece| piece.len()).sum());
        Ok(())
    }

    fn bytes(&self) -> &[u8] {
        self.file.bytes()
    }

    fn read_at(&self, position: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_at(position, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn write_zeros(&self, position: u64, len: u64) -> io::Result<()> {
        // There are zeros already behind what was written.
        let fits =
            self.end.load(Ordering::Relaxed).min(position.saturating_add(len)).saturating_sub(position);
        self.file.write_at(position, &vec![0; fits as usize])
    }

    fn next_data(&self, position: u64) -> io::Result<Option<std::ops::Range<u64>>> {
        let end = self.end.load(Ordering::Relaxed);
        Ok((position < end).then_some(position..end))
    }
}

/// What is at a path.
#[derive(Clone, Debug)]
enum Content {
    File(Arc<dyn DiskFile>),
    /// Replaced as a whole.
    Small(Vec<u8>),
}

/// A file to be put on a disk: its length, and the bytes that are not zero.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    len: u64,
    pieces: Vec<(u64, Vec<u8>)>,
    is_small: bool,
}

impl Image {
    /// A file of `len` bytes that begins with these.
    pub(crate) fn new(len: u64, start: &[u8]) -> Self {
        let start = &start[..start.len().min(len as usize)];
        Self { len, pieces: vec![(0, start.to_vec())], is_small: false }
    }

    /// A small file that is read as a whole.
    pub(crate) fn small(content: &[u8]) -> Self {
        Self { is_small: true, ..Self::new(content.len() as u64, content) }
    }

    /// Writes over a part of it.
    pub(crate) fn write(&mut self, at: u64, bytes: &[u8]) {
        let at = at.min(self.len);
        let fits = bytes.len().min((self.len - at) as usize);
        self.pieces.push((at, bytes[..fits].to_vec()));
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The bytes up to the last that is not zero.
    pub(crate) fn data(&self) -> Vec<u8> {
        let end = self.pieces.iter().map(|(at, piece)| *at as usize + piece.len()).max();
        let mut data = vec![0; end.unwrap_or(0)];
        for (at, piece) in &self.pieces {
            data[*at as usize..][..piece.len()].copy_from_slice(piece);
        }
        data
    }

    fn content(&self, path: &Path) -> io::Result<Content> {
        if self.is_small {
            let mut data = self.data();
            data.resize(self.len as usize, 0);
            return Ok(Content::Small(data));
        }
        let file = MemoryFile::make(path, self.len)?;
        for (at, piece) in &self.pieces {
            file.write_at(*at, piece)?;
        }
        Ok(Content::File(file))
    }
}

/// Pages of a file that are not zero.
fn image_of(file: &dyn DiskFile) -> io::Result<Image> {
    const PAGE: u64 = 4096;
    let (mut pieces, mut at) = (Vec::new(), 0);
    while let Some(data) = file.next_data(at)?.filter(|data| data.start < file.len()) {
        let start = data.start / PAGE * PAGE;
        let end = (start + PAGE).min(file.len());
        let page = &file.bytes()[start as usize..end as usize];
        if let Some(last) = page.iter().rposition(|byte| *byte != 0) {
            pieces.push((start, page[..=last].to_vec()));
        }
        at = end;
    }
    Ok(Image { len: file.len(), pieces, is_small: false })
}

impl MemoryDisk {
    pub(crate) fn new(images: &BTreeMap<PathBuf, Image>) -> io::Result<Self> {
        let files = images.iter().map(|(path, image)| Ok((path.clone(), image.content(path)?)));
        Ok(Self(Arc::new(Mutex::new(files.collect::<io::Result<_>>()?))))
    }

    pub(crate) fn images(&self) -> io::Result<BTreeMap<PathBuf, Image>> {
        let image = |content: &Content| match content {
            Content::File(file) => image_of(&**file),
            Content::Small(bytes) => Ok(Image::small(bytes)),
        };
        self.0.lock().iter().map(|(path, content)| Ok((path.clone(), image(content)?))).collect()
    }
}

impl Disk for MemoryDisk {
    fn usage(&self, _: &Path) -> io::Result<DiskUsage> {
        Ok(DiskUsage::EMPTY)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut files = self.0.lock();
        let file = match files.get(path) {
            Some(Content::File(file)) => return Ok(file.clone()),
            Some(Content::Small(bytes)) => {
                let file = MemoryFile::make(path, bytes.len() as u64)?;
                file.write_at(0, bytes)?;
                file
            }
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        files.insert(path.to_owned(), Content::File(file.clone()));
        Ok(file)
    }

    fn create(&self, path: &Path, len: u64, _space: Space) -> io::Result<Arc<dyn DiskFile>> {
        let mut files = self.0.lock();
        if files.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = MemoryFile::make(path, len)?;
        files.insert(path.to_owned(), Content::File(file.clone()));
        Ok(file)
    }

    fn create_unsynced(&self, path: &Path, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        self.0.lock().remove(path);
        self.create(path, len, Space::Sparse)
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_all(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let files = self.0.lock();
        let below =
            files.keys().filter_map(|path| Some(dir.join(path.strip_prefix(dir).ok()?.iter().next()?)));
        let mut found: Vec<PathBuf> = below.collect();
        found.dedup();
        Ok(found)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.lock().remove(path).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn remove_all(&self, dir: &Path) -> io::Result<()> {
        self.0.lock().retain(|path, _| !path.starts_with(dir));
        Ok(())
    }

    fn lock(&self, _path: &Path) -> io::Result<Option<Box<dyn Any + Send>>> {
        Ok(Some(Box::new(())))
    }

    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        Ok(self.0.lock().get(path).map(|content| match content {
            Content::File(file) => file.bytes().to_vec(),
            Content::Small(bytes) => bytes.clone(),
        }))
    }

    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.0.lock().insert(path.to_owned(), Content::Small(content.to_vec()));
        Ok(())
    }
}

/// Steps, called where somebody waits for one or [`Steps::run`] is called. The clock stands still.
#[derive(Clone, Default)]
pub(crate) struct Steps(Arc<Mutex<Vec<Slot>>>);

/// `None` while it is called, and when it has ended.
type Slot = Option<Box<dyn Step>>;

#[derive(Debug)]
struct StepWorker {
    steps: Steps,
    at: usize,
}

impl std::fmt::Debug for Steps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Steps")
    }
}

impl Steps {
    /// A world with these steps and that disk.
    pub(crate) fn world(&self, disk: MemoryDisk) -> World {
        World {
            disk: Arc::new(disk),
            clock: Arc::new(self.clone()),
            threads: Arc::new(self.clone()),
            ..World::system()
        }
    }

    /// Calls each step a few times.
    pub(crate) fn run(&self) {
        const ROUNDS: usize = 8;
        for _ in 0..ROUNDS {
            let count = self.0.lock().len();
            for at in 0..count {
                self.call(at);
            }
        }
    }

    fn call(&self, at: usize) -> Next {
        let Some(mut step) = self.0.lock()[at].take() else { return Next::End };
        let next = step.step();
        if next != Next::End {
            self.0.lock()[at] = Some(step);
        }
        next
    }
}

impl Clock for Steps {
    fn now_ms(&self) -> i64 {
        1_700_000_000_000
    }

    fn passed(&self) -> Duration {
        Duration::ZERO
    }
}

impl Threads for Steps {
    fn start(&self, _name: &'static str, step: Box<dyn Step>) -> io::Result<Arc<dyn Worker>> {
        let mut steps = self.0.lock();
        steps.push(Some(step));
        Ok(Arc::new(StepWorker { steps: self.clone(), at: steps.len() - 1 }))
    }

    fn block(&self, job: Job) {
        job();
    }
}

impl Worker for StepWorker {
    fn wake(&self) {}

    fn join(&self) {
        let ended = (0..STEPS_MAX).any(|_| {
            let ended = self.steps.call(self.at) == Next::End;
            // It may wait for one of the others.
            if !ended {
                (0..self.at).for_each(|other| _ = self.steps.call(other));
            }
            ended
        });
        assert!(ended, "a step that was told to end does not");
    }
}
