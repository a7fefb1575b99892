//! Random sequences of what Raft does with a log, on a leader's store and a follower's, against the model.

use std::path::Path;
use std::sync::Arc;

use bytes::BytesMut;
use proptest::prelude::*;
use raftmq_message::topic::TIMER_TOPIC;
use raftmq_store::{FrameKind, StoreError};

use crate::manual;
use crate::model::{Entry, Model};
use crate::support::{
    Message, Opened, append_beside, append_pieces, id, log_bytes, open, records, temp_dir, truncate_after,
};

#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// Messages (topic, queue, body length), handed over in pieces of at most so many.
    Messages(Vec<(usize, i32, usize)>, usize),
    /// The same with a record in it that is none.
    Broken(Vec<(usize, i32, usize)>),
    Command(usize),
    /// Has a topic begin anew.
    Renew(usize),
    Blank,
    NewTerm,
    /// Commits so many more.
    Commit(usize),
    /// Removes so many, committed ones excepted.
    Truncate(usize),
    /// Drops messages with a time before.
    DropTimers(i64),
    /// Brings the follower's log to the leader's.
    Replicate,
    Close,
    Kill,
}

const TOPICS: [&str; 3] = ["topic", "other", TIMER_TOPIC];

fn messages() -> impl Strategy<Value = Vec<(usize, i32, usize)>> {
    proptest::collection::vec((0..3usize, 0..4i32, prop_oneof![4 => 0..300usize, 1 => 0..4500usize]), 1..12)
}

pub(crate) fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (messages(), 1..5usize).prop_map(|(m, pieces)| Op::Messages(m, pieces)),
        1 => messages().prop_map(Op::Broken),
        2 => (0..3000usize).prop_map(Op::Command),
        // Around what is left of a segment, and all of one.
        2 => (40_000..65_473usize).prop_map(Op::Command),
        2 => (0..2usize).prop_map(Op::Renew),
        1 => Just(Op::Blank),
        1 => Just(Op::NewTerm),
        3 => (1..6usize).prop_map(Op::Commit),
        3 => (1..6usize).prop_map(Op::Truncate),
        1 => (0..200_000i64).prop_map(Op::DropTimers),
        2 => Just(Op::Replicate),
        1 => Just(Op::Close),
        1 => Just(Op::Kill),
    ]
}

/// A store and what it should hold.
pub(crate) struct Member {
    /// `None` only between a stop and the next start.
    store: Option<Opened>,
    pub(crate) model: Model,
    pub(crate) term: u64,
    /// Makes every entry another one.
    pub(crate) serial: u64,
}

impl Member {
    pub(crate) fn new(store: Opened) -> Self {
        Self { store: Some(store), model: Model::default(), term: 1, serial: 0 }
    }

    pub(crate) fn store(&self) -> &Opened {
        self.store.as_ref().unwrap()
    }

    fn messages(&mut self, shapes: &[(usize, i32, usize)]) -> Vec<Message> {
        let mut made = Vec::new();
        for (topic, queue, body) in shapes {
            self.serial += 1;
            made.push(Message::new(TOPICS[*topic], *queue, &format!("key-{}", self.serial), *body));
        }
        made
    }

    pub(crate) fn append(&mut self, kind: FrameKind, messages: Vec<Message>, mut pieces: Vec<BytesMut>) {
        let id = id(self.term, self.model.next_index());
        // Every third entry of messages has a command of some length in front of it.
        let command = match (kind, self.serial % 3) {
            (FrameKind::Messages, 0) if self.serial.is_multiple_of(7) => b"renew topic".to_vec(),
            (FrameKind::Messages, 0) => vec![9; (self.serial % 50) as usize],
            _ => Vec::new(),
        };
        let (appended, placed) = append_beside(self.store(), id, kind, &command, &mut pieces).unwrap();
        let frame = self.store().log().frame(id.index).unwrap().unwrap();
        assert_eq!((frame.header.physical_offset, frame.header.end()), (appended.start, appended.end));
        assert_eq!(frame.payload(), [&command[..], &pieces.concat()].concat());
        self.model.entries.push(Entry { id, kind, messages, command, frame: frame.bytes.to_vec() });
        assert_eq!(placed, self.model.last_placed());
    }

