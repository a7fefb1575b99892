//! The members' CommitLogs: where their frames are, and whether they are the same bytes.
//!
//! Reads the files of nodes that are stopped. Of a frame's header it needs only four fields (little-endian): the magic
//! at 0, the kind at 5, the payload's length at 8 and the index at 24.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// Length of a frame's header.
pub const FRAME_HEADER_BYTES: u64 = 64;

const MAGIC: [u8; 4] = *b"RMQF";
const KIND_MESSAGES: u8 = 1;
const KIND_FILLER: u8 = 5;
/// Bytes compared at a time.
const CHUNK_BYTES: u64 = 1024 * 1024;

/// The segments of one member's CommitLog.
#[derive(Debug)]
pub struct CommitLogFiles {
    segments: Vec<Segment>,
}

#[derive(Debug)]
struct Segment {
    base: u64,
    len: u64,
    path: PathBuf,
    file: File,
}

/// A frame in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameAt {
    /// Index of the entry.
    pub index: u64,
    /// Where the frame starts, in bytes since the log began.
    pub physical_offset: u64,
    /// Length of header and payload in bytes.
    pub len: u64,
    /// Whether its payload is message records.
    pub is_messages: bool,
}

impl FrameAt {
    /// Physical offset of the byte behind it.
    pub fn end(&self) -> u64 {
        self.physical_offset + self.len
    }
}

impl CommitLogFiles {
    /// Opens the files under `commitlog` in a node's directory.
    pub fn open(node_dir: &Path) -> Result<Self> {
        let dir = node_dir.join("commitlog");
        let mut segments = Vec::new();
        for entry in dir.read_dir().with_context(|| format!("list {}", dir.display()))? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some(base) = Some(name).filter(|name| name.len() == 20).and_then(|name| name.parse().ok())
            else {
                continue;
            };
            let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
            segments.push(Segment { base, len: file.metadata()?.len(), path, file });
        }
        ensure!(!segments.is_empty(), "no segments in {}", dir.display());
        segments.sort_by_key(|segment| segment.base);
        Ok(Self { segments })
    }

    /// Where the oldest segment starts.
    pub fn start(&self) -> u64 {
        self.segments[0].base
    }

    /// The file that holds a physical offset, and the position within it.
    pub fn place(&self, physical_offset: u64) -> Option<(&Path, u64)> {
        let segment = self.segment(physical_offset)?;
        Some((&segment.path, physical_offset - segment.base))
    }

    /// Every entry's frame, from the oldest segment to where the log ends.
    pub fn frames(&self) -> Result<Vec<FrameAt>> {
        let mut frames = Vec::new();
        let mut at = self.start();
        while let Some(segment) = self.segment(at) {
            let left = segment.base + segment.len - at;
            if left < FRAME_HEADER_BYTES {
                at += left;
                continue;
            }
            let mut header = [0; FRAME_HEADER_BYTES as usize];
            segment.read(at, &mut header)?;
            if header[..4] != MAGIC {
                break;
            }
            let number = |at: usize, len: usize| {
                header[at..at + len].iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte))
            };
            let len = FRAME_HEADER_BYTES + number(8, 4);
            if len > left {
                break;
            }
            if header[5] != KIND_FILLER {
                let is_messages = header[5] == KIND_MESSAGES;
                frames.push(FrameAt { index: number(24, 8), physical_offset: at, len, is_messages });
            }
            at += len;
        }
        Ok(frames)
    }

    fn segment(&self, physical_offset: u64) -> Option<&Segment> {
        let behind = self.segments.partition_point(|segment| segment.base <= physical_offset);
        let segment = &self.segments[behind.checked_sub(1)?];
        (physical_offset < segment.base + segment.len).then_some(segment)
    }

    /// Reads bytes from anywhere in the log; they may span segments.
    fn read(&self, mut at: u64, mut into: &mut [u8]) -> Result<()> {
        while !into.is_empty() {
            let segment =
                self.segment(at).with_context(|| format!("no segment holds physical offset {at}"))?;
            let here = (segment.base + segment.len - at).min(into.len() as u64);
            let (now, later) = into.split_at_mut(here as usize);
            segment.read(at, now)?;
            (at, into) = (at + here, later);
        }
        Ok(())
    }
}

impl Segment {
    fn read(&self, at: u64, into: &mut [u8]) -> Result<()> {
        let position = at - self.base;
        self.file
            .read_exact_at(into, position)
            .with_context(|| format!("read {} at {position}", self.path.display()))
    }
}

/// What was compared.
#[derive(Debug, Clone, Copy)]
pub struct Compared {
    /// Bytes of each log.
    pub bytes: u64,
    /// Entries in them.
    pub entries: u64,
}

