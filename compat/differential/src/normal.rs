//! What is left of an answer when everything is gone that must differ between two brokers or two runs. All of it is
//! here, each rule with its reason.

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::frame::{Cursor, Received};
use crate::script::Names;
use crate::session::Answer;

/// Numbers this near to the present, in ms, are times.
const NEAR_MS: i64 = 24 * 3600 * 1000;

/// Header fields of answers that are not compared.
const FIELDS_LEFT_OUT: [&str; 10] = [
    // Each broker gives its own.
    "msgId",
    "transactionId",
    "batchUniqId",
    // 5.4.0 returns them with delayed messages; recalling is not built.
    "recallHandle",
    // Set by every broker as its own settings say.
    "MSG_REGION",
    "TRACE_ON",
    // Where the index is, physically.
    "indexLastUpdatePhyoffset",
    // Versions of the broker's tables, as JSON text: they count what other cases do.
    "version",
    // How many there are in all, other cases' among them.
    "totalTopicNum",
    "totalGroupNum",
];

/// Members of bodies that are not compared.
const MEMBERS_LEFT_OUT: [&str; 18] = [
    // They count what other cases do too.
    "dataVersion",
    "mappingDataVersion",
    // Of 5.x's static topics, which are not built; empty.
    "topicQueueMappingDetailMap",
    "topicQueueMappingInfoMap",
    // Addresses: each broker and each connection has its own.
    "clientAddr",
    "remoteIP",
    "brokerAddr",
    // Measured.
    "consumeTps",
    "topicPutTps",
    "totalDiff",
    "totalInflightDiff",
    // Milliseconds between two times of the broker's.
    "delayTime",
    // Words for the times beside them, which a reader's own class has too.
    "consumeTimeStampStr",
    "maxTimeStampStr",
    "minTimeStampStr",
    // Of 5.x; absent or constant.
    "enableActingMaster",
    "zoneName",
    // Of 4.x: servers that nobody has.
    "filterServerTable",
];

/// Properties that a broker adds to a stored message, each its own.
const PROPERTIES_LEFT_OUT: [&str; 6] =
    ["MSG_REGION", "TRACE_ON", "CLUSTER", "UNIQ_KEY", "ORIGIN_MESSAGE_ID", "STORE_TIME"];

/// Codes whose answers tell of everything there is: only what belongs to the case is looked at.
const OF_EVERYTHING: [i64; 12] = [21, 201, 328, 317, 106, 206, 224, 304, 311, 312, 313, 43];

/// Codes whose bodies describe the broker itself: only that there is one.
const OF_THE_BROKER: [i64; 4] = [28, 26, 319, 25];

/// Codes whose bodies are stored messages.
const MESSAGES: [i64; 3] = [11, 361, 33];

/// What is compared of an answer to a request of `code`.
pub fn normalise(code: i64, answer: &Answer, names: &Names) -> Value {
    match answer {
        Answer::Closed => json!({"code": "closed"}),
        Answer::Nothing => json!({"code": "none"}),
        Answer::NotAsked => json!({"code": "not asked"}),
        Answer::Got(received) => json!({
            "code": received.code,
            "ext": fields(received, names),
            "body": body(code, received, names),
        }),
    }
}

fn fields(received: &Received, names: &Names) -> Value {
    let kept = received.ext.iter().filter(|(name, _)| !FIELDS_LEFT_OUT.contains(&name.as_str()));
    let kept = kept.map(|(name, value)| (name.clone(), scalar(&Value::from(same_names(value, names)))));
    Value::Object(kept.collect())
}

/// The case's names without what tells runs apart.
fn same_names(text: &str, names: &Names) -> String {
    text.replace(&names.id, "~")
}

fn body(code: i64, received: &Received, names: &Names) -> Value {
    if received.body.is_empty() {
        return Value::Null;
    }
    if OF_THE_BROKER.contains(&code) {
        return "present".into();
    }
    if MESSAGES.contains(&code) && received.code == 0 {
        return records(&received.body, names)
            .unwrap_or_else(|error| format!("unreadable: {error:#}").into());
    }
    let text = String::from_utf8_lossy(&received.body);
    let Ok(parsed) = crate::relaxed::parse(&text) else { return same_names(&text, names).into() };
    let parsed = if OF_EVERYTHING.contains(&code) { only_of(&names.id, parsed) } else { parsed };
    cleaned(&parsed, names)
}

/// Keeps what has the case's names in it.
fn only_of(id: &str, value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let kept = members.into_iter().filter_map(|(key, value)| {
                if key.contains(id) {
                    return Some((key, value));
                }
                value.to_string().contains(id).then(|| (key, only_of(id, value)))
            });
            Value::Object(kept.collect())
        }
        Value::Array(elements) => {
            let kept = elements.into_iter().filter(|element| element.to_string().contains(id));
            kept.map(|element| only_of(id, element)).collect()
        }
        other => other,
    }
}

