//! What a follower refuses, and that refusing changes nothing.

use std::path::Path;

use bytes::BytesMut;
use raftmq_store::{
    EntryId, FRAME_PAYLOAD_BYTES_MAX, FrameHeader, FrameKind, Store, StoreError, decode_frame,
};

use crate::support::{
    HEADER, Message, Opened, SEGMENT, append_command, append_message, append_pieces, content, frame_bytes,
    id, log_bytes, open, records, temp_dir, truncate_after, wait_dispatched,
};

/// A frame with its header changed and its checksums made right again.
fn changed(frame: &[u8], change: impl FnOnce(&mut FrameHeader, &mut Vec<u8>)) -> Vec<u8> {
    let (mut header, _, payload) = decode_frame(frame).unwrap();
    let mut payload = payload.to_vec();
    change(&mut header, &mut payload);
    header.payload_checksum = if header.kind == FrameKind::Filler { 0 } else { crc32c::crc32c(&payload) };
    header.payload_len = payload.len() as u32;
    [&header.encode().0[..], &payload].concat()
}

/// A leader's store with a few entries, and a follower's that has the first ones.
fn pair(dir: &Path) -> (Opened, Opened) {
    let (leader, follower) = (open(&dir.join("leader")), open(&dir.join("follower")));
    for index in 0..3 {
        append_message(&leader, id(2, index));
    }
    append_command(&leader, id(2, 3), b"command");
    for (index, frame) in (0..3).zip(frame_bytes(&leader)) {
        follower.append_frame(id(2, index), &frame).unwrap();
    }
    (leader, follower)
}

fn assert_refused(store: &Store, dir: &Path, id: EntryId, frame: &[u8], part_of_error: &str) {
    let before = (content(dir), store.log().end(), store.log().last());
    let error = store.append_frame(id, frame).unwrap_err();
    assert!(error.to_string().contains(part_of_error), "{part_of_error:?} is not in: {error}");
    assert!(
        before == (content(dir), store.log().end(), store.log().last()),
        "refusing {error} changed something"
    );
}

#[test]
fn whatever_does_not_continue_the_log_is_refused() {
    let dir = temp_dir();
    let (leader, follower) = pair(dir.path());
    let at = dir.path().join("follower");
    let refused = |id, frame: &[u8], why: &str| assert_refused(&follower, &at, id, frame, why);
    append_message(&leader, id(3, 4));
    let frames = frame_bytes(&leader);
    let command = &frames[3];

    refused(id(3, 4), &frames[4], "does not follow");
    refused(id(2, 2), &frames[2], "does not follow");
    refused(id(1, 3), &changed(command, |h, _| h.term = 1), "does not follow");
    refused(id(2, 3), &frames[4], "they hold a frame");
    refused(id(2, 3), &changed(command, |h, _| h.chain ^= 1), "behind checksum");
    refused(id(2, 3), &changed(command, |h, _| h.physical_offset += 64), "stands at physical offset");
    refused(id(2, 3), &changed(command, |h, _| h.kind = FrameKind::Filler), "filler");
    refused(id(2, 3), &changed(command, |h, _| h.records = 1), "announces 1 records");
    refused(id(2, 3), &command[..command.len() - 1], "received broken");
    refused(id(2, 3), &[&command[..], b"x"].concat(), "they hold a frame");
    refused(id(2, 3), &[], "received broken");

    // What is refused is not in the way of what belongs there.
    follower.append_frame(id(2, 3), command).unwrap();
    let message = &frames[4];
    let physical_at = 28;
    let queue_offset_at = 20;
    refused(id(3, 4), &changed(message, |_, p| p[queue_offset_at + 7] ^= 1), "queue offset");
    refused(id(3, 4), &changed(message, |_, p| p[physical_at + 7] ^= 1), "says it stands at");
    refused(id(3, 4), &changed(message, |_, p| p.truncate(100)), "message record");
    refused(id(3, 4), &changed(message, |h, _| h.records = 2), "announces 2 records");
    follower.append_frame(id(3, 4), message).unwrap();
    assert_eq!(log_bytes(&at), log_bytes(&dir.path().join("leader")));
}

/// Two records, the second one wrong: the first one's queue must not have moved on.
#[test]
fn a_frame_that_is_refused_half_way_moves_no_queue_on() {
    let dir = temp_dir();
    let (leader, follower) = pair(dir.path());
    follower.append_frame(id(2, 3), &frame_bytes(&leader)[3]).unwrap();
    let two = [Message::new("topic", 0, "a", 10), Message::new("other", 1, "b", 10)];
    append_pieces(&leader, id(2, 4), FrameKind::Messages, &mut [records(&two)]).unwrap();
    let frame = &frame_bytes(&leader)[4];
    let second = records(&two[..1]).len();
    let broken = changed(frame, |_, p| p[second + 27] ^= 1);
    assert_refused(&follower, &dir.path().join("follower"), id(2, 4), &broken, "queue offset");
    follower.append_frame(id(2, 4), frame).unwrap();
}

