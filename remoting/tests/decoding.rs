//! What headers and bodies mean here, held against what RocketMQ's own decoders (4.9.7 with fastjson 1, 5.4.0 with
//! fastjson 2) make of the same bytes.
//!
//! `decoding/java-*.json` were recorded from those by `scripts/decoders`: every field of every header and body with
//! every kind of value, one at a time, and texts that are not quite JSON. Where the two versions agree, ours has to be
//! the same; where they do not, ours has to be one of them, and what either accepts has to be accepted. Exceptions stand
//! in [`differences`] with their reasons.

#![allow(clippy::unwrap_used)]

#[path = "decoding/bodies.rs"]
mod bodies;
#[path = "decoding/differences.rs"]
mod differences;
#[path = "decoding/headers.rs"]
mod headers;
#[path = "decoding/outcome.rs"]
mod outcome;
#[path = "decoding/record.rs"]
mod record;

use bytes::Bytes;
use raftmq_remoting::command::language;
use raftmq_remoting::{Command, RawFrame, Serialization};
use serde_json::{Value, json};

use differences::Differences;
use outcome::{Outcome, of_java};
use record::Record;

/// One input and what became of it.
#[derive(Debug)]
pub(crate) struct Case<'a> {
    /// What was decoded, `header ext` or `body HeartbeatData clientID`.
    pub(crate) place: String,
    /// The value that was given or the whole text.
    pub(crate) input: &'a str,
    /// Of each version that has this place.
    pub(crate) java: Vec<Outcome>,
    pub(crate) ours: Outcome,
    /// What ours is without the field, which is what null means.
    pub(crate) absent: Outcome,
}

fn decode(serialization: Serialization, header: &[u8]) -> Option<Command> {
    let header = Bytes::copy_from_slice(header);
    Command::decode(RawFrame { serialization, header, body: Bytes::new() }).ok()
}

/// Members of a command as JSON.
fn members(command: &Command) -> Value {
    let ext = command.ext.iter().map(|(key, value)| (key.to_owned(), Value::from(&*value)));
    json!({
        "code": command.code, "language": language::name(command.language), "version": command.version,
        "flag": command.flag, "remark": command.remark, "extFields": Value::Object(ext.collect()),
    })
}

fn command(text: &str, member: &str) -> Outcome {
    let command = decode(Serialization::Json, text.as_bytes());
    command.map_or(Outcome::Refused, |command| Outcome::Value(members(&command)[member].clone()))
}

#[test]
fn everything_means_what_it_means_in_java() {
    let records = Record::both();
    let mut differences = Differences::new();
    members_of_a_header(&records, &mut differences);
    texts(&records, &mut differences);
    bytes(&records, &mut differences);
    fields_of_headers(&records, &mut differences);
    members_of_bodies(&records, &mut differences);
    differences.finish();
}

/// Each member with each kind of value; `ext` is a member of extFields.
fn members_of_a_header(records: &[Record; 2], differences: &mut Differences) {
    for member in ["code", "language", "version", "flag", "remark", "extFields", "ext"] {
        let (name, text): (_, &dyn Fn(&str) -> String) = match member {
            "ext" => ("extFields", &|value| format!(r#"{{"code":11,"extFields":{{"k":{value}}}}}"#)),
            "code" => ("code", &|value| format!(r#"{{"code":{value}}}"#)),
            _ => (member, &|value| format!(r#"{{"code":11,"{member}":{value}}}"#)),
        };
        for (at, input) in records[0].members.iter().enumerate() {
            differences.check(Case {
                place: format!("header {member}"),
                input,
                java: records.iter().map(|record| of_java(&record.header[member][at])).collect(),
                ours: command(&text(input), name),
                absent: command("{}", name),
            });
        }
    }
}

/// Texts that are not quite JSON.
fn texts(records: &[Record; 2], differences: &mut Differences) {
    for (old, new) in records[0].shapes.iter().zip(&records[1].shapes) {
        assert_eq!(old.0, new.0);
        let java = vec![of_java(&Value::from(&*old.1)), of_java(&Value::from(&*new.1))];
        let (ours, absent) = (command(&old.0, "code"), command("{}", "code"));
        differences.check(Case { place: "shape".to_owned(), input: &old.0, java, ours, absent });
    }
}

/// Binary headers, and JSON that is no UTF-8.
fn bytes(records: &[Record; 2], differences: &mut Differences) {
    for (serialization, of) in [
        (Serialization::RocketMq, (|record| &record.binary) as fn(&Record) -> &Vec<(String, String)>),
        (Serialization::Json, |record| &record.bad_utf8),
    ] {
        for (old, new) in of(&records[0]).iter().zip(of(&records[1])) {
            let digits: Vec<char> = old.0.chars().collect();
            let header = digits.chunks(2).map(|two| u8::from_str_radix(&String::from_iter(two), 16).unwrap());
            let command = decode(serialization, &header.collect::<Vec<u8>>());
            differences.check(Case {
                place: format!("bytes {serialization:?}"),
                input: &old.0,
                java: vec![of_java(&Value::from(&*old.1)), of_java(&Value::from(&*new.1))],
                ours: command.map_or(Outcome::Refused, |command| Outcome::Value(members(&command))),
                absent: Outcome::Refused,
            });
        }
    }
}

/// Each field of each header with each kind of text.
fn fields_of_headers(records: &[Record; 2], differences: &mut Differences) {
    for (class, read) in headers::READERS {
        for (field, versions) in Record::fields(records, |record| &record.headers, class) {
            let ours = |text: Option<&str>| headers::outcome(*read, &versions, &field, text);
            let absent = ours(None);
            if !headers::has(*read, &versions, &field) {
                continue;
            }
            let place = format!("field {class} {field}");
            differences.check(Case {
                place: place.clone(),
                input: "(absent)",
                java: versions.iter().map(|version| headers::absent(version.field)).collect(),
                ours: absent.clone(),
                absent: absent.clone(),
            });
            for (at, input) in records[0].texts.iter().enumerate() {
                let java = versions.iter().map(|version| of_java(&version.row[at])).collect();
                let (ours, absent) = (ours(Some(input)), absent.clone());
                differences.check(Case { place: place.clone(), input, java, ours, absent });
            }
        }
    }
}

/// Each member of each body, lists and maps inside it too, with each kind of value.
fn members_of_bodies(records: &[Record; 2], differences: &mut Differences) {
    for (class, read) in bodies::READERS {
        for (path, versions) in Record::fields(records, |record| &record.bodies, class) {
            // The newest class has the most members.
            let text = versions[versions.len() - 1].text.as_str().unwrap();
            if !bodies::has(*read, text, &path) {
                continue;
            }
            let ours = |member: &str| bodies::outcome(*read, text, &path, member);
            let (place, absent) = (format!("body {class} {path}"), ours("null"));
            for (at, input) in records[0].members.iter().enumerate() {
                let java = versions.iter().map(|version| of_java(&version.row[at])).collect();
                differences.check(Case {
                    place: place.clone(),
                    input,
                    java,
                    ours: ours(input),
                    absent: absent.clone(),
                });
            }
        }
    }
}
