//! What is broken in what was durable: found, never read as if it were whole, and put in place from what another member has.

use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use raftmq_store::{FrameHeader, FrameKind, Store, StoreError};

use crate::support::{
    HEADER, Message, Opened, SEGMENT, SOON, append_command, append_message, append_pieces, ask_within,
    damage, flush, frames, id, log_bytes, open, records, temp_dir, wait_dispatched,
};

/// A log of four segments, closed well: where its frames are, fillers included, and its bytes.
fn whole_log(dir: &Path) -> (Vec<FrameHeader>, Vec<u8>) {
    let store = open(dir);
    for index in 0..12 {
        match index % 3 {
            0 => append_command(&store, id(1, index), &[7; 30_000]),
            _ => append_message(&store, id(1, index)),
        };
    }
    flush(&store).unwrap();
    let end = store.max_physical_offset();
    store.commit(end);
    assert!(wait_dispatched(&store, end));
    store.close().unwrap();
    let bytes = log_bytes(dir);
    let (mut at, mut headers) = (0, Vec::new());
    while let Ok((header, _)) = FrameHeader::decode(&bytes[at..]) {
        at = header.end() as usize;
        headers.push(header);
    }
    assert!(headers.iter().any(|header| header.kind == FrameKind::Filler) && headers.len() > 12);
    (headers, bytes)
}

fn flip(dir: &Path, bytes: &[u8], at: u64) {
    damage(dir, at, &[bytes[at as usize] ^ 0x20]);
}

fn wait_until(what: &str, check: impl Fn() -> bool) {
    let until = Instant::now() + SOON;
    while !check() {
        assert!(Instant::now() < until, "{what}");
        std::thread::yield_now();
    }
}

fn spots(store: &Store) -> Vec<u64> {
    store.damage().iter().map(|spot| spot.physical_offset).collect()
}

fn mend(store: &Store, at: u64, frames: &[u8]) -> Result<(), StoreError> {
    ask_within(SOON, |callback| store.mend(at, Bytes::copy_from_slice(frames), callback)).unwrap()
}

/// Every record that the queue has, where it can be read.
fn readable(store: &Opened) -> Vec<bool> {
    let queue = store.queue("topic", 0).unwrap();
    let units = queue.read(0, 100);
    units.iter().map(|unit| store.record(unit.physical_offset, unit.size).is_ok()).collect()
}

#[test]
fn a_changed_byte_is_found_and_what_another_has_is_put_in_its_place() {
    let dir = temp_dir();
    let (headers, bytes) = whole_log(dir.path());
    let second = bytes.len() as u64 / 2;
    // Not the last frame: that is not below what a start reads.
    for header in headers.iter().filter(|header| header.end() < second) {
        // Magic, length, index, checksum of the header; and the payload, which a filler has no checksum of.
        let places = [0, 9, 30, HEADER - 1].into_iter();
        let payload =
            (header.kind != FrameKind::Filler).then_some(HEADER + u64::from(header.payload_len) / 2);
        for place in places.chain(payload) {
            let at = header.physical_offset;
            flip(dir.path(), &bytes, at + place);
            let store = open(dir.path());
            if header.kind == FrameKind::Messages {
                assert!(readable(&store).iter().any(|is| !is), "{at} {place}");
                assert!(store.record_at(at + HEADER).is_none());
            }
            wait_until("it is found", || spots(&store) == [at]);
            assert!(store.damage()[0].what.contains(&format!("position {}", at % SEGMENT)));
            // Not that, not elsewhere.
            let right = &bytes[at as usize..];
            for wrong in [&[][..], &[1; 500], &right[1..], &right[header.frame_len()..]] {
                assert!(matches!(mend(&store, at, wrong), Err(StoreError::Illegal(_))), "{at} {place}");
                assert_eq!((spots(&store), store.mended()), (vec![at], 0));
            }
            mend(&store, at, right).unwrap();
            wait_until("nothing is doubted", || {
                store.damage().is_empty() && readable(&store).iter().all(|is| *is)
            });
            assert_eq!((store.mended(), log_bytes(dir.path()) == bytes), (1, true));
            assert_eq!(frames(&store).len(), 12);
            store.close().unwrap();
        }
    }
}

#[test]
fn what_is_broken_one_behind_the_other_is_mended_one_by_one() {
    let dir = temp_dir();
    let (headers, bytes) = whole_log(dir.path());
    let broken = &headers[1..4];
    for header in broken {
        flip(dir.path(), &bytes, header.physical_offset + 5);
    }
    // And in another segment: what is behind the first place in its own is read when that is mended.
    let far = headers.iter().find(|header| header.physical_offset > SEGMENT).unwrap().physical_offset;
    flip(dir.path(), &bytes, far + 5);
    let store = open(dir.path());
    let first = headers[1].physical_offset;
    wait_until("they are found", || spots(&store) == [first, far]);
    mend(&store, first, &bytes[first as usize..headers[1].end() as usize]).unwrap();
    wait_until("it moves", || spots(&store)[0] == headers[2].physical_offset);
    // All that is needed at once, and more.
    mend(&store, headers[2].physical_offset, &bytes[headers[2].physical_offset as usize..]).unwrap();
    wait_until("one is left", || spots(&store) == [far]);
    mend(&store, far, &bytes[far as usize..]).unwrap();
    assert!(log_bytes(dir.path()) == bytes);
    wait_until("nothing is doubted", || readable(&store).iter().all(|is| *is));
}

/// Both were committed, so one of the two members is wrong from the ground up.
#[test]
fn another_entry_in_its_place_is_a_divergence() {
    let dir = temp_dir();
    let (headers, bytes) = whole_log(dir.path());
    let header = headers[1];
    flip(dir.path(), &bytes, header.physical_offset + 5);
    let store = open(dir.path());
    let (failed, told) = std::sync::mpsc::channel();
    store.on_failure(Box::new(move |reason| drop(failed.send(reason))));
    wait_until("it is found", || spots(&store) == [header.physical_offset]);
    let other = FrameHeader { leader: 9, ..header }.encode().0;
    let payload = &bytes[header.physical_offset as usize + HEADER as usize..header.end() as usize];
    assert!(mend(&store, header.physical_offset, &[&other[..], payload].concat()).is_err());
    assert!(told.recv_timeout(SOON).unwrap().contains("divergence"));
}

/// What is read while the scrub has not come there is checked then.
#[test]
fn a_message_is_given_only_out_of_a_whole_frame() {
    let dir = temp_dir();
    let message = |key: &str, len| Message::new("topic", 0, key, len);
    let store = open(dir.path());
    for index in 0..4 {
        let batch = [message("a", 100), message("b", 5_000), message("c", 100)];
        append_pieces(&store, id(1, index), FrameKind::Messages, &mut [records(&batch)]).unwrap();
    }
    append_message(&store, id(1, 4));
    flush(&store).unwrap();
    store.commit(store.max_physical_offset());
    assert!(wait_dispatched(&store, store.max_physical_offset()));
    let second = frames(&store)[1].header;
    store.close().unwrap();
    drop(store);
    // In the body of the message in the middle: the others of its entry are not given either.
    flip(dir.path(), &log_bytes(dir.path()), second.physical_offset + HEADER + 3_000);
    let store = open(dir.path());
    let expected: Vec<_> = (0..13).map(|at| !(3..6).contains(&at)).collect();
    assert_eq!(readable(&store), expected);
    assert_eq!(readable(&store), expected);
}
