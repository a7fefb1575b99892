//! The language in which cases are kept, shown and replayed.
//!
//! A line, or what stands between ` ; `, is a step: `wait MS`, `close N`, or requests joined by ` & `, which are asked at once. A request is
//! `[@CONNECTION] CODE[!bin] EDIT...`: the request of the catalogue with that code, over one of several connections,
//! in the binary encoding, with changes:
//!
//! | edit | what it does |
//! |---|---|
//! | `field=TEXT` | the header field as text, or as a JSON text in quotes |
//! | `field:=JSON` | the header field as this JSON value |
//! | `-field` | leaves it out |
//! | `body=TEXT`, `body:=JSON`, `-body` | the same for the body |
//! | `body.path.0.to=TEXT`, `body.path:=JSON`, `-body.path` | the same for something within a JSON body |
//! | `#language=CPP` | the same for the header itself |
//!
//! Texts may hold placeholders in braces, see [`Names::expand`]: each run of a case has names of its own.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

use crate::catalog::{Body, Catalog, Server};
use crate::frame::Request;

/// Most repetitions that a placeholder can ask for.
const REPEATS_MAX: usize = 1 << 20;

/// A physical offset at which no broker has anything yet.
const NOWHERE: &str = "99999999999999";

/// One line of a script.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Requests that are sent without waiting for each other.
    Ask(Vec<Ask>),
    /// Time for effects, in ms.
    Wait(u64),
    /// Closes a connection.
    Close(usize),
}

/// A request to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    /// Over which connection.
    pub connection: usize,
    /// Its code.
    pub code: i64,
    /// Whether in the binary encoding.
    pub binary: bool,
    /// What is different from the catalogue's.
    pub edits: Vec<Edit>,
}

/// A change of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Edit {
    /// A header field, `body`, `body.PATH`, or `#` and a name of the header itself.
    pub path: String,
    /// The new value; nothing leaves it out.
    pub value: Option<Value>,
}

impl Edit {
    /// Sets `path` to `value`.
    pub fn set(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self { path: path.into(), value: Some(value.into()) }
    }

    /// Leaves `path` out.
    pub fn without(path: impl Into<String>) -> Self {
        Self { path: path.into(), value: None }
    }
}

impl Ask {
    /// The catalogue's request with that code, over the first connection.
    pub fn new(code: i64) -> Self {
        Self { connection: 0, code, binary: false, edits: Vec::new() }
    }

    /// With one more change.
    pub fn with(mut self, edit: Edit) -> Self {
        self.edits.push(edit);
        self
    }
}

impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = &self.path;
        match &self.value {
            None => write!(f, "-{path}"),
            Some(Value::String(text)) if is_plain(text) => write!(f, "{path}={text}"),
            Some(Value::String(text)) => write!(f, "{path}={}", Value::from(text.as_str())),
            Some(other) => write!(f, "{path}:={other}"),
        }
    }
}

/// Whether a text can stand without quotes.
fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('"')
        && !text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '\\')
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.connection != 0 {
            write!(f, "@{} ", self.connection)?;
        }
        write!(f, "{}{}", self.code, if self.binary { "!bin" } else { "" })?;
        self.edits.iter().try_for_each(|edit| write!(f, " {edit}"))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wait(ms) => write!(f, "wait {ms}"),
            Self::Close(connection) => write!(f, "close {connection}"),
            Self::Ask(asks) => {
                let asks: Vec<_> = asks.iter().map(Ask::to_string).collect();
                f.write_str(&asks.join(" & "))
            }
        }
    }
}

/// Reads a script.
pub fn parse(script: &str) -> Result<Vec<Step>> {
    let steps = script.lines().flat_map(|line| line.split(" ; ")).map(str::trim);
    let lines = steps.filter(|line| !line.is_empty());
    lines.map(|line| parse_step(line).with_context(|| format!("step {line:?}"))).collect()
}

fn parse_step(line: &str) -> Result<Step> {
    if let Some(ms) = line.strip_prefix("wait ") {
        return Ok(Step::Wait(ms.trim().parse()?));
    }
    if let Some(connection) = line.strip_prefix("close ") {
        return Ok(Step::Close(connection.trim().parse()?));
    }
    let (mut asks, mut rest) = (Vec::new(), line);
    loop {
        let ask;
        (ask, rest) = parse_ask(rest)?;
        asks.push(ask);
        match rest.strip_prefix('&') {
            Some(next) => rest = next.trim_start(),
            None => return Ok(Step::Ask(asks)),
        }
    }
}

/// Reads up to the end or the next `&`, which is left over.
fn parse_ask(mut rest: &str) -> Result<(Ask, &str)> {
    let mut connection = 0;
    if let Some(number) = rest.strip_prefix('@') {
        let (number, after) = word(number);
        (connection, rest) = (number.parse()?, after);
    }
    let (code, after) = word(rest);
    rest = after;
    let mut ask = Ask::new(code.trim_end_matches("!bin").parse().with_context(|| format!("code {code:?}"))?);
    (ask.connection, ask.binary) = (connection, code.ends_with("!bin"));
    while !rest.is_empty() && !rest.starts_with('&') {
        let edit;
        (edit, rest) = parse_edit(rest)?;
        ask.edits.push(edit);
    }
    Ok((ask, rest))
}

