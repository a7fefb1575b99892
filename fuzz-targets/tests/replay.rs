//! Calls every target with the inputs in `fuzz/corpus/`, and those that read frames with the recorded frames of clients.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests reach for the system")]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use raftmq_fuzz_targets::{TARGETS, run};
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

#[test]
fn inputs_that_are_kept_do_no_harm() {
    for (name, target) in TARGETS {
        target(b"");
        let folder = root().join("fuzz/corpus").join(name);
        let mut inputs: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        inputs.sort();
        assert!(!inputs.is_empty(), "{} is empty", folder.display());
        for input in inputs {
            // Where it panics, this is the last that was said.
            println!("{}", input.display());
            target(&fs::read(&input).unwrap());
        }
    }
}

#[test]
fn every_target_has_its_program() {
    let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).unwrap();
    for (name, _) in TARGETS {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is missing in fuzz/Cargo.toml");
        let program = fs::read_to_string(root().join(format!("fuzz/targets/{name}.rs"))).unwrap();
        assert!(program.contains(&format!("\"{name}\"")), "{name}");
    }
}

#[test]
fn recorded_frames_do_no_harm() {
    let mut count = 0;
    for file in fs::read_dir(root().join("remoting/tests/clients")).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        for line in text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
            let (header, body) = (bytes(&line, "header"), bytes(&line, "body"));
            let is_binary = line.get("serialization").is_some();
            run(if is_binary { "binary_header" } else { "json_header" }, &header);
            run("bodies", &[&[9], &body[..]].concat());
            let length = (4 + header.len() + body.len()) as u32;
            let word = header.len() as u32 | u32::from(is_binary) << 24;
            let frame = [&length.to_be_bytes()[..], &word.to_be_bytes(), &header, &body].concat();
            for target in ["frames", "name_server", "pull_answer"] {
                run(target, &frame);
            }
            count += 1;
        }
    }
    assert!(count > 100);
}

fn bytes(line: &Value, name: &str) -> Vec<u8> {
    if let Some(text) = line.get(name) {
        return text.as_str().unwrap().as_bytes().to_vec();
    }
    let digits = line.get(format!("{name}Hex")).map_or("", |digits| digits.as_str().unwrap());
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}
