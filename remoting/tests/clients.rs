//! Frames of real clients, read as the broker reads them.
//!
//! `clients/*.jsonl` has frames that clients sent at their defaults, recorded by `scripts/record-frames`, and in
//! `dotnet.jsonl` and `php.jsonl` some made by hand after those clients' sources, which each line names. A line has the
//! header as it went over the network and the body, message bodies made short. What a decoder makes of them is
//! compared with what the text itself says, member by member; what no decoder here asks for is listed in [`UNREAD`].

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, BytesMut};
use raftmq_message::batch::BatchIter;
use raftmq_message::properties;
use raftmq_remoting::body::*;
use raftmq_remoting::command::language;
use raftmq_remoting::fastjson::{BodyError, parse, to_vec};
use raftmq_remoting::frame::{self, FRAME_LEN_MAX};
use raftmq_remoting::header::*;
use raftmq_remoting::{Command, Ext};
use serde_json::{Map, Value, json};

/// Each client with codes of requests that its frames have to have, and `-` before those of requests it answered.
const CLIENTS: &[(&str, &str, &str)] = &[
    ("java-4.2.0", include_str!("clients/java-4.2.0.jsonl"), "11 14 15 34 35 38 105 310 320 -307"),
    ("java-4.9.7", include_str!("clients/java-4.9.7.jsonl"), "11 14 15 34 35 36 38 41 42 46 105 310 -307"),
    ("java-5.4.0", include_str!("clients/java-5.4.0.jsonl"), "11 14 15 34 35 36 38 41 42 46 105 310 -307"),
    ("java-5.5.0", include_str!("clients/java-5.5.0.jsonl"), "11 14 15 34 35 36 38 41 42 46 105 310 -307"),
    ("cpp", include_str!("clients/cpp.jsonl"), "11 14 15 34 35 36 38 41 105"),
    ("go", include_str!("clients/go.jsonl"), "10 11 14 15 34 36 38 41 42 105"),
    ("node", include_str!("clients/node.jsonl"), "11 14 15 34 35 36 38 105"),
    ("dotnet", include_str!("clients/dotnet.jsonl"), "11 15 34 35 36 41 310"),
    ("php", include_str!("clients/php.jsonl"), "10 11 34 36 41 206"),
];

type Fields = fn(&Command) -> Result<Ext, HeaderError>;
type Body = fn(&[u8]) -> Result<Vec<u8>, BodyError>;

macro_rules! fields {
    ($($code:literal)* => $ty:ident) => { fields!($($code)* => $ty to_ext) };
    ($($code:literal)* => $ty:ident $to_ext:ident) => {
        (&[$($code),*] as &[i32], (|command| Ok($ty::decode(command)?.$to_ext())) as Fields)
    };
}

/// How the broker and the name server read the fields of a request.
const FIELDS: &[(&[i32], Fields)] = &[
    fields!(10 324 => SendHeader to_ext_v1),
    fields!(310 320 325 => SendHeader),
    fields!(11 361 => PullHeader),
    fields!(12 => QueryMessageHeader),
    fields!(14 => QueryConsumerOffsetHeader),
    fields!(15 => UpdateConsumerOffsetHeader),
    fields!(17 => CreateTopicHeader),
    fields!(29 => SearchOffsetHeader),
    fields!(30 31 32 => QueueHeader),
    fields!(33 => ViewMessageHeader),
    fields!(35 => UnregisterClientHeader),
    fields!(36 => SendBackHeader),
    fields!(38 203 => ConsumerGroupHeader),
    fields!(105 => RouteHeader),
    fields!(202 215 300 351 => TopicHeader),
    fields!(204 => ProducerGroupHeader),
    fields!(207 => DeleteGroupHeader),
    fields!(208 => ConsumeStatsHeader),
    fields!(216 => DeleteTopicRouteHeader),
    fields!(222 => ResetOffsetHeader),
    fields!(223 => ConsumerStatusHeader),
    fields!(224 => ClusterHeader),
    fields!(303 => GroupTopicHeader),
    fields!(307 309 => ConsumerClientHeader),
    fields!(314 => CloneOffsetsHeader),
    fields!(317 => BrokerConsumeStatsHeader),
    fields!(343 352 => GroupConfigHeader),
    fields!(345 => QuerySubscriptionHeader),
];

macro_rules! body {
    ($($code:literal)* => $ty:ident) => { (&[$($code),*] as &[i32], (|text| to_vec(&parse::<$ty>(text)?)) as Body) };
    ($($code:literal)* => $ty:ident $to_json:ident) => {
        (&[$($code),*] as &[i32], (|text| parse::<$ty>(text)?.$to_json()) as Body)
    };
}

