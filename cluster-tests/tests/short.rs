//! Faults and bad input, done to a group of real processes while producers work.
//!
//! No test says how fast anything must be: timeouts are there so that what hangs is noticed. The long runs and the
//! measured ones are the `torture` program's.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "works on real processes in real time"
)]
// Clippy lets tests unwrap, but not the functions they share.
#![allow(clippy::unwrap_used)]

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use raftmq_cluster_tests::attack::{self, Salvo};
use raftmq_cluster_tests::commit_logs::{self, CommitLogFiles, FRAME_HEADER_BYTES};
use raftmq_cluster_tests::harness::{Group, GroupOptions, NODE_IDS, PortBlock, PortKind};
use raftmq_cluster_tests::readback::read_back;
use raftmq_cluster_tests::workload::{Workload, WorkloadOptions};
use raftmq_remoting::codes::response;
use serde_json::json;

/// For anything that must happen.
const LONG: Duration = Duration::from_secs(60);
/// For a start that must be refused to end.
const REFUSED_TIMEOUT: Duration = Duration::from_secs(15);
/// Acknowledgements after which load is well under way.
const SOME: u64 = 300;
/// Most a node may hold besides the log while it is sent bad input: what a busy node holds, and as much again for
/// requests that are never finished. They could take 400 MiB here if nothing but their number were limited.
const ANONYMOUS_BYTES_MAX: u64 = 256 << 20;

/// Most a node may write to its standard error in a second or two while another is away. A start takes some 2 KiB.
const LOG_BYTES_MAX: u64 = 128 << 10;

/// One group at a time: the machine may be small.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Small segments are filled within a second or two of load.
fn group() -> Group {
    group_with_segments("1MiB")
}

fn group_with_segments(segment_size: &str) -> Group {
    let options = GroupOptions { segment_size: segment_size.to_owned(), ..GroupOptions::default() };
    let mut group = Group::start(&options).unwrap();
    group.wait_ready(LONG).unwrap();
    group
}

fn load(group: &Group, run: u64) -> Workload {
    let options = WorkloadOptions { body_bytes: 1000, ..WorkloadOptions::new(group.name_servers(), run) };
    let workload = Workload::start(options).unwrap();
    workload.wait_for_acks(SOME, LONG).unwrap();
    workload
}

/// Ends the load, reads everything back, and compares the logs.
fn check(mut group: Group, workload: Workload) {
    workload.wait_for_acks(SOME, LONG).unwrap();
    let options = workload.options().clone();
    let history = workload.stop().unwrap();
    assert_eq!(history.given_up(), 0, "a message was not acknowledged in {:?}", options.message_timeout);
    let commit_index = group.wait_level(LONG).unwrap();
    let verdict = read_back(&options, &history).unwrap();
    assert!(verdict.holds(), "{verdict}");
    group.kill_all().unwrap();
    let dirs: Vec<_> = group.nodes().map(|node| node.dir().to_owned()).collect();
    let compared = commit_logs::compare(&dirs, commit_index).unwrap();
    assert!(compared.bytes > verdict.acknowledged * options.body_bytes as u64, "{compared:?}");
}

#[test]
fn a_killed_leader() {
    let _alone = alone();
    let mut group = group();
    let workload = load(&group, 1);
    let leader = group.wait_all_caught_up(LONG).unwrap();
    group.kill(leader.node_id).unwrap();
    let next = group.wait_new_leader(&leader, LONG).unwrap();
    assert_ne!(next.node_id, leader.node_id);
    workload.wait_for_acks(SOME, LONG).unwrap();
    group.start_node(leader.node_id).unwrap();
    group.wait_all_caught_up(LONG).unwrap();
    check(group, workload);
}

#[test]
fn a_leader_that_hangs() {
    let _alone = alone();
    let mut group = group();
    let workload = load(&group, 2);
    let leader = group.wait_all_caught_up(LONG).unwrap();
    group.pause(leader.node_id).unwrap();
    group.wait_new_leader(&leader, LONG).unwrap();
    workload.wait_for_acks(SOME, LONG).unwrap();
    group.resume(leader.node_id).unwrap();
    group.wait_all_caught_up(LONG).unwrap();
    check(group, workload);
}

