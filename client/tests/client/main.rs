//! The client against servers that do what a test tells them to.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests reach for the system")]
// Outside of #[test] functions too, which is where clippy allows it by itself.
#![allow(clippy::unwrap_used)]

mod broker;
mod connection;
mod consumer;
mod fake;
mod lite_pull;
mod offset_store;
mod producer;
mod push;
mod push_operators;
mod trace;
