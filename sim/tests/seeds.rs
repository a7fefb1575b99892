//! Seeds with every fault that the group is known to stand, for about a minute: the same ones first, then fresh ones.
//!
//! What the simulator has found and is not mended yet is ignored, each with faults and seeds that show it. Remove `ignore`
//! when it is mended, and what is known not to be stood with it.

use std::process::Command;

/// What is known not to be stood yet.
const KNOWN: [&str; 4] = ["--without", "flippedbit,emptieddisk,olddisk", "--leave", "freshreads,slowdisks"];

fn run(args: &[&str]) {
    let run = Command::new(env!("CARGO_BIN_EXE_raftmq-sim")).arg("many").args(args).output();
    let run = run.expect("it runs");
    let said = String::from_utf8_lossy(&run.stdout);
    println!("{said}");
    assert!(run.status.success(), "{said}{}", String::from_utf8_lossy(&run.stderr));
}

#[test]
fn every_promise_is_kept() {
    run(&[&KNOWN[..], &["--from", "1", "--count", "4"]].concat());
    run(&[&KNOWN[..], &["--count", "1000", "--for-seconds", "30"]].concat());
}

#[test]
#[ignore = "a member whose directory was emptied comes back as a voter, and the leader that stands never repairs it"]
fn an_emptied_directory_loses_nothing() {
    let kinds = "emptieddisk,kill,powerloss";
    run(&["--from", "10", "--count", "1", "--kinds", kinds, "--leave", "freshreads,slowdisks"]);
}

#[test]
#[ignore = "a leader that stands does not repair a follower whose log went back"]
fn a_follower_whose_log_went_back_is_repaired() {
    let kinds = "olddisk,kill,powerloss";
    run(&["--from", "10", "--count", "1", "--kinds", kinds, "--leave", "freshreads,slowdisks"]);
}

#[test]
#[ignore = "votes are written with two syncs on the network thread, and vote requests time out after 200 ms"]
fn a_group_with_slow_disks_elects() {
    run(&["--from", "1", "--count", "1", "--kinds", "kill", "--leave", "freshreads"]);
}

#[test]
#[ignore = "a deposed leader answers reads for up to two seconds"]
fn a_leaders_reads_are_fresh() {
    let kinds = "cut,cutoneway,isolation,hang";
    run(&["--from", "1", "--count", "20", "--kinds", kinds, "--leave", "slowdisks"]);
}