/// How they read the JSON body of a request.
const BODIES: &[(&[i32], Body)] = &[
    body!(18 => TopicConfigList),
    body!(34 => HeartbeatData),
    body!(41 42 => LockBatchRequest),
    body!(46 => CheckClientRequest),
    body!(200 => SubscriptionGroupConfig),
    body!(225 => SubscriptionGroupList),
];

/// How they read the body of a client's answer to a request.
const ANSWERS: &[(&[i32], Body)] = &[
    (&[221], (|text| parse::<ClientStatus>(text)?.to_json()) as Body),
    (&[307], |text| {
        Ok(serde_json::to_vec(
            &json!({"subscriptionSet": parse::<RunningSubscriptions>(text)?.subscription_set}),
        )?)
    }),
    body!(309 => ConsumeMessageDirectlyResult),
];

/// Requests without fields that anybody reads.
const WITHOUT_FIELDS: &[i32] = &[18, 21, 26, 28, 34, 41, 42, 43, 45, 46, 106, 200, 201, 206, 225, 319];

/// Values that are not Java's names: numbers from C++, words from PHP.
const NAMES: &[(&str, &str, &str)] = &[
    ("consumeFromWhere", "0", "CONSUME_FROM_LAST_OFFSET"),
    ("consumeFromWhere", "4", "CONSUME_FROM_FIRST_OFFSET"),
    ("consumeType", "1", "CONSUME_PASSIVELY"),
    ("consumeType", "PUSH", "CONSUME_PASSIVELY"),
    ("messageModel", "0", "BROADCASTING"),
    ("messageModel", "1", "CLUSTERING"),
];

/// Fields that nobody here reads, in requests of all kinds: signatures (C++ always signs), whether it is a client's own
/// connection that they come on (`ReqT`, 5.x), and the broker's name, which only proxies need.
const UNREAD_ANYWHERE: &[&str] = &["AccessKey", "OnsChannel", "Signature", "ReqT", "bname"];

/// What else clients send and nobody here reads: code, a minus before it in an answer, and the member or field.
const UNREAD: &[&str] = &[
    "-307 /jstack",
    "-307 /mqPopTable",
    "-307 /mqTable",
    "-307 /properties",
    "-307 /statusTable",
    "-307 /userConsumerInfo",
    "17 force",
    "30 consumerGroup",
    "307 jstackEnable",
    "351 lo",
];

/// A line of the corpus.
struct Frame<'a> {
    place: String,
    header: Vec<u8>,
    body: Vec<u8>,
    line: &'a Map<String, Value>,
}

impl<'a> Frame<'a> {
    fn new(client: &str, number: usize, line: &'a Map<String, Value>) -> Self {
        let bytes = |name: &str| match (line.get(name), line.get(&format!("{name}Hex"))) {
            (Some(text), None) => text.as_str().unwrap().as_bytes().to_vec(),
            (None, Some(digits)) => from_hex(digits.as_str().unwrap()),
            (None, None) => Vec::new(),
            _ => panic!("{client}, line {number}: {name} twice"),
        };
        let place = format!("{client}, line {number}, code {}", line["code"]);
        Self { place, header: bytes("header"), body: bytes("body"), line }
    }

    fn is_binary(&self) -> bool {
        self.line.get("serialization").is_some_and(|name| name == "ROCKETMQ")
    }

    /// As it is taken off a connection.
    fn decode(&self) -> Command {
        let mut bytes = BytesMut::new();
        bytes.put_u32((4 + self.header.len() + self.body.len()) as u32);
        bytes.put_u32(self.header.len() as u32 | u32::from(self.is_binary()) << 24);
        bytes.put_slice(&self.header);
        bytes.put_slice(&self.body);
        let frame = frame::decode(&mut bytes, FRAME_LEN_MAX).unwrap().unwrap();
        assert!(bytes.is_empty());
        Command::decode(frame).unwrap_or_else(|error| panic!("{}: {error}", self.place))
    }

    /// What the header says, read without the code that is tested.
    fn said(&self) -> Value {
        if !self.is_binary() {
            return serde_json::from_slice(&self.header).unwrap();
        }
        let (mut rest, mut ext) = (Binary(&self.header), Map::new());
        let mut said = json!({
            "code": rest.number(2), "language": language::name(rest.number(1) as u8), "version": rest.number(2),
            "opaque": rest.number(4), "flag": rest.number(4),
        });
        let remark = rest.number(4);
        said["remark"] = rest.text(remark).into();
        let _ = rest.number(4);
        while !rest.0.is_empty() {
            let len = rest.number(2);
            let key = rest.text(len);
            let len = rest.number(4);
            ext.insert(key, rest.text(len).into());
        }
        said["extFields"] = ext.into();
        said
    }
}

struct Binary<'a>(&'a [u8]);