#[test]
fn a_leader_refuses_what_no_queue_could_take() {
    let dir = temp_dir();
    let store = open(dir.path());
    append_message(&store, id(1, 0));
    let before = content(dir.path());
    let refused = |id, kind, pieces: &mut [BytesMut], why: &str| {
        let error = append_pieces(&store, id, kind, pieces).unwrap_err();
        assert!(error.to_string().contains(why), "{why:?} is not in: {error}");
    };
    let message =
        |topic, queue| records(&[Message::new("topic", 0, "k", 1), Message::new(topic, queue, "k", 1)]);
    refused(id(1, 1), FrameKind::Messages, &mut [message("../up", 0)], "topic");
    refused(id(1, 1), FrameKind::Messages, &mut [message("topic", -1)], "queue id");
    refused(id(1, 1), FrameKind::Messages, &mut [message("topic", 65_536)], "queue id");
    refused(id(1, 1), FrameKind::Filler, &mut [], "filler");
    refused(id(1, 2), FrameKind::Blank, &mut [], "does not follow");
    refused(id(0, 1), FrameKind::Blank, &mut [], "does not follow");
    let too_long = BytesMut::zeroed((SEGMENT - HEADER) as usize + 1);
    refused(id(1, 1), FrameKind::Command, &mut [too_long], "over the limit");
    assert!((SEGMENT as usize) < FRAME_PAYLOAD_BYTES_MAX);
    assert!(before == content(dir.path()));

    append_message(&store, id(1, 1));
    let queue_offsets: Vec<_> = frame_bytes(&store).iter().map(|f| f[HEADER as usize + 27]).collect();
    assert_eq!(queue_offsets, [0, 1]);
    let longest = BytesMut::zeroed((SEGMENT - HEADER) as usize);
    let (appended, _) = append_pieces(&store, id(1, 2), FrameKind::Command, &mut [longest]).unwrap();
    assert_eq!((appended.start, appended.end), (SEGMENT, 2 * SEGMENT));
}

#[test]
fn committed_entries_are_not_truncated() {
    let dir = temp_dir();
    let store = open(dir.path());
    let ends: Vec<_> = (0..5).map(|index| append_message(&store, id(1, index)).end).collect();
    store.set_committed(id(1, 2)).unwrap();
    let before = content(dir.path());
    for last in [Some(1), Some(0), None] {
        assert!(matches!(truncate_after(&store, last), Err(StoreError::Divergence(_))), "{last:?}");
    }
    // What may have been dispatched is committed too.
    store.commit(ends[3]);
    assert!(matches!(truncate_after(&store, Some(2)), Err(StoreError::Divergence(_))));
    assert!(before == content(dir.path()) || wait_dispatched(&store, ends[3]));
    assert_eq!(store.log().last(), Some(id(1, 4)));
    truncate_after(&store, Some(3)).unwrap();
    truncate_after(&store, Some(9)).unwrap();
    assert_eq!(store.log().last(), Some(id(1, 3)));
}

/// Ends of segments at which there is room for no header, for a header alone, and for a little more.
#[test]
fn fillers_are_the_same_everywhere() {
    for left in [0, 1, 63, 64, 65, 100] {
        let dir = temp_dir();
        let (leader, follower) = (open(&dir.path().join("leader")), open(&dir.path().join("follower")));
        let fill = vec![1; (SEGMENT - 2 * HEADER - left) as usize];
        append_command(&leader, id(1, 0), b"");
        assert_eq!(append_command(&leader, id(1, 1), &fill).end, SEGMENT - left);
        // The follower first holds an entry that needs a filler, and then others that do not.
        append_command(&leader, id(1, 2), &[2; 200]);
        for (index, frame) in (0..3).zip(frame_bytes(&leader)) {
            follower.append_frame(id(1, index), &frame).unwrap();
        }
        for store in [&leader, &follower] {
            truncate_after(store, Some(1)).unwrap();
            assert_eq!(store.log().end(), SEGMENT - left);
        }
        let small = append_command(&leader, id(2, 2), b"");
        assert_eq!(small.start, if left >= HEADER { SEGMENT - left } else { SEGMENT }, "{left} left");
        append_command(&leader, id(2, 3), &[3; 200]);
        for (index, frame) in (0..4).zip(frame_bytes(&leader)).skip(2) {
            follower.append_frame(id(2, index), &frame).unwrap();
        }
        leader.close().unwrap();
        follower.close().unwrap();
        let logs = ["leader", "follower"].map(|name| log_bytes(&dir.path().join(name)));
        assert!(logs[0] == logs[1], "{left} left");
        assert_eq!(frame_bytes(&open(&dir.path().join("follower"))).len(), 4);
    }
}

/// A reader that a truncation overtakes finds the log's end, never damage.
#[test]
fn readers_are_not_upset_by_truncations() {
    let dir = temp_dir();
    let store = open(dir.path());
    append_command(&store, id(1, 0), b"first");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut read = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for index in 0..8 {
                    let Some(mut walk) = store.log().walk_from(index).unwrap() else { continue };
                    while let Some(frame) = walk.next().unwrap() {
                        assert!(frame.header.index >= index);
                        read += 1;
                    }
                }
            }
            read
        });
        for round in 0..200usize {
            for index in 1..8 {
                let len = (round * 37 + index as usize * 101) % 900;
                append_command(&store, id(1, index), &vec![round as u8; len]);
            }
            truncate_after(&store, Some(0)).unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
}
