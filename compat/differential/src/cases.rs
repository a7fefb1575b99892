//! The cases: every variant of every request in one state, every request in every state, and random sequences.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::catalog::{Body, Catalog, Kind, RequestType, Server};
use crate::rng::Rng;
use crate::script::{self, Ask, Edit, Step};
use crate::vary::{Variant, variants};

/// How many requests that change nothing share the state that is made for them.
const PROBES_A_CASE: usize = 24;
/// Each value of a request that changes something is tried in one of so many states.
const STATES_A_VALUE: usize = 5;
/// Connections that a sequence goes over.
const CONNECTIONS: usize = 3;

/// Which part of a case a request belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Makes the state.
    Setup,
    /// Is what the case is about.
    Probe,
    /// Shows what came of it.
    Read,
    /// Leaves nothing behind.
    Cleanup,
}

/// Something asked in a state.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Names it in all runs.
    pub id: String,
    /// What is varied: a field or a state, and of which request.
    pub about: String,
    /// The request, or what happens beside requests.
    pub step: Step,
}

/// A state, what is asked in it, and how the state is shown afterwards.
#[derive(Debug, Clone)]
pub struct Case {
    /// Names it in all runs with the same options.
    pub id: String,
    /// What is done before.
    pub setup: String,
    /// What is asked.
    pub probes: Vec<Probe>,
    /// What shows the state.
    pub reads: String,
    /// What is done in the end.
    pub cleanup: String,
    /// Whether the probes change nothing, so that none comes of another.
    pub is_independent: bool,
}

impl Case {
    /// All steps, each with its part and the number of the probe that it is or follows.
    pub fn steps(&self) -> Result<Vec<(Role, usize, Step)>> {
        let part = |role, script: &str| -> Result<Vec<_>> {
            let last = self.probes.len().saturating_sub(1);
            let probe = if role == Role::Setup { 0 } else { last };
            Ok(script::parse(script)?.into_iter().map(|step| (role, probe, step)).collect())
        };
        let mut steps = part(Role::Setup, &self.setup)?;
        steps.extend(self.probes.iter().enumerate().map(|(at, probe)| (Role::Probe, at, probe.step.clone())));
        steps.extend(part(Role::Read, &self.reads)?);
        steps.extend(part(Role::Cleanup, &self.cleanup)?);
        Ok(steps)
    }

    /// The case as a script, with only those of its probes that `wanted` picks.
    pub fn script(&self, wanted: impl Fn(usize) -> bool) -> String {
        let probes = self.probes.iter().enumerate().filter(|(at, _)| wanted(*at));
        let probes: String = probes.map(|(_, probe)| format!("{}\n", probe.step)).collect();
        format!("{}{probes}", self.setup)
    }

    /// The script of what a probe comes after, itself included, in one line.
    pub fn one_line(&self, probe: usize) -> String {
        let script = self.script(|at| at == probe || !self.is_independent);
        script.trim_end().replace('\n', " ; ")
    }

    /// The steps of a script, each a probe, in no state but what they make.
    pub fn from_script(catalog: &Catalog, id: &str, script: &str) -> Result<Self> {
        let steps = script::parse(script)?;
        let server = steps.iter().find_map(|step| match step {
            Step::Ask(asks) => catalog.requests.get(&asks.first()?.code).map(|request| request.server),
            _ => None,
        });
        let probe = |step| Probe { id: id.to_owned(), about: id.to_owned(), step };
        let probes = steps.into_iter().map(probe).collect();
        Ok(Self::new(catalog, id.to_owned(), server.unwrap_or(Server::Broker), "", probes))
    }

    fn new(catalog: &Catalog, id: String, server: Server, setup: &str, probes: Vec<Probe>) -> Self {
        let (reads, cleanup) = (catalog.reads(server).to_owned(), catalog.cleanup(server).to_owned());
        Self { id, setup: setup.to_owned(), probes, reads, cleanup, is_independent: false }
    }
}

/// The state in which requests are varied: one in which a valid request succeeds.
fn usual_state(server: Server) -> &'static str {
    match server {
        Server::Broker => "member",
        Server::NameServer => "registered",
    }
}

