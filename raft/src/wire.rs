//! What members say to each other: messages over TCP, one length-prefixed frame each.
//!
//! | at | size | field (little-endian) |
//! |---|---|---|
//! | 0 | 4 | length of what follows |
//! | 4 | 1 | kind |
//! | 5 | 8 | id; a reply carries its request's |
//! | 13 | | content, by kind |
//!
//! The first message each way is a hello: who is speaking, of which group. The second is the proof of the members' secret
//! (`greeting.rs`). Log entries travel as the very bytes of their frames, so a follower writes what it was sent.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use raftmq_store::{EntryId, FrameKind, decode_frame};

use crate::group_id::GroupId;
use crate::hello::Hello;
use crate::secret::{NONCE_BYTES, Nonce, PROOF_BYTES, Proof};
use crate::types::{Entry, Frame, FrameBytes, LogId, Payload, TypeConfig, Vote, entry_id, log_id};

pub(crate) type AppendRequest = openraft::raft::AppendEntriesRequest<TypeConfig>;
pub(crate) type AppendResponse = openraft::raft::AppendEntriesResponse<TypeConfig>;
pub(crate) type VoteRequest = openraft::raft::VoteRequest<TypeConfig>;
pub(crate) type VoteResponse = openraft::raft::VoteResponse<TypeConfig>;

/// The largest message: the largest frame of the log, or several within replication's read limit, and some more.
pub(crate) const MESSAGE_BYTES_MAX: usize = 12 << 20;
/// The largest hello: nothing longer is read before it is known who speaks.
pub(crate) const HELLO_BYTES_MAX: usize = 5 * HELLO_TEXT_MAX + 512;
/// Length, kind and id.
pub(crate) const HEAD_BYTES: usize = 13;
/// The version of this protocol. Members of different versions do not talk, and tell each other so.
const PROTOCOL_VERSION: u32 = 4;
/// The longest text in a message.
pub(crate) const HELLO_TEXT_MAX: usize = 1024;
/// The founding members of a group, as a membership frame has them.
const FOUNDING_BYTES_MAX: usize = 64 * 1024;
/// No group gets so far: a thousand elections a second take 8,000 years. What is beyond leaves no room to elect in.
const TERM_MAX: u64 = 1 << 48;
/// Nor so far: a million entries a second take 140,000 years.
const INDEX_MAX: u64 = 1 << 62;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Hello = 1,
    /// The other side refuses to talk; the content says why.
    Refusal = 2,
    Append = 3,
    AppendReply = 4,
    Vote = 5,
    /// Whether the other would vote for this one.
    PreVote = 6,
    VoteReply = 7,
    Transfer = 8,
    TransferReply = 9,
    /// A leader asks not to be replaced for a while.
    Lease = 13,
    LeaseReply = 14,
    /// That the speaker knows the secret.
    Proof = 10,
    /// Who belongs nowhere yet, or doubts it, asks where it does.
    Seek = 11,
    SeekReply = 12,
    /// The bytes of frames of the log, for one that has lost some.
    Frames = 15,
    FramesReply = 16,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Hello,
            2 => Self::Refusal,
            3 => Self::Append,
            4 => Self::AppendReply,
            5 => Self::Vote,
            6 => Self::PreVote,
            7 => Self::VoteReply,
            8 => Self::Transfer,
            9 => Self::TransferReply,
            13 => Self::Lease,
            14 => Self::LeaseReply,
            10 => Self::Proof,
            11 => Self::Seek,
            12 => Self::SeekReply,
            15 => Self::Frames,
            16 => Self::FramesReply,
            _ => return None,
        })
    }
}

/// Why bytes are not a message.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("a message of {length} bytes; it has 9 at least and {limit} at most")]
    Length { length: usize, limit: usize },
    #[error("protocol version {0} between members; this release speaks version {PROTOCOL_VERSION}")]
    Version(u32),
    #[error("unknown message kind {0}")]
    Kind(u8),
    #[error("a {kind:?} message ends early, at {what}")]
    Short { kind: Kind, what: &'static str },
    #[error("a {kind:?} message has {left} bytes too many")]
    Trailing { kind: Kind, left: usize },
    #[error("a {kind:?} message with a bad {what}")]
    Bad { kind: Kind, what: &'static str },
}

/// A message taken off a connection.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) kind: Kind,
    pub(crate) id: u64,
    content: Bytes,
}

