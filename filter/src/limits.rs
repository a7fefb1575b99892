//! Bounds of an expression.

/// Bytes of an expression. The broker's clients send it with every heartbeat, so useful ones are far shorter.
pub const LENGTH_MAX: usize = 64 * 1024;
/// Parentheses and operators that wait for their right side at once: bounds the values that a match keeps.
pub const NESTING_MAX: usize = 1024;
/// Operators and operands of an expression: bounds the work of a match, which may have to read a property of many
/// kilobytes for each of them.
pub const NODES_MAX: usize = 4096;
/// Different properties that an expression names: each is looked up at most once for a message.
pub const PROPERTIES_MAX: usize = 256;
