//! What there is to ask and in which states: the data files, read.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Server {
    /// The broker that leads.
    Broker,
    /// A name server.
    NameServer,
}

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing that a later answer shows.
    Reads,
    /// Something that later answers show.
    Changes,
    /// It is refused whatever it says.
    Refused,
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldType {
    /// Text.
    Text,
    /// 32 bits.
    Int,
    /// 64 bits.
    Long,
    /// `true` or `false`.
    Boolean,
}

/// A header field of a request.
#[derive(Debug, Clone)]
pub struct Field {
    /// Its name on the wire.
    pub name: String,
    /// Its type.
    pub ty: FieldType,
    /// Its value where nothing else is said; nothing for a field that is then absent.
    pub value: Option<String>,
    /// Other values that mean something.
    pub others: Vec<String>,
}

/// The body of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// None.
    Absent,
    /// Bytes.
    Text(String),
    /// JSON.
    Json(Value),
}

/// A kind of request.
#[derive(Debug, Clone)]
pub struct RequestType {
    /// Its code.
    pub code: i64,
    /// The protocol's name for it.
    pub name: String,
    /// Who is asked.
    pub server: Server,
    /// What it does.
    pub kind: Kind,
    /// Header fields.
    pub fields: Vec<Field>,
    /// A valid body.
    pub body: Body,
    /// Largest numbers that are tried, by field or path in the body.
    pub limits: BTreeMap<String, f64>,
    /// The state in which its fields are varied, where that is not the usual one.
    pub state: Option<String>,
    /// Java brokers, by version, that never answer it and are not asked.
    pub not_asked: Vec<String>,
}

/// Something done before requests are asked.
#[derive(Debug, Clone)]
pub struct State {
    /// What it is called.
    pub name: String,
    /// Whose state it is.
    pub server: Server,
    /// How it is reached, in the language of [`crate::script`].
    pub script: String,
}

/// All of it.
#[derive(Debug, Clone)]
pub struct Catalog {
    /// By code.
    pub requests: BTreeMap<i64, RequestType>,
    /// In the file's order.
    pub states: Vec<State>,
    reads: BTreeMap<Server, String>,
    cleanup: BTreeMap<Server, String>,
}

impl Catalog {
    /// Reads the data files of this crate.
    pub fn load() -> Result<Self> {
        let requests = parse_requests(include_str!("../data/requests.txt"))?;
        let mut blocks = parse_states(include_str!("../data/states.txt"))?;
        let mut named = |name: &str| -> BTreeMap<Server, String> {
            let (found, rest) =
                std::mem::take(&mut blocks).into_iter().partition(|state: &State| state.name == name);
            blocks = rest;
            found.into_iter().map(|state: State| (state.server, state.script)).collect()
        };
        let (reads, cleanup) = (named("READS"), named("CLEANUP"));
        Ok(Self { requests, states: blocks, reads, cleanup })
    }

    /// The requests of `kind` to `server`.
    pub fn of(&self, server: Server, kind: Kind) -> impl Iterator<Item = &RequestType> {
        self.requests.values().filter(move |request| request.server == server && request.kind == kind)
    }

    /// The states of `server`.
    pub fn states_of(&self, server: Server) -> impl Iterator<Item = &State> {
        self.states.iter().filter(move |state| state.server == server)
    }

    /// A state; an error for a name that there is not.
    pub fn state(&self, name: &str) -> Result<&State> {
        self.states.iter().find(|state| state.name == name).with_context(|| format!("no state {name:?}"))
    }

    /// What shows the state afterwards.
    pub fn reads(&self, server: Server) -> &str {
        self.reads.get(&server).map_or("", String::as_str)
    }

    /// What leaves nothing behind.
    pub fn cleanup(&self, server: Server) -> &str {
        self.cleanup.get(&server).map_or("", String::as_str)
    }
}

/// Lines that say something.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
}

fn server(name: &str) -> Result<Server> {
    match name {
        "broker" => Ok(Server::Broker),
        "ns" => Ok(Server::NameServer),
        _ => bail!("unknown server {name:?}"),
    }
}