/// Takes the next whole message off `buffer`; `None` while it is not all there.
pub(crate) fn take_message(buffer: &mut BytesMut) -> Result<Option<Message>, WireError> {
    take_message_within(buffer, MESSAGE_BYTES_MAX)
}

/// The same for a message of at most `limit` bytes.
pub(crate) fn take_message_within(buffer: &mut BytesMut, limit: usize) -> Result<Option<Message>, WireError> {
    let Some(length) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*length) as usize;
    if !(HEAD_BYTES - 4..=limit).contains(&length) {
        return Err(WireError::Length { length, limit });
    }
    if buffer.len() < 4 + length {
        // Room for the rest of it: large messages arrive in few reads then.
        buffer.reserve(4 + length - buffer.len());
        return Ok(None);
    }
    let mut bytes = buffer.split_to(4 + length).freeze();
    bytes.advance(4);
    let kind = bytes.get_u8();
    let kind = Kind::from_byte(kind).ok_or(WireError::Kind(kind))?;
    let id = bytes.get_u64_le();
    Ok(Some(Message { kind, id, content: bytes }))
}

/// Appends a message whose content `write` produces.
pub(crate) fn put_message(out: &mut BytesMut, kind: Kind, id: u64, write: impl FnOnce(&mut BytesMut)) {
    let start = put_head(out, kind, id);
    write(out);
    set_length(out, start, 0);
}

fn put_head(out: &mut BytesMut, kind: Kind, id: u64) -> usize {
    let start = out.len();
    out.put_u32_le(0);
    out.put_u8(kind as u8);
    out.put_u64_le(id);
    start
}

/// Fills the length in; `outside` bytes of the message are not in `out`.
fn set_length(out: &mut BytesMut, start: usize, outside: usize) {
    let length = (out.len() - start - 4 + outside) as u32;
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

fn put_log_id(out: &mut BytesMut, id: Option<LogId>) {
    let id = id.map(|id| entry_id(&id));
    out.put_u64_le(id.map_or(0, |id| id.index + 1));
    out.put_u64_le(id.map_or(0, |id| id.term));
}

fn put_vote(out: &mut BytesMut, vote: &Vote) {
    out.put_u64_le(vote.leader_id.term);
    out.put_u64_le(vote.leader_id.voted_for);
    out.put_u8(u8::from(vote.committed));
}

/// Reads a message's content field by field.
struct Reader {
    kind: Kind,
    content: Bytes,
}

impl Reader {
    fn need(&self, len: usize, what: &'static str) -> Result<(), WireError> {
        if self.content.len() < len { Err(WireError::Short { kind: self.kind, what }) } else { Ok(()) }
    }

    fn u8(&mut self, what: &'static str) -> Result<u8, WireError> {
        self.need(1, what)?;
        Ok(self.content.get_u8())
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, WireError> {
        self.need(4, what)?;
        Ok(self.content.get_u32_le())
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, WireError> {
        self.need(8, what)?;
        Ok(self.content.get_u64_le())
    }

    fn flag(&mut self, what: &'static str) -> Result<bool, WireError> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(WireError::Bad { kind: self.kind, what }),
        }
    }

    fn bytes(&mut self, len: usize, what: &'static str) -> Result<Bytes, WireError> {
        self.need(len, what)?;
        Ok(self.content.split_to(len))
    }

    fn text(&mut self, what: &'static str) -> Result<String, WireError> {
        let len = self.u32(what)? as usize;
        if len > HELLO_TEXT_MAX {
            return Err(WireError::Bad { kind: self.kind, what });
        }
        let bytes = self.bytes(len, what)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| WireError::Bad { kind: self.kind, what })
    }

    fn log_id(&mut self, what: &'static str) -> Result<Option<LogId>, WireError> {
        let (next, term) = (self.u64(what)?, self.u64(what)?);
        if next > INDEX_MAX || term > TERM_MAX {
            return Err(WireError::Bad { kind: self.kind, what });
        }
        Ok(next.checked_sub(1).map(|index| log_id(EntryId { term, index })))
    }

    fn term(&mut self) -> Result<u64, WireError> {
        match self.u64("term")? {
            term if term <= TERM_MAX => Ok(term),
            _ => Err(WireError::Bad { kind: self.kind, what: "term" }),
        }
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], WireError> {
        let mut array = [0; N];
        self.need(N, what)?;
        self.content.copy_to_slice(&mut array);
        Ok(array)
    }

    fn vote(&mut self) -> Result<Vote, WireError> {
        let (term, node_id) = (self.term()?, self.u64("vote")?);
        let committed = self.flag("vote")?;
        Ok(Vote { leader_id: openraft::vote::RaftLeaderId::new(term, node_id), committed })
    }

    fn group(&mut self) -> Result<Option<GroupId>, WireError> {
        let (is_there, id) = (self.flag("group")?, self.array::<16>("group")?);
        Ok(is_there.then_some(GroupId::from_bytes(id)))
    }

    fn end(self) -> Result<(), WireError> {
        match self.content.len() {
            0 => Ok(()),
            left => Err(WireError::Trailing { kind: self.kind, left }),
        }
    }
}

impl Message {
    /// Its content, as it was sent.
    pub(crate) fn content(&self) -> &Bytes {
        &self.content
    }

    /// What it asks to append, if it is well-formed.
    pub(crate) fn append(&self) -> Option<AppendRequest> {
        let again = Self { content: self.content.clone(), ..*self };
        (self.kind == Kind::Append).then(|| read_append(again).ok()).flatten()
    }

    fn reader(self) -> Reader {
        Reader { kind: self.kind, content: self.content }
    }

    /// The text of a refusal.
    pub(crate) fn refusal(self) -> String {
        self.reader().text("reason").unwrap_or_else(|e| e.to_string())
    }
}

fn put_text(out: &mut BytesMut, text: &str) {
    out.put_u32_le(text.len() as u32);
    out.put_slice(text.as_bytes());
}

/// A hello, and what its speaker has drawn for this connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Greeting {
    pub(crate) hello: Hello,
    pub(crate) nonce: Nonce,
}

