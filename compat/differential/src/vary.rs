//! Values that a field or a member of a body can be given, derived from nothing but its type and its valid value.

use serde_json::{Value, json};

use crate::catalog::{Body, Field, FieldType, RequestType};
use crate::script::{Ask, Edit};

/// A changed request and what is changed about it.
#[derive(Debug, Clone)]
pub struct Variant {
    /// The field, or the path in the body.
    pub field: String,
    /// What it was given.
    pub label: String,
    /// The request.
    pub ask: Ask,
}

/// Texts that numbers and booleans are given, and that texts can be which name nothing of a case.
const TEXTS: [&str; 33] = [
    "",
    " ",
    "0",
    "1",
    "-1",
    "2",
    "+1",
    "01",
    "1.0",
    "1.5",
    "1e3",
    "0x10",
    " 1",
    "1 ",
    "2147483647",
    "2147483648",
    "-2147483648",
    "-2147483649",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "99999999999999999999",
    "true",
    "TRUE",
    "True",
    "false",
    "FALSE",
    "yes",
    "no",
    "null",
    "abc",
    "\u{e9}\u{4e3b}\u{9898}\u{1f600}",
    "{A*3000}",
];

/// Names: of this run, so that cases stay apart. What is not may name the same for all of them.
const NAMES: [&str; 32] = [
    "",
    " ",
    "{id}",
    "%RETRY%{id}",
    "%DLQ%{id}",
    "%SYS%{id}",
    "{id} a",
    "{id}/a",
    "../{id}",
    "{id}%a",
    "{id}@a",
    "{id}.a",
    "{id},a",
    "{id};a",
    "{id}:a",
    "{id}|a",
    "{id}*",
    "{id}\u{e9}\u{4e3b}\u{1f600}",
    "{id}\u{1}",
    "{id}\n",
    "{pad:127}",
    "{pad:128}",
    "{pad:255}",
    "{pad:256}",
    "{pad:1000}",
    "{pad:32767}",
    "{pad:40000}",
    "%RETRY%{pad:120}",
    "TBW102",
    "SCHEDULE_TOPIC_XXXX",
    "CID_RMQ_SYS_{id}",
    "rmq_sys_{id}",
];

/// JSON values of every other type.
fn values() -> Vec<Value> {
    vec![
        Value::Null,
        json!(0),
        json!(1),
        json!(-1),
        json!(4),
        json!(1.5),
        json!(2_147_483_648_i64),
        json!(u64::MAX),
        json!(true),
        json!(false),
        json!({}),
        json!({"a": 1}),
        json!([]),
        json!([1, "a"]),
        json!([null]),
    ]
}

/// Values that mean something to one of the protocol's settings in words, given to every text of a header that names nothing.
const WORDS: [&str; 16] = [
    "TAG",
    "SQL92",
    "tag",
    "FOO",
    "+a=b",
    "+a",
    "-a",
    "a=b",
    "+message.type=FOO",
    "+message.type=",
    "+queue.type=BatchCQ",
    "+cleanup.policy=COMPACTION",
    "a && b",
    "a >",
    "TagA||TagB",
    "MULTI_TAG",
];

/// Whether a valid value names something of the case.
fn is_name(value: &str) -> bool {
    value.contains('{') && !value.contains("{U1}")
}

/// Every variant of every part of a request.
pub fn variants(request: &RequestType) -> Vec<Variant> {
    let mut all: Vec<_> = request.fields.iter().flat_map(|field| field_variants(request, field)).collect();
    all.extend(head_variants(request));
    match &request.body {
        Body::Json(body) => all.extend(json_variants(request, body)),
        body => all.extend(text_variants(request, body)),
    }
    all.retain(|variant| !is_too_large(request, variant));
    all
}

/// Whether it gives a field a number that is not to be tried.
fn is_too_large(request: &RequestType, variant: &Variant) -> bool {
    let value = variant.ask.edits.first().and_then(|edit| edit.value.as_ref());
    let number = match value {
        Some(Value::String(text)) => text.trim().parse().ok(),
        Some(value) => value.as_f64(),
        None => None,
    };
    let limit = request.limits.get(&variant.field);
    limit.zip(number).is_some_and(|(limit, number): (&f64, f64)| number > *limit)
}

