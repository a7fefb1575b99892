//! Frames of the log, and a data directory whose files are not what the store left in them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use bytes::BytesMut;
use raftmq_broker::state::{State, Views};
use raftmq_message::topic::TIMER_TOPIC;
use raftmq_message::{RecordIter, RecordParts};
use raftmq_store::{
    Boundary, EntryId, FRAME_HEADER_BYTES, FlushMode, FrameHeader, FrameKind, Identity, NewEntry, OpenFiles,
    Store, StoreError, StoreOptions, decode_frame,
};
use raftmq_world::World;

use crate::disk::{Image, MemoryDisk, Steps};
use crate::input::Input;

const DIR: &str = "/data";
const TOPIC: &str = "t";
const SEGMENT_BYTES: u64 = 64 * 1024;
/// Log, directories and files of one member, as the store left them.
static TEMPLATE: LazyLock<Template> =
    LazyLock::new(|| Template::make().expect("a disk in memory does not fail"));

struct Template {
    files: BTreeMap<PathBuf, Image>,
    /// Where the frames of the first segment are, fillers left out.
    frames: Vec<FrameHeader>,
}

/// Reads bytes as a frame: as they are, and with the checksums that belong to them.
pub(crate) fn log_frame(data: &[u8]) {
    let _ = decode_frame(data);
    let mut input = Input(data);
    let header = any_header(&mut input);
    let (bytes, checksum) = header.encode();
    let frame = [&bytes[..], input.0].concat();
    let Ok((read, found, payload)) = decode_frame(&frame) else { return };
    assert_eq!((read, found), (header, checksum));
    assert_eq!(payload.len(), header.payload_len as usize);
    assert!(read.records_at() <= frame.len());
    if read.kind == FrameKind::Messages {
        RecordIter::new(&frame[read.records_at()..]).for_each(drop);
        let _ = State::default().tables().apply(&frame[FRAME_HEADER_BYTES..read.records_at()], true);
    }
}

/// A header of any content, with a payload checksum that is right where the length is.
fn any_header(input: &mut Input<'_>) -> FrameHeader {
    const KINDS: [FrameKind; 5] =
        [FrameKind::Messages, FrameKind::Command, FrameKind::Membership, FrameKind::Blank, FrameKind::Filler];
    let kind = KINDS[usize::from(input.u8()) % KINDS.len()];
    let (length, records, command_len) = (input.u8(), input.u8(), input.u8());
    let (term, index, physical_offset, leader) = (input.u64(), input.u64(), input.u64(), input.u64());
    let chain = input.u32();
    let rest = input.0;
    let payload = match length {
        0xFF => input.u32() as usize,
        length => usize::from(length).min(rest.len()),
    };
    let payload_checksum = crc32c::crc32c(input.0.get(..payload).unwrap_or_default());
    FrameHeader {
        kind,
        payload_len: payload as u32,
        records: u32::from(records),
        command_len: u32::from(command_len),
        term,
        index,
        physical_offset,
        leader,
        chain,
        payload_checksum,
    }
}

fn options() -> StoreOptions {
    let identity =
        Identity { cluster: "c".into(), broker_name: "b".into(), node_id: 1, segment_bytes: SEGMENT_BYTES };
    StoreOptions { dir: DIR.into(), identity, flush: FlushMode::Sync, reserve_bytes: 0, is_alone: false }
}

/// The store in the directory, with what a broker derives.
fn open(world: &World) -> Result<(Arc<Store>, Views), StoreError> {
    let views = Views::new(&OpenFiles::of(world), Path::new(DIR));
    Ok((Store::open(options(), views.derived.clone(), world)?, views))
}

fn record(topic: &str, queue_id: i32, properties: &str, body: &[u8]) -> BytesMut {
    let host = ([127, 0, 0, 1], 10911).into();
    let parts = RecordParts {
        topic,
        queue_id,
        flag: 0,
        sys_flag: 0,
        born_timestamp_ms: 1,
        born_host: host,
        store_host: host,
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body,
        properties: &[properties],
    };
    let mut out = BytesMut::new();
    parts.encode_into(&mut out).expect("it is small");
    out
}

