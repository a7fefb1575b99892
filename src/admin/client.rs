//! `raftmq admin`: asks a member's admin API. The few lines of HTTP it needs, without a library.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::{Args, ValueEnum};
use raftmq_world::Network;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// For connecting, and for the answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest answer that is read. Pages are far shorter.
const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Whom to ask for what.
#[derive(Args, Clone, Debug)]
pub(crate) struct AdminArgs {
    /// A member's admin API
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8081")]
    addr: String,
    /// What to ask for; `ready` and `health` end with status 1 if the answer is no
    #[arg(value_enum)]
    question: Question,
    /// Which one, for `group`
    #[arg(required_if_eq("question", "group"))]
    name: Option<String>,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum Question {
    Cluster,
    Members,
    Topics,
    SystemTopics,
    Groups,
    Group,
    Delay,
    Stats,
    Ready,
    Health,
}

impl Question {
    fn path(self, name: &str) -> String {
        let path = match self {
            Self::Group => return format!("/groups/{}", percent_encoded(name)),
            Self::Cluster => "/cluster",
            Self::Members => "/members",
            Self::Topics => "/topics",
            Self::SystemTopics => "/topics?system=true",
            Self::Groups => "/groups",
            Self::Delay => "/delay",
            Self::Stats => "/stats",
            Self::Ready => "/health/ready",
            Self::Health => "/health",
        };
        path.to_owned()
    }
}

/// A name as a part of a path.
fn percent_encoded(name: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let encode = |byte: u8| {
        if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    name.bytes().map(encode).collect()
}

/// Asks, prints the answer, and fails unless it is a 200.
pub(crate) async fn run(args: &AdminArgs, network: &dyn Network) -> anyhow::Result<()> {
    let path = args.question.path(args.name.as_deref().unwrap_or_default());
    let (status, body) = ask(network, "GET", &args.addr, &path).await?;
    if status != 200 {
        bail!("{} answered {status}: {}", args.addr, body.trim());
    }
    println!("{body}");
    Ok(())
}

/// Status and body of a request without a body.
pub(super) async fn ask(
    network: &dyn Network,
    method: &str,
    addr: &str,
    path: &str,
) -> anyhow::Result<(u16, String)> {
    let mut stream = timeout(TIMEOUT, network.connect(addr))
        .await
        .unwrap_or_else(|late| Err(late.into()))
        .with_context(|| format!("connect to {addr}"))?;
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    let exchange = async {
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = timeout(TIMEOUT, exchange).await.unwrap_or_else(|late| Err(late.into()));
    let answer = answer.with_context(|| format!("answer of {addr}"))?;
    parse(&answer).ok_or_else(|| anyhow!("{addr} does not answer as an admin API does"))
}

fn parse(answer: &[u8]) -> Option<(u16, String)> {
    let answer = std::str::from_utf8(answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let length = head.lines().filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok()).flatten()
    });
    // A body that is shorter than it says was cut off.
    (length.is_none_or(|length| length == body.len())).then(|| (status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_encoded_as_parts_of_a_path() {
        assert_eq!(Question::Group.path("ns%a/b \u{fc}"), "/groups/ns%25a%2Fb%20%C3%BC");
        assert_eq!(Question::Groups.path(""), "/groups");
    }

    #[test]
    fn answers_are_split_and_broken_ones_refused() {
        let whole = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(parse(whole), Some((503, "{}".into())));
        for end in 0..whole.len() {
            assert_eq!(parse(&whole[..end]), None, "{end} bytes");
        }
        assert_eq!(parse(b"SSH-2.0\r\n\r\n"), None);
        assert_eq!(parse(&[0xFF; 9]), None);
    }
}