#[test]
fn all_three_killed_at_once() {
    let _alone = alone();
    let mut group = group();
    let workload = load(&group, 3);
    group.wait_all_caught_up(LONG).unwrap();
    group.kill_all().unwrap();
    group.start_all().unwrap();
    group.wait_all_caught_up(LONG).unwrap();
    check(group, workload);
}

#[test]
fn a_killed_follower() {
    let _alone = alone();
    let mut group = group();
    let workload = load(&group, 4);
    let leader = group.wait_all_caught_up(LONG).unwrap();
    let follower = NODE_IDS.into_iter().find(|id| *id != leader.node_id).unwrap();
    group.kill(follower).unwrap();
    workload.wait_for_acks(SOME, LONG).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    group.start_node(follower).unwrap();
    group.wait_all_caught_up(LONG).unwrap();
    // A member that is away for long must not fill the others' disks with complaints.
    for node in group.nodes() {
        let written = node.log_bytes().unwrap();
        assert!(
            written < LOG_BYTES_MAX,
            "node {} wrote {written} bytes to its log:\n{}",
            node.id(),
            node.log_tail()
        );
    }
    check(group, workload);
}

/// A follower loses its disk and then the leader does, and each comes back with an empty one.
#[test]
fn lost_disks() {
    let _alone = alone();
    let mut group = group();
    let workload = load(&group, 10);
    for _ in 0..2 {
        let leader = group.wait_all_caught_up(LONG).unwrap();
        let follower = NODE_IDS.into_iter().find(|id| *id != leader.node_id).unwrap();
        for node in [follower, leader.node_id] {
            let before = group.wait_all_caught_up(LONG).unwrap();
            group.kill(node).unwrap();
            group.empty(node).unwrap();
            group.start_node(node).unwrap();
            workload.wait_for_acks(SOME, LONG).unwrap();
            group.wait_new_seat(node, &before, LONG).unwrap();
        }
    }
    group.wait_all_caught_up(LONG).unwrap();
    check(group, workload);
}

#[test]
fn bad_input_on_every_port() {
    let _alone = alone();
    let mut group = group();
    let workload = load(&group, 5);
    let leader = group.wait_all_caught_up(LONG).unwrap().node_id;
    let addr = |group: &Group, kind| group.node(leader).addr(kind);

    let idle = PortKind::ALL.map(|kind| attack::hold(addr(&group, kind), 20, b"").unwrap());
    for kind in PortKind::ALL {
        let to = addr(&group, kind);
        let own = match kind {
            PortKind::Client | PortKind::NameServer => attack::remoting(),
            PortKind::Raft => attack::raft(6),
            PortKind::Admin => attack::http(),
        };
        for salvo in attack::noise(5).iter().chain(&own) {
            salvo.fire(to).unwrap();
            assert_alive(&mut group, kind, salvo);
        }
        assert_named_errors(to, kind);
        // Frames that are never finished: many small pieces, and some that are nearly whole.
        let held = [(64, 8 * 1024), (32, 12 << 20)].map(|(connections, sent)| {
            let bytes = match kind {
                PortKind::Client | PortKind::NameServer => attack::unfinished_frame(sent),
                PortKind::Raft => attack::unfinished_raft_message(sent),
                PortKind::Admin => attack::unfinished_http(sent),
            };
            attack::hold(to, connections, &bytes).unwrap()
        });
        workload.wait_for_acks(SOME, LONG).unwrap();
        assert_bounded(&group, leader, kind);
        drop(held);
    }
    drop(idle);
    workload.wait_for_acks(SOME, LONG).unwrap();

    // What was let in must not stand in the way of a restart either.
    group.kill_all().unwrap();
    group.start_all().unwrap();
    group.wait_all_caught_up(LONG).unwrap();
    check(group, workload);
}

fn assert_alive(group: &mut Group, kind: PortKind, salvo: &Salvo) {
    if let Err(error) = group.check_alive() {
        panic!("after '{}' on the {kind:?} port: {error:#}", salvo.what);
    }
}

