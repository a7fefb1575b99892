//! Reading a value as the type that a member has, as fastjson does:
//!
//! | as | comes from |
//! |---|---|
//! | a boolean | 1 is true, other numbers false; `"true"`, `"1"`, `"Y"`, `"T"` and their opposites in any case |
//! | a number | a boolean as 1 or 0; a fraction, which is cut off; text of a number, with commas too; `""` as 0 |
//! | text | a number or a boolean as it stands, an object or an array as its compact text |
//! | a list | one value alone; elements that are null are left out |
//! | an object | names in other case, with `_` or `-` between; the last of equal names; null members are absent; `[]` |
//!
//! Out of range is an error, never another number.

use std::borrow::Cow;

use serde::Deserializer;
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{Error, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;

use crate::ext::parse_i64;

/// A JSON value whose strings borrow from its text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    /// As it stands in the text.
    Number(&'a str),
    String(Cow<'a, str>),
    Array(Vec<Value<'a>>),
    /// Members in their order, equal names included.
    Object(Vec<(Cow<'a, str>, Value<'a>)>),
}

/// A value that cannot be read as the type its member has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ShapeError(String);

impl Error for ShapeError {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        // Names and texts of the peer's may be in it.
        const SHOWN_MAX: usize = 200;
        Self(message.to_string().chars().take(SHOWN_MAX).collect())
    }
}

impl<'a> Value<'a> {
    /// The value as a text: a string's own, compact JSON of anything else.
    pub(crate) fn into_text(self) -> String {
        match self {
            Self::String(text) => text.into_owned(),
            other => {
                let mut out = String::new();
                other.write(&mut out);
                out
            }
        }
    }

    fn write(&self, out: &mut String) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Self::Number(number) => out.push_str(number),
            Self::String(text) => write_string(text, out),
            Self::Array(elements) => {
                write_list(out, "[]", elements.iter(), Self::write);
            }
            Self::Object(members) => {
                let members = members.iter().filter(|(_, value)| *value != Self::Null);
                write_list(out, "{}", members, |(key, value), out| {
                    write_string(key, out);
                    out.push(':');
                    value.write(out);
                });
            }
        }
    }

    /// Texts that stand for nothing where something else than text is wanted.
    fn is_blank(&self) -> bool {
        match self {
            Self::Null => true,
            Self::String(text) => matches!(&**text, "" | "null" | "NULL"),
            _ => false,
        }
    }

    fn unexpected(&self) -> Unexpected<'_> {
        match self {
            Self::Null => Unexpected::Unit,
            Self::Bool(value) => Unexpected::Bool(*value),
            Self::Number(number) => Unexpected::Other(number),
            Self::String(text) => Unexpected::Str(text),
            Self::Array(_) => Unexpected::Seq,
            Self::Object(_) => Unexpected::Map,
        }
    }

    fn wrong(&self, expected: &str) -> ShapeError {
        ShapeError::invalid_type(self.unexpected(), &expected)
    }

    fn boolean(&self) -> Result<bool, ShapeError> {
        let is = |text: &str, names: [&str; 4]| names.iter().any(|name| name.eq_ignore_ascii_case(text));
        match self {
            _ if self.is_blank() => Ok(false),
            Self::Bool(value) => Ok(*value),
            Self::Number(number) => Ok(parse_i64(number.as_bytes()) == Some(1)),
            Self::String(text) if is(text, ["true", "1", "y", "t"]) => Ok(true),
            Self::String(text) if is(text, ["false", "0", "n", "f"]) => Ok(false),
            _ => Err(self.wrong("a boolean")),
        }
    }

    fn integer(&self) -> Result<i64, ShapeError> {
        let found = match self {
            _ if self.is_blank() => Some(0),
            Self::Bool(value) => Some(i64::from(*value)),
            Self::Number(number) => whole(number),
            Self::String(text) if text == "true" => Some(1),
            Self::String(text) if text == "false" => Some(0),
            Self::String(text) => whole(text).or_else(|| whole(&text.replace(',', ""))),
            _ => None,
        };
        found.ok_or_else(|| self.wrong("a whole number in range"))
    }

    fn float(&self) -> Result<f64, ShapeError> {
        let found = match self {
            Self::Number(number) => decimal(number),
            Self::String(text) if !self.is_blank() => {
                decimal(text.trim_matches(' ')).or_else(|| self.integer().ok().map(|n| n as f64))
            }
            _ => self.integer().ok().map(|n| n as f64),
        };
        found.ok_or_else(|| self.wrong("a number in range"))
    }

    /// Elements of a list.
    fn elements(self) -> Vec<Value<'a>> {
        match self {
            Self::Array(mut elements) => {
                elements.retain(|element| *element != Self::Null);
                elements
            }
            Self::Null => Vec::new(),
            Self::String(text) if text.is_empty() => Vec::new(),
            single => vec![single],
        }
    }

    /// Members of an object but those that are null.
    fn members(self) -> Result<Vec<(Cow<'a, str>, Value<'a>)>, ShapeError> {
        match self {
            Self::Object(mut members) => {
                members.retain(|(_, value)| *value != Self::Null);
                Ok(members)
            }
            Self::Null => Ok(Vec::new()),
            Self::String(text) if text.is_empty() => Ok(Vec::new()),
            _ => Err(self.wrong("an object")),
        }
    }
}