pub(crate) fn put_hello(out: &mut BytesMut, Greeting { hello, nonce }: &Greeting) {
    put_message(out, Kind::Hello, 0, |out| {
        out.put_u32_le(PROTOCOL_VERSION);
        out.put_slice(nonce);
        for text in [&hello.cluster, &hello.broker_name, &hello.raft, &hello.client, &hello.admin] {
            put_text(out, text);
        }
        out.put_u64_le(hello.segment_bytes);
        put_group(out, hello.group);
        out.put_u64_le(hello.id);
        out.put_u64_le(hello.start.0);
        out.put_u64_le(hello.start.1);
        out.put_u64_le(hello.term);
        put_log_id(out, hello.last.map(log_id));
        out.put_u8(hello.reads);
        out.put_u8(hello.level);
    });
}

pub(crate) fn read_hello(message: Message) -> Result<Greeting, WireError> {
    let mut reader = message.reader();
    let version = reader.u32("version")?;
    if version != PROTOCOL_VERSION {
        return Err(WireError::Version(version));
    }
    let nonce = reader.array::<NONCE_BYTES>("nonce")?;
    let cluster = reader.text("cluster")?;
    let broker_name = reader.text("broker name")?;
    let raft = reader.text("address")?;
    let client = reader.text("client address")?;
    let admin = reader.text("admin address")?;
    let segment_bytes = reader.u64("segment length")?;
    let group = reader.group()?;
    let (id, start) = (reader.u64("id")?, (reader.u64("starts")?, reader.u64("start")?));
    let term = reader.term()?;
    let last = reader.log_id("last entry")?.map(|last| entry_id(&last));
    let (reads, level) = (reader.u8("feature level")?, reader.u8("feature level")?);
    reader.end()?;
    let hello = Hello {
        cluster,
        broker_name,
        segment_bytes,
        group,
        id,
        start,
        term,
        last,
        raft,
        client,
        admin,
        reads,
        level,
    };
    Ok(Greeting { hello, nonce })
}

/// No proof where the members share no secret.
pub(crate) fn put_proof(out: &mut BytesMut, proof: Option<&Proof>) {
    put_message(out, Kind::Proof, 0, |out| {
        out.put_u8(u8::from(proof.is_some()));
        out.put_slice(proof.unwrap_or(&[0; PROOF_BYTES]));
    });
}

pub(crate) fn read_proof(message: Message) -> Result<Option<Proof>, WireError> {
    let mut reader = message.reader();
    let (is_there, proof) = (reader.flag("proof")?, reader.array::<PROOF_BYTES>("proof")?);
    reader.end()?;
    Ok(is_there.then_some(proof))
}