/// What was found once.
fn found(catalog: &Catalog) -> Result<Vec<Case>> {
    let lines = include_str!("../data/found.txt").lines().filter(|line| !line.starts_with('#'));
    let case = |line: &str| -> Result<Case> {
        let (head, script) = line.split_once(": ").context("wanted: NAME STATE: SCRIPT")?;
        let (name, state) = head.split_once(' ').context("wanted: NAME STATE: SCRIPT")?;
        let setup = catalog.state(state)?.script.clone();
        Ok(Case { setup, ..Case::from_script(catalog, &format!("found/{name}"), script)? })
    };
    lines.map(|line| case(line).with_context(|| line.to_owned())).collect()
}

/// What was found once, every variant of every request, and every request in every state, of those whose id `wanted` picks.
pub fn systematic(catalog: &Catalog, wanted: impl Fn(&str) -> bool) -> Result<Vec<Case>> {
    let mut cases = found(catalog)?;
    cases.retain(|case| wanted(&case.id));
    for request in catalog.requests.values() {
        let mut groups = BTreeMap::<String, Vec<Probe>>::new();
        for probe in field_probes(request) {
            let state = request.state.as_deref().unwrap_or(usual_state(request.server));
            groups.entry(state.to_owned()).or_default().push(probe);
        }
        if request.kind != Kind::Refused {
            for (at, state) in catalog.states_of(request.server).enumerate() {
                groups.entry(state.name.clone()).or_default().extend(state_probes(request, &state.name, at));
            }
        }
        for (state, mut probes) in groups {
            probes.retain(|probe| wanted(&probe.id));
            let together = if request.kind == Kind::Changes { 1 } else { PROBES_A_CASE };
            for (at, probes) in probes.chunks(together).enumerate() {
                let id = if together == 1 {
                    probes[0].id.clone()
                } else {
                    format!("{}/{state}#{at}", request.code)
                };
                let setup = &catalog.state(&state)?.script;
                let case = Case::new(catalog, id, request.server, setup, probes.to_vec());
                cases.push(Case { is_independent: request.kind != Kind::Changes, ..case });
            }
        }
    }
    Ok(cases)
}

fn field_probes(request: &RequestType) -> Vec<Probe> {
    let code = request.code;
    let probe = |Variant { field, label, ask }: Variant| Probe {
        id: format!("field/{code}/{field}/{label}"),
        about: format!("{code} {field}"),
        step: Step::Ask(vec![ask]),
    };
    match request.kind {
        Kind::Refused => vec![valid(request)],
        _ => variants(request).into_iter().map(probe).collect(),
    }
}

fn valid(request: &RequestType) -> Probe {
    let ask = Ask::new(request.code);
    Probe {
        id: format!("field/{}/valid", request.code),
        about: format!("{}", request.code),
        step: Step::Ask(vec![ask]),
    }
}

/// The request with its valid values, then with other values that mean something: all of them where it changes nothing,
/// else as many as [`STATES_A_VALUE`] allows, others in each state.
fn state_probes(request: &RequestType, state: &str, number: usize) -> Vec<Probe> {
    let every = if request.kind == Kind::Changes { STATES_A_VALUE } else { 1 };
    let edits = alternatives(request).into_iter().skip(number % every).step_by(every);
    let asks =
        std::iter::once(Ask::new(request.code)).chain(edits.map(|edit| Ask::new(request.code).with(edit)));
    let probe = |ask: Ask| {
        let edit = ask.edits.first().map_or("valid".into(), Edit::to_string);
        Probe {
            id: format!("state/{}/{state}/{edit}", request.code),
            about: format!("{} in {state}", request.code),
            step: Step::Ask(vec![ask]),
        }
    };
    asks.map(probe).collect()
}

/// Changes that leave a request valid, but mean something else.
fn alternatives(request: &RequestType) -> Vec<Edit> {
    let fields = request
        .fields
        .iter()
        .flat_map(|field| field.others.iter().map(|other| Edit::set(&field.name, other.as_str())));
    let mut all: Vec<_> = fields.collect();
    if let Body::Json(body) = &request.body {
        meanings(body, "body", &mut all);
    }
    all
}

