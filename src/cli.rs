//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use raftmq_bench::BenchArgs;
use raftmq_raft::{FlushMode, Member};

use crate::admin::client::AdminArgs;
use raftmq_broker::delay::{DEFAULT_LEVELS, DelayLevels};

/// A message broker for Apache RocketMQ clients whose commit log is a Raft log
#[derive(Parser, Debug)]
#[command(name = "raftmq", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    pub(crate) role: RoleArgs,
}

impl Cli {
    /// The settings of a broker, where it is to be one.
    pub fn into_broker(self) -> Option<BrokerArgs> {
        match self.role {
            RoleArgs::Broker(args) => Some(*args),
            _ => None,
        }
    }
}

#[derive(Subcommand, Debug)]
pub(crate) enum RoleArgs {
    /// Run a member of a broker group, and a name server if asked to
    Broker(Box<BrokerArgs>),
    /// Run a name server alone
    Namesrv(NamesrvArgs),
    /// Ask a member's admin API
    Admin(AdminArgs),
    /// Send messages as fast as a broker takes them and measure that
    Bench(Box<BenchArgs>),
    /// Acknowledge sends without storing them, to measure what that costs
    #[command(hide = true)]
    NullServer(NullServerArgs),
}

/// Settings of a member of a broker group.
#[derive(clap::Args, Clone, Debug)]
pub struct BrokerArgs {
    /// This member's number in its group, from 1
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) id: u64,
    /// The directory that holds everything it stores
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// The cluster's name
    #[arg(long, default_value = "DefaultCluster")]
    pub(crate) cluster: String,
    /// The group's name as clients see it
    #[arg(long, default_value = "broker-a")]
    pub(crate) broker_name: String,
    /// Where to listen for clients
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:10911")]
    pub(crate) listen: SocketAddr,
    /// Listen for clients on the port two below as well: the VIP port, which clients up to 4.4 send to by default
    #[arg(long)]
    pub(crate) vip: bool,
    /// Where clients reach this member, if that is another address
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) advertise: Option<SocketAddr>,
    /// Where to listen for the other members
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:10912")]
    pub(crate) raft: SocketAddr,
    /// Where to listen for HTTP
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8081")]
    pub(crate) admin: SocketAddr,
    /// Run a name server in this process that listens here
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) namesrv_listen: Option<SocketAddr>,
    /// Every name server to register at, as host:port;host:port; the one inside if not given
    #[arg(long, value_name = "LIST")]
    pub(crate) namesrv: Option<String>,
    /// The nodes of the group with their addresses for each other, as 1=host:port,2=host:port,3=host:port. They are where to
    /// look for the group; who its members are is in its log
    #[arg(long, value_name = "LIST", value_parser = peers)]
    pub(crate) peers: Peers,
    /// Found the group together with the other nodes of --peers, each of which is told the same, if the directory is new and
    /// there is no such group yet
    #[arg(long)]
    pub(crate) found: bool,
    /// A file with the secret that the members of the group prove to each other, of 16 bytes at least
    #[arg(long, value_name = "FILE")]
    pub(crate) secret_file: Option<PathBuf>,
    /// Take whoever reaches --raft for a member: for networks that nobody else is in
    #[arg(long, conflicts_with = "secret_file")]
    pub(crate) no_secret: bool,
    /// What an acknowledgement waits for on a majority: the medium, or the page cache
    #[arg(long, value_enum, default_value = "sync")]
    pub(crate) flush: Flush,
    /// The length of a log segment, fixed when the group is made, as 1GiB or 64MiB
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = size)]
    pub(crate) segment_size: u64,
    /// What is left free of the disk, a sixteenth of a small one; with less messages are refused until there is room again
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = size)]
    pub(crate) disk_reserve: u64,
    /// Milliseconds between a leader's heartbeats
    #[arg(long, value_name = "MS", default_value_t = 50)]
    pub(crate) heartbeat_ms: u64,
    /// The range of the election timeout in milliseconds
    #[arg(long, value_name = "MIN-MAX", default_value = "200-300", value_parser = range)]
    pub(crate) election_ms: Range,
    /// How long each delay level is, in s, m, h or d
    #[arg(long, value_name = "LIST", default_value = DEFAULT_LEVELS, value_parser = DelayLevels::parse)]
    pub(crate) message_delay_level: DelayLevels,
    /// Threads that serve the network; 1 on machines with up to two cores, else one for each core
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: Option<u16>,
}

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct NamesrvArgs {
    /// Where to listen
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9876")]
    pub(crate) listen: SocketAddr,
}

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct NullServerArgs {
    /// Where to listen
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:10911")]
    pub(crate) listen: SocketAddr,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
pub(crate) enum Flush {
    Sync,
    Async,
}

impl From<Flush> for FlushMode {
    fn from(flush: Flush) -> Self {
        match flush {
            Flush::Sync => Self::Sync,
            Flush::Async => Self::Async,
        }
    }
}

/// Members by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peers(pub(crate) Vec<Member>);

fn peers(text: &str) -> Result<Peers, String> {
    let mut members: Vec<Member> = Vec::new();
    for peer in text.split(',').map(str::trim).filter(|peer| !peer.is_empty()) {
        let (id, addr) =
            peer.split_once('=').ok_or_else(|| format!("{peer:?} is not like 1=127.0.0.1:10912"))?;
        let id = id.parse().ok().filter(|id| *id > 0).ok_or_else(|| format!("{id:?} is no number from 1"))?;
        let raft = host_and_port(addr)?;
        if members.iter().any(|member| member.id == id || member.raft == raft) {
            return Err(format!("{peer:?} repeats a number or an address"));
        }
        members.push(Member { id, raft });
    }
    if members.is_empty() { Err("no member is given".to_owned()) } else { Ok(Peers(members)) }
}

/// An address with a host's name or number.
fn host_and_port(text: &str) -> Result<String, String> {
    let parts = text.rsplit_once(':').filter(|(host, _)| !host.is_empty() && !host.contains(['/', ' ', '=']));
    match parts.and_then(|(_, port)| port.parse::<u16>().ok()) {
        Some(port) if port > 0 => Ok(text.to_owned()),
        _ => Err(format!("{text:?} is not an address like 127.0.0.1:10912 or host:10912")),
    }
}

/// A number of bytes with a unit.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit: u64 = match &text[digits.len()..] {
        "" | "B" => 1,
        "KiB" | "K" | "k" => 1 << 10,
        "MiB" | "M" | "m" => 1 << 20,
        "GiB" | "G" | "g" => 1 << 30,
        unit => return Err(format!("{unit:?} is no unit; B, KiB, MiB and GiB are")),
    };
    let count: u64 = digits.parse().map_err(|_| format!("{text:?} is not a size like 1GiB"))?;
    count.checked_mul(unit).ok_or_else(|| format!("{text} is too much"))
}

