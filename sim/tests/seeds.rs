//! Seeds with every kind of fault, for about a minute: the same ones first, then fresh ones.
//!
//! What the simulator has found and is not mended yet is ignored, each with faults and seeds that show it. Remove `ignore`
//! when it is mended, and what stands for it in `NOT_KEPT` or `NOT_STOOD`.

use std::process::Command;

fn run(args: &[&str]) {
    let run = Command::new(env!("CARGO_BIN_EXE_raftmq-sim")).arg("many").args(args).output();
    let run = run.expect("it runs");
    let said = String::from_utf8_lossy(&run.stdout);
    println!("{said}");
    assert!(run.status.success(), "{said}{}", String::from_utf8_lossy(&run.stderr));
}

#[test]
fn every_promise_is_kept() {
    // Looking at slow disks would take most of the time.
    let leave = ["--leave", "slowdisks"];
    run(&[&leave[..], &["--from", "1", "--count", "4"]].concat());
    run(&[&leave[..], &["--count", "1000", "--for-seconds", "30"]].concat());
}

/// With these kinds of faults alone.
fn keeps_with(kinds: &str, from: u64, count: u64) {
    let (from, count) = (from.to_string(), count.to_string());
    let leave = ["--leave", "slowdisks"];
    run(&[&leave[..], &["--strict", "--from", &from, "--count", &count, "--kinds", kinds]].concat());
}

#[test]
fn an_emptied_directory_loses_nothing() {
    keeps_with("emptieddisk,isolation,kill,powerloss", 19, 4);
}

#[test]
#[ignore = "an older copy of a directory helps to elect where nobody is left who knows that it is one"]
fn a_follower_whose_log_went_back_is_repaired() {
    keeps_with("olddisk,kill,powerloss", 13, 4);
}

#[test]
fn a_flipped_bit_loses_nothing() {
    keeps_with("flippedbit,isolation,kill,powerloss", 19, 1);
}

#[test]
fn a_group_with_slow_disks_elects() {
    run(&["--strict", "--from", "1", "--count", "1", "--kinds", "kill"]);
}

#[test]
fn a_leaders_reads_are_fresh() {
    let kinds = "isolation,kill,clientcut";
    run(&["--strict", "--from", "8", "--count", "5", "--kinds", kinds, "--leave", "slowdisks"]);
}

#[test]
fn full_disks_lose_nothing() {
    keeps_with("fulldisk,spentdisk,kill,powerloss", 1, 3);
}
