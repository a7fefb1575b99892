//! The JSON bodies of requests and responses.
//!
//! | module | bodies |
//! |---|---|
//! | `client` | heartbeats, subscriptions, connections, consumer ids |
//! | `queue` | message queues, locks, statistics keyed by queue |
//! | `route` | routes, cluster, topic lists |
//! | `running` | what consumers tell operators |
//! | `config` | settings of topics and groups, registration of brokers |
//!
//! Reading is as lenient as fastjson: unknown members are ignored, missing ones take their defaults, unknown names of an
//! enumeration fall back to a default, values of another type are read as the member's. Read with [`crate::fastjson::parse`], write with [`crate::fastjson::to_vec`] or, where there
//! is one, with the body's own `to_json`.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, Unexpected, Visitor};

mod client;
mod config;
mod queue;
mod route;
mod running;

pub use client::*;
pub use config::*;
pub use queue::*;
pub use route::*;
pub use running::*;

/// Defines an enumeration, each value with its number and its name in Java. It is written as a name and read from
/// either; unknown names read as the first one, unknown numbers are errors.
macro_rules! names {
    ($(#[$doc:meta])* $name:ident {
        $first:ident = $first_number:literal or $first_name:literal,
        $($rest:ident = $rest_number:literal or $rest_name:literal,)*
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub enum $name { #[default] $first, $($rest,)* }

        impl $name {
            /// The name it goes by in bodies.
            pub fn name(self) -> &'static str {
                match self { Self::$first => $first_name, $(Self::$rest => $rest_name,)* }
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }

        impl crate::body::Named for $name {
            const ALL: &'static [(i64, &'static str, Self)] =
                &[($first_number, $first_name, Self::$first), $(($rest_number, $rest_name, Self::$rest),)*];
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(crate::body::NumberOrName(std::marker::PhantomData))
            }
        }
    };
}
use names;

/// An enumeration with the number and the name of each value.
trait Named: Copy + Default + 'static {
    const ALL: &'static [(i64, &'static str, Self)];
}

/// Reads a value of an enumeration from its number, its number as text, or its name in any case.
struct NumberOrName<T>(PhantomData<T>);

impl<T: Named> Visitor<'_> for NumberOrName<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = T::ALL.iter().map(|(number, name, _)| format!("{number} or {name}")).collect();
        f.write_str(&names.join(", "))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        let known = T::ALL.iter().find(|(known, _, _)| *known == number);
        known.map(|(_, _, value)| *value).ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<T, E> {
        self.visit_i64(number as i64)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        let number = text.parse().ok();
        let is = |known: &&(i64, &str, T)| number == Some(known.0) || known.1.eq_ignore_ascii_case(text);
        Ok(T::ALL.iter().find(is).map_or_else(T::default, |(_, _, value)| *value))
    }
}

#[cfg(test)]
mod tests;
