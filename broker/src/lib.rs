//! What a broker does with one group: its replicated state and the operations on it. Typed, with errors of its own.
//!
//! *Invariant*: no request code, no header, no connection and no socket is named here.

pub mod views;