impl Binary<'_> {
    fn number(&mut self, len: usize) -> i64 {
        let (number, rest) = self.0.split_at(len);
        self.0 = rest;
        number.iter().fold(0, |sum, byte| sum << 8 | i64::from(*byte))
    }

    fn text(&mut self, len: i64) -> String {
        let (text, rest) = self.0.split_at(len as usize);
        self.0 = rest;
        String::from_utf8(text.to_vec()).unwrap()
    }
}

fn from_hex(digits: &str) -> Vec<u8> {
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

/// A value as the text that it stands for in a field.
fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Collects what is read by nobody.
struct Unread {
    code: String,
    found: BTreeSet<String>,
}

impl Unread {
    fn note(&mut self, path: &str) {
        self.found.insert(format!("{} {path}", self.code));
    }

    /// Every field that was sent, if it is one that we have, has the value that was sent.
    fn fields(&mut self, frame: &Frame<'_>, sent: &Map<String, Value>, ours: &Ext) {
        for (key, value) in sent.iter().filter(|(_, value)| !value.is_null()) {
            let Some(ours) = ours.get(key) else {
                if !UNREAD_ANYWHERE.contains(&&**key) {
                    self.note(key);
                }
                continue;
            };
            let text = text_of(value);
            let is_bool = matches!(&*ours, "true" | "false");
            let same =
                if is_bool { (ours == "true") == (text.to_lowercase() == "true") } else { ours == text };
            assert!(same, "{}: field {key} is {text:?}, decoded {ours:?}", frame.place);
        }
    }

    /// The same for the members of a body, whatever is inside them.
    fn members(&mut self, frame: &Frame<'_>, path: &str, sent: &Value, ours: &Value) {
        match (sent, ours) {
            (Value::Object(sent), Value::Object(ours)) => {
                for (key, value) in sent.iter().filter(|(_, value)| !value.is_null()) {
                    let name = if key.starts_with('{') { "*" } else { key };
                    let path = format!("{path}/{name}");
                    match ours.iter().find(|(ours, _)| ours.eq_ignore_ascii_case(key)) {
                        Some((_, ours)) => self.members(frame, &path, value, ours),
                        None => self.note(&path),
                    }
                }
            }
            (Value::Array(sent), Value::Array(ours)) => {
                assert_eq!(sent.len(), ours.len(), "{}: elements of {path}", frame.place);
                for (sent, ours) in sent.iter().zip(ours) {
                    self.members(frame, path, sent, ours);
                }
            }
            _ => {
                let (sent, ours) = (text_of(sent), text_of(ours));
                let member = path.rsplit('/').next().unwrap();
                let java = NAMES.iter().find(|(name, text, _)| *name == member && *text == sent);
                let means = java.map_or(&*sent, |(_, _, java)| *java);
                assert_eq!(means, ours, "{}: member {path}", frame.place);
            }
        }
    }
}

/// A body as JSON: objects that are names become text of theirs, and so do numbers.
fn standard(text: &[u8]) -> Value {
    let text = std::str::from_utf8(text).unwrap();
    serde_json::from_str(text).unwrap_or_else(|_| {
        let mut out = String::new();
        quote_names(text, &mut out);
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    })
}

fn quote_names(text: &str, out: &mut String) {
    let mut rest = text;
    let mut at_name = false;
    while let Some(next) = rest.chars().next() {
        let piece = match next {
            '"' => &rest[..2 + rest[1..].find('"').unwrap()],
            '{' if at_name => &rest[..=rest.find('}').unwrap()],
            '0'..='9' if at_name => &rest[..rest.find(':').unwrap()],
            _ => &rest[..next.len_utf8()],
        };
        match piece.chars().next() {
            Some('{') if piece.len() > 1 => {
                // Members in one order, so that names can be compared.
                let name: BTreeMap<String, Value> = serde_json::from_str(piece).unwrap();
                out.push_str(&json!(json!(name).to_string()).to_string());
            }
            Some('0'..='9') if at_name => out.push_str(&format!("\"{piece}\"")),
            _ => out.push_str(piece),
        }
        at_name = piece == "{" || piece == "," && at_name_behind_comma(out);
        rest = &rest[piece.len()..];
    }
}

/// Whether the comma that `text` ends with stands between members of an object, not between elements of an array.
fn at_name_behind_comma(text: &str) -> bool {
    let mut open = Vec::new();
    let mut in_string = false;
    let mut escaped = false;
    for char in text.chars() {
        match char {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => in_string = !in_string,
            '{' | '[' if !in_string => open.push(char),
            '}' | ']' if !in_string => drop(open.pop()),
            _ => {}
        }
    }
    open.last() == Some(&'{')
}

fn find<T: Copy>(table: &[(&[i32], T)], code: i32) -> Option<T> {
    table.iter().find(|(codes, _)| codes.contains(&code)).map(|(_, found)| *found)
}

fn lines(text: &str) -> Vec<Map<String, Value>> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Everything but fields and body.
fn check_head(frame: &Frame<'_>, command: &Command, said: &Value) {
    let number = |name: &str| said[name].as_i64().unwrap() as i32;
    let found = (command.code, command.version, command.opaque, command.flag);
    let expected = (number("code"), number("version"), number("opaque"), number("flag"));
    assert_eq!(found, expected, "{}", frame.place);
    assert_eq!(language::name(command.language), said["language"].as_str().unwrap(), "{}", frame.place);
    let remark = said["remark"].as_str().filter(|remark| !remark.is_empty());
    assert_eq!(command.remark.as_deref(), remark, "{}", frame.place);
    let sent = said["extFields"].as_object().cloned().unwrap_or_default();
    for (key, value) in sent.iter().filter(|(_, value)| !value.is_null()) {
        assert_eq!(command.ext.get(key).as_deref(), Some(&*text_of(value)), "{}: {key}", frame.place);
    }
    assert_eq!(command.body, frame.body);
}

#[test]
fn what_clients_send_is_read_as_they_mean_it() {
    let mut unread = BTreeSet::new();
    for (client, text, codes) in CLIENTS {
        let mut seen = BTreeSet::new();
        for (at, line) in lines(text).iter().enumerate() {
            let frame = Frame::new(client, at + 1, line);
            let (command, said) = (frame.decode(), frame.said());
            check_head(&frame, &command, &said);
            let answers = line.get("answers").map(|code| code.as_i64().unwrap() as i32);
            let code = answers.map_or_else(|| command.code.to_string(), |code| format!("-{code}"));
            let mut members = Unread { code: code.clone(), found: BTreeSet::new() };
            if answers.is_none() {
                check_fields(&frame, &command, &said, &mut members);
            }
            let body = match answers {
                Some(code) => find(ANSWERS, code),
                None => find(BODIES, command.code),
            };
            if let Some(body) = body.filter(|_| !command.body.is_empty()) {
                let ours = body(&command.body).unwrap_or_else(|error| panic!("{}: {error}", frame.place));
                members.members(&frame, "", &standard(&command.body), &standard(&ours));
            }
            unread.append(&mut members.found);
            seen.insert(code);
        }
        let missing: Vec<_> = codes.split(' ').filter(|code| !seen.contains(*code)).collect();
        assert!(missing.is_empty(), "{client} has no frame of code {missing:?}, but of {seen:?}");
    }
    let listed: BTreeSet<String> = UNREAD.iter().map(|place| (*place).to_owned()).collect();
    assert_eq!(unread, listed);
}

fn check_fields(frame: &Frame<'_>, command: &Command, said: &Value, unread: &mut Unread) {
    let sent = said["extFields"].as_object().cloned().unwrap_or_default();
    let Some(read) = find(FIELDS, command.code) else {
        assert!(WITHOUT_FIELDS.contains(&command.code), "{}: nobody reads this", frame.place);
        unread.fields(frame, &sent, &Ext::new());
        return;
    };
    match (read(command), frame.line.get("missing")) {
        (Ok(ours), None) => unread.fields(frame, &sent, &ours),
        (Err(error), Some(field)) => assert!(error.to_string().contains(field.as_str().unwrap()), "{error}"),
        (Ok(_), Some(field)) => panic!("{}: {field} was to be missing", frame.place),
        (Err(error), None) => panic!("{}: {error}", frame.place),
    }
}

/// The properties of a message are split where its client joined them.
#[test]
fn properties_of_messages_are_those_that_were_joined() {
    let mut sends = 0;
    for (client, text, _) in CLIENTS {
        for (at, line) in lines(text).iter().enumerate() {
            let frame = Frame::new(client, at + 1, line);
            let command = frame.decode();
            if !matches!(command.code, 10 | 310 | 320) || line.contains_key("answers") {
                continue;
            }
            sends += 1;
            let header = SendHeader::decode(&command).unwrap();
            check_properties(&frame, &header.properties);
            if header.batch {
                let messages: Vec<_> = BatchIter::new(&command.body).collect::<Result<_, _>>().unwrap();
                assert!(!messages.is_empty(), "{}", frame.place);
                messages.iter().for_each(|message| check_properties(&frame, message.properties));
            }
        }
    }
    assert!(sends >= CLIENTS.len());
}

fn check_properties(frame: &Frame<'_>, text: &str) {
    for (name, value) in text.split('\u{2}').filter_map(|pair| pair.split_once('\u{1}')) {
        assert_eq!(properties::get(text, name), Some(value), "{}: property {name} in {text:?}", frame.place);
    }
}
