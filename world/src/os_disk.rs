//! The real disk: files that are written with `pwrite` and read through a memory map.
//!
//! The only file with `unsafe` in it. It knows nothing of what the bytes mean.

#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "the operating system's disk")]

use std::any::Any;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{Mmap, MmapOptions};
use rustix::fs::{Advice, FallocateFlags, FlockOperation, flock};

use crate::disk::{Disk, DiskFile, DiskUsage, Space};

/// The operating system's file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsDisk;

/// A file of fixed length with a read-only map of all of it.
#[derive(Debug)]
struct MappedFile {
    path: PathBuf,
    file: File,
    map: Mmap,
}

/// A file of `len` zero bytes that is on no disk: for disks that are made up. `path` is what it calls itself.
///
/// # Errors
/// The system has no memory or no descriptor for it.
pub fn memory_file(path: &Path, len: u64) -> io::Result<Arc<dyn DiskFile>> {
    let file = File::from(rustix::fs::memfd_create(c"raftmq", rustix::fs::MemfdFlags::CLOEXEC)?);
    file.set_len(len)?;
    Ok(Arc::new(MappedFile::map(path, file)?))
}

impl MappedFile {
    #[allow(unsafe_code)]
    fn map(path: &Path, file: File) -> io::Result<Self> {
        // SAFETY: the map is read-only and shared. The file is never shortened while it is open (the store only
        // removes whole files, which keeps the pages of existing maps), a lock on the data directory keeps other
        // processes of ours out, and readers stay below the position their structure has published, so the bytes
        // they look at are not written at the same time.
        let map = unsafe { MmapOptions::new().map(&file)? };
        Ok(Self { path: path.to_owned(), file, map })
    }

    fn check(&self, position: u64, len: usize) -> io::Result<()> {
        match position.checked_add(len as u64) {
            Some(end) if end <= self.map.len() as u64 => Ok(()),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "{len} bytes at {position} pass the end of {} ({} bytes)",
                    self.path.display(),
                    self.map.len()
                ),
            )),
        }
    }
}

impl DiskFile for MappedFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> u64 {
        self.map.len() as u64
    }

    fn write_at(&self, position: u64, bytes: &[u8]) -> io::Result<()> {
        self.check(position, bytes.len())?;
        self.file.write_all_at(bytes, position)
    }

    fn write_vectored_at(&self, position: u64, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        let total: usize = pieces.iter().map(|p| p.len()).sum();
        self.check(position, total)?;
        // One system call takes at most IOV_MAX (1024) pieces, and may write less than asked.
        let mut position = position;
        for chunk in pieces.chunks(1024) {
            let wanted: usize = chunk.iter().map(|p| p.len()).sum();
            let written = rustix::io::retry_on_intr(|| rustix::io::pwritev(&self.file, chunk, position))?;
            if written < wanted {
                self.write_rest(position, chunk, written)?;
            }
            position += wanted as u64;
        }
        Ok(())
    }

    fn bytes(&self) -> &[u8] {
        &self.map
    }

    fn read_at(&self, position: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.check(position, bytes.len())?;
        self.file.read_exact_at(bytes, position)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write_zeros(&self, position: u64, len: u64) -> io::Result<()> {
        self.check(position, usize::try_from(len).unwrap_or(usize::MAX))?;
        // By descriptor: another file may be at the path by now.
        let this_file = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let direct = OpenOptions::new()
            .write(true)
            .custom_flags(rustix::fs::OFlags::DIRECT.bits() as i32)
            .open(this_file);
        let aligned = |n: u64| n.is_multiple_of(ZERO_ALIGN as u64);
        match direct {
            Ok(file) if aligned(position) && aligned(len) => {
                write_zeros(&file, position, len)?;
                self.read_in(position, len)
            }
            _ => write_zeros(&self.file, position, len),
        }
    }

    fn next_data(&self, position: u64) -> io::Result<Option<Range<u64>>> {
        let start = match rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(position)) {
            Ok(at) => at,
            Err(rustix::io::Errno::NXIO) => return Ok(None),
            // A file system that cannot tell.
            Err(rustix::io::Errno::INVAL) => return Ok(Some(position..self.len())),
            Err(e) => return Err(e.into()),
        };
        Ok(Some(start..rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Hole(start))?))
    }
}

/// What the kernel wants buffer, position and length of a direct write to be a multiple of.
const ZERO_ALIGN: usize = 4096;
const ZERO_CHUNK: usize = 256 * 1024;
/// How much to have read in at once: Linux reads no more than a device's read-ahead setting, 128 KiB unless changed.
const READ_AHEAD: usize = 128 * 1024;