fn assert_bounded(group: &Group, node: u64, kind: PortKind) {
    let held = group.node(node).anonymous_bytes().unwrap();
    assert!(held < ANONYMOUS_BYTES_MAX, "{} MiB held after bad input on the {kind:?} port", held >> 20);
}

/// Requests that can be answered are, with the code clients know.
fn assert_named_errors(to: std::net::SocketAddr, kind: PortKind) {
    if !matches!(kind, PortKind::Client | PortKind::NameServer) {
        return;
    }
    let unknown = attack::ask(to, &attack::request(4242, &json!({}), b"")).unwrap();
    assert_eq!(unknown.code, response::REQUEST_CODE_NOT_SUPPORTED, "{unknown:?}");
    if kind == PortKind::Client {
        let without_topic = attack::send_fields(&[("b", serde_json::Value::Null)]);
        let missing = attack::ask(to, &attack::request(310, &without_topic, b"body")).unwrap();
        assert_ne!(missing.code, response::SUCCESS);
        assert!(missing.remark.as_ref().is_some_and(|remark| remark.contains("topic")), "{missing:?}");
        let too_large = attack::request(310, &attack::send_fields(&[]), &vec![b'x'; 5 << 20]);
        let too_large = attack::ask(to, &too_large).unwrap();
        assert_eq!(too_large.code, response::MESSAGE_ILLEGAL, "{too_large:?}");
    }
}

#[test]
fn a_directory_in_use_or_made_otherwise_is_refused() {
    let _alone = alone();
    let mut group = group();
    let workload = load(&group, 6);
    let leader = group.wait_all_caught_up(LONG).unwrap();
    let follower = NODE_IDS.into_iter().find(|id| *id != leader.node_id).unwrap();

    let refused = |group: &Group, changed: &[(&str, String)], named: &[&str]| {
        let exit = group.run_refused(follower, changed, REFUSED_TIMEOUT).unwrap();
        assert!(exit.code.is_some_and(|code| code != 0), "{changed:?}: {exit:?}");
        assert!(
            named.iter().all(|word| exit.output.contains(word)),
            "{changed:?} and {named:?}: {}",
            exit.output
        );
        assert!(!exit.output.contains("panicked"), "{changed:?}: {}", exit.output);
    };
    // Other ports, so that it is the directory that stands in the way.
    let ports = PortBlock::reserve().unwrap();
    let addr = |kind| ports.addr(kind).to_string();
    let elsewhere = [
        ("--listen", addr(PortKind::Client)),
        ("--raft", addr(PortKind::Raft)),
        ("--admin", addr(PortKind::Admin)),
        ("--namesrv-listen", addr(PortKind::NameServer)),
        (
            "--peers",
            peers(&group, |id| if id == follower { addr(PortKind::Raft) } else { raft_addr(&group, id) }),
        ),
    ];
    let dir = group.node(follower).dir().display().to_string();
    refused(&group, &elsewhere, &["in use", &dir]);
    workload.wait_for_acks(SOME, LONG).unwrap();

    group.stop(follower, LONG).unwrap();
    refused(&group, &[("--segment-size", "32MiB".into())], &["segment"]);
    refused(&group, &[("--cluster", "Another".into())], &["cluster", "DefaultCluster", "Another"]);
    // Leader and follower have changed places.
    let other = |id| {
        if id == follower {
            leader.node_id
        } else if id == leader.node_id {
            follower
        } else {
            id
        }
    };
    let swapped = peers(&group, |id| raft_addr(&group, other(id)));
    refused(&group, &[("--id", leader.node_id.to_string()), ("--peers", swapped)], &["node"]);
    workload.wait_for_acks(SOME, LONG).unwrap();

    group.start_node(follower).unwrap();
    group.wait_all_caught_up(LONG).unwrap();
    check(group, workload);
}

fn raft_addr(group: &Group, id: u64) -> String {
    group.node(id).addr(PortKind::Raft).to_string()
}

/// The value of `--peers` with these addresses.
fn peers(group: &Group, addr: impl Fn(u64) -> String) -> String {
    let peers: Vec<_> = group.nodes().map(|node| format!("{}={}", node.id(), addr(node.id()))).collect();
    peers.join(",")
}

