//! Answers side by side: where they differ, and whether that is accepted.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cases::{Case, Role};
use crate::normal::normalise;
use crate::script::Names;
use crate::session::{Answer, Asked};

/// Characters of a value that a report shows.
const SHOWN: usize = 100;

/// Something that ours answers otherwise than the Java broker.
#[derive(Debug, Clone)]
pub struct Difference {
    /// What is varied in the case: a field or a state.
    pub about: String,
    /// The probe that it is, or follows.
    pub probe: String,
    /// What was done in the case before it, as a script in one line.
    pub case: String,
    /// In which part of the case.
    pub role: Role,
    /// The request whose answer differs.
    pub code: i64,
    /// The same as the catalogue says it with what the case changes.
    pub request: String,
    /// Where in the answer: `code`, `ext.NAME` or `body.PATH`.
    pub at: String,
    /// What the Java broker says there.
    pub java: String,
    /// What ours says.
    pub ours: String,
    /// What the other Java brokers say.
    pub others: Vec<String>,
}

/// A difference that is right, and why.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    /// Of which requests the answers differ so; all where not given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub codes: Vec<i64>,
    /// What the id of the probe is like. In all these patterns `*` stands for anything.
    #[serde(default = "anything")]
    pub probe: String,
    /// What was done before it is like, as a script in one line.
    #[serde(default = "anything")]
    pub case: String,
    /// What the request is like that is answered.
    #[serde(default = "anything")]
    pub request: String,
    /// Where in the answer.
    pub at: String,
    /// What the Java broker says.
    #[serde(default = "anything")]
    pub java: String,
    /// What ours says.
    #[serde(default = "anything")]
    pub ours: String,
    /// What happens afterwards differs too, and is not looked at.
    #[serde(default)]
    pub ends: bool,
    /// What is different, for people.
    pub what: String,
    /// Why ours is right.
    pub why: String,
}

fn anything() -> String {
    "*".into()
}

impl Accepted {
    /// Whether it speaks of `difference`.
    pub fn covers(&self, difference: &Difference) -> bool {
        (self.codes.is_empty() || self.codes.contains(&difference.code))
            && like(&self.probe, &difference.probe)
            && like(&self.case, &difference.case)
            && like(&self.request, &difference.request)
            && like(&self.at, &difference.at)
            && like(&self.java, &difference.java)
            && like(&self.ours, &difference.ours)
    }
}

/// Whether `text` is what `pattern` says; `*` stands for anything, `|` between patterns for either.
pub fn like(pattern: &str, text: &str) -> bool {
    pattern.split('|').any(|pattern| one_like(pattern, text))
}

fn one_like(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let parts: Vec<_> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// What a case showed.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Differences that nothing accepts.
    pub faults: Vec<Difference>,
    /// Positions of the accepted differences that were seen, in their list.
    pub accepted: Vec<usize>,
    /// Answers that are as those of an older Java broker.
    pub as_older: Vec<Difference>,
    /// Requests that were answered.
    pub requests: usize,
    /// A Java broker serves no longer.
    pub is_ill: bool,
}

/// Whether a Java broker has answered that its store takes nothing (14, SERVICE_NOT_AVAILABLE): 4.9.7 does so for ever when a
/// topic is deleted while it dispatches a message of it.
pub fn is_ill(asked: &[Asked]) -> bool {
    const SERVICE_NOT_AVAILABLE: i64 = 14;
    let java = asked.iter().flat_map(|asked| asked.answers.iter().skip(1));
    java.into_iter().any(|answer| matches!(answer, Answer::Got(got) if got.code == SERVICE_NOT_AVAILABLE))
}

/// Compares the answers of the first target, ours, with those of the others, the newest Java broker first.
///
/// What follows a fault in a case is not compared: it may come of it.
pub fn judge(case: &Case, asked: &[Asked], names: &Names, accepted: &[Accepted]) -> Verdict {
    let answered = asked.iter().map(|asked| {
        let answers = asked.answers.iter().map(|answer| normalise(asked.ask.code, answer, names));
        (asked, answers.collect())
    });
    Verdict { requests: asked.len(), is_ill: is_ill(asked), ..judge_normalised(case, answered, accepted) }
}

/// The same for answers that are normalised already.
pub fn judge_normalised<'a>(
    case: &Case,
    answered: impl Iterator<Item = (&'a Asked, Vec<Value>)>,
    accepted: &[Accepted],
) -> Verdict {
    let mut verdict = Verdict::default();
    let mut ended = None;
    for (asked, answers) in answered.filter(|(asked, _)| asked.role != Role::Cleanup) {
        if ended.is_some_and(|ended| follows(case, asked, ended)) {
            continue;
        }
        let Some((ours, java)) = answers.split_first() else { continue };
        for difference in differences_of(case, asked, ours, java) {
            if java.iter().skip(1).any(|older| agree_at(older, ours, &difference.at)) {
                verdict.as_older.push(difference);
                continue;
            }
            let found = accepted.iter().position(|accepted| accepted.covers(&difference));
            if found.is_none_or(|at| accepted[at].ends) {
                ended = Some((asked.role, asked.probe));
            }
            match found {
                Some(at) => verdict.accepted.push(at),
                None => verdict.faults.push(difference),
            }
        }
    }
    verdict
}

