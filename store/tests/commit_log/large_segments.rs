//! Segments large enough to be zeroed ahead, and a writer that catches up with that.

use std::sync::Arc;

use bytes::BytesMut;
use raftmq_store::{FrameKind, Identity, Store, StoreOptions, decode_frame};
use raftmq_world::OsDisk;

use crate::support::{append_pieces, frames, id, identity, open_with, options, truncate_after, world};

const SEGMENT: u64 = 80 << 20;

#[test]
fn zeros_written_ahead_never_hit_an_entry() {
    // On a real disk, where zeros go past the page cache.
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let identity = Identity { segment_bytes: SEGMENT, ..identity() };
        open_with(StoreOptions { identity, ..options(dir.path()) }, &world(Arc::new(OsDisk))).unwrap()
    };
    let store = open();
    // Twice into the next segment, in steps from nearly nothing to the longest frame.
    let mut index = 0;
    while store.log().end() < 2 * SEGMENT + (20 << 20) {
        let len = [100, 8 << 20, 70_000, 3 << 20][index as usize % 4];
        let mut pieces = [BytesMut::zeroed(len)];
        pieces[0].fill(index as u8 | 1);
        append_pieces(&store, id(1, index), FrameKind::Command, &mut pieces).unwrap();
        index += 1;
    }
    let check = |store: &Store, count: u64| {
        let found = frames(store);
        assert_eq!(found.len() as u64, count);
        for frame in found {
            decode_frame(&frame.bytes).unwrap();
        }
    };
    check(&store, index);
    truncate_after(&store, Some(index - 5)).unwrap();
    check(&store, index - 4);
    store.close().unwrap();
    drop(store);
    check(&open(), index - 4);
}