/// What a directory that has no place is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sought {
    /// Whom the speaker is told to found a group with, where it is about to.
    pub(crate) founding: String,
    /// The members that founded the group, where the speaker is one of them.
    pub(crate) founders: Vec<u8>,
    /// Whether the asking directory is one of the group's members, where the speaker leads.
    pub(crate) is_member: Option<bool>,
    /// What there is to say to a person.
    pub(crate) words: String,
}

/// `founding` is whom the speaker is told to found a group with, nobody where it is not; `for_seat` asks to be taken in.
pub(crate) fn put_seek(out: &mut BytesMut, id: u64, founding: &str, for_seat: bool) {
    put_message(out, Kind::Seek, id, |out| {
        put_text(out, founding);
        out.put_u8(u8::from(for_seat));
    });
}

pub(crate) fn read_seek(message: Message) -> Result<(String, bool), WireError> {
    let mut reader = message.reader();
    let (founding, for_seat) = (reader.text("founding members")?, reader.flag("seat")?);
    reader.end()?;
    Ok((founding, for_seat))
}

pub(crate) fn put_sought(out: &mut BytesMut, id: u64, sought: &Sought) {
    put_message(out, Kind::SeekReply, id, |out| {
        put_text(out, &sought.founding);
        out.put_u32_le(sought.founders.len() as u32);
        out.put_slice(&sought.founders);
        out.put_u8(sought.is_member.map_or(0, |is_member| 1 + u8::from(is_member)));
        put_text(out, &shortened(&sought.words));
    });
}

pub(crate) fn read_sought(message: Message) -> Result<Sought, WireError> {
    let mut reader = message.reader();
    let founding = reader.text("founding members")?;
    let len = reader.u32("founders")? as usize;
    if len > FOUNDING_BYTES_MAX {
        return Err(WireError::Bad { kind: Kind::SeekReply, what: "founders" });
    }
    let founders = reader.bytes(len, "founders")?.to_vec();
    let is_member = match reader.u8("membership")? {
        0 => None,
        1 => Some(false),
        2 => Some(true),
        _ => return Err(WireError::Bad { kind: Kind::SeekReply, what: "membership" }),
    };
    let words = reader.text("words")?;
    reader.end()?;
    Ok(Sought { founding, founders, is_member, words })
}

/// Text for a person, as far as a message takes it.
fn shortened(text: &str) -> String {
    text.chars().take(HELLO_TEXT_MAX / 4).collect()
}

fn put_group(out: &mut BytesMut, group: Option<GroupId>) {
    out.put_u8(u8::from(group.is_some()));
    out.put_slice(&group.map_or([0; 16], |group| *group.as_bytes()));
}

pub(crate) fn put_refusal(out: &mut BytesMut, id: u64, reason: &str) {
    put_message(out, Kind::Refusal, id, |out| put_text(out, &shortened(reason)));
}

/// Writes everything of an append request but the entries' frames: `frames` are to follow it on the connection. Each
/// entry is announced with its length.
pub(crate) fn put_append_head<'a>(out: &mut BytesMut, id: u64, request: &'a AppendRequest) -> Vec<&'a [u8]> {
    let start = put_head(out, Kind::Append, id);
    put_vote(out, &request.vote);
    put_log_id(out, request.prev_log_id);
    put_log_id(out, request.leader_commit);
    let frames: Vec<&[u8]> = request.entries.iter().map(frame_of).collect();
    out.put_u32_le(frames.len() as u32);
    for frame in &frames {
        out.put_u32_le(frame.len() as u32);
    }
    set_length(out, start, frames.iter().map(|f| f.len()).sum());
    frames
}

/// The frame of an entry that was read from the log. Replication reads nothing else.
fn frame_of(entry: &Entry) -> &[u8] {
    match &entry.payload {
        Payload::Frame(frame) => frame.bytes.as_ref(),
        other => unreachable!("entry {} is replicated before it was laid out: {other}", entry.log_id),
    }
}

pub(crate) fn read_append(message: Message) -> Result<AppendRequest, WireError> {
    let mut reader = message.reader();
    let vote = reader.vote()?;
    let prev_log_id = reader.log_id("previous entry")?;
    let leader_commit = reader.log_id("commit index")?;
    let count = reader.u32("entry count")? as usize;
    reader.need(count.saturating_mul(4), "entry lengths")?;
    let lengths: Vec<usize> =
        (0..count).map(|_| reader.u32("entry length").map(|n| n as usize)).collect::<Result<_, _>>()?;
    let mut entries = Vec::with_capacity(count);
    for length in lengths {
        entries.push(entry_of(reader.bytes(length, "entry")?)?);
    }
    reader.end()?;
    let request = AppendRequest { vote, prev_log_id, entries, leader_commit };
    check_order(&request)?;
    Ok(request)
}