/// Whether an answer may come of what was different in another, of a certain part and probe. Reads show the state each for
/// itself.
fn follows(case: &Case, asked: &Asked, (role, probe): (Role, usize)) -> bool {
    match role {
        Role::Read | Role::Cleanup => false,
        Role::Setup => true,
        Role::Probe => asked.role != Role::Probe || asked.probe == probe || !case.is_independent,
    }
}

fn differences_of(case: &Case, asked: &Asked, ours: &Value, java: &[Value]) -> Vec<Difference> {
    let Some(newest) = java.first() else { return Vec::new() };
    let probe = case.probes.get(asked.probe);
    let difference = |(at, java_value, ours_value): (String, String, String)| Difference {
        about: match asked.role {
            Role::Setup => "setup".into(),
            _ => probe.map_or_else(String::new, |probe| probe.about.clone()),
        },
        probe: probe.map_or_else(String::new, |probe| probe.id.clone()),
        case: case.one_line(asked.probe),
        role: asked.role,
        code: asked.ask.code,
        request: asked.ask.to_string(),
        others: java[1..].iter().map(|other| shown(pointed(other, &at))).collect(),
        at,
        java: java_value,
        ours: ours_value,
    };
    differing(newest, ours).into_iter().map(difference).collect()
}

/// Where two answers differ: path, the one's value, the other's. With different codes the rest says nothing.
pub fn differing(java: &Value, ours: &Value) -> Vec<(String, String, String)> {
    if java["code"] != ours["code"] {
        return vec![("code".into(), shown(Some(&java["code"])), shown(Some(&ours["code"])))];
    }
    let mut found = Vec::new();
    walk(java, ours, "", &mut found);
    found
}

fn walk(java: &Value, ours: &Value, at: &str, found: &mut Vec<(String, String, String)>) {
    if java == ours {
        return;
    }
    let within = |name: &str| if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") };
    match (java, ours) {
        (Value::Object(java), Value::Object(ours)) => {
            let names: std::collections::BTreeSet<_> = java.keys().chain(ours.keys()).collect();
            for name in names {
                match (java.get(name), ours.get(name)) {
                    (Some(java), Some(ours)) => walk(java, ours, &within(name), found),
                    (java, ours) => found.push((within(name), shown(java), shown(ours))),
                }
            }
        }
        (Value::Array(java), Value::Array(ours)) if java.len() == ours.len() => {
            for (number, (java, ours)) in java.iter().zip(ours).enumerate() {
                walk(java, ours, &within(&number.to_string()), found);
            }
        }
        _ => found.push((at.to_owned(), shown(Some(java)), shown(Some(ours)))),
    }
}

/// Whether two answers have the same at a place. With different codes the rest says nothing.
fn agree_at(java: &Value, ours: &Value, at: &str) -> bool {
    let touches = |other: &str| other == "code" || other.starts_with(at) || at.starts_with(other);
    !differing(java, ours).iter().any(|(other, ..)| touches(other))
}

fn pointed<'a>(value: &'a Value, at: &str) -> Option<&'a Value> {
    let code = value.get("code").filter(|_| at == "code");
    code.or_else(|| value.pointer(&format!("/{}", at.replace('.', "/"))))
}

/// A value as reports show it.
pub fn shown(value: Option<&Value>) -> String {
    let text = match value {
        None => "absent".to_owned(),
        Some(Value::String(text)) if ["closed", "none", "not asked"].contains(&text.as_str()) => text.clone(),
        Some(value) => value.to_string(),
    };
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, is_like) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abb", false),
            ("a", "ab", false),
            ("*b*|x", "abc", true),
            ("y|x", "x", true),
            ("*ab", "aab", true),
        ] {
            assert_eq!(like(pattern, text), is_like, "{pattern} {text}");
        }
    }

    #[test]
    fn places_of_differences() {
        let java = json!({"code": 0, "ext": {"a": "1"}, "body": {"l": [1, {"x": 2}]}});
        let ours = json!({"code": 0, "ext": {"b": "1"}, "body": {"l": [1, {"x": 3}]}});
        let places: Vec<_> = differing(&java, &ours).into_iter().map(|(at, ..)| at).collect();
        assert_eq!(places, ["body.l.1.x", "ext.a", "ext.b"]);
        assert_eq!(differing(&java, &json!({"code": 1}))[0].0, "code");
        assert!(differing(&java, &java).is_empty());
    }
}