#[repr(align(4096))]
struct Zeros([u8; ZERO_CHUNK]);
static ZEROS: Zeros = Zeros([0; ZERO_CHUNK]);

fn write_zeros(file: &File, position: u64, len: u64) -> io::Result<()> {
    let end = position + len;
    let mut at = position;
    while at < end {
        let chunk = usize::try_from(end - at).map_or(ZERO_CHUNK, |left| left.min(ZERO_CHUNK));
        file.write_all_at(&ZEROS.0[..chunk], at)?;
        at += chunk as u64;
    }
    Ok(())
}

impl MappedFile {
    /// Has the kernel read a range into the page cache, in the background. A small write into a page that is on the
    /// disk and not in the cache waits for the page to be read first.
    fn read_in(&self, position: u64, len: u64) -> io::Result<()> {
        for at in (position..position + len).step_by(READ_AHEAD) {
            rustix::fs::fadvise(&self.file, at, NonZeroU64::new(READ_AHEAD as u64), Advice::WillNeed)?;
        }
        Ok(())
    }

    /// Writes what a short `pwritev` of `pieces` at `position` left out after its first `written` bytes.
    fn write_rest(&self, position: u64, pieces: &[IoSlice<'_>], written: usize) -> io::Result<()> {
        let mut start = 0;
        for piece in pieces {
            let end = start + piece.len();
            if end > written {
                let skip = written.saturating_sub(start);
                self.file.write_all_at(&piece[skip..], position + (start + skip) as u64)?;
            }
            start = end;
        }
        Ok(())
    }
}

/// Numbers the files that take others' places.
static REPLACED: AtomicU64 = AtomicU64::new(0);

fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// Creates `dir` and what is missing above it, each entry durable.
fn create_dir_durably(dir: &Path) -> io::Result<()> {
    if dir.as_os_str().is_empty() || dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        create_dir_durably(parent)?;
    }
    match fs::create_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

impl Disk for OsDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Arc::new(MappedFile::map(path, file)?))
    }

    fn create(&self, path: &Path, len: u64, space: Space) -> io::Result<Arc<dyn DiskFile>> {
        if let Some(dir) = path.parent() {
            create_dir_durably(dir)?;
        }
        // Under another name until its space is there: a crash in between must not leave a short file behind.
        let unfinished = path.with_extension("new");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&unfinished)?;
        let sized = match space {
            Space::Allocated => {
                rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, len).map_err(io::Error::from)
            }
            Space::Sparse => file.set_len(len),
        };
        let made = sized
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&unfinished, path))
            .and_then(|()| sync_parent(path));
        if let Err(e) = made {
            let _ = fs::remove_file(&unfinished);
            return Err(e);
        }
        Ok(Arc::new(MappedFile::map(path, file)?))
    }

    fn create_unsynced(&self, path: &Path, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        file.set_len(len)?;
        Ok(Arc::new(MappedFile::map(path, file)?))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn sync_all(&self, dir: &Path) -> io::Result<()> {
        Ok(rustix::fs::syncfs(File::open(dir)?)?)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut paths = entries.map(|entry| entry.map(|e| e.path())).collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        Ok(paths)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)?;
        sync_parent(path)
    }

    fn remove_all(&self, dir: &Path) -> io::Result<()> {
        match fs::remove_dir_all(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.and_then(|()| sync_parent(dir)),
        }
    }

    fn usage(&self, dir: &Path) -> io::Result<DiskUsage> {
        let space = rustix::fs::statvfs(dir)?;
        let used = space.f_blocks.saturating_sub(space.f_bfree);
        let all = used.saturating_add(space.f_bavail);
        if all == 0 {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let bytes = |blocks: u64| blocks.saturating_mul(space.f_frsize);
        Ok(DiskUsage { free: bytes(space.f_bavail), all: bytes(all) })
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Any + Send>>> {
        if let Some(dir) = path.parent() {
            create_dir_durably(dir)?;
        }
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        match fs::read(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        if let Some(dir) = path.parent() {
            create_dir_durably(dir)?;
        }
        // Nobody else's, should others replace the file at the same time.
        let number = REPLACED.fetch_add(1, Ordering::Relaxed);
        let unfinished = path.with_extension(format!("{}-{number}.new", std::process::id()));
        let replaced = write_durably(&unfinished, content).and_then(|()| fs::rename(&unfinished, path));
        if let Err(e) = replaced {
            // It may not even be there.
            let _ = fs::remove_file(&unfinished);
            return Err(e);
        }
        sync_parent(path)
    }
}
