//! The same seed gives the same history, to the byte.

use std::process::Command;

fn history(seed: u64) -> Vec<u8> {
    let run = Command::new(env!("CARGO_BIN_EXE_raftmq-sim"))
        .args(["one", "--trace", "--seconds", "3", "--seed"])
        .arg(seed.to_string())
        .output()
        .expect("it runs");
    run.stdout
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let (first, again) = (history(1), history(1));
    assert!(first.len() > 500 && first == again);
    assert_ne!(history(2), first);
}