/// Entries follow each other, and none is of a term that its leader has not come to.
fn check_order(request: &AppendRequest) -> Result<(), WireError> {
    let mut before = request.prev_log_id.as_ref().map(entry_id);
    for entry in &request.entries {
        let id = entry_id(&entry.log_id);
        let follows =
            before.map_or(id.index == 0, |before| id.index == before.index + 1 && id.term >= before.term);
        if !follows || id.term > request.vote.leader_id.term {
            return Err(WireError::Bad { kind: Kind::Append, what: "order of entries" });
        }
        before = Some(id);
    }
    Ok(())
}

/// An entry from its frame. A leader that is being deposed may read a frame while it erases it: a broken one ends the
/// connection here, before it could stop this member as a broken log would.
fn entry_of(bytes: Bytes) -> Result<Entry, WireError> {
    let bad = WireError::Bad { kind: Kind::Append, what: "frame" };
    match decode_frame(&bytes) {
        Ok((header, _, _))
            if header.kind != FrameKind::Filler && header.index < INDEX_MAX && header.term <= TERM_MAX =>
        {
            Ok(Entry {
                log_id: log_id(EntryId { term: header.term, index: header.index }),
                payload: Payload::Frame(Frame::new(&header, FrameBytes::Wire(bytes))),
            })
        }
        _ => Err(bad),
    }
}

/// `clock_ms` is the replying member's time of day, in ms since the epoch.
pub(crate) fn put_append_reply(out: &mut BytesMut, id: u64, response: &AppendResponse, clock_ms: i64) {
    put_message(out, Kind::AppendReply, id, |out| {
        out.put_i64_le(clock_ms);
        match response {
            AppendResponse::Success => out.put_u8(0),
            AppendResponse::PartialSuccess(matching) => {
                out.put_u8(1);
                put_log_id(out, *matching);
            }
            AppendResponse::Conflict => out.put_u8(2),
            AppendResponse::HigherVote(vote) => {
                out.put_u8(3);
                put_vote(out, vote);
            }
        }
    });
}

/// The reply, and the replying member's time of day.
pub(crate) fn read_append_reply(message: Message) -> Result<(AppendResponse, i64), WireError> {
    let mut reader = message.reader();
    let clock_ms = reader.u64("clock")?.cast_signed();
    let response = match reader.u8("outcome")? {
        0 => AppendResponse::Success,
        1 => AppendResponse::PartialSuccess(reader.log_id("matching entry")?),
        2 => AppendResponse::Conflict,
        3 => AppendResponse::HigherVote(reader.vote()?),
        _ => return Err(WireError::Bad { kind: Kind::AppendReply, what: "outcome" }),
    };
    reader.end()?;
    Ok((response, clock_ms))
}

/// What a candidate asks.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Candidacy {
    pub(crate) request: VoteRequest,
    /// It has heard from every node, and nobody's log goes further than its own.
    pub(crate) heard_all: bool,
}

pub(crate) fn put_candidacy(out: &mut BytesMut, kind: Kind, id: u64, candidacy: &Candidacy) {
    let Candidacy { request, heard_all } = candidacy;
    put_message(out, kind, id, |out| {
        put_vote(out, &request.vote);
        put_log_id(out, request.last_log_id);
        out.put_u8(u8::from(request.leadership_transfer));
        out.put_u8(u8::from(*heard_all));
    });
}

pub(crate) fn read_candidacy(message: Message) -> Result<Candidacy, WireError> {
    let mut reader = message.reader();
    let mut request = VoteRequest::new(reader.vote()?, reader.log_id("last entry")?);
    request.leadership_transfer = reader.flag("transfer flag")?;
    let heard_all = reader.flag("whether all were heard")?;
    reader.end()?;
    Ok(Candidacy { request, heard_all })
}

pub(crate) fn put_vote_reply(out: &mut BytesMut, id: u64, response: &VoteResponse) {
    put_message(out, Kind::VoteReply, id, |out| {
        put_vote(out, &response.vote);
        put_log_id(out, response.last_log_id);
        out.put_u8(u8::from(response.vote_granted));
    });
}