#[test]
fn a_changed_byte_is_mended_while_the_group_serves() {
    changed_bytes_are_mended("64MiB", 7);
}

#[test]
fn changed_bytes_in_old_segments_are_mended_while_the_group_serves() {
    changed_bytes_are_mended("512KiB", 8);
}

/// Changes a byte in every old segment of a stopped node's log, or one in the middle where there is only one segment.
fn changed_bytes_are_mended(segment_size: &str, run: u64) {
    let _alone = alone();
    let mut group = group_with_segments(segment_size);
    let workload = load(&group, run);
    workload.wait_for_acks(2000, LONG).unwrap();
    let leader = group.wait_all_caught_up(LONG).unwrap();
    let follower = NODE_IDS.into_iter().find(|id| *id != leader.node_id).unwrap();
    group.stop(follower, LONG).unwrap();

    let log = CommitLogFiles::open(group.node(follower).dir()).unwrap();
    let frames = log.frames().unwrap();
    let middle = frames.last().unwrap().end() / 2;
    let in_middle = frames.iter().filter(|frame| frame.is_messages && frame.physical_offset < middle);
    // The last one of each segment.
    let mut changed = std::collections::BTreeMap::new();
    for frame in in_middle {
        let (path, position) = log.place(frame.physical_offset).unwrap();
        let at = position + FRAME_HEADER_BYTES + (frame.len - FRAME_HEADER_BYTES) / 2;
        let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        changed.insert(path.to_owned(), (file, at, byte));
    }
    for (file, at, byte) in changed.values() {
        file.write_all_at(&[byte[0] ^ 0x20], *at).unwrap();
    }
    group.start_node(follower).unwrap();
    group.wait_mended(follower, changed.len() as u64, LONG).unwrap();
    for (file, at, byte) in changed.values() {
        let mut after = [0];
        file.read_exact_at(&mut after, *at).unwrap();
        assert_eq!(after, *byte);
    }
    workload.wait_for_acks(SOME, LONG).unwrap();
    group.wait_all_caught_up(LONG).unwrap();
    check(group, workload);
}

#[test]
fn a_torn_end_of_the_log_is_left_behind() {
    let _alone = alone();
    // All of the log in one segment.
    let mut group = group_with_segments("64MiB");
    let workload = load(&group, 9);
    let leader = group.wait_all_caught_up(LONG).unwrap();
    let follower = NODE_IDS.into_iter().find(|id| *id != leader.node_id).unwrap();
    for torn in [Torn::Noise, Torn::HalfFrame] {
        group.kill(follower).unwrap();
        workload.wait_for_acks(SOME, LONG).unwrap();
        tear(&group, follower, leader.node_id, torn);
        group.start_node(follower).unwrap();
        group.wait_all_caught_up(LONG).unwrap();
    }
    check(group, workload);
}

/// What an unfinished write left.
#[derive(Debug, Clone, Copy)]
enum Torn {
    Noise,
    /// The frame that comes next in the leader's log, but for its end.
    HalfFrame,
}

/// Writes it behind the end of a killed follower's log.
fn tear(group: &Group, follower: u64, leader: u64, torn: Torn) {
    let log = CommitLogFiles::open(group.node(follower).dir()).unwrap();
    let end = log.frames().unwrap().last().unwrap().end();
    let bytes = match torn {
        Torn::Noise => vec![0xA5; 3000],
        Torn::HalfFrame => {
            let whole = CommitLogFiles::open(group.node(leader).dir()).unwrap();
            let frames = whole.frames().unwrap();
            let next = frames.iter().find(|frame| frame.physical_offset == end).unwrap();
            let mut half = vec![0; (next.len - 10) as usize];
            let (path, position) = whole.place(end).unwrap();
            std::fs::File::open(path).unwrap().read_exact_at(&mut half, position).unwrap();
            half
        }
    };
    let (path, position) = log.place(end).unwrap();
    let file = OpenOptions::new().write(true).open(path).unwrap();
    assert!(
        position + bytes.len() as u64 <= file.metadata().unwrap().len(),
        "the segment is full at {position}"
    );
    file.write_all_at(&bytes, position).unwrap();
}