    /// Everything that needs no second store and no other file.
    pub(crate) fn apply(&mut self, op: &Op) {
        match op {
            Op::Messages(shapes, pieces) => {
                let messages = self.messages(shapes);
                let pieces = messages.chunks(shapes.len().div_ceil(*pieces)).map(records).collect();
                self.append(FrameKind::Messages, messages, pieces);
            }
            Op::Broken(shapes) => {
                let messages = self.messages(shapes);
                let mut broken = records(&messages[..1]);
                broken[4] ^= 1;
                let mut pieces = [records(&messages), records(&messages), broken];
                let id = id(self.term, self.model.next_index());
                let error = append_pieces(self.store(), id, FrameKind::Messages, &mut pieces).unwrap_err();
                assert!(matches!(error, StoreError::Illegal(_)), "{error}");
            }
            Op::Command(len) => {
                self.serial += 1;
                let mut content = vec![7; *len];
                for (at, byte) in content.iter_mut().zip(self.serial.to_le_bytes()) {
                    *at = byte;
                }
                self.append(FrameKind::Command, Vec::new(), vec![BytesMut::from(&content[..])]);
            }
            Op::Renew(topic) => {
                let command = format!("renew {}", TOPICS[*topic]);
                self.append(FrameKind::Command, Vec::new(), vec![BytesMut::from(command.as_bytes())]);
            }
            Op::Blank => self.append(FrameKind::Blank, Vec::new(), Vec::new()),
            Op::NewTerm => self.term += 1,
            Op::Commit(more) => {
                self.model.committed = self.model.entries.len().min(self.model.committed + more);
                if let Some(entry) = self.model.entries[..self.model.committed].last() {
                    self.store().set_committed(entry.id).unwrap();
                }
                self.store().commit(self.model.committed_end());
            }
            Op::Truncate(less) => {
                let keep = self.model.entries.len().saturating_sub(*less).max(self.model.committed);
                truncate_after(self.store(), (keep as u64).checked_sub(1)).unwrap();
                self.model.entries.truncate(keep);
            }
            Op::DropTimers(before_ms) => {
                self.model.timers_from_ms = self.model.timers_from_ms.max(*before_ms);
                self.store().timers.drop_before(*before_ms);
            }
            Op::Replicate | Op::Close | Op::Kill => {}
        }
        manual::turns();
    }

    pub(crate) fn restarted(&mut self, store: Opened) {
        self.store = Some(store);
    }

    fn reopened(&mut self, store: Opened) {
        self.restarted(store);
        let committed = self.model.committed;
        let known = self.store().committed().map_or(0, |c| c.index as usize + 1);
        assert!(known <= committed, "{known} are said to be committed, {committed} are");
        self.store().commit(self.model.committed_end());
    }

    pub(crate) fn stop(&mut self, close: bool) {
        let store = self.store.take().unwrap();
        if close {
            store.close().unwrap();
        }
        assert_eq!(Arc::strong_count(&store.store), 1);
    }
}

/// Makes the follower's log the leader's, as Raft does: what differs is removed, the rest appended.
fn replicate(leader: &Member, follower: &mut Member) {
    let same = |(a, b): &(&Entry, &Entry)| a.frame == b.frame;
    let common = leader.model.entries.iter().zip(&follower.model.entries).take_while(same).count();
    truncate_after(follower.store(), (common as u64).checked_sub(1)).unwrap();
    follower.model.entries.truncate(common);
    for entry in &leader.model.entries[common..] {
        follower.store().append_frame(entry.id, &entry.frame).unwrap();
        follower.model.entries.push(entry.clone());
    }
    follower.model.check_log(follower.store());
}

fn reopen(member: &mut Member, dir: &Path, close: bool) {
    member.stop(close);
    member.reopened(open(dir));
}

pub(crate) fn run(ops: &[Op]) {
    let (leader_dir, follower_dir) = (temp_dir(), temp_dir());
    let mut leader = Member::new(open(leader_dir.path()));
    let mut follower = Member::new(open(follower_dir.path()));
    for op in ops {
        leader.apply(op);
        match op {
            Op::Replicate => replicate(&leader, &mut follower),
            Op::Close | Op::Kill => {
                let close = matches!(op, Op::Close);
                reopen(&mut leader, leader_dir.path(), close);
                reopen(&mut follower, follower_dir.path(), !close);
                follower.model.check_log(follower.store());
            }
            _ => {}
        }
        leader.model.check_log(leader.store());
    }
    replicate(&leader, &mut follower);
    follower.model.committed = leader.model.committed;
    for member in [&leader, &follower] {
        member.model.check_dispatched(member.store());
        member.store().close().unwrap();
    }
    assert!(log_bytes(leader_dir.path()) == log_bytes(follower_dir.path()), "the logs differ");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn any_sequence_of_operations_leaves_what_the_model_says(ops in proptest::collection::vec(op(), 1..40)) {
        run(&ops);
    }
}
