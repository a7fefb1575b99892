//! What clients may do with a topic, in bits (`PermName` of RocketMQ).

/// Read from it.
pub const READ: u32 = 4;
/// Send to it.
pub const WRITE: u32 = 2;
/// Make topics in its image.
pub const INHERIT: u32 = 1;