fn word(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    (word, rest.trim_start())
}

fn parse_edit(text: &str) -> Result<(Edit, &str)> {
    let end = text.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(text.len());
    if let (Some(path), false) = (text[..end].strip_prefix('-'), text[end..].starts_with('=')) {
        return Ok((Edit::without(path), text[end..].trim_start()));
    }
    ensure!(text[end..].starts_with('='), "{text:?} is no edit");
    let (path, value) = (&text[..end], &text[end + 1..]);
    if let Some(path) = path.strip_suffix(':') {
        let (value, rest) = json_prefix(value)?;
        return Ok((Edit::set(path, value), rest));
    }
    if value.starts_with('"') {
        let (value, rest) = json_prefix(value)?;
        return Ok((Edit::set(path, value), rest));
    }
    let (value, rest) = word(value);
    Ok((Edit::set(path, value), rest))
}

/// The JSON value that `text` begins with, and what follows.
fn json_prefix(text: &str) -> Result<(Value, &str)> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter();
    let Some(value) = values.next() else { bail!("no value in {text:?}") };
    let value = value.with_context(|| format!("value of {text:?}"))?;
    Ok((value, text[values.byte_offset()..].trim_start()))
}

/// The names of one run of a case. They are equally long in every run, and are the same for every broker.
#[derive(Debug, Clone)]
pub struct Names {
    /// What all of them hold: ten capital letters and digits, the first a letter.
    pub id: String,
    number: u32,
}

/// What is known from the answers of one broker: values of placeholders.
pub type Captured = BTreeMap<&'static str, String>;

impl Names {
    /// Those of case `number` in the run `run`.
    pub fn new(run: u32, number: u32) -> Self {
        Self { id: format!("Z{:04}{:05}", run % 10_000, number % 100_000), number }
    }

    /// Puts values in place of placeholders:
    ///
    /// | placeholder | value |
    /// |---|---|
    /// | `topic` `topic2` `group` `group2` `fresh` `producer` `client` `client2` `broker` `cluster` `ns` `key` | names |
    /// | `id` | what all of these hold |
    /// | `addr` `addr2` | addresses of brokers that there are not |
    /// | `number` | a number of this run of the case |
    /// | `phy` `msgid` | physical offset and id of the first message that was sent; beyond all while there is none |
    /// | `pad:N` | a name of N characters |
    /// | `A*N` | a character N times |
    /// | `U1` `U2` | the separators of properties |
    /// | `batch` | two messages in the layout of a batch |
    ///
    /// Anything else in braces stays as it is.
    pub fn expand(&self, text: &str, captured: &Captured) -> String {
        let (mut out, mut rest) = (String::new(), text);
        while let Some(at) = rest.find('{') {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            let found = rest.find('}').and_then(|end| Some((self.value(&rest[1..end], captured)?, end)));
            match found {
                Some((value, end)) => {
                    out.push_str(&value);
                    rest = &rest[end + 1..];
                }
                None => {
                    out.push('{');
                    rest = &rest[1..];
                }
            }
        }
        out + rest
    }

    fn value(&self, name: &str, captured: &Captured) -> Option<String> {
        let id = &self.id;
        if let Some(length) = name.strip_prefix("pad:") {
            return Some(format!("{id:x<width$}", width = length.parse::<usize>().ok()?.min(REPEATS_MAX)));
        }
        if let Some((character, times)) = name.split_once('*') {
            return Some(character.repeat(times.parse::<usize>().ok()?.min(REPEATS_MAX)));
        }
        let [_, high, middle, low] = self.number.to_be_bytes();
        Some(match name {
            "id" => id.clone(),
            "topic" | "topic2" | "group" | "group2" | "fresh" | "producer" | "client" | "client2"
            | "broker" | "cluster" | "ns" | "key" => format!("{name}-{id}"),
            "addr" => format!("10.{high}.{middle}.{low}:10911"),
            "addr2" => format!("10.{high}.{middle}.{low}:10921"),
            "number" => self.number.to_string(),
            "phy" | "msgid" => captured.get(name).cloned().unwrap_or_else(|| NOWHERE.into()),
            "U1" => "\u{1}".into(),
            "U2" => "\u{2}".into(),
            "batch" => "\0\0\0\u{18}\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\u{2}hi\0\0".repeat(2),
            _ => return None,
        })
    }

    fn expand_json(&self, value: &Value, captured: &Captured) -> Value {
        match value {
            Value::String(text) => self.expand(text, captured).into(),
            Value::Array(elements) => {
                elements.iter().map(|element| self.expand_json(element, captured)).collect()
            }
            Value::Object(members) => {
                let expanded = |(key, value): (&String, &Value)| {
                    (self.expand(key, captured), self.expand_json(value, captured))
                };
                Value::Object(members.iter().map(expanded).collect())
            }
            other => other.clone(),
        }
    }
}

