//! What producers sent and what they were answered.
//!
//! A lane is a producer with one message in flight, bound to one queue: it sends message n + 1 only when n was
//! acknowledged or given up. So the acknowledged messages of a lane have an order, and the queue must have the same.

/// A run.
#[derive(Debug, Clone)]
pub struct History {
    /// The number in every stamp of the run.
    pub run: u64,
    /// When it began, in µs since the epoch.
    pub began_us: u64,
    /// Length of every body in bytes.
    pub body_bytes: usize,
    /// By lane number.
    pub lanes: Vec<Lane>,
}

/// A lane.
#[derive(Debug, Clone)]
pub struct Lane {
    /// The queue it sends to.
    pub queue: u32,
    /// By sequence number.
    pub messages: Vec<Sent>,
}

/// A message and what became of its tries.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// When it was first tried, in µs since the run began.
    pub sent_us: u64,
    /// Tries whose outcome nobody knows: each may have stored the message once.
    pub unknown_tries: u32,
    /// The answer to the try that succeeded, if one did.
    pub ack: Option<Ack>,
}

/// An acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// Place in the queue, counted in messages.
    pub queue_offset: u64,
    /// Place in the log, in bytes.
    pub physical_offset: u64,
    /// When it came, in µs since the run began.
    pub at_us: u64,
}

impl History {
    /// Every message.
    pub fn messages(&self) -> impl Iterator<Item = &Sent> {
        self.lanes.iter().flat_map(|lane| &lane.messages)
    }

    /// Messages that were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.messages().filter(|sent| sent.ack.is_some()).count() as u64
    }

    /// Messages that were given up.
    pub fn given_up(&self) -> u64 {
        self.messages().filter(|sent| sent.ack.is_none()).count() as u64
    }

    /// Tries whose outcome is unknown.
    pub fn unknown_tries(&self) -> u64 {
        self.messages().map(|sent| u64::from(sent.unknown_tries)).sum()
    }
}
