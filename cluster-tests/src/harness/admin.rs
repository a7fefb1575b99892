//! Asking a node how it and its group are, over HTTP.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

/// Longest time for one request. The admin API answers from memory.
const TIMEOUT: Duration = Duration::from_millis(500);
/// Longest answer read.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;

/// What a node says of its group: the fields of `GET /cluster` that matter here.
#[derive(Debug, Clone, Deserialize)]
pub struct GroupStatus {
    /// Who says it.
    pub node_id: u64,
    /// `leader`, `follower`, `candidate` or `learner`.
    pub role: String,
    /// Who leads, as far as it knows.
    pub leader_id: Option<u64>,
    /// Its term.
    pub term: u64,
    /// The last entry it knows to be committed.
    pub commit_index: Option<u64>,
    /// The last entry it has applied.
    pub applied_index: Option<u64>,
    /// The last entry it has.
    pub last_index: Option<u64>,
    /// Whether it serves.
    pub ready: bool,
    /// Where its log is broken.
    #[serde(default)]
    pub damaged: Vec<String>,
    /// How many broken places were mended since its start.
    #[serde(default)]
    pub mended: u64,
    /// The members.
    #[serde(default)]
    pub members: Vec<MemberStatus>,
}

/// A member as another sees it.
#[derive(Debug, Clone, Deserialize)]
pub struct MemberStatus {
    /// Its id.
    pub id: u64,
    /// The directory that has its seat.
    #[serde(default)]
    pub directory: String,
    /// Whether it votes.
    #[serde(default)]
    pub voter: bool,
    /// The last entry the leader knows it to have; only the leader says it.
    #[serde(default)]
    pub matched_index: Option<u64>,
}

impl GroupStatus {
    /// Whether it leads and serves.
    pub fn leads(&self) -> bool {
        self.role == "leader" && self.ready
    }

    /// What it says of a node; one that is emptied may have two directories for a while, the one that votes counts.
    pub fn member(&self, node: u64) -> Option<&MemberStatus> {
        self.members.iter().filter(|member| member.id == node).max_by_key(|member| member.voter)
    }
}

/// `GET /cluster`.
pub(super) fn status(admin: SocketAddr) -> Result<GroupStatus> {
    let (code, body) = get(admin, "/cluster")?;
    ensure!(code == 200, "GET /cluster gives {code}: {body}");
    serde_json::from_str(&body).with_context(|| format!("GET /cluster gives {body}"))
}

/// `GET /health/ready`.
pub(super) fn is_ready(admin: SocketAddr) -> bool {
    get(admin, "/health/ready").is_ok_and(|(code, _)| code == 200)
}

/// The status code and body of an answer. The connection is closed after it.
fn get(admin: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&admin, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { bail!("no HTTP answer: {answer:?}") };
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let code = code.with_context(|| format!("no status code: {head:?}"))?;
    ensure!(!head.to_ascii_lowercase().contains("transfer-encoding"), "{path} is answered in chunks");
    Ok((code, body.to_owned()))
}
