//! Consumers that mean no good: the others go on unharmed.

use std::net::SocketAddr;

use raftmq_remoting::codes::response;
use serde_json::json;

use super::*;

const PULL: i32 = 11;
const HEARTBEAT: i32 = 34;
const SEND_BACK: i32 = 36;

/// Most a node may hold besides the log: what a busy node holds, and the limits of what waits for those who do not read.
const ANONYMOUS_BYTES_MAX: u64 = 256 << 20;

fn refusal(to: SocketAddr, code: i32, fields: &Value, body: &[u8]) -> Command {
    let answer = attack::ask(to, &attack::request(code, fields, body)).unwrap();
    assert_ne!(answer.code, response::SUCCESS, "code {code}");
    assert!(answer.remark.as_ref().is_some_and(|remark| !remark.is_empty()), "{answer:?}");
    answer
}

#[test]
fn hostile_consumers_are_told_so_and_harm_nobody() {
    let _alone = alone();
    let mut group = group(&[]);
    let options = load_options(&group, 71);
    workload::prepare(&options).unwrap();
    let log = Deliveries::default();
    let members = members(2, &MemberOptions::new(group.name_servers(), &options.topic, "unharmed"), &log);
    let workload = load(&options);
    let leader = group.wait_all_caught_up(LONG).unwrap().node_id;
    let to = group.node(leader).addr(PortKind::Client);
    // Something to be pulled and returned.
    attack::ask(to, &attack::request(310, &attack::send_fields(&[]), &[b'x'; 100_000])).unwrap();

    // Answers of 100 MB and more, none of which is ever read.
    let greedy = attack::greedy_pulls(attack::ATTACK_TOPIC, 0, 2000);
    let held = attack::hold(to, 20, &greedy).unwrap();
    for salvo in attack::consumers() {
        salvo.fire(to).unwrap();
        if let Err(error) = group.check_alive() {
            panic!("after {}: {error:#}", salvo.what);
        }
    }
    for (what, kind, filter) in attack::hostile_filters() {
        let changed = [("subscription", json!(filter)), ("expressionType", json!(kind))];
        let answer = refusal(to, PULL, &attack::pull_fields(&changed), b"");
        assert_eq!(answer.code, response::SUBSCRIPTION_PARSE_FAILED, "{what}: {:?}", answer.remark);
        assert!(answer.remark.unwrap().len() < 10_000, "{what}: the answer repeats the filter");
    }
    let unknown = refusal(to, PULL, &attack::pull_fields(&[("topic", json!("nowhere"))]), b"");
    assert_eq!(unknown.code, response::TOPIC_NOT_EXIST);
    let beyond = refusal(to, PULL, &attack::pull_fields(&[("queueOffset", json!("1000000"))]), b"");
    assert_eq!(beyond.code, response::PULL_OFFSET_MOVED);
    refusal(to, PULL, &attack::pull_fields(&[("queueId", json!("77"))]), b"");
    refusal(to, HEARTBEAT, &json!({}), br#"{"clientID":""}"#);
    let nowhere = json!({"offset": "-1", "group": "unharmed", "delayLevel": "0", "unitMode": "false"});
    refusal(to, SEND_BACK, &nowhere, b"");

    let anonymous = group.node(leader).anonymous_bytes().unwrap();
    assert!(anonymous < ANONYMOUS_BYTES_MAX, "{} MiB held", anonymous >> 20);
    let history = end(workload);
    check(&history, &log, members, Consumption { disturbances: 0, in_order: false });
    drop(held);
}