fn parse_requests(text: &str) -> Result<BTreeMap<i64, RequestType>> {
    let mut requests = Vec::<RequestType>::new();
    for line in lines(text) {
        if !line.starts_with(' ') {
            requests.push(parse_head(line).with_context(|| line.to_owned())?);
            continue;
        }
        let request = requests.last_mut().context("a field before the first request")?;
        let line = line.trim_start();
        if let Some(json) = line.strip_prefix("body:=") {
            request.body = Body::Json(serde_json::from_str(json).with_context(|| line.to_owned())?);
        } else if let Some(text) = line.strip_prefix("body=") {
            request.body = Body::Text(text.to_owned());
        } else if let Some(limit) = line.strip_prefix("at-most ") {
            let (limit, fields) = limit.split_once(' ').context("wanted: at-most NUMBER FIELD...")?;
            let limit = limit.parse().with_context(|| line.to_owned())?;
            request.limits.extend(fields.split(' ').map(|field| (field.to_owned(), limit)));
        } else if let Some(state) = line.strip_prefix("in ") {
            request.state = Some(state.to_owned());
        } else if let Some(versions) = line.strip_prefix("not-asked ") {
            request.not_asked = versions.split(' ').map(str::to_owned).collect();
        } else {
            request.fields.push(parse_field(line).with_context(|| line.to_owned())?);
        }
    }
    Ok(requests.into_iter().map(|request| (request.code, request)).collect())
}

fn parse_head(line: &str) -> Result<RequestType> {
    let words: Vec<_> = line.split_whitespace().collect();
    let [code, name, whose, kind] = words[..] else { bail!("wanted: CODE NAME SERVER KIND") };
    let kind = match kind {
        "reads" => Kind::Reads,
        "changes" => Kind::Changes,
        "refused" => Kind::Refused,
        other => bail!("unknown kind {other:?}"),
    };
    let (code, name, server) = (code.parse()?, name.to_owned(), server(whose)?);
    Ok(RequestType {
        code,
        name,
        server,
        kind,
        fields: Vec::new(),
        body: Body::Absent,
        limits: BTreeMap::new(),
        state: None,
        not_asked: Vec::new(),
    })
}

fn parse_field(line: &str) -> Result<Field> {
    let (name, rest) = line.split_once(':').context("wanted: FIELD:TYPE")?;
    let (ty, values, is_sent) = match (rest.split_once('='), rest.split_once('~')) {
        (_, Some((ty, values))) if !ty.contains('=') => (ty, values, false),
        (Some((ty, values)), _) => (ty, values, true),
        _ => (rest, "", false),
    };
    let ty = match ty.trim_end_matches('?') {
        "s" => FieldType::Text,
        "i" => FieldType::Int,
        "l" => FieldType::Long,
        "b" => FieldType::Boolean,
        other => bail!("unknown type {other:?}"),
    };
    let mut others = split_values(values);
    let value = is_sent.then(|| others.remove(0));
    if !is_sent {
        others.retain(|value| !value.is_empty());
    }
    Ok(Field { name: name.to_owned(), ty, value, others })
}

/// Splits at `|`; `\|` stands for the character itself.
fn split_values(text: &str) -> Vec<String> {
    text.replace("\\|", "\u{0}").split('|').map(|value| value.replace('\u{0}', "|")).collect()
}

fn parse_states(text: &str) -> Result<Vec<State>> {
    let mut states = Vec::<State>::new();
    for line in lines(text) {
        if !line.starts_with(' ') {
            let (name, whose) = line.trim_end_matches(':').split_once(' ').context("wanted: NAME SERVER:")?;
            ensure!(line.ends_with(':'), "{line:?} does not end with a colon");
            states.push(State { name: name.to_owned(), server: server(whose)?, script: String::new() });
            continue;
        }
        let mut line = line.trim().to_owned() + "\n";
        if let Some(other) = line.trim_end().strip_prefix("use ") {
            let other = states.iter().find(|state| state.name == other);
            line = other.with_context(|| format!("{line:?} names no state before it"))?.script.clone();
        }
        states.last_mut().context("a step before the first state")?.script += &line;
    }
    Ok(states)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_values() {
        let field = parse_field("queueId:i=0|-1").unwrap();
        assert_eq!((field.value.as_deref(), field.others.as_slice()), (Some("0"), &["-1".to_owned()][..]));
        let field = parse_field("isForce:b?~true|false").unwrap();
        assert_eq!((field.value, field.others.len()), (None, 2));
        let field = parse_field("subscription:s?=*|A \\|\\| B").unwrap();
        assert_eq!(field.others, ["A || B"]);
        assert!(parse_field("queueId:x=0").is_err());
    }

    #[test]
    fn the_data_files_can_be_read() {
        let catalog = Catalog::load().unwrap();
        assert!(catalog.requests.len() > 60);
        for server in [Server::Broker, Server::NameServer] {
            assert!(!catalog.reads(server).is_empty() && !catalog.cleanup(server).is_empty());
        }
    }
}
