//! The rules of the rooms that `ARCHITECTURE.md` draws.

#![allow(clippy::disallowed_methods, reason = "reads sources where they are")]

use std::path::{Path, PathBuf};

use raftmq_rooms::{Circle, Package, Room, Tree, circles, named, packages, wrong_arrows};

/// Whom each crate may name, from the bottom up.
const ROOMS: &[Room<'_>] = &[
    Room { name: "rooms", knows: &[], tests_know: &[] },
    Room { name: "world", knows: &[], tests_know: &[] },
    Room { name: "message", knows: &[], tests_know: &[] },
    Room { name: "filter", knows: &[], tests_know: &[] },
    Room { name: "store", knows: &["message", "world"], tests_know: &[] },
    Room { name: "raft", knows: &["store", "message", "world"], tests_know: &["testkit"] },
    Room {
        name: "broker",
        knows: &["raft", "store", "filter", "message", "world"],
        tests_know: &["testkit"],
    },
    Room { name: "remoting", knows: &["world"], tests_know: &["message"] },
    Room {
        name: "front",
        knows: &["broker", "remoting", "raft", "store", "message", "world"],
        tests_know: &["testkit"],
    },
    Room { name: "client", knows: &["remoting", "message", "world"], tests_know: &["testkit"] },
    Room { name: "namesrv", knows: &["remoting", "message", "world"], tests_know: &[] },
    Room { name: "bench", knows: &["client", "remoting", "message", "world"], tests_know: &[] },
    Room { name: "checks", knows: &["client", "remoting", "message", "world"], tests_know: &[] },
    Room { name: "testkit", knows: &["raft", "remoting", "store", "world"], tests_know: &[] },
    Room {
        name: "src",
        knows: &["bench", "broker", "client", "front", "message", "namesrv", "raft", "store", "world"],
        tests_know: &[],
    },
    Room { name: "sim", knows: &["src", "checks", "client", "world"], tests_know: &[] },
    Room { name: "cluster-tests", knows: &["checks", "client", "remoting", "message"], tests_know: &[] },
    Room {
        name: "fuzz-targets",
        knows: &["broker", "client", "filter", "message", "namesrv", "raft", "remoting", "store", "world"],
        tests_know: &[],
    },
    Room { name: "compat/differential", knows: &[], tests_know: &["cluster-tests"] },
];

/// Crates from elsewhere that one room keeps to itself.
const OWNED: &[(&str, &str)] = &[("openraft", "raft")];

/// What a broker's operations know nothing of: the protocol and sockets.
const NOT_IN_BROKER: &[&str] = &[
    "raftmq_remoting",
    "raftmq_world::Accepted",
    "raftmq_world::Acceptor",
    "raftmq_world::Listener",
    "raftmq_world::Network",
    "raftmq_world::ReadHalf",
    "raftmq_world::Stream",
    "raftmq_world::World",
    "raftmq_world::WriteHalf",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::os::unix::net",
    "tokio::net",
];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("it is a room of the workspace").to_owned()
}

fn all_packages() -> Vec<Package> {
    packages(&workspace()).expect("Cargo knows the workspace")
}

fn trees(package: &Package) -> Vec<Tree> {
    let workspace = workspace();
    let read = |path: &Path| std::fs::read_to_string(workspace.join(path)).ok();
    package.roots.iter().map(|root| Tree::grow(root, &read).expect("it compiles")).collect()
}

#[test]
fn arrows_between_crates_point_down() {
    let wrong = wrong_arrows(&all_packages(), ROOMS, OWNED);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_modules_of_a_crate_do_not_use_each_other_in_circles() {
    let wrong: Vec<String> = all_packages()
        .iter()
        .flat_map(trees)
        .flat_map(|tree| circles(&tree.ties()))
        .map(|circle: Circle| circle.to_string())
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_broker_s_operations_know_no_protocol_and_no_socket() {
    let packages = all_packages();
    let broker = packages.iter().find(|package| package.name == "broker").expect("the broker's room");
    let wrong: Vec<_> = trees(broker).iter().flat_map(|tree| named(tree, NOT_IN_BROKER)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn openraft_is_named_in_its_room_alone() {
    let outside = all_packages().into_iter().filter(|package| package.name != "raft");
    let wrong: Vec<_> = outside
        .flat_map(|package| trees(&package))
        .flat_map(|tree| named(&tree, &["openraft", "raftmq_raft::openraft"]))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
