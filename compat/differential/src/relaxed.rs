//! JSON as Java's fastjson prints it: keys may be bare numbers or whole objects (`{{"queueId":0}:1}`), which become
//! their own text.

use anyhow::{Result, bail, ensure};
use serde_json::{Map, Value};

/// How deep values may be within each other.
const DEPTH_MAX: usize = 64;

/// Reads one value that takes up all of `text`.
pub fn parse(text: &str) -> Result<Value> {
    let mut parser = Parser { text, at: 0 };
    let value = parser.value(0)?;
    parser.blank();
    ensure!(parser.at == text.len(), "something behind the value at byte {}", parser.at);
    Ok(value)
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn blank(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    /// Goes past `token` if it is next.
    fn next_is(&mut self, token: char) -> bool {
        self.blank();
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len_utf8();
        }
        found
    }

    fn value(&mut self, depth: usize) -> Result<Value> {
        ensure!(depth < DEPTH_MAX, "more than {DEPTH_MAX} levels");
        if self.next_is('{') {
            return self.object(depth);
        }
        if self.next_is('[') {
            return self.array(depth);
        }
        self.scalar()
    }

    fn object(&mut self, depth: usize) -> Result<Value> {
        let mut members = Map::new();
        if self.next_is('}') {
            return Ok(Value::Object(members));
        }
        loop {
            let key = match self.value(depth + 1)? {
                Value::String(key) => key,
                other => other.to_string(),
            };
            ensure!(self.next_is(':'), "no colon at byte {}", self.at);
            members.insert(key, self.value(depth + 1)?);
            if self.next_is('}') {
                return Ok(Value::Object(members));
            }
            ensure!(self.next_is(','), "neither comma nor end at byte {}", self.at);
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value> {
        let mut elements = Vec::new();
        if self.next_is(']') {
            return Ok(Value::Array(elements));
        }
        loop {
            elements.push(self.value(depth + 1)?);
            if self.next_is(']') {
                return Ok(Value::Array(elements));
            }
            ensure!(self.next_is(','), "neither comma nor end at byte {}", self.at);
        }
    }

    /// A text, a number, a boolean or null.
    fn scalar(&mut self) -> Result<Value> {
        let mut values = serde_json::Deserializer::from_str(self.rest()).into_iter::<Value>();
        let Some(value) = values.next() else { bail!("no value at byte {}", self.at) };
        // A bare number before a colon is no end of a value to serde_json.
        match value {
            Ok(value) => {
                self.at += values.byte_offset();
                Ok(value)
            }
            Err(_) => self.bare(),
        }
    }

    fn bare(&mut self) -> Result<Value> {
        let end = self.rest().find([':', ',', '}', ']']).unwrap_or(self.rest().len());
        let value = serde_json::from_str(self.rest()[..end].trim())?;
        self.at += end;
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_of_any_kind() {
        let text = r#" {"a":{0:"x",1:"y"},"t":{{"brokerName":"b","queueId":0}:{"max":5},{"queueId":1}:2}, "l":[1, {}]} "#;
        let parsed = parse(text).unwrap();
        assert_eq!(parsed["a"], json!({"0": "x", "1": "y"}));
        assert_eq!(parsed["t"][r#"{"brokerName":"b","queueId":0}"#]["max"], 5);
        assert_eq!(parsed["l"], json!([1, {}]));
        for wrong in ["", "{", "{1}", "[1,]", "1 2", &"[".repeat(100)] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