pub(crate) fn read_vote_reply(message: Message) -> Result<VoteResponse, WireError> {
    let mut reader = message.reader();
    let (vote, last) = (reader.vote()?, reader.log_id("last entry")?);
    let granted = reader.flag("granted")?;
    reader.end()?;
    Ok(VoteResponse::new(vote, last, granted))
}

pub(crate) type TransferRequest = openraft::raft::TransferLeaderRequest<TypeConfig>;

pub(crate) fn put_transfer(out: &mut BytesMut, id: u64, request: &TransferRequest) {
    put_message(out, Kind::Transfer, id, |out| {
        put_vote(out, request.from_leader());
        out.put_u64_le(*request.to_node_id());
        put_log_id(out, request.last_log_id().copied());
    });
}

pub(crate) fn read_transfer(message: Message) -> Result<TransferRequest, WireError> {
    let mut reader = message.reader();
    let (from, to) = (reader.vote()?, reader.u64("target")?);
    let last = reader.log_id("last entry")?;
    reader.end()?;
    Ok(TransferRequest::new(from, to, last))
}

/// A transfer is taken or it is not; why not is only for the log.
pub(crate) fn put_transfer_reply(out: &mut BytesMut, id: u64, taken: bool) {
    put_message(out, Kind::TransferReply, id, |out| out.put_u8(u8::from(taken)));
}

pub(crate) fn read_transfer_reply(message: Message) -> Result<bool, WireError> {
    let mut reader = message.reader();
    let taken = reader.flag("taken")?;
    reader.end()?;
    Ok(taken)
}

/// Milliseconds, as 4 bytes.
fn put_ms(out: &mut BytesMut, time: Duration) {
    out.put_u32_le(u32::try_from(time.as_millis()).unwrap_or(u32::MAX));
}

pub(crate) fn put_lease(out: &mut BytesMut, id: u64, vote: &Vote, asked: Duration) {
    put_message(out, Kind::Lease, id, |out| {
        put_vote(out, vote);
        put_ms(out, asked);
    });
}

/// Who asks, and for how long a lease.
pub(crate) fn read_lease(message: Message) -> Result<(Vote, Duration), WireError> {
    let mut reader = message.reader();
    let (vote, asked) = (reader.vote()?, reader.u32("lease")?);
    reader.end()?;
    Ok((vote, Duration::from_millis(asked.into())))
}

/// What who is asked for a lease says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeaseReply {
    /// How long a lease it gives.
    pub(crate) given: Option<Duration>,
    /// Whether its disk has room for more.
    pub(crate) has_room: bool,
}

/// A lease of 0 ms is none.
pub(crate) fn put_lease_reply(out: &mut BytesMut, id: u64, reply: LeaseReply) {
    put_message(out, Kind::LeaseReply, id, |out| {
        put_ms(out, reply.given.unwrap_or_default());
        out.put_u8(u8::from(reply.has_room));
    });
}

/// The id of the request, and the reply.
pub(crate) fn read_lease_reply(message: Message) -> Result<(u64, LeaseReply), WireError> {
    let (kind, id) = (message.kind, message.id);
    if kind != Kind::LeaseReply {
        return Err(WireError::Bad { kind, what: "place: a lease was asked for" });
    }
    let mut reader = message.reader();
    let (given, has_room) = (reader.u32("lease")?, reader.flag("room")?);
    reader.end()?;
    let given = (given > 0).then(|| Duration::from_millis(given.into()));
    Ok((id, LeaseReply { given, has_room }))
}

/// Asks for whole frames of the log, from the one at a physical offset on.
pub(crate) fn put_frames(out: &mut BytesMut, id: u64, physical_offset: u64) {
    put_message(out, Kind::Frames, id, |out| out.put_u64_le(physical_offset));
}

pub(crate) fn read_frames(message: Message) -> Result<u64, WireError> {
    let mut reader = message.reader();
    let physical_offset = reader.u64("physical offset")?;
    reader.end()?;
    Ok(physical_offset)
}

/// The frames as they stand in the log, one behind the other; none where there is none to give.
pub(crate) fn put_frames_reply(out: &mut BytesMut, id: u64, frames: &[u8]) {
    put_message(out, Kind::FramesReply, id, |out| out.put_slice(frames));
}

pub(crate) fn read_frames_reply(message: Message) -> Result<Bytes, WireError> {
    match message.kind {
        Kind::FramesReply => Ok(message.content),
        kind => Err(WireError::Bad { kind, what: "place: frames were asked for" }),
    }
}

