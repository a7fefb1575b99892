#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| raftmq_fuzz_targets::run("message_id", data));
