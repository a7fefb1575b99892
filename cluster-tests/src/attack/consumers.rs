//! What no consumer should ask for: impossible offsets, filters that cost more than the messages, heartbeats that go on and
//! on, and pulls by one that never reads the answers.

use serde_json::{Value, json};

use super::{ATTACK_TOPIC, Salvo, request, send_fields};

/// Numbers that are out of any range, or none.
const NUMBERS: [&str; 11] = [
    "-1",
    "-5",
    "65536",
    "1000000000",
    "2147483647",
    "-2147483648",
    "9223372036854775807",
    "-9223372036854775808",
    "1e3",
    "",
    "x",
];

/// The fields of a pull that is right, with the subscription in it; `changed` replaces some of them.
pub fn pull_fields(changed: &[(&str, Value)]) -> Value {
    let mut fields = json!({
        "consumerGroup": "attackers", "topic": ATTACK_TOPIC, "queueId": "0", "queueOffset": "0", "maxMsgNums": "32",
        "sysFlag": "6", "commitOffset": "0", "suspendTimeoutMillis": "1000", "subscription": "*", "subVersion": "0",
        "expressionType": "TAG",
    });
    for (name, value) in changed {
        fields[*name] = value.clone();
    }
    fields
}

/// Filters that a broker has to refuse, by kind: too long, too deep, or of far too many parts.
pub fn hostile_filters() -> Vec<(&'static str, &'static str, String)> {
    let deep =
        |open: &str, close: &str, depth: usize| format!("{}a > 1{}", open.repeat(depth), close.repeat(depth));
    let many = |part: &str, count: usize| vec![part; count].join(" OR ");
    vec![
        ("1 MiB of tags", "TAG", "tag||".repeat(210_000)),
        ("a tag of 1 MiB", "TAG", "t".repeat(1 << 20)),
        ("1 MiB of SQL", "SQL92", many("a > 1", 120_000)),
        ("deep parentheses", "SQL92", deep("(", ")", 4_000)),
        ("deep negations", "SQL92", deep("NOT ", "", 4_000)),
        ("deep minus signs", "SQL92", format!("a > {}1", "- ".repeat(4_000))),
        ("a list without end", "SQL92", format!("a IN ({}'x')", "'x',".repeat(100_000))),
        ("a number of 100,000 digits", "SQL92", format!("a > {}", "9".repeat(100_000))),
    ]
}

/// Property lists in which a name that a filter looks for occurs, or seems to, as often as there is room.
fn dear_properties() -> [String; 4] {
    let value = format!("z\u{1}{}\u{2}", "a".repeat(30_000));
    [value, "TAGS".repeat(7_500), "a\u{1}\u{2}".repeat(10_000), "\u{2}".repeat(30_000)]
}

/// Messages that are dear to look through, and pulls that do.
fn dear_messages() -> Vec<Salvo> {
    let pull = |kind: &str, filter: &str| {
        let changed = [("subscription", json!(filter)), ("expressionType", json!(kind))];
        request(11, &pull_fields(&changed), b"")
    };
    let pulls = [pull("SQL92", "a = 1"), pull("TAG", "a")].concat().repeat(10);
    let salvo = |(n, list): (usize, String)| {
        let send = request(310, &send_fields(&[("i", json!(list))]), b"x").repeat(50);
        Salvo::new(format!("messages that are dear to look through ({n})"), [send, pulls.clone()].concat())
    };
    dear_properties().into_iter().enumerate().map(salvo).collect()
}

/// Requests of hostile consumers.
pub fn consumers() -> Vec<Salvo> {
    let mut salvos = pulls();
    salvos.extend(dear_messages());
    salvos.extend(offsets());
    salvos.extend(send_backs());
    salvos.extend(heartbeats());
    salvos.extend(locks());
    salvos
}

fn pulls() -> Vec<Salvo> {
    let pull = |what: String, changed: &[(&str, Value)]| {
        let fields = pull_fields(changed);
        let bytes = [11, 361].map(|code| request(code, &fields, b"")).concat();
        Salvo::new(format!("pulls with {what}"), bytes)
    };
    let mut salvos = Vec::new();
    for name in [
        "queueId",
        "queueOffset",
        "maxMsgNums",
        "sysFlag",
        "commitOffset",
        "suspendTimeoutMillis",
        "subVersion",
    ] {
        salvos.extend(NUMBERS.map(|number| pull(format!("{name} = {number}"), &[(name, json!(number))])));
    }
    // Each bit of sysFlag means something.
    salvos.extend((0..31).map(|bit| {
        let flag = (1_i64 << bit).to_string();
        pull(format!("sysFlag {flag}"), &[("sysFlag", json!(flag))])
    }));
    for topic in
        ["", "../../../etc/passwd", "SCHEDULE_TOPIC_XXXX", "rmq_sys_wheel_timer", "%RETRY%", "nowhere"]
    {
        salvos.push(pull(format!("topic {topic}"), &[("topic", json!(topic))]));
    }
    for (what, kind, filter) in hostile_filters() {
        salvos
            .push(pull(what.to_owned(), &[("subscription", json!(filter)), ("expressionType", json!(kind))]));
    }
    for kind in ["", "SQL93", "\u{0}"] {
        salvos.push(pull(format!("filters of kind {kind:?}"), &[("expressionType", json!(kind))]));
    }
    salvos
}

