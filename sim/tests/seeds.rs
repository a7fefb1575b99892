//! Seeds with every fault that the group is known to stand, for about a minute: the same ones first, then fresh ones.

use std::process::Command;

/// What is known not to be stood yet, see `open.rs`.
const KNOWN: [&str; 4] = ["--without", "flippedbit,emptieddisk,olddisk", "--leave", "freshreads,slowdisks"];

fn run(args: &[&str]) {
    let run = Command::new(env!("CARGO_BIN_EXE_raftmq-sim")).arg("many").args(KNOWN).args(args).output();
    let run = run.expect("it runs");
    let said = String::from_utf8_lossy(&run.stdout);
    println!("{said}");
    assert!(run.status.success(), "{said}{}", String::from_utf8_lossy(&run.stderr));
}

#[test]
fn every_promise_is_kept() {
    run(&["--from", "1", "--count", "4"]);
    run(&["--count", "1000", "--for-seconds", "30"]);
}