/// Other values of what a body holds: the other name, the opposite, nothing of a list.
fn meanings(value: &Value, path: &str, out: &mut Vec<Edit>) {
    match value {
        Value::Object(members) => {
            members.iter().for_each(|(name, value)| meanings(value, &format!("{path}.{name}"), out))
        }
        Value::Array(elements) => {
            out.push(Edit::set(path, Value::Array(Vec::new())));
            elements.iter().enumerate().for_each(|(at, value)| meanings(value, &format!("{path}.{at}"), out));
        }
        Value::Bool(value) => out.push(Edit::set(path, !value)),
        Value::Number(number) => {
            let number = number.as_i64().unwrap_or(0);
            out.extend([number + 1, 0, -1].map(|number| Edit::set(path, number)));
        }
        Value::String(text) => out.extend(other_texts(text).iter().map(|text| Edit::set(path, *text))),
        Value::Null => {}
    }
}

fn other_texts(text: &str) -> &'static [&'static str] {
    match text {
        "{topic}" => &["{topic2}", "%RETRY%{group}"],
        "{group}" => &["{group2}"],
        "{client}" => &["{client2}"],
        "TagA" => &["*", "TagB", "TagA || TagB"],
        "CLUSTERING" => &["BROADCASTING"],
        "CONSUME_PASSIVELY" => &["CONSUME_ACTIVELY"],
        "CONSUME_FROM_LAST_OFFSET" => &["CONSUME_FROM_FIRST_OFFSET"],
        "EXPONENTIAL" => &["CUSTOMIZED"],
        _ => &[],
    }
}

/// The sequence with this number of a seed: two to six things that happen in some state.
pub fn sequence(catalog: &Catalog, seed: u64, number: u64) -> Case {
    let mut rng = Rng::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ number);
    let server = if rng.one_in(8) { Server::NameServer } else { Server::Broker };
    let states: Vec<_> = catalog.states_of(server).collect();
    let usual = states.iter().find(|state| state.name == usual_state(server)).filter(|_| rng.one_in(2));
    let state = *usual.unwrap_or_else(|| rng.pick(&states));
    let id = format!("seq/{seed}/{number}");
    let steps = 2 + rng.below(5);
    let probes = (0..steps).map(|_| Probe {
        id: id.clone(),
        about: "sequence".into(),
        step: action(catalog, server, &mut rng),
    });
    let probes = probes.collect();
    Case::new(catalog, id, server, &state.script, probes)
}

fn action(catalog: &Catalog, server: Server, rng: &mut Rng) -> Step {
    match rng.below(20) {
        0 => Step::Wait(60),
        1 => Step::Close(rng.below(CONNECTIONS)),
        _ => Step::Ask(vec![request(catalog, server, rng)]),
    }
}

/// A request, mostly one that changes something, with some of its values changed.
fn request(catalog: &Catalog, server: Server, rng: &mut Rng) -> Ask {
    let kind = if rng.one_in(5) { Kind::Reads } else { Kind::Changes };
    let requests: Vec<_> = catalog.of(server, kind).collect();
    let request = rng.pick(&requests);
    let mut ask = Ask::new(request.code);
    if rng.one_in(3) {
        ask.connection = rng.below(CONNECTIONS);
    }
    ask.binary = rng.one_in(10);
    let alternatives = alternatives(request);
    for _ in 0..rng.below(3) {
        if !alternatives.is_empty() {
            let edit = rng.pick(&alternatives).clone();
            if !ask
                .edits
                .iter()
                .any(|other| edit.path.starts_with(&other.path) || other.path.starts_with(&edit.path))
            {
                ask.edits.push(edit);
            }
        }
    }
    if ask.edits.is_empty() && rng.one_in(6) {
        let mut variant = rng.pick(&variants(request)).ask.clone();
        variant.connection = ask.connection;
        return variant;
    }
    ask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_sequences_again() {
        let catalog = Catalog::load().unwrap();
        let script = |number| sequence(&catalog, 7, number).script(|_| true);
        assert_eq!(script(3), script(3));
        assert_ne!(script(3), script(4));
    }

    #[test]
    fn what_is_generated_reads_as_it_is_printed() {
        let catalog = Catalog::load().unwrap();
        let mut cases = systematic(&catalog, |_| true).unwrap();
        cases.extend((0..200).map(|number| sequence(&catalog, 1, number)));
        for case in cases {
            for probe in &case.probes {
                assert_eq!(
                    script::parse(&probe.step.to_string()).unwrap(),
                    std::slice::from_ref(&probe.step),
                    "{}",
                    probe.id
                );
            }
        }
    }
}