#[cfg(test)]
mod tests {
    use raftmq_store::FrameHeader;

    use super::*;

    fn vote() -> Vote {
        Vote { leader_id: openraft::vote::RaftLeaderId::new(7, 2), committed: true }
    }

    fn id(term: u64, index: u64) -> Option<LogId> {
        Some(log_id(EntryId { term, index }))
    }

    fn only_message(out: &mut BytesMut) -> Message {
        let message = take_message(out).unwrap().unwrap();
        assert!(out.is_empty());
        message
    }

    fn blank_frame(term: u64, index: u64) -> Vec<u8> {
        empty_frame(FrameKind::Blank, term, index)
    }

    fn empty_frame(kind: FrameKind, term: u64, index: u64) -> Vec<u8> {
        let header = FrameHeader {
            kind,
            payload_len: 0,
            records: 0,
            command_len: 0,
            term,
            index,
            physical_offset: 0,
            leader: 1,
            chain: 0,
            payload_checksum: 0,
        };
        header.encode().0.to_vec()
    }

    #[test]
    fn an_append_request_reads_back_with_its_frames() {
        let frames = [blank_frame(3, 10), blank_frame(3, 11)];
        let entries = frames.iter().map(|f| entry_of(Bytes::from(f.clone())).unwrap()).collect();
        let request = AppendRequest { vote: vote(), prev_log_id: id(3, 9), entries, leader_commit: id(2, 4) };
        let mut out = BytesMut::new();
        let to_follow: Vec<u8> = put_append_head(&mut out, 5, &request).concat();
        out.extend_from_slice(&to_follow);
        for end in 0..out.len() {
            assert!(take_message(&mut BytesMut::from(&out[..end])).unwrap().is_none(), "prefix of {end}");
        }
        let message = only_message(&mut out);
        assert_eq!((message.kind, message.id), (Kind::Append, 5));
        let read = read_append(message).unwrap();
        assert_eq!((read.vote, read.prev_log_id, read.leader_commit), (vote(), id(3, 9), id(2, 4)));
        let read_frames: Vec<Vec<u8>> = read.entries.iter().map(|e| frame_of(e).to_vec()).collect();
        assert_eq!(read_frames, frames);
    }

    #[test]
    fn replies_and_votes_read_back() {
        let mut out = BytesMut::new();
        for response in [
            AppendResponse::Success,
            AppendResponse::PartialSuccess(id(1, 2)),
            AppendResponse::PartialSuccess(None),
            AppendResponse::Conflict,
            AppendResponse::HigherVote(vote()),
        ] {
            put_append_reply(&mut out, 1, &response, -7);
            assert_eq!(read_append_reply(only_message(&mut out)).unwrap(), (response, -7));
        }
        let mut request = VoteRequest::new(vote(), id(4, 4));
        request.leadership_transfer = true;
        let candidacy = Candidacy { request, heard_all: true };
        put_candidacy(&mut out, Kind::PreVote, 2, &candidacy);
        assert_eq!(read_candidacy(only_message(&mut out)).unwrap(), candidacy);
        let response = VoteResponse::new(vote(), None, true);
        put_vote_reply(&mut out, 3, &response);
        assert_eq!(read_vote_reply(only_message(&mut out)).unwrap(), response);
        let transfer = TransferRequest::new(vote(), 3, id(1, 1));
        put_transfer(&mut out, 4, &transfer);
        assert_eq!(read_transfer(only_message(&mut out)).unwrap(), transfer);
        let lease = Duration::from_millis(300);
        put_lease(&mut out, 5, &vote(), lease);
        assert_eq!(read_lease(only_message(&mut out)).unwrap(), (vote(), lease));
        for (given, has_room) in [(Some(lease), true), (None, false)] {
            let reply = LeaseReply { given, has_room };
            put_lease_reply(&mut out, 6, reply);
            assert_eq!(read_lease_reply(only_message(&mut out)).unwrap(), (6, reply));
        }
        put_transfer_reply(&mut out, 7, true);
        assert!(read_lease_reply(only_message(&mut out)).is_err());
        put_transfer_reply(&mut out, 7, true);
        assert!(read_frames_reply(only_message(&mut out)).is_err());
        put_frames(&mut out, 8, 1 << 40);
        assert_eq!(read_frames(only_message(&mut out)).unwrap(), 1 << 40);
        for frames in [&[][..], &[1, 2]] {
            put_frames_reply(&mut out, 9, frames);
            assert_eq!(read_frames_reply(only_message(&mut out)).unwrap(), frames);
        }
    }