/// Compares the logs of stopped members up to and with the entry `commit_index`, which all of them must have.
pub fn compare(node_dirs: &[PathBuf], commit_index: u64) -> Result<Compared> {
    let logs: Vec<_> = node_dirs.iter().map(|dir| CommitLogFiles::open(dir)).collect::<Result<_>>()?;
    let mut ends = Vec::new();
    for (log, dir) in logs.iter().zip(node_dirs) {
        let frames = log.frames()?;
        let last = frames.iter().find(|frame| frame.index == commit_index).with_context(|| {
            let found = (frames.first().map(|frame| frame.index), frames.last().map(|frame| frame.index));
            format!("{} has no entry {commit_index}: first and last are {found:?}", dir.display())
        })?;
        ends.push((last.end(), frames.partition_point(|frame| frame.index <= commit_index)));
    }
    let (end, entries) = ends[0];
    ensure!(
        ends.iter().all(|(other, _)| *other == end),
        "entry {commit_index} ends at different physical offsets: {ends:?}"
    );
    let start = logs.iter().map(CommitLogFiles::start).max().unwrap_or(0);
    for (log, dir) in logs.iter().zip(node_dirs).skip(1) {
        if let Some(at) = first_difference(&logs[0], log, start, end)? {
            bail!("{} and {} differ at physical offset {at}", node_dirs[0].display(), dir.display());
        }
    }
    Ok(Compared { bytes: end - start, entries: entries as u64 })
}

fn first_difference(
    one: &CommitLogFiles,
    other: &CommitLogFiles,
    start: u64,
    end: u64,
) -> Result<Option<u64>> {
    let mut at = start;
    while at < end {
        let len = CHUNK_BYTES.min(end - at) as usize;
        let (mut here, mut there) = (vec![0; len], vec![0; len]);
        one.read(at, &mut here)?;
        other.read(at, &mut there)?;
        if let Some(differs) = here.iter().zip(&there).position(|(a, b)| a != b) {
            return Ok(Some(at + differs as u64));
        }
        at += len as u64;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT_BYTES: usize = 512;

    fn frame(kind: u8, index: u64, payload: usize) -> Vec<u8> {
        let mut bytes = vec![index as u8; FRAME_HEADER_BYTES as usize + payload];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[5] = kind;
        bytes[8..12].copy_from_slice(&(payload as u32).to_le_bytes());
        bytes[24..32].copy_from_slice(&index.to_le_bytes());
        bytes
    }

    /// Two segments: entries 1 and 2 and a filler, then entries 3 and 4.
    fn log() -> Vec<u8> {
        let mut bytes = [frame(1, 1, 100), frame(2, 2, 36)].concat();
        let filler = SEGMENT_BYTES - bytes.len() - FRAME_HEADER_BYTES as usize;
        bytes.extend(frame(KIND_FILLER, 2, filler));
        bytes.extend(frame(1, 3, 10));
        bytes.extend(frame(1, 4, 20));
        bytes.resize(2 * SEGMENT_BYTES, 0);
        bytes
    }

    fn written(log: &[u8]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("commitlog")).unwrap();
        for (n, segment) in log.chunks(SEGMENT_BYTES).enumerate() {
            let name = format!("commitlog/{:020}", n * SEGMENT_BYTES);
            std::fs::write(dir.path().join(name), segment).unwrap();
        }
        dir
    }

    fn compare_two(one: &[u8], other: &[u8], commit_index: u64) -> Result<Compared> {
        let (one, other) = (written(one), written(other));
        compare(&[one.path().to_owned(), other.path().to_owned()], commit_index)
    }

    #[test]
    fn frames_are_found_across_segments() {
        let dir = written(&log());
        let files = CommitLogFiles::open(dir.path()).unwrap();
        let frames = files.frames().unwrap();
        let found: Vec<_> =
            frames.iter().map(|f| (f.index, f.physical_offset, f.len, f.is_messages)).collect();
        assert_eq!(found, [(1, 0, 164, true), (2, 164, 100, false), (3, 512, 74, true), (4, 586, 84, true)]);
        let (path, position) = files.place(586).unwrap();
        assert!(path.ends_with("commitlog/00000000000000000512"));
        assert_eq!(position, 74);
        assert!(files.place(1024).is_none());
    }

    #[test]
    fn equal_logs_are_equal_and_what_lies_above_the_commit_index_does_not_count() {
        let compared = compare_two(&log(), &log(), 4).unwrap();
        assert_eq!((compared.bytes, compared.entries), (670, 4));
        let mut other = log();
        other[586 + 70] ^= 1;
        assert_eq!(compare_two(&log(), &other, 3).unwrap().bytes, 586);
    }

    #[test]
    fn every_other_byte_counts() {
        for at in (0..586).filter(|at| !(400..512).contains(at)) {
            let mut other = log();
            other[at] ^= 1;
            assert!(compare_two(&log(), &other, 3).is_err(), "byte {at}");
        }
        let mut other = log();
        other[450] ^= 1;
        let error = compare_two(&log(), &other, 3).unwrap_err().to_string();
        assert!(error.contains("differ at physical offset 450"), "{error}");
    }

    #[test]
    fn a_log_without_the_entry_is_named() {
        let mut short = log();
        short[586..].fill(0);
        let error = compare_two(&log(), &short, 4).unwrap_err().to_string();
        assert!(error.contains("has no entry 4"), "{error}");
    }
}
