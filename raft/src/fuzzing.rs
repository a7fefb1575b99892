//! Decoders of this crate, for fuzzers. They take any bytes; whatever comes of it, none of them may panic.

use bytes::BytesMut;

use crate::state_machine::restore;
use crate::table::Tables;
use crate::types::decode_membership;
use crate::wire::{self, Kind};

/// Reads bytes as messages of another member.
pub fn wire(data: &[u8]) {
    let mut buffer = BytesMut::from(data);
    while let Ok(Some(message)) = wire::take_message(&mut buffer) {
        let (kind, id) = (message.kind, message.id);
        let mut again = BytesMut::new();
        match kind {
            Kind::Hello => {
                if let Ok(greeting) = wire::read_hello(message) {
                    greeting.hello.contradiction(&greeting.hello);
                    wire::put_hello(&mut again, &greeting);
                }
            }
            Kind::Refusal => wire::put_refusal(&mut again, id, &message.refusal()),
            Kind::Append => {
                if let Ok(request) = wire::read_append(message) {
                    let frames = wire::put_append_head(&mut again, id, &request).concat();
                    again.extend_from_slice(&frames);
                }
            }
            Kind::AppendReply => {
                if let Ok((reply, clock_ms)) = wire::read_append_reply(message) {
                    wire::put_append_reply(&mut again, id, &reply, clock_ms);
                }
            }
            Kind::Vote | Kind::PreVote => {
                if let Ok(candidacy) = wire::read_candidacy(message) {
                    wire::put_candidacy(&mut again, kind, id, &candidacy);
                }
            }
            Kind::VoteReply => {
                if let Ok(reply) = wire::read_vote_reply(message) {
                    wire::put_vote_reply(&mut again, id, &reply);
                }
            }
            Kind::Transfer => {
                if let Ok(request) = wire::read_transfer(message) {
                    wire::put_transfer(&mut again, id, &request);
                }
            }
            Kind::TransferReply => {
                if let Ok(taken) = wire::read_transfer_reply(message) {
                    wire::put_transfer_reply(&mut again, id, taken);
                }
            }
            Kind::Lease => {
                if let Ok((vote, asked)) = wire::read_lease(message) {
                    wire::put_lease(&mut again, id, &vote, asked);
                }
            }
            Kind::LeaseReply => {
                if let Ok((id, reply)) = wire::read_lease_reply(message) {
                    wire::put_lease_reply(&mut again, id, reply);
                }
            }
            Kind::Proof => {
                if let Ok(proof) = wire::read_proof(message) {
                    wire::put_proof(&mut again, proof.as_ref());
                }
            }
            Kind::Seek => {
                if let Ok((founding, for_seat)) = wire::read_seek(message) {
                    wire::put_seek(&mut again, id, &founding, for_seat);
                }
            }
            Kind::Frames => {
                if let Ok(physical_offset) = wire::read_frames(message) {
                    wire::put_frames(&mut again, id, physical_offset);
                }
            }
            Kind::FramesReply => {
                if let Ok(frames) = wire::read_frames_reply(message) {
                    wire::put_frames_reply(&mut again, id, &frames);
                }
            }
            Kind::SeekReply => {
                if let Ok(sought) = wire::read_sought(message) {
                    wire::put_sought(&mut again, id, &sought);
                }
            }
        }
        if !again.is_empty() {
            let id = if matches!(kind, Kind::Hello | Kind::Proof) { 0 } else { id };
            let read = wire::take_message(&mut again).expect("was written here").map(|m| (m.kind, m.id));
            assert_eq!(read, Some((kind, id)));
            assert!(again.is_empty());
        }
    }
}

/// Reads bytes as the content of the checkpoint file; whether tables have taken on the state in it.
pub fn state_image(data: &[u8], tables: &Tables) -> bool {
    let is_restored = restore(data, tables);
    if is_restored {
        tables.freeze()().expect("what was restored can be written");
    }
    is_restored
}

/// Reads bytes as the payload of a membership frame.
pub fn membership(data: &[u8]) {
    let _ = decode_membership(data);
}