    #[test]
    fn entries_that_do_not_follow_and_terms_that_cannot_be_are_refused() {
        let append = |term, prev: Option<LogId>, frames: &[(u64, u64)]| {
            let entries =
                frames.iter().map(|(term, index)| entry_of(Bytes::from(blank_frame(*term, *index))).unwrap());
            let vote = Vote { leader_id: openraft::vote::RaftLeaderId::new(term, 2), committed: true };
            let request =
                AppendRequest { vote, prev_log_id: prev, entries: entries.collect(), leader_commit: None };
            let mut out = BytesMut::new();
            let frames = put_append_head(&mut out, 1, &request).concat();
            out.extend_from_slice(&frames);
            read_append(only_message(&mut out))
        };
        assert!(append(3, None, &[(0, 0), (3, 1)]).is_ok());
        assert!(append(3, id(2, 5), &[(2, 6), (3, 7)]).is_ok());
        assert!(append(TERM_MAX, id(2, 5), &[]).is_ok());
        for (term, prev, frames) in [
            (3, None, &[(1, 1)][..]),
            (3, id(2, 5), &[(2, 7)]),
            (3, id(2, 5), &[(2, 6), (2, 6)]),
            (3, id(2, 5), &[(1, 6)]),
            (3, id(2, 5), &[(4, 6)]),
            (TERM_MAX + 1, None, &[]),
            (u64::MAX, None, &[]),
        ] {
            assert!(append(term, prev, frames).is_err(), "{term} {prev:?} {frames:?}");
        }
        assert!(entry_of(Bytes::from(blank_frame(3, INDEX_MAX))).is_err());
        assert!(entry_of(Bytes::from(blank_frame(TERM_MAX + 1, 3))).is_err());
    }

    #[test]
    fn what_begins_a_connection_reads_back() {
        let hello = Hello {
            cluster: "C".into(),
            broker_name: "b".into(),
            segment_bytes: 1 << 30,
            group: Some(GroupId::from_bytes([1; 16])),
            id: 77 << 16 | 2,
            start: (3, 4),
            term: 5,
            last: Some(EntryId { term: 5, index: 0 }),
            raft: "host:10912".into(),
            client: "host:10911".into(),
            admin: "host:8081".into(),
            reads: 2,
            level: 1,
        };
        let mut out = BytesMut::new();
        for hello in [hello.clone(), Hello { group: None, last: None, ..hello }] {
            let greeting = Greeting { hello, nonce: [9; NONCE_BYTES] };
            put_hello(&mut out, &greeting);
            assert!(out.len() <= HELLO_BYTES_MAX);
            assert_eq!(read_hello(only_message(&mut out)).unwrap(), greeting);
        }
        for proof in [None, Some([3; PROOF_BYTES])] {
            put_proof(&mut out, proof.as_ref());
            assert_eq!(read_proof(only_message(&mut out)).unwrap(), proof);
        }
        put_seek(&mut out, 4, "1=a:1", true);
        assert_eq!(read_seek(only_message(&mut out)).unwrap(), ("1=a:1".to_owned(), true));
        for is_member in [None, Some(false), Some(true)] {
            let sought =
                Sought { founding: "1=a:1".into(), founders: vec![1, 2], is_member, words: "no".into() };
            put_sought(&mut out, 4, &sought);
            assert_eq!(read_sought(only_message(&mut out)).unwrap(), sought);
        }
    }

    #[test]
    fn lying_lengths_and_counts_are_refused() {
        let mut long = BytesMut::from(&u32::MAX.to_le_bytes()[..]);
        assert!(matches!(take_message(&mut long), Err(WireError::Length { .. })));
        let mut out = BytesMut::new();
        put_message(&mut out, Kind::Append, 1, |out| {
            put_vote(out, &vote());
            put_log_id(out, None);
            put_log_id(out, None);
            out.put_u32_le(u32::MAX);
        });
        assert!(matches!(read_append(only_message(&mut out)), Err(WireError::Short { .. })));
        put_message(&mut out, Kind::TransferReply, 1, |out| out.put_slice(&[1, 1]));
        assert!(matches!(
            read_transfer_reply(only_message(&mut out)),
            Err(WireError::Trailing { left: 1, .. })
        ));
    }
}
