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
//! Reading is lenient: unknown members are ignored, missing ones take their defaults, unknown names of an enumeration
//! fall back to a default. Read with [`crate::fastjson::parse`], write with [`crate::fastjson::to_vec`] or, where there
//! is one, with the body's own `to_json`.

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

/// Defines an enumeration that is written as a name and whose unknown names read as the first one.
macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $first:ident = $first_name:literal, $($rest:ident = $rest_name:literal,)* }) => {
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

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let name = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                Ok(match &*name { $($rest_name => Self::$rest,)* _ => Self::$first })
            }
        }
    };
}
use names;

#[cfg(test)]
mod tests;
