//! Expressions and what the Java broker's filter (rocketmq-filter 5.4.0) makes of them.
//!
//! `java.json` was recorded from that library: its compiler and evaluator over each expression with these properties.
//! 4.9.7 agrees except for CONTAINS, STARTSWITH and ENDSWITH, which it does not know.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests reach for the system")]

use std::collections::HashMap;

use raftmq_filter::Expression;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
struct Case {
    expression: String,
    properties: HashMap<String, String>,
    expected: Expected,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(untagged)]
enum Expected {
    /// Null is unknown.
    Value(Option<bool>),
    Trouble(Trouble),
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Trouble {
    /// It does not compile.
    Refused,
    /// It compiles and throws when it is evaluated.
    Fails,
}

fn outcome(case: &Case) -> Expected {
    match Expression::compile(&case.expression) {
        Err(_) => Expected::Trouble(Trouble::Refused),
        Ok(expression) => match expression.evaluate(|name| case.properties.get(name).map(String::as_str)) {
            Ok(value) => Expected::Value(value),
            Err(_) => Expected::Trouble(Trouble::Fails),
        },
    }
}

#[test]
fn expressions_mean_what_they_mean_in_java() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("java.json")).unwrap();
    assert!(cases.len() > 600, "the table is cut off");
    for case in cases {
        assert_eq!(outcome(&case), case.expected, "{case:?}");
    }
}