fn write_string(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

fn write_list<T>(
    out: &mut String,
    brackets: &str,
    items: impl Iterator<Item = T>,
    write: impl Fn(T, &mut String),
) {
    out.push_str(&brackets[..1]);
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push(',');
        }
        write(item, out);
    }
    out.push_str(&brackets[1..]);
}

/// A number's whole part.
fn whole(text: &str) -> Option<i64> {
    // Above this not every whole number has a float of its own.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    parse_i64(text.as_bytes())
        .or_else(|| decimal(text).filter(|number| number.abs() <= EXACT_MAX).map(|number| number as i64))
}

/// A finite number, without the words that Rust takes for numbers.
fn decimal(text: &str) -> Option<f64> {
    let digits_only = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    text.parse().ok().filter(|number: &f64| digits_only && number.is_finite())
}

/// The field that a name means: the same, or but for case, `_` and `-`.
fn field_of(name: &str, fields: &'static [&'static str]) -> Option<usize> {
    let exact = fields.iter().position(|field| *field == name);
    exact.or_else(|| {
        let plain = name.replace(['_', '-'], "");
        fields.iter().position(|field| field.eq_ignore_ascii_case(&plain))
    })
}

macro_rules! integers {
    ($($read:ident)*) => { $(
        fn $read<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, ShapeError> {
            visitor.visit_i64(self.integer()?)
        }
    )* };
}

impl<'a> Deserializer<'a> for Value<'a> {
    type Error = ShapeError;

    integers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
    }

    fn deserialize_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, ShapeError> {
        match self {
            Self::Null => visitor.visit_unit(),
            Self::Bool(value) => visitor.visit_bool(value),
            Self::Number(number) => match parse_i64(number.as_bytes()) {
                Some(number) => visitor.visit_i64(number),
                None => visitor.visit_f64(self.float()?),
            },
            Self::String(_) => self.deserialize_str(visitor),
            Self::Array(elements) => visitor.visit_seq(SeqDeserializer::new(elements.into_iter())),
            Self::Object(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, ShapeError> {
        visitor.visit_bool(self.boolean()?)
    }

    fn deserialize_f32<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, ShapeError> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, ShapeError> {
        visitor.visit_f64(self.float()?)
    }

    fn deserialize_str<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, ShapeError> {
        match self {
            Self::String(Cow::Borrowed(text)) | Self::Number(text) => visitor.visit_borrowed_str(text),
            other => visitor.visit_string(other.into_text()),
        }
    }

    fn deserialize_string<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, ShapeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, ShapeError> {
        if self == Self::Null { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_seq<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, ShapeError> {
        visitor.visit_seq(SeqDeserializer::new(self.elements().into_iter()))
    }

    fn deserialize_map<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, ShapeError> {
        let members = self.members()?.into_iter().map(|(key, value)| (Value::String(key), value));
        visitor.visit_map(MapDeserializer::new(members))
    }

    fn deserialize_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ShapeError> {
        let mut found: Vec<Option<Value<'a>>> = vec![None; fields.len()];
        // PHP writes an object without members as an empty list.
        let is_empty_list = matches!(&self, Self::Array(elements) if elements.is_empty());
        let members = if is_empty_list { Vec::new() } else { self.members()? };
        for (key, value) in members {
            if let Some(at) = field_of(&key, fields) {
                found[at] = Some(value);
            }
        }
        let members = fields.iter().zip(found).filter_map(|(field, value)| Some((*field, value?)));
        visitor.visit_map(MapDeserializer::new(members))
    }

    fn deserialize_newtype_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, ShapeError> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        <V: Visitor<'a>>
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct enum identifier ignored_any
    }
}

impl<'a> IntoDeserializer<'a, ShapeError> for Value<'a> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}