/// Who is asked, and what goes on the wire.
pub fn build(catalog: &Catalog, ask: &Ask, names: &Names, captured: &Captured) -> Result<(Server, Request)> {
    let ty = catalog
        .requests
        .get(&ask.code)
        .with_context(|| format!("no request {} in the catalogue", ask.code))?;
    let mut head = Map::new();
    for (name, value) in [
        ("code", Value::from(ask.code)),
        ("language", "JAVA".into()),
        ("version", 493.into()),
        ("flag", 0.into()),
    ] {
        head.insert(name.into(), value);
    }
    let mut ext = Map::new();
    for field in &ty.fields {
        if let Some(value) = &field.value {
            ext.insert(field.name.clone(), value.as_str().into());
        }
    }
    let mut body = ty.body.clone();
    let mut own_ext = None;
    for Edit { path, value } in &ask.edits {
        match path.strip_prefix("body") {
            Some("") => body = whole_body(value),
            Some(path) if path.starts_with('.') => {
                let Body::Json(json) = &mut body else { bail!("the body of {} is no JSON", ask.code) };
                change(json, &path[1..], value.clone())?;
            }
            _ => match path.strip_prefix('#') {
                Some("extFields") => own_ext = Some(value.clone()),
                Some(name) => put(&mut head, name, value.clone()),
                None => put(&mut ext, path, value.clone()),
            },
        }
    }
    put(&mut head, "extFields", own_ext.unwrap_or(Some(Value::Object(ext))));
    let Value::Object(head) = names.expand_json(&Value::Object(head), captured) else {
        bail!("a header is an object")
    };
    let body = match &body {
        Body::Absent => Vec::new(),
        Body::Text(text) => names.expand(text, captured).into_bytes(),
        Body::Json(json) => names.expand_json(json, captured).to_string().into_bytes(),
    };
    Ok((ty.server, Request { binary: ask.binary, head, body }))
}

fn whole_body(value: &Option<Value>) -> Body {
    match value {
        None => Body::Absent,
        Some(Value::String(text)) => Body::Text(text.clone()),
        Some(json) => Body::Json(json.clone()),
    }
}

fn put(members: &mut Map<String, Value>, name: &str, value: Option<Value>) {
    match value {
        Some(value) => drop(members.insert(name.to_owned(), value)),
        None => drop(members.remove(name)),
    }
}

/// Sets or removes what is at a path of member names and positions.
fn change(json: &mut Value, path: &str, value: Option<Value>) -> Result<()> {
    let (parent, last) = path.rsplit_once('.').unwrap_or(("", path));
    let pointer = if parent.is_empty() { String::new() } else { format!("/{}", parent.replace('.', "/")) };
    let place = json.pointer_mut(&pointer).with_context(|| format!("nothing at {parent:?}"))?;
    match place {
        Value::Object(members) => put(members, last, value),
        Value::Array(elements) => {
            let at: usize = last.parse().with_context(|| format!("position {last:?}"))?;
            ensure!(at < elements.len(), "no element {at}");
            match value {
                Some(value) => elements[at] = value,
                None => drop(elements.remove(at)),
            }
        }
        other => bail!("{parent:?} is {other}, which has no members"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_script_reads_as_it_is_printed() {
        let text = "17 perm:=null -order topic=\"a b\\u0001\" & @2 34!bin body.consumerDataSet.0.x:={\"a\":1} #language=CPP\n\
                    wait 5\nclose 1\n11 -body subscription=\"\"";
        let steps = parse(text).unwrap();
        let printed: Vec<_> = steps.iter().map(Step::to_string).collect();
        assert_eq!(printed.join("\n"), text);
        let Step::Ask(asks) = &steps[0] else { panic!() };
        assert_eq!((asks.len(), asks[1].connection, asks[1].binary, asks[1].edits.len()), (2, 2, true, 2));
        for wrong in ["x", "17 perm", "17 perm:={", "wait", "@x 17"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn requests_are_built_from_the_catalogue() {
        let (catalog, names) = (Catalog::load().unwrap(), Names::new(1, 258));
        let build = |script: &str| {
            let Step::Ask(asks) = &parse(script).unwrap()[0] else { panic!() };
            build(&catalog, &asks[0], &names, &Captured::new()).unwrap()
        };
        let (server, request) = build("17 perm:=4 -order #language:=null");
        assert_eq!((server, &request.head["language"]), (Server::Broker, &Value::Null));
        assert_eq!(request.head["extFields"]["topic"], format!("topic-{}", names.id));
        assert_eq!(request.head["extFields"]["perm"], 4);
        assert!(request.head["extFields"].get("order").is_none());
        let (_, request) = build("34 -body.producerDataSet body.consumerDataSet.0.unitMode:=0");
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(body["consumerDataSet"][0]["unitMode"], json!(0));
        assert!(body.get("producerDataSet").is_none());
    }

    #[test]
    fn placeholders() {
        let names = Names::new(1, 258);
        let expand = |text| names.expand(text, &Captured::new());
        assert_eq!(expand("{\"a\":{}} {x} {"), "{\"a\":{}} {x} {");
        assert_eq!(expand("{A*3}|{pad:12}|{addr}"), "AAA|Z000100258xx|10.0.1.2:10911");
    }
}
