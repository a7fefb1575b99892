//! What a decoder made of an input, and when two such are the same.

use serde_json::{Number, Value};

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    Refused,
    Value(Value),
}

/// An outcome as it is recorded: JSON in a string, `!` where the decoder throws.
pub(crate) fn of_java(recorded: &Value) -> Outcome {
    match recorded.as_str().unwrap() {
        "!" => Outcome::Refused,
        json => Outcome::Value(serde_json::from_str(json).unwrap()),
    }
}

impl Outcome {
    /// Whether `self`, which is ours, is the same as Java's. `absent` is what ours is without the field.
    pub(crate) fn is(&self, java: &Self, absent: &Self) -> bool {
        match (self, java) {
            (Self::Refused, Self::Refused) => true,
            (Self::Value(ours), Self::Value(java)) => is_nothing(java) && self == absent || same(ours, java),
            _ => false,
        }
    }
}

/// Null, and the present time, which some fields have when they are not set.
pub(crate) fn is_nothing(java: &Value) -> bool {
    java.is_null() || java == "now"
}

/// Java's null is our default. Order and repetition do not matter in lists, most of which are sets.
fn same(ours: &Value, java: &Value) -> bool {
    const DEFAULTS: [&str; 6] =
        ["", "CONSUME_PASSIVELY", "CLUSTERING", "CONSUME_FROM_LAST_OFFSET", "SINGLE_TAG", "CUSTOMIZED"];
    match (ours, java) {
        // An empty list may be left out where ours is written.
        (Value::Null, java) => is_nothing(java) || java.as_array().is_some_and(Vec::is_empty),
        (Value::String(ours), Value::Null) => DEFAULTS.contains(&ours.as_str()),
        (Value::Number(ours), java) if is_nothing(java) => ours.as_i64() == Some(0),
        (Value::Array(ours), Value::Null) => ours.is_empty(),
        (Value::Object(ours), Value::Null) => {
            ours.values().all(|ours| same(ours, java) || *ours == Value::Bool(false))
        }
        (Value::Array(ours), Value::Array(java)) => {
            let java: Vec<_> = java.iter().filter(|java| !java.is_null()).collect();
            ours.iter().all(|ours| java.iter().any(|java| same(ours, java)))
                && java.iter().all(|java| ours.iter().any(|ours| same(ours, java)))
        }
        (Value::Object(ours), Value::Object(java)) => {
            ours.iter().all(|(key, ours)| same(ours, java.get(key).unwrap_or(&Value::Null)))
                && java
                    .iter()
                    .all(|(key, java)| ours.contains_key(key) || NOT_OURS.contains(&&**key) || java.is_null())
        }
        (Value::String(ours), Value::String(java)) => ours == java || same_text(ours, java),
        (Value::Number(ours), Value::Number(java)) => ours == java || close(ours, java),
        _ => ours == java,
    }
}

/// Floats are not read exactly here.
fn close(ours: &Number, java: &Number) -> bool {
    let (Some(ours), Some(java)) = (ours.as_f64(), java.as_f64()) else { return false };
    (ours - java).abs() <= f64::EPSILON * java.abs()
}

/// Members of Java's classes that nobody here asks for.
const NOT_OURS: [&str; 1] = ["filterClassSource"];

/// Texts of objects, whose members come in another order; keys that are objects are texts too.
fn same_text(ours: &str, java: &str) -> bool {
    match (serde_json::from_str::<Value>(ours), serde_json::from_str::<Value>(java)) {
        (Ok(ours), Ok(java)) => (ours.is_object() || ours.is_array()) && ours == java,
        _ => false,
    }
}