impl Template {
    fn make() -> Result<Self, StoreError> {
        let (disk, steps) = (MemoryDisk::default(), Steps::default());
        let (store, _) = open(&steps.world(disk.clone()))?;
        let mut frames = Vec::new();
        for index in 0_i64..8 {
            let due = format!("TIMER_OUT_MS\u{1}{}\u{2}", 1_700_000_000_000 + index * 40_000);
            let keys = format!("KEYS\u{1}k{index} k\u{2}TAGS\u{1}a\u{2}");
            let mut messages = [
                record(TOPIC, 0, &keys, b"body"),
                record(TOPIC, 1, &keys, &vec![7; 1500 * (index as usize % 3)]),
                record(TIMER_TOPIC, 0, &due, b"later"),
            ];
            let mut command = [BytesMut::from(&b"\x02\x01\x01t"[..])];
            let (kind, pieces) = match index {
                0 => (FrameKind::Blank, &mut [][..]),
                3 => (FrameKind::Command, &mut command[..]),
                _ => (FrameKind::Messages, &mut messages[..]),
            };
            let id = EntryId { term: 1, index: index as u64 };
            let entry = NewEntry { id, kind, leader: 1, command: &[], pieces, now_ms: 1_700_000_000_000 };
            store.append(entry, &mut Vec::new())?;
            store.set_committed(id)?;
        }
        store.commit(store.max_physical_offset());
        steps.run();
        let mut walk = store.log().walk(0);
        while let Some(frame) = walk.next()? {
            frames.push(frame.header);
        }
        store.close()?;
        drop(store);
        let files = disk.images().map_err(StoreError::io("read", Path::new(DIR)))?;
        Ok(Self { files, frames })
    }
}

/// Changes files of a directory as the bytes say, opens it, and looks at what is in it.
pub(crate) fn directory(data: &[u8]) {
    const CHANGES_MAX: usize = 16;
    let mut files = TEMPLATE.files.clone();
    let mut input = Input(data);
    for _ in 0..CHANGES_MAX {
        if input.0.is_empty() {
            break;
        }
        change(&mut files, &mut input);
    }
    let disk = MemoryDisk::new(&files).expect("a disk in memory does not fail");
    let steps = Steps::default();
    // Opened twice: the second start finds what the first made of it.
    for _ in 0..2 {
        let Ok((store, views)) = open(&steps.world(disk.clone())) else { return };
        look_at(&store, &views, &steps, &mut input);
    }
}

fn change(files: &mut BTreeMap<PathBuf, Image>, input: &mut Input<'_>) {
    let paths: Vec<PathBuf> = files.keys().cloned().collect();
    let kind = input.u8() % 7;
    let mut path = || paths[usize::from(input.u8()) % paths.len()].clone();
    match kind {
        0 => {
            let (path, at, len) = (path(), input.u32(), input.u8() % 64);
            let bytes = input.bytes(usize::from(len));
            if let Some(file) = files.get_mut(&path) {
                file.write(u64::from(at) % file.len().max(1), bytes);
            }
        }
        1 => drop(files.remove(&path())),
        2 => {
            let (path, len) = (path(), input.u8());
            files.insert(path, Image::small(input.bytes(usize::from(len))));
        }
        3 => {
            let (path, len, kept) = (path(), u64::from(input.u32() % (1 << 24)), input.u8());
            let start = files.get(&path).map(Image::data).unwrap_or_default();
            let start = if kept == 0 { Vec::new() } else { start };
            files.insert(path, Image::new(len, &start));
        }
        4 => {
            let (path, to) = (path(), new_path(input));
            if let Some(file) = files.remove(&path) {
                files.insert(to, file);
            }
        }
        5 => change_frame(files, input),
        _ => add_frame(files, input),
    }
    if files.is_empty() {
        files.insert(Path::new(DIR).join("identity"), Image::small(b""));
    }
}

/// A path where the store may look, with any number in it.
fn new_path(input: &mut Input<'_>) -> PathBuf {
    let folder = input.u8() % 6;
    let (number, start) = (input.u64(), input.u16());
    let start = format!("{:020}", u64::from(start) * 20);
    Path::new(DIR).join(match folder {
        0 => format!("commitlog/{number:020}"),
        1 => format!("consumequeue/{TOPIC}/{number}/{start}"),
        2 => format!("consumequeue/{TOPIC}/0/{number:020}"),
        3 => format!("index/{number:020}"),
        4 => format!("timer/{number:020}/{start}"),
        _ => format!("timer/{number}"),
    })
}

fn first_segment(files: &mut BTreeMap<PathBuf, Image>) -> Option<&mut Image> {
    files.get_mut(&Path::new(DIR).join(format!("commitlog/{:020}", 0)))
}