/// From and to, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range(pub(crate) u64, pub(crate) u64);

fn range(text: &str) -> Result<Range, String> {
    let bounds = text.split_once('-').and_then(|(min, max)| Some((min.parse().ok()?, max.parse().ok()?)));
    match bounds {
        Some((min, max)) if min > 0 && min < max => Ok(Range(min, max)),
        _ => Err(format!("{text:?} is not a range like 200-300")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_broker_line_is_read() {
        let line = "raftmq broker --id 2 --dir d --peers 1=127.0.0.1:1,2=127.0.0.1:2 --segment-size 64MiB \
                    --election-ms 100-150 --flush async --namesrv-listen 127.0.0.1:9877";
        let RoleArgs::Broker(args) = Cli::try_parse_from(line.split_whitespace()).unwrap().role else {
            panic!("not a broker")
        };
        assert_eq!((args.id, args.segment_size, args.election_ms), (2, 64 << 20, Range(100, 150)));
        assert_eq!(args.peers.0[1], Member { id: 2, raft: "127.0.0.1:2".into() });
        assert_eq!(
            (args.heartbeat_ms, args.threads, FlushMode::from(args.flush)),
            (50, None, FlushMode::Async)
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (text, why) in [
            ("", "no member"),
            ("1", "is not like"),
            ("0=127.0.0.1:1", "no number"),
            ("1=host", "not an address"),
            ("1=:10912", "not an address"),
            ("1=host:0", "not an address"),
            ("1=127.0.0.1:1,1=127.0.0.1:2", "repeats"),
            ("1=127.0.0.1:1,2=127.0.0.1:1", "repeats"),
        ] {
            let error = peers(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        for text in ["", "x", "1TiB", "99999999999GiB", "1 GiB"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!((size("7"), size("2KiB"), size("1GiB")), (Ok(7), Ok(2048), Ok(1 << 30)));
        for text in ["300", "300-200", "0-5", "5-5", "a-b"] {
            assert!(range(text).is_err(), "{text}");
        }
    }
}