fn cleaned(value: &Value, names: &Names) -> Value {
    match value {
        Value::Object(members) => {
            let mut kept = Map::new();
            for (key, value) in members {
                // Members that are null are left out by some encoders.
                if value.is_null() || MEMBERS_LEFT_OUT.contains(&key.as_str()) {
                    continue;
                }
                let value = if key == "brokerAddrs" { leaders_only(value) } else { value.clone() };
                kept.insert(same_names(key, names), cleaned(&value, names));
            }
            Value::Object(kept)
        }
        Value::Array(elements) => {
            // The sets of Java have no order.
            let mut elements: Vec<_> = elements.iter().map(|element| cleaned(element, names)).collect();
            elements.sort_by_key(Value::to_string);
            elements.into()
        }
        Value::String(text) => scalar(&same_names(text, names).into()),
        other => scalar(other),
    }
}

/// A Java broker alone has no followers.
fn leaders_only(value: &Value) -> Value {
    let Value::Object(members) = value else { return value.clone() };
    let kept = members.iter().filter(|(id, addr)| *id == "0" || !addr.to_string().contains("127.0.0.1"));
    Value::Object(kept.map(|(id, addr)| (id.clone(), addr.clone())).collect())
}

/// Times and addresses of this machine differ.
fn scalar(value: &Value) -> Value {
    let number = match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) if text.contains("127.0.0.1:") => return "address".into(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    if number.is_some_and(|number| (number - now_ms()).abs() < NEAR_MS) {
        "now".into()
    } else {
        value.clone()
    }
}

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}

/// Stored messages, without physical offsets, store times, hosts and checksums.
fn records(bytes: &[u8], names: &Names) -> Result<Value> {
    /// Bits of the system flag: the host of the producer, of the broker, has 16 bytes.
    const LONG_HOSTS: [i32; 2] = [16, 32];
    /// The magic number of records whose topic's length takes two bytes.
    const LONG_TOPIC: i32 = -626_843_477;
    let (mut at, mut messages) = (Cursor(bytes), Vec::new());
    while !at.0.is_empty() {
        let size = at.i32()?;
        let mut record = Cursor(at.take((size - 4).max(0) as usize)?);
        let magic = record.i32()?;
        record.take(4)?;
        let (queue, flag, offset) = (record.i32()?, record.i32()?, record.i64()?);
        record.take(8)?;
        let (sys_flag, born) = (record.i32()?, record.i64()?);
        let host_bytes = |bit: i32| if sys_flag & bit == 0 { 8 } else { 20 };
        record.take(host_bytes(LONG_HOSTS[0]))?;
        record.take(8)?;
        record.take(host_bytes(LONG_HOSTS[1]))?;
        let times = record.i32()?;
        record.take(8)?;
        let length = record.i32()? as usize;
        let body = String::from_utf8_lossy(record.take(length)?).into_owned();
        let length = if magic == LONG_TOPIC { record.i16()? as usize } else { record.u8()?.into() };
        let topic = String::from_utf8_lossy(record.take(length)?).into_owned();
        let length = record.i16()? as u16;
        let properties = String::from_utf8_lossy(record.take(length.into())?).into_owned();
        messages.push(json!({
            "queueId": queue, "flag": flag, "queueOffset": offset, "sysFlag": sys_flag, "bornTimestamp": born,
            "reconsumeTimes": times, "body": same_names(&body, names), "topic": same_names(&topic, names),
            "properties": properties_of(&properties, names),
        }));
    }
    Ok(messages.into())
}

fn properties_of(text: &str, names: &Names) -> Value {
    let pairs = text.split('\u{2}').filter_map(|pair| pair.split_once('\u{1}'));
    let kept = pairs.filter(|(name, _)| !PROPERTIES_LEFT_OUT.contains(name));
    Value::Object(
        kept.map(|(name, value)| (name.to_owned(), scalar(&same_names(value, names).into()))).collect(),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn got(body: &str) -> Answer {
        let ext =
            BTreeMap::from([("msgId".to_owned(), "X".to_owned()), ("offset".to_owned(), "3".to_owned())]);
        let body = body.as_bytes().to_vec();
        Answer::Got(Received {
            code: 0,
            opaque: 1,
            is_answer: true,
            is_oneway: false,
            remark: String::new(),
            ext,
            body,
        })
    }

    #[test]
    fn what_differs_by_nature_is_gone() {
        let names = Names::new(1, 2);
        let body = format!(
            r#"{{"dataVersion":1,"b":[2,1],"t":{},"n":null,"g":"g{}","a":"127.0.0.1:1"}}"#,
            now_ms(),
            names.id
        );
        let normal = normalise(203, &got(&body), &names);
        assert_eq!(normal["body"], json!({"b": [1, 2], "t": "now", "g": "g~", "a": "address"}));
        assert_eq!(normal["ext"], json!({"offset": "3"}));
    }

    #[test]
    fn answers_that_tell_of_everything_are_cut_down_to_the_case() {
        let names = Names::new(1, 2);
        let body = format!(r#"{{"topicConfigTable":{{"other":{{"perm":6}},"t{}":{{"perm":4}}}}}}"#, names.id);
        assert_eq!(
            normalise(21, &got(&body), &names)["body"],
            json!({"topicConfigTable": {"t~": {"perm": 4}}})
        );
    }
}
