//! What this crate makes of requests, for fuzzers: whatever they are, nothing here may panic.

use raftmq_remoting::Command;

use crate::LIMITS;
use crate::handler::Names;
use crate::table::Table;

/// Answers requests one after the other, as a name server that has just been started.
pub fn requests(requests: impl IntoIterator<Item = Command>) {
    const TIMEOUT_MS: u64 = 30_000;
    let names = Names::new(Table::new(LIMITS), TIMEOUT_MS, String::new());
    for (number, request) in (0..).zip(requests) {
        names.answer(number * 1_000, number % 3, &request);
        names.expire(number * 2_000);
    }
    names.connection_closed(1);
}