/// Offsets of groups, and where queues end.
fn offsets() -> Vec<Salvo> {
    let mut salvos = Vec::new();
    for code in [14, 15, 29, 30, 31, 32, 33, 222] {
        for name in ["queueId", "commitOffset", "timestamp", "offset"] {
            for number in NUMBERS {
                let mut fields = json!({
                    "consumerGroup": "attackers", "group": "attackers", "topic": ATTACK_TOPIC, "queueId": "0",
                    "commitOffset": "0", "timestamp": "0", "offset": "0", "isForce": "true",
                });
                fields[name] = json!(number);
                salvos.push(Salvo::new(
                    format!("code {code} with {name} = {number}"),
                    request(code, &fields, b""),
                ));
            }
        }
    }
    salvos
}

fn send_backs() -> Vec<Salvo> {
    let mut salvos = Vec::new();
    for name in ["offset", "delayLevel", "maxReconsumeTimes", "group"] {
        for number in NUMBERS {
            let mut fields = json!({
                "offset": "0", "group": "attackers", "delayLevel": "0", "originTopic": ATTACK_TOPIC,
                "unitMode": "false", "maxReconsumeTimes": "16",
            });
            fields[name] = json!(number);
            // Many at once, as each may stand for a far larger record.
            let bytes = request(36, &fields, b"").repeat(50);
            salvos.push(Salvo::new(format!("returned messages with {name} = {number}"), bytes));
        }
    }
    salvos
}

fn heartbeats() -> Vec<Salvo> {
    let beat = |what: &str, body: Value| {
        Salvo::new(format!("a heartbeat with {what}"), request(34, &json!({}), body.to_string().as_bytes()))
    };
    let subscription = |topic: String, expression: String| {
        json!({
            "topic": topic, "subString": expression, "subVersion": i64::MAX, "expressionType": "SQL92",
            "tagsSet": [], "codeSet": [], "classFilterMode": false,
        })
    };
    let consumer = |group: String, subscriptions: Vec<Value>| {
        json!({
            "groupName": group, "consumeType": "CONSUME_PASSIVELY", "messageModel": "CLUSTERING",
            "consumeFromWhere": "CONSUME_FROM_FIRST_OFFSET", "subscriptionDataSet": subscriptions, "unitMode": false,
        })
    };
    let client = |consumers: Vec<Value>| json!({"clientID": "attacker@1", "consumerDataSet": consumers, "producerDataSet": []});
    let of = |subscriptions| client(vec![consumer("attackers".to_owned(), subscriptions)]);
    let many = (0..20_000).map(|n| subscription(format!("topic{n}"), "*".to_owned())).collect();
    let groups = (0..20_000).map(|n| consumer(format!("attackers{n}"), Vec::new())).collect();
    let mut salvos = vec![
        beat("20,000 subscriptions", of(many)),
        beat("20,000 groups", client(groups)),
        beat("a topic of 1 MiB", of(vec![subscription("t".repeat(1 << 20), "*".to_owned())])),
        beat("a group of 1 MiB", client(vec![consumer("g".repeat(1 << 20), Vec::new())])),
        beat("a client id of 1 MiB", json!({"clientID": "c".repeat(1 << 20)})),
        beat("no client id", json!({"consumerDataSet": [], "producerDataSet": []})),
        beat("a client id that is a number", json!({"clientID": 7})),
        beat("an array", json!([])),
        Salvo::new("a heartbeat of brackets", request(34, &json!({}), &[b'['; 500_000])),
    ];
    for (what, _, filter) in hostile_filters() {
        salvos.push(beat(what, of(vec![subscription(ATTACK_TOPIC.to_owned(), filter)])));
    }
    salvos
}

fn locks() -> Vec<Salvo> {
    let queue = |id: i64| json!({"brokerName": "broker-a", "topic": ATTACK_TOPIC, "queueId": id});
    let of = |queues: Vec<Value>| json!({"clientId": "attacker@1", "consumerGroup": "attackers", "mqSet": queues, "onlyThisBroker": false});
    let bodies = [
        ("20,000 queues", of((0..20_000).map(queue).collect())),
        ("impossible queues", of([-1, i64::from(i32::MAX), i64::MAX].map(queue).to_vec())),
        ("no client", json!({"consumerGroup": "attackers", "mqSet": [queue(0)]})),
    ];
    let both = |(what, body): (&str, Value)| {
        let bytes = [41, 42].map(|code| request(code, &json!({}), body.to_string().as_bytes())).concat();
        Salvo::new(format!("locks of {what}"), bytes)
    };
    bodies.into_iter().map(both).collect()
}

/// So many pulls of a queue from its beginning on, for a consumer that does not read the answers.
pub fn greedy_pulls(topic: &str, queue: u32, count: usize) -> Vec<u8> {
    let changed = [("topic", json!(topic)), ("queueId", json!(queue.to_string())), ("sysFlag", json!("4"))];
    request(11, &pull_fields(&changed), b"").repeat(count)
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use raftmq_remoting::Command;
    use raftmq_remoting::frame::{FRAME_LEN_MAX, decode};
    use raftmq_remoting::header::PullHeader;

    use super::*;

    #[test]
    fn the_pull_that_is_bent_is_a_right_one() {
        let mut bytes = BytesMut::from(&greedy_pulls("T", 3, 2)[..]);
        for _ in 0..2 {
            let command = Command::decode(decode(&mut bytes, FRAME_LEN_MAX).unwrap().unwrap()).unwrap();
            let header = PullHeader::decode(&command).unwrap();
            assert_eq!((header.topic.as_ref(), header.queue_id, header.queue_offset), ("T", 3, 0));
            assert_eq!(header.subscription.as_deref(), Some("*"));
        }
        assert!(bytes.is_empty());
    }
}