/// Changes a frame, or its payload, and sets the checksums right.
fn change_frame(files: &mut BTreeMap<PathBuf, Image>, input: &mut Input<'_>) {
    let frames = &TEMPLATE.frames;
    let header = frames[usize::from(input.u8()) % frames.len()];
    let (at, len, length) = (usize::from(input.u16()), usize::from(input.u8() % 16), input.u8());
    let bytes = input.bytes(len);
    let Some(segment) = first_segment(files) else { return };
    let mut frame = segment.data();
    frame.resize(SEGMENT_BYTES as usize, 0);
    frame.drain(..header.physical_offset as usize);
    frame.truncate(header.frame_len());
    let at = at % frame.len();
    let fits = bytes.len().min(frame.len() - at);
    frame[at..at + fits].copy_from_slice(&bytes[..fits]);
    // Kind, lengths and all else as they now stand.
    let stored = |at: usize| u32::from_le_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]);
    let long = |at: usize| u64::from(stored(at)) | u64::from(stored(at + 4)) << 32;
    let payload_len = if length % 8 == 1 { stored(8) } else { header.payload_len };
    let payload = frame.get(FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + payload_len as usize);
    let changed = FrameHeader {
        kind: match frame[5] {
            2 => FrameKind::Command,
            3 => FrameKind::Membership,
            4 => FrameKind::Blank,
            5 => FrameKind::Filler,
            _ => FrameKind::Messages,
        },
        payload_len,
        records: stored(12),
        command_len: stored(56),
        term: long(16),
        index: long(24),
        physical_offset: long(32),
        leader: long(40),
        chain: stored(48),
        payload_checksum: payload.map_or(0, crc32c::crc32c),
    };
    frame[..FRAME_HEADER_BYTES].copy_from_slice(&changed.encode().0);
    segment.write(header.physical_offset, &frame);
}

/// Puts a frame behind the last one, or elsewhere.
fn add_frame(files: &mut BTreeMap<PathBuf, Image>, input: &mut Input<'_>) {
    let Some(last) = TEMPLATE.frames.last() else { return };
    let goes_on = input.u8();
    let mut header = any_header(input);
    if goes_on.is_multiple_of(2) {
        let (_, chain) = last.encode();
        header = FrameHeader {
            term: last.term,
            index: last.index + 1,
            physical_offset: last.end(),
            chain,
            ..header
        };
    }
    let payload = input.bytes(header.payload_len.min(1 << 12) as usize);
    let frame = [&header.encode().0[..], payload].concat();
    if let Some(segment) = first_segment(files) {
        segment.write(header.physical_offset, &frame);
    }
}

/// Asks for all that a broker may ask for, and appends an entry as a follower would.
fn look_at(store: &Arc<Store>, views: &Views, steps: &Steps, input: &mut Input<'_>) {
    store.commit(store.max_physical_offset());
    steps.run();
    let mut walk = store.log().walk(store.min_physical_offset());
    while let Ok(Some(frame)) = walk.next() {
        store.record_at(frame.header.physical_offset + frame.header.records_at() as u64);
        RecordIter::new(frame.records()).for_each(drop);
    }
    for (topic, queue_id) in [(TOPIC, 0), (TOPIC, 1), (TIMER_TOPIC, 0)] {
        let Some(queue) = store.queue(topic, queue_id) else { continue };
        for unit in queue.read(queue.min_offset(), 64) {
            let _ = store.record(unit.physical_offset, unit.size);
        }
        let _ = queue.offset_by_time(1_700_000_000_000, Boundary::Lower, |unit| {
            store.record_at(unit.physical_offset).map(|_| 1)
        });
    }
    let _ = views.index.query(TOPIC, "k1", 0, i64::MAX, 32);
    let _ = views.index.query(TOPIC, "k", i64::MIN, i64::MAX, 32);
    let _ = views.timers.due((0, 0), i64::MAX, u64::MAX, 32);
    for time_ms in [i64::MIN, 0, 1_700_000_040_000, i64::MAX] {
        views.timers.next_slot_ms(time_ms);
        views.timers.count_from(time_ms);
    }
    let header = any_header(input);
    let payload = &input.0[..input.0.len().min(header.payload_len as usize)];
    let frame = [&header.encode().0[..], payload].concat();
    let id = EntryId { term: header.term, index: header.index };
    let _ = store.append_frame(id, &frame);
    steps.run();
    views.timers.drop_before(i64::from(input.u8()) * 1_000_000_000_000);
    let _ = store.close();
}