/// A header field: absent, of other types, other texts, in both encodings of the header.
fn field_variants(request: &RequestType, field: &Field) -> Vec<Variant> {
    let base = Ask::new(request.code);
    let named = field.value.as_deref().or(field.others.first().map(String::as_str)).is_some_and(is_name);
    let mut texts: Vec<String> = if named { strings(&NAMES) } else { strings(&TEXTS) };
    if !named && field.ty == FieldType::Text {
        texts.extend(strings(&WORDS));
    }
    texts.extend(field.others.iter().cloned());
    let variant = |label: String, binary: bool, edit: Edit| {
        let ask = Ask { binary, ..base.clone() }.with(edit);
        let label = if binary { format!("{label} (binary)") } else { label };
        Variant { field: field.name.clone(), label, ask }
    };
    let mut all = Vec::new();
    for binary in [false, true] {
        all.push(variant("absent".into(), binary, Edit::without(&field.name)));
        for text in &texts {
            all.push(variant(format!("{text:?}"), binary, Edit::set(&field.name, text.as_str())));
        }
    }
    all.extend(values().into_iter().map(|value| {
        variant(value.to_string(), false, Edit { path: field.name.clone(), value: Some(value) })
    }));
    all
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// The header itself, and fields that nobody knows.
fn head_variants(request: &RequestType) -> Vec<Variant> {
    let edits = [
        Edit::set("#language", "CPP"),
        Edit::set("#language", 1),
        Edit::set("#language", "KLINGON"),
        Edit::without("#language"),
        Edit::set("#version", 63),
        Edit::set("#version", "493"),
        Edit::without("#version"),
        Edit::set("#flag", 2),
        Edit::set("#extFields", Value::Null),
        Edit::without("#extFields"),
        Edit::set("#remark", "hello"),
        Edit::set("#serializeTypeCurrentRPC", "ROCKETMQ"),
        Edit::set("#unknown", json!({"a": [1]})),
        Edit::set("unknownField", "x"),
        Edit::set("ns", "x"),
        Edit::set("ReqT", "0"),
    ];
    let variant = |edit: Edit| Variant {
        field: "header".into(),
        label: edit.to_string(),
        ask: Ask::new(request.code).with(edit),
    };
    edits.into_iter().map(variant).collect()
}

/// A body that is not JSON, or none.
fn text_variants(request: &RequestType, body: &Body) -> Vec<Variant> {
    let mut texts = vec!["{}", "[]", "x", "{A*70000}"];
    if matches!(body, Body::Text(_)) {
        texts.extend(["", "{batch}", "{batch}x", "\u{0}\u{0}\u{0}\u{1}"]);
    }
    let variant = |text: &str| Variant {
        field: "body".into(),
        label: format!("{text:?}"),
        ask: Ask::new(request.code).with(Edit::set("body", text)),
    };
    texts.into_iter().map(variant).collect()
}

/// A JSON body as a whole, and every value in it.
fn json_variants(request: &RequestType, body: &Value) -> Vec<Variant> {
    let base = Ask::new(request.code);
    let variant = |field: &str, edit: Edit| {
        let label = edit.value.as_ref().map_or("absent".to_owned(), Value::to_string);
        Variant { field: field.to_owned(), label, ask: base.clone().with(edit) }
    };
    let text = body.to_string();
    let wholes = [
        text[..text.len() - 1].to_owned(),
        text[..text.len() / 2].to_owned(),
        format!("{text}}}"),
        format!("{text} x"),
        format!("\u{feff}{text}"),
        format!(" \n\t{text}\n"),
        text.replace('"', "'"),
        format!("/* c */{text}"),
        text.replacen('{', "{\"unknown\":NaN,", 1),
        text.replacen('{', "{\"unknown\":{\"a\":[1,{}]},", 1),
        text.replace("}", ",}"),
        "null".into(),
        "x".into(),
        "\"x\"".into(),
        "1".into(),
        "{".into(),
        "{A*70000}".into(),
        format!("{}{}", "[".repeat(2000), "]".repeat(2000)),
        String::new(),
    ];
    let mut all: Vec<_> = wholes.into_iter().map(|text| variant("body", Edit::set("body", text))).collect();
    all.extend(
        [json!({}), json!([]), json!([{}]), json!({"a": 1})]
            .map(|value| variant("body", Edit::set("body", value))),
    );
    all.push(variant("body", Edit::without("body")));
    let mut paths = Vec::new();
    collect_paths(body, "body", &mut paths);
    for (path, value) in paths {
        all.extend(
            value_variants(value)
                .into_iter()
                .map(|edit| variant(&path, Edit { path: path.clone(), value: edit })),
        );
        if let Value::Object(_) = value {
            all.push(variant(&path, Edit::set(format!("{path}.unknownMember"), json!({"a": [1]}))));
        }
    }
    all
}

/// Every value within, with its path; members that are named by the case stand for themselves.
fn collect_paths<'a>(value: &'a Value, path: &str, out: &mut Vec<(String, &'a Value)>) {
    let members: Vec<(String, &Value)> = match value {
        Value::Object(members) => members.iter().map(|(key, value)| (key.clone(), value)).collect(),
        Value::Array(elements) => {
            elements.iter().enumerate().map(|(at, value)| (at.to_string(), value)).collect()
        }
        _ => return,
    };
    for (name, value) in members {
        let path = format!("{path}.{name}");
        collect_paths(value, &path, out);
        out.push((path, value));
    }
}

/// What a member can be; nothing leaves it out.
fn value_variants(value: &Value) -> Vec<Option<Value>> {
    let mut all: Vec<Option<Value>> = vec![None];
    all.extend(values().into_iter().map(Some));
    let texts = |texts: &[&str]| texts.iter().map(|text| Some(json!(text))).collect::<Vec<_>>();
    match value {
        Value::String(text) if is_name(text) => all.extend(texts(&NAMES)),
        Value::String(text) => {
            all.extend(texts(&TEXTS));
            all.extend(
                [text.to_lowercase(), text.to_uppercase(), format!("{text}X"), format!(" {text}")]
                    .map(|t| Some(json!(t))),
            );
            if text.chars().all(|c| c.is_ascii_uppercase() || c == '_') {
                all.extend((2..8).map(|number| Some(json!(number))));
                all.extend(texts(&[
                    "CONSUME_ACTIVELY",
                    "CONSUME_POP",
                    "BROADCASTING",
                    "CONSUME_FROM_FIRST_OFFSET",
                    "CONSUME_FROM_TIMESTAMP",
                ]));
            }
        }
        Value::Number(number) => {
            all.extend(texts(&TEXTS));
            all.push(Some(json!(number.to_string())));
            all.extend(
                [json!(i32::MAX), json!(i32::MIN), json!(i64::MAX), json!(i64::MIN), json!(2)].map(Some),
            );
        }
        Value::Bool(_) => all.extend(texts(&TEXTS)),
        Value::Array(elements) => {
            all.extend(texts(&["", "[]", "abc"]));
            all.push(Some(Value::Array(elements.iter().chain(elements).cloned().collect())));
        }
        Value::Object(_) => all.extend(texts(&["", "{}", "abc"])),
        Value::Null => {}
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Catalog;

    #[test]
    fn every_field_and_every_member_is_varied() {
        let catalog = Catalog::load().unwrap();
        for request in catalog.requests.values() {
            let all = variants(request);
            for field in &request.fields {
                assert!(
                    all.iter().filter(|variant| variant.field == field.name).count() > 50,
                    "{}",
                    field.name
                );
            }
        }
        let heartbeat = variants(&catalog.requests[&34]);
        for path in [
            "clientID",
            "consumerDataSet.0.messageModel",
            "consumerDataSet.0.subscriptionDataSet.0.subVersion",
        ] {
            assert!(
                heartbeat.iter().filter(|variant| variant.field == format!("body.{path}")).count() > 40,
                "{path}"
            );
        }
    }
}
